//! A monitor's settings.

use std::fmt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crate::budget::{Account, MemoryBudget};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::env::{ENVIRONMENT_SHARE, MemoryLimit};
use crate::error_chain::debug_as_chain;
use crate::heap::{self, AlarmThresholds, AlarmThresholdsError, NotInstalled};
use crate::lazy::Resource;
use crate::log::{self, LogFormat};
use crate::size::ByteSize;

use super::activity::Activity;
use super::caches::Caches;
use super::labels::Labels;
use super::leak::Beyond;
use super::maintenance::Schedule;
use super::observers::{Hook, Observers};
use super::policy::{self, ReportPolicy};
use super::profile::Profile;
use super::recommend::{CgroupPeak, EnvironmentShare};
use super::resources::Resources;
use super::startup::{extensions, foreign_account};
use super::state::{Before, State};
use super::trim::TrimPolicy;
use super::window::Window;
use super::{Monitor, Shared};

/// An error returned by [`MonitorBuilder::build`] and [`MonitorBuilder::install`]: a setting of the program is invalid.
///
/// Nothing in the environment is an error, so a monitor without settings cannot fail: see
/// [`Monitor::install_from_env`].
///
/// # Examples
///
/// ```standalone_crate
/// use plimsoll::{Monitor, monitor::BuildError};
///
/// let error = Monitor::builder().require_allocator().build().unwrap_err(); // no `#[global_allocator]` here
/// assert!(matches!(error, BuildError::AllocatorNotInstalled { .. }));
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The tracking allocator is [required](MonitorBuilder::require_allocator) and not installed.
    #[error("the monitor requires the tracking allocator")]
    #[non_exhaustive]
    AllocatorNotInstalled {
        /// The cause, which names the remedy.
        source: NotInstalled,
    },
    /// The list of alarm thresholds is invalid.
    #[error("invalid alarm thresholds for the monitor")]
    #[non_exhaustive]
    AlarmThresholds {
        /// The cause, which names the invalid value.
        source: AlarmThresholdsError,
    },
    /// A resource is charged to another account already.
    #[error("resource `{name}` is charged to another account already")]
    #[non_exhaustive]
    Resource {
        /// The resource's name.
        name: &'static str,
    },
}

debug_as_chain!(BuildError);

/// Settings of a [`Monitor`]. A setting that is not made has the default named with its setter.
///
/// # Examples
///
/// ```no_run
/// use plimsoll::{MemoryBudget, Monitor};
///
/// let budget = MemoryBudget::from_env()?;
/// let monitor = Monitor::builder().budget(&budget).alarm_thresholds(&[80, 95]).trim(true).install()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder does nothing until `install` or `build`"]
pub struct MonitorBuilder {
    memory_size: Option<ByteSize>,
    environment_share: Option<ByteSize>,
    percents: Option<Vec<u8>>,
    policy: ReportPolicy,
    pub(super) profile: Profile,
    log_format: Option<LogFormat>,
    require_allocator: bool,
    window: usize,
    clock: Clock,
    pub(super) hooks: Vec<Hook>,
    pub(super) observers: Observers,
    pub(super) prints: bool,
    pub(super) report_share: Option<u8>,
    /// JSON members that make metrics of an alarm.
    pub(super) alarm_metrics: Option<[Box<str>; 2]>,
    budget: Option<MemoryBudget>,
    trim: TrimPolicy,
    retaining_over: ByteSize,
    resources: Vec<(&'static dyn Resource, Account)>,
    caches: Caches,
}

/// See [`MonitorBuilder::report_share`].
const DEFAULT_REPORT_SHARE: u8 = 1;

impl Default for MonitorBuilder {
    fn default() -> Self {
        Self {
            memory_size: None,
            environment_share: None,
            percents: None,
            policy: ReportPolicy::Each,
            profile: Profile::default(),
            log_format: None,
            require_allocator: false,
            window: 256,
            clock: Clock::system(),
            hooks: Vec::new(),
            observers: Observers::default(),
            prints: true,
            report_share: None,
            alarm_metrics: None,
            budget: None,
            trim: TrimPolicy::off(),
            retaining_over: ByteSize::mib(16),
            resources: Vec::new(),
            caches: Caches::default(),
        }
    }
}

impl MonitorBuilder {
    /// Sets the memory size that the kernel kills at. Default: Lambda's variable, else the cgroup's limit.
    ///
    /// Taken as it is, and not compared with the environment's; of one that is set, 12 MiB are the environment's share
    /// unless [`environment_share`](Self::environment_share) says otherwise.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{ByteSize, Monitor};
    /// let monitor = Monitor::builder().memory_size(ByteSize::mib(512)).install()?; // on a laptop
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub const fn memory_size(mut self, size: ByteSize) -> Self {
        self.memory_size = Some(size);
        self
    }

    /// Sets what the environment takes of it. Default: 12 MiB, but nothing where the size is that of a cgroup.
    ///
    /// Zero leaves the process all of it. A share as large as the memory size leaves nothing: every alarm threshold is then
    /// crossed from the start.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{ByteSize, Monitor};
    /// let monitor = Monitor::builder().environment_share(ByteSize::mib(60)).install()?; // 12 MiB and an extension
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub const fn environment_share(mut self, share: ByteSize) -> Self {
        self.environment_share = Some(share);
        self
    }

    /// Sets the alarm thresholds in percent, rising, at most four. Default: 70, 90 and 97; the topmost writes the alarm.
    ///
    /// They are percent of the memory size less the environment's share. [`build`](Self::build) refuses none, more than
    /// four, and what is not from 1 to 100.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::Monitor;
    /// let monitor = Monitor::builder().alarm_thresholds(&[50, 80, 95]).install()?; // the alarm is written at 95 %
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub fn alarm_thresholds(mut self, percents: &[u8]) -> Self {
        self.percents = Some(percents.to_vec());
        self
    }

    /// Sets which invocations print a line. Default: each. The variable `PLIMSOLL_REPORT` overrides it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{Monitor, monitor::ReportPolicy};
    /// let monitor = Monitor::builder().report(ReportPolicy::OnChange).install()?;
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub const fn report(mut self, policy: ReportPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the format of the records on standard error, for the whole process. Default: JSON if the function's log format
    /// is JSON (`AWS_LAMBDA_LOG_FORMAT=JSON`), else text.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{Monitor, monitor::LogFormat};
    /// let monitor = Monitor::builder().log_format(LogFormat::Json).install()?;
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub const fn log_format(mut self, format: LogFormat) -> Self {
        self.log_format = Some(format);
        self
    }

    /// Requires the [`TrackingAllocator`](crate::TrackingAllocator): without it, [`build`](Self::build) and
    /// [`install`](Self::install) fail. Default: not required; reports then show the rss only, and
    /// [`install`](Self::install) writes one warning.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{Monitor, TrackingAllocator};
    /// # #[global_allocator]
    /// # static GLOBAL: TrackingAllocator = TrackingAllocator::new();
    ///
    /// # fn main() -> Result<(), plimsoll::monitor::BuildError> {
    /// let monitor = Monitor::builder().require_allocator().install()?;
    /// assert!(monitor.start("4f1c9a").finish().heap.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub const fn require_allocator(mut self) -> Self {
        self.require_allocator = true;
        self
    }

    /// Sets how many invocations the percentiles and trends look back on, at 24 bytes each: 1 to 65,536. Default: 256.
    ///
    /// Less counts as 1, more as 65,536. The memory is allocated once, by [`build`](Self::build). The verdict on leaks
    /// has windows of its own.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::Monitor;
    /// let monitor = Monitor::builder().window(1_000).install()?; // 24 kB
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub const fn window(mut self, invocations: usize) -> Self {
        self.window = invocations;
        self
    }

    /// Sets the clock to refresh at an invocation's start. Default: the system's.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{ManualClock, Monitor};
    /// let manual = ManualClock::new();
    /// let monitor = Monitor::builder().clock(manual.clock()).install()?;
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the budget to report. Default: none.
    ///
    /// From then on the budget counts the [heap that no account has reserved](crate::budget) against its limit, because the
    /// monitor reports on the whole process. Each start of an invocation with a full report
    /// [reclaims](MemoryBudget::reclaim_overdraft) what is reserved beyond the capacity. Reports have the reserved bytes, the
    /// drift and the pressure.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{MemoryBudget, Monitor};
    /// let budget = MemoryBudget::from_env()?;
    /// let monitor = Monitor::builder().budget(&budget).install()?;
    /// let report = monitor.start("4f1c9a").finish();
    /// println!("{:?} beyond what is reserved", report.drift());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn budget(mut self, budget: &MemoryBudget) -> Self {
        budget.count_heap();
        self.budget = Some(budget.clone());
        self
    }

    /// Sets the times at which free pages are released, with [`os::trim`](crate::os::trim); `true` for what suits most:
    /// [`TrimPolicy::new`]. Default: never. A trim takes milliseconds where there is much to give back, and the next
    /// invocation faults it in again. Each is in the report: see [`InvocationReport::trimmed`](super::InvocationReport::trimmed). Not ruled by this, nor in reports,
    /// are the trims of a [budget](Self::budget) that would otherwise refuse a large reservation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{TrackingAllocator, ByteSize, Monitor};
    /// use plimsoll::monitor::TrimPolicy;
    /// # #[global_allocator]
    /// # static GLOBAL: TrackingAllocator = TrackingAllocator::new();
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let monitor = Monitor::builder().memory_size(ByteSize::mib(128)).trim(true).install()?;
    /// let often = Monitor::builder().memory_size(ByteSize::mib(128)).trim(TrimPolicy::new().share_of_time(10)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn trim(mut self, policy: impl Into<TrimPolicy>) -> Self {
        self.trim = policy.into();
        self
    }

    /// Sets the least memory beyond the live heap that has a verdict, [`LeakVerdict::Retaining`] or
    /// [`LeakVerdict::Outside`]. Default: 16 MiB. `ByteSize::MAX`: none.
    ///
    /// Free pages must also be as many bytes as the live heap. Below this distance of the anonymous rss from the heap, the
    /// allocator's figures are not read: see [`Remedy`](super::Remedy).
    ///
    /// [`LeakVerdict::Retaining`]: super::LeakVerdict::Retaining
    /// [`LeakVerdict::Outside`]: super::LeakVerdict::Outside
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{ByteSize, Monitor};
    /// // A C library keeps 40 MiB, and that is well.
    /// let monitor = Monitor::builder().retaining_over(ByteSize::mib(56)).install()?;
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub const fn retaining_over(mut self, beyond_heap: ByteSize) -> Self {
        self.retaining_over = beyond_heap;
        self
    }

    /// Watches a [lazy resource](crate::lazy): charges the account for it, has it unloaded when others need memory, and
    /// reports what is loaded, what failed and what was never used.
    ///
    /// It is asked to unload for as long as a clone of the monitor lives.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use plimsoll::{ByteSize, LazyResource, MemoryBudget, Monitor};
    ///
    /// static MODEL: LazyResource<Vec<u8>, std::io::Error> =
    ///     LazyResource::new("model", || std::fs::read("model.bin")).expecting(ByteSize::mib(20));
    ///
    /// let budget = MemoryBudget::from_env()?;
    /// let monitor = Monitor::builder().budget(&budget).resource(&MODEL, budget.account("model")?).install()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resource(mut self, resource: &'static impl Resource, account: Account) -> Self {
        self.resources.push((resource, account));
        self
    }

    /// Watches a [cache](crate::cache): reports what it evicted and why, and its hits and misses, per invocation.
    ///
    /// At most once a second the end of an invocation frees up to 1,000 of its expired entries: see
    /// [`Monitor::run_maintenance`]. Costs the locks of the cache at each full report. The cache lives as long as a clone of the
    /// monitor.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::sync::LazyLock;
    /// use plimsoll::{Cache, Monitor};
    ///
    /// static ORDERS: LazyLock<Cache<String, u64>> =
    ///     LazyLock::new(|| Cache::builder("orders").max_entries(1_000).build().expect("it has a bound"));
    ///
    /// let monitor = Monitor::builder().cache(&ORDERS).install()?;
    /// let report = monitor.start("4f1c9a").finish();
    /// println!("{} hits, {}", report.caches.hits, report.caches);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cache<K, V, S>(mut self, cache: &Cache<K, V, S>) -> Self
    where
        K: Send + 'static,
        V: Send + 'static,
        S: Send + Sync + 'static,
    {
        self.caches.watch(cache);
        self
    }

    /// Builds the monitor and [installs](Monitor::install) it: the alarm and the abort report are in force.
    ///
    /// Writes one line of warning for each finding that makes the monitor less useful than its user may expect:
    ///
    /// | finding | effect |
    /// |---|---|
    /// | no memory limit is known | sizes without percentages; alarm and admission are off |
    /// | a variable of the memory limit is invalid | the limit of the cgroup applies, if there is one |
    /// | the tracking allocator is not installed | rss only; no alarm |
    /// | `PLIMSOLL_REPORT` is empty or invalid | the policy of the program applies |
    /// | `PLIMSOLL_PROFILE` is empty or invalid | the setting of the program applies, by default off |
    /// | `PLIMSOLL_PROFILE` asks for a profile without the feature `profile` | no profile |
    /// | a profile is on, and stacks cannot be walked without `-C force-frame-pointers=yes` | all sites are one |
    /// | another monitor is installed | peaks and alarm belong to the process; the thresholds set last apply |
    /// | a resource's account belongs to another budget than the monitor's | the budget's figures miss it |
    /// | extensions in `/opt/extensions` on AWS Lambda | their memory counts: see [`environment_share`](Self::environment_share) |
    ///
    /// # Errors
    ///
    /// [`BuildError`] if a setting of the program is invalid.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use plimsoll::{Monitor, monitor::ReportPolicy};
    ///
    /// let monitor = Monitor::builder().report(ReportPolicy::OnChange).install()?;
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub fn install(self) -> Result<Monitor, BuildError> {
        let monitor = self.build()?;
        monitor.install();
        Ok(monitor)
    }

    /// Builds the monitor without installing it: for tests that do not want the alarm of the process.
    ///
    /// Reports are printed by the policy. A monitor that reports and is never [installed](Monitor::install) warns about it
    /// when it is dropped, unless its policy is [`Off`](ReportPolicy::Off). On AWS Lambda, because a function never drops it,
    /// it warns at its first report, under every policy.
    ///
    /// # Errors
    ///
    /// [`BuildError`] if a setting of the program is invalid.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, Monitor, monitor::ReportPolicy};
    ///
    /// let monitor = Monitor::builder().memory_size(ByteSize::mib(512)).report(ReportPolicy::Off).build()?;
    /// assert!(monitor.start("test").finish().alerts().next().is_none());
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub fn build(mut self) -> Result<Monitor, BuildError> {
        if self.require_allocator {
            heap::stats().map_err(|source| BuildError::AllocatorNotInstalled { source })?;
        }
        let mut template = AlarmThresholds::new(ByteSize::ZERO);
        if let Some(percents) = &self.percents {
            template = template.with_percents(percents).map_err(|source| BuildError::AlarmThresholds { source })?;
        }
        let resources = std::mem::take(&mut self.resources);
        let foreign = resources.iter().filter(|(_, account)| self.is_foreign(account));
        let warnings: Vec<String> = foreign.map(|(resource, account)| foreign_account(*resource, account)).collect();
        Ok(self.assemble(template, Resources::watch(resources)?, warnings))
    }

    /// Returns `true` if `account` belongs to another budget than the monitor's.
    fn is_foreign(&self, account: &Account) -> bool {
        self.budget.as_ref().is_some_and(|budget| !account.belongs_to(budget))
    }

    /// Assembles a monitor from settings that were checked. `template` has the percentages of the alarm thresholds.
    pub(super) fn assemble(
        self,
        template: AlarmThresholds,
        resources: Resources,
        mut warnings: Vec<String>,
    ) -> Monitor {
        // In any case known from here on, so that no report reads the environment, which allocates.
        log::set_format(self.log_format.unwrap_or_else(log::format));
        let policy = policy::from_env(|name| std::env::var_os(name), &mut warnings).unwrap_or(self.policy);
        let profile = self.profile.or_env(|name| std::env::var_os(name), &mut warnings);
        let (memory_size, share) = self.limit(&mut warnings);
        let share = EnvironmentShare::new(self.environment_share.unwrap_or(share), share);
        let on_lambda = MemoryLimit::is_on_lambda();
        if on_lambda && self.environment_share.is_none() {
            warnings.extend(extensions(Path::new("/opt/extensions")));
        }
        let thresholds = memory_size.map(|size| template.with_memory_size(size).environment_share(share.of_process));
        let books = heap::stats().ok();
        if books.is_none() {
            warnings.push(format!("rss only, no heap figures and no alarm: {NotInstalled}"));
        }
        let refused = books.map_or(0, |books| books.refused);
        let before = Before { refused, caches: self.caches.counts() };
        let state = Mutex::new(State::new(Window::new(self.window), before, self.trim, on_lambda));
        // On Lambda there is one request at a time, and each is billed for milliseconds.
        let report_share = self.report_share.unwrap_or(if on_lambda { 100 } else { DEFAULT_REPORT_SHARE });
        let activity = Activity::new(report_share, self.trim != TrimPolicy::off());
        let now = self.clock.now();
        let has_maintenance = !self.hooks.is_empty() || !self.caches.is_empty() || self.trim != TrimPolicy::off();
        let Self { clock, hooks, observers, prints, alarm_metrics, budget, caches, .. } = self;
        Monitor {
            shared: Arc::new(Shared {
                thresholds,
                share,
                cgroup_peak: CgroupPeak::new(memory_size, now),
                policy,
                profile,
                clock,
                hooks,
                hooks_run: AtomicBool::new(false),
                observers,
                prints,
                alarm_metrics: Mutex::new(alarm_metrics),
                activity,
                schedule: Schedule::new(now),
                has_maintenance,
                labels: Labels::new(),
                budget,
                beyond: Beyond::new(self.retaining_over, share.of_process, memory_size),
                resources,
                caches,
                on_lambda,
                startup_warnings: Mutex::new(warnings),
                is_installed: AtomicBool::new(false),
                is_used: AtomicBool::new(false),
                state,
            }),
        }
    }

    /// Returns the memory size and the environment's share of it; adds a warning if no size is known.
    fn limit(&self, warnings: &mut Vec<String>) -> (Option<ByteSize>, ByteSize) {
        if let Some(size) = self.memory_size {
            return (Some(size), ENVIRONMENT_SHARE);
        }
        let error = match MemoryLimit::detect() {
            Ok(limit) => return (Some(limit.size()), limit.environment_share()),
            Err(error) => error,
        };
        if let Ok(limit) = MemoryLimit::of_cgroup() {
            warnings.push(format!("the limit of the cgroup applies, {}: {error}", limit.size()));
            return (Some(limit.size()), limit.environment_share());
        }
        // A budget that the program has made has a limit of its own.
        let off = if self.budget.is_some() { "alarm" } else { "alarm and admission" };
        warnings.push(format!("{off} off: no memory limit ({error}); set one with Monitor::builder().memory_size()"));
        (None, ENVIRONMENT_SHARE)
    }
}

impl fmt::Debug for MonitorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonitorBuilder")
            .field("memory_size", &self.memory_size)
            .field("policy", &self.policy)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
