//! What is measured today, against the goals and beside the best peer.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml -- heap [--quick | --full]` prints a table and appends a line
//! of JSON for every figure to `target/scorecard.jsonl` of the library. An area is a module with one function.

mod budget;
mod cache;
mod heap;
mod lazy;
mod monitor;
mod programs;
mod row;
mod sizing;
mod stream;

use std::error::Error;
use std::process::ExitCode;

use row::Card;

/// What an area is told.
#[derive(Debug, Clone, Copy)]
struct Options {
    /// Ends within two minutes, once all is built; the figures are coarser.
    quick: bool,
    /// Inputs of 1 GiB, where an area reads some.
    full: bool,
}

/// One part of the library that is measured.
struct Area {
    name: &'static str,
    about: &'static str,
    measure: fn(Options) -> Result<Card, Box<dyn Error>>,
}

const AREAS: [Area; 7] = [
    Area { name: "heap", about: "tracking allocators: cost and accuracy", measure: heap::measure },
    Area { name: "monitor", about: "a report per invocation: time, start and size", measure: monitor::measure },
    Area { name: "budget", about: "reservations: cost, and bytes lost by many threads", measure: budget::measure },
    Area { name: "stream", about: "records, bodies and parallel maps: speed and memory", measure: stream::measure },
    Area { name: "sizing", about: "reading REPORT lines", measure: sizing::measure },
    Area { name: "lazy", about: "values loaded late: reading them, held and asked for", measure: lazy::measure },
    Area { name: "cache", about: "hits, loads and bytes per entry, beside other caches", measure: cache::measure },
];

fn main() -> ExitCode {
    let mut options = Options { quick: false, full: false };
    let mut areas = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--help" | "-h" => {
                print!("{}", usage());
                return ExitCode::SUCCESS;
            }
            "--quick" => options.quick = true,
            "--full" => options.full = true,
            name => match AREAS.iter().find(|area| area.name == name) {
                Some(area) => areas.push(area),
                None => return misused(&format!("there is no area or option `{name}`")),
            },
        }
    }
    if areas.is_empty() {
        return misused("no area named");
    }
    for area in areas {
        let done = (area.measure)(options).and_then(|card| Ok(card.publish(area.name)?));
        if let Err(error) = done {
            eprintln!("scorecard: {}: {error}", area.name);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn misused(why: &str) -> ExitCode {
    eprint!("scorecard: {why}\n{}", usage());
    ExitCode::from(2)
}

fn usage() -> String {
    let areas: String = AREAS.iter().map(|area| format!("  {:<10}{}\n", area.name, area.about)).collect();
    format!(
        "usage: scorecard <area>... [--quick | --full]\n\
         areas:\n{areas}\
         options:\n  --quick   ends within two minutes, once all is built; the figures are coarser\n  \
         --full    reads inputs of 1 GiB\n"
    )
}
