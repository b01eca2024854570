//! When the floor of the heap reached which height: the history of a slow rise.
//!
//! ```text
//!   mark 40   ........................... at 3,100        capacity / 64 apart
//!   mark 39   ............ at 2,500
//!   mark 38   ..... at 1,900                              a fall takes marks away, a rise sets them again
//! ```
//!
//! A leak of whatever shape sets mark after mark: a little in each invocation, on every fiftieth, in jumps. What levels off
//! sets no more, and what goes up and down sets none above those of its first cycle.
#![expect(clippy::indexing_slicing, reason = "a mark is below MOST, and a step below STEPS")]

use super::trend::{self, bytes, real};

/// Marks up to the capacity.
const COUNT: usize = 64;

/// Marks that are kept.
const MOST: usize = COUNT + 16;

/// The newest steps, from which the pace is taken. Each sets one mark or more.
const STEPS: usize = 4;

/// A rise goes on until no step has come for this many times the longest gap between the newest steps.
const PATIENCE: u64 = 4;

/// The highest mark from which the floor fell is lowered by one after this number of lower floors.
const FORGETS: u32 = 64;

/// The marks that the floor has reached.
#[derive(Debug)]
pub(super) struct Marks {
    /// For each mark up to `top`: how many invocations had ended when the floor reached it.
    reached: [u64; MOST],
    /// The highest mark that the floor is at or above; `None` before the first floor.
    top: Option<usize>,
    /// The highest mark from which the floor fell.
    highest: Option<usize>,
    /// The units between two marks: more than one if there is no limit and the heap is large.
    scale: f64,
    /// The floors below `highest` since it was lowered.
    below: u32,
}

impl Marks {
    pub(super) const fn new() -> Self {
        Self { reached: [0; MOST], top: None, highest: None, scale: 1.0, below: 0 }
    }

    /// The distance of two marks, in bytes.
    pub(super) fn unit(capacity: u64) -> f64 {
        (bytes(capacity) / real(COUNT)).max(1.0)
    }

    /// Takes the floor after `ended` invocations.
    pub(super) fn take(&mut self, floor: f64, ended: u64, unit: f64) {
        while floor.is_finite() && floor >= unit * self.scale * real(MOST) {
            self.drop_every_second();
        }
        let mark = self.mark(floor, unit);
        let Some(top) = self.top else {
            // Memory that was there at first is no rise.
            self.reached[..=mark].fill(ended); // below MOST
            self.top = Some(mark);
            return;
        };
        if mark > top {
            self.reached[top + 1..=mark].fill(ended);
            self.top = Some(mark);
        } else if mark + 1 < top {
            // One mark lower may be noise.
            self.highest = self.highest.max(self.top);
            self.top = Some(mark);
        }
        // A high start must not hide each later leak.
        if self.highest > self.top {
            self.below += 1;
            if self.below.is_multiple_of(FORGETS) {
                self.highest = self.highest.and_then(|highest| highest.checked_sub(1));
            }
        } else {
            self.below = 0;
        }
    }

    /// Returns the pace of a rise that goes on, in bytes per invocation: of the newest four steps, if the gaps between them
    /// do not grow too fast.
    pub(super) fn rise(&self, ended: u64, unit: f64) -> Option<f64> {
        let top = self.top?;
        // When, and up to which mark.
        let mut steps = [(0, 0); STEPS];
        let mut found = 0;
        let mut mark = top;
        while found < STEPS {
            let at = self.reached[mark];
            if at == self.reached[0] {
                // The marks of the beginning.
                return None;
            }
            steps[found] = (at, mark);
            found += 1;
            while self.reached[mark] == at {
                // Ends at the marks of the beginning, if not before.
                mark -= 1;
            }
        }
        let [(last, _), (second, _), (third, _), (first, from)] = steps;
        let gaps = [last - second, second - third, third - first];
        let before = gaps[1].max(gaps[2]);
        let since = ended.saturating_sub(last);
        let goes_on = gaps[0] <= PATIENCE * before && since <= PATIENCE * before.max(gaps[0]);
        // If the next step is late, the pace is slower than that of the steps.
        let elapsed = (last - first).max((ended.saturating_sub(first)) * 3 / 4).max(1);
        goes_on.then(|| real(top - from) * self.scale * unit / bytes(elapsed))
    }

    /// Returns `true` if the floor is higher than before its last fall.
    pub(super) fn is_highest(&self) -> bool {
        self.top > self.highest
    }

    /// Returns `true` if a level is above all from which the floor fell.
    pub(super) fn is_above_highest(&self, level: f64, unit: f64) -> bool {
        self.highest.is_none_or(|highest| self.mark(level, unit) > highest)
    }

    /// The highest mark at or below a level.
    fn mark(&self, level: f64, unit: f64) -> usize {
        trend::count(level / (unit * self.scale)).min(MOST - 1)
    }

    /// Doubles the distance of the marks.
    fn drop_every_second(&mut self) {
        for mark in 0..MOST / 2 {
            self.reached[mark] = self.reached[2 * mark];
        }
        self.top = self.top.map(|top| top / 2);
        self.highest = self.highest.map(|highest| highest / 2);
        self.scale *= 2.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the pace after each of the floors, one for each invocation, at a unit of 1.
    fn paces(floors: impl IntoIterator<Item = f64>) -> (Marks, Vec<Option<f64>>) {
        let mut marks = Marks::new();
        let paces = (1..).zip(floors).map(|(ended, floor)| {
            marks.take(floor, ended, 1.0);
            marks.rise(ended, 1.0)
        });
        let paces = paces.collect();
        (marks, paces)
    }

    #[test]
    fn rise_of_a_line_is_its_slope_from_the_fourth_step_on() {
        let (marks, paces) = paces((0..400).map(|time| 3.0 + f64::from(time) / 10.0));
        assert_eq!(paces.iter().position(Option::is_some), Some(40));
        assert!(paces[40..].iter().flatten().all(|pace| (pace / 0.1 - 1.0).abs() < 0.2), "{paces:?}");
        assert!(paces[40..].iter().all(Option::is_some) && marks.is_highest());
    }

    #[test]
    fn rise_ends_when_steps_stay_away() {
        let (_, paces) = paces((0..500).map(|time| f64::from(time.min(200)) / 10.0));
        assert!(paces[200].is_some());
        assert_eq!(paces[200..].iter().position(Option::is_none), Some(41));
        assert!(paces[241..].iter().all(Option::is_none));
    }

    #[test]
    fn rise_of_jumps_needs_four_of_them() {
        let floors = (0..600).map(|time| f64::from(time / 100) * 7.0);
        let (_, paces) = paces(floors);
        assert_eq!(paces.iter().position(Option::is_some), Some(400));
        assert!(paces[400].is_some_and(|pace| (pace - 0.07).abs() < 0.001), "{:?}", paces[400]);
    }

    #[test]
    fn what_goes_up_and_down_is_highest_in_its_first_cycle_alone() {
        let saw = |time: usize| (time % 60).min(50);
        let mut marks = Marks::new();
        let mut highest = Vec::new();
        for time in 0..1000 {
            marks.take(real(saw(time)), time as u64, 1.0);
            highest.push(marks.is_highest());
        }
        assert!(highest[..60].iter().all(|highest| *highest) && !highest[61..].contains(&true));
        assert!(marks.is_above_highest(51.0, 1.0) && !marks.is_above_highest(50.9, 1.0));
    }

    #[test]
    fn what_was_high_at_the_start_is_forgotten() {
        let mut marks = Marks::new();
        (0..10).for_each(|time| marks.take(60.0, time, 1.0));
        (10..10 + 64 * 20).for_each(|time| marks.take(20.0, time, 1.0));
        assert!(!marks.is_highest() && marks.is_above_highest(41.0, 1.0) && !marks.is_above_highest(40.0, 1.0));
    }

    #[test]
    fn take_of_any_figure_is_no_trouble() {
        let mut marks = Marks::new();
        for (ended, floor) in
            [-1.0, f64::INFINITY, f64::NAN, 0.0, f64::NEG_INFINITY, 1e300, 3.0].into_iter().enumerate()
        {
            marks.take(floor, u64::MAX - 10 + ended as u64, 1.0);
            assert_eq!(marks.rise(u64::MAX, 1.0), None);
        }
    }
}
