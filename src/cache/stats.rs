//! What a cache has done, and holds.

use std::fmt;

use crate::board::Clean;
use crate::size::ByteSize;

/// What a cache holds now and has done since it was made; always on, at the cost of an addition under the lock.
///
/// The counters are read together, so they fit each other: `inserts` less `removed`, `cleared` and all that was evicted
/// is what is there.
///
/// # Examples
///
/// ```
/// use plimsoll::Cache;
///
/// let orders: Cache<u64, u64> = Cache::builder("orders").max_entries(2).build()?;
/// (0..3).try_for_each(|key| orders.insert(key, key))?;
/// let stats = orders.stats();
/// assert_eq!((stats.inserts, stats.entries, stats.evicted_size), (3, 2, 1));
/// println!("{stats}"); // orders 2 entries 152 B, evicted 1 size 0 expired 0 pressure
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// The cache's name.
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
    /// `get`, `try_get_or_load` and its async face that found a value which had not expired. `contains` counts nothing.
    pub hits: u64,
    /// Those that did not.
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
    pub evicted_size: u64,
    /// Entries removed because they had expired: on access, by `remove_expired`, `retain` and the reclaimer.
    pub evicted_expired: u64,
    /// Entries evicted because the budget had no room: for another account, or for this cache's own next value.
    pub evicted_pressure: u64,
    /// Values given back because they did not fit.
    pub refused: u64,
    /// Loaders that returned a value.
    pub loads: u64,
    /// Loaders that returned an error. A loader that panicked is not counted.
    pub load_failures: u64,
    /// Loads that returned a value and stored none, because their key was written or the cache cleared
    /// while they ran, or a load that was started later had stored its value.
    pub cancelled_loads: u64,
    /// Loads that returned a value and stored none, because they took longer than the time to live.
    pub expired_loads: u64,
}

impl CacheStats {
    /// Tells the share of hits among all that was asked for, in percent; `None` before anything was.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// assert_eq!(cache.stats().hit_percent(), None);
    /// cache.insert(1, 1)?;
    /// let _seen = (cache.get(&1), cache.get(&2));
    /// assert_eq!(cache.stats().hit_percent(), Some(50));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hit_percent(&self) -> Option<u64> {
        let asked = self.hits.saturating_add(self.misses);
        self.hits.saturating_mul(100).checked_div(asked)
    }
}

/// One line: `orders 1200 entries 4.9 of 5.0 MiB, hits 91 %, evicted 12 size 3 expired 0 pressure`.
impl fmt::Display for CacheStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} entries {}", Clean(self.name), self.entries, self.bytes)?;
        if let Some(most) = self.max_bytes {
            write!(f, " of {most}")?;
        }
        if let Some(percent) = self.hit_percent() {
            write!(f, ", hits {percent} %")?;
        }
        let Self { evicted_size, evicted_expired, evicted_pressure, .. } = self;
        write!(f, ", evicted {evicted_size} size {evicted_expired} expired {evicted_pressure} pressure")
    }
}

/// Why an entry went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    Size,
    Expired,
    Pressure,
    Removed,
}

impl CacheStats {
    pub(super) fn count(&mut self, cause: Cause) {
        *match cause {
            Cause::Size => &mut self.evicted_size,
            Cause::Expired => &mut self.evicted_expired,
            Cause::Pressure => &mut self.evicted_pressure,
            Cause::Removed => &mut self.removed,
        } += 1;
    }
}
