//! Any input in a fixed amount of memory: records of a bounded length, or chunks, one at a time.

#[cfg(feature = "tokio")]
mod body;
mod builder;
mod chunks;
mod driver;
mod ends;
mod error;
mod framing;
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
pub use framing::{Delimiter, Framing, LengthPrefix, Lines};
pub use parallel::{Parallel, ParallelError, ParallelMap, ParallelReport};
pub use reader::{LineReader, RecordReader};
pub use record::Record;
pub use records::RecordStats;
pub use watch::Progress;
