//! Builds the crates next to this one and runs their programs.
//!
//! Each is built on its own, so that its features of the library are those of its own manifest.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The variables that the library reads; a program gets only those that its test sets.
const VARIABLES: [&str; 6] = [
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_FORMAT",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "PLIMSOLL",
    "PLIMSOLL_REPORT",
];

/// Returns a command that runs `cargo` for the crate `package`, with the target directory of the test that runs.
#[must_use]
pub fn cargo(subcommand: &str, package: &str, target: &Path) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command
        .args([subcommand, "--package", package, "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target);
    command
}

/// Builds the crate `package` with `arguments` and returns the path of its file `name`, which is
/// a program or a library.
///
/// # Panics
///
/// If the crate does not build, or has no such file.
#[must_use]
pub fn build(package: &str, name: &str, arguments: &[&str], target: &Path) -> PathBuf {
    let mut command = cargo("build", package, target);
    let output = output(command.args(["--quiet", "--message-format=json-render-diagnostics"]).args(arguments));
    assert!(output.status.success(), "{package} does not build: {}", text(&output.stderr));
    let messages = text(&output.stdout);
    let files = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["filenames"].as_array().map(|files| files.iter().filter_map(Value::as_str).map(PathBuf::from).collect())
    });
    let files: Vec<PathBuf> = files.flat_map(|files: Vec<PathBuf>| files).collect();
    let found = files.iter().find(|file| file.file_name() == Some(OsStr::new(name)));
    found.unwrap_or_else(|| panic!("{package} has no file {name} in {files:?}")).clone()
}

/// Returns the name of the file of the program `name` on this platform.
#[must_use]
pub fn program(name: &str) -> String {
    format!("{name}{}", std::env::consts::EXE_SUFFIX)
}

/// Returns a command that runs `program` with those variables of the library that `variables` sets.
#[must_use]
pub fn command(program: &Path, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    for name in VARIABLES {
        command.env_remove(name);
    }
    // A backtrace allocates, which an abort report would count.
    command.env("RUST_BACKTRACE", "0").envs(variables.iter().copied());
    command
}

/// Runs `command` to its end and returns its output.
///
/// # Panics
///
/// If the program cannot be started.
pub fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}

/// Returns `bytes` as text.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
