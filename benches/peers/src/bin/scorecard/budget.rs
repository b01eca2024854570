//! Area `budget`: the price of a reservation, beside a semaphore of bytes and a table under a lock.
//!
//! All run in this process, interleaved in rounds. On one thread the quickest chunk of all rounds counts; on two the
//! median over the rounds of each round's quickest, as a minimum would hide the contention itself.

use std::error::Error;

use plimsoll_peers::budget::{Times, lost_bytes, plimsoll, semaphore, table};
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
    let mut seen = KINDS.map(|(name, _)| (name, Vec::new()));
    for _ in 0..rounds {
        for ((_, measure), (_, times)) in KINDS.iter().zip(&mut seen) {
            times.push(measure(chunks));
        }
    }
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
    card.rows.push(Row {
        metric: "budget.16t.lost_bytes",
        unit: "bytes",
        ours: lost_bytes(OPERATIONS) as f64,
        goal: Goal::AtMost(0.0),
        best_peer: None,
    });
    Ok(card)
}
