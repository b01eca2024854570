//! Several threads: hits on strings next to `quick_cache`, and the bounds at any time.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use plimsoll::{ByteSize, Cache};
use plimsoll_peers::median;
use plimsoll_peers::strings::{QuickStrings, hits};

use crate::Options;
use crate::row::{Goal, Row};

/// Measures all.
pub(super) fn measure(options: Options) -> Vec<Row> {
    let (rounds, chunks) = if options.quick { (5, 12) } else { (15, 40) };
    let (mut ours, mut quick) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(hits::<Cache<String, Arc<[u8]>>>(100_000, chunks));
        quick.push(hits::<QuickStrings>(100_000, chunks));
    }
    let alone = median(ours.iter().map(|times| times.alone)) / median(quick.iter().map(|times| times.alone));
    let together = median(ours.iter().map(|times| times.together)) / median(quick.iter().map(|times| times.together));
    let steps = if options.quick { 20_000 } else { 200_000 };
    let row = |metric, unit, ours, goal| Row { metric, unit, ours, goal, best_peer: None };
    vec![
        row("cache.hit_str.1t.over_quick_cache", "times", alone, Goal::AtMost(1.1)),
        row("cache.hit_str.2t.over_quick_cache", "times", together, Goal::AtMost(1.2)),
        row("cache.over_bounds_entries", "entries", entries_over(MAX_ENTRIES, steps), Goal::AtMost(0.0)),
        row("cache.over_bounds_entries.control", "entries", entries_over(2 * MAX_ENTRIES, steps), Goal::Above(0.0)),
        row("cache.over_bounds_bytes", "bytes", bytes_over(MAX_BYTES, steps), Goal::AtMost(0.0)),
        row("cache.over_bounds_bytes.control", "bytes", bytes_over(2 * MAX_BYTES, steps), Goal::Above(0.0)),
        row("cache.one_shard_fill_pct", "%", one_shard_fill(), Goal::AtLeast(100.0)),
    ]
}

const THREADS: u64 = 8;
const MAX_ENTRIES: usize = 1_000;
const MAX_BYTES: u64 = 4 << 20;

/// A value that counts the values of its kind that are alive.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(alive: &Arc<AtomicUsize>) -> Arc<Self> {
        alive.fetch_add(1, Relaxed);
        Arc::new(Self(Arc::clone(alive)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Returns by how many entries a cache of `max` has exceeded [`MAX_ENTRIES`] at most, while threads insert and remove:
/// by its own figure, and by the values that are alive, of which each thread may hold 18 outside of the cache.
fn entries_over(max: usize, steps: u64) -> f64 {
    let cache =
        Cache::builder("entries").max_entries(max).shards(8).build().unwrap_or_else(|_| unreachable!("bounded"));
    let (alive, most) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let all = Arc::clone(&alive);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (cache, alive, most) = (&cache, &alive, &most);
            scope.spawn(move || {
                for step in 0..steps {
                    let key = (step * 7 + thread * 131) % 4_000;
                    match step % 8 {
                        0 => drop(cache.remove(&key)),
                        _ => drop(cache.insert(key, Counted::new(alive))),
                    }
                    let outside = THREADS as usize * 18;
                    let seen = cache.len().max(alive.load(Relaxed).saturating_sub(outside));
                    most.fetch_max(seen, Relaxed);
                }
            });
        }
    });
    drop((cache, all));
    most.into_inner().saturating_sub(MAX_ENTRIES) as f64
}

/// As [`entries_over`], in bytes by the cache's own figure.
fn bytes_over(max: u64, steps: u64) -> f64 {
    let built = Cache::builder("bytes").max_bytes(ByteSize::bytes(max)).shards(8).build();
    let cache = built.unwrap_or_else(|_| unreachable!("bounded"));
    let (most, is_done) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let cache = &cache;
                scope.spawn(move || {
                    for step in 0..steps {
                        let key = (step * 7 + thread * 131) % 12_000;
                        let len = if step % 5_000 == 0 { 1_500_000 } else { 100 + key % 1_500 };
                        drop(cache.insert(key, vec![0_u8; len as usize]));
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !is_done.load(Relaxed) {
                most.fetch_max(cache.stats().bytes.as_u64() as usize, Relaxed);
            }
        });
        writers.into_iter().for_each(|writer| drop(writer.join()));
        is_done.store(true, Relaxed);
    });
    most.into_inner().saturating_sub(MAX_BYTES as usize) as f64
}

/// Hashes a number to itself.
#[derive(Clone, Default)]
struct Identity(u64);

impl BuildHasher for Identity {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for Identity {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0 << 8 | u64::from(byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Returns the share of the bound, in percent, that keys of one of eight shards fill.
fn one_shard_fill() -> f64 {
    let builder = Cache::builder("skewed").max_entries(MAX_ENTRIES).shards(8).hash_builder(Identity::default());
    let cache = builder.build().unwrap_or_else(|_| unreachable!("bounded"));
    // The shard of a key is in the low bits of this folded product.
    let shard = |key: u64| {
        let product = u128::from(key) * 0x9E37_79B9_7F4A_7C15;
        ((product >> 64) ^ product) & 7
    };
    let keys = (0..).filter(|&key| shard(key) == 3).take(10 * MAX_ENTRIES);
    keys.for_each(|key| drop(cache.insert(key, key)));
    cache.len() as f64 * 100.0 / MAX_ENTRIES as f64
}
