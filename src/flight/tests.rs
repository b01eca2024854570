//! Who loads, who waits, what each of them gets; and what becomes of it when a load fails, panics, asks for itself or
//! is given up.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use std::{future, thread};

use super::attempt::BoxLoad;
use super::{Failure, Flight, FlightError, Join};

#[path = "random_tests.rs"]
mod random;

type Number = Flight<u32, String>;

fn always(_: &Failure<String>) -> bool {
    true
}

fn never(_: &Failure<String>) -> bool {
    false
}

/// What a caller got, for comparing.
fn got(result: Result<u32, FlightError<String>>) -> Result<u32, String> {
    result.map_err(|error| match error {
        FlightError::Failed(failure) => format!("{} at {}", failure.error, failure.at),
        FlightError::Reentrant => "re-entrant".into(),
        FlightError::Panicked => "panicked".into(),
    })
}

fn load(flight: &Number, load: impl FnOnce() -> Result<u32, String>) -> Result<u32, String> {
    got(flight.get_or_load(always, || 7, load))
}

/// Waits until so many callers wait for the running load.
fn until_waiting(flight: &Number, callers: usize) {
    while flight.waiting() < callers {
        thread::yield_now();
    }
}

/// Counts how often it wakes.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A poller without a runtime.
struct Poller(Arc<Count>);

impl Poller {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn poll<F: Future<Output = Result<u32, FlightError<String>>> + Unpin>(
        &self,
        future: &mut F,
    ) -> Poll<Result<u32, String>> {
        let waker = Waker::from(Arc::clone(&self.0));
        pin!(future).poll(&mut Context::from_waker(&waker)).map(got)
    }

    fn woken(&self) -> usize {
        self.0.0.swap(0, SeqCst)
    }
}

/// A load in the hands of the test: it ends when told to, and counts its starts, polls and drops.
#[derive(Clone, Default)]
struct Remote(Arc<RemoteState>);

#[derive(Default)]
struct RemoteState {
    result: Mutex<Option<Result<u32, String>>>,
    waker: Mutex<Option<Waker>>,
    panics: AtomicUsize,
    starts: AtomicUsize,
    polls: AtomicUsize,
    drops: AtomicUsize,
}

impl Remote {
    fn start(&self) -> impl FnOnce() -> BoxLoad<u32, String> + use<> {
        struct Dropped(Remote);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.0.drops.fetch_add(1, SeqCst);
            }
        }
        let remote = self.clone();
        move || {
            remote.0.starts.fetch_add(1, SeqCst);
            let remote = Dropped(remote);
            Box::pin(future::poll_fn(move |cx| {
                let state = &remote.0.0;
                state.polls.fetch_add(1, SeqCst);
                assert_eq!(state.panics.load(SeqCst), 0, "a load that panics (this panic belongs to the test)");
                *state.waker.lock().unwrap() = Some(cx.waker().clone());
                state.result.lock().unwrap().take().map_or(Poll::Pending, Poll::Ready)
            }))
        }
    }

    fn wake(&self) {
        let waker = self.0.waker.lock().unwrap().take();
        waker.unwrap().wake();
    }

    fn end(&self, result: Result<u32, &str>) {
        *self.0.result.lock().unwrap() = Some(result.map_err(Into::into));
        self.wake();
    }

    fn starts(&self) -> usize {
        self.0.starts.load(SeqCst)
    }

    fn polls(&self) -> usize {
        self.0.polls.load(SeqCst)
    }

    fn drops(&self) -> usize {
        self.0.drops.load(SeqCst)
    }
}

macro_rules! join {
    ($flight:expr, $remote:expr) => {
        Join::new($flight, $remote.start(), always, || 7)
    };
}

#[test]
fn a_value_is_loaded_once_and_again_after_a_reset() {
    let flight = Number::new();
    assert!(!flight.reset(), "there was nothing");
    assert_eq!(load(&flight, || Ok(1)), Ok(1));
    assert_eq!(load(&flight, || unreachable!()), Ok(1));
    assert!(flight.reset());
    assert_eq!(load(&flight, || Ok(2)), Ok(2));
}

#[test]
fn a_failure_keeps_its_time_and_is_retried_when_the_caller_says_so() {
    let flight = Number::new();
    assert!(flight.failure().is_none());
    assert_eq!(got(flight.get_or_load(always, || 3, || Err("no".into()))), Err("no at 3".into()));
    assert_eq!(flight.failure().map(|failure| failure.at), Some(3));
    assert_eq!(got(flight.get_or_load(never, || 4, || unreachable!())), Err("no at 3".into()));
    assert_eq!(got(flight.get_or_load(|failure| failure.at < 3, || 4, || unreachable!())), Err("no at 3".into()));
    assert_eq!(
        got(flight.get_or_load(|failure| failure.at <= 3, || 4, || Err("still".into()))),
        Err("still at 4".into())
    );
    assert!(flight.reset(), "a failure can be forgotten");
    assert_eq!(got(flight.get_or_load(never, || 5, || Ok(1))), Ok(1));
    assert!(flight.failure().is_none());
}

#[test]
fn a_thousand_callers_in_a_second_make_as_many_attempts_as_the_back_off_allows() {
    let (flight, attempts, clock) = (Number::new(), Cell::new(0), Cell::new(0_u64));
    for caller in 0..1000 {
        clock.set(caller);
        let result = flight.get_or_load(
            |failure| clock.get() - failure.at >= 100,
            || clock.get(),
            || {
                attempts.set(attempts.get() + 1);
                Err("down".into())
            },
        );
        assert_eq!(got(result), Err(format!("down at {}", caller / 100 * 100)));
    }
    assert_eq!(attempts.get(), 10);
}

#[test]
fn callers_on_other_threads_wait_for_the_one_load_and_share_its_value() {
    let (flight, loads) = (Number::new(), AtomicUsize::new(0));
    let gate = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                gate.wait();
                let value = load(&flight, || {
                    until_waiting(&flight, 7);
                    loads.fetch_add(1, SeqCst);
                    Ok(5)
                });
                assert_eq!(value, Ok(5));
            });
        }
    });
    assert_eq!(loads.load(SeqCst), 1);
}

#[test]
fn every_waiter_gets_the_same_error() {
    let flight = Number::new();
    let errors = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let result = flight.get_or_load(
                    never,
                    || 1,
                    || {
                        until_waiting(&flight, 3);
                        Err("one for all".into())
                    },
                );
                let Err(FlightError::Failed(failure)) = result else { panic!("{:?}", got(result)) };
                errors.lock().unwrap().push(failure.error);
            });
        }
    });
    let errors = errors.into_inner().unwrap();
    assert_eq!(errors.len(), 4);
    assert!(errors.iter().all(|error| Arc::ptr_eq(error, &errors[0])));
}

#[test]
fn a_panic_passes_through_and_one_of_the_waiters_loads_instead() {
    let flight = Number::new();
    thread::scope(|scope| {
        let panicking = scope.spawn(|| {
            load(&flight, || {
                until_waiting(&flight, 2);
                panic!("a load that panics (this panic belongs to the test)")
            })
        });
        let (tell, told) = mpsc::channel();
        until_running(&flight);
        for _ in 0..2 {
            let tell = tell.clone();
            let flight = &flight;
            scope.spawn(move || tell.send(load(flight, || Ok(9))).unwrap());
        }
        assert_eq!([told.recv(), told.recv()].map(Result::unwrap), [Ok(9), Ok(9)]);
        assert!(panicking.join().is_err());
    });
}

fn until_running(flight: &Number) {
    while !flight.is_running() {
        thread::yield_now();
    }
}

#[test]
fn a_load_that_asks_for_itself_is_told() {
    let flight = Number::new();
    assert_eq!(load(&flight, || load(&flight, || unreachable!())), Err("re-entrant at 7".into()));
    assert_eq!(load(&flight, || Ok(1)), Ok(1), "and nothing is stuck");

    // By polling within a blocking load, and by blocking within a poll.
    let (flight, remote, poller) = (Number::new(), Remote::default(), Poller::new());
    let nested = load(&flight, || match poller.poll(&mut join!(&flight, remote)) {
        Poll::Ready(result) => result,
        Poll::Pending => Ok(0),
    });
    assert_eq!((nested, remote.starts()), (Err("re-entrant at 7".into()), 0));

    let flight = Arc::new(Number::new());
    let inner = Arc::clone(&flight);
    let start = move || -> BoxLoad<u32, String> { Box::pin(async move { load(&inner, || unreachable!()) }) };
    assert_eq!(poller.poll(&mut Join::new(&*flight, start, always, || 7)), Poll::Ready(Err("re-entrant at 7".into())));

    let flight = Arc::new(Number::new());
    let inner = Arc::clone(&flight);
    let start = move || -> BoxLoad<u32, String> {
        Box::pin(
            async move { got(Join::new(inner, || -> BoxLoad<u32, String> { unreachable!() }, always, || 7).await) },
        )
    };
    assert_eq!(poller.poll(&mut Join::new(&*flight, start, always, || 7)), Poll::Ready(Err("re-entrant at 7".into())));
}

#[test]
fn one_task_may_wait_twice_and_a_load_may_use_another_flight() {
    let (flight, remote, poller) = (Number::new(), Remote::default(), Poller::new());
    let (mut one, mut two) = (join!(&flight, remote), join!(&flight, remote));
    assert!(poller.poll(&mut one).is_pending() && poller.poll(&mut two).is_pending());
    remote.end(Ok(4));
    assert_eq!((poller.poll(&mut two), poller.poll(&mut one)), (Poll::Ready(Ok(4)), Poll::Ready(Ok(4))));
    assert_eq!(remote.starts(), 1);
    let other = Number::new();
    assert_eq!(load(&other, || load(&Number::new(), || Ok(6))), Ok(6));
}

#[test]
fn progress_and_the_end_wake_all_pollers_and_any_of_them_may_go_on() {
    let (flight, remote) = (Number::new(), Remote::default());
    let pollers: Vec<Poller> = (0..3).map(|_| Poller::new()).collect();
    let mut joins: Vec<_> = pollers.iter().map(|_| join!(&flight, remote)).collect();
    for (poller, join) in pollers.iter().zip(&mut joins) {
        assert!(poller.poll(join).is_pending());
    }
    let woken = || pollers.iter().map(Poller::woken).collect::<Vec<_>>();
    remote.wake();
    assert_eq!(woken(), [1, 1, 1]);
    // The first one led, and is neither polled again nor dropped: it holds up nobody.
    assert!(pollers[2].poll(&mut joins[2]).is_pending());
    remote.end(Ok(8));
    assert_eq!(woken(), [1, 1, 1]);
    assert_eq!(pollers[1].poll(&mut joins[1]), Poll::Ready(Ok(8)));
    assert_eq!(woken(), [1, 1, 1]);
    assert_eq!(
        (remote.starts(), remote.drops()),
        (1, 1),
        "the load goes when it is done, not when the last waiter does"
    );
    assert_eq!(pollers[2].poll(&mut joins[2]), Poll::Ready(Ok(8)));
    assert_eq!(pollers[0].poll(&mut joins[0]), Poll::Ready(Ok(8)));
}

#[test]
fn a_cancelled_caller_takes_neither_the_load_nor_its_wake_with_it() {
    let (flight, remote) = (Number::new(), Remote::default());
    let pollers: Vec<Poller> = (0..3).map(|_| Poller::new()).collect();
    let mut joins: Vec<_> = pollers.iter().map(|_| join!(&flight, remote)).collect();
    for (poller, join) in pollers.iter().zip(&mut joins) {
        assert!(poller.poll(join).is_pending());
    }
    remote.end(Ok(3));
    drop(joins.remove(0)); // woken, and gone before it looked
    assert_eq!(remote.drops(), 0);
    assert_eq!((pollers[1].woken(), pollers[2].woken()), (1, 1));
    assert_eq!(pollers[1].poll(&mut joins[0]), Poll::Ready(Ok(3)));
    assert_eq!((remote.starts(), remote.drops()), (1, 1));
}

#[test]
fn when_all_waiters_go_the_load_is_dropped_and_the_next_caller_starts_anew() {
    let (flight, remote, poller) = (Number::new(), Remote::default(), Poller::new());
    let (mut one, mut two) = (join!(&flight, remote), join!(&flight, remote));
    assert!(poller.poll(&mut one).is_pending() && poller.poll(&mut two).is_pending());
    drop(one);
    assert_eq!(remote.drops(), 0);
    drop(two);
    assert_eq!((remote.starts(), remote.drops(), flight.is_running()), (1, 1, false));
    let mut three = join!(&flight, remote);
    assert!(poller.poll(&mut three).is_pending());
    remote.end(Ok(1));
    assert_eq!(poller.poll(&mut three), Poll::Ready(Ok(1)));
    assert_eq!((remote.starts(), remote.drops()), (2, 2));
    drop(join!(&flight, remote)); // never polled: it held no seat
}

#[test]
fn a_blocked_thread_waits_for_pollers_and_loads_itself_when_they_all_go() {
    for cancelled in [false, true] {
        let (flight, remote, poller) = (Number::new(), Remote::default(), Poller::new());
        let mut join = join!(&flight, remote);
        assert!(poller.poll(&mut join).is_pending());
        thread::scope(|scope| {
            let blocked = scope.spawn(|| load(&flight, || Ok(20)));
            until_waiting(&flight, 2);
            let polls = remote.polls();
            if cancelled {
                drop(join);
                assert_eq!(blocked.join().unwrap(), Ok(20));
            } else {
                remote.end(Ok(10));
                assert_eq!(remote.polls(), polls, "the blocked thread does not poll");
                assert_eq!(poller.poll(&mut join), Poll::Ready(Ok(10)));
                assert_eq!(blocked.join().unwrap(), Ok(10));
            }
        });
    }
}

#[test]
fn a_poller_waits_for_a_blocking_load() {
    let (flight, remote, poller) = (Number::new(), Remote::default(), Poller::new());
    thread::scope(|scope| {
        let loading = scope.spawn(|| {
            load(&flight, || {
                until_waiting(&flight, 1);
                Ok(2)
            })
        });
        until_running(&flight);
        let mut join = join!(&flight, remote);
        let mut result = poller.poll(&mut join);
        if result.is_pending() {
            assert_eq!(loading.join().unwrap(), Ok(2));
            assert_eq!(poller.woken(), 1);
            result = poller.poll(&mut join);
        }
        assert_eq!((result, remote.starts()), (Poll::Ready(Ok(2)), 0));
    });
}

#[test]
fn a_panic_in_a_poll_reaches_the_one_who_polled_and_the_others_load_anew() {
    let (flight, broken, sound) = (Number::new(), Remote::default(), Remote::default());
    let (first, second) = (Poller::new(), Poller::new());
    let (mut leader, mut other) = (join!(&flight, broken), join!(&flight, sound));
    assert!(first.poll(&mut leader).is_pending() && second.poll(&mut other).is_pending());
    broken.0.panics.store(1, SeqCst);
    // The second one happens to poll, and has not used its own load.
    assert!(catch_unwind(AssertUnwindSafe(|| second.poll(&mut other))).is_err());
    assert_eq!((first.woken(), flight.is_running(), broken.drops()), (1, false, 1));
    assert_eq!(first.poll(&mut leader), Poll::Ready(Err("panicked".into())), "the load it brought is used up");
    assert!(second.poll(&mut other).is_pending());
    sound.end(Ok(1));
    assert_eq!((second.poll(&mut other), sound.starts()), (Poll::Ready(Ok(1)), 1));
}

#[test]
fn a_late_waiter_gets_what_its_own_attempt_ended_with() {
    let (flight, remote, poller) = (Number::new(), Remote::default(), Poller::new());
    let (mut one, mut late) = (join!(&flight, remote), join!(&flight, remote));
    assert!(poller.poll(&mut one).is_pending() && poller.poll(&mut late).is_pending());
    remote.end(Err("the first"));
    assert_eq!(poller.poll(&mut one), Poll::Ready(Err("the first at 7".into())));
    assert_eq!(load(&flight, || Ok(2)), Ok(2));
    assert_eq!(poller.poll(&mut late), Poll::Ready(Err("the first at 7".into())));
}

#[test]
fn a_value_that_cannot_be_cloned_leaves_nobody_waiting() {
    struct Once(AtomicUsize);
    impl Clone for Once {
        fn clone(&self) -> Self {
            assert_eq!(self.0.fetch_add(1, SeqCst), 0, "cloned twice (this panic belongs to the test)");
            Self(AtomicUsize::new(0))
        }
    }
    let flight = Flight::<Once, ()>::new();
    let one = || flight.get_or_load(|_| true, || 0, || Ok(Once(AtomicUsize::new(0))));
    assert!(catch_unwind(AssertUnwindSafe(one)).is_err());
    assert!(!flight.is_running());
}

#[test]
fn a_waker_that_owns_a_waiter_of_the_same_flight_may_be_dropped_anywhere() {
    // As a task that only its waker keeps alive.
    struct Owner(#[expect(dead_code, reason = "owned")] Mutex<Option<Box<dyn Send>>>);
    impl Wake for Owner {
        fn wake(self: Arc<Self>) {}
    }
    let (flight, remote) = (Arc::new(Number::new()), Remote::default());
    let mut first = join!(Arc::clone(&flight), remote);
    let mut owned = join!(Arc::clone(&flight), remote);
    assert!(Poller::new().poll(&mut first).is_pending() && Poller::new().poll(&mut owned).is_pending());
    let waker = Waker::from(Arc::new(Owner(Mutex::new(Some(Box::new(owned))))));
    assert!(pin!(&mut first).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(waker);
    assert!(Poller::new().poll(&mut first).is_pending(), "here the task goes, and gives up its seat");
    assert_eq!(flight.waiting(), 1);
}

/// Panics when it is dropped, unless the test is panicking already.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(thread::panicking(), "dropped (this panic belongs to the test)");
    }
}

/// A waker that panics when its last clone is dropped.
struct Fused(Bomb);

impl Wake for Fused {
    fn wake(self: Arc<Self>) {}
}

/// Polls with a waker of which the flight then holds the only clone.
fn poll_fused(join: &mut (impl Future<Output = Result<u32, FlightError<String>>> + Unpin)) {
    let waker = Waker::from(Arc::new(Fused(Bomb)));
    assert!(pin!(join).poll(&mut Context::from_waker(&waker)).is_pending());
}

#[test]
fn an_error_that_panics_when_it_is_dropped_leaves_nobody_waiting() {
    let flight = Flight::<u32, Bomb>::new();
    let fail = || drop(flight.get_or_load(|_| true, || 0, || Err(Bomb)));
    fail();
    assert!(catch_unwind(AssertUnwindSafe(|| flight.get_or_load(|_| true, || 0, || Ok(1)).is_ok())).is_err());
    assert!(!flight.is_running());
    fail();
    let mut join = Join::new(&flight, || Box::pin(future::ready(Ok(2_u32))) as BoxLoad<u32, Bomb>, |_| true, || 0);
    let mut poll = || pin!(&mut join).poll(&mut Context::from_waker(Waker::noop())).is_ready();
    assert!(catch_unwind(AssertUnwindSafe(&mut poll)).is_err());
    assert!(!flight.is_running());
    assert!(poll(), "it had not begun, so it may begin now");
}

#[test]
fn a_waker_that_panics_when_it_is_renewed_leaves_the_load_where_it_lies() {
    let (flight, remote, poller) = (Number::new(), Remote::default(), Poller::new());
    let (mut one, mut two) = (join!(&flight, remote), join!(&flight, remote));
    poll_fused(&mut one);
    assert!(poller.poll(&mut two).is_pending());
    assert!(catch_unwind(AssertUnwindSafe(|| poller.poll(&mut one))).is_err());
    remote.end(Ok(3));
    assert_eq!(poller.poll(&mut two), Poll::Ready(Ok(3)));
    assert_eq!((remote.starts(), remote.drops()), (1, 1));
}

#[test]
fn a_waker_that_panics_as_the_last_one_goes_leaves_nobody_waiting() {
    let (flight, remote) = (Number::new(), Remote::default());
    let mut one = join!(&flight, remote);
    poll_fused(&mut one);
    // The load's own clone of the attempt's waker is none of this one.
    assert!(catch_unwind(AssertUnwindSafe(|| drop(one))).is_err());
    assert_eq!((flight.is_running(), remote.drops()), (false, 1));
    assert_eq!(load(&flight, || Ok(4)), Ok(4));
}

#[test]
fn a_waker_that_panics_takes_the_wake_up_from_nobody_behind_it() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker that panics (this panic belongs to the test)");
        }
    }
    let panics = Waker::from(Arc::new(Panics));
    let (flight, remote, poller) = (Number::new(), Remote::default(), Poller::new());
    let mut first = join!(&flight, remote);
    let mut behind = join!(&flight, remote);
    assert!(pin!(&mut first).poll(&mut Context::from_waker(&panics)).is_pending());
    assert!(poller.poll(&mut behind).is_pending());
    remote.wake();
    assert_eq!(poller.woken(), 1, "the load can go on");
    // Here the attempt ends by a panic, and wakes while it unwinds.
    remote.0.panics.store(1, SeqCst);
    let mut third = join!(&flight, remote);
    let last = Poller::new();
    assert!(catch_unwind(AssertUnwindSafe(|| last.poll(&mut third))).is_err());
    assert_eq!(poller.woken(), 1, "the load has ended");
    assert_eq!(load(&flight, || Ok(5)), Ok(5));
}

#[test]
fn of_a_thousand_tasks_half_are_cancelled_and_the_loader_runs_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let (flight, starts, ends) =
        (Arc::new(Number::new()), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // The load goes on until all have come, however slow the machine.
    let all_wait = Arc::new(AtomicBool::new(false));
    runtime.block_on(async {
        let task = |_| {
            let (flight, starts, ends) = (Arc::clone(&flight), Arc::clone(&starts), Arc::clone(&ends));
            let all_wait = Arc::clone(&all_wait);
            tokio::spawn(async move {
                let start = move || -> BoxLoad<u32, String> {
                    starts.fetch_add(1, SeqCst);
                    Box::pin(async move {
                        let mut polls = 0;
                        while polls < 10 || !all_wait.load(SeqCst) {
                            polls += 1;
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        ends.fetch_add(1, SeqCst);
                        Ok(11)
                    })
                };
                got(Join::new(flight, start, always, || 7).await)
            })
        };
        let tasks: Vec<_> = (0..1000).map(task).collect();
        // The one that leads among them.
        while flight.waiting() < 1000 {
            tokio::task::yield_now().await;
        }
        let (cancelled, kept): (Vec<_>, Vec<_>) = tasks.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
        for (_, task) in &cancelled {
            task.abort();
        }
        // While the load goes on: one that is just polled is cancelled only after it, unless it has ended by then.
        for (_, task) in cancelled {
            assert!(task.await.is_err_and(|error| error.is_cancelled()));
        }
        all_wait.store(true, SeqCst);
        for (_, task) in kept {
            assert_eq!(task.await.unwrap(), Ok(11));
        }
    });
    assert_eq!((starts.load(SeqCst), ends.load(SeqCst)), (1, 1));
}
