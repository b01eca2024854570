//! Random calls that load, on threads that block and on threads that poll, with errors, panics and cancelled calls.
//!
//! Each loader checks that no other load of its key runs for callers of its class.

#![allow(dead_code, unreachable_pub, reason = "each program includes this file and uses its own part")]
#![allow(clippy::panic, reason = "loaders panic")]

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::Poll;
use std::thread;

use super::executor::Task;
use super::random::Random;

/// Keys of the calls.
pub const KEYS: usize = 6;

/// The value of a key.
pub fn value_of(key: u8) -> u64 {
    u64::from(key) * 1_000
}

/// The error of a loader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Down;

/// A cache under stress. A call returns `None` after an error.
pub trait Loads: Clone + Send + 'static {
    /// Returns the value of `key` or loads it on this thread.
    fn blocking(&self, key: u8, load: impl FnOnce() -> Result<u64, Down>) -> Option<u64>;

    /// Returns the value of `key` or loads it by a future.
    fn polled<L>(&self, key: u8, load: impl FnOnce() -> L + 'static) -> impl Future<Output = Option<u64>> + 'static
    where
        L: Future<Output = Result<u64, Down>> + Send + 'static;

    /// Evicts all entries.
    fn evict(&self);
}

/// Figures of one run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Calls that were made.
    pub calls: u64,
    /// Loads that started.
    pub loads: u64,
    /// Loads that started while another one of the same key and class ran.
    pub double_loads: u64,
    /// Calls that returned another value than that of their key.
    pub wrong_values: u64,
}

#[derive(Default)]
struct Counts {
    running: [[AtomicU64; KEYS]; 2],
    calls: AtomicU64,
    loads: AtomicU64,
    double_loads: AtomicU64,
    wrong_values: AtomicU64,
}

#[derive(Clone, Copy)]
enum Class {
    Blocking,
    Polled,
}

/// A load that runs.
struct Running(Arc<Counts>, Class, u8);

impl Running {
    fn start(counts: &Arc<Counts>, class: Class, key: u8) -> Self {
        let running = Self(Arc::clone(counts), class, key);
        counts.loads.fetch_add(1, SeqCst);
        if running.count().fetch_add(1, SeqCst) > 0 {
            counts.double_loads.fetch_add(1, SeqCst);
        }
        running
    }

    fn count(&self) -> &AtomicU64 {
        let Counts { running: [blocking, polled], .. } = &*self.0;
        let of_class = match self.1 {
            Class::Blocking => blocking,
            Class::Polled => polled,
        };
        of_class.get(usize::from(self.2)).unwrap_or_else(|| panic!("key {}", self.2))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.count().fetch_sub(1, SeqCst);
    }
}

/// The end of a load.
#[derive(Clone, Copy)]
enum End {
    Value,
    Error,
    Panic,
}

impl End {
    fn random(random: &mut Random) -> Self {
        match random.below(8) {
            0 => Self::Panic,
            1 | 2 => Self::Error,
            _ => Self::Value,
        }
    }

    fn result(self, key: u8) -> Result<u64, Down> {
        match self {
            Self::Value => Ok(value_of(key)),
            Self::Error => Err(Down),
            Self::Panic => panic!("the load panics (this panic belongs to the stress)"),
        }
    }
}

/// Makes `calls` calls on each of two threads that block and two threads that poll.
pub fn run<C: Loads>(cache: &C, seed: u64, calls: u64) -> Figures {
    let counts = Arc::new(Counts::default());
    let threads: Vec<_> = [Class::Blocking, Class::Polled, Class::Blocking, Class::Polled]
        .into_iter()
        .zip(0..)
        .map(|(class, thread)| {
            let (cache, counts, random) = (cache.clone(), Arc::clone(&counts), Random::new(seed * 4 + thread));
            thread::spawn(move || match class {
                Class::Blocking => block(&cache, &counts, random, calls),
                Class::Polled => poll(&cache, &counts, random, calls),
            })
        })
        .collect();
    let ended = threads.into_iter().map(thread::JoinHandle::join).filter_map(Result::ok).count();
    assert_eq!(ended, 4, "a thread of the stress panicked");
    let count = |counter: &AtomicU64| counter.load(SeqCst);
    Figures {
        calls: count(&counts.calls),
        loads: count(&counts.loads),
        double_loads: count(&counts.double_loads),
        wrong_values: count(&counts.wrong_values),
    }
}

fn random_key(random: &mut Random) -> u8 {
    u8::try_from(random.below(KEYS)).unwrap_or(0)
}

fn check(counts: &Counts, key: u8, returned: Option<u64>) {
    if returned.is_some_and(|value| value != value_of(key)) {
        counts.wrong_values.fetch_add(1, SeqCst);
    }
}

fn block<C: Loads>(cache: &C, counts: &Arc<Counts>, mut random: Random, calls: u64) {
    for _ in 0..calls {
        if random.one_in(4) {
            cache.evict();
        }
        let key = random_key(&mut random);
        let (end, yields) = (End::random(&mut random), random.below(3));
        counts.calls.fetch_add(1, SeqCst);
        let load = || {
            let _running = Running::start(counts, Class::Blocking, key);
            (0..yields).for_each(|_| thread::yield_now());
            end.result(key)
        };
        // A panic of its own loader reaches the caller.
        let returned = catch_unwind(AssertUnwindSafe(|| cache.blocking(key, load)));
        check(counts, key, returned.ok().flatten());
    }
}

/// A load that is pending in its first `yields` polls.
fn load(running: Running, end: End, mut yields: usize) -> impl Future<Output = Result<u64, Down>> + Send {
    poll_fn(move |cx| {
        let Running(_, _, key) = &running;
        if yields == 0 {
            return Poll::Ready(end.result(*key));
        }
        yields -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

fn poll<C: Loads>(cache: &C, counts: &Arc<Counts>, mut random: Random, calls: u64) {
    let mut tasks: Vec<(u8, Task<'_, Option<u64>>)> = Vec::new();
    let mut left = calls;
    while left > 0 || !tasks.is_empty() {
        let action = random.below(8);
        if left > 0 && tasks.len() < 8 && action < 4 {
            left -= 1;
            counts.calls.fetch_add(1, SeqCst);
            let key = random_key(&mut random);
            let (end, yields) = (End::random(&mut random), random.below(4));
            let counts = Arc::clone(counts);
            let start = move || load(Running::start(&counts, Class::Polled, key), end, yields);
            tasks.push((key, Task::new(cache.polled(key, start))));
        }
        if tasks.is_empty() {
            continue;
        }
        let at = random.below(tasks.len());
        if action == 7 && left > 0 {
            // The call is cancelled.
            tasks.swap_remove(at);
        } else if let Some((key, task)) = tasks.get_mut(at) {
            let polled = catch_unwind(AssertUnwindSafe(|| task.poll()));
            check(counts, *key, task.output().flatten());
            if matches!(polled, Ok(false)) {
                thread::yield_now();
            }
            if !task.is_pending() {
                tasks.swap_remove(at);
            }
        }
    }
}
