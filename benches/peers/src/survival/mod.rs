//! A service under loads that kill it without admission, and the clients that put it under them.

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared with the tests, which stop at the first surprise"
)]
#[path = "../../../../tests/sandbox/cage.rs"]
pub(crate) mod cage;
mod cell;
mod client;
mod service;

pub use cell::{AT_REST, Allocator, Cell, cell};
pub use client::{Answers, Load, at_rest, run};
pub use service::serve;
