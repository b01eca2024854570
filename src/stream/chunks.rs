//! Chunks of one size out of a [`Read`].

use std::io::{self, Read};

use bytes::Bytes;

use crate::size::ByteSize;

use super::builder::StreamBuilder;
use super::charge::Charge;
use super::error::{BuildError, StreamError};
use super::record::Record;
use super::records::Place;
use super::storage::Chunk;
use super::watch::{Deadline, Watch};

/// Hands out a [`Read`] in chunks of one size, the last of which may be shorter, in the memory of one chunk.
///
/// A chunk is lent until the next call, as [`Record`]: its offset and number say which it is. It is filled to its end
/// before it is given out, by as many reads as that takes.
///
/// # Memory
///
/// One chunk, in bytes of heap, allocated when the reader is built.
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::ChunkReader;
///
/// let mut chunks = ChunkReader::builder(ByteSize::bytes(4)).build(&b"0123456789"[..])?;
/// let mut sum = 0_u64;
/// while let Some(chunk) = chunks.next_chunk()? {
///     sum += chunk.iter().map(|byte| u64::from(*byte)).sum::<u64>();
/// }
/// assert_eq!((sum, chunks.offset()), (525, 10));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ChunkReader<R> {
    pub(super) source: ChunkSource<R>,
    chunk: Chunk,
    /// Whether what is in the chunk was given out.
    given: bool,
}

/// What [`StreamBuilder`] builds a [`ChunkReader`] from.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::{ChunkReader, Chunks, StreamBuilder};
///
/// fn settings() -> StreamBuilder<Chunks> {
///     ChunkReader::builder(ByteSize::mib(1)).resume_at(0)
/// }
/// # assert!(settings().build(std::io::empty()).is_ok());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Chunks(());

impl ChunkReader<()> {
    /// Begins a reader of chunks of this size, of which 1 GiB at most counts; 0 is refused.
    pub fn builder(chunk: ByteSize) -> StreamBuilder<Chunks> {
        StreamBuilder::new(Chunks(()), chunk, chunk)
    }
}

impl StreamBuilder<Chunks> {
    /// Builds a reader of chunks over a [`Read`], with one buffer of the size of a chunk.
    ///
    /// # Errors
    ///
    /// [`BuildError`] for a chunk of 0 bytes, and where memory or budget has no room for one.
    pub fn build<R: Read>(self, reader: R) -> Result<ChunkReader<R>, BuildError> {
        let (_, size, offset, charge, watch) = self.parts();
        let chunk = Chunk::new(size, &charge)?;
        let source = ChunkSource { reader, size, charge, watch, offset, number: 0, ended: false };
        Ok(ChunkReader { source, chunk, given: false })
    }
}

impl<R: Read> ChunkReader<R> {
    /// Gives the next chunk; `None` at the end of the input, and ever after.
    ///
    /// # Errors
    ///
    /// [`StreamError::Read`] and [`StreamError::Deadline`]. What was read of the chunk before an error stays, and the
    /// next call goes on. `Interrupted` is no error: it is tried again.
    pub fn next_chunk(&mut self) -> Result<Option<Record<&[u8]>>, StreamError> {
        if std::mem::take(&mut self.given) {
            self.chunk.clear();
        }
        let Some(place) = self.source.fill(&mut self.chunk)? else { return Ok(None) };
        self.given = true;
        Ok(Some(place.record(self.chunk.filled())))
    }

    /// Gives a copy of the next chunk, to keep or to send away; `None` at the end of the input, and ever after.
    ///
    /// # Errors
    ///
    /// As [`next_chunk`](Self::next_chunk).
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, stream::ChunkReader};
    /// let mut parts = ChunkReader::builder(ByteSize::bytes(4)).build(&b"0123456789"[..])?;
    /// let mut sent = Vec::new();
    /// while let Some(part) = parts.next_owned()? {
    ///     sent.push((part.number(), part.into_bytes())); // as to another task
    /// }
    /// assert_eq!(sent.last(), Some(&(3, bytes::Bytes::from("89"))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn next_owned(&mut self) -> Result<Option<Record<Bytes>>, StreamError> {
        let chunk = self.next_chunk()?;
        Ok(chunk.map(|chunk| {
            let (offset, number) = (chunk.offset(), chunk.number());
            Record::new(Bytes::copy_from_slice(chunk.into_bytes()), offset, number, false)
        }))
    }
}

impl<R> ChunkReader<R> {
    /// Tells where the chunk begins that comes next: where to resume.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, stream::ChunkReader};
    /// let mut parts = ChunkReader::builder(ByteSize::bytes(4)).build(&b"0123456789"[..])?;
    /// parts.next_chunk()?;
    /// assert_eq!(parts.offset(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn offset(&self) -> u64 {
        self.source.offset
    }

    /// Tells whether the deadline had passed before the start, and was ignored.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use plimsoll::{ByteSize, stream::ChunkReader};
    /// let parts = ChunkReader::builder(ByteSize::kib(4)).deadline(SystemTime::UNIX_EPOCH).build(std::io::empty())?;
    /// assert!(parts.deadline_ignored()); // an emulator's 1970
    /// # Ok::<(), plimsoll::stream::BuildError>(())
    /// ```
    pub fn deadline_ignored(&self) -> bool {
        self.source.watch.deadline_ignored()
    }

    /// Whether an error stands between the chunk's beginning and its end.
    pub(super) fn has_begun(&self) -> bool {
        !self.given && !self.chunk.filled().is_empty()
    }

    /// Takes the chunk away, for a worker.
    pub(super) fn take_chunk(&mut self) -> Chunk {
        std::mem::replace(&mut self.chunk, Chunk::none())
    }

    /// Lends the input. Bytes read from it are lost to the reader.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, stream::ChunkReader};
    /// let parts = ChunkReader::builder(ByteSize::kib(4)).build(&b"0123"[..])?;
    /// assert_eq!(parts.get_ref().len(), 4);
    /// # Ok::<(), plimsoll::stream::BuildError>(())
    /// ```
    pub const fn get_ref(&self) -> &R {
        &self.source.reader
    }

    /// Gives the input back, and loses a chunk that was begun before an error.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, stream::ChunkReader};
    /// let mut parts = ChunkReader::builder(ByteSize::bytes(4)).build(&b"0123456789"[..])?;
    /// parts.next_chunk()?;
    /// assert_eq!(parts.into_inner(), b"456789");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_inner(self) -> R {
        self.source.reader
    }
}

/// All of a reader of chunks but the chunk.
#[derive(Debug)]
pub(super) struct ChunkSource<R> {
    reader: R,
    pub(super) size: ByteSize,
    pub(super) charge: Charge,
    watch: Watch,
    /// Where the next chunk begins.
    offset: u64,
    /// The last chunk's number.
    number: u64,
    ended: bool,
}

impl<R: Read> ChunkSource<R> {
    /// Fills the chunk and tells which it is; `None` if nothing is left. After an error it may be called again.
    pub(super) fn fill(&mut self, chunk: &mut Chunk) -> Result<Option<Place>, StreamError> {
        let number = self.number + 1;
        if chunk.filled().is_empty() && !self.ended {
            self.watch.passed(self.offset, number);
        }
        while !self.ended && !chunk.is_full() {
            // Before each read, as an input that is slow may never fill the chunk.
            if self.watch.expired() {
                return Err(StreamError::Deadline { resume_at: self.offset, number });
            }
            match chunk.fill_once(&mut self.reader) {
                Ok(read) => self.ended = read == 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.offset.saturating_add(chunk.filled().len() as u64);
                    return Err(StreamError::Read { offset, number, source });
                }
            }
        }
        let end = chunk.filled().len();
        if end == 0 {
            return Ok(None);
        }
        let place = Place { carried: false, start: 0, end, offset: self.offset, number, truncated: false };
        self.offset = self.offset.saturating_add(end as u64);
        self.number = number;
        Ok(Some(place))
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.watch.deadline()
    }

    /// The last chunk's number.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }
}
