//! Area `sizing`: how fast a log is read. There is no peer: the tools that read REPORT lines are not libraries.

use std::error::Error;
use std::time::Instant;

use plimsoll::sizing::{Entry, Profile, read_log};

use crate::Options;
use crate::row::{Card, Goal, Row};

/// Lines of a log. The metric's log is nothing but reports, which are what takes time.
const LINES: u64 = 100_000;

/// The line with a number.
type Line = fn(u64) -> String;

/// Metric, the lines, and the goal in lines a second.
const LOGS: [(&str, Line, f64); 3] = [
    ("sizing.parse.lines_per_s", text, 1e6),
    ("sizing.parse.json.lines_per_s", json, 5e5),
    ("sizing.parse.mixed.lines_per_s", mixed, 1e6),
];

/// Measures all of it. The quickest round of each log counts, since interference only adds.
pub(crate) fn measure(options: Options) -> Result<Card, Box<dyn Error>> {
    let rounds = if options.quick { 7 } else { 21 };
    let logs = LOGS.map(|(_, line, _)| (0..LINES).map(line).collect::<String>());
    let mut quickest = [f64::INFINITY; LOGS.len()];
    for _ in 0..rounds {
        for (log, quickest) in logs.iter().zip(&mut quickest) {
            let start = Instant::now();
            let mut profile = Profile::new();
            let counts = read_log(log.as_bytes(), |entry| {
                if let Entry::Report(report) = entry {
                    profile.add(&report);
                }
            })?;
            *quickest = quickest.min(start.elapsed().as_secs_f64());
            let all: u64 = profile.sizes().map(|size| size.reports()).sum();
            if (counts.lines, all) != (LINES, counts.reports) || all == 0 {
                return Err(format!("{all} reports of {counts:?}").into());
            }
        }
    }
    let mut card = Card::default();
    for ((metric, _, goal), seconds) in LOGS.into_iter().zip(quickest) {
        let ours = (LINES as f64 / seconds).round();
        card.rows.push(Row { metric, unit: "lines/s", ours, goal: Goal::AtLeast(goal), best_peer: None });
    }
    Ok(card)
}

fn id(n: u64) -> String {
    format!("{n:08x}-9c1e-4d5a-8b7f-{:012x}", n.wrapping_mul(0x9e37_79b9_7f4a))
}

fn text(n: u64) -> String {
    let (size, ms, used) = (128 << (n % 6), 40 + n % 1_000, 60 + n % 50);
    format!(
        "REPORT RequestId: {}\tDuration: {ms}.27 ms\tBilled Duration: {} ms\tMemory Size: {size} MB\tMax Memory Used: \
         {used} MB\t\n",
        id(n),
        ms + 1
    )
}

fn json(n: u64) -> String {
    let (size, ms, used) = (128 << (n % 6), 40 + n % 1_000, 60 + n % 50);
    format!(
        "{{\"time\":\"2026-07-09T06:05:50.581Z\",\"type\":\"platform.report\",\"record\":{{\"requestId\":\"{}\",\
         \"metrics\":{{\"durationMs\":{ms}.274,\"billedDurationMs\":{},\"memorySizeMB\":{size},\"maxMemoryUsedMB\":{used}\
         }},\"status\":\"success\"}}}}\n",
        id(n),
        ms + 1
    )
}

/// Start, two lines of the function, end, report.
fn mixed(n: u64) -> String {
    let id = id(n / 5);
    match n % 5 {
        0 => format!("START RequestId: {id} Version: $LATEST\n"),
        3 => format!("END RequestId: {id}\n"),
        4 => text(n / 5),
        _ => format!("2026-07-09T06:05:50.581Z INFO {id} listed 24 objects under thumbnails/, resized 3\n"),
    }
}
