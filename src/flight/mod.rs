//! One load at a time: whoever asks while it runs waits for it, by blocking or by polling, and gets what it gets.
//!
//! ```text
//!             lead                      the load ends with
//!   Idle ------------> Running --------- a value ------------> Ready(value)
//!    ^                 |     ^ --------- an error -----------> Failed { at, error }
//!    |  a panic, or    |     |                                      |
//!    |  all waiters    |     +---------- lead, if `retry` says so --+
//!    +-- went ---------+
//!    ^------------------- reset: from Ready and Failed
//! ```
//!
//! A *flight* is the place where a thing is loaded, an *attempt* is one load of it. A waiter belongs to its attempt: what
//! that ended with is what he gets, though the next one may have begun. Every waiter gets the same `Arc` of an error.
//! Of an attempt that ended without an outcome nothing is told; its waiters ask anew, and one of them leads.
//!
//! A blocking load is a closure on its caller's thread. An async load is a future that the flight keeps and any of its
//! async waiters polls, so a caller who is cancelled takes nothing away from the others; when the last of them goes,
//! the load is dropped. All of them are woken when the load can go on, so that one who holds his future and does not poll
//! it holds up nobody. Blocking waiters never poll it, since it may want a runtime around it.
//!
//! Who asks for what he is loading himself gets an error where that can be seen: on the thread that runs the load, and
//! inside the poll that advances it. It cannot be seen, and waits for ever, where a load waits for *another* thread or
//! task that waits for the flight; nor where a thread blocks on a flight whose async waiters only it could poll.
//!
//! Nothing but `T::clone`, `retry` and the cloning of a waker runs under a lock. No runtime is needed. The cost of a load
//! is one allocation, and two for a future: itself and its waker.

mod attempt;
mod join;
mod state;

pub(crate) use attempt::{BoxLoad, Failure};
pub(crate) use join::Join;
pub(crate) use state::{Flight, FlightError};

#[cfg(test)]
mod tests;
