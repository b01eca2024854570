//! Shared futures and latches: no wake-up is lost, and no wait is without end.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc as StdArc;
use std::task::{Context, Poll, Wake, Waker};

use crate::singleflight::latch::{Latch, WouldDeadlock};
use crate::singleflight::shared_future::{BoxFuture, Joined, SharedFuture, Waiter};
use crate::sync::thread_id;
use loom::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use loom::sync::{Arc, Mutex, Notify};
use loom::thread;

/// Wakes a loom thread.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: StdArc<Self>) {
        self.0.notify();
    }
}

fn block_on(mut waiter: Waiter<u32>) -> Joined<u32> {
    let bell = StdArc::new(Bell(Notify::new()));
    let waker = Waker::from(StdArc::clone(&bell));
    loop {
        if let Poll::Ready(joined) = Pin::new(&mut waiter).poll(&mut Context::from_waker(&waker)) {
            return joined;
        }
        bell.0.wait();
    }
}

fn poll_once(waiter: &mut Waiter<u32>) -> Poll<Joined<u32>> {
    Pin::new(waiter).poll(&mut Context::from_waker(Waker::noop()))
}

/// An event for which a future waits, and which another thread triggers.
#[derive(Default)]
struct Event {
    done: bool,
    waker: Option<Waker>,
}

type SharedEvent = Arc<Mutex<Event>>;

fn future_of(event: &SharedEvent) -> BoxFuture<u32> {
    let event = Arc::clone(event);
    Box::pin(poll_fn(move |cx| {
        let mut event = event.lock().unwrap();
        event.waker = Some(cx.waker().clone());
        if event.done { Poll::Ready(1) } else { Poll::Pending }
    }))
}

fn start(event: &SharedEvent) -> Waiter<u32> {
    let mut starter = SharedFuture::begin(Waker::noop().clone());
    starter.start(|| future_of(event));
    starter
}

/// Triggers the event on another thread.
fn triggered(event: &SharedEvent) -> thread::JoinHandle<()> {
    let event = Arc::clone(event);
    thread::spawn(move || {
        let waker = {
            let mut event = event.lock().unwrap();
            event.done = true;
            event.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    })
}

fn model(case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(case);
}

/// Checks a case with latches. Such cases run one after another: all models share the table of
/// blocked threads, and use the same ids.
fn latch_model(case: impl Fn() + Sync + Send + 'static) {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    model(case);
}

#[test]
fn wake_up_during_a_poll_is_kept() {
    model(|| {
        let event = SharedEvent::default();
        let other = triggered(&event);
        assert_eq!(block_on(start(&event)), Joined::Complete(1));
        other.join().unwrap();
    });
}

#[test]
fn wake_up_while_the_driver_leaves_reaches_the_next_waiter() {
    model(|| {
        let event = SharedEvent::default();
        let driver = start(&event);
        let other = driver.shared().waiter();
        let waiting = thread::spawn(move || block_on(other));
        let triggering = triggered(&event);
        drop(driver);
        let joined = waiting.join().unwrap();
        assert!(joined == Joined::Complete(1) || joined == Joined::Abandoned);
        triggering.join().unwrap();
    });
}

#[test]
fn wake_up_while_the_driver_leaves_is_kept_if_the_other_waits() {
    model(|| {
        let event = SharedEvent::default();
        let driver = start(&event);
        let mut other = driver.shared().waiter();
        assert!(poll_once(&mut other).is_pending());
        let waiting = thread::spawn(move || block_on(other));
        let triggering = triggered(&event);
        drop(driver);
        assert_eq!(waiting.join().unwrap(), Joined::Complete(1));
        triggering.join().unwrap();
    });
}

#[test]
fn output_reaches_a_waiter_that_joins_during_a_poll() {
    model(|| {
        let event = SharedEvent::default();
        let starter = start(&event);
        let other = starter.shared().waiter();
        let waiting = thread::spawn(move || block_on(other));
        let triggering = triggered(&event);
        assert_eq!(block_on(starter), Joined::Complete(1));
        assert_eq!(waiting.join().unwrap(), Joined::Complete(1));
        triggering.join().unwrap();
    });
}

#[test]
fn last_two_waiters_that_leave_at_once_drop_the_future_once() {
    struct Counts(Arc<AtomicUsize>);
    impl Drop for Counts {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    model(|| {
        let drops = Arc::new(AtomicUsize::new(0));
        let mut starter = SharedFuture::begin(Waker::noop().clone());
        let counts = Counts(Arc::clone(&drops));
        starter.start(|| {
            Box::pin(poll_fn(move |_| if counts.0.load(SeqCst) == 0 { Poll::Pending } else { Poll::Ready(1) }))
        });
        let mut other = starter.shared().waiter();
        assert!(poll_once(&mut other).is_pending());
        let leaving = thread::spawn(move || other.leave());
        let (one, two) = (starter.leave(), leaving.join().unwrap());
        assert!(one != two, "one of them abandons it");
        assert_eq!(drops.load(SeqCst), 1);
    });
}

#[test]
fn detached_future_is_completed_by_callers_and_a_waiter() {
    model(|| {
        let event = SharedEvent::default();
        let starter = SharedFuture::begin(Waker::noop().clone());
        let shared = StdArc::clone(starter.shared());
        starter.detach(|| future_of(&event));
        let other = shared.waiter();
        let waiting = thread::spawn(move || block_on(other));
        let triggering = triggered(&event);
        shared.poll_if_woken();
        assert_eq!(waiting.join().unwrap(), Joined::Complete(1));
        triggering.join().unwrap();
    });
}

#[test]
fn abandon_ends_a_waiter_and_a_poll() {
    model(|| {
        let event = SharedEvent::default();
        let starter = start(&event);
        let shared = StdArc::clone(starter.shared());
        let waiting = thread::spawn(move || block_on(starter));
        let triggering = triggered(&event);
        shared.abandon();
        let joined = waiting.join().unwrap();
        assert!(joined == Joined::Complete(1) || joined == Joined::Abandoned);
        triggering.join().unwrap();
    });
}

#[test]
fn latch_opens_for_all_waiters() {
    latch_model(|| {
        let latch = Arc::new(Latch::closed(thread_id()));
        let waiters = [(); 2].map(|()| {
            let latch = Arc::clone(&latch);
            thread::spawn(move || latch.wait())
        });
        latch.open(Some(1));
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Ok(Some(1)));
        }
    });
}

#[test]
fn latches_in_a_ring_fail_one_of_two_threads() {
    latch_model(|| {
        let own = Arc::new(Latch::closed(thread_id()));
        let (asked, answer) = (Arc::clone(&own), Arc::new(Mutex::new(None)));
        let (given, ready) = (Arc::clone(&answer), Arc::new(Notify::new()));
        let signal = Arc::clone(&ready);
        let other = thread::spawn(move || {
            let latch = Arc::new(Latch::closed(thread_id()));
            *given.lock().unwrap() = Some(Arc::clone(&latch));
            signal.notify();
            let waited = asked.wait();
            latch.open(Some(2));
            waited
        });
        let latch = loop {
            ready.wait(); // may return without a notification
            if let Some(latch) = answer.lock().unwrap().take() {
                break latch;
            }
        };
        let waited = latch.wait();
        own.open(Some(1));
        match (waited, other.join().unwrap()) {
            (Err(WouldDeadlock), Ok(Some(1))) | (Ok(Some(2)), Err(WouldDeadlock)) => {}
            waited => panic!("{waited:?}"),
        }
    });
}

#[test]
fn leader_that_has_opened_its_latch_may_wait() {
    latch_model(|| {
        let own = Arc::new(Latch::closed(thread_id()));
        let asked = Arc::clone(&own);
        let (latch, given) = (Arc::new(Mutex::new(None)), Arc::new(Notify::new()));
        let (place, signal) = (Arc::clone(&latch), Arc::clone(&given));
        let other = thread::spawn(move || {
            let led = Arc::new(Latch::closed(thread_id()));
            *place.lock().unwrap() = Some(Arc::clone(&led));
            signal.notify();
            let waited = asked.wait();
            led.open(Some(2));
            waited
        });
        let led = loop {
            given.wait();
            if let Some(led) = latch.lock().unwrap().take() {
                break led;
            }
        };
        own.open(Some(1));
        assert_eq!(led.wait(), Ok(Some(2)));
        assert_eq!(other.join().unwrap(), Ok(Some(1)));
    });
}
