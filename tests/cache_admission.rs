//! Which new entries a full cache admits, and what it keeps when many keys come once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use plimsoll::cache::{Cache, Eviction, RejectReason};
use plimsoll::{ByteSize, MemoryBudget};

/// Small enough for Miri, which is a thousand times slower.
const HOT: u64 = if cfg!(miri) { 70 } else { 7_000 };
const MAX_BYTES: ByteSize = if cfg!(miri) { ByteSize::kib(84) } else { ByteSize::mib(8) };
/// The length of a value that takes most of the cache.
const LARGE: usize = if cfg!(miri) { 70_000 } else { 7_800_000 };
const LARGE_KEY: u64 = 1 << 40;

fn hot_cache(eviction: Eviction, reads: usize) -> Cache<u64, Vec<u8>> {
    let cache = Cache::builder("hot").max_bytes(MAX_BYTES).eviction(eviction).build().unwrap();
    for key in 0..HOT {
        cache.insert(key, vec![0_u8; 1_000]).unwrap();
    }
    for _ in 0..reads {
        (0..HOT).for_each(|key| assert!(cache.get(&key).is_some()));
    }
    cache
}

#[test]
fn large_unknown_value_evicts_no_hot_entries() {
    let cache = hot_cache(Eviction::S3Fifo, 3);
    let before = cache.stats();
    let error = cache.insert(LARGE_KEY, vec![1_u8; LARGE]).unwrap_err();
    let (tenth, large) = (MAX_BYTES.as_u64() / 10, LARGE as u64);
    assert!(
        matches!(error.reason(), RejectReason::NotAdmitted { cache: "hot", size, share, .. }
            if share.as_u64() == tenth && (large..large + 200).contains(&size.as_u64())),
        "{error}"
    );
    assert_eq!((error.into_entry().1.len(), cache.len() as u64), (LARGE, HOT));
    let after = cache.stats();
    assert_eq!((after.rejections, after.evictions_by_size, after.bytes), (before.rejections + 1, 0, before.bytes));
}

#[test]
fn second_insert_of_a_large_value_is_admitted() {
    let cache = hot_cache(Eviction::S3Fifo, 3);
    assert!(cache.insert(LARGE_KEY, vec![1_u8; LARGE]).is_err());
    cache.insert(LARGE_KEY, vec![2; LARGE]).unwrap();
    assert_eq!(cache.get(&LARGE_KEY).map(|value| value[0]), Some(2));
    assert!(cache.stats().evictions_by_size > 0 && cache.stats().bytes <= MAX_BYTES);
}

#[test]
fn load_of_a_large_value_returns_it_and_stores_nothing() {
    let cache = hot_cache(Eviction::S3Fifo, 3);
    let load = || cache.try_get_or_load(&LARGE_KEY, |_| Ok::<_, ()>(vec![3; LARGE])).map(|value| value.len());
    assert_eq!(load().ok(), Some(LARGE));
    assert_eq!((cache.contains_key(&LARGE_KEY), cache.len() as u64, cache.stats().rejections), (false, HOT, 1));
    assert_eq!((load().ok(), cache.contains_key(&LARGE_KEY)), (Some(LARGE), true));
}

#[test]
fn cold_cache_admits_a_large_value_at_once() {
    hot_cache(Eviction::S3Fifo, 0).insert(LARGE_KEY, vec![1_u8; LARGE]).unwrap();
    let empty = Cache::builder("empty").max_bytes(MAX_BYTES).build().unwrap();
    empty.insert(LARGE_KEY, vec![1_u8; LARGE]).unwrap();
}

#[test]
fn lru_admits_a_large_value_over_hot_entries() {
    let cache = hot_cache(Eviction::Lru, 3);
    cache.insert(LARGE_KEY, vec![1_u8; LARGE]).unwrap();
    assert!((cache.len() as u64) < HOT / 2, "{}", cache.len());
}

#[test]
fn replacement_by_a_large_value_is_admitted() {
    let cache = hot_cache(Eviction::S3Fifo, 3);
    cache.insert(1, vec![4; LARGE]).unwrap();
    assert_eq!((cache.get(&1).map(|value| value.len()), cache.stats().replaced), (Some(LARGE), 1));
}

#[test]
fn large_value_that_fits_next_to_hot_entries_is_admitted() {
    let cache = Cache::builder("half").max_bytes(MAX_BYTES).build().unwrap();
    for key in 0..HOT / 4 {
        cache.insert(key, vec![0_u8; 1_000]).unwrap();
        cache.get(&key);
    }
    cache.insert(LARGE_KEY, vec![1_u8; LARGE / 2]).unwrap();
    assert_eq!(cache.stats().evictions_by_size, 0);
}

/// Every new value is larger than a tenth of the bound, which is usual for a cache of a few large values.
#[test]
fn cache_of_a_few_large_values_admits_each() {
    let cache = Cache::builder("few").max_bytes(ByteSize::kib(64)).build().unwrap();
    for key in 0..50_u64 {
        cache.insert(key, vec![0_u8; 20_000]).unwrap();
        (0..3).for_each(|_| drop(cache.get(&key)));
    }
    assert_eq!(cache.stats().rejections, 0);
}

/// A budget that is full does not change which entries are admitted.
#[test]
fn large_value_over_hot_entries_and_a_full_budget_is_not_admitted() {
    let budget = MemoryBudget::new(MAX_BYTES);
    let cache =
        Cache::builder("charged").max_bytes(MAX_BYTES).account(budget.account("charged").unwrap()).build().unwrap();
    for key in 0..HOT {
        cache.insert(key, vec![0_u8; 1_000]).unwrap();
        cache.get(&key);
    }
    let error = cache.insert(LARGE_KEY, vec![1_u8; LARGE / 2]).unwrap_err();
    assert!(matches!(error.reason(), RejectReason::NotAdmitted { .. }), "{error}");
    assert_eq!((cache.len() as u64, budget.reserved()), (HOT, cache.stats().bytes));
}

/// Returns the share of hits in a loop over five times as many keys as the cache holds, in percent.
fn hits_of_loop(eviction: Eviction, release: bool) -> u64 {
    let (capacity, rounds) = if cfg!(miri) { (40, 10) } else { (200, 40) };
    let cache = Cache::builder("loop").max_entries(capacity).eviction(eviction).build().unwrap();
    let run = |first: u64| {
        let before = cache.stats().hits;
        for key in (0..rounds).flat_map(|_| first..first + 5 * capacity as u64) {
            if cache.get(&key).is_none() {
                cache.insert(key, ()).unwrap();
            }
        }
        100 * (cache.stats().hits - before) / (rounds * 5 * capacity as u64)
    };
    let hits = run(0);
    if !release {
        return hits;
    }
    cache.evict_to(ByteSize::bytes(cache.stats().bytes.as_u64() / 8));
    run(1 << 20)
}

#[test]
fn loop_over_more_keys_than_the_capacity_has_hits() {
    assert!(hits_of_loop(Eviction::S3Fifo, false) >= 12);
    assert_eq!(hits_of_loop(Eviction::Lru, false), 0, "control");
}

#[test]
fn loop_after_a_release_has_hits() {
    let hits = hits_of_loop(Eviction::S3Fifo, true);
    assert!(hits >= 10, "{hits}");
}
