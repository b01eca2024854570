//! One figure, what it is held against, and where it goes.

use std::fs::{OpenOptions, create_dir_all};
use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use crate::all::section_file;

/// What a figure is to reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// Less is better.
    AtMost(f64),
    /// More is better.
    AtLeast(f64),
    /// For a control that must fail: its figure is above this one.
    Above(f64),
    /// For a control that must fail: its figure is below this one.
    Below(f64),
    /// Any figure is accepted.
    Reported,
}

impl Goal {
    fn is_met_by(self, figure: f64) -> bool {
        match self {
            Self::AtMost(goal) => figure <= goal,
            Self::AtLeast(goal) => figure >= goal,
            Self::Above(goal) => figure > goal,
            Self::Below(goal) => figure < goal,
            Self::Reported => true,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(goal) => short(goal),
            Self::AtLeast(goal) => format!(">= {}", short(goal)),
            Self::Above(goal) => format!("> {}", short(goal)),
            Self::Below(goal) => format!("< {}", short(goal)),
            Self::Reported => "-".to_owned(),
        }
    }
}

/// One figure of ours.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its full name, the area in front.
    pub(crate) metric: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
    pub(crate) goal: Goal,
    /// The best of the peers that have such a figure at all.
    pub(crate) best_peer: Option<Peer>,
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

    /// The one with the highest figure.
    pub(crate) fn most(peers: impl IntoIterator<Item = Self>) -> Option<Self> {
        peers.into_iter().max_by(|a, b| a.figure.total_cmp(&b.figure))
    }
}

/// The figures of ours and of all peers, from which the rows are made.
#[derive(Debug)]
pub(crate) struct Table {
    /// What is measured, in which unit.
    pub(crate) title: String,
    /// What each figure is of.
    pub(crate) columns: Vec<&'static str>,
    /// Who, and its figures as text.
    pub(crate) rows: Vec<(String, Vec<String>)>,
}

impl Table {
    fn print(&self) {
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        print!("{}\n{:width$}", self.title, "");
        self.columns.iter().for_each(|column| print!(" {column:>16}"));
        println!();
        for (name, figures) in &self.rows {
            print!("{name:width$}");
            figures.iter().for_each(|figure| print!(" {figure:>16}"));
            println!();
        }
    }

    fn markdown(&self) -> String {
        let rule = "--:|".repeat(self.columns.len());
        let mut text = format!("{}:\n\n| | {} |\n|---|{rule}\n", self.title, self.columns.join(" | "));
        for (name, figures) in &self.rows {
            text.push_str(&format!("| {name} | {} |\n", figures.join(" | ")));
        }
        text
    }
}

/// What an area measured.
#[derive(Debug, Default)]
pub(crate) struct Card {
    pub(crate) tables: Vec<Table>,
    pub(crate) rows: Vec<Row>,
    /// Sentences printed below the table: what could not be measured, and why.
    pub(crate) notes: Vec<String>,
}

/// Marks a row of a section that is not met.
pub(crate) const MISSED: &str = "**missed**";

impl Card {
    /// The area's part of the results, in Markdown.
    pub(crate) fn section(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            text.push_str(&format!("{}\n", table.markdown()));
        }
        text.push_str("| metric | ours | goal | unit | | best peer |\n|---|--:|--:|---|---|---|\n");
        for row in &self.rows {
            let verdict = if row.goal.is_met_by(row.ours) { "met" } else { MISSED };
            let peer = row.best_peer.as_ref().map_or("-".into(), |p| format!("{} {}", short(p.figure), p.name));
            let (ours, goal, unit) = (short(row.ours), row.goal.text(), row.unit);
            text.push_str(&format!("| `{}` | {ours} | {goal} | {unit} | {verdict} | {peer} |\n", row.metric));
        }
        for note in &self.notes {
            text.push_str(&format!("\n{note}\n"));
        }
        text
    }

    /// Prints the tables and appends the rows to `target/scorecard.jsonl` of the library.
    pub(crate) fn publish(&self, area: &str) -> io::Result<()> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        create_dir_all(&target)?;
        self.tables.iter().for_each(Table::print);
        let mut lines = String::new();
        println!("\n{:<38} {:>10} {:>10}  {:<13} {:<7} best peer", "metric", "ours", "goal", "unit", "");
        for row in &self.rows {
            let verdict = if row.goal.is_met_by(row.ours) { "met" } else { "missed" };
            let peer = row.best_peer.as_ref().map_or("-".into(), |p| format!("{} {}", short(p.figure), p.name));
            let (ours, goal) = (short(row.ours), row.goal.text());
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
        let section = section_file(area);
        section.parent().map_or(Ok(()), create_dir_all)?;
        std::fs::write(section, self.section())?;
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
