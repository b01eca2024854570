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
    recommended_mb: Option<u64>,
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
        let rest = |printed: Self| (printed.crossed, printed.recommended_mb, printed.verdict);
        apart || rest(self) != rest(other)
    }
}

impl State {
    pub(super) fn new(window: Window, before: Before, trim: TrimPolicy, on_lambda: bool) -> Self {
        let Before { refused, caches } = before;
        Self {
            window,
            leak: LeakWatch::new(on_lambda),
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
        (self.verdict, self.growing_sites, self.baseline) = (LeakVerdict::Unknown, [None; 3], Baseline::new());
        self.leak.forget();
        self.trims = Trims::new();
    }
}

impl State {
    /// Returns the profiler's work after a report. Forgets the growing sites when it rises no more.
    pub(super) fn due_for_sites(&mut self, left: &Left) -> Due {
        let is_rise = self.leak.is_rise();
        if !is_rise {
            self.growing_sites = [None; 3];
        }
        self.baseline.watch(left.live.saturating_sub(left.explained), is_rise, self.verdict)
    }

    /// Returns the alerts that hold now and were in no report since they last cleared.
    pub(super) fn new_alerts(&mut self, report: &InvocationReport) -> Alerts {
        if self.window.count().is_multiple_of(TREND_EVERY) {
            let rising = self.window.halves().is_some_and(|(older, newer)| is_a_fifth_over(older, newer));
            self.trends = Alerts::default().with(Alert::RisingMemory, rising);
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
            recommended_mb: report.recommended_mb(),
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

    /// Returns the new alerts of invocations with these peaks, with `true` if the peak is their own.
    fn alerts(samples: impl Iterator<Item = (u64, bool)>) -> Vec<(usize, Vec<Alert>)> {
        let mut state = State::new(Window::new(32), Before::default(), TrimPolicy::off(), false);
        let thresholds = AlarmThresholds::new(ByteSize::mib(1024));
        let report = InvocationReport::for_test(Some(thresholds));
        let mut raised = |(peak, is_own_peak)| {
            state.window.push(Sample { peak, is_own_peak });
            state.new_alerts(&report).iter().collect::<Vec<_>>()
        };
        samples.map(&mut raised).enumerate().filter(|(_, alerts)| !alerts.is_empty()).collect()
    }

    fn flat(peak: u64, is_own_peak: bool) -> impl Iterator<Item = (u64, bool)> {
        std::iter::repeat_n((peak, is_own_peak), 64)
    }

    #[test]
    fn rising_memory_is_reported_once_until_it_clears() {
        // The window of 32 is looked at every 16th time; 16 new ones are its newer half.
        let steps = flat(1000, true).chain(flat(1201, true)).chain(flat(1000, true));
        let raised = alerts(steps.chain(flat(1300, true)));
        assert_eq!(raised, [(64 + 15, vec![Alert::RisingMemory]), (3 * 64 + 15, vec![Alert::RisingMemory])]);
    }

    #[test]
    fn rising_memory_of_a_fifth_or_half_a_window_or_noise_is_none() {
        assert_eq!(alerts(flat(1000, true).chain(flat(1200, true))), []);
        assert_eq!(alerts((0..31).map(|n| (n * 1000, true))), []);
        assert_eq!(alerts((0..1000).map(|n| (1000 + n * 7919 % 500, true))), []);
    }

    #[test]
    fn rising_memory_of_concurrent_invocations_is_none() {
        assert_eq!(alerts(flat(1000, true).chain(flat(9000, false))), [], "more requests at once are no rise");
        assert_eq!(alerts(flat(1000, false).chain(flat(9000, false))), []);
        let alternating = |peak| (0..64).flat_map(move |_| [(peak, true), (50_000, false)]);
        assert_eq!(alerts(alternating(1000).chain(alternating(1300))).len(), 1, "those that were alone have risen");
    }
}
