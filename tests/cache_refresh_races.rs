//! Refreshes that are disturbed: by a freeze in their first poll, by other callers that join and leave, by panics of `Drop`,
//! and by evictions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::future::{pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use plimsoll::cache::{CacheBuilder, LoadError};
use plimsoll::{ByteSize, Cache, ManualClock};

const KEY: u64 = 1;
const REFRESH: Duration = Duration::from_mins(1);
const LIVE: Duration = Duration::from_mins(5);
const TICK: Duration = Duration::from_millis(10);

fn builder<V>(manual: &ManualClock) -> CacheBuilder<u64, V> {
    Cache::builder("refresh").max_entries(100).time_to_live(LIVE).refresh_after(REFRESH).clock(manual.clock())
}

/// A cache with a stale value of 1.
fn stale() -> (Arc<ManualClock>, Cache<u64, u64>) {
    let manual = Arc::new(ManualClock::new());
    let cache = builder(&manual).build().unwrap();
    cache.insert(KEY, 1).unwrap();
    manual.advance(REFRESH);
    (manual, cache)
}

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls the call twice at most.
fn outcome<T>(call: impl Future<Output = T>) -> T {
    let mut call = pin!(call);
    for _ in 0..2 {
        if let Poll::Ready(outcome) = poll(call.as_mut()) {
            return outcome;
        }
    }
    panic!("the call waits")
}

/// The value that the call returns, after two polls at most.
fn value(call: impl Future<Output = Result<u64, LoadError<()>>>) -> u64 {
    outcome(call).unwrap()
}

/// Counts its drops.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn freeze_in_the_first_poll_makes_the_starter_wait_for_its_own_refresh() {
    let (manual, cache) = stale();
    for round in 2..4 {
        let (clock, mut is_frozen) = (Arc::clone(&manual), false);
        let load = |_: &u64| {
            poll_fn(move |cx| {
                if is_frozen {
                    return Poll::Ready(round);
                }
                is_frozen = true;
                clock.freeze(Duration::from_hours(1));
                clock.advance(TICK);
                cx.waker().wake_by_ref();
                Poll::Pending
            })
        };
        assert_eq!(outcome(cache.get_or_load_async(&KEY, load)), round);
        assert_eq!(cache.stats().refreshes, round - 1);
        // The time to live counts from the start of the load, so the value is stored only if it was no freeze.
        cache.insert(KEY, round).unwrap();
        manual.advance(REFRESH);
    }
}

#[test]
fn blocking_refresh_ends_if_the_drop_of_the_stale_clone_panics() {
    struct Value(u64, Arc<AtomicBool>);
    impl Clone for Value {
        fn clone(&self) -> Self {
            Self(self.0, Arc::clone(&self.1))
        }
    }
    impl Drop for Value {
        fn drop(&mut self) {
            assert!(!self.1.swap(false, SeqCst), "this panic belongs to the test");
        }
    }
    let manual = ManualClock::new();
    let cache = Arc::new(builder::<Value>(&manual).build().unwrap());
    let panics = Arc::new(AtomicBool::new(false));
    cache.insert(KEY, Value(1, Arc::clone(&panics))).unwrap();
    manual.advance(REFRESH);
    panics.store(true, SeqCst);
    let load = |value: u64| {
        let (cache, panics) = (Arc::clone(&cache), Arc::clone(&panics));
        let call = move || cache.try_get_or_load(&KEY, |_| Ok::<_, ()>(Value(value, panics))).map(|value| value.0).ok();
        catch_unwind(AssertUnwindSafe(call)).ok().flatten()
    };
    load(2);
    manual.advance(REFRESH);
    assert_eq!(load(3), Some(3), "the refresh before it has ended");
}

/// Starts a refresh, and calls `meanwhile` in its loader. Returns the drops of its future.
fn refresh_that_hangs(cache: &Cache<u64, u64>, meanwhile: impl Fn() + Send + Sync) -> Arc<AtomicUsize> {
    let drops = Arc::new(AtomicUsize::new(0));
    let counted = Counted(Arc::clone(&drops));
    let load = |_: &u64| {
        thread::scope(|scope| scope.spawn(&meanwhile).join().unwrap());
        async move {
            let _counted = counted;
            pending::<Result<u64, ()>>().await
        }
    };
    assert_eq!(value(cache.try_get_or_load_async(&KEY, load)), 1);
    drops
}

/// A call that rejects the stale value and joins its refresh.
async fn join(cache: &Cache<u64, u64>) {
    drop(cache.try_get_or_load_if_async(&KEY, |value| *value == 1, |_| async { Ok::<_, ()>(9) }).await);
}

#[test]
fn callers_that_join_and_leave_before_the_first_poll_leave_no_future_behind() {
    let (manual, cache) = stale();
    let cancelled = || assert!(poll(pin!(join(&cache))).is_pending());
    let drops = refresh_that_hangs(&cache, cancelled);
    cache.remove(&KEY);
    assert_eq!(drops.load(SeqCst), 1);

    cache.insert(KEY, 1).unwrap();
    manual.advance(REFRESH);
    let drops = refresh_that_hangs(&cache, cancelled);
    manual.freeze(LIVE);
    manual.advance(TICK);
    let call = cache.try_get_or_load_async(&KEY, |_| async { Ok::<_, ()>(9) });
    assert_eq!(value(call), 9, "nobody waits for a refresh of before a freeze");
    assert_eq!(drops.load(SeqCst), 1);
}

#[test]
fn reentrant_call_in_a_poll_of_a_refresh_leaves_no_future_behind() {
    let (_manual, cache) = stale();
    let (drops, mut polls) = (Arc::new(AtomicUsize::new(0)), 0);
    let (counted, same) = (Counted(Arc::clone(&drops)), cache.clone());
    let load = |_: &u64| {
        poll_fn(move |cx| {
            let _counted = &counted;
            polls += 1;
            if polls == 2 {
                assert!(poll(pin!(join(&same))).is_ready());
            }
            cx.waker().wake_by_ref();
            Poll::<Result<u64, ()>>::Pending
        })
    };
    let unused = |_: &u64| pending::<Result<u64, ()>>();
    assert_eq!(value(cache.try_get_or_load_async(&KEY, load)), 1);
    assert_eq!(value(cache.try_get_or_load_async(&KEY, unused)), 1);
    cache.clear();
    assert_eq!(drops.load(SeqCst), 1);
}

#[test]
fn hung_refreshes_of_expired_values_hold_up_no_load_of_other_keys() {
    let manual = ManualClock::new();
    let cache = Cache::<u64, u64>::builder("reserved")
        .max_bytes_weighed(ByteSize::kib(100), |_, _| 10)
        .reserve_per_load(ByteSize::kib(40))
        .time_to_live(LIVE)
        .refresh_after(REFRESH)
        .clock(manual.clock())
        .build()
        .unwrap();
    (0..2).for_each(|key| cache.insert(key, 1).unwrap());
    manual.advance(REFRESH);
    for key in 0..2 {
        let hangs = cache.try_get_or_load_async(&key, |_| pending::<Result<u64, ()>>());
        assert_eq!(value(hangs), 1);
    }
    assert!(cache.try_get_or_load(&9, |_| Ok::<_, ()>(7)).is_err(), "two refreshes have reserved 80 KiB");
    manual.advance(LIVE);
    assert_eq!(cache.try_get_or_load(&9, |_| Ok::<_, ()>(7)).unwrap(), 7);
    assert_eq!(cache.stats().loading, ByteSize::ZERO);
}

#[test]
fn refresh_whose_reservation_evicts_its_value_is_waited_for_and_stored() {
    let manual = ManualClock::new();
    let cache = Cache::<u64, u64>::builder("tight")
        .max_bytes_weighed(ByteSize::bytes(100_000), |_, _| 50_000)
        .reserve_per_load(ByteSize::bytes(60_000))
        .time_to_live(LIVE)
        .refresh_after(REFRESH)
        .clock(manual.clock())
        .build()
        .unwrap();
    cache.insert(KEY, 0).unwrap();
    for round in 1..5 {
        manual.advance(REFRESH);
        let mut is_polled = false;
        let load = |_: &u64| {
            poll_fn(move |cx| {
                if is_polled {
                    return Poll::Ready(Ok::<_, ()>(round));
                }
                is_polled = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            })
        };
        assert_eq!(value(cache.try_get_or_load_async(&KEY, load)), round);
        assert_eq!((cache.get(&KEY), cache.stats().refreshes), (Some(round), round));
    }
}

#[test]
fn dropped_cache_drops_all_detached_futures_though_they_panic() {
    struct Panics(mpsc::Sender<()>);
    impl Drop for Panics {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
            panic!("this panic belongs to the test");
        }
    }
    let manual = ManualClock::new();
    let cache = builder::<u64>(&manual).build().unwrap();
    (0..50).for_each(|key| cache.insert(key, 1).unwrap());
    manual.advance(REFRESH);
    let (sender, drops) = mpsc::channel();
    for key in 0..50 {
        let panics = Panics(sender.clone());
        let hangs = |_: &u64| async move {
            let _panics = panics;
            pending::<Result<u64, ()>>().await
        };
        assert_eq!(value(cache.try_get_or_load_async(&key, hangs)), 1);
    }
    drop(catch_unwind(AssertUnwindSafe(|| drop(cache))));
    assert_eq!(drops.try_iter().count(), 50);
}
