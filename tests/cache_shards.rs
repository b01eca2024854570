//! Caches of several shards: one bound for all of them, kept by several threads at any time.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::hash::{BuildHasher, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use plimsoll::cache::{CacheStats, Eviction, RejectReason};
use plimsoll::{ByteSize, Cache, ManualClock, MemoryBudget};

const SHARDS: usize = 8;

/// A hasher that returns the key.
#[derive(Clone, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("the keys are `u64`");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

impl BuildHasher for Identity {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

/// The shard of a key under [`Identity`], as the cache computes it.
fn shard_of(key: u64) -> u64 {
    let product = u128::from(key) * 0x9E37_79B9_7F4A_7C15;
    u64::try_from(((product >> 64) ^ product) & (SHARDS as u128 - 1)).unwrap()
}

/// Keys that all belong to shard 3.
fn keys_of_one_shard() -> impl Iterator<Item = u64> {
    (0..).filter(|&key| shard_of(key) == 3)
}

/// Returns `true` if the counters are those of the entries that are there.
fn is_whole(stats: &CacheStats) -> bool {
    let left =
        stats.removed + stats.cleared + stats.evictions_by_size + stats.expirations + stats.evictions_by_pressure;
    stats.inserts == left + stats.entries as u64
}

/// Inserts a value. One that is large and new may be refused because others are in use, but for no other reason.
fn insert_admitted(cache: &Cache<u64, Vec<u8>>, key: u64, len: usize) {
    if let Err(error) = cache.insert(key, vec![0; len]) {
        assert!(matches!(error.reason(), RejectReason::NotAdmitted { .. }), "{error}");
    }
}

/// A value that counts the values of its kind that are alive.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(alive: &Arc<AtomicUsize>) -> Arc<Self> {
        alive.fetch_add(1, SeqCst);
        Arc::new(Self(Arc::clone(alive)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[test]
fn eight_threads_never_exceed_the_bound_in_entries() {
    const THREADS: u64 = 8;
    const MAX: usize = 500;
    let alive = Arc::new(AtomicUsize::new(0));
    let cache = Cache::builder("entries").max_entries(MAX).shards(SHARDS).build().unwrap();
    // A thread has one value in its hand, and those that it has evicted in one batch.
    let limit = MAX + 8 * 18;
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (cache, alive) = (&cache, &alive);
            scope.spawn(move || {
                for step in 0..20_000_u64 {
                    let key = (step * 7 + thread * 131) % 2_000;
                    match step % 8 {
                        0 => drop(cache.remove(&key)),
                        1 => drop(cache.try_get_or_load(&key, |_| Ok::<_, ()>(Counted::new(alive)))),
                        _ => cache.insert(key, Counted::new(alive)).unwrap(),
                    }
                    let (entries, alive) = (cache.len(), alive.load(SeqCst));
                    assert!(entries <= MAX && alive <= limit, "{entries} entries, {alive} values");
                }
            });
        }
    });
    let mut entries = 0;
    cache.for_each(|_, _| entries += 1);
    assert_eq!((cache.len(), alive.load(SeqCst)), (entries, entries));
    assert!(entries >= MAX * 9 / 10 && is_whole(&cache.stats()), "{:?}", cache.stats());
}

#[test]
fn eight_threads_never_exceed_the_bound_in_bytes() {
    let budget = MemoryBudget::new(ByteSize::mib(3));
    for with_account in [false, true] {
        let builder = Cache::builder("bytes").max_bytes(ByteSize::mib(2)).shards(SHARDS);
        let builder = if with_account { builder.account(budget.account("bytes").unwrap()) } else { builder };
        let cache = builder.build().unwrap();
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let writers: Vec<_> = (0..8_u64)
                .map(|thread| {
                    let cache = &cache;
                    scope.spawn(move || {
                        for step in 0..4_000_u64 {
                            let key = (step * 7 + thread * 131) % 3_000;
                            // Some are larger than a shard's part of the bound.
                            let len = if step % 500 == 0 { 700_000 } else { 100 + key % 1_500 };
                            insert_admitted(cache, key, usize::try_from(len).unwrap());
                        }
                    })
                })
                .collect();
            let (cache, budget, is_done) = (&cache, &budget, &is_done);
            scope.spawn(move || {
                while !is_done.load(SeqCst) {
                    let bytes = cache.stats().bytes;
                    assert!(bytes <= ByteSize::mib(2), "{bytes}");
                    let others = budget.account("others").unwrap().try_reserve(ByteSize::kib(1_536));
                    assert!(budget.reserved() <= ByteSize::mib(3), "{}", budget.reserved());
                    drop(others);
                }
            });
            let results: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            is_done.store(true, SeqCst);
            assert!(results.iter().all(Result::is_ok));
        });
        assert!(is_whole(&cache.stats()), "{:?}", cache.stats());
        let bytes = cache.stats().bytes;
        assert!(!with_account || budget.account("bytes").unwrap().reserved() == bytes, "{bytes}");
        cache.clear();
        assert_eq!((cache.stats().bytes, cache.len()), (ByteSize::ZERO, 0));
    }
    assert_eq!(budget.reserved(), ByteSize::ZERO);
}

#[test]
fn keys_of_one_shard_fill_the_whole_bound() {
    let builder = || Cache::builder("skewed").shards(SHARDS).hash_builder(Identity::default());
    let by_entries = builder().max_entries(2_000).build().unwrap();
    let by_bytes = builder().max_bytes(ByteSize::kib(256)).build().unwrap();
    for cache in [&by_entries, &by_bytes] {
        for key in keys_of_one_shard().take(20_000) {
            cache.insert(key, key).unwrap();
        }
        assert!(is_whole(&cache.stats()), "{:?}", cache.stats());
    }
    assert_eq!(by_entries.len(), 2_000);
    assert!(by_bytes.stats().bytes >= ByteSize::kib(256).percent(75), "{:?}", by_bytes.stats());
}

#[test]
fn keys_of_one_shard_take_the_room_of_the_others() {
    let builder = || Cache::builder("skewed").shards(SHARDS).hash_builder(Identity::default());
    let by_entries = builder().max_entries(2_000).build().unwrap();
    let by_bytes = builder().max_bytes(ByteSize::kib(256)).build().unwrap();
    for cache in [&by_entries, &by_bytes] {
        (0..20_000).for_each(|key| cache.insert(key, key).unwrap());
        keys_of_one_shard().take(60_000).for_each(|key| cache.insert(key, key).unwrap());
        let (mut own, mut all) = (0, 0);
        cache.for_each(|&key, _| {
            own += usize::from(shard_of(key) == 3);
            all += 1;
        });
        assert!(own >= all * 9 / 10 && is_whole(&cache.stats()), "{own} of {all}");
    }
}

#[test]
fn value_that_needs_the_room_of_all_shards_is_stored() {
    for with_account in [false, true] {
        let budget = MemoryBudget::new(ByteSize::kib(1_024));
        let builder = Cache::builder("large").max_bytes(ByteSize::kib(1_024)).shards(SHARDS);
        let builder = if with_account { builder.account(budget.account("large").unwrap()) } else { builder };
        let cache = builder.build().unwrap();
        (0..3_000_u64).for_each(|key| cache.insert(key, vec![0_u8; 500]).unwrap());
        let before = cache.len();
        // Cold entries, so that nothing protects them.
        let half = cache.insert(5_000, vec![0_u8; 500 << 10]);
        assert!(half.is_ok(), "{half:?}");
        let (after, stats) = (cache.len(), cache.stats());
        assert!(after * 100 >= before * 35, "{after} of {before} entries");
        assert!(cache.contains_key(&5_000) && stats.bytes <= ByteSize::kib(1_024), "{stats:?}");
        let all = cache.insert(5_001, vec![0_u8; 1_020 << 10]);
        assert!(all.is_ok() && cache.contains_key(&5_001) && is_whole(&cache.stats()), "{all:?}");
        let too_large = cache.insert(5_002, vec![0_u8; 1_025 << 10]);
        assert!(too_large.is_err() && cache.contains_key(&5_001));
    }
}

/// Each of them needs what the others have evicted for theirs.
#[test]
fn threads_that_insert_values_larger_than_half_the_bound_all_succeed() {
    let cache = Cache::builder("huge").max_bytes(ByteSize::mib(1)).shards(SHARDS).build().unwrap();
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let cache = &cache;
            scope.spawn(move || {
                for step in 0..300_u64 {
                    (0..20).for_each(|small| cache.insert(10_000 + thread * 100 + small, vec![0_u8; 1_000]).unwrap());
                    let len = usize::try_from(600_000 + 1_000 * (step % 100)).unwrap();
                    insert_admitted(cache, thread * 1_000 + step, len);
                }
            });
        }
    });
    assert!(is_whole(&cache.stats()) && !cache.is_empty(), "{:?}", cache.stats());
}

#[test]
fn eviction_takes_an_equal_part_of_each_shard() {
    let cache =
        Cache::builder("parts").max_entries(20_000).shards(SHARDS).hash_builder(Identity::default()).build().unwrap();
    (0..20_000_u64).for_each(|key| cache.insert(key, key).unwrap());
    cache.evict_to(cache.stats().bytes.percent(50));
    let mut of_shard = [0_usize; SHARDS];
    cache.for_each(|&key, _| {
        if let Some(count) = of_shard.get_mut(usize::try_from(shard_of(key)).unwrap()) {
            *count += 1;
        }
    });
    let (least, most) = (of_shard.iter().min().unwrap(), of_shard.iter().max().unwrap());
    assert!(*least >= 700 && most - least <= 600, "{of_shard:?}");
    cache.set_max_entries(1_000);
    assert_eq!(cache.len(), 1_000);
}

#[test]
fn sweep_with_a_limit_comes_to_all_shards() {
    let manual = ManualClock::new();
    let builder = Cache::builder("sweep").max_entries(1_000).shards(SHARDS).clock(manual.clock());
    let cache = builder.time_to_live(Duration::from_secs(1)).build().unwrap();
    (0..800_u64).for_each(|key| cache.insert(key, key).unwrap());
    manual.advance(Duration::from_secs(2));
    let mut calls = 0;
    while !cache.is_empty() && calls < 200 {
        assert!(cache.remove_expired(10) <= 10);
        calls += 1;
    }
    // The last entries of a shard may be fewer than the limit.
    assert!(cache.is_empty() && calls <= 100, "{} entries after {calls} calls", cache.len());
    (0..800_u64).for_each(|key| cache.insert(key, key).unwrap());
    manual.advance(Duration::from_secs(2));
    assert_eq!(cache.remove_expired(usize::MAX), 800);
}

#[test]
fn clear_clears_all_shards_if_a_drop_panics() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            assert!(thread::panicking(), "on purpose");
        }
    }
    let cache = Cache::builder("panics").max_entries(1_000).shards(SHARDS).build().unwrap();
    (0..100_u64).for_each(|key| cache.insert(key, Arc::new(Panics)).unwrap());
    let cleared = catch_unwind(AssertUnwindSafe(|| cache.clear()));
    assert!(cleared.is_err() && cache.is_empty() && is_whole(&cache.stats()), "{:?}", cache.stats());
}

#[test]
fn reclaim_frees_what_is_wanted_from_many_shards() {
    let budget = MemoryBudget::new(ByteSize::mib(4));
    let builder =
        Cache::builder("relief").max_bytes(ByteSize::mib(4)).shards(SHARDS).account(budget.account("relief").unwrap());
    let cache = builder.build().unwrap();
    (0..5_000_u64).for_each(|key| cache.insert(key, vec![0_u8; 1_000]).unwrap());
    let before = cache.len();
    let small = budget.account("others").unwrap().try_reserve(ByteSize::kib(1)).unwrap();
    assert!(cache.len() * 100 >= before * 98, "{} of {before}", cache.len());
    let large = budget.account("others").unwrap().try_reserve(ByteSize::mib(2)).unwrap();
    assert!(cache.len() * 100 >= before * 40, "{} of {before}", cache.len());
    drop((small, large));
    assert!(budget.account("relief").unwrap().reserved() == cache.stats().bytes);
}

#[test]
fn lru_and_small_caches_keep_the_exact_order() {
    for builder in [
        Cache::builder("lru").max_entries(4_000).eviction(Eviction::Lru).shards(SHARDS),
        Cache::builder("small").max_entries(100).eviction(Eviction::Lru),
    ] {
        let cache = builder.build().unwrap();
        let max = cache.stats().max_entries.unwrap() as u64;
        (0..2 * max).for_each(|key| cache.insert(key, key).unwrap());
        assert!((max..2 * max).all(|key| cache.contains_key(&key)));
    }
}

#[test]
fn shards_cost_few_hits() {
    // Keys below 65,536: one of the least as often as one of each half of the others, and so on.
    let hits = |shards: usize| {
        let cache = Cache::builder("zipf").max_entries(4_096).shards(shards).build().unwrap();
        let mut random = 1_u64;
        for _ in 0..400_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let below = 1 << (random >> 60);
            let key = (random >> 20) % below;
            drop(cache.try_get_or_load(&key, |_| Ok::<_, ()>(key)));
        }
        cache.stats().hits
    };
    let (one, many) = (hits(1), hits(4));
    assert!(many + 2_000 > one, "{one} of 400,000 with one shard, {many} with four");
}

#[test]
fn insert_ends_though_the_bound_is_lowered_to_the_entries_there_are() {
    let cache = Cache::<u64, u64>::builder("lowered")
        .max_bytes_weighed(ByteSize::bytes(40_000), |_, _| 0)
        .max_entries(100_000)
        .shards(1)
        .build()
        .unwrap();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            (0..400_000).for_each(|key| drop(cache.insert(key, key)));
            is_done.store(true, SeqCst);
        });
        while !is_done.load(SeqCst) {
            cache.set_max_entries(cache.len());
            cache.set_max_entries(100_000);
        }
    });
    assert!(is_whole(&cache.stats()));
}

#[test]
fn large_inline_values_fill_the_bound_with_many_shards() {
    for shards in [16, 64, 1_024] {
        let cache = Cache::builder("inline").max_bytes(ByteSize::mib(1)).shards(shards).build().unwrap();
        for key in 0..1_000_u64 {
            cache.insert(key, [0_u8; 8_192]).unwrap();
        }
        assert!(cache.len() >= 120, "{} of 127 with {shards} shards", cache.len());
    }
}

#[test]
fn keys_of_one_shard_visit_no_empty_shards() {
    for shards in [1, 1_024] {
        let builder = Cache::builder("one").max_bytes(ByteSize::kib(64)).shards(shards);
        let cache = builder.hash_builder(Identity::default()).build().unwrap();
        for key in 0..5_000_u64 {
            cache.insert(key << 40, vec![0_u8; 100]).unwrap();
        }
        assert!(cache.stats().bytes >= ByteSize::kib(63), "{:?}", cache.stats());
    }
}

#[test]
fn lowered_bound_is_kept_though_a_drop_panics() {
    struct Value {
        _bytes: Vec<u8>,
        panics: bool,
    }
    impl Drop for Value {
        fn drop(&mut self) {
            assert!(!self.panics, "this panic belongs to the test");
        }
    }
    let builder = Cache::builder("panics").max_bytes_weighed(ByteSize::kib(400), |_, _: &Value| 700).shards(SHARDS);
    let cache = builder.build().unwrap();
    for key in 0..400_u64 {
        drop(cache.insert(key, Value { _bytes: vec![0; 700], panics: key == 3 }));
    }
    let lowered = catch_unwind(AssertUnwindSafe(|| cache.set_max_bytes(ByteSize::kib(20))));
    assert!(lowered.is_err(), "the panic goes on after the eviction");
    assert!(cache.stats().bytes <= ByteSize::kib(20), "{:?}", cache.stats());
}

#[test]
fn evict_to_zero_leaves_nothing_in_uneven_shards() {
    for _ in 0..200 {
        let cache = Cache::builder("uneven").max_entries(2_000).shards(SHARDS).build().unwrap();
        (0..4_000_u64).for_each(|key| cache.insert(key, key).unwrap());
        let before = cache.stats().bytes;
        assert_eq!(cache.evict_to(ByteSize::ZERO), before);
        assert!(cache.is_empty() && cache.stats().bytes == ByteSize::ZERO, "{:?}", cache.stats());
    }
}

#[test]
fn threads_that_evict_at_once_end_and_keep_the_lowest_bound() {
    let cache = Cache::builder("evictions").max_entries(20_000).shards(SHARDS).build().unwrap();
    for _ in 0..20 {
        (0..20_000_u64).for_each(|key| cache.insert(key, key).unwrap());
        let half = cache.stats().bytes.percent(50);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| cache.evict_to(half));
            }
        });
        assert!(cache.stats().bytes <= half && is_whole(&cache.stats()));
        assert!(cache.len() >= 1_000, "{} of 20,000 entries are left", cache.len());
    }
}
