//! The library's latch and shared future, from the library's own files.

#[path = "../../../src/singleflight/latch.rs"]
pub(crate) mod latch;
#[path = "../../../src/singleflight/shared_future.rs"]
pub(crate) mod shared_future;
