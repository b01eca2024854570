//! One invocation, from its start to its report.

use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;

use crate::board::{self, Shown};
use crate::clock::{Stopwatch, micros};
use crate::heap::{self, HeapPeak, HeapSite, InFlightRequest};
use crate::os;
use crate::size::{ByteDelta, ByteSize};

use super::Shared;
use super::alert::{Alert, Alerts, is_a_fifth_over};
use super::caches::CacheCounts;
use super::growth::{Baseline, Due};
use super::leak::{LeakVerdict, LeakWatch, Left, Retention};
use super::policy::ReportPolicy;
use super::report::{InvocationHeap, InvocationReport, Outcome, Reserved};
use super::request_id::{Label, RequestId};
use super::trim::{TrimPolicy, Trimmer};
use super::window::{Sample, Window};

/// How often the trends are looked at, in invocations: sorting the window takes microseconds.
const TREND_EVERY: u64 = 16;

/// What the monitor remembers between invocations.
#[derive(Debug)]
pub(super) struct State {
    pub(super) window: Window,
    leak: LeakWatch,
    pub(super) trimmer: Trimmer,
    /// What the last report said of it.
    pub(super) verdict: LeakVerdict,
    baseline: Baseline,
    /// The sites of the last report with a growing verdict that has read them.
    growing_sites: [Option<HeapSite>; 3],
    /// How many invocations are running.
    in_flight: usize,
    /// How many times a second one began beside another: a number to see whether it happened meanwhile.
    overlaps: u64,
    /// How many ever began: the number of the one that the alarm names.
    started: u64,
    /// What the last report saw, for the budget.
    seen: Option<Seen>,
    /// The highest rss of any invocation, in bytes.
    pub(super) highest_rss: u64,
    /// Alerts that hold: not to be said again.
    pub(super) alerts: Alerts,
    trends: Alerts,
    /// Refusals that a report has counted.
    refused: u64,
    /// What the caches did, as far as reports have told.
    caches: CacheCounts,
    /// What the last printed line told.
    printed: Option<Printed>,
}

/// What there was before the first invocation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    pub(super) refused: u64,
    pub(super) seen: Option<Seen>,
    pub(super) caches: CacheCounts,
}

/// The rss, and the most heap that pages of it carried meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) rss: ByteSize,
    pub(super) carried: ByteSize,
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
    /// Whether it is worth a line of its own; a peak that plays about a tenth is not.
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
        let Before { refused, seen, caches } = before;
        Self {
            window,
            leak: LeakWatch::new(),
            trimmer: Trimmer::new(trim),
            verdict: LeakVerdict::Unknown,
            baseline: Baseline::new(),
            growing_sites: [None; 3],
            in_flight: 0,
            overlaps: 0,
            started: 0,
            seen,
            highest_rss: 0,
            alerts: Alerts::default(),
            trends: Alerts::default(),
            refused,
            caches,
            printed: None,
        }
    }

    /// Forgets what was seen of memory, and what was said of it; what is running runs on.
    pub(super) fn forget(&mut self) {
        (self.seen, self.printed, self.highest_rss) = (None, None, 0);
        (self.alerts, self.trends) = (Alerts::default(), Alerts::default());
    }
}

/// An invocation in flight. [`finish`](Self::finish) reports it; dropped, it is reported as unfinished.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::install_from_env();
/// let invocation = monitor.start("4f1c9a");
/// // ... the work; a `?` here reports it as unfinished ...
/// let report = invocation.finish();
/// println!("{} took {:?}", report.id, report.duration);
/// # Ok::<(), plimsoll::monitor::BuildError>(())
/// ```
#[must_use = "dropped at once, the invocation is reported as unfinished"]
pub struct Invocation {
    shared: Arc<Shared>,
    id: RequestId,
    label: Label,
    /// The entry that the alarm reads.
    listed: InFlightRequest,
    /// Which one it is of all that ever began.
    number: u64,
    started: Stopwatch,
    /// `None` without the tracking allocator.
    live_before: Option<ByteSize>,
    /// The state's `overlaps` when it began; differs at the end if another ran beside it.
    overlaps: u64,
    shared_start: bool,
    /// Whether the peak of the rss began anew with it.
    own_peak_rss: bool,
    reported: bool,
}

impl Invocation {
    pub(super) fn start(shared: Arc<Shared>, id: RequestId) -> Self {
        shared.clock.refresh();
        let mut state = shared.state();
        state.in_flight += 1;
        let shared_start = state.in_flight > 1;
        let mut own_peak_rss = false;
        if shared_start {
            state.overlaps += 1;
        } else {
            heap::reset_peak();
            // Without it the peak rss is the process's, which is no worse than not knowing.
            own_peak_rss = os::reset_peak_rss().is_ok();
        }
        let overlaps = state.overlaps;
        state.started += 1;
        let number = state.started;
        let seen = state.seen.take();
        drop(state);
        let live_before = heap::stats().ok().map(|stats| stats.live);
        shared.correct_budget(live_before, seen);
        let started = Stopwatch::start();
        let label = Label::default();
        let listed = InFlightRequest::start(id.as_str(), label.as_str());
        Self {
            shared,
            id,
            label,
            listed,
            number,
            started,
            live_before,
            overlaps,
            shared_start,
            own_peak_rss,
            reported: false,
        }
    }

    /// Sets the label, such as the route of a request: reports show it next to the id. Default: empty.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// let report = monitor.start("4f1c9a").with_label("/orders/{id}").finish();
    /// assert_eq!(report.label.as_str(), "/orders/{id}");
    /// ```
    pub fn with_label(mut self, label: impl Into<Label>) -> Self {
        self.label = label.into();
        self.listed.set_label(self.label.as_str());
        self
    }

    /// Returns the request id.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Ends the invocation: calls the hooks, builds the report and prints its line, as the policy says.
    ///
    /// Hooks and a trim come first where no other is in flight, then the rss is read, then observers are called, and the
    /// line is written with one system call. All of it is on this thread.
    pub fn finish(mut self) -> InvocationReport {
        self.end(Outcome::Finished)
    }

    fn end(&mut self, outcome: Outcome) -> InvocationReport {
        self.reported = true;
        let duration = self.started.elapsed();
        // Read while this one is in flight: the next to begin alone resets both.
        let peak = heap::stats().ok().map(|books| books.peak);
        let peak_rss = os::peak_rss().ok();
        let (concurrent, last) = self.leave(duration);
        if last {
            self.shared.run_hooks();
        }
        self.shared.resources.invocation_ended();
        let trimmed = if last { self.shared.trim_if_due() } else { None };
        let (mut report, print) = self.conclude(outcome, duration, peak, peak_rss, concurrent);
        report.trimmed = trimmed;
        self.shared.note_used();
        self.shared.show(&report);
        if print {
            report.print();
        }
        report
    }

    /// Is in flight no longer; tells whether another was meanwhile, and whether none is left.
    fn leave(&self, duration: Duration) -> (bool, bool) {
        let mut state = self.shared.state();
        state.trimmer.worked(micros(duration));
        state.in_flight = state.in_flight.saturating_sub(1);
        (self.shared_start || state.overlaps != self.overlaps, state.in_flight == 0)
    }

    /// Builds the report and tells whether it is to be printed.
    fn conclude(
        &mut self,
        outcome: Outcome,
        duration: Duration,
        peak: Option<HeapPeak>,
        peak_rss: Option<ByteSize>,
        concurrent: bool,
    ) -> (InvocationReport, bool) {
        // The alarm, if there is one, names this request.
        let resident = heap::check_now().ok();
        self.listed.end();
        let rss = resident.map(|rss| rss.total);
        let named = Named::read();
        let books = heap::stats().ok();
        // A hook may have left more memory behind than the peak before it.
        let heap = books.zip(peak).zip(self.live_before).map(|((books, peak), live_before)| InvocationHeap {
            live_before,
            live: books.live,
            peak: HeapPeak { at_most: peak.at_most.max(books.live), ..peak },
            growth: ByteDelta::between(live_before, books.live),
            unattributed: heap::split_of_heap(books.live, named.in_gauges).unattributed,
        });
        let (resources, caches) = (self.shared.resources.counts(), self.shared.caches.counts());
        let mut due = Due::Nothing;
        let mut state = self.shared.state();
        let is_latest = state.started == self.number;
        if let Some(heap) = &heap {
            let left = Left {
                live: heap.live.as_u64(),
                explained: named.in_gauges.saturating_add(named.reserved).as_u64(),
                rss: resident,
                capacity: self.shared.thresholds.map(|thresholds| thresholds.capacity().as_u64()),
                // Memory that other invocations use would count as left behind.
                alone: is_latest && !concurrent,
            };
            let beyond = resident.map_or(ByteSize::ZERO, |rss| rss.anonymous.saturating_sub(heap.live));
            let retention = Retention { trimmed: state.trimmer.in_vain(beyond.as_u64()), ..self.shared.retention };
            state.verdict = state.leak.watch(&left, &retention);
            due = state.due_for_sites(&left);
            heap::record_growth(heap.live.saturating_sub(heap.live_before));
            let carried = self.carried(heap, rss, peak_rss);
            state.seen = rss.map(|rss| Seen { rss, carried });
        }
        let resident_peak = peak_rss.max(rss);
        state.highest_rss = state.highest_rss.max(resident_peak.unwrap_or_default().as_u64());
        let refused_so_far = books.map_or(0, |books| books.refused);
        let refused = refused_so_far.saturating_sub(state.refused);
        // Another invocation may have read the count later and come here earlier.
        state.refused = state.refused.max(refused_so_far);
        // Without the tracking allocator the percentiles are of the rss.
        let peak = heap.map(|heap| heap.peak.at_most).or(resident_peak).unwrap_or_default();
        state.window.push(Sample { peak: peak.as_u64(), micros: micros(duration) });
        let mut report = InvocationReport {
            id: self.id,
            label: self.label,
            outcome,
            heap,
            rss,
            peak_rss,
            highest_rss: ByteSize::bytes(state.highest_rss),
            thresholds: self.shared.thresholds,
            crossed: heap::highest_crossed_threshold(),
            reserved: self.shared.budget.as_ref().map(Reserved::of),
            refused,
            gauges: named.gauges,
            accounts: named.accounts,
            resources,
            verdict: state.verdict,
            growing_sites: state.growing_sites,
            trimmed: None,
            caches: caches.since(&mut state.caches),
            duration,
            concurrent,
            invocations: state.window.count(),
            share: self.shared.share,
            alerts: Alerts::default(),
        };
        report.alerts = state.new_alerts(&report);
        let print = state.is_due(&report, self.shared.policy);
        drop(state);
        self.compare_sites(due, &mut report);
        (report, print)
    }

    /// Does the profiler's work after a report, without the lock of the state, because it can resolve names.
    fn compare_sites(&self, due: Due, report: &mut InvocationReport) {
        match due {
            Due::Nothing => (),
            Due::Baseline => heap::record_baseline(),
            Due::GrowingSites => {
                let top = self.shared.thresholds.and_then(|all| Some(all.threshold(all.percents().max()?)));
                report.growing_sites = heap::growing_sites(top);
                self.shared.state().growing_sites = report.growing_sites;
            }
        }
    }

    /// Returns the most heap that the resident pages carried at one moment of this invocation.
    fn carried(&self, heap: &InvocationHeap, rss: Option<ByteSize>, peak_rss: Option<ByteSize>) -> ByteSize {
        if self.shared_start {
            // The peak may be older than this invocation, and its pages released since.
            return heap.live.max(heap.live_before);
        }
        // Pages that were released before the end carry nothing any more.
        let peak_rss = peak_rss.filter(|_| self.own_peak_rss).unwrap_or_default();
        let released = peak_rss.saturating_sub(rss.unwrap_or_default());
        heap.peak.at_most.saturating_sub(released).max(heap.live)
    }
}

impl Drop for Invocation {
    fn drop(&mut self) {
        if !self.reported {
            self.end(Outcome::Unfinished);
        }
    }
}

impl std::fmt::Debug for Invocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invocation").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The largest gauges and accounts, and the sums of all.
struct Named {
    gauges: [Option<(&'static str, ByteSize)>; 3],
    in_gauges: ByteSize,
    accounts: [Option<(&'static str, ByteSize)>; 3],
    reserved: ByteSize,
}

impl Named {
    fn read() -> Self {
        let (gauges, in_gauges) = board::largest_gauges();
        let (accounts, reserved) = board::largest_reserved();
        let names = |top: [Option<(Shown, ByteSize)>; 3]| top.map(|held| held.map(|(name, held)| (name.name(), held)));
        Self { gauges: names(gauges), in_gauges, accounts: names(accounts), reserved }
    }
}

impl State {
    /// Returns the profiler's work after a report. Forgets the growing sites when the verdict has changed.
    fn due_for_sites(&mut self, left: &Left) -> Due {
        if !matches!(self.verdict, LeakVerdict::Growing { .. }) {
            self.growing_sites = [None; 3];
        }
        self.baseline.watch(left.live.saturating_sub(left.explained), self.verdict)
    }

    /// The alerts that hold now and have not been said since they last cleared.
    fn new_alerts(&mut self, report: &InvocationReport) -> Alerts {
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

    fn is_due(&mut self, report: &InvocationReport, policy: ReportPolicy) -> bool {
        let now = Printed {
            percent: report.percent(),
            crossed: report.crossed,
            fits_mb: report.fits_mb(),
            verdict: discriminant(&report.verdict),
        };
        let due = match policy {
            ReportPolicy::Off => return false,
            ReportPolicy::Each => true,
            ReportPolicy::Every(n) => (report.invocations - 1).is_multiple_of(u64::from(n.get())),
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

    /// Invocations with these peaks and durations, and which alerts each raised anew.
    fn alerts(samples: impl Iterator<Item = (u64, u64)>) -> Vec<(usize, Vec<Alert>)> {
        let mut state = State::new(Window::new(32), Before::default(), TrimPolicy::off());
        let thresholds = AlarmThresholds::new(ByteSize::mib(1024));
        let report = InvocationReport::for_test(Some(thresholds));
        let mut raised = |(peak, micros)| {
            state.window.push(Sample { peak, micros });
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
