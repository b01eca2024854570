//! Each shape of a leak is called growing twenty invocations before its kill, and each shape without one never is: a short form
//! of what `scorecard monitor` measures.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;

use plimsoll_peers::leaks::{CLEAN, IN_FLIGHT, LEAKS, is_large_leak_warned, killed, pace};

fn worker() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_monitor_leaks"))
}

/// The number of runs of each shape: one, or `PLIMSOLL_SEEDS`.
fn seeds() -> u64 {
    std::env::var("PLIMSOLL_SEEDS").map_or(1, |seeds| seeds.parse().unwrap())
}

#[test]
fn leaks_are_growing_twenty_invocations_before_the_kill() {
    let mut missed = Vec::new();
    for (place, shape) in LEAKS.into_iter().enumerate() {
        for seed in 0..seeds() {
            let all = seeds() > 1;
            for in_flight in IN_FLIGHT.into_iter().skip(if all { 0 } else { place % 4 }).take(if all { 4 } else { 1 }) {
                let bytes = pace(shape, in_flight, seed);
                let end = killed(worker(), shape, bytes, in_flight, seed).unwrap();
                println!("{shape}, {bytes} bytes, {in_flight} in flight, seed {seed}: {end:?}");
                if end.warned.is_none_or(|warned| warned < 20) {
                    missed.push((shape, bytes, in_flight, seed, end));
                }
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn leak_that_a_gauge_explains_is_the_control() {
    assert_eq!(killed(worker(), "named", 256 << 10, 1, 0).unwrap().warned, None);
}

#[test]
fn large_leaks_are_warned_of_before_the_kill() {
    for mib in [4, 16] {
        assert!(is_large_leak_warned(worker(), mib << 20).unwrap(), "{mib} MiB in each invocation");
    }
}

#[test]
fn clean_shapes_are_not_growing() {
    for shape in CLEAN {
        let output = Command::new(worker()).args(["clean", shape, "0", &(2 * seeds()).to_string()]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with(r#"{"growing":0,"#), "{shape}: {text}");
    }
}
