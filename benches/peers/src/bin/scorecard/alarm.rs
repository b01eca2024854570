//! Area `alarm`: whether an alarm is written before each kill, and only then.
//!
//! One process for each history. It judges its alarms by its own readings of the kernel, and so it does with two wrong
//! alarms: one adds no part of a request to the rss, the other adds all of it. The rows that end with `control` are
//! figures of alarms that must fail. The reference is an alarm by the measured danger itself, which must be right.

#[allow(clippy::unwrap_used, clippy::expect_used, reason = "shared with the tests, which stop at the first surprise")]
#[path = "../../../../../tests/sandbox/cage.rs"]
pub(crate) mod cage;

use std::error::Error;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use plimsoll_peers::alarm::WAYS;
use plimsoll_peers::median;
use serde_json::Value;

use crate::Options;
use crate::programs::{ask, ask_with, build, build_for_musl};
use crate::row::{Card, Goal, Row, Table};
use cage::Cage;

/// Seeds select the kinds of histories in turn, once below and once above the threshold.
const EACH_KIND_TWICE: usize = 2 * plimsoll_peers::alarm::histories::KINDS.len();

/// The limit of the memory cgroup.
pub(crate) const CAGE_MIB: u64 = 116;

/// An allocator below the tracking one.
struct Allocator {
    name: &'static str,
    program: PathBuf,
    variables: &'static [(&'static str, &'static str)],
    /// The distance from the threshold, in MiB, within which a danger has no verdict.
    band: &'static str,
}

/// Measures all of it.
pub(crate) fn measure(options: Options) -> Result<Card, Box<dyn Error>> {
    let mut card = Card::default();
    let allocators = allocators(&mut card)?;
    let system = allocators.first().ok_or("no allocator")?.program.clone();
    let rounds = match options {
        Options { full: true, .. } => 11,
        Options { quick: true, .. } => 1,
        Options { .. } => 3,
    };
    histories(&allocators, rounds * EACH_KIND_TWICE, &mut card)?;
    kills(&allocators, &mut card)?;
    worst_allocation(&system, &mut card)?;
    let children = if options.quick { "500" } else { "3000" };
    for (metric, switch, goal) in
        [("alarm.fork_unnoticed", "on", Goal::AtMost(0.0)), ("alarm.fork_unnoticed.control", "off", Goal::Above(0.0))]
    {
        let answer = ask(&system, &["--forks", children, switch])?;
        card.rows.push(row(metric, "children", figure(&answer, "unnoticed")?, goal));
    }
    Ok(card)
}

fn row(metric: &'static str, unit: &'static str, ours: f64, goal: Goal) -> Row {
    Row { metric, unit, ours, goal, best_peer: None }
}

fn figure(answer: &Value, key: &str) -> Result<f64, Box<dyn Error>> {
    answer.get(key).and_then(Value::as_f64).ok_or_else(|| format!("a worker left out `{key}`").into())
}

/// Builds the workers. The first one is over `System`.
fn allocators(card: &mut Card) -> Result<Vec<Allocator>, Box<dyn Error>> {
    const NAMES: [&str; 3] = ["alarm_system", "alarm_mimalloc", "alarm_jemalloc"];
    let programs = build("release", &NAMES)?;
    let program = |name: &str| programs.get(name).cloned().ok_or_else(|| format!("cargo built no {name}"));
    let allocator = |name, program, band| Allocator { name, program, variables: &[], band };
    let mut allocators = vec![
        allocator("system", program("alarm_system")?, "1"),
        Allocator {
            variables: &[("MALLOC_ARENA_MAX", "1")],
            ..allocator("system, one arena", program("alarm_system")?, "1")
        },
        allocator("mimalloc", program("alarm_mimalloc")?, "2"),
        allocator("jemalloc", program("alarm_jemalloc")?, "1"),
    ];
    match build_for_musl(&["alarm_system"]).map(|mut programs| programs.remove("alarm_system")) {
        Ok(Some(program)) if ask(&program, &["--history", "0", "1"]).is_ok() => {
            allocators.push(allocator("system of musl", program, "1"));
        }
        Ok(_) => card.notes.push("musl: not measured: the worker does not run".to_owned()),
        Err(error) => card.notes.push(format!("musl: not measured: {error}")),
    }
    Ok(allocators)
}

/// The columns of the table: the figure of a history, and whether it counts for the sum of a row.
const COLUMNS: [&str; 11] = [
    "in danger",
    "false",
    "missed",
    "unseen",
    "early",
    "pending",
    "repeated",
    "ambiguous",
    "control missed",
    "control false",
    "reference wrong",
];

/// Counts one history in each column.
fn columns(answer: &Value) -> [bool; COLUMNS.len()] {
    let is = |key: &str, value: &str| answer.get(key).and_then(Value::as_str) == Some(value);
    let ambiguous = is("verdict", "ambiguous");
    let some = |key: &str| !ambiguous && answer.get(key).and_then(Value::as_u64).is_some_and(|count| count > 0);
    let danger = answer.get("danger").and_then(Value::as_bool) == Some(true);
    [
        danger && !ambiguous,
        some("false"),
        some("missed"),
        some("unseen"),
        some("early"),
        some("pending"),
        some("repeated"),
        ambiguous,
        is("control_nothing", "missed"),
        is("control_whole", "false"),
        ["false", "missed", "repeated"].iter().any(|verdict| is("reference", verdict)),
    ]
}

/// Performs the same histories over each allocator.
fn histories(allocators: &[Allocator], seeds: usize, card: &mut Card) -> Result<(), Box<dyn Error>> {
    let mut table = Table {
        title: format!("{seeds} histories over each allocator, by verdict"),
        columns: COLUMNS.to_vec(),
        rows: Vec::new(),
    };
    let mut sums = [0_u32; COLUMNS.len()];
    for allocator in allocators {
        let mut counts = [0_u32; COLUMNS.len()];
        for seed in 0..seeds {
            let arguments = ["--history", &seed.to_string(), allocator.band];
            let answer = ask_with(&allocator.program, &arguments, allocator.variables)?;
            counts.iter_mut().zip(columns(&answer)).for_each(|(count, is)| *count += u32::from(is));
            let verdict = answer.get("verdict").and_then(Value::as_str).unwrap_or("unknown");
            if ["false", "missed", "repeated"].contains(&verdict) {
                card.notes.push(format!("{verdict} over {}: {answer}", allocator.name));
            }
        }
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        table.rows.push((allocator.name.to_owned(), counts.map(|count| count.to_string()).to_vec()));
    }
    card.tables.push(table);
    let goals = [
        ("alarm.in_danger", Goal::Above(0.0)),
        ("alarm.false", Goal::AtMost(0.0)),
        ("alarm.missed", Goal::AtMost(0.0)),
        ("alarm.unseen", Goal::Reported),
        ("alarm.early", Goal::Reported),
        ("alarm.pending", Goal::Reported),
        ("alarm.repeated", Goal::AtMost(0.0)),
        ("alarm.ambiguous", Goal::Reported),
        ("alarm.missed.control", Goal::Above(0.0)),
        ("alarm.false.control", Goal::Above(0.0)),
        ("alarm.reference_wrong", Goal::AtMost(0.0)),
    ];
    card.rows.extend(
        goals.into_iter().zip(sums).map(|((metric, goal), sum)| row(metric, "histories", f64::from(sum), goal)),
    );
    Ok(())
}

/// Has the kernel kill a process for each way to grow, with the threshold and without.
fn kills(allocators: &[Allocator], card: &mut Card) -> Result<(), Box<dyn Error>> {
    if let Err(error) = Cage::new(CAGE_MIB) {
        card.notes.push(format!("alarm.kills_without_alarm: not measured: {error}"));
        return Ok(());
    }
    let mut table = Table {
        title: format!("alarms before the kill in a cgroup of {CAGE_MIB} MiB, by the way to grow"),
        columns: WAYS.to_vec(),
        rows: Vec::new(),
    };
    let mut without = [0_u32; 2];
    for allocator in allocators {
        for ((switch, threshold), without) in
            [("on", "threshold"), ("off", "no threshold")].into_iter().zip(&mut without)
        {
            let alarms = WAYS.map(|way| alarms_before_kill(allocator, way, switch));
            let alarms = alarms.into_iter().collect::<Result<Vec<usize>, _>>()?;
            *without += alarms.iter().map(|alarms| u32::from(*alarms == 0)).sum::<u32>();
            let cells = alarms.iter().map(usize::to_string).collect();
            table.rows.push((format!("{}, {threshold}", allocator.name), cells));
        }
    }
    card.tables.push(table);
    let [without, control] = without.map(f64::from);
    card.rows.push(row("alarm.kills_without_alarm", "kills", without, Goal::AtMost(0.0)));
    card.rows.push(row("alarm.kills_without_alarm.control", "kills", control, Goal::Above(0.0)));
    Ok(())
}

/// Counts the alarms of a process that must end by the kernel's kill.
fn alarms_before_kill(allocator: &Allocator, way: &str, switch: &str) -> Result<usize, Box<dyn Error>> {
    let cage = Cage::new(CAGE_MIB)?;
    let mut command = cage.command(&allocator.program);
    command.args(["--grow", way, &CAGE_MIB.to_string(), switch]).envs(allocator.variables.iter().copied());
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.signal() != Some(9) || cage.oom_kills() == 0 {
        return Err(format!("`{way}` was not killed for memory: {}: {stderr}", output.status).into());
    }
    Ok(stderr.lines().filter(|line| line.starts_with(r#"{"plimsoll":"alarm""#)).count())
}

/// The processor time of one allocation next to a busy thread.
fn worst_allocation(program: &Path, card: &mut Card) -> Result<(), Box<dyn Error>> {
    const KEYS: [&str; 2] = ["worst_us", "p999_us"];
    const SWITCHES: [&str; 2] = ["on", "off"];
    let mut seen = [(); SWITCHES.len()].map(|()| [(); KEYS.len()].map(|()| Vec::new()));
    let mut share = f64::INFINITY;
    for _ in 0..5 {
        for (switch, seen) in SWITCHES.into_iter().zip(&mut seen) {
            let answer = ask(program, &["--latency", "5", switch])?;
            share = share.min(figure(&answer, "busy_share")?);
            for (key, seen) in KEYS.into_iter().zip(seen) {
                seen.push(figure(&answer, key)?);
            }
        }
    }
    if share < 0.8 {
        let share = 100.0 * share;
        card.notes.push(format!("the machine is busy: the other thread had {share:.0} % of a processor in one run; no figure of two threads is safe"));
    }
    let [on, off] = seen.map(|seen| seen.map(median));
    let cells = |figures: [f64; KEYS.len()]| figures.map(|figure| format!("{figure:.1}")).to_vec();
    card.tables.push(Table {
        title: "processor time of an allocation of 2 MiB next to a thread that allocates, us, median of 5 runs of 5 s"
            .to_owned(),
        columns: vec!["worst", "99.9th percentile"],
        rows: vec![("threshold".to_owned(), cells(on)), ("no threshold".to_owned(), cells(off))],
    });
    let [worst, p999] = [0, 1].map(|index| {
        let of = |figures: [f64; KEYS.len()]| figures.get(index).copied().unwrap_or(f64::NAN);
        of(on) / of(off)
    });
    card.rows.push(row("alarm.worst_allocation.over_plain", "times", worst, Goal::AtMost(10.0)));
    card.rows.push(row("alarm.p999_allocation.over_plain", "times", p999, Goal::Reported));
    Ok(())
}
