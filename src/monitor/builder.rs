//! A monitor's settings.

use std::fmt;
use std::sync::{Arc, Mutex};

use crate::budget::{Account, MemoryBudget};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::env::EnvError;
use crate::heap::{self, LoadLines, LoadLinesError, NotInstalled};
use crate::lazy::Resource;
use crate::os::{self, OsError};
use crate::size::ByteSize;

use super::caches::Caches;
use super::invocation::{Before, Seen, State};
use super::leak::Retention;
use super::policy::{POLICY_VARIABLE, ParsePolicyError, ReportPolicy};
use super::report::InvocationReport;
use super::resources::Resources;
use super::trim::TrimPolicy;
use super::window::Window;
use super::{Hook, Monitor, Observer, Shared, detect};

/// A monitor that cannot be built or installed.
///
/// # Examples
///
/// ```standalone_crate
/// use plimsoll::{ByteSize, Monitor};
///
/// let forgotten = Monitor::builder().memory_size(ByteSize::mib(128)).build().unwrap_err();
/// assert!(matches!(forgotten, plimsoll::monitor::MonitorError::Allocator { .. })); // no `#[global_allocator]` here
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// No memory size was given, and none could be found.
    #[error("the monitor needs a memory size")]
    #[non_exhaustive]
    MemorySize {
        /// Why none was found.
        source: EnvError,
    },
    /// The tracking allocator was forgotten.
    #[error("the monitor needs the heap's books")]
    #[non_exhaustive]
    Allocator {
        /// Says what to install.
        source: NotInstalled,
    },
    /// The load lines cannot be.
    #[error("the monitor's load lines cannot be")]
    #[non_exhaustive]
    LoadLines {
        /// Says which.
        source: LoadLinesError,
    },
    /// The variable `PLIMSOLL` does not read as a policy.
    #[error("the variable {POLICY_VARIABLE} cannot be followed")]
    #[non_exhaustive]
    Policy {
        /// Says what it holds.
        source: ParsePolicyError,
    },
    /// A resource's account cannot be what it was told to be.
    #[error("the resource {name} is charged to another account already")]
    #[non_exhaustive]
    Resource {
        /// The resource's name.
        name: &'static str,
    },
    /// The handler that says the last words could not be installed.
    #[error("the last words could not be installed")]
    #[non_exhaustive]
    LastWords {
        /// What the operating system says.
        source: OsError,
    },
}

/// Settings of a [`Monitor`]; what is not set comes from the environment or has the default named with its setter.
///
/// # Examples
///
/// ```no_run
/// use plimsoll::{MemoryBudget, Monitor};
///
/// let budget = MemoryBudget::from_env()?;
/// let monitor = Monitor::builder().budget(&budget).load_lines(&[80, 95]).trim(true).build()?;
/// monitor.install()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct MonitorBuilder {
    memory_size: Option<ByteSize>,
    environment_share: Option<ByteSize>,
    percents: Option<Vec<u8>>,
    policy: ReportPolicy,
    window: usize,
    clock: Clock,
    hooks: Vec<Hook>,
    observers: Vec<Observer>,
    budget: Option<MemoryBudget>,
    trim: TrimPolicy,
    retaining_over: ByteSize,
    resources: Vec<(&'static dyn Resource, Account)>,
    caches: Caches,
}

impl Default for MonitorBuilder {
    fn default() -> Self {
        Self {
            memory_size: None,
            environment_share: None,
            percents: None,
            policy: ReportPolicy::Each,
            window: 256,
            clock: Clock::system(),
            hooks: Vec::new(),
            observers: Vec::new(),
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
    /// let monitor = Monitor::builder().memory_size(ByteSize::mib(512)).build()?; // on a laptop
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub const fn memory_size(mut self, size: ByteSize) -> Self {
        self.memory_size = Some(size);
        self
    }

    /// Sets what the environment takes of it. Default: 12 MiB, but nothing where the size is that of a cgroup.
    ///
    /// Zero leaves the process all of it. A share as large as the memory size leaves nothing: every load line is then
    /// crossed from the start.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{ByteSize, Monitor};
    /// let monitor = Monitor::builder().environment_share(ByteSize::mib(60)).build()?; // an extension beside it
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub const fn environment_share(mut self, share: ByteSize) -> Self {
        self.environment_share = Some(share);
        self
    }

    /// Sets the load lines in percent, rising, at most four. Default: 70, 90 and 97; the topmost sounds the alarm.
    ///
    /// They are percent of the memory size less the environment's share. [`build`](Self::build) refuses none, more than
    /// four, and what is not from 1 to 100.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::Monitor;
    /// let monitor = Monitor::builder().load_lines(&[50, 80, 95]).build()?; // the alarm sounds at 95 %
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub fn load_lines(mut self, percents: &[u8]) -> Self {
        self.percents = Some(percents.to_vec());
        self
    }

    /// Sets which invocations print a line. Default: each. The variable `PLIMSOLL` overrides it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{Monitor, monitor::ReportPolicy};
    /// let monitor = Monitor::builder().report(ReportPolicy::OnChange).build()?;
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub const fn report(mut self, policy: ReportPolicy) -> Self {
        self.policy = policy;
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
    /// let monitor = Monitor::builder().window(1_000).build()?; // 24 kB
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
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
    /// let monitor = Monitor::builder().clock(manual.clock()).build()?;
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the budget to correct at each invocation's start, and to report. Default: none.
    ///
    /// A start tells the budget the live heap, and the rss and peak heap that the last report saw, before the first those
    /// of the build; then it has what overdraws the budget given back. See [`MemoryBudget::rebaseline`],
    /// [`observe_rss`](MemoryBudget::observe_rss) and [`relieve`](MemoryBudget::relieve). Reports then say what is reserved, the drift and the pressure.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{MemoryBudget, Monitor};
    /// let budget = MemoryBudget::from_env()?;
    /// let monitor = Monitor::builder().budget(&budget).build()?;
    /// let report = monitor.start("4f1c9a").finish();
    /// println!("{:?} beyond what is reserved", report.drift());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn budget(mut self, budget: &MemoryBudget) -> Self {
        self.budget = Some(budget.clone());
        self
    }

    /// Adds what to do at the end of an invocation that leaves none in flight, before the report: sweep a cache, say.
    ///
    /// Hooks run in the order of their adding, on the thread that ends the invocation, after the answer was sent but
    /// within what is billed; another may begin meanwhile. A panic in one is caught where panics unwind; the others run.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{Cache, Monitor};
    /// let orders: Cache<String, u64> = Cache::builder("orders").max_entries(1_000).build()?;
    /// let swept = orders.clone();
    /// let monitor = Monitor::builder().at_end(move || _ = swept.sweep(1_000)).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn at_end(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.hooks.push(Box::new(hook));
        self
    }

    /// Adds who is shown every report, whatever the policy prints: to send figures on, say. Called on the thread that
    /// ends the invocation, before the line is printed. A panic in it is caught where panics unwind. One that ends an
    /// invocation of this monitor itself is called for that one too.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::Monitor;
    /// let monitor = Monitor::builder()
    ///     .on_report(|report| println!("{:?} {}", report.duration, report.peak.at_most.as_u64()))
    ///     .build()?;
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub fn on_report(mut self, observer: impl Fn(&InvocationReport) + Send + Sync + 'static) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// Sets when free pages are given back, with [`os::trim`]; `true` for what suits most:
    /// [`TrimPolicy::new`]. Default: never. A trim takes milliseconds where there is much to give back, and the next
    /// invocation faults it in again. Reports tell each: see [`InvocationReport::trimmed`]. Not ruled by this, nor told,
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
    /// let monitor = Monitor::builder().memory_size(ByteSize::mib(128)).trim(true).build()?;
    /// let often = Monitor::builder().memory_size(ByteSize::mib(128)).trim(TrimPolicy::new().share_of_time(10)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn trim(mut self, policy: impl Into<TrimPolicy>) -> Self {
        self.trim = policy.into();
        self
    }

    /// Sets how far the anonymous rss must lie beyond the live heap to be told as
    /// [`LeakVerdict::Retaining`](super::LeakVerdict::Retaining): as far as this, and as the live heap itself. Stacks
    /// and what C libraries keep are in it. Default: 16 MiB. Zero: as far as the live heap; `ByteSize::MAX`: never.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{ByteSize, Monitor};
    /// // A C library keeps 40 MiB, and that is well.
    /// let monitor = Monitor::builder().retaining_over(ByteSize::mib(56)).build()?;
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
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
    /// let monitor = Monitor::builder().budget(&budget).resource(&MODEL, budget.account("model")).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resource(mut self, resource: &'static impl Resource, account: Account) -> Self {
        self.resources.push((resource, account));
        self
    }

    /// Watches a [cache](crate::cache): reports what it evicted and why, and its hits and misses, per invocation.
    ///
    /// Costs the cache's lock at each report. It frees nothing: see [`at_end`](Self::at_end) for a sweep. The cache lives
    /// as long as a clone of the monitor.
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
    /// let monitor = Monitor::builder().cache(&ORDERS).at_end(|| _ = ORDERS.sweep(1_000)).build()?;
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

    /// Builds the monitor. Nothing is in force until [`Monitor::install`].
    ///
    /// # Errors
    ///
    /// [`MonitorError`] where no memory size is known, the allocator is not installed, the load lines do not rise, the
    /// variable `PLIMSOLL` does not read or a resource is charged to an account already.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let monitor = plimsoll::Monitor::builder().build()?;
    /// monitor.install()?; // what `Monitor::from_env` does too
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub fn build(self) -> Result<Monitor, MonitorError> {
        let books = heap::stats().map_err(|source| MonitorError::Allocator { source })?;
        let (memory_size, share) = if let Some(size) = self.memory_size {
            (size, LoadLines::ENVIRONMENT_SHARE)
        } else {
            let limit = detect()?;
            (limit.size(), limit.environment_share())
        };
        let mut lines = LoadLines::new(memory_size).environment_share(self.environment_share.unwrap_or(share));
        if let Some(percents) = &self.percents {
            lines = lines.percents(percents).map_err(|source| MonitorError::LoadLines { source })?;
        }
        let policy = match std::env::var_os(POLICY_VARIABLE) {
            Some(text) => text.to_string_lossy().parse().map_err(|source| MonitorError::Policy { source })?,
            None => self.policy,
        };
        let resources = Resources::watch(self.resources)?;
        // What the init phase allocated and freed again has left pages that carry heap anew.
        let seen = os::rss().ok().map(|rss| Seen { rss: rss.total, carried: books.peak.at_most });
        let before = Before { refused: books.refused, seen, caches: self.caches.counts() };
        let state = Mutex::new(State::new(Window::new(self.window), before, self.trim));
        let retention = Retention {
            over: self.retaining_over.as_u64(),
            trimmed: false,
            arenas_bound: std::env::var_os("MALLOC_ARENA_MAX").is_some(),
        };
        let Self { clock, hooks, observers, budget, caches, .. } = self;
        let shared = Shared { lines, policy, clock, hooks, observers, budget, retention, resources, caches, state };
        Ok(Monitor { shared: Arc::new(shared) })
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
