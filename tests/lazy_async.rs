//! The async resource: its waiters poll the load, and callers with a stale value do not wait.

#[path = "support/remote.rs"]
mod remote;

use std::future::{self, Future};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use plimsoll::budget::Reclaim;
use plimsoll::lazy::{BoxedLoad, BoxedRefresh, FailureCause, ResourceState};
use plimsoll::{AsyncLazyResource, ByteSize, LazyError, ManualClock, MemoryBudget, Pressure, TrackingAllocator};
use remote::Remote;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn poll<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn of_a_thousand_tasks_half_are_cancelled_and_the_load_runs_once() {
    static LOADS: AtomicUsize = AtomicUsize::new(0);
    static SLOW: AsyncLazyResource<usize, &str> = AsyncLazyResource::new("slow", || {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(LOADS.fetch_add(1, SeqCst))
        })
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..1000).map(|_| tokio::spawn(async { *SLOW.get().await.unwrap() })).collect();
        tokio::task::yield_now().await;
        for (n, task) in tasks.into_iter().enumerate() {
            // The first one leads, so it is among those that go.
            if n % 2 == 0 {
                task.abort();
            } else {
                assert_eq!(task.await.unwrap(), 0);
            }
        }
    });
    assert_eq!(LOADS.load(SeqCst), 1);
    assert_eq!((SLOW.status().state, SLOW.status().loads), (ResourceState::Loaded, 1));
}

#[test]
fn when_all_have_gone_the_load_is_dropped_and_the_next_begins_anew() {
    let remote = Remote::default();
    let resource = AsyncLazyResource::capturing("left", || remote.load());
    let mut calls: Vec<_> = (0..1000).map(|_| Box::pin(resource.get())).collect();
    assert_eq!(remote.starts(), 0, "nothing happens until it is polled");
    assert!(calls.iter_mut().all(|call| poll(call.as_mut()).is_pending()));
    assert_eq!((remote.starts(), remote.drops()), (1, 0));
    assert!(matches!(resource.status().state, ResourceState::Loading { waiting: 1000, .. }));
    calls.clear();
    assert_eq!((remote.starts(), remote.drops()), (1, 1));
    let failure = resource.failure().unwrap();
    assert_eq!((resource.status().state, failure.attempts), (ResourceState::Failed, 1));
    assert_eq!((failure.cause, failure.error.is_none()), (FailureCause::Cancelled, true));

    let mut next = pin!(resource.get());
    assert!(poll(next.as_mut()).is_pending());
    remote.end(Ok(5));
    assert!(matches!(poll(next), Poll::Ready(Ok(pin)) if *pin == 5));
    assert_eq!((remote.starts(), remote.drops()), (2, 2));
}

#[test]
fn the_one_who_began_may_go_and_the_others_get_the_value() {
    let remote = Remote::default();
    let resource = AsyncLazyResource::capturing("passed on", || remote.load());
    let (mut first, mut second) = (Box::pin(resource.get()), Box::pin(resource.get()));
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    drop(first);
    remote.end(Ok(3));
    assert!(matches!(poll(second.as_mut()), Poll::Ready(Ok(pin)) if *pin == 3));
    assert_eq!(remote.starts(), 1);
    assert!(matches!(poll(pin!(resource.get())), Poll::Ready(Ok(pin)) if *pin == 3));
    assert_eq!(resource.unload(), Some(0));
    assert_eq!(resource.unload(), None);
}

#[test]
fn all_waiters_get_the_same_error_and_the_back_off_holds() {
    let (manual, remote) = (ManualClock::new(), Remote::default());
    let resource = AsyncLazyResource::capturing("dead", || remote.load())
        .clock(manual.clock())
        .retry_after(Duration::from_millis(100), Duration::from_secs(1));
    let mut calls = [Box::pin(resource.get()), Box::pin(resource.get())];
    for call in &mut calls {
        assert!(poll(call.as_mut()).is_pending());
    }
    remote.end(Err("down"));
    let errors = calls.map(|mut call| match poll(call.as_mut()) {
        Poll::Ready(Err(LazyError::Failed(failure))) => failure.error,
        other => panic!("{other:?}"),
    });
    let [Some(one), Some(other)] = &errors else { panic!("{errors:?}") };
    assert!(Arc::ptr_eq(one, other));
    assert!(
        matches!(poll(pin!(resource.get())), Poll::Ready(Err(LazyError::Failed(failure))) if failure.attempts == 1)
    );
    assert_eq!(remote.starts(), 1);
    manual.advance(Duration::from_millis(100));
    let mut next = pin!(resource.get());
    assert!(poll(next.as_mut()).is_pending());
    remote.end(Err("still down"));
    assert!(matches!(poll(next), Poll::Ready(Err(LazyError::Failed(failure))) if failure.attempts == 2));
}

/// Polls a new `get` once, which must be ready, and returns the value and whether it is stale.
macro_rules! got {
    ($resource:expr) => {
        match poll(pin!($resource.get())) {
            Poll::Ready(result) => result.map(|pin| (*pin, pin.is_stale())).unwrap(),
            Poll::Pending => panic!("it waits"),
        }
    };
}

/// A resource with the value 1, which is stale after a second, and the load of its refreshes.
macro_rules! stale {
    ($manual:ident, $remote:ident, $resource:ident $(, .$setting:ident($($value:expr),*))*) => {
        let ($manual, $remote) = (ManualClock::new(), Remote::default());
        let $resource = AsyncLazyResource::capturing("rates", || $remote.load())
            .clock($manual.clock())
            .refresh_after(Duration::from_secs(1))
            $(.$setting($($value),*))*;
        $remote.end(Ok(1));
        assert!(matches!(poll(pin!($resource.prefetch())), Poll::Ready(Ok(()))));
        $manual.advance(Duration::from_secs(1));
    };
}

#[test]
fn stale_value_is_returned_while_callers_poll_the_refresh() {
    stale!(_manual, remote, resource);
    assert_eq!(got!(resource), (1, true));
    assert_eq!((remote.starts(), remote.polls()), (2, 2));
    assert_eq!(got!(resource), (1, true));
    assert_eq!((remote.starts(), remote.polls()), (2, 2), "nothing has woken it");
    remote.wake();
    assert_eq!(got!(resource), (1, true));
    assert_eq!(remote.polls(), 3);
    remote.end(Ok(2));
    assert_eq!((got!(resource), remote.starts()), ((2, false), 2));
    assert_eq!((resource.status().loads, resource.status().unloading_pins, remote.drops()), (2, 0, 2));
}

#[test]
fn refresh_that_is_ready_at_once_returns_its_value() {
    stale!(manual, remote, resource, .retry_after(Duration::from_millis(100), Duration::from_secs(1)));
    remote.end(Ok(2));
    assert_eq!(got!(resource), (2, false));
    manual.advance(Duration::from_secs(1));
    remote.end(Err("down"));
    assert_eq!(got!(resource), (2, true));
    assert_eq!(resource.failure().and_then(|failure| failure.error).as_deref(), Some(&"down"));
    assert_eq!((got!(resource), remote.starts()), ((2, true), 3), "the back-off holds");
}

#[test]
fn refresh_that_hangs_delays_no_caller_and_is_replaced() {
    stale!(manual, remote, resource);
    for _ in 0..10 {
        // As a request with a timeout that is over at once.
        assert_eq!(got!(resource), (1, true));
    }
    assert_eq!((remote.starts(), resource.status().failed_attempts), (2, 0));
    // The time between two calls counts for 15 s at most.
    for _ in 0..2 {
        manual.advance(Duration::from_millis(14_999));
        assert_eq!((got!(resource), remote.drops()), ((1, true), 1));
    }
    manual.advance(Duration::from_millis(2));
    assert_eq!((got!(resource), remote.drops()), ((1, true), 2));
    let failure = resource.failure().unwrap();
    assert_eq!((failure.cause, failure.attempts, remote.starts()), (FailureCause::TimedOut, 1, 2));
    manual.advance(Duration::from_millis(100));
    assert_eq!((got!(resource), remote.starts()), ((1, true), 3));
    remote.end(Ok(2));
    assert_eq!((got!(resource), resource.status().failed_attempts), ((2, false), 0));
}

#[test]
fn refresh_polled_once_an_hour_is_not_hung() {
    stale!(manual, remote, resource);
    for _ in 0..10 {
        assert_eq!(got!(resource), (1, true));
        // The first call after an hour without calls does not know if its reactor has run.
        manual.advance(Duration::from_hours(1));
        assert_eq!(got!(resource), (1, true));
        remote.wake();
        manual.advance(Duration::from_hours(1));
    }
    assert_eq!((remote.starts(), remote.polls()), (2, 11));
    remote.end(Ok(2));
    assert_eq!(got!(resource), (2, true));
}

#[test]
fn refresh_across_a_freeze_is_not_hung() {
    static SPAWNED: Mutex<Vec<BoxedRefresh>> = Mutex::new(Vec::new());
    stale!(manual, remote, resource, .refresh_on(|refresh| SPAWNED.lock().unwrap().push(refresh)));
    assert_eq!(got!(resource), (1, true));
    let mut task = SPAWNED.lock().unwrap().pop().unwrap();
    assert!(poll(task.as_mut()).is_pending());
    manual.advance(Duration::from_millis(10));
    assert_eq!(got!(resource), (1, true));
    manual.freeze(Duration::from_hours(1));
    manual.advance(Duration::from_millis(10));
    // The answer has arrived, and the reactor has not run yet.
    assert_eq!((got!(resource), resource.status().failed_attempts), ((1, true), 0));
    remote.end(Ok(2));
    assert!(poll(task.as_mut()).is_ready());
    assert_eq!(got!(resource).0, 2);
}

#[test]
fn refresh_that_is_never_polled_is_hung() {
    stale!(manual, remote, resource, .refresh_on(std::mem::forget));
    for _ in 0..10 {
        assert_eq!(got!(resource), (1, true));
        manual.advance(Duration::from_hours(1));
    }
    assert!(resource.status().failed_attempts > 0, "{} loads began", remote.starts());
}

#[test]
fn value_that_grows_too_old_during_a_poll_is_not_returned() {
    let (manual, is_first) = (ManualClock::new(), AtomicBool::new(true));
    let slow = manual.clone();
    let resource = AsyncLazyResource::capturing("slow", || {
        let (is_first, slow) = (is_first.swap(false, SeqCst), slow.clone());
        async move {
            if is_first {
                return Ok(1);
            }
            slow.advance(Duration::from_mins(10));
            Err("down")
        }
    });
    let resource =
        resource.clock(manual.clock()).refresh_after(Duration::from_secs(1)).stale_at_most(Duration::from_secs(10));
    assert_eq!(got!(resource), (1, false));
    manual.advance(Duration::from_secs(2));
    assert!(!matches!(poll(pin!(resource.get())), Poll::Ready(Ok(_))), "it is ten minutes old");
}

#[test]
fn reclaim_frees_the_value_of_a_refresh_that_has_ended() {
    static SPAWNED: Mutex<Vec<BoxedRefresh>> = Mutex::new(Vec::new());
    let budget = MemoryBudget::new(ByteSize::mib(10));
    stale!(manual, remote, resource, .refresh_on(|refresh| SPAWNED.lock().unwrap().push(refresh)));
    assert!(resource.charge_to(budget.account("rates").unwrap()).is_ok());
    assert_eq!(got!(resource), (1, true));
    let mut task = SPAWNED.lock().unwrap().pop().unwrap();
    remote.end(Ok(2));
    assert!(poll(task.as_mut()).is_ready());
    resource.reclaim(ByteSize::mib(1), Pressure::Critical);
    let status = resource.status();
    assert_eq!((status.state, status.loads, budget.reserved()), (ResourceState::Unloaded, 2, ByteSize::ZERO));
}

#[test]
fn unload_drops_a_refresh_that_only_its_driver_waits_for() {
    static SPAWNED: Mutex<Vec<BoxedRefresh>> = Mutex::new(Vec::new());
    stale!(manual, remote, resource, .refresh_on(|refresh| SPAWNED.lock().unwrap().push(refresh)));
    assert_eq!(got!(resource), (1, true));
    let mut task = SPAWNED.lock().unwrap().pop().unwrap();
    assert!(poll(task.as_mut()).is_pending());
    assert_eq!((resource.unload(), remote.drops()), (Some(0), 2));
    assert!(poll(pin!(resource.get())).is_pending());
    assert_eq!(remote.starts(), 3);
}

#[test]
fn refresh_as_slow_as_the_last_load_is_not_hung() {
    let (manual, remote) = (ManualClock::new(), Remote::default());
    let resource = AsyncLazyResource::capturing("slow", || remote.load())
        .clock(manual.clock())
        .refresh_after(Duration::from_mins(10));
    let mut first = Box::pin(resource.get());
    assert!(poll(first.as_mut()).is_pending());
    manual.advance(Duration::from_mins(5));
    remote.end(Ok(1));
    assert!(matches!(poll(first.as_mut()), Poll::Ready(Ok(pin)) if *pin == 1));
    manual.advance(Duration::from_mins(5));
    assert_eq!(got!(resource), (1, true));
    assert_eq!(got!(resource), (1, true));
    manual.advance(Duration::from_mins(5));
    assert_eq!((got!(resource), remote.drops()), ((1, true), 1));
    manual.advance(Duration::from_secs(299));
    assert_eq!((got!(resource), remote.drops()), ((1, true), 1));
    manual.advance(Duration::from_secs(1));
    assert_eq!((got!(resource), remote.drops()), ((1, true), 2));
}

#[test]
fn refresh_that_panics_is_contained_and_backs_off() {
    stale!(manual, remote, resource);
    remote.0.panics.store(true, SeqCst);
    assert_eq!(got!(resource), (1, true));
    assert_eq!((resource.failure().unwrap().cause, remote.starts()), (FailureCause::Panicked, 2));
    assert_eq!((got!(resource), remote.starts()), ((1, true), 2));
    remote.0.panics.store(false, SeqCst);
    manual.advance(Duration::from_millis(100));
    remote.end(Ok(2));
    assert_eq!(got!(resource), (2, false));
}

#[test]
fn cancelled_and_panicked_loads_continue_the_back_off() {
    let (manual, remote) = (ManualClock::new(), Remote::default());
    let resource = AsyncLazyResource::capturing("down", || remote.load())
        .clock(manual.clock())
        .retry_after(Duration::from_millis(100), Duration::from_secs(30));
    for attempts in 1..=5 {
        remote.end(Err("down"));
        let Poll::Ready(Err(LazyError::Failed(failure))) = poll(pin!(resource.get())) else { panic!("it fails") };
        assert_eq!(failure.attempts, attempts);
        manual.advance(failure.retry_in);
    }
    let mut cancelled = Box::pin(resource.get());
    assert!(poll(cancelled.as_mut()).is_pending());
    drop(cancelled);
    let Poll::Ready(Err(LazyError::Failed(failure))) = poll(pin!(resource.get())) else { panic!("it backs off") };
    assert_eq!((failure.attempts, failure.cause), (6, FailureCause::Cancelled));
    assert_eq!((failure.error.as_deref(), failure.retry_in), (Some(&"down"), Duration::from_millis(3200)));
    manual.advance(failure.retry_in);
    remote.0.panics.store(true, SeqCst);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(poll(pin!(resource.get()))))).is_err());
    let failure = resource.failure().unwrap();
    assert_eq!((failure.attempts, failure.cause), (7, FailureCause::Panicked));
    assert_eq!((failure.retry_in, remote.starts()), (Duration::from_millis(6400), 7));
}

#[test]
fn load_that_panics_for_another_caller_fails_its_starter() {
    let (broken, sound) = (Remote::default(), Remote::default());
    let starts = AtomicUsize::new(0);
    let resource = AsyncLazyResource::capturing("panics", || {
        if starts.fetch_add(1, SeqCst) == 0 { broken.load() } else { sound.load() }
    });
    let (mut starter, mut other) = (Box::pin(resource.get()), Box::pin(resource.get()));
    assert!(poll(starter.as_mut()).is_pending() && poll(other.as_mut()).is_pending());
    broken.wake();
    broken.0.panics.store(true, SeqCst);
    assert!(poll(other.as_mut()).is_pending(), "it has started its own");
    assert_eq!((broken.drops(), sound.starts(), resource.status().failed_attempts), (1, 1, 1));
    assert!(matches!(poll(starter.as_mut()), Poll::Ready(Err(LazyError::Panicked { name: "panics", .. }))));
    sound.end(Ok(4));
    assert!(matches!(poll(other.as_mut()), Poll::Ready(Ok(pin)) if *pin == 4));
}

#[test]
fn caller_on_another_runtime_survives_the_shutdown_of_the_first() {
    static LOAD: AsyncLazyResource<u32, ()> = AsyncLazyResource::new("load", || {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(1)
        })
    });
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let mut starter = Box::pin(LOAD.get());
    first.block_on(async { assert!(poll(starter.as_mut()).is_pending()) });
    drop(first);
    assert_eq!(second.block_on(async { *LOAD.get().await.unwrap() }), 1);
    assert_eq!((LOAD.status().loads, LOAD.status().failed_attempts), (1, 0));
}

#[test]
fn refresh_waits_for_the_load_in_flight_or_starts_one() {
    stale!(manual, remote, resource);
    let mut refresh = Box::pin(resource.refresh());
    assert_eq!((got!(resource), remote.starts()), ((1, true), 2));
    assert!(poll(refresh.as_mut()).is_pending());
    assert_eq!(remote.starts(), 2, "it joins");
    remote.end(Ok(2));
    assert!(matches!(poll(refresh.as_mut()), Poll::Ready(Ok(()))));
    assert_eq!((got!(resource), remote.polls()), ((2, false), 3));

    let mut refresh = Box::pin(resource.refresh());
    assert!(poll(refresh.as_mut()).is_pending());
    assert_eq!((got!(resource), remote.starts()), ((2, false), 3), "a fresh value too is loaded again");
    manual.advance(Duration::from_secs(1));
    remote.wake();
    assert_eq!((got!(resource), remote.polls()), ((2, true), 4), "others leave the polls to it");
    drop(refresh);
    let failure = resource.failure().unwrap();
    assert_eq!((failure.cause, failure.attempts, remote.drops()), (FailureCause::Cancelled, 1, 3));
    remote.end(Err("down"));
    assert!(
        matches!(poll(pin!(resource.refresh())), Poll::Ready(Err(LazyError::Failed(failure))) if failure.attempts == 2)
    );
    assert_eq!(got!(resource), (2, true));
}

#[test]
fn refresh_of_a_task_that_hangs_times_out() {
    stale!(manual, remote, resource);
    let mut refresh = Box::pin(resource.refresh());
    assert!(poll(refresh.as_mut()).is_pending());
    assert_eq!(got!(resource), (1, true));
    manual.advance(Duration::from_secs(15));
    assert_eq!((got!(resource), remote.drops()), ((1, true), 1));
    manual.advance(Duration::from_secs(15));
    assert_eq!((got!(resource), remote.drops()), ((1, true), 2));
    let Poll::Ready(Err(LazyError::Failed(failure))) = poll(refresh.as_mut()) else { panic!("it has ended") };
    assert_eq!((failure.cause, failure.error.is_none()), (FailureCause::TimedOut, true));
}

#[test]
fn refresh_on_drives_the_refresh_without_callers() {
    static SPAWNED: Mutex<Vec<BoxedRefresh>> = Mutex::new(Vec::new());
    stale!(manual, remote, resource, .refresh_on(|refresh| SPAWNED.lock().unwrap().push(refresh)));
    let spawned = || SPAWNED.lock().unwrap().pop().unwrap();
    assert_eq!((got!(resource), remote.starts(), remote.polls()), ((1, true), 2, 1));
    let mut task = spawned();
    assert!(poll(task.as_mut()).is_pending());
    remote.wake();
    assert_eq!((got!(resource), remote.polls()), ((1, true), 2), "callers do not poll it");
    remote.end(Ok(2));
    assert!(poll(task.as_mut()).is_ready());
    drop(task);
    assert_eq!((got!(resource), resource.status().loads), ((2, false), 2));

    // A runtime that is shut down drops its tasks.
    manual.advance(Duration::from_secs(1));
    assert_eq!(got!(resource), (2, true));
    drop(spawned());
    assert_eq!((resource.failure().unwrap().cause, remote.drops()), (FailureCause::Cancelled, 3));
    assert_eq!((got!(resource), remote.starts()), ((2, true), 3));
    manual.advance(Duration::from_millis(100));
    assert_eq!((got!(resource), remote.starts()), ((2, true), 4));
    // The task has not finished before the resource is dropped.
    drop(resource);
    remote.end(Ok(3));
    assert!(poll(spawned().as_mut()).is_ready());
}

#[test]
fn refresh_on_that_panics_is_a_failed_attempt() {
    stale!(_manual, remote, resource, .refresh_on(|_| panic!("no runtime (this panic belongs to the test)")));
    assert_eq!(got!(resource), (1, true));
    assert_eq!((resource.failure().unwrap().cause, remote.drops()), (FailureCause::Cancelled, 2));
}

#[test]
fn callers_wait_for_the_refresh_beyond_stale_at_most() {
    stale!(manual, remote, resource, .stale_at_most(Duration::from_secs(10)));
    assert_eq!(got!(resource), (1, true));
    manual.advance(Duration::from_secs(9));
    let mut calls = [Box::pin(resource.get()), Box::pin(resource.get())];
    assert!(calls.iter_mut().all(|call| poll(call.as_mut()).is_pending()));
    assert!(matches!(resource.status().state, ResourceState::Loading { waiting: 2, .. }));
    remote.end(Err("down"));
    for call in &mut calls {
        assert!(matches!(poll(call.as_mut()), Poll::Ready(Err(LazyError::Failed(failure))) if failure.attempts == 1));
    }
    assert!(matches!(poll(pin!(resource.get())), Poll::Ready(Err(LazyError::Failed(_)))), "within the back-off");
    assert_eq!(remote.starts(), 2);
    manual.advance(Duration::from_millis(100));
    remote.end(Ok(3));
    assert_eq!(got!(resource), (3, false));
}

#[test]
fn refresh_started_before_stale_at_most_is_not_returned() {
    stale!(manual, remote, resource, .stale_at_most(Duration::from_secs(10)));
    assert_eq!(got!(resource), (1, true));
    // Its value may have been read before the pause.
    manual.advance(Duration::from_secs(10));
    let mut next = Box::pin(resource.get());
    assert!(poll(next.as_mut()).is_pending());
    remote.end(Ok(2));
    assert!(poll(next.as_mut()).is_pending());
    assert_eq!((remote.starts(), resource.status().loads), (3, 2));
    remote.end(Ok(3));
    assert!(matches!(poll(next.as_mut()), Poll::Ready(Ok(pin)) if *pin == 3 && !pin.is_stale()));
}

#[test]
fn value_of_a_refresh_older_than_refresh_after_is_stale() {
    stale!(manual, remote, resource);
    assert_eq!(got!(resource), (1, true));
    manual.advance(Duration::from_secs(20));
    remote.end(Ok(2));
    assert_eq!(got!(resource), (2, true));
    // As long as the load took, there is no refresh.
    assert_eq!((got!(resource), remote.starts()), ((2, true), 2));
    manual.advance(Duration::from_secs(20));
    remote.end(Ok(3));
    assert_eq!((got!(resource), remote.starts()), ((3, false), 3));
}

#[test]
fn unload_during_a_load_discards_its_value() {
    let remote = Remote::default();
    let resource = AsyncLazyResource::capturing("read before", || remote.load());
    let mut before = Box::pin(resource.get());
    assert!(poll(before.as_mut()).is_pending());
    assert_eq!(resource.unload(), None);
    let mut later = Box::pin(resource.get());
    assert!(poll(later.as_mut()).is_pending());
    assert_eq!(remote.starts(), 1, "one load at a time");
    remote.end(Ok(1));
    let Poll::Ready(Ok(pin)) = poll(before.as_mut()) else { panic!("its callers get it") };
    assert_eq!((*pin, resource.status().state, resource.status().loads), (1, ResourceState::Unloaded, 1));
    assert!(poll(later.as_mut()).is_pending());
    assert_eq!((remote.starts(), resource.status().unloading_pins), (2, 1));
    remote.end(Ok(2));
    assert!(matches!(poll(later.as_mut()), Poll::Ready(Ok(pin)) if *pin == 2));
    assert_eq!(got!(resource), (2, false));
}

#[test]
fn unload_drops_a_refresh_that_no_caller_waits_for() {
    stale!(_manual, remote, resource);
    assert_eq!(got!(resource), (1, true));
    assert_eq!((resource.unload(), remote.drops()), (Some(0), 2));
    remote.end(Ok(2));
    assert_eq!((got!(resource), remote.starts(), resource.status().failed_attempts), ((2, false), 3, 0));
}

#[test]
fn unload_after_a_refresh_has_ended_removes_its_value() {
    static SPAWNED: Mutex<Vec<BoxedRefresh>> = Mutex::new(Vec::new());
    stale!(_manual, remote, resource, .refresh_on(|refresh| SPAWNED.lock().unwrap().push(refresh)));
    assert_eq!(got!(resource), (1, true));
    remote.end(Ok(2));
    assert!(poll(SPAWNED.lock().unwrap().pop().unwrap().as_mut()).is_ready());
    // No caller has seen it yet.
    assert_eq!((resource.unload(), resource.status().loads), (Some(0), 2));
    let mut next = Box::pin(resource.get());
    assert!(poll(next.as_mut()).is_pending());
    assert_eq!(remote.starts(), 3);
}

#[test]
fn reclaim_during_a_load_keeps_its_value() {
    stale!(_manual, remote, resource, .idle_after(0));
    assert_eq!(got!(resource), (1, true));
    resource.reclaim(ByteSize::mib(1), Pressure::Critical);
    assert_eq!(remote.drops(), 1);
    let mut next = Box::pin(resource.get());
    assert!(poll(next.as_mut()).is_pending());
    remote.end(Ok(2));
    assert!(matches!(poll(next.as_mut()), Poll::Ready(Ok(pin)) if *pin == 2));
    assert_eq!((got!(resource), remote.starts()), ((2, false), 2));
}

#[test]
fn load_that_asks_for_itself_gets_reentrant() {
    static SELF: AsyncLazyResource<u32, ()> = AsyncLazyResource::new("self", || {
        Box::pin(async {
            assert!(matches!(SELF.get().await, Err(LazyError::Reentrant { name: "self", .. })));
            assert!(matches!(SELF.refresh().await, Err(LazyError::Reentrant { name: "self", .. })));
            Ok(1)
        })
    });
    assert!(matches!(poll(pin!(SELF.get())), Poll::Ready(Ok(pin)) if *pin == 1));
}

#[test]
fn refresh_that_asks_for_itself_gets_the_stale_value() {
    static LOADS: Mutex<Vec<Option<u32>>> = Mutex::new(Vec::new());
    static CLOCK: LazyLock<ManualClock> = LazyLock::new(ManualClock::new);
    static SELF: LazyLock<AsyncLazyResource<u32, ()>> = LazyLock::new(|| {
        let load = || -> BoxedLoad<u32, ()> {
            Box::pin(async {
                let before = SELF.get().await.ok().map(|pin| *pin);
                LOADS.lock().unwrap().push(before);
                Ok(before.unwrap_or(0) + 1)
            })
        };
        AsyncLazyResource::new("self", load).clock(CLOCK.clock()).refresh_after(Duration::from_secs(1))
    });
    assert_eq!(got!(SELF), (1, false));
    CLOCK.advance(Duration::from_secs(1));
    assert_eq!(got!(SELF), (2, false));
    assert_eq!(*LOADS.lock().unwrap(), [None, Some(1)]);
}

#[test]
fn many_waiters_poll_the_load_once_per_wake_up() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let remote = Remote::default();
    let resource = AsyncLazyResource::capturing("large", || remote.load());
    let tasks: Vec<_> = (0..1000).map(|_| Arc::new(Count(AtomicUsize::new(1)))).collect();
    let mut calls: Vec<_> = tasks.iter().map(|_| Box::pin(resource.get())).collect();
    for wake_up in 0..=200 {
        for (task, call) in tasks.iter().zip(&mut calls) {
            if task.0.swap(0, SeqCst) > 0 {
                let waker = Waker::from(Arc::clone(task));
                assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            }
        }
        assert_eq!(remote.polls(), wake_up + 1);
        remote.wake();
    }
}

#[test]
fn a_value_unloaded_on_its_way_in_is_counted_charged_and_watched_like_any_other() {
    static LOAD: Mutex<Option<Waker>> = Mutex::new(None);
    static RESOURCE: AsyncLazyResource<Vec<u8>, ()> = AsyncLazyResource::new("quick", || {
        let mut polled = false;
        Box::pin(future::poll_fn(move |cx| {
            *LOAD.lock().unwrap() = Some(cx.waker().clone());
            let ready = std::mem::replace(&mut polled, true);
            if ready { Poll::Ready(Ok(vec![1; 50_000])) } else { Poll::Pending }
        }))
    });
    /// Unloads when it is woken by the end of the load, before the value is in place.
    #[derive(Default)]
    struct Unloads(AtomicUsize, Mutex<Option<usize>>);
    impl Wake for Unloads {
        fn wake(self: Arc<Self>) {
            if self.0.fetch_add(1, SeqCst) == 1 {
                *self.1.lock().unwrap() = RESOURCE.unload();
            }
        }
    }
    let budget = MemoryBudget::new(ByteSize::mib(1));
    RESOURCE.charge_to(budget.account("quick").unwrap()).unwrap();
    let unloads = Arc::new(Unloads::default());
    let waker = Waker::from(Arc::clone(&unloads));
    let mut get = pin!(RESOURCE.get());
    assert!(get.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    LOAD.lock().unwrap().take().unwrap().wake();
    let Poll::Ready(Ok(pin)) = get.poll(&mut Context::from_waker(&waker)) else { panic!("it is loaded") };
    assert!(unloads.1.lock().unwrap().is_some());
    let status = RESOURCE.status();
    assert_eq!((status.state, status.loads, status.unloading_pins), (ResourceState::Unloaded, 1, 1));
    assert_eq!(Some(budget.reserved()), status.cost.unwrap().retained, "what a pin keeps is charged");
    assert!(budget.reserved() > ByteSize::bytes(50_000));
    drop(pin);
    assert_eq!((budget.reserved(), RESOURCE.status().unloading_pins), (ByteSize::ZERO, 0));
}

#[test]
fn a_waker_that_was_left_behind_keeps_neither_the_value_nor_the_load() {
    let (left, value) = (Mutex::new(Vec::new()), Mutex::new(Weak::new()));
    let left = &left;
    let resource: AsyncLazyResource<_, (), _> = AsyncLazyResource::capturing("left", || {
        let mut polls = 0;
        let loaded = Arc::new(7);
        *value.lock().unwrap() = Arc::downgrade(&loaded);
        let wakers = Arc::new(Mutex::new(Vec::new()));
        left.lock().unwrap().push(Arc::clone(&wakers));
        future::poll_fn(move |cx| {
            wakers.lock().unwrap().push(cx.waker().clone());
            polls += 1;
            if polls < 2 { Poll::Pending } else { Poll::Ready(Ok(Arc::clone(&loaded))) }
        })
    });
    let mut call = Box::pin(resource.get());
    assert!(poll(call.as_mut()).is_pending());
    left.lock().unwrap()[0].lock().unwrap()[0].wake_by_ref();
    assert!(matches!(poll(call.as_mut()), Poll::Ready(Ok(pin)) if **pin == 7));
    drop(call);
    assert_eq!(resource.unload(), Some(0));
    assert_eq!(value.lock().unwrap().strong_count(), 0);

    let mut call = Box::pin(resource.get());
    assert!(poll(call.as_mut()).is_pending());
    drop(call);
    assert_eq!(value.lock().unwrap().strong_count(), 0);
    let wakers: Vec<Waker> = left.lock().unwrap().iter().flat_map(|wakers| wakers.lock().unwrap().clone()).collect();
    assert!(wakers.len() == 3 && wakers[0].will_wake(&wakers[1]) && !wakers[1].will_wake(&wakers[2]));
    wakers.into_iter().for_each(Waker::wake);
}

#[test]
fn a_call_that_was_forgotten_holds_up_nobody() {
    let remote = Remote::default();
    let resource = AsyncLazyResource::capturing("forgotten", || remote.load());
    let mut forgotten = ManuallyDrop::new(Box::pin(resource.get()));
    assert!(poll(forgotten.as_mut()).is_pending());
    drop({
        let mut gone = Box::pin(resource.get());
        assert!(poll(gone.as_mut()).is_pending());
        gone
    });
    assert_eq!(remote.drops(), 0, "the forgotten one may still want it");
    let mut next = Box::pin(resource.get());
    assert!(poll(next.as_mut()).is_pending());
    remote.end(Ok(3));
    assert!(matches!(poll(next.as_mut()), Poll::Ready(Ok(pin)) if *pin == 3));
    assert_eq!(remote.starts(), 1);
}
