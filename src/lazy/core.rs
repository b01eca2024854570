//! The common part of the blocking and the async resource: the value, the load in flight, and the failed attempts.
//!
//! ```text
//!              start                 finish_load
//!   no load ----------> in flight ------------------> its value is in the slot, unless `unload` was called
//!      ^                    |
//!      +--------------------+ lose: cancelled, panicked or timed out; a failed attempt
//! ```
//!
//! The value is in the *slot*, which `get` reads without a lock. All changes of the slot, of the load in flight and of the
//! failure are made under one lock. So a load that starts has seen that the slot has no fresh value, and a value is moved to
//! the slot once, by the caller that completes the load. A blocking load is completed by its leader. An async load is
//! completed by the first caller that sees its output ([`ResourceCore::collect`]).
//!
//! No user code runs under the lock. Values and errors that are removed are dropped after it ([`Garbage`]).

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use once_cell::race::OnceRef;
use once_cell::sync::OnceCell;

use crate::budget::{Account, BudgetExceeded, Pressure, ReclaimPriority};
use crate::clock::{Clock, Stopwatch};
use crate::size::ByteSize;
use crate::sync::Mutex;

use super::backoff::Backoff;
use super::error::{FailureCause, LazyError, LoadFailure, Site};
use super::generation::{Generation, Pinned};
use super::load::{Ended, Failure, InFlight, Outcome, PendingLoad};
use super::state::{Garbage, History, Load, Lookup, Purpose, Stall, State, Then};
use super::status::{ResourceState, ResourceStatus};

/// No maximum age.
const NEVER: u64 = u64::MAX;

/// The longest pause after a load, in milliseconds.
const MAX_PAUSE: u64 = 30_000;

/// Not used in this invocation.
const UNUSED: u8 = 0;
/// Used. The age of the value is checked at each use.
const USED: u8 = 1;
/// Used, and the value is fresh for as long as it is there.
const USED_AND_FRESH: u8 = 2;

/// A resource without its loader. `L` is the handle of a load in flight.
pub(super) struct ResourceCore<T, E, L> {
    /// The value that `get` returns.
    slot: ArcSwapOption<Generation<T>>,
    /// The age at which the value is stale, in milliseconds, or [`NEVER`].
    refresh_after: u64,
    /// The age from which the value is not shown, in milliseconds, or [`NEVER`].
    stale_at_most: u64,
    /// [`UNUSED`], [`USED`] or [`USED_AND_FRESH`], since the end of the last invocation. Set once in an invocation, so that
    /// readers share its cache line.
    usage: AtomicU8,
    state: Mutex<State<T, E, L>>,
    name: &'static str,
    declared: &'static Location<'static>,
    first_used: OnceRef<'static, Location<'static>>,
    pub(super) clock: Clock,
    pub(super) expecting: ByteSize,
    pub(super) backoff: Backoff,
    pub(super) rank: ReclaimPriority,
    /// The number of invocations without a use after which it is idle.
    pub(super) idle_after: u64,
    /// Detached loads have a driver, which waits for them as a caller does.
    pub(super) has_drivers: bool,
    account: OnceCell<Account>,
    /// Invocations that ended since the last use.
    idle: AtomicU64,
    /// Invocations that ended since a monitor watches it.
    invocations: AtomicU64,
}

impl<T, E, L: InFlight<T, E>> ResourceCore<T, E, L> {
    pub(super) const fn new(name: &'static str, declared: &'static Location<'static>) -> Self {
        let history = History::new();
        Self {
            slot: ArcSwapOption::const_empty(),
            refresh_after: NEVER,
            stale_at_most: NEVER,
            usage: AtomicU8::new(UNUSED),
            state: Mutex::new(State { in_flight: None, failure: None, refused_at: None, history }),
            name,
            declared,
            first_used: OnceRef::new(),
            clock: Clock::system(),
            expecting: ByteSize::ZERO,
            backoff: Backoff::DEFAULT,
            rank: ReclaimPriority::RESOURCE,
            idle_after: 3,
            has_drivers: false,
            account: OnceCell::new(),
            idle: AtomicU64::new(0),
            invocations: AtomicU64::new(0),
        }
    }

    pub(super) const fn refresh_after(&mut self, millis: u64) {
        self.refresh_after = millis;
        // It may have been used already.
        self.usage = AtomicU8::new(UNUSED);
    }

    pub(super) const fn stale_at_most(&mut self, millis: u64) {
        self.stale_at_most = millis;
        self.usage = AtomicU8::new(UNUSED);
    }

    const fn never_stale(&self) -> bool {
        self.refresh_after == NEVER && self.stale_at_most == NEVER
    }

    /// Pins the value in the slot, if its age does not matter: one test decides.
    #[inline]
    pub(super) fn pin(&self) -> Option<Pinned<T>> {
        if self.usage.load(Relaxed) == USED_AND_FRESH { Pinned::of_slot(self.slot.load()) } else { None }
    }

    /// Records a use.
    pub(super) fn touch(&self, caller: &'static Location<'static>) {
        if self.usage.load(Relaxed) == UNUSED {
            self.usage.store(if self.never_stale() { USED_AND_FRESH } else { USED }, Relaxed);
            // Only the first one is kept.
            let _later = self.first_used.set(caller);
        }
    }

    /// Returns `true` if the value is fresh.
    fn is_fresh(&self, generation: &Generation<T>) -> bool {
        self.never_stale() || self.clock.now().saturating_sub(generation.loaded_at) < self.fresh_for()
    }

    fn fresh_for(&self) -> u64 {
        self.refresh_after.min(self.stale_at_most)
    }

    fn is_shown(&self, generation: &Generation<T>, now: u64) -> bool {
        self.stale_at_most == NEVER || now.saturating_sub(generation.loaded_at) < self.stale_at_most
    }

    /// Returns `true` if a stale value may be refreshed, failures apart.
    ///
    /// The pause after a load is as long as the load, up to a limit. Otherwise a load that takes longer than
    /// `refresh_after` would run at each call. With a refresh after 1 s and loads of 2 s, a load that ends at 2 s is followed
    /// by one that starts at 4 s. The limit is for loads during which the process was frozen.
    fn is_due(&self, generation: &Generation<T>, now: u64) -> bool {
        let pause = generation.load_millis().min(MAX_PAUSE);
        now.saturating_sub(generation.loaded_at) >= self.fresh_for() && now.saturating_sub(generation.ended_at) >= pause
    }

    /// Returns how long no attempt is made after a failure, in milliseconds.
    fn retry_in(&self, failure: &Failure<E>, now: u64) -> u64 {
        self.backoff.wait(failure.attempts).saturating_sub(now.saturating_sub(failure.at))
    }

    /// Looks for the value and returns the next step of the caller. `start` makes the handle of a new load; its
    /// argument is `true` if the load is detached, and it runs under the lock.
    pub(super) fn look_up<S>(&self, purpose: Purpose, start: impl Fn(bool) -> (Arc<L>, S)) -> Lookup<T, E, L, S> {
        if purpose == Purpose::Get
            && let Some(pin) = Pinned::of_slot(self.slot.load())
            && self.is_fresh(pin.generation())
        {
            return Lookup::Found(pin);
        }
        loop {
            let mut garbage = Garbage::none();
            let mut state = self.state.lock();
            self.collect(&mut state, &mut garbage);
            let lookup = self.look_up_locked(&mut state, &mut garbage, purpose, &start);
            drop(state);
            garbage.dispose();
            if let Some(lookup) = lookup {
                return lookup;
            }
        }
    }

    /// Returns `None` if a load in flight hangs. The caller abandons it, and looks again.
    fn look_up_locked<S>(
        &self,
        state: &mut State<T, E, L>,
        garbage: &mut Garbage<T, E, L>,
        purpose: Purpose,
        start: impl Fn(bool) -> (Arc<L>, S),
    ) -> Option<Lookup<T, E, L, S>> {
        let now = self.clock.now();
        let value = Pinned::of_slot(self.slot.load());
        let hang_limit = self.hang_limit(value.as_ref());
        // A refresh shows no old value.
        let shown = match value.filter(|pin| purpose == Purpose::Get && self.is_shown(pin.generation(), now)) {
            Some(pin) if self.is_fresh(pin.generation()) => return Some(Lookup::Found(pin)),
            shown => shown,
        };
        if let Some(load) = &mut state.in_flight {
            let handle = Arc::clone(&load.handle);
            if (load.is_detached || shown.is_some()) && load.has_hung::<T, E>(now, hang_limit) {
                load.has_timed_out = true;
                garbage.abandoned = Some(handle);
                return None;
            }
            return Some(match shown {
                Some(pin) => Lookup::Stale(pin, load.is_detached.then_some(handle)),
                None => Lookup::Wait { handle, then: self.after(load, now) },
            });
        }
        let failure = state.failure.as_ref().filter(|failure| self.retry_in(failure, now) > 0);
        Some(match (shown, failure) {
            (Some(pin), Some(_)) => Lookup::Stale(pin, None),
            (Some(pin), None) if !self.is_due(pin.generation(), now) || self.was_refused(state, now) => {
                Lookup::Stale(pin, None)
            }
            // Without an error there is nothing to return.
            (None, Some(failure)) if purpose == Purpose::Get && failure.error.is_some() => {
                Lookup::Failed(failure.clone())
            }
            (shown, _) => {
                let attempt = state.failure.as_ref().map_or(0, |failure| failure.attempts).saturating_add(1);
                let is_detached = L::DETACHES && shown.is_some();
                let (handle, started) = start(is_detached);
                // Its end may be seen by a reclaimer, which must not allocate.
                state.history.retired.reserve(1);
                state.in_flight = Some(Load {
                    handle,
                    started_at: now,
                    is_kept: true,
                    is_detached,
                    has_timed_out: false,
                    stall: Stall::new(now),
                });
                Lookup::Start { started, attempt, stale: shown }
            }
        })
    }

    /// Returns the next step of a caller that waits for `load` from now on.
    fn after(&self, load: &Load<L>, now: u64) -> Then {
        let age = now.saturating_sub(load.started_at);
        if !load.is_kept || age >= self.stale_at_most {
            Then::LookAgain
        } else if age >= self.fresh_for() {
            Then::ReturnStale
        } else {
            Then::Return
        }
    }

    /// Returns `true` if the budget refused a load shortly before. Each refusal asks other accounts to release memory, so a
    /// refresh waits as after a failure.
    fn was_refused(&self, state: &State<T, E, L>, now: u64) -> bool {
        state.refused_at.is_some_and(|at| now.saturating_sub(at) < self.backoff.wait(1))
    }

    /// Returns the time without a step after which a refresh counts as hung, in milliseconds.
    fn hang_limit(&self, value: Option<&Pinned<T>>) -> u64 {
        let last = value.map_or(0, |pin| pin.generation().load_millis());
        self.backoff.longest().max(last.saturating_mul(2))
    }

    /// Reserves the memory of a load.
    ///
    /// # Errors
    ///
    /// [`BudgetExceeded`] if the account refuses it.
    pub(super) fn start_load(&self, attempt: u32) -> Result<PendingLoad, BudgetExceeded> {
        let account = self.account.get().filter(|_| self.expecting > ByteSize::ZERO);
        let charge = account.map(|account| account.try_reserve(self.expecting)).transpose()?;
        let (started_at, clock) = (self.clock.now(), self.clock.clone());
        Ok(PendingLoad { attempt, started_at, watch: Stopwatch::start(), charge, clock })
    }

    /// Ends the load in flight, for its leader, and calls `wake` before old values are dropped.
    pub(super) fn complete(&self, outcome: Option<&Outcome<T, E>>, wake: impl FnOnce()) {
        let mut garbage = Garbage::none();
        let mut state = self.state.lock();
        match outcome {
            Some(outcome) => self.finish_load(&mut state, outcome, &mut garbage),
            None => self.lose(&mut state, FailureCause::Panicked, &mut garbage),
        }
        drop(state);
        wake();
        garbage.dispose();
    }

    /// Ends the load in flight if it has an outcome that was not seen before, or never will.
    pub(super) fn collect_ended(&self) {
        let mut garbage = Garbage::none();
        self.collect(&mut self.state.lock(), &mut garbage);
        garbage.dispose();
    }

    fn collect(&self, state: &mut State<T, E, L>, garbage: &mut Garbage<T, E, L>) {
        match state.in_flight.as_ref().and_then(|load| load.handle.ended()) {
            Some(Ended::Complete(outcome)) => {
                self.finish_load(state, &outcome, garbage);
                garbage.outcome = Some(outcome);
            }
            Some(Ended::Lost(cause)) => self.lose(state, cause, garbage),
            None => {}
        }
    }

    /// Moves the value of the load in flight to the slot, unless it was unloaded; or records the failure.
    fn finish_load(&self, state: &mut State<T, E, L>, outcome: &Outcome<T, E>, garbage: &mut Garbage<T, E, L>) {
        let Some(load) = state.in_flight.take() else { return };
        match outcome {
            Outcome::Loaded(generation) => {
                if let Some(account) = self.account.get() {
                    generation.charge_to(account, self.expecting);
                }
                state.history.count(generation);
                (garbage.failure, state.refused_at) = (state.failure.take(), None);
                if load.is_kept {
                    garbage.generation = self.slot.swap(Some(Arc::clone(generation)));
                    state.history.retire(garbage.generation.as_ref());
                } else {
                    // Its callers are about to pin it.
                    state.history.retired.push(Arc::downgrade(generation));
                }
            }
            Outcome::Failed(failure) => garbage.failure = state.failure.replace(failure.clone()),
            Outcome::Refused(_) => state.refused_at = Some(self.clock.now()),
        }
        garbage.handle = Some(load.handle);
    }

    /// Ends the load in flight without an outcome, as a failed attempt. No attempt has failed if the load was unloaded, and
    /// only dropped.
    fn lose(&self, state: &mut State<T, E, L>, cause: FailureCause, garbage: &mut Garbage<T, E, L>) {
        let Some(load) = state.in_flight.take() else { return };
        let cause = match cause {
            FailureCause::Cancelled if load.has_timed_out => FailureCause::TimedOut,
            cause => cause,
        };
        if load.is_kept || cause != FailureCause::Cancelled {
            let (attempts, error) = match &state.failure {
                Some(failure) => (failure.attempts.saturating_add(1), failure.error.clone()),
                None => (1, None),
            };
            garbage.failure = state.failure.replace(Failure { cause, error, attempts, at: self.clock.now() });
        }
        garbage.handle = Some(load.handle);
    }

    /// Returns what a caller gets that has waited for a load: `stale` if the load failed and the value may be shown.
    pub(super) fn deliver(&self, outcome: Outcome<T, E>, stale: Option<Pinned<T>>) -> Result<Pinned<T>, LazyError<E>> {
        let error = match outcome {
            Outcome::Loaded(generation) => {
                // Its `Drop` may panic, so not when the result is complete.
                drop(stale);
                return Ok(Pinned::of(generation));
            }
            Outcome::Failed(failure) => self.to_error(&failure),
            Outcome::Refused(source) => LazyError::OverBudget { name: self.name, source },
        };
        // It has grown older during the load.
        let shown = stale.filter(|pin| self.is_shown(pin.generation(), self.clock.now()));
        shown.map(Pinned::into_stale).ok_or(error)
    }

    /// Returns the stale value to a caller that did not wait for a refresh. `None` if it is too old by now.
    pub(super) fn deliver_stale(&self, stale: Pinned<T>) -> Option<Pinned<T>> {
        let is_shown = self.is_shown(stale.generation(), self.clock.now());
        is_shown.then(|| stale.into_stale())
    }

    /// Returns the value of a refresh to a caller that did not wait for it.
    pub(super) fn deliver_late(&self, generation: Arc<Generation<T>>) -> Pinned<T> {
        let is_fresh = self.is_fresh(&generation);
        let pin = Pinned::of(generation);
        if is_fresh { pin } else { pin.into_stale() }
    }

    #[cold]
    pub(super) fn to_error(&self, failure: &Failure<E>) -> LazyError<E> {
        LazyError::Failed(Box::new(self.describe(failure)))
    }

    fn describe(&self, failure: &Failure<E>) -> LoadFailure<E> {
        let now = self.clock.now();
        LoadFailure {
            name: self.name,
            error: failure.error.clone(),
            cause: failure.cause,
            attempts: failure.attempts,
            age: Duration::from_millis(now.saturating_sub(failure.at)),
            retry_in: Duration::from_millis(self.retry_in(failure, now)),
            declared: Site(self.declared),
            first_used: self.first_used.get().map(Site),
        }
    }

    /// Returns the failed attempts since the last value.
    pub(super) fn last_failure(&self) -> Option<Failure<E>> {
        let mut garbage = Garbage::none();
        let mut state = self.state.lock();
        self.collect(&mut state, &mut garbage);
        let failure = state.failure.clone();
        drop(state);
        garbage.dispose();
        failure
    }

    pub(super) fn failure(&self) -> Option<LoadFailure<E>> {
        self.last_failure().map(|failure| self.describe(&failure))
    }

    /// Removes the value, and returns the number of pins that hold it. A load in flight does not store its value.
    pub(super) fn unload(&self) -> Option<usize> {
        let mut garbage = Garbage::none();
        let mut state = self.state.lock();
        self.collect(&mut state, &mut garbage);
        let old = self.slot.swap(None);
        state.history.retire(old.as_ref());
        if let Some(load) = &mut state.in_flight {
            load.is_kept = false;
            if load.is_detached && load.handle.waiting() <= usize::from(self.has_drivers) {
                // No caller would get its value.
                garbage.abandoned = Some(Arc::clone(&load.handle));
            }
        }
        drop(state);
        garbage.dispose();
        self.collect_ended();
        let pins = old.as_ref().map(|old| Arc::strong_count(old) - 1);
        drop(old);
        pins
    }

    /// Removes the value if it is idle and not pinned. Never waits.
    pub(super) fn reclaim(&self, pressure: Pressure) {
        let idle = if self.usage.load(Relaxed) == UNUSED { self.idle.load(Relaxed) } else { 0 };
        if pressure < Pressure::Critical && idle < self.idle_after {
            return;
        }
        let Some(mut state) = self.state.try_lock() else { return };
        // The value of a refresh that has ended is not in the slot yet. The garbage holds it too, so it is dropped first.
        let mut garbage = Garbage::none();
        self.collect(&mut state, &mut garbage);
        drop(state);
        garbage.dispose();
        let Some(state) = self.state.try_lock() else { return };
        let mut old = self.slot.swap(None);
        // The swap turns the debts of readers into counts, so that they can be counted.
        if old.as_ref().is_some_and(|old| Arc::strong_count(old) > 1) {
            self.slot.store(old.take());
        }
        drop(state);
        drop(old);
    }

    /// Sets the account for the value that is there and for all later ones.
    pub(super) fn charge_to(&self, account: Account) -> Result<(), Account> {
        self.account.set(account)?;
        // A caller that moved a value before this has released the lock, or moves it later and sees the account.
        let state = self.state.lock();
        let loaded = self.slot.load_full();
        if let (Some(loaded), Some(account)) = (&loaded, self.account.get()) {
            loaded.charge_to(account, self.expecting);
        }
        drop(state);
        Ok(())
    }

    pub(super) fn invocation_ended(&self) {
        self.invocations.fetch_add(1, Relaxed);
        if self.usage.swap(UNUSED, Relaxed) == UNUSED {
            self.idle.fetch_add(1, Relaxed);
        } else {
            self.idle.store(0, Relaxed);
        }
        if let Some(mut state) = self.state.try_lock() {
            state.history.retire(None);
        }
    }

    pub(super) fn status(&self) -> ResourceStatus {
        let mut garbage = Garbage::none();
        let mut state = self.state.lock();
        self.collect(&mut state, &mut garbage);
        let failed_attempts = state.failure.as_ref().map_or(0, |failure| failure.attempts);
        let loaded = self.slot.load_full();
        let is_shown = loaded.as_ref().is_some_and(|loaded| self.is_shown(loaded, self.clock.now()));
        let status = ResourceStatus {
            name: self.name,
            state: match (&loaded, &state.in_flight) {
                (Some(loaded), _) if self.is_fresh(loaded) => ResourceState::Loaded,
                (Some(_), _) if is_shown => ResourceState::Stale,
                (_, Some(load)) => ResourceState::Loading { waiting: load.handle.waiting() },
                _ if failed_attempts > 0 => ResourceState::Failed,
                (Some(_), None) => ResourceState::Stale,
                (None, None) => ResourceState::Unloaded,
            },
            unloading_pins: 0,
            failed_attempts,
            loads: state.history.loads,
            cost: state.history.cost,
            charged: loaded.as_ref().map_or(ByteSize::ZERO, |loaded| loaded.charged()),
            invocations: self.invocations.load(Relaxed),
            idle: self.idle.load(Relaxed),
            declared: Site(self.declared),
            first_used: self.first_used.get().map(Site),
        };
        drop(state);
        // The output of a load that was just collected is not a pin.
        garbage.dispose();
        drop(loaded);
        ResourceStatus { unloading_pins: self.state.lock().history.retired_pins(), ..status }
    }

    /// Asks other accounts to release the memory that a load took beyond its reservation.
    pub(super) fn reclaim_overdraft(&self) {
        if let Some(account) = self.account.get() {
            account.reclaim_overdraft();
        }
    }
}

impl<T, E, L> ResourceCore<T, E, L> {
    pub(super) const fn name(&self) -> &'static str {
        self.name
    }
}

impl<T, E, L: InFlight<T, E>> fmt::Debug for ResourceCore<T, E, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status().fmt(f)
    }
}
