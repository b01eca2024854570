//! Any input in a fixed amount of memory: records of a bounded length, or chunks, one at a time.
//!
//! `BufRead::lines` and the `.lines()` of a body keep a line in memory however long it is, so one line without an end
//! kills the process. Here the longest record is part of the type, and what happens to a longer one is the caller's
//! choice: an error, its beginning, or nothing. In each case the next good record follows, and what was dropped is counted.
//!
//! | out of | records | chunks of one size |
//! |---|---|---|
//! | a [`Read`](std::io::Read) | [`RecordReader`]; of lines, [`LineReader`] | [`ChunkReader`] |
//! | an `AsyncRead` (feature `tokio`) | `AsyncRecordReader`; of lines, `AsyncLineReader` | |
//! | a stream of `Bytes` (feature `tokio`) | `RecordStream`; of lines, `LineStream` | |
//!
//! Records are told apart by a [`Framing`]: [`Lines`], any [`Delimiter`], or a [`LengthPrefix`]. `GzipReader` (feature
//! `gzip`) goes in between, and tells how compressed bodies are read. [`Parallel`] works on the records of a `Read` with
//! several threads.
//!
//! ```no_run
//! use std::fs::File;
//! use std::time::{Duration, SystemTime};
//! use plimsoll::ByteSize;
//! use plimsoll::stream::{LineReader, Oversize, StreamError};
//!
//! let mut lines = LineReader::builder(ByteSize::kib(64))
//!     .oversize(Oversize::Skip)
//!     .deadline(SystemTime::now() + Duration::from_secs(60)) // on Lambda, that of the invocation less some seconds
//!     .build(File::open("orders.ndjson")?)?;
//! loop {
//!     match lines.next_record() {
//!         Ok(Some(line)) => println!("{} bytes at {}", line.len(), line.offset()),
//!         Ok(None) => break,
//!         Err(StreamError::Deadline { resume_at, .. }) => {
//!             println!("to be continued at byte {resume_at}"); // with a range request and `resume_at`
//!             break;
//!         }
//!         Err(error) if error.is_transient() => continue,
//!         Err(error) => return Err(error.into()),
//!     }
//! }
//! println!("{:?}", lines.stats());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Memory
//!
//! Each reader states its bound as a formula, in bytes of heap, and a test holds it to that. Where a reader's buffer cannot
//! be had, because of a [limit](crate::heap::set_limit), that is an error and not the end of the process. That is not so
//! for what others allocate: the decoder of gzip, and the threads of [`Parallel`].
//!
//! # What is not here
//!
//! Nothing checks that text is UTF-8, and a CSV record that has line ends in quotes is two lines.

#[cfg(feature = "tokio")]
mod body;
mod builder;
mod charge;
mod chunks;
mod driver;
mod ends;
mod error;
mod failures;
mod framing;
#[cfg(feature = "gzip")]
mod gzip;
mod parallel;
mod reader;
mod record;
mod records;
mod simd;
mod storage;
mod watch;

#[cfg(feature = "tokio")]
pub use body::{AsyncLineReader, AsyncRecordReader, LineStream, RecordStream};
pub use builder::{Oversize, StreamBuilder};
pub use chunks::{ChunkReader, Chunks};
pub use error::{BuildError, StreamError};
pub use failures::BatchFailures;
pub use framing::{Delimiter, Framing, LengthPrefix, Lines};
#[cfg(feature = "gzip")]
pub use gzip::{GzipError, GzipReader};
pub use parallel::{Parallel, ParallelError, ParallelMap, ParallelReport};
pub use reader::{LineReader, RecordReader};
pub use record::Record;
pub use records::RecordStats;
pub use watch::Progress;
