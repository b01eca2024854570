//! A request's own figures: what a layer measures of it, next to others, across threads, bodies, panics and drops.
#![cfg(feature = "axum")]
#![expect(clippy::expect_used, reason = "clippy knows `#[test]` functions as tests, but not their helpers")]

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use axum::body::{Body, Bytes};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Full, StreamBody};
use plimsoll::integration::{RequestBody, ResponseBody};
use plimsoll::monitor::{self, Outcome, RequestHeap, RequestId, RequestScope};
use plimsoll::{ByteSize, Monitor, Overloaded, ReportLayer, TrackingAllocator, heap};
use tower::{Layer, Service, ServiceExt, service_fn};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// The requests that the observer received.
type Seen = Arc<Mutex<Vec<monitor::Request>>>;

/// A monitor that gives full reports to none, or to all.
fn monitor(share: u8) -> (Monitor, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let monitor = Monitor::builder()
        .memory_size(ByteSize::mib(1024))
        .print_reports(false)
        .report_share(share)
        .on_request(move |request| noted.lock().expect("no panic here").push(*request))
        .build()
        .expect("constant settings");
    (monitor, seen)
}

/// The only request that was shown.
fn only(seen: &Seen) -> monitor::Request {
    let mut seen = std::mem::take(&mut *seen.lock().expect("no panic here"));
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.remove(0)
}

fn own(seen: &Seen) -> (u64, i64, u64) {
    let RequestHeap { allocated, net, peak, .. } = only(seen).own.expect("the allocator is installed");
    (allocated.as_u64(), net.as_i64(), peak.as_u64())
}

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// Is pending once, and wakes.
async fn pause() {
    let mut is_first = true;
    poll_fn(|cx| {
        if std::mem::take(&mut is_first) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

const MIB: u64 = 1 << 20;

fn block(bytes: u64) -> Vec<u8> {
    black_box(Vec::with_capacity(usize::try_from(bytes).expect("a small block")))
}

#[test]
fn call_polls_and_drop_of_the_future_count() {
    for share in [0, 100] {
        let (monitor, seen) = monitor(share);
        let mut service = monitor.http().heads_only().layer(service_fn(|_: Request<()>| {
            let in_call = block(100);
            async move {
                let over_the_pause = block(3000);
                pause().await;
                drop(block(5000));
                drop((in_call, over_the_pause));
                Ok::<_, Infallible>(())
            }
        }));
        block_on(service.call(Request::new(()))).expect("it does not fail");
        assert_eq!(own(&seen), (8100, 0, 8100));
        drop(service.call(Request::new(())));
        assert_eq!(own(&seen), (100, 0, 100));
        assert!(poll_once(service.call(Request::new(()))).is_pending());
        assert_eq!(own(&seen), (3100, 0, 3100));
    }
}

#[test]
fn what_others_allocate_between_polls_does_not_count() {
    let (monitor, seen) = monitor(0);
    let mut service = monitor.http().heads_only().layer(service_fn(async |_: Request<()>| {
        let own = block(2 * MIB);
        pause().await;
        drop(own);
        Ok::<_, Infallible>(())
    }));
    let mut first = pin!(service.call(Request::new(())));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(first.as_mut().poll(&mut cx).is_pending());
    let beside = block(50 * MIB);
    assert!(first.as_mut().poll(&mut cx).is_ready());
    drop(beside);
    assert_eq!(own(&seen), (2 * MIB, 0, 2 * MIB));
}

#[test]
fn memory_freed_for_others_does_not_hide_what_comes_later() {
    let (monitor, seen) = monitor(0);
    let request = Request::new(block(8 * MIB));
    let mut service = monitor.http().heads_only().layer(service_fn(async |request: Request<Vec<u8>>| {
        drop(request);
        pause().await;
        let later = block(3 * MIB);
        pause().await;
        drop(later);
        Ok::<_, Infallible>(block(10))
    }));
    let kept = block_on(service.call(request)).expect("it does not fail");
    let (allocated, net, peak) = own(&seen);
    assert_eq!((allocated, net, peak), (3 * MIB + 10, 10, 3 * MIB));
    drop(kept);

    // In its last poll it frees what was allocated before.
    let mut service = monitor.http().heads_only().layer(service_fn(async |request: Request<Vec<u8>>| {
        drop(request);
        Ok::<_, Infallible>(())
    }));
    block_on(service.call(Request::new(block(8 * MIB)))).expect("it does not fail");
    assert_eq!(own(&seen), (0, -8 * MIB.cast_signed(), 0));
}

#[test]
fn panic_in_a_poll_leaves_the_figures_of_both_requests_right() {
    let (monitor, seen) = monitor(0);
    let mut service = monitor.http().heads_only().layer(service_fn(async |request: Request<bool>| {
        let _held = block(1000);
        assert!(!request.into_body(), "as asked");
        Ok::<_, Infallible>(())
    }));
    let panicked = catch_unwind(AssertUnwindSafe(|| poll_once(service.call(Request::new(true)))));
    assert!(panicked.is_err());
    let request = only(&seen);
    assert_eq!(request.outcome, Outcome::Unfinished);
    assert!(request.own.is_some_and(|own| own.peak.as_u64() >= 1000), "{request:?}");
    block_on(service.call(Request::new(false))).expect("it does not fail");
    assert_eq!(own(&seen), (1000, 0, 1000));
    assert_eq!(RequestScope::current().read(), None, "no request is left on this thread");
}

#[test]
fn nested_scopes_of_the_user_measure_the_same() {
    let (monitor, seen) = monitor(0);
    let mut service = monitor.http().heads_only().layer(service_fn(async |_: Request<()>| {
        let ((), delta) = heap::scope(|| drop(block(4000)));
        assert_eq!(delta.map(|delta| (delta.allocated.as_u64(), delta.peak.as_u64())), Some((4000, 4000)));
        drop(block(100));
        Ok::<_, Infallible>(())
    }));
    let (result, delta) = heap::scope(|| poll_once(service.call(Request::new(()))));
    assert!(result.is_ready());
    assert_eq!(own(&seen), (4100, 0, 4000));
    assert!(delta.is_some_and(|delta| delta.peak.as_u64() >= 4000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_of_spawned_tasks_counts_in_a_scope_only() {
    let (monitor, seen) = monitor(0);
    let mut service = monitor.http().heads_only().layer(service_fn(async |request: Request<bool>| {
        let scope = if request.into_body() { RequestScope::current() } else { RequestScope::default() };
        let task = scope.clone().instrument(async {
            let held = block(3 * MIB);
            tokio::task::yield_now().await;
            drop(held);
        });
        tokio::spawn(task).await.expect("no panic");
        let work = move || scope.in_scope(|| drop(block(20 * MIB)));
        tokio::task::spawn_blocking(work).await.expect("no panic");
        Ok::<_, Infallible>(())
    }));
    service.call(Request::new(true)).await.expect("it does not fail");
    let (allocated, _, peak) = own(&seen);
    assert!((23 * MIB..23 * MIB + 8192).contains(&allocated), "{allocated}");
    assert!((20 * MIB..20 * MIB + 8192).contains(&peak), "{peak}");
    service.call(Request::new(false)).await.expect("it does not fail");
    assert!(own(&seen).0 < 8192);
}

#[test]
fn scope_within_its_own_request_counts_once() {
    let (monitor, seen) = monitor(0);
    let mut service = monitor.http().heads_only().layer(service_fn(async |_: Request<()>| {
        let scope = RequestScope::current();
        scope.in_scope(|| scope.in_scope(|| drop(block(1000))));
        scope.clone().instrument(async { drop(block(5000)) }).await;
        // Within a scope of another request, too.
        let other = RequestScope::default();
        other.in_scope(|| scope.in_scope(|| drop(block(100))));
        Ok::<_, Infallible>(())
    }));
    block_on(service.call(Request::new(()))).expect("it does not fail");
    assert_eq!(own(&seen), (6100, 0, 5000));
}

#[test]
fn nested_layers_measure_the_same() {
    let (monitor, seen) = monitor(0);
    let inner = monitor.http().layer(service_fn(async |request: Request<RequestBody<RequestBody<Body>>>| {
        let all = request.into_body().collect().await.expect("no error").to_bytes();
        assert_eq!(all.len() as u64, 2 * MIB);
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    let mut outer = monitor.http().layer(inner);
    drop(block_on(outer.call(Request::new(frames(32, 64 << 10, true)))).expect("no error"));
    let seen = std::mem::take(&mut *seen.lock().expect("no panic here"));
    assert_eq!(seen.len(), 2);
    for request in seen {
        let own = request.own.expect("the allocator is installed");
        assert!(own.peak.as_u64().abs_diff(4 * MIB) < 64 << 10, "{own}");
    }
}

#[test]
fn scope_that_lives_on_does_not_keep_the_request_in_flight() {
    let (monitor, seen) = monitor(0);
    let kept = Mutex::new(Vec::new());
    let keep = async |_| {
        kept.lock().expect("no panic here").push(RequestScope::current());
        Ok::<_, Infallible>(Response::new(Body::from("done")))
    };
    let mut service = monitor.http().layer(service_fn(keep));
    drop(block_on(async {
        service.call(Request::new(Body::empty())).await.expect("no error").into_body().collect().await
    }));
    assert!(!only(&seen).concurrent);
    let ids = ReportLayer::with_id(&monitor, |id: &&str| RequestId::new(id));
    let service = ids.layer(service_fn(async |_: &str| {
        kept.lock().expect("no panic here").push(RequestScope::current());
        Ok::<_, Infallible>(())
    }));
    block_on(service.oneshot("tower")).expect("no error");
    let request = only(&seen);
    assert_eq!((request.id.as_str(), request.concurrent), ("tower", false));
    // Later work in it counts for no request.
    kept.lock().expect("no panic here")[0].in_scope(|| drop(block(1000)));
    assert_eq!(monitor.labels().iter().map(|label| label.requests).sum::<u64>(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_one_segment_allocates_and_another_frees_counts_once() {
    let (monitor, seen) = monitor(0);
    let layer = monitor.http().request_limit(ByteSize::mib(50));
    let service = layer.layer(service_fn(async |_: Request<_>| {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let scope = RequestScope::current();
        tokio::task::spawn_blocking(move || {
            scope.in_scope(|| while sender.blocking_send(Bytes::from(vec![7; 1 << 20])).is_ok() {});
        });
        let mut left = 100;
        let frames = futures_util::stream::poll_fn(move |cx| {
            left -= 1;
            if left == 0 {
                return Poll::Ready(None);
            }
            let polled = receiver.poll_recv(cx);
            left += i32::from(polled.is_pending());
            polled.map(|bytes| bytes.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))))
        });
        Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
    }));
    let mut body = service.oneshot(Request::new(Body::empty())).await.expect("no error").into_body();
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        drop(frame.expect("it never holds fifty mebibytes"));
        count += 1;
    }
    drop(body);
    assert_eq!((count, only(&seen).outcome), (99, Outcome::Finished));
}

#[test]
fn stream_with_a_length_is_finished_once_that_many_bytes_are_out() {
    let (monitor, seen) = monitor(0);
    let outcome = |length: u64, frames_read: usize| {
        let service = monitor.http().layer(service_fn(async |_: Request<_>| {
            let response = Response::builder().header("content-length", length);
            Ok::<_, Infallible>(response.body(frames(4, 100, false)).expect("a valid head"))
        }));
        // A server drops the body without a look at its end.
        let mut body = block_on(service.oneshot(Request::new(Body::empty()))).expect("no error").into_body();
        (0..frames_read).for_each(|_| drop(block_on(body.frame())));
        drop(body);
        only(&seen).outcome
    };
    assert_eq!(outcome(400, 4), Outcome::Finished);
    assert_eq!(outcome(400, 3), Outcome::Unfinished);
    assert_eq!(outcome(300, 3), Outcome::Finished);
    assert_eq!(outcome(0, 0), Outcome::Finished);
}

#[test]
fn response_that_is_ready_is_given_out_over_the_limit() {
    let (monitor, seen) = monitor(0);
    let kept = Mutex::new(Vec::new());
    let layer = monitor.http().request_limit(ByteSize::mib(1));
    let service = layer.layer(service_fn(async |_: Request<_>| {
        kept.lock().expect("no panic here").push(block(2 * MIB));
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done")))
    }));
    let response = block_on(service.oneshot(Request::new(Body::empty()))).expect("no error");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(block_on(response.into_body().collect()).expect("the whole body").to_bytes(), "done");
    assert_eq!(only(&seen).outcome, Outcome::Finished);
}

#[tokio::test]
async fn task_that_is_aborted_in_a_scope_frees_what_it_held() {
    let (monitor, _) = monitor(0);
    let invocation = monitor.start("r");
    let task = invocation.scope().instrument(async {
        let _held = block(MIB);
        pending::<()>().await;
    });
    let task = tokio::spawn(task);
    tokio::task::yield_now().await;
    assert!(invocation.scope().read().is_some_and(|own| own.net.as_i64() == MIB.cast_signed()));
    task.abort();
    assert!(task.await.is_err());
    assert!(invocation.scope().read().is_some_and(|own| own.net.as_i64() == 0));
    let report = invocation.finish();
    assert_eq!(report.own.map(|own| own.peak.as_u64()), Some(MIB));
}

#[test]
#[should_panic(expected = "polled after its end")]
fn scope_future_polled_after_its_end_panics() {
    let mut future = pin!(RequestScope::current().instrument(async {}));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_ready());
    let _again = future.poll(&mut cx);
}

/// A body of `frames` frames of `len` bytes: made when they are polled, or before.
fn frames(frames: u64, len: u64, made_before: bool) -> Body {
    let frame = move || {
        let mut bytes = block(len);
        bytes.resize(bytes.capacity(), 7);
        Bytes::from(bytes)
    };
    let before: Vec<Bytes> = (0..if made_before { frames } else { 0 }).map(|_| frame()).collect();
    let mut before = before.into_iter();
    let mut left = frames;
    Body::new(StreamBody::new(futures_util::stream::poll_fn(move |_| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        Poll::Ready(Some(Ok::<_, Infallible>(Frame::data(before.next().unwrap_or_else(frame)))))
    })))
}

#[test]
fn frames_of_a_request_body_count_from_their_arrival() {
    for made_before in [true, false] {
        let (monitor, seen) = monitor(0);
        // Collected: the frames and one buffer of all of them.
        let mut service = monitor.http().layer(service_fn(async |request: Request<RequestBody<Body>>| {
            let all = request.into_body().collect().await.expect("no error").to_bytes();
            assert_eq!(all.len() as u64, 20 * MIB);
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        let response = block_on(service.call(Request::new(frames(320, 64 << 10, made_before)))).expect("no error");
        drop(response);
        let (_, net, peak) = own(&seen);
        assert!(peak.abs_diff(40 * MIB) < 64 << 10, "{peak}");
        assert!(net.unsigned_abs() < 64 << 10, "{net}");

        // One at a time, although all come in one poll.
        let mut service = monitor.http().layer(service_fn(async |request: Request<RequestBody<Body>>| {
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                drop(black_box(frame.expect("no error")));
            }
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
        let response = block_on(service.call(Request::new(frames(320, 64 << 10, made_before)))).expect("no error");
        drop(response);
        let (_, net, peak) = own(&seen);
        assert!((64 << 10..80 << 10).contains(&peak), "{peak}");
        assert!(net.unsigned_abs() < 16 << 10, "{net}");
    }
}

#[test]
fn scope_of_the_user_around_a_body_keeps_its_peak() {
    let (monitor, seen) = monitor(0);
    let mut service = monitor.http().layer(service_fn(async |request: Request<RequestBody<Body>>| {
        let ((), delta) = heap::scope_async(async {
            drop(block(5 * MIB));
            drop(request.into_body().collect().await.expect("no error"));
        })
        .await;
        assert!(delta.is_some_and(|delta| delta.peak.as_u64() >= 5 * MIB), "{delta:?}");
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    drop(block_on(service.call(Request::new(frames(8, 1 << 10, true)))).expect("no error"));
    // Not exact in a scope of the user's: too high by what came in.
    let (_, _, peak) = own(&seen);
    assert!((5 * MIB..5 * MIB + (16 << 10)).contains(&peak), "{peak}");
}

#[test]
fn frames_of_a_response_count_until_they_are_dropped() {
    let (monitor, seen) = monitor(0);
    let mut service = monitor
        .http()
        .layer(service_fn(async |_: Request<_>| Ok::<_, Infallible>(Response::new(frames(320, 64 << 10, false)))));
    let response = block_on(service.call(Request::new(Body::empty()))).expect("no error");
    assert!(seen.lock().expect("no panic here").is_empty(), "the request goes on with its body");
    let mut body = response.into_body();
    while let Some(frame) = block_on(body.frame()) {
        drop(frame.expect("no error"));
    }
    drop(body);
    let request = only(&seen);
    let own = request.own.expect("the allocator is installed");
    assert_eq!(request.outcome, Outcome::Finished);
    assert!((64 << 10..80 << 10).contains(&own.peak.as_u64()), "{own}");
    assert!(own.allocated.as_u64() >= 20 * MIB && own.net.as_i64().unsigned_abs() < 16 << 10, "{own}");

    // A server that keeps all of them, as for a slow reader.
    let response = block_on(service.call(Request::new(Body::empty()))).expect("no error");
    let kept = block_on(response.into_body().collect()).expect("no error");
    assert!(seen.lock().expect("no panic here").is_empty(), "the request goes on with its frames");
    drop(kept);
    let own = only(&seen).own.expect("the allocator is installed");
    assert!((20 * MIB..20 * MIB + (64 << 10)).contains(&own.peak.as_u64()), "{own}");
    assert!(own.net.as_i64().unsigned_abs() < 16 << 10, "{own}");
}

#[test]
fn outcome_of_a_response_body_that_is_dropped_early() {
    let (monitor, seen) = monitor(0);
    let mut service = monitor.http().layer(service_fn(async |request: Request<RequestBody<String>>| {
        let body = match request.into_body().into_inner().as_str() {
            "empty" => Body::empty(),
            "full" => Body::from(vec![1; 100]),
            _ => frames(3, 100, false),
        };
        Ok::<_, Infallible>(Response::new(body))
    }));
    let mut outcome = |method: Method, kind: &'static str, polls: usize| {
        let mut request = Request::new(kind.to_owned());
        *request.method_mut() = method;
        let mut body = block_on(service.call(request)).expect("no error").into_body();
        for _ in 0..polls {
            block_on(body.frame());
        }
        drop(body);
        only(&seen).outcome
    };
    assert_eq!(outcome(Method::GET, "empty", 0), Outcome::Finished);
    assert_eq!(outcome(Method::GET, "full", 0), Outcome::Unfinished);
    assert_eq!(outcome(Method::GET, "full", 1), Outcome::Finished);
    assert_eq!(outcome(Method::GET, "stream", 3), Outcome::Unfinished, "the end was not seen");
    assert_eq!(outcome(Method::GET, "stream", 4), Outcome::Finished);
    assert_eq!(outcome(Method::GET, "stream", 9), Outcome::Finished, "it stays at its end");
    assert_eq!(outcome(Method::HEAD, "full", 0), Outcome::Finished);
}

#[test]
fn bodies_pass_through_unchanged() {
    let (monitor, _) = monitor(0);
    let echo = service_fn(async |request: Request<RequestBody<Full<Bytes>>>| {
        let body = request.into_body();
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(4), false));
        Ok::<_, Infallible>(Response::new(body))
    });
    let response = block_on(monitor.http().layer(echo).oneshot(Request::new(Full::from("body")))).expect("no error");
    let mut body: ResponseBody<RequestBody<Full<Bytes>>> = response.into_body();
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(4), false));
    let frame = block_on(body.frame()).expect("a frame").expect("no error");
    assert_eq!(frame.data_ref().map(Bytes::len), Some(4));
    assert_eq!(frame.into_data().expect("data"), "body");
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(0), true));
    assert!(block_on(body.frame()).is_none());

    let trailers = futures_util::stream::iter([
        Ok(Frame::data(Bytes::from("a"))),
        Ok(Frame::trailers(http::HeaderMap::new())),
        Err(std::io::Error::other("cut")),
    ]);
    let trailers = Arc::new(Mutex::new(Some(trailers)));
    let service = service_fn(move |_: Request<_>| {
        let trailers = trailers.lock().expect("no panic here").take().expect("once");
        std::future::ready(Ok::<_, Infallible>(Response::new(StreamBody::new(trailers))))
    });
    let mut body =
        block_on(monitor.http().layer(service).oneshot(Request::new(Body::empty()))).expect("no error").into_body();
    assert!(block_on(body.frame()).is_some_and(|frame| frame.is_ok_and(|frame| frame.is_data())));
    assert!(block_on(body.frame()).is_some_and(|frame| frame.is_ok_and(|frame| frame.is_trailers())));
    assert!(block_on(body.frame()).is_some_and(|frame| frame.is_err_and(|error| error.to_string() == "cut")));
}

#[test]
fn request_over_its_limit_ends_with_503() {
    let (monitor, seen) = monitor(0);
    let layer = monitor.http().request_limit(ByteSize::mib(4));
    let mut service = layer.layer(service_fn(async |request: Request<RequestBody<String>>| {
        let mib: u64 = request.into_body().into_inner().parse().expect("a number");
        let held = block(mib * MIB);
        pause().await;
        drop(held);
        Ok::<_, Infallible>(Response::new(Body::from("done")))
    }));
    let response = block_on(service.call(Request::new("4".to_owned()))).expect("no error");
    assert_eq!(response.status(), StatusCode::OK);
    drop(block_on(response.into_body().collect()).expect("no error"));
    assert_eq!(only(&seen).outcome, Outcome::Finished);
    let before = heap::stats().expect("installed").live;
    let mut future = pin!(service.call(Request::new("5".to_owned())));
    let Poll::Ready(response) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it holds too much and waits");
    };
    let response = response.expect("no error");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(heap::stats().expect("installed").live < before.saturating_add(ByteSize::mib(1)), "it is freed");
    assert!(response.into_body().is_end_stream());
    let request = only(&seen);
    assert_eq!(request.outcome, Outcome::Overloaded);
    assert!(
        request.own.is_some_and(|own| own.peak >= ByteSize::kib(5 * 1023) && own.net.as_i64() < 4096),
        "{request:?}"
    );
}

#[test]
fn response_body_over_the_limit_ends_with_an_error() {
    /// Holds a mebibyte more at each poll.
    struct Growing(Vec<Vec<u8>>);
    impl http_body::Body for Growing {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.push(block(MIB));
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"")))))
        }
    }
    let (monitor, seen) = monitor(0);
    let layer = monitor.http().request_limit(ByteSize::mib(4));
    let service =
        layer.layer(service_fn(async |_: Request<_>| Ok::<_, Infallible>(Response::new(Growing(Vec::new())))));
    let mut body = block_on(service.oneshot(Request::new(Body::empty()))).expect("no error").into_body();
    let error = loop {
        match block_on(body.frame()) {
            Some(Ok(_)) => (),
            Some(Err(error)) => break error,
            None => panic!("it has no end"),
        }
    };
    let Some(Overloaded::RequestLimit { held, limit }) = error.downcast_ref() else { panic!("{error}") };
    assert!(*held > ByteSize::mib(4) && *limit == ByteSize::mib(4), "{error}");
    assert!(error.to_string().starts_with("the request holds 4.0 MiB, its limit is 4.0 MiB"), "{error}");
    assert!(block_on(body.frame()).is_none(), "and then it is at its end");
    assert_eq!(only(&seen).outcome, Outcome::Overloaded);
}

#[test]
fn without_a_full_report_there_is_no_report() {
    let count = Arc::new(Mutex::new([0, 0]));
    let (reports, requests) = (Arc::clone(&count), Arc::clone(&count));
    let builder = |share| {
        let (reports, requests) = (Arc::clone(&reports), Arc::clone(&requests));
        Monitor::builder()
            .print_reports(false)
            .report_share(share)
            .on_report(move |_| reports.lock().expect("no panic here")[0] += 1)
            .on_request(move |_| requests.lock().expect("no panic here")[1] += 1)
            .build()
            .expect("constant settings")
    };
    let serve = |monitor: &Monitor| {
        for _ in 0..20_000 {
            let service = monitor.http().heads_only().layer(service_fn(async |_: Request<()>| Ok::<_, Infallible>(())));
            assert!(poll_once(service.oneshot(Request::new(()))).is_ready());
        }
        std::mem::take(&mut *count.lock().expect("no panic here"))
    };
    assert_eq!(serve(&builder(0)), [0, 20_000]);
    assert_eq!(serve(&builder(100)), [20_000, 20_000]);
    let [reports, requests] = serve(&builder(1));
    assert_eq!(requests, 20_000);
    assert!((1..15_000).contains(&reports), "{reports}");
    let monitor = builder(0);
    assert_eq!(monitor.start("always").finish().invocations, 1);
    assert_eq!(std::mem::take(&mut *count.lock().expect("no panic here")), [1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn own_peaks_of_many_requests_in_flight_are_those_of_each_alone() {
    let (monitor, seen) = monitor(1);
    let layer = monitor.http().heads_only();
    let service = layer.layer(service_fn(async |request: Request<u64>| {
        let number = request.into_body();
        let mut held = Vec::new();
        for part in 0..8 {
            held.push(block((number % 50 + 1) * 1000 + part));
            tokio::task::yield_now().await;
            if part % 3 == 2 {
                held.clear();
            }
        }
        Ok::<_, Infallible>(())
    }));
    let tasks: Vec<_> = (0..2000_u64)
        .map(|number| {
            let mut request = Request::new(number);
            request.headers_mut().insert("x-request-id", number.into());
            tokio::spawn(service.clone().oneshot(request))
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic").expect("no error");
    }
    let seen = std::mem::take(&mut *seen.lock().expect("no panic here"));
    assert_eq!(seen.len(), 2000);
    for request in seen {
        let number: u64 = request.id.as_str().parse().expect("a number");
        let size = (number % 50 + 1) * 1000;
        let own = request.own.expect("the allocator is installed");
        let tables = 4 * 24 + 8 * 24;
        // The head of the request, which was allocated before, is freed in its first poll.
        let head = 1024;
        assert!((3 * size - head..=3 * size + 12 + tables).contains(&own.peak.as_u64()), "{number}: {own}");
        assert!((8 * size + 28..=8 * size + 28 + 3 * tables).contains(&own.allocated.as_u64()), "{number}: {own}");
    }
}
