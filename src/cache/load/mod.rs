//! Loads of absent values: one load for each key at a time, shared by its callers.
//!
//! A blocking load leaves an entry in the table of in-flight loads: a few words, and no allocation. The first follower
//! creates the latch that it waits for.

mod future;
mod infallible;
mod refresh;
mod reservation;

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use crate::budget::BudgetExceeded;
use crate::heap::{self, HeapDelta};
use crate::singleflight::{Latch, WouldDeadlock};
use crate::size::ByteSize;
use crate::unwind::contained;

use super::in_flight::{InFlightEntry, LoadId, Role};
use super::inner::{Inner, KeyHash};
use super::put::Loaded;
use super::store::{NEVER, Slot};
use super::{Cache, LoadError, ToKey};
use reservation::{LoadReservation, NoRoom};

/// Why a load brought no value: shared by its waiters.
pub(super) enum Fault<E> {
    Load(Arc<E>),
    Budget(BudgetExceeded),
    TooManyLoads { cache: &'static str, size: ByteSize, available: ByteSize },
}

/// The outcome of a load.
type Outcome<V, E> = Result<V, Fault<E>>;

/// The state of the cache when a value was absent.
#[derive(Clone, Copy)]
pub(super) struct Missed {
    /// The number of arrivals. While it is the same, the key is absent. `None`: the value was there, and rejected.
    pub(super) absent_at: Option<u64>,
}

/// The reason why a lookup returned no value.
#[derive(Clone, Copy)]
pub(super) enum Miss {
    /// There is no value that the caller accepts.
    Load(Missed),
    /// The value is stale.
    Stale,
}

/// The leader of a blocking load. However it ends, also by a panic, its entry is removed and its latch opened.
struct Leader<'a, K, V, S, E>
where
    K: Eq,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    inner: &'a Inner<K, V, S>,
    hash: KeyHash,
    id: LoadId,
    /// The entry, once it is removed.
    finished: Option<InFlightEntry<K>>,
    outcome: Option<Outcome<V, E>>,
}

impl<K, V, S, E> Drop for Leader<'_, K, V, S, E>
where
    K: Eq,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    fn drop(&mut self) {
        let entry = self.finished.take().or_else(|| self.inner.finish_failed(self.hash, self.id));
        let latch = entry.as_ref().and_then(InFlightEntry::load::<Latch<Outcome<V, E>>>);
        if let Some(latch) = latch {
            latch.open(self.outcome.take());
        }
    }
}

impl<K, V, S> Cache<K, V, S>
where
    K: Hash + Eq + Send + 'static,
    V: Clone + Send + 'static,
    S: BuildHasher,
{
    /// Returns the value of `key`, or loads it on this thread and stores it. Other blocking callers of the key wait for
    /// this load and get its outcome.
    ///
    /// The loader receives `key`. The value is returned even if the cache cannot store it. An error is not stored: the next
    /// caller loads again. If a loader panics, one of its waiters loads. A loader may use the cache, and may load other keys.
    ///
    /// A load that was started before a write never overwrites it: [`insert`](Self::insert), [`remove`](Self::remove),
    /// [`compute`](Self::compute), [`clear`](Self::clear) and [`retain`](Self::retain) cancel running loads. A cancelled load
    /// returns its value to its caller and its waiters, and stores nothing; a caller after the write starts another load.
    /// Eviction cancels nothing. The time to live counts from the start of the load. A load that takes longer returns its
    /// value and stores nothing.
    ///
    /// A stale value is refreshed, see [`refresh_after`](super::CacheBuilder::refresh_after). If the load fails, an expired
    /// value may be returned, see [`stale_if_error`](super::CacheBuilder::stale_if_error).
    ///
    /// Callers with different error types, and callers of
    /// [`try_get_or_load_async`](Self::try_get_or_load_async), do not share a load. If both store a value, the load that
    /// was started later stays.
    ///
    /// # Errors
    ///
    /// [`LoadError::Load`] with the error of the loader, the same for all waiters; [`LoadError::BudgetExceeded`] and
    /// [`LoadError::TooManyLoads`] if the bytes [reserved for each load](super::CacheBuilder::reserve_per_load) cannot be
    /// had; [`LoadError::Reentrant`] if the loader asks for its own key, also by way of loads on other threads that wait
    /// for each other.
    ///
    /// # Deadlocks
    ///
    /// A loader never ends if it waits, by a channel or a lock, for a thread that waits for this load.
    ///
    /// # Performance
    ///
    /// A hit costs what [`get`](Self::get) costs. A load costs two clones of the key, one of the value, and takes the lock
    /// three times. Each waiter costs an allocation.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use plimsoll::Cache;
    ///
    /// fn fetch(id: &str) -> io::Result<u64> {
    ///     Ok(id.len() as u64)
    /// }
    ///
    /// let cache: Cache<String, u64> = Cache::builder("lengths").max_entries(100).build()?;
    /// let value = cache.try_get_or_load("four", fetch)?;
    /// assert_eq!((value, cache.get("four")), (4, Some(4)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_get_or_load<'k, Q, E>(
        &self,
        key: &'k Q,
        load: impl FnOnce(&'k Q) -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
        E: Send + Sync + 'static,
    {
        let hash = self.inner.hash(key);
        match self.look::<Q, true>(hash, key, |_| true) {
            Ok(value) => Ok(value),
            Err(miss) => self.load_missed(hash, key, miss, load),
        }
    }

    /// Returns the value of `key` unless it must be replaced; else loads a value on this thread, which replaces it.
    ///
    /// Callers that reject the present value share one load, as with [`try_get_or_load`](Self::try_get_or_load). Until the
    /// load ends, [`get`](Self::get) returns the present value. It stays if the load fails. `replace_if` runs under the
    /// lock of the cache, and must not use it.
    ///
    /// # Errors
    ///
    /// As [`try_get_or_load`](Self::try_get_or_load).
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::Cache;
    ///
    /// let tokens: Cache<u64, (u64, &str)> = Cache::builder("tokens").max_entries(100).build()?;
    /// tokens.insert(1, (10, "first"))?;
    /// let now = 11;
    /// let token = tokens.try_get_or_load_if(
    ///     &1,
    ///     |(expires, _)| *expires <= now,
    ///     |_| Ok::<_, std::io::Error>((20, "second")),
    /// )?;
    /// assert_eq!(token, (20, "second"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_get_or_load_if<'k, Q, E>(
        &self,
        key: &'k Q,
        replace_if: impl Fn(&V) -> bool,
        load: impl FnOnce(&'k Q) -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
        E: Send + Sync + 'static,
    {
        let hash = self.inner.hash(key);
        let accept = |value: &V| !replace_if(value);
        match self.look::<Q, false>(hash, key, accept) {
            Ok(value) => Ok(value),
            Err(Miss::Load(missed)) => self.load_absent(hash, key, missed, accept, load),
            Err(Miss::Stale) => self.load_absent(hash, key, Missed { absent_at: None }, accept, load),
        }
    }

    /// The part after a lookup. A function of its own, so that a hit is short.
    #[inline(never)]
    fn load_missed<'k, Q, E>(
        &self,
        hash: KeyHash,
        key: &'k Q,
        miss: Miss,
        load: impl FnOnce(&'k Q) -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
        E: Send + Sync + 'static,
    {
        match miss {
            Miss::Load(missed) => self.load_absent(hash, key, missed, |_| true, load),
            Miss::Stale => self.refresh(hash, key, load),
        }
    }

    /// The part after a miss.
    #[inline(never)]
    fn load_absent<'k, Q, E>(
        &self,
        hash: KeyHash,
        key: &'k Q,
        mut missed: Missed,
        accept: impl Fn(&V) -> bool,
        load: impl FnOnce(&'k Q) -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
        E: Send + Sync + 'static,
    {
        let inner = &*self.inner;
        loop {
            let mut owned = Some(key.to_key());
            let latch = Latch::<Outcome<V, E>>::closed;
            let joined = inner.join(hash, key, &mut owned, missed, &accept, None, |leader| Arc::new(latch(leader)));
            drop(owned);
            match joined {
                Joining::Ready(value) => return Ok(value),
                Joining::Role(Role::Leader(id)) => {
                    let outcome = self.lead(hash, key, id, missed, load);
                    return inner.or_expired(hash, key, &accept, outcome);
                }
                Joining::Role(Role::Follower(_, latch)) => match latch.wait() {
                    Ok(Some(outcome)) => return inner.or_expired(hash, key, &accept, outcome),
                    // The load panicked.
                    Ok(None) => missed.absent_at = None,
                    Err(WouldDeadlock) => return Err(LoadError::Reentrant),
                },
                Joining::Role(Role::Refresh(_, latch)) => match latch.wait() {
                    Ok(Some(Err(fault))) => return inner.or_expired(hash, key, &accept, Err(fault)),
                    // The value has expired if it is not there.
                    Ok(Some(Ok(_)) | None) => missed.absent_at = None,
                    Err(WouldDeadlock) => return Err(LoadError::Reentrant),
                },
            }
        }
    }

    /// Loads for all callers of the load.
    #[inline]
    fn lead<'k, Q, E>(
        &self,
        hash: KeyHash,
        key: &'k Q,
        id: LoadId,
        missed: Missed,
        load: impl FnOnce(&'k Q) -> Result<V, E>,
    ) -> Outcome<V, E>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
        E: Send + Sync + 'static,
    {
        let inner = &*self.inner;
        let mut leader = Leader { inner, hash, id, finished: None, outcome: None };
        let outcome = self.load_here(hash, key, id, missed, load, &mut leader.finished);
        // Cloned only for waiters that there are, which the leader knows after its entry is removed.
        if leader.finished.is_none() {
            leader.finished = inner.finish_failed(hash, id);
        }
        if leader.finished.as_ref().is_some_and(InFlightEntry::is_shared) {
            leader.outcome = Some(outcome.clone());
        }
        outcome
    }

    /// Runs the loader and stores its value.
    fn load_here<'k, Q, E>(
        &self,
        hash: KeyHash,
        key: &'k Q,
        id: LoadId,
        missed: Missed,
        load: impl FnOnce(&'k Q) -> Result<V, E>,
        finished: &mut Option<InFlightEntry<K>>,
    ) -> Outcome<V, E>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
    {
        let started = self.inner.now();
        let reservation = LoadReservation::begin(&self.inner).map_err(|error| self.inner.fault(error))?;
        let (loaded, retained) = if self.inner.by_load {
            heap::scope(|| load(key).map(|value| (key.to_key(), value)))
        } else {
            (load(key).map(|value| (key.to_key(), value)), None)
        };
        let mut ended = Loaded::new(id, started, missed.absent_at, finished);
        self.inner.store_loaded(hash, loaded, retained, reservation, &mut ended)
    }
}

/// The result of joining a load.
enum Joining<V, L> {
    /// A value, which has come in since.
    Ready(V),
    Role(Role<L>),
}

impl<K: Eq, V: Clone, S> Inner<K, V, S> {
    /// Joins or starts the load of a key, unless an acceptable value has come in since it was missed.
    #[expect(clippy::too_many_arguments, reason = "they are those of one call")]
    fn join<L: Send + Sync + 'static, Q>(
        &self,
        hash: KeyHash,
        key: &Q,
        owned: &mut Option<K>,
        missed: Missed,
        accept: impl Fn(&V) -> bool,
        load: Option<Arc<L>>,
        share: impl FnOnce(crate::sync::ThreadId) -> Arc<L>,
    ) -> Joining<V, L>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let now = self.now();
        let mut state = self.shard(hash).lock();
        // Another load may have ended since the miss.
        if missed.absent_at != Some(state.arrivals)
            && let Some(value) = state.store.peek(hash.hash, key, now).filter(|value| accept(value))
        {
            return Joining::Ready(value.clone());
        }
        if let Some(last) = self.refresh_after.and_then(|age| now.checked_sub(age)) {
            // The caller would wait for a refresh that a freeze may have cut off.
            state.in_flight.orphan_old(hash.hash, last);
        }
        let role = state.in_flight.join(hash.hash, key, owned, load, share);
        let orphans = state.in_flight.take_orphans();
        drop(state);
        drop(orphans);
        Joining::Role(role)
    }

    /// Stores a loaded value, with the weight that the load retained if this is what counts.
    fn store_loaded<E>(
        &self,
        hash: KeyHash,
        loaded: Result<(K, V), E>,
        retained: Option<HeapDelta>,
        reservation: Option<LoadReservation<K, V, S>>,
        ended: &mut Loaded<'_, K>,
    ) -> Outcome<V, E> {
        let (key, value) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                self.shard(hash).lock().counters.load_failures += 1;
                ended.finish_failed(self, hash);
                return Err(Fault::Load(Arc::new(error)));
            }
        };
        let retained = retained.map(|delta| usize::try_from(delta.retained.as_i64()).unwrap_or(0));
        let weight = retained.unwrap_or_else(|| self.weigh(&key, &value));
        let ttl = self.ttl(&key, &value);
        let mut slot = Some(Slot { key, value: value.clone(), hash: hash.hash, expires: NEVER });
        if let Some(reservation) = reservation {
            // From here on the value itself counts.
            (ended.reserved, ended.claimed) = reservation.into_parts();
        }
        // A value that is not stored is dropped here, and returned below. So it is if the `Drop` of an evicted value panics,
        // which the panic hook has reported: the load did not panic.
        let stored = contained(|| drop(self.put(hash, &mut slot, weight, ttl, Some(ended))));
        if stored.is_none() && !ended.is_finished() {
            ended.finish_failed(self, hash);
        }
        Ok(value)
    }
}

impl<K, V, S> Inner<K, V, S> {
    fn fault<E>(&self, error: NoRoom) -> Fault<E> {
        match error {
            NoRoom::Budget(exceeded) => Fault::Budget(exceeded),
            NoRoom::Bound { size, available } => Fault::TooManyLoads { cache: self.name, size, available },
        }
    }
}

impl<E> Clone for Fault<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Load(error) => Self::Load(Arc::clone(error)),
            Self::Budget(exceeded) => Self::Budget(exceeded.clone()),
            Self::TooManyLoads { cache, size, available } => {
                Self::TooManyLoads { cache, size: *size, available: *available }
            }
        }
    }
}

impl<E> From<Fault<E>> for LoadError<E> {
    fn from(fault: Fault<E>) -> Self {
        match fault {
            Fault::Load(error) => Self::Load(error),
            Fault::Budget(exceeded) => Self::BudgetExceeded(exceeded),
            Fault::TooManyLoads { cache, size, available } => Self::TooManyLoads { cache, size, available },
        }
    }
}
