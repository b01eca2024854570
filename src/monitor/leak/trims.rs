//! Experience of earlier trims: the bytes that they have left and released.

use crate::os;

use super::beyond::{Allocator, Figures};

/// The share of what was free that a trim must release, in percent, so that the next one is promised.
const HELPS_PERCENT: u64 = 80;

/// Less than this, in bytes, is no experience.
const LEAST: u64 = 4 << 20;

/// Experience of the trims of all callers of [`os::trim`], in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::monitor) struct Trims {
    pub(super) calls: usize,
    pub(super) released: usize,
    /// Anonymous rss less the live heap after the last trim, or less by now.
    pub(super) left: u64,
    /// `true` if the last trim with free pages to release has released most of them. `None` before such a trim.
    pub(super) helps: Option<bool>,
    /// The part of `left` that came up to the last trim since the one before, and that blocks of the heap have had.
    pub(super) kept: u64,
    /// The most that the allocator can have had from the kernel after the last trim.
    pub(super) held: u64,
    /// The live heap after the last trim.
    pub(super) live: u64,
    /// The highest live heap since the last trim, and the highest that was certainly after it.
    pub(super) highest: u64,
    pub(super) highest_since: u64,
    /// The lowest anonymous rss less the live heap since `highest_since` has risen: pages of that peak that are still there.
    pub(super) lowest: u64,
    /// The most threads that a reading has found.
    pub(super) threads: u64,
}

/// The end of an invocation, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::monitor) struct End {
    pub(in crate::monitor) anonymous: u64,
    pub(in crate::monitor) live: u64,
    /// The peak of the live heap, of all invocations in flight.
    pub(in crate::monitor) peak: u64,
    /// `true` if another invocation was in flight. Then the peak may be older than this invocation.
    pub(in crate::monitor) concurrent: bool,
    /// The last trim was a part of this end, so that the figures are those which it has left.
    pub(in crate::monitor) is_trimmed: bool,
}

impl Trims {
    /// Returns the experience of a process that has made no trim yet.
    pub(in crate::monitor) fn new() -> Self {
        let (calls, released) = (os::trims(), os::trimmed());
        Self { calls, released, ..Self::default() }
    }

    /// Records the end of an invocation, and the number of threads as of the last reading.
    pub(in crate::monitor) fn record(&mut self, end: &End, figures: &Figures) {
        let (calls, released) = (os::trims(), os::trimmed());
        let by_last = u64::try_from(released.saturating_sub(self.released)).unwrap_or(u64::MAX);
        self.released = released;
        self.threads = self.threads.max(figures.threads);
        if figures.allocator == Allocator::Other {
            // Without a hook a trim is glibc's, which does not reach this allocator.
            self.calls = calls;
        }
        self.update((calls, by_last), end);
    }

    /// The same, after trims up to the given number, which have released the given bytes.
    fn update(&mut self, (calls, released): (usize, u64), end: &End) {
        let &End { anonymous, live, peak, concurrent, is_trimmed } = end;
        let beyond = anonymous.saturating_sub(live);
        self.highest = self.highest.max(peak).max(live);
        let highest_since = self.highest_since.max(if concurrent { live } else { peak.max(live) });
        self.lowest = if highest_since > self.highest_since { beyond } else { self.lowest.min(beyond) };
        self.highest_since = highest_since;
        if self.held == 0 {
            // The first invocation: all that is resident may be the allocator's, from before the monitor.
            (self.held, self.live) = (anonymous.max(1), live);
        }
        if calls == self.calls || !is_trimmed {
            if calls != self.calls {
                // A trim of the user, or of a request without a report. Its own figures are not known, but these are a bound.
                self.calls = calls;
                (self.held, self.live, self.highest) = (anonymous.min(self.bound()), live, live);
            }
            self.left = self.left.min(beyond);
            self.kept = self.kept.min(beyond);
            return;
        }
        let hope = beyond.saturating_add(released).saturating_sub(self.left);
        if hope >= LEAST {
            self.helps = Some(released >= hope / 100 * HELPS_PERCENT);
            self.kept = beyond.saturating_sub(self.left).min(self.fall(live));
        }
        self.calls = calls;
        self.left = beyond;
        (self.held, self.live) = (anonymous.min(self.bound()), live);
        (self.highest, self.highest_since) = (live, live);
    }

    /// Returns the bytes by which the heap has fallen from its highest since the last trim.
    pub(super) const fn fall(&self, live: u64) -> u64 {
        let fall = self.highest_since.saturating_sub(live);
        if fall < self.lowest { fall } else { self.lowest }
    }

    /// Returns the most that the allocator can have from the kernel now.
    ///
    /// That is all that it can have had after the last trim, and as much as the heap has risen since. Each thread may have pages
    /// of its own, so the rise counts once for each thread. A quarter of the heap is added for rounding and fragments.
    pub(super) fn bound(&self) -> u64 {
        let rise = self.highest.saturating_sub(self.live).saturating_mul(self.threads.max(1));
        self.held.saturating_add(rise).saturating_add(rise / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The experience after invocations `(trims, released, anonymous, live, peak)`, in MiB.
    fn after(threads: u64, ends: &[(usize, u64, u64, u64, u64)]) -> Trims {
        let mut trims = Trims { threads, ..Trims::default() };
        for &(calls, released, anonymous, live, peak) in ends {
            let [anonymous, live, peak] = [anonymous, live, peak].map(|mib| mib * MIB);
            trims.update((calls, released * MIB), &End { anonymous, live, peak, concurrent: false, is_trimmed: true });
        }
        trims
    }

    #[test]
    fn update_after_a_trim_keeps_what_it_left_until_that_is_gone() {
        assert_eq!(after(1, &[(0, 0, 80, 10, 80)]).left, 0);
        assert_eq!(after(1, &[(1, 60, 20, 10, 80)]).left, 10 * MIB);
        assert_eq!(after(1, &[(1, 60, 20, 10, 80), (1, 0, 90, 10, 80)]).left, 10 * MIB);
        assert_eq!(after(1, &[(1, 60, 20, 10, 80), (1, 0, 14, 10, 80), (1, 0, 90, 10, 80)]).left, 4 * MIB);
    }

    #[test]
    fn update_learns_from_trims_that_had_something_to_release() {
        assert_eq!(after(1, &[(1, 0, 2, 1, 1)]).helps, None);
        assert_eq!(after(1, &[(1, 60, 20, 10, 80)]).helps, Some(true));
        assert_eq!(after(1, &[(1, 30, 50, 10, 80)]).helps, Some(false));
        // The rest of an earlier trim does not count against the next.
        assert_eq!(after(1, &[(1, 30, 50, 10, 80), (2, 20, 50, 10, 80)]).helps, Some(true));
        assert_eq!(after(1, &[(1, 30, 50, 10, 80), (2, 1, 50, 10, 80)]).helps, Some(false), "no news");
    }

    #[test]
    fn kept_is_what_blocks_of_the_heap_have_had() {
        let (start, freed, mapped) = ((0, 0, 4, 1, 1), (1, 10, 54, 1, 64), (1, 0, 64, 1, 1));
        assert_eq!(after(1, &[start, freed]).kept, 53 * MIB);
        assert_eq!(after(1, &[start, (1, 0, 64, 1, 1)]).kept, 0, "mapped memory is none of the allocator's");
        assert_eq!(after(1, &[start, freed, mapped]).kept, 53 * MIB);
    }

    #[test]
    fn fall_of_concurrent_invocations_does_not_count_older_peaks() {
        let mut trims = after(1, &[(1, 60, 5, 1, 64)]);
        let end = End { anonymous: 70 * MIB, live: MIB, peak: 64 * MIB, concurrent: true, is_trimmed: false };
        trims.update((1, 0), &end);
        assert_eq!(trims.fall(MIB), 0);
        trims.update((1, 0), &End { concurrent: false, ..end });
        assert_eq!(trims.fall(MIB), 63 * MIB);
    }

    #[test]
    fn bound_follows_the_heap_and_falls_with_a_trim() {
        let start = (0, 0, 4, 1, 1);
        assert_eq!(after(1, &[start]).bound(), 4 * MIB);
        assert_eq!(after(1, &[start, (0, 0, 70, 1, 61)]).bound(), (4 + 75) * MIB);
        assert_eq!(after(2, &[start, (0, 0, 70, 1, 61)]).bound(), (4 + 150) * MIB);
        assert_eq!(after(2, &[start, (1, 66, 5, 1, 61), (1, 0, 70, 1, 1)]).bound(), 5 * MIB);
        assert_eq!(
            after(2, &[start, (1, 0, 70, 1, 1)]).bound(),
            4 * MIB,
            "a trim does not make mappings the allocator's"
        );
    }

    #[test]
    fn update_after_a_trim_of_the_user_judges_nothing() {
        let mut trims = Trims { threads: 4, ..Trims::default() };
        let end = |anonymous: u64| End {
            anonymous: anonymous * MIB,
            live: MIB,
            peak: 61 * MIB,
            concurrent: false,
            is_trimmed: false,
        };
        trims.update((0, 0), &end(4));
        // It has released 60, and as many pages are in use again.
        trims.update((1, 60 * MIB), &end(62));
        assert_eq!((trims.helps, trims.kept, trims.calls), (None, 0, 1));
        assert!(trims.left <= 3 * MIB, "{}", trims.left);
    }

    #[test]
    fn fall_forgets_pages_that_the_allocator_has_released() {
        let mut trims = Trims { threads: 1, ..Trims::default() };
        let mut end = |anonymous: u64, live: u64, peak: u64| {
            let [anonymous, live, peak] = [anonymous, live, peak].map(|mib| mib * MIB);
            trims.update((0, 0), &End { anonymous, live, peak, concurrent: false, is_trimmed: false });
            trims.fall(live) / MIB
        };
        assert_eq!(end(5, 1, 1), 0);
        assert_eq!(end(205, 1, 200), 199);
        assert_eq!(end(9, 1, 1), 8, "most are gone");
        assert_eq!(end(73, 1, 1), 8, "and what is mapped later is no such page");
    }
}
