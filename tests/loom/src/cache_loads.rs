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
use in_flight::{Abandon, Detached, InFlight, LoadId, NewRefresh, Role, Running};

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
    /// Loads that run, by class, and computations.
    running: [AtomicUsize; 3],
}

impl Cache {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::default()),
            source: AtomicUsize::new(1),
            running: [AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0)],
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
                Role::Follower(_, latch) | Role::Refresh(_, latch) => match latch.wait() {
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
            Role::Follower(id, shared) | Role::Refresh(id, shared) => Call { cache: this, id, waiter: shared.waiter() },
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
            Role::Follower(_, latch) | Role::Refresh(_, latch) => {
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

impl Cache {
    /// Adds 10 to the value, as a computation does.
    fn add_ten(&self) {
        let id = loop {
            let mut state = self.state.lock();
            let share = |leader: ThreadId| StdArc::new(Latch::<()>::closed(leader));
            match state.in_flight.join(HASH, &KEY, &mut Some(KEY), None, share) {
                Role::Leader(id) => {
                    state.in_flight.begin_again(HASH, id);
                    break id;
                }
                Role::Follower(_, latch) | Role::Refresh(_, latch) => {
                    drop(state);
                    latch.wait().unwrap();
                }
            }
        };
        loop {
            let present = self.state.lock().stored;
            assert_eq!(self.running[2].fetch_add(1, SeqCst), 0, "one computation at a time");
            let value = present.unwrap_or(0) + 10;
            self.running[2].fetch_sub(1, SeqCst);
            let mut state = self.state.lock();
            if state.in_flight.begin_again(HASH, id) {
                continue;
            }
            let entry = state.in_flight.finish(HASH, id).unwrap();
            state.in_flight.cancel(HASH, &KEY);
            state.stored = Some(value);
            drop(state);
            if let Some(latch) = entry.load::<Latch<()>>() {
                latch.open(Some(()));
            }
            return;
        }
    }
}

/// Runs two computations next to `other`, and checks the value at the end.
fn add_twenty_next_to(other: fn(&Cache), expected: &'static [Time]) {
    model(move || {
        let cache = Cache::new();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let cache = Arc::clone(&cache);
                thread::spawn(move || cache.add_ten())
            })
            .collect();
        other(&cache);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let state = cache.state.lock();
        assert!(state.in_flight.is_empty(), "an entry was left");
        assert!(expected.contains(&state.stored.unwrap()), "{:?}", state.stored);
    });
}

/// The load brings 1, or is cancelled.
#[test]
fn computations_next_to_a_load_lose_nothing() {
    add_twenty_next_to(|cache| _ = cache.get_or_load(false), &[20, 21]);
}

#[test]
fn computations_next_to_a_write_lose_nothing() {
    add_twenty_next_to(|cache| cache.write(100), &[100, 110, 120]);
}

impl<T: Send> Abandon for SharedFuture<T> {
    fn abandon(&self) {
        Self::abandon(self);
    }
}

/// Counts the futures of refreshes that are there.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Cache {
    /// Starts a refresh that needs two polls, or polls the running refresh.
    fn refresh(cache: &Arc<Self>, count: &Arc<AtomicUsize>) {
        let mut begun = SharedFuture::<Time>::begin(Waker::noop().clone());
        let mut state = cache.state.lock();
        match state.in_flight.running::<SharedFuture<Time>, u8>(HASH, &KEY) {
            Running::None => {
                let shared = StdArc::clone(begun.shared());
                let new = NewRefresh { key: KEY, load: Some(StdArc::clone(&shared) as _) };
                let id = state.in_flight.start_refresh::<SharedFuture<Time>>(HASH, new);
                drop(state);
                let (load, alive) = (Arc::clone(cache), Alive::new(count));
                begun.start(|| {
                    let (mut polls, alive) = (0, alive);
                    Box::pin(std::future::poll_fn(move |cx| {
                        assert!(alive.0.load(SeqCst) > 0);
                        polls += 1;
                        if polls == 1 {
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        let value = load.source.load(SeqCst);
                        drop(load.store::<SharedFuture<Time>>(id, Some(value)));
                        Poll::Ready(value)
                    }))
                });
                let place = Box::new(Detached::new(StdArc::clone(&shared) as _, 0));
                let mut state = cache.state.lock();
                if state.in_flight.detach(HASH, id, place) {
                    shared.detach();
                }
                drop(state);
                drop(begun);
                if shared.abandonment().is_some() {
                    let entry = cache.state.lock().in_flight.finish(HASH, id);
                    drop(entry);
                }
            }
            Running::Detached(_, shared) => {
                drop(state);
                shared.poll_if_woken();
            }
            // Another thread polls it for the first time.
            Running::Other => drop(state),
        }
    }

    fn drop_orphans(&self) {
        let orphans = self.state.lock().in_flight.take_orphans();
        drop(orphans);
    }
}

#[test]
fn detached_refresh_ends_with_its_entry_or_by_a_write() {
    model(|| {
        let (cache, count) = (Cache::new(), Arc::new(AtomicUsize::new(0)));
        let refreshing = thread::spawn({
            let (cache, count) = (Arc::clone(&cache), Arc::clone(&count));
            move || {
                Cache::refresh(&cache, &count);
                Cache::refresh(&cache, &count);
            }
        });
        cache.remove(2);
        cache.drop_orphans();
        Cache::refresh(&cache, &count);
        refreshing.join().unwrap();
        let mut state = cache.state.lock();
        assert!(state.stored.is_none_or(|stored| stored >= 2), "{:?} was read before the change", state.stored);
        // The entry of the key is evicted.
        state.in_flight.orphan(HASH);
        assert!(state.in_flight.is_empty() && !state.in_flight.has_detached(HASH), "an entry was left");
        drop(state);
        cache.drop_orphans();
        assert_eq!(count.load(SeqCst), 0, "a future was left");
    });
}
