//! Times to live that are computed from the value.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

#[path = "support/executor.rs"]
mod executor;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use plimsoll::cache::{CacheBuilder, Eviction, RejectReason, RemovalCause};
use plimsoll::{Cache, ManualClock};

use executor::{Task, run};

const BOTH: [Eviction; 2] = [Eviction::S3Fifo, Eviction::Lru];

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A cache of values that are their own time to live.
fn by_value(manual: &ManualClock) -> CacheBuilder<u64, Duration> {
    Cache::builder("by value").max_entries(100).expire_by(|_, value: &Duration| *value).clock(manual.clock())
}

#[test]
fn each_value_expires_after_its_own_time() {
    for eviction in BOTH {
        let manual = ManualClock::new();
        let cache = by_value(&manual).eviction(eviction).build().unwrap();
        for key in 1..=5 {
            cache.insert(key, ms(1_000 * key)).unwrap();
        }
        for left in (1..=5).rev() {
            assert_eq!((1..=5).filter(|key| cache.get(key).is_some()).count(), left, "{eviction:?}");
            manual.advance(ms(1_000));
        }
        assert_eq!((cache.len(), cache.stats().expirations), (1, 4));
        assert_eq!(cache.remove_expired(usize::MAX), 1);
    }
}

#[test]
fn replaced_value_brings_its_own_time() {
    let manual = ManualClock::new();
    let cache = by_value(&manual).build().unwrap();
    cache.insert(1, ms(1_000)).unwrap();
    manual.advance(ms(900));
    cache.insert(1, ms(2_000)).unwrap();
    manual.advance(ms(1_900));
    assert_eq!(cache.get(&1), Some(ms(2_000)));
    manual.advance(ms(100));
    assert_eq!(cache.get(&1), None);
}

#[test]
fn shorter_of_two_times_applies() {
    let manual = ManualClock::new();
    let cache = by_value(&manual).time_to_live(ms(1_000)).build().unwrap();
    for (key, ttl) in [(1, ms(500)), (2, ms(5_000)), (3, Duration::MAX)] {
        cache.insert(key, ttl).unwrap();
    }
    manual.advance(ms(500));
    assert_eq!([1, 2, 3].map(|key| cache.get(&key).is_some()), [false, true, true]);
    manual.advance(ms(500));
    assert_eq!([2, 3].map(|key| cache.get(&key).is_some()), [false, false]);
}

#[test]
fn maximal_duration_does_not_expire() {
    let manual = ManualClock::new();
    let cache = by_value(&manual).build().unwrap();
    cache.insert(1, Duration::MAX).unwrap();
    manual.advance(Duration::from_hours(24 * 365 * 10));
    assert_eq!(cache.get(&1), Some(Duration::MAX));
}

#[test]
fn ttl_of_insert_overrides_that_of_value() {
    let manual = ManualClock::new();
    let cache = by_value(&manual).build().unwrap();
    cache.insert_with_ttl(1, ms(1_000), ms(3_000)).unwrap();
    cache.insert_with_ttl(2, ms(0), ms(3_000)).unwrap();
    manual.advance(ms(2_990));
    assert!(cache.get(&1).is_some() && cache.get(&2).is_some());
    manual.advance(ms(10));
    assert!(cache.get(&1).is_none() && cache.get(&2).is_none());
}

#[test]
fn insert_of_expired_value_is_rejected_at_each_offset() {
    for offset in 0..20 {
        let manual = ManualClock::new();
        let cache = by_value(&manual).build().unwrap();
        manual.advance(ms(offset));
        for ttl in [ms(0), ms(9), Duration::from_nanos(9_999_999)] {
            let error = cache.insert(1, ttl).unwrap_err();
            assert!(matches!(error.reason(), RejectReason::TimeToLive { .. }), "{error}");
            assert_eq!(error.into_entry(), (1, ttl));
        }
        assert_eq!((cache.len(), cache.stats().rejections), (0, 3));
        cache.insert(1, ms(10)).unwrap();
        assert_eq!(cache.get(&1), Some(ms(10)));
        manual.advance(ms(10));
        assert_eq!(cache.get(&1), None);
    }
}

/// The rejected insert is a write: the former value would be stale.
#[test]
fn insert_of_expired_value_removes_former_value() {
    let manual = ManualClock::new();
    let cause = Arc::new(OnceLock::new());
    let listener = Arc::clone(&cause);
    let builder = by_value(&manual).removal_listener(move |_, value, cause| listener.set((*value, cause)).unwrap());
    let cache = builder.build().unwrap();
    cache.insert(1, ms(1_000)).unwrap();
    let loaded = cache.try_get_or_load(&2, |_| {
        assert!(cache.insert(1, ms(0)).is_err());
        assert!(cache.insert(2, ms(0)).is_err());
        Ok::<_, ()>(ms(1_000))
    });
    assert_eq!((loaded.unwrap(), cache.len()), (ms(1_000), 0));
    assert_eq!(cause.get(), Some(&(ms(1_000), RemovalCause::Removed)));
    assert_eq!((cache.stats().cancelled_loads, cache.stats().removed), (1, 1));
}

#[test]
fn time_of_loaded_value_counts_from_start_of_load() {
    let manual = ManualClock::new();
    let cache = by_value(&manual).build().unwrap();
    let load = |takes, ttl| {
        let manual = &manual;
        move |_: &u64| {
            manual.advance(ms(takes));
            Ok::<_, ()>(ms(ttl))
        }
    };
    assert_eq!(cache.try_get_or_load(&1, load(600, 1_000)).unwrap(), ms(1_000));
    assert_eq!(cache.try_get_or_load(&2, load(1_000, 1_000)).unwrap(), ms(1_000));
    assert_eq!(cache.try_get_or_load(&3, load(0, 0)).unwrap(), ms(0));
    assert_eq!((cache.len(), cache.stats().expired_loads, cache.stats().load_successes), (1, 2, 3));
    assert_eq!(cache.get(&1), None, "the second load took the rest of its time");
}

#[test]
fn async_load_of_expired_value_returns_it() {
    let manual = ManualClock::new();
    let cache = by_value(&manual).build().unwrap();
    let load = |ttl| cache.try_get_or_load_async(&1, move |_| async move { Ok::<_, ()>(ms(ttl)) });
    let mut tasks = [Task::new(async { (load(5).await.unwrap(), load(1_000).await.unwrap()) })];
    run(&mut tasks);
    assert_eq!(tasks.iter_mut().find_map(Task::output), Some((ms(5), ms(1_000))));
    assert_eq!((cache.stats().expired_loads, cache.get(&1)), (1, Some(ms(1_000))));
}

#[test]
fn function_runs_once_for_each_value_without_lock() {
    let handle = Arc::new(OnceLock::<Cache<u64, u64>>::new());
    let used = Arc::clone(&handle);
    let cache = Cache::builder("reentry")
        .max_entries(10)
        .expire_by(move |key, _: &u64| {
            if let Some(cache) = used.get() {
                let _absent = cache.get(key);
            }
            Duration::MAX
        })
        .build()
        .unwrap();
    handle.set(cache.clone()).ok().unwrap();
    cache.insert(1, 1).unwrap();
    assert_eq!(cache.try_get_or_load(&2, |_| Ok::<_, ()>(2)).unwrap(), 2);
    assert_eq!((cache.stats().misses, cache.len()), (3, 2));
}
