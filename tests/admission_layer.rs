//! The admission layer around services of any kind: which requests it admits, how it rejects others, and that all is released.
#![cfg(feature = "tower")]
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy knows `#[test]` functions as tests, but not their helpers"
)]

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use plimsoll::budget::{ReclaimPriority, reclaim_fn};
use plimsoll::integration::AdmissionError;
use plimsoll::{AdmissionLayer, ByteSize, MemoryBudget, Overloaded, Pressure, Reservation};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};

const FLOOR: ByteSize = ByteSize::mib(10);

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn hold(budget: &MemoryBudget, name: &'static str, mib: u64) -> Reservation {
    budget.account(name).unwrap().try_reserve(ByteSize::mib(mib)).expect("it is free")
}

fn held(budget: &MemoryBudget) -> ByteSize {
    budget.account("requests").unwrap().reserved()
}

/// The refusal, which the handler has no part in.
fn over<T: std::fmt::Debug, E: std::fmt::Debug>(answer: Result<T, AdmissionError<E>>) -> Overloaded {
    match answer {
        Err(AdmissionError::Overloaded(over)) => over,
        other => panic!("{other:?} is no refusal"),
    }
}

#[tokio::test]
async fn a_request_without_memory_is_answered_and_never_reaches_the_service_and_the_next_is_served() {
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let calls = AtomicUsize::new(0);
    let handler = service_fn(|number: u32| {
        calls.fetch_add(1, Relaxed);
        ready(Ok::<_, Infallible>(number))
    });
    let mut service = AdmissionLayer::new(&budget, FLOOR).unwrap().layer(handler);
    let model = hold(&budget, "model", 70);
    let _index = hold(&budget, "index", 25);
    let over = over(service.ready().await.unwrap().call(1).await);
    assert_eq!(
        over.to_string(),
        "not admitted: requests asked for 10.0 MiB, 5.0 MiB are available of a 100.0 MiB budget: \
         reserved by model 70.0 MiB, index 25.0 MiB"
    );
    let exceeded = over.budget_exceeded().unwrap();
    assert_eq!((exceeded.requested(), exceeded.available()), (FLOOR, ByteSize::mib(5)));
    assert!(!over.exceeds_budget());
    assert_eq!(calls.load(Relaxed), 0);
    drop(model);
    assert_eq!(service.ready().await.unwrap().call(2).await, Ok(2));
    assert_eq!((calls.load(Relaxed), held(&budget)), (1, ByteSize::ZERO));
}

#[tokio::test]
async fn a_cache_gives_way_before_anybody_is_refused() {
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let entries = Arc::new(Mutex::new(hold(&budget, "cache", 95)));
    let shared = Arc::clone(&entries);
    let evict = reclaim_fn(move |want: ByteSize, _: Pressure| {
        let _released = { shared.try_lock().map_or(ByteSize::ZERO, |mut entries| entries.shrink(want)) };
    });
    let _registered = budget.account("cache").unwrap().register_reclaimer(ReclaimPriority::CACHE, evict);
    let in_flight = budget.clone();
    let handler = service_fn(move |()| ready(Ok::<_, Infallible>(in_flight.reserved())));
    let service = AdmissionLayer::new(&budget, FLOOR).unwrap().layer(handler);
    assert_eq!(service.oneshot(()).await, Ok(ByteSize::mib(100)), "the cache gave 5 MiB, and no more");
    assert_eq!(budget.reserved(), ByteSize::mib(90));
}

#[test]
fn what_is_in_flight_is_promised_its_own_bytes_until_it_is_answered_or_dropped() {
    let budget = MemoryBudget::new(ByteSize::mib(25));
    let handler = service_fn(|answers: bool| async move {
        if !answers {
            pending::<()>().await;
        }
        Ok::<_, Infallible>(())
    });
    let mut service = AdmissionLayer::new(&budget, FLOOR).unwrap().layer(handler);
    let mut answered = Box::pin(service.call(true));
    let mut hanging = Box::pin(service.call(false));
    assert!(poll_once(hanging.as_mut()).is_pending());
    assert_eq!(held(&budget), ByteSize::mib(20));
    let mut refused = Box::pin(service.call(true));
    assert!(matches!(poll_once(refused.as_mut()), Poll::Ready(Err(AdmissionError::Overloaded(_)))));
    let again = catch_unwind(AssertUnwindSafe(|| poll_once(refused.as_mut())));
    assert!(again.is_err(), "a poll after the end is a fault of the caller");

    assert_eq!(poll_once(answered.as_mut()), Poll::Ready(Ok(())));
    assert_eq!(held(&budget), FLOOR, "though the answered future is still there");
    assert!(catch_unwind(AssertUnwindSafe(|| poll_once(answered.as_mut()))).is_err());
    drop(hanging);
    assert_eq!(held(&budget), ByteSize::ZERO);
    drop(service.call(true));
    assert_eq!(held(&budget), ByteSize::ZERO, "dropped before it was ever polled");
}

#[test]
fn what_the_request_frees_goes_before_what_was_promised_for_it() {
    struct Buffer(MemoryBudget, Arc<Mutex<Vec<ByteSize>>>);
    impl Drop for Buffer {
        fn drop(&mut self) {
            self.1.lock().expect("no panic here").push(held(&self.0));
        }
    }
    let budget = MemoryBudget::new(ByteSize::mib(25));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = service_fn(|answers: bool| {
        let buffer = Buffer(budget.clone(), Arc::clone(&seen));
        // Keeps the buffer after its answer, as an async block would not.
        poll_fn(move |_| {
            let _kept = &buffer;
            if answers { Poll::Ready(Ok::<_, Infallible>(())) } else { Poll::Pending }
        })
    });
    let mut service = AdmissionLayer::new(&budget, FLOOR).unwrap().layer(handler);
    drop(service.call(false));
    let mut answered = Box::pin(service.call(true));
    assert_eq!(poll_once(answered.as_mut()), Poll::Ready(Ok(())));
    assert_eq!(*seen.lock().unwrap(), [FLOOR, FLOOR]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_eight_at_once_no_more_run_than_have_memory_and_every_one_is_answered() {
    let budget = MemoryBudget::new(ByteSize::mib(35));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let most = Arc::clone(&most);
        service_fn(move |()| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                most.fetch_max(running.fetch_add(1, Relaxed) + 1, Relaxed);
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, Relaxed);
                Ok::<_, Infallible>(true)
            }
        })
    };
    let service = AdmissionLayer::new(&budget, FLOOR).unwrap().on_overload(|_| false).layer(handler);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move {
                let mut served = 0;
                for _ in 0..500 {
                    served += usize::from(service.clone().oneshot(()).await.expect("it cannot fail"));
                    tokio::task::yield_now().await;
                }
                served
            })
        })
        .collect();
    let mut served = 0;
    for client in clients {
        served += client.await.unwrap();
    }
    let (most, peak) = (most.load(Relaxed), budget.account("requests").unwrap().peak());
    assert!((1..=3).contains(&most), "{most} ran at once");
    // An admitted request that has not begun has its bytes reserved too.
    assert!((most as u64 * 10..=30).contains(&(peak.as_u64() >> 20)), "{peak} for {most} at once");
    assert!((1..=4000).contains(&served), "{served} of 4000 were served");
    assert_eq!(held(&budget), ByteSize::ZERO);
}

#[tokio::test]
async fn a_floor_of_zero_admits_all_and_one_above_the_limit_nobody_and_costs_no_cache() {
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let asked = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&asked);
    let evict = reclaim_fn(move |_: ByteSize, _: Pressure| {
        let _released = {
            shared.fetch_add(1, Relaxed);
            ByteSize::ZERO
        };
    });
    let cache = budget.account("cache").unwrap();
    let _registered = cache.register_reclaimer(ReclaimPriority::CACHE, evict);
    let _overdrawn = cache.reserve(ByteSize::mib(120));
    let handler = || service_fn(|()| ready(Ok::<_, Infallible>(())));
    assert_eq!(AdmissionLayer::new(&budget, ByteSize::ZERO).unwrap().layer(handler()).oneshot(()).await, Ok(()));
    for floor in [ByteSize::mib(101), ByteSize::MAX] {
        let over = over(AdmissionLayer::new(&budget, floor).unwrap().layer(handler()).oneshot(()).await);
        assert_eq!(over.budget_exceeded().unwrap().requested(), floor);
        assert!(over.exceeds_budget());
    }
    assert_eq!(asked.load(Relaxed), 0);
}

/// Never ready, and fails if it is called.
struct WornOut;

impl Service<()> for WornOut {
    type Response = ();
    type Error = &'static str;
    type Future = std::future::Ready<Result<(), &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Err("worn out"))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Err("failed"))
    }
}

#[tokio::test]
async fn readiness_is_the_inner_service_s_whatever_the_budget_and_a_refusal_does_not_use_it_up() {
    let budget = MemoryBudget::new(ByteSize::mib(15));
    let full = hold(&budget, "model", 15);
    let one_at_a_time = ConcurrencyLimit::new(service_fn(|()| ready(Ok::<_, Infallible>(()))), 1);
    let mut service = AdmissionLayer::new(&budget, FLOOR).unwrap().layer(one_at_a_time);
    let mut other = service.clone();
    let mut context = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut context).is_ready(), "a full budget is no reason to wait");
    over(service.call(()).await);
    assert!(other.poll_ready(&mut context).is_pending(), "the one permit is still the first one's");
    drop(full);
    assert!(service.poll_ready(&mut context).is_ready());
    assert_eq!(service.call(()).await, Ok(()));
    assert!(other.poll_ready(&mut context).is_ready());

    let mut worn_out = AdmissionLayer::new(&budget, FLOOR).unwrap().layer(WornOut);
    assert_eq!(worn_out.poll_ready(&mut context), Poll::Ready(Err(AdmissionError::Service("worn out"))));
    assert_eq!(worn_out.call(()).await, Err(AdmissionError::Service("failed")));
}

#[test]
fn a_panic_anywhere_holds_nothing_and_the_next_is_served() {
    let budget = MemoryBudget::new(ByteSize::mib(15));
    let handler = service_fn(|how: &'static str| {
        assert_ne!(how, "at once");
        async move {
            assert_ne!(how, "later");
            Ok::<_, Infallible>("served")
        }
    });
    let refuses = |over: Overloaded| -> &'static str { panic!("{over}") };
    let mut service = AdmissionLayer::new(&budget, FLOOR).unwrap().on_overload(refuses).layer(handler);
    for how in ["at once", "later"] {
        let call = AssertUnwindSafe(|| poll_once(pin!(service.call(how))));
        assert!(catch_unwind(call).is_err());
        assert_eq!(held(&budget), ByteSize::ZERO, "{how}");
    }
    let full = hold(&budget, "model", 15);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(service.call("refused")))).is_err());
    drop(full);
    assert_eq!(budget.reserved(), ByteSize::ZERO);
    assert_eq!(poll_once(pin!(service.call("well"))), Poll::Ready(Ok("served")));
}

#[tokio::test]
async fn axum_answers_503_and_the_next_200() {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use axum::response::IntoResponse;
    use axum::{Router, routing::get};

    let budget = MemoryBudget::new(ByteSize::mib(15));
    let admission = AdmissionLayer::new(&budget, FLOOR)
        .unwrap()
        .on_overload(|over| (StatusCode::SERVICE_UNAVAILABLE, over.to_string()).into_response());
    let router = Router::new().route("/", get(async || "in")).layer(admission);
    let ask = async || {
        let response = router.clone().oneshot(Request::new(Body::empty())).await.expect("it cannot fail");
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1024).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    let full = hold(&budget, "model", 15);
    let (status, body) = ask().await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.starts_with("not admitted: requests asked for 10.0 MiB, 0 B are available"), "{body}");
    drop(full);
    assert_eq!(ask().await, (StatusCode::OK, "in".to_owned()));
}

#[cfg(feature = "lambda")]
#[path = "support/runtime_api.rs"]
mod runtime_api;

#[cfg(feature = "lambda")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lambda_s_runtime_answers_a_refused_event_with_an_error_and_serves_the_next() {
    use std::time::Duration;

    use lambda_runtime::{LambdaEvent, Runtime};
    use runtime_api::{Call, RuntimeApi};

    let budget = MemoryBudget::new(ByteSize::mib(15));
    // Events are drawn when the function asks for one: the budget is full for the second and for the last but one.
    let holder = budget.clone();
    let events = [false, true, false, true, false].into_iter().scan(None, move |full, is_full| {
        *full = None;
        *full = is_full.then(|| hold(&holder, "model", 15));
        Some("\"event\"".to_owned())
    });
    let api = RuntimeApi::serve(events);
    for (name, value) in [
        ("AWS_LAMBDA_FUNCTION_NAME", "f"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ("AWS_LAMBDA_RUNTIME_API", &api.address),
    ] {
        #[expect(unsafe_code, reason = "the runtime reads its address from nowhere else")]
        // SAFETY: what other tests do with the environment goes through std, which holds its lock.
        unsafe {
            std::env::set_var(name, value);
        }
    }
    let handler = service_fn(|_: LambdaEvent<String>| ready(Ok::<_, lambda_runtime::Error>("served")));
    let runtime = Runtime::new(AdmissionLayer::new(&budget, FLOOR).unwrap().layer(handler));
    let calls = tokio::task::spawn_blocking(move || {
        let mut posted = Vec::new();
        while posted.len() < 5 {
            match api.calls.recv_timeout(Duration::from_secs(30)) {
                Ok(Call::Posted { path, body }) => posted.push((path, body)),
                Ok(Call::Started(_)) => {}
                Err(error) => panic!("{error} after {posted:?}"),
            }
        }
        posted
    });
    let posted = tokio::select! {
        ended = runtime.run() => panic!("the function has ended: {ended:?}"),
        posted = calls => posted.expect("every event is answered"),
    };
    for (number, (path, body)) in posted.iter().enumerate() {
        let refused = number % 2 == 1;
        let end = if refused { "error" } else { "response" };
        assert_eq!(*path, format!("/2018-06-01/runtime/invocation/request-{number}/{end}"));
        if refused {
            let error: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(error["errorType"], "Overloaded");
            let message = error["errorMessage"].as_str().unwrap();
            let expected = "not admitted: requests asked for 10.0 MiB, 0 B are available of a 15.0 MiB budget: ";
            assert!(message.starts_with(expected), "{message}");
        } else {
            assert_eq!(body, "\"served\"");
        }
    }
}
