//! A recommendation with its evidence, and its text.

use std::fmt;
use std::ops::RangeInclusive;

use crate::size::ByteSize;

use super::pricing::{Dollars, GbSeconds};
use super::selection::{Point, Strategy, Value};

/// A memory size, and what it rests on. `Display` is a few lines for an operator; those with a `?` say what is unsure.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::sizing::{Architecture, Entry, Fit, Pricing, Profile, Sizing, read_log};
///
/// let report = |id: u32| format!("REPORT RequestId: {id}\tDuration: 130.00 ms\tBilled Duration: 130 ms\tMemory Size: \
///                                 256 MB\tMax Memory Used: 110 MB\n");
/// let log: String = (0..20).map(report).collect();
/// let mut profile = Profile::new();
/// read_log(log.as_bytes(), |entry| if let Entry::Report(report) = entry { profile.add(&report) })?;
/// let advice = Sizing::new(Pricing::us_east_1(Architecture::Arm)).recommend(&profile)?;
///
/// let choice = advice.choice().ok_or("it was measured")?;
/// assert_eq!((choice.memory_size, choice.fit, choice.runs), (ByteSize::mib(256), Fit::Fits, 20));
/// assert_eq!(advice.needed, (ByteSize::mib(132), ByteSize::mib(143)));
/// for caveat in &advice.caveats {
///     println!("{caveat}"); // only one size in the log fits: ...
/// }
/// if let Some(untried) = advice.untried {
///     println!("measure {} next", untried.memory_size);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Recommendation {
    /// The size recommended.
    pub memory_size: ByteSize,
    /// Whether nothing was measured at this size: it follows from the memory used alone.
    pub extrapolated: bool,
    /// By what was chosen.
    pub strategy: Strategy,
    /// What the strategy alone selects of the sizes that fit.
    pub selected: Option<ByteSize>,
    /// From where on, of the sizes that fit, the duration no longer decreases.
    pub plateau: Option<ByteSize>,
    /// The highest memory used that a report tells. Where memory ran out, the need is higher; see
    /// [`needed`](Self::needed).
    pub peak: ByteSize,
    /// The memory used that 99 % of the reports do not pass.
    pub p99: ByteSize,
    /// The memory used that 95 % of the reports do not pass.
    pub p95: ByteSize,
    /// The peak with the least and with plenty of headroom, in whole MB, rounded up.
    ///
    /// A size at which a run ran out of memory, certainly or by suspicion, counts as a peak: a run that is killed shows
    /// less than it asked for. Whatever the headroom, `needed` lies at least 1 MB above the largest such size, which
    /// [`Caveat::RanOut`] tells where it lies above [`peak`](Self::peak).
    pub needed: (ByteSize, ByteSize),
    /// The headroom, in percent.
    pub headroom: RangeInclusive<u32>,
    /// Reports that this rests on.
    pub reports: u64,
    /// The sizes seen, from the smallest.
    pub candidates: Vec<Candidate>,
    /// The size to measure next, if one without a measurement may do better.
    pub untried: Option<Untried>,
    /// What weakens the recommendation.
    pub caveats: Vec<Caveat>,
}

/// A memory size that the log shows.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::Candidate;
///
/// fn row(candidate: &Candidate) -> String {
///     let duration = candidate.point.map_or("-".to_owned(), |point| format!("{:.1} ms", point.duration));
///     format!("{} {} {duration}", candidate.memory_size, candidate.fit.as_str())
/// }
/// # let _ = row;
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Candidate {
    /// The size.
    pub memory_size: ByteSize,
    /// Whether it may be recommended, or why not.
    pub fit: Fit,
    /// Duration and cost; `None` if no run ended well.
    pub point: Option<Point>,
    /// What it gives over the next smaller size with a point.
    pub value: Option<Value>,
    /// Runs that ended well.
    pub runs: u64,
    /// The mean of what a report was billed, failures included.
    pub billed: GbSeconds,
}

/// Whether a size may be recommended.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::Fit;
///
/// assert_eq!(Fit::UnderHeadroom.as_str(), "under headroom");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fit {
    /// It may.
    Fits,
    /// It lies below [`Recommendation::needed`]: the peak with headroom does not fit, or a larger size ran out of
    /// memory.
    UnderHeadroom,
    /// A run ran out of memory, or failed or timed out at the limit.
    OutOfMemory,
    /// More than 1 run in 100 timed out.
    TimesOut,
    /// No run ended well.
    NotMeasured,
}

impl Fit {
    /// A word for a table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::UnderHeadroom => "under headroom",
            Self::OutOfMemory => "out of memory",
            Self::TimesOut => "times out",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A size without a measurement, and what it may give. Both ends of each range are extrapolated.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::Untried;
///
/// fn hint(untried: &Untried) -> String {
///     let (shortest, longest) = untried.duration;
///     format!("try {}: {shortest:.0} to {longest:.0} ms", untried.memory_size)
/// }
/// # let _ = hint;
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Untried {
    /// The size.
    pub memory_size: ByteSize,
    /// The measured size from which it was extrapolated.
    pub from: ByteSize,
    /// Milliseconds: if the work only waits, and if it only computes, in rising order.
    pub duration: (f64, f64),
    /// Cost of an invocation at either duration.
    pub cost: (Dollars, Dollars),
}

/// What weakens a recommendation.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::{Caveat, Recommendation};
///
/// fn is_safe_to_apply(advice: &Recommendation) -> bool {
///     !advice.caveats.iter().any(|caveat| matches!(caveat, Caveat::RanOut { .. } | Caveat::NothingFits))
/// }
/// # let _ = is_safe_to_apply;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Caveat {
    /// The highest memory used was seen at a size that has no more.
    #[non_exhaustive]
    PeakAtLimit {
        /// The size.
        memory_size: ByteSize,
    },
    /// A run ran out of memory, or failed at its limit, at a size above the highest memory used: the headroom counts
    /// from that size.
    #[non_exhaustive]
    RanOut {
        /// The largest such size.
        memory_size: ByteSize,
    },
    /// No size in the log fits.
    NothingFits,
    /// Only one size in the log fits: nothing says what others would cost.
    NoCurve,
    /// Too few runs at a size that fits.
    #[non_exhaustive]
    FewRuns {
        /// The size.
        memory_size: ByteSize,
        /// Runs that ended well.
        runs: u64,
        /// How many would be enough.
        enough: u64,
    },
    /// Reports without a memory size, as on Managed Instances.
    #[non_exhaustive]
    WithoutMemory {
        /// How many.
        reports: u64,
    },
    /// Reports with figures that no function has, or of a 65th memory size.
    #[non_exhaustive]
    Unusable {
        /// How many.
        reports: u64,
    },
}

/// AWS's unit: MB, without the space that a size is printed with.
pub(super) fn mb(size: ByteSize) -> u64 {
    size.as_u64().div_ceil(1 << 20)
}

/// `20-30`, or `25` where both ends are one.
fn span<T: PartialEq + fmt::Display>(low: T, high: T) -> impl fmt::Display {
    fmt::from_fn(move |f| if low == high { write!(f, "{low}") } else { write!(f, "{low}-{high}") })
}

fn one_or_many(n: u64, one: &'static str) -> impl fmt::Display {
    fmt::from_fn(move |f| write!(f, "{n} {one}{}", if n == 1 { "" } else { "s" }))
}

impl fmt::Display for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeakAtLimit { memory_size } => write!(
                f,
                "the peak is the limit of {} MB: the need may be higher, or a local emulator wrote the log",
                mb(*memory_size)
            ),
            Self::RanOut { memory_size } => {
                write!(f, "memory ran out at {} MB: the headroom counts from there", mb(*memory_size))
            }
            Self::NothingFits => f.write_str("no size in the log fits: the choice follows from the memory used alone"),
            Self::NoCurve => f.write_str("only one size in the log fits: what others would cost is not known"),
            Self::FewRuns { memory_size, runs, enough } => {
                let runs = one_or_many(*runs, "run");
                write!(f, "{} MB: {runs}, too few to trust; {enough} are enough", mb(*memory_size))
            }
            Self::WithoutMemory { reports } => write!(f, "{} without a memory size", one_or_many(*reports, "report")),
            Self::Unusable { reports } => {
                write!(f, "{} not used: no function has such figures", one_or_many(*reports, "report"))
            }
        }
    }
}

impl Recommendation {
    /// The candidate recommended; `None` if it is extrapolated.
    pub fn choice(&self) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.memory_size == self.memory_size && !self.extrapolated)
    }
}

impl fmt::Display for Recommendation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let choice = mb(self.memory_size);
        match self.choice().and_then(|choice| choice.point) {
            Some(Point { cost, duration, .. }) => {
                write!(f, "{choice} MB by {}: {duration:.1} ms, {} an invocation", self.strategy, dollars(cost))?;
            }
            None => write!(f, "{choice} MB by the memory used, not measured")?,
        }
        let (low, high) = (mb(self.needed.0), mb(self.needed.1));
        let (least, plenty) = (self.headroom.start(), self.headroom.end());
        let (peak, p99, p95) = (mb(self.peak), mb(self.p99), mb(self.p95));
        let reports = one_or_many(self.reports, "report");
        write!(f, "\npeak {peak} MB (p99 {p99}, p95 {p95}) of {reports}: ")?;
        write!(f, "with {} % headroom {} MB", span(*least, *plenty), span(low, high))?;
        if let (Some(selected), Some(plateau)) = (self.selected, self.plateau)
            && plateau < selected
        {
            let (selected, plateau) = (mb(selected), mb(plateau));
            write!(
                f,
                "\n{selected} MB is what {} selects; from {plateau} MB on duration no longer decreases",
                self.strategy
            )?;
        }
        for candidate in &self.candidates {
            let size = mb(candidate.memory_size);
            match candidate.fit {
                Fit::Fits => {}
                Fit::UnderHeadroom => write!(f, "\n{size} MB is under the {least} % rule: {} MB", span(low, high))?,
                Fit::OutOfMemory => write!(f, "\n{size} MB ran out of memory, or failed at its limit")?,
                Fit::TimesOut => write!(f, "\n{size} MB times out in more than 1 run of 100")?,
                Fit::NotMeasured => write!(f, "\n{size} MB has no run that ended well")?,
            }
        }
        for caveat in &self.caveats {
            write!(f, "\n? {caveat}")?;
        }
        if let Some(Untried { memory_size, duration, cost, .. }) = &self.untried {
            let (size, (shortest, longest)) = (mb(*memory_size), duration);
            write!(
                f,
                "\n? not measured: {size} MB, between {shortest:.1} and {longest:.1} ms, {} to {}",
                cost.0, cost.1
            )?;
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cost made of Dollars, back for its text"
)]
fn dollars(cost: f64) -> Dollars {
    Dollars::from_trillionths((cost * 1e12).round() as u64)
}
