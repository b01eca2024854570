//! An executor that polls a task only after a wake-up, on the thread of the test.

#![allow(dead_code, unreachable_pub, reason = "each test binary includes this file and uses its own part")]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

/// A future and its wake-up.
pub struct Task<'a, T> {
    future: Option<Pin<Box<dyn Future<Output = T> + 'a>>>,
    woken: Arc<Woken>,
    output: Option<T>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

impl<'a, T> Task<'a, T> {
    /// Creates a task that is due for its first poll.
    pub fn new(future: impl Future<Output = T> + 'a) -> Self {
        Self { future: Some(Box::pin(future)), woken: Arc::new(Woken(AtomicBool::new(true))), output: None }
    }

    /// Polls the future if it is woken. Returns `true` if it was polled. A panic drops the future.
    pub fn poll(&mut self) -> bool {
        if self.future.is_none() || !self.woken.0.swap(false, SeqCst) {
            return false;
        }
        let Some(mut future) = self.future.take() else { return false };
        match future.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&self.woken)))) {
            Poll::Ready(output) => self.output = Some(output),
            Poll::Pending => self.future = Some(future),
        }
        true
    }

    /// Returns `true` until the future has returned or panicked.
    pub fn is_pending(&self) -> bool {
        self.future.is_some()
    }

    /// Returns the output of the future, once.
    pub fn output(&mut self) -> Option<T> {
        self.output.take()
    }
}

/// Polls the woken tasks until none is woken. Returns the number of polls.
pub fn run<T>(tasks: &mut [Task<'_, T>]) -> usize {
    let mut polls = 0;
    loop {
        let polled = tasks.iter_mut().filter_map(|task| task.poll().then_some(())).count();
        if polled == 0 {
            return polls;
        }
        polls += polled;
    }
}
