//! A request in flight, as the layers hold it.

use std::sync::Arc;

use parking_lot::Mutex;

#[cfg(feature = "http")]
use super::Overloaded;
use crate::heap::{Meter, Metered};
#[cfg(feature = "http")]
use crate::monitor::RequestScope;
use crate::monitor::{Invocation, Label, Monitor, Outcome, RequestId};
use crate::size::ByteSize;

/// An invocation with its meter. Dropped, it ends the request.
#[derive(Debug)]
pub(super) struct Reported {
    meter: Meter,
    /// `None` only until it has started.
    invocation: Option<Invocation>,
    /// The most that the request may hold.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only the HTTP layer has limits"))]
    limit: Option<ByteSize>,
    /// The kind of its end.
    outcome: Mutex<Outcome>,
}

impl Metered for Reported {
    fn meter(&self) -> &Meter {
        &self.meter
    }
}

impl Reported {
    /// Starts a request that is unfinished until its outcome is set.
    pub(super) fn start(monitor: &Monitor, id: RequestId, label: Label, limit: Option<ByteSize>) -> Arc<Self> {
        let outcome = Mutex::new(Outcome::Unfinished);
        let mut reported = Arc::new(Self { meter: Meter::default(), invocation: None, limit, outcome });
        // After the allocation, which is no growth of the heap by the request.
        if let Some(reported) = Arc::get_mut(&mut reported) {
            reported.invocation = Some(monitor.start_sampled(id, label));
        }
        reported
    }

    /// Returns the scope of the request.
    #[cfg(feature = "http")]
    pub(super) fn scope(self: &Arc<Self>) -> RequestScope {
        RequestScope::new(Arc::<Self>::clone(self))
    }

    /// Counts `work` for the request.
    pub(super) fn run<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        Meter::run(self, work)
    }

    pub(super) fn set_outcome(&self, outcome: Outcome) {
        *self.outcome.lock() = outcome;
    }

    /// Lets the alarm know how much the request has held at most.
    pub(super) fn note_peak(&self) {
        if let Some(invocation) = &self.invocation {
            invocation.note_peak(self.meter.peak());
        }
    }

    /// Counts `bytes` as handed out.
    #[cfg(feature = "http")]
    pub(super) fn hand_over(&self, bytes: usize) {
        self.meter.hand_over(bytes as u64);
    }

    /// Returns the error if the request holds more than its limit.
    #[cfg(feature = "http")]
    pub(super) fn overloaded(&self) -> Option<Overloaded> {
        let limit = self.limit?;
        let held = self.meter.held();
        (held > limit).then_some(Overloaded { held, limit })
    }
}

impl Drop for Reported {
    fn drop(&mut self) {
        if let Some(invocation) = &mut self.invocation {
            invocation.end(*self.outcome.get_mut(), self.meter.read());
        }
    }
}
