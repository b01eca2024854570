//! The survival matrix: a service in a memory cgroup of 128 MiB, under loads that kill it without admission.
//!
//! Each cell is one process. After its load and a second of rest, uploads of 1 MiB must all be served. The control of a load is
//! the same service without admission, which must be killed.

use std::error::Error;
use std::time::Duration;

use plimsoll_peers::median;
use plimsoll_peers::survival::{AT_REST, Allocator, Cell, Load, cell};

use crate::Options;
use crate::programs::build;
use crate::row::{Card, Goal, Row, Table};

/// The time after which a service counts as one that survives.
const CONTROL: Duration = Duration::from_secs(5);

/// Measures all of it.
pub(crate) fn measure(options: Options, card: &mut Card) -> Result<(), Box<dyn Error>> {
    let allocators = allocators()?;
    let time = Duration::from_secs(if options.quick { 4 } else { 10 });
    let (mut kills, mut refused) = (0, 0);
    let mut innocent: f64 = 0.0;
    let mut table = Table {
        title: "64 clients in 128 MiB, answers per second; refused answers in %".to_owned(),
        columns: vec!["allocator", "per second", "refused %"],
        rows: Vec::new(),
    };
    for (number, load) in Load::ALL.into_iter().enumerate() {
        for (place, allocator) in allocators.iter().enumerate() {
            // Each load once and each allocator at least once.
            if options.quick && number % allocators.len() != place {
                continue;
            }
            let Cell { is_killed, answers, refused_at_rest, .. } = cell(allocator, load, "admission", time)?;
            if is_killed {
                kills += 1;
                card.notes.push(format!("{} over {}: killed", load.name(), allocator.name));
            } else {
                refused += refused_at_rest;
                if refused_at_rest > 0 {
                    card.notes.push(format!(
                        "{} over {}: {refused_at_rest} of {AT_REST} uploads of 1 MiB refused at rest",
                        load.name(),
                        allocator.name
                    ));
                }
            }
            if load == Load::Hogs {
                innocent = innocent.max(answers.innocent_refused_pct());
            }
            let refused = 100.0 * answers.refused as f64 / (answers.served + answers.refused).max(1) as f64;
            let rate = answers.served as f64 / answers.seconds;
            let cells = vec![allocator.name.to_owned(), format!("{rate:.1}"), format!("{refused:.1}")];
            table.rows.push((load.name().to_owned(), cells));
        }
    }
    card.tables.push(table);
    let mut survivors = 0;
    let system = allocators.first().ok_or("no allocator")?;
    for load in Load::ALL {
        if !cell(system, load, "none", CONTROL)?.is_killed {
            survivors += 1;
            card.notes.push(format!("{}: the service without admission was not killed", load.name()));
        }
    }
    let row = |metric, unit, ours: f64, goal| Row { metric, unit, ours, goal, best_peer: None };
    card.rows.push(row("budget.survival.kills", "kills", f64::from(kills), Goal::AtMost(0.0)));
    let killed = Load::ALL.len() as f64 - f64::from(survivors);
    card.rows.push(row("budget.survival.kills.control", "kills", killed, Goal::AtLeast(Load::ALL.len() as f64)));
    card.rows.push(row("budget.rest.refused", "requests", refused as f64, Goal::AtMost(0.0)));
    card.rows.push(row("budget.innocent.refused_pct", "%", innocent, Goal::AtMost(5.0)));
    goodput(options, system, card)
}

/// Compares the answers per second with those of a fixed number of requests at the same time. The best number that survives is
/// found by trial; then both run in turns, and the median of the ratios counts.
fn goodput(options: Options, system: &Allocator, card: &mut Card) -> Result<(), Box<dyn Error>> {
    let (rounds, time) = if options.quick { (5, 4) } else { (9, 10) };
    let mut worst = f64::INFINITY;
    let mut table = Table {
        title: "answers per second beside a fixed number of requests at the same time, medians".to_owned(),
        columns: vec!["admission", "best fixed", "number", "% of it"],
        rows: Vec::new(),
    };
    for load in [Load::Uploads, Load::Json] {
        // `None` if it was killed.
        let rate = |protection: &str, seconds| -> Result<Option<f64>, Box<dyn Error>> {
            let Cell { is_killed, answers, .. } = cell(system, load, protection, Duration::from_secs(seconds))?;
            Ok((!is_killed).then_some(answers.served as f64 / answers.seconds))
        };
        let mut best = (0.0, 1);
        for fixed in 1..=6 {
            let Some(rate) = rate(&fixed.to_string(), 3)? else { break };
            if rate > best.0 {
                best = (rate, fixed);
            }
        }
        let mut number = best.1;
        let mut pairs = Vec::new();
        while pairs.len() < rounds {
            let ours = rate("patient", time)?.unwrap_or(0.0);
            match rate(&number.to_string(), time)? {
                Some(fixed) => pairs.push((ours, fixed)),
                // It survived the trial by luck.
                None => (number, pairs) = (number - 1, Vec::new()),
            }
            if number == 0 {
                return Err("one request at a time is killed".into());
            }
        }
        let percent = median(pairs.iter().map(|(ours, fixed)| 100.0 * ours / fixed));
        worst = worst.min(percent);
        let (ours, fixed) = (median(pairs.iter().map(|pair| pair.0)), median(pairs.iter().map(|pair| pair.1)));
        let cells = vec![format!("{ours:.1}"), format!("{fixed:.1}"), number.to_string(), format!("{percent:.0}")];
        table.rows.push((load.name().to_owned(), cells));
    }
    card.tables.push(table);
    card.rows.push(Row {
        metric: "budget.survival.goodput_of_best_pct",
        unit: "%",
        ours: worst,
        goal: Goal::AtLeast(90.0),
        best_peer: None,
    });
    Ok(())
}

fn allocators() -> Result<Vec<Allocator>, Box<dyn Error>> {
    let programs = build("release", &["survival_system", "survival_mimalloc", "survival_jemalloc"])?;
    let program = |name: &str| programs.get(name).cloned().ok_or_else(|| format!("cargo built no {name}"));
    Ok(Allocator::all(program("survival_system")?, program("survival_mimalloc")?, program("survival_jemalloc")?).into())
}
