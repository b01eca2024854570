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
///     Err(LazyError::Failed(failure)) => println!("{failure}; {}", failure.error),
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
    /// The load of the resource asked for the resource.
    #[error("the load of {name} asks for {name} itself")]
    #[non_exhaustive]
    Reentrant {
        /// The resource's name.
        name: &'static str,
    },
    /// The load that this caller began panicked while another waiter polled it. The next call begins anew.
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

/// A load that failed. All who ask within the back-off get the same error.
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
    /// What the load returned.
    pub error: Arc<E>,
    /// How many attempts have failed in a row.
    pub attempts: u32,
    /// How long ago the last one failed.
    pub age: Duration,
    /// How long nobody tries again; zero if the next caller does.
    pub retry_in: Duration,
    /// Where the resource was made.
    pub declared: Site,
    /// Where it was first asked for.
    pub first_used: Option<Site>,
}

impl<E> Clone for LoadFailure<E> {
    fn clone(&self) -> Self {
        Self { error: Arc::clone(&self.error), ..*self }
    }
}

/// Prints the message and the `Debug` text of [`error`](Self::error).
impl<E: fmt::Debug> fmt::Debug for LoadFailure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}: {:?}", self.error)
    }
}

impl<E> fmt::Display for LoadFailure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, attempts, age, retry_in, declared, first_used, .. } = self;
        let (age, retry_in) = (age.as_millis(), retry_in.as_millis());
        write!(f, "{name} could not be loaded: attempt {attempts} failed {age} ms ago, ")?;
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
        Some(&*self.error)
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
