//! The state of a shard under its lock: the store, its claims and its reservation, the in-flight loads, the counters.
//!
//! ```text
//!   at every unlock:   claimed == reserved == store.bytes()      claimed entries == store.len()
//!   at any time:       the claims of all shards <= the bounds of the cache
//! ```
//!
//! An operation that removes entries holds the lock for one *batch* at a time. Removed entries are kept in places on the
//! stack, and are dropped after the lock is released: code that releases memory allocates nothing.

use std::sync::Arc;

use crate::board::Holder;
use crate::budget::{Account, Reservation};
use crate::size::ByteSize;
use crate::sync::MutexGuard;

use super::bound::{Amount, Bound, Demand};
use super::in_flight::{InFlight, Orphans};
use super::removed::Removed;
use super::stats::{CacheStats, Cause};
use super::store::{Slot, Store, Terms};

/// The state of a shard, under its lock.
pub(super) struct State<K, V> {
    pub(super) store: Store<K, V>,
    pub(super) bound: Arc<Bound>,
    /// The part of the bound that is claimed for the store.
    pub(super) claimed: Amount,
    /// The number of shards.
    pub(super) shards: usize,
    pub(super) demand: Demand,
    pub(super) quota: Quota,
    pub(super) accounting: Accounting,
    /// The number of keys that have come in. While it is the same, a key that was absent is absent.
    pub(super) arrivals: u64,
    pub(super) in_flight: InFlight<K>,
    /// Only the counters are kept here. The other fields are filled in when they are read.
    pub(super) counters: CacheStats,
}

/// The state while it is changed. When it is dropped, also by a panic, the tables and accounts are updated, and then the
/// lock is released. The caller drops the removed entries after that.
pub(super) struct Locked<'a, K, V> {
    pub(super) state: MutexGuard<'a, State<K, V>>,
    pub(super) removed: Removed<'a, K, V>,
    /// Another batch may follow.
    pub(super) is_batch: bool,
    /// Dropped after the state, which releases the lock.
    orphans: Orphans<K>,
}

impl<'a, K, V> Locked<'a, K, V> {
    #[inline]
    pub(super) const fn new(state: MutexGuard<'a, State<K, V>>, removed: Removed<'a, K, V>, is_batch: bool) -> Self {
        Self { state, removed, is_batch, orphans: Orphans::none() }
    }
}

impl<K, V> Drop for Locked<'_, K, V> {
    #[inline]
    fn drop(&mut self) {
        self.state.shrink_if_sparse(&mut self.removed);
        self.state.sync_accounting(&mut self.removed);
        if self.state.in_flight.has_orphans() {
            self.orphans = self.state.in_flight.take_orphans();
        }
        if self.is_batch {
            // A thread that waits comes before the next batch.
            MutexGuard::bump(&mut self.state);
        }
    }
}

/// The account or gauge that shows the cache's bytes.
pub(super) enum Accounting {
    /// An account of a budget, which publishes it.
    Account(Reservation),
    /// A gauge, and its last value.
    Gauge(Holder, u64),
}

/// The part of a shard in an eviction from all shards.
#[derive(Clone, Copy, Default)]
pub(super) struct Quota {
    /// The number of the eviction.
    pub(super) eviction: u64,
    /// The bytes that the shard may keep.
    pub(super) target: u64,
    /// The entries that it still evicts.
    pub(super) entries: usize,
    /// It has evicted its part, or was empty.
    pub(super) is_done: bool,
}

/// The result of a check of bytes against the bounds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Fits,
    /// Not within the cache's own bound.
    ExceedsBound,
    /// Not within the budget.
    ExceedsBudget,
}

/// The result of one batch of an insert.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Insert {
    /// The entry is in this slot.
    Done(u32),
    /// The batch is full, and more must be evicted.
    Continue,
    /// Nothing is left to evict, and other threads have claimed what is free.
    Contended,
    /// Another shard evicts this much.
    EvictElsewhere(Amount, Cause),
    /// The cache is empty, and the budget has no room: other accounts are asked.
    AskBudget,
    /// The budget cannot grant the bytes, whatever is evicted. Nothing was evicted.
    NeverFits,
    /// The entries that would be evicted are worth more. Nothing was evicted.
    NotAdmitted,
}

/// A new entry on its way in.
pub(super) struct NewEntry<'a, K, V> {
    /// `None` once it is in.
    pub(super) slot: &'a mut Option<Slot<K, V>>,
    pub(super) terms: Terms,
    /// The former value of the key was removed for it.
    pub(super) replaces: bool,
    /// The budget was asked, so that it need not be asked whether it can ever grant the bytes.
    pub(super) is_feasible: bool,
    pub(super) others: Others,
    /// Entries may be evicted for it.
    pub(super) is_admitted: bool,
}

/// The other shards, for an insert that needs room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// They may have entries to evict.
    Unknown,
    /// They had none at the last look.
    Empty,
}

impl<K, V> State<K, V> {
    /// Inserts an entry, or replaces the one in slot `found`, which has the same key. Evicts at most one batch.
    #[inline]
    pub(super) fn insert(
        &mut self,
        found: Option<u32>,
        new: &mut NewEntry<'_, K, V>,
        removed: &mut Removed<'_, K, V>,
    ) -> Insert {
        match found {
            Some(index) => self.replace(index, new, removed),
            None => self.insert_new(new, removed),
        }
    }

    /// Replaces the value of a key in its slot, so that the entry keeps its rank. Evicts others if the value has grown.
    fn replace(&mut self, mut index: u32, new: &mut NewEntry<'_, K, V>, removed: &mut Removed<'_, K, V>) -> Insert {
        loop {
            let others = self.store.bytes() - u64::from(self.store.weight(index));
            let fit = self.fit(others + u64::from(new.terms.weight));
            if fit == Fit::Fits {
                if let Some(slot) = new.slot.take() {
                    removed.extend(self.store.replace(index, slot, new.terms), Cause::Replaced);
                    self.counters.replaced += 1;
                }
                return Insert::Done(index);
            }
            if !self.is_feasible(fit, new) {
                return Insert::NeverFits;
            }
            // One place is left for the former value.
            if removed.free() < 2 {
                return Insert::Continue;
            }
            if new.others == Others::Unknown && self.evicts_elsewhere(true) {
                let bytes = self.missing(others + u64::from(new.terms.weight));
                return Insert::EvictElsewhere(Amount { bytes, entries: 0 }, fit.cause());
            }
            // A write is an access: it protects the entry from being its own victim.
            self.store.touch(index, new.terms.idle_deadline);
            match self.store.victim() {
                Some(victim) if victim != index => {
                    let is_last = index as usize == self.store.len() - 1;
                    self.evict(victim, fit.cause(), removed);
                    if is_last {
                        index = victim; // the last entry has moved
                    }
                }
                // It is the only entry, or the policy knows no better one: then the tables are in the way.
                _ => {
                    // Counted as removed as long as its next value is not in.
                    removed.extend(self.store.remove(index), Cause::Replaced);
                    self.counters.count(Cause::Removed);
                    new.replaces = true;
                    return self.insert_new(new, removed);
                }
            }
        }
    }

    fn insert_new(&mut self, new: &mut NewEntry<'_, K, V>, removed: &mut Removed<'_, K, V>) -> Insert {
        let weight = new.terms.weight;
        loop {
            let has_place = self.has_place();
            let fit = if has_place { self.fit(self.store.bytes_with(weight)) } else { Fit::ExceedsBound };
            if fit == Fit::Fits {
                return self.count_insert(new, |store, slot, new| Some(store.insert(slot, new.terms)));
            }
            if self.store.is_large(weight, self.bound.max_bytes()) && !self.is_admitted(new) {
                return Insert::NotAdmitted;
            }
            if removed.free() == 0 {
                return Insert::Continue;
            }
            if !self.is_feasible(fit, new) {
                return Insert::NeverFits;
            }
            if new.others == Others::Unknown && self.evicts_elsewhere(has_place) {
                let bytes = if has_place { self.missing(self.store.bytes_with(weight)) } else { 0 };
                return Insert::EvictElsewhere(Amount { bytes, entries: usize::from(!has_place) }, fit.cause());
            }
            let Some(victim) = self.store.victim() else {
                return match fit {
                    // The tables go at the end of the batch.
                    _ if self.store.bytes() > 0 => Insert::Continue,
                    Fit::ExceedsBudget => Insert::AskBudget,
                    Fit::Fits | Fit::ExceedsBound => Insert::Contended,
                };
            };
            let fits_in_place =
                self.bound.excess().entries == 0 && self.fit(self.store.bytes_in_place(victim, weight)) == Fit::Fits;
            if fits_in_place {
                self.orphan(victim);
                self.counters.count(fit.cause());
                return self.count_insert(new, |store, slot, new| {
                    removed.extend(store.replace_victim(victim, slot, new.terms), fit.cause());
                    Some(victim)
                });
            }
            // Of small values the tables hold most of the bytes: they shrink, if that is enough.
            if has_place && self.store.is_small(victim) && self.store.has_spare_slot() {
                let (limit, before) = (self.limit(), self.store.bytes());
                if self.store.bytes_shrunk(Some(weight)) <= limit {
                    if !self.store.shrink_tables(limit, Some(weight)) {
                        return Insert::Continue;
                    }
                    // The budget can refuse bytes that are within the limit: it promises them to others.
                    if self.store.bytes() < before {
                        continue;
                    }
                }
            }
            self.evict(victim, fit.cause(), removed);
        }
    }

    /// Returns `true` if another shard evicts for the next insert: if this one has less than 7/8 of its share of the
    /// entries (`has_place`: of the bytes), or if it gets most of the inserts. So it takes over the room of entries
    /// of other shards that are not in use.
    fn evicts_elsewhere(&mut self, has_place: bool) -> bool {
        if self.shards == 1 {
            return false;
        }
        self.demand.count(self.shards, &self.bound);
        let shards = self.shards as u64;
        let (own, claimed, all) = if has_place {
            (self.store.bytes(), self.claimed.bytes, self.bound.stored_bytes())
        } else {
            (self.store.len() as u64, self.claimed.entries as u64, self.bound.entries() as u64)
        };
        // If all is claimed here, the others have nothing.
        claimed < all && (self.demand.is_high || own.saturating_mul(8 * shards) < all.saturating_mul(7))
    }

    /// Puts the new entry in by `put`, which returns its slot, and counts it.
    fn count_insert(
        &mut self,
        new: &mut NewEntry<'_, K, V>,
        put: impl FnOnce(&mut Store<K, V>, Slot<K, V>, &NewEntry<'_, K, V>) -> Option<u32>,
    ) -> Insert {
        let Some(index) = new.slot.take().and_then(|slot| put(&mut self.store, slot, new)) else {
            debug_assert!(false, "an entry is inserted once");
            return Insert::NeverFits;
        };
        self.arrivals += 1;
        if new.replaces {
            // Its former value was counted as removed.
            self.counters.removed -= 1;
            self.counters.replaced += 1;
        } else {
            self.counters.inserts += 1;
        }
        Insert::Done(index)
    }

    /// Returns `false`, before the first eviction, if no entries are to be evicted for a new large one.
    #[cold]
    fn is_admitted(&mut self, new: &mut NewEntry<'_, K, V>) -> bool {
        if !new.is_admitted {
            let hash = new.slot.as_ref().map_or(0, |slot| slot.hash);
            new.is_admitted = new.replaces || {
                let (entries, bytes) = (self.bound.entries(), self.bound.stored_bytes());
                self.store.admits(hash, new.terms.weight, entries, bytes)
            };
        }
        new.is_admitted
    }

    /// Returns `false`, before the first eviction, if the budget can never grant what a new entry needs.
    fn is_feasible(&self, fit: Fit, new: &mut NewEntry<'_, K, V>) -> bool {
        if fit == Fit::ExceedsBudget && !new.is_feasible {
            new.is_feasible = self.could_hold(self.store.min_bytes(new.terms.weight));
        }
        fit != Fit::ExceedsBudget || new.is_feasible
    }

    /// Returns `true` if the budget could grant `bytes` in all after all shards have evicted everything and other accounts
    /// have released what they can.
    pub(super) fn could_hold(&self, bytes: u64) -> bool {
        match &self.accounting {
            Accounting::Gauge(..) => true,
            Accounting::Account(reserved) => {
                let others = self.bound.stored_bytes().saturating_sub(self.claimed.bytes);
                reserved.could_become(ByteSize::bytes(bytes), ByteSize::bytes(others))
            }
        }
    }

    /// Returns `true` if an entry of `bytes`, with its tables, fits alone.
    pub(super) fn fits_alone(&self, bytes: u64) -> bool {
        self.bound.max_entries() > 0 && bytes <= self.max_entry_bytes()
    }

    /// The bound of one entry.
    pub(super) fn max_entry_bytes(&self) -> u64 {
        self.bound.max_bytes().min(u64::from(u32::MAX))
    }

    /// The bytes that the shard may hold now.
    fn limit(&self) -> u64 {
        let bound = self.claimed.bytes.saturating_add(self.bound.free_bytes());
        match &self.accounting {
            Accounting::Gauge(..) => bound,
            Accounting::Account(reserved) => bound.min(reserved.size().saturating_add(reserved.available()).as_u64()),
        }
    }

    /// The bytes that must be evicted elsewhere, so that the shard may hold `wanted` bytes.
    fn missing(&self, wanted: u64) -> u64 {
        // Other threads may have released some since `wanted` did not fit.
        wanted.saturating_sub(self.limit()).max(1)
    }

    /// Claims a place for one more entry, if the bound allows it.
    #[inline]
    fn has_place(&mut self) -> bool {
        if self.store.len() == self.claimed.entries {
            self.claimed.entries += usize::from(self.bound.try_claim_entry());
        }
        self.store.len() < self.claimed.entries
    }

    /// Checks that the shard may hold `bytes`. Claims and reserves them if so.
    #[inline]
    fn fit(&mut self, bytes: u64) -> Fit {
        let more = bytes.saturating_sub(self.claimed.bytes);
        if more > 0 && !self.bound.try_claim_bytes(more) {
            return Fit::ExceedsBound;
        }
        self.claimed.bytes += more;
        match &mut self.accounting {
            Accounting::Gauge(..) => Fit::Fits,
            Accounting::Account(reserved) => {
                let more = bytes.saturating_sub(reserved.size().as_u64());
                if reserved.try_grow_without_reclaim(ByteSize::bytes(more)) { Fit::Fits } else { Fit::ExceedsBudget }
            }
        }
    }

    /// Splits up to `want` off the claims that the store does not need any more.
    pub(super) fn split_claim(&mut self, want: Amount) -> Amount {
        let spare = self.spare_claim();
        let split = Amount { bytes: spare.bytes.min(want.bytes), entries: spare.entries.min(want.entries) };
        self.claimed.bytes -= split.bytes;
        self.claimed.entries -= split.entries;
        split
    }

    /// Adds what another shard has evicted for this one.
    pub(super) const fn adopt_claim(&mut self, claim: Amount) {
        self.claimed.bytes += claim.bytes;
        self.claimed.entries += claim.entries;
    }

    fn spare_claim(&self) -> Amount {
        Amount {
            bytes: self.claimed.bytes.saturating_sub(self.store.bytes()),
            entries: self.claimed.entries.saturating_sub(self.store.len()),
        }
    }

    /// Releases the claims that the store does not need.
    pub(super) fn release_spare_claim(&mut self) {
        self.release_claim_beyond(Amount { bytes: self.store.bytes(), entries: self.store.len() });
    }

    #[inline]
    fn release_claim_beyond(&mut self, used: Amount) {
        if used == self.claimed {
            return;
        }
        debug_assert!(
            used.bytes <= self.claimed.bytes && used.entries <= self.claimed.entries,
            "a shard claims before it grows"
        );
        self.bound.release(Amount {
            bytes: self.claimed.bytes.saturating_sub(used.bytes),
            entries: self.claimed.entries.saturating_sub(used.entries),
        });
        self.claimed = used;
    }

    /// Splits up to `want` bytes off the reservation that are not needed any more.
    pub(super) fn split_spare(&mut self, want: u64) -> Option<Reservation> {
        let bytes = self.store.bytes();
        match &mut self.accounting {
            Accounting::Gauge(..) => None,
            Accounting::Account(reserved) => {
                let spare = reserved.size().as_u64().saturating_sub(bytes);
                reserved.split(ByteSize::bytes(spare.min(want)))
            }
        }
    }

    /// Returns the account that is charged.
    pub(super) fn account(&self) -> Option<Account> {
        match &self.accounting {
            Accounting::Account(reserved) => Some(reserved.account()),
            Accounting::Gauge(..) => None,
        }
    }

    /// Returns the account if it has to check the pages of the process after the lock is released.
    #[inline]
    pub(super) fn account_to_check(&self) -> Option<Account> {
        match &self.accounting {
            Accounting::Account(reserved) => reserved.is_check_due().then(|| reserved.account()),
            Accounting::Gauge(..) => None,
        }
    }

    /// Adds a reservation for the next entry. The account is the same, so it is never returned.
    pub(super) fn adopt(&mut self, granted: Reservation) {
        if let Accounting::Account(reserved) = &mut self.accounting {
            reserved.merge(granted).unwrap_or_else(drop);
        }
    }

    /// Makes an orphan of the detached refresh of an entry that leaves the cache.
    #[inline]
    fn orphan(&mut self, index: u32) {
        if let Some(slot) = self.store.get(index) {
            self.in_flight.orphan(slot.hash);
        }
    }

    fn evict(&mut self, victim: u32, cause: Cause, removed: &mut Removed<'_, K, V>) {
        self.orphan(victim);
        if let Some(evicted) = self.store.evict(victim) {
            self.counters.count(cause);
            removed.push(evicted, cause);
        }
    }

    /// Evicts the policy's next entry. Returns `false` if there is none.
    pub(super) fn evict_next(&mut self, cause: Cause, removed: &mut Removed<'_, K, V>) -> bool {
        let Some(victim) = self.store.victim() else { return false };
        self.evict(victim, cause, removed);
        true
    }

    /// Removes the entry in slot `index`.
    pub(super) fn remove(&mut self, index: u32, cause: Cause, removed: &mut Removed<'_, K, V>) {
        self.orphan(index);
        if let Some(slot) = self.store.remove(index) {
            self.counters.count(cause);
            removed.push(slot, cause);
        }
    }

    /// Evicts until the cache holds at most `target` bytes or the batch is full. Returns `true` at the end.
    ///
    /// Spare capacity of the tables goes before entries. No more entries go than the tables can shrink for.
    pub(super) fn evict_to(&mut self, target: u64, cause: Cause, removed: &mut Removed<'_, K, V>) -> bool {
        loop {
            if self.store.bytes() <= target {
                return true;
            }
            if self.store.bytes_shrunk(None) <= target {
                return self.store.shrink_tables(target, None);
            }
            // No capacity beyond the present entries can stay. It goes in steps: to free a large block takes the allocator
            // long if it has many small free blocks.
            if removed.free() == 0 || self.store.shrink_step() {
                return false;
            }
            if !self.evict_next(cause, removed) {
                return true; // empty: the tables go at the end of the batch
            }
        }
    }

    /// Shrinks tables of which little is used.
    #[inline]
    pub(super) fn shrink_if_sparse(&mut self, removed: &mut Removed<'_, K, V>) {
        if self.store.is_sparse() {
            self.shrink_sparse(removed);
        }
    }

    #[cold]
    #[inline(never)]
    fn shrink_sparse(&mut self, removed: &mut Removed<'_, K, V>) {
        // All entries come out if there is no memory for a smaller index, or if there are none.
        if let Some(all) = self.store.shrink_sparse_tables() {
            self.in_flight.orphan_all();
            self.counters.evictions_by_pressure += all.len() as u64;
            removed.push_all(all, Cause::Pressure);
        }
    }

    /// Updates the claims, and the reservation or the gauge. What is no longer reserved is released when `removed` is
    /// dropped: after the entries.
    #[inline]
    fn sync_accounting(&mut self, removed: &mut Removed<'_, K, V>) {
        let bytes = self.store.bytes();
        self.release_claim_beyond(Amount { bytes, entries: self.store.len() });
        match &mut self.accounting {
            Accounting::Account(reserved) => {
                let size = reserved.size().as_u64();
                if bytes > size {
                    reserved.grow(ByteSize::bytes(bytes - size));
                } else if bytes < size {
                    let less = ByteSize::bytes(size - bytes);
                    // Not under the lock: requests that wait for the bytes are woken.
                    removed.set_released(reserved.split(less));
                }
            }
            Accounting::Gauge(gauge, last) => {
                if bytes > *last {
                    gauge.add(ByteSize::bytes(bytes - *last));
                } else if bytes < *last {
                    gauge.sub(ByteSize::bytes(*last - bytes));
                }
                *last = bytes;
            }
        }
    }
}

impl Fit {
    /// The counter of an eviction for it.
    const fn cause(self) -> Cause {
        match self {
            Self::ExceedsBudget => Cause::Pressure,
            Self::Fits | Self::ExceedsBound => Cause::Size,
        }
    }
}

impl<K, V> Drop for State<K, V> {
    fn drop(&mut self) {
        if let Accounting::Gauge(gauge, last) = &mut self.accounting {
            gauge.sub(ByteSize::bytes(std::mem::take(last)));
        }
    }
}
