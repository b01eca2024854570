//! The bounds of a cache, and the bytes and entries of all its shards together.
//!
//! ```text
//!   a shard, under its lock:   claim more ----> grow                  shrink ----> at the unlock: release the rest
//!   the words here:            bytes + more <= max_bytes, or refused
//! ```
//!
//! A shard claims before it grows, so the sums are never above the bounds. What one shard evicts for another is carried to
//! it as a [`Claim`]: no third one can take it in between.

use crate::sync::Ordering::{Relaxed, SeqCst};
use crate::sync::{AtomicU64, AtomicUsize};

/// The bounds, and what counts towards them.
pub(super) struct Bound {
    /// Bytes of the shards and of running loads.
    bytes: AtomicU64,
    entries: AtomicUsize,
    /// Those of `bytes` that are reserved for running loads.
    loading: AtomicU64,
    /// `u64::MAX`: none.
    max_bytes: AtomicU64,
    /// The highest number of slots: none.
    max_entries: AtomicUsize,
    /// The number of inserts that needed room.
    demand: AtomicU64,
    /// The shard that evicts next.
    turn: AtomicUsize,
    /// The shard in which the next look for expired entries begins.
    sweep_turn: AtomicUsize,
    /// The number of evictions from all shards.
    evictions: AtomicU64,
}

/// Bytes and entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) bytes: u64,
    pub(super) entries: usize,
}

impl Amount {
    pub(super) const fn is_none(self) -> bool {
        self.bytes == 0 && self.entries == 0
    }

    /// The part of one of `shards`, rounded up.
    pub(super) const fn div_ceil(self, shards: usize) -> Self {
        Self { bytes: self.bytes.div_ceil(shards as u64), entries: self.entries.div_ceil(shards) }
    }
}

impl Bound {
    pub(super) fn new(max_bytes: u64, max_entries: usize) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            entries: AtomicUsize::new(0),
            loading: AtomicU64::new(0),
            max_bytes: AtomicU64::new(max_bytes),
            max_entries: AtomicUsize::new(max_entries),
            demand: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
            sweep_turn: AtomicUsize::new(0),
            evictions: AtomicU64::new(0),
        }
    }

    /// Bytes of the shards and of running loads.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Bytes of the shards.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.bytes().saturating_sub(self.loading())
    }

    pub(super) fn entries(&self) -> usize {
        self.entries.load(Relaxed)
    }

    /// Bytes reserved for running loads.
    pub(super) fn loading(&self) -> u64 {
        self.loading.load(Relaxed)
    }

    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes.load(Relaxed)
    }

    pub(super) fn max_entries(&self) -> usize {
        self.max_entries.load(Relaxed)
    }

    pub(super) fn set_max_bytes(&self, max: u64) {
        self.max_bytes.store(max, SeqCst);
    }

    pub(super) fn set_max_entries(&self, max: usize) {
        self.max_entries.store(max, SeqCst);
    }

    /// The bound without the bytes of running loads.
    pub(super) fn unreserved_bytes(&self) -> u64 {
        self.max_bytes().saturating_sub(self.loading())
    }

    /// Bytes that can be claimed.
    pub(super) fn free_bytes(&self) -> u64 {
        self.max_bytes().saturating_sub(self.bytes())
    }

    /// Returns by how much the bounds are exceeded: not at all, unless they were lowered.
    pub(super) fn excess(&self) -> Amount {
        Amount {
            bytes: self.bytes.load(SeqCst).saturating_sub(self.max_bytes.load(SeqCst)),
            entries: self.entries.load(SeqCst).saturating_sub(self.max_entries.load(SeqCst)),
        }
    }

    /// Claims bytes, unless the bound would be exceeded.
    pub(super) fn try_claim_bytes(&self, more: u64) -> bool {
        let claim = |bytes: u64| bytes.checked_add(more).filter(|&sum| sum <= self.max_bytes());
        if self.bytes.fetch_update(SeqCst, Relaxed, claim).is_err() {
            return false;
        }
        // A thread that lowers the bound after this sees the claim.
        let is_kept = self.excess().bytes == 0;
        if !is_kept {
            self.release(Amount { bytes: more, entries: 0 });
        }
        is_kept
    }

    /// Claims a place for one entry, unless the bound would be exceeded.
    pub(super) fn try_claim_entry(&self) -> bool {
        let claim = |entries: usize| entries.checked_add(1).filter(|&sum| sum <= self.max_entries());
        if self.entries.fetch_update(SeqCst, Relaxed, claim).is_err() {
            return false;
        }
        let is_kept = self.excess().entries == 0;
        if !is_kept {
            self.release(Amount { bytes: 0, entries: 1 });
        }
        is_kept
    }

    /// Claims what is free of `bytes`.
    pub(super) fn claim_free_bytes(&self, bytes: u64) -> Amount {
        let free = bytes.min(self.free_bytes());
        let is_claimed = free > 0 && self.try_claim_bytes(free);
        Amount { bytes: if is_claimed { free } else { 0 }, entries: 0 }
    }

    /// Releases the bytes of a load.
    pub(super) fn release_load(&self, size: u64) {
        self.loading.fetch_sub(size, Relaxed);
        self.bytes.fetch_sub(size, SeqCst);
    }

    /// Turns the bytes of a load into a claim, for its value.
    pub(super) fn load_to_claim(&self, size: u64) {
        self.loading.fetch_sub(size, Relaxed);
    }

    pub(super) fn release(&self, amount: Amount) {
        if amount.bytes > 0 {
            self.bytes.fetch_sub(amount.bytes, SeqCst);
        }
        if amount.entries > 0 {
            self.entries.fetch_sub(amount.entries, SeqCst);
        }
    }

    /// Counts inserts that needed room, and returns the number of all of them.
    pub(super) fn count_demand(&self, more: u64) -> u64 {
        self.demand.fetch_add(more, Relaxed).wrapping_add(more)
    }

    /// Begins an eviction from all shards, and returns its number: not 0.
    pub(super) fn begin_eviction(&self) -> u64 {
        self.evictions.fetch_add(1, Relaxed) + 1
    }

    /// The shard that evicts next, of `shards`.
    pub(super) fn turn(&self, shards: usize) -> usize {
        self.turn.load(Relaxed) % shards
    }

    /// Makes it the turn of the shard after `shard`.
    pub(super) fn turn_after(&self, shard: usize) {
        self.turn.store(shard + 1, Relaxed);
    }

    /// The shard in which the next look for expired entries begins, of `shards`.
    pub(super) fn sweep_turn(&self, shards: usize) -> usize {
        self.sweep_turn.load(Relaxed) % shards
    }

    pub(super) fn sweep_turn_after(&self, shard: usize) {
        self.sweep_turn.store(shard + 1, Relaxed);
    }
}

/// Room that was evicted in one shard, on its way to another. Released if it does not get there.
pub(super) struct Claim<'a> {
    bound: &'a Bound,
    amount: Amount,
}

impl<'a> Claim<'a> {
    pub(super) const fn new(bound: &'a Bound) -> Self {
        Self { bound, amount: Amount { bytes: 0, entries: 0 } }
    }

    pub(super) const fn add(&mut self, amount: Amount) {
        self.amount.bytes += amount.bytes;
        self.amount.entries += amount.entries;
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.amount.bytes
    }

    /// Turns it into bytes of a load.
    pub(super) fn into_load(mut self) {
        let amount = self.take();
        self.bound.loading.fetch_add(amount.bytes, Relaxed);
    }

    /// Takes all of it.
    pub(super) const fn take(&mut self) -> Amount {
        std::mem::replace(&mut self.amount, Amount { bytes: 0, entries: 0 })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.bound.release(self.amount);
    }
}

/// The rate of inserts into a shard that need room, compared with the other shards.
#[derive(Default)]
pub(super) struct Demand {
    /// The number of such inserts since the last comparison.
    count: u64,
    /// The number of those of all shards at the last comparison. `None`: there was none.
    all: Option<u64>,
    /// A third more than an average shard has.
    pub(super) is_high: bool,
}

/// The number of inserts that a shard reports at once.
const REPORTED: u64 = 32;

/// The number of inserts after which a shard compares its demand.
const COMPARED: u64 = 8 * REPORTED;

impl Demand {
    /// Counts one.
    pub(super) fn count(&mut self, shards: usize, bound: &Bound) {
        self.count += 1;
        if self.count.is_multiple_of(REPORTED) {
            let all = bound.count_demand(REPORTED);
            if self.count == COMPARED {
                // On average, all shards had `COMPARED * shards` in the time.
                let average = COMPARED * shards as u64;
                self.is_high = self.all.is_some_and(|before| 4 * all.wrapping_sub(before) <= 3 * average);
                (self.count, self.all) = (0, Some(all));
            }
        }
    }
}
