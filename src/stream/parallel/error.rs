//! How a parallel run ends.

use std::any::Any;

use crate::error_chain::debug_as_chain;
use crate::unwind::let_go;

use super::super::error::{BuildError, StreamError};
use super::super::records::RecordStats;
use super::BoxError;

/// What a parallel run did.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, stream::LineReader};
///
/// let lines = LineReader::builder(ByteSize::kib(64)).build(&b"a\nbb\n"[..])?;
/// let report = lines
///     .into_parallel(2)
///     .map(|line| Ok::<_, std::io::Error>(line.len()))
///     .for_each_in_order(|_len| Ok::<(), std::io::Error>(()))?;
/// assert_eq!((report.records, report.offset, report.stats.skipped), (2, 5, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParallelReport {
    /// Results given to the sink.
    pub records: u64,
    /// Where the input ends: all before it was worked on, or dropped and counted.
    pub offset: u64,
    /// What the reader gave out and what it did not.
    pub stats: RecordStats,
}

/// Why a parallel run stopped before the end of its input. Offsets are bytes from the start of the whole input.
///
/// `committed` is where to resume: the result of every record before it was given to the sink. In order, nothing behind it
/// was; else some may have been. A record that is too long, under [`Oversize::Error`](crate::stream::Oversize::Error), is
/// where to resume too, and would be told of again: `Skip` and `Truncate` go past it.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, stream::{LineReader, ParallelError}};
///
/// let lines = LineReader::builder(ByteSize::kib(64)).build(&b"1\ntwo\n3\n"[..])?;
/// let stopped = lines
///     .into_parallel(2)
///     .map(|line| line.escape_ascii().to_string().parse::<u64>())
///     .for_each_in_order(|_number| Ok::<(), std::io::Error>(()))
///     .unwrap_err();
/// assert!(matches!(stopped, ParallelError::Map { .. }), "{stopped}");
/// assert_eq!(stopped.committed(), 2); // resume at the second line
/// # Ok::<(), plimsoll::stream::BuildError>(())
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ParallelError {
    /// The buffers cannot be had.
    #[error("the parallel run cannot start")]
    #[non_exhaustive]
    Build {
        /// Where it was to start.
        committed: u64,
        /// Says why.
        source: BuildError,
    },
    /// The reader gave no record.
    #[error("reading stopped the parallel run; resume at byte {committed}")]
    #[non_exhaustive]
    Read {
        /// Where to resume.
        committed: u64,
        /// Says where and why.
        source: StreamError,
    },
    /// The map answered with an error.
    #[error("record {number}, which begins at byte {offset}, could not be worked on; resume at byte {committed}")]
    #[non_exhaustive]
    Map {
        /// Where the record begins.
        offset: u64,
        /// Its number.
        number: u64,
        /// Where to resume.
        committed: u64,
        /// The map's error.
        source: BoxError,
    },
    /// The sink answered with an error.
    #[error("the result of record {number}, which begins at byte {offset}, was not taken; resume at byte {committed}")]
    #[non_exhaustive]
    Sink {
        /// Where the record begins.
        offset: u64,
        /// Its number.
        number: u64,
        /// Where to resume.
        committed: u64,
        /// The sink's error.
        source: BoxError,
    },
    /// The map, the sink or the input panicked.
    #[error("a panic at record {number}, which begins at byte {offset}: {message}; resume at byte {committed}")]
    #[non_exhaustive]
    Panic {
        /// Where the record begins.
        offset: u64,
        /// Its number.
        number: u64,
        /// Where to resume.
        committed: u64,
        /// What the panic said, if it said so in text.
        message: String,
    },
}

debug_as_chain!(ParallelError);

impl ParallelError {
    /// Tells where to resume.
    pub const fn committed(&self) -> u64 {
        match self {
            Self::Build { committed, .. }
            | Self::Read { committed, .. }
            | Self::Map { committed, .. }
            | Self::Sink { committed, .. }
            | Self::Panic { committed, .. } => *committed,
        }
    }
}

/// A record, by offset and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) offset: u64,
    pub(super) number: u64,
}

/// Why a batch ended early.
#[derive(Debug)]
pub(super) enum Cause {
    Read(StreamError),
    Map(At, BoxError),
    Sink(At, BoxError),
    Panic(At, String),
}

impl Cause {
    /// Where the record begins that was not worked on.
    pub(super) const fn offset(&self, batch_end: u64) -> u64 {
        match self {
            Self::Read(StreamError::Deadline { resume_at, .. }) => *resume_at,
            Self::Read(_) => batch_end,
            Self::Map(at, _) | Self::Sink(at, _) | Self::Panic(at, _) => at.offset,
        }
    }

    pub(super) fn into_error(self, committed: u64) -> ParallelError {
        match self {
            Self::Read(source) => ParallelError::Read { committed, source },
            Self::Map(At { offset, number }, source) => ParallelError::Map { offset, number, committed, source },
            Self::Sink(At { offset, number }, source) => ParallelError::Sink { offset, number, committed, source },
            Self::Panic(At { offset, number }, message) => ParallelError::Panic { offset, number, committed, message },
        }
    }

    pub(super) fn panic(at: At, panic: Box<dyn Any + Send>) -> Self {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let message = text.unwrap_or("(no text)").to_owned();
        let_go(panic);
        Self::Panic(at, message)
    }
}
