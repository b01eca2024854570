//! Area `cache`: hits, loads and bytes per entry, next to the peers in one process, interleaved in rounds.
//!
//! Ratios are of medians over the rounds, each of which gives a cache its quickest chunk.

mod hit_ratio;
mod keys;
mod loads;
mod refresh;
mod relief;
mod shards;

use std::error::Error;

use plimsoll::{ByteSize, TrackingAllocator, heap};
use plimsoll_peers::cache::{Cached, LruMutex, MiniMoka, Moka, Ours, OursLru, Quick, Store, Times, hits, loads, zipf};
use plimsoll_peers::median;

use crate::Options;
use crate::row::{Card, Goal, Peer, Row, Table};
use crate::support::caches::{evict_to, remove_expired};

/// Counts the bytes of all caches, also those of the peers.
#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// The work on each cache: hits on 1,000 and on 100,000 entries with a time to live, loads by a Zipf distribution.
type Measure = fn(&[u64], u32) -> [Times; 3];

fn measure_one<C: Store>(keys: &[u64], chunks: u32) -> [Times; 3] {
    [hits::<C>(1_000, true, chunks), hits::<C>(100_000, true, chunks), loads::<C>(keys, chunks)]
}

/// A cache: its name, its times, and its bytes per entry at a number of entries.
type Kind = (&'static str, Measure, fn(u64) -> f64);

const KINDS: [Kind; 7] = [
    ("plimsoll", measure_one::<Ours>, bytes_per_entry::<Ours>),
    ("quick_cache", measure_one::<Quick>, bytes_per_entry::<Quick>),
    ("plimsoll lru", measure_one::<OursLru>, bytes_per_entry::<OursLru>),
    ("lru + mutex", measure_one::<LruMutex>, bytes_per_entry::<LruMutex>),
    ("cached", measure_one::<Cached>, bytes_per_entry::<Cached>),
    ("moka", measure_one::<Moka>, bytes_per_entry::<Moka>),
    ("mini-moka", measure_one::<MiniMoka>, bytes_per_entry::<MiniMoka>),
];

/// Returns the heap bytes per entry beyond keys and values, after five times as many `entries` were evicted.
fn bytes_per_entry<C: Store>(entries: u64) -> f64 {
    let live = || heap::stats().map_or(0, |stats| stats.live.as_u64());
    let before = live();
    let cache = C::new(entries as usize, true);
    (0..6 * entries).for_each(|key| cache.insert(key, key));
    let there = (0..6 * entries).filter(|&key| cache.get(key).is_some()).count();
    let held = live().saturating_sub(before) as f64;
    held / there.max(1) as f64 - 16.0
}

/// Measures all of it.
pub(crate) fn measure(options: Options) -> Result<Card, Box<dyn Error>> {
    let (rounds, chunks) = if options.quick { (5, 8) } else { (11, 24) };
    let keys = zipf(1, 2_000_000);
    let mut seen: Vec<Vec<[Times; 3]>> = KINDS.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for ((_, measure, _), seen) in KINDS.iter().zip(&mut seen) {
            seen.push(measure(&keys, chunks));
        }
    }
    let medians: Vec<[f64; 6]> = seen.iter().map(|rounds| medians(rounds)).collect();
    let mut card = Card::default();
    card.tables.push(Table {
        title:
            "ns per hit among 1,000 and 100,000 entries with a time to live, and per load by Zipf without one; on one \
                thread and two"
                .to_owned(),
        columns: vec!["hit 1k 1t", "hit 1k 2t", "hit 100k 1t", "hit 100k 2t", "zipf 1t", "zipf 2t"],
        rows: KINDS
            .iter()
            .zip(&medians)
            .map(|((name, ..), medians)| ((*name).to_owned(), medians.map(|ns| format!("{ns:.1}")).to_vec()))
            .collect(),
    });
    let rows = [
        ("cache.hit_hot_ttl.1t.over_quick_cache", 1.4),
        ("cache.hit_hot_ttl.2t.over_quick_cache", 1.3),
        ("cache.hit_100k_ttl.1t.over_quick_cache", 1.3),
        ("cache.hit_100k_ttl.2t.over_quick_cache", 1.3),
        ("cache.zipf_load.1t.over_quick_cache", 0.85),
        ("cache.zipf_load.2t.over_quick_cache", 0.9),
    ];
    if let [ours, quick, ..] = medians.as_slice() {
        for (((metric, goal), ours), quick) in rows.into_iter().zip(ours).zip(quick) {
            card.rows.push(Row {
                metric,
                unit: "times",
                ours: ours / quick,
                goal: Goal::AtMost(goal),
                best_peer: None,
            });
        }
    }
    let mut bytes: Vec<(String, Vec<String>)> =
        KINDS.iter().map(|(name, ..)| ((*name).to_owned(), Vec::new())).collect();
    for (metric, entries) in [("cache.bytes_per_entry.u64.100k", 100_000), ("cache.bytes_per_entry.u64.1m", 1_000_000)]
    {
        let figures: Vec<Peer> = KINDS.iter().map(|(name, _, bytes)| Peer { name, figure: bytes(entries) }).collect();
        for (row, figure) in bytes.iter_mut().zip(&figures) {
            row.1.push(format!("{:.1}", figure.figure));
        }
        let [ours, peers @ ..] = figures.as_slice() else { continue };
        let peers = peers.iter().filter(|peer| !peer.name.starts_with("plimsoll")).cloned();
        card.rows.push(Row {
            metric,
            unit: "bytes",
            ours: ours.figure,
            goal: Goal::AtMost(38.0),
            best_peer: Peer::best(peers),
        });
    }
    card.tables.push(Table {
        title: "heap bytes for an entry of two `u64`, beyond key and value".to_owned(),
        columns: vec!["100,000 entries", "1,000,000"],
        rows: bytes,
    });
    card.rows.extend(freeing());
    card.rows.extend(relief::measure(options));
    card.rows.extend(keys::measure(options));
    card.rows.extend(loads::measure(options));
    card.rows.extend(refresh::measure(options));
    card.rows.extend(shards::measure(options));
    hit_ratio::measure(&mut card)?;
    card.notes
        .push("all under this crate's tracking allocator: each peer pays for its own allocations alike".to_owned());
    card.notes.push("a time to live: plimsoll, cached, moka and mini-moka; quick_cache and lru know none".to_owned());
    Ok(card)
}

/// The medians of the six figures.
fn medians(rounds: &[[Times; 3]]) -> [f64; 6] {
    let median = |figure: &dyn Fn(&[Times; 3]) -> f64| median(rounds.iter().map(figure));
    [
        median(&|times| times[0].alone),
        median(&|times| times[0].together),
        median(&|times| times[1].alone),
        median(&|times| times[1].together),
        median(&|times| times[2].alone),
        median(&|times| times[2].together),
    ]
}

/// Returns the time to free 50 MB, per entry of 50,000: entries that have expired, and entries that are evicted.
fn freeing() -> [Row; 2] {
    let manual = plimsoll::ManualClock::new();
    let ttl = std::time::Duration::from_secs(60);
    let built =
        plimsoll::Cache::builder("sweep").max_bytes(ByteSize::mib(100)).time_to_live(ttl).clock(manual.clock()).build();
    let (mut expired, mut shrunk) = (Vec::new(), Vec::new());
    if let Ok(cache) = built {
        let fill = || (0..50_000_u64).for_each(|key| drop(cache.insert(key, vec![0_u8; 1_000])));
        let each = |start: std::time::Instant| start.elapsed().as_nanos() as f64 / 50_000.0;
        for _ in 0..7 {
            fill();
            manual.advance(2 * ttl);
            let start = std::time::Instant::now();
            let removed = remove_expired(&cache, usize::MAX);
            expired.push(if removed == 50_000 { each(start) } else { f64::NAN });
            fill();
            let start = std::time::Instant::now();
            let before = cache.stats().bytes;
            evict_to(&cache, ByteSize::ZERO);
            shrunk.push(if before > ByteSize::mib(47) && cache.is_empty() { each(start) } else { f64::NAN });
        }
    }
    let row = |metric, rounds: Vec<f64>| Row {
        metric,
        unit: "ns",
        ours: median(rounds),
        goal: Goal::AtMost(100.0),
        best_peer: None,
    };
    [row("cache.sweep.ns_per_entry", expired), row("cache.shrink.ns_per_entry", shrunk)]
}
