//! The timed work: nanoseconds per operation, on one thread and on two.
//!
//! Work is timed in chunks of less than a millisecond, and of each kind the quickest chunk counts: what another process
//! or the host takes away only ever adds, and many a short chunk escapes it.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error, realloc};
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Random;

/// Chunks of the two-thread runs start together on so many threads.
const THREADS: u32 = 2;

/// Runs the four kinds of work and returns their figures by name.
///
/// The lone runs come first: glibc is quicker before the first thread is made, as it is in a one-thread program.
pub(super) fn measure(chunks: u32) -> Value {
    let pair64_1t = alone(chunks, Pairs);
    let churn_1t = alone(chunks, Churn::new(0));
    let pair64_2t = together(chunks, |_| Pairs);
    let churn_2t = together(chunks, Churn::new);
    json!({"pair64.1t": pair64_1t, "churn.1t": churn_1t, "pair64.2t": pair64_2t, "churn.2t": churn_2t})
}

/// Work that can be timed in chunks.
pub(crate) trait Work {
    /// Operations in one chunk.
    const OPERATIONS: u32;

    fn chunk(&mut self);
}

/// The quickest chunk of a lone thread.
pub(crate) fn alone<W: Work>(chunks: u32, mut work: W) -> f64 {
    let timed = |_| {
        let start = Instant::now();
        work.chunk();
        start.elapsed().as_nanos() as f64 / f64::from(W::OPERATIONS)
    };
    (0..chunks).map(timed).fold(f64::INFINITY, f64::min)
}

/// The quickest chunk of threads that work at the same time.
///
/// A chunk lasts from the first thread's start to the last one's end. So one in which the threads took turns on a
/// core, and never met, is a slow one and does not count.
pub(crate) fn together<W: Work>(chunks: u32, work: impl Fn(u64) -> W + Sync) -> f64 {
    let (epoch, arrived) = (Instant::now(), AtomicU32::new(0));
    let spans: Vec<Vec<Span>> = std::thread::scope(|scope| {
        let start = |thread| {
            let (work, arrived) = (&work, &arrived);
            scope.spawn(move || {
                let mut work = work(thread);
                let timed = |chunk| {
                    meet(arrived, (chunk + 1) * THREADS);
                    let start = epoch.elapsed();
                    work.chunk();
                    Span { start, end: epoch.elapsed() }
                };
                (0..chunks).map(timed).collect()
            })
        };
        let threads: Vec<_> = (0..u64::from(THREADS)).map(start).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let whole = |chunk| {
        let spans = || spans.iter().filter_map(|of| of.get(chunk));
        let (start, end) = (spans().map(|span: &Span| span.start).min()?, spans().map(|span| span.end).max()?);
        Some((end - start).as_nanos() as f64 / f64::from(W::OPERATIONS))
    };
    (0..chunks as usize).filter_map(whole).fold(f64::INFINITY, f64::min)
}

/// When one thread worked on one chunk.
struct Span {
    start: Duration,
    end: Duration,
}

/// Waits until `all` have arrived. It spins, since a thread woken by the kernel would start some 50 us late.
fn meet(arrived: &AtomicU32, all: u32) {
    arrived.fetch_add(1, Ordering::AcqRel);
    let mut turns = 0_u32;
    while arrived.load(Ordering::Acquire) < all {
        turns += 1;
        if turns.is_multiple_of(1 << 14) {
            std::thread::yield_now();
        }
        spin_loop();
    }
}

/// Allocates and frees 64 bytes, `pairs` times.
#[inline(never)]
pub(super) fn pair64(pairs: u32) {
    const LAYOUT: Layout = Layout::new::<[u64; 8]>();
    for _ in 0..pairs {
        // SAFETY: the layout's size is not zero. The black box keeps the pair from being compiled away.
        let block = black_box(unsafe { alloc(LAYOUT) });
        if block.is_null() {
            handle_alloc_error(LAYOUT);
        }
        // SAFETY: the block was allocated above with this layout.
        unsafe { dealloc(block, LAYOUT) }
    }
}

struct Pairs;

impl Work for Pairs {
    const OPERATIONS: u32 = 20_000;

    fn chunk(&mut self) {
        pair64(Self::OPERATIONS);
    }
}

/// A table of 1024 live blocks of 16 to 2048 bytes; each step replaces a random one, or grows it by half.
struct Churn {
    blocks: Vec<(*mut u8, Layout)>,
    random: Random,
}

impl Churn {
    const BLOCKS: usize = 1024;
    const ALIGN: usize = 8;
    /// Blocks that have grown this far do not grow further.
    const MOST: usize = 4096;

    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let blocks = (0..Self::BLOCKS).map(|_| Self::fresh(random.bits())).collect();
        Self { blocks, random }
    }

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, Self::ALIGN).unwrap_or(Layout::new::<u64>())
    }

    #[inline]
    fn fresh(bits: u64) -> (*mut u8, Layout) {
        let layout = Self::layout(16 + (bits >> 10) as usize % 2033);
        // SAFETY: the layout's size is not zero.
        (Self::touch(unsafe { alloc(layout) }, layout), layout)
    }

    #[inline]
    fn grown((block, layout): (*mut u8, Layout)) -> (*mut u8, Layout) {
        let wider = Self::layout((layout.size() + layout.size() / 2).min(Self::MOST));
        // SAFETY: the block was allocated with `layout`; the new size is neither zero nor too large.
        (Self::touch(unsafe { realloc(block, layout, wider.size()) }, wider), wider)
    }

    /// Writes to the block, as every real user does.
    #[inline]
    fn touch(block: *mut u8, layout: Layout) -> *mut u8 {
        if block.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: the block is valid for writes of its layout's size, which is not zero.
        unsafe { block.write(1) }
        black_box(block)
    }
}

impl Work for Churn {
    const OPERATIONS: u32 = 10_000;

    #[inline(never)]
    fn chunk(&mut self) {
        for _ in 0..Self::OPERATIONS {
            let bits = self.random.bits();
            let Some(slot) = self.blocks.get_mut(bits as usize % Self::BLOCKS) else { return };
            if (bits >> 32).is_multiple_of(8) {
                *slot = Self::grown(*slot);
            } else {
                // SAFETY: the table holds live blocks, each with its layout; the slot is filled anew below.
                unsafe { dealloc(slot.0, slot.1) }
                *slot = Self::fresh(bits);
            }
        }
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        for (block, layout) in self.blocks.drain(..) {
            // SAFETY: the table holds live blocks, each with its layout.
            unsafe { dealloc(block, layout) }
        }
    }
}
