//! What a cache has done, and holds.

use std::fmt;

use crate::board::Clean;
use crate::size::ByteSize;

pub(super) use super::removal::RemovalCause as Cause;

/// What a cache holds now and has done since it was made; always on, at the cost of an addition under the lock.
///
/// The counters fit each other: `inserts` less `removed`, `cleared` and all that was evicted is what is there. While other
/// threads use the cache, the counters of its shards are read one after the other, so they may differ by what these do.
///
/// # Examples
///
/// ```
/// use plimsoll::Cache;
///
/// let orders: Cache<u64, u64> = Cache::builder("orders").max_entries(2).build()?;
/// (0..3).try_for_each(|key| orders.insert(key, key))?;
/// let stats = orders.stats();
/// assert_eq!((stats.inserts, stats.entries, stats.evictions_by_size), (3, 2, 1));
/// println!("{stats}"); // orders 2 entries 152 B, evicted 1 size 0 expired 0 pressure
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// The name of the cache.
    pub name: &'static str,
    /// Entries there now, those that have expired and were not yet freed among them.
    pub entries: usize,
    /// The most there may be; `None` where only bytes are bounded.
    pub max_entries: Option<usize>,
    /// Bytes held now: the tables with the keys and values in them, and what these were weighed to own on the heap.
    pub bytes: ByteSize,
    /// The most there may be; `None` where only entries are bounded.
    pub max_bytes: Option<ByteSize>,
    /// Bytes reserved for running loads. Not part of `bytes`.
    pub loading: ByteSize,
    /// Lookups by `get`, by `compute` and by the methods that load, of values that had not expired. `peek` and
    /// `contains_key` count nothing.
    pub hits: u64,
    /// The other lookups by these methods.
    pub misses: u64,
    /// Keys that came in; a value put in the place of another counts as `replaced` alone.
    pub inserts: u64,
    /// Values that replaced the former value of their key, in its place or, if the tables were in the way, in another.
    pub replaced: u64,
    /// Entries removed by name, by `retain`, or because their next value was refused.
    pub removed: u64,
    /// Entries removed by `clear`.
    pub cleared: u64,
    /// Entries evicted to keep the cache within its bounds: by inserts, loads, `evict_to` and lowered bounds.
    pub evictions_by_size: u64,
    /// Entries removed because they had expired: on access, by `remove_expired`, `retain` and the reclaimer.
    pub expirations: u64,
    /// Entries evicted because the budget had no room: for another account, or for this cache's own next value.
    pub evictions_by_pressure: u64,
    /// Values that were not stored because they did not fit, were [not admitted](super::RejectReason::NotAdmitted), had expired
    /// already, or came of a load without a reservation.
    pub rejections: u64,
    /// Loaders that returned a value.
    pub load_successes: u64,
    /// Loaders that returned an error. A loader that panicked is not counted.
    pub load_failures: u64,
    /// Loads that returned a value and stored none, because their key was written or the cache cleared
    /// while they ran, or a load that was started later had stored its value.
    pub cancelled_loads: u64,
    /// Loads that returned a value and stored none, because they took longer than the time to live.
    pub expired_loads: u64,
    /// Loads that were started because a value was [stale](super::CacheBuilder::refresh_after), and that returned a value.
    /// Part of `load_successes`.
    pub refreshes: u64,
    /// Such loads that returned no value: their loader failed or panicked, or could not start. A refresh that is dropped with
    /// its entry is not counted.
    pub failed_refreshes: u64,
}

impl CacheStats {
    /// Returns the hits divided by all lookups: 0 to 1. `None` before the first lookup.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// assert_eq!(cache.stats().hit_rate(), None);
    /// cache.insert(1, 1)?;
    /// let _seen = (cache.get(&1), cache.get(&2));
    /// assert_eq!(cache.stats().hit_rate(), Some(0.5));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[expect(clippy::cast_precision_loss, reason = "a rate of more than 2^52 lookups needs no last digit")]
    pub fn hit_rate(&self) -> Option<f64> {
        let lookups = self.hits.saturating_add(self.misses);
        (lookups > 0).then(|| self.hits as f64 / lookups as f64)
    }
}

/// One line: `orders 1200 entries 4.9 of 5.0 MiB, hits 91 %, evicted 12 size 3 expired 0 pressure`.
impl fmt::Display for CacheStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} entries {}", Clean(self.name), self.entries, self.bytes)?;
        if let Some(most) = self.max_bytes {
            write!(f, " of {most}")?;
        }
        if let Some(rate) = self.hit_rate() {
            write!(f, ", hits {:.0} %", (100.0 * rate).floor())?;
        }
        let Self { evictions_by_size, expirations, evictions_by_pressure, .. } = self;
        write!(f, ", evicted {evictions_by_size} size {expirations} expired {evictions_by_pressure} pressure")
    }
}

impl CacheStats {
    /// Adds the counters of a shard.
    pub(super) fn add(&mut self, shard: &Self) {
        self.hits += shard.hits;
        self.misses += shard.misses;
        self.inserts += shard.inserts;
        self.replaced += shard.replaced;
        self.removed += shard.removed;
        self.cleared += shard.cleared;
        self.evictions_by_size += shard.evictions_by_size;
        self.expirations += shard.expirations;
        self.evictions_by_pressure += shard.evictions_by_pressure;
        self.rejections += shard.rejections;
        self.load_successes += shard.load_successes;
        self.load_failures += shard.load_failures;
        self.cancelled_loads += shard.cancelled_loads;
        self.expired_loads += shard.expired_loads;
        self.refreshes += shard.refreshes;
        self.failed_refreshes += shard.failed_refreshes;
    }

    pub(super) fn count(&mut self, cause: Cause) {
        *match cause {
            Cause::Size => &mut self.evictions_by_size,
            Cause::Expired => &mut self.expirations,
            Cause::Pressure => &mut self.evictions_by_pressure,
            Cause::Removed => &mut self.removed,
            Cause::Replaced => &mut self.replaced,
            Cause::Cleared => &mut self.cleared,
        } += 1;
    }
}
