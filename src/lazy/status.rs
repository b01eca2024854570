//! What is known of a resource, for reports, and what a monitor does with any of them.

use std::fmt;

use crate::budget::{Account, Reclaim, ReclaimPriority};
use crate::size::ByteSize;

use super::error::Site;
use super::generation::LoadCost;

/// Where a resource stands.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use plimsoll::{LazyResource, lazy::ResourceState};
///
/// let model = LazyResource::new("model", || Ok::<_, Infallible>(1));
/// assert_eq!(model.status().state, ResourceState::Unloaded);
/// assert_eq!(ResourceState::Loaded.to_string(), "loaded");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ResourceState {
    /// Nothing is there: it was never asked for, or unloaded.
    Unloaded,
    /// It is being loaded, and so many wait for it beside the thread that loads.
    #[non_exhaustive]
    Loading {
        /// How many wait; of an async load, all its tasks.
        waiting: usize,
    },
    /// It is there.
    Loaded,
    /// It is there and older than it should be.
    Stale,
    /// Its last load failed, panicked or was cancelled, and there is no value to show.
    Failed,
}

/// What is known of a resource. `Display` is one line of a report.
///
/// ```text
/// model: loaded, 24.0 MiB loaded in 31 ms at a peak of 40.0 MiB, declared at src/main.rs:14, first used at src/handler.rs:40
/// pdf_fonts: declared at src/main.rs:15, never used in 312 invocations
/// ```
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use plimsoll::LazyResource;
///
/// let model = LazyResource::new("model", || Ok::<_, Infallible>(vec![0; 1000]));
/// let _pin = model.get()?;
/// let status = model.status();
/// assert_eq!((status.name, status.loads, status.is_never_used()), ("model", 1, false));
/// println!("{status}");
/// # Ok::<(), plimsoll::LazyError<Infallible>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourceStatus {
    /// Its name.
    pub name: &'static str,
    /// Where it stands.
    pub state: ResourceState,
    /// Pins that keep values which were unloaded or replaced.
    pub unloading_pins: usize,
    /// The number of attempts that failed in a row: those of refreshes too, and those that panicked or were cancelled.
    pub failed_attempts: u32,
    /// How many times it was loaded.
    pub loads: u64,
    /// What the last load cost; `None` before the first.
    pub cost: Option<LoadCost>,
    /// What its account is charged for the value that is there.
    pub charged: ByteSize,
    /// Invocations that ended while a monitor watched it.
    pub invocations: u64,
    /// How many of them ended since it was last used.
    pub idle: u64,
    /// Where it was made.
    pub declared: Site,
    /// Where it was first asked for; `None` if it never was. Prefetching is no use.
    pub first_used: Option<Site>,
}

impl ResourceStatus {
    /// Whether nobody has asked for it, prefetching apart.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use plimsoll::LazyResource;
    ///
    /// let fonts = LazyResource::new("fonts", || Ok::<_, Infallible>(1));
    /// fonts.prefetch()?;
    /// assert!(fonts.status().is_never_used()); // prefetched for nothing, so far
    /// # Ok::<(), plimsoll::LazyError<Infallible>>(())
    /// ```
    pub fn is_never_used(&self) -> bool {
        self.first_used.is_none()
    }
}

impl fmt::Display for ResourceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unloaded => "unloaded",
            Self::Loading { waiting } => return write!(f, "loading, {waiting} wait"),
            Self::Loaded => "loaded",
            Self::Stale => "stale",
            Self::Failed => "failed",
        })
    }
}

impl fmt::Display for ResourceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        if self.first_used.is_some() || self.loads > 0 {
            write!(f, "{}, ", self.state)?;
        }
        if self.unloading_pins > 0 {
            write!(f, "unloading, {} pins, ", self.unloading_pins)?;
        }
        if self.failed_attempts > 0 {
            write!(f, "{} failed attempts, ", self.failed_attempts)?;
        }
        if let Some(cost) = self.cost {
            write!(f, "{cost}, ")?;
        }
        if self.idle > 0 && !self.is_never_used() {
            write!(f, "idle for {} invocations, ", self.idle)?;
        }
        write!(f, "declared at {}, ", self.declared)?;
        match self.first_used {
            Some(site) => write!(f, "first used at {site}"),
            None => write!(f, "never used in {} invocations", self.invocations),
        }
    }
}

/// What a monitor can watch: a [`LazyResource`](super::LazyResource) or an
/// [`AsyncLazyResource`](super::AsyncLazyResource), whatever it loads.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use plimsoll::{LazyResource, budget::ReclaimPriority, lazy::Resource};
///
/// static MODEL: LazyResource<Vec<u8>, Infallible> = LazyResource::new("model", || Ok(vec![0; 1000]));
/// static FONTS: LazyResource<Vec<u8>, Infallible> = LazyResource::new("fonts", || Ok(vec![0; 1000]));
///
/// let heavy: [&dyn Resource; 2] = [&MODEL, &FONTS];
/// for resource in heavy {
///     println!("{}", resource.status());
///     assert_eq!(resource.rank(), ReclaimPriority::RESOURCE);
///     resource.invocation_ended(); // what a monitor does
/// }
/// assert_eq!(MODEL.status().invocations, 1);
/// ```
pub trait Resource: sealed::Sealed + Reclaim {
    /// Tells its name.
    fn name(&self) -> &'static str;

    /// Tells how dear it is to lose: the order in which it is unloaded under pressure.
    fn rank(&self) -> ReclaimPriority;

    /// Tells what is known of it. Takes two locks for a moment; allocates nothing.
    fn status(&self) -> ResourceStatus;

    /// Charges an account for what is loaded, now and later.
    ///
    /// # Errors
    ///
    /// The account, where another one is charged already.
    fn charge_to(&self, account: Account) -> Result<(), Account>;

    /// Notes that an invocation has ended: idleness counts in these. Never waits.
    fn invocation_ended(&self);
}

pub(super) mod sealed {
    pub trait Sealed {}
}
