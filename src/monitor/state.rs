//! The state of a monitor between reports.

use std::mem::{Discriminant, discriminant};

use crate::heap::HeapSite;
use crate::size::ByteSize;

use super::alert::{Alert, Alerts, is_a_fifth_over};
use super::caches::CacheCounts;
use super::growth::{Baseline, Due};
use super::leak::{LeakVerdict, LeakWatch, Left, Trims};
use super::policy::ReportPolicy;
use super::report::InvocationReport;
use super::trim::{TrimPolicy, Trimmer};
use super::window::Window;

/// Reports from one check of the trends to the next: sorting the window takes microseconds.
const TREND_EVERY: u64 = 16;

/// The state of a monitor between reports.
#[derive(Debug)]
pub(super) struct State {
    pub(super) window: Window,
    pub(super) leak: LeakWatch,
    pub(super) trimmer: Trimmer,
    /// Trims of all callers, as the verdict needs them.
    pub(super) trims: Trims,
    /// The verdict of the last report.
    pub(super) verdict: LeakVerdict,
    baseline: Baseline,
    /// The sites of the last report with a growing verdict that has read them.
    pub(super) growing_sites: [Option<HeapSite>; 3],
    /// The highest rss of any invocation, in bytes.
    pub(super) highest_rss: u64,
    /// Alerts that hold. They are in no further report until they clear.
    pub(super) alerts: Alerts,
    trends: Alerts,
    /// Refusals that a report has counted.
    pub(super) refused: u64,
    /// Counts of the caches as of the last report.
    pub(super) caches: CacheCounts,
    /// Invocations without a report, as of the last report.
    pub(super) counted: u64,
    /// Figures of the last printed line.
    printed: Option<Printed>,
    /// With [`ReportPolicy::Every`]: the number of the next invocation that prints its line, from 0.
    next_print: u64,
}

/// Figures from before the first invocation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    pub(super) refused: u64,
    pub(super) caches: CacheCounts,
}

#[derive(Clone, Copy, Debug)]
struct Printed {
    /// The peak in percent of the capacity; `None` if either is not known.
    percent: Option<u64>,
    crossed: Option<u8>,
    fits_mb: Option<u64>,
    /// Which verdict, whatever its figures.
    verdict: Discriminant<LeakVerdict>,
}

impl Printed {
    /// Returns `true` if it differs enough for a line of its own. A peak that varies by less than a tenth does not.
    fn differs_from(self, other: Self) -> bool {
        let apart = match (self.percent, other.percent) {
            (Some(own), Some(other)) => own.abs_diff(other) >= 10,
            (own, other) => own != other,
        };
        apart || (self.crossed, self.fits_mb, self.verdict) != (other.crossed, other.fits_mb, other.verdict)
    }
}

impl State {
    pub(super) fn new(window: Window, before: Before, trim: TrimPolicy) -> Self {
        let Before { refused, caches } = before;
        Self {
            window,
            leak: LeakWatch::new(),
            trimmer: Trimmer::new(trim),
            trims: Trims::new(),
            verdict: LeakVerdict::Unknown,
            baseline: Baseline::new(),
            growing_sites: [None; 3],
            counted: 0,
            next_print: 0,
            highest_rss: 0,
            alerts: Alerts::default(),
            trends: Alerts::default(),
            refused,
            caches,
            printed: None,
        }
    }

    /// Clears all figures of memory and all alerts. Invocations in flight go on.
    pub(super) fn forget(&mut self) {
        (self.printed, self.highest_rss) = (None, 0);
        (self.alerts, self.trends) = (Alerts::default(), Alerts::default());
    }
}

impl State {
    /// Returns the profiler's work after a report. Forgets the growing sites when the verdict has changed.
    pub(super) fn due_for_sites(&mut self, left: &Left) -> Due {
        if !matches!(self.verdict, LeakVerdict::Growing { .. }) {
            self.growing_sites = [None; 3];
        }
        self.baseline.watch(left.live.saturating_sub(left.explained), self.verdict)
    }

    /// Returns the alerts that hold now and were in no report since they last cleared.
    pub(super) fn new_alerts(&mut self, report: &InvocationReport) -> Alerts {
        if self.window.count().is_multiple_of(TREND_EVERY) {
            let rising = self.window.halves(|sample| sample.peak);
            let slower = self.window.halves(|sample| sample.micros);
            let over = |halves: Option<(u64, u64)>| halves.is_some_and(|(older, newer)| is_a_fifth_over(older, newer));
            self.trends =
                Alerts::default().with(Alert::RisingMemory, over(rising)).with(Alert::SlowerInvocations, over(slower));
        }
        let heap_peak = report.heap.map_or(ByteSize::ZERO, |heap| heap.peak.at_most);
        let peak = heap_peak.max(report.peak_rss.unwrap_or_default());
        let near = report.thresholds.is_some_and(|thresholds| peak > thresholds.threshold(90));
        let growing = matches!(report.verdict, LeakVerdict::Growing { .. });
        let now = self.trends.with(Alert::NearLimit, near).with(Alert::Refused, report.refused > 0);
        let now = now.with(Alert::GrowingHeap, growing);
        let new = now.new_since(self.alerts);
        self.alerts = now;
        new
    }

    pub(super) fn is_due(&mut self, report: &InvocationReport, policy: ReportPolicy) -> bool {
        let now = Printed {
            percent: report.percent(),
            crossed: report.crossed,
            fits_mb: report.fits_mb(),
            verdict: discriminant(&report.verdict),
        };
        let due = match policy {
            ReportPolicy::Off => return false,
            ReportPolicy::Each => true,
            ReportPolicy::Every(n) => {
                // Not every invocation gets here, so it is the first one at or after the next multiple.
                let number = report.invocations.saturating_sub(1);
                let n = u64::from(n.get());
                let is_due = number >= self.next_print;
                if is_due {
                    self.next_print = (number / n + 1) * n;
                }
                is_due
            }
            ReportPolicy::OnChange => self.printed.is_none_or(|printed| now.differs_from(printed)),
        };
        let due = due || !report.alerts.is_empty();
        if due {
            self.printed = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::AlarmThresholds;
    use crate::monitor::window::Sample;

    /// Returns the new alerts of invocations with these peaks and durations.
    fn alerts(samples: impl Iterator<Item = (u64, u64)>) -> Vec<(usize, Vec<Alert>)> {
        let mut state = State::new(Window::new(32), Before::default(), TrimPolicy::off());
        let thresholds = AlarmThresholds::new(ByteSize::mib(1024));
        let report = InvocationReport::for_test(Some(thresholds));
        let mut raised = |(peak, micros)| {
            state.window.push(Sample { peak, micros, is_own_peak: true });
            state.new_alerts(&report).iter().collect::<Vec<_>>()
        };
        samples.map(&mut raised).enumerate().filter(|(_, alerts)| !alerts.is_empty()).collect()
    }

    #[test]
    fn a_median_a_fifth_over_the_older_half_is_said_once_and_again_after_it_cleared() {
        let flat = |peak, micros| std::iter::repeat_n((peak, micros), 64);
        // The window of 32 is looked at every 16th time; 16 new ones are its newer half.
        let steps = flat(1000, 50).chain(flat(1201, 50)).chain(flat(1000, 50)).chain(flat(1000, 61));
        let said = alerts(steps.chain(flat(1300, 80)));
        let expected = [
            (64 + 15, vec![Alert::RisingMemory]),
            (3 * 64 + 15, vec![Alert::SlowerInvocations]),
            (4 * 64 + 15, vec![Alert::RisingMemory, Alert::SlowerInvocations]),
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_fifth_is_no_rise_nor_is_a_window_half_empty_nor_noise() {
        let flat = |peak, micros| std::iter::repeat_n((peak, micros), 64);
        assert_eq!(alerts(flat(1000, 50).chain(flat(1200, 60))), []);
        assert_eq!(alerts((0..31).map(|n| (n * 1000, n))), []);
        assert_eq!(alerts((0..1000).map(|n| (1000 + n * 7919 % 500, 100 + n * 31 % 60))), []);
    }
}
