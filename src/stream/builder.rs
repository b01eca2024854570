//! The settings of all readers.

use std::io::Read;
use std::time::SystemTime;

use crate::budget::Account;
use crate::clock::Clock;
use crate::size::ByteSize;

use super::charge::Charge;
use super::error::BuildError;
use super::framing::Framing;
use super::reader::RecordReader;
use super::record::Cutter;
use super::records::Records;
use super::watch::{Progress, Watch, WatchSettings};

/// What to do with a record longer than the limit. In each case the next good record follows.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::{LineReader, Oversize};
///
/// let input = &b"short\nfar too long\n"[..];
/// let mut lines = LineReader::builder(ByteSize::bytes(7)).oversize(Oversize::Truncate).build(input)?;
/// lines.next_record()?;
/// let cut = lines.next_record()?.ok_or("there are two")?;
/// assert_eq!((&*cut, cut.is_truncated()), (&b"far too"[..], true));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Oversize {
    /// Answer [`StreamError::Oversize`](super::StreamError::Oversize) once, as soon as it is too long: a line without
    /// an end is told of before it ends.
    #[default]
    Error,
    /// Give out its first bytes, as many as the limit has, once its end was seen.
    Truncate,
    /// Pass over it.
    Skip,
}

/// Settings of a reader; `K` is what it gives out. What is not set has the default named with its setter.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
/// use plimsoll::stream::{LineReader, Oversize};
///
/// let budget = MemoryBudget::new(ByteSize::mib(1));
/// let mut lines = LineReader::builder(ByteSize::kib(64)) // the longest line, part of the type of the input
///     .chunk(ByteSize::kib(32))
///     .oversize(Oversize::Skip)
///     .account(budget.account("lines")?)
///     .build(&b"a\nb\n"[..])?;
/// assert!(budget.reserved() >= ByteSize::kib(32)); // its buffers
/// # while lines.next_record()?.is_some() {}
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct StreamBuilder<K> {
    kind: K,
    /// Most bytes of a record.
    max: ByteSize,
    chunk: ByteSize,
    oversize: Oversize,
    resume_at: u64,
    charge: Charge,
    watch: WatchSettings,
}

impl<K> StreamBuilder<K> {
    /// The size of a chunk, if none is set.
    pub(super) const CHUNK: ByteSize = ByteSize::kib(256);

    pub(super) fn new(kind: K, max: ByteSize, chunk: ByteSize) -> Self {
        let (oversize, charge, watch) = (Oversize::Error, Charge::default(), WatchSettings::default());
        Self { kind, max, chunk, oversize, resume_at: 0, charge, watch }
    }

    /// Says that the input begins at this byte of the whole, as the answer to a range request does. Default: 0.
    ///
    /// Offsets then count from the start of the whole. Give it what [`StreamError::Deadline`](super::StreamError) or
    /// `offset()` told: the start of a record. Numbers begin with 1 again.
    pub const fn resume_at(mut self, offset: u64) -> Self {
        self.resume_at = offset;
        self
    }

    /// Charges the reader's buffers to an account, which reserves before they are made and grow. Default: none.
    ///
    /// Where the budget refuses, that is an error that says who holds the rest. While its pressure is not calm, chunks
    /// are a quarter of their size, but 4 KiB at least; with calm they grow back. The buffers of
    /// [`Parallel`](super::Parallel) are charged too; what its workers make of them is not. Costs two loads for each
    /// chunk.
    pub fn account(mut self, account: Account) -> Self {
        self.charge = Charge::to(account);
        self
    }

    /// Stops between records, or while one is passed over, once this moment has come. Default: never.
    ///
    /// A moment that has passed when the reader is built is ignored, which
    /// [`deadline_ignored`](super::RecordStats::deadline_ignored) tells: local emulators of Lambda send the year 1970.
    /// Costs a reading of the coarse clock for each record, about 10 ns; good to
    /// [`RESOLUTION`](crate::clock::RESOLUTION). A `read` that blocks is not interrupted.
    pub const fn deadline(mut self, deadline: SystemTime) -> Self {
        self.watch.deadline = Some(deadline);
        self
    }

    /// Sets the clock that the deadline is read from. Default: the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.watch.clock = clock;
        self
    }

    /// Has a function called whenever `every` bytes more were passed, before the next chunk is read; 0 counts as 1.
    ///
    /// So it is called once for each chunk at most, and not for the last bytes of the input. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use plimsoll::ByteSize;
    /// use plimsoll::stream::LineReader;
    ///
    /// static SEEN: AtomicU64 = AtomicU64::new(0);
    /// let input = "a line of text\n".repeat(10_000);
    /// let mut lines = LineReader::builder(ByteSize::kib(1))
    ///     .chunk(ByteSize::kib(16))
    ///     .on_progress(ByteSize::kib(64), |progress| SEEN.store(progress.offset, Ordering::Relaxed))
    ///     .build(input.as_bytes())?;
    /// while lines.next_record()?.is_some() {}
    /// assert!(SEEN.load(Ordering::Relaxed) >= 65_536);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_progress(mut self, every: ByteSize, listener: impl FnMut(Progress) + Send + 'static) -> Self {
        self.watch.progress = Some((every, Box::new(listener)));
        self
    }

    pub(super) fn parts(self) -> (K, ByteSize, u64, Charge, Watch) {
        let watch = Watch::new(self.watch, self.resume_at);
        (self.kind, self.chunk, self.resume_at, self.charge, watch)
    }
}

impl<F: Framing> StreamBuilder<F> {
    /// Sets what happens to a record longer than the limit. Default: [`Oversize::Error`].
    pub const fn oversize(mut self, oversize: Oversize) -> Self {
        self.oversize = oversize;
        self
    }

    /// Sets how much is read at a time; 1 GiB of it at most counts, and building refuses 0. Default: 256 KiB.
    ///
    /// A reader over a stream of `Bytes` has no chunk of its own, and does not ask.
    pub const fn chunk(mut self, chunk: ByteSize) -> Self {
        self.chunk = chunk;
        self
    }

    /// Builds a reader of records over a [`Read`], with one buffer of the size of a chunk.
    ///
    /// # Errors
    ///
    /// [`BuildError`] for a chunk of 0 bytes, and where memory or budget has no room for the buffers.
    pub fn build<R: Read>(self, reader: R) -> Result<RecordReader<R, F>, BuildError> {
        let chunk = self.chunk;
        RecordReader::new(reader, self.cutter()?, chunk)
    }

    /// Builds a reader of records over an [`AsyncRead`](tokio::io::AsyncRead), with one buffer of the size of a chunk.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    #[cfg(feature = "tokio")]
    pub fn build_async<R: tokio::io::AsyncRead + Unpin>(
        self,
        reader: R,
    ) -> Result<super::AsyncRecordReader<R, F>, BuildError> {
        let chunk = self.chunk;
        super::AsyncRecordReader::new(reader, self.cutter()?, chunk)
    }

    /// Builds a reader of records over a stream of [`Bytes`](bytes::Bytes), which needs no buffer for chunks.
    ///
    /// # Errors
    ///
    /// [`BuildError`] where memory or budget has no room for the ends of records.
    #[cfg(feature = "tokio")]
    pub fn build_stream<S, E>(self, stream: S) -> Result<super::RecordStream<S, F>, BuildError>
    where
        S: futures_core::Stream<Item = Result<bytes::Bytes, E>> + Unpin,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Ok(super::RecordStream::new(stream, self.cutter()?))
    }

    pub(super) fn cutter(self) -> Result<Cutter<F>, BuildError> {
        let (max, oversize) = (self.max, self.oversize);
        let (framing, _, offset, charge, watch) = self.parts();
        Ok(Cutter::new(Records::new(framing, max, oversize, offset, &charge)?, watch))
    }
}
