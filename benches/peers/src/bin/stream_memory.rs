//! How far readers of lines go above the formula of their documentation: of files from 1 MB to some GB, sparse ones
//! included, and of hostile inputs, in every mode. Prints one line of JSON.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use plimsoll::stream::{LineReader, Oversize, RecordStats, StreamError};
use plimsoll::{ByteSize, TrackingAllocator, heap};
use plimsoll_peers::stream::input::{self, Kind};
use serde_json::{Value, json};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// Settings tried: chunk and longest line, in bytes.
const SETTINGS: [(u64, u64); 2] = [(256 << 10, 1 << 20), (64 << 10, 1 << 10)];

const MODES: [Oversize; 3] = [Oversize::Error, Oversize::Truncate, Oversize::Skip];

/// Name, the byte that it is made of, and how many of them.
const HOSTILE: [(&str, u8, u64); 2] =
    [("100 million empty lines", b'\n', 100_000_000), ("2 GiB without a line end", b'x', 2 << 30)];

/// Over all that was read.
struct Totals {
    over: i64,
    bytes: u64,
    records: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, gigabytes] = arguments.as_slice() else {
        return Err("usage: stream_memory <folder> <gigabytes of the largest>".into());
    };
    let (folder, gigabytes) = (Path::new(folder), gigabytes.parse::<u64>()?);
    let sparse = folder.join("sparse");
    File::create(&sparse)?.set_len(gigabytes * 1_000_000_000)?;
    let inputs = [
        input::file(folder, Kind::Ndjson, 1_000_000)?,
        input::file(folder, Kind::Short, 1_000_000)?,
        input::file(folder, Kind::Ndjson, 128 << 20)?,
        input::file(folder, Kind::Short, 128 << 20)?,
        sparse.clone(),
    ];
    let mut totals = Totals { over: i64::MIN, bytes: 0, records: 0 };
    for input in &inputs {
        for (setting, mode) in cases() {
            totals.read(File::open(input)?, setting, mode)?;
        }
    }
    std::fs::remove_file(sparse)?;
    let mut hostile = Vec::new();
    for (name, byte, len) in HOSTILE {
        for (setting, mode) in cases() {
            hostile.push(totals.read_hostile(name, byte, len, setting, mode)?);
        }
    }
    let Totals { over, bytes, records } = totals;
    // Below the formula is not better than at it.
    let over_formula = over.max(0);
    let answer = json!({
        "over_formula_bytes": over_formula, "exactly": over, "bytes": bytes, "records": records, "hostile": hostile,
    });
    println!("{answer}");
    Ok(())
}

fn cases() -> impl Iterator<Item = ((u64, u64), Oversize)> {
    SETTINGS.into_iter().flat_map(|setting| MODES.map(|mode| (setting, mode)))
}

impl Totals {
    /// Reads all lines; tells what came, and how much heap that took.
    fn read(
        &mut self,
        input: impl Read,
        (chunk, max): (u64, u64),
        mode: Oversize,
    ) -> Result<(RecordStats, u64), Box<dyn Error>> {
        // What is open by now, as a file's path, took some heap of its own.
        let before = heap::stats()?.live.as_u64();
        heap::reset_peak();
        let builder = LineReader::builder(ByteSize::bytes(max)).chunk(ByteSize::bytes(chunk));
        let mut lines = builder.oversize(mode).build(input)?;
        loop {
            match lines.next_record() {
                Ok(None) => break,
                Ok(Some(_)) | Err(StreamError::Oversize { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let taken = heap::stats()?.peak.at_most.as_u64() - before;
        self.over = self.over.max(taken as i64 - (chunk + max + 2 + 4096) as i64);
        self.bytes += lines.offset();
        self.records += lines.stats().records;
        Ok((lines.stats(), taken))
    }

    fn read_hostile(
        &mut self,
        name: &str,
        byte: u8,
        len: u64,
        setting: (u64, u64),
        mode: Oversize,
    ) -> Result<Value, Box<dyn Error>> {
        let start = Instant::now();
        let (stats, peak) = self.read(io::repeat(byte).take(len), setting, mode)?;
        let seconds = start.elapsed().as_secs_f64();
        let RecordStats { records, truncated, skipped, bytes_dropped, .. } = stats;
        let expected = match (byte, mode) {
            (b'\n', _) => (len, 0, 0, 0),
            (_, Oversize::Truncate) => (1, 1, 0, len - setting.1),
            _ => (0, 0, 1, len),
        };
        if (records, truncated, skipped, bytes_dropped) != expected {
            return Err(format!("{name}, {mode:?}: {stats:?}").into());
        }
        let (chunk, max_record) = setting;
        Ok(json!({
            "input": name, "mode": format!("{mode:?}"), "chunk": chunk, "max_record": max_record, "peak": peak,
            "seconds": (seconds * 1000.0).round() / 1000.0, "records": records,
        }))
    }
}
