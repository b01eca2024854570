//! Requests of any kind that are admitted only with memory reserved for them, as a tower middleware.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::reported::POLLED_AGAIN;
use super::{ACCOUNT, Overloaded};
use crate::budget::{Account, AccountError, MemoryBudget, Reservation};
use crate::size::ByteSize;

/// Admits a request only if `reservation` bytes can be reserved from the budget, and rejects it immediately otherwise.
///
/// The reservation, under the budget's account `requests`, ends with the response or the drop of its future. If the bytes
/// are not available, other accounts release memory first, caches before models, as in [`Account::try_reserve`].
///
/// For HTTP services there is `Admission` (feature `http`), which estimates the size of each request and holds the reservation to
/// the last byte of the response. This layer is for the others: what is left of a request after its response, such as a
/// body that is streamed, is not reserved.
///
/// Lay it around the handler. On `lambda_runtime` that is another place than that of a [`ReportLayer`](super::ReportLayer): an
/// error of a handler is a response, and an error of a layer of the runtime ends the process.
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
/// A rejected request is an error of the type [`AdmissionError`]; on Lambda a function error of the type `Overloaded`. With
/// [`on_overload`](Self::on_overload) it is a response.
///
/// # Performance
///
/// The time of [`Account::try_reserve`]. A rejection allocates some 150 bytes. Reclaimers run within the call, on its
/// thread. The service is ready when the inner one is.
#[derive(Clone)]
pub struct AdmissionLayer<F = ReturnError> {
    account: Account,
    reservation: ByteSize,
    on_overload: F,
}

/// The default of an [`AdmissionLayer`]: a rejected request is an error.
#[derive(Clone, Copy, Debug)]
pub struct ReturnError(());

impl AdmissionLayer {
    /// Creates a layer that reserves `reservation` for each request: the bytes that it allocates without reserving them itself.
    /// 0 admits every request; above the limit of the budget it admits none.
    ///
    /// # Errors
    ///
    /// [`AccountError`] if the budget cannot have one more account, `requests`.
    pub fn new(budget: &MemoryBudget, reservation: ByteSize) -> Result<Self, AccountError> {
        Ok(Self { account: budget.account(ACCOUNT)?, reservation, on_overload: ReturnError(()) })
    }

    /// Sets the response to a rejected request, so that the errors are those of the inner service.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{AdmissionLayer, ByteSize, MemoryBudget};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let budget = MemoryBudget::new(ByteSize::mib(10));
    /// let layer = AdmissionLayer::new(&budget, ByteSize::mib(11))?.on_overload(|overloaded| overloaded.to_string());
    /// let service = layer.layer(service_fn(async |_: u64| Ok::<_, std::io::Error>("done".to_owned())));
    /// assert!(service.oneshot(4711).await?.starts_with("not admitted: requests asked for 11.0 MiB"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_overload<T, F>(self, response: F) -> AdmissionLayer<F>
    where
        F: Fn(Overloaded) -> T + Clone,
    {
        AdmissionLayer { account: self.account, reservation: self.reservation, on_overload: response }
    }
}

impl<S, F: Clone> Layer<S> for AdmissionLayer<F> {
    type Service = AdmissionService<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        AdmissionService { inner, layer: self.clone() }
    }
}

impl<F> fmt::Debug for AdmissionLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionLayer").field("reservation", &self.reservation).finish_non_exhaustive()
    }
}

/// A service that admits only requests with memory reserved for them: the service that an [`AdmissionLayer`] makes.
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
#[derive(Clone)]
pub struct AdmissionService<S, F = ReturnError> {
    inner: S,
    layer: AdmissionLayer<F>,
}

impl<S, F> AdmissionService<S, F> {
    /// Reserves the bytes of a request, and calls the inner service.
    fn admit<R>(&mut self, request: R) -> Result<Admitted<S::Future>, Overloaded>
    where
        S: Service<R>,
    {
        match self.layer.account.try_reserve(self.layer.reservation) {
            Ok(reserved) => Ok(Admitted { future: Some(self.inner.call(request)), reserved: Some(reserved) }),
            // The inner service stays ready for the next call.
            Err(exceeded) => {
                drop(request);
                Err(Overloaded::NotAdmitted(exceeded))
            }
        }
    }
}

impl<S, F> fmt::Debug for AdmissionService<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionService").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl<S, R> Service<R> for AdmissionService<S>
where
    S: Service<R>,
{
    type Response = S::Response;
    type Error = AdmissionError<S::Error>;
    type Future = AdmissionFuture<S::Future>;

    /// Asks the inner service alone: a full budget is a response and not a wait.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(AdmissionError::Service)
    }

    fn call(&mut self, request: R) -> Self::Future {
        match self.admit(request) {
            Ok(admitted) => AdmissionFuture { admitted, overloaded: None },
            Err(overloaded) => AdmissionFuture { admitted: Admitted::none(), overloaded: Some(overloaded) },
        }
    }
}

impl<S, R, F> Service<R> for AdmissionService<S, F>
where
    S: Service<R>,
    F: Fn(Overloaded) -> S::Response,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = OverloadFuture<S::Future, S::Response>;

    /// Asks the inner service alone: a full budget is a response and not a wait.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        match self.admit(request) {
            Ok(admitted) => OverloadFuture { admitted, response: None },
            Err(overloaded) => {
                OverloadFuture { admitted: Admitted::none(), response: Some((self.layer.on_overload)(overloaded)) }
            }
        }
    }
}

pin_project! {
    /// A request in flight. The fields are in the order of their drop: memory is freed before its bytes are released.
    struct Admitted<F> {
        // `None` once it has ended, or if the request was rejected.
        #[pin]
        future: Option<F>,
        reserved: Option<Reservation>,
    }
}

impl<F> Admitted<F> {
    const fn none() -> Self {
        Self { future: None, reserved: None }
    }
}

impl<F: Future> Admitted<F> {
    /// Polls the future, and releases its bytes at its end.
    ///
    /// # Panics
    ///
    /// Panics if it has ended.
    #[expect(clippy::panic, reason = "a poll after the end is a fault of the caller, as for an async block")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let Some(running) = this.future.as_mut().as_pin_mut() else { panic!("{POLLED_AGAIN}") };
        let output = ready!(running.poll(cx));
        this.future.set(None);
        *this.reserved = None;
        Poll::Ready(output)
    }
}

pin_project! {
    /// The response of an [`AdmissionService`]. Dropped, it releases what was reserved.
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
    /// let response: AdmissionFuture<_> = service.call(4711);
    /// assert_eq!(budget.reserved(), ByteSize::mib(8)); // from the call on
    /// drop(response); // the client has closed the connection
    /// assert_eq!(budget.reserved(), ByteSize::ZERO);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub struct AdmissionFuture<F> {
        #[pin]
        admitted: Admitted<F>,
        // The error of a rejected request, until it is returned.
        overloaded: Option<Overloaded>,
    }
}

impl<F, T, E> Future for AdmissionFuture<F>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<T, AdmissionError<E>>;

    /// # Panics
    ///
    /// Panics if it is polled after its end.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.overloaded.take() {
            Some(overloaded) => Poll::Ready(Err(AdmissionError::Overloaded(overloaded))),
            None => this.admitted.poll(cx).map_err(AdmissionError::Service),
        }
    }
}

impl<F> fmt::Debug for AdmissionFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionFuture").field("reserved", &self.admitted.reserved).finish_non_exhaustive()
    }
}

pin_project! {
    /// The response of an [`AdmissionService`] with [`on_overload`](AdmissionLayer::on_overload). Dropped, it releases what was
    /// reserved.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{AdmissionLayer, ByteSize, MemoryBudget, integration::OverloadFuture};
    /// use tower::{Layer, Service, service_fn};
    ///
    /// let budget = MemoryBudget::new(ByteSize::mib(10));
    /// let echo = service_fn(async |order: u64| Ok::<_, std::io::Error>(order));
    /// let mut service = AdmissionLayer::new(&budget, ByteSize::mib(8))?.on_overload(|_| 0).layer(echo);
    /// let response: OverloadFuture<_, u64> = service.call(4711);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub struct OverloadFuture<F, T> {
        #[pin]
        admitted: Admitted<F>,
        // The response to a rejected request, until it is returned.
        response: Option<T>,
    }
}

impl<F, T, E> Future for OverloadFuture<F, T>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<T, E>;

    /// # Panics
    ///
    /// Panics if it is polled after its end.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.response.take() {
            Some(response) => Poll::Ready(Ok(response)),
            None => this.admitted.poll(cx),
        }
    }
}

impl<F, T> fmt::Debug for OverloadFuture<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverloadFuture").field("reserved", &self.admitted.reserved).finish_non_exhaustive()
    }
}

/// An error of a service behind an [`AdmissionLayer`].
///
/// With the feature `lambda` it becomes the `Diagnostic` of `lambda_runtime`: a rejected request is of the type `Overloaded`, and the
/// handler's own errors stay as they are.
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
///     Err(AdmissionError::Overloaded(overloaded)) => println!("{overloaded}"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).map_err(|error| error.to_string())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmissionError<E> {
    /// The request was rejected.
    #[error(transparent)]
    Overloaded(Overloaded),
    /// The service itself failed.
    #[error(transparent)]
    Service(E),
}

/// Prints the `Debug` text of the error inside.
// The bound `E: Error` would print the causes of `E`, but the boxed errors of services do not meet it.
impl<E: fmt::Debug> fmt::Debug for AdmissionError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overloaded(overloaded) => fmt::Debug::fmt(overloaded, f),
            Self::Service(error) => fmt::Debug::fmt(error, f),
        }
    }
}
