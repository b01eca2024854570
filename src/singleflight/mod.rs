//! Loads that several callers share: one caller loads, the others wait for the same outcome.
//!
//! ```text
//!   blocking   Latch          the leader runs a closure on its thread; waiters block until it opens the latch
//!   async      SharedFuture   the future belongs to all its waiters; one of them, the driver, polls it
//! ```
//!
//! Blocking and async callers never share a load: a thread that blocks until a task polls would never go on if that
//! task needs its thread. Neither type knows what is loaded or where the value goes.
//!
//! No runtime is needed. Of the user's code only `T::clone` and the cloning of a waker run under a lock.

mod latch;
mod shared_future;

pub(crate) use latch::{Latch, WouldDeadlock};
pub(crate) use shared_future::{Abandonment, BoxFuture, Joined, SharedFuture, Waiter};

#[cfg(test)]
mod tests;
