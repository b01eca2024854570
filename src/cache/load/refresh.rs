//! Refreshes: loads of keys with a stale value, which is returned until its time to live ends.
//!
//! ```text
//!              begin_refresh
//!   stale value ----> blocking: the caller runs its loader
//!                +--> async: the caller polls the future once, and leaves it detached in its entry
//!                +--> a refresh runs: the stale value, after one poll if it is of the same class and was woken
//! ```

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::task::Waker;

use crate::singleflight::{Joined, Latch, SharedFuture};
use crate::unwind::contained;

use super::super::in_flight::{Abandon, AnyLoad, Detached, InFlightEntry, LoadId, NewRefresh, Running};
use super::super::inner::{Inner, KeyHash};
use super::super::locked::State;
use super::super::{Cache, LoadError, ToKey};
use super::future::{EntryGuard, InFlightWaiter};
use super::{Fault, Missed, Outcome};

/// A stale value, and the time from which on it is expired.
struct Stale<V> {
    value: V,
    expires: u64,
}

/// The result of looking at a stale value again, under the lock under which its refresh starts.
enum Begun<V, L> {
    /// It is fresh now, or another class of callers loads it.
    Value(V),
    /// It is not there any more.
    Gone,
    /// A refresh is to be started.
    NeedsKey,
    Started(LoadId, Stale<V>),
    Running(LoadId, Arc<L>, Stale<V>),
}

/// The result of an async call that has found a stale value.
pub(super) enum Refreshed<'a, K, V, S, E>
where
    K: Eq,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    Ready(Result<V, LoadError<E>>),
    /// The value has expired or left the cache during the first poll. The caller waits for its refresh.
    Waits(InFlightWaiter<'a, K, V, S, E>),
    /// The value has expired or left the cache, and the caller loads.
    Load,
}

impl<T: Send> Abandon for SharedFuture<T> {
    fn abandon(&self) {
        Self::abandon(self);
    }
}

impl<K, V, S> Cache<K, V, S>
where
    K: Hash + Eq + Send + 'static,
    V: Clone + Send + 'static,
    S: BuildHasher,
{
    /// Returns a stale value, or loads a new one on this thread if no caller does.
    #[cold]
    pub(super) fn refresh<'k, Q, E>(
        &self,
        hash: KeyHash,
        key: &'k Q,
        load: impl FnOnce(&'k Q) -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
        E: Send + Sync + 'static,
    {
        let inner = &*self.inner;
        let missed = Missed { absent_at: None };
        let mut new = None;
        let id = loop {
            match inner.begin_refresh::<Latch<Outcome<V, E>>, Q>(hash, key, &mut new) {
                Begun::Value(value) | Begun::Running(_, _, Stale { value, .. }) => return Ok(value),
                Begun::Gone => return self.load_absent(hash, key, missed, |_| true, load),
                Begun::NeedsKey => new = Some(NewRefresh { key: key.to_key(), load: None }),
                Begun::Started(id, stale) => {
                    // Its `Drop` may panic. The refresh has started, and this thread is to end it.
                    contained(|| drop(stale));
                    break id;
                }
            }
        };
        inner.or_stale(hash, key, self.lead(hash, key, id, missed, load))
    }
}

impl<K, V, S> Cache<K, V, S>
where
    K: Hash + Eq + Send + 'static,
    V: Clone + Send + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Polls the refresh of a stale value, or starts one.
    #[cold]
    pub(super) fn refresh_async<'k, Q, E, L>(
        &self,
        hash: KeyHash,
        key: &'k Q,
        load: &mut Option<impl FnOnce(&'k Q) -> L>,
    ) -> Refreshed<'_, K, V, S, E>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
        E: Send + Sync + 'static,
        L: Future<Output = Result<V, E>> + Send + 'static,
    {
        let inner = &*self.inner;
        let (mut new, mut starter) = (None, None);
        loop {
            match inner.begin_refresh::<SharedFuture<Outcome<V, E>>, Q>(hash, key, &mut new) {
                Begun::Value(value) => return Refreshed::Ready(Ok(value)),
                Begun::Gone => return Refreshed::Load,
                Begun::NeedsKey => {
                    // Nothing wakes a caller that returns after one poll. One that waits sets its waker then.
                    let begun = SharedFuture::begin(Waker::noop().clone());
                    new = Some(NewRefresh { key: key.to_key(), load: Some(Arc::clone(begun.shared()) as AnyLoad) });
                    starter = Some(begun);
                }
                Begun::Started(id, stale) => {
                    let (Some(starter), Some(load)) = (starter.take(), load.take()) else {
                        debug_assert!(false, "a refresh starts with its future and its loader");
                        return Refreshed::Load;
                    };
                    let waiting = InFlightWaiter::new(inner, hash, id, starter);
                    return self.start_refresh(key, waiting, stale, load);
                }
                Begun::Running(id, shared, stale) => {
                    drop((starter, new));
                    let entry = EntryGuard::new(inner, hash, id, Arc::clone(&shared));
                    shared.poll_if_woken();
                    let output = shared.output();
                    drop(entry);
                    let refreshed = match output {
                        // It may have been loaded before a freeze: only a value that is stored has not expired.
                        Some(Joined::Complete(Ok(_))) => {
                            inner.peek(hash, key).or_else(|| inner.unexpired(stale)).map(Ok)
                        }
                        Some(Joined::Complete(Err(fault))) => Some(inner.or_stale(hash, key, Err(fault))),
                        Some(Joined::Abandoned | Joined::Reentrant) | None => inner.unexpired(stale).map(Ok),
                    };
                    return refreshed.map_or(Refreshed::Load, Refreshed::Ready);
                }
            }
        }
    }

    /// Starts a refresh, and leaves it detached if it is not ready after one poll and its stale value is still there.
    fn start_refresh<'a, 'k, Q, E, L>(
        &self,
        key: &'k Q,
        mut waiting: InFlightWaiter<'a, K, V, S, E>,
        stale: Stale<V>,
        load: impl FnOnce(&'k Q) -> L,
    ) -> Refreshed<'a, K, V, S, E>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
        E: Send + Sync + 'static,
        L: Future<Output = Result<V, E>> + Send + 'static,
    {
        let (inner, hash, id) = (&*self.inner, waiting.hash(), waiting.id());
        let missed = Missed { absent_at: None };
        // A panic is a failed refresh.
        contained(|| waiting.waiter.start(|| self.start(hash, key, id, missed, load)));
        let shared = Arc::clone(waiting.waiter.shared());
        match shared.output() {
            Some(Joined::Complete(Ok(value))) => Refreshed::Ready(Ok(value)),
            Some(Joined::Complete(Err(fault))) => Refreshed::Ready(inner.or_stale(hash, key, Err(fault))),
            Some(Joined::Abandoned | Joined::Reentrant) => {
                drop(waiting);
                Refreshed::Ready(inner.unexpired(stale).ok_or(LoadError::Panicked))
            }
            None => {
                let place = Box::new(Detached::new(Arc::clone(&shared) as _, inner.now()));
                if inner.detach_refresh(hash, key, id, &shared, place) {
                    Refreshed::Ready(Ok(stale.value))
                } else {
                    Refreshed::Waits(waiting)
                }
            }
        }
    }
}

impl<K: Eq, V: Clone, S> Inner<K, V, S> {
    /// Looks at a stale value again, and starts the refresh `new` if no load of the key is running.
    fn begin_refresh<L: Send + Sync + 'static, Q>(
        &self,
        hash: KeyHash,
        key: &Q,
        new: &mut Option<NewRefresh<K>>,
    ) -> Begun<V, L>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let now = self.now();
        let mut guard = self.shard(hash).lock();
        let State { store, in_flight, .. } = &mut *guard;
        let Some(index) = store.find(hash.hash, key) else { return Begun::Gone };
        let tick = store.tick(now);
        let Some(slot) = store.get(index).filter(|_| !store.is_expired(index, tick)) else { return Begun::Gone };
        if !store.is_stale(index, tick) {
            return Begun::Value(slot.value.clone());
        }
        let running = in_flight.running(hash.hash, key);
        if matches!(running, Running::None) && new.is_none() {
            return Begun::NeedsKey;
        }
        // Cloned only to be returned: a clone that is dropped here would be dropped under the lock.
        let stale = Stale { value: slot.value.clone(), expires: store.expires_at(slot) };
        if let Running::Detached(id, load) = running {
            return Begun::Running(id, load, stale);
        }
        match new.take_if(|_| matches!(running, Running::None)) {
            Some(new) => Begun::Started(in_flight.start_refresh::<L>(hash.hash, new), stale),
            None => Begun::Value(stale.value),
        }
    }

    /// Detaches a refresh from its starter, which leaves it. Returns `false` if the stale value has expired or is gone, or if
    /// the refresh has ended or was overtaken. Then the starter waits.
    fn detach_refresh<Q, T: Send>(
        &self,
        hash: KeyHash,
        key: &Q,
        id: LoadId,
        shared: &SharedFuture<T>,
        place: Box<Detached<K>>,
    ) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let now = self.now();
        let mut guard = self.shard(hash).lock();
        let State { store, in_flight, .. } = &mut *guard;
        let is_there = store.peek(hash.hash, key, now).is_some() && in_flight.detach(hash.hash, id, place);
        if is_there {
            // Under the lock, under which other callers join it.
            shared.detach();
        }
        is_there
    }

    /// Returns the value of a key, unless it has expired.
    pub(super) fn peek<Q>(&self, hash: KeyHash, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let now = self.now();
        self.shard(hash).lock().store.peek(hash.hash, key, now).cloned()
    }

    /// Returns a stale value, unless it has expired in the time of a poll.
    fn unexpired(&self, stale: Stale<V>) -> Option<V> {
        (self.now() < stale.expires).then_some(stale.value)
    }

    /// Returns the outcome of a refresh, or the stale value instead of an error.
    fn or_stale<Q, E>(&self, hash: KeyHash, key: &Q, outcome: Outcome<V, E>) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        match outcome {
            Err(fault) => match self.peek(hash, key) {
                Some(value) => Ok(value),
                None => self.or_expired(hash, key, |_| true, Err(fault)),
            },
            Ok(value) => Ok(value),
        }
    }

    /// Returns the outcome of a load, or an expired value that is kept instead of the error of the loader.
    pub(super) fn or_expired<Q, E>(
        &self,
        hash: KeyHash,
        key: &Q,
        accept: impl Fn(&V) -> bool,
        outcome: Outcome<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        match outcome {
            Err(Fault::Load(error)) if self.has_grace => {
                let now = self.now();
                let mut state = self.shard(hash).lock();
                let kept = state.store.peek_kept(hash.hash, key, now).filter(|value| accept(value)).cloned();
                drop(state);
                kept.ok_or(LoadError::Load(error))
            }
            outcome => outcome.map_err(LoadError::from),
        }
    }
}

impl<K: Eq, V, S> Inner<K, V, S> {
    /// Removes the entry of a load that brings no value. If it is a refresh, the next one starts later.
    pub(in super::super) fn finish_failed(&self, hash: KeyHash, id: LoadId) -> Option<InFlightEntry<K>> {
        let now = self.now();
        // Dropped after the lock is released, also if `Eq` panics.
        let entry;
        let mut guard = self.shard(hash).lock();
        entry = guard.in_flight.finish(hash.hash, id);
        let State { store, counters, .. } = &mut *guard;
        if let Some(entry) = entry.as_ref().filter(|entry| entry.is_refresh()) {
            counters.failed_refreshes += 1;
            let found = if entry.is_overtaken() { None } else { store.find(hash.hash, entry.key()) };
            if let Some(index) = found {
                let _tick = store.tick(now); // moves tick zero before it is used
                store.set_stale_from(index, store.stale_from(now));
            }
        }
        drop(guard);
        entry
    }
}
