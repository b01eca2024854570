//! The verdict on the memory of an environment: a leak, a cache that warms up, pages that the allocator keeps, or memory that
//! is not of the heap.

mod beyond;
mod doubling;
mod marks;
mod retention;
mod ring;
mod trend;
mod trims;
mod verdict;
mod watch;

pub(super) use beyond::{Beyond, Figures};
pub(super) use trims::{End, Trims};
pub use verdict::{LeakVerdict, Remedy};
pub(super) use watch::{LeakWatch, Left};
