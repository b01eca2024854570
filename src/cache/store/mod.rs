//! The cache for one thread: dense slots, an index over them, a policy that orders them, and the sum of bytes.
//!
//! ```text
//!   index: hash -> slot      slots: [key value hash expires | ..dense.. ]      policy: which slot is evicted next
//!                            weights, idle_deadlines, stale_from: one word a slot, only if needed
//! ```
//!
//! The caller passes the time and checks the bounds. This module reads no clock, takes no lock and charges no account. Of
//! the user's code only `Eq` runs here, in [`Store::find`], which changes nothing. Removed entries are returned to the
//! caller, which drops them after it has released its lock.

mod expiry;
mod sizes;
mod ticks;

use std::borrow::Borrow;

use super::builder::Eviction;
use super::index::Index;
use super::policy::{Entry, Order, Sizes, set_capacity};
use expiry::Pass;
use ticks::{HALF, TICK, idle_deadline, whole_ticks};

pub(super) use ticks::Ages;

/// An entry.
pub(super) struct Slot<K, V> {
    pub(super) key: K,
    pub(super) value: V,
    pub(super) hash: u32,
    /// The tick from which on it is not kept: the tick from which on it is expired, and the grace of the store.
    pub(super) expires: u32,
}

/// The weight of a new entry, and the ticks from which on it is not kept, expired unless it is accessed, and stale.
///
/// An entry that is not stored yet has them next to its slot. A move of a slot reads 16 bytes at once, and a processor makes
/// this wait if a part of them was just written.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) weight: u32,
    pub(super) expires: u32,
    pub(super) idle_deadline: u32,
    pub(super) stale_from: u32,
}

/// The tick that never comes.
pub(super) const NEVER: u32 = u32::MAX;

/// The highest number of slots: slot numbers are words of 32 bits.
pub(super) const MAX_SLOTS: usize = u32::MAX as usize - 1;

/// The highest number of slots by which the vectors of all shards shrink at once, under the lock.
const MAX_FREED: usize = 8_192;

/// The result of a lookup.
pub(super) enum Lookup<'a, V> {
    Live(&'a V),
    /// The value is there and has not expired. It is to be refreshed.
    Stale,
    /// The entry in this slot has expired.
    Expired(u32),
    /// The value is there, and the caller does not accept it.
    Rejected,
    Absent,
}

/// The entries of a cache, and all tables over them.
pub(super) struct Store<K, V> {
    slots: Vec<Slot<K, V>>,
    /// The capacity of each vector here and in the policy.
    capacity: usize,
    /// The weight of each entry beyond its slot. `None`: all weigh nothing.
    weights: Option<Vec<u32>>,
    /// The tick from which on each entry is expired, unless it is accessed before. `None`: no entry expires by idleness.
    idle_deadlines: Option<Vec<u32>>,
    /// The tick from which on each entry is stale. `None`: no entry is refreshed.
    stale_from: Option<Vec<u32>>,
    /// The milliseconds without access after which an entry expires.
    idle: u64,
    /// The milliseconds after which an entry is stale.
    refresh_after: u64,
    /// The ticks for which an entry is kept after its time to live.
    grace: u32,
    index: Index,
    eviction: Eviction,
    order: Order,
    /// The sum of the weights.
    weight: u64,
    /// Bytes of the vectors at their present capacity.
    tables: u64,
    /// Bytes of a store with one entry of weight 0.
    min_bytes: u64,
    /// The size of an entry of weight 0, for the policy.
    slot_size: u64,
    max_entries: usize,
    /// The highest number of slots by which the vectors shrink at once. The allocator then merges the small blocks that were
    /// freed since it last did, also those of other shards.
    max_freed: usize,
    /// Up to this capacity the vectors grow exactly: a bit more than the shard's part of the entries.
    share: usize,
    /// The time of tick zero.
    epoch: u64,
    /// No entry expires before this tick.
    first_expiry: u32,
    /// The lowest expiry of entries that came in since the present pass over all entries began.
    new_expiry: u32,
    pass: Pass,
}

impl<K, V> Store<K, V> {
    /// The least number of slots: fewer if they are large, because each shard has as many.
    const MIN_SLOTS: usize = match 4_096 / size_of::<Slot<K, V>>() {
        0 => 1,
        slots if slots < 8 => slots,
        _ => 8,
    };

    /// `weighs`: entries have weights.
    pub(super) fn new(
        eviction: Eviction,
        max_entries: usize,
        shards: usize,
        weighs: bool,
        ages: Ages,
        now: u64,
    ) -> Self {
        let mut store = Self {
            slots: Vec::new(),
            capacity: 0,
            weights: weighs.then(Vec::new),
            idle_deadlines: ages.idle.map(|_| Vec::new()),
            stale_from: ages.refresh_after.map(|_| Vec::new()),
            idle: ages.idle.map_or(0, |idle| idle.min(u64::from(HALF / 2) * TICK)),
            refresh_after: ages.refresh_after.unwrap_or(0).min(u64::from(HALF) * TICK),
            grace: whole_ticks(ages.grace).min(HALF / 2),
            index: Index::default(),
            eviction,
            order: Order::new(eviction),
            weight: 0,
            tables: 0,
            min_bytes: 0,
            slot_size: 1,
            max_entries: 0,
            max_freed: (MAX_FREED / shards).max(512),
            share: 0,
            epoch: now,
            first_expiry: NEVER,
            new_expiry: NEVER,
            pass: Pass::default(),
        };
        store.set_max_entries(max_entries, shards);
        store
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Sets the highest number of entries of all shards.
    pub(super) fn set_max_entries(&mut self, max: usize, shards: usize) {
        self.max_entries = max.min(MAX_SLOTS);
        // Of 1,000 entries for a shard, 32 more are one standard deviation.
        let share = self.max_entries / shards;
        self.share = if shards == 1 { share } else { share + share / 32 };
        let order = Order::new(self.eviction);
        let others = order.entry_bytes() + Index::default().growth();
        self.min_bytes = self.tables_with(&order, self.min_capacity()) + others as u64;
        // The parts of many slots that are used up, without what is spare in the tables.
        self.slot_size =
            (self.tables_with(&order, 64) + Index::default().growth() as u64) / 64 + order.entry_bytes() as u64;
    }

    /// Bytes of the entries and of all tables.
    pub(super) fn bytes(&self) -> u64 {
        self.weight + self.tables + self.other_bytes(self.slots.len())
    }

    /// Bytes with one entry of this weight more.
    pub(super) fn bytes_with(&self, weight: u32) -> u64 {
        let others = self.other_bytes(self.slots.len() + 1) + self.index.growth() as u64;
        let tables = if self.slots.len() < self.capacity { self.tables } else { self.tables_of(self.grown_capacity()) };
        self.weight + u64::from(weight) + tables + others
    }

    /// The highest number of bytes with an entry of this weight in slot `index` instead of the present one.
    pub(super) fn bytes_in_place(&self, index: u32, weight: u32) -> u64 {
        self.bytes() - u64::from(self.weight(index)) + u64::from(weight) + self.index.growth() as u64
    }

    /// The bytes of a store that holds one entry of this weight alone.
    pub(super) fn min_bytes(&self, weight: u32) -> u64 {
        u64::from(weight) + self.min_bytes
    }

    /// Bytes after [`shrink_tables`](Self::shrink_tables) at the smallest capacity for the present entries, and a new one of
    /// weight `new`.
    pub(super) fn bytes_shrunk(&self, new: Option<u32>) -> u64 {
        self.tables_of(self.smallest_capacity(new)) + self.bytes_beside_tables(new)
    }

    fn smallest_capacity(&self, new: Option<u32>) -> usize {
        (self.slots.len() + usize::from(new.is_some())).max(self.min_capacity()).min(self.capacity)
    }

    fn bytes_beside_tables(&self, new: Option<u32>) -> u64 {
        match new {
            None => self.weight + self.other_bytes(self.slots.len()),
            Some(weight) => {
                let others = self.other_bytes(self.slots.len() + 1) + self.index.growth() as u64;
                self.weight + u64::from(weight) + others
            }
        }
    }

    /// Returns `true` if the entry owns less than its slot takes in the tables.
    pub(super) fn is_small(&self, index: u32) -> bool {
        u64::from(self.weight(index)) * (self.capacity as u64) < self.tables
    }

    /// Bytes of the index, and of what the policy allocates for each of `entries`.
    fn other_bytes(&self, entries: usize) -> u64 {
        (entries * self.order.entry_bytes() + self.index.bytes()) as u64
    }

    /// Bytes of the vectors at a capacity.
    fn tables_of(&self, capacity: usize) -> u64 {
        self.tables_with(&self.order, capacity)
    }

    fn tables_with(&self, order: &Order, capacity: usize) -> u64 {
        let words = [self.weights.is_some(), self.idle_deadlines.is_some(), self.stale_from.is_some()];
        let words: usize = words.into_iter().map(usize::from).sum();
        let slot = size_of::<Slot<K, V>>() + words * size_of::<u32>();
        (capacity * slot + order.bytes(capacity)) as u64
    }

    /// Returns `true` if one more entry needs no larger tables.
    pub(super) const fn has_spare_slot(&self) -> bool {
        self.slots.len() < self.capacity
    }

    fn min_capacity(&self) -> usize {
        self.max_entries.clamp(1, Self::MIN_SLOTS)
    }

    /// The capacity after one more insertion: an eighth more if it is used up.
    fn grown_capacity(&self) -> usize {
        if self.slots.len() < self.capacity {
            return self.capacity;
        }
        let grown = if self.capacity < self.share {
            (self.capacity + self.capacity / 8 + Self::MIN_SLOTS / 2).min(self.share)
        } else {
            // Above its share, by a smaller step: the other shards have as many spare slots.
            self.capacity + self.capacity / 32 + Self::MIN_SLOTS / 2
        };
        // The bound may have been raised since.
        grown.min(self.max_entries).max(self.min_capacity()).max(self.slots.len() + 1)
    }

    fn set_capacity(&mut self, capacity: usize) {
        set_capacity(&mut self.slots, capacity);
        self.weights.iter_mut().for_each(|weights| set_capacity(weights, capacity));
        self.idle_deadlines.iter_mut().for_each(|deadlines| set_capacity(deadlines, capacity));
        self.stale_from.iter_mut().for_each(|ticks| set_capacity(ticks, capacity));
        self.order.set_capacity(capacity);
        self.capacity = capacity;
        self.tables = self.tables_of(capacity);
    }

    /// The slot of a key.
    #[inline]
    pub(super) fn find<Q>(&self, hash: u32, key: &Q) -> Option<u32>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let matches = |index: u32| {
            self.slots.get(index as usize).is_some_and(|slot| slot.hash == hash && slot.key.borrow() == key)
        };
        self.index.find(hash, matches)
    }

    /// The entry in a slot.
    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&Slot<K, V>> {
        self.slots.get(index as usize)
    }

    /// Looks a key up, and records the access unless the entry has expired or `accept` rejects its value. `REFRESHES`: a stale
    /// entry is to be refreshed.
    #[expect(clippy::inline_always, reason = "a tenth of a hit: called, it returns its result in memory")]
    #[inline(always)]
    pub(super) fn lookup<Q, const REFRESHES: bool>(
        &mut self,
        hash: u32,
        key: &Q,
        now: u64,
        accept: impl FnOnce(&V) -> bool,
    ) -> Lookup<'_, V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let Some(index) = self.find(hash, key) else { return Lookup::Absent };
        let tick = self.tick(now);
        // Each place is looked up once: this is what a hit costs.
        let Some(slot) = self.slots.get(index as usize) else { return Lookup::Absent };
        if slot.expires <= tick + self.grace {
            return Lookup::Expired(index);
        }
        let mut deadline = self.idle_deadlines.as_mut().and_then(|deadlines| deadlines.get_mut(index as usize));
        if deadline.as_ref().is_some_and(|deadline| **deadline <= tick) {
            return Lookup::Expired(index);
        }
        if !accept(&slot.value) {
            return Lookup::Rejected;
        }
        if let Some(deadline) = &mut deadline {
            **deadline = idle_deadline(self.epoch, self.idle, now).max(**deadline);
        }
        self.order.hit(index);
        if REFRESHES
            && let Some(ticks) = &self.stale_from
            && ticks.get(index as usize).is_some_and(|&from| from <= tick)
        {
            return Lookup::Stale;
        }
        Lookup::Live(&slot.value)
    }

    /// Records an access.
    #[inline]
    pub(super) fn touch(&mut self, index: u32, idle_deadline: u32) {
        self.order.hit(index);
        if let Some(deadlines) = &mut self.idle_deadlines
            && let Some(deadline) = deadlines.get_mut(index as usize)
        {
            *deadline = idle_deadline.max(*deadline);
        }
    }

    pub(super) fn weight(&self, index: u32) -> u32 {
        self.weights.as_ref().and_then(|weights| weights.get(index as usize)).copied().unwrap_or(0)
    }

    /// Inserts an entry with a new key, and returns its slot. The caller has checked that it fits.
    pub(super) fn insert(&mut self, slot: Slot<K, V>, terms: Terms) -> u32 {
        let grown = self.grown_capacity();
        if grown != self.capacity {
            self.set_capacity(grown);
        }
        let (index, hash) = (number(self.slots.len()), slot.hash);
        self.note_expiry(terms);
        self.slots.push(slot);
        if let Some(slot) = self.slots.last_mut() {
            slot.expires = terms.expires;
        }
        if let Some(weights) = &mut self.weights {
            weights.push(terms.weight);
            self.weight += u64::from(terms.weight);
        }
        self.idle_deadlines.iter_mut().for_each(|deadlines| deadlines.push(terms.idle_deadline));
        self.stale_from.iter_mut().for_each(|ticks| ticks.push(terms.stale_from));
        let size = self.sizes().of(index);
        self.order.insert(index, Entry { hash, size });
        let slots = &self.slots;
        self.index.insert(hash, index, |index| hash_in(slots, index));
        index
    }

    /// Replaces the entry in slot `index` by one of the same key. Returns the former one.
    pub(super) fn replace(&mut self, index: u32, new: Slot<K, V>, terms: Terms) -> Option<Slot<K, V>> {
        let size = self.sizes().of(index);
        let before = self.swap(index, new, terms)?;
        if self.weights.is_some() {
            self.order.resize(index, size, self.size_of(terms.weight));
        }
        self.touch(index, terms.idle_deadline);
        Some(before)
    }

    /// Moves an entry to the place of another, and returns that. The policy is not notified.
    fn swap(&mut self, index: u32, new: Slot<K, V>, terms: Terms) -> Option<Slot<K, V>> {
        self.note_expiry(terms);
        let slot = self.slots.get_mut(index as usize)?;
        let before = std::mem::replace(slot, new);
        slot.expires = terms.expires;
        self.set_stale_from(index, terms.stale_from);
        self.reweigh(index, terms.weight);
        Some(before)
    }

    fn reweigh(&mut self, index: u32, weight: u32) {
        if let Some(weights) = &mut self.weights
            && let Some(place) = weights.get_mut(index as usize)
        {
            self.weight = self.weight - u64::from(*place) + u64::from(weight);
            *place = weight;
        }
    }

    /// Removes the entry in slot `index`. The last entry moves to its slot.
    pub(super) fn remove(&mut self, index: u32) -> Option<Slot<K, V>> {
        self.take_out(index, false)
    }

    /// The slot that the policy evicts next. `None` only if there are no entries.
    pub(super) fn victim(&mut self) -> Option<u32> {
        self.order.victim(Sizes { weights: self.weights.as_deref(), slot: self.slot_size })
    }

    /// Removes the victim. The last entry moves to its slot.
    pub(super) fn evict(&mut self, victim: u32) -> Option<Slot<K, V>> {
        self.take_out(victim, true)
    }

    /// Replaces the victim by an entry with a new key, and returns the victim. No other entry moves.
    pub(super) fn replace_victim(&mut self, victim: u32, new: Slot<K, V>, terms: Terms) -> Option<Slot<K, V>> {
        let (hash, size) = (new.hash, self.sizes().of(victim));
        let before = self.swap(victim, new, terms)?;
        if let Some(deadlines) = &mut self.idle_deadlines
            && let Some(deadline) = deadlines.get_mut(victim as usize)
        {
            *deadline = terms.idle_deadline;
        }
        let new_size = self.sizes().of(victim);
        self.order.replace_victim(victim, Entry { hash: before.hash, size }, Entry { hash, size: new_size });
        let slots = &self.slots;
        self.index.replace(victim, before.hash, hash, |index| hash_in(slots, index));
        Some(before)
    }

    fn take_out(&mut self, index: u32, evicted: bool) -> Option<Slot<K, V>> {
        let place = index as usize;
        let hash = self.slots.get(place)?.hash;
        let last = number(self.slots.len() - 1);
        let size = self.sizes().of(index);
        self.index.remove(hash, index);
        if evicted {
            self.order.evict(index, Entry { hash, size });
        } else {
            self.order.remove(index, size);
        }
        let slot = self.slots.swap_remove(place);
        if let Some(weights) = &mut self.weights {
            self.weight -= u64::from(weights.swap_remove(place));
        }
        if let Some(deadlines) = &mut self.idle_deadlines {
            deadlines.swap_remove(place);
        }
        if let Some(ticks) = &mut self.stale_from {
            ticks.swap_remove(place);
        }
        if let Some(moved) = self.slots.get(place) {
            self.index.renumber(moved.hash, last, index);
            self.order.renumber(last, index);
        }
        Some(slot)
    }

    /// Removes all entries and all tables. Returns the entries.
    pub(super) fn clear(&mut self) -> Vec<Slot<K, V>> {
        let slots = std::mem::take(&mut self.slots);
        self.weight = 0;
        self.weights = self.weights.take().map(|_| Vec::new());
        self.idle_deadlines = self.idle_deadlines.take().map(|_| Vec::new());
        self.stale_from = self.stale_from.take().map(|_| Vec::new());
        self.order = Order::new(self.eviction);
        self.index = Index::default();
        self.capacity = 0;
        self.tables = 0;
        self.first_expiry = NEVER;
        self.pass = Pass::default();
        slots
    }

    /// Returns `true` if the tables are to be shrunk by [`shrink_sparse_tables`](Self::shrink_sparse_tables).
    #[inline]
    pub(super) fn is_sparse(&self) -> bool {
        self.slots.len() < self.capacity.div_ceil(4) || self.index.is_sparse()
    }

    /// Shrinks the tables if less than a quarter of them is used. Returns all entries if there are none, or if there was no
    /// memory for the smaller index.
    ///
    /// Vectors shrink in place, and a table is freed before the smaller one is allocated: the heap does not grow.
    pub(super) fn shrink_sparse_tables(&mut self) -> Option<Vec<Slot<K, V>>> {
        let len = self.slots.len();
        if len == 0 {
            return (self.capacity > 0).then(|| self.clear());
        }
        if len < self.capacity / 4 && self.capacity > self.min_capacity() {
            self.set_capacity((2 * len).max(self.min_capacity()));
        }
        if self.index.is_sparse() {
            let slots = &self.slots;
            if self.index.shrink(|index| hash_in(slots, index)).is_err() {
                return Some(self.clear());
            }
        }
        None
    }

    /// Shrinks the vectors by one step, if they have the spare capacity. Returns `true` if it did.
    pub(super) fn shrink_step(&mut self) -> bool {
        let can_shrink = self.capacity >= self.slots.len().max(self.min_capacity()) + self.max_freed;
        if can_shrink {
            self.set_capacity(self.capacity - self.max_freed);
        }
        can_shrink
    }

    /// Shrinks the vectors towards the largest capacity at which the store holds at most `target` bytes, together with a new
    /// entry of weight `new`. Returns `true` once this is reached: a call frees at most 8,192 slots, because the allocator
    /// and the kernel take time to free pages.
    ///
    /// The caller has seen that [`bytes_shrunk`](Self::bytes_shrunk) is at most `target`.
    pub(super) fn shrink_tables(&mut self, target: u64, new: Option<u32>) -> bool {
        let others = self.bytes_beside_tables(new);
        let mut fits = self.smallest_capacity(new);
        let mut too_large = self.capacity + 1;
        while fits + 1 < too_large {
            let middle = fits + (too_large - fits) / 2;
            if others + self.tables_of(middle) <= target {
                fits = middle;
            } else {
                too_large = middle;
            }
        }
        let next = fits.max(self.capacity.saturating_sub(self.max_freed));
        if next < self.capacity {
            self.set_capacity(next);
        }
        next == fits
    }

    /// All entries, in the order of their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot<K, V>> {
        self.slots.iter()
    }
}

/// The hash of the entry in a slot.
fn hash_in<K, V>(slots: &[Slot<K, V>], index: u32) -> u32 {
    slots.get(index as usize).map_or(0, |slot| slot.hash)
}

/// The number of a slot. There are never more than [`MAX_SLOTS`].
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "there are never more than MAX_SLOTS slots")]
const fn number(at: usize) -> u32 {
    at as u32
}
