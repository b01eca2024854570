//! Bytes promised to a holder, given back when he lets go.

use std::fmt;

use crate::size::ByteSize;

use super::{Account, BudgetExceeded};

/// Bytes of a budget, reserved under an account until this is dropped.
///
/// It is no memory: who holds it may allocate as much. Dropping it never blocks, asks nobody, and costs three atomic
/// subtractions.
#[must_use = "what is reserved is given back when this is dropped"]
pub struct Reservation {
    account: Account,
    /// What goes back to the account in the end.
    size: ByteSize,
}

impl Reservation {
    /// Takes over bytes that are on the account already.
    pub(super) const fn new(account: Account, size: ByteSize) -> Self {
        Self { account, size }
    }

    /// Tells how much is reserved.
    pub fn size(&self) -> ByteSize {
        self.size
    }

    /// Tells the account it is reserved under.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Reserves `more`, as [`Account::try_reserve`] does.
    ///
    /// # Errors
    ///
    /// [`BudgetExceeded`]; what was reserved stays.
    #[inline]
    pub fn try_grow(&mut self, more: ByteSize) -> Result<(), BudgetExceeded> {
        self.account.take(more)?;
        // Never saturates: the budget's sum is below 2^63.
        self.size = self.size.saturating_add(more);
        Ok(())
    }

    /// Reserves `more` if it is free, as [`Account::reserve_if_free`] does, and tells whether it was.
    #[inline]
    pub fn grow_if_free(&mut self, more: ByteSize) -> bool {
        let free = self.account.take_if_free(more);
        if free {
            self.size = self.size.saturating_add(more);
        }
        free
    }

    /// Enters `more` that is there already, as [`Account::book`] does: it may overdraw the budget.
    pub fn book(&mut self, more: ByteSize) {
        self.size = self.size.saturating_add(self.account.enter(more));
    }

    /// Gives back `less`, or all there is if that is not as much, and tells how much went back.
    #[inline]
    pub fn shrink(&mut self, less: ByteSize) -> ByteSize {
        let given = less.min(self.size);
        self.size = self.size.saturating_sub(given);
        self.account.give(given);
        given
    }

    /// Grows or shrinks to `size`.
    ///
    /// # Errors
    ///
    /// [`BudgetExceeded`] where it cannot grow; what was reserved stays.
    pub fn try_resize(&mut self, size: ByteSize) -> Result<(), BudgetExceeded> {
        let (more, less) = (size.saturating_sub(self.size), self.size.saturating_sub(size));
        self.shrink(less);
        self.try_grow(more)
    }

    /// Splits off `size` into a reservation of its own, or `None` if there is not as much. Asks nothing of the budget.
    pub fn split(&mut self, size: ByteSize) -> Option<Self> {
        self.size = self.size.checked_sub(size)?;
        Some(Self::new(self.account.clone(), size))
    }

    /// Takes over what `other` has reserved under the same account. Asks nothing of the budget.
    ///
    /// # Errors
    ///
    /// `other` itself, unchanged, where it belongs to another account or budget.
    pub fn merge(&mut self, mut other: Self) -> Result<(), Self> {
        if !self.account.is(&other.account) {
            return Err(other);
        }
        self.size = self.size.saturating_add(other.size);
        other.size = ByteSize::ZERO;
        Ok(())
    }
}

impl Drop for Reservation {
    #[inline]
    fn drop(&mut self) {
        self.account.give(self.size);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("account", &self.account.name()).field("size", &self.size).finish()
    }
}
