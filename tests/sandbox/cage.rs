//! A memory cgroup of a test's own, version 1 or 2: the kernel kills in it what passes its limit.

#![allow(dead_code, reason = "each test binary includes this file and uses its own part")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::support::child;

/// Which files the kernel offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A cgroup with a memory limit and no swap; gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Cage {
    folder: PathBuf,
    version: Version,
}

/// A cgroup whose processes can be stopped as Lambda stops an environment between invocations.
#[derive(Debug)]
pub(crate) struct Freezer {
    folder: PathBuf,
    version: Version,
}

impl Freezer {
    /// Makes the cgroup and puts the process into it, or says in words why that cannot be here.
    ///
    /// In version 2 a process is in one cgroup: that of its cage, which can be frozen too.
    pub(crate) fn around(process: u32, cage: &Cage) -> Result<Self, String> {
        if cage.version == Version::Two {
            return Ok(Self { folder: cage.folder.clone(), version: Version::Two });
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("no mountinfo: {error}"))?;
        let root = mounts.lines().find_map(|mount| mounted(mount, "freezer"));
        let root = root.ok_or("no freezer is mounted")?.0;
        let freezer = Self { folder: root.join(cage.folder.file_name().unwrap()), version: Version::One };
        fs::create_dir(&freezer.folder)
            .and_then(|()| fs::write(freezer.folder.join("cgroup.procs"), process.to_string()))
            .map_err(|error| format!("no freezer below {}: {error}", root.display()))?;
        Ok(freezer)
    }

    /// Stops the process for a while.
    pub(crate) fn freeze(&self, time: Duration) {
        let (file, stop, go) = match self.version {
            Version::One => ("freezer.state", "FROZEN", "THAWED"),
            Version::Two => ("cgroup.freeze", "1", "0"),
        };
        fs::write(self.folder.join(file), stop).unwrap();
        std::thread::sleep(time);
        fs::write(self.folder.join(file), go).unwrap();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        if self.version == Version::One {
            remove(&self.folder);
        }
    }
}

impl Cage {
    /// Makes the cgroup, or says in words why there can be none here.
    pub(crate) fn new(limit_mib: u64) -> Result<Self, String> {
        if child::emulated() {
            return Err("the emulator's memory would count for the program's".to_owned());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("no mountinfo: {error}"))?;
        let mut last = "no cgroup is mounted".to_owned();
        for (root, version) in mounts.lines().filter_map(|mount| mounted(mount, "memory")) {
            match Self::below(&root, version, limit_mib) {
                Ok(cage) => return Ok(cage),
                Err(error) => last = format!("no memory cgroup below {}: {error}", root.display()),
            }
        }
        Err(last)
    }

    fn below(root: &Path, version: Version, limit_mib: u64) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if version == Version::Two {
            // May be on already, and may be forbidden: then the limit's file is missing below.
            drop(fs::write(root.join("cgroup.subtree_control"), "+memory"));
        }
        let name = format!("plimsoll-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let cage = Self { folder: root.join(name), version };
        fs::create_dir(&cage.folder)?;
        let bytes = (limit_mib << 20).to_string();
        let existing = |name: &str| cage.folder.join(name).exists();
        match version {
            Version::One => {
                fs::write(cage.folder.join("memory.limit_in_bytes"), &bytes)?;
                if existing("memory.memsw.limit_in_bytes") {
                    fs::write(cage.folder.join("memory.memsw.limit_in_bytes"), &bytes)?;
                }
            }
            Version::Two => {
                fs::write(cage.folder.join("memory.max"), &bytes)?;
                if existing("memory.swap.max") {
                    fs::write(cage.folder.join("memory.swap.max"), "0")?;
                }
            }
        }
        Ok(cage)
    }

    /// A command that runs `program` in the cage.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        // The shell enters and then becomes the program: not a byte of it is spent outside.
        command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(self.folder.join("cgroup.procs")).arg(program);
        command
    }

    /// How many processes the kernel has killed here for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = fs::read_to_string(self.folder.join(file)).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.expect("kernels since 4.13 count them").parse().unwrap()
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// The kernel may take a moment to see the last process off.
fn remove(folder: &Path) {
    for _ in 0..100 {
        if fs::remove_dir(folder).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The place of a mount that can hold cgroups of this controller.
fn mounted(mount: &str, controller: &str) -> Option<(PathBuf, Version)> {
    let (before, after) = mount.split_once(" - ")?;
    let mut after = after.split(' ');
    let version = match (after.next()?, after.nth(1)?) {
        ("cgroup2", _) => Version::Two,
        ("cgroup", options) if options.split(',').any(|option| option == controller) => Version::One,
        _ => return None,
    };
    Some((PathBuf::from(before.split(' ').nth(4)?), version))
}
