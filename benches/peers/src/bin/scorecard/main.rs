//! What is measured today, against the goals and beside the best peer.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml -- heap [--quick | --full]` prints a table and appends a line
//! of JSON for every figure to `target/scorecard.jsonl` of the library. `all` measures every area and writes
//! `benches/RESULTS.md`. An area is a module with one function.

mod alarm;
mod all;
mod budget;
mod cache;
mod heap;
mod lazy;
mod leaks;
mod monitor;
mod newcomer;
mod profile;
mod programs;
mod row;
mod sizing;
mod stream;
mod support;
#[cfg(target_os = "linux")]
mod survival;

use std::error::Error;
use std::process::ExitCode;

use row::Card;

/// What an area is told.
#[derive(Debug, Clone, Copy)]
struct Options {
    /// Ends within two minutes after the build, the areas `alarm`, `budget` and `profile` within eight; the figures are coarser.
    quick: bool,
    /// Inputs of 1 GiB in the areas that read files, and more histories of memory.
    full: bool,
}

/// One part of the library that is measured.
struct Area {
    name: &'static str,
    about: &'static str,
    measure: fn(Options) -> Result<Card, Box<dyn Error>>,
}

const AREAS: [Area; 10] = [
    Area { name: "heap", about: "tracking allocators: cost and accuracy", measure: heap::measure },
    Area { name: "profile", about: "allocation sites: cost, and the share that is right", measure: profile::measure },
    Area { name: "alarm", about: "alarms before a kill: false, missed and late ones", measure: alarm::measure },
    Area { name: "monitor", about: "a report per invocation: time, start and size", measure: monitor::measure },
    Area { name: "budget", about: "reservations: cost, bytes lost; a service that survives", measure: budget::measure },
    Area { name: "stream", about: "records, bodies and parallel maps: speed and memory", measure: stream::measure },
    Area { name: "sizing", about: "reading REPORT lines", measure: sizing::measure },
    Area { name: "lazy", about: "values loaded late: reading them, held and asked for", measure: lazy::measure },
    Area {
        name: "newcomer",
        about: "what a crate pays that takes the library without features",
        measure: newcomer::measure,
    },
    Area { name: "cache", about: "hits, loads and bytes per entry, beside other caches", measure: cache::measure },
];

fn main() -> ExitCode {
    let mut options = Options { quick: false, full: false };
    let mut areas = Vec::new();
    let mut all = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--help" | "-h" => {
                print!("{}", usage());
                return ExitCode::SUCCESS;
            }
            "--quick" => options.quick = true,
            "--full" => options.full = true,
            "all" => all = true,
            name => match AREAS.iter().find(|area| area.name == name) {
                Some(area) => areas.push(area),
                None => return misused(&format!("there is no area or option `{name}`")),
            },
        }
    }
    let done = match (all, areas.as_slice()) {
        (false, []) => return misused("no area named"),
        (true, []) => all::measure(options),
        (true, _) => return misused("`all` is every area already"),
        (false, areas) => areas.iter().try_for_each(|area| {
            let card = (area.measure)(options).map_err(|error| format!("{}: {error}", area.name))?;
            Ok(card.publish(area.name)?)
        }),
    };
    if let Err(error) = done {
        eprintln!("scorecard: {error}");
        return ExitCode::FAILURE;
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
         areas:\n{areas}  all       every area; writes benches/RESULTS.md\n\
         options:\n  --quick   ends within two minutes after the build, `alarm`, `budget` and `profile` within eight; the figures are coarser\n  \
         --full    reads inputs of 1 GiB, runs 330 histories of memory\n"
    )
}
