//! The free memory of glibc's allocator, read rarely: a reading locks each arena.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::clock::{Stopwatch, micros};
use crate::os::{self, MallocStats};
use crate::size::ByteSize;

/// The shortest time between two readings, in milliseconds.
const PAUSE_MS: u64 = 1000;

/// The pause after a reading, as a multiple of its duration.
const PAUSE_FACTOR: u64 = 100;

/// When the next reading may be made, in milliseconds of the coarse monotonic clock.
static NEXT_MS: AtomicU64 = AtomicU64::new(0);

/// The result of the last reading, in bytes; `NONE` if there is none.
static LAST: AtomicU64 = AtomicU64::new(NONE);

const NONE: u64 = u64::MAX;

/// Returns the bytes that glibc's arenas have in free chunks, as of the last second or longer.
///
/// `None` if the C library is not glibc, or if `heap` is not memory of `malloc`: then the global allocator is another
/// one, and its free memory is not known. Do not call it from the allocator, in a signal handler or with a lock held.
pub(super) fn free_of_malloc(heap: ByteSize) -> Option<ByteSize> {
    let now = os::coarse_monotonic_ms();
    let next = NEXT_MS.load(Relaxed);
    // One thread reads, and the others take the last result.
    if now >= next && NEXT_MS.compare_exchange(next, now.saturating_add(PAUSE_MS), Relaxed, Relaxed).is_ok() {
        let watch = Stopwatch::start();
        let free = os::malloc_stats().ok().filter(|malloc| has_heap(malloc, heap)).map(|malloc| malloc.free);
        let pause = micros(watch.elapsed()).saturating_mul(PAUSE_FACTOR) / 1000;
        NEXT_MS.store(now.saturating_add(pause.max(PAUSE_MS)), Relaxed);
        LAST.store(free.map_or(NONE, ByteSize::as_u64), Relaxed);
    }
    Some(LAST.load(Relaxed)).filter(|free| *free != NONE).map(ByteSize::bytes)
}

/// Returns `true` if the heap can be a part of the memory that `malloc` has handed out. The two were read one after the
/// other, so the heap may be a quarter larger.
fn has_heap(malloc: &MallocStats, heap: ByteSize) -> bool {
    !os::has_trim_hook() && malloc.in_use.saturating_add(malloc.mmapped) >= heap.percent(75)
}
