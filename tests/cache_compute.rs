//! Computations: atomic changes of one key, next to writes and loads of the same key.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "support/caches.rs"]
mod caches;
#[path = "support/cases.rs"]
mod cases;
#[path = "support/executor.rs"]
mod executor;
#[path = "support/remote.rs"]
mod remote;

use std::collections::HashSet;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use plimsoll::budget::{ReclaimPriority, reclaim_fn};
use plimsoll::cache::{Change, ComputeError, RejectReason, RemovalCause};
use plimsoll::{ByteSize, Cache, ManualClock, MemoryBudget, Pressure};

use caches::{is_whole, set_max_entries};
use cases::cases;
use executor::{Task, run};
use remote::Remote;

type Numbers = Cache<u64, u64>;

fn cache() -> Numbers {
    Cache::builder("computed").max_entries(100).build().unwrap()
}

const fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// A change that adds one.
fn count(number: Option<u64>) -> Change<u64> {
    Change::Put(number.unwrap_or(0) + 1)
}

#[test]
fn put_of_absent_key_inserts() {
    let cache: Cache<String, u64> = Cache::builder("computed").max_entries(100).build().unwrap();
    let value = cache.compute("alice", |present| {
        assert_eq!(present, None);
        Change::Put(1)
    });
    assert_eq!((value.unwrap(), cache.peek("alice")), (Some(1), Some(1)));
    let stats = cache.stats();
    assert_eq!((stats.inserts, stats.replaced, stats.hits, stats.misses, stats.load_successes), (1, 0, 0, 1, 0));
}

#[test]
fn put_of_present_key_replaces() {
    let cache = cache();
    cache.insert(1, 10).unwrap();
    assert_eq!((cache.compute(&1, count).unwrap(), cache.peek(&1)), (Some(11), Some(11)));
    let stats = cache.stats();
    assert_eq!((stats.inserts, stats.replaced, stats.hits, stats.misses, stats.load_successes), (1, 1, 1, 0, 0));
    assert_eq!((stats.cancelled_loads, stats.expired_loads, stats.load_failures), (0, 0, 0));
}

#[test]
fn keep_returns_the_present_value() {
    let cache = cache();
    assert_eq!((cache.compute(&1, |_| Change::Keep).unwrap(), cache.len()), (None, 0));
    cache.insert(1, 10).unwrap();
    assert_eq!((cache.compute(&1, |_| Change::Keep).unwrap(), cache.peek(&1)), (Some(10), Some(10)));
    assert_eq!((cache.stats().inserts, cache.stats().replaced), (1, 0));
}

#[test]
fn remove_returns_none() {
    let cache = cache();
    assert_eq!(cache.compute(&1, |_| Change::Remove).unwrap(), None);
    cache.insert(1, 10).unwrap();
    assert_eq!((cache.compute(&1, |_| Change::Remove).unwrap(), cache.len()), (None, 0));
    assert!(cache.stats().removed == 1 && is_whole(&cache.stats()));
}

#[test]
fn expired_value_is_absent() {
    let (manual, removed) = (ManualClock::new(), Arc::new(Mutex::new(Vec::new())));
    let log = Arc::clone(&removed);
    let cache: Numbers = Cache::builder("computed")
        .max_entries(100)
        .time_to_live(ms(1_000))
        .clock(manual.clock())
        .removal_listener(move |_, value, cause| log.lock().unwrap().push((*value, cause)))
        .build()
        .unwrap();
    cache.insert(1, 10).unwrap();
    manual.advance(ms(1_000));
    assert_eq!(cache.compute(&1, count).unwrap(), Some(1));
    // It expires before it is removed.
    let late = cache.compute(&1, |present| {
        assert_eq!(present, Some(1));
        manual.advance(ms(1_000));
        Change::Remove
    });
    assert_eq!(late.unwrap(), None);
    assert_eq!(*removed.lock().unwrap(), [(10, RemovalCause::Expired), (1, RemovalCause::Expired)]);
}

#[test]
fn time_to_live_counts_from_the_put() {
    let manual = ManualClock::new();
    let cache: Numbers =
        Cache::builder("computed").max_entries(100).time_to_live(ms(1_000)).clock(manual.clock()).build().unwrap();
    let slow = |number| {
        manual.advance(ms(5_000));
        count(number)
    };
    assert_eq!(cache.compute(&1, slow).unwrap(), Some(1));
    manual.advance(ms(600));
    assert_eq!(cache.compute(&1, count).unwrap(), Some(2));
    manual.advance(ms(600));
    assert_eq!(cache.compute(&1, |_| Change::Keep).unwrap(), Some(2));
    manual.advance(ms(600));
    assert_eq!(cache.get(&1), None, "a kept value keeps its time");
}

#[test]
fn value_with_a_time_of_its_own_expires_by_it() {
    let manual = ManualClock::new();
    let cache: Numbers = Cache::builder("computed")
        .max_entries(100)
        .expire_by(|_, time| ms(*time))
        .clock(manual.clock())
        .build()
        .unwrap();
    cache.compute(&1, |_| Change::Put(500)).unwrap();
    manual.advance(ms(400));
    assert_eq!(cache.peek(&1), Some(500));
    let rejected = cache.compute(&1, |_| Change::Put(0)).unwrap_err();
    assert!(
        matches!(&rejected, ComputeError::Rejected(error) if matches!(error.reason(), RejectReason::TimeToLive { .. }))
    );
    assert_eq!((cache.peek(&1), cache.stats().expired_loads), (None, 0));
}

#[test]
fn removal_listener_may_use_the_cache() {
    let (own, removed) = (Arc::new(OnceLock::<Numbers>::new()), Arc::new(Mutex::new(Vec::new())));
    let (inner, log) = (Arc::clone(&own), Arc::clone(&removed));
    let cache = Cache::builder("computed")
        .max_entries(100)
        .removal_listener(move |key, value, cause| {
            let present = inner.get().unwrap().peek(key);
            log.lock().unwrap().push((*value, present, cause));
        })
        .build()
        .unwrap();
    own.set(cache.clone()).unwrap();
    cache.insert(1, 10).unwrap();
    cache.compute(&1, count).unwrap();
    cache.compute(&1, |_| Change::Remove).unwrap();
    let expected = [(10, Some(11), RemovalCause::Replaced), (11, None, RemovalCause::Removed)];
    assert_eq!(*removed.lock().unwrap(), expected);
}

/// Runs one computation that `write` overtakes in its first run, and returns the values that its runs received.
fn overtaken(cache: &Numbers, write: impl Fn(), end: Change<u64>) -> Vec<Option<u64>> {
    let mut seen = Vec::new();
    let value = cache.compute(&1, |present| {
        seen.push(present);
        if seen.len() == 1 {
            write();
        }
        end
    });
    let expected = match end {
        Change::Keep => seen[seen.len() - 1],
        Change::Put(value) => Some(value),
        Change::Remove => None,
    };
    assert_eq!((value.unwrap(), cache.peek(&1)), (expected, expected));
    assert!(is_whole(&cache.stats()), "{:?}", cache.stats());
    seen
}

#[test]
fn write_of_the_key_repeats_the_change() {
    for shards in [1, 4] {
        for end in [Change::Keep, Change::Put(5), Change::Remove] {
            let cache: Numbers = Cache::builder("computed").max_entries(100).shards(shards).build().unwrap();
            let reset = || cache.insert(1, 10).unwrap();
            reset();
            assert_eq!(overtaken(&cache, || cache.insert(1, 20).unwrap(), end), [Some(10), Some(20)]);
            reset();
            assert_eq!(overtaken(&cache, || _ = cache.remove(&1), end), [Some(10), None]);
            reset();
            assert_eq!(overtaken(&cache, || cache.clear(), end), [Some(10), None]);
            reset();
            assert_eq!(overtaken(&cache, || cache.retain(|_, _| true), end), [Some(10), Some(10)]);
            reset();
            assert_eq!(overtaken(&cache, || cache.insert(2, 20).unwrap(), end), [Some(10)], "another key");
        }
    }
}

#[test]
fn bound_of_no_entries_rejects_the_value() {
    let (cache, mut runs) = (cache(), 0);
    let rejected = cache.compute(&1, |_| {
        runs += 1;
        if runs == 1 {
            set_max_entries(&cache, 0);
        }
        Change::Put(1)
    });
    let rejected = rejected.unwrap_err();
    assert_eq!(runs, 2);
    assert!(
        matches!(&rejected, ComputeError::Rejected(error) if matches!(error.reason(), RejectReason::NoEntries { .. }))
    );
    assert_eq!(format!("{rejected:?}"), "the computed value was rejected: cache computed: it may hold no entries");
}

#[test]
fn rejected_value_is_returned_and_the_former_removed() {
    let cache: Cache<u64, String> = Cache::builder("pages").max_bytes(ByteSize::kib(4)).build().unwrap();
    cache.insert(1, "small".to_owned()).unwrap();
    let rejected = cache.compute(&1, |_| Change::Put("x".repeat(100_000))).unwrap_err();
    assert!(rejected.source().is_some_and(|cause| cause.to_string().starts_with("cache pages: an entry of ")));
    let ComputeError::Rejected(rejected) = rejected else { panic!("{rejected}") };
    assert_eq!((rejected.into_entry().1.len(), cache.len(), cache.stats().rejections), (100_000, 0, 1));
    assert_eq!(cache.compute(&1, |present| Change::Put(present.unwrap_or_default())).unwrap(), Some(String::new()));
}

/// The reclaimer of another account writes the key while the budget is asked for the computed value.
#[test]
fn write_while_the_budget_is_asked_repeats_the_change() {
    let budget = MemoryBudget::new(ByteSize::mib(1));
    let cache: Cache<u64, Vec<u8>> =
        Cache::builder("pages").max_bytes(ByteSize::mib(1)).account(budget.account("pages").unwrap()).build().unwrap();
    let neighbor = budget.account("neighbor").unwrap();
    let writer = cache.clone();
    let reclaimer = reclaim_fn(move |_: ByteSize, _: Pressure| {
        let _released = {
            writer.insert(1, vec![7]).unwrap();
            ByteSize::ZERO
        };
    });
    let _registered = neighbor.register_reclaimer(ReclaimPriority::BUFFER, reclaimer);
    let _all = neighbor.try_reserve(ByteSize::kib(900)).unwrap();
    let mut seen = Vec::new();
    let value = cache.compute(&1, |present| {
        seen.push(present.clone());
        if present.is_some() { Change::Keep } else { Change::Put(vec![0; 500_000]) }
    });
    assert_eq!((seen, value.unwrap()), (vec![None, Some(vec![7])], Some(vec![7])));
    assert_eq!(cache.peek(&1), Some(vec![7]));
}

#[test]
fn value_beyond_the_budget_is_rejected() {
    let budget = MemoryBudget::new(ByteSize::mib(1));
    let cache: Cache<u64, Vec<u8>> =
        Cache::builder("pages").max_bytes(ByteSize::mib(1)).account(budget.account("pages").unwrap()).build().unwrap();
    cache.insert(1, vec![7]).unwrap();
    let neighbor = budget.account("neighbor").unwrap();
    let reclaimer = reclaim_fn(|_: ByteSize, _: Pressure| ());
    let _registered = neighbor.register_reclaimer(ReclaimPriority::BUFFER, reclaimer);
    let _all = neighbor.try_reserve(ByteSize::kib(900)).unwrap();
    let rejected = cache.compute(&1, |_| Change::Put(vec![0; 500_000])).unwrap_err();
    assert!(matches!(&rejected, ComputeError::Rejected(error) if matches!(error.reason(), RejectReason::Budget(_))));
    assert_eq!((cache.len(), cache.compute(&1, |_| Change::Put(vec![1])).unwrap()), (0, Some(vec![1])));
}

#[test]
fn large_value_evicts_others_in_batches() {
    let cache: Cache<u64, Vec<u8>> = Cache::builder("pages").max_bytes(ByteSize::kib(64)).shards(4).build().unwrap();
    for key in 0..200 {
        cache.insert(key, vec![0; 200]).unwrap();
    }
    let value = cache.compute(&1_000, |_| Change::Put(vec![1; 50_000]));
    // A large new key is admitted at the second call.
    let value = value.or_else(|_| cache.compute(&1_000, |_| Change::Put(vec![1; 50_000])));
    assert_eq!(value.unwrap().map(|value| value.len()), Some(50_000));
    assert!(cache.contains_key(&1_000) && is_whole(&cache.stats()), "{:?}", cache.stats());
}

#[test]
fn load_around_a_computation_is_cancelled() {
    for end in [Change::Put(5), Change::Remove] {
        let cache = cache();
        let loaded = cache.get_or_load(&1, |_| {
            cache.compute(&1, |_| end).unwrap();
            10
        });
        let expected = if end == Change::Remove { None } else { Some(5) };
        assert_eq!((loaded, cache.peek(&1), cache.stats().cancelled_loads), (10, expected, 1));
    }
}

#[test]
fn load_around_a_computation_that_keeps_is_stored() {
    let cache = cache();
    let loaded = cache.get_or_load(&1, |_| {
        assert_eq!(cache.compute(&1, |_| Change::Keep).unwrap(), None);
        10
    });
    assert_eq!((loaded, cache.peek(&1), cache.stats().cancelled_loads), (10, Some(10), 0));
}

#[test]
fn load_within_a_computation_repeats_the_change() {
    let (cache, mut seen) = (cache(), Vec::new());
    let value = cache.compute(&1, |present| {
        seen.push(present);
        assert_eq!(cache.get_or_load(&1, |_| 7), 7);
        count(present)
    });
    assert_eq!((value.unwrap(), seen, cache.peek(&1)), (Some(8), vec![None, Some(7)], Some(8)));
    assert_eq!((cache.stats().load_successes, cache.stats().cancelled_loads), (1, 0));
}

/// The load starts before the computation.
#[test]
fn load_that_ends_within_a_computation_repeats_the_change() {
    let (cache, remote, mut seen) = (cache(), Remote::default(), Vec::new());
    let (other, load) = (cache.clone(), remote.clone());
    let start = move |_: &u64| async move { load.load().await.map(u64::from) };
    let mut task = [Task::new(async move { other.try_get_or_load_async(&1, start).await.ok() })];
    run(&mut task);
    assert_eq!(remote.starts(), 1);
    let value = cache.compute(&1, |present| {
        seen.push(present);
        if seen.len() == 1 {
            remote.end(Ok(7));
            run(&mut task);
        }
        count(present)
    });
    assert_eq!((value.unwrap(), seen, cache.peek(&1)), (Some(8), vec![None, Some(7)], Some(8)));
    assert_eq!((task[0].output(), cache.stats().cancelled_loads), (Some(Some(7)), 0));
}

/// The load starts within the computation.
#[test]
fn load_that_ends_after_a_computation_is_cancelled() {
    for end in [Change::Put(5), Change::Remove, Change::Keep] {
        let (cache, remote) = (cache(), Remote::default());
        let (other, load) = (cache.clone(), remote.clone());
        let start = move |_: &u64| async move { load.load().await.map(u64::from) };
        let mut task = [Task::new(async move { other.try_get_or_load_async(&1, start).await.ok() })];
        cache
            .compute(&1, |_| {
                run(&mut task);
                end
            })
            .unwrap();
        remote.end(Ok(7));
        run(&mut task);
        let expected = match end {
            Change::Keep => (Some(7), 0),
            Change::Put(value) => (Some(value), 1),
            Change::Remove => (None, 1),
        };
        assert_eq!((task[0].output(), remote.starts()), (Some(Some(7)), 1));
        assert_eq!((cache.peek(&1), cache.stats().cancelled_loads), expected);
    }
}

#[test]
fn panic_of_the_change_changes_nothing() {
    let cache = cache();
    cache.insert(1, 10).unwrap();
    let panics = || cache.compute(&1, |_| panic!("the change panics (this panic belongs to the test)"));
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    assert_eq!((cache.peek(&1), cache.compute(&1, count).unwrap()), (Some(10), Some(11)));
}

#[test]
fn waiters_go_on_after_a_panic() {
    let (cache, begun) = (cache(), Barrier::new(5));
    thread::scope(|scope| {
        let leader = scope.spawn(|| {
            cache.compute(&1, |_| {
                begun.wait();
                thread::sleep(ms(20));
                panic!("the change panics (this panic belongs to the test)")
            })
        });
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    begun.wait();
                    cache.compute(&1, count).unwrap()
                })
            })
            .collect();
        assert!(leader.join().is_err());
        let values: HashSet<_> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
        assert_eq!(values, (1..=4).map(Some).collect());
    });
}

#[test]
fn computation_inside_itself_is_an_error() {
    let cache = cache();
    let outer = cache.compute(&1, |_| {
        let own = cache.compute(&1, count).unwrap_err();
        assert_eq!(own.to_string(), "cache computed: the computation waits for the key that it computes");
        assert_eq!((format!("{own:?}"), own.source().is_none()), (own.to_string(), true));
        assert_eq!(cache.compute(&2, count).unwrap(), Some(1), "another key");
        count(None)
    });
    assert_eq!((outer.unwrap(), cache.peek(&2)), (Some(1), Some(1)));
}

#[test]
fn computation_inside_a_load_of_its_change_is_an_error() {
    let cache = cache();
    let value = cache.compute(&1, |_| {
        let loaded = cache.get_or_load(&2, |_| {
            assert!(matches!(cache.compute(&1, count), Err(ComputeError::Reentrant { .. })));
            7
        });
        Change::Put(loaded)
    });
    assert_eq!(value.unwrap(), Some(7));
}

#[test]
fn ring_of_two_threads_is_an_error() {
    let (cache, begun) = (cache(), Barrier::new(2));
    let compute = |own: u64, other: u64| {
        let mut nested = Ok(None);
        cache
            .compute(&own, |present| {
                begun.wait();
                nested = cache.compute(&other, |_| Change::Keep);
                count(present)
            })
            .unwrap();
        nested
    };
    let [first, second] = thread::scope(|scope| {
        let other = scope.spawn(|| compute(2, 1));
        [compute(1, 2), other.join().unwrap()]
    });
    let is_reentrant = |nested: &Result<_, _>| matches!(nested, Err(ComputeError::Reentrant { .. }));
    assert!(is_reentrant(&first) != is_reentrant(&second), "{first:?} {second:?}");
    assert_eq!((cache.peek(&1), cache.peek(&2)), (Some(1), Some(1)));
}

#[test]
fn increments_of_eight_threads_are_exact() {
    let increments = cases(10_000);
    for shards in [1, 4] {
        let cache: Numbers = Cache::builder("computed").max_entries(100).shards(shards).build().unwrap();
        thread::scope(|scope| {
            for thread in 0..8 {
                let cache = &cache;
                scope.spawn(move || {
                    for at in 0..increments {
                        cache.compute(&((at + thread) % 16), count).unwrap();
                    }
                });
            }
        });
        let counted: Vec<_> = (0..16).map(|key| cache.peek(&key).unwrap_or(0)).collect();
        let all = increments * 8;
        assert_eq!(counted.iter().sum::<u64>(), all, "{counted:?}");
        assert!(!increments.is_multiple_of(16) || counted.iter().all(|counted| *counted == all / 16), "{counted:?}");
        assert!(is_whole(&cache.stats()) && cache.stats().rejections == 0);
    }
}

/// A version that was written, and the number of computations since.
type Versioned = (u64, u64);

/// One thread writes versions of a key, others compute and load it. A computation that lost another one would repeat its
/// number. One that lost a write would bring back a version.
fn change_and_write(cache: &Cache<u64, Versioned>, key: u64, rounds: u64) {
    let (is_running, is_over, versions) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(1));
    let next = || (versions.fetch_add(1, SeqCst), 0);
    let compute = || {
        let value = cache.compute(&key, |present| {
            assert!(!is_running.swap(true, SeqCst), "two computations of one key");
            thread::yield_now();
            let (version, computed) = present.unwrap_or_else(next);
            is_running.store(false, SeqCst);
            Change::Put((version, computed + 1))
        });
        value.unwrap().unwrap()
    };
    thread::scope(|scope| {
        let computers: Vec<_> = (0..3)
            .map(|at| {
                let (compute, is_over, next) = (&compute, &is_over, &next);
                scope.spawn(move || {
                    let mut computed = Vec::new();
                    while !is_over.load(SeqCst) {
                        if at == 0 {
                            cache.get_or_load(&key, |_| next());
                        }
                        computed.push(compute());
                    }
                    computed
                })
            })
            .collect();
        for round in 0..rounds {
            let written = next();
            cache.insert(key, written).unwrap();
            thread::yield_now();
            assert_eq!(cache.peek(&key).unwrap().0, written.0, "round {round}: the written version is lost");
            match round % 3 {
                0 => drop(cache.remove(&key)),
                1 => cache.clear(),
                _ => continue,
            }
            assert_ne!(
                cache.peek(&key).map(|value| value.0),
                Some(written.0),
                "round {round}: a removed version is back"
            );
        }
        is_over.store(true, SeqCst);
        let computed: Vec<_> = computers.into_iter().flat_map(|computer| computer.join().unwrap()).collect();
        let distinct: HashSet<_> = computed.iter().collect();
        assert_eq!(distinct.len(), computed.len(), "a computation was lost");
    });
}

#[test]
fn computations_and_writes_lose_nothing() {
    for shards in [1, 4] {
        let cache = Cache::builder("computed").max_entries(100).shards(shards).build().unwrap();
        change_and_write(&cache, 1, cases(5_000));
        assert!(is_whole(&cache.stats()), "{:?}", cache.stats());
    }
}

#[test]
fn waiter_computes_from_the_value_before_it() {
    let (cache, (start, started)) = (cache(), mpsc::channel());
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            cache.compute(&1, |present| {
                start.send(()).unwrap();
                thread::sleep(ms(20));
                count(present)
            })
        });
        started.recv().unwrap();
        assert_eq!(cache.compute(&1, count).unwrap(), Some(2));
        assert_eq!(first.join().unwrap().unwrap(), Some(1));
    });
}
