//! Area `heap`: tracking allocators over the system's allocator and over mimalloc.
//!
//! One process for each allocator and round, the rounds interleaved, so that a slow minute of the host meets all of
//! them. On one thread the quickest chunk of all rounds counts, since interference only adds. On two threads a minimum
//! would hide the contention itself, so there it is the median over the rounds of each round's quickest chunk.

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;

use serde_json::Value;

use crate::Options;
use crate::programs::{NO_VALGRIND, ask, build, instructions};
use crate::row::{Card, Goal, Peer, Row, Table};

const OURS: &str = "plimsoll";
const PLAIN: &str = "plain";

/// One worker program.
struct Worker {
    /// The tracking allocator, or `plain`.
    name: &'static str,
    /// What lies beneath it, and how the program is built.
    beneath: Beneath,
    program: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beneath {
    System,
    SystemFat,
    Mimalloc,
}

impl Beneath {
    const fn profile(self) -> &'static str {
        match self {
            Self::SystemFat => "fat",
            Self::System | Self::Mimalloc => "release",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::SystemFat => "system, fat lto",
            Self::Mimalloc => "mimalloc",
        }
    }
}

const fn worker(name: &'static str, beneath: Beneath, program: &'static str) -> Worker {
    Worker { name, beneath, program }
}

const WORKERS: [Worker; 12] = [
    worker(PLAIN, Beneath::System, "heap_system"),
    worker(OURS, Beneath::System, "heap_system_plimsoll"),
    worker("stats_alloc", Beneath::System, "heap_system_stats_alloc"),
    worker("cap", Beneath::System, "heap_system_cap"),
    worker("peak_alloc", Beneath::System, "heap_system_peak_alloc"),
    worker("tracking-allocator", Beneath::System, "heap_system_tracking"),
    worker(PLAIN, Beneath::SystemFat, "heap_system"),
    worker(OURS, Beneath::SystemFat, "heap_system_plimsoll"),
    worker(PLAIN, Beneath::Mimalloc, "heap_mimalloc"),
    worker(OURS, Beneath::Mimalloc, "heap_mimalloc_plimsoll"),
    worker("cap", Beneath::Mimalloc, "heap_mimalloc_cap"),
    worker("tracking-allocator", Beneath::Mimalloc, "heap_mimalloc_tracking"),
];

/// The kinds of timed work, by the names the workers print.
const WORK: [&str; 4] = ["pair64.1t", "churn.1t", "pair64.2t", "churn.2t"];

/// Cost over the plain allocator: metric, work, what lies beneath, goal in percent.
const COSTS: [(&str, &str, Beneath, f64); 6] = [
    ("heap.pair64.1t.over_system_pct", "pair64.1t", Beneath::System, 18.0),
    ("heap.pair64.1t.lto.over_system_pct", "pair64.1t", Beneath::SystemFat, 5.0),
    ("heap.pair64.2t.over_system_pct", "pair64.2t", Beneath::System, 25.0),
    ("heap.churn.1t.over_system_pct", "churn.1t", Beneath::System, 8.0),
    ("heap.churn.2t.over_system_pct", "churn.2t", Beneath::System, 12.0),
    ("heap.pair64.1t.over_mimalloc_pct", "pair64.1t", Beneath::Mimalloc, 35.0),
];

/// Accuracy and readings: metric, the worker's name for it, unit, goal.
const TRUTHS: [(&str, &str, &str, f64); 7] = [
    ("heap.live.error_bytes", "live.error_bytes", "bytes", 0.0),
    ("heap.peak.under_bytes", "peak.under_bytes", "bytes", 0.0),
    ("heap.peak.over_bytes", "peak.over_bytes", "bytes", 0.0),
    ("heap.peak.bracket_bytes_per_thread", "peak.bracket_bytes_per_thread", "bytes", 32768.0),
    ("heap.limit.passed_bytes", "limit.passed_bytes", "bytes", 0.0),
    ("heap.stats.ns", "stats.ns", "ns", 200.0),
    ("heap.rss_read.us", "rss_read.us", "us", 2.0),
];

/// Measures all of it.
pub(crate) fn measure(options: Options) -> Result<Card, Box<dyn Error>> {
    let programs = built()?;
    let (rounds, chunks) = if options.quick { (7, "40") } else { (21, "80") };
    let mut card = Card::default();
    let times = timed(&programs, rounds, chunks, &mut card.notes)?;
    card.tables.push(times_table(&times));
    for (metric, work, beneath, goal) in COSTS {
        let figures = WORKERS.iter().zip(&times).filter(|(worker, _)| worker.beneath == beneath);
        let figures = figures.filter_map(|(worker, times)| Some((worker.name, *times.get(work)?))).collect();
        card.rows.extend(compare(metric, "%", goal, figures, |time, plain| 100.0 * (time / plain - 1.0)));
    }
    match counted(&programs)? {
        Some(counts) => {
            let metric = "heap.pair64.instructions_over_plain";
            card.rows.extend(compare(metric, "instructions", 20.0, counts, |count, plain| count - plain));
        }
        None => card.notes.push(format!("heap.pair64.instructions_over_plain: {NO_VALGRIND}")),
    }
    card.rows.extend(accuracy(&programs, &mut card.notes)?);
    Ok(card)
}

/// The programs in the order of [`WORKERS`].
fn built() -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut built = HashMap::new();
    for profile in ["release", "fat"] {
        let names: Vec<_> =
            WORKERS.iter().filter(|worker| worker.beneath.profile() == profile).map(|worker| worker.program).collect();
        built.insert(profile, build(profile, &names)?);
    }
    let program = |worker: &Worker| {
        let path = built.get(worker.beneath.profile()).and_then(|paths| paths.get(worker.program));
        path.cloned().ok_or_else(|| format!("cargo built no {}", worker.program).into())
    };
    WORKERS.iter().map(program).collect()
}

/// One worker's nanoseconds per operation, by work.
type Times = HashMap<&'static str, f64>;

/// A figure of each allocator, by its name.
type Figures = Vec<(&'static str, f64)>;

/// The times of every worker, in the order of [`WORKERS`].
fn timed(
    programs: &[PathBuf],
    rounds: usize,
    chunks: &str,
    notes: &mut Vec<String>,
) -> Result<Vec<Times>, Box<dyn Error>> {
    let mut seen: Vec<HashMap<&str, Vec<f64>>> = programs.iter().map(|_| HashMap::new()).collect();
    for _ in 0..rounds {
        for (program, seen) in programs.iter().zip(&mut seen) {
            let answer = ask(program, &["speed", chunks])?;
            for work in WORK {
                let time = answer.get(work).and_then(Value::as_f64);
                seen.entry(work).or_default().push(time.ok_or("a worker left out a time")?);
            }
        }
    }
    for times in seen.iter_mut().flat_map(HashMap::values_mut) {
        times.sort_by(f64::total_cmp);
    }
    if let Some(&[least, .., most]) = seen.first().and_then(|plain| plain.get("pair64.2t")).map(Vec::as_slice)
        && most > 1.5 * least
    {
        let spread = format!("{least:.1} to {most:.1} ns from round to round");
        notes.push(format!("the machine is busy: plain pair64.2t took {spread}; no figure of two threads is safe"));
    }
    let settled = |(work, times): (&'static str, Vec<f64>)| {
        let index = if work.ends_with(".2t") { times.len() / 2 } else { 0 };
        (work, times.get(index).copied().unwrap_or(f64::NAN))
    };
    Ok(seen.into_iter().map(|times| times.into_iter().map(settled).collect()).collect())
}

fn times_table(times: &[Times]) -> Table {
    let mut plain = None;
    let mut rows = Vec::new();
    for (worker, times) in WORKERS.iter().zip(times) {
        // Each group begins with its plain allocator.
        if worker.name == PLAIN {
            plain = Some(times);
        }
        let figure = |work| {
            let time = times.get(work).copied().unwrap_or(f64::NAN);
            let over = plain.and_then(|plain| plain.get(work)).map_or(f64::NAN, |plain| 100.0 * (time / plain - 1.0));
            if worker.name == PLAIN { format!("{time:.2}") } else { format!("{time:.2} ({over:+.0} %)") }
        };
        rows.push((format!("{} over {}", worker.name, worker.beneath.text()), WORK.map(figure).to_vec()));
    }
    Table {
        title: "ns per allocation of 64 bytes and its freeing, and per block replaced in a mix of sizes; over plain"
            .to_owned(),
        columns: vec!["pair 1t", "churn 1t", "pair 2t", "churn 2t"],
        rows,
    }
}

/// Instructions per pair of each worker over the system's allocator, or `None` without valgrind.
fn counted(programs: &[PathBuf]) -> Result<Option<Figures>, Box<dyn Error>> {
    const PAIRS: u32 = 20_000;
    let mut counts = Vec::new();
    for (worker, program) in WORKERS.iter().zip(programs).filter(|(worker, _)| worker.beneath == Beneath::System) {
        // The difference of two counts holds no start and no end of the process.
        let count = |pairs: u32| instructions(program, &["pairs", &pairs.to_string()]);
        let (Some(once), Some(twice)) = (count(PAIRS)?, count(2 * PAIRS)?) else { return Ok(None) };
        counts.push((worker.name, (twice as f64 - once as f64) / f64::from(PAIRS)));
    }
    Ok(Some(counts))
}

/// Ours and the best peer's figure, each made by `over` from its own and the plain allocator's.
fn compare(
    metric: &'static str,
    unit: &'static str,
    goal: f64,
    figures: Figures,
    over: impl Fn(f64, f64) -> f64,
) -> Option<Row> {
    let of = |wanted| figures.iter().find(|(name, _)| *name == wanted).map(|(_, figure)| *figure);
    let plain = of(PLAIN)?;
    let peers = figures.iter().filter(|(name, _)| ![PLAIN, OURS].contains(name));
    let best_peer = Peer::best(peers.map(|&(name, figure)| Peer { name, figure: over(figure, plain) }));
    Some(Row { metric, unit, ours: over(of(OURS)?, plain), goal: Goal::AtMost(goal), best_peer })
}

/// Errors against an exact count, and the price of readings. The system's allocator lies beneath them all.
fn accuracy(programs: &[PathBuf], notes: &mut Vec<String>) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut answers = Vec::new();
    for (worker, program) in WORKERS.iter().zip(programs).filter(|(worker, _)| worker.beneath == Beneath::System) {
        answers.push((worker.name, ask(program, &["accuracy"])?));
    }
    let mut rows = Vec::new();
    for (metric, key, unit, goal) in TRUTHS {
        let figure = |(name, answer): &(&'static str, Value)| Some((*name, answer.get(key)?.as_f64()?));
        let figures: Vec<_> = answers.iter().filter_map(figure).collect();
        let peers = figures.iter().filter(|(name, _)| *name != OURS);
        let best_peer = Peer::best(peers.map(|&(name, figure)| Peer { name, figure }));
        match figures.iter().find(|(name, _)| *name == OURS) {
            Some(&(_, ours)) => rows.push(Row { metric, unit, ours, goal: Goal::AtMost(goal), best_peer }),
            None => notes.push(format!("{metric}: not measured: the worker did not tell")),
        }
    }
    Ok(rows)
}
