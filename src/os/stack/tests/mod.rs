//! Walks of known stacks, of stacks that are broken, and next to forks, signals and the loader.
//!
//! A test build has frame pointers on x86-64 only with `RUSTFLAGS="-C force-frame-pointers=yes"`. Each test runs with the
//! sources that work.
#![expect(unsafe_code, reason = "signals, forks, broken stacks and the allocator of C")]

mod broken;
mod concurrent;

use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::{ptr, thread};

use broken::{Call, on_stack};

use super::*;

/// The number of addresses that the profiler takes.
const FRAMES: usize = 32;

const ALL: [StackSource; 2] = [StackSource::FramePointers, StackSource::UnwindTables];

/// The sources that work in this build.
fn sources() -> impl Iterator<Item = StackSource> {
    assert_ne!(probe_stack_walk(), StackSource::Unavailable);
    ALL.into_iter().filter(|&source| chain_is_found(source))
}

/// Walks the stack of its caller.
#[inline(never)]
fn walk(source: StackSource, frames: &mut [usize]) -> usize {
    let local = 0_u8;
    let count = walk_stack(source, ptr::from_ref(black_box(&local)), frames);
    black_box(count)
}

/// Calls `work` with `depth` frames of itself below.
#[inline(never)]
fn recurse(depth: usize, work: &mut dyn FnMut()) -> usize {
    if depth == 0 {
        work();
        return 0;
    }
    black_box(recurse(black_box(depth - 1), work)) + 1
}

/// A mapping of zeros, for a stack.
struct Mapped(*mut u8, usize);

impl Mapped {
    fn new(size: usize) -> Self {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new private mapping at an address that the kernel chooses does not touch existing memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, access, kind, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Self(start.cast(), size)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made above, and nothing uses it any more.
        unsafe { libc::munmap(self.0.cast(), self.1) };
    }
}

#[test]
fn probe_test_build_has_a_source() {
    let source = probe_stack_walk();
    if cfg!(target_arch = "aarch64") {
        assert_eq!(source, StackSource::FramePointers);
    }
    assert_ne!(source, StackSource::Unavailable);
    assert!(unwind_tables::is_lock_free(), "the tests of this machine would not cover the unwinder");
    assert!(chain_is_found(StackSource::UnwindTables));
    assert!(!chain_is_found(StackSource::Unavailable));
}

#[test]
fn stack_source_display_is_in_words() {
    let texts =
        [StackSource::FramePointers, StackSource::UnwindTables, StackSource::Unavailable].map(|it| it.to_string());
    assert_eq!(texts, ["frame pointers", "unwind tables", "unavailable"]);
}

/// For each source, what the main thread found before `main`: 1 if it found the chain, 2 if not.
static ON_MAIN: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

extern "C" fn before_main() {
    for (source, found) in ALL.into_iter().zip(&ON_MAIN) {
        let mut is_found = chain_is_found(source);
        // The main thread's stack grows, and the bounds that were read are too narrow.
        recurse(3000, &mut || is_found &= chain_is_found(source));
        found.store(if is_found { 1 } else { 2 }, Relaxed);
    }
}

// SAFETY: the section is an array of functions that the C library calls with no arguments that this one reads.
#[unsafe(link_section = ".init_array")]
#[used]
static BEFORE_MAIN: extern "C" fn() = before_main;

#[test]
fn walk_stack_main_thread_finds_what_others_find() {
    for (source, on_main) in ALL.into_iter().zip(&ON_MAIN) {
        assert_eq!(on_main.load(Relaxed) == 1, chain_is_found(source), "{source}");
    }
}

#[test]
fn walk_stack_deep_recursion_fills_the_frames() {
    for source in sources() {
        let mut frames = [0; FRAMES];
        let mut count = 0;
        recurse(1000, &mut || count = walk(source, &mut frames));
        assert_eq!(count, FRAMES, "{source}");
        // Closures, then always the same call in `recurse`.
        let own = frames[FRAMES - 1];
        assert!(own - (recurse as *const () as usize) < 1024, "{source}");
        assert!(frames.iter().filter(|&&frame| frame == own).count() >= FRAMES - 4, "{source}");
    }
}

#[test]
fn walk_stack_first_frame_is_the_caller_of_the_entry() {
    #[inline(never)]
    fn caller(source: StackSource, frames: &mut [usize]) -> usize {
        walk(source, frames) + black_box(0)
    }
    for source in sources() {
        let mut frames = [0; 2];
        assert_eq!(caller(source, &mut frames), 2);
        assert!(frames[0] - (caller as *const () as usize) < 1024, "{source}");
        assert!(frames[1].abs_diff(frames[0]) > 0);
        assert_eq!(caller(source, &mut frames[..1]), 1);
        assert_eq!(caller(source, &mut []), 0);
        assert_eq!(walk_stack(source, ptr::without_provenance(usize::MAX), &mut frames), 0);
    }
    assert_eq!(walk(StackSource::Unavailable, &mut [0; 2]), 0);
}

#[test]
fn walk_stack_both_sources_agree() {
    let mut found = Vec::new();
    for source in sources() {
        let mut frames = [0; 4];
        recurse(20, &mut || assert_eq!(walk(source, &mut frames), 4));
        found.push(frames);
    }
    // The first address is of the loop's body, which differs.
    assert!(found.windows(2).all(|pair| pair[0][2..] == pair[1][2..]), "{found:x?}");
}

#[test]
fn walk_stack_inside_of_a_walk_finds_nothing() {
    WALKING.set(true);
    let found = ALL.map(|source| walk(source, &mut [0; 4]));
    WALKING.set(false);
    assert_eq!(found, [0, 0]);
}

#[test]
fn walk_stack_from_a_callback_of_c_survives() {
    extern "C" fn compare(a: *const c_void, b: *const c_void) -> c_int {
        for source in ALL {
            assert!(walk(source, &mut [0; FRAMES]) <= FRAMES);
        }
        a.cmp(&b) as c_int
    }
    let mut values = [3_u64, 1, 2, 5, 4];
    // SAFETY: the array has five elements of 8 bytes, and `compare` only reads its arguments.
    unsafe { libc::qsort(values.as_mut_ptr().cast(), values.len(), 8, Some(compare)) };
}

#[test]
fn walk_stack_smallest_thread_is_enough() {
    // The least that the C library grants, and a page for the thread's own start and for this test.
    let smallest = libc::PTHREAD_STACK_MIN + 4096;
    let thread = thread::Builder::new().stack_size(smallest);
    thread.spawn(|| ALL.map(|source| walk(source, &mut [0; FRAMES]))).unwrap().join().unwrap();
}

/// The allocator of C, counted. Rust's `System` calls it, and so do the libraries of C and the unwinder.
#[cfg(target_env = "gnu")]
mod counted {
    use std::cell::Cell;
    use std::ffi::c_void;

    thread_local! {
        static CALLS: Cell<usize> = const { Cell::new(0) };
    }

    unsafe extern "C" {
        fn __libc_malloc(size: usize) -> *mut c_void;
        fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
        fn __libc_realloc(block: *mut c_void, size: usize) -> *mut c_void;
    }

    /// Returns the calls of this thread.
    pub(super) fn calls() -> usize {
        CALLS.get()
    }

    fn count() {
        _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
    }

    // SAFETY: it takes the place of the function of that name, and does what that one does.
    #[unsafe(no_mangle)]
    extern "C" fn malloc(size: usize) -> *mut c_void {
        count();
        // SAFETY: glibc's own `malloc`, which takes any size.
        unsafe { __libc_malloc(size) }
    }

    // SAFETY: it takes the place of the function of that name, and does what that one does.
    #[unsafe(no_mangle)]
    extern "C" fn calloc(number: usize, size: usize) -> *mut c_void {
        count();
        // SAFETY: glibc's own `calloc`, which takes any sizes.
        unsafe { __libc_calloc(number, size) }
    }

    // SAFETY: it takes the place of the function of that name, and does what that one does.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
        count();
        // SAFETY: the caller's contract for `realloc`, passed on to glibc's own.
        unsafe { __libc_realloc(block, size) }
    }
}

#[cfg(target_env = "gnu")]
#[test]
fn walk_stack_allocates_neither_in_rust_nor_in_c() {
    sources().for_each(drop);
    thread::spawn(|| {
        let before = counted::calls();
        drop(black_box(Box::new(1)));
        assert_eq!(counted::calls(), before + 1, "Rust's allocations are counted");
        // SAFETY: the string ends in a NUL, and the copy is freed below.
        let copy = black_box(unsafe { libc::strdup(c"text".as_ptr()) });
        assert_eq!(counted::calls(), before + 2, "allocations inside of the C library are counted");
        // SAFETY: `strdup` has returned this block.
        unsafe { libc::free(copy.cast()) };

        let stack = Mapped::new(64 << 10);
        let before = counted::calls();
        for source in ALL {
            let mut frames = [0; FRAMES];
            recurse(100, &mut || _ = walk(source, &mut frames));
            on_stack(&stack, &mut Call { source, found: 0 });
        }
        assert_eq!(counted::calls(), before);
    })
    .join()
    .unwrap();
}

/// Measures the walks: `cargo test --release --lib --features profile -- --ignored --nocapture os::stack`.
#[test]
#[ignore = "a measurement"]
fn walk_stack_cost() {
    /// Prints the least time of `work` in many rounds, in which the machine did nothing else.
    fn print_cost(name: &str, mut work: impl FnMut() -> usize) {
        let now = || {
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: `time` is valid for writing.
            unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
            time.tv_sec * 1_000_000_000 + time.tv_nsec
        };
        let count = work();
        let mut round = || {
            let start = now();
            (0..20).for_each(|_| _ = black_box(work()));
            now() - start
        };
        let least = (0..5000).map(|_| round()).min().unwrap_or(0);
        crate::os::write_stderr(format!("{name}: {count}, {} ns\n", least / 20).as_bytes());
    }

    for source in sources() {
        recurse(6, &mut || print_cost(&format!("frames by {source}"), || walk(source, &mut [0; FRAMES])));
    }
    let local = 0_u8;
    print_cost("mappings before that of a stack", || {
        let mapping = maps::find((&raw const local).addr()).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().position(|line| line.starts_with(&format!("{:x}-", mapping.start))).unwrap()
    });
    print_cost("bounds of a stack", || maps::find((&raw const local).addr()).map_or(0, |_| 1));
    let stack = Mapped::new(64 << 10);
    print_cost("frames on another stack", || {
        let mut call = Call { source: StackSource::FramePointers, found: 0 };
        on_stack(&stack, &mut call);
        call.found
    });
}
