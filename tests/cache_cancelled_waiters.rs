//! Loads whose waiters are cancelled, panic, or belong to another runtime: one load for each key and class at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "support/caches.rs"]
mod caches;
#[path = "support/cases.rs"]
mod cases;
#[path = "support/executor.rs"]
mod executor;
#[path = "support/load_stress.rs"]
mod load_stress;
#[path = "support/random.rs"]
mod random;
#[path = "support/remote.rs"]
mod remote;

use std::future::{Future, pending, poll_fn};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use plimsoll::cache::LoadError;
use plimsoll::{ByteSize, Cache};

use caches::evict_to;
use cases::cases;
use executor::{Task, run};
use load_stress::{Down, Loads};
use remote::Remote;

const KEY: u8 = 1;

type Numbers = Cache<u8, u32>;

fn cache() -> Numbers {
    Cache::builder("waiters").max_entries(100).build().unwrap()
}

/// A call that loads by `remote` if it starts a load.
fn call(cache: &Numbers, remote: &Remote) -> Task<'static, Result<u32, LoadError<&'static str>>> {
    let (cache, remote) = (cache.clone(), remote.clone());
    Task::new(async move { cache.try_get_or_load_async(&KEY, |_| remote.load()).await })
}

/// A key that counts its comparisons and its copies.
struct Counted {
    id: u64,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    compared: AtomicUsize,
    alive: AtomicUsize,
}

impl Counted {
    fn new(id: u64, counts: &Arc<Counts>) -> Self {
        counts.alive.fetch_add(1, SeqCst);
        Self { id, counts: Arc::clone(counts) }
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        Self::new(self.id, &self.counts)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counts.alive.fetch_sub(1, SeqCst);
    }
}

impl Hash for Counted {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        self.counts.compared.fetch_add(1, SeqCst);
        self.id == other.id
    }
}

impl Eq for Counted {}

/// A blocking load runs. Async callers of its key are cancelled. The next blocking caller must wait for the first.
#[test]
fn cancelled_async_callers_leave_blocking_load_in_place() {
    for async_callers in [0, 1, 2] {
        let cache: Cache<Counted, u32> = Cache::builder("waiters").max_entries(10).build().unwrap();
        let counts = Arc::new(Counts::default());
        let key = Counted::new(1, &counts);
        let (start, started) = mpsc::channel();
        let (finish, finished) = mpsc::channel::<()>();
        let second_loads = AtomicUsize::new(0);
        let (first, second) = thread::scope(|scope| {
            // A failure drops it, which ends the load.
            let finish = finish;
            let (cache, key, second_loads) = (&cache, &key, &second_loads);
            let first = scope.spawn(move || {
                let load = |_| {
                    start.send(()).unwrap();
                    finished.recv().unwrap();
                    Ok::<_, &'static str>(1)
                };
                cache.try_get_or_load(key, load).ok()
            });
            started.recv().unwrap();
            {
                let ask = || cache.try_get_or_load_async(key, |_| pending::<Result<u32, &'static str>>());
                let mut calls: Vec<_> = (0..async_callers).map(|_| Task::new(ask())).collect();
                run(&mut calls);
                assert!(calls.iter().all(Task::is_pending));
            }
            let compared = counts.compared.load(SeqCst);
            let second = scope.spawn(move || {
                let load = |_| {
                    second_loads.fetch_add(1, SeqCst);
                    Ok::<_, &'static str>(2)
                };
                cache.try_get_or_load(key, load).ok()
            });
            // The second caller finds the load, or starts its own.
            let mut turns = 0;
            while counts.compared.load(SeqCst) == compared && second_loads.load(SeqCst) == 0 {
                thread::yield_now();
                turns += 1;
                assert!(turns < 50_000_000, "the second caller did not come");
            }
            finish.send(()).unwrap();
            (first.join().unwrap(), second.join().unwrap())
        });
        let case = format!("after {async_callers} async callers");
        assert_eq!(second_loads.into_inner(), 0, "a second load ran at the same time, {case}");
        assert_eq!((first, second, cache.get(&key)), (Some(1), Some(1), Some(1)), "{case}");
    }
}

/// Waiters that are cancelled at the same time leave no key in the cache.
#[test]
fn waiters_cancelled_on_four_threads_leave_no_key() {
    const THREADS: usize = 4;
    const BATCH: u64 = 100;
    let cache: Cache<Counted, u64> = Cache::builder("waiters").max_entries(10).build().unwrap();
    let (counts, barrier) = (Arc::new(Counts::default()), Barrier::new(THREADS));
    let rounds = cases(5_000);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for round in 0..rounds {
                    let keys: Vec<_> = (0..BATCH).map(|at| Counted::new(round * BATCH + at, &counts)).collect();
                    let ask = |key| cache.try_get_or_load_async(key, |_| pending::<Result<u64, ()>>());
                    let mut calls: Vec<_> = keys.iter().map(|key| Task::new(ask(key))).collect();
                    run(&mut calls);
                    barrier.wait();
                    drop(calls);
                }
            });
        }
    });
    assert_eq!((counts.alive.load(SeqCst), cache.len()), (0, 0), "keys of cancelled loads stay");
}

fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The runtime of the first caller has gone, and the load needs its timer.
#[test]
#[cfg_attr(miri, ignore = "Miri has no timers of the kernel")]
fn caller_survives_runtime_of_another_caller() {
    let cache = cache();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let sleep = |_| async {
        tokio::time::sleep(Duration::from_hours(1)).await;
        Ok::<_, &'static str>(1)
    };
    let mut first = Box::pin(cache.try_get_or_load_async(&KEY, sleep));
    runtime().block_on(async { assert!(poll(first.as_mut()).is_pending()) });
    let value = runtime().block_on(async {
        let mut second = pin!(cache.try_get_or_load_async(&KEY, |_| async { Ok::<_, &'static str>(2) }));
        match poll(second.as_mut()) {
            Poll::Ready(value) => value,
            Poll::Pending => {
                drop(first);
                second.await
            }
        }
    });
    assert_eq!((value.ok(), cache.get(&KEY)), (Some(2), Some(2)));
}

/// The waiter polls a load that another caller started, and the load panics: the waiter starts its own.
#[test]
fn panic_of_another_callers_load_does_not_reach_waiter() {
    let (cache, first, second) = (cache(), Remote::default(), Remote::default());
    let mut tasks = [call(&cache, &first), call(&cache, &second), call(&cache, &second)];
    run(&mut tasks);
    assert_eq!((first.starts(), second.starts()), (1, 0));
    first.0.panics.store(true, SeqCst);
    first.wake();
    // The caller that started the load is never polled again: it leaves, and a waiter polls the load.
    let [starter, waiters @ ..] = &mut tasks;
    *starter = Task::new(pending());
    let panicked = catch_unwind(AssertUnwindSafe(|| run(waiters)));
    assert!(panicked.is_ok(), "the panic reached a waiter");
    assert_eq!((first.drops(), second.starts()), (1, 1), "one waiter starts a load");
    second.end(Ok(2));
    run(waiters);
    assert!(waiters.iter_mut().all(|task| matches!(task.output(), Some(Ok(2)))));
    assert_eq!((second.starts(), cache.get(&KEY)), (1, Some(2)));
}

/// All callers are polled, in each order. A panic reaches at most the caller that started the load.
#[test]
fn starter_of_panicked_load_receives_panic_or_error() {
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
        let (cache, first, second) = (cache(), Remote::default(), Remote::default());
        let mut tasks = [call(&cache, &first), call(&cache, &second), call(&cache, &second)];
        run(&mut tasks);
        first.0.panics.store(true, SeqCst);
        first.wake();
        let mut panicked = [false; 3];
        for _ in 0..4 {
            for at in order {
                panicked[at] |= catch_unwind(AssertUnwindSafe(|| tasks[at].poll())).is_err();
            }
        }
        assert_eq!(panicked[1..], [false; 2], "the panic reached a waiter, in the order {order:?}");
        let starter = tasks[0].output();
        assert!(
            panicked[0] || matches!(starter, Some(Err(LoadError::Panicked))),
            "{starter:?}, in the order {order:?}"
        );
        assert_eq!(second.starts(), 1);
        second.end(Ok(2));
        run(&mut tasks);
        assert!(tasks[1..].iter_mut().all(|task| matches!(task.output(), Some(Ok(2)))));
    }
}

/// A load that is woken 200 times, with 100 callers that wait for it.
#[test]
fn wake_up_of_load_is_polled_by_one_of_its_waiters() {
    const WAITERS: usize = 100;
    const WAKES: usize = 200;
    let (cache, remote) = (cache(), Remote::default());
    let mut tasks: Vec<_> = (0..WAITERS).map(|_| call(&cache, &remote)).collect();
    let mut task_polls = run(&mut tasks);
    for _ in 0..WAKES {
        remote.wake();
        task_polls += run(&mut tasks);
    }
    remote.end(Ok(1));
    task_polls += run(&mut tasks);
    assert!(tasks.iter_mut().all(|task| matches!(task.output(), Some(Ok(1)))));
    assert_eq!(remote.starts(), 1);
    assert!(remote.polls() <= 2 * WAKES, "{} polls of the load for {WAKES} wake-ups", remote.polls());
    let most = 2 * (WAKES + WAITERS);
    assert!(task_polls <= most, "{task_polls} polls of the callers for {WAKES} wake-ups and {WAITERS} callers");
}

/// Each caller in turn leaves: before a wake-up of the load, and between a wake-up and the poll.
#[test]
fn load_continues_after_any_of_its_callers_leaves() {
    for leaves in 0..3 {
        for woken_before in [false, true] {
            let (cache, remote) = (cache(), Remote::default());
            let mut tasks: Vec<_> = (0..3).map(|_| call(&cache, &remote)).collect();
            run(&mut tasks);
            if woken_before {
                remote.end(Ok(1));
                tasks.remove(leaves);
            } else {
                tasks.remove(leaves);
                remote.wake();
                run(&mut tasks);
                remote.end(Ok(1));
            }
            run(&mut tasks);
            let case = format!("caller {leaves} left, woken before: {woken_before}");
            assert!(tasks.iter_mut().all(|task| matches!(task.output(), Some(Ok(1)))), "{case}");
            assert_eq!((remote.starts(), remote.drops(), cache.get(&KEY)), (1, 1, Some(1)), "{case}");
        }
    }
}

#[test]
fn load_continues_until_its_last_caller_leaves() {
    let (cache, remote) = (cache(), Remote::default());
    let mut tasks: Vec<_> = (0..10).map(|_| call(&cache, &remote)).collect();
    run(&mut tasks);
    while tasks.len() > 1 {
        let polls = remote.polls();
        tasks.remove(tasks.len() % 3 % tasks.len());
        remote.wake();
        run(&mut tasks);
        assert!(remote.polls() > polls, "with {} callers the load was not polled", tasks.len());
    }
    assert_eq!(remote.drops(), 0);
    tasks.clear();
    assert_eq!((remote.starts(), remote.drops()), (1, 1));
}

/// A blocking loader runs an executor, on which a task asks for the same key.
#[test]
fn async_call_inside_blocking_loader_loads_itself() {
    let cache = cache();
    let loaded = cache.try_get_or_load(&KEY, |_| {
        let call = pin!(cache.try_get_or_load_async(&KEY, |_| async { Ok::<_, &'static str>(2) }));
        let Poll::Ready(inner) = poll(call) else { return Err("the call inside waits for the load around it") };
        assert!(matches!(inner, Ok(2)), "{inner:?}");
        Ok(1)
    });
    assert!(matches!(loaded, Ok(1)), "{loaded:?}");
}

#[test]
fn blocking_call_inside_async_loader_loads_itself() {
    let cache = cache();
    let inner = cache.clone();
    let load = |_| async move {
        let inner = inner.try_get_or_load(&KEY, |_| Ok::<_, &'static str>(2));
        assert!(matches!(inner, Ok(2)), "{inner:?}");
        Ok::<_, &'static str>(1)
    };
    let loaded = poll(pin!(cache.try_get_or_load_async(&KEY, load)));
    assert!(matches!(loaded, Poll::Ready(Ok(1))), "{loaded:?}");
}

/// The same on a runtime: a task that was spawned before the loader runs there.
#[test]
#[cfg_attr(miri, ignore = "Miri has no timers of the kernel")]
fn task_on_runtime_inside_blocking_loader_loads_itself() {
    let cache = cache();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let other = cache.clone();
    let task = runtime.spawn(async move { other.try_get_or_load_async(&KEY, |_| async { Ok::<_, String>(2) }).await });
    let loaded = cache.try_get_or_load(&KEY, |_| {
        let inner = runtime.block_on(async { task.await.unwrap() });
        inner.map_err(|error| error.to_string())
    });
    assert!(matches!(loaded, Ok(2)), "{loaded:?}");
}

/// A load that asks for its own key is still refused in its own class.
#[test]
fn call_inside_load_of_its_own_class_is_reentrant() {
    let cache = cache();
    let loaded = cache.try_get_or_load(&KEY, |_| {
        let inner = cache.try_get_or_load(&KEY, |_| Ok::<_, &'static str>(2));
        assert!(matches!(inner, Err(LoadError::Reentrant)), "{inner:?}");
        Ok::<_, &'static str>(1)
    });
    assert!(matches!(loaded, Ok(1)), "{loaded:?}");
    cache.remove(&KEY);
    let inner = cache.clone();
    let load = |_| async move {
        let mut inner = pin!(inner.try_get_or_load_async(&KEY, |_| async { Ok::<_, &'static str>(2) }));
        let inner = poll_fn(|cx| Poll::Ready(inner.as_mut().poll(cx))).await;
        assert!(matches!(inner, Poll::Ready(Err(LoadError::Reentrant))), "{inner:?}");
        Ok::<_, &'static str>(1)
    };
    let loaded = poll(pin!(cache.try_get_or_load_async(&KEY, load)));
    assert!(matches!(loaded, Poll::Ready(Ok(1))), "{loaded:?}");
}

#[derive(Clone)]
struct Ours(Cache<u8, u64>);

impl Loads for Ours {
    fn blocking(&self, key: u8, load: impl FnOnce() -> Result<u64, Down>) -> Option<u64> {
        self.0.try_get_or_load(&key, |_| load()).ok()
    }

    fn polled<L>(&self, key: u8, load: impl FnOnce() -> L + 'static) -> impl Future<Output = Option<u64>> + 'static
    where
        L: Future<Output = Result<u64, Down>> + Send + 'static,
    {
        let cache = self.0.clone();
        async move { cache.try_get_or_load_async(&key, |_| load()).await.ok() }
    }

    fn evict(&self) {
        evict_to(&self.0, ByteSize::ZERO);
    }
}

/// Blocking and async callers, with errors, panics, cancelled calls and evictions.
#[test]
fn random_calls_run_one_load_per_key_and_class() {
    for seed in 1..=3 {
        let cache = Ours(Cache::builder("waiters").max_entries(100).build().unwrap());
        let calls = cases(10_000);
        let figures = load_stress::run(&cache, seed, calls);
        assert_eq!((figures.calls, figures.double_loads, figures.wrong_values), (4 * calls, 0, 0), "seed {seed}");
        assert!(figures.loads > calls / 10, "{figures:?}");
        cache.evict();
        let mut next = pin!(cache.polled(KEY, || async { Ok(load_stress::value_of(KEY)) }));
        assert_eq!(poll(next.as_mut()), Poll::Ready(Some(load_stress::value_of(KEY))), "a load is still registered");
    }
}
