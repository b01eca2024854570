//! Hit ratios: on request traces, on a loop, and after one large value.
//!
//! The environment variable `PLIMSOLL_TRACES` names the folder of the traces
//! ([`traces`](plimsoll_peers::traces) describes the files). Without it, the rows of traces are skipped.

use std::error::Error;
use std::path::Path;

use plimsoll::cache::Eviction;
use plimsoll::{ByteSize, Cache};
use plimsoll_peers::cache::{Moka, Ours, OursLru, Quick, replay};
use plimsoll_peers::traces::{self, Trace};

use crate::row::{Card, Goal, Peer, Row};

/// Measures all of it.
pub(super) fn measure(card: &mut Card) -> Result<(), Box<dyn Error>> {
    let row = |metric, ours, goal| Row { metric, unit: "%", ours, goal, best_peer: None };
    match std::env::var_os("PLIMSOLL_TRACES") {
        Some(folder) => measure_traces(Path::new(&folder), card)?,
        None => {
            card.notes.push("PLIMSOLL_TRACES names no folder: the hit ratios on traces are not measured".to_owned())
        }
    }
    let requests: Vec<u32> = (0..40).flat_map(|_| 0..LOOP).collect();
    let capacity = LOOP as usize / 5;
    let peers = [
        Peer { name: "quick_cache", figure: 100.0 * replay::<Quick>(capacity, &requests) },
        Peer { name: "moka", figure: 100.0 * replay::<Moka>(capacity, &requests) },
    ];
    card.rows.extend([
        Row {
            best_peer: Peer::most(peers),
            ..row("cache.hit_ratio.loop20", 100.0 * replay::<Ours>(capacity, &requests), Goal::AtLeast(17.0))
        },
        row("cache.hit_ratio.loop20.control", 100.0 * replay::<OursLru>(capacity, &requests), Goal::Below(17.0)),
        row("cache.hot_survivors_pct", hot_survivors(Eviction::S3Fifo), Goal::AtLeast(95.0)),
        row("cache.hot_survivors_pct.control", hot_survivors(Eviction::Lru), Goal::Below(95.0)),
    ]);
    Ok(())
}

/// The keys of the loop.
const LOOP: u32 = 1_011;

fn measure_traces(folder: &Path, card: &mut Card) -> Result<(), Box<dyn Error>> {
    let (mut unsized_ratios, mut sized) = (Vec::new(), Vec::new());
    for trace in traces::read_all(folder, |_| true)? {
        match &trace.sizes {
            None => {
                let ratio = |percent: usize| replay::<Ours>((trace.objects * percent / 100).max(1), &trace.requests);
                unsized_ratios.extend([1, 5, 20].map(ratio));
            }
            Some(sizes) => sized.push(replay_sized(&trace, sizes, 20)?),
        }
    }
    let mean = |ratios: &mut dyn ExactSizeIterator<Item = f64>| {
        let count = ratios.len() as f64;
        100.0 * ratios.sum::<f64>() / count
    };
    let row = |metric, ours, goal| Row { metric, unit: "%", ours, goal, best_peer: None };
    card.rows.extend([
        row("cache.hit_ratio.shared5", mean(&mut unsized_ratios.into_iter()), Goal::AtLeast(54.0)),
        row("cache.hit_ratio.sized20", mean(&mut sized.iter().map(|ratios| ratios[0])), Goal::AtLeast(36.5)),
        row("cache.byte_hit_ratio.sized20", mean(&mut sized.iter().map(|ratios| ratios[1])), Goal::Reported),
    ]);
    Ok(())
}

/// Returns the share of hits among the requests and among their bytes, in a cache of `percent` of the bytes of all objects.
fn replay_sized(trace: &Trace, sizes: &[u32], percent: u64) -> Result<[f64; 2], Box<dyn Error>> {
    let all: u64 = sizes.iter().map(|&size| u64::from(size)).sum();
    let cache = Cache::<u64, u32>::builder("sized")
        .max_bytes_weighed(ByteSize::bytes(all * percent / 100), |_, size: &u32| *size as usize)
        .build()?;
    let (mut hits, mut hit_bytes, mut bytes) = (0_u64, 0_u64, 0_u64);
    for &object in &trace.requests {
        let size = sizes.get(object as usize).copied().unwrap_or(0);
        bytes += u64::from(size);
        if cache.get(&object.into()).is_some() {
            hits += 1;
            hit_bytes += u64::from(size);
        } else {
            // A large value may be rejected, as it would be by a service.
            drop(cache.insert(object.into(), size));
        }
    }
    Ok([hits as f64 / trace.requests.len() as f64, hit_bytes as f64 / bytes as f64])
}

/// Returns the percentage of 7,000 entries of 1 KB, each read three times, that are left after the insert of one of 8 MB.
fn hot_survivors(eviction: Eviction) -> f64 {
    const HOT: u64 = 7_000;
    let built = Cache::builder("hot").max_bytes(ByteSize::mib(8)).eviction(eviction).build();
    let cache = built.unwrap_or_else(|error| unreachable!("{error}"));
    (0..HOT).for_each(|key| drop(cache.insert(key, vec![0_u8; 1_000])));
    for _ in 0..3 {
        (0..HOT).for_each(|key| drop(cache.get(&key)));
    }
    drop(cache.insert(u64::MAX, vec![0; 8_000_000]));
    let left = (0..HOT).filter(|key| cache.contains_key(key)).count();
    100.0 * left as f64 / HOT as f64
}
