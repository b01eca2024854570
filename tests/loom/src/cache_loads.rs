//! The in-flight loads of a cache, from the library's own file, under the lock of a cache of one value.

#[path = "../../../src/cache/in_flight.rs"]
mod in_flight;

use std::sync::Arc as StdArc;
use std::task::{Context, Poll, Waker};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use loom::thread;

use crate::singleflight::latch::Latch;
use crate::singleflight::shared_future::{BoxFuture, Joined, SharedFuture, Waiter};
use crate::sync::{Mutex, ThreadId};
use in_flight::{InFlight, LoadId, Role};

const HASH: u32 = 7;
const KEY: u8 = 1;

/// A value is the time of its write: a load reads the source, whose time a writer has set before it writes to the cache.
type Time = usize;

#[derive(Default)]
struct State {
    stored: Option<Time>,
    in_flight: InFlight<u8>,
}

/// A cache of one key over a source.
struct Cache {
    state: Mutex<State>,
    source: AtomicUsize,
    /// Loads that run, by class.
    running: [AtomicUsize; 2],
}

impl Cache {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::default()),
            source: AtomicUsize::new(1),
            running: [AtomicUsize::new(0), AtomicUsize::new(0)],
        })
    }

    /// Changes the source, then the cache.
    fn write(&self, time: Time) {
        self.source.store(time, SeqCst);
        let mut state = self.state.lock();
        state.in_flight.cancel(HASH, &KEY);
        state.stored = Some(time);
    }

    fn remove(&self, time: Time) {
        self.source.store(time, SeqCst);
        let mut state = self.state.lock();
        state.in_flight.cancel(HASH, &KEY);
        state.stored = None;
    }

    fn clear(&self, time: Time) {
        self.source.store(time, SeqCst);
        let mut state = self.state.lock();
        state.in_flight.cancel_all();
        state.stored = None;
    }

    /// Reads the source, as the only load of its class.
    fn load(&self, class: usize) -> Time {
        assert_eq!(self.running[class].fetch_add(1, SeqCst), 0, "one load at a time");
        let time = self.source.load(SeqCst);
        self.running[class].fetch_sub(1, SeqCst);
        time
    }

    /// Stores the value of a load, and returns its latch.
    fn store<L: Send + Sync + 'static>(&self, id: LoadId, value: Option<Time>) -> Option<StdArc<L>> {
        let mut state = self.state.lock();
        let mut entry = state.in_flight.finish(HASH, id)?;
        if let Some(value) = value
            && !entry.is_overtaken()
        {
            // A batch that evicts for the value, and another one that stores it.
            state.in_flight.resume(entry);
            drop(state);
            state = self.state.lock();
            entry = state.in_flight.finish(HASH, id)?;
            if !entry.is_overtaken() {
                state.in_flight.supersede(HASH, &KEY, id);
                state.stored = Some(value);
            }
        }
        entry.load::<L>()
    }

    /// A blocking call, whose load fails if `fails`.
    fn get_or_load(&self, fails: bool) -> Time {
        loop {
            let mut state = self.state.lock();
            if let Some(value) = state.stored {
                return value;
            }
            let share = |leader: ThreadId| StdArc::new(Latch::<Time>::closed(leader));
            let role = state.in_flight.join(HASH, &KEY, &mut Some(KEY), None, share);
            drop(state);
            match role {
                Role::Leader(id) => {
                    let value = Some(self.load(0)).filter(|_| !fails);
                    if let Some(latch) = self.store::<Latch<Time>>(id, value) {
                        latch.open(value);
                    }
                    return value.unwrap_or(0);
                }
                Role::Follower(_, latch) => match latch.wait() {
                    Ok(Some(value)) => return value,
                    Ok(None) => {}
                    Err(_) => unreachable!("no load waits"),
                },
            }
        }
    }

    /// Starts an async call, or joins the load of another. `None`: the value is there.
    fn begin(cache: &Arc<Self>) -> Option<Call> {
        let mut state = cache.state.lock();
        if state.stored.is_some() {
            return None;
        }
        let begun = SharedFuture::<Time>::begin(Waker::noop().clone());
        let new = StdArc::clone(begun.shared());
        let role = state.in_flight.join(HASH, &KEY, &mut Some(KEY), Some(new), |_| StdArc::clone(begun.shared()));
        drop(state);
        let this = Arc::clone(cache);
        Some(match role {
            Role::Leader(id) => {
                let mut waiter = begun;
                let load = Arc::clone(cache);
                waiter.start(|| {
                    let mut polls = 0;
                    let future: BoxFuture<Time> = Box::pin(std::future::poll_fn(move |cx| {
                        polls += 1;
                        if polls == 1 {
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        let value = load.load(1);
                        drop(load.store::<SharedFuture<Time>>(id, Some(value)));
                        Poll::Ready(value)
                    }));
                    future
                });
                Call { cache: this, id, waiter }
            }
            Role::Follower(id, shared) => Call { cache: this, id, waiter: shared.waiter() },
        })
    }
}

/// An async call.
struct Call {
    cache: Arc<Cache>,
    id: LoadId,
    waiter: Waiter<Time>,
}

impl Call {
    fn poll(&mut self) -> Option<Joined<Time>> {
        match std::pin::Pin::new(&mut self.waiter).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(joined) => Some(joined),
            Poll::Pending => None,
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.waiter.leave();
        if self.waiter.shared().abandonment().is_some() {
            let entry = self.cache.state.lock().in_flight.finish(HASH, self.id);
            drop(entry);
        }
    }
}

fn model(case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(case);
}

/// Asserts that the cache holds nothing older than `time`, and no entry.
fn assert_fresh(cache: &Cache, time: Time) {
    let state = cache.state.lock();
    assert!(state.stored.is_none_or(|stored| stored >= time), "{:?} was read before the change", state.stored);
    assert!(state.in_flight.is_empty(), "an entry was left");
}

/// Runs a change next to a blocking and an async load.
fn change_next_to_loads(change: fn(&Cache, Time)) {
    model(move || {
        let cache = Cache::new();
        let loading = thread::spawn({
            let cache = Arc::clone(&cache);
            move || cache.get_or_load(false)
        });
        let mut call = Cache::begin(&cache);
        change(&cache, 2);
        while call.as_mut().is_some_and(|call| call.poll().is_none()) {}
        drop(call);
        loading.join().unwrap();
        assert_fresh(&cache, 2);
    });
}

#[test]
fn load_never_overwrites_a_later_write() {
    change_next_to_loads(Cache::write);
}

#[test]
fn load_never_undoes_a_removal() {
    change_next_to_loads(Cache::remove);
}

#[test]
fn load_never_undoes_a_clear() {
    change_next_to_loads(Cache::clear);
}

#[test]
fn blocking_callers_load_one_at_a_time_also_after_a_failure() {
    model(|| {
        let cache = Cache::new();
        let threads: Vec<_> = [true, false]
            .into_iter()
            .map(|fails| {
                let cache = Arc::clone(&cache);
                thread::spawn(move || cache.get_or_load(fails))
            })
            .collect();
        let values: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(values.last(), Some(&1), "the one that does not fail has the value: {values:?}");
        assert_fresh(&cache, 1);
    });
}

#[test]
fn caller_after_a_removal_never_gets_the_value_before_it() {
    model(|| {
        let cache = Cache::new();
        let loading = thread::spawn({
            let cache = Arc::clone(&cache);
            move || cache.get_or_load(false)
        });
        // Its own loads are blocking ones too: it would join the load above if that were not cancelled.
        let other = thread::spawn({
            let cache = Arc::clone(&cache);
            move || {
                cache.remove(2);
                let value = cache.get_after_removal();
                assert_eq!(value, 2);
            }
        });
        loading.join().unwrap();
        other.join().unwrap();
        assert_fresh(&cache, 2);
    });
}

impl Cache {
    /// A blocking call that may run next to a cancelled load.
    fn get_after_removal(&self) -> Time {
        let mut state = self.state.lock();
        if let Some(value) = state.stored {
            return value;
        }
        let share = |leader: ThreadId| StdArc::new(Latch::<Time>::closed(leader));
        match state.in_flight.join(HASH, &KEY, &mut Some(KEY), None, share) {
            Role::Leader(id) => {
                drop(state);
                let value = self.source.load(SeqCst);
                if let Some(latch) = self.store::<Latch<Time>>(id, Some(value)) {
                    latch.open(Some(value));
                }
                value
            }
            Role::Follower(_, latch) => {
                drop(state);
                latch.wait().unwrap().unwrap()
            }
        }
    }
}

#[test]
fn cancelled_waiters_leave_no_entry_and_no_second_load() {
    model(|| {
        let cache = Cache::new();
        let first = Cache::begin(&cache);
        let other = thread::spawn({
            let cache = Arc::clone(&cache);
            move || {
                // An abandoned load is loaded again, after it is gone.
                while let Some(mut call) = Cache::begin(&cache) {
                    let joined = loop {
                        if let Some(joined) = call.poll() {
                            break joined;
                        }
                        thread::yield_now();
                    };
                    drop(call);
                    if joined == Joined::Complete(1) {
                        return;
                    }
                }
            }
        });
        drop(first);
        other.join().unwrap();
        assert_fresh(&cache, 1);
    });
}
