//! How far readers of lines go above the formula of their documentation: of files from 1 MB to some GB, sparse ones
//! included, in every mode. Prints one line of JSON.

use std::error::Error;
use std::fs::File;
use std::path::Path;

use plimsoll::stream::{LineReader, Oversize};
use plimsoll::{ByteSize, TrackingAllocator, heap};
use plimsoll_peers::stream::input::{self, Kind};
use serde_json::json;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// Settings tried: chunk and longest line, in bytes.
const SETTINGS: [(u64, u64); 2] = [(256 << 10, 1 << 20), (64 << 10, 1 << 10)];

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
    let (mut over, mut bytes, mut records) = (i64::MIN, 0, 0);
    for input in &inputs {
        for (chunk, max) in SETTINGS {
            for oversize in [Oversize::Error, Oversize::Truncate, Oversize::Skip] {
                // Opening takes some heap for the path.
                let file = File::open(input)?;
                let before = heap::stats()?.live.as_u64();
                heap::reset_peak();
                let builder = LineReader::builder(ByteSize::bytes(max)).chunk(ByteSize::bytes(chunk));
                let mut lines = builder.oversize(oversize).build(file)?;
                while !matches!(lines.next_record(), Ok(None)) {}
                let taken = heap::stats()?.peak.at_most.as_u64() - before;
                over = over.max(taken as i64 - (chunk + max + 2 + 4096) as i64);
                (bytes, records) = (bytes + lines.offset(), records + lines.stats().records);
            }
        }
    }
    std::fs::remove_file(sparse)?;
    // Below the formula is not better than at it.
    println!("{}", json!({ "over_formula_bytes": over.max(0), "exactly": over, "bytes": bytes, "records": records }));
    Ok(())
}
