//! Refreshes of stale values: callers that wait, loads in a period, and values older than the bound of staleness.

#[path = "../../../../../../tests/support/remote.rs"]
mod remote;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use plimsoll::{Cache, ManualClock};

use super::loads::random::Random;
use crate::Options;
use crate::row::{Goal, Row};
use remote::Remote;

/// Measures all.
pub(super) fn measure(options: Options) -> Vec<Row> {
    let (periods, steps) = if options.quick { (200, 20_000) } else { (2_000, 400_000) };
    let row = |metric, unit, ours, goal| Row { metric, unit, ours, goal, best_peer: None };
    vec![
        row("cache.refresh.waiting_callers", "calls", waiting_callers(true), Goal::AtMost(0.0)),
        row("cache.refresh.waiting_callers.control", "calls", waiting_callers(false), Goal::Above(0.0)),
        row("cache.refresh.loads_per_period", "loads", loads_per_period(true, periods), Goal::AtMost(1.0)),
        row("cache.refresh.loads_per_period.control", "loads", loads_per_period(false, periods), Goal::Above(1.0)),
        row("cache.refresh.over_stale_bound", "values", over_stale_bound(1, steps), Goal::AtMost(0.0)),
        row("cache.refresh.over_stale_bound.control", "values", over_stale_bound(2, steps), Goal::Above(0.0)),
    ]
}

const KEY: u8 = 1;
const REFRESH: Duration = Duration::from_secs(10);
const LIVE: Duration = Duration::from_secs(100);
const THREADS: u64 = 8;

/// A cache of numbers of milliseconds. `refreshes`: it refreshes its values, which else expire at the age of a refresh.
fn cache(manual: &ManualClock, refreshes: bool, live: Duration) -> Cache<u8, u64> {
    let builder = Cache::builder("refresh").max_entries(10).clock(manual.clock());
    let builder =
        if refreshes { builder.time_to_live(live).refresh_after(REFRESH) } else { builder.time_to_live(live) };
    builder.build().unwrap_or_else(|error| unreachable!("{error}"))
}

/// Returns the number of callers that wait while one caller loads a value that is due for a refresh.
fn waiting_callers(refreshes: bool) -> f64 {
    let manual = ManualClock::new();
    let cache = cache(&manual, refreshes, if refreshes { LIVE } else { REFRESH });
    drop(cache.insert(KEY, 0));
    manual.advance(REFRESH);
    let (returned, waiting) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let load = |_: &_| {
                    // Each of the others has returned, or has missed and waits for this load.
                    let mut left = THREADS - 1;
                    while left > cache.stats().misses.saturating_sub(1) {
                        thread::yield_now();
                        left = THREADS - 1 - returned.load(SeqCst);
                    }
                    waiting.store(left, SeqCst);
                    Ok::<_, Infallible>(1)
                };
                drop(cache.try_get_or_load(&KEY, load));
                returned.fetch_add(1, SeqCst);
            });
        }
    });
    waiting.into_inner() as f64
}

/// Returns the highest number of loads in a period. The control has no refreshes: each of its callers looks at the age of the
/// value, and loads a new one.
fn loads_per_period(refreshes: bool, periods: u64) -> f64 {
    let manual = ManualClock::new();
    let cache = cache(&manual, refreshes, LIVE);
    let clock = manual.clock();
    drop(cache.insert(KEY, clock.now()));
    let (loads, barrier) = (AtomicU64::new(0), Barrier::new(THREADS as usize));
    let (least, most) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
    let call = || {
        let load = |_: &_| {
            loads.fetch_add(1, SeqCst);
            thread::yield_now();
            clock.now()
        };
        if refreshes {
            for _ in 0..20 {
                let _value = cache.get_or_load(&KEY, load);
            }
            return;
        }
        let age = clock.now().saturating_sub(cache.get(&KEY).unwrap_or(0));
        barrier.wait();
        if u128::from(age) >= REFRESH.as_millis() {
            drop(cache.insert(KEY, load(&KEY)));
        }
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (call, manual, loads, barrier, least, most) = (&call, &manual, &loads, &barrier, &least, &most);
            scope.spawn(move || {
                for _ in 0..periods {
                    if thread == 0 {
                        manual.advance(REFRESH);
                        loads.store(0, SeqCst);
                    }
                    barrier.wait();
                    call();
                    barrier.wait();
                    least.fetch_min(loads.load(SeqCst), SeqCst);
                    most.fetch_max(loads.load(SeqCst), SeqCst);
                    barrier.wait();
                }
            });
        }
    });
    // Without any load, nothing was measured.
    if least.into_inner() == 0 { f64::NAN } else { most.into_inner() as f64 }
}

/// Returns the number of returned values that are as old as [`LIVE`], of a cache with values that live `times` as long.
///
/// A value is the time at which its load started. Loads fail, and go on while time passes or the process is frozen.
fn over_stale_bound(times: u32, steps: u64) -> f64 {
    let manual = ManualClock::new();
    let cache = cache(&manual, true, LIVE * times);
    let clock = manual.clock();
    let mut random = Random::new(1);
    let mut over = 0_u64;
    // The async load that is running.
    let mut running = Remote::default();
    for _ in 0..steps {
        let time = Duration::from_millis(10 * random.below(800) as u64);
        match random.below(12) {
            0..=4 => manual.advance(time),
            5 if random.one_in(4) => manual.freeze(LIVE + time),
            5 => manual.advance(LIVE.saturating_sub(time)),
            6 => running.end(if random.one_in(2) { Ok(0) } else { Err("down") }),
            7 => running.wake(),
            8 | 9 => {
                let (next, started) = (Remote::default(), clock.now());
                let remote = next.clone();
                let load = move |_: &_| {
                    let load = remote.load();
                    async move { load.await.map(|_| started) }
                };
                let call = pin!(cache.try_get_or_load_async(&KEY, load));
                let polled = call.poll(&mut Context::from_waker(Waker::noop()));
                if let Poll::Ready(Ok(value)) = polled {
                    over += u64::from(u128::from(clock.now() - value) >= LIVE.as_millis());
                }
                if next.starts() > 0 {
                    running = next;
                }
            }
            _ => {
                let fails = random.one_in(2);
                let load = |_: &_| {
                    if fails {
                        manual.advance(time * 4);
                        return Err("down");
                    }
                    Ok(clock.now())
                };
                if let Ok(value) = cache.try_get_or_load(&KEY, load) {
                    over += u64::from(u128::from(clock.now() - value) >= LIVE.as_millis());
                }
            }
        }
    }
    // Without values and refreshes, nothing was measured.
    let stats = cache.stats();
    let is_measured = stats.hits > 0 && stats.refreshes > 0 && stats.failed_refreshes > 0;
    if is_measured { over as f64 } else { f64::NAN }
}
