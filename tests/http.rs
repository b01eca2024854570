//! The HTTP layer: the ids and labels of its reports, and that it changes nothing else of a service.
#![cfg(all(feature = "axum", feature = "lambda"))]
#![expect(clippy::expect_used, reason = "clippy knows `#[test]` functions as tests, but not their helpers")]

use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, Response, StatusCode};
use plimsoll::integration::HttpLayer;
use plimsoll::monitor::{Label, Outcome, ReportPolicy};
use plimsoll::{AdmissionLayer, ByteSize, MemoryBudget, Monitor, TrackingAllocator};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// Id, label and outcome of each report, in order.
type Reports = Arc<Mutex<Vec<(String, String, Outcome)>>>;

fn monitor() -> (Monitor, Reports) {
    let reports = Reports::default();
    let noted = Arc::clone(&reports);
    let monitor = Monitor::builder()
        .memory_size(ByteSize::mib(1024))
        .report(ReportPolicy::Off)
        .on_report(move |report| {
            let (id, label) = (report.id.to_string(), report.label.to_string());
            noted.lock().expect("no panic here").push((id, label, report.outcome));
        })
        .build()
        .expect("constant settings");
    (monitor, reports)
}

fn reported(reports: &Reports) -> Vec<(String, String, Outcome)> {
    std::mem::take(&mut *reports.lock().expect("no panic here"))
}

fn finished(id: &str, label: &str) -> (String, String, Outcome) {
    (id.to_owned(), label.to_owned(), Outcome::Finished)
}

fn request(path: &str) -> Request<Body> {
    Request::builder().uri(path).body(Body::empty()).expect("a valid path")
}

fn router() -> Router {
    let orders = Router::new().route("/{id}", get(async || "an order"));
    Router::new().route("/", get(async || "home")).nest("/orders", orders)
}

/// Sends one request to `service`; returns the status and the report.
async fn send(service: Router, request: Request<Body>) -> StatusCode {
    service.oneshot(request).await.expect("a router does not fail").status()
}

#[tokio::test]
async fn label_of_a_router_layer_is_the_matched_route() {
    let (monitor, reports) = monitor();
    let app = router().layer(monitor.http());
    for (path, label) in [("/", "/"), ("/orders/4711", "/orders/{id}"), ("/orders/a%20b?c=d", "/orders/{id}")] {
        assert_eq!(send(app.clone(), request(path)).await, StatusCode::OK);
        assert_eq!(reported(&reports), [finished("-", label)]);
    }
    assert_eq!(send(app, request("/nowhere")).await, StatusCode::NOT_FOUND);
    assert_eq!(reported(&reports), [finished("-", "/nowhere")]);
}

#[tokio::test]
async fn label_around_a_whole_router_is_the_path() {
    let (monitor, reports) = monitor();
    let response = monitor.http().layer(router()).oneshot(request("/orders/4711?c=d")).await;
    assert_eq!(response.expect("a router does not fail").status(), StatusCode::OK);
    assert_eq!(reported(&reports), [finished("-", "/orders/4711")]);
}

#[tokio::test]
async fn label_by_a_closure_replaces_the_default() {
    let (monitor, reports) = monitor();
    let app = router().layer(monitor.http().label_by(|parts| Label::from(format!("{}:{}", parts.method, parts.uri))));
    assert_eq!(send(app, request("/orders/4711")).await, StatusCode::OK);
    assert_eq!(reported(&reports), [finished("-", "GET:/orders/4711")]);
}

#[tokio::test]
async fn label_of_a_panicking_closure_is_empty() {
    let (monitor, reports) = monitor();
    let layer = monitor.http().label_by(|parts| Label::from(parts.headers.get("x-label").unwrap().to_str().unwrap()));
    assert_eq!(send(router().layer(layer), request("/")).await, StatusCode::OK);
    assert_eq!(reported(&reports), [finished("-", "")]);
}

#[tokio::test]
async fn id_is_the_header_without_hostile_characters() {
    let (monitor, reports) = monitor();
    let app = router().layer(monitor.http());
    for (header, id) in [("4f1c/9a", "4f1c/9a"), ("a\t{\"forged\":1}", "aforged:1"), ("", "-")] {
        let mut request = request("/");
        request.headers_mut().insert("x-request-id", header.parse().unwrap());
        assert_eq!(send(app.clone(), request).await, StatusCode::OK);
        assert_eq!(reported(&reports), [finished(id, "/")]);
    }
    let mut opaque = request("/");
    opaque.headers_mut().insert("x-request-id", http::HeaderValue::from_bytes(b"\xff\xfe").unwrap());
    assert_eq!(send(app, opaque).await, StatusCode::OK);
    assert_eq!(reported(&reports), [finished("-", "/")]);
}

#[tokio::test]
async fn id_of_a_lambda_invocation_wins_over_the_header() {
    let (monitor, reports) = monitor();
    let mut context = lambda_runtime::Context::default();
    context.request_id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd".to_owned();
    let mut request = Request::new(lambda_http::Body::Empty);
    request.headers_mut().insert("x-request-id", "chosen".parse().unwrap());
    let request = lambda_http::RequestExt::with_lambda_context(request, context);
    let hello = service_fn(async |_: lambda_http::Request| Ok::<_, Infallible>("hello"));
    assert_eq!(monitor.http().layer(hello).oneshot(request).await, Ok("hello"));
    assert_eq!(reported(&reports), [finished("8476a536-e9f4-11e8-9739-2dfe598c3fcd", "/")]);
}

#[tokio::test]
async fn error_of_the_inner_service_passes_through() {
    let (monitor, reports) = monitor();
    let broken = service_fn(|_: Request<()>| ready(Err::<Response<()>, _>("broken")));
    assert_eq!(monitor.http().layer(broken).oneshot(Request::new(())).await.unwrap_err(), "broken");
    assert_eq!(reported(&reports), [finished("-", "/")]);
}

#[test]
fn readiness_is_that_of_the_inner_service() {
    struct Never;
    impl Service<Request<()>> for Never {
        type Response = ();
        type Error = &'static str;
        type Future = std::future::Ready<Result<(), &'static str>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            Poll::Ready(Err("worn out"))
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            ready(Ok(()))
        }
    }
    let (monitor, reports) = monitor();
    let mut service = monitor.http().layer(Never);
    assert_eq!(service.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err("worn out")));
    assert_eq!(reported(&reports), []);
}

#[test]
fn request_that_is_dropped_or_panics_is_unfinished() {
    let (monitor, reports) = monitor();
    {
        let mut hanging = monitor.http().layer(service_fn(|_: Request<()>| pending::<Result<(), Infallible>>()));
        let mut response = pin!(hanging.call(Request::new(())));
        assert!(response.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let mut panicking = monitor.http().layer(service_fn(|request: Request<()>| {
        assert!(request.headers().contains_key("x"), "no header");
        ready(Ok::<_, Infallible>(()))
    }));
    let call = std::panic::AssertUnwindSafe(|| drop(panicking.call(Request::new(()))));
    assert!(std::panic::catch_unwind(call).is_err());
    let unfinished = ("-".to_owned(), "/".to_owned(), Outcome::Unfinished);
    assert_eq!(reported(&reports), [unfinished.clone(), unfinished]);
    assert!(!monitor.start("next").finish().concurrent, "none was left in flight");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_requests_have_their_own_ids_and_labels() {
    let (monitor, reports) = monitor();
    let app = router().layer(monitor.http());
    let calls: Vec<_> = (0..100)
        .map(|number| {
            let mut request = request(&format!("/orders/{number}"));
            request.headers_mut().insert("x-request-id", number.into());
            tokio::spawn(send(app.clone(), request))
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), StatusCode::OK);
    }
    let mut reports = reported(&reports);
    reports.sort_by_key(|(id, ..)| id.parse::<u32>().ok());
    assert_eq!(reports, (0..100).map(|number| finished(&number.to_string(), "/orders/{id}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn layer_fits_other_layers_in_both_orders() {
    fn is_a_layer<T: Clone + Send + Sync + 'static>(_: &T) {}
    let (monitor, reports) = monitor();
    let http: HttpLayer = monitor.http();
    is_a_layer(&http);
    let admission = AdmissionLayer::new(&MemoryBudget::new(ByteSize::mib(100)), ByteSize::mib(1))
        .answer_with(|over| axum::response::IntoResponse::into_response(over.to_string()));
    assert_eq!(send(router().layer(admission.clone()).layer(http.clone()), request("/")).await, StatusCode::OK);
    assert_eq!(send(router().layer(http.clone()).layer(admission), request("/")).await, StatusCode::OK);
    let built = ServiceBuilder::new().layer(http).service_fn(async |_: Request<()>| Ok::<_, Infallible>(()));
    assert_eq!(built.oneshot(Request::new(())).await, Ok(()));
    assert_eq!(reported(&reports).len(), 3);
}
