//! The report layer around services: what it reports, and that it changes nothing else.
#![cfg(feature = "tower")]
#![expect(clippy::expect_used, reason = "clippy knows `#[test]` functions as tests, but not their helpers")]

use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use plimsoll::monitor::{Outcome, RequestId};
use plimsoll::{ByteSize, HasRequestId, Monitor, ReportLayer, TrackingAllocator};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

struct Request(&'static str);

impl HasRequestId for Request {
    fn request_id(&self) -> &str {
        self.0
    }
}

/// What was reported, in order.
type Reports = Arc<Mutex<Vec<(String, Outcome)>>>;

fn monitor() -> (Monitor, Reports) {
    let reports = Reports::default();
    let noted = Arc::clone(&reports);
    let monitor = Monitor::builder()
        .memory_size(ByteSize::mib(1024))
        .print_reports(false)
        .report_share(100)
        .on_report(move |report| {
            noted.lock().expect("no panic here").push((report.id.to_string(), report.outcome));
        })
        .build()
        .expect("constant settings");
    (monitor, reports)
}

fn reported(reports: &Reports) -> Vec<(String, Outcome)> {
    std::mem::take(&mut *reports.lock().expect("no panic here"))
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn is_send_and_static<T: Send + 'static>(_: &T) {}

#[tokio::test]
async fn each_request_is_reported_with_its_id_once_it_is_answered() {
    let (monitor, reports) = monitor();
    let service = service_fn(|request: Request| async move { Ok::<_, Infallible>(request.0.len()) });
    let mut service = ReportLayer::new(&monitor).layer(service);
    for (id, clean) in [("a-1", "a-1"), ("b\n2", "b2")] {
        let answer = service.ready().await.unwrap().call(Request(id));
        is_send_and_static(&answer);
        assert_eq!(reported(&reports), [], "not before the answer");
        assert_eq!(answer.await, Ok(3));
        assert_eq!(reported(&reports), [(clean.to_owned(), Outcome::Finished)]);
    }
}

#[tokio::test]
async fn a_function_finds_the_id_of_a_request_of_anybody_s() {
    let (monitor, reports) = monitor();
    let layer = ReportLayer::with_id(&monitor, |number: &u32| RequestId::from(&*format!("n{number}")));
    let service = ServiceBuilder::new().layer(layer).service_fn(|number: u32| ready(Ok::<_, Infallible>(number)));
    let clone = service.clone();
    assert_eq!(service.oneshot(7).await, Ok(7));
    assert_eq!(clone.oneshot(8).await, Ok(8));
    let ids: Vec<_> = reported(&reports).into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids, ["n7", "n8"]);
}

#[tokio::test]
async fn an_error_passes_through_and_its_request_is_reported() {
    #[derive(Debug, PartialEq)]
    struct Broken(u8);
    let (monitor, reports) = monitor();
    let service = ReportLayer::new(&monitor).layer(service_fn(|_: Request| ready(Err::<(), _>(Broken(3)))));
    assert_eq!(service.oneshot(Request("failing")).await, Err(Broken(3)));
    assert_eq!(reported(&reports), [("failing".to_owned(), Outcome::Finished)]);
}

#[test]
fn readiness_is_the_inner_service_s() {
    struct Never;
    impl Service<Request> for Never {
        type Response = ();
        type Error = &'static str;
        type Future = std::future::Ready<Result<(), &'static str>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            Poll::Ready(Err("worn out"))
        }
        fn call(&mut self, _: Request) -> Self::Future {
            ready(Ok(()))
        }
    }
    let (monitor, reports) = monitor();
    let mut service = ReportLayer::new(&monitor).layer(Never);
    assert_eq!(service.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err("worn out")));
    assert!(reported(&reports).is_empty());
}

#[test]
fn a_request_that_is_cancelled_or_panics_is_unfinished_and_the_next_is_alone() {
    let (monitor, reports) = monitor();
    let layer = ReportLayer::new(&monitor);
    {
        let mut hanging = layer.layer(service_fn(|_: Request| pending::<Result<(), Infallible>>()));
        let mut answer = pin!(hanging.call(Request("cancelled")));
        assert!(poll_once(answer.as_mut()).is_pending());
    }
    let mut panics_at_once = layer.layer(service_fn(|request: Request| {
        assert!(request.0.is_empty(), "in the call");
        ready(Ok::<_, Infallible>(()))
    }));
    let mut panics_later = layer.layer(service_fn(|request: Request| async move {
        assert!(request.0.is_empty(), "in the future");
        Ok::<_, Infallible>(())
    }));
    let unwinds =
        |call: &mut dyn FnMut()| assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
    unwinds(&mut || drop(panics_at_once.call(Request("at-once"))));
    unwinds(&mut || assert!(poll_once(pin!(panics_later.call(Request("later")))).is_pending()));
    let outcomes = reported(&reports);
    let expected = ["cancelled", "at-once", "later"].map(|id| (id.to_owned(), Outcome::Unfinished));
    assert_eq!(outcomes, expected);
    assert!(!monitor.start("alone").finish().concurrent, "none was left in flight");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_concurrent_requests_are_a_hundred_reports() {
    let (monitor, reports) = monitor();
    let service = ReportLayer::new(&monitor).layer(service_fn(|_: Request| async {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(())
    }));
    let calls: Vec<_> = (0..100).map(|_| tokio::spawn(service.clone().oneshot(Request("many")))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(()));
    }
    assert_eq!(reported(&reports).len(), 100);
    assert_eq!(monitor.snapshot().invocations, 100);
}

#[cfg(feature = "lambda")]
#[tokio::test]
async fn the_layer_fits_the_runtime_that_runs_one_or_many_at_a_time() {
    use lambda_runtime::{LambdaEvent, Runtime};

    // Nobody answers at port 1: both end with an error of the runtime's own, not of the layer's.
    let variables = [
        ("AWS_LAMBDA_FUNCTION_NAME", "f"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1"),
    ];
    for (name, value) in variables {
        #[expect(unsafe_code, reason = "the runtime reads its address from nowhere else")]
        // SAFETY: what other tests do with the environment goes through std, which holds its lock.
        unsafe {
            std::env::set_var(name, value);
        }
    }
    let (monitor, _) = monitor();
    let handler = service_fn(|_: LambdaEvent<String>| ready(Ok::<_, Infallible>(())));
    let runtime = || Runtime::new(handler).layer(ReportLayer::new(&monitor));
    assert!(runtime().run().await.is_err());
    assert!(runtime().run_concurrent().await.is_err());
    plimsoll::integration::lambda::final_picture(&monitor)().await;
}
