//! The flight: what was loaded, who loads it now, or why it could not be.

use std::sync::Arc;

use crate::sync::{Mutex, ThreadId, constructor};

use super::attempt::{Attempt, Failure, Outcome};

/// A place for one thing that is loaded at most once at a time.
pub(crate) struct Flight<T, E> {
    state: Mutex<State<T, E>>,
}

enum State<T, E> {
    Idle,
    Running(Arc<Attempt<T, E>>),
    Failed(Failure<E>),
    Ready(T),
}

/// Why there is nothing.
#[derive(Debug)]
pub(crate) enum FlightError<E> {
    /// The load failed: now, or before and it is not time to try again.
    Failed(Failure<E>),
    /// The load asked for what it is loading.
    Reentrant,
    /// An async load that this caller began panicked while another one polled it.
    Panicked,
}

/// What a caller finds.
pub(crate) enum Entry<T, E> {
    Ready(T),
    /// Somebody loads it.
    Join(Arc<Attempt<T, E>>),
    /// The caller is to load it, and to settle the flight. The failure before is his to drop, once he sees to that: an
    /// error may panic when it is dropped.
    Lead(Arc<Attempt<T, E>>, Option<Failure<E>>),
}

impl<T, E> Flight<T, E> {
    constructor! {
        pub(crate) const fn new() -> Self {
            Self { state: Mutex::new(State::Idle) }
        }
    }

    /// The flight of a load that this thread has begun without one, for those who come to wait: it is to be
    /// [landed](Self::land).
    pub(crate) fn begun_by(thread: ThreadId) -> Self {
        Self { state: Mutex::new(State::Running(Arc::new(Attempt::led_by(thread)))) }
    }

    /// Forgets the value or the failure, so that the next caller loads anew. `false` where there was neither, or a
    /// load is running.
    #[cfg_attr(not(test), allow(dead_code, reason = "a lazy resource takes its value out by `take_if`"))]
    pub(crate) fn reset(&self) -> bool {
        let mut state = self.state.lock();
        let settled = matches!(*state, State::Ready(_) | State::Failed(_));
        let before = if settled { Some(std::mem::replace(&mut *state, State::Idle)) } else { None };
        drop(state);
        before.is_some()
    }

    /// Takes the value out if it is the one meant, so that the next caller loads anew.
    pub(crate) fn take_if(&self, is_meant: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut state = self.state.lock();
        if !matches!(&*state, State::Ready(value) if is_meant(value)) {
            return None;
        }
        match std::mem::replace(&mut *state, State::Idle) {
            State::Ready(value) => Some(value),
            State::Idle | State::Running(_) | State::Failed(_) => None,
        }
    }

    /// The failure that the last attempt ended with; `None` once a new one has begun.
    pub(crate) fn failure(&self) -> Option<Failure<E>> {
        match &*self.state.lock() {
            State::Failed(failure) => Some(failure.clone()),
            _ => None,
        }
    }

    /// Whether a load is running.
    pub(crate) fn is_running(&self) -> bool {
        matches!(*self.state.lock(), State::Running(_))
    }

    /// How many wait for the load that is running, an async one's leader among them.
    pub(crate) fn waiting(&self) -> usize {
        let running = match &*self.state.lock() {
            State::Running(attempt) => Some(Arc::clone(attempt)),
            _ => None,
        };
        running.map_or(0, |attempt| attempt.waiting())
    }

    /// Ends an attempt: the state first, so that whom the attempt wakes finds it.
    fn settle(&self, attempt: &Arc<Attempt<T, E>>, next: State<T, E>, outcome: Outcome<T, E>) {
        let mut state = self.state.lock();
        let ours = matches!(&*state, State::Running(running) if Arc::ptr_eq(running, attempt));
        // Else it has been settled before, which nobody does; better to leave it alone than to lose another's attempt.
        debug_assert!(ours, "an attempt is settled once");
        let before = if ours { Some(std::mem::replace(&mut *state, next)) } else { None };
        drop(state);
        drop(before);
        attempt.land(outcome);
    }
}

impl<T: Clone, E> Flight<T, E> {
    /// Ends the load of a flight that was [begun](Self::begun_by) elsewhere, as [`get_or_load`](Self::get_or_load) ends
    /// its own; `None` where it panicked.
    ///
    /// # Errors
    ///
    /// [`FlightError::Failed`] with the error; [`FlightError::Panicked`] where there is neither.
    pub(crate) fn land(&self, loaded: Option<Result<T, E>>, now: impl FnOnce() -> u64) -> Result<T, FlightError<E>> {
        let running = match &*self.state.lock() {
            State::Running(attempt) => Some(Arc::clone(attempt)),
            State::Idle | State::Failed(_) | State::Ready(_) => None,
        };
        let leading = running.as_ref().map(|attempt| Lead::new(self, attempt));
        match (leading, loaded) {
            (Some(leading), Some(loaded)) => leading.settle(loaded, now),
            // It has been landed before, which nobody does; or nothing was loaded, and the attempt is lost.
            (_, loaded) => loaded.and_then(Result::ok).ok_or(FlightError::Panicked),
        }
    }

    /// Gets the value, or loads it on this thread, or blocks until who loads it is done.
    ///
    /// `retry` says whether a failure is old enough to try again, and `now` when a failure happens. A panic of `load`
    /// passes through; its waiters ask anew.
    ///
    /// # Errors
    ///
    /// [`FlightError::Failed`], and [`FlightError::Reentrant`] inside the load itself.
    pub(crate) fn get_or_load(
        &self,
        retry: impl Fn(&Failure<E>) -> bool,
        now: impl FnOnce() -> u64,
        load: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, FlightError<E>> {
        loop {
            match self.enter(&retry)? {
                Entry::Ready(value) => return Ok(value),
                Entry::Join(attempt) => match attempt.wait().ok_or(FlightError::Reentrant)? {
                    Outcome::Ready(value) => return Ok(value),
                    Outcome::Failed(failure) => return Err(FlightError::Failed(failure)),
                    Outcome::Lost => {}
                },
                Entry::Lead(attempt, before) => {
                    let leading = Lead::new(self, &attempt);
                    drop(before);
                    return leading.settle(load(), now);
                }
            }
        }
    }

    /// Looks what there is; where there is nothing, begins an attempt that the caller leads.
    pub(super) fn enter(&self, retry: impl Fn(&Failure<E>) -> bool) -> Result<Entry<T, E>, FlightError<E>> {
        let mut state = self.state.lock();
        match &*state {
            State::Ready(value) => Ok(Entry::Ready(value.clone())),
            State::Running(attempt) => Ok(Entry::Join(Arc::clone(attempt))),
            State::Failed(failure) if !retry(failure) => Err(FlightError::Failed(failure.clone())),
            State::Failed(_) | State::Idle => {
                let attempt = Arc::new(Attempt::led_here());
                let before = std::mem::replace(&mut *state, State::Running(Arc::clone(&attempt)));
                let before = if let State::Failed(failure) = before { Some(failure) } else { None };
                Ok(Entry::Lead(attempt, before))
            }
        }
    }
}

/// As long as it lives, the thread runs a load; dropped without an outcome, the attempt is lost.
pub(super) struct Lead<'a, T: Clone, E> {
    flight: &'a Flight<T, E>,
    /// `None` once it is settled or parked.
    attempt: Option<&'a Arc<Attempt<T, E>>>,
}

impl<'a, T: Clone, E> Lead<'a, T, E> {
    pub(super) fn new(flight: &'a Flight<T, E>, attempt: &'a Arc<Attempt<T, E>>) -> Self {
        Self { flight, attempt: Some(attempt) }
    }

    /// Ends the attempt with what the load returned, which the caller gets too.
    pub(super) fn settle(mut self, loaded: Result<T, E>, now: impl FnOnce() -> u64) -> Result<T, FlightError<E>> {
        let loaded = loaded.map_err(|error| Failure { at: now(), error: Arc::new(error) });
        // All that may panic comes before the attempt is let go of.
        let (next, outcome) = match &loaded {
            Ok(value) => (State::Ready(value.clone()), Outcome::Ready(value.clone())),
            Err(failure) => (State::Failed(failure.clone()), Outcome::Failed(failure.clone())),
        };
        if let Some(attempt) = self.attempt.take() {
            self.flight.settle(attempt, next, outcome);
        }
        loaded.map_err(FlightError::Failed)
    }

    /// Leaves the attempt to whoever polls next.
    pub(super) fn hand_over(mut self) {
        self.attempt = None;
    }
}

impl<T: Clone, E> Drop for Lead<'_, T, E> {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt {
            self.flight.settle(attempt, State::Idle, Outcome::Lost);
        }
    }
}
