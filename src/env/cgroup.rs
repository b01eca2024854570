//! The memory limit that a tree of cgroups puts on this process.
//!
//! `/proc/self/cgroup` names the process's place in each tree, `/proc/self/mountinfo` where a tree is mounted and from
//! which place on. In a container both may begin below the true root:
//!
//! ```text
//! cgroup     4:memory:/pod/app/worker          the process is here
//! mountinfo  .. /pod/app /sys/fs/cgroup/memory ..   this directory is there
//!            so: /sys/fs/cgroup/memory/worker, then /sys/fs/cgroup/memory
//! ```

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::{EnvError, LimitSource};
use crate::size::{ByteSize, quotable};

/// From here on a limit is none: version 1 prints the largest multiple of a page, version 2 what was written.
const UNLIMITED: u64 = 1 << 60;

/// The smallest limit on the process, and the cgroup that it is read from.
pub(super) struct Binding {
    pub(super) limit: ByteSize,
    pub(super) source: LimitSource,
    /// Of several cgroups with this limit, the topmost: it counts the most processes.
    pub(super) directory: PathBuf,
}

/// Returns the smallest limit on the process, in the file system under `root`; `None` if there is none.
pub(super) fn limit(root: &Path) -> Result<Option<(ByteSize, LimitSource)>, EnvError> {
    Ok(binding(root)?.map(|binding| (binding.limit, binding.source)))
}

/// Returns the smallest limit on the process with its cgroup, in the file system under `root`; `None` if there is none.
pub(super) fn binding(root: &Path) -> Result<Option<Binding>, EnvError> {
    for (version, mounts) in trees(root)? {
        let mut least: Option<(ByteSize, PathBuf)> = None;
        for directories in mounts {
            if let Some((limit, directory)) = version.least(&directories)?
                && least.as_ref().is_none_or(|(least, _)| limit < *least)
            {
                least = Some((limit, directory.to_owned()));
            }
        }
        if let Some((limit, directory)) = least {
            return Ok(Some(Binding { limit, source: version.source, directory }));
        }
    }
    Ok(None)
}

/// The directories of one mount of a tree, from the process's cgroup up to the mount point.
type Directories = Vec<PathBuf>;

/// Returns the trees that this process is part of, version 2 first, with the directories of each mount.
pub(super) fn trees(root: &Path) -> Result<Vec<(&'static Version, Vec<Directories>)>, EnvError> {
    if !cfg!(target_os = "linux") {
        return Ok(Vec::new());
    }
    let (Some(places), Some(mounts)) =
        (read(&root.join("proc/self/cgroup"))?, read(&root.join("proc/self/mountinfo"))?)
    else {
        return Ok(Vec::new());
    };
    let mounts: Vec<_> = mounts.lines().filter_map(Mount::parse).collect();
    let tree = |version: &'static Version| {
        let place = places.lines().find_map(|line| version.place(line))?;
        let mounts = version.mounts_for(place, &mounts);
        Some((version, mounts.into_iter().map(|mount| directories(root, mount, place)).collect()))
    };
    Ok([&V2, &V1].into_iter().filter_map(tree).collect())
}

/// How the two versions of cgroups differ here.
pub(super) struct Version {
    pub(super) source: LimitSource,
    file: &'static str,
    kind: &'static str,
    controller: Option<&'static str>,
}

static V2: Version = Version { source: LimitSource::CgroupV2, file: "memory.max", kind: "cgroup2", controller: None };
static V1: Version = Version {
    source: LimitSource::CgroupV1,
    file: "memory.limit_in_bytes",
    kind: "cgroup",
    controller: Some("memory"),
};

impl Version {
    /// The process's place in this tree, from a line `hierarchy:controllers:place`.
    fn place<'a>(&self, line: &'a str) -> Option<&'a str> {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, place) = (fields.next()?, fields.next()?, fields.next()?);
        let is_this = match self.controller {
            None => hierarchy == "0" && controllers.is_empty(),
            Some(controller) => controllers.split(',').any(|c| c == controller),
        };
        is_this.then_some(place)
    }

    /// Where this tree is mounted with `place` in it; where nowhere, all its mounts, as a container's own top is then
    /// the nearest that can be read.
    fn mounts_for<'a>(&self, place: &str, mounts: &'a [Mount]) -> Vec<&'a Mount> {
        let is_this = |mount: &&Mount| {
            mount.kind == self.kind && self.controller.is_none_or(|name| mount.options.split(',').any(|o| o == name))
        };
        let of_this: Vec<_> = mounts.iter().filter(is_this).collect();
        let holding: Vec<_> =
            of_this.iter().copied().filter(|mount| Path::new(place).starts_with(&mount.root)).collect();
        if holding.is_empty() { of_this } else { holding }
    }

    /// Returns the smallest limit in `directories` that binds the process, with the topmost directory that has it.
    ///
    /// In version 1 a directory without `memory.use_hierarchy` does not bind those below it. And the kernel names the
    /// smallest limit of all directories above, also of those that a container does not see.
    fn least<'a>(&self, directories: &'a [PathBuf]) -> Result<Option<(ByteSize, &'a Path)>, EnvError> {
        let is_version_1 = self.source == LimitSource::CgroupV1;
        let mut least: Option<(ByteSize, &Path)> = None;
        for (below, directory) in directories.iter().enumerate() {
            let binds_below =
                || read(&directory.join("memory.use_hierarchy")).map(|text| text.is_none_or(|t| t.trim() != "0"));
            if is_version_1 && below > 0 && !binds_below()? {
                break;
            }
            let above = if is_version_1 { hierarchical_limit(directory)? } else { None };
            let here = [self.limit_of(directory)?, above].into_iter().flatten().min();
            if let Some(limit) = here.filter(|limit| least.is_none_or(|(least, _)| *limit <= least)) {
                least = Some((limit, directory));
            }
        }
        Ok(least)
    }

    fn limit_of(&self, directory: &Path) -> Result<Option<ByteSize>, EnvError> {
        let path = directory.join(self.file);
        let Some(text) = read(&path)? else { return Ok(None) };
        parse_limit(&path, text.trim_ascii())
    }
}

/// Returns the smallest limit of `directory` and of all those above that bind it, which version 1 has in `memory.stat`.
fn hierarchical_limit(directory: &Path) -> Result<Option<ByteSize>, EnvError> {
    let path = directory.join("memory.stat");
    let Some(text) = read(&path)? else { return Ok(None) };
    value_of(&text, "hierarchical_memory_limit").map_or(Ok(None), |value| parse_limit(&path, value))
}

/// Returns the value in the line `key value` of `text`.
pub(super) fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key))
        .map(|(_, value)| value.trim_ascii())
}

fn parse_limit(path: &Path, text: &str) -> Result<Option<ByteSize>, EnvError> {
    if text == "max" {
        return Ok(None);
    }
    match text.parse() {
        Ok(bytes) if !text.starts_with('+') => Ok(Some(bytes).filter(|b| *b < UNLIMITED).map(ByteSize::bytes)),
        _ => Err(EnvError::NotALimit { path: quotable(&path.to_string_lossy()), value: quotable(text) }),
    }
}

/// Returns the directories from `place` up to the mount point of the tree.
fn directories(root: &Path, mount: &Mount, place: &str) -> Directories {
    let top = root.join(mount.point.trim_start_matches('/'));
    let below = Path::new(place).strip_prefix(&mount.root).unwrap_or(Path::new(""));
    let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    let bottom = if is_plain { top.join(below) } else { top.clone() };
    let up = bottom.ancestors().take_while(|directory| directory.starts_with(&top));
    up.map(Path::to_path_buf).collect()
}

/// A line of mountinfo: `id parent device root point options [optional..] - kind source super-options`.
struct Mount {
    root: String,
    point: String,
    kind: String,
    options: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (place, file_system) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let mut file_system = file_system.split(' ');
        Some(Self {
            root: unescape(place.next()?),
            point: unescape(place.next()?),
            kind: file_system.next()?.to_owned(),
            options: file_system.nth(1)?.to_owned(),
        })
    }
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut plain = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(3).unwrap_or(("", part));
        if let Ok(byte) = u8::from_str_radix(code, 8) {
            plain.push(byte);
            plain.extend_from_slice(rest.as_bytes());
        } else {
            plain.push(b'\\');
            plain.extend_from_slice(part.as_bytes());
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// A file's text; `None` where there is no such file, as at the root of a tree.
pub(super) fn read(path: &Path) -> Result<Option<String>, EnvError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(EnvError::Unreadable { path: quotable(&path.to_string_lossy()), source }),
    }
}
