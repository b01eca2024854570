//! The sums at the highest heap so far, copied while the heap rises.
//!
//! A copy is made when the heap exceeds the last copied one by 1/64. So the copied heap is at most 1.6 % below the peak.
//! One thread copies; the others go on without it. Readers take the same lock, and are never inside of the allocator. So
//! a peak that ends while another thread has the lock, some 20 us, can be missed.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crate::heap::thread::LEDGER;

use super::account::{BLOCKS, BYTES};
use super::{NODES, settings};

static PEAK_BYTES: [AtomicU64; NODES] = [const { AtomicU64::new(0) }; NODES];
static PEAK_BLOCKS: [AtomicU64; NODES] = [const { AtomicU64::new(0) }; NODES];

/// The live heap at the last copy.
static PEAK_HEAP: AtomicU64 = AtomicU64::new(0);

/// The ledger's total from which on the next copy is due.
static DUE: AtomicUsize = AtomicUsize::new(0);

static IS_LOCKED: AtomicBool = AtomicBool::new(false);

/// Copies the sums if `total` is far enough above the last copied one.
#[inline]
pub(super) fn take_if_higher(total: usize) {
    if total >= DUE.load(Relaxed) {
        take(total);
    }
}

/// The lock, until it is dropped.
struct Lock;

impl Lock {
    fn try_lock() -> Option<Self> {
        (!IS_LOCKED.swap(true, Acquire)).then_some(Self)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        IS_LOCKED.store(false, Release);
    }
}

#[cold]
#[inline(never)]
fn take(total: usize) {
    let Some(lock) = Lock::try_lock() else { return };
    // Another thread may have copied a higher one since, and this one may have waited for its processor.
    if total.min(LEDGER.line()) >= DUE.load(Relaxed) {
        lock.copy();
    }
}

impl Lock {
    fn wait() -> Self {
        loop {
            if let Some(lock) = Self::try_lock() {
                return lock;
            }
            std::thread::yield_now();
        }
    }

    /// Copies the sums of this moment.
    #[expect(clippy::unused_self, reason = "only the thread that has the lock copies")]
    fn copy(&self) {
        let (total, live) = (LEDGER.line(), LEDGER.live() as u64);
        let rise = (total / 64).max(usize::try_from(settings::interval().bytes()).unwrap_or(usize::MAX));
        DUE.store(total.saturating_add(rise), Relaxed);
        PEAK_HEAP.store(live, Relaxed);
        for (copies, sums) in [(&PEAK_BYTES, &BYTES), (&PEAK_BLOCKS, &BLOCKS)] {
            for (copy, sum) in copies.iter().zip(sums) {
                let sum = sum.load(Acquire);
                // Most are zero and stay so. Their pages are not touched.
                if copy.load(Relaxed) != sum {
                    copy.store(sum, Relaxed);
                }
            }
        }
    }
}

/// Returns the live heap at the peak, and bytes and blocks of each stack. Copies first if the heap is above the last copied
/// one.
pub(super) fn read() -> (u64, Vec<(u64, u64)>) {
    // Before the lock is taken: an allocation may be a peak.
    let mut sums = Vec::with_capacity(NODES);
    let lock = Lock::wait();
    if LEDGER.live() as u64 > PEAK_HEAP.load(Relaxed) {
        lock.copy();
    }
    sums.extend(PEAK_BYTES.iter().zip(&PEAK_BLOCKS).map(|(bytes, blocks)| (bytes.load(Relaxed), blocks.load(Relaxed))));
    (PEAK_HEAP.load(Relaxed), sums)
}

/// Has the peak begin again from what is live now.
pub(super) fn reset() {
    Lock::wait().copy();
}

/// Releases the lock in the child of a fork, if another thread of the parent had it.
pub(super) fn restart_after_fork() {
    IS_LOCKED.store(false, Release);
}
