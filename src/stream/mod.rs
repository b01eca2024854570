//! Any input in a fixed amount of memory: records of a bounded length, or chunks, one at a time.

mod builder;
mod ends;
mod error;
mod framing;
mod reader;
mod record;
mod records;
mod simd;
mod storage;
mod watch;

pub use builder::{Oversize, StreamBuilder};
pub use error::{BuildError, StreamError};
pub use framing::{Delimiter, Framing, LengthPrefix, Lines};
pub use reader::{LineReader, RecordReader};
pub use record::Record;
pub use records::RecordStats;
pub use watch::Progress;
