//! What the blocking and the polling resource share: where the value lies, who may load, what is known of it.
//!
//! A value lies in one place: in the *flight* from the end of its load until somebody moves it, in the *slot* from then
//! until it is unloaded or replaced. Moves are made under one lock. Who finds the slot empty enters the flight, and
//! whoever leads it looks into the slot once more: so nothing is loaded twice, though the slot is read without a lock.
//! A failure stays in the flight until the next load begins. No code of the user's runs under a lock: what is swapped
//! out is dropped after it.

use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use once_cell::race::OnceRef;
use once_cell::sync::OnceCell;

use crate::budget::{Account, BudgetExceeded, Pressure, Rank, Reservation};
use crate::clock::{Clock, Stopwatch};
use crate::flight::{Failure, Flight, FlightError};
use crate::heap::HeapDelta;
use crate::size::ByteSize;
use crate::sync::Mutex;

use super::backoff::Backoff;
use super::error::{LazyError, LoadFailure, Site};
use super::generation::{Generation, LoadCost, Pinned};
use super::status::{ResourceState, ResourceStatus};

/// No time to live.
const NEVER: u64 = u64::MAX;

/// Not used in this invocation.
const IDLE: u8 = 0;
/// Used, and to be looked at more closely at each use, as it may be stale.
const TOUCHED: u8 = 1;
/// Used, and good for use as long as it is there.
const QUICK: u8 = 2;

/// A resource but for its loader.
pub(super) struct Core<T, E> {
    /// The value that `get` shows.
    slot: ArcSwapOption<Generation<T>>,
    /// How old it may grow, in milliseconds, or [`NEVER`].
    refresh_after: u64,
    /// Whether it was used since the last invocation's end: [`IDLE`], [`TOUCHED`] or [`QUICK`]. Set once in an
    /// invocation, so that readers share its line.
    touched: AtomicU8,
    pub(super) flight: Flight<Arc<Generation<T>>, Failed<E>>,
    moves: Mutex<Moves<T>>,
    name: &'static str,
    declared: &'static Location<'static>,
    first_used: OnceRef<'static, Location<'static>>,
    pub(super) clock: Clock,
    pub(super) expecting: ByteSize,
    pub(super) backoff: Backoff,
    pub(super) rank: Rank,
    /// How many invocations without a use make it idle.
    pub(super) idle_after: u64,
    account: OnceCell<Account>,
    /// Invocations ended since the last use.
    idle: AtomicU64,
    /// Invocations ended since it is watched.
    invocations: AtomicU64,
}

/// What is done to the slot, under one lock.
struct Moves<T> {
    /// How many values were ever put there.
    loads: u64,
    /// What the last of them cost.
    cost: Option<LoadCost>,
    /// Values that were taken out while pinned.
    retired: Vec<Weak<Generation<T>>>,
}

impl<T> Moves<T> {
    /// Takes note of a load.
    const fn count(&mut self, loaded: &Generation<T>) {
        self.loads += 1;
        self.cost = Some(loaded.cost);
    }

    /// Remembers a value that pins keep; not one that goes at once, as a `Weak` would keep its block.
    fn retire(&mut self, old: Option<&Arc<Generation<T>>>) {
        self.retired.retain(|old| old.strong_count() > 0);
        self.retired.extend(old.filter(|old| Arc::strong_count(old) > 1).map(Arc::downgrade));
    }

    fn retired_pins(&mut self) -> usize {
        self.retire(None);
        self.retired.iter().map(Weak::strong_count).sum()
    }
}

/// Why a load ended without a value.
pub(super) struct Failed<E> {
    /// How many times in a row the loader returned an error.
    attempts: u32,
    why: Why<E>,
}

enum Why<E> {
    Loader(Arc<E>),
    Budget(BudgetExceeded),
}

/// What is there without loading.
pub(super) enum Found<T> {
    Fresh(Pinned<T>),
    /// Too old: to be loaded anew, and good enough if that fails.
    Stale(Pinned<T>),
    Nothing,
}

/// A load that is about to run.
pub(super) struct Begun {
    /// How many have failed before it.
    failures: u32,
    at: u64,
    watch: Stopwatch,
    charge: Option<Reservation>,
}

impl<T, E> Core<T, E> {
    pub(super) const fn new(name: &'static str, declared: &'static Location<'static>) -> Self {
        Self {
            slot: ArcSwapOption::const_empty(),
            refresh_after: NEVER,
            touched: AtomicU8::new(IDLE),
            flight: Flight::new(),
            moves: Mutex::new(Moves { loads: 0, cost: None, retired: Vec::new() }),
            name,
            declared,
            first_used: OnceRef::new(),
            clock: Clock::system(),
            expecting: ByteSize::ZERO,
            backoff: Backoff::DEFAULT,
            rank: Rank::RESOURCE,
            idle_after: 3,
            account: OnceCell::new(),
            idle: AtomicU64::new(0),
            invocations: AtomicU64::new(0),
        }
    }

    pub(super) const fn refresh_after(&mut self, millis: u64) {
        self.refresh_after = millis;
        // It may have been used already.
        self.touched = AtomicU8::new(IDLE);
    }

    /// Pins what is in the slot, where there is nothing else to be seen to: one test tells.
    #[inline]
    pub(super) fn pin(&self) -> Option<Pinned<T>> {
        if self.touched.load(Relaxed) == QUICK { Pinned::of_slot(self.slot.load()) } else { None }
    }

    /// Looks into the slot, and at the clock where that matters.
    pub(super) fn find(&self) -> Found<T> {
        match Pinned::of_slot(self.slot.load()) {
            Some(pin) if self.refresh_after == NEVER => Found::Fresh(pin),
            Some(pin) => self.judge(pin),
            None => Found::Nothing,
        }
    }

    fn judge(&self, pin: Pinned<T>) -> Found<T> {
        if self.is_fresh(pin.generation()) { Found::Fresh(pin) } else { Found::Stale(pin) }
    }

    fn is_fresh(&self, generation: &Generation<T>) -> bool {
        self.refresh_after == NEVER || self.clock.now().saturating_sub(generation.loaded_at) < self.refresh_after
    }

    /// Notes a use.
    pub(super) fn touch(&self, caller: &'static Location<'static>) {
        if self.touched.load(Relaxed) == IDLE {
            self.touched.store(if self.refresh_after == NEVER { QUICK } else { TOUCHED }, Relaxed);
            // Only the first one is kept.
            let _later = self.first_used.set(caller);
        }
    }

    /// Whether a stale value is to be shown without trying to load: somebody does, or it is too early after a failure.
    pub(super) fn stays_stale(&self) -> bool {
        self.flight.is_running() || self.flight.failure().is_some_and(|failure| !self.is_due(&failure))
    }

    /// Whether a failure is old enough to try again.
    pub(super) fn is_due(&self, failure: &Failure<Failed<E>>) -> bool {
        self.retry_in(failure) == 0
    }

    fn retry_in(&self, failure: &Failure<Failed<E>>) -> u64 {
        let wait = match failure.error.why {
            Why::Loader(_) => self.backoff.wait(failure.error.attempts),
            Why::Budget(_) => 0,
        };
        wait.saturating_sub(self.clock.now().saturating_sub(failure.at))
    }

    /// What the leader of the flight finds: a value that was moved since he looked, or a load to run.
    pub(super) fn begin(&self, failures: u32) -> Result<Result<Arc<Generation<T>>, Begun>, Failed<E>> {
        // Under the lock, so that a value on its way into the slot is there.
        let moves = self.moves.lock();
        let found = self.slot.load_full();
        drop(moves);
        if let Some(generation) = found.filter(|generation| self.is_fresh(generation)) {
            return Ok(Ok(generation));
        }
        let account = self.account.get().filter(|_| self.expecting > ByteSize::ZERO);
        let charge = account
            .map(|account| account.try_reserve(self.expecting))
            .transpose()
            .map_err(|refused| Failed { attempts: failures, why: Why::Budget(refused) })?;
        Ok(Err(Begun { failures, at: self.clock.now(), watch: Stopwatch::start(), charge }))
    }

    /// Moves a loaded value from the flight to the slot, unless that was done or the value unloaded; and pins it.
    pub(super) fn conclude(
        &self,
        loaded: Result<Arc<Generation<T>>, FlightError<Failed<E>>>,
        stale: Option<Pinned<T>>,
    ) -> Result<Pinned<T>, LazyError<E>> {
        let generation = match (loaded, stale) {
            (Ok(generation), _) => generation,
            (Err(_), Some(stale)) => return Ok(stale.into_stale()),
            (Err(error), None) => return Err(self.explain(error)),
        };
        let mut moves = self.moves.lock();
        let taken = self.flight.take_if(|ready| Arc::ptr_eq(ready, &generation));
        let old = taken.as_ref().and_then(|_| {
            self.charge(&generation);
            self.slot.swap(Some(Arc::clone(&generation)))
        });
        if taken.is_some() && !is_same(old.as_ref(), &generation) {
            moves.count(&generation);
            moves.retire(old.as_ref());
        }
        drop(moves);
        drop((taken, old));
        Ok(Pinned::of(generation))
    }

    /// Charges what was loaded, unless that was done before its load.
    fn charge(&self, generation: &Generation<T>) {
        if let Some(account) = self.account.get() {
            generation.charge_to(account, self.expecting);
        }
    }

    #[cold]
    fn explain(&self, error: FlightError<Failed<E>>) -> LazyError<E> {
        let name = self.name;
        match error {
            FlightError::Reentrant => LazyError::Reentrant { name },
            FlightError::Panicked => LazyError::Panicked { name },
            FlightError::Failed(failure) => match &failure.error.why {
                Why::Budget(refused) => LazyError::OverBudget { name, source: refused.clone() },
                Why::Loader(error) => LazyError::Failed(Box::new(self.describe(&failure, error))),
            },
        }
    }

    fn describe(&self, failure: &Failure<Failed<E>>, error: &Arc<E>) -> LoadFailure<E> {
        LoadFailure {
            name: self.name,
            error: Arc::clone(error),
            attempts: failure.error.attempts,
            age: Duration::from_millis(self.clock.now().saturating_sub(failure.at)),
            retry_in: Duration::from_millis(self.retry_in(failure)),
            declared: Site(self.declared),
            first_used: self.first_used.get().map(Site),
        }
    }

    pub(super) fn failure(&self) -> Option<LoadFailure<E>> {
        let failure = self.flight.failure()?;
        match &failure.error.why {
            Why::Loader(error) => Some(self.describe(&failure, error)),
            Why::Budget(_) => None,
        }
    }

    /// Takes the value out, and tells how many pins still hold it; `None` if there was none.
    pub(super) fn unload(&self) -> Option<usize> {
        let mut moves = self.moves.lock();
        let old = self.slot.swap(None);
        let waiting = self.flight.take_if(|_| true).filter(|new| !is_same(old.as_ref(), new));
        if let Some(new) = &waiting {
            // It was loaded all the same, and those who get it keep it.
            self.charge(new);
            moves.count(new);
            moves.retire(Some(new));
        }
        moves.retire(old.as_ref());
        drop(moves);
        let gone = old.as_ref().or(waiting.as_ref()).map(|old| Arc::strong_count(old) - 1);
        drop((waiting, old));
        gone
    }

    /// Takes the value out if it is idle and not pinned, and tells what was charged for it. Never waits.
    pub(super) fn reclaim(&self, pressure: Pressure) -> ByteSize {
        let idle = if self.touched.load(Relaxed) == IDLE { self.idle.load(Relaxed) } else { 0 };
        if pressure < Pressure::Critical && idle < self.idle_after {
            return ByteSize::ZERO;
        }
        let Some(moves) = self.moves.try_lock() else { return ByteSize::ZERO };
        let mut old = self.slot.swap(None);
        // Swapping turns what readers owe into counts: now they can be counted.
        if old.as_ref().is_some_and(|old| Arc::strong_count(old) > 1) {
            self.slot.store(old.take());
        }
        drop(moves);
        old.map_or(ByteSize::ZERO, |old| old.charged())
    }

    /// Sets the account that pays for what is loaded from now on, and for what is.
    pub(super) fn charge_to(&self, account: Account) -> Result<(), Account> {
        self.account.set(account)?;
        // Who moved a value before it was set has let go of the lock, or moves it after and sees it.
        let moves = self.moves.lock();
        let loaded = self.slot.load_full();
        if let (Some(loaded), Some(account)) = (&loaded, self.account.get()) {
            loaded.charge_to(account, self.expecting);
        }
        drop(moves);
        Ok(())
    }

    pub(super) fn invocation_ended(&self) {
        self.invocations.fetch_add(1, Relaxed);
        if self.touched.swap(IDLE, Relaxed) == IDLE {
            self.idle.fetch_add(1, Relaxed);
        } else {
            self.idle.store(0, Relaxed);
        }
        if let Some(mut moves) = self.moves.try_lock() {
            moves.retire(None);
        }
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn status(&self) -> ResourceStatus {
        let attempts = self.flight.failure().map_or(0, |failure| failure.error.attempts);
        let mut moves = self.moves.lock();
        let (loaded, loads, last) = (self.slot.load_full(), moves.loads, moves.cost);
        let unloading_pins = moves.retired_pins();
        drop(moves);
        let state = match &loaded {
            Some(loaded) if self.is_fresh(loaded) => ResourceState::Loaded,
            Some(_) => ResourceState::Stale,
            None if self.flight.is_running() => ResourceState::Loading { waiting: self.flight.waiting() },
            None if attempts > 0 => ResourceState::Failed,
            None => ResourceState::Unloaded,
        };
        ResourceStatus {
            name: self.name,
            state,
            unloading_pins,
            failed_attempts: attempts,
            loads,
            cost: last,
            charged: loaded.map_or(ByteSize::ZERO, |loaded| loaded.charged()),
            invocations: self.invocations.load(Relaxed),
            idle: self.idle.load(Relaxed),
            declared: Site(self.declared),
            first_used: self.first_used.get().map(Site),
        }
    }

    /// What the load made of its result: a value with what it cost, charged to the account that it had at first.
    pub(super) fn made(
        begun: Begun,
        loaded: Result<T, E>,
        delta: Option<HeapDelta>,
    ) -> Result<Arc<Generation<T>>, Failed<E>> {
        let Begun { failures, at, watch, mut charge } = begun;
        let cost = LoadCost::new::<T>(watch.elapsed(), delta);
        let value = loaded
            .map_err(|error| Failed { attempts: failures.saturating_add(1), why: Why::Loader(Arc::new(error)) })?;
        if let (Some(charge), Some(retained)) = (&mut charge, cost.retained) {
            charge.shrink(charge.size().saturating_sub(retained));
            charge.book(retained.saturating_sub(charge.size()));
        }
        Ok(Arc::new(Generation::new(value, at, cost, charge)))
    }

    /// Asks others to give way to what a load took beyond what was reserved for it.
    pub(super) fn settle(&self) {
        if let Some(account) = self.account.get() {
            account.relieve();
        }
    }
}

fn is_same<T>(old: Option<&Arc<T>>, new: &Arc<T>) -> bool {
    old.is_some_and(|old| Arc::ptr_eq(old, new))
}

impl<E> Failed<E> {
    pub(super) const fn attempts(&self) -> u32 {
        self.attempts
    }
}

impl<T, E> fmt::Debug for Core<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status().fmt(f)
    }
}
