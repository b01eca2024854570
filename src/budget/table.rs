//! The table of a budget: the bytes that its accounts have reserved, and the decision on more. A single-threaded core, which
//! takes the live heap, the resident pages and the time as arguments.
//!
//! ```text
//!   capacity   =  limit - unreserved heap
//!   available  =  capacity - reserved - what others are promised
//!                                       their minimum shares that they do not use,
//!                                       and the request that reclaims memory at this moment
//! ```
//!
//! *Unreserved heap* is not known exactly, because reserved memory may not be allocated yet: with `live` bytes of heap, it is
//! at least `live - reserved` and at most `live`. The highest `live - reserved` of the last seconds is a good estimate
//! of it, since most reservations are allocated soon. For example, 60 MiB of a static table are live. Six requests reserve 8
//! MiB each: `live - reserved` falls from 60 to 12 MiB, and rises again as they allocate. The estimate stays at 60.
//!
//! *Resident pages* decide for large requests if the kernel enforces the limit. The kernel counts pages, and an allocator
//! keeps pages of freed blocks that a large block may not fit into:
//!
//! ```text
//!   resident pages + reserved and not allocated yet + request  <=  limit
//! ```
//!
//! Requests that wait form one queue. The first of it gets its bytes as soon as they are available; nothing else of the
//! queue does before.

use std::collections::VecDeque;
use std::task::Waker;

use crate::board::Meter;
use crate::sync::Ordering::Relaxed;

use super::MAX_ACCOUNTS;

/// The most bytes that are reserved in total, so that every sum fits a signed word.
pub(crate) const MAX_RESERVED: u64 = i64::MAX.cast_unsigned();

/// The estimate of the unreserved heap looks back for one to two of these, in milliseconds, if it is asked as often.
const HALF_WINDOW_MS: u64 = 5_000;

/// The figures of the process that a decision needs, in bytes and milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Readings {
    /// Live heap; 0 if the budget does not count unreserved heap.
    pub(crate) live: u64,
    /// Resident anonymous pages; `None` if they are not checked.
    pub(crate) resident: Option<u64>,
    /// Any clock that does not go back.
    pub(crate) now_ms: u64,
}

/// The bytes that a request misses. At least one is above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// Missing of what is available.
    pub(crate) bytes: u64,
    /// Beyond the limit by the resident pages.
    pub(crate) pages: u64,
}

/// The privileges of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It came just now.
    New,
    /// It is the one that reclaims: of this number.
    Reclaiming(u64),
    /// It is made within a reclaimer that runs for the request of this number, and may use what is promised to that.
    Nested(u64),
}

impl Turn {
    fn is_of(self, pass: &Pass) -> bool {
        matches!(self, Self::Reclaiming(number) | Self::Nested(number) if number == pass.number)
    }
}

/// The request that reclaims memory. Its bytes are promised to it, so that no other request takes bytes that are released for it.
#[derive(Debug)]
struct Pass {
    number: u64,
    size: u64,
}

/// A request that waits.
#[derive(Debug)]
struct Waiter {
    number: u64,
    account: usize,
    size: u64,
    /// `None` if it was woken since its last poll.
    waker: Option<Waker>,
    /// Something has changed since it has reclaimed as the first of the queue.
    is_stale: bool,
    /// It was woken to reclaim.
    is_woken: bool,
    /// It reclaims now, and is granted its bytes there.
    is_reclaiming: bool,
}

/// One account.
#[derive(Debug, Default)]
struct Entry {
    name: &'static str,
    reserved: u64,
    peak: u64,
    minimum: u64,
    /// The copy of [`reserved`](Self::reserved) that the alarm reads without the lock.
    published: Option<Meter>,
}

impl Entry {
    #[inline]
    const fn unused_minimum(&self) -> u64 {
        self.minimum.saturating_sub(self.reserved)
    }

    #[inline]
    fn publish(&self) {
        if let Some(published) = &self.published {
            published.store(self.reserved, Relaxed);
        }
    }
}

/// The figures of an account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) name: &'static str,
    pub(crate) reserved: u64,
    pub(crate) peak: u64,
    pub(crate) minimum: u64,
}

impl Usage {
    /// Returns the bytes that others can have after they are released.
    pub(crate) const fn releasable(&self) -> u64 {
        self.reserved.saturating_sub(self.minimum)
    }
}

/// The estimate of the heap that no account has reserved.
#[derive(Debug, Default)]
struct UnreservedHeap {
    /// The highest `live - reserved` of the current half of the window and of the one before.
    highest: [u64; 2],
    rotated_ms: u64,
}

impl UnreservedHeap {
    /// Counts a moment, and returns the estimate. At no moment it is above the live heap: what was above that is freed.
    #[inline]
    fn update(&mut self, live: u64, reserved: u64) -> u64 {
        let [current, before] = &mut self.highest;
        *current = live.saturating_sub(reserved).max((*current).min(live));
        *before = (*before).min(live);
        (*current).max(*before)
    }

    /// Forgets what is older than the window. Moments are counted without a clock, so those since the last call may all be
    /// recent. Without a call the estimate stays too high.
    fn rotate(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.rotated_ms) >= HALF_WINDOW_MS {
            let [current, _] = self.highest;
            self.highest = [0, current];
            self.rotated_ms = now_ms;
        }
    }
}

/// A place in the queue that has become ready, to be woken outside of the lock.
#[derive(Debug)]
pub(crate) enum Served {
    /// It has its bytes. The next may have its own.
    Granted(Option<Waker>),
    /// It is the first of the queue, and may reclaim.
    First(Option<Waker>),
}

/// A request that has left the queue.
#[derive(Debug)]
pub(crate) struct Dequeued {
    pub(crate) was_first: bool,
    /// Others may have their turn now.
    pub(crate) goes_on: bool,
    /// To be dropped outside of the lock.
    #[expect(dead_code, reason = "its drop is what matters")]
    waker: Option<Waker>,
}

/// The state of a request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueuePlace {
    Granted,
    /// It is the first of the queue, and bytes were released since it has reclaimed.
    MayReclaim,
    Waits,
}

#[derive(Debug)]
pub(crate) struct Table {
    limit: u64,
    reserved: u64,
    /// The unused minimum shares of all accounts.
    unused_minimums: u64,
    heap: UnreservedHeap,
    pass: Option<Pass>,
    queue: VecDeque<Waiter>,
    /// Requests of the queue that have their bytes and do not know it yet: number, account, size.
    granted: Vec<(u64, usize, u64)>,
    /// The number of the next pass or waiter.
    next: u64,
    /// Bytes granted since the resident pages were checked.
    unchecked: u64,
    /// The number of unchecked bytes from which the pages are checked; `u64::MAX`: never.
    check_from: u64,
    accounts: [Entry; MAX_ACCOUNTS],
    opened: usize,
    /// Handles of the budget, of its accounts, and reservations.
    pub(crate) users: u64,
}

impl Table {
    /// Creates the table of a budget with one user. `check_from`: the number of bytes from which the pages are
    /// checked; `u64::MAX`: never.
    pub(crate) fn new(limit: u64, check_from: u64) -> Self {
        Self {
            limit: limit.min(MAX_RESERVED),
            reserved: 0,
            unused_minimums: 0,
            heap: UnreservedHeap::default(),
            pass: None,
            queue: VecDeque::new(),
            granted: Vec::new(),
            next: 0,
            unchecked: 0,
            check_from,
            accounts: std::array::from_fn(|_| Entry::default()),
            opened: 0,
            users: 1,
        }
    }

    /// Returns the index of the account, which is opened if there is none of the name; `None` if all are taken.
    pub(crate) fn open(&mut self, name: &'static str, publish: impl FnOnce(&'static str) -> Meter) -> Option<usize> {
        let found = self.accounts.iter().take(self.opened).position(|entry| entry.name == name);
        found.or_else(|| {
            let entry = self.accounts.get_mut(self.opened)?;
            *entry = Entry { name, published: Some(publish(name)), ..Entry::default() };
            self.opened += 1;
            Some(self.opened - 1)
        })
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "an index comes from `open` alone")]
    const fn entry(&self, account: usize) -> &Entry {
        &self.accounts[account]
    }

    pub(crate) fn usage(&self, account: usize) -> Usage {
        let &Entry { name, reserved, peak, minimum, .. } = self.entry(account);
        Usage { name, reserved, peak, minimum }
    }

    /// Returns the accounts, in the order of their opening.
    pub(crate) fn usages(&self) -> impl Iterator<Item = Usage> {
        (0..self.opened).map(|account| self.usage(account))
    }

    pub(crate) const fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) const fn reserved(&self) -> u64 {
        self.reserved
    }

    #[cfg(test)]
    pub(crate) const fn unused_minimums(&self) -> u64 {
        self.unused_minimums
    }

    /// Sets the minimum share of an account.
    ///
    /// # Errors
    ///
    /// The bytes that the minimum shares of the others leave.
    #[expect(clippy::indexing_slicing, reason = "an index comes from `open` alone")]
    pub(crate) fn set_minimum(&mut self, account: usize, minimum: u64) -> Result<(), u64> {
        let others = self.accounts.iter().enumerate().filter(|(index, _)| *index != account);
        let left = others.fold(self.limit, |left, (_, entry)| left.saturating_sub(entry.minimum));
        if minimum > left {
            return Err(left);
        }
        let entry = &mut self.accounts[account];
        self.unused_minimums -= entry.unused_minimum();
        entry.minimum = minimum;
        self.unused_minimums += entry.unused_minimum();
        Ok(())
    }

    /// Returns what accounts may reserve in total.
    pub(crate) fn capacity(&mut self, readings: &Readings) -> u64 {
        self.heap.rotate(readings.now_ms);
        self.limit.saturating_sub(self.heap.update(readings.live, self.reserved))
    }

    /// Returns the bytes that an account of which `own` bytes of its minimum share are unused cannot have, because they are
    /// promised to others.
    #[inline]
    fn promised_to_others(&self, own: u64, size: u64, turn: Turn) -> u64 {
        if self.unused_minimums == 0 && self.pass.is_none() {
            return 0;
        }
        let minimums = self.unused_minimums - own;
        match &self.pass {
            // A request within its minimum share never waits for others.
            Some(pass) if !turn.is_of(pass) && size > own => minimums.saturating_add(pass.size),
            _ => minimums,
        }
    }

    /// Reserves if the bytes are available and no check of the pages is due. The fast path: without a clock. On `false`
    /// nothing was reserved, and [`decide`](Self::decide) has the last word.
    #[inline]
    pub(crate) fn try_reserve(&mut self, account: usize, size: u64, live: u64) -> bool {
        let is_due = self.unchecked.saturating_add(size) >= self.check_from;
        !is_due && self.try_reserve_unchecked(account, size, live)
    }

    /// Reserves if the bytes are available, whatever the pages are.
    #[inline]
    pub(crate) fn try_reserve_unchecked(&mut self, account: usize, size: u64, live: u64) -> bool {
        let unreserved = self.heap.update(live, self.reserved);
        let promised = self.promised_to_others(self.entry(account).unused_minimum(), size, Turn::New);
        // Of the first two no sum is above `u64::MAX`.
        let others = self.reserved.saturating_add(unreserved).saturating_add(promised);
        let fits = others.saturating_add(size) <= self.limit;
        if fits {
            self.commit(account, size);
        }
        fits
    }

    /// Returns the bytes that a request misses of what is available, without the pages.
    pub(crate) fn missing(&mut self, account: usize, size: u64, readings: &Readings, turn: Turn) -> u64 {
        let capacity = self.capacity(readings);
        let promised = self.promised_to_others(self.entry(account).unused_minimum(), size, turn);
        self.reserved.saturating_add(size).saturating_add(promised).saturating_sub(capacity)
    }

    /// Returns the bytes that `account`, or any, can have without reclaiming.
    pub(crate) fn available(&mut self, account: Option<usize>, readings: &Readings, turn: Turn) -> u64 {
        let capacity = self.capacity(readings);
        let own = account.map_or(0, |account| self.entry(account).unused_minimum());
        let promised = self.promised_to_others(own, u64::MAX, turn);
        capacity.saturating_sub(self.reserved).saturating_sub(promised)
    }

    /// Reserves, or returns what is missing.
    pub(crate) fn decide(
        &mut self,
        account: usize,
        size: u64,
        readings: &Readings,
        turn: Turn,
    ) -> Result<(), Shortage> {
        let bytes = self.missing(account, size, readings, turn);
        let is_due = self.unchecked.saturating_add(size) >= self.check_from;
        let pages = if is_due { self.pages_beyond_limit(size, readings) } else { 0 };
        if bytes > 0 || pages > 0 {
            return Err(Shortage { bytes, pages });
        }
        if let Turn::Reclaiming(number) = turn {
            self.end_pass(number);
        }
        self.commit(account, size);
        if is_due {
            self.unchecked = 0;
        }
        Ok(())
    }

    /// Returns how far the pages will be beyond the limit once `size` bytes more and all that is reserved are allocated; 0 if
    /// they are not known.
    pub(crate) fn pages_beyond_limit(&mut self, size: u64, readings: &Readings) -> u64 {
        let Some(resident) = readings.resident else { return 0 };
        let unreserved = self.heap.update(readings.live, self.reserved);
        let not_allocated = self.reserved.saturating_add(unreserved).saturating_sub(readings.live);
        resident.saturating_add(not_allocated).saturating_add(size).saturating_sub(self.limit)
    }

    /// Returns `true` if requests that could not wait for a check of the pages have made one due.
    pub(crate) const fn is_check_due(&self) -> bool {
        self.unchecked >= self.check_from
    }

    pub(crate) const fn set_checked(&mut self) {
        self.unchecked = 0;
    }

    /// Returns `true` if `size` bytes could be had after all accounts in `askable`, a bit each, have released everything,
    /// and `own` bytes of the account itself were released too.
    pub(crate) fn is_feasible(
        &mut self,
        account: usize,
        size: u64,
        own: u64,
        askable: u64,
        readings: &Readings,
    ) -> bool {
        let capacity = self.capacity(readings);
        let fixed = |(index, entry): (usize, &Entry)| match askable >> index & 1 {
            _ if index == account => entry.reserved.saturating_sub(own),
            // Its minimum share stays promised to it.
            1 => entry.minimum,
            _ => entry.reserved.max(entry.minimum),
        };
        let accounts = self.accounts.iter().take(self.opened).enumerate();
        accounts.map(fixed).fold(size, u64::saturating_add) <= capacity
    }

    /// Returns what the accounts in `askable`, a bit each, have reserved above their minimum shares.
    pub(crate) fn releasable(&self, askable: u64) -> u64 {
        let askable = self.accounts.iter().take(self.opened).enumerate().filter(|(index, _)| askable >> index & 1 == 1);
        askable.map(|(_, entry)| entry.reserved.saturating_sub(entry.minimum)).sum()
    }

    /// Returns `true` if `size` bytes can never be had, whatever is released.
    pub(crate) fn is_impossible(&self, account: usize, size: u64) -> bool {
        let others = self.accounts.iter().enumerate().filter(|(index, _)| *index != account);
        let minimums = others.fold(0_u64, |sum, (_, entry)| sum.saturating_add(entry.minimum));
        size > self.limit.saturating_sub(minimums)
    }

    /// Reserves bytes that are allocated already, and returns how many: fewer only at [`MAX_RESERVED`].
    pub(crate) fn reserve(&mut self, account: usize, size: u64) -> u64 {
        let size = size.min(MAX_RESERVED - self.reserved);
        self.commit(account, size);
        size
    }

    #[expect(clippy::indexing_slicing, reason = "an index comes from `open` alone")]
    #[inline]
    fn commit(&mut self, account: usize, size: u64) {
        let entry = &mut self.accounts[account];
        if entry.minimum > 0 {
            self.unused_minimums -= entry.unused_minimum().min(size);
        }
        // No sum is above `MAX_RESERVED`.
        entry.reserved += size;
        entry.peak = entry.peak.max(entry.reserved);
        entry.publish();
        self.reserved += size;
        self.unchecked = self.unchecked.saturating_add(size);
    }

    /// Releases bytes that the account has reserved. Returns `true` if requests wait for them.
    #[expect(clippy::indexing_slicing, reason = "an index comes from `open` alone")]
    #[inline]
    pub(crate) fn release(&mut self, account: usize, size: u64) -> bool {
        let entry = &mut self.accounts[account];
        debug_assert!(entry.reserved >= size, "only what was reserved is released");
        entry.reserved -= size;
        entry.publish();
        if entry.minimum > 0 {
            self.unused_minimums += entry.unused_minimum().min(size);
        }
        self.reserved -= size;
        size > 0 && self.recheck_queue()
    }

    /// Has the first of the queue reclaim again when it is served. Returns `true` if requests wait.
    pub(crate) fn recheck_queue(&mut self) -> bool {
        let first = self.queue.front_mut();
        first.map(|first| first.is_stale = true).is_some()
    }

    // --- Passes ---

    /// Returns `true` while a request reclaims.
    pub(crate) const fn is_reclaiming(&self) -> bool {
        self.pass.is_some()
    }

    /// Promises `size` bytes to a request of `account` that reclaims, besides its minimum share. One at a time.
    pub(crate) fn begin_pass(&mut self, account: usize, size: u64) -> u64 {
        debug_assert!(self.pass.is_none(), "one request reclaims at a time");
        let number = self.number();
        let size = size.saturating_sub(self.entry(account).unused_minimum());
        self.pass = Some(Pass { number, size });
        number
    }

    pub(crate) fn end_pass(&mut self, number: u64) {
        if self.pass.as_ref().is_some_and(|pass| pass.number == number) {
            self.pass = None;
        }
    }

    const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    // --- The queue ---

    pub(crate) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Returns `true` if a new request of `size` bytes has to wait for its turn.
    pub(crate) fn has_queue_before(&self, account: usize, size: u64) -> bool {
        !self.queue.is_empty() && size > self.entry(account).unused_minimum()
    }

    /// Adds a request to the end of the queue, and returns its number.
    pub(crate) fn enqueue(&mut self, account: usize, size: u64, waker: Waker) -> u64 {
        let number = self.number();
        let waker = Some(waker);
        // Bytes may have been released since it has missed them.
        let waiter = Waiter { number, account, size, waker, is_stale: true, is_woken: false, is_reclaiming: false };
        self.queue.push_back(waiter);
        number
    }

    /// Returns what became of a request that waits. One with its bytes leaves the queue; of others the waker is replaced. Leaves the
    /// waker to drop in `waker`: its drop is code of others, which must not run under the lock.
    pub(crate) fn look_up(&mut self, number: u64, waker: &mut Option<Waker>) -> QueuePlace {
        if self.take_granted(number).is_some() {
            return QueuePlace::Granted;
        }
        let index = self.queue.partition_point(|waiter| waiter.number < number);
        debug_assert!(index < self.queue.len(), "it was neither granted nor removed");
        let Some(waiter) = self.queue.get_mut(index) else { return QueuePlace::Waits };
        std::mem::swap(&mut waiter.waker, waker);
        if !std::mem::take(&mut waiter.is_woken) {
            return QueuePlace::Waits;
        }
        waiter.is_stale = false;
        QueuePlace::MayReclaim
    }

    /// Returns the account and the size of a request that has its bytes, which are the caller's now.
    pub(crate) fn take_granted(&mut self, number: u64) -> Option<(usize, u64)> {
        let index = self.granted.iter().position(|granted| granted.0 == number)?;
        let (_, account, size) = self.granted.swap_remove(index);
        Some((account, size))
    }

    /// Notes that the first of the queue reclaims, or has done so. What its own reclaim has released is no reason for another.
    pub(crate) fn set_reclaiming(&mut self, number: u64, is_reclaiming: bool) {
        if let Some(first) = self.queue.front_mut().filter(|first| first.number == number) {
            (first.is_reclaiming, first.is_stale) = (is_reclaiming, false);
        }
    }

    /// Lets a request that waits ask for `size`. Returns `false` if it does not wait any more.
    #[cfg(feature = "http")]
    pub(crate) fn shrink_waiter(&mut self, number: u64, size: u64) -> bool {
        let waiter = self.queue.iter_mut().find(|waiter| waiter.number == number);
        waiter.map(|waiter| waiter.size = size).is_some()
    }

    /// Removes a request that does not wait any more, and releases what it was granted.
    pub(crate) fn dequeue(&mut self, number: u64) -> Dequeued {
        if let Some((account, size)) = self.take_granted(number) {
            return Dequeued { was_first: false, goes_on: self.release(account, size), waker: None };
        }
        let index = self.queue.partition_point(|waiter| waiter.number < number);
        let is_there = self.queue.get(index).is_some_and(|waiter| waiter.number == number);
        let removed = if is_there { self.queue.remove(index) } else { None };
        let was_first = index == 0;
        Dequeued { was_first, goes_on: was_first && self.has_queue(), waker: removed.and_then(|waiter| waiter.waker) }
    }

    /// Grants the first of the queue its bytes, if they are available, or has it woken to reclaim. Nothing is granted while
    /// another request reclaims; the end of that serves the queue.
    pub(crate) fn serve(&mut self, readings: &Readings) -> Option<Served> {
        if self.pass.is_some() {
            return None;
        }
        let &Waiter { account, size, is_reclaiming, .. } = self.queue.front()?;
        if is_reclaiming {
            return None;
        }
        if self.decide(account, size, readings, Turn::New).is_ok() {
            let Waiter { number, waker, .. } = self.queue.pop_front()?;
            self.granted.push((number, account, size));
            return Some(Served::Granted(waker));
        }
        let first = self.queue.front_mut().filter(|first| first.is_stale && !first.is_woken)?;
        first.is_woken = true;
        Some(Served::First(first.waker.take()))
    }
}
