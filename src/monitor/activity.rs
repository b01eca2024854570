//! The number of invocations in flight, and the choice of those with a full report: a few words, without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use crate::clock::{Stopwatch, nanos};

/// The lowest bits of the word: invocations in flight, of which there are always fewer. Above them is the number of those that
/// have started.
const IN_FLIGHT: u64 = (1 << 24) - 1;
const STARTED: u64 = IN_FLIGHT + 1;

/// Time that full reports may take before the share of the time is asked.
const BURST: Duration = Duration::from_millis(20);

/// The time at which the clock of an [`Activity`] begins, so that there is a time before it.
const EPOCH: u64 = 1 << 48;

/// The invocations in flight. On cache lines of its own, because each request writes to it.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Activity {
    /// The number of invocations that have started, and of those in flight, in one word. So the end of an invocation
    /// notices each that has started since.
    running: AtomicU64,
    /// Invocations that have ended with a full report.
    reported: AtomicU64,
    /// Nanoseconds during which invocations ran, at most those of the wall clock.
    worked: AtomicU64,
    last_end: AtomicU64,
    /// The lowest live heap at any start or end since the last full report; `u64::MAX`: none was read.
    floor: AtomicU64,
    /// From this moment on the next invocation gets a full report, in nanoseconds of `clock`.
    next_full: AtomicU64,
    /// Percent of the time that full reports may take.
    share: u8,
    /// `true` if [`worked`](Self::worked) is needed.
    sums_time: bool,
    clock: Stopwatch,
}

/// The start of an invocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Started {
    /// Its place among all that have started, from 1. Wraps after 2^40.
    number: u64,
    /// Another was in flight.
    pub(super) is_shared: bool,
    at: u64,
}

/// The end of an invocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) duration: Duration,
    /// Another was in flight at some moment.
    pub(super) concurrent: bool,
    /// The number of those that are left in flight.
    pub(super) left: u64,
    /// Its place among all that have ended, from 1.
    pub(super) number: u64,
}

impl Activity {
    /// `share` of 100 and more: each invocation gets a full report. `sums_time`: [`worked`](Self::worked) is needed.
    pub(super) fn new(share: u8, sums_time: bool) -> Self {
        Self {
            running: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            worked: AtomicU64::new(0),
            last_end: AtomicU64::new(0),
            floor: AtomicU64::new(u64::MAX),
            next_full: AtomicU64::new(0),
            share,
            sums_time,
            clock: Stopwatch::start(),
        }
    }

    /// Nanoseconds since the monitor was built, from [`EPOCH`] on.
    fn now(&self) -> u64 {
        EPOCH + nanos(self.clock.elapsed())
    }

    /// Counts an invocation that starts now.
    pub(super) fn start(&self) -> Started {
        let before = self.running.fetch_add(STARTED + 1, SeqCst);
        Started { number: before / STARTED + 1, is_shared: before & IN_FLIGHT > 0, at: self.now() }
    }

    /// Returns `true` if an invocation that starts now gets a full report.
    #[cfg(feature = "tower")]
    pub(super) fn is_full(&self, started: &Started) -> bool {
        self.share >= 100 || (self.share > 0 && started.at >= self.next_full.load(Relaxed))
    }

    /// Counts the end of an invocation. `is_full`: it gets a report.
    pub(super) fn end(&self, started: &Started, is_full: bool) -> Ended {
        let at = self.now();
        if is_full {
            self.reported.fetch_add(1, SeqCst);
        }
        let before = self.running.fetch_sub(1, SeqCst);
        let left = (before & IN_FLIGHT) - 1;
        let concurrent = started.is_shared || left > 0 || before / STARTED != started.number;
        let took = at.saturating_sub(started.at);
        if self.sums_time {
            // Time of invocations side by side counts once.
            let since = at.saturating_sub(self.last_end.fetch_max(at, Relaxed));
            self.worked.fetch_add(took.min(since), Relaxed);
        }
        let number = (before / STARTED).saturating_sub(left);
        Ended { duration: Duration::from_nanos(took), concurrent, left, number }
    }

    /// Lets the next full report wait for as long as this one took, times the inverse of the share.
    pub(super) fn full_report_took(&self, took: Duration) {
        if self.share >= 100 || self.share == 0 {
            return;
        }
        let times = |duration: Duration| nanos(duration).saturating_mul(100) / u64::from(self.share);
        let earliest = self.now().saturating_sub(times(BURST));
        let pause = times(took);
        let next = |next: u64| Some(next.max(earliest).saturating_add(pause));
        let _always_some = self.next_full.fetch_update(Relaxed, Relaxed, next);
    }

    /// Returns `true` if no other has started since.
    pub(super) fn is_latest(&self, started: &Started) -> bool {
        self.running.load(SeqCst) / STARTED == started.number
    }

    /// Takes the live heap at a start or an end.
    pub(super) fn take_level(&self, live: u64) {
        // Most levels are no news, and a read costs less than a write.
        if live < self.floor.load(Relaxed) {
            self.floor.fetch_min(live, Relaxed);
        }
    }

    /// Returns the lowest live heap since the last call.
    pub(super) fn take_floor(&self) -> u64 {
        self.floor.swap(u64::MAX, Relaxed)
    }

    /// Returns the time since the monitor was built.
    pub(super) fn age(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Returns how many have ended.
    pub(super) fn ended(&self) -> u64 {
        let running = self.running.load(SeqCst);
        (running / STARTED).saturating_sub(running & IN_FLIGHT)
    }

    /// Returns how many have ended without a full report.
    pub(super) fn counted(&self) -> u64 {
        self.ended().saturating_sub(self.reported.load(SeqCst))
    }

    /// Returns how many are in flight.
    #[cfg(feature = "http")]
    pub(super) fn in_flight(&self) -> u64 {
        self.running.load(SeqCst) & IN_FLIGHT
    }

    /// Returns how long invocations ran.
    pub(super) fn worked(&self) -> Duration {
        Duration::from_nanos(self.worked.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invocation_is_concurrent_if_another_was_in_flight_at_some_moment() {
        let activity = Activity::new(100, true);
        let end = |started: &Started| {
            let Ended { concurrent, left, number, .. } = activity.end(started, true);
            (concurrent, left, number)
        };
        let first = activity.start();
        assert_eq!(end(&first), (false, 0, 1));
        // One within the other, and one after the other's start.
        let (outer, inner) = (activity.start(), activity.start());
        assert!(!outer.is_shared && inner.is_shared);
        assert_eq!(end(&inner), (true, 1, 2));
        assert_eq!(end(&outer), (true, 0, 3));
        let last = activity.start();
        assert!(activity.is_latest(&last) && !activity.is_latest(&outer));
        assert_eq!(end(&last), (false, 0, 4));
        assert_eq!((activity.ended(), activity.counted()), (4, 0));
        activity.end(&activity.start(), false);
        assert_eq!((activity.ended(), activity.counted()), (5, 1));
    }

    #[test]
    fn full_reports_keep_to_their_share() {
        let activity = Activity::new(1, false);
        let is_full = || {
            let started = activity.start();
            let is_full = started.at >= activity.next_full.load(Relaxed);
            activity.end(&started, is_full);
            is_full
        };
        assert!(is_full());
        // 19 ms are within the burst, 22 are not.
        activity.full_report_took(Duration::from_millis(19));
        assert!(is_full());
        activity.full_report_took(Duration::from_millis(3));
        assert!(!is_full());
    }
}
