//! Threads that wait until another thread has loaded, and the search for waits that would never end.

use std::sync::PoisonError;

use crate::sync::{Condvar, Mutex, ThreadId, thread_id};

/// The outcome of a load that one thread, the leader, runs, and that other threads block for.
pub(crate) struct Latch<T> {
    leader: ThreadId,
    state: Mutex<State<T>>,
    opened: Condvar,
}

enum State<T> {
    Closed,
    /// `None`: the load ended without an outcome, by a panic.
    Open(Option<T>),
}

/// The wait would never end: the load waits, directly or through loads of other threads, for the calling thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WouldDeadlock;

impl<T> Latch<T> {
    /// Creates a closed latch. `leader` is the thread that will open it.
    pub(crate) fn closed(leader: ThreadId) -> Self {
        Self { leader, state: Mutex::new(State::Closed), opened: Condvar::new() }
    }

    /// Sets the outcome and wakes the waiters. `None`: there is no outcome, and each waiter loads again.
    pub(crate) fn open(&self, outcome: Option<T>) {
        let mut state = self.state.lock();
        WAITS.remove(self.address());
        let before = std::mem::replace(&mut *state, State::Open(outcome));
        drop(state);
        self.opened.notify_all();
        drop(before);
    }

    /// Blocks until the latch is open, and returns the outcome.
    ///
    /// # Errors
    ///
    /// [`WouldDeadlock`], at once, if the leader waits for this thread.
    pub(crate) fn wait(&self) -> Result<Option<T>, WouldDeadlock>
    where
        T: Clone,
    {
        let mut state = self.state.lock();
        if matches!(*state, State::Closed) {
            // Under the lock of the latch, so that `open` removes the wait.
            WAITS.add(Wait { waiter: thread_id(), leader: self.leader, latch: self.address() })?;
        }
        loop {
            match &*state {
                State::Open(outcome) => return Ok(outcome.clone()),
                State::Closed => self.opened.wait(&mut state),
            }
        }
    }

    /// Returns the number of threads that are blocked here.
    pub(crate) fn waiting(&self) -> usize {
        WAITS.count(self.address())
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// A thread that is blocked until another thread opens a latch.
#[derive(Clone, Copy)]
struct Wait {
    waiter: ThreadId,
    leader: ThreadId,
    latch: usize,
}

/// All waits of the process. A thread waits for at most one latch, so they form chains, and a deadlock is a ring.
///
/// Not of `crate::sync`: no operation that loom must order happens while this lock is held.
struct Waits(std::sync::Mutex<Vec<Wait>>);

static WAITS: Waits = Waits(std::sync::Mutex::new(Vec::new()));

impl Waits {
    fn add(&self, wait: Wait) -> Result<(), WouldDeadlock> {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Each step follows another wait, so there are no more steps than waits.
        let mut leader = wait.leader;
        for _ in 0..=waits.len() {
            if leader == wait.waiter {
                return Err(WouldDeadlock);
            }
            match waits.iter().find(|other| other.waiter == leader) {
                Some(next) => leader = next.leader,
                None => break,
            }
        }
        waits.push(wait);
        Ok(())
    }

    fn count(&self, latch: usize) -> usize {
        let waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waits.iter().filter(|wait| wait.latch == latch).count()
    }

    fn remove(&self, latch: usize) {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waits.retain(|wait| wait.latch != latch);
        if waits.is_empty() {
            // Nothing stays allocated after the last wait.
            *waits = Vec::new();
        }
    }
}
