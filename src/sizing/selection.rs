//! The choice among measured sizes: aws-lambda-power-tuning's statistics and selection, and two rules beside it.
//!
//! Statistics and selection are those of that tool at its commit 262ecc2 (2026-04), to the last bit where it matters:
//! a tie goes to the size that comes first.

use std::fmt;
use std::str::FromStr;

use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;

/// By what a size is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Strategy {
    /// The lowest cost; of equal costs, the shortest duration.
    #[default]
    Cost,
    /// The shortest duration; of equal durations, the lowest cost.
    Speed,
    /// The least `w x cost / highest cost + (1 - w) x duration / longest duration`, with the weight `w` clamped to 0
    /// to 1. A weight that is no number counts as 0.5.
    Balanced(f64),
}

impl Strategy {
    fn weight(weight: f64) -> f64 {
        if weight.is_nan() { 0.5 } else { weight.clamp(0.0, 1.0) }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cost => f.pad("cost"),
            Self::Speed => f.pad("speed"),
            Self::Balanced(weight) => f.pad(&format!("balanced:{}", Self::weight(*weight))),
        }
    }
}

/// Tells that a text is none of `cost`, `speed`, `balanced` and `balanced:WEIGHT` with a weight from 0 to 1.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::{ParseStrategyError, Strategy};
///
/// let wrong: Result<Strategy, ParseStrategyError> = "cheapest".parse();
/// println!("{}", wrong.unwrap_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a strategy is `cost`, `speed`, `balanced` or `balanced:WEIGHT` with a weight from 0 (speed) to 1 (cost)")]
#[non_exhaustive]
pub struct ParseStrategyError;

debug_as_chain!(ParseStrategyError);

impl FromStr for Strategy {
    type Err = ParseStrategyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("balanced:")) {
            ("cost", _) => Ok(Self::Cost),
            ("speed", _) => Ok(Self::Speed),
            ("balanced", _) => Ok(Self::Balanced(0.5)),
            (_, Some(weight)) => match weight.parse::<f64>() {
                Ok(weight) if (0.0..=1.0).contains(&weight) => Ok(Self::Balanced(weight)),
                _ => Err(ParseStrategyError),
            },
            _ => Err(ParseStrategyError),
        }
    }
}

/// A memory size with what was measured there.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a point in a plane, made by hand where the figures come from elsewhere")]
pub struct Point {
    /// The memory size.
    pub memory_size: ByteSize,
    /// Dollars an invocation, without the request.
    pub cost: f64,
    /// Milliseconds an invocation.
    pub duration: f64,
}

impl Point {
    fn is_measured(&self) -> bool {
        self.duration > 0.0 && self.duration.is_finite() && self.cost.is_finite()
    }
}

/// Chooses among points by a strategy, as aws-lambda-power-tuning does. Of equals, the first. One pass.
///
/// A point counts as not measured if its duration is zero or less, or if either figure is infinite or not a number.
/// `None` if that leaves none.
///
/// ```
/// # use plimsoll::{ByteSize, sizing::{Point, Strategy, select}};
/// let point = |mb, cost, duration| Point { memory_size: ByteSize::mib(mb), cost, duration };
/// let points = [point(128, 5.208e-6, 2500.0), point(256, 5.417e-6, 1300.0), point(512, 10.667e-6, 1280.0)];
/// let chosen = |strategy| select(&points, strategy).map(|point| point.memory_size);
/// assert_eq!(chosen(Strategy::Cost), Some(ByteSize::mib(128)));
/// assert_eq!(chosen(Strategy::Speed), Some(ByteSize::mib(512)));
/// assert_eq!(chosen(Strategy::Balanced(0.5)), Some(ByteSize::mib(256)));
/// ```
pub fn select(points: &[Point], strategy: Strategy) -> Option<&Point> {
    let measured = || points.iter().filter(|point| point.is_measured());
    let highest = |of: fn(&Point) -> f64| measured().map(of).fold(0.0, f64::max);
    let (cost, duration) = (highest(|point| point.cost), highest(|point| point.duration));
    // Where nothing costs anything, 0 / 0 is no number and less than none: the first stays.
    let key = |point: &Point| match strategy {
        Strategy::Cost => (point.cost, point.duration),
        Strategy::Speed => (point.duration, point.cost),
        Strategy::Balanced(weight) => {
            let weight = Strategy::weight(weight);
            (weight * point.cost / cost + (1.0 - weight) * point.duration / duration, 0.0)
        }
    };
    measured().reduce(|best, point| if key(point) < key(best) { point } else { best })
}

/// The mean of the middle of `values`, as aws-lambda-power-tuning takes it: sorted, and without the share `discard` of
/// them, rounded down to whole values, at either end. `discard` is clamped to 0 to 0.4. `None` for no values.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::trimmed_mean;
///
/// assert_eq!(trimmed_mean(&mut [1.0, 10.0, 11.0, 12.0, 100.0], 0.2), Some(11.0));
/// assert_eq!(trimmed_mean(&mut [], 0.2), None);
/// ```
pub fn trimmed_mean(values: &mut [f64], discard: f64) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let discard = if discard.is_nan() { 0.0 } else { discard.clamp(0.0, 0.4) };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "rounds a share of a count down"
    )]
    let cut = (values.len() as f64 * discard) as usize;
    let middle = values.get(cut..values.len() - cut).filter(|middle| !middle.is_empty())?;
    #[expect(clippy::cast_precision_loss, reason = "a count of values in memory")]
    Some(middle.iter().fold(0.0, |sum, value| sum + value) / middle.len() as f64)
}

/// The smallest size that no larger one beats by more than `gain_percent` of its duration: from there on "duration no
/// longer decreases". Points must rise in memory size; those not measured are left out, as by [`select`]. `None` if
/// that leaves none.
///
/// The gain is taken over the whole rest of the curve, not step by step: neither a noisy step nor many small ones
/// mislead it. 0 takes the words literally.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, sizing::{Point, plateau}};
///
/// let point = |mb, duration| Point { memory_size: ByteSize::mib(mb), cost: 1e-6, duration };
/// let points = [point(128, 2500.0), point(256, 1300.0), point(512, 1280.0)];
/// assert_eq!(plateau(&points, 5).map(|point| point.memory_size), Some(ByteSize::mib(256)));
/// ```
pub fn plateau(points: &[Point], gain_percent: u32) -> Option<&Point> {
    let kept = 1.0 - f64::from(gain_percent.min(100)) / 100.0;
    let mut least = f64::INFINITY;
    let mut found = None;
    for point in points.iter().rev().filter(|point| point.is_measured()) {
        if point.duration * kept <= least {
            found = Some(point);
        }
        least = least.min(point.duration);
    }
    found
}

/// What one size gives over another, by the value equation: duration improvement over cost increase, both relative.
///
/// The quotient has no value where the cost does not rise, and misleads where the duration does not fall: each case
/// has its name here.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Neither slower nor dearer, and better in one: nothing is traded.
    Better,
    /// The same in both.
    Same,
    /// Neither faster nor cheaper, and worse in one.
    Worse,
    /// Faster and dearer: improvement / increase. Above 1, it gives more than it takes.
    Gain(f64),
    /// Slower and cheaper: saving / slowdown. Above 1, it gives more than it takes.
    Saving(f64),
}

impl Value {
    /// What `to` gives over `from`.
    ///
    /// ```
    /// # use plimsoll::{ByteSize, sizing::{Point, Value}};
    /// let point = |mb, cost, duration| Point { memory_size: ByteSize::mib(mb), cost, duration };
    /// // Half the time at twice the memory costs the same: the equation divides by zero.
    /// assert_eq!(Value::of(&point(128, 6.25e-6, 3000.0), &point(256, 6.25e-6, 1500.0)), Value::Better);
    /// ```
    pub fn of(from: &Point, to: &Point) -> Self {
        let improvement = (from.duration - to.duration) / from.duration;
        let increase = (to.cost - from.cost) / from.cost;
        match (to.duration.total_cmp(&from.duration), to.cost.total_cmp(&from.cost)) {
            (std::cmp::Ordering::Equal, std::cmp::Ordering::Equal) => Self::Same,
            (std::cmp::Ordering::Less, std::cmp::Ordering::Greater) => Self::Gain(improvement / increase),
            (std::cmp::Ordering::Greater, std::cmp::Ordering::Less) => Self::Saving(increase / improvement),
            (duration, cost) if duration.is_le() && cost.is_le() => Self::Better,
            _ => Self::Worse,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Better => f.pad("better"),
            Self::Same => f.pad("same"),
            Self::Worse => f.pad("worse"),
            Self::Gain(ratio) => f.pad(&format!("gain {ratio:.2}")),
            Self::Saving(ratio) => f.pad(&format!("saves {ratio:.2}")),
        }
    }
}
