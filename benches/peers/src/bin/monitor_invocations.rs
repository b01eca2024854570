//! Worker: invocations of a service that does nothing under the report layer; prints what one costs and leaves behind.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use plimsoll::monitor::ReportPolicy;
use plimsoll::{ByteSize, HasRequestId, Monitor, ReportLayer, TrackingAllocator, heap};
use plimsoll_peers::median;
use serde_json::json;
use tower_layer::Layer;
use tower_service::Service;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// Invocations timed together: one alone is shorter than the clock is sharp.
const CHUNK: usize = 500;

struct Request;

impl HasRequestId for Request {
    fn request_id(&self) -> &str {
        "4f1c9a1e-83aa-4b1c-9d55-0242ac120002"
    }
}

/// Answers at once, and nothing.
struct Nothing;

impl Service<Request> for Nothing {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        ready(Ok(()))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let invocations: usize = std::env::args().nth(1).ok_or("how many invocations?")?.parse()?;
    let monitor =
        Monitor::builder().memory_size(ByteSize::mib(1024)).report(ReportPolicy::Off).report_share(100).install()?;
    let mut service = ReportLayer::new(&monitor).layer(Nothing);
    let mut chunk = || {
        let started = Instant::now();
        for _ in 0..CHUNK {
            let answer = pin!(service.call(Request)).poll(&mut Context::from_waker(Waker::noop()));
            assert!(black_box(answer).is_ready(), "it answers at once");
        }
        started.elapsed().as_secs_f64() * 1e6 / CHUNK as f64
    };
    let mut micros = Vec::with_capacity(invocations.div_ceil(CHUNK));
    chunk();
    let before = heap::stats()?.live;
    micros.extend((0..invocations.div_ceil(CHUNK)).map(|_| chunk()));
    let growth = heap::stats()?.live.as_u64().abs_diff(before.as_u64());
    println!("{}", json!({ "invocation_us": median(micros), "live_growth_bytes": growth }));
    Ok(())
}
