//! What an invocation did to the memory, and its one line.

use std::fmt;
use std::time::Duration;

use crate::board::Clean;
use crate::budget::{MemoryBudget, Pressure};
use crate::heap::{HeapPeak, LoadLines};
use crate::os;
use crate::size::{ByteDelta, ByteSize};

use super::alert::{Alert, Alerts};
use super::caches::CacheCounts;
use super::leak::LeakVerdict;
use super::request_id::RequestId;
use super::resources::ResourceCounts;
use super::trim::Trimmed;

/// Below this many invocations a recommendation carries a question mark.
const ENOUGH_INVOCATIONS: u64 = 20;

/// The smallest memory size of a Lambda function, in MB.
const SMALLEST_MB: u64 = 128;

/// How an invocation ended.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::from_env()?;
/// let report = monitor.start("4f1c9a").finish();
/// assert_eq!(report.outcome, plimsoll::monitor::Outcome::Finished);
/// # Ok::<(), plimsoll::monitor::MonitorError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// With [`Invocation::finish`](super::Invocation::finish).
    Finished,
    /// Its guard was dropped: the work was cancelled, returned early or panicked.
    Unfinished,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Outcome {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Unfinished => "unfinished",
        }
    }
}

/// The memory of one invocation. `Display` is its one line.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::from_env()?;
/// let report = monitor.start("4f1c9a").finish();
/// println!("{report}");
/// println!("{} % of the capacity, fits {:?} MB", report.percent(), report.fits_mb());
/// # Ok::<(), plimsoll::monitor::MonitorError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvocationReport {
    /// The cleaned request id.
    pub id: RequestId,
    /// How it ended.
    pub outcome: Outcome,
    /// Live heap when it began.
    pub live_before: ByteSize,
    /// Live heap at its end, after the hooks.
    pub live: ByteSize,
    /// Peak heap while it ran: the environment's, where `concurrent`.
    pub peak: HeapPeak,
    /// `live - live_before`.
    pub growth: ByteDelta,
    /// Resident set size at its end; `None` where the platform does not tell.
    pub rss: Option<ByteSize>,
    /// The highest resident set size while it ran, if the kernel lets it be reset, else since the process began.
    pub peak_rss: Option<ByteSize>,
    /// The highest of all invocations.
    pub highest_rss: ByteSize,
    /// The load lines, and with them memory size and capacity.
    pub lines: LoadLines,
    /// The highest load line crossed at its end, in percent.
    pub crossed: Option<u8>,
    /// What the budget had granted at its end; `None` without a [budget](super::MonitorBuilder::budget).
    pub reserved: Option<Reserved>,
    /// Allocations refused since the report before.
    pub refused: u64,
    /// The three largest holders on the board.
    pub holders: [Option<(&'static str, ByteSize)>; 3],
    /// Live heap that no holder on the board accounts for.
    pub unaccounted: ByteSize,
    /// How the watched resources stand.
    pub resources: ResourceCounts,
    /// What the watched caches did since the report before.
    pub caches: CacheCounts,
    /// Whether what invocations leave behind grows, this one included.
    pub verdict: LeakVerdict,
    /// What was given back at its end, before `rss` was read; `None` without a [trim](super::MonitorBuilder::trim).
    pub trimmed: Option<Trimmed>,
    /// How long it ran.
    pub duration: Duration,
    /// Whether another was in flight meanwhile: peaks and growth are the environment's then.
    pub concurrent: bool,
    /// How many invocations this environment has reported, this one included.
    pub invocations: u64,
    pub(super) alerts: Alerts,
}

/// A budget at one moment.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::from_env()?;
/// if let Some(reserved) = monitor.start("4f1c9a").finish().reserved {
///     println!("{} of {} are reserved, pressure {}", reserved.bytes, reserved.room, reserved.pressure);
/// }
/// # Ok::<(), plimsoll::monitor::MonitorError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reserved {
    /// What all accounts hold.
    pub bytes: ByteSize,
    /// What they may hold: the limit less what others have of the heap, and of the rss beyond it.
    pub room: ByteSize,
    /// How full that is.
    pub pressure: Pressure,
}

impl Reserved {
    pub(super) fn of(budget: &MemoryBudget) -> Self {
        Self { bytes: budget.reserved(), room: budget.baseline().room, pressure: budget.pressure() }
    }
}

impl fmt::Display for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reserved {} of {}", mib(self.bytes), mib(self.room))?;
        if self.pressure > Pressure::Calm { write!(f, " pressure {}", self.pressure) } else { Ok(()) }
    }
}

impl InvocationReport {
    /// Live heap less what is reserved, which heals by itself: above zero is heap that nobody reserved, below zero what
    /// is reserved and not allocated. `None` without a budget.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::from_env()?;
    /// let report = monitor.start("4f1c9a").finish();
    /// if let Some(drift) = report.drift() {
    ///     println!("{drift} of heap that no account reserved");
    /// }
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub fn drift(&self) -> Option<ByteDelta> {
        self.reserved.map(|reserved| ByteDelta::between(reserved.bytes, self.live))
    }

    /// The peak heap in percent of the capacity, rounded down. Over 100 is possible: nothing holds the heap to the capacity
    /// but a [limit](crate::heap::set_limit).
    pub fn percent(&self) -> u64 {
        let capacity = self.lines.capacity().as_u64().max(1);
        self.peak.at_most.saturating_mul(100).as_u64() / capacity
    }

    /// The memory size that fits all invocations so far, in MB: (highest rss + environment share) x 1.25, at least 128.
    /// `None` where the platform does not tell the rss.
    ///
    /// It is of this environment, and as good as the invocations that it has seen.
    pub fn fits_mb(&self) -> Option<u64> {
        fits_mb(self.highest_rss, &self.lines)
    }

    /// What this invocation is the first to show, until it clears.
    pub fn alerts(&self) -> impl Iterator<Item = Alert> {
        self.alerts.iter()
    }

    /// The report where the heap's books cannot be read.
    pub(super) fn unknown(id: RequestId, outcome: Outcome, lines: LoadLines, duration: Duration) -> Self {
        Self {
            id,
            outcome,
            live_before: ByteSize::ZERO,
            live: ByteSize::ZERO,
            peak: HeapPeak::ZERO,
            growth: ByteDelta::bytes(0),
            rss: None,
            peak_rss: None,
            highest_rss: ByteSize::ZERO,
            lines,
            crossed: None,
            reserved: None,
            refused: 0,
            holders: [None; 3],
            unaccounted: ByteSize::ZERO,
            resources: ResourceCounts::default(),
            caches: CacheCounts::default(),
            verdict: LeakVerdict::Unknown,
            trimmed: None,
            duration,
            concurrent: false,
            invocations: 0,
            alerts: Alerts::default(),
        }
    }

    /// Writes the line to standard error with one system call.
    pub(super) fn print(&self) {
        // Three names of 48 bytes, an id of 64 and all else there may be take some 700.
        let mut line = os::Line::<1024>::new();
        line.put(format_args!("{self}"));
        line.write_stderr();
    }
}

/// The memory size in MB that leaves a fifth of itself free beside the highest rss and the environment's share.
pub(super) fn fits_mb(highest_rss: ByteSize, lines: &LoadLines) -> Option<u64> {
    let share = lines.memory_size().saturating_sub(lines.capacity());
    let needed = highest_rss.saturating_add(share).percent(125);
    (highest_rss > ByteSize::ZERO).then(|| needed.as_u64().div_ceil(1 << 20).max(SMALLEST_MB))
}

/// MiB with one decimal, without the unit: the line names it once.
fn mib(size: ByteSize) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        // Whole tenths, rounded: printing floats would add their tables to every function.
        let tenths = size.saturating_mul(10).saturating_add(ByteSize::kib(512)).as_u64() >> 20;
        write!(f, "{}.{}", tenths / 10, tenths % 10)
    })
}

impl fmt::Display for InvocationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (live, peak) = (mib(self.live), mib(self.peak.at_most));
        // In MiB whatever its size, as all figures before and behind it.
        let capacity = self.lines.capacity().saturating_add(ByteSize::kib(512)).as_u64() >> 20;
        write!(f, "plimsoll {} heap {live} peak {peak} of {capacity} MiB ({} %)", self.id, self.percent())?;
        if let Some(rss) = self.rss {
            write!(f, " rss {}", mib(rss))?;
        }
        write!(f, " {} |", self.growth)?;
        for (name, bytes) in self.holders.iter().flatten() {
            write!(f, " {} {}", Clean(name), mib(*bytes))?;
        }
        write!(f, " unaccounted {}", mib(self.unaccounted))?;
        if let (Some(reserved), Some(drift)) = (self.reserved, self.drift()) {
            write!(f, " | {reserved} drift {drift}")?;
        }
        if !self.resources.is_empty() {
            write!(f, " | {}", self.resources)?;
            if self.resources.never_used > 0 {
                write!(f, " in {} invocations", self.invocations)?;
            }
        }
        if !self.caches.is_none_evicted() {
            write!(f, " | {}", self.caches)?;
        }
        if let Some(crossed) = self.crossed {
            write!(f, " | over the {crossed} % line")?;
        }
        if self.refused > 0 {
            write!(f, " | refused {}", self.refused)?;
        }
        if self.concurrent {
            f.write_str(" | concurrent: peaks are the environment's")?;
        }
        if self.outcome == Outcome::Unfinished {
            f.write_str(" | unfinished")?;
        }
        if let Some(trimmed) = self.trimmed {
            write!(f, " | {trimmed}")?;
        }
        if self.verdict != LeakVerdict::Unknown {
            write!(f, " | {}", self.verdict)?;
        }
        if let Some(fits) = self.fits_mb() {
            let unsure = if self.invocations < ENOUGH_INVOCATIONS { "?" } else { "" };
            write!(f, " | fits={fits}MB{unsure}")?;
        }
        for (index, alert) in self.alerts().enumerate() {
            write!(f, "{} {alert}", if index == 0 { " | ALERT" } else { "," })?;
        }
        Ok(())
    }
}
