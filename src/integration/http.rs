//! One layer for every HTTP service: axum, `lambda_http`, hyper, and any tower service of `http::Request`.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use http::request::Parts;
use tower_layer::Layer;
use tower_service::Service;

use super::ResponseFuture;
use crate::monitor::{Label, Monitor, RequestId};
use crate::unwind::contained;

/// The header that carries a request id by convention.
const REQUEST_ID_HEADER: &str = "x-request-id";

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
    /// lambda_http::run(monitor.http().layer(service_fn(handler))).await
    /// # }
    /// ```
    pub fn http(&self) -> HttpLayer {
        HttpLayer { monitor: self.clone(), label: Arc::new(default_label) }
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
/// A request ends with the head of its response; a body that is streamed after it is not part of the report. If the
/// future of a request panics or is dropped, the request is reported as unfinished. The layer adds no error: readiness, responses and errors
/// are those of the inner service.
///
/// # Performance
///
/// [`Monitor::start`] and [`Invocation::finish`](crate::monitor::Invocation::finish), some 20 microseconds a request,
/// and no allocation. With `lambda_http` they run before the response is posted.
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
#[derive(Clone)]
pub struct HttpLayer {
    monitor: Monitor,
    label: LabelOf,
}

impl HttpLayer {
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
        self.label = Arc::new(label);
        self
    }

    /// Wraps `inner`. The same as [`Layer::layer`], without an import of the trait.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::Monitor;
    /// use tower::service_fn;
    ///
    /// # fn wrap(monitor: &Monitor) {
    /// let hello = service_fn(async |_: http::Request<()>| Ok::<_, std::io::Error>(http::Response::new("hello")));
    /// let reported = monitor.http().layer(hello);
    /// # }
    /// ```
    pub fn layer<S>(&self, inner: S) -> HttpService<S> {
        HttpService { inner, layer: self.clone() }
    }
}

impl fmt::Debug for HttpLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpLayer").field("monitor", &self.monitor).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for HttpLayer {
    type Service = HttpService<S>;

    fn layer(&self, inner: S) -> HttpService<S> {
        Self::layer(self, inner)
    }
}

/// An HTTP service with reported requests: the service that [`HttpLayer`] makes.
///
/// # Examples
///
/// ```
/// use plimsoll::{Monitor, integration::HttpService};
/// use tower::service_fn;
///
/// # fn wrap(monitor: &Monitor) {
/// let hello = service_fn(async |_: http::Request<()>| Ok::<_, std::io::Error>(http::Response::new("hello")));
/// let reported: HttpService<_> = monitor.http().layer(hello);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct HttpService<S> {
    inner: S,
    layer: HttpLayer,
}

impl<S, B> Service<Request<B>> for HttpService<S>
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
        let label = contained(|| (self.layer.label)(&parts)).unwrap_or_default();
        let invocation = self.layer.monitor.start(request_id(&parts)).with_label(label);
        ResponseFuture::new(invocation, self.inner.call(Request::from_parts(parts, body)))
    }
}

fn request_id(parts: &Parts) -> RequestId {
    #[cfg(feature = "lambda")]
    if let Some(context) = parts.extensions.get::<lambda_runtime::Context>() {
        return RequestId::new(&context.request_id);
    }
    let header = parts.headers.get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
    RequestId::new(header.unwrap_or_default())
}

fn default_label(parts: &Parts) -> Label {
    #[cfg(feature = "axum")]
    if let Some(route) = parts.extensions.get::<axum::extract::MatchedPath>() {
        return Label::new(route.as_str());
    }
    Label::new(parts.uri.path())
}
