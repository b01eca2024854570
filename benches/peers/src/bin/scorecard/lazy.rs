//! Area `lazy`: reading a value that was loaded late, beside the cells of std and others.
//!
//! All run in this process, interleaved in rounds; the median over the rounds of each round's quickest chunk counts.

use std::error::Error;

use plimsoll_peers::lazy::{KINDS, Times, get_over_arc_swap, pinned_over_lazy_lock};
use plimsoll_peers::median;

use crate::Options;
use crate::row::{Card, Goal, Peer, Row, Table};

/// Measures all of it.
pub(crate) fn measure(options: Options) -> Result<Card, Box<dyn Error>> {
    let (rounds, chunks) = if options.quick { (7, 40) } else { (21, 80) };
    let mut seen = KINDS.map(|kind| (kind, Vec::new()));
    let (mut over, mut over_arc_swap) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        over.push(pinned_over_lazy_lock(chunks));
        over_arc_swap.push(get_over_arc_swap(chunks));
        for (kind, times) in &mut seen {
            times.push((kind.measure)(chunks));
        }
    }
    let settled = seen.each_ref().map(|(kind, times)| {
        (kind, median(times.iter().map(|times: &Times| times.alone)), median(times.iter().map(|times| times.together)))
    });
    let [_pinned, _lazy_lock, get, peers @ ..] = &seen;
    let row = |metric, goal, figure: fn(&Times) -> f64| Row {
        metric,
        unit: "ns",
        ours: median(get.1.iter().map(figure)),
        goal: Goal::AtMost(goal),
        best_peer: Peer::best(
            peers
                .iter()
                .filter(|(kind, _)| kind.unloads)
                .map(|(kind, times)| Peer { name: kind.name, figure: median(times.iter().map(figure)) }),
        ),
    };
    let mut card = Card::default();
    let can = |unloads: bool| if unloads { "yes" } else { "no" }.to_owned();
    card.tables.push(Table {
        title: "ns per read".to_owned(),
        columns: vec!["one thread", "two threads", "can unload"],
        rows: settled
            .iter()
            .map(|(kind, a, t)| (kind.name.to_owned(), vec![format!("{a:.2}"), format!("{t:.2}"), can(kind.unloads)]))
            .collect(),
    });
    for (metric, times, goal) in
        [("lazy.pinned.over_lazylock", over, 1.2), ("lazy.get.over_arc_swap", over_arc_swap, 1.3)]
    {
        card.rows.push(Row { metric, unit: "times", ours: median(times), goal: Goal::AtMost(goal), best_peer: None });
    }
    card.rows.push(row("lazy.get.1t.ns", 6.0, |times| times.alone));
    card.rows.push(row("lazy.get.2t.ns", 12.0, |times| times.together));
    Ok(card)
}
