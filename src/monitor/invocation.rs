//! One invocation, from its start to its report.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::board::{self, Shown};
use crate::clock::Stopwatch;
use crate::heap::{self, HeapPeak, InFlightRequest, Meter, MeterReading};
use crate::os;
use crate::size::{ByteDelta, ByteSize};

use super::Shared;
use super::activity::{Ended, Started};
use super::alert::Alerts;
use super::growth::Due;
use super::leak::{End, Figures, Left};
use super::report::{InvocationHeap, InvocationReport, Outcome, Reserved};
use super::request::Request;
use super::request_id::{Label, RequestId};
use super::request_scope::{RequestHeap, RequestScope};
use super::state::State;
use super::trim::Trimmed;
use super::window::Sample;

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
    started: Started,
    /// The figures for the full report; `None` if the invocation is only counted.
    before: Option<Before>,
    /// The heap of its scope, once [`scope`](Self::scope) was called.
    meter: OnceLock<Arc<Meter>>,
    has_ended: bool,
}

/// The figures at the start of an invocation with a full report.
#[derive(Clone, Copy, Debug)]
struct Before {
    /// `None` without the tracking allocator.
    live: Option<ByteSize>,
    /// The peak of the rss was reset.
    has_reset_rss: bool,
    /// The time that it took to read them.
    took: Duration,
}

impl Before {
    /// Reads the figures, and resets the peaks for an invocation that is alone.
    fn read(shared: &Shared, is_shared: bool) -> Self {
        let reading = Stopwatch::start();
        let mut has_reset_rss = false;
        if !is_shared {
            heap::reset_peak();
            // Without it the peak rss is the process's, which is no worse than not knowing.
            has_reset_rss = os::reset_peak_rss().is_ok();
        }
        let live = heap::stats().ok().map(|stats| stats.live);
        shared.relieve_budget();
        Self { live, has_reset_rss, took: reading.elapsed() }
    }
}

impl Invocation {
    /// Starts an invocation with a full report.
    pub(super) fn start(shared: Arc<Shared>, id: RequestId) -> Self {
        shared.clock.refresh();
        let started = shared.activity.start();
        let before = Some(Before::read(&shared, started.is_shared));
        Self::new(shared, id, Label::default(), started, before)
    }

    /// Starts an invocation that its caller measures. It gets a full report if one is
    /// [due](super::MonitorBuilder::report_share).
    #[cfg(feature = "tower")]
    pub(super) fn start_sampled(shared: Arc<Shared>, id: RequestId, label: Label) -> Self {
        let started = shared.activity.start();
        let before = shared.activity.is_full(&started).then(|| {
            shared.clock.refresh();
            Before::read(&shared, started.is_shared)
        });
        Self::new(shared, id, label, started, before)
    }

    fn new(shared: Arc<Shared>, id: RequestId, label: Label, started: Started, before: Option<Before>) -> Self {
        let listed = InFlightRequest::start(id.as_bytes(), label.as_bytes());
        shared.activity.take_level(heap::live_estimate());
        Self { shared, id, label, listed, started, before, meter: OnceLock::new(), has_ended: false }
    }

    /// Sets the label, such as the route of a request: reports show it next to the id, and
    /// [`Monitor::labels`](super::Monitor::labels) sums by it. Default: empty.
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
        self.listed.set_label(self.label.as_bytes());
        self
    }

    /// Returns the request id.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Returns the scope of this invocation. What runs in it is measured, and is [`InvocationReport::own`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// # async fn work() {}
    /// # async fn serve(monitor: plimsoll::Monitor) {
    /// let invocation = monitor.start("4f1c9a");
    /// invocation.scope().instrument(work()).await;
    /// println!("{:?}", invocation.finish().own);
    /// # }
    /// ```
    pub fn scope(&self) -> RequestScope {
        RequestScope::new(Arc::<Meter>::clone(self.meter.get_or_init(Arc::default)))
    }

    /// Lets the alarm know how much the request has held at most.
    #[cfg(feature = "tower")]
    pub(crate) fn note_peak(&self, peak: ByteSize) {
        self.listed.set_peak(peak);
    }

    /// Ends the invocation: runs the [maintenance](super::Monitor::run_maintenance) that is due, builds the report and
    /// prints its line by the policy.
    ///
    /// Hooks and a trim come first, then the rss is read, then observers are called, and the line is written with one
    /// system call. All of it is on this thread.
    pub fn finish(mut self) -> InvocationReport {
        let before = self.before.take().unwrap_or(Before { live: None, has_reset_rss: false, took: Duration::ZERO });
        let own = self.own();
        self.report(Outcome::Finished, before, own)
    }

    /// Returns what was measured in the scope of the invocation.
    fn own(&mut self) -> Option<MeterReading> {
        let meter = self.meter.take()?;
        if let Some(own) = meter.read() {
            self.listed.set_peak(own.peak);
        }
        meter.read()
    }

    /// Ends an invocation that its caller has measured, with a report or without.
    pub(crate) fn end(&mut self, outcome: Outcome, own: Option<MeterReading>) {
        match self.before.take() {
            Some(before) => _ = self.report(outcome, before, own),
            None => self.count(outcome, own.map(RequestHeap::from)),
        }
    }

    /// Ends the invocation with counters only.
    fn count(&mut self, outcome: Outcome, own: Option<RequestHeap>) {
        self.has_ended = true;
        self.shared.activity.take_level(heap::live_estimate());
        let ended = self.shared.activity.end(&self.started, false);
        self.listed.end();
        self.shared.labels.record(&self.label, own);
        self.show_request(outcome, &ended, own);
        self.shared.resources.invocation_ended();
        let _trimmed = self.shared.maintain(&ended, false);
    }

    fn show_request(&self, outcome: Outcome, ended: &Ended, own: Option<RequestHeap>) {
        let &Ended { duration, concurrent, .. } = ended;
        self.shared.observers.show(&Request { id: self.id, label: self.label, outcome, own, duration, concurrent });
    }

    /// Ends the invocation with a full report.
    fn report(&mut self, outcome: Outcome, before: Before, own: Option<MeterReading>) -> InvocationReport {
        let reporting = Stopwatch::start();
        self.has_ended = true;
        let own = own.map(RequestHeap::from);
        // Read while this one is in flight: the next to begin alone resets both.
        let peak = heap::stats().ok().map(|books| books.peak);
        let peak_rss = os::peak_rss().ok();
        let ended = self.shared.activity.end(&self.started, true);
        self.shared.resources.invocation_ended();
        let trimmed = self.shared.maintain(&ended, true);
        let (report, is_due) = self.conclude(outcome, &ended, &Measured { before, peak, peak_rss, own, trimmed });
        self.shared.note_used();
        self.show_request(outcome, &ended, own);
        self.shared.show(&report, is_due);
        self.shared.activity.full_report_took(before.took + reporting.elapsed());
        report
    }

    /// Builds the report and tells whether it is to be printed.
    fn conclude(&mut self, outcome: Outcome, ended: &Ended, measured: &Measured) -> (InvocationReport, bool) {
        let &Measured { before, peak, peak_rss, own, trimmed } = measured;
        let &Ended { duration, concurrent, number, .. } = ended;
        // The alarm, if there is one, names this request.
        let resident = heap::check_now().ok();
        self.listed.end();
        let rss = resident.map(|rss| rss.total);
        self.shared.cgroup_peak.sample(self.shared.clock.now());
        let named = Named::read();
        let books = heap::stats().ok();
        // A hook may have left more memory behind than the peak before it.
        let heap = books.zip(peak).zip(before.live).map(|((books, peak), live_before)| InvocationHeap {
            live_before,
            live: books.live,
            peak: HeapPeak { at_most: peak.at_most.max(books.live), ..peak },
            growth: ByteDelta::between(live_before, books.live),
            unattributed: heap::split_of_heap(books.live, named.in_gauges).unattributed,
        });
        let (resources, caches) = (self.shared.resources.counts(), self.shared.caches.counts());
        // After the heap was read, because the first request with a label allocates for it.
        self.shared.labels.record(&self.label, own);
        let of_label = self.shared.labels.of(&self.label);
        let mut due = Due::Nothing;
        // Before the lock, because a reading can take milliseconds.
        let figures = heap.map(|heap| self.shared.beyond.read(resident, heap.live)).unwrap_or_default();
        let mut state = self.shared.state();
        if let Some(heap) = &heap {
            due = self.judge(
                &mut state,
                heap,
                &named,
                (resident, figures),
                &Peak { rss: peak_rss, before, ended, is_trimmed: trimmed.is_some() },
            );
        }
        let resident_peak = peak_rss.max(rss);
        state.highest_rss = state.highest_rss.max(resident_peak.unwrap_or_default().as_u64());
        let refused_so_far = books.map_or(0, |books| books.refused);
        let refused = refused_so_far.saturating_sub(state.refused);
        // Another invocation may have read the count later and come here earlier.
        state.refused = state.refused.max(refused_so_far);
        // Without the tracking allocator the percentiles are of the rss.
        let peak = heap.map(|heap| heap.peak.at_most).or(resident_peak).unwrap_or_default();
        state.window.push(Sample { peak: peak.as_u64(), is_own_peak: !concurrent });
        let mut report = InvocationReport {
            id: self.id,
            label: self.label,
            outcome,
            own,
            of_label,
            heap,
            rss,
            peak_rss,
            highest_rss: ByteSize::bytes(state.highest_rss),
            highest_cgroup_anonymous: self.shared.cgroup_peak.highest(),
            thresholds: self.shared.thresholds,
            crossed: heap::highest_crossed_threshold(),
            reserved: self.shared.budget.as_ref().map(Reserved::of),
            refused,
            gauges: named.gauges,
            accounts: named.accounts,
            resources,
            verdict: state.verdict,
            growing_sites: state.growing_sites,
            trimmed,
            caches: caches.since(&mut state.caches),
            duration,
            concurrent,
            invocations: number,
            share: self.shared.share,
            alerts: Alerts::default(),
        };
        report.alerts = state.new_alerts(&report);
        let is_due = state.is_due(&report, self.shared.policy);
        drop(state);
        self.compare_sites(due, &mut report);
        (report, is_due)
    }

    /// Updates the leak verdict. Returns the profiler's work.
    fn judge(
        &self,
        state: &mut State,
        heap: &InvocationHeap,
        named: &Named,
        (resident, figures): (Option<os::Rss>, Figures),
        peak: &Peak<'_>,
    ) -> Due {
        let activity = &self.shared.activity;
        let &Ended { concurrent, left: in_flight, number, .. } = peak.ended;
        let counted = activity.counted();
        let has_counted = counted != std::mem::replace(&mut state.counted, counted);
        let floor = activity.take_floor();
        let is_alone = !concurrent && !has_counted && activity.is_latest(&self.started);
        let live = heap.live.as_u64();
        let rss = resident.map_or(0, |rss| rss.total.as_u64());
        let left = Left {
            live,
            // If no other was there, the level at its end; that at its start is the level of the one before.
            floor: if is_alone { live } else { floor.min(live) },
            explained: named.in_gauges.saturating_add(named.reserved).as_u64(),
            rss: resident,
            peak_rss: match peak.rss {
                Some(peak_rss) if is_alone && peak.before.has_reset_rss => peak_rss.as_u64().max(rss),
                _ => rss,
            },
            capacity: self.shared.thresholds.map(|thresholds| thresholds.capacity().as_u64()),
            ended: number,
            in_flight: in_flight + 1,
            at: activity.age(),
        };
        if let Some(rss) = resident {
            let end = End {
                anonymous: rss.anonymous.as_u64(),
                live,
                peak: heap.peak.at_most.as_u64(),
                concurrent,
                is_trimmed: peak.is_trimmed,
            };
            state.trims.record(&end, &figures);
        }
        let retention = self.shared.beyond.retention(figures, state.trims);
        state.verdict = state.leak.watch(&left, &retention);
        heap::record_growth(heap.live.saturating_sub(heap.live_before));
        state.due_for_sites(&left)
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
}

/// The highest rss of an invocation, and the figures that show whether it is of that alone.
struct Peak<'a> {
    rss: Option<ByteSize>,
    before: Before,
    ended: &'a Ended,
    /// Its end has trimmed.
    is_trimmed: bool,
}

/// Figures of a full report before it is built.
struct Measured {
    before: Before,
    peak: Option<HeapPeak>,
    peak_rss: Option<ByteSize>,
    own: Option<RequestHeap>,
    trimmed: Option<Trimmed>,
}

impl Drop for Invocation {
    fn drop(&mut self) {
        if !self.has_ended {
            let own = self.own();
            self.end(Outcome::Unfinished, own);
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
