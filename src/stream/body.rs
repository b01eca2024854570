//! Records out of what is asynchronous: an [`AsyncRead`], or a stream of [`Bytes`].

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use tokio::io::AsyncRead;

use crate::size::ByteSize;

use super::driver::{Driver, Input};
use super::error::{BuildError, StreamError};
use super::framing::{Framing, Lines};
use super::record::{Cutter, Record};
use super::records::RecordStats;
use super::storage::{Chunk, MAX_CHUNK};

/// Hands out the records of an [`AsyncRead`]: the asynchronous twin of [`RecordReader`](super::RecordReader), with the
/// same memory, limits and errors.
///
/// Its futures can be dropped at any await, as by `select!` or a timeout: nothing is lost.
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::LineReader;
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let mut lines = LineReader::builder(ByteSize::kib(64)).build_async(&b"one\ntwo"[..])?;
/// while let Some(line) = lines.next_record().await? {
///     println!("{}: {}", line.number(), line.escape_ascii());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct AsyncRecordReader<R, F>(Driver<Asynchronous<R>, F>);

/// Hands out the records of a stream of [`Bytes`], as bodies and object stores have them, without copying those that lie
/// whole in an item.
///
/// Any `Stream<Item = Result<Bytes, E>> + Unpin` will do; one that is not `Unpin` is pinned with `Box::pin`. Its futures
/// can be dropped at any await.
///
/// | what there is | as a stream |
/// |---|---|
/// | `GetResult` of `object_store` | `result.into_stream()` |
/// | `Incoming` of `hyper`, or any other `http_body::Body` | `http_body_util::BodyDataStream::new(body)` |
/// | `Body` of `axum` | `body.into_data_stream()` |
/// | `ByteStream` of the AWS SDK | `futures_util::stream::poll_fn(move \|cx\| Pin::new(&mut body).poll_next(cx))` |
///
/// Compressed bodies go another way: see `GzipReader` (feature `gzip`).
///
/// # Memory
///
/// ```text
/// max_record + 2 x delimiter + 4 KiB
/// ```
///
/// in bytes of heap at most, as for [`RecordReader`](super::RecordReader), beside the one item at hand, which belongs to
/// the stream. Records that are kept with [`next_owned`](Self::next_owned) are not counted.
///
/// ```
/// # use std::collections::VecDeque;
/// # use std::pin::Pin;
/// # use std::task::{Context, Poll};
/// use bytes::Bytes;
/// use plimsoll::ByteSize;
/// use plimsoll::stream::LineReader;
///
/// # struct Body(VecDeque<Bytes>);
/// # impl futures_core::Stream for Body {
/// #     type Item = std::io::Result<Bytes>;
/// #     fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
/// #         Poll::Ready(self.0.pop_front().map(Ok))
/// #     }
/// # }
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let body = Body([Bytes::from("one\ntw"), Bytes::from("o\nthree")].into());
/// let mut lines = LineReader::builder(ByteSize::kib(64)).build_stream(body)?;
/// while let Some(line) = lines.next_record().await? {
///     println!("{}: {}", line.number(), line.escape_ascii());
/// }
/// assert_eq!(lines.stats().records, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RecordStream<S, F>(Driver<Items<S>, F>);

/// Lines out of an [`AsyncRead`]; see [`AsyncRecordReader`].
pub type AsyncLineReader<R> = AsyncRecordReader<R, Lines>;

/// Lines out of a stream of [`Bytes`]; see [`RecordStream`].
pub type LineStream<S> = RecordStream<S, Lines>;

/// An `AsyncRead` with the chunk it is read into.
#[derive(Debug)]
struct Asynchronous<R> {
    reader: R,
    chunk: Chunk,
}

/// A stream of `Bytes` with the item at hand.
#[derive(Debug)]
struct Items<S> {
    stream: S,
    item: Bytes,
    /// What follows of an item too large to be one piece.
    rest: Bytes,
    /// Whether the stream has ended: it is not polled again.
    ended: bool,
    /// Whether what it gave last was an error. If it then ends, it broke off.
    failed: bool,
}

impl<R: AsyncRead + Unpin> Input for Asynchronous<R> {
    const ASKED_AGAIN: bool = true;

    fn piece(&self) -> &[u8] {
        self.chunk.filled()
    }

    #[inline]
    fn all(&self) -> &[u8] {
        self.chunk.all()
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.chunk.clear();
        self.chunk.poll_fill(Pin::new(&mut self.reader), context)
    }
}

impl<S, E> Input for Items<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    /// The error may be all that tells of the bytes lost.
    const ASKED_AGAIN: bool = false;

    #[inline]
    fn piece(&self) -> &[u8] {
        &self.item
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The item goes before the next is asked for, so that there is never more than one.
        self.item = std::mem::take(&mut self.rest);
        while self.item.is_empty() && !self.ended {
            match ready!(Pin::new(&mut self.stream).poll_next(context)) {
                Some(Ok(item)) => (self.item, self.failed) = (item, false),
                Some(Err(error)) => {
                    self.failed = true;
                    return Poll::Ready(Err(into_io(error)));
                }
                None => self.ended = true,
            }
        }
        if self.ended && self.failed {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended with an error")));
        }
        if self.item.len() > MAX_CHUNK.as_usize() {
            self.rest = self.item.split_off(MAX_CHUNK.as_usize());
        }
        Poll::Ready(Ok(()))
    }
}

/// An `io::Error` as it is, and every other error inside of one.
fn into_io(error: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    error.into().downcast::<io::Error>().map_or_else(io::Error::other, |error| *error)
}

impl<R: AsyncRead + Unpin, F: Framing> AsyncRecordReader<R, F> {
    pub(super) fn new(reader: R, cutter: Cutter<F>, chunk: ByteSize) -> Result<Self, BuildError> {
        let chunk = Chunk::new(chunk, &cutter.charge())?;
        Ok(Self(Driver::new(Asynchronous { reader, chunk }, cutter)))
    }

    /// Gives the next record; `None` at the end of the input, and ever after.
    ///
    /// # Errors
    ///
    /// [`StreamError`]; after each of them the next call goes on. `Interrupted` is none of them: it is tried again.
    #[inline]
    pub async fn next_record(&mut self) -> Result<Option<Record<&[u8]>>, StreamError> {
        if let Some(place) = self.0.quick()? {
            return Ok(Some(self.0.here(&place)));
        }
        let place = poll_fn(|context| self.0.poll(context)).await?;
        Ok(place.map(|place| self.0.record(&place)))
    }
}

impl<S, E, F> RecordStream<S, F>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<Box<dyn Error + Send + Sync>>,
    F: Framing,
{
    pub(super) const fn new(stream: S, cutter: Cutter<F>) -> Self {
        Self(Driver::new(Items { stream, item: Bytes::new(), rest: Bytes::new(), ended: false, failed: false }, cutter))
    }

    /// Gives the next record, lent from the item it lies in; `None` at the end of the stream, and ever after.
    ///
    /// # Errors
    ///
    /// [`StreamError`]; after each of them the next call goes on, if the stream does.
    #[inline]
    pub async fn next_record(&mut self) -> Result<Option<Record<&[u8]>>, StreamError> {
        if let Some(place) = self.0.quick()? {
            return Ok(Some(self.0.here(&place)));
        }
        let place = poll_fn(|context| self.0.poll(context)).await?;
        Ok(place.map(|place| self.0.record(&place)))
    }

    /// Gives the next record to keep; `None` at the end of the stream, and ever after.
    ///
    /// A record that lies whole in an item is a slice of it, which costs a reference count and **keeps the whole item
    /// alive**: 12,878 lines of 8.8 MB in all, kept out of a gigabyte in items of 64 KiB, held 539 MiB. To keep few
    /// records for long, copy them out of [`next_record`](Self::next_record). One that came in two items is a copy.
    ///
    /// # Errors
    ///
    /// As [`next_record`](Self::next_record).
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::ByteSize;
    /// use plimsoll::stream::LineReader;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let body = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from("a\nb\n"))]);
    /// let mut lines = LineReader::builder(ByteSize::kib(64)).build_stream(body)?;
    /// let mut kept = Vec::new();
    /// while let Some(line) = lines.next_owned().await? {
    ///     kept.push(line.into_bytes());
    /// }
    /// assert_eq!(kept, ["a", "b"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).map_err(|error| error.to_string())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn next_owned(&mut self) -> Result<Option<Record<Bytes>>, StreamError> {
        let place = match self.0.quick()? {
            Some(place) => Some(place),
            None => poll_fn(|context| self.0.poll(context)).await?,
        };
        Ok(place.map(|place| {
            let bytes = self.0.record(&place).into_bytes();
            place.of(if place.carried { Bytes::copy_from_slice(bytes) } else { self.0.input.item.slice_ref(bytes) })
        }))
    }
}

impl<R, F: Framing> AsyncRecordReader<R, F> {
    /// Tells where the record begins that comes next: where to resume. All before it was given out, or dropped.
    pub fn offset(&self) -> u64 {
        self.0.offset()
    }

    /// Tells what was given out and what was not.
    pub fn stats(&self) -> RecordStats {
        self.0.stats()
    }

    /// Gives the input back; what was read from it and not handed out is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::ByteSize;
    /// use plimsoll::stream::LineReader;
    ///
    /// let lines = LineReader::builder(ByteSize::kib(64)).build_async(&b"a\nb\n"[..])?;
    /// let input = lines.into_inner();
    /// assert_eq!(input.len(), 4); // nothing was read yet
    /// # Ok::<(), plimsoll::stream::BuildError>(())
    /// ```
    pub fn into_inner(self) -> R {
        self.0.input.reader
    }
}

impl<S, F: Framing> RecordStream<S, F> {
    /// Tells where the record begins that comes next: where to resume. All before it was given out, or dropped.
    pub fn offset(&self) -> u64 {
        self.0.offset()
    }

    /// Tells what was given out and what was not.
    pub fn stats(&self) -> RecordStats {
        self.0.stats()
    }

    /// Gives the stream back; what came from it and was not handed out is lost.
    pub fn into_inner(self) -> S {
        self.0.input.stream
    }
}
