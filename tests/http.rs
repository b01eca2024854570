//! The HTTP layer: the ids and labels of its reports, and that it changes nothing else of a service.
#![cfg(all(feature = "axum", feature = "lambda"))]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "clippy knows `#[test]` functions as tests, but not their helpers"
)]

#[path = "support/runtime_api.rs"]
mod runtime_api;

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use plimsoll::integration::{HttpLayer, HttpService};
use plimsoll::monitor::{Label, Outcome};
use plimsoll::{AdmissionLayer, ByteSize, MemoryBudget, Monitor, TrackingAllocator};
use runtime_api::{Call, RuntimeApi};
use serde_json::{Value, json};
use tokio::sync::Barrier;
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
        .print_reports(false)
        .report_share(100)
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

/// Sends one request to `service`, reads the body of the response, and returns its status.
async fn send(service: Router, request: Request<Body>) -> StatusCode {
    let (head, body) = service.oneshot(request).await.expect("a router does not fail").into_parts();
    body.collect().await.expect("a body in memory");
    head.status
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
    let body = response.expect("a router does not fail").into_body();
    assert_eq!(reported(&reports), [], "the request ends with its body");
    assert_eq!(body.collect().await.unwrap().to_bytes(), "an order");
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
    assert_eq!(monitor.http().heads_only().layer(hello).oneshot(request).await, Ok("hello"));
    assert_eq!(reported(&reports), [finished("8476a536-e9f4-11e8-9739-2dfe598c3fcd", "/")]);
}

#[tokio::test]
async fn request_and_response_pass_through_unchanged() {
    let (monitor, reports) = monitor();
    let echo = service_fn(async |request: Request<Vec<u8>>| {
        let (mut parts, body) = request.into_parts();
        let mut response = Response::new((parts.method, parts.uri, parts.version, body));
        (*response.status_mut(), *response.headers_mut()) = (StatusCode::IM_A_TEAPOT, parts.headers);
        response.extensions_mut().insert(parts.extensions.remove::<u32>());
        Ok::<_, Infallible>(response)
    });
    let request = || {
        let request = Request::put("http://example.com/a?b").version(http::Version::HTTP_2).header("x-request-id", "7");
        request.header("cookie", "c").header("cookie", "d").extension(4711_u32).body(vec![0, 255]).unwrap()
    };
    let plain = echo.oneshot(request()).await.unwrap();
    let reported_once = monitor.http().heads_only().layer(echo).oneshot(request()).await.unwrap();
    assert_eq!((plain.status(), plain.headers()), (reported_once.status(), reported_once.headers()));
    assert_eq!(plain.extensions().get(), Some(&Some(4711_u32)));
    assert_eq!(reported_once.extensions().get(), Some(&Some(4711_u32)));
    assert_eq!(plain.into_body(), reported_once.into_body());
    assert_eq!(reported(&reports), [finished("7", "/a")]);
}

#[tokio::test]
async fn error_of_the_inner_service_passes_through() {
    let (monitor, reports) = monitor();
    let broken = service_fn(|_: Request<()>| ready(Err::<Response<()>, _>("broken")));
    assert_eq!(monitor.http().heads_only().layer(broken).oneshot(Request::new(())).await.unwrap_err(), "broken");
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
    let mut service = monitor.http().heads_only().layer(Never);
    assert_eq!(service.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err("worn out")));
    assert_eq!(reported(&reports), []);
}

#[tokio::test]
async fn service_that_becomes_ready_later_is_waited_for() {
    let (monitor, reports) = monitor();
    let limited = ServiceBuilder::new().layer(monitor.http().heads_only()).concurrency_limit(1);
    let mut service = limited.service_fn(async |_: Request<()>| Ok::<_, Infallible>(()));
    let first = service.ready().await.unwrap().call(Request::new(()));
    let mut second = service.clone();
    let is_ready = poll_fn(|cx| Poll::Ready(second.poll_ready(cx).is_ready())).await;
    assert!(!is_ready && reported(&reports).is_empty());
    assert_eq!(first.await, Ok(()));
    assert_eq!(second.ready().await.unwrap().call(Request::new(())).await, Ok(()));
    assert_eq!(reported(&reports), [finished("-", "/"), finished("-", "/")]);
}

fn unfinished(label: &str) -> (String, String, Outcome) {
    ("-".to_owned(), label.to_owned(), Outcome::Unfinished)
}

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn request_that_is_dropped_is_unfinished() {
    let (monitor, reports) = monitor();
    let mut hanging =
        monitor.http().heads_only().layer(service_fn(|_: Request<()>| pending::<Result<(), Infallible>>()));
    assert!(poll_once(hanging.call(Request::new(()))).is_pending());
    drop(hanging.call(Request::new(())));
    assert_eq!(reported(&reports), [unfinished("/"), unfinished("/")]);
    assert!(!monitor.start("next").finish().concurrent, "none is left in flight");
}

#[test]
fn request_that_panics_in_the_call_is_unfinished() {
    let (monitor, reports) = monitor();
    let mut panicking = monitor.http().heads_only().layer(service_fn(|request: Request<()>| {
        assert!(request.headers().contains_key("x"), "no header");
        ready(Ok::<_, Infallible>(()))
    }));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(panicking.call(Request::new(()))))).is_err());
    assert_eq!(reported(&reports), [unfinished("/")]);
    assert!(!monitor.start("next").finish().concurrent, "none is left in flight");
}

#[test]
fn request_with_a_panicking_handler_is_unfinished() {
    let (monitor, reports) = monitor();
    let handler = async |headers: http::HeaderMap| assert!(headers.contains_key("x"), "no header");
    let mut app = Router::new().route("/orders/{id}", get(handler)).layer(monitor.http());
    assert!(catch_unwind(AssertUnwindSafe(|| poll_once(app.call(request("/orders/7"))))).is_err());
    assert_eq!(reported(&reports), [unfinished("/orders/{id}")]);
    assert!(!monitor.start("next").finish().concurrent, "none is left in flight");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_requests_have_their_own_ids_and_labels() {
    const REQUESTS: usize = 100;
    let (monitor, reports) = monitor();
    let all_in_flight = Arc::new(Barrier::new(REQUESTS));
    let handler = async move || _ = all_in_flight.wait().await;
    let app = monitor.http().layer(Router::new().fallback(handler));
    let calls: Vec<_> = (0..REQUESTS)
        .map(|number| {
            let mut request = request(&format!("/orders/{number}"));
            request.headers_mut().insert("x-request-id", number.into());
            tokio::spawn(app.clone().oneshot(request))
        })
        .collect();
    for call in calls {
        let response = call.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.unwrap();
    }
    let mut reports = reported(&reports);
    reports.sort_by_key(|(id, ..)| id.parse::<usize>().ok());
    let expected = (0..REQUESTS).map(|number| finished(&number.to_string(), &format!("/orders/{number}")));
    assert_eq!(reports, expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn layer_fits_other_layers_in_both_orders() {
    let (monitor, reports) = monitor();
    let http: HttpLayer = monitor.http();
    let admission = AdmissionLayer::new(&MemoryBudget::new(ByteSize::mib(100)), ByteSize::mib(1))
        .unwrap()
        .on_overload(|over| axum::response::IntoResponse::into_response(over.to_string()));
    assert_eq!(send(router().layer(admission.clone()).layer(http.clone()), request("/")).await, StatusCode::OK);
    assert_eq!(send(router().layer(http.clone()).layer(admission), request("/")).await, StatusCode::OK);
    let built =
        ServiceBuilder::new().layer(http.heads_only()).service_fn(async |_: Request<()>| Ok::<_, Infallible>(()));
    assert_eq!(built.oneshot(Request::new(())).await, Ok(()));
    assert_eq!(reported(&reports).len(), 3);
}

#[test]
fn layer_service_and_future_have_the_bounds_of_axum() {
    fn is_shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    fn is_future<T: Future + Send + 'static>(_: &T) {}
    let (monitor, _) = monitor();
    let layer: HttpLayer = monitor.http();
    is_shared(&layer);
    let mut service: HttpService<Router> = layer.layer(router());
    is_shared(&service);
    is_future(&service.call(request("/")));
}

/// Serves one request for `/orders/4711` with a runtime of `lambda_http`; returns the body that the runtime posts.
async fn invoke(run: impl Future<Output = Result<(), lambda_http::Error>>) -> String {
    // A runtime reads its address from the environment, so there is one at a time.
    static ENVIRONMENT: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    const PATIENCE: Duration = Duration::from_mins(1);
    let _environment = ENVIRONMENT.lock().await;
    let event = json!({
        "version": "2.0", "routeKey": "$default", "rawPath": "/orders/4711", "rawQueryString": "full=1",
        "headers": { "host": "example.com", "x-request-id": "chosen" }, "isBase64Encoded": false,
        "requestContext": {
            "accountId": "0", "apiId": "0", "domainName": "example.com", "domainPrefix": "example", "requestId": "0",
            "http": {
                "method": "GET", "path": "/orders/4711", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1",
                "userAgent": "test"
            },
            "routeKey": "$default", "stage": "$default", "time": "29/Nov/2026:05:40:08 +0000",
            "timeEpoch": 1_795_930_808_000_u64
        }
    });
    let api = RuntimeApi::serve([event.to_string()]);
    for (name, value) in api.environment(&mut Command::new("unused"), 128).get_envs() {
        #[expect(unsafe_code, reason = "the runtime reads its address from nowhere else")]
        // SAFETY: other tests access the environment through std, which locks it.
        unsafe {
            std::env::set_var(name, value.unwrap_or_default());
        }
    }
    let calls = tokio::task::spawn_blocking(move || [(); 2].map(|()| api.calls.recv_timeout(PATIENCE)));
    let calls = tokio::select! {
        ended = run => panic!("the runtime ended: {ended:?}"),
        calls = calls => calls.expect("no panic there"),
    };
    let [Ok(Call::Started(_)), Ok(Call::Posted { path, body })] = calls else { panic!("{calls:?}") };
    assert_eq!(path, "/2018-06-01/runtime/invocation/request-0/response", "{body}");
    body
}

#[tokio::test]
async fn lambda_http_run_reports_the_invocation_and_the_path() {
    let (monitor, reports) = monitor();
    let hello = service_fn(async |_: lambda_http::Request| Ok::<_, Infallible>("hello"));
    let body = invoke(lambda_http::run(monitor.http().heads_only().layer(hello))).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&answer["statusCode"], &answer["body"]), (&200.into(), &"hello".into()));
    assert_eq!(reported(&reports), [finished("request-0", "/orders/4711")]);
}

#[tokio::test]
async fn lambda_http_run_of_a_router_reports_the_route() {
    let (monitor, reports) = monitor();
    let body = invoke(lambda_http::run(router().layer(monitor.http()))).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&answer["statusCode"], &answer["body"]), (&200.into(), &"an order".into()));
    assert_eq!(reported(&reports), [finished("request-0", "/orders/{id}")]);
}

#[tokio::test]
async fn lambda_http_streaming_run_reports_the_invocation() {
    let (monitor, reports) = monitor();
    let app = monitor.http().layer(router());
    let body = invoke(lambda_http::run_with_streaming_response(app)).await;
    let (prelude, body) = body.split_once("\0\0\0\0\0\0\0\0").expect("eight bytes of zero end the prelude");
    assert_eq!(serde_json::from_str::<Value>(prelude).unwrap()["statusCode"], 200);
    assert_eq!(body, "an order");
    assert_eq!(reported(&reports), [finished("request-0", "/orders/4711")]);
}
