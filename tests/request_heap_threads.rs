//! A request's own figures with more threads than slots. In a process of its own, because it takes all slots.
#![cfg(feature = "http")]

use std::convert::Infallible;
use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use http::Request;
use plimsoll::{Monitor, TrackingAllocator, monitor};
use tower::{ServiceExt, service_fn};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn request_on_a_thread_without_a_slot_has_no_figures() {
    let threads = 128 + 20;
    let barrier = std::sync::Barrier::new(threads + 1);
    let mut not_available = 0;
    let seen: Arc<Mutex<Vec<monitor::Request>>> = Arc::default();
    let noted = Arc::clone(&seen);
    let monitor = Monitor::builder().report_share(0);
    let monitor = monitor.on_request(move |request| noted.lock().expect("no panic here").push(*request));
    let monitor = monitor.build().expect("constant settings");
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                drop(black_box(vec![1_u8; 10]));
                barrier.wait();
                let service = monitor.http().heads_only().layer(service_fn(async |_: Request<()>| {
                    drop(black_box(vec![1_u8; 77]));
                    Ok::<_, Infallible>(())
                }));
                assert!(poll_once(service.oneshot(Request::new(()))).is_ready());
                barrier.wait();
            });
        }
        barrier.wait();
        barrier.wait();
    });
    for request in seen.lock().expect("no panic here").iter() {
        match request.own {
            Some(own) => assert_eq!(own.allocated.as_u64(), 77),
            None => not_available += 1,
        }
    }
    assert!((20..60).contains(&not_available), "{not_available} of {threads} requests have no figures");
    let label = monitor.labels()[0];
    assert_eq!((label.requests, label.not_available), (threads as u64, not_available));
}
