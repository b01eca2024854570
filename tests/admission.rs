//! Admission of HTTP requests: what is reserved from the arrival to the last byte, and what becomes of requests that cannot
//! have it.
#![cfg(feature = "axum")]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "clippy knows `#[test]` functions as tests, but not their helpers"
)]

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Full, StreamBody};
use plimsoll::budget::{ReclaimPriority, ReclaimerHandle, reclaim_fn};
use plimsoll::integration::{HttpService, RequestBody};
use plimsoll::monitor::{self, Outcome};
use plimsoll::{Admission, ByteSize, Estimate, MemoryBudget, Monitor, Overloaded, Reservation, TrackingAllocator};
use tower::util::BoxCloneService;
use tower::{Service, ServiceExt, service_fn};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

const MIB: usize = 1 << 20;

type Seen = Arc<Mutex<Vec<monitor::Request>>>;

fn monitor() -> (Monitor, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let monitor = Monitor::builder()
        .memory_size(ByteSize::mib(1024))
        .print_reports(false)
        .report_share(0)
        .on_request(move |request| noted.lock().expect("no panic here").push(*request))
        .build()
        .expect("constant settings");
    (monitor, seen)
}

fn outcomes(seen: &Seen) -> Vec<Outcome> {
    std::mem::take(&mut *seen.lock().expect("no panic here")).iter().map(|request| request.outcome).collect()
}

fn budget(mib: u64) -> MemoryBudget {
    MemoryBudget::new(ByteSize::mib(mib))
}

fn admission(budget: &MemoryBudget) -> Admission {
    Admission::new(budget).expect("one account")
}

fn constant(budget: &MemoryBudget, mib: u64) -> Admission {
    admission(budget).estimate(Estimate::constant(ByteSize::mib(mib)))
}

fn hold(budget: &MemoryBudget, mib: u64) -> Reservation {
    budget.account("model").expect("an account").try_reserve(ByteSize::mib(mib)).expect("it is available")
}

/// Entries of a cache that are evicted for others, under the account `model`.
fn cache(budget: &MemoryBudget, mib: u64) -> (Arc<Mutex<Reservation>>, ReclaimerHandle) {
    let entries = Arc::new(Mutex::new(hold(budget, mib)));
    let shared = Arc::clone(&entries);
    let evict = reclaim_fn(move |want: ByteSize, _| {
        let _released = shared.try_lock().map(|mut entries| entries.shrink(want));
    });
    let account = budget.account("model").expect("an account");
    (entries, account.register_reclaimer(ReclaimPriority::CACHE, evict))
}

/// Whole MiB that are reserved, rounded up.
fn reserved(budget: &MemoryBudget) -> u64 {
    budget.reserved().as_u64().div_ceil(1 << 20)
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

fn get() -> Request<Body> {
    Request::new(Body::empty())
}

fn post(mib: usize) -> Request<Body> {
    Request::new(Body::from(vec![1; mib * MIB]))
}

/// A body without a length, in frames of 1 MiB.
fn chunked(mib: usize) -> Request<Body> {
    let frames = (0..mib).map(|_| Ok::<_, Infallible>(Bytes::from(vec![1; MIB])));
    Request::new(Body::from_stream(futures_util::stream::iter(frames)))
}

/// Waits once.
async fn pause() {
    tokio::task::yield_now().await;
}

/// Allocates 1 MiB at each poll, until it holds `mib`.
async fn grow(mib: usize) -> usize {
    let mut held = Vec::new();
    for _ in 0..mib {
        held.push(std::hint::black_box(vec![1_u8; MIB]));
        pause().await;
    }
    held.len()
}

type Growing = HttpService<BoxCloneService<Request<RequestBody<Body>>, Response<Full<Bytes>>, Infallible>>;

/// A service that grows by the MiB of its query.
fn growing(monitor: &Monitor, admission: Admission) -> Growing {
    let grow = service_fn(async |request: Request<RequestBody<Body>>| {
        let mib = request.uri().query().and_then(|query| query.parse().ok()).unwrap_or(0);
        let held = grow(mib).await;
        Ok(Response::new(Full::from(held.to_string())))
    });
    monitor.http().admit(admission).layer(BoxCloneService::new(grow))
}

fn path(uri: &str) -> Request<Body> {
    Request::builder().uri(uri).body(Body::empty()).expect("a valid request")
}

#[test]
fn estimate_is_reserved_from_the_call_to_the_drop() {
    let (budget, (monitor, seen)) = (budget(100), monitor());
    let mut service = growing(&monitor, constant(&budget, 30));
    let first = service.call(path("/?1"));
    let second = service.call(path("/?1"));
    assert_eq!(reserved(&budget), 60);
    drop(first);
    assert_eq!(reserved(&budget), 30);
    let response = block_on(second).expect("no error");
    drop(response);
    assert_eq!(budget.reserved(), ByteSize::ZERO);
    assert_eq!(outcomes(&seen), [Outcome::Unfinished, Outcome::Unfinished], "neither body was read");
}

#[test]
fn request_without_memory_is_refused_and_not_called() {
    let (budget, (monitor, seen)) = (budget(100), monitor());
    let called = Arc::new(Mutex::new(0));
    let count = Arc::clone(&called);
    let mut service = monitor.http().admit(constant(&budget, 30)).layer(service_fn(move |_: Request<_>| {
        *count.lock().expect("no panic here") += 1;
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    }));
    let model = hold(&budget, 80);
    let response = block_on(service.call(get())).expect("no error");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    assert!(response.into_body().is_end_stream());
    assert_eq!((*called.lock().expect("no panic here"), outcomes(&seen)), (0, vec![Outcome::Refused]));
    let [label] = &monitor.labels()[..] else { panic!("{:?}", monitor.labels()) };
    assert_eq!((label.requests, label.refused, label.label.as_str()), (0, 1, "/"));
    drop(model);
    assert_eq!(block_on(service.call(get())).expect("no error").status(), StatusCode::OK);
}

#[test]
fn cache_releases_memory_before_a_request_is_refused() {
    let (budget, (monitor, _)) = (budget(100), monitor());
    let (_entries, _registered) = cache(&budget, 95);
    let response = block_on(growing(&monitor, constant(&budget, 30)).call(get())).expect("no error");
    assert_eq!(response.status(), StatusCode::OK);
    drop(response);
    assert_eq!(reserved(&budget), 70);
}

#[test]
fn status_is_413_for_a_body_that_exceeds_the_budget() {
    let (budget, (monitor, seen)) = (budget(100), monitor());
    let per_byte = || admission(&budget).estimate(Estimate::per_body_byte(20, ByteSize::mib(1)));
    let status = |admission: Admission, request| {
        block_on(growing(&monitor, admission).call(request)).expect("no error").status()
    };
    assert_eq!(status(per_byte(), post(4)), StatusCode::OK);
    assert_eq!(status(per_byte(), post(6)), StatusCode::PAYLOAD_TOO_LARGE);
    for request in [get(), post(1)] {
        assert_eq!(status(constant(&budget, 101), request), StatusCode::SERVICE_UNAVAILABLE, "it is not the body");
    }
    let by_body = admission(&budget).estimate(Estimate::per_body_byte(20, ByteSize::mib(1)));
    let small = Request::builder().uri("/?120").body(Body::from("small")).expect("valid");
    assert_eq!(status(by_body, small), StatusCode::SERVICE_UNAVAILABLE, "the handler takes it");
    let panics = admission(&budget).estimate(Estimate::of_request(|request| panic!("{request:?}")));
    assert_eq!(status(panics, post(1)), StatusCode::SERVICE_UNAVAILABLE);
    let collects = admission(&budget).estimate(Estimate::constant(ByteSize::mib(1)));
    let collect = monitor.http().admit(collects).layer(service_fn(async |request: Request<RequestBody<Body>>| {
        let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
        let status = if body.is_ok() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        Ok::<_, Infallible>(Response::builder().status(status).body(Full::<Bytes>::default()).expect("valid"))
    }));
    assert_eq!(block_on(collect.clone().oneshot(chunked(20))).expect("no error").status(), StatusCode::OK);
    let too_large = block_on(collect.oneshot(chunked(120))).expect("no error");
    assert_eq!(too_large.status(), StatusCode::PAYLOAD_TOO_LARGE, "by what it held");
    let wait = Duration::from_hours(1);
    assert_eq!(status(per_byte().wait_up_to(wait), post(6)), StatusCode::PAYLOAD_TOO_LARGE, "it does not wait in vain");
    let announced = Request::builder()
        .header("content-length", u64::MAX)
        .body(Body::from_stream(StreamBody::new(futures_util::stream::empty::<Result<Bytes, Infallible>>())));
    assert_eq!(status(per_byte(), announced.expect("a valid request")), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(outcomes(&seen).iter().filter(|outcome| **outcome == Outcome::Refused).count(), 6);
}

#[test]
fn response_to_a_refusal_is_that_of_the_closure() {
    let (budget, (monitor, _)) = (budget(100), monitor());
    let text = |overloaded: &Overloaded| Response::builder().status(429).body(overloaded.to_string()).expect("valid");
    let mut service = growing(&monitor, constant(&budget, 101).on_overload(text));
    let response = block_on(service.call(get())).expect("no error");
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    let body = response.into_body();
    assert!(!body.is_end_stream() && body.size_hint().exact().is_some_and(|len| len > 50));
    let body = block_on(body.collect()).expect("no error").to_bytes();
    assert_eq!(body, "not admitted: requests asked for 101.0 MiB, 100.0 MiB are available of a 100.0 MiB budget");
    let panics = constant(&budget, 101).on_overload(|overloaded| -> Response<String> { panic!("{overloaded}") });
    let response = block_on(growing(&monitor, panics).call(get())).expect("no error");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn estimate_of_a_panicking_function_refuses_the_request() {
    let (budget, (monitor, _)) = (budget(100), monitor());
    let estimate = Estimate::of_request(|request| match request.uri.path() {
        "/small" => ByteSize::mib(1),
        other => panic!("{other}"),
    });
    let mut service = growing(&monitor, admission(&budget).estimate(estimate));
    assert_eq!(block_on(service.call(path("/small"))).expect("no error").status(), StatusCode::OK);
    let refused = block_on(service.call(path("/other"))).expect("no error");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn request_that_outgrows_its_estimate_reserves_more_or_is_ended() {
    let (budget, (monitor, seen)) = (budget(20), monitor());
    let mut service = growing(&monitor, constant(&budget, 2));
    let mut small = pin!(service.call(path("/?8")));
    for _ in 0..8 {
        assert!(poll_once(small.as_mut()).is_pending());
    }
    assert_eq!(reserved(&budget), 9, "what it holds, and its future");
    let mut large = pin!(service.call(path("/?30")));
    let response = loop {
        if let Poll::Ready(response) = poll_once(large.as_mut()) {
            break response.expect("no error");
        }
        assert!(reserved(&budget) <= 20);
    };
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reserved(&budget), 9, "what it had is released");
    let Poll::Ready(Ok(response)) = poll_once(small.as_mut()) else { panic!("the other one goes on") };
    assert_eq!(response.status(), StatusCode::OK);
    drop(block_on(response.into_body().collect()));
    assert_eq!(outcomes(&seen), [Outcome::Overloaded, Outcome::Finished]);
    assert_eq!(budget.reserved(), ByteSize::ZERO);
}

#[test]
fn frames_of_a_body_without_a_length_are_charged_as_they_arrive() {
    let (budget, (monitor, seen)) = (budget(20), monitor());
    let shared = budget.clone();
    let layer = monitor.http().admit(admission(&budget).estimate(Estimate::per_body_byte(3, ByteSize::kib(64))));
    let mut service = layer.layer(service_fn(move |request: Request<RequestBody<Body>>| {
        let budget = shared.clone();
        async move {
            let mut body = request.into_body();
            let mut received = 0;
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(_dropped_at_once) => received += 1,
                    Err(error) => {
                        assert!(error.downcast_ref::<Overloaded>().is_some(), "{error}");
                        assert!(body.is_end_stream() && body.frame().await.is_none());
                        return Ok::<_, Infallible>(
                            Response::builder().status(400).body(Body::empty()).expect("valid"),
                        );
                    }
                }
                assert!(reserved(&budget) >= 3 * received, "{received} MiB were received");
            }
            Ok(Response::new(Body::from(received.to_string())))
        }
    }));
    let response = block_on(service.call(chunked(6))).expect("no error");
    assert_eq!(block_on(response.into_body().collect()).expect("a body").to_bytes(), "6");
    let response = block_on(service.call(chunked(7))).expect("no error");
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE, "not the 400 of the handler");
    drop(response);
    let _model = hold(&budget, 10);
    let response = block_on(service.call(chunked(6))).expect("no error");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(outcomes(&seen), [Outcome::Finished, Outcome::Overloaded, Outcome::Overloaded]);
}

#[test]
fn axum_extractor_of_a_refused_body_answers_503() {
    let (budget, (monitor, _)) = (budget(10), monitor());
    let app = axum::Router::new()
        .route("/", axum::routing::post(async |body: Bytes| body.len().to_string()))
        .layer(monitor.http().admit(constant(&budget, 1)));
    let status = |request: Request<Body>| {
        let (mut parts, body) = request.into_parts();
        parts.method = http::Method::POST;
        let request = Request::from_parts(parts, body);
        block_on(app.clone().oneshot(request)).expect("no error").status()
    };
    assert_eq!(status(chunked(1)), StatusCode::OK);
    // By what they hold: axum's limit of a body is 2 MB.
    let _model = hold(&budget, 8);
    assert_eq!(status(chunked(2)), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn response_holds_what_is_live_until_its_last_frame_is_dropped() {
    let (budget, (monitor, seen)) = (budget(100), monitor());
    let mut service = monitor
        .http()
        .admit(constant(&budget, 50))
        .layer(service_fn(async |_: Request<_>| Ok::<_, Infallible>(Response::new(Body::from(vec![1; 20 * MIB])))));
    let response = block_on(service.call(get())).expect("no error");
    assert!((20..=41).contains(&reserved(&budget)), "{}", budget.reserved());
    let mut body = response.into_body();
    let frame = block_on(body.frame()).expect("a frame").expect("no error").into_data().expect("data");
    drop(body); // hyper drops it as soon as the last frame is in its queue
    assert_eq!(reserved(&budget), 20);
    let part = frame.slice(0..10);
    drop(frame);
    assert_eq!(reserved(&budget), 20, "a slice keeps all of it");
    assert_eq!(outcomes(&seen), []);
    drop(part);
    assert_eq!((budget.reserved(), outcomes(&seen)), (ByteSize::ZERO, vec![Outcome::Finished]));
}

#[test]
fn response_that_is_larger_than_its_estimate_is_reserved_or_replaced() {
    let (budget, (monitor, _)) = (budget(50), monitor());
    let mut service = monitor
        .http()
        .admit(constant(&budget, 1))
        .layer(service_fn(async |_: Request<_>| Ok::<_, Infallible>(Response::new(Body::from(vec![1; 20 * MIB])))));
    let kept: Vec<_> = (0..2).map(|_| block_on(service.call(get())).expect("no error")).collect();
    assert_eq!(reserved(&budget), 41);
    let third = block_on(service.call(get())).expect("no error");
    assert_eq!(third.status(), StatusCode::SERVICE_UNAVAILABLE, "it is not in memory any more");
    assert_eq!(reserved(&budget), 41);
    drop(kept);
    assert_eq!(budget.reserved(), ByteSize::ZERO);
}

#[test]
fn idle_stream_of_events_reserves_next_to_nothing() {
    let (budget, (monitor, _)) = (budget(100), monitor());
    let mut service = monitor.http().admit(constant(&budget, 20)).layer(service_fn(async |_: Request<_>| {
        grow(10).await;
        let one = futures_util::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from("data: 1\n\n")))]);
        Ok::<_, Infallible>(Response::new(StreamBody::new(one.chain(futures_util::stream::pending()))))
    }));
    let mut streams = Vec::new();
    for number in 1..=64 {
        let mut body = Box::pin(block_on(service.call(get())).expect("no error").into_body());
        assert!(block_on(body.frame()).is_some_and(|frame| frame.is_ok()));
        assert!(budget.reserved() >= ByteSize::kib(512), "for what the server buffers of it");
        assert!(poll_once(pin!(body.frame())).is_pending());
        streams.push(body);
        assert!(budget.reserved() <= ByteSize::kib(32 * number), "{} of {number}", budget.reserved());
    }
    drop(streams);
    assert_eq!(budget.reserved(), ByteSize::ZERO);
}

#[test]
fn response_body_without_memory_for_its_frames_is_cut_off() {
    let (budget, (monitor, seen)) = (budget(10), monitor());
    let mut service = monitor.http().admit(constant(&budget, 1)).layer(service_fn(async |_: Request<_>| {
        let frames = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![1; MIB]))));
        Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
    }));
    let mut body = block_on(service.call(get())).expect("no error").into_body();
    for _ in 0..100 {
        drop(block_on(body.frame()).expect("a frame").expect("it is dropped at once"));
    }
    let mut kept = Vec::new();
    let error = loop {
        match block_on(body.frame()).expect("a frame") {
            Ok(frame) => kept.push(frame),
            Err(error) => break error,
        }
    };
    assert!((9..=11).contains(&kept.len()), "{}", kept.len());
    assert!(matches!(error.downcast_ref(), Some(Overloaded::Outgrown { .. })), "{error}");
    assert!(block_on(body.frame()).is_none());
    drop((kept, body));
    assert_eq!((budget.reserved(), outcomes(&seen)), (ByteSize::ZERO, vec![Outcome::Overloaded]));
}

#[tokio::test(start_paused = true)]
async fn request_waits_for_its_turn_or_for_its_deadline() {
    let (budget, (monitor, seen)) = (budget(100), monitor());
    let wait = Duration::from_secs(2);
    let service = growing(&monitor, constant(&budget, 60).wait_up_to(wait).max_waiting(2));
    let call = || tokio::spawn(service.clone().call(path("/?1")));
    let model = hold(&budget, 80);
    let (first, second, third) = (call(), call(), call());
    // Two may wait.
    let third = third.await.expect("no panic").expect("no error");
    assert_eq!(third.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(outcomes(&seen), [Outcome::Refused]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!first.is_finished() && !second.is_finished());
    drop(model);
    let first = first.await.expect("no panic").expect("no error");
    assert_eq!(first.status(), StatusCode::OK);
    let second = second.await.expect("no panic").expect("no error");
    assert_eq!(second.status(), StatusCode::OK, "a small response holds next to nothing");
    drop((first, second));
    let _model = hold(&budget, 80);
    let begun = tokio::time::Instant::now();
    let refused = call().await.expect("no panic").expect("no error");
    assert_eq!((refused.status(), begun.elapsed()), (StatusCode::SERVICE_UNAVAILABLE, wait));
    let waiting = call();
    tokio::task::yield_now().await;
    waiting.abort();
    assert!(waiting.await.is_err());
    assert_eq!(reserved(&budget), 80, "a request that is gone holds nothing");
}

#[test]
fn request_without_a_runtime_does_not_wait() {
    let (budget, (monitor, _)) = (budget(10), monitor());
    let _model = hold(&budget, 10);
    let mut service = growing(&monitor, constant(&budget, 5).wait_up_to(Duration::from_hours(1)));
    let Poll::Ready(Ok(response)) = poll_once(pin!(service.call(get()))) else { panic!("it waits") };
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn learned_estimate_is_the_peak_of_earlier_requests_of_the_kind() {
    let (budget, (monitor, _)) = (budget(100), monitor());
    let mut service = growing(&monitor, admission(&budget));
    let first = service.call(path("/a?10"));
    assert_eq!(reserved(&budget), 25, "a quarter for what is not known");
    drop(block_on(first).expect("no error"));
    let again = service.call(path("/a?10"));
    assert!((10..=12).contains(&reserved(&budget)), "{}", budget.reserved());
    let other = service.call(path("/b?1"));
    assert!((35..=37).contains(&reserved(&budget)), "another label is another kind");
    drop((again, other));
    let with_body = service.call(post(1));
    assert_eq!(reserved(&budget), 25, "24 bytes for each of the body are less");
    drop(with_body);
    drop(service.call(post(2)));
    assert_eq!(budget.account("requests").expect("an account").peak(), ByteSize::mib(48));
    // A request that the handler denies takes little, and is no evidence about the others.
    let mut service = monitor.http().admit(admission(&budget)).layer(service_fn(async |request: Request<_>| {
        let is_denied = request.headers().contains_key("denied");
        let _held = if is_denied { 0 } else { grow(30).await };
        let status = if is_denied { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
        Ok::<_, Infallible>(Response::builder().status(status).body(Full::<Bytes>::default()).expect("valid"))
    }));
    drop(block_on(service.call(get())).expect("no error"));
    for _ in 0..100 {
        let denied = Request::builder().header("denied", "").body(Body::empty()).expect("valid");
        drop(block_on(service.call(denied)).expect("no error"));
    }
    let _next = service.call(get());
    assert!(reserved(&budget) >= 30, "{}", budget.reserved());
}

#[test]
fn unknown_kinds_evict_nothing_and_are_admitted_next_to_long_requests() {
    let (budget, (monitor, _)) = (budget(100), monitor());
    let (entries, _registered) = cache(&budget, 60);
    let mut service = growing(&monitor, admission(&budget));
    // 25 MiB of 40, then half of what is left for one more.
    let slow = (service.call(path("/slow")), service.call(path("/slow")));
    assert_eq!(reserved(&budget), 60 + 25 + 8);
    let another = block_on(service.call(path("/other"))).expect("no error");
    assert_eq!(another.status(), StatusCode::SERVICE_UNAVAILABLE, "one at a time has less than a guess");
    drop(slow);
    let _slow = service.call(path("/slow"));
    for number in 0..10 {
        let response = block_on(service.call(path(&format!("/{number}")))).expect("no error");
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(entries.lock().expect("no panic here").size(), ByteSize::mib(60), "the cache lost nothing");
}

#[tokio::test(start_paused = true)]
async fn unknown_kind_that_waits_evicts_nothing() {
    let (budget, (monitor, _)) = (budget(100), monitor());
    let (entries, _registered) = cache(&budget, 60);
    let mut service = growing(&monitor, admission(&budget).wait_up_to(Duration::from_secs(2)));
    let slow = (service.call(path("/slow")), service.call(path("/slow")));
    let waiting = tokio::spawn(service.call(path("/slow?1")));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    assert_eq!(reserved(&budget), 60 + 25 + 8, "the cache lost nothing");
    let (_slow, first) = slow;
    drop(first.await.expect("no error"));
    assert_eq!(waiting.await.expect("no panic").expect("no error").status(), StatusCode::OK);
    assert_eq!(entries.lock().expect("no panic here").size(), ByteSize::mib(60));
}

#[test]
fn guess_shrinks_once_its_kind_is_known() {
    let (budget, (monitor, _)) = (budget(100), monitor());
    let mut service = growing(&monitor, admission(&budget));
    let mut slow = pin!(service.call(path("/?9")));
    assert!(poll_once(slow.as_mut()).is_pending());
    assert_eq!(reserved(&budget), 25);
    drop(block_on(service.call(path("/?2"))).expect("no error"));
    assert!(poll_once(slow.as_mut()).is_pending());
    assert!(reserved(&budget) <= 4, "{}", budget.reserved());
}

#[test]
fn memory_that_the_request_reserves_itself_counts_once() {
    let (budget, (monitor, seen)) = (budget(100), monitor());
    let model = budget.account("model").expect("an account");
    let loaded = Arc::new(Mutex::new(None));
    let (of_handler, account) = (Arc::clone(&loaded), model.clone());
    let mut service = monitor.http().admit(admission(&budget)).layer(service_fn(move |_: Request<_>| {
        let (loaded, account) = (Arc::clone(&of_handler), account.clone());
        async move {
            if loaded.lock().expect("no panic here").is_none() {
                let reserved = account.try_reserve(ByteSize::mib(60)).expect("it is available");
                let model = std::hint::black_box(vec![1_u8; 60 * MIB]);
                *loaded.lock().expect("no panic here") = Some((model, reserved));
            }
            pause().await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    }));
    for _ in 0..3 {
        let response = block_on(service.call(get())).expect("no error");
        assert_eq!((response.status(), reserved(&budget)), (StatusCode::OK, 61));
        drop(block_on(response.into_body().collect()));
    }
    let next = service.call(get());
    assert_eq!(reserved(&budget), 61, "the model is not a part of the estimate");
    drop(next);
    *loaded.lock().expect("no panic here") = None;
    assert_eq!(budget.reserved(), ByteSize::ZERO);
    assert_eq!(outcomes(&seen)[..3], [Outcome::Finished; 3]);
}

#[test]
fn memory_that_the_request_releases_for_others_is_no_debt_and_no_credit() {
    for is_reserved in [true, false] {
        frees_for_others(is_reserved);
    }
}

fn frees_for_others(is_reserved: bool) {
    let (budget, (monitor, seen)) = (budget(50), monitor());
    let cache = budget.account("cache").expect("an account");
    let size = if is_reserved { ByteSize::mib(40) } else { ByteSize::ZERO };
    let reserved_bytes = cache.try_reserve(size).expect("it is available");
    let cached = Arc::new(Mutex::new(Some((std::hint::black_box(vec![1_u8; 40 * MIB]), reserved_bytes))));
    let service = monitor.http().admit(constant(&budget, 1)).layer(service_fn(move |_: Request<_>| {
        let cached = Arc::clone(&cached);
        async move {
            drop(cached.lock().expect("no panic here").take());
            pause().await;
            let held = std::hint::black_box(vec![1_u8; 4 * MIB]);
            pause().await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(held)))
        }
    }));
    let mut call = pin!(service.oneshot(get()));
    assert!(poll_once(call.as_mut()).is_pending());
    assert_eq!(reserved(&budget), 1);
    assert!(poll_once(call.as_mut()).is_pending());
    assert_eq!(reserved(&budget), 4);
    let Poll::Ready(Ok(response)) = poll_once(call.as_mut()) else { panic!("it holds 4 MiB") };
    assert_eq!(reserved(&budget), 4);
    drop(block_on(response.into_body().collect()));
    assert_eq!(outcomes(&seen), [Outcome::Finished]);
}

/// A reclaimer runs within the poll of the request that reads a frame, also with another layer between.
#[test]
fn memory_that_reclaimers_free_is_no_credit_for_the_request() {
    for is_nested in [false, true] {
        reclaimers_in_a_poll(is_nested);
    }
}

fn reclaimers_in_a_poll(is_nested: bool) {
    let (budget, (monitor, _)) = (budget(30), monitor());
    let cache = budget.account("cache").expect("an account");
    let mut entries: Vec<_> = (0..20).map(|_| std::hint::black_box(vec![1_u8; MIB])).collect();
    let mut cached = cache.try_reserve(ByteSize::mib(20)).expect("it is available");
    let entries = Arc::new(Mutex::new(move |want: ByteSize| {
        for _ in 0..want.as_u64().div_ceil(1 << 20) {
            entries.pop();
            cached.shrink(ByteSize::mib(1));
        }
    }));
    let evict = reclaim_fn(move |want: ByteSize, _| entries.lock().expect("no panic here")(want));
    let _registered = cache.register_reclaimer(ReclaimPriority::CACHE, evict);
    let requests = budget.account("requests").expect("an account");
    let handler = service_fn(move |request: Request<Body>| {
        let requests = requests.clone();
        async move {
            let mut body = request.into_body();
            let mut kept = Vec::new();
            while let Some(frame) = body.frame().await {
                kept.push(frame.expect("the cache releases enough"));
                let (reserved, held) = (requests.reserved(), ByteSize::mib(kept.len() as u64));
                let slack = ByteSize::kib(1100);
                assert!(reserved >= held.saturating_sub(slack), "{reserved} of {held}");
                assert!(reserved <= held.saturating_add(slack), "{reserved} of {held}");
            }
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }
    });
    let admit = monitor.http().admit(constant(&budget, 1));
    let app = axum::Router::new().fallback_service(handler);
    let app = if is_nested { app.layer(monitor.http()).layer(admit) } else { app.layer(admit) };
    assert_eq!(block_on(app.oneshot(chunked(25))).expect("no error").status(), StatusCode::OK, "{is_nested}");
}

#[tokio::test(start_paused = true)]
async fn waiting_request_keeps_no_place_in_a_service_with_a_limit() {
    let (budget, (monitor, seen)) = (budget(100), monitor());
    let estimate = Estimate::of_request(|request| ByteSize::mib(if request.uri.path() == "/large" { 80 } else { 1 }));
    let admission = admission(&budget).estimate(estimate).wait_up_to(Duration::from_mins(1));
    let limited = tower::limit::ConcurrencyLimit::new(
        service_fn(async |_: Request<RequestBody<Body>>| Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))),
        1,
    );
    let service = monitor.http().admit(admission).layer(limited);
    let model = hold(&budget, 50);
    // The caller keeps the service.
    let mut kept = service.clone();
    let waiting = tokio::spawn(kept.ready().await.expect("no error").call(path("/large")));
    tokio::task::yield_now().await;
    let mut other = service.clone();
    tokio::time::timeout(Duration::from_secs(1), other.ready()).await.expect("it is ready").expect("no error");
    drop(other);
    drop(model);
    let waiting = tokio::time::timeout(Duration::from_secs(1), waiting).await.expect("it has its turn");
    assert_eq!(waiting.expect("no panic").expect("no error").status(), StatusCode::OK);
    // A request that waits when its client closes the connection is counted as well.
    let _model = hold(&budget, 50);
    let gone = tokio::spawn(service.clone().oneshot(path("/large")));
    tokio::task::yield_now().await;
    gone.abort();
    assert!(gone.await.is_err());
    assert!(outcomes(&seen).contains(&Outcome::Refused));
}

#[test]
fn reservation_that_changes_when_the_request_ends_is_released() {
    let (budget, (monitor, _)) = (budget(10), monitor());
    let taken = Arc::new(Mutex::new(None));
    let of_handler = Arc::clone(&taken);
    let estimate = Estimate::per_body_byte(1, ByteSize::mib(1));
    let mut service = monitor.http().admit(admission(&budget).estimate(estimate)).layer(service_fn(
        move |request: Request<RequestBody<Body>>| {
            *of_handler.lock().expect("no panic here") = Some(request.into_body());
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
        },
    ));
    let response = block_on(service.call(chunked(4))).expect("no error");
    let mut body = taken.lock().expect("no panic here").take().expect("it was called");
    let response = Arc::new(Mutex::new(Some(response)));
    // The response is gone while the reservation grows for a frame.
    let dropped = Arc::clone(&response);
    let cache = budget.account("cache").expect("an account");
    let entries = Mutex::new(cache.try_reserve(ByteSize::mib(9)).ok());
    let evict = reclaim_fn(move |_, _| {
        drop(dropped.lock().expect("no panic here").take());
        drop(entries.lock().expect("no panic here").take());
    });
    let registered = cache.register_reclaimer(ReclaimPriority::CACHE, evict);
    while let Some(Ok(_dropped)) = block_on(body.frame()) {}
    assert!(response.lock().expect("no panic here").is_none(), "the reclaimer ran");
    drop(registered);
    assert_eq!(
        budget.account("requests").expect("an account").reserved(),
        ByteSize::ZERO,
        "and the body is still there"
    );
}

#[tokio::test(start_paused = true)]
async fn request_that_waits_with_a_guess_learns_from_the_first_to_end() {
    let (budget, (monitor, _)) = (budget(100), monitor());
    let mut service = growing(&monitor, admission(&budget).wait_up_to(Duration::from_secs(30)));
    let _model = hold(&budget, 62);
    let _slow = service.call(path("/?3"));
    let first = service.call(path("/?3"));
    assert_eq!(reserved(&budget), 62 + 25 + 7, "a guess, and half of the rest");
    let waiting = tokio::spawn(service.call(path("/?3")));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    assert_eq!(first.await.expect("no error").status(), StatusCode::OK);
    let begun = tokio::time::Instant::now();
    let response = waiting.await.expect("no panic").expect("no error");
    assert_eq!((response.status(), begun.elapsed()), (StatusCode::OK, Duration::ZERO), "25 MiB are not available");
}

#[test]
fn learned_estimate_never_bars_a_request_that_is_alone() {
    let (budget, (monitor, _)) = (budget(100), monitor());
    let mut service = growing(&monitor, admission(&budget));
    for _ in 0..4 {
        drop(block_on(service.call(path("/?90"))).expect("no error"));
    }
    let _model = hold(&budget, 90);
    let response = block_on(service.call(path("/?1"))).expect("no error");
    assert_eq!(response.status(), StatusCode::OK, "the model is never released, and the request fits");
}

#[test]
fn order_of_the_layers_makes_no_difference() {
    for is_outside in [false, true] {
        let (budget, (monitor, seen)) = (budget(100), monitor());
        let (admit, report) = (monitor.http().admit(constant(&budget, 60)), monitor.http());
        let app = axum::Router::new().route("/", axum::routing::get(async || vec![1_u8; 30 * MIB]));
        let app = if is_outside { app.layer(report).layer(admit) } else { app.layer(admit).layer(report) };
        let first = block_on(app.clone().oneshot(get())).expect("no error");
        let second = block_on(app.clone().oneshot(get())).expect("no error");
        assert_eq!((first.status(), second.status()), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE));
        drop((first, second));
        assert_eq!(budget.reserved(), ByteSize::ZERO);
        assert!(outcomes(&seen).contains(&Outcome::Refused));
    }
}

/// The reservation of one frame of 20 MiB, which a reader takes KiB by KiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservation_ends_with_the_last_byte_for_a_slow_reader() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let (budget, (monitor, _)) = (budget(100), monitor());
    let app = axum::Router::new()
        .route("/", axum::routing::get(async || vec![1_u8; 20 * MIB]))
        .layer(monitor.http().admit(constant(&budget, 24)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut client = tokio::net::TcpStream::connect(address).await.expect("a connection");
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("a request");
    let mut chunk = vec![0; 1 << 10];
    for _ in 0..20 {
        client.read_exact(&mut chunk).await.expect("a KiB");
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(budget.reserved() >= ByteSize::mib(20), "{}", budget.reserved());
    }
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("the rest");
    for _ in 0..500 {
        if budget.reserved() == ByteSize::ZERO {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} are reserved after the last byte", budget.reserved());
}
