//! A load that a test ends when it likes, and that counts how often it began and was dropped.

#![allow(dead_code, unreachable_pub, reason = "each test binary includes this file and uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::future::{self, Future};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

/// A load in the hands of the test: it ends when told to.
#[derive(Clone, Default)]
pub struct Remote(pub Arc<State>);

#[derive(Default)]
pub struct State {
    pub result: Mutex<Option<Result<u32, &'static str>>>,
    pub waker: Mutex<Option<Waker>>,
    pub panics: AtomicBool,
    pub starts: AtomicUsize,
    pub polls: AtomicUsize,
    pub drops: AtomicUsize,
}

impl Remote {
    pub fn load(&self) -> impl Future<Output = Result<u32, &'static str>> + Send + use<> {
        struct Dropped(Remote);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.0.drops.fetch_add(1, SeqCst);
            }
        }
        let guard = Dropped(self.clone());
        self.0.starts.fetch_add(1, SeqCst);
        future::poll_fn(move |cx| {
            let state = &guard.0.0;
            state.polls.fetch_add(1, SeqCst);
            assert!(!state.panics.load(SeqCst), "the load panics (this panic belongs to the test)");
            if let Some(result) = state.result.lock().unwrap().take() {
                return Poll::Ready(result);
            }
            *state.waker.lock().unwrap() = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    pub fn end(&self, result: Result<u32, &'static str>) {
        *self.0.result.lock().unwrap() = Some(result);
        let waker = self.0.waker.lock().unwrap().take();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Wakes the load, which has nothing to return yet.
    pub fn wake(&self) {
        let waker = self.0.waker.lock().unwrap().clone();
        waker.into_iter().for_each(Waker::wake);
    }

    pub fn polls(&self) -> usize {
        self.0.polls.load(SeqCst)
    }

    pub fn starts(&self) -> usize {
        self.0.starts.load(SeqCst)
    }

    pub fn drops(&self) -> usize {
        self.0.drops.load(SeqCst)
    }
}
