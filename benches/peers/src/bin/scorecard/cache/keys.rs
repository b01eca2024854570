//! Hashes that spread badly, and an insert that finds all entries read.

use std::hash::{BuildHasher, Hasher};
use std::hint::black_box;
use std::time::Instant;

use plimsoll::Cache;

use crate::Options;
use crate::row::{Goal, Row};

/// Measures both.
pub(super) fn measure(options: Options) -> Vec<Row> {
    let rounds = if options.quick { 5 } else { 15 };
    let row = |metric, unit, ours, goal| Row { metric, unit, ours, goal, best_peer: None };
    let [low, high, same] = read_times(rounds);
    vec![
        row("cache.identity_hasher.high_bits.over_low_bits", "times", high / low, Goal::AtMost(3.0)),
        row("cache.identity_hasher.high_bits.control", "times", same / low, Goal::Above(3.0)),
        row("cache.insert_after_reads.us", "us", insert_after_reads(rounds), Goal::AtMost(100.0)),
    ]
}

/// Hashes a number to itself.
#[derive(Clone)]
struct Identity {
    hash: u64,
    mask: u64,
}

impl BuildHasher for Identity {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        self.clone()
    }
}

impl Hasher for Identity {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(self.hash << 8 | u64::from(byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.hash = number & self.mask;
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

/// Returns the ns of a read by an identity hasher, of keys that differ in their low bits and in their highest 16. The
/// last figure is a control: 16 hashes for all keys.
fn read_times(rounds: u32) -> [f64; 3] {
    const KEYS: u64 = 20_000;
    let kinds = [(u64::MAX, 0), (u64::MAX, 48), (15, 0)];
    let caches = kinds.map(|(mask, shift)| {
        let hasher = Identity { hash: 0, mask };
        let built = Cache::builder("identity").max_entries(2 * KEYS as usize).hash_builder(hasher).build();
        let cache = built.unwrap_or_else(|error| unreachable!("{error}"));
        (0..KEYS).for_each(|key| drop(cache.insert(key << shift, key)));
        (cache, shift)
    });
    let mut best = [f64::INFINITY; 3];
    for _ in 0..rounds {
        for ((cache, shift), best) in caches.iter().zip(&mut best) {
            // Every 20th key: the control is slow.
            let keys = (0..KEYS).step_by(20);
            let start = Instant::now();
            keys.clone().for_each(|key| _ = black_box(cache.get(&(key << shift))));
            *best = best.min(start.elapsed().as_nanos() as f64 / keys.count() as f64);
        }
    }
    best
}

/// Returns the time of one insert into a full cache whose entries have all been read three times, in us: the least of all
/// rounds, since other processes only add to it.
fn insert_after_reads(rounds: u32) -> f64 {
    const ENTRIES: u64 = 200_000;
    let built = Cache::builder("read").max_entries(ENTRIES as usize).build();
    let cache: Cache<u64, u64> = built.unwrap_or_else(|error| unreachable!("{error}"));
    // One more than it holds.
    (0..=ENTRIES).for_each(|key| drop(cache.insert(key, key)));
    let round = |round| {
        for _ in 0..3 {
            (0..2 * ENTRIES).for_each(|key| _ = black_box(cache.get(&key)));
        }
        let start = Instant::now();
        drop(cache.insert(10 * ENTRIES + u64::from(round), 0));
        start.elapsed().as_nanos() as f64 / 1_000.0
    };
    (0..rounds).map(round).fold(f64::INFINITY, f64::min)
}
