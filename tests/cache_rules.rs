//! What a cache promises about memory, time, threads, and code of the user's that misbehaves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

#[path = "support/caches.rs"]
mod caches;
#[path = "support/executor.rs"]
mod executor;
#[path = "support/random.rs"]
mod random;
#[path = "support/remote.rs"]
mod remote;

use std::hash::{BuildHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use plimsoll::cache::{BuildError, Cache, Eviction, RejectReason};
use plimsoll::{ByteSize, ManualClock, MemoryBudget, board};

use caches::remove_expired;
use executor::{Task, run};
use random::Random;
use remote::Remote;

const BOTH: [Eviction; 2] = [Eviction::S3Fifo, Eviction::Lru];

#[test]
fn a_cache_without_a_bound_is_not_built_nor_one_below_the_clock() {
    let unbounded = Cache::<u8, u8>::builder("none").build();
    assert!(matches!(unbounded, Err(BuildError::NoBound { cache: "none", .. })), "{unbounded:?}");
    let short = Cache::<u8, u8>::builder("short").max_entries(1).time_to_live(Duration::from_millis(9)).build();
    assert_eq!(
        short.unwrap_err().to_string(),
        "cache short: a time to live of 9ms is below the clock's resolution of 10ms"
    );
    let untracked = Cache::<u8, u8>::builder("heap").max_bytes(ByteSize::MAX).weigh_by_retained_heap().build();
    assert!(matches!(untracked, Err(BuildError::NotTracked { .. })), "{untracked:?}");
}

#[test]
fn a_cache_of_no_entries_gives_everything_back() {
    let cache = Cache::builder("zero").max_entries(0).build().unwrap();
    let error = cache.insert(1, "one").unwrap_err();
    assert!(matches!(error.reason(), RejectReason::NoEntries { .. }));
    assert_eq!(error.into_entry(), (1, "one"));
    assert_eq!(cache.try_get_or_load(&1, |_| Ok::<_, ()>("loaded")).ok(), Some("loaded"));
    let bytes = Cache::builder("zero").max_bytes(ByteSize::ZERO).build().unwrap();
    assert!(matches!(bytes.insert(1, 1).unwrap_err().reason(), RejectReason::TooLarge { .. }));
}

#[test]
fn a_value_of_thirty_seconds_is_not_served_after_a_freeze_of_an_hour() {
    let manual = ManualClock::new();
    let ttl = Duration::from_secs(30);
    let cache = Cache::builder("ttl").max_entries(10).time_to_live(ttl).clock(manual.clock()).build().unwrap();
    cache.insert("a", 1).unwrap();
    manual.freeze(Duration::from_hours(1));
    manual.advance(Duration::from_millis(4));
    assert_eq!((cache.get("a"), cache.stats().expirations), (None, 1));
    cache.insert("a", 1).unwrap();
    manual.freeze(Duration::from_hours(1));
    assert_eq!((cache.remove_expired(10), cache.len()), (1, 0), "a sweep looks at the wall clock");
}

#[test]
fn times_stay_right_over_years() {
    let manual = ManualClock::new();
    let day = Duration::from_hours(24);
    let cache = Cache::builder("old")
        .max_entries(10)
        .time_to_live(200 * day)
        .time_to_idle(100 * day)
        .clock(manual.clock())
        .build()
        .unwrap();
    for _ in 0..20 {
        cache.insert("used", 1).unwrap();
        cache.insert("unused", 1).unwrap();
        manual.advance(60 * day);
        assert!(cache.get("used").is_some() && cache.contains_key("unused"));
        manual.advance(60 * day);
        assert!(cache.get("used").is_some() && !cache.contains_key("unused"));
        manual.advance(81 * day);
        assert!(cache.get("used").is_none());
    }
}

#[test]
fn under_pressure_a_cache_gives_back_and_grows_again() {
    for eviction in BOTH {
        let budget = MemoryBudget::new(ByteSize::mib(1));
        let cache = Cache::builder("given")
            .max_bytes(ByteSize::mib(2))
            .eviction(eviction)
            .account(budget.account("given").unwrap())
            .build()
            .unwrap();
        for key in 0..5_000_u32 {
            cache.insert(key, vec![0_u8; 500]).unwrap();
        }
        let full = cache.stats();
        assert!(
            full.bytes > ByteSize::kib(900) && full.evictions_by_pressure > 0 && full.evictions_by_size == 0,
            "{full:?}"
        );
        let other = budget.account("other").unwrap().try_reserve(ByteSize::kib(700)).unwrap();
        let given = cache.stats();
        assert!(given.bytes <= ByteSize::kib(324) && given.entries > 100, "{given:?}");
        assert_eq!(budget.reserved(), given.bytes.saturating_add(ByteSize::kib(700)));
        drop(other);
        for key in 0..5_000_u32 {
            cache.insert(key, vec![0_u8; 500]).unwrap();
        }
        assert!(cache.stats().bytes > ByteSize::kib(900));
    }
}

#[test]
fn where_the_budget_has_nothing_the_value_comes_back() {
    let budget = MemoryBudget::new(ByteSize::kib(10));
    let _all = budget.account("all").unwrap().try_reserve(ByteSize::kib(10)).unwrap();
    let cache = Cache::builder("poor").max_entries(10).account(budget.account("poor").unwrap()).build().unwrap();
    let error = cache.insert(1, 2).unwrap_err();
    assert!(matches!(error.reason(), RejectReason::Budget(_)), "{error}");
    assert_eq!((error.into_entry(), cache.stats().rejections), ((1, 2), 1));
}

#[test]
fn value_that_budget_can_never_hold_evicts_nothing() {
    for eviction in BOTH {
        let budget = MemoryBudget::new(ByteSize::kib(64));
        let account = budget.account("full").unwrap();
        let cache = Cache::builder("full").max_bytes(ByteSize::kib(40)).eviction(eviction).account(account).build();
        let cache = cache.unwrap();
        cache.insert(1, vec![0_u8; 10 << 10]).unwrap();
        let others = budget.account("others").unwrap().try_reserve(budget.available()).unwrap();
        // The entry of 10 KiB makes two thirds of the capacity for it, and no other account releases the rest.
        let error = cache.insert(2, vec![0_u8; 15 << 10]).unwrap_err();
        assert!(matches!(error.reason(), RejectReason::Budget(_)), "{error}");
        assert_eq!((cache.len(), budget.reserved()), (1, others.size().saturating_add(cache.stats().bytes)));
        assert_eq!(error.into_entry().1.len(), 15 << 10);
    }
}

#[test]
fn a_cache_without_an_account_is_on_the_board() {
    let cache = Cache::builder("cache on the board").max_bytes(ByteSize::mib(1)).build().unwrap();
    cache.insert(1, vec![0_u8; 1_000]).unwrap();
    let shown = || board::holder("cache on the board").bytes();
    assert_eq!(shown(), cache.stats().bytes);
    drop(cache);
    assert_eq!(shown(), ByteSize::ZERO);
}

/// Eight threads, all operations; the bound is read under the lock after each.
#[test]
fn eight_threads_never_see_more_than_the_bound() {
    for eviction in BOTH {
        let budget = MemoryBudget::new(ByteSize::kib(200));
        let most = ByteSize::kib(100);
        let cache = Cache::builder("stress")
            .max_entries(300)
            .max_bytes(most)
            .eviction(eviction)
            .account(budget.account("stress").unwrap())
            .build()
            .unwrap();
        thread::scope(|scope| {
            for seed in 1..=8_u64 {
                let (cache, budget) = (&cache, &budget);
                scope.spawn(move || {
                    let mut bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let mut below = |bound: u64| {
                        bits ^= bits << 13;
                        bits ^= bits >> 7;
                        bits ^= bits << 17;
                        (bits >> 33) % bound
                    };
                    for _ in 0..4_000 {
                        let key = below(1_000);
                        let value = || vec![key.to_le_bytes()[0]; usize::try_from(key).unwrap()];
                        let found = match below(12) {
                            0..4 => cache.insert(key, value()).map(|()| None).unwrap(),
                            4..8 => cache.get(&key),
                            8 => cache.remove(&key),
                            9 => cache.try_get_or_load(&key, |_| Ok::<_, ()>(value())).ok(),
                            10 => {
                                drop(budget.account("other").unwrap().try_reserve(ByteSize::kib(150)));
                                None
                            }
                            _ => Some(cache.evict_to(ByteSize::kib(below(100)))).and(None),
                        };
                        assert!(found.is_none_or(|found| found == value()));
                        let stats = cache.stats();
                        assert!(stats.bytes <= most && stats.entries <= 300, "{stats:?}");
                    }
                });
            }
        });
        assert_eq!(budget.account("stress").unwrap().reserved(), cache.stats().bytes);
        drop(cache);
        assert_eq!(budget.reserved(), ByteSize::ZERO);
    }
}

#[test]
fn a_value_whose_drop_uses_the_cache_is_no_trouble() {
    static CACHE: OnceLock<Cache<u32, Arc<User>>> = OnceLock::new();
    static DROPS: AtomicU32 = AtomicU32::new(0);
    struct User;
    impl Drop for User {
        fn drop(&mut self) {
            DROPS.fetch_add(1, Relaxed);
            let cache = CACHE.get().unwrap();
            drop((cache.get(&0), cache.len()));
            if DROPS.load(Relaxed).is_multiple_of(3) {
                cache.remove(&1);
            }
        }
    }
    let manual = ManualClock::new();
    let built =
        Cache::builder("drops").max_entries(4).time_to_live(Duration::from_secs(1)).clock(manual.clock()).build();
    let cache = CACHE.get_or_init(|| built.unwrap());
    for key in 0..50 {
        cache.insert(key % 7, Arc::new(User)).unwrap();
    }
    cache.retain(|key, _| key % 2 == 0);
    manual.advance(Duration::from_secs(2));
    cache.remove_expired(1);
    drop(cache.get(&0));
    cache.insert(3, Arc::new(User)).unwrap();
    cache.clear();
    assert_eq!((DROPS.load(Relaxed), cache.len()), (51, 0));
}

/// A key whose `Hash` and `Eq` panic or lie when told to.
#[derive(Clone, Debug)]
struct Moody(u32);

static MOOD: Mutex<u32> = Mutex::new(0);
static LYING: AtomicBool = AtomicBool::new(false);

fn mood() {
    let mut left = MOOD.lock().unwrap_or_else(PoisonError::into_inner);
    *left = left.saturating_sub(1);
    let panics = *left == 1;
    drop(left);
    assert!(!panics, "on purpose");
}

impl Hash for Moody {
    fn hash<H: Hasher>(&self, state: &mut H) {
        mood();
        state.write_u32(if LYING.load(Relaxed) { 0 } else { self.0 });
    }
}

impl PartialEq for Moody {
    fn eq(&self, other: &Self) -> bool {
        mood();
        self.0 == other.0 && !LYING.load(Relaxed)
    }
}

impl Eq for Moody {}

/// A value whose `Clone` and `Drop` panic when told to.
struct Brittle(u32);

impl Clone for Brittle {
    fn clone(&self) -> Self {
        mood();
        Self(self.0)
    }
}

impl Drop for Brittle {
    fn drop(&mut self) {
        if !thread::panicking() {
            mood();
        }
    }
}

#[test]
fn keys_values_weighers_and_loaders_that_panic_or_lie_leave_the_cache_whole() {
    for eviction in BOTH {
        let budget = MemoryBudget::new(ByteSize::kib(64));
        let cache = Cache::builder("moody")
            .max_entries(20)
            .max_bytes_weighed(ByteSize::kib(32), |_: &Moody, value: &Brittle| {
                mood();
                value.0 as usize
            })
            .eviction(eviction)
            .account(budget.account("moody").unwrap())
            .build()
            .unwrap();
        let mut panics = 0;
        for turn in 0..3_000_u32 {
            LYING.store(turn % 50 > 40, Relaxed);
            *MOOD.lock().unwrap() = turn % 9;
            let key = Moody(turn * 7 % 40);
            let worked = catch_unwind(AssertUnwindSafe(|| match turn % 5 {
                0 | 1 => drop(cache.insert(key, Brittle(turn))),
                2 => drop(cache.get(&key)),
                3 => drop(cache.remove(&key)),
                _ => drop(cache.try_get_or_load(&key, |_| {
                    mood();
                    Ok::<_, ()>(Brittle(turn))
                })),
            }));
            panics += u32::from(worked.is_err());
            *MOOD.lock().unwrap() = 0;
            let stats = cache.stats();
            let went = stats.removed + stats.evictions_by_size + stats.evictions_by_pressure;
            assert_eq!(stats.inserts, went + stats.entries as u64, "{stats:?}");
            assert!(stats.entries <= 20 && stats.bytes <= ByteSize::kib(32));
            assert_eq!((stats.loading, budget.reserved()), (ByteSize::ZERO, stats.bytes));
        }
        assert!(panics > 100, "only {panics} panics");
        LYING.store(false, Relaxed);
        cache.clear();
        assert_eq!((cache.len(), budget.reserved()), (0, ByteSize::ZERO));
    }
}

/// A load that runs for `takes`, by each kind of call. Returns the value of the key after each further 10 s.
fn after_load(ttl: u64, takes: impl Fn(&ManualClock)) -> [Vec<Option<u32>>; 2] {
    [false, true].map(|polled| {
        let manual = ManualClock::new();
        let ttl = Duration::from_secs(ttl);
        let built = Cache::builder("loads").max_entries(10).time_to_live(ttl).clock(manual.clock()).build();
        let cache: Cache<u8, u32> = built.unwrap();
        if polled {
            let (other, remote) = (cache.clone(), Remote::default());
            let load = remote.clone();
            let mut task = Task::new(async move { other.try_get_or_load_async(&1, |_| load.load()).await.ok() });
            run(slice::from_mut(&mut task));
            takes(&manual);
            remote.end(Ok(7));
            run(slice::from_mut(&mut task));
            assert_eq!(task.output(), Some(Some(7)), "the caller receives the value in any case");
        } else {
            let loaded = cache.try_get_or_load(&1, |_| {
                takes(&manual);
                Ok::<_, ()>(7)
            });
            assert_eq!(loaded.ok(), Some(7), "the caller receives the value in any case");
        }
        assert_eq!(cache.stats().load_successes, 1);
        let later = |_| {
            let found = cache.get(&1);
            manual.advance(Duration::from_secs(10));
            found
        };
        (0..5).map(later).collect()
    })
}

#[test]
fn time_to_live_counts_from_start_of_load() {
    let takes = |manual: &ManualClock| manual.advance(Duration::from_secs(35));
    for seen in after_load(60, takes) {
        assert_eq!(seen, [Some(7), Some(7), Some(7), None, None]);
    }
}

#[test]
fn load_longer_than_time_to_live_stores_nothing() {
    let takes = |manual: &ManualClock| manual.advance(Duration::from_secs(61));
    for seen in after_load(60, takes) {
        assert_eq!(seen, [None; 5]);
    }
}

#[test]
fn load_frozen_longer_than_time_to_live_stores_nothing() {
    let takes = |manual: &ManualClock| {
        manual.freeze(Duration::from_hours(1));
        manual.advance(Duration::from_millis(10));
    };
    for seen in after_load(60, takes) {
        assert_eq!(seen, [None; 5]);
    }
}

#[test]
fn idle_entry_expires_at_most_ten_ms_early() {
    for idle in [10, 15, 19, 20, 21, 29, 100, 109] {
        for offset in 0..20 {
            for read_after in [0, 7] {
                let (manual, ms) = (ManualClock::new(), Duration::from_millis);
                let built = Cache::builder("idle").max_entries(10).time_to_idle(ms(idle)).clock(manual.clock()).build();
                let cache: Cache<u8, u8> = built.unwrap();
                manual.advance(ms(offset));
                cache.insert(1, 1).unwrap();
                manual.advance(ms(read_after));
                if cache.get(&1).is_none() {
                    assert!(read_after + 10 >= idle, "{idle} ms, expired {read_after} ms after its insertion");
                    continue;
                }
                let mut lived = 0;
                while cache.contains_key(&1) {
                    manual.advance(ms(1));
                    lived += 1;
                }
                assert!((idle - 10..=idle).contains(&lived), "{idle} ms, inserted at {offset}: expired after {lived}");
            }
        }
    }
}

/// Returns the hit ratio of 700 hot keys with updates between the reads, next to keys that are read once.
fn hot_keys_with_updates(eviction: Eviction, vary: bool) -> f64 {
    let cache: Cache<u64, Box<[u8]>> =
        Cache::builder("updates").max_bytes(ByteSize::mib(1)).eviction(eviction).build().unwrap();
    let mut random = Random::new(1);
    let (mut hits, mut reads, mut updates) = (0_u32, 0_u32, 0);
    for turn in 0..150_000_u64 {
        let hot = random.below(700) as u64;
        let hit = cache.get(&hot).is_some();
        if turn > 30_000 {
            reads += 1;
            hits += u32::from(hit);
        }
        if !hit {
            cache.insert(hot, vec![0; 1_000].into()).unwrap();
        }
        let chosen = random.below(700) as u64;
        let other = 900 + random.below(200);
        let size = if vary { other } else { 1_000 };
        if turn % 2 == 0 && cache.contains_key(&chosen) {
            cache.insert(chosen, vec![0; size].into()).unwrap();
            updates += 1;
        }
        cache.insert(1 << 32 | turn, vec![0; 1_000].into()).unwrap();
    }
    let stats = cache.stats();
    assert_eq!((stats.replaced, stats.removed), (updates, 0), "{eviction:?}, sizes vary: {vary}");
    f64::from(hits) / f64::from(reads)
}

#[test]
fn updates_of_other_sizes_are_replacements_and_keep_hits() {
    for eviction in BOTH {
        let (same, vary) = (hot_keys_with_updates(eviction, false), hot_keys_with_updates(eviction, true));
        assert!(vary > same - 0.004, "{eviction:?}: hit ratio {same:.3} with the same sizes, {vary:.3} if they vary");
    }
}

#[test]
fn retain_does_not_visit_expired_entries() {
    for eviction in BOTH {
        let manual = ManualClock::new();
        let built = Cache::builder("retain").max_entries(1_000).eviction(eviction).clock(manual.clock()).build();
        let cache = built.unwrap();
        for key in 0..100_u64 {
            let ttl = Duration::from_secs(if key % 3 == 0 { 1 } else { 1_000 });
            cache.insert_with_ttl(key, key, ttl).unwrap();
        }
        manual.advance(Duration::from_secs(2));
        let mut visited = Vec::new();
        cache.retain(|key, _| {
            visited.push(*key);
            key % 2 == 0
        });
        visited.sort_unstable();
        assert_eq!(visited, (0..100).filter(|key| key % 3 != 0).collect::<Vec<_>>(), "{eviction:?}");
        assert_eq!((0..100).filter(|key| cache.contains_key(key)).count(), 33, "{eviction:?}");
        remove_expired(&cache, usize::MAX);
        let stats = cache.stats();
        assert_eq!((stats.entries, stats.removed, stats.expirations), (33, 33, 34), "{eviction:?}");
    }
}

/// Hashes a number to itself.
#[derive(Clone, Default)]
struct Identity(u64);

impl BuildHasher for Identity {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for Identity {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Keys that differ in their high bits, in their low bits, and by a multiple that spreads none of them.
#[test]
fn keys_of_identity_hasher_are_compared_once() {
    static COMPARED: AtomicU64 = AtomicU64::new(0);
    #[derive(Clone)]
    struct Key(u64);
    impl Hash for Key {
        fn hash<H: Hasher>(&self, state: &mut H) {
            state.write_u64(self.0);
        }
    }
    impl PartialEq for Key {
        fn eq(&self, other: &Self) -> bool {
            COMPARED.fetch_add(1, Relaxed);
            self.0 == other.0
        }
    }
    impl Eq for Key {}
    type KeyOf = fn(u64) -> u64;
    let spread: [(&str, KeyOf); 4] = [
        ("low", |key| key),
        ("high", |key| key << 48),
        ("middle", |key| key << 24),
        ("both halves", |key| key << 48 | key),
    ];
    for (name, key_of) in spread {
        let cache: Cache<Key, u64, Identity> =
            Cache::builder("identity").max_entries(100_000).hash_builder(Identity::default()).build().unwrap();
        for key in 0..20_000 {
            cache.insert(Key(key_of(key)), key).unwrap();
        }
        COMPARED.store(0, Relaxed);
        for key in 0..20_000 {
            assert_eq!(cache.get(&Key(key_of(key))), Some(key));
        }
        let compared = COMPARED.load(Relaxed);
        assert!((20_000..21_000).contains(&compared), "{name} bits: {compared} comparisons for 20,000 reads");
    }
}
