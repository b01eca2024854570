//! One layer for every HTTP service: axum, `lambda_http`, hyper, and any tower service of `http::Request`.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::HeaderName;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::ResponseFuture;
use super::admission::{Admission, Decision};
use super::body::{RequestBody, ResponseBody};
use super::http_future::{Arrival, HttpResponseFuture, Queued, State};
use super::reported::Reported;
use crate::clock::Stopwatch;
use crate::monitor::{Label, Monitor, RequestId};
use crate::size::ByteSize;
use crate::unwind::contained;

/// The header that carries a request id by convention.
const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Returns the label of a request.
type LabelOf = Arc<dyn Fn(&Parts) -> Label + Send + Sync>;

impl Monitor {
    /// Returns a layer that reports the memory of each request of an HTTP service.
    ///
    /// With axum:
    ///
    /// ```no_run
    /// # async fn serve() -> std::io::Result<()> {
    /// use axum::{Router, routing::get};
    /// use plimsoll::Monitor;
    ///
    /// let monitor = Monitor::install_from_env();
    /// let app = Router::new().route("/orders/{id}", get(async || "an order")).layer(monitor.http());
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    /// axum::serve(listener, app).await
    /// # }
    /// ```
    ///
    /// With `lambda_http`:
    ///
    /// ```no_run
    /// # async fn serve() -> Result<(), lambda_http::Error> {
    /// use lambda_http::{Request, service_fn};
    /// use plimsoll::Monitor;
    ///
    /// async fn handler(request: Request) -> Result<String, lambda_http::Error> {
    ///     Ok(format!("{} bytes", request.body().len()))
    /// }
    ///
    /// let monitor = Monitor::install_from_env();
    /// lambda_http::run(monitor.http().heads_only().layer(service_fn(handler))).await
    /// # }
    /// ```
    pub fn http(&self) -> HttpLayer {
        HttpLayer { monitor: self.clone(), label: None, limit: None, admission: None, bodies: PhantomData }
    }
}

/// Reports the memory of each request of an HTTP service: a service of [`http::Request`] with any body.
///
/// [`Monitor::http`] creates it. A report has
///
/// * the request id: of the Lambda invocation if the request comes from `lambda_http` (feature `lambda`), else the header
///   `x-request-id`, else `-`. A client chooses the header, so an id that you trust has to be set by a layer before this
///   one.
/// * the label: by [`label_by`](Self::label_by), else the route that axum matched, such as `/orders/{id}` (feature
///   `axum`), else the path.
///
/// axum matches the route before the layers of [`Router::layer`](https://docs.rs/axum/0.8/axum/struct.Router.html#method.layer)
/// run, and after layers around the whole router; there the label is the path.
///
/// Each request is measured from its call to the end of its response body: the call, each poll of the future and the drop
/// of that, and each frame of both bodies. Tasks that it spawns count in a
/// [`RequestScope`](crate::monitor::RequestScope) only. A report has the heap of the request itself, whatever else was in
/// flight, and [`Monitor::labels`] sums it by label. Those requests that get a
/// [full report](crate::monitor::MonitorBuilder::report_share) are reported with the figures of the process as well.
///
/// If the future of a request panics or is dropped, or its response body is dropped before its end, the request is
/// unfinished. Without a [limit](Self::request_limit) and [admission](Self::admit) the layer adds no error: readiness, responses and errors are those of
/// the inner service.
///
/// The bodies have types of their own, [`RequestBody`] and [`ResponseBody`]. axum and tonic take any body; a handler that
/// names the type of its body does not take another: see [`heads_only`](Self::heads_only).
///
/// # Performance
///
/// One to two microseconds and one allocation for each request, and some 15 microseconds for those with a full report. axum
/// allocates twice more, for the new types of the bodies. With
/// `lambda_http` that is before the response is posted.
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::get};
/// use plimsoll::{Monitor, integration::HttpLayer};
///
/// # fn app(monitor: &Monitor) -> Router {
/// let layer: HttpLayer = monitor.http();
/// Router::new().route("/orders/{id}", get(async || "an order")).layer(layer)
/// # }
/// ```
pub struct HttpLayer<B = WithBodies> {
    pub(super) monitor: Monitor,
    /// `None` for the default.
    label: Option<LabelOf>,
    pub(super) limit: Option<ByteSize>,
    pub(super) admission: Option<Arc<Admission>>,
    bodies: PhantomData<fn(B)>,
}

/// An [`HttpLayer`] that measures the bodies of requests and responses. The default.
///
/// # Examples
///
/// ```
/// use plimsoll::{Monitor, integration::{HttpLayer, WithBodies}};
///
/// fn layer(monitor: &Monitor) -> HttpLayer<WithBodies> {
///     monitor.http()
/// }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct WithBodies;

/// An [`HttpLayer`] that leaves the bodies as they are: see [`HttpLayer::heads_only`].
///
/// # Examples
///
/// ```
/// use plimsoll::{Monitor, integration::{HeadsOnly, HttpLayer}};
///
/// fn layer(monitor: &Monitor) -> HttpLayer<HeadsOnly> {
///     monitor.http().heads_only()
/// }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct HeadsOnly;

impl HttpLayer {
    /// Returns a layer that leaves the bodies and their types as they are: for `lambda_http`, where both are in memory as a whole, and for
    /// handlers that name the type of their body.
    ///
    /// A request ends with the head of its response. What its body reads from elsewhere is not counted as received, and a
    /// response that is streamed is not part of it. It has no [limit](Self::request_limit) and no
    /// [admission](Self::admit): lay an [`AdmissionLayer`](super::AdmissionLayer) around the handler.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn serve() -> Result<(), lambda_http::Error> {
    /// use lambda_http::{Request, service_fn};
    ///
    /// let monitor = plimsoll::Monitor::install_from_env();
    /// let handler = async |request: Request| Ok::<_, lambda_http::Error>(request.uri().path().to_owned());
    /// lambda_http::run(monitor.http().heads_only().layer(service_fn(handler))).await
    /// # }
    /// ```
    #[must_use]
    pub fn heads_only(self) -> HttpLayer<HeadsOnly> {
        HttpLayer { monitor: self.monitor, label: self.label, limit: None, admission: None, bodies: PhantomData }
    }

    /// Ends a request that holds more than `limit` bytes by its [own figures](crate::monitor::RequestHeap::net), with the
    /// status 503 and an empty body, or with the response of [`Admission::on_overload`]; in the middle of its response body, with the error [`Overloaded`](crate::Overloaded).
    /// Default: no limit. 0 ends each request that holds anything after a poll.
    ///
    /// A request is looked at before and after each poll, so it ends at an `await`. One poll cannot be stopped:
    /// a loop that allocates without an `await` is ended by the [limit of the heap](crate::heap::set_limit) or by the
    /// kernel. A response that is ready is given out, whatever the request holds. Blocking work counts when it ends.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use plimsoll::{ByteSize, Monitor};
    ///
    /// # fn app(monitor: &Monitor) -> Router {
    /// Router::new().route("/", get(async || "hello")).layer(monitor.http().request_limit(ByteSize::mib(64)))
    /// # }
    /// ```
    #[must_use]
    pub fn request_limit(mut self, limit: ByteSize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sets the admission: a request runs only with memory reserved for it. Default: each request runs. See [`Admission`].
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use plimsoll::{Admission, MemoryBudget, Monitor};
    ///
    /// # fn app(monitor: &Monitor, budget: &MemoryBudget) -> Result<Router, plimsoll::budget::AccountError> {
    /// let layer = monitor.http().admit(Admission::new(budget)?);
    /// # Ok(
    /// Router::new().route("/", get(async || "hello")).layer(layer)
    /// # )
    /// # }
    /// ```
    #[must_use]
    pub fn admit(mut self, admission: Admission) -> Self {
        self.admission = Some(Arc::new(admission));
        self
    }
}

impl<B> HttpLayer<B> {
    /// Sets how a request gets its label. A panic in `label` leaves the label empty, if panics unwind.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{Monitor, monitor::Label};
    ///
    /// # fn layer(monitor: &Monitor) {
    /// let by_method = monitor.http().label_by(|request| Label::new(request.method.as_str()));
    /// # }
    /// ```
    #[must_use]
    pub fn label_by(mut self, label: impl Fn(&Parts) -> Label + Send + Sync + 'static) -> Self {
        self.label = Some(Arc::new(label));
        self
    }

    /// Wraps `inner`. The same as [`Layer::layer`], without an import of the trait.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{Monitor, integration::RequestBody};
    /// use tower::service_fn;
    ///
    /// # fn wrap(monitor: &Monitor) {
    /// let hello = service_fn(async |_: http::Request<RequestBody<String>>| Ok::<_, std::io::Error>(http::Response::new("hello")));
    /// let reported = monitor.http().layer(hello);
    /// # }
    /// ```
    pub fn layer<S>(&self, inner: S) -> HttpService<S, B> {
        HttpService { inner, layer: self.clone() }
    }

    /// Returns the id and the label of a request.
    fn describe(&self, parts: &Parts) -> (RequestId, Label) {
        let label = match &self.label {
            Some(label) => contained(|| label(parts)).unwrap_or_default(),
            None => default_label(parts),
        };
        (request_id(parts), label)
    }
}

impl<B> Clone for HttpLayer<B> {
    fn clone(&self) -> Self {
        let Self { monitor, label, limit, admission, bodies } = self;
        let (label, admission) = (label.clone(), admission.clone());
        Self { monitor: monitor.clone(), label, limit: *limit, admission, bodies: *bodies }
    }
}

impl<B> fmt::Debug for HttpLayer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpLayer").field("monitor", &self.monitor).finish_non_exhaustive()
    }
}

impl<S, B> Layer<S> for HttpLayer<B> {
    type Service = HttpService<S, B>;

    fn layer(&self, inner: S) -> HttpService<S, B> {
        Self::layer(self, inner)
    }
}

/// An HTTP service with reported requests: the service that [`HttpLayer`] makes.
///
/// # Examples
///
/// ```
/// use plimsoll::{Monitor, integration::{HttpService, RequestBody}};
/// use tower::service_fn;
///
/// # fn wrap(monitor: &Monitor) {
/// let hello = service_fn(async |_: http::Request<RequestBody<String>>| Ok::<_, std::io::Error>(http::Response::new("hello")));
/// let reported: HttpService<_> = monitor.http().layer(hello);
/// # }
/// ```
pub struct HttpService<S, B = WithBodies> {
    inner: S,
    layer: HttpLayer<B>,
}

impl<S: Clone, B> Clone for HttpService<S, B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S: fmt::Debug, B> fmt::Debug for HttpService<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for HttpService<S, HeadsOnly>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let (id, label) = self.layer.describe(&parts);
        let reported = Reported::start(&self.layer.monitor, id, label);
        ResponseFuture::new(reported, || self.inner.call(Request::from_parts(parts, body)))
    }
}

impl<S, B, R> Service<Request<B>> for HttpService<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone,
    B: Body,
    R: Body,
    R::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = HttpResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let layer = &self.layer;
        let arrived = layer.admission.as_ref().map(|_| Stopwatch::start());
        let (parts, body) = request.into_parts();
        let (id, label) = layer.describe(&parts);
        let arrival = Arrival { id, label, parts, body, arrived };
        let state = match &layer.admission {
            None => arrival.start(layer, &mut self.inner, None),
            Some(admission) => match admission.admit(&arrival.parts, label, arrival.length()) {
                Decision::Admitted(admitted) => arrival.start(layer, &mut self.inner, Some(admitted)),
                Decision::Refused(overloaded) => State::Refused { response: Some(arrival.refuse(layer, &overloaded)) },
                Decision::Waits(waiting) => {
                    // The readiness of the service goes with the old one.
                    let service = self.inner.clone();
                    self.inner = service.clone();
                    let queued = Queued::new(waiting, arrival, service, layer.clone());
                    State::Queued { queued: Some(Box::new(queued)) }
                }
            },
        };
        HttpResponseFuture { state }
    }
}

fn request_id(parts: &Parts) -> RequestId {
    #[cfg(feature = "lambda")]
    if let Some(context) = parts.extensions.get::<lambda_runtime::Context>() {
        return RequestId::new(&context.request_id);
    }
    let header = parts.headers.get(&REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
    RequestId::new(header.unwrap_or_default())
}

fn default_label(parts: &Parts) -> Label {
    #[cfg(feature = "axum")]
    if let Some(route) = parts.extensions.get::<axum::extract::MatchedPath>() {
        return Label::new(route.as_str());
    }
    Label::new(parts.uri.path())
}
