//! The load line for your Lambda's memory.

#[cfg(not(target_has_atomic = "64"))]
compile_error!("plimsoll keeps its books in 64-bit atomics, which this target does not have");

pub mod clock;
pub mod env;
pub mod heap;
pub mod os;
pub mod size;
mod sync;
pub mod weigh;

pub use clock::{Clock, ManualClock};
pub use env::{EnvError, InitializationType, LambdaEnv, LimitSource, MemoryLimit};
pub use heap::TrackingAllocator;
pub use size::{ByteDelta, ByteSize, ParseByteSizeError};
pub use weigh::HeapSize;
