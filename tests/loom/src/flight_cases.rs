//! The flight: nobody is left waiting, and one load runs at a time.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc as StdArc;
use std::task::{Context, Poll, Wake, Waker};

use crate::flight::attempt::BoxLoad;
use crate::flight::join::Join;
use crate::flight::state::{Flight, FlightError};
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use loom::sync::{Arc, Mutex, Notify};
use loom::thread;

type Number = Flight<u32, u32>;

fn got(result: Result<u32, FlightError<u32>>) -> Result<u32, Option<u32>> {
    result.map_err(|error| match error {
        FlightError::Failed(failure) => Some(*failure.error),
        _ => None,
    })
}

/// Wakes a loom thread.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: StdArc<Self>) {
        self.0.notify();
    }
}

fn block_on(mut join: impl Future<Output = Result<u32, FlightError<u32>>> + Unpin) -> Result<u32, Option<u32>> {
    let bell = StdArc::new(Bell(Notify::new()));
    let waker = Waker::from(StdArc::clone(&bell));
    loop {
        if let Poll::Ready(result) = Pin::new(&mut join).poll(&mut Context::from_waker(&waker)) {
            return got(result);
        }
        bell.0.wait();
    }
}

fn poll_once(
    join: &mut (impl Future<Output = Result<u32, FlightError<u32>>> + Unpin),
) -> Option<Result<u32, Option<u32>>> {
    match Pin::new(join).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(got(result)),
        Poll::Pending => None,
    }
}

/// Something that a load waits for, and that another thread does.
#[derive(Default)]
struct Event {
    done: Option<()>,
    waker: Option<Waker>,
}

fn load_of(event: &Arc<Mutex<Event>>, loads: &Arc<AtomicUsize>) -> impl FnOnce() -> BoxLoad<u32, u32> + use<> {
    let (event, loads) = (Arc::clone(event), Arc::clone(loads));
    move || {
        loads.fetch_add(1, SeqCst);
        Box::pin(poll_fn(move |cx| {
            let mut event = event.lock().unwrap();
            event.waker = Some(cx.waker().clone());
            event.done.map_or(Poll::Pending, |()| Poll::Ready(Ok(1)))
        }))
    }
}

fn happens(event: &Arc<Mutex<Event>>) {
    let waker = {
        let mut event = event.lock().unwrap();
        event.done = Some(());
        event.waker.take()
    };
    waker.into_iter().for_each(Waker::wake);
}

fn model(case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(case);
}

#[test]
fn two_threads_load_once_and_both_get_it() {
    model(|| {
        let (flight, loads) = (Arc::new(Number::new()), Arc::new(AtomicUsize::new(0)));
        let call = |flight: &Number, loads: &AtomicUsize| {
            got(flight.get_or_load(
                |_| true,
                || 0,
                || {
                    loads.fetch_add(1, SeqCst);
                    Ok(1)
                },
            ))
        };
        let other = thread::spawn({
            let (flight, loads) = (Arc::clone(&flight), Arc::clone(&loads));
            move || call(&flight, &loads)
        });
        assert_eq!(call(&flight, &loads), Ok(1));
        assert_eq!(other.join().unwrap(), Ok(1));
        assert_eq!(loads.load(SeqCst), 1);
    });
}

#[test]
fn loads_never_overlap_even_when_they_fail() {
    model(|| {
        let (flight, busy) = (Arc::new(Number::new()), Arc::new(AtomicBool::new(false)));
        let call = |flight: &Number, busy: &AtomicBool| {
            got(flight.get_or_load(
                |_| true,
                || 0,
                || {
                    assert!(!busy.swap(true, SeqCst), "one at a time");
                    busy.store(false, SeqCst);
                    Err(9)
                },
            ))
        };
        let other = thread::spawn({
            let (flight, busy) = (Arc::clone(&flight), Arc::clone(&busy));
            move || call(&flight, &busy)
        });
        assert_eq!(call(&flight, &busy), Err(Some(9)));
        assert_eq!(other.join().unwrap(), Err(Some(9)));
    });
}

#[test]
fn a_load_that_is_woken_while_it_is_polled_is_polled_again() {
    model(|| {
        let (flight, event) = (Number::new(), Arc::new(Mutex::new(Event::default())));
        let loads = Arc::new(AtomicUsize::new(0));
        let other = thread::spawn({
            let event = Arc::clone(&event);
            move || happens(&event)
        });
        assert_eq!(block_on(Join::new(&flight, load_of(&event, &loads), |_| true, || 0)), Ok(1));
        other.join().unwrap();
    });
}

#[test]
fn a_waiter_goes_on_when_the_one_who_drove_is_cancelled() {
    model(|| {
        let (flight, event) = (Arc::new(Number::new()), Arc::new(Mutex::new(Event::default())));
        let loads = Arc::new(AtomicUsize::new(0));
        // Leads, and is cancelled while the other one joins and the event happens.
        let mut first = Join::new(Arc::clone(&flight), load_of(&event, &loads), |_| true, || 0);
        assert_eq!(poll_once(&mut first), None);
        let other = thread::spawn({
            let (flight, event, loads) = (Arc::clone(&flight), Arc::clone(&event), Arc::clone(&loads));
            move || block_on(Join::new(flight, load_of(&event, &loads), |_| true, || 0))
        });
        let happening = thread::spawn({
            let event = Arc::clone(&event);
            move || happens(&event)
        });
        drop(first);
        assert_eq!(other.join().unwrap(), Ok(1));
        happening.join().unwrap();
        assert!(loads.load(SeqCst) <= 2, "anew only where the first had gone before the other came");
    });
}

#[test]
fn a_blocked_thread_is_not_left_behind_by_pollers_who_go() {
    model(|| {
        let (flight, event) = (Arc::new(Number::new()), Arc::new(Mutex::new(Event::default())));
        let loads = Arc::new(AtomicUsize::new(0));
        let mut first = Join::new(Arc::clone(&flight), load_of(&event, &loads), |_| true, || 0);
        assert_eq!(poll_once(&mut first), None);
        let other = thread::spawn({
            let flight = Arc::clone(&flight);
            move || got(flight.get_or_load(|_| true, || 0, || Ok(2)))
        });
        drop(first);
        assert_eq!(other.join().unwrap(), Ok(2));
    });
}
