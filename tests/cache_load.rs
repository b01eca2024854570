//! Loading: one load at a time for each key, whatever the loader does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

#[path = "support/caches.rs"]
mod caches;

use std::future::Future;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Barrier, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;

use plimsoll::cache::{BuildError, Cache, LoadError};
use plimsoll::{ByteSize, MemoryBudget};

use caches::reserve_per_load;

fn cache() -> Cache<String, u32> {
    Cache::builder("load").max_entries(100).build().unwrap()
}

#[test]
fn eight_threads_that_miss_one_key_load_it_once() {
    let (cache, loads, gate) = (cache(), AtomicU32::new(0), Barrier::new(8));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for round in 0..200 {
                    gate.wait();
                    let loaded = cache.try_get_or_load(&format!("key {round}"), |_| {
                        loads.fetch_add(1, Relaxed);
                        thread::yield_now();
                        Ok::<_, ()>(round)
                    });
                    assert_eq!(loaded.ok(), Some(round));
                }
            });
        }
    });
    assert_eq!(loads.into_inner(), 200);
    let stats = cache.stats();
    assert_eq!((stats.load_successes, stats.entries, stats.hits + stats.misses), (200, 100, 1_600));
}

/// A key that tells when it was compared: as the cache is empty, with one that is being loaded.
#[derive(Clone)]
struct Telling;

static COMPARED: AtomicU32 = AtomicU32::new(0);

impl Hash for Telling {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(0);
    }
}

impl PartialEq for Telling {
    fn eq(&self, _: &Self) -> bool {
        COMPARED.fetch_add(1, Relaxed);
        true
    }
}

impl Eq for Telling {}

#[test]
fn all_who_wait_get_the_same_error_and_the_next_one_loads_again() {
    let cache = Cache::builder("load").max_entries(100).build().unwrap();
    let (loads, gate) = (AtomicU32::new(0), Barrier::new(4));
    let ask = || {
        gate.wait();
        let loaded = cache.try_get_or_load(&Telling, |_| {
            loads.fetch_add(1, Relaxed);
            let mut turns = 0;
            // Who compares does so under the lock, and waits from then on.
            while COMPARED.load(Relaxed) < 3 {
                thread::yield_now();
                turns += 1;
                assert!(turns < 50_000_000, "nobody came");
            }
            Err::<u32, _>(String::from("no such thing"))
        });
        let Err(LoadError::Load(error)) = loaded else { panic!("{loaded:?}") };
        error
    };
    let errors: Vec<Arc<String>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(errors.iter().all(|error| Arc::ptr_eq(error, &errors[0])), "they are equal, but not the same");
    assert_eq!((loads.into_inner(), cache.stats().load_failures), (1, 1));
    assert_eq!(cache.try_get_or_load(&Telling, |_| Ok::<_, String>(3)).ok(), Some(3));
}

#[test]
fn a_loader_that_panics_leaves_the_key_to_the_next() {
    let cache = cache();
    let loader = || cache.try_get_or_load("k", |_| -> Result<u32, ()> { panic!("on purpose") });
    assert!(catch_unwind(AssertUnwindSafe(loader)).is_err());
    assert_eq!(cache.try_get_or_load("k", |_| Ok::<_, ()>(3)).ok(), Some(3));
}

#[test]
fn a_loader_may_use_the_cache_but_for_its_own_key() {
    let cache = cache();
    let outer = cache.try_get_or_load("outer", |_| {
        let own = cache.try_get_or_load("outer", |_| Ok::<_, ()>(0));
        assert!(matches!(own, Err(LoadError::Reentrant)), "{own:?}");
        cache.try_get_or_load("inner", |_| Ok::<_, ()>(1)).map(|inner| inner + 1).map_err(drop)
    });
    assert_eq!((outer.ok(), cache.get("inner")), (Some(2), Some(1)));
}

#[test]
fn who_asks_with_another_error_type_loads_for_himself() {
    let cache = cache();
    let outer = cache.try_get_or_load("k", |_| {
        let own = cache.try_get_or_load("k", |_| Ok::<_, String>(7));
        own.map_err(drop)
    });
    assert_eq!(outer.ok(), Some(7));
}

#[test]
fn a_value_that_is_not_taken_is_returned_all_the_same() {
    let cache: Cache<u8, Vec<u8>> = Cache::builder("load").max_bytes(ByteSize::kib(1)).build().unwrap();
    let loaded = cache.try_get_or_load(&1, |_| Ok::<_, ()>(vec![0; 5_000]));
    assert_eq!((loaded.ok().map(|value| value.len()), cache.len()), (Some(5_000), 0));
}

#[test]
fn room_is_made_before_a_load_begins_and_given_back_after_it() {
    let budget = MemoryBudget::new(ByteSize::kib(40));
    let cache: Cache<u8, Vec<u8>> = Cache::builder("load")
        .max_bytes(ByteSize::kib(30))
        .reserve_per_load(ByteSize::kib(20))
        .account(budget.account("load").unwrap())
        .build()
        .unwrap();
    for key in 0..25 {
        cache.insert(key, vec![0; 1_000]).unwrap();
    }
    let before = cache.len();
    let loaded = cache.try_get_or_load(&100, |_| {
        let stats = cache.stats();
        assert!(stats.bytes.saturating_add(stats.loading) <= ByteSize::kib(30), "{stats:?}");
        assert_eq!(budget.reserved(), stats.bytes.saturating_add(ByteSize::kib(20)));
        Ok::<_, ()>(vec![0; 10_000])
    });
    assert!(loaded.is_ok() && cache.len() < before);
    assert_eq!((cache.stats().loading, budget.reserved()), (ByteSize::ZERO, cache.stats().bytes));

    let _other = budget.account("other").unwrap().try_reserve(ByteSize::kib(25));
    let refused = cache.try_get_or_load(&101, |_| Ok::<_, ()>(vec![]));
    assert!(matches!(refused, Err(LoadError::BudgetExceeded(_))), "{refused:?}");
    assert_eq!(
        (cache.stats().loading, budget.account("load").unwrap().reserved()),
        (ByteSize::ZERO, cache.stats().bytes)
    );
}

/// Creates a cache of `entries` values of 1 MiB that holds at most 8 MiB.
fn of_eight_mib(per_load: u64, entries: u64) -> Cache<u64, Vec<u8>> {
    let builder = Cache::builder("loads").max_bytes(ByteSize::mib(8));
    let cache = reserve_per_load(builder, ByteSize::mib(per_load)).build().unwrap();
    (0..entries).for_each(|key| cache.insert(key, vec![0; 1 << 20]).unwrap());
    assert_eq!(cache.len() as u64, entries);
    cache
}

/// Four loads at a time that reserve 3 MiB each, of 8 MiB.
#[test]
fn blocking_loads_reserve_at_most_max_bytes() {
    let cache = of_eight_mib(3, 7);
    let (outcome, outcomes) = mpsc::channel();
    let callers: Vec<_> = (100..104)
        .map(|key| {
            let (finish, finished) = mpsc::channel::<()>();
            let (cache, outcome) = (cache.clone(), outcome.clone());
            let caller = thread::spawn(move || {
                let load = |_| {
                    outcome.send(true).unwrap();
                    finished.recv().unwrap();
                    Ok::<_, &'static str>(vec![1; 1 << 20])
                };
                if cache.try_get_or_load(&key, load).is_err() {
                    outcome.send(false).unwrap();
                }
            });
            (finish, caller)
        })
        .collect();
    let started = outcomes.iter().take(4).filter(|started| *started).count();
    let stats = cache.stats();
    assert!(stats.loading <= ByteSize::mib(8), "{started} loads reserve {}", stats.loading);
    assert!(stats.bytes.saturating_add(stats.loading) <= ByteSize::mib(8), "{stats:?}");
    assert_eq!((started, stats.loading), (2, ByteSize::mib(6)));
    for (finish, caller) in callers {
        _ = finish.send(());
        caller.join().unwrap();
    }
    assert_eq!(cache.stats().loading, ByteSize::ZERO);
}

#[test]
fn async_loads_reserve_at_most_max_bytes() {
    let cache = of_eight_mib(3, 7);
    let pending = std::future::pending::<Result<Vec<u8>, &'static str>>;
    let keys = [100, 101, 102, 103];
    let mut calls: Vec<_> = keys.iter().map(|key| Box::pin(cache.try_get_or_load_async(key, |_| pending()))).collect();
    let mut poll = |at: usize| calls[at].as_mut().poll(&mut Context::from_waker(Waker::noop()));
    let started = (0..4).filter(|&at| poll(at).is_pending()).count();
    let stats = cache.stats();
    assert!(stats.bytes.saturating_add(stats.loading) <= ByteSize::mib(8), "{started} loads: {stats:?}");
    assert_eq!((started, stats.loading), (2, ByteSize::mib(6)));
    drop(calls);
    assert_eq!(cache.stats().loading, ByteSize::ZERO);
    let mut next = pin!(cache.try_get_or_load_async(&100, |_| async { Ok::<_, &'static str>(vec![]) }));
    let next = next.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(next, Poll::Ready(Ok(_))), "{next:?}");
}

/// No other load runs, and the reservation alone is larger than the cache may be.
#[test]
fn refused_load_evicts_nothing() {
    let cache = of_eight_mib(5, 3);
    cache.set_max_bytes(ByteSize::mib(4));
    let refused = cache.try_get_or_load(&100, |_| Ok::<_, &'static str>(vec![]));
    assert!(matches!(refused, Err(LoadError::TooManyLoads { .. })), "{refused:?}");
    assert_eq!((cache.len(), cache.stats().loading), (3, ByteSize::ZERO));
    let wrong =
        Cache::<u64, u64>::builder("loads").max_bytes(ByteSize::mib(4)).reserve_per_load(ByteSize::mib(5)).build();
    assert!(matches!(wrong, Err(BuildError::LoadExceedsBound { .. })), "{wrong:?}");
}

/// Another load has reserved what the second one would need.
#[test]
fn load_refused_next_to_another_evicts_nothing() {
    let cache = of_eight_mib(5, 2);
    let outer = cache.try_get_or_load(&100, |_| {
        let before = cache.len();
        let refused = cache.try_get_or_load(&101, |_| Ok::<_, &'static str>(vec![]));
        assert!(refused.is_err() && !caches::is_load_error(&refused), "{refused:?}");
        assert_eq!(cache.len(), before);
        Ok::<_, &'static str>(vec![])
    });
    assert!(outer.is_ok(), "{outer:?}");
}

/// The account can never hold what the load reserves, even without the entries of the cache.
#[test]
fn load_refused_by_budget_evicts_nothing() {
    let budget = MemoryBudget::new(ByteSize::mib(8));
    let builder = Cache::builder("loads").max_bytes(ByteSize::mib(8)).account(budget.account("loads").unwrap());
    let cache = reserve_per_load(builder, ByteSize::mib(5)).build().unwrap();
    (0..2).for_each(|key| cache.insert(key, vec![0_u8; 1 << 20]).unwrap());
    let others = budget.account("others").unwrap().try_reserve(ByteSize::mib(5)).unwrap();
    let refused = cache.try_get_or_load(&100, |_| Ok::<_, &'static str>(vec![]));
    assert!(refused.is_err() && !caches::is_load_error(&refused), "{refused:?}");
    assert_eq!((cache.len(), cache.stats().loading), (2, ByteSize::ZERO));
    drop(others);
}

#[test]
fn failed_load_with_free_bytes_evicts_nothing() {
    let cache = of_eight_mib(3, 4);
    let failed = cache.try_get_or_load(&100, |_| Err::<Vec<u8>, _>("down"));
    assert!(caches::is_load_error(&failed), "{failed:?}");
    assert_eq!((cache.len(), cache.stats().loading), (4, ByteSize::ZERO));
}

#[test]
fn failed_load_evicts_at_most_what_it_reserved() {
    let cache = of_eight_mib(2, 7);
    let failed = cache.try_get_or_load(&100, |_| Err::<Vec<u8>, _>("down"));
    assert!(caches::is_load_error(&failed), "{failed:?}");
    assert!(cache.len() >= 5, "{} of 7 entries are left", cache.len());
}
