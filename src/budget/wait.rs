//! Waiting for a reservation: the queue as a future, and as a blocked thread.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::size::ByteSize;

use super::account::AccountRef;
use super::reclaim::Reclaiming;
use super::table::{QueuePlace, Shortage, Table, Turn};
use super::{Account, BudgetExceeded, Reservation};

/// A request that waits, or is about to.
struct Request {
    account: AccountRef,
    size: ByteSize,
    /// Its number in the queue; `None` before the first poll and after the end.
    number: Option<u64>,
    /// Keeps the table in use.
    _user: Account,
}

impl Request {
    fn new(account: AccountRef, size: ByteSize) -> Self {
        Self { account, size, number: None, _user: Account::of(account) }
    }

    fn poll(&mut self, waker: &Waker) -> Poll<Result<Reservation, BudgetExceeded>> {
        let Some(number) = self.number else { return self.begin(waker) };
        match self.account.core.shared.look_up(number, waker) {
            QueuePlace::Granted => {
                self.number = None;
                Poll::Ready(Ok(self.granted()))
            }
            QueuePlace::MayReclaim => self.reclaim(number),
            QueuePlace::Waits => Poll::Pending,
        }
    }

    /// The first poll.
    fn begin(&mut self, waker: &Waker) -> Poll<Result<Reservation, BudgetExceeded>> {
        let AccountRef { core, index } = self.account;
        let size = self.size.as_u64();
        let waker = waker.clone();
        let mut table = core.shared.lock();
        if size > 0 && table.is_impossible(index, size) {
            return Poll::Ready(Err(self.refuse(&mut table)));
        }
        if !table.has_queue_before(index, size) {
            drop(table);
            match self.account.take(self.size, 1) {
                Ok(()) => return Poll::Ready(Ok(Reservation::new(self.account, self.size))),
                // Within a reclaimer no request may wait.
                Err(exceeded) if exceeded.is_reentrant() => return Poll::Ready(Err(exceeded)),
                Err(_missing) => (),
            }
            table = core.shared.lock();
        } else if Reclaiming::is_on() {
            return Poll::Ready(Err(self.refuse(&mut table)));
        }
        self.number = Some(table.enqueue(index, size, waker));
        drop(table);
        // Bytes may have been released since they were missed.
        core.serve();
        Poll::Pending
    }

    /// Reclaims, as the first of the queue.
    fn reclaim(&mut self, number: u64) -> Poll<Result<Reservation, BudgetExceeded>> {
        let AccountRef { core, index } = self.account;
        let size = self.size.as_u64();
        let mut table = core.shared.lock_between_passes();
        if table.take_granted(number).is_some() {
            self.number = None;
            drop(table);
            return Poll::Ready(Ok(self.granted()));
        }
        if table.is_reclaiming() {
            // A reclaimer that takes too long. The end of it wakes this request again.
            table.recheck_queue();
            return Poll::Pending;
        }
        // Nothing grants it its bytes a second time until it has left the queue.
        table.set_reclaiming(number, true);
        let decided = match table.decide(index, size, &core.readings(), Turn::New) {
            Ok(()) => {
                drop(table);
                Ok(())
            }
            Err(shortage) if core.is_feasible(&mut table, index, size, 0, shortage) => {
                core.reclaim_for(table, index, size).map_err(drop)
            }
            Err(_in_vain) => {
                drop(table);
                Err(())
            }
        };
        if decided.is_ok() {
            self.number = None;
            core.leave_queue(number);
            return Poll::Ready(Ok(self.granted()));
        }
        core.shared.lock().set_reclaiming(number, false);
        core.serve();
        Poll::Pending
    }

    /// Makes the reservation of bytes that the table has counted.
    fn granted(&self) -> Reservation {
        self.account.core.add_user();
        Reservation::new(self.account, self.size)
    }

    /// Decides once more, at the deadline.
    fn end(&mut self) -> Result<Reservation, BudgetExceeded> {
        let AccountRef { core, index } = self.account;
        let size = self.size.as_u64();
        let mut table = core.shared.lock();
        if let Some(number) = self.number.take() {
            if table.take_granted(number).is_some() {
                drop(table);
                return Ok(self.granted());
            }
            let dequeued = table.dequeue(number);
            // Others are before it otherwise.
            let is_next = dequeued.was_first || !table.has_queue_before(index, size);
            let decided = if is_next {
                let decided = table.decide(index, size, &core.readings(), Turn::New);
                decided.map_err(|shortage| core.refusal(&mut table, index, size, shortage, false))
            } else {
                Err(self.refuse(&mut table))
            };
            drop(table);
            // Its bytes have an owner before a waker runs.
            let decided = decided.map(|()| self.granted());
            if dequeued.goes_on {
                core.serve();
            }
            return decided;
        }
        debug_assert!(false, "a request that waits has a number");
        Err(self.refuse(&mut table))
    }

    fn refuse(&self, table: &mut Table) -> BudgetExceeded {
        let AccountRef { core, index } = self.account;
        let shortage = Shortage { bytes: 1, pages: 0 };
        core.refusal(table, index, self.size.as_u64(), shortage, Reclaiming::is_on())
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.account.core.leave_queue(number);
        }
    }
}

pub(super) async fn reserve_async(
    account: AccountRef,
    size: ByteSize,
    deadline: impl Future<Output = ()>,
) -> Result<Reservation, BudgetExceeded> {
    let mut request = Request::new(account, size);
    let mut deadline = pin!(deadline);
    poll_fn(|cx: &mut Context<'_>| {
        if let Poll::Ready(result) = request.poll(cx.waker()) {
            return Poll::Ready(result);
        }
        deadline.as_mut().poll(cx).map(|()| request.end())
    })
    .await
}

pub(super) fn reserve_blocking(
    account: AccountRef,
    size: ByteSize,
    timeout: Duration,
) -> Result<Reservation, BudgetExceeded> {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let watch = Stopwatch::start();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut request = Request::new(account, size);
    loop {
        if let Poll::Ready(result) = request.poll(&waker) {
            return result;
        }
        let left = timeout.saturating_sub(watch.elapsed());
        if left.is_zero() {
            return request.end();
        }
        thread::park_timeout(left);
    }
}
