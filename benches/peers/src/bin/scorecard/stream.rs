//! Area `stream`: records, bodies and parallel maps, beside those that do the same.
//!
//! Every reader has its turn in each round, and a figure is the median over the rounds of a ratio within one. Memory is
//! measured in a process of its own, whose allocator is the tracking one.

use std::error::Error;
use std::path::Path;

use plimsoll_peers::stream::input::{self, Kind};
use plimsoll_peers::stream::{Rates, body, lines, parallel};
use serde_json::Value;

use crate::Options;
use crate::programs::{ask, build};
use crate::row::{Card, Goal, Peer, Row, Table};

const MIB: u64 = 1 << 20;

/// Measures all of it.
pub(crate) fn measure(options: Options) -> Result<Card, Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/stream-inputs");
    let (bytes, rounds) = match options {
        Options { full: true, .. } => (1024 * MIB, 15),
        Options { quick: true, .. } => (32 * MIB, 15),
        Options { .. } => (128 * MIB, 15),
    };
    let mut card = Card::default();

    let rates = of_file(&folder, Kind::Ndjson, bytes, rounds, &mut card)?;
    let of_floor = |name| 100.0 * rates.over(name, lines::FLOOR);
    let peers = lines::READERS.iter().map(|reader| reader.name).filter(|name| lines::is_peer(name));
    card.rows.push(Row {
        metric: "stream.ndjson.of_floor_pct",
        unit: "%",
        ours: of_floor(lines::OURS),
        goal: Goal::AtLeast(95.0),
        best_peer: Peer::most(peers.clone().map(|name| Peer { name, figure: of_floor(name) })),
    });

    let rates = of_file(&folder, Kind::Short, bytes, rounds, &mut card)?;
    let best = Peer::most(peers.map(|name| Peer { name, figure: rates.over(name, lines::OURS_EACH) }));
    let best = best.ok_or("no peer")?;
    card.rows.push(Row {
        metric: "stream.short.over_best_peer",
        unit: "times",
        ours: rates.over(lines::OURS_EACH, best.name),
        goal: Goal::AtLeast(2.5),
        best_peer: Some(Peer { figure: 1.0, ..best.clone() }),
    });
    let pulled = rates.over(lines::OURS, best.name);
    card.notes.push(format!("short lines: {pulled:.2} times {} where each is asked for", best.name));

    let mut text = Vec::new();
    input::write(Kind::Ndjson, 4 * MIB, &mut text)?;
    let times = (bytes / (4 * MIB)).max(2) as usize;
    let read = text.len() as u64 * (times as u64 - 1);
    let rates = Rates::measure(&body::READERS, &(text.into(), times), read, rounds)?;
    card.tables.push(table("records of a body in chunks".to_owned(), &rates));
    let of_carry = |name| 100.0 * rates.over(name, body::CARRY);
    card.rows.push(Row {
        metric: "stream.body.of_carry_pct",
        unit: "%",
        ours: of_carry(body::OURS),
        goal: Goal::AtLeast(95.0),
        best_peer: Some(Peer { name: body::LINES, figure: of_carry(body::LINES) }),
    });
    card.rows.push(Row {
        metric: "stream.body.over_lines",
        unit: "times",
        ours: rates.over(body::OURS, body::LINES),
        goal: Goal::AtLeast(2.0),
        best_peer: Some(Peer { name: body::LINES, figure: 1.0 }),
    });

    let path = input::file(&folder, Kind::Ndjson, bytes)?;
    let size = path.metadata()?.len();
    let mut lowest = f64::INFINITY;
    for chunk in [128 << 10, 1 << 20] {
        let rates = Rates::measure(&parallel::READERS, &(path.clone(), chunk), size, rounds)?;
        card.tables.push(table(format!("SHA-256 of chunks of {} KiB, by two threads", chunk >> 10), &rates));
        lowest = lowest.min(rates.over(parallel::OURS, parallel::RAYON));
    }
    card.rows.push(Row {
        metric: "stream.parallel.over_rayon",
        unit: "times",
        ours: lowest,
        goal: Goal::AtLeast(1.0),
        best_peer: Some(Peer { name: parallel::RAYON, figure: 1.0 }),
    });

    let memory = memory(&folder, options, &mut card)?;
    card.rows.push(memory);
    Ok(card)
}

fn of_file(folder: &Path, kind: Kind, bytes: u64, rounds: usize, card: &mut Card) -> Result<Rates, Box<dyn Error>> {
    let path = input::file(folder, kind, bytes)?;
    let size = path.metadata()?.len();
    let rates = Rates::measure(&lines::READERS, &*path, size, rounds)?;
    card.tables.push(table(format!("records of the input `{}`", kind.name()), &rates));
    Ok(rates)
}

fn table(title: String, rates: &Rates) -> Table {
    let rows = rates.medians().into_iter().map(|(name, rate)| (name.to_owned(), vec![format!("{rate:.2}")])).collect();
    Table { title, columns: vec!["GB/s"], rows }
}

/// The most that a reader of any of the inputs took above its formula.
fn memory(folder: &Path, options: Options, card: &mut Card) -> Result<Row, Box<dyn Error>> {
    const WORKER: &str = "stream_memory";
    let programs = build("release", &[WORKER])?;
    let program = programs.get(WORKER).ok_or("cargo built no worker")?;
    let folder = folder.to_str().ok_or("the folder of the inputs has no name in UTF-8")?;
    let mut answer = ask(program, &[folder, if options.quick { "1" } else { "10" }])?;
    let over = answer.get("over_formula_bytes").and_then(Value::as_f64).ok_or("the worker did not tell")?;
    if let Some(Value::Array(hostile)) = answer.as_object_mut().and_then(|answer| answer.remove("hostile")) {
        let figure = |case: &Value, key: &str| case.get(key).map_or_else(|| "-".to_owned(), Value::to_string);
        let name = |case: &Value| {
            let word = |key: &str| case.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
            format!("{}, {}, chunk {}", word("input"), word("mode"), figure(case, "chunk"))
        };
        let columns = vec!["longest record", "peak heap, bytes", "seconds"];
        let keys = ["max_record", "peak", "seconds"];
        card.tables.push(Table {
            title: "hostile inputs in bounded memory".to_owned(),
            columns,
            rows: hostile.iter().map(|case| (name(case), keys.map(|key| figure(case, key)).to_vec())).collect(),
        });
    }
    let total = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or(0);
    card.notes.push(format!("the peaks are over {} records, {} bytes", total("records"), total("bytes")));
    Ok(Row {
        metric: "stream.peak.over_formula_bytes",
        unit: "bytes",
        ours: over,
        goal: Goal::AtMost(0.0),
        best_peer: None,
    })
}
