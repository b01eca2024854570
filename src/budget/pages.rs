//! Pages against a limit that the kernel enforces: looked at when much is reserved, given back when they are in the way.
//!
//! What a reclaimer frees is released to the budget at once, but the allocator keeps its pages, in pieces and in arenas
//! where a large block may not fit: then the process grows by what is reserved though the reserved bytes do not. So a
//! large reservation has to fit beside the anonymous pages there are and are still to come ([`Outlook`]).
//! If it does not, the allocator gives free pages back; if that is not enough, others do.
//!
//! An allocator that never gave anything back when asked may keep pages of any size free, which nobody can see from
//! here. With such a one nothing is refused for its pages.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::os;
use crate::sync::Mutex;

use super::outlook::{Claim, Outlook, Seen};

/// Reservations from this part of the limit on are large.
const LARGE: u64 = 32;
/// A trim that gave back less did nothing.
const SOMETHING: u64 = 64 << 10;
/// After one that gave back less than is large, none is worth it for so many milliseconds; one takes about ten.
const REST: u64 = 100;

pub(super) struct Pages {
    /// What the anonymous pages should not pass; `u64::MAX` where the limit is not the kernel's.
    most: u64,
    /// The smallest reservation that is large; a power of two.
    large: u64,
    /// Whether there were more when last looked at.
    over: AtomicBool,
    /// Whether so many are free beside too many that a trim is due, outside of all locks.
    crowded: AtomicBool,
    /// The kernel's tick when that was looked at.
    looked: AtomicU64,
    /// Whether a trim ever gave something back.
    helps: AtomicBool,
    /// What the last trim left beside the live heap, or less by now: a trim is of no use for that.
    useless: AtomicU64,
    /// Until when none is worth it, by the kernel's ticks.
    resting: AtomicU64,
    trimming: Mutex<()>,
    outlook: Mutex<Outlook>,
}

impl Pages {
    /// Watches over a limit that was found in the environment; one that was given says nothing about the process.
    pub(super) fn new(limit: u64, found: bool) -> Self {
        let (most, large) = if found { (limit, (limit / LARGE).max(1)) } else { (u64::MAX, 1 << 63) };
        Self {
            most,
            large: large.next_power_of_two(),
            over: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            looked: AtomicU64::new(0),
            helps: AtomicBool::new(false),
            useless: AtomicU64::new(0),
            resting: AtomicU64::new(0),
            trimming: Mutex::new(()),
            outlook: Mutex::new(Outlook::default()),
        }
    }

    #[inline]
    pub(super) fn is_large(&self, n: u64) -> bool {
        n >= self.large
    }

    /// Whether the reservation of `n` that led to `used` passed a mark: they stand at the multiples of what is large.
    #[inline]
    pub(super) fn is_due(&self, used: u64, n: u64) -> bool {
        (used ^ (used - n)) >= self.large
    }

    /// Counts a large reservation of `n` bytes if it fits where so many bytes of heap are live, else tells by how much
    /// it does not. `None` where the pages are not known.
    pub(super) fn claim(&self, n: u64, live: u64) -> Result<Option<Claim>, u64> {
        let Some(seen) = seen() else { return Ok(None) };
        let mut outlook = self.outlook.lock();
        match outlook.over(n, live, self.most, seen) {
            0 => Ok(Some(outlook.take(n, live, seen))),
            over => Err(over),
        }
    }

    /// Counts it though it does not fit.
    pub(super) fn claim_anyway(&self, n: u64, live: u64) -> Option<Claim> {
        seen().map(|seen| self.outlook.lock().take(n, live, seen))
    }

    /// It was refused after all.
    pub(super) fn give_up(&self, claim: Claim) {
        self.outlook.lock().give_up(claim);
    }

    /// What was counted was released.
    pub(super) fn leave(&self, n: u64) {
        let pages = anonymous().unwrap_or(0);
        self.outlook.lock().leave(n, pages);
    }

    /// How much `n` bytes are too many by, where so many bytes of heap are live.
    pub(super) fn missing(&self, n: u64, live: u64) -> u64 {
        seen().map_or(0, |seen| self.outlook.lock().over(n, live, self.most, seen))
    }

    /// Notes whether there are too many, which needs a look only where the rss, of which they are a part, is above.
    pub(super) fn note(&self, rss: u64) {
        self.over.store(rss > self.most && anonymous().is_some_and(|pages| pages > self.most), Relaxed);
    }

    /// Looks whether small reservations have taken new pages where others lie free; once in a tick at most.
    pub(super) fn look(&self, live: u64) {
        let now = os::coarse_monotonic_ms();
        if self.looked.swap(now, Relaxed) != now {
            self.crowded.store(self.are_trimmable(live), Relaxed);
        }
    }

    /// Whether there will be too many, and a trim is worth its time.
    pub(super) fn are_trimmable(&self, live: u64) -> bool {
        self.soon().is_some_and(|soon| soon > self.most && self.are_worth_a_trim(soon, live))
    }

    /// Whether a trim was found to be due.
    #[inline]
    pub(super) fn are_crowded(&self) -> bool {
        self.crowded.load(Relaxed)
    }

    /// Whether there were too many when last looked at, and a trim is worth its time where so many bytes are live.
    pub(super) fn are_in_the_way(&self, live: impl FnOnce() -> u64) -> bool {
        self.over.load(Relaxed) && self.soon().is_some_and(|soon| self.are_worth_a_trim(soon, live()))
    }

    /// Whether pages have become free since the last trim, if there will `soon` be so many. Their number alone does not
    /// tell: when a value goes whose pages stay, or comes into free ones, it is as it was.
    fn are_worth_a_trim(&self, soon: u64, live: u64) -> bool {
        let beside = soon.saturating_sub(live);
        let useless = self.useless.fetch_min(beside, Relaxed).min(beside);
        beside - useless >= self.large && !self.are_resting()
    }

    /// Whether a trim was of little use just now.
    pub(super) fn are_resting(&self) -> bool {
        os::coarse_monotonic_ms() < self.resting.load(Relaxed)
    }

    /// How many there will be: what is live counts before it is touched.
    fn soon(&self) -> Option<u64> {
        seen().map(|seen| self.outlook.lock().soon(seen))
    }

    /// Has the allocator give back free pages; tells whether it did anything. Unless `always`, only if it is worth it.
    pub(super) fn trim(&self, live: u64, always: bool) -> bool {
        self.crowded.store(false, Relaxed);
        // One at a time: the others would find nothing, and a hook that reserves would not come to an end.
        let Some(_alone) = self.trimming.try_lock() else { return false };
        let worth = || self.soon().is_some_and(|soon| self.are_worth_a_trim(soon, live));
        let Some(before) = anonymous().filter(|_| always || worth()) else { return false };
        if os::trim().is_err() {
            return false;
        }
        let after = Seen { pages: anonymous().unwrap_or(before), now: os::coarse_monotonic_ms() };
        let mut outlook = self.outlook.lock();
        outlook.trimmed(before, after);
        self.useless.store(outlook.soon(after).saturating_sub(live), Relaxed);
        drop(outlook);
        self.over.store(after.pages > self.most, Relaxed);
        if after.pages.saturating_add(self.large) > before {
            self.resting.store(after.now.saturating_add(REST), Relaxed);
        }
        let helped = after.pages.saturating_add(SOMETHING) <= before;
        if helped {
            self.helps.store(true, Relaxed);
        }
        helped
    }

    /// Whether what remains after a trim is known to be of no use for large blocks.
    pub(super) fn are_trimmed(&self) -> bool {
        self.helps.load(Relaxed)
    }
}

/// The resident set size in bytes.
pub(super) fn rss() -> Option<u64> {
    os::rss().ok().map(|rss| rss.total.as_u64())
}

/// The anonymous pages now.
fn seen() -> Option<Seen> {
    Some(Seen { pages: anonymous()?, now: os::coarse_monotonic_ms() })
}

/// Those that no file backs: the kernel cannot drop them.
fn anonymous() -> Option<u64> {
    os::rss().ok().map(|rss| rss.anonymous.as_u64())
}
