//! The report as a tower middleware, for requests of any type.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::reported::{POLLED_AGAIN, Reported};
use crate::monitor::{Label, Monitor, Outcome, RequestId};
use crate::unwind::contained;

/// A request that carries its id.
///
/// With the feature `lambda`, the invocations of `lambda_runtime` implement it. HTTP requests do not need it: see
/// `Monitor::http` (feature `http`). For other requests of a type that is not yours, there is [`ReportLayer::with_id`].
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
#[diagnostic::on_unimplemented(
    message = "`ReportLayer::new` cannot find the request id of `{Self}`",
    label = "does not implement `HasRequestId`",
    note = "for HTTP requests, as of axum and lambda_http, use the layer `monitor.http()` (feature `http`)",
    note = "for other requests, use `ReportLayer::with_id(&monitor, |request| ..)` or implement `HasRequestId`"
)]
pub trait HasRequestId {
    /// Returns the request's id. Reports leave out the characters that a [`RequestId`] does not keep.
    fn request_id(&self) -> &str;
}

/// Returns the id of a request.
type IdOf<R> = Arc<dyn Fn(&R) -> RequestId + Send + Sync>;

/// Returns the label of a request.
type LabelOf<R> = Arc<dyn Fn(&R) -> Label + Send + Sync>;

/// Reports the memory of each request, of type `R`, of a tower service.
///
/// For HTTP services there is a layer that knows their requests: `Monitor::http` (feature `http`). For `lambda_runtime`:
///
/// ```no_run
/// # #[cfg(feature = "lambda")] async fn serve() -> Result<(), lambda_runtime::Error> {
/// # use lambda_runtime::{LambdaEvent, Runtime, service_fn};
/// # async fn handler(_: LambdaEvent<String>) -> Result<(), lambda_runtime::Error> { Ok(()) }
/// use plimsoll::{Monitor, ReportLayer};
///
/// let monitor = Monitor::install_from_env();
/// Runtime::new(service_fn(handler)).layer(ReportLayer::new(&monitor)).run().await
/// # }
/// ```
///
/// Each request is measured: its call, the polls of its future and the drop of that. Tasks that it spawns count in a
/// [`RequestScope`](crate::monitor::RequestScope) only. Those that get a [full report](crate::monitor::MonitorBuilder::report_share)
/// are reported as finished after a response or an error, as unfinished if their future panics or is dropped before that.
///
/// On `lambda_runtime` the inner service is done when the response was posted, so hooks and report add nothing to the
/// time that the caller waits; they are billed.
///
/// The layer adds no error: readiness, responses and errors are those of the inner service.
///
/// # Performance
///
/// About a microsecond and one allocation for each request, and some 20 microseconds for those with a full report.
pub struct ReportLayer<R> {
    monitor: Monitor,
    id: IdOf<R>,
    label: LabelOf<R>,
}

impl<R> ReportLayer<R> {
    /// Creates a layer that reports to `monitor`, for requests that carry their id.
    pub fn new(monitor: &Monitor) -> Self
    where
        R: HasRequestId,
    {
        Self::with_id(monitor, |request| RequestId::new(request.request_id()))
    }

    /// Creates a layer that reports to `monitor`. `id` returns the id of a request. A panic in it leaves the id empty, if
    /// panics unwind.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{Monitor, ReportLayer, monitor::RequestId};
    /// struct Request { number: u64 }
    ///
    /// # fn layer(monitor: &Monitor) {
    /// let layer = ReportLayer::with_id(monitor, |request: &Request| RequestId::from(request.number.to_string()));
    /// # }
    /// ```
    pub fn with_id(monitor: &Monitor, id: impl Fn(&R) -> RequestId + Send + Sync + 'static) -> Self {
        Self { monitor: monitor.clone(), id: Arc::new(id), label: Arc::new(|_| Label::default()) }
    }

    /// Sets how a request gets its label. Default: no label. A panic in `label` leaves the label empty, if panics unwind.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{Monitor, ReportLayer, monitor::{Label, RequestId}};
    /// struct Job { number: u64, kind: &'static str }
    ///
    /// # fn layer(monitor: &Monitor) {
    /// let layer = ReportLayer::with_id(monitor, |job: &Job| RequestId::from(job.number.to_string()))
    ///     .label_by(|job| Label::new(job.kind));
    /// # }
    /// ```
    #[must_use]
    pub fn label_by(mut self, label: impl Fn(&R) -> Label + Send + Sync + 'static) -> Self {
        self.label = Arc::new(label);
        self
    }
}

impl<R> Clone for ReportLayer<R> {
    fn clone(&self) -> Self {
        Self { monitor: self.monitor.clone(), id: Arc::clone(&self.id), label: Arc::clone(&self.label) }
    }
}

impl<R> fmt::Debug for ReportLayer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportLayer").field("monitor", &self.monitor).finish_non_exhaustive()
    }
}

impl<S, R> Layer<S> for ReportLayer<R> {
    type Service = ReportService<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        ReportService { inner, layer: self.clone() }
    }
}

/// A service with reported requests: the service that [`ReportLayer`] makes.
///
/// # Examples
///
/// ```no_run
/// # use plimsoll::{Monitor, ReportLayer, monitor::RequestId};
/// use plimsoll::integration::ReportService;
/// use tower::{Layer, service_fn};
///
/// let monitor = Monitor::install_from_env();
/// let echo = service_fn(async |order: String| Ok::<_, std::io::Error>(order));
/// let _service: ReportService<_, String> =
///     ReportLayer::with_id(&monitor, |order: &String| RequestId::new(order)).layer(echo);
/// ```
pub struct ReportService<S, R> {
    inner: S,
    layer: ReportLayer<R>,
}

impl<S: Clone, R> Clone for ReportService<S, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S: fmt::Debug, R> fmt::Debug for ReportService<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, R> Service<R> for ReportService<S, R>
where
    S: Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        // Before the inner call, which may do all its work right there.
        let id = contained(|| (self.layer.id)(&request)).unwrap_or_else(|| RequestId::new(""));
        let label = contained(|| (self.layer.label)(&request)).unwrap_or_default();
        let reported = Reported::start(&self.layer.monitor, id, label);
        ResponseFuture::new(reported, || self.inner.call(request))
    }
}

pin_project! {
    /// The response of a reported service. The invocation is reported when the response is ready, or when this is
    /// dropped before that.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{Monitor, ReportLayer, integration::ResponseFuture, monitor::RequestId};
    /// use tower::{Layer, Service, service_fn};
    ///
    /// let monitor = Monitor::install_from_env();
    /// let echo = service_fn(async |order: String| Ok::<_, std::io::Error>(order));
    /// let mut service = ReportLayer::with_id(&monitor, |order: &String| RequestId::new(order)).layer(echo);
    /// let response: ResponseFuture<_> = service.call("4711".to_owned());
    /// drop(response); // reported as unfinished
    /// ```
    pub struct ResponseFuture<F> {
        // `None` once it has ended.
        #[pin]
        future: Option<F>,
        // `None` after the report.
        reported: Option<Reported>,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(reported) = this.reported {
                reported.run(|| this.future.set(None));
            }
        }
    }
}

impl<F> ResponseFuture<F> {
    /// Calls the service, which counts for the request.
    pub(super) fn new(reported: Reported, call: impl FnOnce() -> F) -> Self {
        let future = reported.run(call);
        Self { future: Some(future), reported: Some(reported) }
    }
}

impl<F: Future> Future for ResponseFuture<F> {
    type Output = F::Output;

    /// # Panics
    ///
    /// Panics if it is polled after its end.
    #[expect(clippy::panic, reason = "a poll after the end is a fault of the caller, as for an async block")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let Some(reported) = this.reported.as_ref() else { panic!("{POLLED_AGAIN}") };
        let polled = reported.poll(this.future.as_mut(), cx);
        if polled.is_ready() {
            reported.set_outcome(Outcome::Finished);
            *this.reported = None;
        }
        polled
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("reported", &self.reported).finish_non_exhaustive()
    }
}
