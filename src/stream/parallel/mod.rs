//! The same work on many records at once: workers pull into buffers of their own, results leave through one window.
//!
//! There is no reading thread and no channel. A worker takes the turn to read, fills its own buffer, gives the turn
//! away, and works on what it has. Results are handed to the sink by whichever worker has the next ones, in order; one
//! that is ahead puts them aside if the window has room, and else waits. The calling thread is one of the workers.

mod batch;
mod error;
mod window;

use std::error::Error;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fmt, thread};

use crate::size::ByteSize;
use crate::weigh::HeapSize;

use super::chunks::ChunkReader;
use super::error::StreamError;
use super::framing::Framing;
use super::reader::RecordReader;
use super::record::Record;
use super::watch::Deadline;

pub use error::{ParallelError, ParallelReport};

use batch::{Batch, Pull};
use error::{At, Cause};
use window::{Hand, Stopped, Window};

type BoxError = Box<dyn Error + Send + Sync>;

/// Workers that count. More have nothing to do where one at a time reads.
const MAX_WORKERS: usize = 256;

/// Bytes of heap that std may take for a thread.
const THREAD: usize = 4096;

/// Work in parallel on the records of a reader, to be told what to do with [`map`](Self::map).
///
/// # Memory
///
/// Beside the reader's own, in bytes of heap at most:
///
/// ```text
/// records: workers x (batch + max_record + 20 KiB) + window + one result for each worker
/// chunks:  (workers - 1) x chunk                   + window + one result for each worker
/// ```
///
/// and what `map` takes while it runs; chunks that were begun before an error add one. The stacks of the threads are not
/// heap.
///
/// All but the window and the results is taken before the first record is read, `max_record` in full, however short the
/// records are. Where a [limit](crate::heap::set_limit) or the budget refuses a worker's buffers, there is a worker fewer;
/// where it refuses the first's, the run does not start. A run that has started needs no buffer more, so it does not fail
/// for one in its middle.
#[derive(Debug)]
#[must_use = "nothing runs before `for_each_in_order` or `for_each_unordered`"]
pub struct Parallel<S> {
    source: S,
    workers: usize,
    batch: ByteSize,
    window: ByteSize,
}

/// Work that knows what to do with each record; it runs with [`for_each_in_order`](Self::for_each_in_order).
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, stream::ChunkReader};
///
/// let chunks = ChunkReader::builder(ByteSize::bytes(4)).build(&b"0123456789"[..])?;
/// let sums = chunks.into_parallel(2).map(|chunk| Ok::<_, std::io::Error>(chunk.len() as u64));
/// let mut bytes = 0;
/// sums.for_each_in_order(|sum| { bytes += sum; Ok::<(), std::io::Error>(()) })?;
/// assert_eq!(bytes, 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing runs before `for_each_in_order` or `for_each_unordered`"]
pub struct ParallelMap<S, M> {
    parallel: Parallel<S>,
    map: M,
}

impl<S, M> fmt::Debug for ParallelMap<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParallelMap").field("workers", &self.parallel.workers).finish_non_exhaustive()
    }
}

impl<R: Read + Send, F: Framing> RecordReader<R, F> {
    /// Has records worked on by so many threads, the calling one included, 256 at most; 0 is one for each processor that
    /// [`available_parallelism`](thread::available_parallelism) tells of, or one if it tells nothing.
    ///
    /// Records are copied to the workers' buffers, many at a time.
    ///
    /// ```
    /// use plimsoll::ByteSize;
    /// use plimsoll::stream::LineReader;
    ///
    /// let lines = LineReader::builder(ByteSize::kib(64)).build(&b"1\n2\n39"[..])?;
    /// let mut sum = 0;
    /// let report = lines
    ///     .into_parallel(2)
    ///     .map(|line| std::str::from_utf8(&line)?.parse::<u64>().map_err(Box::<dyn std::error::Error + Send + Sync>::from))
    ///     .for_each_in_order(|number| {
    ///         sum += number;
    ///         Ok::<(), std::io::Error>(())
    ///     })?;
    /// assert_eq!((sum, report.records, report.offset), (42, 3, 6));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_parallel(self, workers: usize) -> Parallel<Self> {
        Parallel::new(self, workers)
    }
}

impl<R: Read + Send> ChunkReader<R> {
    /// Has chunks worked on by so many threads, the calling one included, 256 at most; 0 is one for each processor that
    /// [`available_parallelism`](thread::available_parallelism) tells of, or one if it tells nothing.
    ///
    /// Chunks are read into the workers' buffers, and not copied.
    pub fn into_parallel(self, workers: usize) -> Parallel<Self> {
        Parallel::new(self, workers)
    }
}

impl<S> Parallel<S> {
    fn new(source: S, workers: usize) -> Self {
        let processors = || thread::available_parallelism().map_or(1, usize::from);
        let workers = if workers == 0 { processors() } else { workers }.min(MAX_WORKERS);
        Self { source, workers, batch: ByteSize::kib(128), window: ByteSize::mib(1) }
    }

    /// Sets how many bytes of records a worker takes at a time, one record at least. Default: 128 KiB.
    ///
    /// A worker of chunks takes one chunk.
    pub const fn batch(mut self, batch: ByteSize) -> Self {
        self.batch = batch;
        self
    }

    /// Sets how many bytes of results may wait for those before them; with 0 none does, but the one in each worker's
    /// hands. Default: 1 MiB.
    pub const fn window(mut self, window: ByteSize) -> Self {
        self.window = window;
        self
    }

    /// Says what is to be done with each record. It runs on several threads at once.
    ///
    /// A result weighs its own size and what it says to own of the heap: see [`HeapSize`].
    pub fn map<T, E, M>(self, map: M) -> ParallelMap<S, M>
    where
        M: Fn(Record<&[u8]>) -> Result<T, E> + Sync,
        T: HeapSize + Send,
        E: Into<BoxError>,
    {
        ParallelMap { parallel: self, map }
    }
}

impl<S: Pull, M> ParallelMap<S, M> {
    /// Runs, and gives the results to `sink` in the order of their records, one at a time, on whichever thread has them.
    ///
    /// It returns when all is done; no thread outlives it. The first error of the input, of the map or of the sink, and
    /// the first panic in either, stop all: what comes before it in the input was given to the sink, and nothing behind
    /// it was. A thread that cannot be started is done without.
    ///
    /// # Errors
    ///
    /// [`ParallelError`], which tells at which offset, and from where to resume.
    ///
    /// # Panics
    ///
    /// If a result panics as it is dropped after all stopped, unwanted. Panics of the map, the sink and the input are
    /// errors, whatever they throw.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, stream::LineReader};
    ///
    /// let mut first = Vec::new();
    /// let lines = LineReader::builder(ByteSize::kib(64)).build(&b"c\na\nb\n"[..])?;
    /// lines
    ///     .into_parallel(2)
    ///     .map(|line| Ok::<_, std::io::Error>(line[0]))
    ///     .for_each_in_order(|letter| { first.push(letter); Ok::<(), std::io::Error>(()) })?;
    /// assert_eq!(first, b"cab");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn for_each_in_order<T, E, E2>(
        self,
        sink: impl FnMut(T) -> Result<(), E2> + Send,
    ) -> Result<ParallelReport, ParallelError>
    where
        M: Fn(Record<&[u8]>) -> Result<T, E> + Sync,
        T: HeapSize + Send,
        E: Into<BoxError>,
        E2: Into<BoxError>,
    {
        self.run(sink, true)
    }

    /// Runs as [`for_each_in_order`](Self::for_each_in_order), but gives results to `sink` as they come.
    ///
    /// Where it stops at an error, results behind it may have been given out too; `committed` still is the offset before
    /// which all were.
    ///
    /// # Errors
    ///
    /// As [`for_each_in_order`](Self::for_each_in_order).
    ///
    /// # Panics
    ///
    /// As [`for_each_in_order`](Self::for_each_in_order).
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, stream::LineReader};
    ///
    /// let mut bytes = 0;
    /// let lines = LineReader::builder(ByteSize::kib(64)).build(&b"c\na\nb\n"[..])?;
    /// lines
    ///     .into_parallel(2)
    ///     .map(|line| Ok::<_, std::io::Error>(line.len()))
    ///     .for_each_unordered(|len| { bytes += len; Ok::<(), std::io::Error>(()) })?;
    /// assert_eq!(bytes, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn for_each_unordered<T, E, E2>(
        self,
        sink: impl FnMut(T) -> Result<(), E2> + Send,
    ) -> Result<ParallelReport, ParallelError>
    where
        M: Fn(Record<&[u8]>) -> Result<T, E> + Sync,
        T: HeapSize + Send,
        E: Into<BoxError>,
        E2: Into<BoxError>,
    {
        self.run(sink, false)
    }

    fn run<T, E, E2>(
        self,
        mut sink: impl FnMut(T) -> Result<(), E2> + Send,
        ordered: bool,
    ) -> Result<ParallelReport, ParallelError>
    where
        M: Fn(Record<&[u8]>) -> Result<T, E> + Sync,
        T: HeapSize + Send,
        E: Into<BoxError>,
        E2: Into<BoxError>,
    {
        let Self { parallel: Parallel { mut source, workers, batch, window }, map } = self;
        let start = source.offset();
        let first = source.new_batch(batch, true);
        let first = first.map_err(|source| ParallelError::Build { committed: start, source })?;
        // A worker for which there is no buffer, or no thread, is done without. What std takes for a thread it takes or
        // aborts, so that much is left.
        let mut others = Vec::new();
        for _ in 1..workers {
            let mut spare = Vec::<u8>::new();
            if spare.try_reserve_exact((1 + others.len()) * THREAD).is_err() {
                break;
            }
            let Ok(batch) = source.new_batch(batch, false) else { break };
            drop(spare);
            others.push(batch);
        }
        let sink = move |result| sink(result).map_err(Into::into);
        let run = Run {
            deadline: source.deadline(),
            turn: Mutex::new(Turn { source, next: 0, ended: false }),
            window: Window::new(start, window.as_usize(), 1 + others.len(), ordered, sink),
            map: |record: Record<&[u8]>| map(record).map_err(Into::into),
        };
        thread::scope(|scope| {
            for batch in others {
                drop(thread::Builder::new().spawn_scoped(scope, || run.work(batch)));
            }
            run.work(first);
        });
        let Run { turn, window, .. } = run;
        let source = turn.into_inner().unwrap_or_else(PoisonError::into_inner).source;
        match window.end() {
            (committed, _, Some(cause)) => Err(cause.into_error(committed)),
            // Behind the last record there may be some that were passed over.
            (_, records, None) => Ok(ParallelReport { records, offset: source.offset(), stats: source.stats() }),
        }
    }
}

/// What the workers share.
struct Run<S, M, T, K> {
    deadline: Deadline,
    turn: Mutex<Turn<S>>,
    window: Window<T, K>,
    map: M,
}

/// The turn to read.
struct Turn<S> {
    source: S,
    /// The number of the next batch.
    next: u64,
    ended: bool,
}

/// A worker that a panic takes away, as that of a result being dropped, must not leave the others waiting.
struct Lost<'a, T: Send, K: FnMut(T) -> Result<(), BoxError> + Send> {
    window: &'a Window<T, K>,
    /// Whether the worker went of itself.
    left: bool,
}

impl<T: Send, K: FnMut(T) -> Result<(), BoxError> + Send> Drop for Lost<'_, T, K> {
    fn drop(&mut self) {
        if !self.left {
            self.window.lose();
        }
    }
}

/// What a mutex holds, whoever panicked: nothing is left half done under one, but by an input whose panic ends the run.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S, M, T, K> Run<S, M, T, K>
where
    S: Pull,
    M: Fn(Record<&[u8]>) -> Result<T, BoxError> + Sync,
    T: HeapSize + Send,
    K: FnMut(T) -> Result<(), BoxError> + Send,
{
    /// What each thread does until there is nothing left, or all stop.
    fn work(&self, mut batch: Batch) {
        let mut lost = Lost { window: &self.window, left: false };
        while let Some((number, cause)) = self.pull(&mut batch) {
            let mut hand = self.window.hand(number, batch.len());
            let mapped = self.map_all(&batch, &mut hand);
            let finished = mapped.and_then(|failed| self.window.finish(hand, batch.end, failed.or(cause)));
            if finished.is_err() {
                break;
            }
        }
        lost.left = true;
    }

    /// Takes the turn to read, and a number for what it brought. `None` if there is nothing more, or no need of it.
    fn pull(&self, batch: &mut Batch) -> Option<(u64, Option<Cause>)> {
        let turn = &mut *lock(&self.turn);
        if turn.ended || self.window.is_stopping() {
            return None;
        }
        let cause = match catch_unwind(AssertUnwindSafe(|| turn.source.pull(batch))) {
            Ok(pulled) => pulled.err().map(Cause::Read),
            Err(panic) => {
                let stats = turn.source.stats();
                Some(Cause::panic(At { offset: batch.end, number: 1 + stats.records + stats.skipped }, panic))
            }
        };
        turn.ended = cause.is_some() || batch.len() == 0;
        if cause.is_none() && batch.len() == 0 {
            return None;
        }
        let number = turn.next;
        turn.next += 1;
        Some((number, cause))
    }

    /// Works on all records of a batch, up to the first that fails.
    fn map_all(&self, batch: &Batch, hand: &mut Hand<T>) -> Result<Option<Cause>, Stopped> {
        for record in batch.records() {
            let at @ At { offset, number } = At { offset: record.offset(), number: record.number() };
            if self.deadline.expired() {
                return Ok(Some(Cause::Read(StreamError::Deadline { resume_at: offset, number })));
            }
            let mapped = catch_unwind(AssertUnwindSafe(|| {
                let result = (self.map)(record)?;
                let heap = result.heap_size();
                Ok((result, heap))
            }));
            match mapped {
                Ok(Ok((result, heap))) => self.window.take(hand, at, result, heap)?,
                Ok(Err(source)) => return Ok(Some(Cause::Map(at, source))),
                Err(panic) => return Ok(Some(Cause::panic(at, panic))),
            }
        }
        Ok(None)
    }
}
