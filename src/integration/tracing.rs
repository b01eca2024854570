//! The report as an event of `tracing`.

use std::fmt;

use ::tracing::Level;
use ::tracing::field;

use crate::board::Clean;
use crate::clock::micros;
use crate::monitor::{InvocationReport, LeakVerdict, MonitorBuilder};
use crate::size::{ByteDelta, ByteSize};

/// The target of the events, for filters.
///
/// # Examples
///
/// ```
/// assert_eq!(plimsoll::integration::tracing::TARGET, "plimsoll");
/// ```
pub const TARGET: &str = "plimsoll";

macro_rules! emit {
    ($level:expr, $report:ident) => {{
        let reserved = $report.reserved;
        let bytes = |size: Option<ByteSize>| size.map(ByteSize::as_u64);
        ::tracing::event!(
            target: TARGET,
            $level,
            request_id = $report.id.as_str(),
            outcome = $report.outcome.as_str(),
            duration_us = micros($report.duration),
            concurrent = $report.concurrent,
            invocations = $report.invocations,
            label = Some($report.label.as_str()).filter(|label| !label.is_empty()),
            own_allocated = bytes($report.own.map(|own| own.allocated)),
            own_net = $report.own.map(|own| own.net.as_i64()),
            own_peak = bytes($report.own.map(|own| own.peak)),
            heap_live = bytes($report.heap.map(|heap| heap.live)),
            heap_peak = bytes($report.heap.map(|heap| heap.peak.at_most)),
            heap_percent = $report.percent(),
            heap_growth = $report.heap.map(|heap| heap.growth.as_i64()),
            heap_unattributed = bytes($report.heap.map(|heap| heap.unattributed)),
            allocations_refused = $report.refused,
            memory_size = bytes($report.thresholds.map(|thresholds| thresholds.memory_size())),
            rss = bytes($report.rss),
            rss_peak = bytes($report.peak_rss),
            rss_highest = bytes(Some($report.highest_rss).filter(|rss| *rss > ByteSize::ZERO)),
            recommended_mb = $report.recommended_mb(),
            alarm_threshold = $report.crossed,
            budget_reserved = bytes(reserved.map(|reserved| reserved.bytes)),
            budget_room = bytes(reserved.map(|reserved| reserved.capacity)),
            budget_pressure = reserved.map(|reserved| field::display(reserved.pressure)),
            budget_drift = $report.drift().map(ByteDelta::as_i64),
            verdict = Some($report.verdict).filter(|verdict| *verdict != LeakVerdict::Unknown).map(field::display),
            trimmed = bytes($report.trimmed.map(|trimmed| trimmed.given_back)),
            evicted = (!$report.caches.is_none_evicted()).then(|| field::display($report.caches)),
            resources = (!$report.resources.is_empty()).then(|| field::display($report.resources)),
            alerts = $report.alerts().next().map(|_| field::display(Alerts($report))),
            growing_sites = $report.growing_sites[0].map(|_| field::display(Sites($report))),
            gauges = $report.gauges[0].map(|_| field::display(Names(&$report.gauges))),
            reserved = $report.accounts[0].map(|_| field::display(Names(&$report.accounts))),
            "memory of an invocation"
        );
    }};
}

impl MonitorBuilder {
    /// Emits each report that the [policy](Self::report) selects as an [event](event()) of `tracing`, in the place of its
    /// line on standard error.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # #[global_allocator] static GLOBAL: plimsoll::TrackingAllocator = plimsoll::TrackingAllocator::new();
    /// # fn main() -> Result<(), plimsoll::monitor::BuildError> {
    /// let monitor = plimsoll::Monitor::builder().emit_tracing().install()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn emit_tracing(self) -> Self {
        self.print_reports(false).on_report(event)
    }
}

/// Emits the report as one event with a field for each figure: an observer for a
/// [monitor](crate::monitor::MonitorBuilder::on_report). [`MonitorBuilder::emit_tracing`] is all that most programs need.
///
/// The level is `INFO`, and `WARN` if there is an [alert](InvocationReport::alerts) or an alarm threshold is crossed. Sizes
/// are in bytes, and what is not known has no field:
///
/// ```text
/// request_id label outcome duration_us concurrent invocations
/// own_allocated own_net own_peak                                    of a request under a layer
/// heap_live heap_peak heap_percent heap_growth heap_unattributed allocations_refused
/// memory_size rss rss_peak rss_highest recommended_mb alarm_threshold
/// budget_reserved budget_room budget_pressure budget_drift          with a budget
/// verdict trimmed evicted                                           where there is one, where there were any
/// resources                                                         with resources, in words
/// alerts growing_sites gauges reserved                              if there are any, in words
/// ```
///
/// ```
/// use plimsoll::{Monitor, integration::tracing, monitor::ReportPolicy};
///
/// let monitor = Monitor::builder().report(ReportPolicy::Off).build()?;
/// tracing::event(&monitor.start("4f1c9a").finish());
/// # Ok::<(), plimsoll::monitor::BuildError>(())
/// ```
///
/// The event belongs to the span that is entered on the thread which ends the invocation, if one is. Allocates nothing
/// itself; what it costs beyond that is the subscriber's. With none, or one that is not interested, it costs some
/// nanoseconds.
pub fn event(report: &InvocationReport) {
    // The level of an event is a constant of its place in the code.
    if report.crossed.is_some() || report.alerts().next().is_some() {
        emit!(Level::WARN, report);
    } else {
        emit!(Level::INFO, report);
    }
}

/// `near-limit, rising-memory`
struct Alerts<'a>(&'a InvocationReport);

impl fmt::Display for Alerts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.alerts().enumerate().try_for_each(|(index, alert)| write!(f, "{}{alert}", comma(index)))
    }
}

/// `sessions 4.9 MiB, model 1.0 MiB`
struct Names<'a>(&'a [Option<(&'static str, ByteSize)>]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = self.0.iter().flatten().enumerate();
        names.try_for_each(|(index, (name, held))| write!(f, "{}{} {held}", comma(index), Clean(name)))
    }
}

/// `app::remember (src/main.rs:12) 12.4 MiB`
struct Sites<'a>(&'a InvocationReport);

impl fmt::Display for Sites<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sites = self.0.growing_sites.iter().flatten().enumerate();
        sites.try_for_each(|(index, site)| write!(f, "{}{site} {}", comma(index), site.bytes))
    }
}

const fn comma(index: usize) -> &'static str {
    if index == 0 { "" } else { ", " }
}
