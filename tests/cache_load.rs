//! Loading: one load at a time for each key, whatever the loader does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::thread;

use plimsoll::cache::{Cache, LoadError};
use plimsoll::{ByteSize, MemoryBudget};

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
                    let loaded = cache.try_get_or_load(&format!("key {round}"), || {
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
    assert_eq!((stats.loads, stats.entries, stats.hits + stats.misses), (200, 100, 1_600));
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
        let loaded = cache.try_get_or_load(&Telling, || {
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
        let Err(LoadError::Failed(error)) = loaded else { panic!("{loaded:?}") };
        error
    };
    let errors: Vec<Arc<String>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(errors.iter().all(|error| Arc::ptr_eq(error, &errors[0])), "they are equal, but not the same");
    assert_eq!((loads.into_inner(), cache.stats().load_failures), (1, 1));
    assert_eq!(cache.try_get_or_load(&Telling, || Ok::<_, String>(3)).ok(), Some(3));
}

#[test]
fn a_loader_that_panics_leaves_the_key_to_the_next() {
    let cache = cache();
    let loader = || cache.try_get_or_load("k", || -> Result<u32, ()> { panic!("on purpose") });
    assert!(catch_unwind(AssertUnwindSafe(loader)).is_err());
    assert_eq!(cache.try_get_or_load("k", || Ok::<_, ()>(3)).ok(), Some(3));
}

#[test]
fn a_loader_may_use_the_cache_but_for_its_own_key() {
    let cache = cache();
    let outer = cache.try_get_or_load("outer", || {
        let own = cache.try_get_or_load("outer", || Ok::<_, ()>(0));
        assert!(matches!(own, Err(LoadError::Reentrant)), "{own:?}");
        cache.try_get_or_load("inner", || Ok::<_, ()>(1)).map(|inner| inner + 1).map_err(drop)
    });
    assert_eq!((outer.ok(), cache.get("inner")), (Some(2), Some(1)));
}

#[test]
fn who_asks_with_another_error_type_loads_for_himself() {
    let cache = cache();
    let outer = cache.try_get_or_load("k", || {
        let own = cache.try_get_or_load("k", || Ok::<_, String>(7));
        own.map_err(drop)
    });
    assert_eq!(outer.ok(), Some(7));
}

#[test]
fn a_value_that_is_not_taken_is_returned_all_the_same() {
    let cache: Cache<u8, Vec<u8>> = Cache::builder("load").max_bytes(ByteSize::kib(1)).build().unwrap();
    let loaded = cache.try_get_or_load(&1, || Ok::<_, ()>(vec![0; 5_000]));
    assert_eq!((loaded.ok().map(|value| value.len()), cache.len()), (Some(5_000), 0));
}

#[test]
fn room_is_made_before_a_load_begins_and_given_back_after_it() {
    let budget = MemoryBudget::new(ByteSize::kib(40));
    let cache: Cache<u8, Vec<u8>> = Cache::builder("load")
        .max_bytes(ByteSize::kib(30))
        .expected_load(ByteSize::kib(20))
        .account(budget.account("load"))
        .build()
        .unwrap();
    for key in 0..25 {
        cache.insert(key, vec![0; 1_000]).unwrap();
    }
    let before = cache.len();
    let loaded = cache.try_get_or_load(&100, || {
        let stats = cache.stats();
        assert!(stats.bytes.saturating_add(stats.loading) <= ByteSize::kib(30), "{stats:?}");
        assert_eq!(budget.reserved(), stats.bytes.saturating_add(ByteSize::kib(20)));
        Ok::<_, ()>(vec![0; 10_000])
    });
    assert!(loaded.is_ok() && cache.len() < before);
    assert_eq!((cache.stats().loading, budget.reserved()), (ByteSize::ZERO, cache.stats().bytes));

    let _other = budget.account("other").try_reserve(ByteSize::kib(25));
    let refused = cache.try_get_or_load(&101, || Ok::<_, ()>(vec![]));
    assert!(matches!(refused, Err(LoadError::NoRoom(_))), "{refused:?}");
    assert_eq!((cache.stats().loading, budget.account("load").held()), (ByteSize::ZERO, cache.stats().bytes));
}
