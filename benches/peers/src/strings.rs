//! Caches of strings: hits on keys of 24 bytes with shared values of 256, as services have them.

use std::hint::black_box;
use std::sync::Arc;

use plimsoll::cache::Cache;

use crate::Random;
use crate::cache::Times;
use crate::heap::speed::{Work, alone, together};

/// A shared value.
type Value = Arc<[u8]>;

/// A cache of strings.
pub trait StringStore: Clone + Send + Sync {
    /// Creates a cache of `entries`.
    fn new(entries: usize) -> Self;
    /// Looks a key up.
    fn get(&self, key: &str) -> Option<Value>;
    /// Inserts a value.
    fn insert(&self, key: String, value: Value);
}

impl StringStore for Cache<String, Value> {
    fn new(entries: usize) -> Self {
        Cache::builder("strings").max_entries(entries).build().unwrap_or_else(|error| unreachable!("{error}"))
    }
    fn get(&self, key: &str) -> Option<Value> {
        Self::get(self, key)
    }
    fn insert(&self, key: String, value: Value) {
        drop(Self::insert(self, key, value));
    }
}

/// `quick_cache`.
#[derive(Clone)]
pub struct QuickStrings(Arc<quick_cache::sync::Cache<String, Value>>);

impl StringStore for QuickStrings {
    fn new(entries: usize) -> Self {
        Self(Arc::new(quick_cache::sync::Cache::new(entries)))
    }
    fn get(&self, key: &str) -> Option<Value> {
        self.0.get(key)
    }
    fn insert(&self, key: String, value: Value) {
        self.0.insert(key, value);
    }
}

/// Measures hits on `resident` entries at random.
pub fn hits<C: StringStore>(resident: usize, chunks: u32) -> Times {
    let cache = C::new(resident * 5 / 4);
    let keys: Vec<String> = (0..resident).map(|number| format!("key of an entry {number:08}")).collect();
    keys.iter().for_each(|key| cache.insert(key.clone(), vec![0; 256].into()));
    let work = |seed| Hits(cache.clone(), Random::new(seed), &keys);
    Times { alone: alone(chunks, work(0)), together: together(chunks, work) }
}

struct Hits<'a, C>(C, Random, &'a [String]);

impl<C: StringStore> Work for Hits<'_, C> {
    const OPERATIONS: u32 = 4_000;

    fn chunk(&mut self) {
        for _ in 0..Self::OPERATIONS {
            let at = (self.1.bits() >> 20) as usize % self.2.len();
            if let Some(key) = self.2.get(at) {
                black_box(self.0.get(key));
            }
        }
    }
}
