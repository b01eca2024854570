//! The error of a request that would take, or takes, too much memory.

use crate::budget::BudgetExceeded;
use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;

/// A request was refused or ended, because of its memory.
///
/// The messages name figures and accounts of the service: log them, and do not send them to clients.
///
/// ```text
/// not admitted: requests asked for 24.0 MiB, 9.6 MiB are available of a 109.6 MiB budget: reserved by model 64.0 MiB, requests 36.0 MiB
/// ended at 24.0 MiB: requests asked for 8.0 MiB, 1.6 MiB are available of a 109.6 MiB budget: reserved by requests 108.0 MiB
/// the request holds 84.0 MiB, its limit is 64.0 MiB
/// ```
///
/// # Examples
///
/// ```
/// use plimsoll::Overloaded;
///
/// /// Finds the error among the causes of an error, such as one of a request body.
/// fn overloaded<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Overloaded> {
///     loop {
///         match error.downcast_ref::<Overloaded>() {
///             Some(overloaded) => return Some(overloaded),
///             None => error = error.source()?,
///         }
///     }
/// }
/// # assert!(overloaded(&std::fmt::Error).is_none());
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Overloaded {
    /// The request was not admitted, because the budget could not reserve its estimate.
    #[error("not admitted: {0}")]
    NotAdmitted(BudgetExceeded),
    /// The request needed more than it had reserved, and the budget could not reserve the rest.
    #[error("ended at {reserved}: {exceeded}")]
    Outgrown {
        /// The bytes that it had reserved.
        reserved: ByteSize,
        /// The refusal of the rest.
        exceeded: BudgetExceeded,
    },
    /// The request held more than the limit of `HttpLayer::request_limit`.
    #[error("the request holds {held}, its limit is {limit}")]
    RequestLimit {
        /// The bytes that the request held: see [`RequestHeap::net`](crate::monitor::RequestHeap::net).
        held: ByteSize,
        /// The most that it may hold.
        limit: ByteSize,
    },
}

debug_as_chain!(Overloaded);

impl Overloaded {
    /// Returns `true` if the request would not fit into an empty budget, so that the client should not repeat it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget, Overloaded};
    /// let uploads = MemoryBudget::new(ByteSize::mib(100)).account("uploads")?;
    /// let refused = uploads.try_reserve(ByteSize::mib(101)).unwrap_err();
    /// assert!(Overloaded::NotAdmitted(refused).exceeds_budget());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn exceeds_budget(&self) -> bool {
        self.budget_exceeded().is_some_and(|exceeded| self.wanted() > exceeded.limit())
    }

    /// Returns the bytes that the request wanted to have in all.
    pub(super) fn wanted(&self) -> ByteSize {
        match self {
            Self::NotAdmitted(exceeded) => exceeded.requested(),
            Self::Outgrown { reserved, exceeded } => reserved.saturating_add(exceeded.requested()),
            Self::RequestLimit { held, .. } => *held,
        }
    }

    /// Returns the refusal of the budget, with the largest accounts; `None` for a [limit](Self::RequestLimit).
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Overloaded;
    /// fn missing(overloaded: &Overloaded) -> Option<plimsoll::ByteSize> {
    ///     let exceeded = overloaded.budget_exceeded()?;
    ///     Some(exceeded.requested().saturating_sub(exceeded.available()))
    /// }
    /// ```
    pub const fn budget_exceeded(&self) -> Option<&BudgetExceeded> {
        match self {
            Self::NotAdmitted(exceeded) | Self::Outgrown { exceeded, .. } => Some(exceeded),
            Self::RequestLimit { .. } => None,
        }
    }
}
