//! How many invocations run, and which of them get the full report: a few words, without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use crate::clock::{Stopwatch, nanos};

/// One invocation in flight.
const ONE: u64 = 1;
/// One overlap; below it are the invocations in flight.
const OVERLAP: u64 = 1 << 24;
const IN_FLIGHT: u64 = OVERLAP - 1;

/// Time that full reports may take before the share of the time is asked.
const BURST: Duration = Duration::from_millis(20);

/// What the process works on.
#[derive(Debug)]
pub(super) struct Activity {
    /// The number of overlaps and the number of invocations in flight, in one word: whoever sees an invocation end sees
    /// the overlaps that it has made.
    running: AtomicU64,
    started: AtomicU64,
    ended: AtomicU64,
    /// Invocations that have ended with counters only.
    counted: AtomicU64,
    /// Nanoseconds during which invocations ran, at most those of the wall clock.
    worked: AtomicU64,
    last_end: AtomicU64,
    /// From this moment on the next invocation gets a full report, in nanoseconds of `clock`.
    next_full: AtomicU64,
    /// Percent of the time that full reports may take.
    share: u8,
    clock: Stopwatch,
}

/// The start of an invocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Started {
    /// Its place among all that have started, from 1.
    pub(super) number: u64,
    /// Another was in flight.
    pub(super) is_shared: bool,
    overlaps: u64,
    at: u64,
}

/// The end of an invocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) duration: Duration,
    /// Another was in flight at some moment.
    pub(super) concurrent: bool,
    /// None is left in flight.
    pub(super) is_last: bool,
    /// Its place among all that have ended, from 1.
    pub(super) number: u64,
}

impl Activity {
    /// `share` of 100 and more: each invocation gets a full report.
    pub(super) fn new(share: u8) -> Self {
        Self {
            running: AtomicU64::new(0),
            started: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            worked: AtomicU64::new(0),
            last_end: AtomicU64::new(0),
            next_full: AtomicU64::new(0),
            share,
            clock: Stopwatch::start(),
        }
    }

    /// Nanoseconds since the monitor was built.
    fn now(&self) -> u64 {
        nanos(self.clock.elapsed())
    }

    /// Counts an invocation that starts now.
    pub(super) fn start(&self) -> Started {
        let before = self.running.fetch_add(ONE, SeqCst);
        let is_shared = before & IN_FLIGHT > 0;
        let overlaps = if is_shared { self.running.fetch_add(OVERLAP, SeqCst).wrapping_add(OVERLAP) } else { before };
        let number = self.started.fetch_add(1, Relaxed) + 1;
        Started { number, is_shared, overlaps: overlaps / OVERLAP, at: self.now() }
    }

    /// Returns `true` if an invocation that starts now gets a full report.
    #[cfg(feature = "tower")]
    pub(super) fn is_full(&self, started: &Started) -> bool {
        self.share >= 100 || (self.share > 0 && started.at >= self.next_full.load(Relaxed))
    }

    /// Counts the end of an invocation.
    pub(super) fn end(&self, started: &Started) -> Ended {
        let at = self.now();
        let before = self.running.fetch_sub(ONE, SeqCst);
        let is_last = before & IN_FLIGHT == 1;
        let concurrent = started.is_shared || !is_last || before / OVERLAP != started.overlaps;
        let took = at.saturating_sub(started.at);
        // What ran at the same time counts once.
        let since = at.saturating_sub(self.last_end.fetch_max(at, Relaxed));
        self.worked.fetch_add(took.min(since), Relaxed);
        let number = self.ended.fetch_add(1, Relaxed) + 1;
        Ended { duration: Duration::from_nanos(took), concurrent, is_last, number }
    }

    /// Counts an invocation that has ended without a full report.
    pub(super) fn count_only(&self) {
        self.counted.fetch_add(1, Relaxed);
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

    /// Returns how many have started.
    pub(super) fn started(&self) -> u64 {
        self.started.load(Relaxed)
    }

    /// Returns how many have ended.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Relaxed)
    }

    /// Returns how many have ended without a full report.
    pub(super) fn counted(&self) -> u64 {
        self.counted.load(Relaxed)
    }

    /// Returns how long invocations ran.
    pub(super) fn worked(&self) -> Duration {
        Duration::from_nanos(self.worked.load(Relaxed))
    }
}
