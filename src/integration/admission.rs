//! Requests let in only with memory promised to them, as a tower middleware.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::budget::{Account, AccountError, BudgetExceeded, MemoryBudget, Reservation};
use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;

/// The account that pays for what is admitted.
const ACCOUNT: &str = "requests";

/// Lets a request in only if the budget can promise it so much memory, and answers it at once if not.
///
/// Each request holds `floor` bytes under the budget's account `requests`, from its call until it is answered or its
/// future is dropped: so many in flight cannot be promised the same bytes. Where they are not free, others are asked to
/// give memory back, caches before models, as [`Account::try_reserve`] does; where that is not enough, the answer is
/// [`OverMemory`], and the inner service is not called.
///
/// Set the floor to what a request allocates beside what it reserves itself. Zero admits everything. One above the
/// budget's limit admits nothing, and each refusal says so. Not covered: what is left when the answer is there, such as
/// a body that is streamed after it.
///
/// # Where to lay it
///
/// Around the *handler*, which on `lambda_runtime` is not where [`ReportLayer`](super::ReportLayer) goes: an error of a
/// handler is an answer, an error of a runtime's layer ends the process. The refusal is a function error of the type
/// `OverMemory`:
///
/// ```no_run
/// # #[cfg(feature = "lambda")] async fn serve() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # use lambda_runtime::{LambdaEvent, Runtime, service_fn};
/// # async fn handler(_: LambdaEvent<String>) -> Result<(), lambda_runtime::Error> { Ok(()) }
/// use plimsoll::{AdmissionLayer, ByteSize, MemoryBudget, Monitor, ReportLayer};
/// use tower::Layer;
///
/// let budget = MemoryBudget::from_env()?;
/// let monitor = Monitor::builder().budget(&budget).install()?;
/// let handler = AdmissionLayer::new(&budget, ByteSize::mib(24))?.layer(service_fn(handler));
/// Runtime::new(handler).layer(ReportLayer::new(&monitor)).run().await
/// # }
/// ```
///
/// An HTTP service answers 503, and has no error to give:
///
/// ```
/// use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
/// use plimsoll::{AdmissionLayer, ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(100));
/// let admission = AdmissionLayer::new(&budget, ByteSize::mib(8))?
///     .answer_with(|over| (StatusCode::SERVICE_UNAVAILABLE, over.to_string()).into_response());
/// let service: Router = Router::new().route("/", get(async || "in")).layer(admission);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Cost
///
/// The time of [`Account::try_reserve`]. A refusal allocates some 150 bytes. Reclaimers run
/// within the call, on its thread. The layer is ready whenever the inner service is.
#[derive(Clone, Debug)]
pub struct AdmissionLayer<A = ByError> {
    account: Account,
    floor: ByteSize,
    refuse: A,
}

impl AdmissionLayer {
    /// Reserves `floor` bytes for each request, and answers with an [`AdmissionError`] if they are not available.
    ///
    /// # Errors
    ///
    /// [`AccountError`] if the budget cannot have one more account, which is `requests`.
    pub fn new(budget: &MemoryBudget, floor: ByteSize) -> Result<Self, AccountError> {
        Ok(Self { account: budget.account(ACCOUNT)?, floor, refuse: ByError })
    }

    /// Answers with what the function makes of the refusal; errors are those of the inner service alone.
    ///
    /// A panic in it is the request's: nothing is held, and the next is served.
    pub fn answer_with<T, F>(self, answer: F) -> AdmissionLayer<ByAnswer<F>>
    where
        F: Fn(OverMemory) -> T + Clone,
    {
        AdmissionLayer { account: self.account, floor: self.floor, refuse: ByAnswer(answer) }
    }
}

impl<S, A: Clone> Layer<S> for AdmissionLayer<A> {
    type Service = AdmissionService<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        AdmissionService { inner, account: self.account.clone(), floor: self.floor, refuse: self.refuse.clone() }
    }
}

/// A service that lets in only what has memory promised: what an [`AdmissionLayer`] makes.
///
/// # Examples
///
/// ```
/// use plimsoll::{AdmissionLayer, ByteSize, MemoryBudget, integration::AdmissionService};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let budget = MemoryBudget::new(ByteSize::mib(10));
/// let echo = service_fn(async |order: u64| Ok::<_, std::io::Error>(order));
/// let service: AdmissionService<_> = AdmissionLayer::new(&budget, ByteSize::mib(8))?.layer(echo);
/// assert_eq!(service.oneshot(4711).await?, 4711);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).map_err(|error| error.to_string())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct AdmissionService<S, A = ByError> {
    inner: S,
    account: Account,
    floor: ByteSize,
    refuse: A,
}

impl<S, A, R> Service<R> for AdmissionService<S, A>
where
    S: Service<R>,
    A: Refuse<S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = A::Error;
    type Future = AdmissionFuture<S::Future, A, S::Response, S::Error>;

    /// Asks the inner service alone: a full budget is an answer, not a wait, as nobody may be left who would end it.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        self.inner.poll_ready(cx).map_err(A::pass)
    }

    fn call(&mut self, request: R) -> Self::Future {
        // Where it is refused, the inner service stays ready for the next call.
        let state = match self.account.try_reserve(self.floor) {
            Ok(held) => State::Admitted { inner: self.inner.call(request), _held: held },
            Err(exceeded) => {
                drop(request);
                State::Refused { answer: Some(self.refuse.refuse(OverMemory(exceeded))) }
            }
        };
        AdmissionFuture { state }
    }
}

pin_project! {
    /// The answer of an [`AdmissionService`]. Dropped, it gives back what was promised.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{AdmissionLayer, ByteSize, MemoryBudget, integration::AdmissionFuture};
    /// use tower::{Layer, Service, service_fn};
    ///
    /// let budget = MemoryBudget::new(ByteSize::mib(10));
    /// let echo = service_fn(async |order: u64| Ok::<_, std::io::Error>(order));
    /// let mut service = AdmissionLayer::new(&budget, ByteSize::mib(8))?.layer(echo);
    /// let answer: AdmissionFuture<_, _, _, _> = service.call(4711);
    /// assert_eq!(budget.reserved(), ByteSize::mib(8)); // from the call on
    /// drop(answer); // a client that went away
    /// assert_eq!(budget.reserved(), ByteSize::ZERO);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub struct AdmissionFuture<F, A, T, E>
    where
        A: Refuse<T, E>,
    {
        #[pin]
        state: State<F, Result<T, A::Error>>,
    }
}

pin_project! {
    #[project = StateOf]
    enum State<F, T> {
        // In the order of their dropping: what a request frees goes before what was promised for it.
        Admitted { #[pin] inner: F, _held: Reservation },
        // `None` once the answer was given.
        Refused { answer: Option<T> },
    }
}

impl<F, A, T, E> Future for AdmissionFuture<F, A, T, E>
where
    F: Future<Output = Result<T, E>>,
    A: Refuse<T, E>,
{
    type Output = Result<T, A::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let answer = match state.as_mut().project() {
            StateOf::Admitted { inner, .. } => ready!(inner.poll(cx)).map_err(A::pass),
            StateOf::Refused { answer } => match answer.take() {
                Some(answer) => answer,
                // Answered before: who asks again has broken the contract of futures.
                None => return Poll::Pending,
            },
        };
        // Gives back at once, though the future may lie about for longer.
        state.set(State::Refused { answer: None });
        Poll::Ready(answer)
    }
}

impl<F, A: Refuse<T, E>, T, E> fmt::Debug for AdmissionFuture<F, A, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_admitted = matches!(self.state, State::Admitted { .. });
        f.debug_struct("AdmissionFuture").field("is_admitted", &is_admitted).finish_non_exhaustive()
    }
}

/// A request that was not let in, since the memory promised to each could not be had.
///
/// The message names what was asked for, what was free, and the three largest holders. On Lambda it is a function error
/// of the type `OverMemory`.
///
/// ```text
/// over memory: requests asked for 24.0 MiB, 9.6 MiB are available of a 109.6 MiB budget: reserved by model 64.0 MiB, requests 24.0 MiB, orders 12.0 MiB
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("over memory: {0}")]
pub struct OverMemory(BudgetExceeded);

debug_as_chain!(OverMemory);

impl OverMemory {
    /// Tells what each request is promised: the layer's floor.
    pub fn requested(&self) -> ByteSize {
        self.0.requested()
    }

    /// Tells how much was free.
    pub fn available(&self) -> ByteSize {
        self.0.available()
    }

    /// Tells the three largest holders and what they held, the largest first.
    pub fn holders(&self) -> impl Iterator<Item = (&'static str, ByteSize)> {
        self.0.largest_accounts()
    }

    /// Tells all that the budget said.
    pub fn refusal(&self) -> &BudgetExceeded {
        &self.0
    }
}

/// An error of a service behind an [`AdmissionLayer`].
///
/// With the feature `lambda` it becomes the `Diagnostic` of `lambda_runtime`, with the handler's own type if it is its.
///
/// # Examples
///
/// ```
/// use plimsoll::{AdmissionLayer, ByteSize, MemoryBudget, integration::AdmissionError};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let budget = MemoryBudget::new(ByteSize::mib(10));
/// let _model = budget.account("model")?.try_reserve(ByteSize::mib(9))?;
/// let echo = service_fn(async |order: u64| Ok::<_, std::io::Error>(order));
/// match AdmissionLayer::new(&budget, ByteSize::mib(8))?.layer(echo).oneshot(4711).await {
///     Err(AdmissionError::OverMemory(over)) => println!("{over}; {}", over.refusal().requested()),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).map_err(|error| error.to_string())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmissionError<E> {
    /// The layer did not let the request in.
    #[error(transparent)]
    OverMemory(OverMemory),
    /// The service itself failed.
    #[error(transparent)]
    Service(E),
}

/// Prints the `Debug` text of the error inside.
// The bound `E: Error` would print the causes of `E`, but the boxed errors of services do not meet it.
impl<E: fmt::Debug> fmt::Debug for AdmissionError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OverMemory(over) => fmt::Debug::fmt(over, f),
            Self::Service(error) => fmt::Debug::fmt(error, f),
        }
    }
}

/// How an [`AdmissionLayer`] answers what it does not let in.
///
/// # Examples
///
/// ```
/// use plimsoll::OverMemory;
/// use plimsoll::integration::Refuse;
///
/// /// Answers with an empty page.
/// #[derive(Clone)]
/// struct Empty;
///
/// impl<E> Refuse<String, E> for Empty {
///     type Error = E;
///
///     fn refuse(&self, _over: OverMemory) -> Result<String, E> {
///         Ok(String::new())
///     }
///
///     fn pass(error: E) -> E {
///         error
///     }
/// }
/// ```
pub trait Refuse<T, E>: Clone {
    /// The errors of the layered service.
    type Error;

    /// Makes the answer to a request that was not let in.
    ///
    /// # Errors
    ///
    /// Where the answer is an error: the service's.
    fn refuse(&self, over: OverMemory) -> Result<T, Self::Error>;

    /// Takes over an error of the inner service.
    fn pass(error: E) -> Self::Error;
}

/// Answers with an error: see [`AdmissionLayer::new`].
///
/// # Examples
///
/// ```
/// use plimsoll::{AdmissionLayer, ByteSize, MemoryBudget, integration::ByError};
///
/// let budget = MemoryBudget::new(ByteSize::mib(100));
/// let _layer: AdmissionLayer<ByError> = AdmissionLayer::new(&budget, ByteSize::mib(8))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ByError;

impl<T, E> Refuse<T, E> for ByError {
    type Error = AdmissionError<E>;

    fn refuse(&self, over: OverMemory) -> Result<T, AdmissionError<E>> {
        Err(AdmissionError::OverMemory(over))
    }

    fn pass(error: E) -> AdmissionError<E> {
        AdmissionError::Service(error)
    }
}

/// Answers with what a function makes of it: see [`AdmissionLayer::answer_with`].
///
/// # Examples
///
/// ```
/// use plimsoll::{AdmissionLayer, ByteSize, MemoryBudget, OverMemory, integration::ByAnswer};
///
/// let budget = MemoryBudget::new(ByteSize::mib(100));
/// let _layer: AdmissionLayer<ByAnswer<_>> =
///     AdmissionLayer::new(&budget, ByteSize::mib(8))?.answer_with(|over: OverMemory| over.to_string());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct ByAnswer<F>(F);

impl<T, E, F: Fn(OverMemory) -> T + Clone> Refuse<T, E> for ByAnswer<F> {
    type Error = E;

    fn refuse(&self, over: OverMemory) -> Result<T, E> {
        Ok((self.0)(over))
    }

    fn pass(error: E) -> E {
        error
    }
}

impl<F> fmt::Debug for ByAnswer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByAnswer(..)")
    }
}
