//! Where results leave: in order, one at a time, with a bounded number of bytes waiting.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};

use super::error::{At, Cause};
use super::{BoxError, lock};

/// Results on their way to the sink.
///
/// A worker holds the results of its batch in its hand, up to `share`. When the batch is done, they go to the sink if it
/// is their turn, are put aside if there is room, and wait in the hand if not. A hand that is full before its batch is
/// done waits for its turn, and from then on each result goes straight to the sink. The batch whose turn it is never
/// waits, so all others' turns come.
pub(super) struct Window<T, K> {
    state: Mutex<State<T>>,
    /// The state changed: the turn went on, or all stop.
    changed: Condvar,
    /// Whether no more is to be pulled.
    stopping: AtomicBool,
    sink: Mutex<Sink<K>>,
    ordered: bool,
    /// Bytes in one hand.
    share: usize,
    /// Bytes put aside.
    room: usize,
}

struct Sink<K> {
    call: K,
    /// Whether it failed: then it is not called again.
    failed: bool,
}

struct State<T> {
    /// The batch whose turn it is: all before it are done.
    turn: u64,
    /// Batches that are done, but not those before them: those behind `turn`, in order, and `None` where one is not done.
    aside: VecDeque<Option<Done<T>>>,
    aside_bytes: usize,
    /// The offset before which all results were given to the sink.
    committed: u64,
    records: u64,
    /// Why all stopped.
    cause: Option<Cause>,
    /// Whether a worker was lost to a panic outside of map and sink, as in the drop of a result.
    lost: bool,
}

impl<T> State<T> {
    /// Where a batch behind `turn` is put aside; `None` where there is no memory for that.
    fn place(&mut self, batch: u64) -> Option<&mut Option<Done<T>>> {
        let index = usize::try_from(batch - self.turn - 1).ok()?;
        let missing = (index + 1).saturating_sub(self.aside.len());
        self.aside.try_reserve(missing).ok()?;
        self.aside.extend((0..missing).map(|_| None));
        self.aside.get_mut(index)
    }
}

struct Done<T> {
    results: Vec<(At, T)>,
    bytes: usize,
    end: u64,
    cause: Option<Cause>,
}

impl<T> Done<T> {
    /// Bytes of its place aside: the queue doubles when it grows.
    const ENTRY: usize = 2 * size_of::<Option<Self>>();
}

/// The results of one batch, as long as they are with their worker.
pub(super) struct Hand<T> {
    batch: u64,
    /// Never grows past its first capacity.
    results: Vec<(At, T)>,
    bytes: usize,
    /// Whether it is this batch's turn.
    turn: bool,
}

/// All stop: the results in hand are not wanted.
#[derive(Debug)]
pub(super) struct Stopped;

impl<T: Send, K: FnMut(T) -> Result<(), BoxError> + Send> Window<T, K> {
    /// Half of `bytes` is for the hands of all workers, half for what is put aside.
    pub(super) fn new(start: u64, bytes: usize, workers: usize, ordered: bool, sink: K) -> Self {
        let aside = VecDeque::new();
        let state = State { turn: 0, aside, aside_bytes: 0, committed: start, records: 0, cause: None, lost: false };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            sink: Mutex::new(Sink { call: sink, failed: false }),
            ordered,
            share: bytes / 2 / workers.max(1),
            room: bytes / 2,
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// An empty hand for a batch of so many records.
    pub(super) fn hand(&self, batch: u64, records: usize) -> Hand<T> {
        let capacity = records.min(self.share / size_of::<(At, T)>().max(1));
        let mut results = Vec::new();
        // Without room for any, each result waits for its turn.
        let bytes = match results.try_reserve_exact(capacity) {
            Ok(()) => capacity.saturating_mul(size_of::<(At, T)>()),
            Err(_) => 0,
        };
        Hand { batch, bytes, results, turn: false }
    }

    /// Takes a result that owns so many bytes of heap.
    pub(super) fn take(&self, hand: &mut Hand<T>, at: At, result: T, heap: usize) -> Result<(), Stopped> {
        if hand.turn {
            return self.give(at, result).map_err(|cause| self.stop(hand.batch, cause));
        }
        let bytes = hand.bytes.saturating_add(heap);
        if bytes <= self.share && hand.results.len() < hand.results.capacity() {
            hand.bytes = bytes;
            hand.results.push((at, result));
            return Ok(());
        }
        if self.ordered {
            self.wait(hand.batch)?;
            hand.turn = true;
        }
        hand.bytes = 0;
        self.give_all(hand.results.drain(..)).map_err(|cause| self.stop(hand.batch, cause))?;
        self.give(at, result).map_err(|cause| self.stop(hand.batch, cause))
    }

    /// Takes the end of a batch, behind which the record at `end` comes.
    pub(super) fn finish(&self, mut hand: Hand<T>, end: u64, cause: Option<Cause>) -> Result<(), Stopped> {
        if cause.is_some() {
            self.stopping.store(true, Relaxed);
        }
        let batch = hand.batch;
        if !self.ordered {
            let results = std::mem::take(&mut hand.results);
            self.give_all(results).map_err(|cause| self.stop(batch, cause))?;
            hand.bytes = 0;
        }
        let done = Done { results: hand.results, bytes: hand.bytes.saturating_add(Done::<T>::ENTRY), end, cause };
        let mut state = lock(&self.state);
        loop {
            if state.cause.is_some() || state.lost {
                return Err(Stopped);
            }
            if state.turn == batch {
                break;
            }
            let bytes = state.aside_bytes.saturating_add(done.bytes);
            if bytes <= self.room
                && let Some(place) = state.place(batch)
            {
                *place = Some(done);
                state.aside_bytes = bytes;
                return Ok(());
            }
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        drop(state);
        self.commit(batch, done)
    }

    /// Ends the batch whose turn it is, and those behind it that wait for nothing else.
    fn commit(&self, mut batch: u64, mut done: Done<T>) -> Result<(), Stopped> {
        loop {
            self.give_all(done.results).map_err(|cause| self.stop(batch, cause))?;
            if let Some(cause) = done.cause {
                let mut state = lock(&self.state);
                state.committed = cause.offset(done.end);
                drop(state);
                return Err(self.stop(batch, cause));
            }
            batch += 1;
            let mut state = lock(&self.state);
            state.committed = done.end;
            state.turn = batch;
            self.changed.notify_all();
            match state.aside.pop_front().flatten() {
                Some(next) => {
                    state.aside_bytes -= next.bytes;
                    done = next;
                }
                None => return Ok(()),
            }
        }
    }

    /// Waits for the turn of a batch.
    fn wait(&self, batch: u64) -> Result<(), Stopped> {
        let mut state = lock(&self.state);
        while state.turn != batch {
            if state.cause.is_some() || state.lost {
                return Err(Stopped);
            }
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        Ok(())
    }

    fn give_all(&self, results: impl IntoIterator<Item = (At, T)>) -> Result<(), Option<Cause>> {
        results.into_iter().try_for_each(|(at, result)| self.give(at, result))
    }

    /// Gives a result to the sink. An error without a cause: all stop for another's, and the result is dropped.
    fn give(&self, at: At, result: T) -> Result<(), Option<Cause>> {
        let sink = &mut *lock(&self.sink);
        // In any order a sink that failed on one worker is not called by the next, nor is one when all stop. The worker
        // it failed on may have yet to say so, and what was not given must not be committed meanwhile.
        if sink.failed || (!self.ordered && lock(&self.state).cause.is_some()) {
            return Err(None);
        }
        let taken = catch_unwind(AssertUnwindSafe(|| (sink.call)(result)));
        // Known before the next worker gets here.
        sink.failed = !matches!(taken, Ok(Ok(())));
        let cause = match taken {
            Ok(Ok(())) => {
                lock(&self.state).records += 1;
                return Ok(());
            }
            Ok(Err(source)) => Cause::Sink(at, source),
            Err(panic) => Cause::panic(at, panic),
        };
        Err(Some(cause))
    }

    /// Has all stop, unless another does. In order it is the turn of `batch`, so that the cause is the first in the input.
    fn stop(&self, batch: u64, cause: impl Into<Option<Cause>>) -> Stopped {
        self.stopping.store(true, Relaxed);
        let Some(cause) = cause.into() else { return Stopped };
        let mut state = lock(&self.state);
        if state.cause.is_none() {
            if let (true, Cause::Sink(at, _) | Cause::Panic(at, _) | Cause::Map(at, _)) = (state.turn == batch, &cause)
            {
                state.committed = at.offset;
            }
            state.cause = Some(cause);
        }
        self.changed.notify_all();
        Stopped
    }

    /// A worker is lost: nobody is to wait for it.
    pub(super) fn lose(&self) {
        self.stopping.store(true, Relaxed);
        lock(&self.state).lost = true;
        self.changed.notify_all();
    }

    /// How it ended: offset and results committed, and why no more.
    pub(super) fn end(self) -> (u64, u64, Option<Cause>) {
        let state = self.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        (state.committed, state.records, state.cause)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A window of which the second of two workers waits for the turn of the first.
    fn waited(meanwhile: impl FnOnce(&Window<u8, fn(u8) -> Result<(), BoxError>>)) -> bool {
        let window = Window::new(0, 0, 2, true, (|_| Ok(())) as fn(u8) -> Result<(), BoxError>);
        thread::scope(|scope| {
            let second = scope.spawn(|| window.take(&mut window.hand(1, 1), At { offset: 9, number: 2 }, 7, 0).is_ok());
            meanwhile(&window);
            second.join().unwrap()
        })
    }

    #[test]
    fn a_worker_whose_turn_comes_goes_on() {
        assert!(waited(|window| window.finish(window.hand(0, 1), 9, None).unwrap()));
    }

    #[test]
    fn nobody_waits_for_a_worker_that_is_lost() {
        assert!(!waited(Window::lose));
    }

    #[test]
    fn what_a_failed_sink_did_not_get_is_not_committed_before_the_failure_is_said() {
        let sink = |_| Err("no".into());
        let window: Window<u8, _> = Window::new(0, 1 << 10, 2, false, sink);
        let at = |offset| At { offset, number: 1 + offset };
        // The second batch's worker has seen the sink fail, and is not yet heard.
        let failed = window.give(at(1), 7);
        let mut first = window.hand(0, 1);
        window.take(&mut first, at(0), 7, 0).unwrap();
        assert!(window.finish(first, 1, None).is_err());
        let Err(Some(cause)) = failed else { panic!("the sink has failed") };
        window.stop(1, cause);
        assert!(matches!(window.end(), (0, 0, Some(Cause::Sink(At { offset: 1, .. }, _)))));
    }
}
