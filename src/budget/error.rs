//! The errors of a budget, with what an operator can act on.

use std::fmt;

use crate::board::Clean;
use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;

/// The bytes of a request are not available, and other accounts have not released enough for it.
///
/// The message is one line with the account, the request, what was available, the limit, and the three largest accounts:
///
/// ```text
/// orders asked for 64.0 KiB, 12.0 KiB are available of a 100.0 MiB budget: reserved by sessions 60.0 MiB, model 30.1 MiB, orders 9.9 MiB
/// ```
///
/// All figures are of the moment of the refusal.
///
/// # Performance
///
/// One allocation of some 150 bytes. [`Account::try_reserve_without_reclaim`](super::Account::try_reserve_without_reclaim)
/// refuses without one.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(100));
/// let _sessions = budget.account("sessions")?.try_reserve(ByteSize::mib(90))?;
/// let refused = budget.account("orders")?.try_reserve(ByteSize::mib(20)).unwrap_err();
/// assert_eq!((refused.account(), refused.requested()), ("orders", ByteSize::mib(20)));
/// assert_eq!((refused.available(), refused.limit()), (ByteSize::mib(10), ByteSize::mib(100)));
/// assert_eq!((refused.unavailable(), refused.pages_beyond_limit()), (ByteSize::ZERO, ByteSize::ZERO));
/// assert_eq!(refused.largest_accounts().next(), Some(("sessions", ByteSize::mib(90))));
/// assert!(!refused.is_reentrant());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct BudgetExceeded(Box<Refusal>);

debug_as_chain!(BudgetExceeded);

/// The figures of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) struct Refusal {
    pub(super) account: &'static str,
    pub(super) requested: ByteSize,
    pub(super) available: ByteSize,
    pub(super) limit: ByteSize,
    /// The part of the limit that is unreserved heap.
    pub(super) unavailable: ByteSize,
    /// The bytes by which the resident pages would have exceeded the limit.
    pub(super) pages: ByteSize,
    /// The largest accounts, in descending order.
    pub(super) largest: [Option<(&'static str, ByteSize)>; 3],
    /// Made within a reclaimer, so nothing could be reclaimed.
    pub(super) is_reentrant: bool,
}

debug_as_chain!(Refusal);

impl From<Refusal> for BudgetExceeded {
    #[cold]
    fn from(refusal: Refusal) -> Self {
        Self(Box::new(refusal))
    }
}

impl BudgetExceeded {
    /// Returns the name of the account of the request.
    pub fn account(&self) -> &'static str {
        self.0.account
    }

    /// Returns the bytes of the request.
    pub fn requested(&self) -> ByteSize {
        self.0.requested
    }

    /// Returns the bytes that the account could have had.
    pub fn available(&self) -> ByteSize {
        self.0.available
    }

    /// Returns the limit of the budget.
    pub fn limit(&self) -> ByteSize {
        self.0.limit
    }

    /// Returns the part of the limit that no account can have, because it is heap without a reservation.
    pub fn unavailable(&self) -> ByteSize {
        self.0.unavailable
    }

    /// Returns how far the resident pages of the process would have been beyond the limit; 0 if they are not the reason, or
    /// not checked.
    pub fn pages_beyond_limit(&self) -> ByteSize {
        self.0.pages
    }

    /// Returns the three largest accounts and the bytes that they had reserved, in descending order.
    pub fn largest_accounts(&self) -> impl Iterator<Item = (&'static str, ByteSize)> {
        self.0.largest.into_iter().flatten()
    }

    /// Returns `true` if the request was made within a reclaimer, so that nothing could be reclaimed for it.
    pub fn is_reentrant(&self) -> bool {
        self.0.is_reentrant
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, requested, available, limit, unavailable, pages, .. } = self;
        write!(f, "{account} asked for {requested}")?;
        if self.is_reentrant {
            f.write_str(" within a reclaimer")?;
        }
        write!(f, ", {available} {} available of a {limit} budget", are(*available))?;
        let mut separator = ": reserved by ";
        for (name, reserved) in self.largest.iter().flatten() {
            write!(f, "{separator}{name} {reserved}")?;
            separator = ", ";
        }
        let mut separator = if self.largest.iter().any(Option::is_some) { "; " } else { ": " };
        if *unavailable > ByteSize::ZERO {
            write!(f, "{separator}{unavailable} of heap {} not reserved by any account", are(*unavailable))?;
            separator = "; ";
        }
        if *pages > ByteSize::ZERO {
            write!(f, "{separator}the resident pages would be {pages} beyond the limit")?;
        }
        Ok(())
    }
}

/// An account cannot be opened.
///
/// # Examples
///
/// ```
/// use plimsoll::budget::{AccountError, MAX_ACCOUNTS};
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(1));
/// for number in 0..MAX_ACCOUNTS {
///     budget.account(format!("shard {number}"))?;
/// }
/// let refused = budget.account("one more").unwrap_err();
/// assert!(matches!(refused, AccountError::TooManyAccounts { .. }));
/// # Ok::<(), AccountError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// The budget has as many accounts as it can have.
    #[error(
        "no account `{}`: the budget has {max} accounts; use one for each component, not for each tenant",
        Clean(name)
    )]
    #[non_exhaustive]
    TooManyAccounts {
        /// The name that was asked for.
        name: &'static str,
        /// The bound of accounts.
        max: usize,
    },
    /// The process has used as many different names as it can keep.
    #[error("no account: {max} different names of accounts were made at run time, and they are never freed")]
    #[non_exhaustive]
    TooManyNames {
        /// The bound of names.
        max: usize,
    },
}

debug_as_chain!(AccountError);

/// A minimum share does not fit next to those of other accounts.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(1));
/// let error = budget.account("health")?.set_minimum(ByteSize::mib(2)).unwrap_err();
/// assert_eq!(error.to_string(), "a minimum of 2.0 MiB for health: the limit leaves 1.0 MiB for it");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a minimum of {minimum} for {}: the limit leaves {available} for it", Clean(account))]
#[non_exhaustive]
pub struct MinimumTooLarge {
    /// The name of the account.
    pub account: &'static str,
    /// The share that was asked for.
    pub minimum: ByteSize,
    /// The limit less the minimum shares of the other accounts.
    pub available: ByteSize,
}

debug_as_chain!(MinimumTooLarge);

fn are(size: ByteSize) -> &'static str {
    if size == ByteSize::bytes(1) { "is" } else { "are" }
}
