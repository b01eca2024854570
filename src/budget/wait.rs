//! Waiting for a reservation: the queue as a future, and as a blocked thread.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::heap;
use crate::size::ByteSize;

use super::account::AccountRef;
use super::reclaim::Reclaiming;
use super::table::{QueuePlace, Shortage, Table, Turn};
use super::{Account, BudgetExceeded, Reservation};

/// A request that waits, or is about to.
pub(crate) struct Claim {
    account: AccountRef,
    size: ByteSize,
    /// Its number in the queue; `None` before the first poll and after the end.
    number: Option<u64>,
    /// No account releases memory for it if not.
    may_reclaim: bool,
    /// Keeps the table in use.
    _user: Account,
}

impl Claim {
    pub(super) fn new(account: AccountRef, size: ByteSize, may_reclaim: bool) -> Self {
        Self { account, size, number: None, may_reclaim, _user: Account::of(account) }
    }

    /// Joins the queue at the first poll, and returns the reservation once it is granted.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Poll<Result<Reservation, BudgetExceeded>> {
        let Some(number) = self.number else { return self.begin(waker) };
        match self.account.core.shared.look_up(number, waker) {
            QueuePlace::Granted => {
                self.number = None;
                Poll::Ready(Ok(self.granted()))
            }
            QueuePlace::MayReclaim if self.may_reclaim => self.reclaim(number),
            QueuePlace::MayReclaim | QueuePlace::Waits => Poll::Pending,
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
            let taken = if self.may_reclaim {
                self.account.take(self.size, 1)
            } else {
                take_without_reclaimers(self.account, self.size).ok_or_else(|| refusal(self.account, self.size))
            };
            match taken {
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

    /// Lets the request ask for `size` from now on, if that is less, and reclaim memory for it. It keeps its turn.
    #[cfg(feature = "http")]
    pub(crate) fn shrink_to(&mut self, size: ByteSize) {
        let AccountRef { core, .. } = self.account;
        let is_less = size < self.size;
        // One that was granted its bytes already keeps them.
        let is_shrunk = |number| core.shared.lock().shrink_waiter(number, size.as_u64());
        if is_less && self.number.is_none_or(is_shrunk) {
            self.size = size;
        }
        self.may_reclaim = true;
        core.recheck_queue();
    }

    /// Makes the reservation of bytes that the table has counted.
    fn granted(&self) -> Reservation {
        heap::note_reserved(self.size.as_u64().cast_signed());
        self.account.core.add_user();
        Reservation::new(self.account, self.size)
    }

    /// Decides once more, at the deadline.
    pub(crate) fn end(&mut self) -> Result<Reservation, BudgetExceeded> {
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

impl Drop for Claim {
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
    let mut claim = Claim::new(account, size, true);
    let mut deadline = pin!(deadline);
    poll_fn(|cx: &mut Context<'_>| {
        if let Poll::Ready(result) = claim.poll(cx.waker()) {
            return Poll::Ready(result);
        }
        deadline.as_mut().poll(cx).map(|()| claim.end())
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
    let mut claim = Claim::new(account, size, true);
    loop {
        if let Poll::Ready(result) = claim.poll(&waker) {
            return result;
        }
        let left = timeout.saturating_sub(watch.elapsed());
        if left.is_zero() {
            return claim.end();
        }
        thread::park_timeout(left);
    }
}

#[cfg(feature = "http")]
impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("size", &self.size).finish_non_exhaustive()
    }
}

/// Reserves `size` without waiting, but not before requests that wait.
#[cfg(feature = "http")]
pub(super) fn try_reserve_in_turn(account: AccountRef, size: ByteSize) -> Result<Reservation, BudgetExceeded> {
    let AccountRef { core, index } = account;
    let table = core.shared.lock();
    let is_before_others = size > ByteSize::ZERO && table.has_queue_before(index, size.as_u64());
    drop(table);
    if is_before_others {
        return Err(refusal(account, size));
    }
    account.take(size, 1)?;
    Ok(Reservation::new(account, size))
}

/// Returns the refusal of a request for `size`.
pub(super) fn refusal(account: AccountRef, size: ByteSize) -> BudgetExceeded {
    let AccountRef { core, index } = account;
    let shortage = Shortage { bytes: 1, pages: 0 };
    core.refusal(&mut core.shared.lock(), index, size.as_u64(), shortage, Reclaiming::is_on())
}

/// Reserves `size` without reclaimers; the allocator may release free pages. `in_turn`: not before requests that wait.
#[cfg(feature = "http")]
pub(super) fn try_reserve_without_reclaimers(
    account: AccountRef,
    size: ByteSize,
    in_turn: bool,
) -> Option<Reservation> {
    let AccountRef { core, index } = account;
    if in_turn && core.shared.lock().has_queue_before(index, size.as_u64()) {
        return None;
    }
    take_without_reclaimers(account, size)?;
    Some(Reservation::new(account, size))
}

/// Reserves `size` for one more user.
fn take_without_reclaimers(account: AccountRef, size: ByteSize) -> Option<()> {
    let AccountRef { core, index } = account;
    core.reserve_without_reclaimers(index, size.as_u64())?;
    heap::note_reserved(size.as_u64().cast_signed());
    core.add_user();
    Some(())
}
