//! The memory that the kernel charges to the cgroup of this process.

use std::path::Path;

use super::{EnvError, LimitSource, cgroup};
use crate::size::{ByteSize, quotable};

/// The memory that the kernel charges to the cgroup of this process: the figures on which a container is killed.
///
/// [`os::rss`](crate::os::rss) is of this process alone. The cgroup also counts other processes in it, page tables and
/// other kernel memory, socket buffers, files in `tmpfs` and cached file pages. A page that two cgroups share is charged to
/// the one that touched it first, so rss may also be larger.
///
/// On AWS Lambda the process may not see its cgroup. The memory size of a function is enforced outside of it.
///
/// # Examples
///
/// ```no_run
/// use plimsoll::env::CgroupMemory;
///
/// if let Some(memory) = CgroupMemory::read()? {
///     println!("{} in use, {:?} processes killed", memory.in_use, memory.oom_kills);
/// }
/// # Ok::<(), plimsoll::EnvError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CgroupMemory {
    /// The version of the cgroup: [`LimitSource::CgroupV2`] or [`LimitSource::CgroupV1`].
    pub source: LimitSource,
    /// All charged bytes: `memory.current`, in version 1 `memory.usage_in_bytes`.
    pub charged: ByteSize,
    /// `charged` less the inactive file pages, which the kernel drops before it kills. Kubernetes calls this figure the
    /// working set.
    pub in_use: ByteSize,
    /// Number of times that the usage reached the limit: `max` of `memory.events`, in version 1 `memory.failcnt`. `None` if the file
    /// is missing.
    pub at_limit: Option<u64>,
    /// Number of times that the kernel could not reclaim enough: `oom` of `memory.events`. `None` if the file is missing, and in
    /// version 1.
    pub ooms: Option<u64>,
    /// Number of processes of the cgroup that the kernel has killed for memory: `oom_kill` of `memory.events`, in version 1 of
    /// `memory.oom_control` since Linux 4.13. `None` if it is missing.
    pub oom_kills: Option<u64>,
}

/// The names of the files and keys of one version.
struct Names {
    charged: &'static str,
    inactive_file: &'static str,
    at_limit: &'static str,
    kills: &'static str,
}

const V2: Names = Names {
    charged: "memory.current",
    inactive_file: "inactive_file",
    at_limit: "memory.events",
    kills: "memory.events",
};
const V1: Names = Names {
    charged: "memory.usage_in_bytes",
    inactive_file: "total_inactive_file",
    at_limit: "memory.failcnt",
    kills: "memory.oom_control",
};

impl CgroupMemory {
    /// Reads the counters of the process's cgroup, or of the nearest cgroup above it that shows them.
    ///
    /// Returns `None` if no cgroup with a memory controller is visible, and always on systems other than Linux. Version 2
    /// is read before version 1.
    ///
    /// # Errors
    ///
    /// [`EnvError::Unreadable`] if a file exists and cannot be read. [`EnvError::NotACount`] if its text is not a number.
    ///
    /// # Performance
    ///
    /// Reads two files of `/proc` and three of the cgroup, and allocates: some 100 us. The kernel adds up the counters of
    /// all CPUs for `memory.stat`. Not for a global allocator or a signal handler.
    ///
    /// # Examples
    ///
    /// ```
    /// let memory = plimsoll::env::CgroupMemory::read()?;
    /// assert!(memory.is_none_or(|memory| memory.in_use <= memory.charged));
    /// # Ok::<(), plimsoll::EnvError>(())
    /// ```
    pub fn read() -> Result<Option<Self>, EnvError> {
        Self::read_in(Path::new("/"))
    }

    pub(super) fn read_in(root: &Path) -> Result<Option<Self>, EnvError> {
        for (version, mounts) in cgroup::trees(root)? {
            for directory in mounts.iter().flatten() {
                if let Some(memory) = Self::read_directory(version.source, directory)? {
                    return Ok(Some(memory));
                }
            }
        }
        Ok(None)
    }

    fn read_directory(source: LimitSource, directory: &Path) -> Result<Option<Self>, EnvError> {
        let is_version_2 = source == LimitSource::CgroupV2;
        let names = if is_version_2 { V2 } else { V1 };
        let Some(charged) = count(&directory.join(names.charged), None)? else { return Ok(None) };
        let inactive = count(&directory.join("memory.stat"), Some(names.inactive_file))?.unwrap_or(0);
        let events = |file: &str, key| count(&directory.join(file), key);
        Ok(Some(Self {
            source,
            charged: ByteSize::bytes(charged),
            // The two files are read one after the other.
            in_use: ByteSize::bytes(charged.saturating_sub(inactive)),
            at_limit: events(names.at_limit, is_version_2.then_some("max"))?,
            ooms: if is_version_2 { events(names.kills, Some("oom"))? } else { None },
            oom_kills: events(names.kills, Some("oom_kill"))?,
        }))
    }
}

/// Returns the number in a file, or in its line that starts with `key`; `None` if there is no such file or line.
fn count(path: &Path, key: Option<&str>) -> Result<Option<u64>, EnvError> {
    let Some(text) = cgroup::read(path)? else { return Ok(None) };
    let value = match key {
        None => text.trim_ascii(),
        Some(key) => match cgroup::value_of(&text, key) {
            None => return Ok(None),
            Some(value) => value,
        },
    };
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = if is_number { value.parse().ok() } else { None };
    parsed
        .map(Some)
        .ok_or_else(|| EnvError::NotACount { path: quotable(&path.to_string_lossy()), value: quotable(value) })
}
