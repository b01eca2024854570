//! One load of a resource: its start, its outcome, and its handle while it is in flight.

use std::sync::Arc;

use crate::budget::{BudgetExceeded, Reservation};
use crate::clock::{Clock, Stopwatch};
use crate::heap::HeapDelta;
use crate::singleflight::{Abandonment, Joined, Latch, SharedFuture};

use super::error::FailureCause;
use super::generation::{Generation, LoadCost};

/// The outcome of a load. All its callers get the same.
pub(super) enum Outcome<T, E> {
    Loaded(Arc<Generation<T>>),
    Failed(Failure<E>),
    /// The budget refused the memory, so nothing was loaded.
    Refused(BudgetExceeded),
}

impl<T, E> Clone for Outcome<T, E> {
    fn clone(&self) -> Self {
        match self {
            Self::Loaded(generation) => Self::Loaded(Arc::clone(generation)),
            Self::Failed(failure) => Self::Failed(failure.clone()),
            Self::Refused(refused) => Self::Refused(refused.clone()),
        }
    }
}

/// The failed attempts since the last value.
pub(super) struct Failure<E> {
    /// The cause of the last of them.
    pub(super) cause: FailureCause,
    /// The last error that the loader returned. `None` if no attempt returned one.
    pub(super) error: Option<Arc<E>>,
    pub(super) attempts: u32,
    /// The time at which the last of them ended.
    pub(super) at: u64,
}

impl<E> Clone for Failure<E> {
    fn clone(&self) -> Self {
        Self { error: self.error.clone(), ..*self }
    }
}

/// A load that is about to run.
pub(super) struct PendingLoad {
    /// Its number among the attempts since the last value, from 1.
    pub(super) attempt: u32,
    pub(super) started_at: u64,
    pub(super) watch: Stopwatch,
    /// The memory that was reserved before it.
    pub(super) charge: Option<Reservation>,
    pub(super) clock: Clock,
}

impl PendingLoad {
    /// Returns the outcome of a load that returned `loaded`.
    pub(super) fn finish<T, E>(self, loaded: Result<T, E>, delta: Option<HeapDelta>) -> Outcome<T, E> {
        let Self { attempt, started_at, watch, mut charge, clock } = self;
        let cost = LoadCost::new::<T>(watch.elapsed(), delta);
        let value = match loaded {
            Ok(value) => value,
            Err(error) => {
                let (cause, error) = (FailureCause::Error, Some(Arc::new(error)));
                return Outcome::Failed(Failure { cause, error, attempts: attempt, at: clock.now() });
            }
        };
        if let (Some(charge), Some(retained)) = (&mut charge, cost.retained) {
            charge.shrink(charge.size().saturating_sub(retained));
            charge.grow(retained.saturating_sub(charge.size()));
        }
        Outcome::Loaded(Arc::new(Generation::new(value, started_at, clock.now(), cost, charge)))
    }
}

/// The end of a load in flight.
pub(super) enum Ended<T, E> {
    Complete(Outcome<T, E>),
    /// Without an outcome.
    Lost(FailureCause),
}

/// The handle of a load that is in flight: its callers wait for the outcome.
pub(super) trait InFlight<T, E> {
    /// `true` if a load can run without a caller that waits for it.
    const DETACHES: bool;

    /// Returns how the load has ended, if it has and its leader does not publish the outcome itself.
    fn ended(&self) -> Option<Ended<T, E>>;

    /// Returns the number of callers that wait.
    fn waiting(&self) -> usize;

    /// Returns a number that changes with each step of the load. `None` if a step is being made, or if that is not known.
    fn step(&self) -> Option<u64>;

    /// Abandons the load, if it can be abandoned.
    fn abandon(&self);
}

impl<T, E> InFlight<T, E> for Latch<Outcome<T, E>> {
    const DETACHES: bool = false;

    fn ended(&self) -> Option<Ended<T, E>> {
        None
    }

    fn waiting(&self) -> usize {
        self.waiting()
    }

    fn step(&self) -> Option<u64> {
        None
    }

    fn abandon(&self) {}
}

impl<T, E> InFlight<T, E> for SharedFuture<Outcome<T, E>> {
    const DETACHES: bool = true;

    fn ended(&self) -> Option<Ended<T, E>> {
        match self.output()? {
            Joined::Complete(outcome) => Some(Ended::Complete(outcome)),
            Joined::Abandoned | Joined::Reentrant => Some(Ended::Lost(match self.abandonment() {
                Some(Abandonment::Panicked) => FailureCause::Panicked,
                Some(Abandonment::Left | Abandonment::Stopped) | None => FailureCause::Cancelled,
            })),
        }
    }

    fn waiting(&self) -> usize {
        self.waiting()
    }

    fn step(&self) -> Option<u64> {
        self.polls_if_idle()
    }

    fn abandon(&self) {
        self.abandon();
    }
}
