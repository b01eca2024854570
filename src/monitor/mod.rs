//! One line per invocation: the memory it used, the components that hold memory, the memory size that fits.
//!
//! ```
//! use plimsoll::{Monitor, TrackingAllocator};
//!
//! #[global_allocator]
//! static GLOBAL: TrackingAllocator = TrackingAllocator::new();
//!
//! fn main() {
//!     let monitor = Monitor::install_from_env();          // memory limit, report policy, alarm, abort report
//!     let invocation = monitor.start("4f1c9a");
//!     // ... the work ...
//!     let report = invocation.finish();                   // prints the line, by the policy
//!     let heap = report.heap.expect("the allocator is installed");
//!     assert!(heap.peak.at_most >= heap.live);
//! }
//! ```
//!
//! ```text
//! plimsoll 4f1c9a heap 12.1 peak 41.0 of 116 MiB (35 %) rss 48.2 +0 B | sessions 4.9 unattributed 7.2 | steady | recommended=128MB
//! ```
//!
//! 12.1 MiB of heap are live at the end. The peak during the invocation was 41.0 MiB, which is 35 % of the memory size less
//! the environment's share. The kernel counts 48.2 MiB. The live heap did not change. The [`board`](crate::board) names
//! `sessions`. The heap does not grow from invocation to invocation, see [`LeakVerdict`]. A memory size of 128 MB is
//! sufficient; `128MB?` is an estimate from fewer than 20 invocations.
//!
//! An HTTP service or a Lambda function does not call `start` and `finish`; a layer does: see
//! [`integration`](crate::integration). With the feature `emf` reports become CloudWatch metrics: see `Emf`.

mod activity;
mod alert;
mod builder;
mod caches;
#[cfg(feature = "emf")]
mod emf;
mod growth;
mod histogram;
mod invocation;
mod json;
mod labels;
mod leak;
mod maintenance;
mod observers;
mod policy;
mod profile;
mod recommend;
mod report;
mod request;
mod request_id;
mod request_scope;
mod resources;
mod restore;
#[cfg(test)]
mod schema_tests;
mod snapshot;
mod startup;
mod state;
mod trim;
mod window;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
#[cfg(feature = "http")]
use std::time::Duration;

use crate::budget::MemoryBudget;
use crate::clock::{Clock, Stopwatch};
use crate::heap::{self, AlarmThresholds};
use crate::log::warn;
use crate::os;
use crate::size::ByteSize;
use crate::unwind::contained;

pub use crate::heap::{HeapSite, Holders};
pub use crate::log::LogFormat;
pub use alert::Alert;
pub use builder::{BuildError, MonitorBuilder};
pub use caches::CacheCounts;
#[cfg(feature = "emf")]
pub use emf::{Emf, EmfError};
pub use invocation::Invocation;
pub use labels::LabelStats;
pub use leak::{LeakVerdict, Remedy};
pub use policy::{ParsePolicyError, REPORT_VARIABLE, ReportPolicy};
pub use report::{InvocationHeap, InvocationReport, Outcome, Reserved};
pub use request::Request;
pub use request_id::{Label, RequestId};
pub use request_scope::{InScope, RequestHeap, RequestScope};
pub use resources::ResourceCounts;
pub use snapshot::Snapshot;
pub use trim::{TrimPolicy, Trimmed};
pub use window::Percentiles;

use activity::{Activity, Ended};
use caches::Caches;
use labels::Labels;
use leak::Beyond;
use maintenance::Schedule;
use observers::{Hook, Observers};
use profile::Profile;
use recommend::{CgroupPeak, EnvironmentShare};
use resources::Resources;
use state::State;
use trim::TrimInput;

/// Watches the memory of a process from invocation to invocation, and reports.
///
/// Peaks, alarm and abort report belong to the process, so there should be one monitor in it, and no other code that
/// resets the peaks: two that run invocations side by side falsify each other's figures. A clone is the same monitor.
/// See the [module](self).
///
/// # Examples
///
/// ```no_run
/// # use plimsoll::TrackingAllocator;
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
///
/// # fn main() -> Result<(), plimsoll::monitor::BuildError> {
/// let monitor = plimsoll::Monitor::install_from_env();
/// for id in ["first", "second"] {
///     let invocation = monitor.start(id);
///     // ... the work ...
///     drop(invocation.finish());
/// }
/// monitor.snapshot().print(); // the large picture
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Monitor {
    shared: Arc<Shared>,
}

/// Expired entries that maintenance frees in each cache at the end of an invocation: some 100 microseconds.
const MAX_SWEPT: usize = 1000;

/// The number of installed monitors that are alive.
static INSTALLED: AtomicUsize = AtomicUsize::new(0);

/// What all clones share.
struct Shared {
    /// `None` if no memory limit is known.
    thresholds: Option<AlarmThresholds>,
    /// The share of the memory size that the environment's own processes take.
    share: EnvironmentShare,
    cgroup_peak: CgroupPeak,
    policy: ReportPolicy,
    profile: Profile,
    clock: Clock,
    /// Called at each maintenance.
    hooks: Vec<Hook>,
    hooks_run: AtomicBool,
    observers: Observers,
    /// The reports that are due are written as lines.
    prints: bool,
    /// JSON members that make metrics of an alarm, until the monitor is installed.
    alarm_metrics: Mutex<Option<[Box<str>; 2]>>,
    activity: Activity,
    schedule: Schedule,
    /// There is a hook, a cache or a trim policy.
    has_maintenance: bool,
    labels: Labels,
    budget: Option<MemoryBudget>,
    beyond: Beyond,
    resources: Resources,
    caches: Caches,
    /// The memory size is that of a Lambda function.
    on_lambda: bool,
    /// Warnings that building found, for `install` to write.
    startup_warnings: Mutex<Vec<String>>,
    is_installed: AtomicBool,
    /// An invocation was reported.
    is_used: AtomicBool,
    state: Mutex<State>,
}

impl Monitor {
    /// Begins a monitor with settings of one's own.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{ByteSize, Monitor};
    /// let monitor = Monitor::builder().memory_size(ByteSize::mib(512)).install()?;
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub fn builder() -> MonitorBuilder {
        MonitorBuilder::default()
    }

    /// Builds a monitor for the memory limit of the environment, [installs](Self::install) it and returns it.
    ///
    /// It does not fail, so that the same `main` starts on AWS Lambda, in a container, on a laptop and in a test. A
    /// finding that makes the monitor less useful is one line of warning: see [`MonitorBuilder::install`].
    ///
    /// Reads these variables:
    ///
    /// | variable | values | default |
    /// |---|---|---|
    /// | `PLIMSOLL_REPORT` | `each`, `every:100`, `on-change`, `off`: see [`ReportPolicy`] | `each` |
    /// | `PLIMSOLL_PROFILE` | `on`, `off`, or an interval such as `64KiB`: samples [allocation sites](crate::guide::attribution) (feature `profile`) | `off` |
    /// | `AWS_LAMBDA_LOG_FORMAT` | `JSON`, `Text`: see [`LogFormat`] | `Text` |
    /// | `AWS_LAMBDA_FUNCTION_MEMORY_SIZE` | see [`MemoryLimit::detect`](crate::MemoryLimit::detect) | the limit of the cgroup |
    ///
    /// `PLIMSOLL` is the name that release candidates had for `PLIMSOLL_REPORT`; it is still read, with a warning.
    /// `PLIMSOLL_RECORDER` is reserved: later releases read it.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{Monitor, TrackingAllocator};
    ///
    /// #[global_allocator]
    /// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
    ///
    /// fn main() {
    ///     let monitor = Monitor::install_from_env(); // once
    ///     let report = monitor.start("4f1c9a").finish();
    ///     assert!(report.heap.is_some());
    /// }
    /// ```
    pub fn install_from_env() -> Self {
        // The settings that can be invalid are the alarm thresholds and the resources, and here both are the defaults.
        let monitor = Self::builder().assemble(AlarmThresholds::new(ByteSize::ZERO), Resources::default(), Vec::new());
        monitor.install();
        monitor
    }

    /// Installs the monitor: starts the [profile](crate::guide::attribution) of allocation sites if it is
    /// [switched on](Self::install_from_env), sets the alarm thresholds of the process, and writes the abort report if an allocation that
    /// failed aborts the process. Then writes the warnings of [`MonitorBuilder::install`].
    ///
    /// A second call changes nothing. Alarm and abort report belong to the process: if another monitor is installed, there
    /// is one warning, and the thresholds set last apply.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let monitor = plimsoll::Monitor::builder().alarm_thresholds(&[80, 95]).install()?;
    /// monitor.install();
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub fn install(&self) {
        let shared = &self.shared;
        if shared.is_installed.swap(true, Relaxed) {
            return;
        }
        // Before all else, because blocks that exist already are not sampled.
        let profile_warning = shared.profile.start();
        if INSTALLED.fetch_add(1, Relaxed) > 0 {
            warn(format_args!(
                "a second monitor is installed: alarm and peaks belong to the process, and two monitors falsify them; \
                 install one monitor, and clone it"
            ));
        }
        for warning in shared.take_startup_warnings().into_iter().chain(profile_warning) {
            warn(format_args!("{warning}"));
        }
        let alarm_metrics = shared.alarm_metrics.lock().unwrap_or_else(PoisonError::into_inner).take();
        alarm_metrics.into_iter().for_each(heap::set_alarm_metrics);
        if let Some(thresholds) = &shared.thresholds {
            // Fails without the tracking allocator. There was a warning about it.
            let _no_alarm = heap::set_alarm_thresholds(thresholds);
        }
        match heap::install_abort_report() {
            Ok(()) | Err(os::OsError::NotAvailable { .. }) => (),
            Err(error) => warn(format_args!("no report will be written when the process aborts: {error:?}")),
        }
    }

    /// Starts an invocation. The guard ends it; a guard that is dropped without
    /// [`finish`](Invocation::finish) reports it as unfinished.
    ///
    /// If no other invocation is in flight, the peaks of heap and rss are reset, and are this invocation's own. Else they
    /// are the environment's, and the report is marked as concurrent. What runs in [`Invocation::scope`] is measured for
    /// itself in either case.
    ///
    /// # Performance
    ///
    /// Some microseconds, most of them for the rss, and no allocation.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// let report = monitor.start("4f1c9a").finish();
    /// println!("{:?}", report.heap);
    /// ```
    pub fn start(&self, id: impl Into<RequestId>) -> Invocation {
        Invocation::start(Arc::clone(&self.shared), id.into())
    }

    /// Starts an invocation of a layer.
    #[cfg(feature = "tower")]
    pub(crate) fn start_sampled(&self, id: RequestId, label: Label) -> Invocation {
        Invocation::start_sampled(Arc::clone(&self.shared), id, label)
    }

    /// Counts a request that a layer did not admit, `waited` after it came in.
    #[cfg(feature = "http")]
    pub(crate) fn count_refused(&self, id: RequestId, label: Label, waited: Duration) {
        self.shared.labels.record_refused(&label);
        let concurrent = self.shared.activity.in_flight() > 0;
        let request = Request { id, label, outcome: Outcome::Refused, own: None, duration: waited, concurrent };
        self.shared.observers.show(&request);
    }

    /// Returns the heap of the requests with each label, the label with the highest peak first.
    ///
    /// Up to 64 labels are kept, from the first request on; further ones are summed as `(other)`. They take 2.5 KiB each.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// for label in monitor.labels() {
    ///     println!("{label}");
    /// }
    /// ```
    pub fn labels(&self) -> Vec<LabelStats> {
        self.shared.labels.stats()
    }

    /// Runs the [hooks](MonitorBuilder::at_end), frees expired entries of the watched [caches](MonitorBuilder::cache),
    /// and returns free pages to the kernel if the [trim policy](MonitorBuilder::trim) has it due. Returns that trim.
    ///
    /// The end of an invocation does this if it leaves none in flight, and else once a second at most, in 1 % of the time.
    /// So a service needs this method for a thread or task of its own only: to keep the work out of its requests, or to
    /// run it while there are none. The monitor starts no thread. Hooks that run already, on another thread or as the caller, are
    /// not run again.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// use std::{thread, time::Duration};
    ///
    /// thread::spawn(move || {
    ///     loop {
    ///         thread::sleep(Duration::from_secs(10));
    ///         let _trimmed = monitor.run_maintenance();
    ///     }
    /// });
    /// ```
    pub fn run_maintenance(&self) -> Option<Trimmed> {
        let shared = &self.shared;
        shared.clock.refresh();
        let _this_is_it = shared.schedule.claim(shared.clock.now());
        shared.run_maintenance(usize::MAX)
    }

    /// Reads the figures now, for the large picture. Sorts the window: some 12 microseconds at its default length.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// println!("{}", monitor.snapshot());
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.shared)
    }

    /// Returns the gauges, accounts and allocation sites that hold the memory now, as [`Holders::read`] does. With the
    /// feature `serde` it serializes, so a handler of HTTP can return it as JSON.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// let holders = monitor.holders();
    /// println!("{:?} of {:?} are unattributed", holders.unattributed, holders.heap);
    /// for site in holders.largest_sites() {
    ///     println!("{site} {}", site.bytes);
    /// }
    /// ```
    pub fn holders(&self) -> Holders {
        Holders::read()
    }

    /// Returns the alarm thresholds that [`install`](Self::install) sets; `None` if no memory limit is known.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// if let Some(thresholds) = monitor.alarm_thresholds() {
    ///     println!("{} are this process's", thresholds.capacity());
    /// }
    /// ```
    pub fn alarm_thresholds(&self) -> Option<&AlarmThresholds> {
        self.shared.thresholds.as_ref()
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { thresholds, policy, .. } = &*self.shared;
        f.debug_struct("Monitor").field("thresholds", thresholds).field("policy", policy).finish_non_exhaustive()
    }
}

impl Shared {
    /// Reclaims what is reserved beyond the capacity of the budget, and lets requests that wait have what is available.
    fn relieve_budget(&self) {
        if let Some(budget) = &self.budget {
            let _as_far_as_possible = budget.reclaim_overdraft();
        }
    }

    /// A panic of a hook or an observer must neither take down the runtime that is about to ask for the next event, nor
    /// turn an unwinding drop into an abort.
    /// Hooks that run already, on this thread or another, are not run again.
    fn run_hooks(&self) {
        if self.hooks.is_empty() || self.hooks_run.swap(true, Acquire) {
            return;
        }
        for hook in &self.hooks {
            contained(hook);
        }
        self.hooks_run.store(false, Release);
    }

    /// Runs the maintenance at the end of an invocation, if it is due. `is_idle_due`: also if none is left in flight.
    fn maintain(&self, ended: &Ended, is_idle_due: bool) -> Option<Trimmed> {
        if !self.has_maintenance {
            return None;
        }
        let is_claimed = self.schedule.claim(self.clock.now());
        if is_claimed {
            return self.run_maintenance(MAX_SWEPT);
        }
        if is_idle_due && ended.left == 0 {
            self.run_hooks();
            return self.trim_if_due();
        }
        None
    }

    /// Calls the hooks, frees up to `max_swept` expired entries of each cache, and trims if that is due.
    fn run_maintenance(&self, max_swept: usize) -> Option<Trimmed> {
        let running = Stopwatch::start();
        self.run_hooks();
        self.caches.remove_expired(max_swept);
        let trimmed = self.trim_if_due();
        self.schedule.done(self.clock.now(), running.elapsed());
        trimmed
    }

    /// Gives pages back where the policy says so.
    fn trim_if_due(&self) -> Option<Trimmed> {
        let beyond = |rss: Option<os::Rss>| {
            let live = heap::stats().ok()?.live;
            Some(rss?.anonymous.saturating_sub(live).as_u64())
        };
        if self.state().trimmer.is_off() {
            return None;
        }
        let rss = os::rss().ok();
        let lowest = self.thresholds.and_then(|thresholds| Some(thresholds.threshold(thresholds.percents().min()?)));
        let input = TrimInput {
            beyond: beyond(rss),
            // Without a limit no distance is a share of it, and only a policy without a distance trims.
            capacity: self.thresholds.map_or(ByteSize::MAX, |thresholds| thresholds.capacity()),
            is_over: lowest.zip(rss).is_some_and(|(lowest, rss)| rss.total > lowest),
        };
        let mut state = self.state();
        state.trimmer.set_worked(self.activity.worked());
        let is_due = state.trimmer.is_due(&input);
        drop(state);
        if !is_due {
            return None;
        }
        let started = Stopwatch::start();
        let given_back = os::trim().ok()?;
        let duration = started.elapsed();
        let after = os::rss().ok();
        let trimmed = Trimmed::new(given_back, duration);
        self.state().trimmer.done(input.beyond, beyond(after), &trimmed);
        Some(trimmed)
    }

    /// Shows a report to its observers, and prints it.
    fn show(&self, report: &InvocationReport, is_due: bool) {
        for observer in &self.observers.all {
            contained(|| observer(report));
        }
        if !is_due {
            return;
        }
        for observer in &self.observers.due {
            contained(|| observer(report));
        }
        if self.prints {
            report.print();
        }
    }

    /// Locks the state. A panic while it was locked does no harm, because every write leaves it whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_startup_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.startup_warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that the monitor reports. On AWS Lambda a monitor lives as long as the process and no drop can warn, so the
    /// first report warns if the monitor is not installed.
    fn note_used(&self) {
        if !self.is_used.swap(true, Relaxed) && self.on_lambda && !self.is_installed.load(Relaxed) {
            warn_not_installed();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if *self.is_installed.get_mut() {
            INSTALLED.fetch_sub(1, Relaxed);
        } else if *self.is_used.get_mut() && !self.on_lambda && self.policy != ReportPolicy::Off {
            warn_not_installed();
        }
    }
}

fn warn_not_installed() {
    warn(format_args!(
        "the monitor was not installed, so there is no alarm before a kill: use Monitor::builder().install() or \
         Monitor::install_from_env()"
    ));
}
