//! The block that each thread has requested last, while its pages may still be touched.
//!
//! Eight threads that receive a body each request eight blocks and then fill them, all at the same time. A check that
//! adds the untouched pages of its own block only would see an eighth of what is to come.
//!
//! A block counts for 100 ms after its request, and for a second after a check has seen that pages of it were touched. So a
//! reservation that stays untouched counts for a moment, and a body that is received slowly counts until it is there. The
//! entries are hints: a race between two threads makes an entry count for a moment too long or too short.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::os;

use super::ledger::SLOTS;

/// The time for which a block counts after its request, in milliseconds.
const UNTOUCHED_MS: u64 = 100;

/// The time for which a block counts after pages of it were seen to be touched, in milliseconds. A thread may wait for its processor
/// or for the network in between.
const IN_USE_MS: u64 = 1000;

/// The last large block of a thread. All zeros if there is none.
struct FreshBlock {
    address: AtomicUsize,
    size: AtomicUsize,
    /// Its untouched bytes when they were counted last.
    untouched: AtomicUsize,
    /// Until when it counts.
    until_ms: AtomicU64,
}

/// In the order of the thread counters.
static BLOCKS: [FreshBlock; SLOTS] = [const {
    FreshBlock {
        address: AtomicUsize::new(0),
        size: AtomicUsize::new(0),
        untouched: AtomicUsize::new(0),
        until_ms: AtomicU64::new(0),
    }
}; SLOTS];

/// Entries from this one on were never used.
static UNUSED_FROM: AtomicUsize = AtomicUsize::new(0);

fn used() -> impl Iterator<Item = &'static FreshBlock> {
    BLOCKS.iter().take(UNUSED_FROM.load(Relaxed))
}

/// Records the last large block of the thread with counter number `thread`, in place of the one before.
pub(super) fn record(thread: usize, block: *const u8, size: usize, now_ms: u64) {
    if let Some(entry) = BLOCKS.get(thread) {
        entry.size.store(size, Relaxed);
        entry.untouched.store(size, Relaxed);
        entry.until_ms.store(now_ms.saturating_add(UNTOUCHED_MS), Relaxed);
        entry.address.store(block.addr(), Relaxed);
        UNUSED_FROM.fetch_max(thread + 1, Relaxed);
    }
}

/// Forgets `block`, which any thread is about to free or to resize.
pub(super) fn forget(block: *const u8) {
    for entry in used().filter(|entry| entry.address.load(Relaxed) == block.addr()) {
        entry.address.store(0, Relaxed);
    }
}

/// Forgets the last block of a thread that has ended.
pub(super) fn forget_thread(thread: usize) {
    if let Some(entry) = BLOCKS.get(thread) {
        entry.address.store(0, Relaxed);
    }
}

/// Forgets all blocks in the child of a fork: its threads do not exist.
pub(super) fn forget_all() {
    for entry in &BLOCKS {
        entry.address.store(0, Relaxed);
    }
}

/// Returns the bytes of all fresh blocks, touched or not, but for the one at `except`.
pub(super) fn sizes(except: *const u8, now_ms: u64) -> usize {
    fresh(except, now_ms).fold(0, |sum, entry| sum.saturating_add(entry.size.load(Relaxed)))
}

/// Returns the untouched bytes of all fresh blocks but for the one at `except`, or `enough` if there are more.
pub(super) fn untouched(except: *const u8, now_ms: u64, enough: usize) -> usize {
    let mut sum = 0_usize;
    for entry in fresh(except, now_ms) {
        let start = std::ptr::without_provenance(entry.address.load(Relaxed));
        let left = os::untouched(start, entry.size.load(Relaxed), enough);
        if left < entry.untouched.swap(left, Relaxed) {
            entry.until_ms.store(now_ms.saturating_add(IN_USE_MS), Relaxed);
        }
        sum = sum.saturating_add(left);
        if sum >= enough {
            break;
        }
    }
    sum.min(enough)
}

fn fresh(except: *const u8, now_ms: u64) -> impl Iterator<Item = &'static FreshBlock> {
    used().filter(move |entry| {
        let address = entry.address.load(Relaxed);
        address != 0 && address != except.addr() && now_ms < entry.until_ms.load(Relaxed)
    })
}
