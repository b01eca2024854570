//! The anonymous memory of the cgroup with the smallest limit on this process. It counts all processes of the cgroup, and
//! no cached file pages.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{LimitSource, cgroup};
use crate::size::ByteSize;

/// The length of the part of `memory.stat` that is read. Version 1 has some 900 bytes; version 2 has `anon` on the first
/// line.
const READ: usize = 4096;

/// Returns the anonymous bytes that the kernel counts now for the cgroup with the smallest limit on this process.
///
/// It counts heap and stacks of all processes of the cgroup and of those below it: this process, its children and, on AWS
/// Lambda, its extensions. Cached file pages, mapped files, `tmpfs` and kernel memory do not count. Swapped pages do not
/// either.
///
/// Returns `None` if no cgroup with a limit is visible, if the smallest limit is above `memory_size`, or if the figure
/// cannot be read. A cgroup without a limit, or with a larger one, holds programs that no deployment has next to this one:
/// the session of a developer, or a CI job that runs with the memory size of a function.
///
/// # Performance
///
/// The first call finds the cgroup: it reads some files of `/proc` and of the cgroups, and allocates. The
/// cgroup is kept for the life of the process. Each later call opens and reads one file, and allocates nothing.
/// The kernel adds up the counters of all processors for it. So callers read it at most once a second, and not from a global
/// allocator or a signal handler.
///
/// In version 1 each processor can hold some 100 KiB that are not in the sum yet.
pub(crate) fn cgroup_anonymous(memory_size: ByteSize) -> Option<ByteSize> {
    static FOUND: OnceLock<Option<LimitedCgroup>> = OnceLock::new();
    FOUND.get_or_init(|| LimitedCgroup::find(Path::new("/"))).as_ref()?.anonymous(memory_size)
}

/// The cgroup with the smallest limit on this process.
pub(super) struct LimitedCgroup {
    limit: ByteSize,
    /// Its `memory.stat`.
    file: PathBuf,
    /// The name of the figure in that file.
    key: &'static [u8],
}

impl LimitedCgroup {
    /// Finds the cgroup in the file system under `root`; `None` if there is none, or if its files make no sense.
    pub(super) fn find(root: &Path) -> Option<Self> {
        let binding = cgroup::binding(root).ok()??;
        // The figures without `total_` leave out the cgroups below.
        let key: &[u8] = if binding.source == LimitSource::CgroupV1 { b"total_rss" } else { b"anon" };
        Some(Self { limit: binding.limit, file: binding.directory.join("memory.stat"), key })
    }

    /// Reads the anonymous bytes of the cgroup if its limit is at most `memory_size`.
    pub(super) fn anonymous(&self, memory_size: ByteSize) -> Option<ByteSize> {
        if self.limit > memory_size {
            return None;
        }
        let mut buffer = [0; READ];
        let text = read_start(&self.file, &mut buffer)?;
        parse(text, self.key).map(ByteSize::bytes)
    }
}

/// Fills `buffer` from the start of the file.
fn read_start<'a>(path: &Path, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut file = File::open(path).ok()?;
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    buffer.get(..filled)
}

/// Returns the number in the line `key number` of `text`. A line without its end is cut and does not count.
fn parse(text: &[u8], key: &[u8]) -> Option<u64> {
    let line = text
        .split_inclusive(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(b" ")?.strip_suffix(b"\n"))?;
    let is_number = !line.is_empty() && line.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(line).ok().filter(|_| is_number)?.parse().ok()
}
