//! One load and those who wait for it.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use crate::sync::{Condvar, Mutex, ThreadId, thread_id};
use crate::unwind::contained;

/// A load that any waiter may advance.
pub(crate) type BoxLoad<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// An error and when it came, by the clock of the one who asked.
#[derive(Debug)]
pub(crate) struct Failure<E> {
    pub(crate) at: u64,
    pub(crate) error: Arc<E>,
}

impl<E> Clone for Failure<E> {
    fn clone(&self) -> Self {
        Self { at: self.at, error: Arc::clone(&self.error) }
    }
}

/// What an attempt ended with.
pub(crate) enum Outcome<T, E> {
    Ready(T),
    Failed(Failure<E>),
    /// Nothing: the load panicked or was dropped.
    Lost,
}

impl<T: Clone, E> Clone for Outcome<T, E> {
    fn clone(&self) -> Self {
        match self {
            Self::Ready(value) => Self::Ready(value.clone()),
            Self::Failed(failure) => Self::Failed(failure.clone()),
            Self::Lost => Self::Lost,
        }
    }
}

/// What a waiter is to do.
pub(crate) enum Turn<T, E> {
    /// Go: it has ended.
    Landed(Outcome<T, E>),
    /// Advance the load, and [park](Attempt::park) it again or settle the flight.
    Drive(BoxLoad<T, E>),
    /// Wait until woken.
    Wait,
    /// Stop: the load would wait for itself.
    Nested,
}

/// What one who gives up his seat is to drop: both are the user's, and may panic.
pub(crate) struct Left<T, E> {
    _waker: Waker,
    /// Where it is here, the flight is to be settled after it.
    pub(crate) load: Option<BoxLoad<T, E>>,
}

/// One load, from its beginning to its end.
pub(crate) struct Attempt<T, E> {
    run: Mutex<Run<T, E>>,
}

struct Run<T, E> {
    progress: Progress<T, E>,
    /// Who waits, in the order of their coming, which is that of their numbers.
    seats: Vec<Seat>,
    /// How many seats were ever taken.
    seated: u64,
    /// What the load is polled with.
    waker: Option<Waker>,
}

enum Progress<T, E> {
    /// A thread runs the closure or polls the future; `woken` if the future was, meanwhile.
    Busy {
        by: ThreadId,
        woken: bool,
    },
    /// The future lies between two polls.
    Parked(BoxLoad<T, E>),
    Landed(Outcome<T, E>),
}

/// A waiter.
struct Seat {
    number: u64,
    waker: Waker,
    /// Whether he may advance the load.
    drives: bool,
}

impl<T, E> Attempt<T, E> {
    /// An attempt that this thread leads.
    pub(crate) fn led_here() -> Self {
        Self::led_by(thread_id())
    }

    /// An attempt that this thread leads.
    pub(crate) fn led_by(thread: ThreadId) -> Self {
        let progress = Progress::Busy { by: thread, woken: false };
        Self { run: Mutex::new(Run { progress, seats: Vec::new(), seated: 0, waker: None }) }
    }

    /// How many seats are taken.
    pub(crate) fn waiting(&self) -> usize {
        self.run.lock().seats.len()
    }

    /// Takes a seat for who has none yet, or renews the waker in it, and tells what to do.
    pub(crate) fn turn(&self, seat: &mut Option<u64>, waker: Waker, drives: bool) -> Turn<T, E>
    where
        T: Clone,
    {
        let mut run = self.run.lock();
        if let Progress::Landed(outcome) = &run.progress {
            return Turn::Landed(outcome.clone());
        }
        if run.is_mine() {
            return Turn::Nested;
        }
        if let Some(before) = run.seat(seat, waker, drives) {
            drop(run);
            // A waker may be all that keeps a task alive, and that task may hold a seat here, or panic when it is
            // dropped: so neither under the lock nor with the load in hand. What ends meanwhile wakes the new one.
            drop(before);
            run = self.run.lock();
        }
        let load = if drives { run.progress.take() } else { None };
        load.map_or(Turn::Wait, Turn::Drive)
    }

    /// Takes a seat for the one who leads.
    pub(crate) fn seat_leader(&self, waker: Waker) -> u64 {
        let mut seat = None;
        self.run.lock().seat(&mut seat, waker, true);
        seat.unwrap_or(0)
    }

    /// Lays the load down until it is woken.
    pub(crate) fn park(&self, load: BoxLoad<T, E>) {
        let mut run = self.run.lock();
        let woken = matches!(run.progress, Progress::Busy { woken: true, .. });
        run.progress = Progress::Parked(load);
        let drivers = if woken { run.drivers() } else { Vec::new() };
        drop(run);
        wake_all(drivers);
    }

    /// Gives up a seat. The last who could advance the load gets it, to drop it and settle the flight.
    pub(crate) fn leave(&self, number: u64) -> Option<Left<T, E>> {
        let mut run = self.run.lock();
        let at = run.find(number).ok()?;
        let seat = run.seats.remove(at);
        let load = if run.seats.iter().any(|seat| seat.drives) { None } else { run.progress.take() };
        Some(Left { _waker: seat.waker, load })
    }

    /// Ends the attempt and wakes everyone. The flight has been told before.
    pub(crate) fn land(&self, outcome: Outcome<T, E>) {
        let mut run = self.run.lock();
        let before = std::mem::replace(&mut run.progress, Progress::Landed(outcome));
        let seats = std::mem::take(&mut run.seats);
        drop(run);
        drop(before);
        wake_all(seats.into_iter().map(|seat| seat.waker));
    }

    /// Blocks until the attempt ends. `None` where this thread runs it.
    pub(crate) fn wait(&self) -> Option<Outcome<T, E>>
    where
        T: Clone,
    {
        let bell = Arc::new(Bell::new());
        let waker = Waker::from(Arc::clone(&bell));
        let mut seat = None;
        loop {
            match self.turn(&mut seat, waker.clone(), false) {
                Turn::Landed(outcome) => return Some(outcome),
                Turn::Nested => return None,
                Turn::Wait | Turn::Drive(_) => bell.wait(),
            }
        }
    }
}

impl<T: Send + 'static, E: Send + Sync + 'static> Attempt<T, E> {
    /// The waker to poll the load with, the same each time.
    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        let new = || Waker::from(Arc::new(Nudge(Arc::downgrade(self))));
        self.run.lock().waker.get_or_insert_with(new).clone()
    }

    /// Says that the load can go on, to all who may advance it: one alone might never poll again and not go either.
    fn nudge(&self) {
        let mut run = self.run.lock();
        let drivers = match &mut run.progress {
            Progress::Busy { woken, .. } => {
                *woken = true;
                Vec::new()
            }
            Progress::Parked(_) => run.drivers(),
            Progress::Landed(_) => Vec::new(),
        };
        drop(run);
        wake_all(drivers);
    }
}

/// What wakes a load. It keeps neither that nor its value: a reactor may hold it for ever.
struct Nudge<T, E>(Weak<Attempt<T, E>>);

impl<T: Send + 'static, E: Send + Sync + 'static> Wake for Nudge<T, E> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(attempt) = self.0.upgrade() {
            attempt.nudge();
        }
    }
}

/// Wakes every one of them: a waker that panics, which the hook has told of, takes the wake-up from nobody behind it.
fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        contained(|| waker.wake());
    }
}

impl<T, E> Run<T, E> {
    /// Whether the load is being run further down this thread's stack.
    fn is_mine(&self) -> bool {
        matches!(self.progress, Progress::Busy { by, .. } if by == thread_id())
    }

    fn find(&self, number: u64) -> Result<usize, usize> {
        self.seats.binary_search_by_key(&number, |seat| seat.number)
    }

    /// Puts the waker into the seat, a new one if there is none; returns the waker that was in it.
    fn seat(&mut self, seat: &mut Option<u64>, waker: Waker, drives: bool) -> Option<Waker> {
        let number = *seat.get_or_insert(self.seated);
        if let Some(seat) = self.find(number).ok().and_then(|at| self.seats.get_mut(at)) {
            return Some(std::mem::replace(&mut seat.waker, waker));
        }
        self.seated += 1;
        self.seats.push(Seat { number, waker, drives });
        None
    }

    /// The wakers of those to wake when the load can go on.
    fn drivers(&self) -> Vec<Waker> {
        self.seats.iter().filter(|seat| seat.drives).map(|seat| seat.waker.clone()).collect()
    }
}

impl<T, E> Progress<T, E> {
    fn busy() -> Self {
        Self::Busy { by: thread_id(), woken: false }
    }

    /// The load, if it is there to be taken; this thread is busy with it from then on.
    fn take(&mut self) -> Option<BoxLoad<T, E>> {
        if !matches!(self, Self::Parked(_)) {
            return None;
        }
        match std::mem::replace(self, Self::busy()) {
            Self::Parked(load) => Some(load),
            Self::Busy { .. } | Self::Landed(_) => None,
        }
    }
}

/// What a blocked thread sleeps on. Not `park`, whose token belongs to the program.
struct Bell {
    rung: Mutex<bool>,
    ring: Condvar,
}

impl Bell {
    fn new() -> Self {
        Self { rung: Mutex::new(false), ring: Condvar::new() }
    }

    /// Sleeps until it rings, unless it has.
    fn wait(&self) {
        let mut rung = self.rung.lock();
        while !*rung {
            self.ring.wait(&mut rung);
        }
        *rung = false;
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock() = true;
        self.ring.notify_one();
    }
}
