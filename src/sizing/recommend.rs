//! The recommendation: what fits, what of that is best, and how far the evidence carries.

use std::ops::RangeInclusive;

use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;

use super::advice::{Candidate, Caveat, Fit, Recommendation, Untried, mb};
use super::pricing::{GbSeconds, Pricing};
use super::profile::{Profile, SizeProfile};
use super::selection::{Point, Strategy, Value, plateau, select};

/// The memory sizes of Lambda, in MB, in steps of 1.
const SMALLEST_MB: u64 = 128;
const LARGEST_MB: u64 = 10_240;

/// aws-lambda-power-tuning's `discardTopBottom`.
const DISCARD: f64 = 0.2;

/// Runs below which a size's figures carry a caveat.
const ENOUGH_RUNS: u64 = 20;

/// One timeout in so many runs is an accident of the world; more are the size's own.
const TIMEOUTS_OF: u64 = 100;

/// How a memory size is recommended.
///
/// In this order:
///
/// 1. **What fits.** The highest memory used, plus headroom, must fit into the size. A size at which a run ran out of
///    memory, certainly or by suspicion, is excluded and counts as memory used, and so all smaller ones are excluded
///    with it; so is one where more than 1 run in 100 timed out. Runs that failed or timed out give no durations.
/// 2. **What is best of that**, by a [`Strategy`], exactly as aws-lambda-power-tuning selects.
/// 3. **Where to stop.** A larger size than the one from which on "duration no longer decreases"
///    ([`plateau`]) is not recommended.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::sizing::{Architecture, Entry, Pricing, Profile, Sizing, read_log};
///
/// let log: &[u8] = b"\
/// REPORT RequestId: 1\tDuration: 2500.00 ms\tBilled Duration: 2500 ms\tMemory Size: 128 MB\tMax Memory Used: 110 MB
/// REPORT RequestId: 2\tDuration: 1300.00 ms\tBilled Duration: 1300 ms\tMemory Size: 256 MB\tMax Memory Used: 110 MB
/// REPORT RequestId: 3\tDuration: 1280.00 ms\tBilled Duration: 1280 ms\tMemory Size: 512 MB\tMax Memory Used: 110 MB";
/// let mut profile = Profile::new();
/// read_log(log, |entry| if let Entry::Report(report) = entry { profile.add(&report) })?;
///
/// let advice = Sizing::new(Pricing::us_east_1(Architecture::X86)).recommend(&profile)?;
/// assert_eq!(advice.memory_size, ByteSize::mib(256));
/// assert_eq!(
///     advice.to_string(),
///     "256 MB by cost: 1300.0 ms, $0.000005417 an invocation\n\
///      peak 110 MB (p99 110, p95 110) of 3 reports: with 20-30 % headroom 132-143 MB\n\
///      128 MB is under the 20 % rule: 132-143 MB\n\
///      ? 256 MB: 1 run, too few to trust; 20 are enough\n\
///      ? 512 MB: 1 run, too few to trust; 20 are enough\n\
///      ? not measured: 132 MB, between 2424.2 and 2500.0 ms, $0.000005210 to $0.000005371"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Sizing {
    pricing: Pricing,
    strategy: Strategy,
    /// Percent on top of the peak.
    headroom: RangeInclusive<u32>,
    /// Percent of the duration that a larger size must save.
    min_gain: u32,
}

/// Tells why there is no recommendation.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::{Architecture, Pricing, Profile, Sizing, SizingError};
///
/// let nothing = Sizing::new(Pricing::us_east_1(Architecture::X86)).recommend(&Profile::new());
/// assert!(matches!(nothing, Err(SizingError::NoMemory)));
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SizingError {
    /// No report tells both a memory size and the memory used.
    #[error("no report tells both its memory size and the memory used")]
    NoMemory,
    /// The headroom's beginning lies above its end.
    #[error("a headroom of {low} to {high} % is empty")]
    #[non_exhaustive]
    EmptyHeadroom {
        /// Its beginning.
        low: u32,
        /// Its end.
        high: u32,
    },
    /// Not even the largest function has so much memory.
    #[error("{} MB are needed with headroom, and a function has {LARGEST_MB} MB at most", mb(*needed))]
    #[non_exhaustive]
    TooLarge {
        /// What is needed.
        needed: ByteSize,
    },
}

debug_as_chain!(SizingError);

impl Sizing {
    /// Recommends by cost at these prices, with 20 to 30 % headroom.
    pub const fn new(pricing: Pricing) -> Self {
        Self { pricing, strategy: Strategy::Cost, headroom: 20..=30, min_gain: 10 }
    }

    /// Sets by what a size is chosen. Default: [`Strategy::Cost`].
    pub const fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Sets the headroom, in percent of the highest memory used: what is least demanded, and what is plenty. Default:
    /// 20 to 30. 0 demands none.
    pub const fn headroom(mut self, percent: RangeInclusive<u32>) -> Self {
        self.headroom = percent;
        self
    }

    /// Sets by how many percent a larger size must shorten the duration to be recommended. Default: 10. 0 takes every
    /// gain, and leaves the strategy alone but for sizes that are slower; 100 and more take the smallest measured size that
    /// fits.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::sizing::{Architecture, Pricing, Sizing};
    ///
    /// // A larger size must be at least 10 % faster to be worth it.
    /// let _sizing = Sizing::new(Pricing::us_east_1(Architecture::X86)).min_gain(10);
    /// ```
    pub const fn min_gain(mut self, percent: u32) -> Self {
        self.min_gain = percent;
        self
    }

    /// Recommends a memory size. Sorts the durations kept: some milliseconds at most.
    ///
    /// # Errors
    ///
    /// [`SizingError`] where no report tells its memory, where no function is large enough, and for an empty headroom.
    pub fn recommend(&self, profile: &Profile) -> Result<Recommendation, SizingError> {
        let (low, high) = (*self.headroom.start(), *self.headroom.end());
        if low > high {
            return Err(SizingError::EmptyHeadroom { low, high });
        }
        let used = |percent| profile.used(percent).ok_or(SizingError::NoMemory);
        let peak = used(100)?;
        // A run that was killed shows less than it asked for: the size it failed at is the least it needs.
        let failed = |size: &&SizeProfile| size.out_of_memory() + size.suspected() > 0;
        let ran_out = profile.sizes().rev().find(failed).map(SizeProfile::memory_size);
        let least = ran_out.unwrap_or_default();
        let need = |percent| with_headroom(peak.max(least), percent).max(least.saturating_add(ByteSize::mib(1)));
        let needed = (need(low), need(high));
        if needed.0 > ByteSize::mib(LARGEST_MB) {
            return Err(SizingError::TooLarge { needed: needed.0 });
        }

        let candidates = self.candidates(profile, needed.0);
        let fitting: Vec<Point> =
            candidates.iter().filter(|candidate| candidate.fit == Fit::Fits).filter_map(|fits| fits.point).collect();
        let selected = select(&fitting, self.strategy).map(|point| point.memory_size);
        let plateau = plateau(&fitting, self.min_gain).map(|point| point.memory_size);
        let measured = selected.zip(plateau).map(|(selected, plateau)| selected.min(plateau));
        let choice = measured.and_then(|size| fitting.iter().find(|point| point.memory_size == size));
        let untried = self.untried(&candidates, needed, choice);
        Ok(Recommendation {
            memory_size: measured.unwrap_or(needed.0),
            extrapolated: measured.is_none(),
            strategy: self.strategy,
            selected,
            plateau,
            peak,
            p99: used(99)?,
            p95: used(95)?,
            needed,
            headroom: self.headroom.clone(),
            reports: profile.sizes().map(SizeProfile::reports).sum(),
            caveats: caveats(profile, &candidates, peak, ran_out),
            candidates,
            untried,
        })
    }

    fn candidates(&self, profile: &Profile, needed: ByteSize) -> Vec<Candidate> {
        let mut before: Option<Point> = None;
        let candidate = |size: &SizeProfile| {
            let point = size.point(&self.pricing, DISCARD).filter(|point| point.duration > 0.0);
            let value = before.zip(point).map(|(from, to)| Value::of(&from, &to));
            before = point.or(before);
            let memory_size = size.memory_size();
            let fit = if size.out_of_memory() + size.suspected() > 0 {
                Fit::OutOfMemory
            } else if size.timed_out().saturating_mul(TIMEOUTS_OF) > size.reports() {
                Fit::TimesOut
            } else if memory_size < needed {
                Fit::UnderHeadroom
            } else if point.is_none() {
                Fit::NotMeasured
            } else {
                Fit::Fits
            };
            Candidate { memory_size, fit, point, value, runs: size.measured(), billed: size.billed() }
        };
        profile.sizes().map(candidate).collect()
    }

    /// The size that the memory alone asks for, where no measured one lies in its range and it may cost less than the
    /// choice: worth a measurement.
    fn untried(
        &self,
        candidates: &[Candidate],
        (low, high): (ByteSize, ByteSize),
        choice: Option<&Point>,
    ) -> Option<Untried> {
        let in_range = |candidate: &&Candidate| (low..=high).contains(&candidate.memory_size);
        let is_smaller = choice.is_none_or(|choice| low < choice.memory_size);
        if !is_smaller || candidates.iter().any(|candidate| in_range(&candidate)) {
            return None;
        }
        let ratio = |point: &Point| {
            let ratio = point.memory_size.as_mib_f64() / low.as_mib_f64();
            ratio.max(ratio.recip())
        };
        let points = candidates.iter().filter_map(|candidate| candidate.point.as_ref());
        let nearest = points.min_by(|a, b| ratio(a).total_cmp(&ratio(b)))?;
        // Work that only waits takes as long; work that only computes, as its share of the CPU says.
        let computing = nearest.duration * nearest.memory_size.as_mib_f64() / low.as_mib_f64();
        let duration = (nearest.duration.min(computing), nearest.duration.max(computing));
        let cost = |ms: f64| {
            let billed = std::time::Duration::try_from_secs_f64(ms.ceil() / 1e3).unwrap_or_default();
            self.pricing.run(GbSeconds::new(low, billed))
        };
        let cost = (cost(duration.0), cost(duration.1));
        let may_save = choice.is_none_or(|choice| cost.0.as_f64() < choice.cost);
        may_save.then_some(Untried { memory_size: low, from: nearest.memory_size, duration, cost })
    }
}

/// The peak with so many percent on top, in whole MB, rounded up; at least the smallest size of a function.
fn with_headroom(peak: ByteSize, percent: u32) -> ByteSize {
    let bytes = u128::from(peak.as_u64()) * (100 + u128::from(percent));
    let mb = bytes.div_ceil(100 << 20);
    ByteSize::mib(u64::try_from(mb).unwrap_or(u64::MAX).max(SMALLEST_MB))
}

fn caveats(profile: &Profile, candidates: &[Candidate], peak: ByteSize, ran_out: Option<ByteSize>) -> Vec<Caveat> {
    let mut caveats = Vec::new();
    let at_limit =
        |size: &&SizeProfile| size.used(100).is_some_and(|used| used.saturating_add(ByteSize::mib(1)) >= peak);
    if let Some(size) =
        profile.sizes().filter(at_limit).find(|size| size.memory_size() <= peak.saturating_add(ByteSize::mib(1)))
    {
        caveats.push(Caveat::PeakAtLimit { memory_size: size.memory_size() });
    }
    caveats.extend(ran_out.filter(|size| *size > peak).map(|memory_size| Caveat::RanOut { memory_size }));
    let fitting = || candidates.iter().filter(|candidate| candidate.fit == Fit::Fits);
    match fitting().count() {
        0 => caveats.push(Caveat::NothingFits),
        1 => caveats.push(Caveat::NoCurve),
        _ => {}
    }
    let few = fitting().filter(|candidate| candidate.runs < ENOUGH_RUNS);
    caveats.extend(few.map(|few| Caveat::FewRuns {
        memory_size: few.memory_size,
        runs: few.runs,
        enough: ENOUGH_RUNS,
    }));
    let (without, unusable) = (profile.without_memory(), profile.unusable());
    if without > 0 {
        caveats.push(Caveat::WithoutMemory { reports: without });
    }
    if unusable > 0 {
        caveats.push(Caveat::Unusable { reports: unusable });
    }
    caveats
}
