//! Caches: the same requests put to this crate's and to the peers.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use plimsoll::cache::{Cache, Eviction};

use crate::Random;
use crate::heap::speed::{Work, alone, together};

/// What all of them can do with numbers.
pub trait Store: Clone + Send + Sync {
    /// A cache of so many entries; with a time to live of an hour, if it has such a thing.
    fn new(entries: usize, ttl: bool) -> Self;
    /// Asks for a key.
    fn get(&self, key: u64) -> Option<u64>;
    /// Puts a key in.
    fn insert(&self, key: u64, value: u64);
    /// Asks for a key, and puts it in if it is not there, as the cache itself would.
    fn load(&self, key: u64) -> u64 {
        self.get(key).unwrap_or_else(|| {
            self.insert(key, key);
            key
        })
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// This crate's, with its default policy.
#[derive(Clone)]
pub struct Ours(Cache<u64, u64>);

fn ours(entries: usize, ttl: bool, eviction: Eviction) -> Cache<u64, u64> {
    let builder = Cache::builder("scorecard").max_entries(entries).eviction(eviction);
    let built = if ttl { builder.time_to_live(HOUR).build() } else { builder.build() };
    built.unwrap_or_else(|error| unreachable!("{error}"))
}

impl Store for Ours {
    fn new(entries: usize, ttl: bool) -> Self {
        Self(ours(entries, ttl, Eviction::S3Fifo))
    }
    fn get(&self, key: u64) -> Option<u64> {
        self.0.get(&key)
    }
    fn insert(&self, key: u64, value: u64) {
        drop(self.0.insert(key, value));
    }
    fn load(&self, key: u64) -> u64 {
        self.0.try_get_or_load(&key, |_| Ok::<_, ()>(key)).unwrap_or(0)
    }
}

/// This crate's, least recently used.
#[derive(Clone)]
pub struct OursLru(Cache<u64, u64>);

impl Store for OursLru {
    fn new(entries: usize, ttl: bool) -> Self {
        Self(ours(entries, ttl, Eviction::Lru))
    }
    fn get(&self, key: u64) -> Option<u64> {
        self.0.get(&key)
    }
    fn insert(&self, key: u64, value: u64) {
        drop(self.0.insert(key, value));
    }
}

/// `lru` under a lock, as one would write it.
#[derive(Clone)]
pub struct LruMutex(Arc<Mutex<lru::LruCache<u64, u64>>>);

impl Store for LruMutex {
    fn new(entries: usize, _ttl: bool) -> Self {
        let entries = std::num::NonZeroUsize::new(entries).unwrap_or(std::num::NonZeroUsize::MIN);
        Self(Arc::new(Mutex::new(lru::LruCache::new(entries))))
    }
    fn get(&self, key: u64) -> Option<u64> {
        self.0.lock().get(&key).copied()
    }
    fn insert(&self, key: u64, value: u64) {
        self.0.lock().put(key, value);
    }
}

/// `quick_cache`, which knows no time to live.
#[derive(Clone)]
pub struct Quick(Arc<quick_cache::sync::Cache<u64, u64>>);

impl Store for Quick {
    fn new(entries: usize, _ttl: bool) -> Self {
        Self(Arc::new(quick_cache::sync::Cache::new(entries)))
    }
    fn get(&self, key: u64) -> Option<u64> {
        self.0.get(&key)
    }
    fn insert(&self, key: u64, value: u64) {
        self.0.insert(key, value);
    }
    fn load(&self, key: u64) -> u64 {
        self.0.get_or_insert_with(&key, || Ok::<_, ()>(key)).unwrap_or(0)
    }
}

/// `moka`.
#[derive(Clone)]
pub struct Moka(moka::sync::Cache<u64, u64>);

impl Store for Moka {
    fn new(entries: usize, ttl: bool) -> Self {
        let builder = moka::sync::Cache::builder().max_capacity(entries as u64);
        Self(if ttl { builder.time_to_live(HOUR).build() } else { builder.build() })
    }
    fn get(&self, key: u64) -> Option<u64> {
        self.0.get(&key)
    }
    fn insert(&self, key: u64, value: u64) {
        self.0.insert(key, value);
    }
    fn load(&self, key: u64) -> u64 {
        self.0.get_with(key, || key)
    }
}

/// `mini-moka`.
#[derive(Clone)]
pub struct MiniMoka(mini_moka::sync::Cache<u64, u64>);

impl Store for MiniMoka {
    fn new(entries: usize, ttl: bool) -> Self {
        let builder = mini_moka::sync::Cache::builder().max_capacity(entries as u64);
        Self(if ttl { builder.time_to_live(HOUR).build() } else { builder.build() })
    }
    fn get(&self, key: u64) -> Option<u64> {
        self.0.get(&key)
    }
    fn insert(&self, key: u64, value: u64) {
        self.0.insert(key, value);
    }
}

/// `cached`, sharded and least recently used; with a time to live it is another type.
#[derive(Clone)]
pub enum Cached {
    /// Nothing expires.
    Timeless(cached::ShardedLruCache<u64, u64>),
    /// Entries expire.
    Timed(cached::ShardedLruTtlCache<u64, u64>),
}

impl Store for Cached {
    fn new(entries: usize, ttl: bool) -> Self {
        if ttl {
            let built = cached::ShardedLruTtlCache::builder().max_size(entries).ttl(HOUR).build();
            Self::Timed(built.unwrap_or_else(|error| unreachable!("{error}")))
        } else {
            let built = cached::ShardedLruCache::builder().max_size(entries).build();
            Self::Timeless(built.unwrap_or_else(|error| unreachable!("{error}")))
        }
    }
    fn get(&self, key: u64) -> Option<u64> {
        match self {
            Self::Timeless(cache) => cache.get(&key),
            Self::Timed(cache) => cache.get(&key),
        }
    }
    fn insert(&self, key: u64, value: u64) {
        match self {
            Self::Timeless(cache) => _ = black_box(cache.set(key, value)),
            Self::Timed(cache) => _ = black_box(cache.set(key, value)),
        }
    }
}

/// Nanoseconds per operation, of one kind of work.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// A lone thread.
    pub alone: f64,
    /// Two threads at once.
    pub together: f64,
}

/// Hits on `resident` entries at random.
pub fn hits<C: Store>(resident: u64, ttl: bool, chunks: u32) -> Times {
    let cache = C::new(resident as usize * 5 / 4, ttl);
    (0..resident).for_each(|key| cache.insert(key, key));
    let work = |seed| Hits(cache.clone(), Random::new(seed), resident);
    Times { alone: alone(chunks, work(0)), together: together(chunks, work) }
}

struct Hits<C>(C, Random, u64);

impl<C: Store> Work for Hits<C> {
    const OPERATIONS: u32 = 20_000;

    fn chunk(&mut self) {
        for _ in 0..Self::OPERATIONS {
            black_box(self.0.get((self.1.bits() >> 20) % self.2));
        }
    }
}

/// Keys as often as Zipf says, exponent 0.99, out of a million.
pub fn zipf(seed: u64, count: usize) -> Vec<u64> {
    let mut sums = Vec::with_capacity(1_000_000);
    let mut sum = 0.0;
    for rank in 1..=1_000_000_u32 {
        sum += f64::from(rank).powf(-0.99);
        sums.push(sum);
    }
    let mut random = Random::new(seed);
    let mut key = || {
        let at = (random.bits() >> 11) as f64 / (1_u64 << 53) as f64 * sum;
        // Spread, so that keys asked for often are no neighbours.
        (sums.partition_point(|&sum| sum < at) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    (0..count).map(|_| key()).collect()
}

/// Loads by `keys`, of which each thread begins elsewhere, in a cache of 100,000.
pub fn loads<C: Store>(keys: &[u64], chunks: u32) -> Times {
    let cache = C::new(100_000, false);
    for &key in keys {
        black_box(cache.load(key));
    }
    let work = |seed| Loads(cache.clone(), keys, seed as usize * keys.len() / 2);
    Times { alone: alone(chunks, work(0)), together: together(chunks, work) }
}

struct Loads<'a, C>(C, &'a [u64], usize);

impl<C: Store> Work for Loads<'_, C> {
    const OPERATIONS: u32 = 20_000;

    fn chunk(&mut self) {
        for _ in 0..Self::OPERATIONS {
            self.2 = if self.2 + 1 < self.1.len() { self.2 + 1 } else { 0 };
            if let Some(&key) = self.1.get(self.2) {
                black_box(self.0.load(key));
            }
        }
    }
}

/// Hits among `requests`, each put in where it is missed.
pub fn replay<C: Store>(entries: usize, requests: &[u32]) -> f64 {
    let cache = C::new(entries, false);
    let hits = requests.iter().filter(|&&key| {
        let hit = cache.get(key.into()).is_some();
        if !hit {
            cache.insert(key.into(), 0);
        }
        hit
    });
    hits.count() as f64 / requests.len() as f64
}
