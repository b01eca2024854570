//! The loads of a cache that are running, by key. The table is guarded by the lock of the cache.
//!
//! ```text
//!   start ----> entry ----> finish        its value is stored, unless the entry was cancelled
//!                 |
//!                 +-- a write of the key, `clear`, `retain`, a bound of 0: cancelled
//! ```
//!
//! A load that ends later than one that was started after it is *superseded*: it stores nothing either, but the end of a
//! load is no write, so callers still join it.
//!
//! A caller joins the entry of its key and class that is not cancelled, or starts one. The class is the type of the shared
//! load: blocking and async callers, and callers with different error types, never share one. A cancelled entry stays until
//! its load ends, so that its waiters get its value; later callers start another load next to it.

use std::any::{Any, TypeId};
use std::borrow::Borrow;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::sync::{ThreadId, thread_id};

/// A load that callers share: a latch or a future.
pub(super) type AnyLoad = Arc<dyn Any + Send + Sync>;

/// The loads that are running.
pub(super) struct InFlight<K> {
    table: HashTable<InFlightEntry<K>>,
    /// The number of loads that were started.
    started: u64,
}

/// One load that is running. Its key and its load are dropped after the lock is released.
pub(super) struct InFlightEntry<K> {
    hash: u32,
    key: K,
    id: u64,
    class: TypeId,
    /// The thread that started it.
    leader: ThreadId,
    /// `None` until a second caller comes.
    load: Option<AnyLoad>,
    /// Neither is stored. Callers join a superseded load.
    cancelled: bool,
    superseded: bool,
}

/// Identifies an entry. Loads of one key are ordered by the time of their start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct LoadId(u64);

/// The part of a caller in a load.
pub(super) enum Role<L> {
    /// The caller loads.
    Leader(LoadId),
    /// The caller waits for this load.
    Follower(LoadId, Arc<L>),
}

impl<K> Default for InFlight<K> {
    fn default() -> Self {
        Self { table: HashTable::new(), started: 0 }
    }
}

impl<K> InFlight<K> {
    /// Joins the load of `key` of class `L`, or starts one, which takes the owned key. The caller drops a key that is left
    /// after the lock is released.
    ///
    /// The load of a leader may be created by its first follower: `share` does so, for the leader's thread. A leader that
    /// shares from the start brings `load`.
    pub(super) fn join<L: Send + Sync + 'static, Q>(
        &mut self,
        hash: u32,
        key: &Q,
        owned: &mut Option<K>,
        load: Option<Arc<L>>,
        share: impl FnOnce(ThreadId) -> Arc<L>,
    ) -> Role<L>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let class = TypeId::of::<L>();
        let matches = |entry: &InFlightEntry<K>| {
            entry.hash == hash && entry.class == class && !entry.cancelled && entry.key.borrow() == key
        };
        if let Some(entry) = self.table.find_mut(table_hash(hash), matches) {
            let leader = entry.leader;
            let shared = Arc::clone(entry.load.get_or_insert_with(|| share(leader) as AnyLoad));
            if let Ok(shared) = shared.downcast::<L>() {
                return Role::Follower(LoadId(entry.id), shared);
            }
            debug_assert!(false, "the class of an entry is the type of its load");
        }
        self.started += 1;
        let id = self.started;
        let Some(owned) = owned.take() else {
            debug_assert!(false, "a caller joins once with each owned key");
            return Role::Leader(LoadId(id));
        };
        let load = load.map(|load| load as AnyLoad);
        let entry = InFlightEntry {
            hash,
            key: owned,
            id,
            class,
            leader: thread_id(),
            load,
            cancelled: false,
            superseded: false,
        };
        self.table.insert_unique(table_hash(hash), entry, |entry| table_hash(entry.hash));
        Role::Leader(LoadId(id))
    }

    /// Returns `true` if no load is running.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Cancels the loads of a key, for a write of this key.
    #[inline]
    pub(super) fn cancel<Q>(&mut self, hash: u32, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        // There are as many as classes.
        let matches = |entry: &InFlightEntry<K>| entry.hash == hash && !entry.cancelled && entry.key.borrow() == key;
        while !self.is_empty()
            && let Some(entry) = self.table.find_mut(table_hash(hash), matches)
        {
            entry.cancelled = true;
        }
    }

    /// Supersedes the loads of a key that were started before the load `id`. The value of `id` is stored.
    pub(super) fn supersede<Q>(&mut self, hash: u32, key: &Q, id: LoadId)
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let matches = |entry: &InFlightEntry<K>| {
            entry.hash == hash && !entry.superseded && entry.id < id.0 && entry.key.borrow() == key
        };
        while !self.is_empty()
            && let Some(entry) = self.table.find_mut(table_hash(hash), matches)
        {
            entry.superseded = true;
        }
    }

    /// Cancels all loads that are running.
    pub(super) fn cancel_all(&mut self) {
        self.table.iter_mut().for_each(|entry| entry.cancelled = true);
    }

    /// Removes the entry of a load that has ended. `None` if it has been removed.
    pub(super) fn finish(&mut self, hash: u32, id: LoadId) -> Option<InFlightEntry<K>> {
        let entry = self.table.find_entry(table_hash(hash), |entry| entry.id == id.0).ok()?.remove().0;
        if self.table.is_empty() && self.table.capacity() > MAX_SPARE {
            self.table = HashTable::new();
        }
        Some(entry)
    }

    /// Puts back an entry that [`finish`](Self::finish) removed under the same lock: the load has not ended.
    pub(super) fn resume(&mut self, entry: InFlightEntry<K>) {
        self.table.insert_unique(table_hash(entry.hash), entry, |entry| table_hash(entry.hash));
    }
}

impl<K> InFlightEntry<K> {
    /// Returns `true` if the load was cancelled or superseded, and may not store its value.
    pub(super) const fn is_overtaken(&self) -> bool {
        self.cancelled || self.superseded
    }

    /// Returns `true` if other callers have joined the load.
    pub(super) fn is_shared(&self) -> bool {
        self.load.is_some()
    }

    /// The load, if a caller waits for it or has waited.
    pub(super) fn load<L: Send + Sync + 'static>(&self) -> Option<Arc<L>> {
        self.load.clone()?.downcast().ok()
    }
}

/// An empty table keeps a capacity of at most this.
const MAX_SPARE: usize = 64;

/// A hash table takes the place from the low bits and the control byte from the highest.
const fn table_hash(hash: u32) -> u64 {
    (hash as u64) << 32 | hash as u64
}
