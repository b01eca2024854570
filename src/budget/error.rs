//! Why there is no memory to be had, in words an operator can act on.

use std::fmt;

use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;

/// A request for memory that the budget does not grant, even after everyone who could was asked to give some back.
///
/// The message is one line and names who asked, for how much, what was free, the limit, and the three largest holders:
///
/// ```text
/// orders asked for 64.0 KiB, 12.0 KiB are free of a 100.0 MiB budget: held by sessions 60.0 MiB, model 30.1 MiB, orders 9.9 MiB
/// ```
///
/// The figures are of the moment of the refusal. Making one allocates once, some 150 bytes;
/// [`Account::reserve_if_free`](super::Account::reserve_if_free) refuses without.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(100));
/// let _sessions = budget.account("sessions").try_reserve(ByteSize::mib(90))?;
/// let refused = budget.account("orders").try_reserve(ByteSize::mib(20)).unwrap_err();
/// assert_eq!((refused.requester(), refused.requested()), ("orders", ByteSize::mib(20)));
/// assert_eq!((refused.available(), refused.limit()), (ByteSize::mib(10), ByteSize::mib(100)));
/// assert_eq!((refused.withheld(), refused.is_reentrant()), (ByteSize::ZERO, false));
/// assert_eq!(refused.holders().next(), Some(("sessions", ByteSize::mib(90))));
/// # Ok::<(), plimsoll::BudgetExceeded>(())
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct BudgetExceeded(Box<Refusal>);

debug_as_chain!(BudgetExceeded);

/// What is known of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) struct Refusal {
    pub(super) requester: &'static str,
    pub(super) requested: ByteSize,
    pub(super) available: ByteSize,
    pub(super) limit: ByteSize,
    /// The part of the limit that is not for accounts: unreserved heap and overhead.
    pub(super) withheld: ByteSize,
    /// The largest first.
    pub(super) holders: [Option<(&'static str, ByteSize)>; 3],
    /// Made inside a reclaimer, so that nobody could be asked.
    pub(super) reentrant: bool,
}

debug_as_chain!(Refusal);

impl From<Refusal> for BudgetExceeded {
    #[cold]
    fn from(refusal: Refusal) -> Self {
        Self(Box::new(refusal))
    }
}

impl BudgetExceeded {
    /// Tells the name of the account that asked.
    pub fn requester(&self) -> &'static str {
        self.0.requester
    }

    /// Tells how much it asked for.
    pub fn requested(&self) -> ByteSize {
        self.0.requested
    }

    /// Tells how much was free.
    pub fn available(&self) -> ByteSize {
        self.0.available
    }

    /// Tells the budget's limit.
    pub fn limit(&self) -> ByteSize {
        self.0.limit
    }

    /// Returns the part of the limit that no account can have: unreserved heap and overhead.
    pub fn withheld(&self) -> ByteSize {
        self.0.withheld
    }

    /// Tells the three largest holders and what they held, the largest first.
    pub fn holders(&self) -> impl Iterator<Item = (&'static str, ByteSize)> {
        self.0.holders.into_iter().flatten()
    }

    /// Whether a reclaimer asked, in which case nobody else could be asked to give anything back.
    pub fn is_reentrant(&self) -> bool {
        self.0.reentrant
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requester, requested, available, limit, withheld, .. } = self;
        write!(f, "{requester} asked for {requested}")?;
        if self.reentrant {
            f.write_str(" inside a reclaimer")?;
        }
        write!(f, ", {available} {} free of a {limit} budget", are(*available))?;
        let mut before = ": held by ";
        for (name, held) in self.holders.iter().flatten() {
            write!(f, "{before}{name} {held}")?;
            before = ", ";
        }
        if *withheld > ByteSize::ZERO {
            let join = if self.holders.iter().any(Option::is_some) { "; " } else { ": " };
            write!(f, "{join}{withheld} {} in use outside of it", are(*withheld))?;
        }
        Ok(())
    }
}

fn are(size: ByteSize) -> &'static str {
    if size == ByteSize::bytes(1) { "is" } else { "are" }
}
