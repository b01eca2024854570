//! What the reports of a log say of each memory size, in bounded memory.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::size::ByteSize;

use super::figure::as_ms;
use super::pricing::{GbSeconds, Pricing, billed_duration};
use super::report_line::{OutOfMemory, Outcome, ReportLine};
use super::selection::{Point, trimmed_mean};

/// The most memory that a function can have, on Managed Instances. What a line says above it is not believed.
const LARGEST_MB: u64 = 32_768;

/// Memory sizes that are told apart. aws-lambda-power-tuning's `ALL` are 46.
const MAX_SIZES: usize = 64;

/// Runs of a size whose durations are kept.
const MAX_RUNS: usize = 10_000;

/// What a log says of each memory size.
///
/// Reports that end well give durations; all give memory. Counts, sums and the memory used are exact over any number of
/// reports. Of durations, the first 10,000 of a size are kept; of more, an even random sample of 10,000, which
/// [`SizeProfile::sampled`] tells.
///
/// # Memory
///
/// At most 64 memory sizes; reports of others are counted in [`unusable`](Self::unusable). Each holds 16 bytes a run
/// kept, 160 KB at most, and about 24 bytes for each distinct number of MB used.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, sizing::{Entry, Profile, read_log}};
///
/// let log: &[u8] = b"\
/// REPORT RequestId: 1\tDuration: 25.00 ms\tBilled Duration: 25 ms\tMemory Size: 128 MB\tMax Memory Used: 60 MB
/// REPORT RequestId: 2\tDuration: 13.00 ms\tBilled Duration: 13 ms\tMemory Size: 256 MB\tMax Memory Used: 62 MB";
/// let mut profile = Profile::new();
/// read_log(log, |entry| if let Entry::Report(report) = entry { profile.add(&report) })?;
/// assert_eq!(profile.sizes().count(), 2);
/// assert_eq!(profile.used(100), Some(ByteSize::mib(62)));
/// assert_eq!((profile.unusable(), profile.without_memory()), (0, 0));
/// # Ok::<(), plimsoll::sizing::ReadLogError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Profile {
    sizes: BTreeMap<u64, SizeProfile>,
    unusable: u64,
    without_memory: u64,
}

/// What a log says of one memory size.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, sizing::{Entry, Profile, read_log}};
///
/// let log = "REPORT RequestId: 1\tDuration: 25.00 ms\tBilled Duration: 25 ms\tMemory Size: 128 MB\tMax Memory \
///            Used: 60 MB";
/// let mut profile = Profile::new();
/// read_log(log.as_bytes(), |entry| if let Entry::Report(report) = entry { profile.add(&report) })?;
/// let size = profile.sizes().next().ok_or("there is one")?;
/// assert_eq!((size.memory_size(), size.reports(), size.measured()), (ByteSize::mib(128), 1, 1));
/// assert_eq!((size.cold_starts(), size.failed(), size.timed_out()), (0, 0, 0));
/// assert_eq!((size.out_of_memory(), size.suspected(), size.thrashing()), (0, 0, 0));
/// assert_eq!((size.used(95), size.duration(50)), (Some(ByteSize::mib(60)), Some(25.0)));
/// assert_eq!((size.mean_duration(0.2), size.mean_billed(0.2), size.sampled()), (Some(25.0), Some(25.0), false));
/// println!("{} a run", size.billed().mean(size.reports()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SizeProfile {
    memory_size: ByteSize,
    reports: u64,
    cold_starts: u64,
    failed: u64,
    timed_out: u64,
    out_of_memory: u64,
    suspected: u64,
    thrashing: u64,
    /// Reports by MB used, rounded up.
    used: BTreeMap<u64, u64>,
    /// Runs that ended well and have a duration.
    measured: u64,
    runs: Vec<Run>,
    /// The state of the sample's generator.
    random: u64,
    billed: GbSeconds,
    billed_reports: u64,
}

/// A run that ended well.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Milliseconds, init or restore included.
    duration: f64,
    /// Milliseconds billed.
    billed: f64,
}

impl Profile {
    /// An empty profile.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a report.
    ///
    /// A report without a memory size, as on Managed Instances, or with figures that no function has, is only counted.
    /// Constant time but for a look-up in small trees.
    pub fn add(&mut self, report: &ReportLine) {
        let Some(memory_size) = report.memory_size else {
            self.without_memory += 1;
            return;
        };
        let (size_mb, used_mb) = (to_mb(memory_size), report.max_memory_used.map_or(0, to_mb));
        let believed = (1..=LARGEST_MB).contains(&size_mb) && used_mb <= LARGEST_MB;
        if !believed || self.sizes.len() >= MAX_SIZES && !self.sizes.contains_key(&size_mb) {
            self.unusable += 1;
            return;
        }
        self.sizes.entry(size_mb).or_insert_with(|| SizeProfile::new(ByteSize::mib(size_mb))).add(report);
    }

    /// The memory sizes seen, from the smallest.
    pub fn sizes(&self) -> impl DoubleEndedIterator<Item = &SizeProfile> + ExactSizeIterator {
        self.sizes.values()
    }

    /// The memory used over all sizes that `percent` of the reports do not pass; see [`SizeProfile::used`].
    pub fn used(&self, percent: u32) -> Option<ByteSize> {
        let mut all = BTreeMap::new();
        for (mb, reports) in self.sizes.values().flat_map(|size| &size.used) {
            *all.entry(*mb).or_default() += reports;
        }
        at_rank(&all, percent)
    }

    /// Reports that were not used: figures that no function has, or a 65th memory size.
    pub const fn unusable(&self) -> u64 {
        self.unusable
    }

    /// Reports without a memory size, as Managed Instances print them.
    pub const fn without_memory(&self) -> u64 {
        self.without_memory
    }
}

/// The key that `percent` of the counts do not pass, by nearest rank.
fn at_rank(counts: &BTreeMap<u64, u64>, percent: u32) -> Option<ByteSize> {
    let all: u64 = counts.values().sum();
    let rank = (u128::from(all) * u128::from(percent.min(100))).div_ceil(100).max(1);
    let mut seen = 0;
    let mut from_rank = counts.iter().filter(|(_, count)| {
        seen += u128::from(**count);
        seen >= rank
    });
    from_rank.next().map(|(mb, _)| ByteSize::mib(*mb))
}

/// In MB, rounded up.
const fn to_mb(size: ByteSize) -> u64 {
    size.as_u64().div_ceil(1 << 20)
}

impl SizeProfile {
    const fn new(memory_size: ByteSize) -> Self {
        Self {
            memory_size,
            reports: 0,
            cold_starts: 0,
            failed: 0,
            timed_out: 0,
            out_of_memory: 0,
            suspected: 0,
            thrashing: 0,
            used: BTreeMap::new(),
            measured: 0,
            runs: Vec::new(),
            random: 0x9E37_79B9_7F4A_7C15,
            billed: GbSeconds::ZERO,
            billed_reports: 0,
        }
    }

    fn add(&mut self, report: &ReportLine) {
        self.reports += 1;
        let init = report.init_duration.or(report.restore_duration);
        self.cold_starts += u64::from(init.is_some());
        if let Some(used) = report.max_memory_used {
            *self.used.entry(to_mb(used)).or_default() += 1;
        }
        let computed = || Some(billed_duration(report.duration?, report.init_duration.unwrap_or_default()));
        let billed = report.billed_duration.or_else(computed);
        if let Some(billed) = billed {
            self.billed = self.billed.saturating_add(GbSeconds::new(self.memory_size, billed));
            self.billed_reports += 1;
        }
        let outcome = report.outcome();
        match report.out_of_memory() {
            OutOfMemory::Certain => self.out_of_memory += 1,
            OutOfMemory::Suspected => self.suspected += 1,
            OutOfMemory::No if outcome == Outcome::Finished && report.is_at_limit() => self.thrashing += 1,
            OutOfMemory::No => {}
        }
        match outcome {
            Outcome::Failed => self.failed += 1,
            Outcome::TimedOut => self.timed_out += 1,
            Outcome::Finished => {
                if let (Some(duration), Some(billed)) = (report.duration, billed) {
                    self.keep(duration, init.unwrap_or_default(), billed);
                }
            }
        }
    }

    /// Keeps a run: all of them up to the limit, then each with the same chance.
    fn keep(&mut self, duration: Duration, init: Duration, billed: Duration) {
        // In floats, as aws-lambda-power-tuning adds them.
        let run = Run { duration: as_ms(duration) + as_ms(init), billed: as_ms(billed) };
        self.measured += 1;
        if self.runs.len() < MAX_RUNS {
            self.runs.push(run);
            return;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let place = usize::try_from(self.random % self.measured).unwrap_or(usize::MAX);
        if let Some(other) = self.runs.get_mut(place) {
            *other = run;
        }
    }

    /// The memory size.
    pub const fn memory_size(&self) -> ByteSize {
        self.memory_size
    }

    /// Reports of this size, however they ended.
    pub const fn reports(&self) -> u64 {
        self.reports
    }

    /// Reports with an init or a restore.
    pub const fn cold_starts(&self) -> u64 {
        self.cold_starts
    }

    /// Reports of runs that failed, out of memory included.
    pub const fn failed(&self) -> u64 {
        self.failed
    }

    /// Reports of runs that timed out.
    pub const fn timed_out(&self) -> u64 {
        self.timed_out
    }

    /// Reports of runs that certainly ran out of memory.
    pub const fn out_of_memory(&self) -> u64 {
        self.out_of_memory
    }

    /// Reports of runs that failed or timed out at the limit.
    pub const fn suspected(&self) -> u64 {
        self.suspected
    }

    /// Reports of runs that ended well at the limit.
    pub const fn thrashing(&self) -> u64 {
        self.thrashing
    }

    /// Runs that ended well and have a duration: what durations and costs are measured on.
    pub const fn measured(&self) -> u64 {
        self.measured
    }

    /// Whether durations are those of a sample.
    pub const fn sampled(&self) -> bool {
        self.measured > MAX_RUNS as u64
    }

    /// The memory used that `percent` of the reports do not pass (nearest rank), in whole MB; 100 for the maximum.
    /// `None` if no report tells it.
    ///
    /// Each report gives the highest use of its environment so far, not that of its own run.
    pub fn used(&self, percent: u32) -> Option<ByteSize> {
        at_rank(&self.used, percent)
    }

    /// The trimmed mean duration in milliseconds, init and restore included, as aws-lambda-power-tuning takes it;
    /// `discard` is the share left out at either end, 0.2 there. `None` without a run. Sorts a copy.
    pub fn mean_duration(&self, discard: f64) -> Option<f64> {
        trimmed_mean(&mut self.column(|run| run.duration), discard)
    }

    /// The trimmed mean of the milliseconds billed. `None` without a run. Sorts a copy.
    ///
    /// With `SnapStart`, the billed duration contains the billed restore. aws-lambda-power-tuning adds that a second
    /// time; this does not.
    pub fn mean_billed(&self, discard: f64) -> Option<f64> {
        trimmed_mean(&mut self.column(|run| run.billed), discard)
    }

    /// Mean duration and cost, as aws-lambda-power-tuning takes them: the cost is that of the trimmed mean of the
    /// milliseconds billed, rounded up. `None` without a run.
    pub fn point(&self, pricing: &Pricing, discard: f64) -> Option<Point> {
        let duration = self.mean_duration(discard)?;
        let billed = Duration::try_from_secs_f64(self.mean_billed(discard)?.ceil() / 1e3).ok()?;
        let cost = pricing.run(GbSeconds::new(self.memory_size, billed)).as_f64();
        Some(Point { memory_size: self.memory_size, cost, duration })
    }

    /// The duration in milliseconds that `percent` of the runs do not pass (nearest rank). `None` without a run.
    pub fn duration(&self, percent: u32) -> Option<f64> {
        let mut durations = self.column(|run| run.duration);
        durations.sort_unstable_by(f64::total_cmp);
        let rank = (durations.len() * percent.min(100) as usize).div_ceil(100).max(1);
        durations.get(rank - 1).copied()
    }

    /// The mean of what a report was billed, failures and timeouts included: what the month is made of.
    pub const fn billed(&self) -> GbSeconds {
        self.billed.mean(self.billed_reports)
    }

    fn column(&self, of: fn(&Run) -> f64) -> Vec<f64> {
        self.runs.iter().map(of).collect()
    }
}
