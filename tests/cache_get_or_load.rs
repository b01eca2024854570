//! Loads that cannot fail, also if the cache refuses them.
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
#[path = "support/remote.rs"]
mod remote;

use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use plimsoll::{ByteSize, Cache, ManualClock, MemoryBudget};

use caches::is_whole;
use executor::{Task, run};
use remote::Remote;

fn cache() -> Cache<u64, u64> {
    Cache::builder("infallible").max_entries(100).build().unwrap()
}

#[test]
fn get_or_load_of_absent_key_loads_once() {
    let cache = cache();
    assert_eq!(cache.get_or_load(&1, |_| 10), 10);
    assert_eq!(cache.get_or_load(&1, |_| panic!("the value is there")), 10);
    assert_eq!((cache.stats().load_successes, cache.stats().hits, cache.stats().misses), (1, 1, 1));
}

#[test]
fn callers_of_get_or_load_share_one_load() {
    let (cache, loads, gate) = (cache(), AtomicU64::new(0), Barrier::new(4));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for key in 0..100 {
                    gate.wait();
                    let load = |key: &u64| {
                        loads.fetch_add(1, SeqCst);
                        thread::yield_now();
                        *key
                    };
                    assert_eq!(cache.get_or_load(&key, load), key);
                }
            });
        }
    });
    assert_eq!((loads.into_inner(), cache.len()), (100, 100));
}

#[test]
fn get_or_load_beyond_bound_returns_value_unstored() {
    let cache: Cache<u64, Vec<u8>> =
        Cache::builder("bound").max_bytes(ByteSize::kib(8)).reserve_per_load(ByteSize::kib(5)).build().unwrap();
    let outer = cache.get_or_load(&1, |_| {
        assert_eq!(cache.get_or_load(&2, |_| vec![2; 100]), vec![2; 100]);
        vec![1; 100]
    });
    assert_eq!((outer, cache.contains_key(&1), cache.contains_key(&2)), (vec![1; 100], true, false));
    let stats = cache.stats();
    assert_eq!((stats.load_successes, stats.rejections), (2, 1));
    assert!(is_whole(&stats), "{stats:?}");
}

#[test]
fn get_or_load_beyond_budget_returns_value_unstored() {
    let budget = MemoryBudget::new(ByteSize::kib(64));
    let cache: Cache<u64, u64> = Cache::builder("budget")
        .max_entries(10)
        .reserve_per_load(ByteSize::kib(32))
        .account(budget.account("budget").unwrap())
        .build()
        .unwrap();
    let others = budget.account("others").unwrap().try_reserve(ByteSize::kib(40)).unwrap();
    assert_eq!((cache.get_or_load(&1, |_| 10), cache.len(), cache.stats().rejections), (10, 0, 1));
    drop(others);
    assert_eq!((cache.get_or_load(&1, |_| 11), cache.get(&1)), (11, Some(11)));
}

#[test]
fn loader_that_asks_for_its_own_key_runs_again() {
    let cache = cache();
    let outer = cache.get_or_load(&1, |_| cache.get_or_load(&1, |_| 10) + 1);
    assert_eq!((outer, cache.get(&1), cache.stats().rejections), (11, Some(11), 1));
}

/// Each thread loads a key, and its loader asks for the key of the other thread.
#[test]
fn loaders_that_wait_for_each_other_end() {
    let (cache, gate) = (cache(), Barrier::new(2));
    thread::scope(|scope| {
        for (own, other) in [(1, 2), (2, 1)] {
            let (cache, gate) = (&cache, &gate);
            scope.spawn(move || {
                let value = cache.get_or_load(&own, |_| {
                    gate.wait();
                    cache.get_or_load(&other, |_| 10 * other) + own
                });
                assert!(value >= 10, "{value}");
            });
        }
    });
    assert!(cache.stats().rejections >= 1 && is_whole(&cache.stats()), "{:?}", cache.stats());
}

#[test]
fn panic_of_loader_leaves_key_to_next_caller() {
    let cache = cache();
    let panics = || cache.get_or_load(&1, |_| panic!("the loader panics (this panic belongs to the test)"));
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    assert_eq!(cache.get_or_load(&1, |_| 10), 10);
}

#[test]
fn write_during_get_or_load_cancels_it() {
    let cache = cache();
    let value = cache.get_or_load(&1, |_| {
        cache.insert(1, 20).unwrap();
        10
    });
    assert_eq!((value, cache.get(&1), cache.stats().cancelled_loads), (10, Some(20), 1));
}

/// Starts an async load that ends with the value of `remote`.
fn call<'a>(cache: &'a Cache<u64, u64>, key: u64, remote: &Remote) -> Task<'a, u64> {
    let remote = remote.clone();
    Task::new(async move {
        let load = |_| async move { u64::from(remote.load().await.unwrap()) };
        cache.get_or_load_async(&key, load).await
    })
}

#[test]
fn async_callers_of_get_or_load_share_one_load() {
    let (cache, remote) = (cache(), Remote::default());
    let mut tasks = [call(&cache, 1, &remote), call(&cache, 1, &remote), call(&cache, 1, &remote)];
    run(&mut tasks);
    tasks[0] = Task::new(pending()); // the caller that started the load is cancelled
    remote.end(Ok(10));
    run(&mut tasks);
    assert!(tasks[1..].iter_mut().all(|task| task.output() == Some(10)));
    assert_eq!((cache.stats().load_successes, cache.get(&1)), (1, Some(10)));
}

#[test]
fn async_get_or_load_beyond_bound_returns_value_unstored() {
    let cache: Cache<u64, u64> =
        Cache::builder("bound").max_bytes(ByteSize::kib(8)).reserve_per_load(ByteSize::kib(5)).build().unwrap();
    let (first, second) = (Remote::default(), Remote::default());
    let mut tasks = [call(&cache, 1, &first), call(&cache, 2, &second), call(&cache, 2, &second)];
    run(&mut tasks);
    second.end(Ok(20));
    run(&mut tasks);
    second.end(Ok(20));
    first.end(Ok(10));
    run(&mut tasks);
    assert_eq!(tasks.each_mut().map(Task::output)[0], Some(10));
    assert_eq!((cache.get(&1), cache.get(&2)), (Some(10), None));
    assert!(cache.stats().rejections >= 1 && is_whole(&cache.stats()), "{:?}", cache.stats());
}

#[test]
fn async_loader_that_asks_for_its_own_key_runs_again() {
    let cache = cache();
    let inner = cache.clone();
    let load = |_| async move { inner.get_or_load_async(&1, |_| async { 10 }).await + 1 };
    let mut tasks = [Task::new(cache.get_or_load_async(&1, load))];
    run(&mut tasks);
    assert_eq!(tasks[0].output(), Some(11));
    assert_eq!((cache.get(&1), cache.stats().rejections), (Some(11), 1));
}

#[test]
fn starter_of_panicked_get_or_load_panics() {
    let (cache, first, second) = (cache(), Remote::default(), Remote::default());
    let mut tasks = [call(&cache, 1, &first), call(&cache, 1, &second)];
    run(&mut tasks);
    first.0.panics.store(true, SeqCst);
    first.wake();
    let mut panicked = [false; 2];
    for _ in 0..4 {
        for at in [1, 0] {
            panicked[at] |= catch_unwind(AssertUnwindSafe(|| tasks[at].poll())).is_err();
        }
    }
    assert_eq!(panicked, [true, false]);
    second.end(Ok(2));
    run(&mut tasks);
    assert_eq!((tasks[1].output(), cache.get(&1)), (Some(2), Some(2)));
}

#[test]
fn get_or_load_of_expired_value_returns_it() {
    let manual = ManualClock::new();
    let cache = Cache::builder("ttl").max_entries(10).time_to_live(Duration::from_secs(1)).clock(manual.clock());
    let cache: Cache<u64, u64> = cache.build().unwrap();
    let value = cache.get_or_load(&1, |_| {
        manual.advance(Duration::from_secs(1));
        10
    });
    assert_eq!((value, cache.get(&1), cache.stats().expired_loads), (10, None, 1));
}
