//! The block that each thread has requested last, while its pages may still be touched.
//!
//! Eight threads that receive a body each request eight blocks and then fill them, all at the same time. A check that
//! adds the untouched pages of its own block only would see an eighth of what is to come.
//!
//! A block counts for a second after its request, and for a second after a check has seen that pages of it were touched.
//! Checks look at each block every 50 ms. So a reservation that stays untouched counts for a moment, and a body that is
//! received slowly counts until it is there. The entries are hints: a race between two threads makes an entry count for
//! a moment too long or too short.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::os;

use super::ledger::SLOTS;

/// The time for which a block counts after its request, and after pages of it were seen to be touched, in milliseconds.
/// A thread may wait for its processor or for the network in between.
const FRESH_MS: u64 = 1000;

/// The time between two looks at a block, in milliseconds.
const LOOK_MS: u64 = 50;

/// The most bytes of which one check reads the pages. Blocks beyond them count as at the last look.
const MAX_WALK: usize = 512 << 20;

/// The last large block of a thread. All zeros if there is none.
struct FreshBlock {
    address: AtomicUsize,
    size: AtomicUsize,
    /// Its untouched bytes when they were counted last.
    untouched: AtomicUsize,
    /// Until when it counts.
    until_ms: AtomicU64,
    /// When the next look is due.
    look_ms: AtomicU64,
}

/// In the order of the thread counters.
static BLOCKS: [FreshBlock; SLOTS] = [const {
    FreshBlock {
        address: AtomicUsize::new(0),
        size: AtomicUsize::new(0),
        untouched: AtomicUsize::new(0),
        until_ms: AtomicU64::new(0),
        look_ms: AtomicU64::new(0),
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
        entry.until_ms.store(now_ms.saturating_add(FRESH_MS), Relaxed);
        entry.look_ms.store(now_ms.saturating_add(LOOK_MS), Relaxed);
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

/// Returns the bytes of all fresh blocks, touched or not, but for the one at `except`. Looks at those for which a
/// look is due, at most at `enough` bytes of each.
pub(super) fn sizes(except: *const u8, now_ms: u64, enough: usize) -> usize {
    let fresh = others(except).filter(|entry| entry.is_fresh(now_ms, enough));
    fresh.fold(0, |sum, entry| sum.saturating_add(entry.size.load(Relaxed)))
}

/// Returns the untouched bytes of all fresh blocks but for the one at `except`, or `enough` if there are more.
pub(super) fn untouched(except: *const u8, enough: usize) -> usize {
    let (mut sum, mut walked) = (0_usize, 0_usize);
    for entry in others(except) {
        let size = entry.size.load(Relaxed);
        walked = walked.saturating_add(size.min(enough));
        let left = if walked <= MAX_WALK { entry.look(enough).1 } else { entry.untouched.load(Relaxed).min(enough) };
        sum = sum.saturating_add(left);
        if sum >= enough {
            break;
        }
    }
    sum.min(enough)
}

/// The entries in use, but for the block at `except`.
fn others(except: *const u8) -> impl Iterator<Item = &'static FreshBlock> {
    used().filter(move |entry| {
        let address = entry.address.load(Relaxed);
        address != 0 && address != except.addr()
    })
}

impl FreshBlock {
    /// Counts the untouched bytes, at most `enough`. Returns them, and before them the number of the last look.
    fn look(&self, enough: usize) -> (usize, usize) {
        let start = std::ptr::without_provenance(self.address.load(Relaxed));
        let left = os::untouched(start, self.size.load(Relaxed), enough);
        (self.untouched.swap(left, Relaxed).min(enough), left)
    }

    /// Returns `true` if the block counts. A block that was not looked at for a second after its time is not in use.
    fn is_fresh(&self, now_ms: u64, enough: usize) -> bool {
        let (due, until) = (self.look_ms.load(Relaxed), self.until_ms.load(Relaxed));
        let next = now_ms.saturating_add(LOOK_MS);
        if now_ms < due || self.look_ms.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
            return true;
        }
        let address = self.address.load(Relaxed);
        let (before, left) = self.look(enough);
        if left < before && now_ms < until.saturating_add(FRESH_MS) {
            self.until_ms.store(now_ms.saturating_add(FRESH_MS), Relaxed);
        } else if now_ms >= until {
            // Unless another block has taken the entry.
            let _other = self.address.compare_exchange(address, 0, Relaxed, Relaxed);
            return false;
        }
        true
    }
}
