//! The loads of a cache that are running, by key. The table is guarded by the lock of the cache.
//!
//! ```text
//!   start ----> entry ----> finish        its value is stored, unless the entry was cancelled
//!                 |
//!                 +-- a write of the key, `clear`, `retain`, a bound of 0: cancelled
//! ```
//!
//! A *computation* of a key ([`Cache::compute`](super::Cache::compute)) has an entry too. If a write or a stored load
//! overtakes it, it begins again, and its entry stays: so callers join it also after it was cancelled.
//!
//! A load that ends later than one that was started after it is *superseded*: it stores nothing either, but the end of a
//! load is no write, so callers still join it.
//!
//! A caller joins the entry of its key and class that is not cancelled, or starts one. The class is the type of the shared
//! load: blocking and async callers, and callers with different error types, never share one. A cancelled entry stays until
//! its load ends, so that its waiters get its value; later callers start another load next to it.
//!
//! A *refresh* is a load of a key with a stale value. An async refresh is *detached*: its future stays in its entry without
//! a waiter. It becomes an orphan when the entry of its key leaves the cache, when it is cancelled, and when it is
//! superseded. Orphans are kept here until the lock is released, and their futures are dropped after it. So there are at most
//! as many detached futures as entries. A caller that joins a detached refresh makes it an ordinary load.

use std::any::{Any, TypeId};
use std::borrow::Borrow;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::sync::{ThreadId, thread_id};
use crate::unwind::contained;

/// A load that callers share: a latch or a future.
pub(super) type AnyLoad = Arc<dyn Any + Send + Sync>;

/// A future that is dropped when nothing wants it.
pub(super) trait Abandon: Send + Sync {
    /// Drops the future, which is user code.
    fn abandon(&self);
}

/// The loads that are running.
pub(super) struct InFlight<K> {
    /// One of them, which is not detached. In most shards, no more than one runs at a time.
    first: Option<InFlightEntry<K>>,
    /// The others.
    table: HashTable<InFlightEntry<K>>,
    /// The number of entries that are detached.
    detached: usize,
    orphans: Orphans<K>,
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
    kind: Kind,
    /// `None`: it has waiters, or a thread runs it.
    detached: Option<Box<Detached<K>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Load,
    /// A load of a key with a stale value.
    Refresh,
    /// A computation, which begins again if it was overtaken. Callers join it in each case.
    Computation,
}

/// The place of a detached refresh among the orphans, allocated at its start: code that releases memory allocates nothing.
pub(super) struct Detached<K> {
    load: Arc<dyn Abandon>,
    /// The time of its start.
    started: u64,
    entry: Option<InFlightEntry<K>>,
    next: Option<Box<Self>>,
}

impl<K> Detached<K> {
    pub(super) fn new(load: Arc<dyn Abandon>, started: u64) -> Self {
        Self { load, started, entry: None, next: None }
    }
}

/// Detached refreshes that nothing wants any more. They are dropped without the lock.
pub(super) struct Orphans<K>(Option<Box<Detached<K>>>);

impl<K> Orphans<K> {
    pub(super) const fn none() -> Self {
        Self(None)
    }

    #[cold]
    #[inline(never)]
    fn abandon(&mut self) {
        while let Some(mut orphan) = self.0.take() {
            self.0 = orphan.next.take();
            contained(|| orphan.load.abandon());
            contained(|| drop(orphan));
        }
    }

    fn push(&mut self, mut entry: InFlightEntry<K>) {
        if let Some(mut orphan) = entry.detached.take() {
            orphan.entry = Some(entry);
            orphan.next = self.0.take();
            self.0 = Some(orphan);
        }
    }
}

impl<K> Drop for Orphans<K> {
    #[inline]
    fn drop(&mut self) {
        if self.0.is_some() {
            self.abandon();
        }
    }
}

impl<K> Drop for InFlight<K> {
    fn drop(&mut self) {
        // The `Drop` of each future may panic.
        self.orphan_all();
    }
}

/// The load of a key that is running.
pub(super) enum Running<L> {
    None,
    /// A detached refresh of the class of the caller.
    Detached(LoadId, Arc<L>),
    Other,
}

/// A refresh that is to be started.
pub(super) struct NewRefresh<K> {
    pub(super) key: K,
    pub(super) load: Option<AnyLoad>,
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
    /// The caller waits for this refresh, which started before the call: perhaps before a freeze.
    Refresh(LoadId, Arc<L>),
}

impl<K> Default for InFlight<K> {
    fn default() -> Self {
        Self { first: None, table: HashTable::new(), detached: 0, orphans: Orphans::none(), started: 0 }
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
            let is_open = !entry.cancelled || entry.kind == Kind::Computation;
            entry.hash == hash && entry.class == class && is_open && entry.key.borrow() == key
        };
        let found = self.find_mut(hash, matches).map(|entry| {
            let leader = entry.leader;
            let shared = Arc::clone(entry.load.get_or_insert_with(|| share(leader) as AnyLoad));
            (LoadId(entry.id), entry.is_refresh(), entry.detached.take().is_some(), shared)
        });
        if let Some((id, is_refresh, was_detached, shared)) = found {
            self.detached -= usize::from(was_detached);
            if let Ok(shared) = shared.downcast::<L>() {
                return if is_refresh { Role::Refresh(id, shared) } else { Role::Follower(id, shared) };
            }
            debug_assert!(false, "the class of an entry is the type of its load");
        }
        let Some(key) = owned.take() else {
            debug_assert!(false, "a caller joins once with each owned key");
            self.started += 1;
            return Role::Leader(LoadId(self.started));
        };
        let load = load.map(|load| load as AnyLoad);
        Role::Leader(self.start(hash, class, NewRefresh { key, load }, Kind::Load))
    }

    /// Starts a refresh of class `L`. The caller has seen that no load of the key is [running](Self::running).
    pub(super) fn start_refresh<L: 'static>(&mut self, hash: u32, new: NewRefresh<K>) -> LoadId {
        self.start(hash, TypeId::of::<L>(), new, Kind::Refresh)
    }

    #[inline]
    fn start(&mut self, hash: u32, class: TypeId, new: NewRefresh<K>, kind: Kind) -> LoadId {
        self.started += 1;
        let NewRefresh { key, load } = new;
        let (id, leader) = (self.started, thread_id());
        let (cancelled, superseded) = (false, false);
        self.insert(InFlightEntry { hash, key, id, class, leader, load, cancelled, superseded, kind, detached: None });
        LoadId(id)
    }

    #[inline]
    fn insert(&mut self, entry: InFlightEntry<K>) {
        if self.first.is_none() && entry.detached.is_none() {
            self.first = Some(entry);
            return;
        }
        self.detached += usize::from(entry.detached.is_some());
        self.table.insert_unique(table_hash(entry.hash), entry, |entry| table_hash(entry.hash));
    }

    /// Returns the load of a key that is running and not cancelled. `L` is the class of the caller.
    pub(super) fn running<L: Send + Sync + 'static, Q>(&self, hash: u32, key: &Q) -> Running<L>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let class = TypeId::of::<L>();
        let matches = |entry: &InFlightEntry<K>| entry.hash == hash && !entry.cancelled && entry.key.borrow() == key;
        let is_shared = |entry: &InFlightEntry<K>| entry.detached.is_some() && entry.class == class && matches(entry);
        let shared = self.table.find(table_hash(hash), is_shared);
        if let Some((id, load)) = shared.and_then(|entry| Some((LoadId(entry.id), entry.load()?))) {
            return Running::Detached(id, load);
        }
        let is_running =
            self.first.as_ref().is_some_and(matches) || self.table.find(table_hash(hash), matches).is_some();
        if is_running { Running::Other } else { Running::None }
    }

    /// Detaches a refresh that is running and was not overtaken. Returns `false` if there is none.
    pub(super) fn detach(&mut self, hash: u32, id: LoadId, place: Box<Detached<K>>) -> bool {
        let Some(mut entry) = self.finish(hash, id) else { return false };
        let is_wanted = !entry.is_overtaken();
        if is_wanted {
            entry.detached = Some(place);
        }
        self.insert(entry);
        is_wanted
    }

    /// Returns `true` if a detached refresh of a key with this hash is running.
    pub(super) fn has_detached(&self, hash: u32) -> bool {
        self.detached > 0
            && self.table.find(table_hash(hash), |entry| entry.hash == hash && entry.detached.is_some()).is_some()
    }

    /// Makes orphans of the detached refreshes of keys with this hash, because an entry leaves the cache. A refresh of another key
    /// with the same hash starts again.
    #[inline]
    pub(super) fn orphan(&mut self, hash: u32) {
        if self.detached > 0 {
            self.orphan_where(hash, |_entry| true);
        }
    }

    /// Makes orphans of the detached refreshes of keys with this hash that started at the moment `last` or before.
    pub(super) fn orphan_old(&mut self, hash: u32, last: u64) {
        if self.detached > 0 {
            self.orphan_where(hash, |entry| entry.detached.as_ref().is_some_and(|detached| detached.started <= last));
        }
    }

    #[cold]
    fn orphan_where(&mut self, hash: u32, is_orphan: impl Fn(&InFlightEntry<K>) -> bool) {
        let matches = |entry: &InFlightEntry<K>| entry.hash == hash && entry.detached.is_some() && is_orphan(entry);
        while let Ok(found) = self.table.find_entry(table_hash(hash), &matches) {
            self.orphans.push(found.remove().0);
            self.detached -= 1;
        }
    }

    /// Returns `true` if there are orphans to drop.
    #[inline]
    pub(super) const fn has_orphans(&self) -> bool {
        self.orphans.0.is_some()
    }

    /// Takes the orphans out, which are to be dropped after the lock is released.
    #[must_use = "user code runs when they are dropped"]
    pub(super) const fn take_orphans(&mut self) -> Orphans<K> {
        Orphans(self.orphans.0.take())
    }

    fn find_mut(&mut self, hash: u32, matches: impl Fn(&InFlightEntry<K>) -> bool) -> Option<&mut InFlightEntry<K>> {
        match &mut self.first {
            Some(first) if matches(first) => Some(first),
            _ if self.table.is_empty() => None,
            _ => self.table.find_mut(table_hash(hash), matches),
        }
    }

    /// Returns `true` if no load is running.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.table.is_empty()
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
            && let Some(entry) = self.find_mut(hash, matches)
        {
            entry.cancelled = true;
        }
        self.orphan_overtaken(hash);
    }

    /// Supersedes the loads of a key that were started before the load `id`, and its computation. The value of `id` is
    /// stored.
    pub(super) fn supersede<Q>(&mut self, hash: u32, key: &Q, id: LoadId)
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let matches = |entry: &InFlightEntry<K>| {
            let is_older = entry.id < id.0 || entry.kind == Kind::Computation;
            entry.hash == hash && !entry.superseded && is_older && entry.key.borrow() == key
        };
        while !self.is_empty()
            && let Some(entry) = self.find_mut(hash, matches)
        {
            entry.superseded = true;
        }
        self.orphan_overtaken(hash);
    }

    /// Makes orphans of detached refreshes that are not stored.
    #[inline]
    fn orphan_overtaken(&mut self, hash: u32) {
        if self.detached > 0 {
            self.orphan_where(hash, InFlightEntry::is_overtaken);
        }
    }

    /// Cancels all loads that are running.
    pub(super) fn cancel_all(&mut self) {
        self.first.iter_mut().chain(&mut self.table).for_each(|entry| entry.cancelled = true);
        self.orphan_all();
    }

    /// Begins a computation, or begins it again. Returns `true` if it was overtaken since it began.
    pub(super) fn begin_again(&mut self, hash: u32, id: LoadId) -> bool {
        let Some(entry) = self.find_mut(hash, |entry| entry.id == id.0) else { return false };
        let was_overtaken = entry.is_overtaken();
        (entry.kind, entry.cancelled, entry.superseded) = (Kind::Computation, false, false);
        was_overtaken
    }

    /// Makes orphans of all detached refreshes.
    pub(super) fn orphan_all(&mut self) {
        if self.detached > 0 {
            self.table.extract_if(|entry| entry.detached.is_some()).for_each(|entry| self.orphans.push(entry));
            self.detached = 0;
        }
    }

    /// Removes the entry of a load that has ended. `None` if it has been removed.
    #[inline]
    pub(super) fn finish(&mut self, hash: u32, id: LoadId) -> Option<InFlightEntry<K>> {
        match &self.first {
            Some(first) if first.id == id.0 => self.first.take(),
            _ => self.finish_in_table(hash, id),
        }
    }

    #[cold]
    fn finish_in_table(&mut self, hash: u32, id: LoadId) -> Option<InFlightEntry<K>> {
        let entry = self.table.find_entry(table_hash(hash), |entry| entry.id == id.0).ok()?.remove().0;
        self.detached -= usize::from(entry.detached.is_some());
        if self.table.is_empty() && self.table.capacity() > MAX_SPARE {
            self.table = HashTable::new();
        }
        Some(entry)
    }

    /// Adds an entry. Also one that [`finish`](Self::finish) removed under the same lock: its load has not ended.
    pub(super) fn resume(&mut self, entry: InFlightEntry<K>) {
        self.insert(entry);
    }
}

impl<K> InFlightEntry<K> {
    pub(super) const fn is_refresh(&self) -> bool {
        matches!(self.kind, Kind::Refresh)
    }

    pub(super) const fn key(&self) -> &K {
        &self.key
    }

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
