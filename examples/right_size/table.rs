//! The table in the terminal.

use std::fmt::{self, Write};

use plimsoll::ByteSize;
use plimsoll::sizing::{Candidate, Dollars, GbSeconds, SizeProfile, cpu_share};

use crate::Study;

const HEAD: [&str; 14] = [
    "MB",
    "vCPU",
    "reports",
    "failed",
    "timeout",
    "oom",
    "used p95",
    "p99",
    "max",
    "mean ms",
    "p95 ms",
    "a million",
    "a month",
    "value",
];

/// The column that tells of a month.
const MONTH: usize = 12;

/// Invocations whose cost one can read.
const MILLION: u64 = 1_000_000;

pub(crate) fn text(study: &Study) -> Result<String, fmt::Error> {
    let counts = &study.counts;
    let mut text = format!("{} lines: {} reports", counts.lines, counts.reports);
    for (n, what) in [
        (counts.copies, "copies"),
        (counts.malformed, "malformed"),
        (counts.oversized, "too long"),
        (counts.skipped, "skipped"),
    ] {
        if n > 0 {
            write!(text, ", {n} {what}")?;
        }
    }
    writeln!(text, "; prices of {}, {}\n", study.pricing.as_of(), study.pricing.architecture().as_str())?;
    for row in rows(study) {
        writeln!(text, "{}", row.trim_end())?;
    }
    writeln!(text, "\n{}", study.advice)?;
    if counts.killed_without_report > 0 {
        writeln!(text, "? {} killed without a report: out of memory at an unknown size", counts.killed_without_report)?;
    }
    Ok(text)
}

/// Head and rows, aligned.
fn rows(study: &Study) -> Vec<String> {
    let sizes: Vec<(&SizeProfile, &Candidate)> = study.profile.sizes().zip(&study.advice.candidates).collect();
    let head = HEAD.iter().map(ToString::to_string).collect();
    let cells = sizes.iter().map(|(size, candidate)| cells(study, size, candidate));
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(cells).collect();
    let mut lines = vec![String::new(); rows.len()];
    for column in 0..HEAD.len() {
        if column == MONTH && study.monthly.is_none() {
            continue;
        }
        let cells = || rows.iter().filter_map(|row| row.get(column));
        let width = cells().map(String::len).max().unwrap_or_default();
        for (line, cell) in lines.iter_mut().zip(cells()) {
            line.extend([" ".repeat(width - cell.len()).as_str(), cell, "  "]);
        }
    }
    let choice = study.advice.choice();
    let verdict = |candidate: &Candidate| {
        if choice == Some(candidate) { "<- recommended" } else { candidate.fit.as_str() }
    };
    let verdicts = std::iter::once("").chain(sizes.iter().map(|(_, candidate)| verdict(candidate)));
    lines.iter_mut().zip(verdicts).for_each(|(line, verdict)| line.push_str(verdict));
    lines
}

fn cells(study: &Study, size: &SizeProfile, candidate: &Candidate) -> Vec<String> {
    let used = |percent| size.used(percent).map_or_else(none, mb);
    let ms = |ms: Option<f64>| ms.map_or_else(none, |ms| format!("{ms:.1}"));
    let billed = Some(candidate.billed).filter(|billed| *billed > GbSeconds::ZERO);
    let dollars = |cost: Option<Dollars>| cost.map_or_else(none, |cost| format!("{cost:.2}"));
    let pricing = &study.pricing;
    let million = billed.map(|each| pricing.run(each).saturating_add(pricing.request()).saturating_mul(MILLION));
    let month = billed.zip(study.monthly).map(|(each, n)| pricing.month(n, each).total());
    vec![
        mb(size.memory_size()),
        format!("{:.2}", cpu_share(size.memory_size())),
        size.reports().to_string(),
        size.failed().to_string(),
        size.timed_out().to_string(),
        match size.suspected() {
            0 => size.out_of_memory().to_string(),
            suspected => format!("{}+{suspected}?", size.out_of_memory()),
        },
        used(95),
        used(99),
        used(100),
        ms(candidate.point.map(|point| point.duration)),
        ms(size.duration(95)),
        dollars(million),
        dollars(month),
        candidate.value.map_or_else(none, |value| value.to_string()),
    ]
}

fn none() -> String {
    "-".to_owned()
}

/// In AWS's unit, without its name.
pub(crate) fn mb(size: ByteSize) -> String {
    size.as_u64().div_ceil(1 << 20).to_string()
}
