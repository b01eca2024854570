//! Requests that are admitted only with memory reserved for them, in the layer of HTTP services.
//!
//! ```text
//!            estimate          after each poll: what it holds, if more          at the head of the response
//!  arrives ---------> admitted ------------------------------------> response ----------------------------> last byte
//!     |                  |   a frame of the body: charged                what it holds, and the body to come     |
//!     | no memory        | no memory                                                                            |
//!     v                  v                                                                                      v
//!  waits, 503/413    ended, 503/413                                                              reservation released
//! ```

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use tokio::time::Sleep;

use super::admitted::{Admitted, Guess, OfKind};
use super::estimate::{Estimate, Estimated, MIN_ESTIMATE};
use super::{ACCOUNT, Overloaded};
use crate::budget::{Account, AccountError, BudgetExceeded, Claim, MemoryBudget, Reservation};
use crate::heap;
use crate::monitor::Label;
use crate::os;
use crate::size::ByteSize;
use crate::unwind::contained;

/// The number of the last request that waited. Admissions may share an estimate.
static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// Requests that may wait at the same time, if nothing else is set.
const MAX_WAITING: usize = 256;

/// A probe of an unknown kind does not keep others from probing for longer.
const PROBE_MS: u64 = 1000;

/// The reservation for a response body of unknown length until it first waits: the size of hyper's buffer.
pub(super) const STREAM_BUFFER: u64 = 512 << 10;

/// Makes the response to a request that is refused or ended.
type OnOverload = Arc<dyn Fn(&Overloaded) -> Response<Bytes> + Send + Sync>;

/// Admits a request only with memory reserved for it, and holds the reservation to the last byte of the response: for
/// [`HttpLayer::admit`](super::HttpLayer::admit).
///
/// 1. When a request arrives, its [`Estimate`] is reserved under the budget's account `requests`. If other accounts have to
///    release memory for it, they are asked to, as in [`Account::try_reserve`].
/// 2. If it [holds](crate::monitor::RequestHeap::net) more than that after a poll of the handler or after a frame of its body, the
///    reservation grows.
/// 3. When the response is ready, the reservation shrinks to what the request still holds plus the announced length of the
///    response body; for a body without a length, plus 512 KiB until it first has to wait. So an idle stream of events
///    reserves next to nothing. The reservation ends with the last byte buffer: a slow reader of a large response keeps its
///    bytes reserved.
///
/// A request that cannot have its memory is refused or ended:
///
/// | | |
/// |---|---|
/// | at 1 | the service is not called; the response is a 503 with `retry-after: 1`, or a 413 if its body is too large for the whole budget |
/// | at 2, in the handler | its future is dropped; the same response |
/// | at 2, in a frame of its body | the body fails with [`Overloaded`]; if the handler then responds with an error, the same response replaces it |
/// | at 3 | the response is dropped; the same response |
/// | in the body of the response | the body fails with [`Overloaded`], and the client sees that it is cut off |
///
/// A handler is ended at an `await`, as if the client had closed the connection.
///
/// Memory that the request reserves itself under an account, such as an entry of a cache with an account or a model, does
/// not count for it a second time.
///
/// The order of the layers makes no difference to the budget. Layers around this one, such as one that decompresses bodies,
/// are not part of the request.
///
/// *Not* covered:
///
/// * up to 64 KiB of each request, so that its reservation does not change at each poll;
/// * memory that one poll allocates and frees again, beyond the estimate;
/// * tasks and threads that a request starts, other than in a [`RequestScope`](crate::monitor::RequestScope);
/// * frames of the response below 2 KiB once they are handed out, and a frame that the server copies: hyper does so if the
///   connection has no vectored writes, as some TLS streams;
/// * a frame that is a slice of a larger buffer counts with its own length.
///
/// A budget that [counts the heap](crate::budget::BudgetBuilder::count_heap), as one that was found in the environment does, sees
/// all of these as heap that is not reserved, and refuses others for it.
///
/// # Performance
///
/// A few short locks for each request. A request that waits takes two allocations. If memory is short,
/// reclaimers run on the thread of the request: see [`Account::try_reserve`].
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use axum::{Router, routing::post};
/// use plimsoll::{Admission, MemoryBudget, Monitor};
///
/// # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
/// let budget = MemoryBudget::from_env()?;
/// let monitor = Monitor::builder().budget(&budget).install()?;
/// let admission = Admission::new(&budget)?.wait_up_to(Duration::from_secs(2));
/// let app = Router::new()
///     .route("/thumbnails", post(async |image: axum::body::Bytes| image.len().to_string()))
///     .layer(monitor.http().admit(admission));
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
/// axum::serve(listener, app).await?;
/// # Ok(())
/// # }
/// ```
pub struct Admission {
    account: Account,
    limit: ByteSize,
    pub(super) estimate: Estimate,
    wait: Duration,
    max_waiting: usize,
    waiting: AtomicUsize,
    /// Until this time, in milliseconds, a request of an unknown kind is in flight that has less reserved than a guess.
    probe_until: AtomicU64,
    /// `None` for the default.
    on_overload: Option<OnOverload>,
}

impl Admission {
    /// Creates an admission with the estimate [`learned`](Estimate::learned), and without waiting.
    ///
    /// # Errors
    ///
    /// [`AccountError`] if the budget cannot have one more account, `requests`.
    pub fn new(budget: &MemoryBudget) -> Result<Self, AccountError> {
        Ok(Self {
            account: budget.account(ACCOUNT)?,
            limit: budget.limit(),
            estimate: Estimate::learned(),
            wait: Duration::ZERO,
            max_waiting: MAX_WAITING,
            waiting: AtomicUsize::new(0),
            probe_until: AtomicU64::new(0),
            on_overload: None,
        })
    }

    /// Sets how much a request reserves when it arrives. Default: [`Estimate::learned`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{Admission, ByteSize, Estimate, MemoryBudget};
    /// # let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let admission = Admission::new(&budget)?.estimate(Estimate::constant(ByteSize::mib(8)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn estimate(mut self, estimate: Estimate) -> Self {
        self.estimate = estimate;
        self
    }

    /// Sets how long a request may wait for its reservation. Default: 0, not at all.
    ///
    /// Requests wait in one queue, so a large one is not overtaken by small ones that arrive later. The body of a request that waits is not
    /// read. Waiting needs a runtime of tokio; in another one requests do not wait.
    ///
    /// # Panics
    ///
    /// A request that has to wait panics in a runtime of tokio without timers. Those of `#[tokio::main]` have them.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{Admission, ByteSize, MemoryBudget};
    /// # let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let admission = Admission::new(&budget)?.wait_up_to(std::time::Duration::from_secs(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn wait_up_to(mut self, duration: Duration) -> Self {
        self.wait = duration;
        self
    }

    /// Sets how many requests may wait at the same time. Default: 256. Further ones are refused at once. 0: none waits.
    ///
    /// A request that waits holds its connection, its head, and what the server has read of its body: with hyper up to 408
    /// KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{Admission, ByteSize, MemoryBudget};
    /// # let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let admission = Admission::new(&budget)?.wait_up_to(std::time::Duration::from_secs(2)).max_waiting(64);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn max_waiting(mut self, requests: usize) -> Self {
        self.max_waiting = requests;
        self
    }

    /// Sets the response to a request that is refused or ended. Default: an empty body, with status 413 if the request
    /// [exceeds the whole budget](Overloaded::exceeds_budget) because of its body, otherwise with status 503 and
    /// `retry-after: 1`.
    ///
    /// It is called when memory is short, so keep it small. If it panics, the response is the default one, where panics
    /// unwind.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{Admission, ByteSize, MemoryBudget};
    /// # let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let admission = Admission::new(&budget)?.on_overload(|overloaded| {
    ///     eprintln!("{overloaded}");
    ///     http::Response::builder().status(429).body("busy").unwrap_or_default()
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn on_overload<B: Into<Bytes>>(
        mut self,
        response: impl Fn(&Overloaded) -> Response<B> + Send + Sync + 'static,
    ) -> Self {
        self.on_overload = Some(Arc::new(move |overloaded| response(overloaded).map(Into::into)));
        self
    }

    /// Reserves memory for a request; `length`: of its body.
    pub(super) fn admit(self: &Arc<Self>, parts: &Parts, label: Label, length: Option<u64>) -> Decision {
        let kind = OfKind { admission: Arc::clone(self), label, length };
        // This request is no part of one that runs on this thread.
        heap::outside_of_tasks(|| match self.estimate.of(parts, label, length, self.limit) {
            Estimated::Known(size) => self.admit_known(kind, size),
            Estimated::Guess(size) => self.admit_guess(kind, size),
        })
    }

    fn admit_known(&self, kind: OfKind, mut size: ByteSize) -> Decision {
        loop {
            let waits = !self.wait.is_zero();
            let reserved = if waits { self.account.try_reserve_in_turn(size) } else { self.account.try_reserve(size) };
            let exceeded = match reserved {
                Ok(reserved) => return Decision::Admitted(Admitted::new(kind, reserved, Guess::Nothing)),
                Err(exceeded) => exceeded,
            };
            // An old estimate is no reason never to admit a request again.
            let less = ByteSize::bytes(size.as_u64() / 2);
            let is_possible = !self.estimate.is_learned() || self.account.could_reserve(size, self.account.reserved());
            if is_possible || less < MIN_ESTIMATE {
                return self.wait_or_refuse(kind, size, false, exceeded);
            }
            size = less;
        }
    }

    /// Admits a request of which the size is a guess: no account releases memory for a guess.
    fn admit_guess(&self, kind: OfKind, size: ByteSize) -> Decision {
        if let Some(reserved) = self.reserve_guess(size) {
            return Decision::Admitted(Admitted::new(kind, reserved, Guess::Whole));
        }
        if let Some(until) = self.begin_probe() {
            let half = ByteSize::bytes(self.account.available().as_u64() / 2).clamp(MIN_ESTIMATE, size);
            let reserved = self.reserve_guess(half);
            let reserved = reserved.map_or_else(|| self.account.try_reserve(MIN_ESTIMATE), Ok);
            match reserved {
                Ok(reserved) => return Decision::Admitted(Admitted::new(kind, reserved, Guess::Probe { until })),
                Err(_) => self.end_probe(until),
            }
        }
        let exceeded = self.account.refusal(size);
        self.wait_or_refuse(kind, size, true, exceeded)
    }

    fn reserve_guess(&self, size: ByteSize) -> Option<Reservation> {
        self.account.try_reserve_without_reclaimers(size, !self.wait.is_zero())
    }

    /// Begins a probe, a request with less than its guess: one at a time, or one in [`PROBE_MS`]. Returns what ends it.
    fn begin_probe(&self) -> Option<u64> {
        let now = os::coarse_monotonic_ms();
        let until = now.saturating_add(PROBE_MS);
        let begin = |running_until: u64| (running_until <= now).then_some(until);
        self.probe_until.fetch_update(Relaxed, Relaxed, begin).is_ok().then_some(until)
    }

    pub(super) fn end_probe(&self, until: u64) {
        let _another_runs = self.probe_until.compare_exchange(until, 0, Relaxed, Relaxed);
    }

    fn wait_or_refuse(&self, kind: OfKind, size: ByteSize, is_guess: bool, exceeded: BudgetExceeded) -> Decision {
        let is_in_vain = exceeded.is_reentrant() || exceeded.requested() > exceeded.limit();
        if self.wait.is_zero() || is_in_vain || tokio::runtime::Handle::try_current().is_err() {
            return Decision::Refused(Overloaded::NotAdmitted(exceeded));
        }
        let Some(place) = Place::take(&kind.admission) else {
            return Decision::Refused(Overloaded::NotAdmitted(exceeded));
        };
        let number = LAST_NUMBER.fetch_add(1, Relaxed);
        let deadline = Box::pin(tokio::time::sleep(self.wait));
        Decision::Waits(Waiting {
            claim: self.account.claim(size, !is_guess),
            deadline,
            kind,
            number,
            is_guess,
            began_as_guess: is_guess,
            _place: place,
        })
    }

    /// Returns the response to a request that is refused or ended; `body`: its length, or what was received of it.
    pub(super) fn response(this: Option<&Arc<Self>>, overloaded: &Overloaded, body: u64) -> Response<Bytes> {
        let custom = this.and_then(|admission| admission.on_overload.as_ref());
        if let Some(response) = custom.and_then(|on_overload| contained(|| on_overload(overloaded))) {
            return response;
        }
        let by_body = this.map_or(0, |admission| admission.estimate.of_body(body));
        let is_body_large = body > 0 && body.max(by_body) >= overloaded.wanted().as_u64() / 2;
        let mut response = Response::new(Bytes::new());
        if is_body_large && overloaded.exceeds_budget() {
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        } else {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("estimate", &self.estimate)
            .field("wait_up_to", &self.wait)
            .field("max_waiting", &self.max_waiting)
            .finish_non_exhaustive()
    }
}

/// The decision on a request that arrives.
pub(super) enum Decision {
    Admitted(Admitted),
    Waits(Waiting),
    Refused(Overloaded),
}

/// One of the places of requests that wait.
struct Place(Arc<Admission>);

impl Place {
    fn take(admission: &Arc<Admission>) -> Option<Self> {
        let more = |waiting: usize| (waiting < admission.max_waiting).then_some(waiting + 1);
        admission.waiting.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Self(Arc::clone(admission)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// A request that waits for its reservation. Dropped, it leaves the queue.
pub(super) struct Waiting {
    claim: Claim,
    deadline: Pin<Box<Sleep>>,
    kind: OfKind,
    number: u64,
    /// Its size is still a guess.
    is_guess: bool,
    began_as_guess: bool,
    _place: Place,
}

impl Waiting {
    /// Not called again after it was ready.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Admitted, Overloaded>> {
        heap::outside_of_tasks(|| {
            let reserved = match self.poll_claim(cx) {
                Poll::Ready(reserved) => reserved,
                Poll::Pending if self.deadline.as_mut().poll(cx).is_ready() => self.claim.end(),
                Poll::Pending => return Poll::Pending,
            };
            let OfKind { admission, label, length } = &self.kind;
            let kind = OfKind { admission: Arc::clone(admission), label: *label, length: *length };
            // It may have been granted the guess before that was known.
            let guess = if self.began_as_guess { Guess::Whole } else { Guess::Nothing };
            let admitted = reserved.map(|reserved| Admitted::new(kind, reserved, guess));
            Poll::Ready(admitted.map_err(Overloaded::NotAdmitted))
        })
    }

    fn poll_claim(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reservation, BudgetExceeded>> {
        let OfKind { admission, label, length } = &self.kind;
        if self.is_guess
            && let Some(size) = admission.estimate.poll_learned(*label, *length, self.number, cx.waker())
        {
            // It keeps its turn.
            self.is_guess = false;
            self.claim.shrink_to(size);
        }
        self.claim.poll(cx.waker())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.kind.admission.estimate.forget(self.number);
    }
}
