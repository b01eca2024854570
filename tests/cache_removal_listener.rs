//! The removal listener: once for each entry that leaves the cache, with its cause, without the lock.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "support/random.rs"]
mod random;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use plimsoll::cache::{CacheBuilder, Eviction, RemovalCause};
use plimsoll::{ByteSize, Cache, ManualClock, MemoryBudget};

use random::Random;

const BOTH: [Eviction; 2] = [Eviction::S3Fifo, Eviction::Lru];

type Calls = Arc<Mutex<Vec<(u64, u64, RemovalCause)>>>;

/// Records the calls of the listener.
fn recorded(builder: CacheBuilder<u64, u64>) -> (CacheBuilder<u64, u64>, Calls) {
    let calls = Calls::default();
    let listener = Arc::clone(&calls);
    (builder.removal_listener(move |key, value, cause| listener.lock().unwrap().push((*key, *value, cause))), calls)
}

fn take(calls: &Calls) -> Vec<(u64, u64, RemovalCause)> {
    std::mem::take(&mut calls.lock().unwrap())
}

#[test]
fn insert_into_full_cache_reports_size() {
    for eviction in BOTH {
        let (builder, calls) = recorded(Cache::builder("full").max_entries(2).eviction(eviction));
        let cache = builder.build().unwrap();
        (1..=3).for_each(|key| cache.insert(key, 10 * key).unwrap());
        let evicted = (1..=3).find(|key| cache.get(key).is_none()).unwrap();
        assert_eq!(take(&calls), [(evicted, 10 * evicted, RemovalCause::Size)], "{eviction:?}");
        cache.evict_to(ByteSize::ZERO);
        assert_eq!(take(&calls).iter().filter(|call| call.2 == RemovalCause::Size).count(), 2);
    }
}

#[test]
fn expired_entry_is_reported_when_it_is_freed() {
    let manual = ManualClock::new();
    let builder = Cache::builder("expired").max_entries(10).time_to_live(Duration::from_secs(1));
    let (builder, calls) = recorded(builder.clock(manual.clock()));
    let cache = builder.build().unwrap();
    (1..=4).for_each(|key| cache.insert(key, key).unwrap());
    manual.advance(Duration::from_secs(1));
    assert_eq!((cache.get(&1), take(&calls)), (None, vec![(1, 1, RemovalCause::Expired)]));
    assert_eq!((cache.remove(&2), take(&calls)), (None, vec![(2, 2, RemovalCause::Expired)]));
    cache.retain(|_, _| true);
    assert!(cache.is_empty() && take(&calls).iter().all(|call| call.2 == RemovalCause::Expired));
}

#[test]
fn entry_released_for_other_account_reports_pressure() {
    let budget = MemoryBudget::new(ByteSize::kib(64));
    let (builder, calls) =
        recorded(Cache::builder("pressure").max_entries(1_000).account(budget.account("pressure").unwrap()));
    let cache = builder.build().unwrap();
    (0..100).for_each(|key| cache.insert(key, key).unwrap());
    let _other = budget.account("other").unwrap().try_reserve(budget.limit()).unwrap();
    let calls = take(&calls);
    assert_eq!((cache.len(), calls.len()), (0, 100));
    assert!(calls.iter().all(|call| call.2 == RemovalCause::Pressure), "{calls:?}");
}

#[test]
fn remove_retain_and_rejected_insert_report_removed() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&calls);
    let cache: Cache<u64, Vec<u8>> = Cache::builder("removed")
        .max_bytes(ByteSize::kib(4))
        .removal_listener(move |key, _: &Vec<u8>, cause| listener.lock().unwrap().push((*key, cause)))
        .build()
        .unwrap();
    (1..=3).for_each(|key| cache.insert(key, vec![1]).unwrap());
    assert_eq!(cache.remove(&1), Some(vec![1]));
    cache.retain(|key, _| *key != 2);
    // The rejected value was never stored: the call is for the former value.
    assert!(cache.insert(3, vec![0; 10_000]).is_err());
    let removed = [1, 2, 3].map(|key| (key, RemovalCause::Removed));
    assert_eq!((cache.len(), calls.lock().unwrap().as_slice()), (0, &removed[..]));
}

#[test]
fn later_value_of_key_reports_replaced() {
    let (builder, calls) = recorded(Cache::builder("replaced").max_entries(10));
    let cache = builder.build().unwrap();
    cache.insert(1, 10).unwrap();
    cache.insert(1, 11).unwrap();
    assert_eq!(take(&calls), [(1, 10, RemovalCause::Replaced)]);
    assert_eq!(cache.try_get_or_load_if(&1, |_| true, |_| Ok::<_, ()>(12)).unwrap(), 12);
    assert_eq!(take(&calls), [(1, 11, RemovalCause::Replaced)]);
}

#[test]
fn grown_value_in_small_cache_reports_replaced() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&calls);
    let cache: Cache<u64, usize> = Cache::builder("grown")
        .max_bytes_weighed(ByteSize::kib(4), |_, weight: &usize| *weight)
        .removal_listener(move |key, weight: &usize, cause| listener.lock().unwrap().push((*key, *weight, cause)))
        .build()
        .unwrap();
    (0..40).for_each(|key| cache.insert(key, 1).unwrap());
    cache.insert(5, 3_500).unwrap();
    let calls = calls.lock().unwrap();
    assert_eq!((cache.get(&5), cache.stats().replaced), (Some(3_500), 1));
    let replaced: Vec<_> = calls.iter().filter(|call| call.2 == RemovalCause::Replaced).collect();
    assert_eq!((replaced, calls.len()), (vec![&(5, 1, RemovalCause::Replaced)], 41 - cache.len()));
}

#[test]
fn clear_reports_cleared_and_drop_of_cache_nothing() {
    let (builder, calls) = recorded(Cache::builder("cleared").max_entries(100));
    let cache = builder.build().unwrap();
    (0..50).for_each(|key| cache.insert(key, key).unwrap());
    cache.clear();
    let cleared = take(&calls);
    assert!(cleared.len() == 50 && cleared.iter().all(|call| call.2 == RemovalCause::Cleared));
    cache.insert(1, 1).unwrap();
    drop(cache);
    assert_eq!(take(&calls), []);
}

#[test]
fn value_that_was_never_stored_is_not_reported() {
    let (builder, calls) = recorded(Cache::builder("none").max_entries(0));
    let cache = builder.build().unwrap();
    assert!(cache.insert(1, 1).is_err());
    assert_eq!(cache.try_get_or_load(&1, |_| Ok::<_, ()>(1)).ok(), Some(1));
    assert_eq!(take(&calls), []);
}

/// Four threads, all operations, values with distinct ids.
#[test]
fn each_stored_value_is_reported_once_or_stays() {
    const IDS: usize = 60_000;
    for (eviction, shards) in [(Eviction::S3Fifo, 1), (Eviction::S3Fifo, 4), (Eviction::Lru, 1)] {
        let reported: Arc<Vec<AtomicU8>> = Arc::new((0..IDS).map(|_| AtomicU8::new(0)).collect());
        let calls = Arc::new(AtomicU64::new(0));
        let (listener, count) = (Arc::clone(&reported), Arc::clone(&calls));
        let budget = MemoryBudget::new(ByteSize::kib(200));
        let cache: Cache<u64, usize> = Cache::builder("random")
            .max_entries(300)
            .max_bytes_weighed(ByteSize::kib(100), |_, id: &usize| id % 1_000)
            .eviction(eviction)
            .shards(shards)
            .account(budget.account("random").unwrap())
            .removal_listener(move |_, id: &usize, _| {
                listener[*id].fetch_add(1, SeqCst);
                count.fetch_add(1, SeqCst);
            })
            .build()
            .unwrap();
        let next = AtomicU64::new(0);
        let new_id = || usize::try_from(next.fetch_add(1, SeqCst)).unwrap();
        let inserted: Vec<usize> = thread::scope(|scope| {
            let work = |seed| {
                let (cache, budget) = (&cache, &budget);
                move || {
                    let (mut random, mut inserted) = (Random::new(seed), Vec::new());
                    for _ in 0..5_000 {
                        let key = random.below(500) as u64;
                        match random.below(100) {
                            0..50 => {
                                let id = new_id();
                                if cache.insert(key, id).is_ok() {
                                    inserted.push(id);
                                }
                            }
                            50..70 => drop(cache.try_get_or_load(&key, |_| Ok::<_, ()>(new_id()))),
                            70..80 => drop(cache.try_get_or_load_if(&key, |_| true, |_| Ok::<_, ()>(new_id()))),
                            80..95 => drop(cache.remove(&key)),
                            95..97 => drop(budget.account("other").unwrap().try_reserve(ByteSize::kib(150))),
                            97 => drop(cache.evict_to(ByteSize::kib(random.below(100) as u64))),
                            98 => cache.retain(|key, _| key % 7 != 0),
                            _ if random.one_in(5) => cache.clear(),
                            _ => {}
                        }
                    }
                    inserted
                }
            };
            let threads: Vec<_> = (1..=4).map(|seed| scope.spawn(work(seed))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let mut left = 0;
        cache.for_each(|_, id| {
            left += 1;
            assert_eq!(reported[*id].fetch_add(1, SeqCst), 0, "{id} is reported and still there");
        });
        assert!(reported.iter().all(|count| count.load(SeqCst) <= 1), "an entry is reported twice");
        assert!(inserted.iter().all(|id| reported[*id].load(SeqCst) == 1), "an entry is gone and not reported");
        let stats = cache.stats();
        // Keys that a rejected write removed before its value came in are counted as removed.
        assert_eq!(stats.inserts + stats.replaced, calls.load(SeqCst) + left, "{eviction:?} {stats:?}");
        assert_eq!(left, stats.entries as u64);
    }
}

#[test]
fn listener_may_use_the_cache() {
    for shards in [1, 4] {
        let handle = Arc::new(OnceLock::<Cache<u64, u64>>::new());
        let used = Arc::clone(&handle);
        let cache = Cache::builder("reentry")
            .max_entries(50)
            .shards(shards)
            .removal_listener(move |key, value: &u64, _| {
                let Some(cache) = used.get() else { return };
                assert_ne!(cache.get(key), Some(*value), "the entry has left");
                // Evicted entries come in again, once.
                if *key < 1_000 {
                    cache.insert(key + 1_000, *value).unwrap();
                }
            })
            .build()
            .unwrap();
        handle.set(cache.clone()).ok().unwrap();
        (0..200).for_each(|key| cache.insert(key, key).unwrap());
        assert_eq!(cache.len(), 50);
        cache.insert(7, 70).unwrap();
        assert_eq!((cache.remove(&7), cache.get(&1_007)), (Some(70), Some(70)));
        cache.retain(|key, _| *key >= 1_000);
        cache.clear();
        cache.evict_to(ByteSize::ZERO);
        assert!(cache.is_empty());
    }
}

/// A value that counts its drops.
struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn listener_that_panics_loses_no_entry() {
    let (calls, drops) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let listener = Arc::clone(&calls);
    let cache: Cache<u64, Counted> = Cache::builder("panics")
        .max_entries(100)
        .removal_listener(move |_, _: &Counted, _| {
            listener.fetch_add(1, SeqCst);
            panic!("the listener panics (this panic belongs to the test)");
        })
        .build()
        .unwrap();
    let panics = |work: &dyn Fn()| assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
    let counts = || (cache.len() as u64, calls.load(SeqCst), drops.load(SeqCst));
    (0..20).for_each(|key| cache.insert(key, Counted(Arc::clone(&drops))).unwrap());
    panics(&|| cache.retain(|_, _| false));
    assert_eq!(counts(), (0, 20, 20), "it goes on to its end");
    (0..20).for_each(|key| cache.insert(key, Counted(Arc::clone(&drops))).unwrap());
    panics(&|| drop(cache.remove(&0)));
    assert_eq!(counts(), (19, 21, 21));
    panics(&|| cache.clear());
    assert_eq!(counts(), (0, 40, 40));
    cache.insert(1, Counted(Arc::clone(&drops))).unwrap();
    panics(&|| cache.insert(1, Counted(Arc::clone(&drops))).unwrap());
    assert_eq!(counts(), (1, 41, 41));
}
