//! Tables that double: the leak of a map or vector that only grows.
//!
//! Between two doublings such a table allocates nothing and no page of it is new, so its level is flat for half of its life.
//! But the times of the doublings have a pattern: the gap between them doubles, and so does the number of bytes that they
//! add.
//!
//! ```text
//!   level  |                          ,--------------------------------------------
//!          |              ,-----------'  by 2 J, after 2 g                           next: 4 J more for a moment
//!          |        ,-----'  by J, after g                                           (the old table is still there)
//!          +--------------------------------------------------------------------->  invocations
//! ```

use std::ops::RangeInclusive;

use super::ring::Ring;
use super::trend::bytes;

/// The ratios of two jumps of a table that doubles, in bytes: requests in flight blur them.
const DOUBLES: RangeInclusive<f64> = 1.3..=3.2;

/// The ratios of the gaps between its jumps, in invocations.
const TWICE_AS_LONG: RangeInclusive<f64> = 1.6..=2.6;

/// A jump is halfway to the next if it came so late, and the gap is as long as the time before it.
const EARLY: u64 = 16;
const HALFWAY: RangeInclusive<f64> = 0.85..=1.15;

/// The ratio of two jumps in bytes, if there are only two.
const ABOUT_TWICE: RangeInclusive<f64> = 1.6..=2.5;

/// A doubling adds the bytes that the table had before. So the level before it is at least this part of the jump.
const HAD: f64 = 0.7;

/// The next doubling is reported if fewer invocations than this are left up to it, or an eighth of the way.
const SOON: f64 = 32.0;

/// The most levels within which a jump comes.
const MOST: usize = 8;

/// A rise within few levels.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Jump {
    ended: u64,
    /// The number of levels so far.
    taken: usize,
    from: f64,
    by: f64,
    /// The most invocations in flight at about that time.
    in_flight: f64,
}

/// The next doubling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Next {
    /// Invocations up to it.
    pub(super) left: f64,
    /// The bytes that are needed until it is over, above what is there.
    pub(super) needs: f64,
    /// The bytes that an invocation adds, on average.
    pub(super) per_invocation: f64,
}

/// The newest jumps of the level.
#[derive(Debug)]
pub(super) struct Doubling {
    /// A jump is over within this number of levels, at most [`MOST`]: 1 for plain levels, more for minima of several.
    within: usize,
    /// The newest first.
    jumps: [Option<Jump>; 8],
    /// The level of the last report.
    last: f64,
    /// Of two levels the lower one.
    stable: Ring<MOST>,
    /// The lowest level of all.
    base: f64,
}

impl Doubling {
    pub(super) const fn new(within: usize) -> Self {
        Self { within, jumps: [None; 8], last: f64::INFINITY, stable: Ring::EMPTY, base: f64::INFINITY }
    }

    /// Takes a level. A smaller rise than half of `unit` is no jump.
    pub(super) fn take(&mut self, level: f64, ended: u64, in_flight: f64, unit: f64) {
        // Memory that is gone at the next report was of a request in flight.
        let stable = level.min(self.last);
        self.last = level;
        self.base = self.base.min(level);
        let from = self.stable.newest().take(self.within).fold(f64::INFINITY, f64::min);
        let before = self.stable.newest().next().unwrap_or(f64::INFINITY);
        self.stable.push(stable);
        let taken = self.stable.count;
        let newest = self.jumps[0].map_or(0.0, |newest| newest.by);
        // Next to a doubling a small rise is noise.
        if stable - before >= (unit / 2.0).max(newest / 3.0) {
            match &mut self.jumps[0] {
                Some(newest) if taken - newest.taken <= 2 * self.within => newest.by = stable - newest.from,
                _ => {
                    self.jumps.rotate_right(1);
                    self.jumps[0] = Some(Jump { ended, taken, from, by: stable - from, in_flight });
                }
            }
        }
        // A table does not shrink.
        while self.jumps[0].is_some_and(|newest| stable < newest.from + newest.by / 2.0) {
            self.jumps[0] = None;
            self.jumps.rotate_left(1);
        }
    }

    /// Returns the next doubling, if the newest jump and two before it show one, and it is due soon and not long overdue. One
    /// before it is sufficient if it came halfway from the start: the first jumps are small next to the memory of requests.
    ///
    /// `level` is the level of the newest report.
    pub(super) fn next(&self, ended: u64, level: f64) -> Option<Next> {
        let newest = self.jumps[0]?;
        if level > self.stable.back(0) + newest.by / 2.0 {
            // Perhaps it has just come, and is a jump with the next level.
            return None;
        }
        if newest.from - self.base < HAD * newest.by {
            return None;
        }
        // Others may lie between them, of requests in flight.
        let second = self.half_of(&newest, |_| true).find(|second| {
            let gap = bytes(newest.ended - second.ended);
            let is_halfway = second.ended >= EARLY
                && HALFWAY.contains(&(gap / bytes(second.ended)))
                && ABOUT_TWICE.contains(&(newest.by / second.by));
            is_halfway
                || self.half_of(second, |gap_before| TWICE_AS_LONG.contains(&(gap / gap_before))).next().is_some()
        })?;
        let gap = bytes(newest.ended - second.ended);
        let since = bytes(ended.saturating_sub(newest.ended));
        let left = 2.0 * gap - since;
        let is_soon = left <= SOON.max(gap / 4.0) && left >= -gap;
        // One that is overdue may come with the next invocation.
        let (left, table) = (left.max(1.0), 4.0 * newest.by);
        // The items may have memory of their own. Early after a jump its growth is not known.
        let beside = (self.last - newest.from - newest.by).max(0.0) / since.max(8.0);
        is_soon.then(|| Next {
            left,
            needs: table + (beside * left).min(table),
            per_invocation: newest.by / gap + beside,
        })
    }

    /// The jumps before `jump` that are half of it, and as many invocations before it as `is_gap` accepts.
    fn half_of(&self, jump: &Jump, is_gap: impl Fn(f64) -> bool) -> impl Iterator<Item = Jump> {
        let &Jump { ended, by, in_flight, .. } = jump;
        let before = self.jumps.into_iter().flatten().filter(move |before| before.ended < ended);
        // With twice the requests in flight, the level doubles without a table.
        let before =
            before.filter(move |before| in_flight < 1.5 * before.in_flight || in_flight < before.in_flight + 4.0);
        before.filter(move |before| DOUBLES.contains(&(by / before.by)) && is_gap(bytes(ended - before.ended)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The invocations after which a doubling is reported, and the reports.
    fn foretold(levels: impl IntoIterator<Item = f64>) -> Vec<(u64, Next)> {
        let mut doubling = Doubling::new(1);
        let nexts = (1..).zip(levels).map(|(ended, level)| {
            doubling.take(level, ended, 1.0, 1.0);
            (ended, doubling.next(ended, level))
        });
        nexts.filter_map(|(ended, next)| Some((ended, next?))).collect()
    }

    /// The bytes of a hash table with `each` entries of 1/16 for each invocation.
    fn table(time: u32, each: u32) -> f64 {
        f64::from((time * each).max(1).next_power_of_two()) / 16.0
    }

    #[test]
    fn next_of_a_table_is_its_next_doubling() {
        let seen = foretold((1..=4000).map(|time| table(time, 1)));
        let last = seen.last().unwrap().1;
        assert_eq!(last, Next { left: 98.0, needs: 512.0, per_invocation: 0.125 });
        let (ended, first) = *seen.iter().find(|(_, next)| next.needs > 500.0).unwrap();
        // It grew after 2,048, which is seen one later.
        assert_eq!((ended, first.left), (3842, 256.0));
    }

    #[test]
    fn next_at_the_doubling_itself_is_nothing() {
        let seen = foretold((1..=4100).map(|time| table(time, 1)));
        // The level of 2,049 has doubled, and is a jump after 2,050.
        assert!(
            seen.iter().any(|(ended, _)| *ended == 2048) && seen.iter().all(|(ended, _)| *ended != 2049),
            "{seen:?}"
        );
    }

    #[test]
    fn next_of_a_fast_table_is_foretold_at_once() {
        let seen = foretold((1..=60).map(|time| table(time, 100)));
        let at: Vec<u64> = seen.iter().map(|(ended, _)| *ended).collect();
        assert!(at.contains(&23) && seen.iter().all(|(_, next)| next.left <= 44.0), "{seen:?}");
    }

    #[test]
    fn next_of_lines_steps_saws_and_noise_is_nothing() {
        assert_eq!(foretold((0..1000).map(|time| f64::from(time) * 2.0)), []);
        assert_eq!(foretold((0..1000).map(|time| f64::from(time / 100) * 20.0)), []);
        assert_eq!(foretold((0..1000).map(|time| f64::from(time % 100))), []);
        assert_eq!(foretold((0..1000).map(|time| f64::from(time * 7919 % 50))), []);
    }

    #[test]
    fn next_of_a_table_that_is_long_overdue_is_nothing() {
        let seen = foretold((1..=3000).map(|time| table(time.min(600), 1)));
        assert!(seen.iter().all(|(ended, _)| *ended <= 1300), "{seen:?}");
    }
}
