//! Waiting for a flight by polling, and advancing its load while at it.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::attempt::{Attempt, BoxLoad, Failure, Outcome, Turn};
use super::state::{Entry, Flight, FlightError, Lead};

/// A caller of a flight who polls: `F` is a reference to the flight or an `Arc` of it.
///
/// `start` makes the load, if this caller is the one who leads; `retry` and `now` are those of
/// [`Flight::get_or_load`]. Dropped before it is done, it gives up its seat, and nobody else notices.
#[must_use = "a future does nothing unless it is polled"]
pub(crate) struct Join<F, T: Clone, E, S, R, N>
where
    F: Deref<Target = Flight<T, E>>,
{
    flight: F,
    start: Option<S>,
    retry: R,
    now: N,
    /// The attempt it waits for.
    attempt: Option<Arc<Attempt<T, E>>>,
    /// Where it sits there.
    seat: Option<u64>,
}

/// Nothing in it is pinned.
impl<F: Deref<Target = Flight<T, E>>, T: Clone, E, S, R, N> Unpin for Join<F, T, E, S, R, N> {}

impl<F, T, E, S, R, N> Join<F, T, E, S, R, N>
where
    F: Deref<Target = Flight<T, E>>,
    T: Clone + Send + 'static,
    E: Send + Sync + 'static,
    S: FnOnce() -> BoxLoad<T, E>,
    R: Fn(&Failure<E>) -> bool,
    N: Fn() -> u64,
{
    /// Asks nothing until it is polled.
    pub(crate) fn new(flight: F, start: S, retry: R, now: N) -> Self {
        Self { flight, start: Some(start), retry, now, attempt: None, seat: None }
    }

    /// Polls the load, which nobody else does meanwhile; `None` if it is not done.
    fn drive(
        &self,
        leading: Lead<'_, T, E>,
        attempt: &Arc<Attempt<T, E>>,
        load: impl FnOnce() -> BoxLoad<T, E>,
    ) -> Option<Result<T, FlightError<E>>> {
        let mut load = load();
        match load.as_mut().poll(&mut Context::from_waker(&attempt.waker())) {
            Poll::Ready(loaded) => {
                drop(load);
                Some(leading.settle(loaded, &self.now))
            }
            Poll::Pending => {
                leading.hand_over();
                attempt.park(load);
                None
            }
        }
    }
}

impl<F, T, E, S, R, N> Future for Join<F, T, E, S, R, N>
where
    F: Deref<Target = Flight<T, E>>,
    T: Clone + Send + 'static,
    E: Send + Sync + 'static,
    S: FnOnce() -> BoxLoad<T, E>,
    R: Fn(&Failure<E>) -> bool,
    N: Fn() -> u64,
{
    type Output = Result<T, FlightError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            if let Some(attempt) = &this.attempt {
                match attempt.turn(&mut this.seat, cx.waker().clone(), true) {
                    Turn::Wait => return Poll::Pending,
                    Turn::Nested => return Poll::Ready(Err(FlightError::Reentrant)),
                    Turn::Landed(Outcome::Ready(value)) => return Poll::Ready(Ok(value)),
                    Turn::Landed(Outcome::Failed(failure)) => return Poll::Ready(Err(FlightError::Failed(failure))),
                    Turn::Landed(Outcome::Lost) => (this.attempt, this.seat) = (None, None),
                    Turn::Drive(load) => {
                        let leading = Lead::new(&this.flight, attempt);
                        return this.drive(leading, attempt, || load).map_or(Poll::Pending, Poll::Ready);
                    }
                }
                continue;
            }
            match this.flight.enter(&this.retry) {
                Err(error) => return Poll::Ready(Err(error)),
                Ok(Entry::Ready(value)) => return Poll::Ready(Ok(value)),
                Ok(Entry::Join(attempt)) => this.attempt = Some(attempt),
                Ok(Entry::Lead(attempt, before)) => {
                    let leading = Lead::new(&this.flight, &attempt);
                    drop(before);
                    let Some(start) = this.start.take() else {
                        return Poll::Ready(Err(FlightError::Panicked));
                    };
                    this.seat = Some(attempt.seat_leader(cx.waker().clone()));
                    this.attempt = Some(Arc::clone(&attempt));
                    return this.drive(leading, &attempt, start).map_or(Poll::Pending, Poll::Ready);
                }
            }
        }
    }
}

impl<F: Deref<Target = Flight<T, E>>, T: Clone, E, S, R, N> Drop for Join<F, T, E, S, R, N> {
    fn drop(&mut self) {
        if let (Some(attempt), Some(seat)) = (self.attempt.take(), self.seat)
            && let Some(left) = attempt.leave(seat)
        {
            let leading = left.load.is_some().then(|| Lead::new(&self.flight, &attempt));
            drop(left);
            drop(leading);
        }
    }
}
