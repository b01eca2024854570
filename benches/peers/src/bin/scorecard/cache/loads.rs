//! Loads next to writes, cancelled calls and panics: values that a write made stale, and loads of one key at a time.

#[path = "../../../../../../tests/support/executor.rs"]
mod executor;
#[path = "../../../../../../tests/support/load_stress.rs"]
mod load_stress;
#[path = "../../../../../../tests/support/random.rs"]
pub(super) mod random;

use std::collections::HashMap;
use std::future::Future;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use futures::executor::block_on;
use parking_lot::Mutex;
use plimsoll::{ByteSize, Cache};

use crate::Options;
use crate::row::{Goal, Row};
use crate::support::caches::evict_to;
use load_stress::{Down, Loads};
use random::Random;

/// Measures both.
pub(super) fn measure(options: Options) -> Vec<Row> {
    let writes = if options.full { 4_000_000 } else { 400_000 };
    // On four threads.
    let calls = match options {
        Options { full: true, .. } => 2_000_000 / 4,
        Options { quick: true, .. } => 200_000 / 4,
        Options { .. } => 800_000 / 4,
    };
    let row = |metric, unit, ours, goal| Row { metric, unit, ours, goal, best_peer: None };
    vec![
        row("cache.stale_after_write", "reads", stale_reads(&ours("stale"), writes), Goal::AtMost(0.0)),
        row("cache.stale_after_write.control", "reads", stale_reads(&Unshared::default(), writes), Goal::Above(0.0)),
        row("cache.double_loads", "loads", double_loads(&Shared(ours("double")), calls), Goal::AtMost(0.0)),
        row("cache.double_loads.control", "loads", double_loads(&Unshared::default(), calls), Goal::Above(0.0)),
    ]
}

fn ours(name: &'static str) -> Cache<u8, u64> {
    Cache::builder(name).max_entries(100).build().unwrap_or_else(|error| unreachable!("{error}"))
}

/// A cache between readers and a database.
trait ReadThrough: Sync {
    /// Returns the value of `key`, by `read` if the cache has none.
    fn get_or_read(&self, key: u8, read: impl FnOnce() -> u64) -> u64;

    /// As `get_or_read`, by a future.
    fn get_or_read_async(&self, key: u8, read: impl FnOnce() -> u64 + Send + 'static) -> u64;

    /// Replaces the value of `key` after a write to the database.
    fn insert(&self, key: u8, value: u64);

    /// Removes the value of `key` after a write to the database.
    fn remove(&self, key: u8);
}

impl ReadThrough for Cache<u8, u64> {
    fn get_or_read(&self, key: u8, read: impl FnOnce() -> u64) -> u64 {
        self.try_get_or_load(&key, |_| Ok::<_, Down>(read())).unwrap_or(u64::MAX)
    }

    fn get_or_read_async(&self, key: u8, read: impl FnOnce() -> u64 + Send + 'static) -> u64 {
        block_on(self.try_get_or_load_async(&key, |_| async { Ok::<_, Down>(read()) })).unwrap_or(u64::MAX)
    }

    fn insert(&self, key: u8, value: u64) {
        drop(Cache::insert(self, key, value));
    }

    fn remove(&self, key: u8) {
        Cache::remove(self, &key);
    }
}

/// Control: a cache that is asked, and filled after a load, in two steps. A write cancels no load.
#[derive(Clone, Default)]
struct Unshared(Arc<Mutex<HashMap<u8, u64>>>);

impl Unshared {
    fn get(&self, key: u8) -> Option<u64> {
        self.0.lock().get(&key).copied()
    }
}

impl ReadThrough for Unshared {
    fn get_or_read(&self, key: u8, read: impl FnOnce() -> u64) -> u64 {
        self.get(key).unwrap_or_else(|| {
            let value = read();
            self.insert(key, value);
            value
        })
    }

    fn get_or_read_async(&self, key: u8, read: impl FnOnce() -> u64 + Send + 'static) -> u64 {
        self.get_or_read(key, read)
    }

    fn insert(&self, key: u8, value: u64) {
        self.0.lock().insert(key, value);
    }

    fn remove(&self, key: u8) {
        self.0.lock().remove(&key);
    }
}

const KEYS: usize = 4;

/// Versions of the values.
type Versions = Arc<[AtomicU64; KEYS]>;

fn version(versions: &Versions, key: u8) -> &AtomicU64 {
    versions.get(usize::from(key)).unwrap_or_else(|| unreachable!("key {key}"))
}

/// Returns the number of reads that return a value older than a write that had returned before.
fn stale_reads<C: ReadThrough>(cache: &C, writes: u64) -> f64 {
    let (database, written) = (Versions::default(), Versions::default());
    let (stale, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for is_async in [false, true] {
            let (database, written, stale, done) = (&database, &written, &stale, &done);
            scope.spawn(move || {
                let mut random = Random::new(1 + u64::from(is_async));
                while !done.load(Ordering::Relaxed) {
                    let key = random_key(&mut random);
                    let yields = random.below(3);
                    let database = Arc::clone(database);
                    let read = move || {
                        let value = version(&database, key).load(Ordering::SeqCst);
                        (0..yields).for_each(|_| thread::yield_now());
                        value
                    };
                    let oldest = version(written, key).load(Ordering::SeqCst);
                    let value =
                        if is_async { cache.get_or_read_async(key, read) } else { cache.get_or_read(key, read) };
                    if value < oldest {
                        stale.fetch_add(1, Ordering::Relaxed);
                    }
                    // With fewer processors than threads the writer would wait.
                    thread::yield_now();
                }
            });
        }
        let mut random = Random::new(3);
        for _ in 0..writes {
            let key = random_key(&mut random);
            let value = version(&database, key).fetch_add(1, Ordering::SeqCst) + 1;
            if random.one_in(2) {
                cache.insert(key, value);
            } else {
                cache.remove(key);
            }
            version(&written, key).store(value, Ordering::SeqCst);
            if random.one_in(2) {
                thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    stale.into_inner() as f64
}

fn random_key(random: &mut Random) -> u8 {
    u8::try_from(random.below(KEYS)).unwrap_or(0)
}

/// Ours, under the stress of the tests.
#[derive(Clone)]
struct Shared(Cache<u8, u64>);

impl Loads for Shared {
    fn blocking(&self, key: u8, load: impl FnOnce() -> Result<u64, Down>) -> Option<u64> {
        self.0.try_get_or_load(&key, |_| load()).ok()
    }

    fn polled<L>(&self, key: u8, load: impl FnOnce() -> L + 'static) -> impl Future<Output = Option<u64>> + 'static
    where
        L: Future<Output = Result<u64, Down>> + Send + 'static,
    {
        let cache = self.0.clone();
        async move { cache.try_get_or_load_async(&key, |_| load()).await.ok() }
    }

    fn evict(&self) {
        evict_to(&self.0, ByteSize::ZERO);
    }
}

impl Loads for Unshared {
    fn blocking(&self, key: u8, load: impl FnOnce() -> Result<u64, Down>) -> Option<u64> {
        let found = self.get(key);
        found.or_else(|| load().ok().inspect(|&value| self.insert(key, value)))
    }

    fn polled<L>(&self, key: u8, load: impl FnOnce() -> L + 'static) -> impl Future<Output = Option<u64>> + 'static
    where
        L: Future<Output = Result<u64, Down>> + Send + 'static,
    {
        let cache = self.clone();
        async move {
            if let Some(found) = cache.get(key) {
                return Some(found);
            }
            let loaded = load().await.ok();
            loaded.into_iter().for_each(|value| cache.insert(key, value));
            loaded
        }
    }

    fn evict(&self) {
        self.0.lock().clear();
    }
}

/// Returns the number of loads that started while another one of the same key and class ran.
fn double_loads<C: Loads>(cache: &C, calls: u64) -> f64 {
    // Loaders panic on purpose.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let figures = panic::catch_unwind(panic::AssertUnwindSafe(|| load_stress::run(cache, 1, calls)));
    panic::set_hook(hook);
    figures.map_or(f64::NAN, |figures| if figures.wrong_values > 0 { f64::NAN } else { figures.double_loads as f64 })
}
