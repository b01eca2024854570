//! Why a resource is not there, and where to look.

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::BudgetExceeded;

/// Why [`get`](super::LazyResource::get) has nothing to give.
///
/// # Examples
///
/// ```
/// use plimsoll::{LazyError, LazyResource};
///
/// let hosts = LazyResource::new("hosts", || std::fs::read("no such file"));
/// match hosts.get() {
///     Err(LazyError::Failed(failure)) => println!("{failure}; {:?}", failure.error),
///     other => panic!("{other:?}"),
/// }
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum LazyError<E> {
    /// The load failed: now, or before and it is not yet time to try again.
    #[error(transparent)]
    Failed(Box<LoadFailure<E>>),
    /// The budget has no room for what the resource is [expected](super::LazyResource::expecting) to take. The next
    /// call asks again.
    #[error("{name} cannot be loaded")]
    #[non_exhaustive]
    OverBudget {
        /// The resource's name.
        name: &'static str,
        /// Who holds the memory.
        source: BudgetExceeded,
    },
    /// The call is inside the load of the resource, or blocking loads wait for each other in a ring.
    #[error("the load of {name} asks for {name} itself")]
    #[non_exhaustive]
    Reentrant {
        /// The resource's name.
        name: &'static str,
    },
    /// The load that this call started panicked while another waiter polled it. The next call starts another one.
    #[error("the load of {name} panicked")]
    #[non_exhaustive]
    Panicked {
        /// The resource's name.
        name: &'static str,
    },
}

/// Prints the message and the `Debug` text of its cause.
// The bound `E: Error` would print the causes of `E`, but types such as `String` and `Box<dyn Error>` do not meet it.
impl<E: fmt::Debug> fmt::Debug for LazyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => write!(f, "{failure:?}"),
            Self::OverBudget { source, .. } => write!(f, "{self}: {source:?}"),
            Self::Reentrant { .. } | Self::Panicked { .. } => write!(f, "{self}"),
        }
    }
}

// Not derived: an error that is shared need not be one that can be cloned.
impl<E> Clone for LazyError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(failure.clone()),
            Self::OverBudget { name, source } => Self::OverBudget { name, source: source.clone() },
            Self::Reentrant { name } => Self::Reentrant { name },
            Self::Panicked { name } => Self::Panicked { name },
        }
    }
}

/// The reason why an attempt to load failed.
///
/// # Examples
///
/// ```
/// use plimsoll::{LazyResource, lazy::FailureCause};
///
/// let hosts = LazyResource::new("hosts", || std::fs::read("no such file"));
/// assert!(hosts.get().is_err());
/// assert_eq!(hosts.failure().map(|failure| failure.cause), Some(FailureCause::Error));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureCause {
    /// The loader returned an error.
    Error,
    /// The loader panicked.
    Panicked,
    /// All callers that waited for the load were dropped, or the task that drove it.
    Cancelled,
    /// Nothing had woken a refresh for too long, and it was dropped: see
    /// [`refresh_after`](super::AsyncLazyResource::refresh_after).
    TimedOut,
}

/// The failed attempts to load since the last value. All callers within the back-off get the same error.
///
/// ```text
/// model could not be loaded: attempt 3 failed 120 ms ago, the next is due in 280 ms (declared at src/main.rs:14, first used at src/handler.rs:40)
/// ```
///
/// # Examples
///
/// ```
/// use plimsoll::LazyResource;
///
/// let hosts = LazyResource::new("hosts", || std::fs::read("no such file"));
/// assert!(hosts.get().is_err());
/// let failure = hosts.failure().ok_or("it has failed")?;
/// assert!(failure.to_string().starts_with("hosts could not be loaded: attempt 1 failed"));
/// assert!(failure.retry_in > std::time::Duration::ZERO);
/// # Ok::<(), &str>(())
/// ```
#[non_exhaustive]
pub struct LoadFailure<E> {
    /// The resource's name.
    pub name: &'static str,
    /// The last error that the loader returned. `None` if no attempt since the last value returned one: all of them
    /// panicked, were cancelled or timed out.
    pub error: Option<Arc<E>>,
    /// The reason why the last attempt failed.
    pub cause: FailureCause,
    /// The number of attempts that failed in a row.
    pub attempts: u32,
    /// The time since the last one failed.
    pub age: Duration,
    /// The time until the next attempt; zero if the next caller makes it.
    pub retry_in: Duration,
    /// The place at which the resource was declared.
    pub declared: Site,
    /// The place of its first use.
    pub first_used: Option<Site>,
}

impl<E> Clone for LoadFailure<E> {
    fn clone(&self) -> Self {
        Self { error: self.error.clone(), ..*self }
    }
}

/// Prints the message and the `Debug` text of [`error`](Self::error).
impl<E: fmt::Debug> fmt::Debug for LoadFailure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.error.as_ref().map_or(Ok(()), |error| write!(f, ": {error:?}"))
    }
}

impl<E> fmt::Display for LoadFailure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, attempts, age, retry_in, declared, first_used, .. } = self;
        let (age, retry_in) = (age.as_millis(), retry_in.as_millis());
        let ended = match self.cause {
            FailureCause::Error => "failed",
            FailureCause::Panicked => "panicked",
            FailureCause::Cancelled => "was cancelled",
            FailureCause::TimedOut => "timed out",
        };
        write!(f, "{name} could not be loaded: attempt {attempts} {ended} {age} ms ago, ")?;
        if retry_in == 0 {
            f.write_str("the next is due now")?;
        } else {
            write!(f, "the next is due in {retry_in} ms")?;
        }
        write!(f, " (declared at {declared}")?;
        if let Some(site) = first_used {
            write!(f, ", first used at {site}")?;
        }
        f.write_str(")")
    }
}

impl<E: Error + 'static> Error for LoadFailure<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.as_deref().map(|error| error as _)
    }
}

/// A place in the source, as a report may show it: a path within its crate, and a line.
///
/// # Examples
///
/// ```
/// use plimsoll::LazyResource;
///
/// static MODEL: LazyResource<u32, std::io::Error> = LazyResource::new("model", || Ok(1));
///
/// let declared = MODEL.status().declared;
/// println!("{}, line {}", declared.file(), declared.line()); // src/model.rs, line 3
/// # assert!(declared.line() > 0 && !declared.file().is_empty());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Site(pub(super) &'static Location<'static>);

impl Site {
    /// Tells the file: from the crate's folder on, where the compiler knows it by more.
    ///
    /// # Examples
    ///
    /// ```
    /// # let resource = plimsoll::LazyResource::new("model", || Ok::<_, std::io::Error>(1));
    /// println!("{}", resource.status().declared.file()); // src/model.rs
    /// # assert!(!resource.status().declared.file().is_empty());
    /// ```
    pub fn file(&self) -> &'static str {
        let file = self.0.file();
        let folders = ["/src/", "/tests/", "/examples/", "/benches/"];
        let inside = folders.iter().filter_map(|folder| file.rfind(folder)).max();
        inside.and_then(|at| file.get(at + 1..)).unwrap_or(file)
    }

    /// Tells the line, from 1.
    ///
    /// # Examples
    ///
    /// ```
    /// # let resource = plimsoll::LazyResource::new("model", || Ok::<_, std::io::Error>(1));
    /// assert!(resource.status().declared.line() >= 1);
    /// ```
    pub fn line(&self) -> u32 {
        self.0.line()
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file(), self.line())
    }
}
