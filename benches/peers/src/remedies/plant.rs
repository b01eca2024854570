//! Causes of memory beyond the heap.

use std::hint::black_box;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{JoinHandle, spawn};

const MIB: usize = 1 << 20;

/// Bytes of each cause, about.
const SIZE: usize = 64 * MIB;

/// Threads that stay alive.
const THREADS: usize = 8;

/// A planted cause. It lasts until this is dropped.
#[derive(Default)]
pub(super) struct Planted {
    blocks: Vec<Vec<u8>>,
    #[expect(clippy::vec_box, reason = "each box is a block")]
    boxes: Vec<Box<u64>>,
    native: Vec<*mut libc::c_void>,
    mapped: Option<*mut libc::c_void>,
    threads: Option<Threads>,
}

/// The heap is large for a time and is trimmed.
pub(super) fn grow_and_trim() {
    drop(blocks(SIZE, 1000));
    let _nothing_to_do = plimsoll::os::trim();
}

/// Plants a cause; `None` if there is no cause of this name.
pub(super) fn plant(cause: &str) -> Option<Planted> {
    let mut planted = Planted::default();
    match cause {
        // Below a block that stays at the top.
        "freed" => {
            let freed = blocks(SIZE, 1000);
            planted.blocks.push(black_box(vec![1; 1000]));
            drop(freed);
        }
        "fast" => {
            let freed = blocks(SIZE / 2, 64);
            planted.blocks.push(black_box(vec![1; 1000]));
            drop(freed);
        }
        "checkerboard" => planted.blocks = keep_each(blocks(SIZE, 1000), 2),
        "sparse" => planted.blocks = keep_each(blocks(SIZE, 1000), 16),
        "arenas" => planted.threads = Some(Threads::start(true)),
        "tops" => {
            // glibc then keeps up to 40 MiB at the end of each arena.
            drop(black_box(vec![1_u8; 20 * MIB]));
            planted.threads = Some(Threads::start(false));
        }
        "c_small" => planted.native = (0..SIZE / 4000).map(|_| c_block(4000)).collect(),
        "c_large" => planted.native = vec![c_block(SIZE)],
        "mmap_live" => {
            planted.blocks = blocks(SIZE / 2, 1000);
            planted.mapped = Some(map(SIZE));
        }
        "mmap" | "mmap_later" | "mmap_amid" => planted.mapped = Some(map(SIZE)),
        "tiny" => planted.boxes = (0..SIZE as u64 / 32).map(|number| black_box(Box::new(number))).collect(),
        "live" => planted.blocks = blocks(SIZE, 1000),
        _ => return None,
    }
    Some(planted)
}

impl Planted {
    pub(super) fn end_native_code(&mut self) {
        for block in self.native.drain(..) {
            // SAFETY: the block came from `malloc` and is freed once.
            unsafe { libc::free(block) };
        }
        if let Some(mapped) = self.mapped.take() {
            // SAFETY: the mapping has this size, and nothing refers to it.
            unsafe { libc::munmap(mapped, SIZE) };
        }
        // A C library would free its blocks without a trim; the pages must not stay with the allocator.
        // SAFETY: it takes any padding and is thread-safe.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Blocks of `size` bytes, together `all`.
fn blocks(all: usize, size: usize) -> Vec<Vec<u8>> {
    (0..all / size).map(|_| black_box(vec![1; size])).collect()
}

fn keep_each(blocks: Vec<Vec<u8>>, nth: usize) -> Vec<Vec<u8>> {
    blocks.into_iter().step_by(nth).collect()
}

fn c_block(size: usize) -> *mut libc::c_void {
    // SAFETY: it takes any size.
    let block = unsafe { libc::malloc(size) };
    assert!(!block.is_null(), "malloc failed");
    // SAFETY: the block has `size` bytes.
    unsafe { libc::memset(block, 1, size) };
    black_box(block)
}

fn map(size: usize) -> *mut libc::c_void {
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new anonymous mapping at any address.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), size, access, flags, -1, 0) };
    assert!(mapped != libc::MAP_FAILED, "mmap failed");
    // SAFETY: the mapping has `size` bytes.
    unsafe { libc::memset(mapped, 1, size) };
    mapped
}

/// Threads that have freed their blocks and stay alive until this is dropped.
struct Threads {
    end: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// With `pinned`, a block of each thread stays above the freed ones.
    fn start(pinned: bool) -> Self {
        let (end, ended) = channel::<()>();
        let (ended, freed) = (Arc::new(Mutex::new(ended)), Arc::new(Barrier::new(THREADS + 1)));
        // All allocate before the first one frees.
        let full = Arc::new(Barrier::new(THREADS));
        let threads = (0..THREADS).map(|_| {
            let (ended, freed, full) = (Arc::clone(&ended), Arc::clone(&freed), Arc::clone(&full));
            spawn(move || {
                let blocks = blocks(SIZE / THREADS, 1000);
                let pin = black_box(vec![1_u8; if pinned { 1000 } else { 0 }]);
                full.wait();
                drop(blocks);
                freed.wait();
                let _end = ended.lock().map(|ended| ended.recv());
                drop(pin);
            })
        });
        let threads = threads.collect();
        freed.wait();
        Self { end: Some(end), threads }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        drop(self.end.take());
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}
