//! The leak verdict: leaks in a memory cgroup until the kernel kills them, and shapes without a leak.

use std::error::Error;
use std::path::Path;

use serde_json::Value;

use plimsoll_peers::leaks::{CLEAN, IN_FLIGHT, Killed, LEAKS, is_large_leak_warned, killed, pace};

use crate::Options;
use crate::programs::ask;
use crate::row::{Card, Goal, Row, Table};

/// The alert must be there as many invocations before the kill.
const AHEAD: usize = 20;

/// Measures all of it with the program `worker`.
pub(crate) fn measure(options: Options, worker: &Path, card: &mut Card) -> Result<(), Box<dyn Error>> {
    let row = |metric, unit, ours, goal| Row { metric, unit, ours, goal, best_peer: None };
    let (growing, rising, runs) = clean(options, worker, &CLEAN)?;
    let percent = |part: u64| 100.0 * part as f64 / runs as f64;
    card.rows.push(row("monitor.leak.false_pct", "%", percent(growing), Goal::AtMost(1.0)));
    // If each rise were an alert.
    card.rows.push(row("monitor.leak.false_pct.control", "%", percent(rising), Goal::Above(1.0)));
    let (growing, _, runs_of_maps) = clean(options, worker, &["map"])?;
    card.notes
        .push(format!("{runs} runs without a leak; maps that fill and stay: {growing} of {runs_of_maps} growing"));

    let missed = leaks(options, worker, &LEAKS, card)?;
    card.rows.push(row("monitor.leak.missed", "runs", missed as f64, Goal::AtMost(0.0)));
    // A leak that a gauge explains is no leak to the verdict.
    let Killed { warned, .. } = killed(worker, "named", 256 << 10, 1, 0)?;
    let control = if warned.is_none() { 1.0 } else { 0.0 };
    card.rows.push(row("monitor.leak.missed.control", "runs", control, Goal::AtLeast(1.0)));

    let steps = if options.quick { 4 } else { 13 };
    let mut warned = 0;
    for step in 0..steps {
        warned += u32::from(is_large_leak_warned(worker, (4 << 20) + step * (12 << 20) / (steps - 1))?);
    }
    let percent = 100.0 * f64::from(warned) / steps as f64;
    card.rows.push(row("monitor.leak.large_warned_pct", "%", percent, Goal::AtLeast(100.0)));
    Ok(())
}

/// Returns how many runs were called growing, how many growing or rising, and how many there were.
fn clean(options: Options, worker: &Path, shapes: &[&str]) -> Result<(u64, u64, u64), Box<dyn Error>> {
    let runs: u64 = if options.quick { 24 } else { 240 };
    let (mut growing, mut rising) = (0, 0);
    for shape in shapes {
        let answer = ask(worker, &["clean", shape, "0", &runs.to_string()])?;
        let count = |key| answer.get(key).and_then(Value::as_u64).ok_or("the worker left out a figure");
        growing += count("growing")?;
        rising += count("rising")?;
    }
    Ok((growing, rising, runs * shapes.len() as u64))
}

/// Returns how many leaks were killed without an alert in time.
fn leaks(options: Options, worker: &Path, shapes: &[&str], card: &mut Card) -> Result<usize, Box<dyn Error>> {
    let seeds: u64 = if options.quick { 2 } else { 20 };
    let mut missed = 0;
    let mut table = Table {
        title: "leaks: the fewest invocations from the alert to the kill".to_owned(),
        columns: vec!["1 in flight", "2", "8", "64"],
        rows: Vec::new(),
    };
    for shape in shapes {
        let mut cells = Vec::new();
        for in_flight in IN_FLIGHT {
            let mut fewest = usize::MAX;
            for seed in 0..seeds {
                let bytes = pace(shape, in_flight, seed);
                let Killed { invocations, warned } = killed(worker, shape, bytes, in_flight, seed)?;
                fewest = fewest.min(warned.unwrap_or(0));
                if warned.is_none_or(|warned| warned < AHEAD) {
                    missed += 1;
                    card.notes.push(format!(
                        "{shape}, {bytes} bytes, {in_flight} in flight, seed {seed}: killed after {invocations}, warned {warned:?}"
                    ));
                }
            }
            cells.push(fewest.to_string());
        }
        table.rows.push(((*shape).to_owned(), cells));
    }
    card.tables.push(table);
    Ok(missed)
}
