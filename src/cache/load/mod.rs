//! Loads of absent values: one load for each key at a time, shared by its callers.
//!
//! A blocking load leaves an entry in the table of in-flight loads: a few words, and no allocation. The first follower
//! creates the latch that it waits for.

mod future;
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
use super::put::Loaded;
use super::store::{NEVER, Slot};
use super::{Cache, Inner, LoadError};
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

/// The leader of a blocking load. However it ends, also by a panic, its entry is removed and its latch opened.
struct Leader<'a, K, V, S, E>
where
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    inner: &'a Inner<K, V, S>,
    hash: u32,
    id: LoadId,
    /// The entry, once it is removed.
    finished: Option<InFlightEntry<K>>,
    outcome: Option<Outcome<V, E>>,
}

impl<K, V, S, E> Drop for Leader<'_, K, V, S, E>
where
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    fn drop(&mut self) {
        let entry = self.finished.take().or_else(|| self.inner.state.lock().in_flight.finish(self.hash, self.id));
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
    /// The value is returned even if the cache cannot store it. An error is not stored: the next caller loads again. If a
    /// loader panics, one of its waiters loads. A loader may use the cache, and may load other keys.
    ///
    /// A load that was started before a write never overwrites it: [`insert`](Self::insert), [`remove`](Self::remove),
    /// [`clear`](Self::clear) and [`retain`](Self::retain) cancel running loads. A cancelled load returns its value to its
    /// caller and its waiters, and stores nothing; a caller after the write starts another load. Eviction cancels nothing.
    /// The time to live counts from the start of the load. A load that takes longer returns its value and stores nothing.
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
    /// use plimsoll::Cache;
    ///
    /// let cache: Cache<String, u64> = Cache::builder("lengths").max_entries(100).build()?;
    /// let value = cache.try_get_or_load("four", || Ok::<_, std::io::Error>(4))?;
    /// assert_eq!((value, cache.get("four")), (4, Some(4)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_get_or_load<Q, E>(&self, key: &Q, load: impl FnOnce() -> Result<V, E>) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        E: Send + Sync + 'static,
    {
        let hash = self.inner.hash(key);
        match self.look(hash, key, |_| true) {
            Ok(value) => Ok(value),
            Err(missed) => self.load_absent(hash, key, missed, |_| true, load),
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
    ///     || Ok::<_, std::io::Error>((20, "second")),
    /// )?;
    /// assert_eq!(token, (20, "second"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_get_or_load_if<Q, E>(
        &self,
        key: &Q,
        replace_if: impl Fn(&V) -> bool,
        load: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        E: Send + Sync + 'static,
    {
        let hash = self.inner.hash(key);
        let accept = |value: &V| !replace_if(value);
        match self.look(hash, key, accept) {
            Ok(value) => Ok(value),
            Err(missed) => self.load_absent(hash, key, missed, accept, load),
        }
    }

    /// The part after a miss. A function of its own, so that a hit is short.
    #[inline(never)]
    fn load_absent<Q, E>(
        &self,
        hash: u32,
        key: &Q,
        mut missed: Missed,
        accept: impl Fn(&V) -> bool,
        load: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        E: Send + Sync + 'static,
    {
        let inner = &*self.inner;
        loop {
            let mut owned = Some(key.to_owned());
            let latch = Latch::<Outcome<V, E>>::closed;
            let joined = inner.join(hash, key, &mut owned, missed, &accept, None, |leader| Arc::new(latch(leader)));
            drop(owned);
            match joined {
                Joining::Ready(value) => return Ok(value),
                Joining::Role(Role::Leader(id)) => {
                    let mut leader = Leader { inner, hash, id, finished: None, outcome: None };
                    let outcome = self.load_here(hash, key, id, missed, load, &mut leader.finished);
                    // Cloned only for waiters that there are, which the leader knows after its entry is removed.
                    if leader.finished.is_none() {
                        leader.finished = inner.state.lock().in_flight.finish(hash, id);
                    }
                    if leader.finished.as_ref().is_some_and(InFlightEntry::is_shared) {
                        leader.outcome = Some(outcome.clone());
                    }
                    drop(leader);
                    return outcome.map_err(LoadError::from);
                }
                Joining::Role(Role::Follower(_, latch)) => match latch.wait() {
                    Ok(Some(outcome)) => return outcome.map_err(LoadError::from),
                    // The load panicked.
                    Ok(None) => missed.absent_at = None,
                    Err(WouldDeadlock) => return Err(LoadError::Reentrant),
                },
            }
        }
    }

    /// Runs the loader and stores its value.
    fn load_here<Q, E>(
        &self,
        hash: u32,
        key: &Q,
        id: LoadId,
        missed: Missed,
        load: impl FnOnce() -> Result<V, E>,
        finished: &mut Option<InFlightEntry<K>>,
    ) -> Outcome<V, E>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let started = self.inner.now();
        let reservation = LoadReservation::begin(&self.inner).map_err(|error| self.inner.fault(error))?;
        let (loaded, retained) = if self.inner.by_load {
            heap::scope(|| load().map(|value| (key.to_owned(), value)))
        } else {
            (load().map(|value| (key.to_owned(), value)), None)
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
        hash: u32,
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
        let mut state = self.state.lock();
        // Another load may have ended since the miss.
        if missed.absent_at != Some(state.arrivals)
            && let Some(value) = state.store.peek(hash, key, now).filter(|value| accept(value))
        {
            return Joining::Ready(value.clone());
        }
        Joining::Role(state.in_flight.join(hash, key, owned, load, share))
    }

    /// Stores a loaded value, with the weight that the load retained if this is what counts.
    fn store_loaded<E>(
        &self,
        hash: u32,
        loaded: Result<(K, V), E>,
        retained: Option<HeapDelta>,
        mut reservation: Option<LoadReservation<K, V, S>>,
        ended: &mut Loaded<'_, K>,
    ) -> Outcome<V, E> {
        let (key, value) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                let mut state = self.state.lock();
                state.counters.load_failures += 1;
                ended.finish(&mut state.in_flight, hash);
                drop(state);
                return Err(Fault::Load(Arc::new(error)));
            }
        };
        let retained = retained.map(|delta| usize::try_from(delta.retained.as_i64()).unwrap_or(0));
        let weight = retained.unwrap_or_else(|| self.weigh(&key, &value));
        let mut slot = Some(Slot { key, value: value.clone(), hash, expires: NEVER });
        ended.reserved = reservation.as_mut().and_then(|reservation| reservation.reserved.take());
        // From here on the value itself counts.
        drop(reservation);
        // A value that is not stored is dropped here, and returned below. So it is if the `Drop` of an evicted value panics,
        // which the panic hook has reported: the load did not panic.
        let stored = contained(|| drop(self.put(&mut slot, weight, self.ttl, Some(ended))));
        if stored.is_none() && !ended.is_finished() {
            ended.finish(&mut self.state.lock().in_flight, hash);
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
