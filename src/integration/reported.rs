//! A request in flight, as the layers hold it.

use super::Overloaded;
use crate::monitor::{Invocation, Label, Monitor, Outcome, RequestId, RequestScope};
use crate::size::ByteSize;

/// An invocation with its scope and its limit. Dropped, it is reported as unfinished.
#[derive(Debug)]
pub(super) struct Reported {
    scope: RequestScope,
    invocation: Invocation,
    limit: Option<ByteSize>,
}

impl Reported {
    pub(super) fn start(monitor: &Monitor, id: RequestId, label: Label, limit: Option<ByteSize>) -> Self {
        let invocation = monitor.start_sampled(id, label);
        Self { scope: invocation.scope(), invocation, limit }
    }

    pub(super) const fn scope(&self) -> &RequestScope {
        &self.scope
    }

    /// Lets the alarm know how much the request has held at most.
    pub(super) fn note_peak(&self) {
        self.invocation.note_peak();
    }

    /// Returns the error if the request holds more than its limit.
    pub(super) fn overloaded(&self) -> Option<Overloaded> {
        let limit = self.limit?;
        let held = self.scope.held();
        (held > limit).then_some(Overloaded { held, limit })
    }

    pub(super) fn end(self, outcome: Outcome) {
        self.invocation.end(outcome);
    }
}
