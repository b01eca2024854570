//! Tells a leak from what only looks like one: a cache that warms up, an allocator that keeps its pages.
//!
//! What counts is the live heap that an invocation leaves behind and that nobody on the [board](crate::board) accounts
//! for. It is looked at over several windows of 64 places: the last 64 invocations one by one, and blocks of 4, 16, 64,
//! 256 and 1,024 of them, so that a leak of a few bytes is seen as surely as a large one, only later. One of the windows
//! must [rise](trend::rise), to a level that was not there before. They differ in haste:
//!
//! - *Blocks* wait until they are nearly full, 240 invocations the smallest: what fills up within 200 has stopped by
//!   then, and shows that it has.
//! - *Single invocations* are asked only where the line leads to the kill within 40 more; there is no time to wait.

use crate::os;
use crate::size::ByteSize;

use super::retention::Retention;
use super::trend::{self, Bar, MOST, real};
use super::verdict::LeakVerdict;

/// What one invocation left behind, in bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::monitor) struct Left {
    pub(in crate::monitor) live: u64,
    /// The part of it that holders on the board account for; it may exceed it.
    pub(in crate::monitor) explained: u64,
    pub(in crate::monitor) rss: Option<os::Rss>,
    /// What the process may have.
    /// `None` if no memory limit is known.
    pub(in crate::monitor) capacity: Option<u64>,
    /// Whether no other was in flight meanwhile.
    pub(in crate::monitor) alone: bool,
}

/// Invocations in a block of the smallest window, and blocks of each window in one of the next.
const BLOCK: usize = 4;

/// Windows of blocks: the last looks back on 65,536 invocations.
const WINDOWS: usize = 5;

/// Places that must be filled before a window of blocks tells anything.
const ENOUGH: usize = 60;

/// Invocations before there is any verdict; the least that the hasty look takes.
const FIRST: usize = 16;

/// Invocations up to the kill at which there is no time to wait.
const HASTE: f64 = 40.0;

/// What must have come together within a window: less is not worth waking anyone, and a longer window sees it.
const WORTH: f64 = 160.0 * 1024.0;

const BAR: Bar = Bar { signs: 5.0, slope: 7.0, deficit: 2.0 };

/// Sixteen levels that all rise have 5.4 standard deviations of signs.
const HASTY: Bar = Bar { signs: 4.0, ..BAR };

/// What keeps a verdict that stands: lower, so that it does not flicker.
const KEPT: Bar = Bar { signs: 3.5, slope: 4.5, deficit: 3.0 };

/// Signs of a rise while it is too early for more.
const WARM: f64 = 3.5;

/// The newest levels, in a ring.
#[derive(Clone, Copy, Debug)]
struct Ring {
    levels: [f64; MOST],
    len: usize,
    next: usize,
}

impl Ring {
    const EMPTY: Self = Self { levels: [0.0; MOST], len: 0, next: 0 };

    fn push(&mut self, level: f64) {
        if let Some(place) = self.levels.get_mut(self.next) {
            *place = level;
        }
        self.next = (self.next + 1) % MOST;
        self.len = (self.len + 1).min(MOST);
    }

    /// The level so many places before the newest.
    fn back(&self, places: usize) -> f64 {
        self.levels.get((2 * MOST + self.next - 1 - places.min(MOST)) % MOST).copied().unwrap_or(0.0)
    }

    /// The newest levels, the oldest of them first: `most` of them, or as many as there are.
    fn newest<'a>(&self, most: usize, into: &'a mut [f64; MOST]) -> &'a [f64] {
        let len = self.len.min(most);
        let in_order = self.levels.iter().cycle().skip(MOST + self.next - len).take(len);
        into.iter_mut().zip(in_order).for_each(|(place, level)| *place = *level);
        into.get(..len).unwrap_or_default()
    }
}

/// Blocks of one length.
#[derive(Clone, Copy, Debug)]
struct Window {
    blocks: Ring,
    sum: f64,
    summed: usize,
    /// The slope per invocation, where the last look found a rise.
    growing: Option<f64>,
}

/// Watches what invocations leave behind. Set aside once, 4 KiB; a rise takes 17 KiB of stack for a moment.
#[derive(Debug)]
pub(in crate::monitor) struct LeakWatch {
    /// Live heap that nobody accounts for.
    recent: Ring,
    /// The same, but no more than is resident: a vector that doubles is live at once, and touched little by little.
    touched: Ring,
    windows: [Window; WINDOWS],
    /// Invocations, and those of them that were alone.
    invocations: u64,
    alone: u64,
    /// Invocations since the last that was alone.
    crowded: u64,
    /// The slope per invocation, where the last invocation was in haste.
    hasty: Option<f64>,
    warming: bool,
}

impl LeakWatch {
    pub(in crate::monitor) fn new() -> Self {
        let window = Window { blocks: Ring::EMPTY, sum: 0.0, summed: 0, growing: None };
        Self {
            recent: Ring::EMPTY,
            touched: Ring::EMPTY,
            windows: [window; WINDOWS],
            invocations: 0,
            alone: 0,
            crowded: 0,
            hasty: None,
            warming: false,
        }
    }

    /// Takes in what an invocation left, and tells the verdict. No allocation; on average some 2,000
    /// instructions, and 14,000 while it grows, which are 4 microseconds.
    pub(in crate::monitor) fn watch(&mut self, left: &Left, retention: &Retention) -> LeakVerdict {
        self.invocations += 1;
        if left.alone {
            self.take(left);
        } else {
            self.crowded += 1;
        }
        match self.growth(left) {
            steady @ (LeakVerdict::Steady | LeakVerdict::Rising { .. }) => retention.found(left).unwrap_or(steady),
            other => other,
        }
    }

    fn take(&mut self, left: &Left) {
        self.alone += 1;
        self.crowded = 0;
        let level = bytes(left.live) - bytes(left.explained);
        let resident = left.rss.map_or(left.live, |rss| rss.anonymous.as_u64().min(left.live));
        self.recent.push(level);
        self.touched.push(bytes(resident) - bytes(left.explained));
        self.look_at_blocks(level);
        self.look_in_haste(room(left));
    }

    /// Closes the blocks that are full, and looks at their windows.
    fn look_at_blocks(&mut self, level: f64) {
        let (mut level, mut length) = (level, 1.0);
        let (mut levels, mut is_shortest) = ([0.0; MOST], true);
        let mut windows = &mut self.windows[..];
        while let Some((window, longer)) = windows.split_first_mut() {
            window.sum += level;
            window.summed += 1;
            if window.summed < BLOCK {
                return;
            }
            level = window.sum / real(BLOCK);
            length *= real(BLOCK);
            (window.sum, window.summed) = (0.0, 0);
            window.blocks.push(level);
            let levels = window.blocks.newest(MOST, &mut levels);
            let is_early = levels.len() < ENOUGH;
            if is_shortest {
                self.warming = is_early && levels.len() >= FIRST / BLOCK && trend::signs(levels) >= early(levels.len());
            }
            let was = window.growing.is_some();
            // What grows is looked at less often, as a look that finds a rise is dear; longer windows are rare enough.
            let is_spared = was && is_shortest && !window.blocks.next.is_multiple_of(BLOCK);
            if !is_early && !is_spared {
                let (bar, worth) = if was { (&KEPT, WORTH / 2.0) } else { (&BAR, WORTH) };
                let slope = trend::rise(levels, bar);
                let slope = slope.filter(|slope| slope * real(levels.len()) >= worth);
                let slope = slope.filter(|_| was || is_new(levels, MOST, longer));
                window.growing = slope.map(|slope| slope / length);
            }
            (windows, is_shortest) = (longer, false);
        }
    }

    /// Looks at single invocations, the last 16 or 64, where they lead to the end of the room soon.
    fn look_in_haste(&mut self, room: f64) {
        let bar = if self.hasty.take().is_some() { &KEPT } else { &HASTY };
        let mut levels = [0.0; MOST];
        for (most, of_pages) in [(FIRST, false), (FIRST, true), (MOST, false), (MOST, true)] {
            let ring = if of_pages { &self.touched } else { &self.recent };
            let places = ring.len.min(most);
            let climbed = ring.back(0) - ring.back(places.saturating_sub(1));
            // At twice the pace that is asked for, as the two ends alone are noisy; most invocations end here.
            if places < FIRST || climbed <= 0.0 || climbed * 2.0 * HASTE < room * real(places - 1) {
                continue;
            }
            let levels = ring.newest(most, &mut levels);
            let slope = trend::rise(levels, bar);
            // The blocks are of live levels, and know of no others.
            let is_new = || of_pages || is_new(levels, most, &self.windows);
            self.hasty = slope.filter(|slope| slope * HASTE >= room && is_new());
            if self.hasty.is_some() {
                return;
            }
        }
    }

    /// What the heap does, whatever the rss.
    fn growth(&self, left: &Left) -> LeakVerdict {
        if self.alone < FIRST as u64 || self.crowded >= MOST as u64 {
            return LeakVerdict::Unknown;
        }
        // Of those that rise the shortest, which is nearest to what happens now.
        let slope = self.hasty.or_else(|| self.windows.iter().find_map(|window| window.growing));
        let Some(slope) = slope else {
            return if self.warming {
                LeakVerdict::Rising { per_invocation: ByteSize::ZERO, invocations_left: None }
            } else {
                LeakVerdict::Steady
            };
        };
        // The levels are those of the invocations that were alone; the others leave as much.
        let share = share(self.alone, self.invocations);
        let per_invocation = whole(slope * share).max(1);
        let invocations_left = left.capacity.map(|_| whole(room(left)) / per_invocation);
        LeakVerdict::Growing { per_invocation: ByteSize::bytes(per_invocation), invocations_left }
    }
}

/// Whether what a window rose to is higher than before it: a level that was there for long, and did no harm, is no leak.
///
/// `longer` are the windows from the next on; of the two next those blocks count that are older than this window's
/// `most` places. One in sixteen may lie higher, as outliers do.
fn is_new(levels: &[f64], most: usize, longer: &[Window]) -> bool {
    let reached = trend::middle_mean(levels.get(levels.len() - levels.len() / 4..).unwrap_or_default());
    let (mut older, mut higher, mut covered) = (0, 0, most);
    for window in longer.iter().take(2) {
        covered = covered.div_ceil(BLOCK);
        let mut blocks = [0.0; MOST];
        let blocks = window.blocks.newest(MOST, &mut blocks);
        let blocks = blocks.get(..blocks.len().saturating_sub(covered)).unwrap_or_default();
        older += blocks.len();
        higher += blocks.iter().filter(|level| **level > reached).count();
    }
    higher * 16 <= older
}

/// Signs that tell a rise of few levels: a little less than all that they can have.
fn early(count: usize) -> f64 {
    let all = real(count * (count - 1) / 2);
    let deviation = (real(count * (count - 1) * (2 * count + 5)) / 18.0).sqrt();
    (0.8 * all / deviation).min(WARM)
}

/// What is left up to the kill, which is by the rss: what is live and was never touched is not there.
fn room(left: &Left) -> f64 {
    let taken = left.rss.map_or(left.live, |rss| rss.total.as_u64());
    bytes(left.capacity.unwrap_or(u64::MAX).saturating_sub(taken))
}

#[expect(clippy::cast_precision_loss, reason = "sizes below 8 PiB")]
const fn bytes(count: u64) -> f64 {
    count as f64
}

fn share(part: u64, whole: u64) -> f64 {
    bytes(part) / bytes(whole.max(1))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
const fn whole(figure: f64) -> u64 {
    figure as u64
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
