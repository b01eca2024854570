//! A record, and the part that all faces share: the core with its watch.

use std::fmt;
use std::ops::{ControlFlow, Deref};

use super::charge::Charge;
use super::error::{BuildError, StreamError};
use super::framing::Framing;
use super::records::{Place, RecordStats, Records, Step};
use super::watch::{Deadline, Watch};

/// A record: its bytes, where they stand, and which record it is.
///
/// It is lent by its reader until the next call where `B` is `&[u8]`, and owned where `B` is [`Bytes`](bytes::Bytes). It
/// derefs to its bytes.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, stream::{LineReader, Record}};
///
/// let mut lines = LineReader::builder(ByteSize::kib(4)).build(&b"a\nbee\n"[..])?;
/// lines.next_record()?;
/// let record: Record<&[u8]> = lines.next_record()?.ok_or("there are two")?;
/// assert_eq!((record.offset(), record.number(), record.is_truncated()), (2, 2, false));
/// assert_eq!(record.into_bytes(), b"bee");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Record<B> {
    bytes: B,
    offset: u64,
    number: u64,
    truncated: bool,
}

impl<B> Record<B> {
    #[inline]
    pub(super) const fn new(bytes: B, offset: u64, number: u64, truncated: bool) -> Self {
        Self { bytes, offset, number, truncated }
    }

    /// Gives its bytes, without what tells it from the next.
    #[inline]
    pub fn into_bytes(self) -> B {
        self.bytes
    }

    /// Tells where it begins, in bytes from the start of the whole input.
    #[inline]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Tells its number; the first is 1, and those that are not given out count.
    #[inline]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Tells whether it is only the beginning, under [`Oversize::Truncate`](super::Oversize::Truncate).
    #[inline]
    pub const fn is_truncated(&self) -> bool {
        self.truncated
    }
}

impl<B: Deref<Target = [u8]>> Deref for Record<B> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Record<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl<B: Deref<Target = [u8]>> fmt::Debug for Record<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("offset", &self.offset)
            .field("number", &self.number)
            .field("truncated", &self.truncated)
            .field("bytes", &format_args!("\"{}\"", self.bytes.escape_ascii()))
            .finish()
    }
}

/// What every face drives: the core, watched between records and between pieces.
#[derive(Debug)]
pub(super) struct Cutter<F> {
    records: Records<F>,
    watch: Watch,
}

impl<F: Framing> Cutter<F> {
    /// Whom the buffers are charged to.
    pub(super) fn charge(&self) -> Charge {
        self.records.charge()
    }

    /// Takes the room that the longest record needs.
    pub(super) fn reserve(&mut self) -> Result<(), BuildError> {
        self.records.reserve()
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.watch.deadline()
    }

    pub(super) const fn new(records: Records<F>, watch: Watch) -> Self {
        Self { records, watch }
    }

    /// To be called before each record.
    #[inline]
    pub(super) fn check(&self) -> Result<(), StreamError> {
        if self.watch.expired() { self.expired() } else { Ok(()) }
    }

    /// The next record of `piece`, if that is easily told; else [`step`](Self::step) is to be asked.
    #[inline]
    pub(super) fn quick(&mut self, piece: &[u8]) -> Option<Place> {
        self.records.quick(piece)
    }

    /// All records that are easily told, up to the deadline.
    #[inline]
    pub(super) fn each<B>(
        &mut self,
        piece: &[u8],
        take: impl FnMut(Record<&[u8]>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Self { records, watch } = self;
        records.each(piece, || !watch.expired(), take)
    }

    pub(super) fn step(&mut self, piece: &[u8]) -> Result<Step, StreamError> {
        self.records.step(piece)
    }

    pub(super) fn carried(&self) -> &[u8] {
        self.records.carried()
    }

    /// Done with the piece. The watch comes first: if it says no, or panics, nothing has changed.
    pub(super) fn turn(&mut self, piece: &[u8]) -> Result<(), StreamError> {
        self.watch.passed(self.records.offset(), self.records.next_number());
        self.check()?;
        self.records.turn(piece);
        Ok(())
    }

    pub(super) fn end(&mut self) {
        self.records.end();
    }

    pub(super) fn failed(&self, source: std::io::Error) -> StreamError {
        StreamError::Read { offset: self.records.taken(), number: self.records.next_number(), source }
    }

    pub(super) const fn max(&self) -> usize {
        self.records.max()
    }

    pub(super) fn offset(&self) -> u64 {
        self.records.offset()
    }

    pub(super) fn stats(&self) -> RecordStats {
        RecordStats { deadline_ignored: self.watch.deadline_ignored(), ..self.records.stats() }
    }

    /// Nothing comes too late where nothing comes.
    #[cold]
    fn expired(&self) -> Result<(), StreamError> {
        if self.records.is_done() {
            return Ok(());
        }
        Err(StreamError::Deadline { resume_at: self.records.offset(), number: self.records.next_number() })
    }
}
