//! A request in flight, as the layers hold it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Relaxed};
use std::task::{Context, Poll};

use parking_lot::Mutex;

#[cfg(feature = "http")]
use super::Overloaded;
use crate::heap::{Meter, Metered};
#[cfg(feature = "http")]
use crate::monitor::RequestScope;
use crate::monitor::{Invocation, Label, Monitor, Outcome, RequestId};
use crate::size::ByteSize;

/// The panic of a poll after the end.
pub(super) const POLLED_AGAIN: &str = "the future of a response was polled after its end";

/// The smallest peak of a request that the alarm names.
const MIN_LISTED_PEAK: ByteSize = ByteSize::kib(64);

/// A request in flight, which ends when the last clone is dropped. A scope of it can live on.
#[derive(Debug)]
pub(super) struct Reported(Arc<Shared>);

/// In one allocation with the meter, which scopes hold as well.
#[derive(Debug)]
struct Shared {
    meter: Meter,
    /// `None` after the end.
    invocation: Mutex<Option<Invocation>>,
    /// The number of [`Reported`].
    holders: AtomicUsize,
    /// The most that the request may hold.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only the HTTP layer has limits"))]
    limit: Option<ByteSize>,
    /// The kind of its end.
    outcome: Mutex<Outcome>,
}

impl Metered for Shared {
    fn meter(&self) -> &Meter {
        &self.meter
    }
}

impl Reported {
    /// Starts a request that is unfinished until its outcome is set.
    pub(super) fn start(monitor: &Monitor, id: RequestId, label: Label, limit: Option<ByteSize>) -> Self {
        let mut shared = Arc::new(Shared {
            meter: Meter::default(),
            invocation: Mutex::new(None),
            holders: AtomicUsize::new(1),
            limit,
            outcome: Mutex::new(Outcome::Unfinished),
        });
        // After the allocation, which is no growth of the heap by the request.
        if let Some(shared) = Arc::get_mut(&mut shared) {
            *shared.invocation.get_mut() = Some(monitor.start_sampled(id, label));
        }
        Self(shared)
    }

    /// Returns the scope of the request.
    #[cfg(feature = "http")]
    pub(super) fn scope(&self) -> RequestScope {
        RequestScope::new(Arc::<Shared>::clone(&self.0))
    }

    /// Counts `work` for the request.
    pub(super) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        Meter::run(&self.0, work)
    }

    /// Polls a future of the request, and drops it at its end.
    ///
    /// # Panics
    ///
    /// Panics if it has ended.
    #[expect(clippy::panic, reason = "a poll after the end is a fault of the caller, as for an async block")]
    pub(super) fn poll<F: Future>(&self, mut future: Pin<&mut Option<F>>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let polled = self.run(|| {
            let Some(running) = future.as_mut().as_pin_mut() else { panic!("{POLLED_AGAIN}") };
            let polled = running.poll(cx);
            if polled.is_ready() {
                // The memory of the future itself is freed by the request.
                future.set(None);
            }
            polled
        });
        self.note_peak();
        polled
    }

    pub(super) fn set_outcome(&self, outcome: Outcome) {
        *self.0.outcome.lock() = outcome;
    }

    /// Lets the alarm know how much the request has held at most.
    pub(super) fn note_peak(&self) {
        let peak = self.0.meter.peak();
        // A small one is of no interest to the alarm.
        if peak >= MIN_LISTED_PEAK
            && let Some(invocation) = &*self.0.invocation.lock()
        {
            invocation.note_peak(peak);
        }
    }

    /// Counts `bytes` as handed out.
    #[cfg(feature = "http")]
    pub(super) fn hand_over(&self, bytes: usize) {
        self.0.meter.hand_over(bytes as u64);
    }

    /// Returns the error if the request holds more than its limit.
    #[cfg(feature = "http")]
    pub(super) fn overloaded(&self) -> Option<Overloaded> {
        let limit = self.0.limit?;
        let held = self.0.meter.held();
        (held > limit).then_some(Overloaded { held, limit })
    }
}

impl Clone for Reported {
    fn clone(&self) -> Self {
        self.0.holders.fetch_add(1, Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Reported {
    fn drop(&mut self) {
        if self.0.holders.fetch_sub(1, AcqRel) > 1 {
            return;
        }
        // Out of the lock before observers run.
        let invocation = self.0.invocation.lock().take();
        if let Some(mut invocation) = invocation {
            let outcome = *self.0.outcome.lock();
            invocation.end(outcome, self.0.meter.read());
        }
    }
}
