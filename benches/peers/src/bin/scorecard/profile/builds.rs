//! The builds of the workers.
//!
//! Cargo unifies the features of a package within one build, so each set of features and flags has a target directory
//! of its own.

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::build_with;

const FRAME_POINTERS: &str = "-Cforce-frame-pointers=yes";
/// With names that contain generic arguments.
const FULL_NAMES: &str = "-Cforce-frame-pointers=yes -Csymbol-mangling-version=v0";

/// The programs of one build, by name.
#[derive(Debug)]
pub(super) struct Programs(HashMap<String, PathBuf>);

impl Programs {
    pub(super) fn get(&self, name: &str) -> Result<&Path, Box<dyn Error>> {
        self.0.get(name).map(PathBuf::as_path).ok_or_else(|| format!("cargo built no {name}").into())
    }
}

/// All builds for this machine.
#[derive(Debug)]
pub(super) struct Builds {
    /// With frame pointers and the profile, over each allocator.
    pub(super) on: Programs,
    /// With frame pointers, without the profile; the peers too.
    pub(super) off: Programs,
    /// With the profile, with the default flags of the compiler.
    pub(super) on_default: Programs,
    /// Without the profile, with the default flags of the compiler.
    pub(super) off_default: Programs,
    /// As `on`, with line tables, over the system's allocator.
    pub(super) lines: Programs,
    /// As `on`, with generic arguments in the names of functions, over the system's allocator.
    pub(super) full_names: Programs,
}

/// The flags, features and programs of one build.
struct Build {
    /// The target directory, below the one of the scorecard.
    directory: &'static str,
    flags: &'static str,
    features: &'static str,
    /// `--profile` or `--target` with its value.
    options: [&'static str; 2],
    names: &'static [&'static str],
}

impl Builds {
    pub(super) fn new() -> Result<Self, Box<dyn Error>> {
        const RELEASE: [&str; 2] = ["--profile", "release"];
        let on = Build {
            directory: "on",
            flags: FRAME_POINTERS,
            features: "profile,service,mimalloc,jemalloc",
            options: RELEASE,
            names: &["profile_system", "profile_mimalloc", "profile_jemalloc", "profile_model"],
        };
        let off = Build {
            directory: "off",
            flags: FRAME_POINTERS,
            features: "peers",
            options: RELEASE,
            names: &["profile_plain", "profile_system", "profile_pprof_alloc", "profile_dhat"],
        };
        let system = &["profile_system"];
        let on_default =
            Build { directory: "on-default", flags: "", features: "profile", options: RELEASE, names: system };
        let off_default = Build { directory: "off-default", flags: "", features: "", options: RELEASE, names: system };
        let lines = Build {
            directory: "on",
            flags: FRAME_POINTERS,
            features: "profile,service",
            options: ["--profile", "lines"],
            names: system,
        };
        let full_names = Build {
            directory: "full-names",
            flags: FULL_NAMES,
            features: "profile,service",
            options: RELEASE,
            names: system,
        };
        Ok(Self {
            on: on.run(&[])?,
            off: off.run(&[])?,
            on_default: on_default.run(&[])?,
            off_default: off_default.run(&[])?,
            lines: lines.run(&[])?,
            full_names: full_names.run(&[])?,
        })
    }
}

/// Builds the worker over the system's allocator for another target.
pub(super) fn for_target(target: &'static str, variables: &[(&str, &str)]) -> Result<PathBuf, Box<dyn Error>> {
    let build = Build {
        directory: "on",
        flags: FRAME_POINTERS,
        features: "profile",
        options: ["--target", target],
        names: &["profile_system"],
    };
    Ok(build.run(variables)?.get("profile_system")?.to_path_buf())
}

impl Build {
    fn run(&self, variables: &[(&str, &str)]) -> Result<Programs, Box<dyn Error>> {
        let scorecard = std::env::current_exe()?;
        let target = scorecard.ancestors().nth(2).ok_or("the scorecard is not in a target directory")?;
        let directory = target.join("profile").join(self.directory);
        let directory = directory.to_str().ok_or("the target directory has no name in UTF-8")?;
        let mut options = vec!["--package", "profile-workers", "--target-dir", directory, "--features", self.features];
        options.extend(self.options);
        if self.options.first() == Some(&"--target") {
            options.push("--release");
        }
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        let flags = format!("{flags} {}", self.flags);
        let mut all = vec![("RUSTFLAGS", flags.trim())];
        all.extend(variables);
        Ok(Programs(build_with(&options, &all, self.names)?))
    }
}

/// Returns `true` if `program` can be run here.
pub(super) fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}
