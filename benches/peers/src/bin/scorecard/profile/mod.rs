//! Area `profile`: the profile of allocation sites: its cost, and the share of its answers that is right.
//!
//! The workers are built with the profile and without, and with frame pointers and without. Times are processor time.
//! The rows that end with `control` are figures of wrong answers, which must miss the goal.

mod builds;
mod cost;
mod documents;
mod elf;
mod truth;

use std::error::Error;

use serde_json::Value;

use crate::Options;
use crate::row::{Card, Goal, Row};
use builds::Builds;

/// The default interval of the profile, and a short one.
const INTERVAL: &str = "524288";
const SHORT_INTERVAL: &str = "65536";

/// Measures all of it.
pub(crate) fn measure(options: Options) -> Result<Card, Box<dyn Error>> {
    let builds = Builds::new()?;
    let mut card = Card::default();
    cost::instructions_of_pairs(&builds, &mut card)?;
    cost::pairs(&builds, if options.quick { 40 } else { 100 }, &mut card)?;
    documents::measure(&builds, if options.quick { 10 } else { 30 }, &mut card)?;
    cost::memory(&builds, &mut card)?;
    cost::threads(&builds, if options.quick { 3 } else { 7 }, &mut card)?;
    let seeds = match options {
        Options { full: true, .. } => 15,
        Options { quick: true, .. } => 3,
        Options { .. } => 7,
    };
    truth::peaks(&builds, seeds, &mut card)?;
    truth::leaks(&builds, &mut card)?;
    truth::allocators(&builds, &mut card)?;
    Ok(card)
}

fn row(metric: &'static str, unit: &'static str, ours: f64, goal: Goal) -> Row {
    Row { metric, unit, ours, goal, best_peer: None }
}

fn figure(answer: &Value, key: &str) -> Result<f64, Box<dyn Error>> {
    answer.get(key).and_then(Value::as_f64).ok_or_else(|| format!("a worker left out `{key}`").into())
}
