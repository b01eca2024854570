//! Operations on all entries of a cache.

use crate::size::ByteSize;

use super::Cache;
use super::locked::{Locked, State};
use super::removed::{FirstPanic, MAX_VISITED, Places};
use super::stats::Cause;
use super::store::MAX_SLOTS;

impl<K, V, S> Cache<K, V, S> {
    /// Removes expired entries among the next `limit` entries, and returns how many. `usize::MAX`: looks at all.
    ///
    /// A call with a smaller limit starts at the entry at which the last one stopped. If no entry can have expired, it
    /// returns at once. For the end of an invocation, when no caller waits.
    ///
    /// # Performance
    ///
    /// Looks at 512 entries and removes 16 at a time, and releases the lock in between.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use plimsoll::{Cache, ManualClock};
    /// # let manual = ManualClock::new();
    /// let cache: Cache<u64, u64> = Cache::builder("cache")
    ///     .max_entries(100)
    ///     .time_to_live(Duration::from_secs(1))
    /// # .clock(manual.clock())
    ///     .build()?;
    /// cache.insert(1, 1)?;
    /// # manual.advance(Duration::from_secs(2));
    /// // Two seconds later, at the end of an invocation:
    /// assert_eq!(cache.remove_expired(1_000), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn remove_expired(&self, limit: usize) -> usize {
        self.inner.remove_expired(limit, u64::MAX).0
    }

    /// Removes expired entries, then evicts others in the order of the policy, until the cache holds at most `bytes`. Returns
    /// the number of released bytes. [`ByteSize::ZERO`] evicts all entries, [`ByteSize::MAX`] none. The cache may grow again.
    ///
    /// Spare capacity of the tables is released before entries.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, Cache};
    /// let pages: Cache<u64, Vec<u8>> = Cache::builder("pages").max_bytes(ByteSize::mib(1)).build()?;
    /// pages.insert(1, vec![0; 100_000])?;
    /// assert!(pages.evict_to(ByteSize::ZERO) >= ByteSize::bytes(100_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn evict_to(&self, bytes: ByteSize) -> ByteSize {
        self.inner.evict_to(bytes.as_u64())
    }

    /// Sets the highest number of entries, and evicts those beyond it, expired ones first. 0: the cache stores nothing from
    /// now on, and running loads are cancelled. `usize::MAX`: no bound.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// (0..10).try_for_each(|key| cache.insert(key, key))?;
    /// cache.set_max_entries(5);
    /// assert_eq!((cache.len(), cache.stats().max_entries), (5, Some(5)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_max_entries(&self, max: usize) {
        self.inner.bound.set_max_entries(max.min(MAX_SLOTS));
        // The bound again: of two threads that set it, one has the last word here as there.
        self.enforce_bound(max == 0, |state| {
            let max = state.bound.max_entries();
            state.store.set_max_entries(max, state.shards);
        });
    }

    /// Sets the highest number of bytes, and evicts entries until it is kept, expired ones first. [`ByteSize::ZERO`]: the
    /// cache stores nothing from now on, and running loads are cancelled. [`ByteSize::MAX`]: no bound.
    ///
    /// A cache that was built without a bound in bytes has no weigher: it counts its tables alone.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, Cache};
    /// let pages: Cache<u64, Vec<u8>> = Cache::builder("pages").max_bytes(ByteSize::mib(1)).build()?;
    /// pages.set_max_bytes(ByteSize::kib(512));
    /// assert_eq!(pages.stats().max_bytes, Some(ByteSize::kib(512)));
    /// # Ok::<(), plimsoll::cache::BuildError>(())
    /// ```
    pub fn set_max_bytes(&self, max: ByteSize) {
        self.inner.bound.set_max_bytes(max.as_u64());
        self.enforce_bound(max == ByteSize::ZERO, |_state| ());
    }

    fn enforce_bound(&self, stores_nothing: bool, set: impl Fn(&mut State<K, V>)) {
        for shard in &self.inner.shards {
            let mut state = shard.lock();
            set(&mut state);
            if stores_nothing {
                state.in_flight.cancel_all();
            }
            let orphans = state.in_flight.take_orphans();
            drop(state);
            drop(orphans);
        }
        if !self.inner.bound.excess().is_none() {
            self.inner.remove_expired(usize::MAX, u64::MAX);
            self.inner.enforce_bound();
        }
    }

    /// Removes all entries, and cancels running loads. The counters stay.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// cache.insert(1, 1)?;
    /// cache.clear();
    /// assert!(cache.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clear(&self) {
        let mut panics = FirstPanic::default();
        for shard in &self.inner.shards {
            panics.contain(|| {
                let mut places = Places::<K, V, 0>::new(self.inner.listener.as_ref());
                let mut locked = Locked::new(shard.lock(), places.removed(), false);
                let Locked { state, removed, .. } = &mut locked;
                state.in_flight.cancel_all();
                let slots = state.store.clear();
                state.counters.cleared += slots.len() as u64;
                removed.push_all(slots, Cause::Cleared);
            });
        }
        panics.resume();
    }

    /// Removes all entries for which `keep` returns `false`, and cancels running loads. Expired entries are removed without
    /// a call of `keep`.
    ///
    /// `keep` runs under the lock, and must not use the cache. Between batches of entries other threads may use it: an
    /// entry that they insert may be kept without a call, and `keep` may be called twice for an entry.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// (0..10).try_for_each(|key| cache.insert(key, key))?;
    /// cache.retain(|_key, value| value % 2 == 0);
    /// assert_eq!(cache.len(), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) {
        let now = self.inner.now();
        // Loads that are running would bring back what `keep` has removed.
        for shard in &self.inner.shards {
            let mut state = shard.lock();
            state.in_flight.cancel_all();
            let orphans = state.in_flight.take_orphans();
            drop(state);
            drop(orphans);
        }
        let mut panics = FirstPanic::default();
        for shard in 0..self.inner.shards.len() {
            let mut next = None;
            self.inner.in_batches(shard, &mut panics, |state, removed| {
                let tick = state.store.tick(now);
                let len = u32::try_from(state.store.len()).unwrap_or(u32::MAX);
                // Downward: the last entry, which moves to the slot of a removed one, has been visited.
                let next = next.get_or_insert(len);
                *next = len.min(*next);
                let mut visits = MAX_VISITED;
                while *next > 0 && visits > 0 && removed.free() > 0 {
                    let index = *next - 1;
                    let is_expired = state.store.is_expired(index, tick);
                    if is_expired {
                        state.remove(index, Cause::Expired, removed);
                    } else if state.store.get(index).is_some_and(|slot| !keep(&slot.key, &slot.value)) {
                        state.remove(index, Cause::Removed, removed);
                    }
                    *next = index;
                    visits -= 1;
                }
                *next == 0
            });
        }
        panics.resume();
    }

    /// Calls `visit` with each entry that has not expired, in no order.
    ///
    /// `visit` runs under the lock of a shard, which is held until all its entries are visited, and must not use the cache.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// (0..10).try_for_each(|key| cache.insert(key, key))?;
    /// let mut sum = 0;
    /// cache.for_each(|_key, value| sum += value);
    /// assert_eq!(sum, 45);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) {
        let now = self.inner.now();
        for shard in &self.inner.shards {
            let mut state = shard.lock();
            let tick = state.store.tick(now);
            for (index, slot) in (0..).zip(state.store.iter()) {
                if !state.store.is_expired(index, tick) {
                    visit(&slot.key, &slot.value);
                }
            }
        }
    }

    /// Returns the keys of all entries that have not expired, in no order. Other threads may change the cache while its
    /// shards are read one after the other.
    ///
    /// `Clone` of the keys runs under the lock of a shard, which is held until all its keys are cloned.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// cache.insert(1, 10)?;
    /// assert_eq!(cache.keys(), [1]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keys(&self) -> Vec<K>
    where
        K: Clone,
    {
        let mut keys = Vec::with_capacity(self.len());
        self.for_each(|key, _value| keys.push(key.clone()));
        keys
    }
}
