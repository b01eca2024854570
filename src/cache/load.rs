//! Loading what is not there: one load for each key at a time.
//!
//! A flight stands here as long as its key is being loaded, under a lock of its own. Its error type is the caller's, so
//! it is kept as `Any`; who asks with another error type loads for himself.

use std::any::Any;
use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use hashbrown::HashTable;

use crate::budget::{BudgetExceeded, Reservation};
use crate::flight::{Flight, FlightError};
use crate::heap;
use crate::sync::Mutex;

use super::state::Locked;
use super::stats::Cause;
use super::store::Gone;
use super::{Cache, LoadError, Shared};

/// What is being loaded.
pub(super) struct Flights<K>(Mutex<HashTable<Flying<K>>>);

struct Flying<K> {
    hash: u32,
    key: K,
    flight: Arc<dyn Any + Send + Sync>,
}

/// Why a flight brought nothing.
enum Fault<E> {
    Failed(Arc<E>),
    NoRoom(BudgetExceeded),
}

impl<K> Default for Flights<K> {
    fn default() -> Self {
        Self(Mutex::new(HashTable::new()))
    }
}

impl<K> Flights<K> {
    /// The flight of a key, which is put there unless there is one.
    fn join<Q>(&self, hash: u32, key: &Q, new: impl FnOnce() -> Arc<dyn Any + Send + Sync>) -> Ticket<'_, K>
    where
        K: Borrow<Q>,
        Q: Eq + ToOwned<Owned = K> + ?Sized,
    {
        // Before the lock, as it is the user's code.
        let owned = key.to_owned();
        let mut table = self.0.lock();
        let is = |flying: &Flying<K>| flying.hash == hash && flying.key.borrow() == key;
        if let Some(flying) = table.find(u64::from(hash), is) {
            let flight = Arc::clone(&flying.flight);
            drop(table);
            return Ticket { flights: self, hash, flight, settled: false };
        }
        let flight = new();
        let flying = Flying { hash, key: owned, flight: Arc::clone(&flight) };
        table.insert_unique(u64::from(hash), flying, |flying| u64::from(flying.hash));
        Ticket { flights: self, hash, flight, settled: false }
    }
}

/// A caller of a flight. Whoever settled it takes it off the list, and after a panic the last one to go.
struct Ticket<'a, K> {
    flights: &'a Flights<K>,
    hash: u32,
    flight: Arc<dyn Any + Send + Sync>,
    settled: bool,
}

impl<K> Drop for Ticket<'_, K> {
    fn drop(&mut self) {
        let mut table = self.flights.0.lock();
        let ours = |flying: &Flying<K>| Arc::ptr_eq(&flying.flight, &self.flight);
        let found = table.find_entry(u64::from(self.hash), ours).ok();
        // Tickets are given out under this lock: two are the list's and ours.
        let leaving = found.filter(|_| self.settled || Arc::strong_count(&self.flight) <= 2);
        let flying = leaving.map(|entry| entry.remove().0);
        if table.is_empty() && table.capacity() > 64 {
            *table = HashTable::new();
        }
        drop(table);
        drop(flying);
    }
}

/// Room made for a load, until its value is in.
struct Expecting<'a, K, V, S> {
    shared: &'a Shared<K, V, S>,
    size: u64,
    reserved: Option<Reservation>,
}

impl<'a, K, V, S> Expecting<'a, K, V, S> {
    fn begin(shared: &'a Shared<K, V, S>) -> Result<Option<Self>, BudgetExceeded> {
        let Some(size) = shared.expected_load else { return Ok(None) };
        let mut expecting = Self { shared, size: size.as_u64(), reserved: None };
        let mut locked = shared.locked();
        let Locked { state, gone } = &mut locked;
        state.loading = state.loading.saturating_add(expecting.size);
        state.keep_bounds(gone);
        let account = state.account();
        if let Some(account) = &account {
            expecting.reserved = account.reserve_if_free(size);
            while expecting.reserved.is_none() && state.evict(Cause::Pressure, gone) {
                // What was evicted is released at once, so that it can be had; the values go with the lock.
                state.settle(&mut Gone::<K, V>::default());
                expecting.reserved = account.reserve_if_free(size);
            }
        }
        drop(locked);
        if let Some(account) = account
            && expecting.reserved.is_none()
        {
            expecting.reserved = Some(account.try_reserve(size)?);
        }
        Ok(Some(expecting))
    }
}

impl<K, V, S> Drop for Expecting<'_, K, V, S> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.loading = state.loading.saturating_sub(self.size);
    }
}

impl<K, V, S> Cache<K, V, S>
where
    K: Hash + Eq + Send + 'static,
    V: Clone + Send + 'static,
    S: BuildHasher,
{
    /// Gets the value, or loads it on this thread and keeps it; whoever asks meanwhile blocks and gets the same.
    ///
    /// A value that the cache does not take is returned all the same, uncached. An error is not kept: the next caller
    /// loads again. A loader may use the cache, but for the key it is loading. One that panics takes nothing with it:
    /// one of those who wait loads instead. A caller who asks with another error type while the key is being loaded
    /// loads for himself. No key is made unless the value has to be loaded.
    ///
    /// A hit costs what [`get`](Self::get) costs; a load two keys and some allocations.
    ///
    /// # Errors
    ///
    /// [`LoadError::Failed`] with the loader's error, the same for all who waited; [`LoadError::NoRoom`] where the budget
    /// lacks what a load is [expected](super::CacheBuilder::expected_load) to take; [`LoadError::Reentrant`] inside the
    /// loader.
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
    pub fn try_get_or_load<Q, E>(&self, key: &Q, load: impl FnOnce() -> Result<V, E>) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        E: Send + Sync + 'static,
    {
        if let Some(value) = self.get(key) {
            return Ok(value);
        }
        let hash = self.shared.hash(key);
        let mut ticket = self.shared.flights.join(hash, key, || Arc::new(Flight::<V, Fault<E>>::new()));
        let flight = Arc::clone(&ticket.flight);
        let Some(flight) = flight.downcast_ref::<Flight<V, Fault<E>>>() else {
            return self.load_here(key, load).map_err(LoadError::from);
        };
        let settled = &mut ticket.settled;
        let loaded = flight.get_or_load(
            |_| false,
            || 0,
            || {
                // Another load may have ended between our look and our flight.
                let loaded = self.peek(key).map_or_else(|| self.load_here(key, load), Ok);
                *settled = true;
                loaded
            },
        );
        loaded.map_err(|error| match error {
            FlightError::Failed(failure) => match &*failure.error {
                Fault::Failed(error) => LoadError::Failed(Arc::clone(error)),
                Fault::NoRoom(refused) => LoadError::NoRoom(refused.clone()),
            },
            FlightError::Reentrant | FlightError::Panicked => LoadError::Reentrant,
        })
    }

    /// Runs the loader and keeps its value.
    fn load_here<Q, E>(&self, key: &Q, load: impl FnOnce() -> Result<V, E>) -> Result<V, Fault<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let shared = &*self.shared;
        let mut expecting = Expecting::begin(shared).map_err(Fault::NoRoom)?;
        let (loaded, retained) = if shared.by_load {
            let (loaded, delta) = heap::scope(|| load().map(|value| (key.to_owned(), value)));
            (loaded, delta.map(|delta| usize::try_from(delta.retained.as_i64()).unwrap_or(0)))
        } else {
            (load().map(|value| (key.to_owned(), value)), None)
        };
        match loaded {
            Ok((key, value)) => {
                shared.state.lock().counters.loads += 1;
                let reserved = expecting.as_mut().and_then(|expecting| expecting.reserved.take());
                // From here on the value itself is counted.
                drop(expecting);
                let weight = retained.unwrap_or_else(|| shared.weigh(&key, &value));
                let copy = value.clone();
                // A value that is not taken is dropped here, and returned below.
                drop(shared.put(key, copy, weight, shared.ttl, reserved));
                Ok(value)
            }
            Err(error) => {
                shared.state.lock().counters.load_failures += 1;
                Err(Fault::Failed(Arc::new(error)))
            }
        }
    }

    /// The value, if it is there and has not expired; counts as nothing.
    fn peek<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let (hash, now) = (self.shared.hash(key), self.shared.now());
        let mut state = self.shared.state.lock();
        let at = state.store.find(hash, key)?;
        let tick = state.store.tick(now);
        if state.store.is_expired(at, tick) { None } else { state.store.get(at).map(|slot| slot.value.clone()) }
    }
}

impl<E> From<Fault<E>> for LoadError<E> {
    fn from(fault: Fault<E>) -> Self {
        match fault {
            Fault::Failed(error) => Self::Failed(error),
            Fault::NoRoom(refused) => Self::NoRoom(refused),
        }
    }
}
