//! What an invocation did to the memory, and its one line.

use std::fmt;
use std::time::Duration;

use crate::board::Clean;
use crate::budget::{MemoryBudget, Pressure};
use crate::heap::{AlarmThresholds, HeapPeak, HeapSite};
use crate::log::{self, LogFormat, MAX_RECORD};
use crate::os;
use crate::size::{ByteDelta, ByteSize};

use super::alert::{Alert, Alerts};
use super::caches::CacheCounts;
use super::json;
use super::labels::LabelStats;
#[cfg(test)]
use super::labels::Labels;
use super::leak::LeakVerdict;
use super::recommend::{EnvironmentShare, Needs};
use super::request_id::{Label, RequestId};
use super::request_scope::RequestHeap;
use super::resources::ResourceCounts;
use super::trim::Trimmed;

/// Below this many invocations a recommendation carries a question mark.
const ENOUGH_INVOCATIONS: u64 = 20;

/// How an invocation ended.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::install_from_env();
/// let report = monitor.start("4f1c9a").finish();
/// assert_eq!(report.outcome, plimsoll::monitor::Outcome::Finished);
/// # Ok::<(), plimsoll::monitor::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// With [`Invocation::finish`](super::Invocation::finish), or with the end of the response.
    Finished,
    /// Its guard was dropped: the work was cancelled, returned early or panicked.
    Unfinished,
    /// A layer has ended it, because it held more memory than its limit, or than it could reserve.
    Overloaded,
    /// A layer did not admit it. It has no report, and no figures of its own.
    Refused,
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
            Self::Overloaded => "overloaded",
            Self::Refused => "refused",
        }
    }
}

/// The heap of the process over one invocation. With several invocations in flight it is the environment's.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::install_from_env();
/// if let Some(heap) = monitor.start("4f1c9a").finish().heap {
///     println!("peak {}, left behind {}", heap.peak.at_most, heap.growth);
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvocationHeap {
    /// The live heap at the start.
    pub live_before: ByteSize,
    /// The live heap at the end, after the hooks.
    pub live: ByteSize,
    /// The peak between start and end.
    pub peak: HeapPeak,
    /// `live - live_before`. Negative if the invocation freed memory that was allocated before its start, such as its
    /// own event.
    pub growth: ByteDelta,
    /// The part of the live heap that neither gauges of the [`board`](crate::board) nor allocation sites explain: see
    /// [`Holders`](super::Holders).
    pub unattributed: ByteSize,
}

/// The memory of one invocation. `Display` prints the report line.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::install_from_env();
/// let report = monitor.start("4f1c9a").finish();
/// println!("{report}");
/// println!("{:?} % of the capacity, recommended are {:?} MB", report.percent(), report.recommended_mb());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct InvocationReport {
    /// The request id.
    pub id: RequestId,
    /// The label; empty if the invocation has none.
    pub label: Label,
    /// The kind of its end.
    pub outcome: Outcome,
    /// The heap of the request itself. `None` if nothing of it was measured, without the
    /// [tracking allocator](crate::TrackingAllocator), and if a part of it ran while 128 other threads allocated.
    pub own: Option<RequestHeap>,
    /// The sums of all requests with this label, this one included.
    pub of_label: LabelStats,
    /// The heap of the process; `None` without the [tracking allocator](crate::TrackingAllocator).
    pub heap: Option<InvocationHeap>,
    /// The resident set size at the end; `None` if the platform has no such figure.
    pub rss: Option<ByteSize>,
    /// The highest resident set size since the start, if the kernel can reset that figure, else since the process began.
    pub peak_rss: Option<ByteSize>,
    /// The highest resident set size of all invocations.
    pub highest_rss: ByteSize,
    /// The highest anonymous memory of the cgroup: of this process, its children and, on AWS Lambda, its extensions. Cached
    /// file pages do not count.
    ///
    /// It is read at most once a second, at the end of an invocation, so a child that has ended before can be missed. `None`
    /// if no cgroup with a limit is visible, or if its limit is above the memory size: such a cgroup holds other programs.
    pub highest_cgroup_anonymous: Option<ByteSize>,
    /// The alarm thresholds, and with them memory size and capacity; `None` if no memory limit is known.
    pub thresholds: Option<AlarmThresholds>,
    /// The highest alarm threshold crossed at the end, in percent; `None` without the tracking allocator, which watches them.
    pub crossed: Option<u8>,
    /// The budget at the end; `None` without a [budget](super::MonitorBuilder::budget).
    pub reserved: Option<Reserved>,
    /// Allocations refused since the report before.
    pub refused: u64,
    /// The three largest gauges of the [`board`](crate::board).
    pub gauges: [Option<(&'static str, ByteSize)>; 3],
    /// The three largest accounts of all budgets. Their bytes are reserved, and can be memory that is not allocated yet.
    pub accounts: [Option<(&'static str, ByteSize)>; 3],
    /// The states of the watched resources.
    pub resources: ResourceCounts,
    /// The activity of the watched caches since the report before.
    pub caches: CacheCounts,
    /// The leak verdict over the invocations so far, this one included.
    pub verdict: LeakVerdict,
    /// The three allocation sites that grew most, if the verdict is [`Rising`](LeakVerdict::Rising) or
    /// [`Growing`](LeakVerdict::Growing) and a [profile](crate::guide::attribution) runs (feature `profile`).
    ///
    /// They are compared with a baseline of at least 64 invocations before, or of the first report. A baseline is
    /// replaced after 64 reports, unless the lowest level of the live heap has risen since the 64 before. So a leak is
    /// compared with a time before it began. While the verdict stays, the sites are read again every 16 invocations.
    pub growing_sites: [Option<HeapSite>; 3],
    /// Pages released at the end, before `rss` was read; `None` without a [trim](super::MonitorBuilder::trim).
    pub trimmed: Option<Trimmed>,
    /// The time from start to end.
    pub duration: Duration,
    /// `true` if another invocation was in flight at some moment: peaks and growth are then the environment's.
    pub concurrent: bool,
    /// The number of invocations that this environment has reported, this one included.
    pub invocations: u64,
    /// The share of the memory size that the environment's own processes take.
    pub(super) share: EnvironmentShare,
    pub(super) alerts: Alerts,
}

/// A budget at one moment.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::install_from_env();
/// if let Some(reserved) = monitor.start("4f1c9a").finish().reserved {
///     println!("{} of {} are reserved, pressure {}", reserved.bytes, reserved.capacity, reserved.pressure);
/// }
/// # Ok::<(), plimsoll::monitor::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reserved {
    /// The bytes that all accounts have reserved.
    pub bytes: ByteSize,
    /// The bytes that they can reserve: the limit less the heap that none of them has reserved.
    pub capacity: ByteSize,
    /// How full that is.
    pub pressure: Pressure,
}

impl Reserved {
    pub(super) fn of(budget: &MemoryBudget) -> Self {
        Self { bytes: budget.reserved(), capacity: budget.capacity().total, pressure: budget.pressure() }
    }
}

impl fmt::Display for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reserved {} of {}", mib(self.bytes), mib(self.capacity))?;
        if self.pressure > Pressure::Normal { write!(f, " pressure {}", self.pressure) } else { Ok(()) }
    }
}

impl InvocationReport {
    /// Returns live heap less reserved bytes: above zero is heap without a reservation, below zero are reserved bytes
    /// without an allocation. `None` without a budget or without the tracking allocator.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// let report = monitor.start("4f1c9a").finish();
    /// if let Some(drift) = report.drift() {
    ///     println!("{drift} of heap that no account reserved");
    /// }
    /// ```
    pub fn drift(&self) -> Option<ByteDelta> {
        let (reserved, heap) = self.reserved.zip(self.heap)?;
        Some(ByteDelta::between(reserved.bytes, heap.live))
    }

    /// Returns the reserved bytes in percent of what may be reserved, from 0 to 100. `None` without a budget, and if its
    /// room is zero.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// let report = monitor.start("4f1c9a").finish();
    /// assert!(report.budget_percent().is_none_or(|percent| percent <= 100.0));
    /// ```
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 bytes")]
    pub fn budget_percent(&self) -> Option<f64> {
        let Reserved { bytes, capacity, .. } = self.reserved.filter(|reserved| reserved.capacity > ByteSize::ZERO)?;
        Some(100.0 * bytes.min(capacity).as_u64() as f64 / capacity.as_u64() as f64)
    }

    /// Returns the peak heap in percent of the capacity, rounded down; the peak rss without the tracking allocator. `None`
    /// if either is not known.
    ///
    /// Can exceed 100. The capacity is the memory size less the environment's share, and the kernel kills at the memory size.
    /// Only a [limit](crate::heap::set_limit) keeps the heap below the capacity.
    pub fn percent(&self) -> Option<u64> {
        let peak = self.heap.map(|heap| heap.peak.at_most).or(self.peak_rss.max(self.rss))?;
        Some(percent_of(peak, self.thresholds?.capacity()))
    }

    /// Returns the recommended memory size in MB, which is sufficient for all invocations so far.
    ///
    /// ```text
    /// largest of  highest rss + environment share
    ///             highest anonymous memory of the cgroup + 12 MiB      12 MiB only if the limit is not the cgroup's
    /// x 1.25, at least 128 MB
    /// ```
    ///
    /// The second figure counts child processes and extensions: see
    /// [`highest_cgroup_anonymous`](Self::highest_cgroup_anonymous). Extensions run in the cgroup, so a larger
    /// [environment share](super::MonitorBuilder::environment_share) is not added to it. Without a known memory limit the
    /// environment share is that of AWS Lambda, 12 MiB.
    ///
    /// Returns `None` while the verdict is [`Growing`](LeakVerdict::Growing), because no memory size is sufficient for a
    /// leak, and if the platform has no rss.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// let report = monitor.start("4f1c9a").finish();
    /// match report.recommended_mb() {
    ///     Some(mb) if report.invocations >= 20 => println!("{mb} MB are sufficient"),
    ///     Some(mb) => println!("{mb} MB, of few invocations"),
    ///     None => println!("no recommendation: {}", report.verdict),
    /// }
    /// ```
    pub fn recommended_mb(&self) -> Option<u64> {
        self.needs().recommended_mb()
    }

    fn needs(&self) -> Needs {
        Needs {
            highest_rss: self.highest_rss,
            cgroup_anonymous: self.highest_cgroup_anonymous,
            share: self.share,
            verdict: self.verdict,
        }
    }

    /// Returns the alerts that this invocation is the first to show since they last cleared.
    pub fn alerts(&self) -> impl Iterator<Item = Alert> {
        self.alerts.iter()
    }

    /// Creates a report of an invocation with nothing measured.
    #[cfg(test)]
    pub(super) fn for_test(thresholds: Option<AlarmThresholds>) -> Self {
        Self {
            id: RequestId::new("r"),
            label: Label::default(),
            outcome: Outcome::Finished,
            own: None,
            of_label: Labels::new().of(&Label::default()),
            heap: None,
            rss: None,
            peak_rss: None,
            highest_rss: ByteSize::ZERO,
            highest_cgroup_anonymous: None,
            thresholds,
            crossed: None,
            reserved: None,
            refused: 0,
            gauges: [None; 3],
            accounts: [None; 3],
            resources: ResourceCounts::default(),
            caches: CacheCounts::default(),
            verdict: LeakVerdict::Unknown,
            growing_sites: [None; 3],
            trimmed: None,
            duration: Duration::ZERO,
            concurrent: false,
            invocations: 0,
            share: EnvironmentShare::default(),
            alerts: Alerts::default(),
        }
    }

    /// Writes the report to standard error in the format in force.
    pub(super) fn print(&self) {
        // The text is at most some 1,700 bytes, with six names of 48 bytes, id and label of 64, and three functions with
        // their places of 220; the JSON record some 2,800. Eight addresses are not longer than a function.
        let mut line = os::Line::<MAX_RECORD>::new();
        let is_whole = match log::format() {
            LogFormat::Text => line.put(format_args!("{self}")),
            LogFormat::Json => line.put(format_args!("{}", json::Record(self))),
        };
        debug_assert!(is_whole, "a record has a bounded length");
        line.write_stderr();
    }
}

/// Returns `part` in percent of `whole`, rounded down.
pub(super) fn percent_of(part: ByteSize, whole: ByteSize) -> u64 {
    part.saturating_mul(100).as_u64() / whole.as_u64().max(1)
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
        write!(f, "plimsoll {}", self.id)?;
        if !self.label.is_empty() {
            write!(f, " {}", self.label)?;
        }
        self.fmt_sizes(f)?;
        if self.heap.is_some() || self.gauges.iter().flatten().next().is_some() {
            f.write_str(" |")?;
        }
        for (name, bytes) in self.gauges.iter().flatten() {
            write!(f, " {} {}", Clean(name), mib(*bytes))?;
        }
        if let Some(heap) = self.heap {
            write!(f, " unattributed {}", mib(heap.unattributed))?;
        }
        self.fmt_reserved(f)?;
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
        if let Some(own) = self.own {
            write!(f, " | own {own}")?;
        }
        if self.outcome != Outcome::Finished {
            write!(f, " | {}", self.outcome)?;
        }
        if let Some(trimmed) = self.trimmed {
            write!(f, " | {trimmed}")?;
        }
        if self.verdict != LeakVerdict::Unknown {
            write!(f, " | {}", self.verdict)?;
        }
        for (index, site) in self.growing_sites.iter().flatten().enumerate() {
            write!(f, "{} {site} {}", if index == 0 { ":" } else { "," }, grown(site))?;
        }
        if let Some(recommended) = self.recommended_mb() {
            let unsure = if self.invocations < ENOUGH_INVOCATIONS { "?" } else { "" };
            write!(f, " | recommended={recommended}MB{unsure}")?;
        } else if self.needs().is_growing() {
            f.write_str(" | recommended=none")?;
        }
        for (index, alert) in self.alerts().enumerate() {
            write!(f, "{} {alert}", if index == 0 { " | ALERT" } else { "," })?;
        }
        Ok(())
    }
}

/// By how much a site has grown, with its sign.
fn grown(site: &HeapSite) -> ByteDelta {
    ByteDelta::between(ByteSize::ZERO, site.bytes)
}

impl InvocationReport {
    /// Writes the budget and the largest accounts.
    ///
    /// ```text
    ///  | reserved 64.0 of 100.0 drift +2.0 MiB: orders 60.0, thumbnails 4.0      with a budget
    ///  | reserved: orders 60.0, thumbnails 4.0                                   without
    /// ```
    fn fmt_reserved(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reserved) = self.reserved {
            write!(f, " | {reserved}")?;
            if let Some(drift) = self.drift() {
                write!(f, " drift {drift}")?;
            }
        }
        for (index, (name, bytes)) in self.accounts.iter().flatten().enumerate() {
            let before = match (index, self.reserved) {
                (0, None) => " | reserved: ",
                (0, Some(_)) => ": ",
                _ => ", ",
            };
            write!(f, "{before}{} {}", Clean(name), mib(*bytes))?;
        }
        Ok(())
    }

    /// Writes the sizes that every line has, each in MiB with one decimal.
    ///
    /// ```text
    ///  heap 12.1 peak 41.0 of 116 MiB (35 %) rss 48.2 +0 B      all is known
    ///  heap 12.1 peak 125.0 of 116 MiB (107 %, above the capacity) rss 126.3 +0 B
    ///  heap 12.1 peak 41.0 MiB rss 48.2 +0 B                    without a memory limit
    ///  rss 48.2 peak 50.3 of 116 MiB (43 %)                     without the tracking allocator
    /// ```
    fn fmt_sizes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_capacity = |f: &mut fmt::Formatter<'_>, peak: ByteSize| match self.thresholds {
            Some(thresholds) => {
                // In MiB like the sizes before and after it.
                let capacity = thresholds.capacity().saturating_add(ByteSize::kib(512)).as_u64() >> 20;
                let percent = percent_of(peak, thresholds.capacity());
                // The process lives on above 100 %: the kernel kills at the memory size.
                let above = if percent > 100 { ", above the capacity" } else { "" };
                write!(f, " peak {} of {capacity} MiB ({percent} %{above})", mib(peak))
            }
            None => write!(f, " peak {} MiB", mib(peak)),
        };
        if let Some(heap) = self.heap {
            write!(f, " heap {}", mib(heap.live))?;
            of_capacity(f, heap.peak.at_most)?;
            if let Some(rss) = self.rss {
                write!(f, " rss {}", mib(rss))?;
            }
            return write!(f, " {}", heap.growth);
        }
        match self.rss {
            Some(rss) => {
                write!(f, " rss {}", mib(rss))?;
                of_capacity(f, self.peak_rss.max(self.rss).unwrap_or_default())
            }
            None => f.write_str(" memory not available"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn report(verdict: LeakVerdict) -> InvocationReport {
        let mut report = InvocationReport::for_test(Some(AlarmThresholds::new(ByteSize::mib(128))));
        (report.verdict, report.highest_rss, report.invocations) = (verdict, ByteSize::mib(188), 20);
        report
    }

    fn json(report: &InvocationReport) -> Value {
        serde_json::from_str(&json::Record(report).to_string()).unwrap()
    }

    #[test]
    fn recommended_of_a_leak_is_none_in_text_and_null_in_json() {
        let leaking = report(LeakVerdict::growing_for_test());
        assert_eq!(leaking.recommended_mb(), None);
        assert!(leaking.to_string().ends_with(" | recommended=none"), "{leaking}");
        assert_eq!(json(&leaking).get("recommended_mb"), Some(&Value::Null));

        let mut steady = report(LeakVerdict::Steady);
        assert!(steady.to_string().ends_with(" | recommended=235MB"), "{steady}");
        assert_eq!(json(&steady)["recommended_mb"], 235);
        steady.highest_cgroup_anonymous = Some(ByteSize::mib(400));
        steady.invocations = 19;
        assert!(steady.to_string().ends_with(" | recommended=500MB?"), "{steady}");
        assert_eq!(json(&steady)["cgroup_anonymous_highest"], 400 << 20);
        steady.highest_rss = ByteSize::ZERO;
        assert!(!steady.to_string().contains("recommended"), "not known is not a leak: {steady}");
        assert_eq!(json(&steady).get("recommended_mb"), None);
    }

    #[test]
    fn invocations_left_of_a_rise_is_in_the_json() {
        let left = |verdict| json(&report(verdict)).get("invocations_left").cloned();
        for invocations_left in [Some(840), Some(0)] {
            let rising = LeakVerdict::Rising { per_invocation: ByteSize::mib(1), invocations_left };
            let growing = LeakVerdict::Growing { per_invocation: ByteSize::mib(1), invocations_left };
            assert_eq!(left(rising), invocations_left.map(Value::from));
            assert_eq!(left(growing), invocations_left.map(Value::from));
            assert!(!report(growing).to_string().contains(" 0 left"), "{}", report(growing));
        }
        assert_eq!(left(LeakVerdict::Rising { per_invocation: ByteSize::mib(1), invocations_left: None }), None);
    }
}
