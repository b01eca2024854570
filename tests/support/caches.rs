//! Calls of a cache that several tests share.

#![allow(dead_code, unreachable_pub, reason = "each test binary includes this file and uses its own part")]

use plimsoll::ByteSize;
use plimsoll::cache::{Cache, CacheBuilder, CacheStats, LoadError};

/// Evicts entries until the cache holds at most `bytes`.
pub fn evict_to<K, V, S>(cache: &Cache<K, V, S>, bytes: ByteSize) {
    cache.evict_to(bytes);
}

/// Removes the expired entries among the next `limit` and returns their number.
pub fn remove_expired<K, V, S>(cache: &Cache<K, V, S>, limit: usize) -> usize {
    cache.remove_expired(limit)
}

/// Changes the bound in entries.
pub fn set_max_entries<K, V, S>(cache: &Cache<K, V, S>, max_entries: usize) {
    cache.set_max_entries(max_entries);
}

/// Changes the bound in bytes.
pub fn set_max_bytes<K, V, S>(cache: &Cache<K, V, S>, max_bytes: ByteSize) {
    cache.set_max_bytes(max_bytes);
}

/// Sets the size that each load reserves.
pub fn reserve_per_load<K, V, S>(builder: CacheBuilder<K, V, S>, size: ByteSize) -> CacheBuilder<K, V, S> {
    builder.reserve_per_load(size)
}

/// Returns `true` if the loader itself returned an error.
pub fn is_load_error<V, E>(result: &Result<V, LoadError<E>>) -> bool {
    matches!(result, Err(LoadError::Load(_)))
}

/// Returns `true` if the counters add up and no load has left bytes reserved.
pub fn is_whole(stats: &CacheStats) -> bool {
    let left =
        stats.removed + stats.cleared + stats.evictions_by_size + stats.expirations + stats.evictions_by_pressure;
    stats.inserts == left + stats.entries as u64 && stats.loading == ByteSize::ZERO
}
