//! A program with the three lines of the README: on a laptop, in a container and on AWS Lambda.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use plimsoll::{EnvError, MemoryLimit};
use plimsoll_newcomer::{build, cargo, command, output, program, text};
use serde_json::Value;

static PLAIN: LazyLock<PathBuf> = LazyLock::new(|| build("plain", &program("plain"), &[], target()));
static NO_ALLOCATOR: LazyLock<PathBuf> =
    LazyLock::new(|| build("no_allocator", &program("no_allocator"), &[], target()));

const MEMORY_SIZE: &str = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE";
/// A memory size that is invalid; the limit of the cgroup applies, if there is one.
const INVALID: (&str, &str) = (MEMORY_SIZE, "abc");
const SMALL: (&str, &str) = (MEMORY_SIZE, "128");

fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the directory is inside of the target directory")
}

/// The lines that a program wrote to standard error.
struct Lines {
    warnings: Vec<String>,
    reports: Vec<String>,
}

/// Runs `program`, which starts and ends with 0, and sorts its lines; there is no other kind.
fn run(program: &Path, variables: &[(&str, &str)]) -> Lines {
    let output = output(&mut command(program, variables));
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    assert_eq!(text(&output.stdout), "");
    let (warnings, reports) =
        stderr.lines().map(str::to_owned).partition(|line: &String| line.starts_with("plimsoll warning: "));
    let lines = Lines { warnings, reports };
    assert!(lines.reports.iter().all(|line| line.starts_with("plimsoll order-1 ")), "{stderr}");
    lines
}

/// Returns the only report and the only warning.
fn one_of_each(Lines { warnings, reports }: &Lines) -> (&str, &str) {
    let ([warning], [report]) = (&warnings[..], &reports[..]) else { panic!("{warnings:?} {reports:?}") };
    (warning, report)
}

#[test]
fn plain_without_memory_size_starts() {
    let lines = run(&PLAIN, &[]);
    assert!(lines.reports.len() == 1 && lines.reports[0].contains(" heap "), "{:?}", lines.reports);
    // The machine decides if a cgroup has a limit; both answers have their expectation.
    assert!(std::env::var_os(MEMORY_SIZE).is_none(), "the test itself detects the limit of the cgroup");
    match MemoryLimit::detect() {
        Ok(limit) => {
            println!("the machine has a limit: {limit}");
            assert!(lines.warnings.is_empty(), "{:?}", lines.warnings);
            assert!(lines.reports[0].contains('%'), "{:?}", lines.reports);
        }
        Err(EnvError::NoLimitKnown) => {
            println!("the machine has no limit");
            let (warning, report) = one_of_each(&lines);
            assert!(warning.starts_with("plimsoll warning: alarm and admission off: no memory limit"), "{warning}");
            assert!(!report.contains('%'), "{report}");
        }
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn plain_invalid_memory_size_is_one_warning() {
    let lines = run(&PLAIN, &[INVALID]);
    let (warning, report) = one_of_each(&lines);
    assert!(warning.contains("AWS_LAMBDA_FUNCTION_MEMORY_SIZE is \"abc\""), "{warning}");
    assert!(report.contains(" heap "), "{report}");
    // The machine decides if a cgroup has a limit; both answers have their expectation.
    let has_limit = MemoryLimit::detect().is_ok();
    assert_eq!(report.contains('%'), has_limit, "{report}");
    assert_eq!(warning.starts_with("plimsoll warning: the limit of the cgroup applies, "), has_limit, "{warning}");
    assert_eq!(warning.contains("alarm and admission off: no memory limit"), !has_limit, "{warning}");
    assert_eq!(warning.contains("Monitor::builder().memory_size()"), !has_limit, "names the remedy: {warning}");
}

#[test]
fn plain_memory_size_128_has_percentages_and_no_warning() {
    let lines = run(&PLAIN, &[SMALL]);
    assert!(lines.warnings.is_empty(), "{:?}", lines.warnings);
    assert!(lines.reports.len() == 1 && lines.reports[0].contains(" of 116 MiB ("), "{:?}", lines.reports);
    assert!(lines.reports[0].contains(" %) "), "{:?}", lines.reports);
}

#[test]
fn plain_invalid_report_policy_is_one_warning() {
    for value in ["", "foo"] {
        let lines = run(&PLAIN, &[SMALL, ("PLIMSOLL_REPORT", value)]);
        let (warning, _) = one_of_each(&lines);
        assert!(warning.starts_with("plimsoll warning: PLIMSOLL_REPORT is ignored: "), "{warning}");
        assert!(warning.contains("expected each, every:N"), "{warning}");
    }
}

#[test]
fn plain_report_policy_off_is_silent() {
    let lines = run(&PLAIN, &[SMALL, ("PLIMSOLL_REPORT", "off")]);
    assert!(lines.warnings.is_empty() && lines.reports.is_empty(), "{:?} {:?}", lines.warnings, lines.reports);
}

#[test]
fn plain_old_variable_works_with_a_warning() {
    let lines = run(&PLAIN, &[SMALL, ("PLIMSOLL", "every(2)")]);
    let (warning, _) = one_of_each(&lines);
    assert_eq!(warning, "plimsoll warning: the variable PLIMSOLL is deprecated: set PLIMSOLL_REPORT=every:2");
}

#[test]
fn plain_log_format_json_writes_objects_only() {
    let json = ("AWS_LAMBDA_LOG_FORMAT", "JSON");
    let output = output(&mut command(&PLAIN, &[INVALID, json, ("PLIMSOLL_REPORT", "\"\\\n\u{7f}")]));
    assert!(output.status.success(), "{}", output.status);
    let stderr = text(&output.stderr);
    let mut kinds = Vec::new();
    for line in stderr.lines() {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(record["v"], 1, "{line}");
        let timestamp = record["timestamp"].as_str().unwrap_or_default();
        assert!(timestamp.len() == "2026-11-29T05:40:08.123Z".len() && timestamp.ends_with('Z'), "{line}");
        assert!(["INFO", "WARN", "ERROR"].contains(&record["level"].as_str().unwrap_or_default()), "{line}");
        kinds.push((record["plimsoll"].as_str().unwrap_or_default().to_owned(), record["level"].clone()));
    }
    let warning = || ("warning".to_owned(), Value::from("WARN"));
    assert_eq!(kinds, [warning(), warning(), ("report".to_owned(), Value::from("INFO"))], "{stderr}");
}

#[test]
fn plain_unit_test_without_allocator_passes() {
    let output = output(cargo("test", "plain", target()).args(["--quiet", "--lib"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "{}", text(&output.stdout));
}

#[test]
fn no_allocator_starts_and_reports_the_rss_only() {
    let lines = run(&NO_ALLOCATOR, &[SMALL]);
    let (warning, report) = one_of_each(&lines);
    assert!(warning.contains("#[global_allocator]"), "names the remedy: {warning}");
    assert!(!report.contains("heap"), "{report}");
    assert_eq!(report.contains(" rss "), cfg!(target_os = "linux"), "{report}");
}

#[test]
fn no_allocator_required_ends_with_the_remedy() {
    let output = output(command(&NO_ALLOCATOR, &[SMALL]).arg("required"));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("Error: the monitor requires the tracking allocator"), "{stderr}");
    assert!(stderr.contains("#[global_allocator]"), "names the remedy: {stderr}");
}
