//! The caches that a monitor watches.

use std::fmt;

use crate::cache::{Cache, CacheStats};
use crate::unwind::contained;

/// What the watched caches did in an invocation, in sum.
///
/// In the report line as `evicted size 3 expired 12 pressure 0`, unless all three are zero. What a cache does between
/// two reports is in the later one; with several invocations in flight, it is the environment's.
///
/// # Examples
///
/// ```no_run
/// # use plimsoll::{Cache, Monitor};
/// # let orders: Cache<String, u64> = Cache::builder("orders").max_entries(1_000).build()?;
/// let monitor = Monitor::builder().cache(&orders).install()?;
/// let report = monitor.start("4f1c9a").finish();
/// if !report.caches.is_none_evicted() {
///     println!("{} of {} were evicted under pressure", report.caches.evictions_by_pressure, orders.len());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheCounts {
    /// Requests that found a value.
    pub hits: u64,
    /// Requests that did not.
    pub misses: u64,
    /// Entries evicted to keep within the caches' own bounds.
    pub evictions_by_size: u64,
    /// Entries freed because they had expired.
    pub expirations: u64,
    /// Entries evicted because the budget had no room.
    pub evictions_by_pressure: u64,
}

impl CacheCounts {
    /// Whether nothing was evicted.
    pub const fn is_none_evicted(&self) -> bool {
        self.evictions_by_size == 0 && self.expirations == 0 && self.evictions_by_pressure == 0
    }

    /// Of each field what `f` makes of both.
    fn with(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            hits: f(self.hits, other.hits),
            misses: f(self.misses, other.misses),
            evictions_by_size: f(self.evictions_by_size, other.evictions_by_size),
            expirations: f(self.expirations, other.expirations),
            evictions_by_pressure: f(self.evictions_by_pressure, other.evictions_by_pressure),
        }
    }

    /// What came after `told`, which from now on counts as told. Others may have read later and come here earlier.
    pub(super) fn since(self, told: &mut Self) -> Self {
        let more = self.with(*told, u64::saturating_sub);
        *told = self.with(*told, u64::max);
        more
    }
}

impl From<CacheStats> for CacheCounts {
    fn from(stats: CacheStats) -> Self {
        let CacheStats { hits, misses, evictions_by_size, expirations, evictions_by_pressure, .. } = stats;
        Self { hits, misses, evictions_by_size, expirations, evictions_by_pressure }
    }
}

impl fmt::Display for CacheCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { evictions_by_size, expirations, evictions_by_pressure, .. } = self;
        write!(f, "evicted size {evictions_by_size} expired {expirations} pressure {evictions_by_pressure}")
    }
}

/// A cache of any type.
trait Watched: Send + Sync {
    fn stats(&self) -> CacheStats;

    fn remove_expired(&self, limit: usize);
}

impl<K, V, S> Watched for Cache<K, V, S>
where
    K: Send + 'static,
    V: Send + 'static,
    S: Send + Sync + 'static,
{
    fn stats(&self) -> CacheStats {
        Self::stats(self)
    }

    fn remove_expired(&self, limit: usize) {
        // It drops values of the user, which may panic.
        contained(|| Self::remove_expired(self, limit));
    }
}

/// The watched caches.
#[derive(Default)]
pub(super) struct Caches(Vec<Box<dyn Watched>>);

impl Caches {
    pub(super) fn watch<K, V, S>(&mut self, cache: &Cache<K, V, S>)
    where
        K: Send + 'static,
        V: Send + 'static,
        S: Send + Sync + 'static,
    {
        self.0.push(Box::new(cache.clone()));
    }

    pub(super) fn stats(&self) -> impl Iterator<Item = CacheStats> {
        self.0.iter().map(|cache| cache.stats())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Frees up to `limit` expired entries of each.
    pub(super) fn remove_expired(&self, limit: usize) {
        self.0.iter().for_each(|cache| cache.remove_expired(limit));
    }

    /// What all of them did since they were made.
    pub(super) fn counts(&self) -> CacheCounts {
        self.stats().fold(CacheCounts::default(), |sum, stats| sum.with(stats.into(), u64::saturating_add))
    }
}
