//! gzip: all members, with offsets in the errors and a bound on the output.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;

/// Compressed bytes read at a time.
const CHUNK: usize = 32 * 1024;

/// Decompresses a gzip input of any number of members, up to a bound on its output.
///
/// It is a [`Read`]: give it to a [`LineReader`](super::LineReader) or a [`ChunkReader`](super::ChunkReader), whose
/// offsets then count decompressed bytes. Members one behind the other are one output, as `gzip` and the logs of load
/// balancers have them; whatever is behind them and is no member is corrupt. An empty input is truncated.
///
/// # Memory
///
/// 32 KiB for compressed bytes and some 50 KiB of the decoder's, in bytes of heap, and the fields of a member's header
/// (extra, name, comment: 64 KiB each at most, twice that while they grow). They are no buffers of the reader's: no account
/// is charged for them, and where they are refused the process ends.
///
/// # Errors
///
/// Those of the input as they are, and the call after them goes on. Its own are [`GzipError`] inside of an
/// [`io::Error`]; they stay, so that a broken input is never taken for one that ended.
///
/// Where a read of the input brought nothing out, as of empty members, it says `Interrupted`, after which readers look at
/// their deadline and ask again, as std does.
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::{GzipReader, LineReader};
///
/// # use std::io::Write;
/// # let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
/// # encoder.write_all(b"one\ntwo\n")?;
/// # let compressed = encoder.finish()?;
/// let input = GzipReader::new(&compressed[..], ByteSize::gib(10));
/// let mut lines = LineReader::builder(ByteSize::kib(64)).build(input)?;
/// assert_eq!(lines.next_record()?.as_deref(), Some(&b"one"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Bodies
///
/// It has no asynchronous twin: what takes its time is the processor, and that belongs on a thread that may block. There
/// `SyncIoBridge` of `tokio-util` makes a `Read` of an `AsyncRead`, which `StreamReader` makes of a stream of `Bytes`; a
/// `ByteStream` of the AWS SDK is one with `into_async_read()`. The thread waits for the body, and is not interrupted.
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::{GzipReader, LineReader};
/// use tokio_util::io::{StreamReader, SyncIoBridge};
///
/// # use std::io::{self, Write};
/// # let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
/// # encoder.write_all(b"one\ntwo\n")?;
/// # let (head, tail) = { let mut all = bytes::Bytes::from(encoder.finish()?); (all.split_to(9), all) };
/// # let body = futures_util::stream::iter([Ok::<_, io::Error>(head), Ok(tail)]);
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// // The bridge is made here, where the runtime is.
/// let body = SyncIoBridge::new(StreamReader::new(body));
/// let count = tokio::task::spawn_blocking(move || {
///     let mut lines = LineReader::builder(ByteSize::kib(64)).build(GzipReader::new(body, ByteSize::gib(10)))?;
///     while let Some(line) = lines.next_record()? {
///         println!("{}: {}", line.number(), line.escape_ascii());
///     }
///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(lines.stats().records)
/// });
/// assert_eq!(count.await??, 2);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// # }).map_err(|error| error.to_string())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct GzipReader<R> {
    decoder: MultiGzDecoder<BufReader<Counted<R>>>,
    max_output: u64,
    output: u64,
    /// What is wrong with the input, once it is known.
    broken: Option<GzipError>,
}

/// What is wrong with a compressed input, and where: `input` counts compressed bytes, `output` decompressed ones.
///
/// # Examples
///
/// ```
/// use std::io::Read;
/// use plimsoll::ByteSize;
/// use plimsoll::stream::{GzipError, GzipReader};
///
/// let mut text = String::new();
/// let error = GzipReader::new(&b"no gzip"[..], ByteSize::mib(1)).read_to_string(&mut text).unwrap_err();
/// let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<GzipError>());
/// assert!(cause.is_some(), "{error}");
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GzipError {
    /// The input ends inside a member.
    #[error("the gzip input is truncated: it ends at byte {input}, after {output} decompressed bytes")]
    #[non_exhaustive]
    Truncated {
        /// Where it ends.
        input: u64,
        /// What was decompressed before.
        output: u64,
    },
    /// The input is not gzip, or its checksum is wrong.
    #[error("the gzip input is corrupt before byte {input}, after {output} decompressed bytes: {reason}")]
    #[non_exhaustive]
    Corrupt {
        /// How far it was read.
        input: u64,
        /// What was decompressed before.
        output: u64,
        /// What the decoder says.
        reason: String,
    },
    /// It has more to give than was allowed.
    #[error("the gzip input decompresses to more than {limit}: byte {input} of it is reached")]
    #[non_exhaustive]
    TooLarge {
        /// How far it was read.
        input: u64,
        /// The bound.
        limit: ByteSize,
    },
}

debug_as_chain!(GzipError);

/// A reader that knows how much was read, and keeps its errors from the decoder: that goes on after `WouldBlock` alone.
///
/// The decoder asks until something comes out, which with empty members may be never. So it is let read once, and then
/// whoever waits for it is let look at the clock.
#[derive(Debug)]
struct Counted<R> {
    inner: R,
    read: u64,
    /// Whether the decoder may read now.
    may_read: bool,
    error: Option<io::Error>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !std::mem::take(&mut self.may_read) {
            self.error = Some(io::ErrorKind::Interrupted.into());
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.inner.read(buffer) {
            Ok(read) if read > buffer.len() => {
                self.error = Some(io::Error::other("the input claims to have read more than there was room for"));
                Err(io::ErrorKind::WouldBlock.into())
            }
            Ok(read) => {
                self.read += read as u64;
                Ok(read)
            }
            Err(error) => {
                self.error = Some(error);
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }
}

impl<R: Read> GzipReader<R> {
    /// Reads compressed bytes from `input`, and gives out `max_output` bytes at most; with 0 only an empty output.
    pub fn new(input: R, max_output: ByteSize) -> Self {
        let counted = Counted { inner: input, read: 0, may_read: true, error: None };
        let decoder = MultiGzDecoder::new(BufReader::with_capacity(CHUNK, counted));
        Self { decoder, max_output: max_output.as_u64(), output: 0, broken: None }
    }

    /// Tells how many compressed bytes were used.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use plimsoll::{ByteSize, stream::GzipReader};
    /// # let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    /// # encoder.write_all(b"hello")?;
    /// # let compressed = encoder.finish()?;
    ///
    /// let mut reader = GzipReader::new(&compressed[..], ByteSize::mib(1));
    /// let mut text = String::new();
    /// reader.read_to_string(&mut text)?;
    /// assert_eq!((reader.input_offset(), reader.output_offset()), (compressed.len() as u64, 5));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn input_offset(&self) -> u64 {
        let buffered = self.decoder.get_ref();
        buffered.get_ref().read - buffered.buffer().len() as u64
    }

    /// Tells how many decompressed bytes were given out.
    pub const fn output_offset(&self) -> u64 {
        self.output
    }

    /// Gives the input back; compressed bytes read ahead are lost.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, stream::GzipReader};
    ///
    /// let reader = GzipReader::new(std::io::empty(), ByteSize::mib(1));
    /// let _input: std::io::Empty = reader.into_inner();
    /// ```
    pub fn into_inner(self) -> R {
        self.decoder.into_inner().into_inner().inner
    }

    /// The input's own error, if it just had one. The decoder begins to read when it is made.
    fn check(&mut self) -> io::Result<()> {
        self.decoder.get_mut().get_mut().error.take().map_or(Ok(()), Err)
    }

    /// What an error of the decoder says of the input.
    fn broken_by(&mut self, error: &io::Error) -> GzipError {
        let (input, output) = (self.input_offset(), self.output);
        self.decoder.get_mut().get_mut().may_read = true;
        let at_end = self.decoder.get_mut().fill_buf().is_ok_and(<[u8]>::is_empty);
        match error.kind() {
            io::ErrorKind::UnexpectedEof if at_end => GzipError::Truncated { input, output },
            _ => GzipError::Corrupt { input, output, reason: error.to_string() },
        }
    }
}

impl<R: Read> Read for GzipReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone().into());
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        self.check()?;
        self.decoder.get_mut().get_mut().may_read = true;
        let left = self.max_output - self.output;
        // One byte past the bound shows whether there is more, and goes nowhere.
        let mut beyond = [0];
        let room = usize::try_from(left).ok().and_then(|left| buffer.get_mut(..left));
        let decoded = match room {
            Some([]) => self.decoder.read(&mut beyond),
            Some(room) => self.decoder.read(room),
            None => self.decoder.read(buffer),
        };
        let broken = match decoded {
            Ok(read) if read as u64 <= left => {
                self.output += read as u64;
                return Ok(read);
            }
            Ok(_) => GzipError::TooLarge { input: self.input_offset(), limit: ByteSize::bytes(self.max_output) },
            Err(error) => {
                self.check()?;
                self.broken_by(&error)
            }
        };
        self.broken = Some(broken.clone());
        Err(broken.into())
    }
}

impl From<GzipError> for io::Error {
    fn from(error: GzipError) -> Self {
        let kind = match error {
            GzipError::Truncated { .. } => io::ErrorKind::UnexpectedEof,
            GzipError::Corrupt { .. } => io::ErrorKind::InvalidData,
            GzipError::TooLarge { .. } => io::ErrorKind::FileTooLarge,
        };
        Self::new(kind, error)
    }
}
