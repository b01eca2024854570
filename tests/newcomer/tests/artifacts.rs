//! Programs and libraries of other kinds: a profile that aborts on panics, and a library that C loads.
#![cfg(unix)]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use plimsoll_newcomer::{build, command, output, program, text};

const SMALL: (&str, &str) = ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128");
const SIGABRT: i32 = 6;

fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the directory is inside of the target directory")
}

#[test]
fn abort_failed_allocation_prints_the_abort_report() {
    let program = build("abort", &program("abort"), &["--profile", "small"], target());
    let output = output(&mut command(&program, &[SMALL]));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.signal(), Some(SIGABRT), "{stderr}");
    let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("plimsoll ")).collect();
    let [report, abort] = lines[..] else { panic!("{stderr}") };
    assert!(report.starts_with("plimsoll order-1 heap "), "{report}");
    assert!(abort.contains("order-2") && abort.contains(" limit 8.0 MiB "), "{abort}");
    assert!(abort.contains(" failed allocations 1, largest 16.0 MiB,"), "{abort}");
}

/// Builds the library and the program `name` in C that loads it, and returns the command to run.
fn host_with_library(name: &str) -> Command {
    let library = format!("{}cdylib{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let library = build("cdylib", &library, &[], target());
    let host = Path::new(env!("CARGO_TARGET_TMPDIR")).join(program(name));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("cdylib/host.c");
    let compiled = output(Command::new("cc").arg("-o").arg(&host).arg(source).args(["-ldl", "-lpthread"]));
    assert!(compiled.status.success(), "{}", text(&compiled.stderr));
    let mut command = command(&host, &[SMALL]);
    command.arg(library);
    command
}

#[test]
fn cdylib_unloaded_before_an_abort_ends_by_sigabrt() {
    let output = output(host_with_library("host_that_unloads").arg("unload"));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.signal(), Some(SIGABRT), "{}: {stderr}", output.status);
}

#[test]
fn cdylib_called_from_c_reports_each_peak() {
    let output = output(&mut host_with_library("host"));
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    let peaks: Vec<u64> = text(&output.stdout).lines().map(|line| line.parse().expect("a number")).collect();
    let [first, second] = peaks[..] else { panic!("{peaks:?}") };
    assert!((4 << 20..5 << 20).contains(&first), "{first}");
    assert!((1 << 20..2 << 20).contains(&second), "a peak of its own: {second}");
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert!(stderr.lines().all(|line| line.starts_with("plimsoll order-1 heap ")), "{stderr}");
}
