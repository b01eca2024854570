//! The state of a resource that is changed under its lock, and the steps of a caller that looks at it.

use std::sync::{Arc, Weak};

use crate::unwind::contained;

use super::generation::{Generation, LoadCost, Pinned};
use super::load::{Failure, InFlight, Outcome};

/// The state that is changed under the lock.
pub(super) struct State<T, E, L> {
    pub(super) in_flight: Option<Load<L>>,
    /// `None` if the last attempt succeeded.
    pub(super) failure: Option<Failure<E>>,
    /// The time at which the budget refused the last load.
    pub(super) refused_at: Option<u64>,
    pub(super) history: History<T>,
}

/// The load in flight.
pub(super) struct Load<L> {
    pub(super) handle: Arc<L>,
    pub(super) started_at: u64,
    /// `true` until `unload`, after which its value is not stored.
    pub(super) is_kept: bool,
    /// `true` for a refresh that runs without a caller that waits for it.
    pub(super) is_detached: bool,
    /// `true` if it hangs, and is about to be abandoned.
    pub(super) has_timed_out: bool,
    pub(super) stall: Stall,
}

/// The time for which a load has not made a step, as far as callers have looked.
pub(super) struct Stall {
    /// [`InFlight::step`] at the last look.
    step: Option<u64>,
    looked_at: u64,
    millis: u64,
}

impl Stall {
    pub(super) const fn new(now: u64) -> Self {
        Self { step: None, looked_at: now, millis: 0 }
    }
}

impl<L> Load<L> {
    /// Returns `true` if the load has not made a step for `limit` milliseconds, as far as callers have looked.
    ///
    /// The time between two looks counts for at most half of the limit: the process may have been frozen in between, and the
    /// load could not run.
    pub(super) fn has_hung<T, E>(&mut self, now: u64, limit: u64) -> bool
    where
        L: InFlight<T, E>,
    {
        let step = self.handle.step();
        if step.is_none() || step != self.stall.step {
            self.stall = Stall { step, ..Stall::new(now) };
            return false;
        }
        let since = now.saturating_sub(self.stall.looked_at).min(limit.div_ceil(2));
        self.stall.millis = self.stall.millis.saturating_add(since);
        self.stall.looked_at = now;
        self.stall.millis >= limit
    }
}

/// The values of the past.
pub(super) struct History<T> {
    /// The number of values that were loaded.
    pub(super) loads: u64,
    /// The cost of the last of them.
    pub(super) cost: Option<LoadCost>,
    /// Values that were removed while callers held pins of them.
    pub(super) retired: Vec<Weak<Generation<T>>>,
}

impl<T> History<T> {
    pub(super) const fn new() -> Self {
        Self { loads: 0, cost: None, retired: Vec::new() }
    }

    /// Counts a value that was loaded.
    pub(super) const fn count(&mut self, loaded: &Generation<T>) {
        self.loads += 1;
        self.cost = Some(loaded.cost);
    }

    /// Remembers a removed value if pins hold it. Otherwise the `Weak` would keep its memory block.
    pub(super) fn retire(&mut self, old: Option<&Arc<Generation<T>>>) {
        self.retired.retain(|old| old.strong_count() > 0);
        self.retired.extend(old.filter(|old| Arc::strong_count(old) > 1).map(Arc::downgrade));
    }

    pub(super) fn retired_pins(&mut self) -> usize {
        self.retire(None);
        self.retired.iter().map(Weak::strong_count).sum()
    }
}

/// Values, errors and futures that are dropped after the lock is released: their `Drop` is user code.
pub(super) struct Garbage<T, E, L> {
    pub(super) generation: Option<Arc<Generation<T>>>,
    pub(super) outcome: Option<Outcome<T, E>>,
    pub(super) failure: Option<Failure<E>>,
    pub(super) handle: Option<Arc<L>>,
    /// A load to abandon.
    pub(super) abandoned: Option<Arc<L>>,
}

impl<T, E, L: InFlight<T, E>> Garbage<T, E, L> {
    pub(super) const fn none() -> Self {
        Self { generation: None, outcome: None, failure: None, handle: None, abandoned: None }
    }

    /// Abandons the load that is to be abandoned, and drops everything.
    pub(super) fn dispose(self) {
        let Self { generation, outcome, failure, handle, abandoned } = self;
        if let Some(abandoned) = &abandoned {
            contained(|| abandoned.abandon());
        }
        // Each on its own: two panics at once would abort.
        contained(|| drop(generation));
        contained(|| drop(outcome));
        contained(|| drop(failure));
        contained(|| drop(handle));
        contained(|| drop(abandoned));
    }
}

/// The purpose of a lookup.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To get the value, also a stale one.
    Get,
    /// To load the value again.
    Refresh,
}

/// The next step of a caller that has waited for a load.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// To return its outcome.
    Return,
    /// To return its outcome. A value is stale, because the load had started too long before this call.
    ReturnStale,
    /// To look again: the load had started before the value was unloaded, or more than `stale_at_most` before this call.
    LookAgain,
}

/// The next step of a caller.
pub(super) enum Lookup<T, E, L, S> {
    /// The value is fresh.
    Found(Pinned<T>),
    /// The value is stale and may be shown. The load is the refresh that runs without a waiter.
    Stale(Pinned<T>, Option<Arc<L>>),
    /// The last attempts failed, and the next is not due.
    Failed(Failure<E>),
    /// The caller waits for this load.
    Wait { handle: Arc<L>, then: Then },
    /// The caller runs this load. `stale` is shown until it succeeds.
    Start { started: S, attempt: u32, stale: Option<Pinned<T>> },
}
