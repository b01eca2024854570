//! Code of the user's that does what it should not, and figures at their ends: the cache stays whole and answers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "support/caches.rs"]
mod caches;

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Barrier, LazyLock};
use std::thread;
use std::time::Duration;

use plimsoll::cache::{Cache, Eviction, LoadError, RejectReason, ToKey};
use plimsoll::{ByteSize, ManualClock, MemoryBudget};

use caches::is_whole;

const BOTH: [Eviction; 2] = [Eviction::S3Fifo, Eviction::Lru];

#[test]
fn hash_weigher_loader_and_drop_may_use_the_cache() {
    #[derive(Clone, PartialEq, Eq)]
    struct Asking(u32);
    impl Hash for Asking {
        fn hash<H: Hasher>(&self, state: &mut H) {
            let _entries = CACHE.len();
            state.write_u32(self.0);
        }
    }
    #[derive(Clone)]
    struct Loading(u32);
    impl Drop for Loading {
        fn drop(&mut self) {
            // What is dropped for want of room asks for what took its place, and for itself.
            if self.0 > 0 && DROPS.fetch_add(1, Relaxed) < 200 {
                drop(CACHE.try_get_or_load(&Asking(self.0 + 1), |_| Ok::<_, ()>(Loading(0))));
                drop(CACHE.try_get_or_load(&Asking(self.0), |_| Ok::<_, ()>(Loading(0))));
            }
        }
    }
    static DROPS: AtomicU32 = AtomicU32::new(0);
    static CACHE: LazyLock<Cache<Asking, Loading>> = LazyLock::new(|| {
        let weigh = |_: &Asking, value: &Loading| CACHE.len() + value.0 as usize;
        Cache::builder("asking").max_entries(8).max_bytes_weighed(ByteSize::kib(8), weigh).build().unwrap()
    });
    for key in 1..100 {
        drop(CACHE.try_get_or_load(&Asking(key), |_| {
            drop((CACHE.remove(&Asking(key - 1)), CACHE.remove_expired(5)));
            Ok::<_, ()>(Loading(key))
        }));
    }
    CACHE.retain(|key, _| key.0 % 2 == 0);
    CACHE.clear();
    assert!(DROPS.load(Relaxed) >= 100 && is_whole(&CACHE.stats()), "{:?}", CACHE.stats());
}

#[test]
fn loader_that_writes_to_its_cache_is_cancelled() {
    for eviction in BOTH {
        let cache: Cache<u32, u32> = Cache::builder("writes").max_entries(20).eviction(eviction).build().unwrap();
        let after_load = |write: &dyn Fn()| {
            cache.remove(&1);
            let loaded = cache.try_get_or_load(&1, |_| {
                write();
                Ok::<_, ()>(7)
            });
            assert_eq!((loaded.ok(), is_whole(&cache.stats())), (Some(7), true), "{:?}", cache.stats());
            cache.get(&1)
        };
        assert_eq!(after_load(&|| cache.insert(1, 3).unwrap()), Some(3));
        assert_eq!(after_load(&|| drop((cache.insert(1, 3), cache.remove(&1)))), None);
        assert_eq!(after_load(&|| cache.clear()), None);
        assert_eq!(after_load(&|| cache.retain(|_, _| false)), None);
        assert_eq!(after_load(&|| (100..200).for_each(|key| cache.insert(key, key).unwrap())), Some(7));
        assert_eq!(after_load(&|| caches::evict_to(&cache, ByteSize::ZERO)), Some(7));
        assert_eq!(after_load(&|| caches::set_max_entries(&cache, 0)), None);
        caches::set_max_entries(&cache, 3);
        assert_eq!(after_load(&|| ()), Some(7));
    }
}

#[test]
fn a_clone_that_panics_takes_nothing_from_those_who_wait() {
    static BRITTLE: AtomicBool = AtomicBool::new(false);
    static COMPARED: AtomicU32 = AtomicU32::new(0);
    #[derive(Clone)]
    struct Telling;
    impl Hash for Telling {
        fn hash<H: Hasher>(&self, _: &mut H) {}
    }
    impl PartialEq for Telling {
        fn eq(&self, _: &Self) -> bool {
            COMPARED.fetch_add(1, Relaxed);
            true
        }
    }
    impl Eq for Telling {}
    #[derive(Debug)]
    struct Value;
    impl Clone for Value {
        fn clone(&self) -> Self {
            assert!(!BRITTLE.swap(false, Relaxed), "on purpose");
            Self
        }
    }
    let cache = Cache::builder("clones").max_entries(10).build().unwrap();
    let (gate, is_first) = (Barrier::new(3), AtomicBool::new(true));
    let ask = || {
        gate.wait();
        let work = |_| {
            while COMPARED.load(Relaxed) < 2 {
                thread::yield_now();
            }
            BRITTLE.store(is_first.swap(false, Relaxed), Relaxed);
            Ok::<_, ()>(Value)
        };
        let loaded = catch_unwind(AssertUnwindSafe(|| cache.try_get_or_load(&Telling, work)));
        loaded.is_ok_and(|value| value.is_ok())
    };
    let served = thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|served| *served).count()
    });
    assert_eq!(served, 2);
    assert!(cache.try_get_or_load(&Telling, |_| Ok::<_, ()>(Value)).is_ok() && is_whole(&cache.stats()));
}

/// Every loader may fail or panic; there are few keys, so that threads meet.
#[test]
fn eight_threads_of_loaders_that_fail_and_panic_all_come_to_an_end() {
    for eviction in BOTH {
        let budget = MemoryBudget::new(ByteSize::kib(64));
        let cache: Cache<u8, Vec<u8>> = Cache::builder("crowd")
            .max_bytes(ByteSize::kib(8))
            .reserve_per_load(ByteSize::bytes(500))
            .eviction(eviction)
            .account(budget.account("crowd").unwrap())
            .build()
            .unwrap();
        let unwound = AtomicU32::new(0);
        thread::scope(|scope| {
            for seed in 1..=8_u32 {
                let (cache, unwound) = (&cache, &unwound);
                scope.spawn(move || {
                    for turn in 0..2_000_u32 {
                        let key = (turn.wrapping_mul(seed) % 7).to_le_bytes()[0];
                        let work = |_| match (turn + seed) % 5 {
                            0 => Err("on purpose"),
                            1 => panic!("on purpose"),
                            _ => Ok(vec![key; 100]),
                        };
                        let loaded = catch_unwind(AssertUnwindSafe(|| cache.try_get_or_load(&key, work)));
                        unwound.fetch_add(u32::from(loaded.is_err()), Relaxed);
                        match loaded {
                            Ok(Ok(value)) => assert_eq!(value, vec![key; 100]),
                            Ok(Err(LoadError::Reentrant)) => panic!("nobody re-enters"),
                            _ => {}
                        }
                        if turn % 3 == 0 {
                            cache.remove(&key);
                        }
                    }
                });
            }
        });
        assert!(unwound.into_inner() > 0 && is_whole(&cache.stats()), "{:?}", cache.stats());
        assert_eq!(budget.reserved(), cache.stats().bytes);
    }
}

#[test]
fn types_without_a_size_are_keys_and_values() {
    for eviction in BOTH {
        let cache = Cache::builder("nothing").max_bytes(ByteSize::kib(1)).eviction(eviction).build().unwrap();
        for _ in 0..10 {
            cache.insert((), ()).unwrap();
        }
        assert_eq!((cache.get(&()), cache.len(), cache.stats().replaced), (Some(()), 1, 9));
        assert_eq!((cache.remove(&()), cache.stats().bytes), (Some(()), ByteSize::ZERO));
    }
}

#[test]
fn weights_at_their_end_come_back_as_too_large() {
    let weigh = |_: &u32, value: &usize| *value;
    let cache = Cache::builder("heavy").max_bytes_weighed(ByteSize::MAX, weigh).build().unwrap();
    for weight in [usize::MAX, usize::MAX - 1, u32::MAX as usize, u32::MAX as usize - 1] {
        let error = cache.insert(1, weight).unwrap_err();
        assert!(matches!(error.reason(), RejectReason::TooLarge { .. }), "{error}");
    }
    // The sum is no problem: a cache of more than 4 GiB.
    for key in 0..10 {
        cache.insert(key, 1 << 31).unwrap();
    }
    assert!(cache.stats().bytes > ByteSize::gib(20) && is_whole(&cache.stats()));
    let limited = Cache::builder("heavy").max_bytes_weighed(ByteSize::gib(5), weigh).build().unwrap();
    for key in 0..10 {
        limited.insert(key, 1 << 31).unwrap();
        assert!(limited.stats().bytes <= ByteSize::gib(5));
    }
    assert_eq!(limited.len(), 2);
}

#[test]
fn bounds_at_their_ends_take_no_memory_ahead() {
    for eviction in BOTH {
        let built =
            Cache::builder("wide").max_entries(usize::MAX).max_bytes(ByteSize::kib(2)).eviction(eviction).build();
        let cache: Cache<u64, u64> = built.unwrap();
        assert_eq!(cache.stats().bytes, ByteSize::ZERO);
        for key in 0..1_000 {
            cache.insert(key, key).unwrap();
            assert!(cache.stats().bytes <= ByteSize::kib(2));
        }
        assert!(cache.len() > 10 && is_whole(&cache.stats()));
        cache.evict_to(ByteSize::ZERO);
        assert_eq!((cache.len(), cache.stats().bytes), (0, ByteSize::ZERO));
        cache.set_max_entries(1);
        for key in 0..10 {
            cache.insert(key, key).unwrap();
            assert_eq!((cache.get(&key), cache.len()), (Some(key), 1));
        }
    }
}

#[test]
fn times_at_their_ends_expire_in_the_end_and_never_late() {
    let manual = ManualClock::new();
    let built = Cache::builder("ends").max_entries(10).time_to_live(Duration::MAX).time_to_idle(Duration::MAX);
    let cache = built.clock(manual.clock()).build().unwrap();
    let refused = cache.insert_with_ttl(1, 1, Duration::ZERO).unwrap_err();
    assert!(matches!(refused.reason(), RejectReason::TimeToLive { cache: "ends", .. }));
    cache.insert(1, 1).unwrap();
    assert!(cache.insert_with_ttl(1, 7, Duration::ZERO).is_err());
    assert_eq!(cache.get(&1), Some(1), "nothing was to be replaced by a time that is refused");
    cache.insert_with_ttl(2, 2, Duration::MAX).unwrap();
    manual.advance(Duration::from_hours(24 * 100));
    assert_eq!((cache.get(&1), cache.get(&2)), (Some(1), Some(2)));
    manual.advance(Duration::from_hours(24 * 400));
    assert_eq!((cache.get(&1), cache.get(&2), cache.len()), (None, None, 0));
    cache.insert(3, 3).unwrap();
    manual.set_monotonic_back(Duration::MAX);
    manual.set_wall_back(Duration::MAX);
    assert_eq!(
        (cache.get(&3), cache.remove_expired(10)),
        (Some(3), 0),
        "clocks set back extend nothing and end nothing"
    );
    manual.freeze(Duration::MAX);
    assert_eq!((cache.remove_expired(10), cache.len()), (1, 0));
    // With the clock at its end, what comes in may have expired; nothing overflows.
    manual.advance(Duration::MAX);
    cache.insert(4, 4).unwrap();
    assert!(cache.get(&4).is_none_or(|value| value == 4) && is_whole(&cache.stats()));
}

#[test]
fn a_borrow_and_a_to_owned_that_lie_find_nothing_and_break_nothing() {
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Owned(u32);
    #[derive(PartialEq, Eq, Hash)]
    #[repr(transparent)]
    struct Lying(u32);
    static OTHER: Lying = Lying(u32::MAX);
    impl Borrow<Lying> for Owned {
        fn borrow(&self) -> &Lying {
            &OTHER
        }
    }
    impl ToKey<Owned> for Lying {
        fn to_key(&self) -> Owned {
            Owned(self.0 / 2)
        }
    }
    for eviction in BOTH {
        let cache = Cache::builder("lies").max_entries(16).eviction(eviction).build().unwrap();
        for key in 0..500 {
            let loaded = cache.try_get_or_load(&Lying(key % 50), |_| Ok::<_, ()>(key));
            assert!(loaded.is_ok());
            cache.insert(Owned(key), key).unwrap();
            cache.remove(&Lying(key));
        }
        assert!(cache.len() <= 16 && is_whole(&cache.stats()), "{:?}", cache.stats());
        cache.clear();
        assert_eq!(cache.stats().bytes, ByteSize::ZERO);
    }
}

#[test]
fn a_cache_shared_by_clones_outlives_none_of_them() {
    let value = Arc::new(());
    let cache = Cache::builder("clones").max_entries(10).build().unwrap();
    cache.insert(1, Arc::clone(&value)).unwrap();
    let other = cache.clone();
    drop(cache);
    assert!(other.get(&1).is_some());
    drop(other);
    assert_eq!(Arc::strong_count(&value), 1);
}
