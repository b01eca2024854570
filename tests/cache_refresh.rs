//! Refreshes of stale values: one load in a period, no waiting callers, and no value that is older than its time to live.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[path = "support/caches.rs"]
mod caches;
#[path = "support/remote.rs"]
mod remote;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::{scope, yield_now};
use std::time::Duration;

use plimsoll::cache::{BuildError, CacheBuilder, Eviction, LoadError};
use plimsoll::{ByteSize, Cache, ManualClock, MemoryBudget};

use caches::{evict_to, remove_expired};
use remote::Remote;

type Numbers = Cache<u8, u32>;

const KEY: u8 = 1;
const REFRESH: Duration = Duration::from_secs(10);
const LIVE: Duration = Duration::from_secs(100);
const SECOND: Duration = Duration::from_secs(1);

/// The resolution of the clock.
const TICK: Duration = Duration::from_millis(10);

/// The time that a stale value has left to live.
const LEFT: Duration = Duration::from_secs(90);

/// A second less than [`LEFT`].
const LEFT_BUT_A_SECOND: Duration = Duration::from_secs(89);

/// A test fails if another thread takes longer than this.
const PATIENCE: Duration = Duration::from_secs(20);

fn builder(manual: &ManualClock) -> CacheBuilder<u8, u32> {
    Cache::builder("refresh").max_entries(100).time_to_live(LIVE).refresh_after(REFRESH).clock(manual.clock())
}

/// A cache with a stale value of 1.
fn stale() -> (ManualClock, Numbers) {
    let manual = ManualClock::new();
    let cache = builder(&manual).build().unwrap();
    cache.insert(KEY, 1).unwrap();
    manual.advance(REFRESH);
    (manual, cache)
}

#[allow(clippy::unnecessary_wraps, reason = "the result of a loader")]
fn ok(value: u32) -> Result<u32, &'static str> {
    Ok(value)
}

/// Calls and expects that the loader does not run.
fn hit(cache: &Numbers) -> u32 {
    cache.try_get_or_load(&KEY, |_| -> Result<u32, &'static str> { panic!("a second load") }).unwrap()
}

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// An async call that must be ready at its first poll.
fn at_once(cache: &Numbers, remote: &Remote) -> Result<u32, LoadError<&'static str>> {
    match poll(pin!(cache.try_get_or_load_async(&KEY, |_| remote.load()))) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("a caller waits"),
    }
}

#[test]
fn value_is_fresh_until_its_age_is_reached() {
    let manual = ManualClock::new();
    let cache = builder(&manual).build().unwrap();
    cache.insert(KEY, 1).unwrap();
    manual.advance(Duration::from_millis(9_980));
    assert_eq!(hit(&cache), 1);
    manual.advance(Duration::from_millis(20));
    assert_eq!((cache.get(&KEY), cache.peek(&KEY)), (Some(1), Some(1)));
    assert_eq!(cache.try_get_or_load_if(&KEY, |_| false, |_| ok(9)).unwrap(), 1);
    assert_eq!(cache.try_get_or_load(&KEY, |_| ok(2)).unwrap(), 2);
    assert_eq!(hit(&cache), 2);
    let stats = cache.stats();
    assert_eq!((stats.refreshes, stats.load_successes, stats.failed_refreshes, stats.misses), (1, 1, 0, 0));
    assert_eq!(stats.hits, 5);
    manual.advance(REFRESH);
    assert_eq!(cache.get_or_load(&KEY, |_| 3), 3);
}

#[test]
fn eight_threads_load_once_in_a_period_and_none_waits() {
    let manual = ManualClock::new();
    let cache = builder(&manual).build().unwrap();
    cache.insert(KEY, 0).unwrap();
    let (loads, barrier) = (AtomicUsize::new(0), Barrier::new(8));
    let (end, ends) = channel();
    let ends = Mutex::new(ends);
    let periods = 50;
    scope(|scope| {
        for thread in 0..8 {
            let (manual, cache, loads, barrier, ends, end) = (&manual, &cache, &loads, &barrier, &ends, end.clone());
            scope.spawn(move || {
                for period in 1..=periods {
                    barrier.wait();
                    if thread == 0 {
                        manual.advance(REFRESH);
                    }
                    barrier.wait();
                    let mut has_loaded = false;
                    for _ in 0..200 {
                        let load = |_: &_| {
                            loads.fetch_add(1, SeqCst);
                            has_loaded = true;
                            // The others must be through before this load ends.
                            let ends = ends.lock().unwrap();
                            (0..7).for_each(|_| ends.recv_timeout(PATIENCE).expect("a caller waits"));
                            ok(period)
                        };
                        let value = cache.try_get_or_load(&KEY, load).unwrap();
                        assert!(value + 1 >= period, "{value} in period {period}");
                    }
                    if !has_loaded {
                        end.send(()).unwrap();
                    }
                    barrier.wait();
                    assert_eq!(loads.load(SeqCst), period as usize);
                }
            });
        }
    });
    assert_eq!(cache.stats().refreshes, u64::from(periods));
}

/// A blocking refresh on a thread of its own, which the test ends.
struct Running {
    end: Sender<Result<u32, &'static str>>,
    returned: Receiver<Result<u32, LoadError<&'static str>>>,
}

fn start_blocking(cache: &Numbers) -> Running {
    let (end, ends) = channel();
    let (ret, returned) = channel();
    let (start, started) = channel();
    let cache = cache.clone();
    std::thread::spawn(move || {
        let load = |_: &_| {
            start.send(()).unwrap();
            ends.recv().unwrap()
        };
        ret.send(cache.try_get_or_load(&KEY, load)).unwrap();
    });
    started.recv_timeout(PATIENCE).unwrap();
    Running { end, returned }
}

impl Running {
    fn end(self, result: Result<u32, &'static str>) -> Result<u32, LoadError<&'static str>> {
        self.end.send(result).unwrap();
        self.returned.recv_timeout(PATIENCE).unwrap()
    }
}

#[test]
fn callers_of_all_classes_return_the_stale_value_during_a_refresh() {
    let (_manual, cache) = stale();
    let running = start_blocking(&cache);
    let remote = Remote::default();
    assert_eq!(hit(&cache), 1);
    assert_eq!(cache.try_get_or_load(&KEY, |_| Ok::<_, String>(7)).unwrap(), 1);
    assert_eq!(cache.get_or_load(&KEY, |_| 8), 1);
    assert_eq!((at_once(&cache, &remote).unwrap(), remote.starts()), (1, 0));
    assert_eq!(running.end(Ok(2)).unwrap(), 2);
    assert_eq!(hit(&cache), 2);
}

#[test]
fn refresh_that_asks_for_its_own_key_gets_the_stale_value() {
    let (_manual, cache) = stale();
    assert_eq!(cache.try_get_or_load(&KEY, |_| ok(hit(&cache) + 4)).unwrap(), 5);
}

#[test]
fn caller_after_the_expiry_waits_for_the_blocking_refresh() {
    let (manual, cache) = stale();
    manual.advance(LEFT_BUT_A_SECOND);
    let running = start_blocking(&cache);
    manual.advance(SECOND);
    let other = cache.clone();
    let waiter = std::thread::spawn(move || hit(&other));
    while cache.stats().misses == 0 {
        yield_now();
    }
    assert_eq!(running.end(Ok(2)).unwrap(), 2);
    assert_eq!(waiter.join().unwrap(), 2);
}

#[test]
fn failed_refresh_keeps_the_value_and_loads_once_in_a_period() {
    let (manual, cache) = stale();
    let mut loads = 0;
    let mut call = |cache: &Numbers| {
        cache.try_get_or_load(&KEY, |_| {
            loads += 1;
            Err("down")
        })
    };
    // The value is 10 s old now.
    for second in 10..100 {
        assert_eq!(call(&cache).unwrap(), 1, "{second}");
        manual.advance(SECOND);
    }
    assert!(matches!(call(&cache), Err(LoadError::Load(error)) if *error == "down"));
    assert_eq!(loads, 10);
    let stats = cache.stats();
    assert_eq!((stats.failed_refreshes, stats.load_failures, stats.refreshes), (9, 10, 0));
}

#[test]
fn panicking_blocking_refresh_passes_its_panic_and_is_put_off() {
    let (manual, cache) = stale();
    let call = || cache.try_get_or_load(&KEY, |_| -> Result<u32, ()> { panic!("this panic belongs to the test") });
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    assert_eq!((hit(&cache), cache.stats().failed_refreshes), (1, 1));
    manual.advance(REFRESH);
    assert_eq!(cache.try_get_or_load(&KEY, |_| ok(2)).unwrap(), 2);
}

#[test]
fn value_that_expires_during_a_failing_refresh_is_not_returned() {
    for freeze in [false, true] {
        let (manual, cache) = stale();
        let load = |_: &_| {
            if freeze {
                manual.freeze(LIVE);
            } else {
                manual.advance(LEFT);
            }
            manual.advance(TICK);
            Err("down")
        };
        let failed: Result<u32, LoadError<&str>> = cache.try_get_or_load(&KEY, load);
        assert!(matches!(failed, Err(LoadError::Load(_))), "{failed:?}");
    }
}

#[test]
fn async_refresh_that_is_ready_at_once_returns_the_new_value() {
    let (_manual, cache) = stale();
    let remote = Remote::default();
    remote.end(Ok(2));
    assert_eq!(at_once(&cache, &remote).unwrap(), 2);
    assert_eq!((cache.get(&KEY), cache.stats().refreshes, remote.drops()), (Some(2), 1, 1));
}

#[test]
fn async_refresh_is_polled_by_later_callers_of_its_class() {
    let (_manual, cache) = stale();
    let (remote, other) = (Remote::default(), Remote::default());
    assert_eq!(at_once(&cache, &remote).unwrap(), 1);
    assert_eq!((remote.starts(), remote.polls()), (1, 1));
    remote.wake();
    assert_eq!((at_once(&cache, &other).unwrap(), remote.polls()), (1, 2));
    assert_eq!((at_once(&cache, &other).unwrap(), remote.polls()), (1, 2), "it was not woken");
    remote.end(Ok(2));
    // Other classes neither poll nor load.
    assert_eq!(hit(&cache), 1);
    let third = pin!(cache.try_get_or_load_async(&KEY, |_| async { Ok::<_, String>(9) }));
    assert!(matches!(poll(third), Poll::Ready(Ok(1))));
    assert_eq!(remote.polls(), 2);
    assert_eq!((at_once(&cache, &other).unwrap(), remote.polls()), (2, 3));
    assert_eq!((remote.drops(), other.starts(), cache.stats().refreshes), (1, 0, 1));
}

#[test]
fn failing_async_refresh_keeps_the_value_until_it_expires() {
    let (manual, cache) = stale();
    let remote = Remote::default();
    for second in 10..100 {
        remote.end(Err("down"));
        assert_eq!(at_once(&cache, &remote).unwrap(), 1, "{second}");
        manual.advance(SECOND);
    }
    remote.end(Err("down"));
    assert!(matches!(at_once(&cache, &remote), Err(LoadError::Load(_))));
    assert_eq!((remote.starts(), cache.stats().failed_refreshes), (10, 9));
}

#[test]
fn caller_after_the_expiry_joins_the_async_refresh() {
    let (manual, cache) = stale();
    manual.advance(LEFT_BUT_A_SECOND);
    let remote = Remote::default();
    assert_eq!(at_once(&cache, &remote).unwrap(), 1);
    manual.advance(SECOND);
    assert_eq!(cache.get(&KEY), None);
    let mut calls: Vec<_> = (0..3).map(|_| Box::pin(cache.try_get_or_load_async(&KEY, |_| remote.load()))).collect();
    assert!(calls.iter_mut().all(|call| poll(call.as_mut()).is_pending()));
    remote.end(Ok(2));
    for call in &mut calls {
        assert!(matches!(poll(call.as_mut()), Poll::Ready(Ok(2))));
    }
    assert_eq!((remote.starts(), remote.drops(), cache.get(&KEY)), (1, 1, Some(2)));
}

#[test]
fn joined_refresh_is_dropped_when_its_waiters_leave() {
    let (manual, cache) = stale();
    manual.advance(LEFT_BUT_A_SECOND);
    let remote = Remote::default();
    assert_eq!(at_once(&cache, &remote).unwrap(), 1);
    manual.advance(SECOND);
    let mut call = Box::pin(cache.try_get_or_load_async(&KEY, |_| remote.load()));
    assert!(poll(call.as_mut()).is_pending());
    assert_eq!((remote.starts(), remote.drops()), (1, 0));
    drop(call);
    assert_eq!(remote.drops(), 1);
    remote.end(Ok(3));
    assert_eq!(at_once(&cache, &remote).unwrap(), 3);
    assert_eq!(remote.starts(), 2);
}

#[test]
fn refresh_from_before_a_freeze_is_not_returned() {
    // It ends after the freeze, with a value from before it.
    let (manual, cache) = stale();
    let remote = Remote::default();
    assert_eq!(at_once(&cache, &remote).unwrap(), 1);
    manual.freeze(Duration::from_hours(1));
    manual.advance(TICK);
    remote.end(Ok(2));
    let next = Remote::default();
    next.end(Ok(3));
    assert_eq!(at_once(&cache, &next).unwrap(), 3);
    assert_eq!((remote.drops(), remote.polls(), cache.get(&KEY)), (1, 1, Some(3)));

    // The freeze comes after a caller has joined it: this one loads again.
    let (manual, cache) = stale();
    manual.advance(LEFT_BUT_A_SECOND);
    let remote = Remote::default();
    assert_eq!(at_once(&cache, &remote).unwrap(), 1);
    manual.advance(SECOND);
    let next = Remote::default();
    next.end(Ok(5));
    let mut call = Box::pin(cache.try_get_or_load_async(&KEY, |_| next.load()));
    assert!(poll(call.as_mut()).is_pending());
    manual.freeze(LIVE);
    manual.advance(TICK);
    remote.end(Ok(4));
    assert!(matches!(poll(call.as_mut()), Poll::Ready(Ok(5))));
    assert_eq!(cache.stats().expired_loads, 1);
}

#[test]
fn refresh_whose_first_poll_outlasts_the_value_is_joined() {
    let (manual, cache) = stale();
    let load = |_: &_| {
        let (manual, mut polls) = (manual.clone(), 0);
        std::future::poll_fn(move |cx| {
            polls += 1;
            if polls == 1 {
                manual.advance(LIVE);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(ok(2))
        })
    };
    // Its own load, which took longer than the time to live, as any load may.
    let call = pin!(cache.try_get_or_load_async(&KEY, load));
    let outcome = poll(call);
    assert!(!matches!(outcome, Poll::Ready(Ok(1))), "{outcome:?}");
}

#[test]
fn panicking_poll_returns_the_stale_value_and_drops_the_future() {
    let (manual, cache) = stale();
    let remote = Remote::default();
    remote.0.panics.store(true, SeqCst);
    assert_eq!(at_once(&cache, &remote).unwrap(), 1);
    assert_eq!((remote.drops(), cache.stats().failed_refreshes), (1, 1));
    manual.advance(REFRESH);
    let remote = Remote::default();
    assert_eq!(at_once(&cache, &remote).unwrap(), 1);
    remote.0.panics.store(true, SeqCst);
    remote.wake();
    assert_eq!(at_once(&cache, &remote).unwrap(), 1);
    assert_eq!((remote.starts(), remote.drops(), cache.stats().failed_refreshes), (1, 1, 2));
    manual.advance(REFRESH);
    let makes = |_: &_| -> std::future::Ready<Result<u32, &str>> { panic!("this panic belongs to the test") };
    assert!(matches!(poll(pin!(cache.try_get_or_load_async(&KEY, makes))), Poll::Ready(Ok(1))));
    assert_eq!(cache.stats().failed_refreshes, 3);
    manual.advance(REFRESH);
    assert_eq!(cache.try_get_or_load(&KEY, |_| ok(2)).unwrap(), 2);
}

#[test]
fn write_during_a_blocking_refresh_stays() {
    for write in 0..4 {
        let (_manual, cache) = stale();
        let running = start_blocking(&cache);
        match write {
            0 => cache.insert(KEY, 5).unwrap(),
            1 => assert_eq!(cache.remove(&KEY), Some(1)),
            2 => cache.clear(),
            _ => cache.retain(|_, _| false),
        }
        assert_eq!(running.end(Ok(2)).unwrap(), 2);
        assert_eq!(cache.get(&KEY), (write == 0).then_some(5));
        assert_eq!(cache.stats().cancelled_loads, 1);
    }
    // A refresh that has removed the value does not return it.
    let (_manual, cache) = stale();
    let gone = cache.try_get_or_load(&KEY, |_| {
        cache.remove(&KEY);
        Err("gone")
    });
    assert!(matches!(gone, Err(LoadError::Load(_))));
}

/// A way in which an entry leaves the cache.
type Way = fn(&ManualClock, &Numbers);

#[test]
fn detached_future_is_dropped_when_its_entry_goes() {
    let ways: [(&str, Way); 10] = [
        ("insert", |_, cache| cache.insert(KEY, 5).unwrap()),
        ("remove", |_, cache| assert_eq!(cache.remove(&KEY), Some(1))),
        ("clear", |_, cache| cache.clear()),
        ("retain", |_, cache| cache.retain(|_, _| false)),
        ("evict", |_, cache| evict_to(cache, ByteSize::ZERO)),
        ("no entries", |_, cache| cache.set_max_entries(0)),
        ("expiry", |manual, cache| {
            manual.advance(LIVE);
            assert_eq!(remove_expired(cache, 100), 1);
        }),
        ("other class", |manual, cache| {
            manual.advance(LIVE);
            assert_eq!(cache.try_get_or_load(&KEY, |_| ok(7)).unwrap(), 7);
        }),
        ("full", |_, cache| {
            while cache.contains_key(&KEY) {
                for key in 10..=255 {
                    cache.insert(key, 0).unwrap();
                    let _hits = (cache.get(&key), cache.get(&key));
                }
            }
        }),
        ("cancelled write", |_, cache| drop(cache.insert_with_ttl(KEY, 2, LIVE))),
    ];
    for eviction in [Eviction::S3Fifo, Eviction::Lru] {
        for (name, way) in ways {
            let manual = ManualClock::new();
            let cache = builder(&manual).shards(1).eviction(eviction).build().unwrap();
            cache.insert(KEY, 1).unwrap();
            manual.advance(REFRESH);
            let remote = Remote::default();
            assert_eq!(at_once(&cache, &remote).unwrap(), 1);
            assert_eq!((remote.starts(), remote.drops()), (1, 0), "{name}");
            way(&manual, &cache);
            assert_eq!(remote.drops(), 1, "{name} {eviction:?}");
        }
    }
    let (_manual, cache) = stale();
    let remote = Remote::default();
    assert_eq!(at_once(&cache, &remote).unwrap(), 1);
    drop(cache);
    assert_eq!(remote.drops(), 1);
}

#[test]
fn future_that_uses_the_cache_when_it_is_dropped_does_not_deadlock() {
    struct Uses(Numbers);
    impl Drop for Uses {
        fn drop(&mut self) {
            drop(self.0.insert(99, 1));
            assert_eq!(self.0.get(&99), Some(1));
        }
    }
    for way in 0..4 {
        let (_manual, cache) = stale();
        let uses = Uses(cache.clone());
        let load = |_: &_| async move {
            std::future::pending::<()>().await;
            drop(uses);
            ok(2)
        };
        assert!(matches!(poll(pin!(cache.try_get_or_load_async(&KEY, load))), Poll::Ready(Ok(1))));
        match way {
            0 => cache.insert(KEY, 3).unwrap(),
            1 => cache.clear(),
            2 => cache.retain(|_, _| true),
            _ => evict_to(&cache, ByteSize::ZERO),
        }
        assert_eq!(cache.get(&99), Some(1), "{way}");
    }
}

/// Counts its drops.
struct Counts(Arc<AtomicUsize>);

impl Drop for Counts {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn under_a_budget_refreshes_reserve_and_release() {
    let manual = ManualClock::new();
    let budget = MemoryBudget::new(ByteSize::kib(256));
    let cache: Cache<u8, Vec<u8>> = Cache::builder("refresh")
        .max_bytes(ByteSize::kib(128))
        .reserve_per_load(ByteSize::kib(16))
        .time_to_live(LIVE)
        .refresh_after(REFRESH)
        .account(budget.account("refresh").unwrap())
        .clock(manual.clock())
        .build()
        .unwrap();
    let drops = Arc::new(AtomicUsize::new(0));
    for key in 0..4 {
        cache.insert(key, vec![0; 4_000]).unwrap();
    }
    manual.advance(REFRESH);
    for key in 0..4 {
        let counts = Counts(Arc::clone(&drops));
        let load = |_: &_| async move {
            std::future::pending::<()>().await;
            drop(counts);
            Ok::<_, ()>(Vec::new())
        };
        let stale = poll(pin!(cache.try_get_or_load_async(&key, load)));
        assert!(matches!(stale, Poll::Ready(Ok(value)) if value.len() == 4_000));
    }
    assert_eq!((cache.stats().loading, drops.load(SeqCst)), (ByteSize::kib(64), 0));
    // Another account takes all.
    let other = budget.account("other").unwrap();
    let _held = other.try_reserve(ByteSize::kib(192)).unwrap();
    assert!(cache.stats().loading.as_u64() <= (4 - drops.load(SeqCst) as u64) * 16 * 1024);
    cache.clear();
    assert_eq!((cache.stats().loading, drops.load(SeqCst)), (ByteSize::ZERO, 4));
    assert_eq!(budget.reserved(), ByteSize::kib(192));
}

#[test]
fn refused_refresh_returns_the_stale_value_and_is_put_off() {
    let manual = ManualClock::new();
    let cache: Cache<u8, u32> = Cache::builder("refresh")
        .max_bytes(ByteSize::kib(64))
        .reserve_per_load(ByteSize::kib(60))
        .time_to_live(LIVE)
        .refresh_after(REFRESH)
        .clock(manual.clock())
        .build()
        .unwrap();
    cache.insert(KEY, 1).unwrap();
    manual.advance(REFRESH);
    // A load of another key has the bytes.
    let mut other = Box::pin(cache.try_get_or_load_async(&2, |_| std::future::pending::<Result<u32, ()>>()));
    assert!(poll(other.as_mut()).is_pending());
    let remote = Remote::default();
    assert_eq!(at_once(&cache, &remote).unwrap(), 1);
    assert_eq!(cache.try_get_or_load(&KEY, |_| ok(5)).unwrap(), 1);
    assert_eq!((remote.starts(), cache.stats().failed_refreshes), (0, 1));
    manual.advance(REFRESH);
    assert_eq!(cache.try_get_or_load(&KEY, |_| ok(5)).unwrap(), 1);
    assert_eq!(cache.stats().failed_refreshes, 2);
}

#[test]
fn expired_value_is_returned_for_an_error_within_its_window() {
    let manual = ManualClock::new();
    let cache = Cache::builder("stale")
        .max_entries(10)
        .time_to_live(LIVE)
        .stale_if_error(REFRESH)
        .clock(manual.clock())
        .build()
        .unwrap();
    let down = |cache: &Numbers| cache.try_get_or_load(&KEY, |_| Err("down")).ok();
    cache.insert(KEY, 1).unwrap();
    manual.advance(Duration::from_millis(99_990));
    assert_eq!((cache.get(&KEY), cache.peek(&KEY)), (Some(1), Some(1)));
    manual.advance(TICK);
    assert_eq!((cache.get(&KEY), cache.peek(&KEY), cache.contains_key(&KEY)), (None, None, false));
    assert_eq!((cache.keys().len(), cache.len(), remove_expired(&cache, 100)), (0, 1, 0));
    assert_eq!(down(&cache), Some(1));
    assert_eq!(
        poll(pin!(cache.try_get_or_load_async(&KEY, |_| async { Err("down") }))).map(Result::ok),
        Poll::Ready(Some(1))
    );
    assert_eq!(cache.try_get_or_load_if(&KEY, |_| false, |_| Err("down")).ok(), Some(1));
    assert_eq!(cache.try_get_or_load_if(&KEY, |_| true, |_| Err("down")).ok(), None, "the caller rejects it");
    manual.advance(Duration::from_millis(9_990));
    assert_eq!((cache.get(&KEY), down(&cache)), (None, Some(1)));
    manual.advance(TICK);
    assert_eq!((cache.len(), down(&cache), cache.len()), (1, None, 0));
    assert_eq!(cache.stats().load_failures, 6);
    // A load that succeeds replaces it.
    cache.insert(KEY, 1).unwrap();
    manual.freeze(LIVE);
    manual.advance(TICK);
    assert_eq!(cache.try_get_or_load(&KEY, |_| ok(2)).unwrap(), 2);
    assert_eq!((cache.get(&KEY), cache.len()), (Some(2), 1));
    // After a removal nothing is kept.
    manual.advance(LIVE);
    assert_eq!((cache.remove(&KEY), down(&cache)), (None, None));
}

#[test]
fn waiters_of_a_failed_load_all_return_the_expired_value() {
    let manual = ManualClock::new();
    let cache = builder(&manual).stale_if_error(LIVE).build().unwrap();
    cache.insert(KEY, 1).unwrap();
    manual.advance(LIVE);
    let remote = Remote::default();
    let mut calls: Vec<_> = (0..3).map(|_| Box::pin(cache.try_get_or_load_async(&KEY, |_| remote.load()))).collect();
    assert!(calls.iter_mut().all(|call| poll(call.as_mut()).is_pending()));
    remote.end(Err("down"));
    for call in &mut calls {
        assert!(matches!(poll(call.as_mut()), Poll::Ready(Ok(1))));
    }
    let running = start_blocking(&cache);
    assert_eq!(running.end(Err("down")).unwrap(), 1);
}

#[test]
fn idle_expiry_is_not_extended() {
    let manual = ManualClock::new();
    let cache = builder(&manual).time_to_idle(REFRESH).stale_if_error(LIVE).build().unwrap();
    cache.insert(KEY, 1).unwrap();
    manual.advance(REFRESH);
    assert!(cache.try_get_or_load(&KEY, |_| Err("down")).is_err());
    assert_eq!(cache.len(), 0);
}

#[test]
fn ages_hold_after_tick_zero_has_moved() {
    let manual = ManualClock::new();
    let cache = builder(&manual).stale_if_error(LIVE).build().unwrap();
    for _ in 0..4 {
        manual.advance(Duration::from_hours(200 * 24));
        cache.insert(KEY, 1).unwrap();
        assert_eq!(hit(&cache), 1);
        manual.advance(REFRESH);
        assert_eq!(cache.try_get_or_load(&KEY, |_| ok(2)).unwrap(), 2);
        manual.advance(LIVE);
        assert_eq!(cache.get(&KEY), None);
        assert_eq!(cache.try_get_or_load(&KEY, |_| Err("down")).unwrap(), 2);
    }
}

#[test]
fn refreshed_entry_takes_one_word_more() {
    let manual = ManualClock::new();
    let bytes = |builder: CacheBuilder<u8, u32>| {
        let cache = builder.max_bytes(ByteSize::mib(1)).shards(1).build().unwrap();
        (0..100).for_each(|key| cache.insert(key, 0).unwrap());
        (0..50).for_each(|key| assert!(cache.remove(&key).is_some()));
        (100..150).for_each(|key| cache.insert(key, 0).unwrap());
        manual.advance(REFRESH);
        // All places of the vector are right after the moves.
        let loads = (50..150).filter(|key| cache.try_get_or_load(key, |_| ok(1)).unwrap() == 1).count();
        (cache.stats().bytes.as_u64(), loads)
    };
    let plain = || Cache::builder("plain").max_entries(100).time_to_live(LIVE).clock(manual.clock());
    assert_eq!(bytes(plain()).1, 0);
    assert_eq!(bytes(plain().refresh_after(REFRESH)), (bytes(plain()).0 + 400, 100));
}

#[test]
fn settings_without_a_bound_of_staleness_are_errors() {
    let manual = ManualClock::new();
    let build = |builder: CacheBuilder<u8, u32>| builder.build().map(drop);
    let plain = || Cache::builder("refresh").max_entries(10).clock(manual.clock());
    assert!(matches!(build(plain().refresh_after(REFRESH)), Err(BuildError::RefreshUnbounded { .. })));
    assert!(matches!(build(builder(&manual).refresh_after(LIVE)), Err(BuildError::RefreshTooLate { .. })));
    let short = Duration::from_millis(9);
    assert!(matches!(build(builder(&manual).refresh_after(short)), Err(BuildError::TooShort { .. })));
    assert!(matches!(build(builder(&manual).refresh_after(Duration::ZERO)), Err(BuildError::TooShort { .. })));
    assert!(matches!(build(builder(&manual).stale_if_error(short)), Err(BuildError::TooShort { .. })));
    assert_eq!(build(plain().expire_by(|_, _| LIVE).refresh_after(REFRESH)), Ok(()));
    assert_eq!(build(builder(&manual).stale_if_error(Duration::MAX)), Ok(()));
}
