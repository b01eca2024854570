//! One figure, what it is held against, and where it goes.

use std::fs::{OpenOptions, create_dir_all};
use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

/// One figure of ours.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its full name, the area in front.
    pub(crate) metric: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
    /// Met if ours is not on its wrong side.
    pub(crate) goal: f64,
    pub(crate) better: Better,
    /// The best of the peers that have such a figure at all.
    pub(crate) best_peer: Option<Peer>,
}

/// Which of two figures is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
}

impl Better {
    fn meets(self, ours: f64, goal: f64) -> bool {
        match self {
            Self::Less => ours <= goal,
            Self::More => ours >= goal,
        }
    }
}

/// A peer and its figure.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) figure: f64,
}

impl Peer {
    /// The one with the lowest figure.
    pub(crate) fn best(peers: impl IntoIterator<Item = Self>) -> Option<Self> {
        peers.into_iter().min_by(|a, b| a.figure.total_cmp(&b.figure))
    }
}

/// What an area measured.
#[derive(Debug, Default)]
pub(crate) struct Card {
    pub(crate) rows: Vec<Row>,
    /// Sentences printed below the table: what could not be measured, and why.
    pub(crate) notes: Vec<String>,
}

impl Card {
    /// Prints the table and appends the rows to `target/scorecard.jsonl` of the library.
    pub(crate) fn publish(&self, area: &str) -> io::Result<()> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        create_dir_all(&target)?;
        let mut lines = String::new();
        println!("\n{:<38} {:>10} {:>10}  {:<13} {:<7} best peer", "metric", "ours", "goal", "unit", "");
        for row in &self.rows {
            let verdict = if row.better.meets(row.ours, row.goal) { "met" } else { "missed" };
            let peer = row.best_peer.as_ref().map_or("-".into(), |p| format!("{} {}", short(p.figure), p.name));
            let (ours, goal) = (short(row.ours), short(row.goal));
            println!("{:<38} {ours:>10} {goal:>10}  {:<13} {verdict:<7} {peer}", row.metric, row.unit);
            let line = json!({
                "area": area,
                "metric": row.metric,
                "unit": row.unit,
                "ours": rounded(row.ours),
                "best_peer": row.best_peer.as_ref().map(|peer| rounded(peer.figure)),
                "peer": row.best_peer.as_ref().map(|peer| peer.name),
            });
            lines.push_str(&format!("{line}\n"));
        }
        for note in &self.notes {
            println!("{note}");
        }
        OpenOptions::new().create(true).append(true).open(target.join("scorecard.jsonl"))?.write_all(lines.as_bytes())
    }
}

/// Two decimals are more than any of the figures is good for.
fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

fn short(figure: f64) -> String {
    if figure.fract() == 0.0 { format!("{figure:.0}") } else { format!("{figure:.2}") }
}
