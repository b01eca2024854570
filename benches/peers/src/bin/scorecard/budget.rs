//! Area `budget`: the price of a reservation, beside a semaphore of bytes and a table under a lock.
//!
//! All run in this process, interleaved in rounds. On one thread the quickest chunk of all rounds counts; on two the
//! median over the rounds of each round's quickest, as a minimum would hide the contention itself.

use std::error::Error;

use plimsoll_peers::budget::{
    Times, lost_bytes, lost_race, lost_race_control, plimsoll, semaphore, sticky_control, table,
};
use plimsoll_peers::median;

use crate::Options;
use crate::row::{Card, Goal, Peer, Row, Table};

/// A budget's name, and what times so many chunks of it.
type Kind = (&'static str, fn(u32) -> Times);

const KINDS: [Kind; 3] = [("plimsoll", plimsoll), ("tokio semaphore", semaphore), ("table under a lock", table)];

/// What 16 threads do at random, ten million operations in all.
const OPERATIONS: u32 = 10_000_000 / 16;

/// Measures all of it.
pub(crate) fn measure(options: Options) -> Result<Card, Box<dyn Error>> {
    let (rounds, chunks) = if options.quick { (7, 40) } else { (21, 80) };
    let mut seen = KINDS.map(|(name, _)| (name, Vec::<Times>::new()));
    for _ in 0..rounds {
        for ((_, measure), (_, times)) in KINDS.iter().zip(&mut seen) {
            times.push(measure(chunks));
        }
    }
    let rounds_of = seen.clone().map(|(_, times)| times);
    let settled = seen.map(|(name, times)| {
        let alone = times.iter().map(|times: &Times| times.alone).fold(f64::INFINITY, f64::min);
        (name, alone, median(times.iter().map(|times| times.together)))
    });
    let [ours, peers @ ..] = &settled;
    let row = |metric, goal, figure: fn(&(&'static str, f64, f64)) -> f64| Row {
        metric,
        unit: "ns",
        ours: figure(ours),
        goal: Goal::AtMost(goal),
        best_peer: Peer::best(peers.iter().map(|peer| Peer { name: peer.0, figure: figure(peer) })),
    };
    let mut card = Card::default();
    card.tables.push(Table {
        title: "ns per reservation made and dropped".to_owned(),
        columns: vec!["one thread", "two threads"],
        rows: settled
            .iter()
            .map(|(name, a, t)| ((*name).to_owned(), vec![format!("{a:.1}"), format!("{t:.1}")]))
            .collect(),
    });
    card.rows.push(row("budget.reserve_drop.1t.ns", 20.0, |times| times.1));
    card.rows.push(row("budget.reserve_drop.2t.ns", 60.0, |times| times.2));
    // Medians of the ratios within a round.
    for (metric, goal, figure) in [
        ("budget.reserve_drop.1t.over_mutex", 1.1, (|times| times.alone) as fn(&Times) -> f64),
        ("budget.reserve_drop.2t.over_mutex", 1.2, |times| times.together),
    ] {
        let [ours, .., mutex] = &rounds_of;
        let ratios = ours.iter().zip(mutex).map(|(ours, mutex)| figure(ours) / figure(mutex));
        let ours = median(ratios);
        card.rows.push(Row { metric, unit: "times", ours, goal: Goal::AtMost(goal), best_peer: None });
    }
    let count = |metric, unit, ours: f64, goal| Row { metric, unit, ours, goal, best_peer: None };
    let lost = lost_bytes(OPERATIONS) as f64;
    card.rows.push(count("budget.16t.lost_bytes", "bytes", lost, Goal::AtMost(0.0)));
    let (large, small) = lost_race(200);
    card.rows.push(count("budget.lost_race.refused", "requests", f64::from(large + small), Goal::AtMost(0.0)));
    let (large, _small) = lost_race_control(200);
    card.rows.push(count("budget.lost_race.refused.control", "requests", f64::from(large), Goal::Above(0.0)));
    #[cfg(target_os = "linux")]
    histories(&mut card)?;
    #[cfg(target_os = "linux")]
    crate::survival::measure(options, &mut card)?;
    Ok(card)
}

/// Performs each history in a memory cgroup, and its control, which must be killed.
#[cfg(target_os = "linux")]
fn histories(card: &mut Card) -> Result<(), Box<dyn Error>> {
    use std::os::unix::process::ExitStatusExt;

    use plimsoll_peers::histories::{HISTORIES, OVER_MIMALLOC};

    use crate::alarm::CAGE_MIB;
    use crate::alarm::cage::Cage;
    use crate::programs::build;

    let programs = build("release", &["budget_histories", "budget_histories_mimalloc"])?;
    let (mut refused, mut kills, mut control_kills) = (0, 0, 0);
    let over_system = HISTORIES.map(|history| (history, "budget_histories"));
    let over_mimalloc = OVER_MIMALLOC.map(|history| (history, "budget_histories_mimalloc"));
    for (history, program) in over_system.into_iter().chain(over_mimalloc) {
        let program = programs.get(program).ok_or("not built")?;
        for is_control in [false, true] {
            let cage = Cage::new(CAGE_MIB)?;
            let mut command = cage.command(program);
            command.env("AWS_LAMBDA_FUNCTION_NAME", "function").env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128");
            let output = command.args([history, if is_control { "control" } else { "" }]).output()?;
            let is_killed = output.status.signal() == Some(9) && cage.oom_kills() > 0;
            if is_control {
                control_kills += u32::from(is_killed);
                if !is_killed {
                    card.notes.push(format!("the control of `{history}` was not killed"));
                }
                continue;
            }
            if is_killed {
                kills += 1;
                card.notes.push(format!("`{history}` was killed"));
                continue;
            }
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
                .map_err(|_| format!("`{history}`: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))?;
            let now = answer.get("refused").and_then(serde_json::Value::as_u64).ok_or("no count of refusals")?;
            if now > 0 {
                card.notes.push(format!("`{history}`: {now} requests refused at rest"));
            }
            refused += now;
        }
    }
    let row = |metric, unit, ours: f64, goal| Row { metric, unit, ours, goal, best_peer: None };
    card.rows.push(row("budget.sticky.refused", "requests", refused as f64, Goal::AtMost(0.0)));
    card.rows.push(row("budget.sticky.refused.control", "requests", f64::from(sticky_control()), Goal::Above(0.0)));
    card.rows.push(row("budget.overgrant.kills", "kills", f64::from(kills), Goal::AtMost(0.0)));
    let all = (HISTORIES.len() + OVER_MIMALLOC.len()) as f64;
    let goal = Goal::AtLeast(all);
    card.rows.push(row("budget.overgrant.kills.control", "kills", f64::from(control_kills), goal));
    Ok(())
}
