//! Records out of a [`Read`].

use std::io::Read;

use crate::size::ByteSize;

use super::builder::StreamBuilder;
use super::error::{BuildError, StreamError};
use super::framing::{Framing, Lines};
use super::record::{Cutter, Record};
use super::records::{RecordStats, Step};
use super::storage::Chunk;

/// Lines out of a [`Read`]; see [`RecordReader`].
pub type LineReader<R> = RecordReader<R, Lines>;

/// Hands out the records of a [`Read`], each of a bounded length, in memory that does not depend on the input.
///
/// A record is lent: it lies in the reader's buffer until the next call. What to keep of it is the caller's choice, and
/// copying is how.
///
/// # Memory
///
/// ```text
/// chunk + max_record + delimiter + 4 KiB
/// ```
///
/// in bytes of heap at most, whatever the input: `delimiter` is 1 for lines and the delimiter's length less 1 for
/// others. Chunk and 4 KiB are allocated when the reader is built, the rest as records go over the end of a chunk. What
/// the input `R` holds is not counted: a [`File`](std::fs::File) holds nothing; a `BufReader` around it is one more
/// chunk, and no use.
///
/// # Cost
///
/// One `read` for each chunk. A record in the middle of a chunk is not copied; one that goes over its end is, once.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::{LineReader, Oversize};
///
/// let input: &[u8] = b"short\nfar too long for us\r\nlast";
/// let mut lines = LineReader::builder(ByteSize::bytes(8)).oversize(Oversize::Skip).build(input)?;
/// while let Some(line) = lines.next_record()? {
///     println!("line {} at byte {}: {:?}", line.number(), line.offset(), line.bytes());
/// }
/// assert_eq!((lines.stats().records, lines.stats().skipped), (2, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RecordReader<R, F> {
    input: R,
    cutter: Cutter<F>,
    chunk: Chunk,
}

impl RecordReader<(), Lines> {
    /// Begins a reader of lines of at most `max_record` bytes, LF and CRLF not counted; with 0, of empty lines alone.
    pub fn builder(max_record: ByteSize) -> StreamBuilder<Lines> {
        Self::framed(Lines, max_record)
    }
}

impl<F: Framing> RecordReader<(), F> {
    /// Begins a reader of records told apart by `framing`, of at most `max_record` bytes; with 0, of empty ones alone.
    ///
    /// ```
    /// use plimsoll::ByteSize;
    /// use plimsoll::stream::{LengthPrefix, RecordReader};
    ///
    /// let input: &[u8] = b"\0\0\0\x03one\0\0\0\x05three";
    /// let mut records = RecordReader::framed(LengthPrefix::big_endian(), ByteSize::kib(64)).build(input)?;
    /// assert_eq!(records.next_record()?.as_deref(), Some(&b"one"[..]));
    /// assert_eq!(records.next_record()?.as_deref(), Some(&b"three"[..]));
    /// assert_eq!(records.next_record()?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn framed(framing: F, max_record: ByteSize) -> StreamBuilder<F> {
        StreamBuilder::new(framing, max_record, ByteSize::kib(256))
    }
}

impl<R: Read, F: Framing> RecordReader<R, F> {
    pub(super) fn new(input: R, cutter: Cutter<F>, chunk: ByteSize) -> Result<Self, BuildError> {
        Ok(Self { input, cutter, chunk: Chunk::new(chunk)? })
    }

    /// Gives the next record; `None` at the end of the input, and ever after.
    ///
    /// # Errors
    ///
    /// [`StreamError`]; after each of them the next call goes on. `Interrupted` is none of them: it is tried again.
    #[inline]
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, StreamError> {
        self.cutter.check()?;
        loop {
            match self.cutter.step(self.chunk.filled())? {
                Step::Record(place) => return Ok(Some(self.cutter.record(self.chunk.filled(), &place))),
                Step::More => self.fill()?,
                Step::End => return Ok(None),
            }
        }
    }

    #[inline(never)]
    fn fill(&mut self) -> Result<(), StreamError> {
        self.cutter.turn(self.chunk.filled())?;
        self.chunk.clear();
        match self.chunk.fill_once(&mut self.input) {
            Ok(0) => self.cutter.end(),
            Ok(_) => {}
            Err(source) => return Err(self.cutter.failed(source)),
        }
        Ok(())
    }
}

impl<R, F: Framing> RecordReader<R, F> {
    /// Tells where the record begins that comes next: where to resume. All before it was given out, or dropped.
    pub fn offset(&self) -> u64 {
        self.cutter.offset()
    }

    /// Tells what was given out and what was not.
    pub fn stats(&self) -> RecordStats {
        self.cutter.stats()
    }

    /// Lends the input, as to ask how far a decoder has come. Bytes read from it are lost to the reader.
    pub const fn get_ref(&self) -> &R {
        &self.input
    }

    /// Gives the input back; what was read from it and not handed out is lost.
    pub fn into_inner(self) -> R {
        self.input
    }
}
