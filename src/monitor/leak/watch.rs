//! The watch: levels of the heap go in at each report, and a verdict comes out. A single-threaded core, which takes
//! time and bytes as arguments.
//!
//! The *level* is the live heap that no gauge and no account explains, as far as its pages are resident. Requests in
//! flight hold memory that they will free, so the lowest level of a *window* counts: of all starts and ends since the
//! window before. A window ends with the invocation if that was alone, and else after an eighth as many ends as
//! were in flight, or after a second.
//!
//! ```text
//!   capacity  ......................................     Growing, if one of these holds:
//!                                             /          1. the floor is above 70 % of the capacity, higher than before,
//!   70 %      - - - - - - - - - - - - - - -  /  - -         and has risen in four steps or more: see `marks`
//!                               ,-----------'            2. every invocation adds, and fewer than 28 more fit: see
//!                         ,----'                            `trend`
//!   Rising          ,----'                               3. the floor doubles as a hash table does, and the next
//!              ,---'                                        doubling does not fit: see `doubling`
//! ```
//!
//! A cache that fills stops below 70 % of the capacity, unless the memory size is chosen too small for it. So a
//! slow rise is called a leak only above that: at the pace of a slow leak there is time. A fast one cannot wait.
#![expect(clippy::indexing_slicing, reason = "of slices by their length")]

use std::time::Duration;

use crate::os;
use crate::size::ByteSize;

use super::doubling::Doubling;
use super::marks::Marks;
use super::retention::Retention;
use super::ring::Ring;
use super::trend::{self, Bar, MOST, bytes, real};
use super::verdict::LeakVerdict;

/// The figures at the end of an invocation, in bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::monitor) struct Left {
    /// The live heap.
    pub(in crate::monitor) live: u64,
    /// The lowest live heap at any start or end since the report before, this end included.
    pub(in crate::monitor) floor: u64,
    /// The part of it that gauges and accounts explain. It may exceed it.
    pub(in crate::monitor) explained: u64,
    pub(in crate::monitor) rss: Option<os::Rss>,
    /// The highest rss during the invocation. Equal to the rss if that is not known of this invocation alone.
    pub(in crate::monitor) peak_rss: u64,
    /// `None` if no memory limit is known.
    pub(in crate::monitor) capacity: Option<u64>,
    /// Invocations that have ended, this one included.
    pub(in crate::monitor) ended: u64,
    /// Invocations in flight before this end. 1: it was alone.
    pub(in crate::monitor) in_flight: u64,
    /// The time since the monitor was built.
    pub(in crate::monitor) at: Duration,
}

#[cfg(test)]
impl Left {
    /// Returns the figures of a first invocation without a limit.
    pub(super) const fn for_test(live: u64) -> Self {
        let at = Duration::ZERO;
        Self { live, floor: live, explained: 0, rss: None, peak_rss: 0, capacity: None, ended: 1, in_flight: 1, at }
    }
}

/// The share of the capacity above which a slow rise is a leak, in percent.
const HIGH: u64 = 70;

/// The same for a verdict that stands.
const HIGH_KEPT: u64 = 60;

/// The same for what the kernel counts, if each invocation reaches it: memory beyond the heap, and peaks.
const PEAK_HIGH: u64 = 85;

/// Reports without a sign of a leak after which a verdict that stands is dropped.
const CALM: u32 = 16;

/// Less memory than this is not a capacity, but a share of the environment that leaves nothing.
const LEAST_CAPACITY: u64 = 1 << 20;

/// A fast rise is a leak if fewer invocations than this fit: 20 to act, and some to find out.
const HASTE: f64 = 28.0;

/// The same for a verdict that stands.
const HASTE_KEPT: f64 = 64.0;

/// Reports before there is a verdict, and the fewest levels of a fast rise.
const FIRST: usize = 16;

/// Windows of which the lowest level is the floor.
const WINDOWS: usize = 8;

/// The longest window while invocations end.
const LONGEST: Duration = Duration::from_secs(1);

/// An execution environment of Lambda is ended "every few hours" (AWS Lambda developer guide, "Understanding the
/// Lambda execution environment lifecycle"). What does not reach the capacity in this time is no alert.
const LIFE: Duration = Duration::from_hours(12);

/// The bar for a fast rise. Sixteen levels that all rise have 5.4 standard deviations of signs.
const HASTY: Bar = Bar { signs: 4.7, slope: 7.0, deficit: 2.0 };

/// The bar for a verdict that stands: lower, so that it does not flicker.
const HASTY_KEPT: Bar = Bar { signs: 3.5, slope: 4.5, deficit: 3.0 };

/// A window that is not over.
#[derive(Clone, Copy, Debug)]
struct Window {
    level: f64,
    total: f64,
    /// The lowest of the peaks: what every invocation reaches.
    peak: f64,
    began: u64,
    began_at: Duration,
    most_in_flight: u64,
}

impl Window {
    const fn new(began: u64, began_at: Duration) -> Self {
        Self { level: f64::INFINITY, total: f64::INFINITY, peak: f64::INFINITY, began, began_at, most_in_flight: 1 }
    }
}

/// A rise: its pace, and how many invocations fit until it reaches the capacity.
#[derive(Clone, Copy, Debug)]
struct Rise {
    per_invocation: f64,
    left: f64,
}

/// Watches what invocations leave behind. About 4 KiB, and no allocation.
#[derive(Debug)]
pub(in crate::monitor) struct LeakWatch {
    /// Ends on Lambda: see [`LIFE`].
    life: Option<Duration>,
    /// The levels of the last reports, and the invocations that had ended.
    levels: Ring<MOST>,
    ends: Ring<MOST>,
    /// The resident live heap, and the invocations in flight.
    residents: Ring<MOST>,
    in_flight: Ring<MOST>,
    /// The highest number of invocations that had ended.
    ended: u64,
    window: Window,
    /// Of the windows that are over: levels, resident live heap, peaks.
    floors: Ring<WINDOWS>,
    totals: Ring<WINDOWS>,
    peaks: Ring<WINDOWS>,
    marks: Marks,
    /// Of the levels: tables that double within a few invocations.
    doubling: Doubling,
    /// Of the floor: tables next to requests with much memory.
    slow_doubling: Doubling,
    is_growing: bool,
    /// Pace and level at the last sign of a leak, and the reports since.
    last_pace: Option<f64>,
    leak_level: f64,
    calm: u32,
    is_rise: bool,
}

impl LeakWatch {
    /// `on_lambda`: the environment has a limited life.
    pub(in crate::monitor) fn new(on_lambda: bool) -> Self {
        Self {
            life: on_lambda.then_some(LIFE),
            levels: Ring::EMPTY,
            ends: Ring::EMPTY,
            residents: Ring::EMPTY,
            in_flight: Ring::EMPTY,
            ended: 0,
            window: Window::new(0, Duration::ZERO),
            floors: Ring::EMPTY,
            totals: Ring::EMPTY,
            peaks: Ring::EMPTY,
            marks: Marks::new(),
            doubling: Doubling::new(1),
            slow_doubling: Doubling::new(WINDOWS),
            is_growing: false,
            last_pace: None,
            leak_level: 0.0,
            calm: 0,
            is_rise: false,
        }
    }

    /// Takes the figures at the end of an invocation, and returns the verdict. No allocation.
    pub(in crate::monitor) fn watch(&mut self, left: &Left, retention: &Retention) -> LeakVerdict {
        let verdict = self.verdict_on_heap(left);
        self.is_rise = verdict.is_rise();
        match verdict {
            other @ (LeakVerdict::Steady | LeakVerdict::Rising { .. }) => retention.found(left).unwrap_or(other),
            growing_or_unknown => growing_or_unknown,
        }
    }

    /// Returns `true` if the heap rises, although the verdict may be on memory beyond it.
    pub(in crate::monitor) const fn is_rise(&self) -> bool {
        self.is_rise
    }

    /// Forgets all figures.
    pub(in crate::monitor) fn forget(&mut self) {
        *self = Self::new(self.life.is_some());
    }

    /// The verdict on the heap, whatever lies beyond it.
    fn verdict_on_heap(&mut self, left: &Left) -> LeakVerdict {
        // Two that end at the same time may come in either order.
        self.ended = self.ended.max(left.ended);
        let capacity = left.capacity.filter(|capacity| *capacity >= LEAST_CAPACITY);
        let left = &Left { ended: self.ended, capacity, ..*left };
        self.take(left);
        if self.levels.count < FIRST {
            return LeakVerdict::Unknown;
        }
        let slow = self.marks.rise(left.ended, unit(left)).map(|pace| self.rise(pace, left));
        let Some(capacity) = left.capacity else { return rising(slow, None) };
        let percent = |percent: u64| bytes(capacity) * bytes(percent) / 100.0;
        let high = if self.is_growing { HIGH_KEPT } else { HIGH };
        // The kernel can drop pages of files.
        let of_files = left.rss.map_or(0, |rss| rss.total.saturating_sub(rss.anonymous).as_u64());
        let is_high =
            self.totals.lowest() > percent(high) || self.peaks.lowest() - bytes(of_files) > percent(PEAK_HIGH);
        let leak = (self.fast_rise(left))
            .or_else(|| slow.filter(|_| is_high && self.marks.is_highest()))
            .or_else(|| self.next_doubling(left));
        let leak = leak.filter(|leak| self.is_within_life(leak.left, left));
        let leak = match leak {
            Some(leak) => {
                (self.calm, self.leak_level, self.last_pace) = (0, self.levels.back(0), Some(leak.per_invocation));
                Some(leak)
            }
            None => self.kept_leak(left),
        };
        self.is_growing = leak.is_some();
        match leak {
            Some(Rise { per_invocation, left }) => LeakVerdict::Growing {
                per_invocation: ByteSize::bytes(whole(per_invocation).max(1)),
                invocations_left: Some(whole(left)),
            },
            None => rising(slow, Some(capacity)),
        }
    }

    /// The leak of a report before, for some reports and unless the level has fallen.
    fn kept_leak(&mut self, left: &Left) -> Option<Rise> {
        let level = self.levels.back(0);
        self.calm = self.calm.saturating_add(1);
        let is_kept = self.calm < CALM && level > self.leak_level - unit(left);
        self.last_pace.filter(|_| is_kept).map(|pace| self.rise(pace, left))
    }

    /// Adds the figures to the window, and closes it if it is over.
    fn take(&mut self, left: &Left) {
        let resident = |live: u64| left.rss.map_or(live, |rss| rss.anonymous.as_u64().min(live));
        let total = bytes(resident(left.floor));
        // Reserved bytes that are not allocated yet explain nothing.
        let level = (total - bytes(left.explained)).max(0.0);
        self.levels.push(level);
        self.ends.push(bytes(left.ended));
        self.residents.push(total);
        self.in_flight.push(bytes(left.in_flight));
        // The most of the last reports, as the number at one end is chance.
        let in_flight = self.in_flight.newest().take(WINDOWS).fold(0.0, f64::max);
        self.doubling.take(level, left.ended, in_flight, unit(left));
        let window = &mut self.window;
        window.level = window.level.min(level);
        window.total = window.total.min(total);
        window.peak = window.peak.min(bytes(left.peak_rss));
        window.most_in_flight = window.most_in_flight.max(left.in_flight);
        let ends = left.ended.saturating_sub(window.began);
        if ends < window.most_in_flight.div_ceil(8) && left.at.saturating_sub(window.began_at) < LONGEST {
            return;
        }
        self.floors.push(window.level);
        self.totals.push(window.total);
        self.peaks.push(window.peak);
        *window = Window::new(left.ended, left.at);
        if self.floors.len() == WINDOWS {
            let floor = self.floors.lowest();
            self.marks.take(floor, left.ended, unit(left));
            self.slow_doubling.take(floor, left.ended, in_flight, unit(left));
        }
    }

    fn rise(&self, per_invocation: f64, left: &Left) -> Rise {
        Rise { per_invocation, left: self.room(left) / per_invocation }
    }

    /// The bytes that fit until the peak of an invocation reaches the capacity. The kernel counts pages, so what is live
    /// and was never touched does not count.
    fn room(&self, left: &Left) -> f64 {
        let rss = left.rss.map_or(left.live, |rss| rss.total.as_u64());
        // The peak that each of the last windows has reached, above what the rss has risen to since.
        let peak = if self.peaks.len() == WINDOWS { self.peaks.lowest() } else { 0.0 };
        (bytes(left.capacity.unwrap_or(u64::MAX)) - bytes(rss).max(peak)).max(0.0)
    }

    /// A rise in which nearly all of the last 16 or 64 invocations take part, and that leaves few more.
    fn fast_rise(&self, left: &Left) -> Option<Rise> {
        let (bar, haste) = if self.is_growing { (&HASTY_KEPT, HASTE_KEPT) } else { (&HASTY, HASTE) };
        let room = self.room(left);
        for most in [FIRST, MOST] {
            let count = self.levels.len().min(most);
            let newest = self.levels.back(0);
            let climbed = newest - self.levels.back(count - 1);
            let invocations = (bytes(left.ended) - self.ends.back(count - 1)).max(1.0);
            // At twice the pace, because the two ends are noisy. Most invocations end here.
            if climbed <= 0.0 || climbed * 2.0 * haste < room * invocations {
                continue;
            }
            // Memory of more requests in flight goes with them, and memory that a reservation explained is not new.
            let more_in_flight = self.in_flight.back(0) - self.in_flight.back(count - 1);
            let risen = self.residents.back(0) - self.residents.back(count - 1);
            if more_in_flight * 3.0 >= real(count) || risen * 2.0 < climbed {
                continue;
            }
            let mut levels = [0.0; MOST];
            let levels = &mut levels[..count]; // at most MOST
            levels.iter_mut().rev().zip(self.levels.newest()).for_each(|(place, level)| *place = level);
            let slope = trend::rise(levels, bar);
            let rise = slope.map(|slope| self.rise(slope * real(count - 1) / invocations, left));
            let rise = rise.filter(|rise| rise.left <= haste && self.marks.is_above_highest(newest, unit(left)));
            if rise.is_some() {
                return rise;
            }
        }
        None
    }

    /// A table that doubles, if its next doubling does not fit.
    fn next_doubling(&self, left: &Left) -> Option<Rise> {
        let level = self.levels.back(0);
        let of_levels = self.doubling.next(left.ended, level);
        let next = of_levels.or_else(|| self.slow_doubling.next(left.ended, level))?;
        // So that a verdict does not flicker with what requests in flight hold.
        let slack = if self.is_growing { unit(left) * 4.0 } else { 0.0 };
        (next.needs + slack > self.room(left)).then_some(Rise { per_invocation: next.per_invocation, left: next.left })
    }

    /// Returns `true` if the environment is likely to see the invocation that reaches the capacity.
    fn is_within_life(&self, invocations: f64, left: &Left) -> bool {
        self.life.is_none_or(|life| {
            let each = left.at.as_secs_f64() / bytes(left.ended.max(1));
            invocations * each <= life.as_secs_f64()
        })
    }
}

/// The distance of two marks. Without a limit they lie as in the smallest function.
fn unit(left: &Left) -> f64 {
    Marks::unit(left.capacity.unwrap_or(128 << 20))
}

/// The verdict on a rise that is no leak.
fn rising(rise: Option<Rise>, capacity: Option<u64>) -> LeakVerdict {
    rise.map_or(LeakVerdict::Steady, |Rise { per_invocation, left }| LeakVerdict::Rising {
        per_invocation: ByteSize::bytes(whole(per_invocation).max(1)),
        invocations_left: capacity.map(|_| whole(left)),
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
const fn whole(figure: f64) -> u64 {
    figure as u64
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
