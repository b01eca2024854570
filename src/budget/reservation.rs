//! Bytes promised to a holder, given back when he lets go.

use std::fmt;

use crate::size::ByteSize;

use super::{Account, BudgetExceeded};

/// Bytes of a budget, reserved under an account until this is dropped.
///
/// It is no memory: who holds it may allocate as much. Dropping it asks nobody, waits for nobody's code, and costs three
/// atomic subtractions; of a large one ([rule 8](super)) a look at the pages too.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(10));
/// let body = budget.account("body");
/// let mut reserved = body.try_reserve(ByteSize::kib(64))?;
/// let mut bytes: Vec<u8> = Vec::with_capacity(64 << 10);
///
/// reserved.try_grow(ByteSize::kib(64))?; // before the vector grows
/// bytes.reserve_exact(128 << 10);
/// assert_eq!((reserved.size(), reserved.account().held()), (ByteSize::kib(128), ByteSize::kib(128)));
/// # Ok::<(), plimsoll::BudgetExceeded>(())
/// ```
#[must_use = "what is reserved is given back when this is dropped"]
pub struct Reservation {
    account: Account,
    /// What goes back to the account in the end.
    size: ByteSize,
    /// The part that is counted as promised pages.
    promised: ByteSize,
}

impl Reservation {
    /// Takes over bytes that are on the account already, of which so many are counted as promised pages.
    pub(super) const fn new(account: Account, size: ByteSize, promised: ByteSize) -> Self {
        Self { account, size, promised }
    }

    /// Tells how much is reserved.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let reserved = MemoryBudget::new(ByteSize::mib(1)).account("body").try_reserve(ByteSize::kib(64))?;
    /// assert_eq!(reserved.size(), ByteSize::kib(64));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn size(&self) -> ByteSize {
        self.size
    }

    /// Tells the account it is reserved under.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let reserved = MemoryBudget::new(ByteSize::mib(1)).account("body").try_reserve(ByteSize::kib(64))?;
    /// assert_eq!(reserved.account().name(), "body");
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Reserves `more`, as [`Account::try_reserve`] does.
    ///
    /// # Errors
    ///
    /// [`BudgetExceeded`]; what was reserved stays.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let mut reserved = MemoryBudget::new(ByteSize::kib(100)).account("body").try_reserve(ByteSize::kib(64))?;
    /// assert!(reserved.try_grow(ByteSize::kib(64)).is_err());
    /// assert_eq!(reserved.size(), ByteSize::kib(64));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    #[inline]
    pub fn try_grow(&mut self, more: ByteSize) -> Result<(), BudgetExceeded> {
        let promised = self.account.take(more)?;
        self.promised = self.promised.saturating_add(promised);
        // Never saturates: the budget's sum is below 2^63.
        self.size = self.size.saturating_add(more);
        Ok(())
    }

    /// Reserves `more` if it is free, as [`Account::reserve_if_free`] does, and tells whether it was.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let mut reserved = MemoryBudget::new(ByteSize::kib(100)).account("body").try_reserve(ByteSize::kib(64))?;
    /// assert!(reserved.grow_if_free(ByteSize::kib(36)));
    /// assert!(!reserved.grow_if_free(ByteSize::bytes(1)));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    #[inline]
    #[must_use = "where it did not grow, there is nothing to allocate"]
    pub fn grow_if_free(&mut self, more: ByteSize) -> bool {
        let free = self.account.take_if_free(more);
        if free {
            self.size = self.size.saturating_add(more);
        }
        free
    }

    /// Enters `more` that is there already, as [`Account::book`] does: it may overdraw the budget.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let mut reserved = MemoryBudget::new(ByteSize::kib(100)).account("table").try_reserve(ByteSize::kib(64))?;
    /// reserved.book(ByteSize::kib(64)); // it turned out to be twice as large
    /// assert_eq!(reserved.size(), ByteSize::kib(128));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn book(&mut self, more: ByteSize) {
        self.size = self.size.saturating_add(self.account.enter(more));
    }

    /// Gives back `less`, or all there is if that is not as much, and tells how much went back.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let mut reserved = MemoryBudget::new(ByteSize::kib(100)).account("body").try_reserve(ByteSize::kib(64))?;
    /// assert_eq!(reserved.shrink(ByteSize::kib(24)), ByteSize::kib(24));
    /// assert_eq!(reserved.shrink(ByteSize::MAX), ByteSize::kib(40));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    #[inline]
    pub fn shrink(&mut self, less: ByteSize) -> ByteSize {
        let given = less.min(self.size);
        self.size = self.size.saturating_sub(given);
        let promised = given.min(self.promised);
        self.promised = self.promised.saturating_sub(promised);
        self.account.give(given, promised);
        given
    }

    /// Grows or shrinks to `size`.
    ///
    /// # Errors
    ///
    /// [`BudgetExceeded`] where it cannot grow; what was reserved stays.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let mut reserved = MemoryBudget::new(ByteSize::kib(100)).account("body").try_reserve(ByteSize::kib(64))?;
    /// reserved.try_resize(ByteSize::kib(90))?;
    /// reserved.try_resize(ByteSize::kib(10))?;
    /// assert_eq!(reserved.size(), ByteSize::kib(10));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn try_resize(&mut self, size: ByteSize) -> Result<(), BudgetExceeded> {
        let (more, less) = (size.saturating_sub(self.size), self.size.saturating_sub(size));
        self.shrink(less);
        self.try_grow(more)
    }

    /// Splits off `size` into a reservation of its own, or `None` if there is not as much. Asks nothing of the budget.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let mut reserved = MemoryBudget::new(ByteSize::kib(100)).account("parts").try_reserve(ByteSize::kib(64))?;
    /// let first_part = reserved.split(ByteSize::kib(16)).ok_or("it is that large")?; // goes its own way
    /// assert_eq!((first_part.size(), reserved.size()), (ByteSize::kib(16), ByteSize::kib(48)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "what is split off is given back when this is dropped"]
    pub fn split(&mut self, size: ByteSize) -> Option<Self> {
        self.size = self.size.checked_sub(size)?;
        let promised = size.min(self.promised);
        self.promised = self.promised.saturating_sub(promised);
        Some(Self::new(self.account.clone(), size, promised))
    }

    /// Takes over what `other` has reserved under the same account. Asks nothing of the budget.
    ///
    /// # Errors
    ///
    /// `other` itself, unchanged, where it belongs to another account or budget.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let account = MemoryBudget::new(ByteSize::kib(100)).account("parts");
    /// let (mut all, part) = (account.try_reserve(ByteSize::kib(16))?, account.try_reserve(ByteSize::kib(8))?);
    /// assert!(all.merge(part).is_ok());
    /// assert_eq!(all.size(), ByteSize::kib(24));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn merge(&mut self, mut other: Self) -> Result<(), Self> {
        if !self.account.is(&other.account) {
            return Err(other);
        }
        self.size = self.size.saturating_add(other.size);
        self.promised = self.promised.saturating_add(other.promised);
        (other.size, other.promised) = (ByteSize::ZERO, ByteSize::ZERO);
        Ok(())
    }
}

impl Reservation {
    /// Returns `true` if it could become `size` bytes, if all accounts that its account may ask release everything, and
    /// its own account `others` bytes next to this reservation.
    ///
    /// Takes the lock of the reclaimers, and reads the sum of each account.
    pub(crate) fn could_become(&self, size: ByteSize, others: ByteSize) -> bool {
        self.account.could_hold(size, self.size.saturating_add(others))
    }
}

impl Drop for Reservation {
    #[inline]
    fn drop(&mut self) {
        self.account.give(self.size, self.promised);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("account", &self.account.name())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
