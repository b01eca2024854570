//! The leak verdict, and what helps.

use std::fmt;

use crate::size::ByteSize;

/// Whether the memory of an environment grows for good, as far as its invocations tell.
///
/// What counts is the *level*: the live heap that no [gauge](crate::board) and no account explains, as far as its
/// pages are resident. Invocations may overlap: of all starts and ends since the last window, the lowest level counts. A window
/// ends with each invocation that is alone, and else after an eighth as many ends as were in flight, or after a second.
///
/// | verdict | when |
/// |---|---|
/// | [`Rising`](Self::Rising) | the lowest level of eight windows has risen in four steps of 1/64 of the capacity, and goes on |
/// | [`Growing`](Self::Growing) | it is rising, higher than ever, and the live heap is above 70 % of the capacity |
/// | | or nearly each of the last 16 or 64 invocations adds, and fewer than 28 more fit |
/// | | or the level has doubled three times as a hash table does, and the next doubling does not fit |
///
/// So what fills up and stops below 70 % of the capacity is not called a leak, unless it fills it within a few dozen
/// invocations. A slow leak is called one only when it matters: 30 % of the capacity are left then. On AWS Lambda, a
/// leak that would reach the capacity after more than 12 hours at the present pace is `Rising`: environments are
/// ended every few hours. Without a known memory limit there is no `Growing`.
///
/// # What is not seen
///
/// A leak in an account or in a named gauge, which the report shows under its name. A leak below the memory that requests
/// in flight hold, as long as their number rises. A map that was filled and stays as it is looks, until its next doubling
/// would be due, as one that leaks: if that doubling would not fit, it is called growing. Give such a map a gauge.
///
/// In the report line as `steady`, or as one of these:
///
/// ```text
/// plimsoll 4f1c9a heap 31.7 .. | growing 10.2 KiB per invocation, 840 left | recommended=none | ALERT growing-heap
/// plimsoll 4f1c9a heap 0.1 .. | retaining 34.9 MiB beyond heap: trim | recommended=128MB
/// ```
///
/// # Examples
///
/// ```no_run
/// use plimsoll::Monitor;
/// use plimsoll::monitor::LeakVerdict;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let monitor = Monitor::install_from_env();
/// let report = monitor.start("4f1c9a").finish();
/// if let LeakVerdict::Growing { invocations_left: Some(..100), .. } = report.verdict {
///     std::process::exit(1); // a new environment starts empty
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeakVerdict {
    /// Fewer than 16 invocations have ended with a report.
    #[default]
    Unknown,
    /// It rises, as it does while a cache fills; too far from the limit to be called a leak.
    #[non_exhaustive]
    Rising {
        /// The growth from one invocation to the next.
        per_invocation: ByteSize,
        /// The number of further invocations after which the rss reaches the capacity at this pace. `None` if no memory
        /// limit is known.
        invocations_left: Option<u64>,
    },
    /// No rise that matters.
    Steady,
    /// It rises, and the capacity will not do.
    #[non_exhaustive]
    Growing {
        /// The growth from one invocation to the next, on average.
        per_invocation: ByteSize,
        /// The number of further invocations after which the rss reaches the capacity at this pace: a few fewer than up
        /// to the kill. Always known.
        invocations_left: Option<u64>,
    },
    /// The heap does not grow, but the rss lies far beyond it: pages that the allocator keeps.
    #[non_exhaustive]
    Retaining {
        /// The anonymous rss less the live heap.
        beyond_heap: ByteSize,
        /// What is likely to help.
        remedy: Remedy,
    },
    /// The heap does not grow, but the environment holds memory that is neither the live heap nor free pages of its
    /// allocator.
    #[non_exhaustive]
    Outside {
        /// That memory.
        bytes: ByteSize,
        /// What holds it.
        remedy: Remedy,
    },
}

/// What makes an allocator give back what it keeps.
///
/// # Examples
///
/// ```
/// use plimsoll::monitor::Remedy;
///
/// assert_eq!(Remedy::ArenaMax.to_string(), "MALLOC_ARENA_MAX");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// [`MonitorBuilder::trim`](crate::monitor::MonitorBuilder::trim): it is off, or has not run since this came together. It
    /// reaches all arenas.
    Trim,
    /// The environment variable `MALLOC_ARENA_MAX` at 1 or 2: a trim did not help, several threads have arenas of
    /// their own, and the variable is not set.
    ArenaMax,
    /// Another global allocator, or a [hook](crate::os::set_trim_hook) for this one: it cannot be trimmed, or a trim
    /// did not help.
    AnotherAllocator,
    /// The C library, or other native code that this program calls: it holds blocks of `malloc`, or mappings of its own.
    CLibrary,
    /// Another process in the same cgroup, such as a child process or an extension.
    ChildProcess,
}

impl LeakVerdict {
    /// Returns `true` if the heap rises, be it a leak or not.
    pub(in crate::monitor) const fn is_rise(self) -> bool {
        matches!(self, Self::Rising { .. } | Self::Growing { .. })
    }
}

#[cfg(test)]
impl LeakVerdict {
    /// Returns a growing verdict.
    pub(in crate::monitor) const fn growing_for_test() -> Self {
        Self::Growing { per_invocation: ByteSize::ZERO, invocations_left: None }
    }
}

impl fmt::Display for LeakVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Steady => f.write_str("steady"),
            Self::Rising { per_invocation, invocations_left } => {
                write!(f, "rising {per_invocation} per invocation")?;
                write_left(f, *invocations_left)
            }
            Self::Growing { per_invocation, invocations_left } => {
                write!(f, "growing {per_invocation} per invocation")?;
                write_left(f, *invocations_left)
            }
            Self::Outside { bytes, remedy } => write!(f, "outside {bytes} beyond heap: {remedy}"),
            Self::Retaining { beyond_heap, remedy } => write!(f, "retaining {beyond_heap} beyond heap: {remedy}"),
        }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trim => "trim",
            Self::ArenaMax => "MALLOC_ARENA_MAX",
            Self::AnotherAllocator => "another allocator",
            Self::CLibrary => "C library",
            Self::ChildProcess => "child process",
        })
    }
}

/// Writes how many invocations are left.
fn write_left(f: &mut fmt::Formatter<'_>, left: Option<u64>) -> fmt::Result {
    match left {
        Some(0) => f.write_str(", limit reached"),
        Some(left) => write!(f, ", {left} left"),
        None => Ok(()),
    }
}
