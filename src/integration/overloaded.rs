//! The error of a request that holds too much memory.

use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;

/// A request was ended because it held more memory than its limit.
///
/// ```text
/// the request holds 84.0 MiB, its limit is 64.0 MiB
/// ```
///
/// # Examples
///
/// ```
/// use plimsoll::Overloaded;
///
/// fn is_overloaded(error: &(dyn std::error::Error + 'static)) -> bool {
///     error.downcast_ref::<Overloaded>().is_some_and(|overloaded| overloaded.held > overloaded.limit)
/// }
/// # assert!(!is_overloaded(&std::fmt::Error));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request holds {held}, its limit is {limit}")]
#[non_exhaustive]
pub struct Overloaded {
    /// The bytes that the request held: see [`RequestHeap::net`](crate::monitor::RequestHeap::net).
    pub held: ByteSize,
    /// The most that it may hold.
    pub limit: ByteSize,
}

debug_as_chain!(Overloaded);
