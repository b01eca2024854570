//! A request in flight, as the layers hold it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Relaxed};
use std::task::{Context, Poll};

use parking_lot::Mutex;

#[cfg(feature = "http")]
use super::Overloaded;
#[cfg(feature = "http")]
use super::admitted::Admitted;
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
    #[cfg(feature = "http")]
    limit: Option<ByteSize>,
    #[cfg(feature = "http")]
    admitted: Option<Admitted>,
    /// The kind of its end.
    outcome: Mutex<Outcome>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            meter: Meter::default(),
            invocation: Mutex::new(None),
            holders: AtomicUsize::new(1),
            #[cfg(feature = "http")]
            limit: None,
            #[cfg(feature = "http")]
            admitted: None,
            outcome: Mutex::new(Outcome::Unfinished),
        }
    }
}

#[cfg(feature = "http")]
impl Shared {
    /// Checks that what the request holds is reserved.
    fn cover(&self) -> Result<(), Overloaded> {
        self.admitted.as_ref().map_or(Ok(()), |admitted| admitted.cover(self.meter.own()))
    }

    /// Releases the reservation at the end of the request.
    fn release(&self, outcome: Outcome) {
        let Some(admitted) = &self.admitted else { return };
        match self.meter.own_peak() {
            Some(peak) if outcome == Outcome::Finished => admitted.record(peak),
            Some(peak) if outcome == Outcome::Overloaded => {
                admitted.note_error();
                admitted.record(peak);
            }
            _ => (),
        }
        admitted.release();
    }
}

impl Metered for Shared {
    fn meter(&self) -> &Meter {
        &self.meter
    }
}

impl Reported {
    /// Starts a request that is unfinished until its outcome is set.
    pub(super) fn start(monitor: &Monitor, id: RequestId, label: Label) -> Self {
        Self::start_shared(monitor, id, label, Shared::default())
    }

    /// Starts a request that may hold `limit` at most, and what it can reserve.
    #[cfg(feature = "http")]
    pub(super) fn start_bounded(
        monitor: &Monitor,
        id: RequestId,
        label: Label,
        limit: Option<ByteSize>,
        admitted: Option<Admitted>,
    ) -> Self {
        let meter = if admitted.is_some() { Meter::with_own() } else { Meter::default() };
        Self::start_shared(monitor, id, label, Shared { meter, limit, admitted, ..Shared::default() })
    }

    fn start_shared(monitor: &Monitor, id: RequestId, label: Label, shared: Shared) -> Self {
        let mut shared = Arc::new(shared);
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

    /// Checks the bytes that the request holds: that they are within its limit, and reserved.
    #[cfg(feature = "http")]
    pub(super) fn check(&self) -> Result<(), Overloaded> {
        let held = self.0.meter.held();
        match self.0.limit {
            Some(limit) if held > limit => return Err(Overloaded::RequestLimit { held, limit }),
            _ => (),
        }
        self.0.cover()
    }

    #[cfg(feature = "http")]
    pub(super) fn admitted(&self) -> Option<&Admitted> {
        self.0.admitted.as_ref()
    }

    /// Lets the reservation cover the response: what the request holds, and `upcoming` bytes of the body, but no more than
    /// is reserved already. Records the peak so far. `is_error`: of the response.
    ///
    /// # Errors
    ///
    /// The request holds more than could be reserved.
    #[cfg(feature = "http")]
    pub(super) fn respond(&self, upcoming: u64, is_error: bool) -> Result<(), Overloaded> {
        let Some(admitted) = &self.0.admitted else { return Ok(()) };
        self.0.cover()?;
        if is_error {
            admitted.note_error();
        }
        if let Some(peak) = self.0.meter.own_peak() {
            admitted.record(peak);
        }
        self.shrink(upcoming);
        Ok(())
    }

    /// Releases what is reserved beyond what the request holds and `upcoming` bytes.
    #[cfg(feature = "http")]
    pub(super) fn shrink(&self, upcoming: u64) {
        // If parts of the request were not measured, it may hold more than is known.
        if let Some(admitted) = &self.0.admitted
            && self.0.meter.read().is_some()
        {
            admitted.shrink_to(self.0.meter.own().saturating_add(ByteSize::bytes(upcoming)));
        }
    }

    /// Returns a handle for the body of the request, if its frames are charged.
    #[cfg(feature = "http")]
    pub(super) fn body_charge(&self) -> Option<BodyCharge> {
        self.0.admitted.is_some().then(|| BodyCharge(Arc::clone(&self.0)))
    }
}

/// Charges the frames of the body of a request. It does not keep the request from ending.
#[cfg(feature = "http")]
#[derive(Debug)]
pub(super) struct BodyCharge(Arc<Shared>);

#[cfg(feature = "http")]
impl BodyCharge {
    /// Charges a frame that was received.
    pub(super) fn charge(&self, len: u64) -> Result<(), Overloaded> {
        let held = self.0.meter.own_now();
        self.0.admitted.as_ref().map_or(Ok(()), |admitted| admitted.receive(len, held))
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
            #[cfg(feature = "http")]
            self.0.release(outcome);
            invocation.end(outcome, self.0.meter.read());
        }
    }
}
