//! A record, and the part that all faces share: the core with its watch.

use std::fmt;
use std::ops::Deref;

use super::error::StreamError;
use super::framing::Framing;
use super::records::{Place, RecordStats, Records, Step};
use super::watch::Watch;

/// A record, lent by its reader until the next call. It derefs to its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    bytes: &'a [u8],
    offset: u64,
    number: u64,
    truncated: bool,
}

impl<'a> Record<'a> {
    pub(super) const fn new(bytes: &'a [u8], offset: u64, number: u64, truncated: bool) -> Self {
        Self { bytes, offset, number, truncated }
    }

    /// Gives its bytes, without what tells it from the next.
    #[inline]
    pub const fn bytes(&self) -> &'a [u8] {
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

impl Deref for Record<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl AsRef<[u8]> for Record<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

impl fmt::Debug for Record<'_> {
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
    pub(super) const fn new(records: Records<F>, watch: Watch) -> Self {
        Self { records, watch }
    }

    /// To be called before each record.
    #[inline]
    pub(super) fn check(&self) -> Result<(), StreamError> {
        if self.watch.expired() { Err(self.expired()) } else { Ok(()) }
    }

    #[inline]
    pub(super) fn step(&mut self, piece: &[u8]) -> Result<Step, StreamError> {
        self.records.step(piece)
    }

    #[inline]
    pub(super) fn record<'a>(&'a self, piece: &'a [u8], place: &Place) -> Record<'a> {
        Record::new(self.records.bytes(piece, place), place.offset, place.number, place.truncated)
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

    pub(super) fn offset(&self) -> u64 {
        self.records.offset()
    }

    pub(super) fn stats(&self) -> RecordStats {
        RecordStats { deadline_ignored: self.watch.deadline_ignored(), ..self.records.stats() }
    }

    #[cold]
    fn expired(&self) -> StreamError {
        StreamError::Deadline { resume_at: self.records.offset(), number: self.records.next_number() }
    }
}
