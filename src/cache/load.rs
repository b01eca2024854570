//! Loading what is not there: one load for each key at a time.
//!
//! A load leaves a mark at its key, under the cache's lock: a few words, and no allocation. Who finds one makes a flight
//! of it, on which both then wait. Its error type is the loader's, so it is kept as `Any`; who asks with another error
//! type loads for himself.

use std::any::Any;
use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;
use std::sync::{Arc, Weak};

use hashbrown::HashTable;

use crate::budget::{BudgetExceeded, Reservation};
use crate::flight::{Flight, FlightError};
use crate::heap::{self, HeapDelta};
use crate::sync::{ThreadId, thread_id};

use super::index::spread;
use super::state::{Locked, State};
use super::stats::Cause;
use super::store::{Gone, NEVER, Slot};
use super::{Cache, LoadError, Shared};

/// A flight, of an error type that its mark's maker knew.
pub(super) type AnyFlight = Arc<dyn Any + Send + Sync>;

/// What is being loaded.
pub(super) struct Flights<K> {
    table: HashTable<Flying<K>>,
    /// How many loads have begun.
    begun: u64,
}

/// The mark of a load.
pub(super) struct Flying<K> {
    hash: u32,
    key: K,
    /// Tells it from others of the same hash.
    number: u64,
    by: ThreadId,
    /// Makes its flight, for who wants to wait.
    make: fn(ThreadId) -> AnyFlight,
    flight: Option<AnyFlight>,
}

/// Why a flight brought nothing.
pub(super) enum Fault<E> {
    Failed(Arc<E>),
    NoRoom(BudgetExceeded),
}

impl<K> Default for Flights<K> {
    fn default() -> Self {
        Self { table: HashTable::new(), begun: 0 }
    }
}

impl<K> Flights<K> {
    /// Takes a mark off; its key is to be dropped without the lock.
    fn leave(&mut self, hash: u32, is: impl FnMut(&Flying<K>) -> bool) -> Option<Flying<K>> {
        let left = self.table.find_entry(spread(hash), is).ok().map(|entry| entry.remove().0);
        if self.table.is_empty() && self.table.capacity() > 64 {
            self.table = HashTable::new();
        }
        left
    }
}

/// What there was when a value was missing.
#[derive(Clone, Copy)]
pub(super) struct Missed {
    /// How many keys had come in: as long as no other does, it stays missing.
    pub(super) inserts: u64,
}

/// What is to be done about a value that is missing.
pub(super) enum Part<'a, K, V, S> {
    /// Take this one, which came in meanwhile.
    Take(V),
    /// Load it, under a mark.
    Lead(Mark),
    /// Wait for who loads it.
    Follow(Ticket<'a, K, V, S>),
}

/// Where the mark of a load stands.
pub(super) struct Mark {
    hash: u32,
    number: u64,
    /// Whether it stands there still; else it was taken off, and this was its flight.
    standing: bool,
    flight: Option<AnyFlight>,
}

impl Mark {
    /// Takes it off, and gives out the key it had.
    pub(super) fn take_off<K, V>(&mut self, state: &mut State<K, V>) -> Option<K> {
        if !std::mem::take(&mut self.standing) {
            return None;
        }
        let number = self.number;
        let left = state.flights.leave(self.hash, |flying| flying.number == number)?;
        self.flight = left.flight;
        Some(left.key)
    }
}

/// What a value brings along that comes in by a load.
#[derive(Default)]
pub(super) struct Arrival<'a> {
    /// Whether it does.
    pub(super) loaded: bool,
    /// What was reserved for it.
    pub(super) reserved: Option<Reservation>,
    /// How many keys had come in when its own was not there.
    pub(super) inserts: Option<u64>,
    /// The mark of its load, to be taken off when it is in.
    pub(super) mark: Option<&'a mut Mark>,
}

impl<K, V, S> Shared<K, V, S> {
    /// Leaves a mark at a key that was missing, unless somebody else has, or its value has come in. `owned` is the key;
    /// `flight` is that of the mark, where others are to take part from its beginning.
    pub(super) fn join<Q>(
        &self,
        hash: u32,
        key: &Q,
        owned: K,
        missed: Missed,
        make: fn(ThreadId) -> AnyFlight,
        flight: Option<AnyFlight>,
    ) -> Part<'_, K, V, S>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
        V: Clone,
    {
        let mut state = self.state.lock();
        // Another load may have ended between our look and our mark.
        if state.counters.inserts != missed.inserts
            && let Some(value) = state.store.peek(hash, key, self.now())
        {
            return Part::Take(value.clone());
        }
        let Flights { table, begun } = &mut state.flights;
        let is = |flying: &Flying<K>| flying.hash == hash && flying.key.borrow() == key;
        if let Some(Flying { by, make, flight, .. }) = table.find_mut(spread(hash), is) {
            let flight = Arc::clone(flight.get_or_insert_with(|| make(*by)));
            return Part::Follow(Ticket::new(self, hash, flight));
        }
        *begun += 1;
        let flying = Flying { hash, key: owned, number: *begun, by: thread_id(), make, flight };
        table.insert_unique(spread(hash), flying, |flying| spread(flying.hash));
        Part::Lead(Mark { hash, number: *begun, standing: true, flight: None })
    }
}

/// A caller who waits for a flight. Whoever settled it takes its mark off, and after a panic the last one to go.
pub(super) struct Ticket<'a, K, V, S> {
    shared: &'a Shared<K, V, S>,
    hash: u32,
    pub(super) flight: AnyFlight,
    pub(super) settled: bool,
}

impl<'a, K, V, S> Ticket<'a, K, V, S> {
    pub(super) const fn new(shared: &'a Shared<K, V, S>, hash: u32, flight: AnyFlight) -> Self {
        Self { shared, hash, flight, settled: false }
    }
}

impl<K, V, S> Drop for Ticket<'_, K, V, S> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        // Tickets are given out under this lock: two are the mark's and ours.
        let last = self.settled || Arc::strong_count(&self.flight) <= 2;
        let is = |flying: &Flying<K>| flying.flight.as_ref().is_some_and(|flight| Arc::ptr_eq(flight, &self.flight));
        let left = if last { state.flights.leave(self.hash, is) } else { None };
        drop(state);
        drop(left);
    }
}

/// A caller who loads. Where it ends without having landed, as by a panic, one of those who wait loads instead.
struct Leading<'a, K, V: Clone + 'static, S, E: 'static> {
    shared: &'a Shared<K, V, S>,
    mark: Mark,
    error: PhantomData<fn(E)>,
}

impl<V: Clone + Send + 'static, E: Send + Sync + 'static, K, S> Leading<'_, K, V, S, E> {
    /// Ends the load with what it brought, which those who wait get too.
    fn land(mut self, loaded: Result<V, Fault<E>>) -> Result<V, LoadError<E>> {
        if self.mark.standing {
            let mut state = self.shared.state.lock();
            let left = self.mark.take_off(&mut state);
            drop(state);
            drop(left);
        }
        let flight = self.mark.flight.take();
        match flight.as_ref().and_then(|flight| flight.downcast_ref::<Flight<V, Fault<E>>>()) {
            Some(flight) => flight.land(Some(loaded), || 0).map_err(LoadError::from),
            None => loaded.map_err(LoadError::from),
        }
    }
}

impl<K, V: Clone + 'static, S, E: 'static> Drop for Leading<'_, K, V, S, E> {
    fn drop(&mut self) {
        // Where there are any who wait, their flight keeps its mark until the last of them has gone.
        let mut ticket = None;
        if self.mark.standing {
            let mut state = self.shared.state.lock();
            let ours = |flying: &Flying<K>| flying.number == self.mark.number;
            let flying = state.flights.table.find(spread(self.mark.hash), ours);
            self.mark.flight = flying.and_then(|flying| flying.flight.clone());
            let left = match &self.mark.flight {
                None => self.mark.take_off(&mut state),
                Some(flight) => {
                    let flight = Arc::clone(flight);
                    ticket = Some(Ticket::new(self.shared, self.mark.hash, flight));
                    None
                }
            };
            drop(state);
            drop(left);
        }
        if let Some(flight) = self.mark.flight.take()
            && let Some(flight) = flight.downcast_ref::<Flight<V, Fault<E>>>()
        {
            drop(flight.land(None, || 0));
        }
        drop(ticket);
    }
}

/// Room made for a load, until its value is in. A load that was left behind does not keep the cache.
pub(super) struct Expecting<K, V, S> {
    shared: Weak<Shared<K, V, S>>,
    size: u64,
    reserved: Option<Reservation>,
}

impl<K, V, S> Expecting<K, V, S> {
    /// Makes room, where it is known how much; `None` where it is not.
    pub(super) fn begin(shared: &Arc<Shared<K, V, S>>) -> Result<Option<Self>, BudgetExceeded> {
        let Some(size) = shared.expected_load else { return Ok(None) };
        let mut expecting = Self { shared: Arc::downgrade(shared), size: size.as_u64(), reserved: None };
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

impl<K, V, S> Drop for Expecting<K, V, S> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let mut state = shared.state.lock();
            state.loading = state.loading.saturating_sub(self.size);
        }
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
    /// A loader may load other keys. But two that ask for each other's key, on two threads, wait for ever, as two locks
    /// taken crosswise do: let keys be asked for in one order.
    ///
    /// A hit costs what [`get`](Self::get) costs; a load two keys, a clone of the value, and three takings of the lock.
    /// Each who waits costs some allocations.
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
    #[inline]
    pub fn try_get_or_load<Q, E>(&self, key: &Q, load: impl FnOnce() -> Result<V, E>) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        E: Send + Sync + 'static,
    {
        let hash = self.shared.hash(key);
        match self.look(hash, key) {
            Ok(value) => Ok(value),
            Err(missed) => self.load_missing(hash, key, missed, load),
        }
    }

    /// The rest of it, where there is no value. Apart, so that a hit is short.
    #[inline(never)]
    fn load_missing<Q, E>(
        &self,
        hash: u32,
        key: &Q,
        missed: Missed,
        load: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        E: Send + Sync + 'static,
    {
        let shared = &*self.shared;
        let make: fn(ThreadId) -> AnyFlight = |by| Arc::new(Flight::<V, Fault<E>>::begun_by(by));
        let mut ticket = match shared.join(hash, key, key.to_owned(), missed, make, None) {
            Part::Take(value) => return Ok(value),
            Part::Lead(mark) => {
                let mut leading = Leading { shared, mark, error: PhantomData };
                let mark = Some(&mut leading.mark);
                let mut arrival = Arrival { inserts: Some(missed.inserts), mark, ..Arrival::default() };
                let loaded = self.load_here(hash, key, load, &mut arrival);
                return leading.land(loaded);
            }
            Part::Follow(ticket) => ticket,
        };
        let flight = Arc::clone(&ticket.flight);
        let Some(flight) = flight.downcast_ref::<Flight<V, Fault<E>>>() else {
            return self.load_here(hash, key, load, &mut Arrival::default()).map_err(LoadError::from);
        };
        let settled = &mut ticket.settled;
        let loaded = flight.get_or_load(
            |_| false,
            || 0,
            || {
                // The load before it panicked.
                let loaded = self.load_here(hash, key, load, &mut Arrival::default());
                *settled = true;
                loaded
            },
        );
        loaded.map_err(LoadError::from)
    }

    /// Runs the loader and keeps its value.
    fn load_here<Q, E>(
        &self,
        hash: u32,
        key: &Q,
        load: impl FnOnce() -> Result<V, E>,
        arrival: &mut Arrival<'_>,
    ) -> Result<V, Fault<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let expecting = Expecting::begin(&self.shared).map_err(Fault::NoRoom)?;
        let (loaded, retained) = if self.shared.by_load {
            heap::scope(|| load().map(|value| (key.to_owned(), value)))
        } else {
            (load().map(|value| (key.to_owned(), value)), None)
        };
        self.shared.keep(hash, loaded, retained, expecting, arrival)
    }
}

impl<K: Eq, V: Clone, S> Shared<K, V, S> {
    /// Keeps what a load brought, by what it retained where that is to count.
    pub(super) fn keep<E>(
        &self,
        hash: u32,
        loaded: Result<(K, V), E>,
        retained: Option<HeapDelta>,
        mut expecting: Option<Expecting<K, V, S>>,
        arrival: &mut Arrival<'_>,
    ) -> Result<V, Fault<E>> {
        match loaded {
            Ok((key, value)) => {
                arrival.loaded = true;
                arrival.reserved = expecting.as_mut().and_then(|expecting| expecting.reserved.take());
                // From here on the value itself is counted.
                drop(expecting);
                let retained = retained.map(|delta| usize::try_from(delta.retained.as_i64()).unwrap_or(0));
                let weight = retained.unwrap_or_else(|| self.weigh(&key, &value));
                let slot = Slot { key, value: value.clone(), hash, expires: NEVER };
                // A value that is not taken is dropped here, and returned below.
                drop(self.put(slot, weight, self.ttl, arrival));
                Ok(value)
            }
            Err(error) => {
                let mut state = self.state.lock();
                state.counters.load_failures += 1;
                let left = arrival.mark.take().and_then(|mark| mark.take_off(&mut state));
                drop(state);
                drop(left);
                Err(Fault::Failed(Arc::new(error)))
            }
        }
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

impl<E> From<FlightError<Fault<E>>> for LoadError<E> {
    fn from(error: FlightError<Fault<E>>) -> Self {
        match error {
            FlightError::Failed(failure) => match &*failure.error {
                Fault::Failed(error) => Self::Failed(Arc::clone(error)),
                Fault::NoRoom(refused) => Self::NoRoom(refused.clone()),
            },
            FlightError::Reentrant => Self::Reentrant,
            FlightError::Panicked => Self::Panicked,
        }
    }
}
