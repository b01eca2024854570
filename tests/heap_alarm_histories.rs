//! The alarm against histories of memory: none without danger, none missed, one for each crossing.
//!
//! Each history runs in a process of its own, which judges the alarm by its own readings of the kernel. Two wrong alarms
//! are judged by the same readings: one that adds no part of a request to the rss, and one that adds all of it. Both must
//! fail, or the histories prove nothing. An alarm by the measured danger itself must be right.

#![allow(
    unsafe_code,
    unused_macros,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::duplicate_mod,
    reason = "tests without libtest's attribute"
)]

#[cfg(target_os = "linux")]
#[path = "support/histories/mod.rs"]
mod histories;
mod support;

use std::process::ExitCode;

use plimsoll::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// Three histories of each kind.
#[cfg(target_os = "linux")]
const SEEDS: std::ops::Range<u64> = 0..3 * histories::KINDS.len() as u64;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--history") {
        let seed = arguments.next().unwrap().parse().unwrap();
        println!("{}", histories::run(seed, histories::MIB));
        return ExitCode::SUCCESS;
    }
    let why = (!support::lean()).then_some("needs an rss that is this program's own");
    support::run(&[("histories_alarm_in_danger_and_only_then", histories_alarm_in_danger_and_only_then as fn(), why)])
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    fn nothing() {}
    support::run(&[("histories_alarm_in_danger_and_only_then", nothing as fn(), Some("needs /proc and mincore"))])
}

/// Runs the history in a process of its own and returns its figures.
#[cfg(target_os = "linux")]
fn figures(seed: u64) -> serde_json::Value {
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new(program).args(["--history", &seed.to_string()]).output().unwrap();
    assert!(output.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[cfg(target_os = "linux")]
fn histories_alarm_in_danger_and_only_then() {
    let all: Vec<serde_json::Value> = SEEDS.map(figures).collect();
    let count = |key: &str, value: &str| all.iter().filter(|figures| figures[key] == value).count();
    let wrong: Vec<String> = all
        .iter()
        .filter(|figures| ["false", "missed", "repeated"].iter().any(|verdict| figures["verdict"] == *verdict))
        .map(ToString::to_string)
        .collect();
    let [ambiguous, wrong_false, wrong_missed, repeated] =
        ["ambiguous", "false", "missed", "repeated"].map(|verdict| count("verdict", verdict));
    let danger = all.iter().filter(|figures| figures["danger"] == true).count();
    assert!(ambiguous <= all.len() / 5, "{ambiguous} of {} are too near to the threshold", all.len());
    assert!(danger >= all.len() / 3 && danger <= 2 * all.len() / 3, "{danger} of {} in danger", all.len());
    let wrong_reference = ["false", "missed", "repeated"].map(|verdict| count("reference", verdict));
    assert_eq!(wrong_reference, [0; 3], "an alarm by the measured danger itself must be right");
    let (missed_by_nothing, false_by_whole) = (count("control_nothing", "missed"), count("control_whole", "false"));
    assert!(missed_by_nothing > 0 && false_by_whole > 0, "a control passed: {missed_by_nothing} {false_by_whole}");
    assert!(
        wrong.is_empty(),
        "{wrong_false} false, {wrong_missed} missed, {repeated} repeated of {}:\n{}",
        all.len(),
        wrong.join("\n")
    );
}
