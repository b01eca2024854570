//! The leak verdict, and what helps.

use std::fmt;

use crate::size::ByteSize;

/// The verdict on the memory of an environment: does it grow for good?
///
/// It judges the *level*: the live heap that no [gauge](crate::board) and no account explains, as far as its
/// pages are resident. Invocations may overlap: of all starts and ends since the last window, the lowest level counts. A window
/// ends with each invocation that is alone, and else after an eighth as many ends as were in flight, or after a second.
///
/// | verdict | when |
/// |---|---|
/// | [`Rising`](Self::Rising) | the lowest level of eight windows has risen in four steps of 1/64 of the capacity, and goes on |
/// | [`Growing`](Self::Growing) | it is rising, higher than before, and the live heap is above 70 % of the capacity, or the rss that each invocation reaches above 85 % |
/// | | or nearly each of the last 16 or 64 invocations adds, and fewer than 28 more fit |
/// | | or the level has doubled again and again as a hash table does, and the next doubling does not fit |
///
/// So a cache that fills and stops below 70 % of the capacity is not called a leak, unless it fills it within a few dozen
/// invocations, or is one large map. A slow leak is called one only when it matters: 30 % of the capacity are left then. On AWS
/// Lambda, a leak that would reach the capacity after more than 12 hours at the present pace is `Rising`: environments are
/// ended every few hours. Without a known memory limit there is no `Growing`. A verdict stays for 16 reports after its
/// last sign.
///
/// # What is not seen
///
/// A leak in an account or in a named gauge, which the report shows under its name. A leak below reserved bytes that are not
/// heap. A fast leak while the number of requests in flight rises. A map that was filled and stays as it is looks, until its next doubling
/// would be due, as one that leaks: if that doubling would not fit, it is called growing. Give such a map a gauge.
///
/// Memory beyond the heap has the verdicts [`Retaining`](Self::Retaining) and [`Outside`](Self::Outside), whatever its trend.
///
/// In the report line as `steady`, or as one of these:
///
/// ```text
/// plimsoll 4f1c9a heap 31.7 .. | growing 10.2 KiB per invocation, 840 left | recommended=none | ALERT growing-heap
/// plimsoll 4f1c9a heap 0.1 .. | retaining 34.9 MiB beyond heap: trim | recommended=128MB
/// plimsoll 4f1c9a heap 0.1 .. | outside 64.1 MiB beyond heap: C library | recommended=128MB
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
    /// The heap does not grow, but its allocator keeps free pages, and the remedy releases them.
    #[non_exhaustive]
    Retaining {
        /// The bytes that the remedy releases, at least four fifths of them.
        beyond_heap: ByteSize,
        /// The measure that releases them.
        remedy: Remedy,
    },
    /// The heap does not grow, but the environment holds memory that is neither the live heap nor free pages of its
    /// allocator.
    #[non_exhaustive]
    Outside {
        /// That memory.
        bytes: ByteSize,
        /// The holder.
        remedy: Remedy,
    },
}

/// The measure that releases memory beyond the live heap, or the holder of that memory.
///
/// A remedy is named only for bytes that it releases, by a lower bound. Memory between the bounds has no verdict: for example
/// fragments, which no remedy releases.
///
/// | allocator | free pages that a trim releases | blocks and mappings of native code |
/// |---|---|---|
/// | glibc's | whole pages in its free chunks, by `malloc_info` | its blocks less the heap; what is no page of it |
/// | jemalloc with [`trim_jemalloc`](crate::os::set_trim_hook) | its count of dirty pages | all blocks of `malloc`; what is no page of jemalloc |
/// | another one with a trim hook | as much as the heap fell, once a trim has helped | all blocks of `malloc`; more than the heap can have left |
/// | another one without a hook | none | the same |
///
/// With a hook and without statistics, as with mimalloc, no trim is promised before the first one has released at least four
/// fifths of what was free. Until then [`MonitorBuilder::trim`](crate::monitor::MonitorBuilder::trim) or a call of
/// [`os::trim`](crate::os::trim) is needed. The monitor makes no trim that the policy does not allow.
///
/// Memory that a trim of the monitor has left is not promised to the next trim.
///
/// # Performance
///
/// The figures are read if the anonymous rss is beyond the heap by
/// [`MonitorBuilder::retaining_over`](crate::monitor::MonitorBuilder::retaining_over), in at most a hundredth of
/// the time, and at most once a second unless that grows. A reading walks the free chunks of the allocator. The memory of the
/// cgroup is read once a second.
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
    /// [`MonitorBuilder::trim`](crate::monitor::MonitorBuilder::trim). It reaches all arenas.
    Trim,
    /// The environment variable `MALLOC_ARENA_MAX` at 1, or [`os::limit_arenas`](crate::os::limit_arenas): the free ends of
    /// arenas of threads are large, and a trim has left them. `malloc_trim` releases only that of the first arena, so keep
    /// [`MonitorBuilder::trim`](crate::monitor::MonitorBuilder::trim) on. glibc keeps large ends after a block of several MiB was freed,
    /// which raises its threshold.
    ArenaMax,
    /// Another global allocator, or a [hook](crate::os::set_trim_hook) for this one. The allocator has no hook and the heap was
    /// much larger before, or its hook has left pages of other threads.
    AnotherAllocator,
    /// The C library, or other native code that this program calls: it holds blocks of `malloc`, or mappings of its own.
    ///
    /// With glibc's as the global allocator, blocks count only if they are more than twice the live heap: as many bytes may be
    /// headers of small blocks. Stacks of more than 64 KiB a thread count as mappings.
    CLibrary,
    /// Another process in the same cgroup, such as a child process or an extension. An unrelated process may also hold it, if
    /// one runs in the cgroup.
    ///
    /// The cgroup must have a limit, which is at most the memory size. The processes must have more than
    /// [`MonitorBuilder::environment_share`](crate::monitor::MonitorBuilder::environment_share) and `retaining_over` together.
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
            Self::ChildProcess => "child or other process",
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
