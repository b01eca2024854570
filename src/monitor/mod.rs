//! One short line per invocation: how deep the function lies, who holds the memory, which size fits.
//!
//! ```no_run
//! use plimsoll::{Monitor, TrackingAllocator};
//!
//! #[global_allocator]
//! static GLOBAL: TrackingAllocator = TrackingAllocator::new();
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let monitor = Monitor::from_env()?;                 // memory size, load lines, alarm, last words
//!     let invocation = monitor.start("4f1c9a");
//!     // ... the work ...
//!     let report = invocation.finish();                   // prints, as the policy says
//!     assert!(report.peak.at_most >= report.live);
//!     Ok(())
//! }
//! ```
//!
//! ```text
//! plimsoll 4f1c9a heap 12.1 peak 41.0 of 116 MiB (35 %) rss 48.2 +0 B | sessions 4.9 unaccounted 7.2 | steady | fits=128MB
//! ```
//!
//! In words: 12.1 MiB are live, 41.0 MiB were at the peak of this invocation, which is 35 % of what the memory size
//! leaves the process; the kernel counts 48.2 MiB; the invocation left nothing behind; the board names `sessions`; what
//! invocations leave behind does not grow, see [`LeakVerdict`]; and 128 MB would fit (`128MB?`: as far as fewer than 20
//! invocations can tell).
//!
//! With the feature `emf` the same goes to CloudWatch as metrics: see `Emf`.

mod alert;
mod builder;
mod caches;
#[cfg(feature = "emf")]
mod emf;
mod invocation;
mod leak;
mod policy;
mod report;
mod request_id;
mod resources;
mod restore;
mod snapshot;
mod trim;
mod window;

use std::fmt;
use std::sync::Arc;

use crate::budget::MemoryBudget;
use crate::clock::{Clock, Stopwatch};
use crate::env::MemoryLimit;
use crate::heap::{self, LoadLines};
use crate::os;
use crate::size::ByteSize;
use crate::unwind::contained;

pub use alert::Alert;
pub use builder::{MonitorBuilder, MonitorError};
pub use caches::CacheCounts;
#[cfg(feature = "emf")]
pub use emf::{Emf, EmfError};
pub use invocation::Invocation;
pub use leak::{LeakVerdict, Remedy};
pub use policy::{POLICY_VARIABLE, ParsePolicyError, ReportPolicy};
pub use report::{InvocationReport, Outcome, Reserved};
pub use request_id::RequestId;
pub use resources::ResourceCounts;
pub use snapshot::Snapshot;
pub use trim::{TrimPolicy, Trimmed};
pub use window::Percentiles;

use caches::Caches;
use invocation::{Seen, State};
use leak::Retention;
use resources::Resources;
use trim::Ended;

/// Watches the memory of a process from invocation to invocation, and reports.
///
/// Peaks, load lines and last words belong to the process, so there should be one monitor in it, and no one else who
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
/// # fn main() -> Result<(), plimsoll::monitor::MonitorError> {
/// let monitor = plimsoll::Monitor::from_env()?;
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

type Hook = Box<dyn Fn() + Send + Sync>;
type Observer = Box<dyn Fn(&InvocationReport) + Send + Sync>;

/// What all clones share.
struct Shared {
    lines: LoadLines,
    policy: ReportPolicy,
    clock: Clock,
    /// Called at the end of each invocation that leaves none in flight, before the report.
    hooks: Vec<Hook>,
    /// Shown every report.
    observers: Vec<Observer>,
    budget: Option<MemoryBudget>,
    retention: Retention,
    resources: Resources,
    caches: Caches,
    state: std::sync::Mutex<State>,
}

impl Monitor {
    /// Begins a monitor with settings of one's own.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{ByteSize, Monitor};
    /// let monitor = Monitor::builder().memory_size(ByteSize::mib(512)).build()?;
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub fn builder() -> MonitorBuilder {
        MonitorBuilder::default()
    }

    /// Builds a monitor for the memory size of the environment, and [installs](Self::install) it.
    ///
    /// # Errors
    ///
    /// [`MonitorError`] where no memory size is known, the allocator is not installed or a variable does not read.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let monitor = plimsoll::Monitor::from_env()?; // once, in `main`
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub fn from_env() -> Result<Self, MonitorError> {
        let monitor = Self::builder().build()?;
        monitor.install()?;
        Ok(monitor)
    }

    /// Puts the load lines with their alarm in force, and has an abort over a refused allocation say why.
    ///
    /// # Errors
    ///
    /// [`MonitorError::LastWords`] where the handler of SIGABRT cannot be installed; the load lines are in force then.
    /// [`MonitorError::Allocator`] where the allocator is not installed, which building has ruled out.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let monitor = plimsoll::Monitor::builder().load_lines(&[80, 95]).build()?;
    /// monitor.install()?;
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub fn install(&self) -> Result<(), MonitorError> {
        heap::set_load_lines(&self.shared.lines).map_err(|source| MonitorError::Allocator { source })?;
        heap::install_last_words().or_else(|error| match error {
            os::OsError::NotAvailable { .. } => Ok(()),
            source => Err(MonitorError::LastWords { source }),
        })
    }

    /// Begins an invocation; the guard ends it, and reports it as unfinished when it is dropped.
    ///
    /// Where no other is in flight, the peaks of heap and rss begin anew here and are this invocation's own; else they
    /// are the environment's, and the report says so. So one that never ends makes all others concurrent, and as long as
    /// it is in flight no hook runs and nothing is trimmed at their ends. Costs some microseconds, most for the rss; no
    /// allocation.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::from_env()?;
    /// let report = monitor.start("4f1c9a").finish();
    /// assert!(report.peak.at_most >= report.live);
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub fn start(&self, id: impl Into<RequestId>) -> Invocation {
        Invocation::start(Arc::clone(&self.shared), id.into())
    }

    /// Reads the figures now, for the large picture. Sorts the window: some 12 microseconds at its default length.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::from_env()?;
    /// println!("{}", monitor.snapshot());
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.shared)
    }

    /// The load lines that [`install`](Self::install) puts in force.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::from_env()?;
    /// println!("{} are this process's", monitor.load_lines().capacity());
    /// # Ok::<(), plimsoll::monitor::MonitorError>(())
    /// ```
    pub fn load_lines(&self) -> &LoadLines {
        &self.shared.lines
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { lines, policy, .. } = &*self.shared;
        f.debug_struct("Monitor").field("lines", lines).field("policy", policy).finish_non_exhaustive()
    }
}

impl Shared {
    /// Tells the budget what the process holds, and has given back what it is overdrawn by.
    fn correct_budget(&self, live: ByteSize, seen: Option<Seen>) {
        let Some(budget) = &self.budget else { return };
        budget.rebaseline(live);
        if let Some(Seen { rss, carried }) = seen {
            budget.observe_rss(rss, carried);
        }
        let _still_overdrawn = budget.relieve();
    }

    /// A panic of a hook or an observer must neither take down the runtime that is about to ask for the next event, nor
    /// turn an unwinding drop into an abort.
    fn run_hooks(&self) {
        for hook in &self.hooks {
            contained(hook);
        }
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
        let lowest = self.lines.levels().min();
        let ended = Ended {
            beyond: beyond(rss),
            capacity: self.lines.capacity(),
            is_over: lowest.zip(rss).is_some_and(|(percent, rss)| rss.total > self.lines.at(percent)),
        };
        if !self.state().trimmer.is_due(&ended) {
            return None;
        }
        let started = Stopwatch::start();
        os::trim().ok()?;
        let duration = started.elapsed();
        let after = os::rss().ok();
        let given_back =
            rss.zip(after).map_or(ByteSize::ZERO, |(before, after)| before.total.saturating_sub(after.total));
        let trimmed = Trimmed::new(given_back, duration);
        self.state().trimmer.done(ended.beyond, beyond(after), &trimmed);
        Some(trimmed)
    }

    fn show(&self, report: &InvocationReport) {
        for observer in &self.observers {
            contained(|| observer(report));
        }
    }

    /// The state, whoever panicked while holding it: every write leaves it whole.
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The memory size found, for a builder that was given none.
fn detect() -> Result<MemoryLimit, MonitorError> {
    MemoryLimit::detect().map_err(|source| MonitorError::MemorySize { source })
}
