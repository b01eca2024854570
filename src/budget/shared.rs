//! The lock around a budget's table, and the two ways to wait: for the end of another request's reclaim, and in the queue.
//!
//! ```text
//!   request that does not fit          others                        queue
//!   begin_pass: size is promised       new requests wait for its     nothing is granted
//!   reclaimers run, without the lock   end, and decide then
//!   granted or refused: end  ────────> wake them           ────────> serve: the first that fits, then the next
//! ```
//!
//! `tests/loom` runs this very file under loom.

use std::task::Waker;
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering::Relaxed};
use crate::unwind::contained;

use super::table::{QueuePlace, Readings, Served, Table};

/// The longest wait for another request's reclaim. It ends earlier, unless a reclaimer breaks the rule that it must not wait.
const MAX_PASS_WAIT: Duration = Duration::from_millis(100);

/// A table under its lock.
#[derive(Debug)]
pub(crate) struct Shared {
    table: Mutex<Table>,
    pass_ended: Condvar,
    /// The pages have to be checked outside of the caller's locks.
    check_due: AtomicBool,
}

impl Shared {
    pub(crate) fn new(table: Table) -> Self {
        Self { table: Mutex::new(table), pass_ended: Condvar::new(), check_due: AtomicBool::new(false) }
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// Locks the table when no request reclaims. After [`MAX_PASS_WAIT`] one may still reclaim.
    pub(crate) fn lock_between_passes(&self) -> MutexGuard<'_, Table> {
        let mut table = self.table.lock();
        if table.is_reclaiming() {
            let waiting = Stopwatch::start();
            while table.is_reclaiming() {
                let left = MAX_PASS_WAIT.saturating_sub(waiting.elapsed());
                if left.is_zero() || self.pass_ended.wait_for(&mut table, left).timed_out() {
                    break;
                }
            }
        }
        table
    }

    /// Lets the table know that `size` bytes are about to be reclaimed for a request. No other request may reclaim.
    pub(crate) fn begin_pass<'a>(&'a self, table: &mut Table, account: usize, size: u64) -> PassGuard<'a> {
        PassGuard { shared: self, number: table.begin_pass(account, size) }
    }

    /// Grants bytes to as many requests of the queue as possible, and wakes them. No waker runs under the lock.
    #[cold]
    pub(crate) fn serve(&self, readings: impl Fn() -> Readings) {
        loop {
            let served = self.lock().serve(&readings());
            let (waker, is_last) = match served {
                Some(Served::Granted(waker)) => (waker, false),
                Some(Served::First(waker)) => (waker, true),
                None => return,
            };
            // A waker is code of others, and the bytes are counted already.
            contained(|| waker.map(Waker::wake));
            if is_last {
                return;
            }
        }
    }

    /// Returns what became of a request that waits.
    pub(crate) fn look_up(&self, number: u64, waker: &Waker) -> QueuePlace {
        let mut waker = Some(waker.clone());
        let place = self.lock().look_up(number, &mut waker);
        // The earlier one, outside of the lock.
        drop(waker);
        place
    }

    /// Removes a request that does not wait any more, and releases what it was granted.
    pub(crate) fn dequeue(&self, number: u64, readings: impl Fn() -> Readings) {
        let dequeued = self.lock().dequeue(number);
        if dequeued.goes_on {
            self.serve(readings);
        }
    }

    /// Remembers that the pages have to be checked.
    #[inline]
    pub(crate) fn set_check_due(&self) {
        self.check_due.store(true, Relaxed);
    }

    #[inline]
    pub(crate) fn is_check_due(&self) -> bool {
        self.check_due.load(Relaxed)
    }

    pub(crate) fn take_check_due(&self) -> bool {
        self.check_due.swap(false, Relaxed)
    }
}

/// A request that reclaims, from its begin to its end.
#[derive(Debug)]
pub(crate) struct PassGuard<'a> {
    shared: &'a Shared,
    number: u64,
}

impl PassGuard<'_> {
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for PassGuard<'_> {
    fn drop(&mut self) {
        self.shared.lock().end_pass(self.number);
        self.shared.pass_ended.notify_all();
    }
}
