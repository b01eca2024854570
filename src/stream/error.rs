//! What can go wrong with a stream, and where.

use std::collections::TryReserveError;
use std::io;

use crate::budget::BudgetExceeded;
use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;

use super::charge::NoRoom;

/// Why a stream gave no record or chunk. Offsets are bytes from the start of the whole input, numbers begin with 1.
///
/// None of them ends the reader: the next call goes on where this one stopped, and nothing is lost or given twice. What
/// was too long is passed over. After a deadline every call says so again.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::{LineReader, StreamError};
///
/// let mut lines = LineReader::builder(ByteSize::bytes(8)).build(&b"far too long\nfits\n"[..])?;
/// let error = lines.next_record().unwrap_err();
/// assert!(matches!(error, StreamError::Oversize { .. }));
/// assert_eq!((error.offset(), error.number(), error.is_transient()), (0, 1, false));
/// assert!(lines.next_record()?.is_some(), "the next good record follows");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The input failed. Bytes that came before are kept, so a call after `WouldBlock` or a timeout goes on.
    #[error("reading failed after byte {offset}, in record {number}")]
    #[non_exhaustive]
    Read {
        /// Bytes of the input read before.
        offset: u64,
        /// The record that was to come next.
        number: u64,
        /// What the input says.
        source: io::Error,
    },
    /// A record is longer than the limit, under [`Oversize::Error`](super::Oversize::Error). The next call passes over
    /// what is left of it.
    #[error("record {number}, which begins at byte {offset}, is longer than {limit}: {at_least} at least")]
    #[non_exhaustive]
    Oversize {
        /// Where it begins.
        offset: u64,
        /// Its number.
        number: u64,
        /// Bytes of it seen when the error was made, or as long as it says it is; all of it where its end was in sight.
        at_least: ByteSize,
        /// The limit.
        limit: ByteSize,
    },
    /// The input ends inside a record that said how long it is.
    #[error("record {number}, which begins at byte {offset}, is cut off: the input ends at byte {end}")]
    #[non_exhaustive]
    CutOff {
        /// Where it begins.
        offset: u64,
        /// Its number.
        number: u64,
        /// Where the input ends.
        end: u64,
    },
    /// The deadline passed. All records before `resume_at` were given.
    #[error("the deadline passed before record {number}; resume at byte {resume_at}")]
    #[non_exhaustive]
    Deadline {
        /// Where the first record begins that was not given.
        resume_at: u64,
        /// Its number.
        number: u64,
    },
    /// A buffer could not grow. Free memory and call again, or stop.
    #[error("record {number}, which begins at byte {offset}, needs {wanted} more, and there is no memory for it")]
    #[non_exhaustive]
    Memory {
        /// Where the record begins.
        offset: u64,
        /// Its number.
        number: u64,
        /// By how much the buffer was to grow.
        wanted: ByteSize,
        /// What the allocator says.
        source: TryReserveError,
    },
    /// The budget did not grant what a buffer was to grow by. Free memory and call again, or stop.
    #[error("record {number}, which begins at byte {offset}, needs a larger buffer than the budget grants")]
    #[non_exhaustive]
    Budget {
        /// Where the record begins.
        offset: u64,
        /// Its number.
        number: u64,
        /// Who asked for how much, and who holds the rest.
        source: BudgetExceeded,
    },
}

debug_as_chain!(StreamError);

impl StreamError {
    pub(super) fn no_room(offset: u64, number: u64, why: NoRoom) -> Self {
        match why {
            NoRoom::Memory { wanted, source } => Self::Memory { offset, number, wanted, source },
            NoRoom::Budget { source } => Self::Budget { offset, number, source },
        }
    }

    /// Tells the byte of the input that the error is about.
    pub const fn offset(&self) -> u64 {
        match self {
            Self::Read { offset, .. }
            | Self::Oversize { offset, .. }
            | Self::CutOff { offset, .. }
            | Self::Deadline { resume_at: offset, .. }
            | Self::Budget { offset, .. }
            | Self::Memory { offset, .. } => *offset,
        }
    }

    /// Tells the number of the record that the error is about.
    pub const fn number(&self) -> u64 {
        match self {
            Self::Read { number, .. }
            | Self::Oversize { number, .. }
            | Self::CutOff { number, .. }
            | Self::Deadline { number, .. }
            | Self::Budget { number, .. }
            | Self::Memory { number, .. } => *number,
        }
    }

    /// Tells whether a call again may succeed, since the input only had nothing yet or was disturbed.
    pub fn is_transient(&self) -> bool {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        matches!(self, Self::Read { source, .. } if matches!(source.kind(), Interrupted | TimedOut | WouldBlock))
    }
}

/// Settings from which no reader can be built.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::stream::{BuildError, LineReader};
///
/// let wrong = LineReader::builder(ByteSize::kib(1)).chunk(ByteSize::ZERO).build(std::io::empty());
/// assert!(matches!(wrong, Err(BuildError::EmptyChunk)));
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A chunk of 0 bytes would read nothing for ever.
    #[error("a chunk of 0 bytes reads nothing: give it 1 byte at least")]
    EmptyChunk,
    /// There is no memory for the buffers.
    #[error("there is no memory for a buffer of {wanted}")]
    #[non_exhaustive]
    Memory {
        /// The buffer's size.
        wanted: ByteSize,
        /// What the allocator says.
        source: TryReserveError,
    },
    /// The budget did not grant the buffers.
    #[error("the budget does not grant the buffers of a stream")]
    #[non_exhaustive]
    Budget {
        /// Who asked for how much, and who holds the rest.
        source: BudgetExceeded,
    },
}

debug_as_chain!(BuildError);

impl From<NoRoom> for BuildError {
    fn from(why: NoRoom) -> Self {
        match why {
            NoRoom::Memory { wanted, source } => Self::Memory { wanted, source },
            NoRoom::Budget { source } => Self::Budget { source },
        }
    }
}
