//! A future that several tasks wait for. It belongs to all of them, and one of them, the driver, polls it.
//!
//! ```text
//!             poll                   the poll returned
//!   Idle ------------> Polling ------ Ready ---> Complete(output)
//!    ^                    |
//!    +----- Pending ------+---------- panic ---> Abandoned
//!    |
//!    +-- the last waiter leaves, `abandon` ----> Abandoned
//! ```
//!
//! A wake-up of the future wakes the driver, and no other waiter. If the driver leaves, the waiter that has waited longest
//! becomes the driver and inherits the wake-up. A waiter that is polled for another reason while a wake-up is pending
//! becomes the driver too. So W wake-ups cost about W polls of the future, for any number of waiters.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use crate::sync::{Mutex, ThreadId, thread_id};
use crate::unwind::contained;

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The result of waiting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Joined<T> {
    Complete(T),
    /// There is no output and will be none, see [`SharedFuture::abandonment`].
    Abandoned,
    /// The caller is inside a poll of this future: it would wait for itself.
    Reentrant,
}

/// Why there is no output and will be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abandonment {
    /// A poll panicked, or the function that makes the future.
    Panicked,
    /// The last waiter left.
    Left,
    /// [`SharedFuture::abandon`] was called.
    Stopped,
}

/// A future and its waiters. `T::clone` runs under its lock.
pub(crate) struct SharedFuture<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    progress: Progress<T>,
    /// In the order of their ids, which is that of their coming.
    waiters: Vec<Entry>,
    /// The id of the next waiter.
    next: u64,
    /// The waiter that a wake-up of the future wakes.
    driver: Option<u64>,
    /// The future stays when no waiter is left.
    detached: bool,
    /// `true` if the future is abandoned after the poll that is running.
    stopped: bool,
    /// The waker that the future is polled with, the same each time.
    waker: Option<Waker>,
    /// The number of polls that have begun.
    polls: u64,
}

enum Progress<T> {
    /// `woken`: there is a reason to poll it.
    Idle {
        future: BoxFuture<T>,
        woken: bool,
    },
    /// `woken`: it was woken during the poll.
    Polling {
        by: ThreadId,
        woken: bool,
    },
    Complete(T),
    Abandoned(Abandonment),
}

struct Entry {
    id: u64,
    waker: Waker,
}

/// The id of the waiter that brought the future.
const STARTER: u64 = 0;

impl<T: Clone + Send + 'static> SharedFuture<T> {
    /// Creates the shared future of a caller that is about to make the future, and the waiter of this caller. Others may
    /// wait from now on. The caller [starts](Waiter::start) it next.
    pub(crate) fn begin(waker: Waker) -> Waiter<T> {
        let state = State {
            progress: Progress::Polling { by: thread_id(), woken: false },
            waiters: vec![Entry { id: STARTER, waker }],
            next: STARTER + 1,
            driver: Some(STARTER),
            detached: false,
            stopped: false,
            waker: None,
            polls: 0,
        };
        let shared = Arc::new(Self { state: Mutex::new(state) });
        Waiter { shared, id: Some(STARTER), begun: true, attaches: false }
    }

    /// Polls the future if there is a reason to, without waiting for it. Returns `true` once it has ended.
    pub(crate) fn poll_if_woken(self: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        let Some(future) = state.take_if_woken() else { return state.progress.has_ended() };
        drop(state);
        self.poll_future(future, None)
    }

    /// Returns a waiter that has not been polled.
    pub(crate) fn waiter(self: &Arc<Self>) -> Waiter<T> {
        Waiter { shared: Arc::clone(self), id: None, begun: false, attaches: false }
    }

    /// Returns a waiter that has not been polled. A detached future stays no longer than its waiters, this one among them.
    pub(crate) fn attaching_waiter(self: &Arc<Self>) -> Waiter<T> {
        self.state.lock().detached = false;
        Waiter { shared: Arc::clone(self), id: None, begun: false, attaches: true }
    }

    /// Polls the future for waiter `driver`. Returns `true` if it has ended.
    ///
    /// A panic of the future passes through to the starter. Other waiters did not bring this code: for them the future is
    /// abandoned.
    fn poll_future(self: &Arc<Self>, mut future: BoxFuture<T>, driver: Option<u64>) -> bool {
        let ending = Ending::new(self, Abandonment::Panicked);
        let waker = self.waker();
        let poll = move || match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => {
                // The `Drop` of the future is user code too.
                drop(future);
                Ok(output)
            }
            Poll::Pending => Err(future),
        };
        let polled = if driver == Some(STARTER) { Some(poll()) } else { contained(poll) };
        match polled {
            Some(Ok(output)) => {
                ending.complete(output);
                true
            }
            Some(Err(future)) => {
                ending.cancel();
                self.park(future, driver)
            }
            None => true, // `ending` abandons it
        }
    }

    /// Keeps the future until its next poll. Returns `true` if it was abandoned during the poll.
    fn park(&self, future: BoxFuture<T>, driver: Option<u64>) -> bool {
        let mut state = self.state.lock();
        // All waiters may have left during the poll.
        if state.stopped || state.is_unwanted() {
            let why = if state.stopped { Abandonment::Stopped } else { Abandonment::Left };
            drop(state);
            contained(|| drop(future));
            self.end(Progress::Abandoned(why));
            return true;
        }
        let woken = matches!(state.progress, Progress::Polling { woken: true, .. });
        state.progress = Progress::Idle { future, woken };
        if driver.is_some() {
            state.driver = driver;
        }
        let waker = if woken { state.driver_waker() } else { None };
        drop(state);
        wake(waker);
        false
    }

    fn waker(self: &Arc<Self>) -> Waker {
        let new = || Waker::from(Arc::new(FutureWaker(Arc::downgrade(self))));
        self.state.lock().waker.get_or_insert_with(new).clone()
    }

    fn wake(&self) {
        let mut state = self.state.lock();
        let waker = match &mut state.progress {
            Progress::Idle { woken, .. } => {
                *woken = true;
                state.driver_waker()
            }
            Progress::Polling { woken, .. } => {
                *woken = true;
                None
            }
            Progress::Complete(_) | Progress::Abandoned(_) => None,
        };
        drop(state);
        wake(waker);
    }

    /// Takes the place of waiter `id` away.
    fn leave(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        let Ok(index) = state.find(id) else { return false };
        let left = state.waiters.remove(index);
        let mut waker = None;
        if state.driver == Some(id) {
            state.driver = None;
            if matches!(state.progress, Progress::Idle { woken: true, .. }) {
                waker = state.driver_waker();
            }
        }
        let future = if state.is_unwanted() { state.take_future() } else { None };
        drop(state);
        // The next driver first: what follows is user code, and may panic.
        wake(waker);
        let unwanted = future.map(|future| Unwanted { _future: future, _ending: Ending::new(self, Abandonment::Left) });
        drop(left);
        unwanted.is_some()
    }
}

impl<T: Clone> SharedFuture<T> {
    /// Returns the output, or [`Joined::Abandoned`] if there will be none. `None` while the future runs.
    pub(crate) fn output(&self) -> Option<Joined<T>> {
        match &self.state.lock().progress {
            Progress::Complete(output) => Some(Joined::Complete(output.clone())),
            Progress::Abandoned(_) => Some(Joined::Abandoned),
            Progress::Idle { .. } | Progress::Polling { .. } => None,
        }
    }
}

impl<T> SharedFuture<T> {
    /// Returns the number of waiters that have been polled.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().waiters.len()
    }

    /// Returns the number of polls so far. `None` during a poll, and after the end.
    pub(crate) fn polls_if_idle(&self) -> Option<u64> {
        let state = self.state.lock();
        matches!(state.progress, Progress::Idle { .. }).then_some(state.polls)
    }

    /// Returns the reason why there will be no output; `None` if there is one, or while the future runs.
    pub(crate) fn abandonment(&self) -> Option<Abandonment> {
        match self.state.lock().progress {
            Progress::Abandoned(why) => Some(why),
            _ => None,
        }
    }

    /// Abandons the future, unless it has ended. If it is polled now, the thread that polls it drops it after the poll, if it
    /// is not ready then.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        let future = state.take_future();
        drop(state);
        drop(future.map(|future| Unwanted { _future: future, _ending: Ending::new(self, Abandonment::Stopped) }));
    }

    /// Detaches the future: it stays without waiters, until it is [abandoned](Self::abandon). For its starter, which leaves
    /// next.
    pub(crate) fn detach(&self) {
        self.state.lock().detached = true;
    }

    /// Drops a future that nothing waits for and that is not detached.
    fn drop_unwanted(&self) {
        let mut state = self.state.lock();
        let future = if state.is_unwanted() { state.take_future() } else { None };
        drop(state);
        drop(future.map(|future| Unwanted { _future: future, _ending: Ending::new(self, Abandonment::Left) }));
    }

    /// Ends the future, which this thread has taken out.
    fn end(&self, progress: Progress<T>) {
        let mut state = self.state.lock();
        debug_assert!(matches!(state.progress, Progress::Polling { .. }), "it ends once");
        let before = std::mem::replace(&mut state.progress, progress);
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        for waiter in waiters {
            wake(Some(waiter.waker));
        }
        drop(before);
    }
}

impl<T> State<T> {
    fn find(&self, id: u64) -> Result<usize, usize> {
        self.waiters.binary_search_by_key(&id, |waiter| waiter.id)
    }

    /// Sets the waker of a waiter, which gets an id if it has none. Returns the waker that it replaces.
    fn set_waker(&mut self, id: &mut Option<u64>, waker: &Waker) -> Option<Waker> {
        let entry = id.and_then(|id| self.find(id).ok()).and_then(|at| self.waiters.get_mut(at));
        if let Some(entry) = entry {
            let is_other = !entry.waker.will_wake(waker);
            return is_other.then(|| std::mem::replace(&mut entry.waker, waker.clone()));
        }
        let new = self.next;
        self.waiters.push(Entry { id: new, waker: waker.clone() });
        self.next += 1;
        *id = Some(new);
        None
    }

    /// The waker of the driver; if it has left, of the waiter that takes its place.
    fn driver_waker(&mut self) -> Option<Waker> {
        let at = self.driver.and_then(|id| self.find(id).ok()).unwrap_or(0);
        let entry = self.waiters.get(at)?;
        self.driver = Some(entry.id);
        Some(entry.waker.clone())
    }

    /// Returns `true` if no waiter is left that the future stays for.
    fn is_unwanted(&self) -> bool {
        !self.detached && self.waiters.is_empty()
    }

    /// Takes the future out, unless it is polled or has ended. As long as this thread has it, waiters find it polled: so they
    /// do not begin another one before this one has been dropped.
    fn take_future(&mut self) -> Option<BoxFuture<T>> {
        if !matches!(self.progress, Progress::Idle { .. }) {
            return None;
        }
        std::mem::replace(&mut self.progress, Progress::Polling { by: thread_id(), woken: false }).into_future()
    }

    /// Takes the future out for a poll on this thread, if there is a reason for one.
    fn take_if_woken(&mut self) -> Option<BoxFuture<T>> {
        if !matches!(self.progress, Progress::Idle { woken: true, .. }) {
            return None;
        }
        self.polls += 1;
        self.take_future()
    }
}

impl<T> Progress<T> {
    const fn has_ended(&self) -> bool {
        matches!(self, Self::Complete(_) | Self::Abandoned(_))
    }

    fn into_future(self) -> Option<BoxFuture<T>> {
        match self {
            Self::Idle { future, .. } => Some(future),
            Self::Polling { .. } | Self::Complete(_) | Self::Abandoned(_) => None,
        }
    }
}

/// Ends a shared future when it is dropped, also by a panic.
struct Ending<'a, T> {
    /// `None` once it is cancelled.
    shared: Option<&'a SharedFuture<T>>,
    progress: Progress<T>,
}

impl<'a, T> Ending<'a, T> {
    fn new(shared: &'a SharedFuture<T>, why: Abandonment) -> Self {
        Self { shared: Some(shared), progress: Progress::Abandoned(why) }
    }

    fn complete(mut self, output: T) {
        self.progress = Progress::Complete(output);
    }

    fn cancel(mut self) {
        self.shared = None;
    }
}

impl<T> Drop for Ending<'_, T> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared {
            shared.end(std::mem::replace(&mut self.progress, Progress::Abandoned(Abandonment::Panicked)));
        }
    }
}

/// A future to drop, and the end after it.
struct Unwanted<'a, T> {
    _future: BoxFuture<T>,
    _ending: Ending<'a, T>,
}

/// The waker of the future. It keeps neither the future nor the output: a reactor may hold a waker without end.
struct FutureWaker<T>(Weak<SharedFuture<T>>);

impl<T: Clone + Send + 'static> Wake for FutureWaker<T> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(shared) = self.0.upgrade() {
            shared.wake();
        }
    }
}

/// Wakes a task. A panic of its waker, which the panic hook has reported, is not ours to pass on.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        contained(|| waker.wake());
    }
}

/// A waiter: a future of the outcome. Dropped before it is ready, it leaves.
#[must_use = "a future does nothing unless it is polled"]
pub(crate) struct Waiter<T: Clone + Send + 'static> {
    shared: Arc<SharedFuture<T>>,
    /// `None` before the first poll and after the last.
    id: Option<u64>,
    /// The caller has begun the future and has not started it.
    begun: bool,
    /// The future was detached before. It is dropped with its last waiter, also if this is never polled.
    attaches: bool,
}

impl<T: Clone + Send + 'static> Waiter<T> {
    /// The shared future, for other waiters.
    pub(crate) fn shared(&self) -> &Arc<SharedFuture<T>> {
        &self.shared
    }

    /// Makes the future and polls it for the first time. For the caller that has [begun](SharedFuture::begin) it; a panic
    /// of `make` or of the poll passes through and abandons it.
    pub(crate) fn start(&mut self, make: impl FnOnce() -> BoxFuture<T>) {
        let future = self.make(make);
        self.shared.state.lock().polls += 1;
        self.shared.poll_future(future, self.id);
    }

    /// Makes the future and leaves it without waiters and not polled yet. It stays: [`SharedFuture::poll_if_woken`] polls
    /// it, and waiters that come. For the caller that has [begun](SharedFuture::begin) it; a panic of `make` passes
    /// through and abandons it.
    pub(crate) fn detach(mut self, make: impl FnOnce() -> BoxFuture<T>) {
        let future = self.make(make);
        let mut state = self.shared.state.lock();
        state.detached = true;
        if let Progress::Polling { woken, .. } = &mut state.progress {
            *woken = true;
        }
        drop(state);
        self.leave();
        self.shared.park(future, None);
    }

    fn make(&mut self, make: impl FnOnce() -> BoxFuture<T>) -> BoxFuture<T> {
        self.begun = false;
        let ending = Ending::new(&self.shared, Abandonment::Panicked);
        let future = make();
        ending.cancel();
        future
    }

    /// Leaves. Returns `true` if that abandoned the future, because it was the last waiter, or because there is no future
    /// yet and this waiter was to make it.
    pub(crate) fn leave(&mut self) -> bool {
        let Some(id) = self.id.take() else { return false };
        // Ends also if the `Drop` of the waker panics.
        let ending = std::mem::take(&mut self.begun).then(|| Ending::new(&*self.shared, Abandonment::Left));
        self.shared.leave(id) || ending.is_some()
    }
}

impl<T: Clone + Send + 'static> Future for Waiter<T> {
    type Output = Joined<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Joined<T>> {
        let this = &mut *self;
        loop {
            let mut state = this.shared.state.lock();
            let joined = match &state.progress {
                Progress::Complete(output) => Joined::Complete(output.clone()),
                Progress::Abandoned(_) => Joined::Abandoned,
                Progress::Polling { by, .. } if *by == thread_id() => Joined::Reentrant,
                Progress::Idle { .. } | Progress::Polling { .. } => {
                    if let Some(before) = state.set_waker(&mut this.id, cx.waker()) {
                        drop(state);
                        // A waker may be all that keeps a task alive, and this task may be a waiter here, or panic when
                        // it is dropped: so neither under the lock nor with the future in hand.
                        drop(before);
                        state = this.shared.state.lock();
                    }
                    let Some(future) = state.take_if_woken() else {
                        // It may have ended while the lock was released.
                        if state.progress.has_ended() {
                            continue;
                        }
                        return Poll::Pending;
                    };
                    drop(state);
                    if this.shared.poll_future(future, this.id) {
                        continue;
                    }
                    return Poll::Pending;
                }
            };
            drop(state);
            if !matches!(joined, Joined::Reentrant) {
                this.id = None; // it has no place in what has ended
            }
            return Poll::Ready(joined);
        }
    }
}

impl<T: Clone + Send + 'static> Drop for Waiter<T> {
    fn drop(&mut self) {
        self.leave();
        if self.attaches {
            self.shared.drop_unwanted();
        }
    }
}
