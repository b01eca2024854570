//! The lazy resources that a monitor watches.

use std::fmt;

use crate::board::Clean;
use crate::budget::{Account, Pressure, Reclaim, ReclaimPriority, ReclaimerHandle};
use crate::lazy::{Resource, ResourceState, ResourceStatus};
use crate::size::ByteSize;
use crate::unwind::contained;

use super::BuildError;

/// How the watched resources stand, in numbers.
///
/// In the report line as `resources 2 loaded 1 unloaded 1 failed 1 never used: pdf_fonts`; what there is none of is left
/// out, and of those never used the first is named.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::install_from_env();
/// let report = monitor.start("4f1c9a").finish();
/// if let Some(name) = report.resources.first_never_used {
///     println!("{name} was loaded for nothing");
/// }
/// # Ok::<(), plimsoll::monitor::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourceCounts {
    /// Those that are there, stale or not.
    pub loaded: usize,
    /// Those that are not, or not yet.
    pub unloaded: usize,
    /// Those whose last load failed.
    pub failed: usize,
    /// Those that nobody has asked for since the process began.
    pub never_used: usize,
    /// The first of these.
    pub first_never_used: Option<&'static str>,
}

impl ResourceCounts {
    /// Whether none is watched.
    pub const fn is_empty(&self) -> bool {
        self.loaded + self.unloaded + self.failed == 0
    }
}

impl fmt::Display for ResourceCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("resources")?;
        for (count, what) in [(self.loaded, "loaded"), (self.unloaded, "unloaded"), (self.failed, "failed")] {
            if count > 0 {
                write!(f, " {count} {what}")?;
            }
        }
        self.first_never_used.map_or(Ok(()), |name| write!(f, " {} never used: {}", self.never_used, Clean(name)))
    }
}

/// The reclaimer of a resource.
struct Unloader(&'static dyn Resource);

impl Reclaim for Unloader {
    fn reclaim(&self, want: ByteSize, pressure: Pressure) {
        self.0.reclaim(want, pressure);
    }
}

/// A resource. Its reclaimer is registered as long as the monitor lives.
struct Watched {
    resource: &'static dyn Resource,
    _reclaimer: ReclaimerHandle,
}

#[derive(Default)]
pub(super) struct Resources(Box<[Watched]>);

impl Resources {
    /// Charges the accounts, and registers the reclaimers.
    pub(super) fn watch(named: Vec<(&'static dyn Resource, Account)>) -> Result<Self, BuildError> {
        let watch = |(resource, account): (&'static dyn Resource, Account)| {
            let name = resource.name();
            resource.charge_to(account.clone()).map_err(|_| BuildError::Resource { name })?;
            let reclaimer = account.register_reclaimer(resource.rank(), Unloader(resource));
            Ok(Watched { resource, _reclaimer: reclaimer })
        };
        named.into_iter().map(watch).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn statuses(&self) -> impl Iterator<Item = ResourceStatus> {
        self.0.iter().map(|watched| watched.resource.status())
    }

    /// Unloads those of a priority up to `up_to` without a guard, and returns the bytes that they were charged.
    pub(super) fn unload(&self, up_to: ReclaimPriority) -> ByteSize {
        let unloading = self.0.iter().map(|watched| watched.resource).filter(|resource| resource.rank() <= up_to);
        unloading.fold(ByteSize::ZERO, |sum, resource| {
            let before = resource.status().charged;
            // The drop of a value is the user's code.
            contained(|| resource.reclaim(ByteSize::MAX, Pressure::Critical));
            sum.saturating_add(before.saturating_sub(resource.status().charged))
        })
    }

    pub(super) fn invocation_ended(&self) {
        self.0.iter().for_each(|watched| watched.resource.invocation_ended());
    }

    pub(super) fn counts(&self) -> ResourceCounts {
        let mut counts = ResourceCounts::default();
        for status in self.statuses() {
            match status.state {
                ResourceState::Loaded | ResourceState::Stale => counts.loaded += 1,
                ResourceState::Failed => counts.failed += 1,
                ResourceState::Unloaded | ResourceState::Loading { .. } => counts.unloaded += 1,
            }
            if status.is_never_used() {
                counts.never_used += 1;
                counts.first_never_used = counts.first_never_used.or(Some(status.name));
            }
        }
        counts
    }
}
