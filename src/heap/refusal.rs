//! What is remembered of allocations that got null: recorded in silence, because `try_reserve` copes with them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::os;

static COUNT: AtomicU64 = AtomicU64::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);
/// When the last one was, in milliseconds of the coarse monotonic clock.
static LAST_AT: AtomicU64 = AtomicU64::new(0);

/// Records a request for `size` bytes that was answered with null.
#[cold]
pub(super) fn note(size: usize) {
    COUNT.fetch_add(1, Relaxed);
    LARGEST.fetch_max(size, Relaxed);
    LAST_AT.store(os::coarse_monotonic_ms(), Relaxed);
}

/// How many requests got null since the process began.
pub(super) fn count() -> u64 {
    COUNT.load(Relaxed)
}

/// The largest of them, in bytes.
pub(super) fn largest() -> usize {
    LARGEST.load(Relaxed)
}

/// How long ago the last one was, in milliseconds; meaningless while there was none.
pub(super) fn last_ms_ago() -> u64 {
    os::coarse_monotonic_ms().saturating_sub(LAST_AT.load(Relaxed))
}
