//! Writes that come while a load of the same key runs: the load must not bring back the value it read before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "support/caches.rs"]
mod caches;
#[path = "support/executor.rs"]
mod executor;
#[path = "support/remote.rs"]
mod remote;

use std::hash::{Hash, Hasher};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use plimsoll::{ByteSize, Cache, MemoryBudget};

use caches::{evict_to, remove_expired, set_max_bytes, set_max_entries};
use executor::{Task, run};
use remote::Remote;

const KEY: u8 = 1;

/// A test fails if a load has not started after this time.
const PATIENCE: Duration = Duration::from_secs(10);

type Numbers = Cache<u8, u32>;

fn cache() -> Numbers {
    Cache::builder("stale").max_entries(100).build().unwrap()
}

/// A load of [`KEY`] that runs until the test ends it.
struct Running {
    end: Box<dyn FnOnce() -> u32>,
}

impl Running {
    /// Ends the load and returns the value that its caller received.
    fn end(self) -> u32 {
        (self.end)()
    }
}

/// Starts a load of `value`.
type Start = fn(&Numbers, u32) -> Running;

/// Starts a load on a thread of its own.
fn blocking<E: Send + Sync + 'static>(cache: &Numbers, value: u32) -> Running {
    let (start, started) = mpsc::channel();
    let (finish, finished) = mpsc::channel::<()>();
    let cache = cache.clone();
    let caller = thread::spawn(move || {
        let load = |_| {
            start.send(()).unwrap();
            finished.recv().unwrap();
            Ok::<_, E>(value)
        };
        cache.try_get_or_load(&KEY, load).ok()
    });
    started.recv_timeout(PATIENCE).expect("a blocking load did not start");
    let end = move || {
        finish.send(()).unwrap();
        caller.join().unwrap().unwrap()
    };
    Running { end: Box::new(end) }
}

/// Starts a load that the test polls.
fn polled<E: From<&'static str> + Send + Sync + 'static>(cache: &Numbers, value: u32) -> Running {
    let (cache, remote) = (cache.clone(), Remote::default());
    let load = remote.clone();
    let mut task = Task::new(async move {
        let start = |_| {
            let load = load.load();
            async { load.await.map_err(E::from) }
        };
        cache.try_get_or_load_async(&KEY, start).await.ok()
    });
    assert!(task.poll() && remote.starts() == 1, "an async load did not start");
    let end = move || {
        remote.end(Ok(value));
        run(slice::from_mut(&mut task));
        task.output().expect("the load has ended").unwrap()
    };
    Running { end: Box::new(end) }
}

/// All classes of callers. Callers of different classes do not share a load.
const CLASSES: [(&str, Start); 4] = [
    ("blocking", blocking::<&'static str>),
    ("blocking, other error", blocking::<String>),
    ("async", polled::<&'static str>),
    ("async, other error", polled::<String>),
];

/// Starts a load of 1, calls `write`, ends the load, and compares the entry with `then`.
fn check(start: Start, write: fn(&Numbers), then: Option<u32>) {
    let cache = cache();
    let running = start(&cache, 1);
    write(&cache);
    assert_eq!(running.end(), 1, "the caller receives the value that its load returned");
    assert_eq!(cache.get(&KEY), then);
}

/// One test for each write and class.
macro_rules! writes {
    ($($name:ident: $write:expr => $then:expr;)+) => {
        mod blocking_load {
            use super::*;
            $(#[test]
            fn $name() {
                check(blocking::<&'static str>, $write, $then);
            })+
        }

        mod async_load {
            use super::*;
            $(#[test]
            fn $name() {
                check(polled::<&'static str>, $write, $then);
            })+
        }
    };
}

writes! {
    insert_cancels_load: |cache| cache.insert(KEY, 2).unwrap() => Some(2);
    insert_with_ttl_cancels_load: |cache| cache.insert_with_ttl(KEY, 2, Duration::from_hours(1)).unwrap() => Some(2);
    remove_cancels_load: |cache| assert_eq!(cache.remove(&KEY), None) => None;
    insert_and_remove_cancel_load: |cache| {
        cache.insert(KEY, 2).unwrap();
        cache.remove(&KEY);
    } => None;
    clear_cancels_load: Cache::clear => None;
    retain_cancels_load: |cache| cache.retain(|_, _| false) => None;
    retain_of_all_entries_cancels_load: |cache| cache.retain(|_, _| true) => None;
    zero_entries_cancel_load: |cache| {
        set_max_entries(cache, 0);
        set_max_entries(cache, 100);
    } => None;
    zero_bytes_cancel_load: |cache| {
        set_max_bytes(cache, ByteSize::ZERO);
        set_max_bytes(cache, ByteSize::MAX);
    } => None;
    evicted_write_still_cancels_load: |cache| {
        cache.insert(KEY, 2).unwrap();
        evict_to(cache, ByteSize::ZERO);
    } => None;

    write_of_other_key_keeps_load: |cache| {
        cache.insert(KEY + 1, 2).unwrap();
        cache.remove(&(KEY + 1));
        cache.remove(&(KEY + 2));
    } => Some(1);
    load_of_other_key_keeps_load: |cache| {
        assert_eq!(cache.try_get_or_load(&(KEY + 1), |_| Ok::<_, &'static str>(2)).ok(), Some(2));
    } => Some(1);
    reads_keep_load: |cache| {
        assert_eq!((cache.get(&KEY), cache.contains_key(&KEY)), (None, false));
        cache.for_each(|_, _| ());
    } => Some(1);
    eviction_keeps_load: |cache| (10..=250).for_each(|key| cache.insert(key, 2).unwrap()) => Some(1);
    evict_to_zero_keeps_load: |cache| {
        cache.insert(KEY + 1, 2).unwrap();
        evict_to(cache, ByteSize::ZERO);
    } => Some(1);
    smaller_bound_keeps_load: |cache| {
        (10..=100).for_each(|key| cache.insert(key, 2).unwrap());
        set_max_entries(cache, 10);
    } => Some(1);
    removal_of_expired_entries_keeps_load: |cache| {
        cache.insert_with_ttl(KEY + 1, 2, Duration::from_hours(1)).unwrap();
        remove_expired(cache, usize::MAX);
    } => Some(1);
}

#[test]
fn insert_cancels_loads_of_all_classes() {
    let cache = cache();
    let running = CLASSES.map(|(_, start)| start(&cache, 1));
    cache.insert(KEY, 2).unwrap();
    for running in running {
        assert_eq!((running.end(), cache.get(&KEY)), (1, Some(2)));
    }
}

#[test]
fn clear_cancels_loads_of_all_classes() {
    let cache = cache();
    let running = CLASSES.map(|(_, start)| start(&cache, 1));
    cache.clear();
    for running in running {
        assert_eq!((running.end(), cache.get(&KEY)), (1, None));
    }
}

/// The cache holds no new value, and the caller of `insert` wrote one: the old one must not come back.
#[test]
fn refused_insert_cancels_load() {
    for (class, start) in CLASSES {
        let cache: Numbers =
            Cache::builder("stale").max_bytes_weighed(ByteSize::kib(4), |_, value| *value as usize).build().unwrap();
        let running = start(&cache, 1);
        assert!(cache.insert(KEY, 5_000).is_err());
        assert_eq!((running.end(), cache.get(&KEY)), (1, None), "{class}");
    }
}

#[test]
fn reclaim_keeps_load() {
    for (class, start) in CLASSES {
        let budget = MemoryBudget::new(ByteSize::kib(64));
        let cache: Numbers =
            Cache::builder("stale").max_entries(100).account(budget.account("stale").unwrap()).build().unwrap();
        (10..=100).for_each(|key| cache.insert(key, 2).unwrap());
        let running = start(&cache, 1);
        let neighbor = budget.account("neighbor").unwrap();
        let all = neighbor.try_reserve(budget.available()).unwrap();
        let more = neighbor.try_reserve(ByteSize::kib(1)).unwrap();
        assert!(cache.stats().evictions_by_pressure > 0);
        drop((all, more));
        assert_eq!((running.end(), cache.get(&KEY)), (1, Some(1)), "{class}");
    }
}

#[test]
fn caller_after_remove_starts_its_own_load() {
    for (class, start) in CLASSES {
        for old_ends_first in [true, false] {
            let cache = cache();
            let old = start(&cache, 1);
            cache.remove(&KEY);
            let new = start(&cache, 2);
            if old_ends_first {
                assert_eq!((old.end(), cache.get(&KEY)), (1, None), "{class}");
                assert_eq!((new.end(), cache.get(&KEY)), (2, Some(2)), "{class}");
            } else {
                assert_eq!((new.end(), cache.get(&KEY)), (2, Some(2)), "{class}");
                assert_eq!((old.end(), cache.get(&KEY)), (1, Some(2)), "{class}");
            }
        }
    }
}

#[test]
fn caller_after_clear_starts_its_own_load() {
    for (class, start) in CLASSES {
        let cache = cache();
        let old = start(&cache, 1);
        cache.clear();
        let new = start(&cache, 2);
        assert_eq!((new.end(), old.end(), cache.get(&KEY)), (2, 1, Some(2)), "{class}");
    }
}

#[test]
fn write_after_write_cancels_second_load() {
    for (class, start) in CLASSES {
        let cache = cache();
        let first = start(&cache, 1);
        cache.remove(&KEY);
        let second = start(&cache, 2);
        cache.remove(&KEY);
        assert_eq!((second.end(), first.end(), cache.get(&KEY)), (2, 1, None), "{class}");
    }
}

#[test]
fn load_after_cancelled_load_is_shared_again() {
    let (cache, old, new) = (cache(), Remote::default(), Remote::default());
    let call = |remote: &Remote| {
        let (cache, remote) = (cache.clone(), remote.clone());
        Task::new(async move { cache.try_get_or_load_async(&KEY, |_| remote.load()).await.ok() })
    };
    let mut tasks = vec![call(&old)];
    run(&mut tasks);
    cache.remove(&KEY);
    tasks.extend([call(&new), call(&new), call(&new)]);
    run(&mut tasks);
    assert_eq!((old.starts(), new.starts()), (1, 1));
    old.end(Ok(1));
    run(&mut tasks);
    assert_eq!(tasks.iter_mut().map(Task::output).collect::<Vec<_>>(), [Some(Some(1)), None, None, None]);
    new.end(Ok(2));
    run(&mut tasks);
    assert_eq!(
        tasks.iter_mut().map(Task::output).collect::<Vec<_>>(),
        [None, Some(Some(2)), Some(Some(2)), Some(Some(2))]
    );
    assert_eq!(cache.get(&KEY), Some(2));
}

#[test]
fn of_two_loads_the_one_started_later_stays() {
    for (at, (first_class, start_first)) in CLASSES.into_iter().enumerate() {
        for (second_class, start_second) in CLASSES.into_iter().enumerate().filter(|&(i, _)| i != at).map(|(_, c)| c) {
            for first_ends_first in [true, false] {
                let cache = cache();
                let first = start_first(&cache, 1);
                let second = start_second(&cache, 2);
                let case = format!("{first_class}, then {second_class}; first ends first: {first_ends_first}");
                if first_ends_first {
                    assert_eq!((first.end(), cache.get(&KEY)), (1, Some(1)), "{case}");
                    assert_eq!((second.end(), cache.get(&KEY)), (2, Some(2)), "{case}");
                } else {
                    assert_eq!((second.end(), cache.get(&KEY)), (2, Some(2)), "{case}");
                    assert_eq!((first.end(), cache.get(&KEY)), (1, Some(2)), "{case}");
                }
            }
        }
    }
}

#[test]
fn async_waiters_of_cancelled_load_receive_its_value() {
    let (cache, remote) = (cache(), Remote::default());
    let mut tasks: Vec<_> = (0..3)
        .map(|_| {
            let (cache, remote) = (cache.clone(), remote.clone());
            Task::new(async move { cache.try_get_or_load_async(&KEY, |_| remote.load()).await.ok() })
        })
        .collect();
    run(&mut tasks);
    cache.insert(KEY, 2).unwrap();
    remote.end(Ok(1));
    run(&mut tasks);
    assert!(tasks.iter_mut().all(|task| task.output() == Some(Some(1))));
    assert_eq!((remote.starts(), cache.get(&KEY)), (1, Some(2)));
}

/// A key that counts its comparisons. The cache is empty: it is compared with the key of a load.
#[derive(Clone, Default)]
struct Compared(Arc<AtomicUsize>);

impl Hash for Compared {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(0);
    }
}

impl PartialEq for Compared {
    fn eq(&self, _: &Self) -> bool {
        self.0.fetch_add(1, SeqCst);
        true
    }
}

impl Eq for Compared {}

#[test]
fn blocking_waiters_of_cancelled_load_receive_its_value() {
    let cache: Cache<Compared, u32> = Cache::builder("stale").max_entries(100).build().unwrap();
    let (key, loads) = (Compared::default(), AtomicUsize::new(0));
    let (start, started) = mpsc::channel();
    let (finish, finished) = mpsc::channel::<()>();
    thread::scope(|scope| {
        // A failure drops it, which ends the load.
        let finish = finish;
        let (cache, key, loads) = (&cache, &key, &loads);
        let leader = scope.spawn(move || {
            let load = |_| {
                start.send(()).unwrap();
                finished.recv().unwrap();
                loads.fetch_add(1, SeqCst);
                Ok::<_, ()>(1)
            };
            cache.try_get_or_load(key, load).ok()
        });
        started.recv().unwrap();
        let ask = move || {
            let load = |_| {
                loads.fetch_add(1, SeqCst);
                Ok::<_, ()>(2)
            };
            cache.try_get_or_load(key, load).ok()
        };
        let waiters = [scope.spawn(ask), scope.spawn(ask)];
        // A waiter compares the key under the lock, before the write takes that lock.
        let mut turns = 0;
        while key.0.load(SeqCst) < 2 {
            thread::yield_now();
            turns += 1;
            assert!(turns < 50_000_000, "a waiter did not come");
        }
        cache.clear();
        finish.send(()).unwrap();
        assert_eq!(leader.join().unwrap(), Some(1));
        assert_eq!(waiters.map(|waiter| waiter.join().unwrap()), [Some(1), Some(1)]);
    });
    assert_eq!((loads.into_inner(), cache.len()), (1, 0));
}

#[test]
fn failed_load_after_insert_keeps_inserted_value() {
    let (cache, remote) = (cache(), Remote::default());
    let load = remote.clone();
    let other = cache.clone();
    let mut task = [Task::new(async move { other.try_get_or_load_async(&KEY, |_| load.load()).await.is_err() })];
    run(&mut task);
    cache.insert(KEY, 2).unwrap();
    remote.end(Err("down"));
    run(&mut task);
    assert_eq!((task[0].output(), cache.get(&KEY)), (Some(true), Some(2)));
}
