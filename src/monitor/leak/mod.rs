//! Tells a leak from what only looks like one: a cache that warms up, an allocator that keeps its pages, memory that is
//! not of the heap.

mod doubling;
mod marks;
mod retention;
mod ring;
mod trend;
mod verdict;
mod watch;

pub(super) use retention::Retention;
pub use verdict::{LeakVerdict, Remedy};
pub(super) use watch::{LeakWatch, Left};
