//! Programs that tests start as processes of their own.

#![allow(dead_code, unreachable_pub, reason = "each test binary includes this file and uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the emulator that runs the tests, with its arguments: what they start is not of this machine either.
const RUNNER: &str = "PLIMSOLL_RUNNER";

/// Whether an emulator is around the programs, so that the kernel counts its memory with theirs.
pub fn emulated() -> bool {
    env::var_os(RUNNER).is_some()
}

/// A command that runs `program`, in the emulator if there is one.
pub fn command(program: &Path) -> Command {
    let Ok(runner) = env::var(RUNNER) else { return Command::new(program) };
    let mut words = runner.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words).arg(program);
    command
}

/// Where cargo puts the example: it names no variable for it, but examples lie beside the folder of the test programs.
pub fn example(name: &str) -> PathBuf {
    let program = env::current_exe().unwrap();
    let folder = program.parent().unwrap().parent().unwrap().join("examples");
    let path = folder.join(format!("{name}{}", env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{} is missing: run `cargo build --all-features --examples`", path.display());
    path
}
