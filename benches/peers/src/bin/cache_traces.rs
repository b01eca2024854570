//! Replays request traces and prints hit ratios: this crate's policies, the peers, and Belady's optimum.
//!
//! `cargo run --release --bin cache_traces -- <folder>` reads the files that [`traces`](plimsoll_peers::traces) describes. Traces without sizes are replayed, at 1, 5 and 20 % of their objects.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use plimsoll_peers::cache::{LruMutex, MiniMoka, Moka, Ours, OursLru, Quick, replay};
use plimsoll_peers::traces::{self, Trace};

type Replay = fn(usize, &[u32]) -> f64;

const KINDS: [(&str, Replay); 7] = [
    ("plimsoll", replay::<Ours>),
    ("plimsoll lru", replay::<OursLru>),
    ("lru", replay::<LruMutex>),
    ("quick_cache", replay::<Quick>),
    ("moka", replay::<Moka>),
    ("mini-moka", replay::<MiniMoka>),
    ("belady", belady),
];

const PERCENT: [usize; 3] = [1, 5, 20];

fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: cache_traces <folder of *.ctr.zst>");
        return ExitCode::from(2);
    };
    match replay_all(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cache_traces: {error}");
            ExitCode::FAILURE
        }
    }
}

fn replay_all(folder: &Path) -> Result<(), Box<dyn Error>> {
    let (mut sums, mut count, mut worst) = ([0.0; KINDS.len()], 0_u32, f64::INFINITY);
    for Trace { name, objects, requests, .. } in traces::read_all(folder, |sized| !sized)? {
        for percent in PERCENT {
            let entries = (objects * percent / 100).max(1);
            let ratios = KINDS.map(|(_, replay)| replay(entries, &requests));
            let texts: Vec<String> =
                KINDS.iter().zip(&ratios).map(|((name, _), ratio)| format!("{name} {ratio:.3}")).collect();
            println!("{name:<28} {percent:>3} %  {}", texts.join("  "));
            sums.iter_mut().zip(ratios).for_each(|(sum, ratio)| *sum += ratio);
            count += 1;
            let [ours, _, lru, ..] = ratios;
            worst = worst.min(ours - lru);
        }
    }
    let means: Vec<String> =
        KINDS.iter().zip(sums).map(|((name, _), sum)| format!("{name} {:.4}", sum / f64::from(count))).collect();
    println!("mean of {count}: {}\nworst of plimsoll beside lru: {worst:+.4}", means.join("  "));
    Ok(())
}

/// What one could do who knew the future: the object next asked for the latest goes.
fn belady(entries: usize, requests: &[u32]) -> f64 {
    let mut next = vec![usize::MAX; requests.len()];
    let mut seen = std::collections::HashMap::new();
    for (at, (&object, next)) in requests.iter().zip(&mut next).enumerate().rev() {
        // Unlike for each that never comes again.
        *next = seen.insert(object, at).unwrap_or(usize::MAX - at);
    }
    // By the time of the next request.
    let mut cached: BTreeMap<usize, u32> = BTreeMap::new();
    let mut hits = 0_u32;
    for (at, (&object, &next)) in requests.iter().zip(&next).enumerate() {
        if cached.remove(&at).is_some() {
            hits += 1;
        } else if cached.len() == entries {
            cached.pop_last();
        }
        cached.insert(next, object);
    }
    f64::from(hits) / requests.len() as f64
}
