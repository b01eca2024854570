//! The report as a tower middleware.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::monitor::{Invocation, Monitor, RequestId};

/// A request that carries its id.
///
/// With the feature `lambda` the invocations of `lambda_runtime` do. For the requests of others, whose type is not
/// yours, there is [`ReportLayer::with_id`].
///
/// # Examples
///
/// ```
/// use plimsoll::HasRequestId;
///
/// struct Order { id: String }
///
/// impl HasRequestId for Order {
///     fn request_id(&self) -> &str {
///         &self.id
///     }
/// }
/// # assert_eq!(Order { id: "7".into() }.request_id(), "7");
/// ```
pub trait HasRequestId {
    /// The request's id, as it came: reports clean it.
    fn request_id(&self) -> &str;
}

/// How a [`ReportLayer`] finds the id of a request.
///
/// # Examples
///
/// ```
/// use plimsoll::integration::IdOf;
/// use plimsoll::monitor::RequestId;
///
/// #[derive(Clone)]
/// struct Numbered;
///
/// impl IdOf<u64> for Numbered {
///     fn id_of(&self, request: &u64) -> RequestId {
///         RequestId::new(&request.to_string())
///     }
/// }
/// assert_eq!(Numbered.id_of(&7).as_str(), "7");
/// ```
pub trait IdOf<R>: Clone {
    /// The id of `request`, cleaned for reports.
    fn id_of(&self, request: &R) -> RequestId;
}

/// Asks the request itself, through [`HasRequestId`].
///
/// # Examples
///
/// ```
/// use plimsoll::{HasRequestId, integration::{ByTrait, IdOf}};
///
/// struct Order(&'static str);
/// impl HasRequestId for Order {
///     fn request_id(&self) -> &str { self.0 }
/// }
/// assert_eq!(ByTrait.id_of(&Order("4711")).as_str(), "4711");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ByTrait;

impl<R: HasRequestId> IdOf<R> for ByTrait {
    fn id_of(&self, request: &R) -> RequestId {
        RequestId::new(request.request_id())
    }
}

/// Asks a function: see [`ReportLayer::with_id`].
///
/// # Examples
///
/// ```no_run
/// # use plimsoll::{Monitor, ReportLayer, monitor::RequestId};
/// use plimsoll::integration::ById;
///
/// let monitor = Monitor::from_env()?;
/// let _layer: ReportLayer<ById<_>> = ReportLayer::with_id(&monitor, |order: &String| RequestId::new(order));
/// # Ok::<(), plimsoll::monitor::MonitorError>(())
/// ```
#[derive(Clone, Copy)]
pub struct ById<F>(F);

impl<R, F: Fn(&R) -> RequestId + Clone> IdOf<R> for ById<F> {
    fn id_of(&self, request: &R) -> RequestId {
        (self.0)(request)
    }
}

impl<F> fmt::Debug for ById<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ById(..)")
    }
}

/// Reports the memory of each request of the service it is laid around.
///
/// On `lambda_runtime` it is the one line in `main`:
///
/// ```no_run
/// # #[cfg(feature = "lambda")] async fn serve() -> Result<(), lambda_runtime::Error> {
/// # use lambda_runtime::{LambdaEvent, Runtime, service_fn};
/// # async fn handler(_: LambdaEvent<String>) -> Result<(), lambda_runtime::Error> { Ok(()) }
/// use plimsoll::{Monitor, ReportLayer};
///
/// let monitor = Monitor::from_env()?;
/// Runtime::new(service_fn(handler)).layer(ReportLayer::new(&monitor)).run().await
/// # }
/// ```
///
/// There the service's answer is that the response was posted, so hooks and report add nothing to what the caller
/// waits for; they are billed. In front of an HTTP service the answer is the response's head: a body that is streamed
/// later is not in the report. A request that fails, in an error or a panic, or is cancelled, is reported too: an answer
/// that is an error as finished, what never answered as unfinished.
///
/// The layer makes no error and holds none back: readiness and answers are those of the inner service. What it adds to a
/// request is [`Monitor::start`] and [`Invocation::finish`](crate::monitor::Invocation::finish), some 20 microseconds
/// and no allocation.
#[derive(Clone, Debug)]
pub struct ReportLayer<I = ByTrait> {
    monitor: Monitor,
    id: I,
}

impl ReportLayer {
    /// Reports to `monitor`, for requests that carry their id.
    pub fn new(monitor: &Monitor) -> Self {
        Self { monitor: monitor.clone(), id: ByTrait }
    }
}

impl ReportLayer<()> {
    /// Reports to `monitor`, for requests whose id the function tells.
    ///
    /// ```
    /// # use plimsoll::{Monitor, ReportLayer, monitor::RequestId};
    /// struct Request { number: u64 }
    ///
    /// # fn layer(monitor: &Monitor) {
    /// let layer = ReportLayer::with_id(monitor, |request: &Request| RequestId::from(&*request.number.to_string()));
    /// # }
    /// ```
    pub fn with_id<R, F>(monitor: &Monitor, id: F) -> ReportLayer<ById<F>>
    where
        F: Fn(&R) -> RequestId + Clone,
    {
        ReportLayer { monitor: monitor.clone(), id: ById(id) }
    }
}

impl<S, I: Clone> Layer<S> for ReportLayer<I> {
    type Service = ReportService<S, I>;

    fn layer(&self, inner: S) -> Self::Service {
        ReportService { inner, monitor: self.monitor.clone(), id: self.id.clone() }
    }
}

/// A service whose requests are reported: what a [`ReportLayer`] makes.
///
/// # Examples
///
/// ```no_run
/// # use plimsoll::{Monitor, ReportLayer, monitor::RequestId};
/// use plimsoll::integration::ReportService;
/// use tower::{Layer, service_fn};
///
/// let monitor = Monitor::from_env()?;
/// let echo = service_fn(async |order: String| Ok::<_, std::io::Error>(order));
/// let _service: ReportService<_, _> =
///     ReportLayer::with_id(&monitor, |order: &String| RequestId::new(order)).layer(echo);
/// # Ok::<(), plimsoll::monitor::MonitorError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ReportService<S, I = ByTrait> {
    inner: S,
    monitor: Monitor,
    id: I,
}

impl<S, I, R> Service<R> for ReportService<S, I>
where
    S: Service<R>,
    I: IdOf<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ReportFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        // Before the inner call, which may do all its work right there.
        let invocation = self.monitor.start(self.id.id_of(&request));
        ReportFuture { inner: self.inner.call(request), invocation: Some(invocation) }
    }
}

pin_project! {
    /// The answer of a [`ReportService`]; its invocation is reported when it is there, or when nobody waits any more.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{Monitor, ReportLayer, integration::ReportFuture, monitor::RequestId};
    /// use tower::{Layer, Service, service_fn};
    ///
    /// let monitor = Monitor::from_env()?;
    /// let echo = service_fn(async |order: String| Ok::<_, std::io::Error>(order));
    /// let mut service = ReportLayer::with_id(&monitor, |order: &String| RequestId::new(order)).layer(echo);
    /// let answer: ReportFuture<_> = service.call("4711".to_owned());
    /// drop(answer); // reported as unfinished
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub struct ReportFuture<F> {
        #[pin]
        inner: F,
        // Gone once reported.
        invocation: Option<Invocation>,
    }
}

impl<F: Future> Future for ReportFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        if let Some(invocation) = this.invocation.take() {
            let _printed = invocation.finish();
        }
        Poll::Ready(answer)
    }
}

impl<F> fmt::Debug for ReportFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportFuture").field("invocation", &self.invocation).finish_non_exhaustive()
    }
}
