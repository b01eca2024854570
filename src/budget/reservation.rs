//! Bytes that are reserved until they are dropped.

use std::fmt;

use crate::size::ByteSize;

use super::account::AccountRef;
use super::{Account, BudgetExceeded, Pressure};

/// Bytes of a budget, reserved under an account until this is dropped.
///
/// It counts bytes, and its owner may allocate them. Keep it next to the memory that it stands for, and drop it after that.
///
/// # Performance
///
/// A lock and a few subtractions to drop it. Requests that wait for the bytes are woken.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(10));
/// let body = budget.account("body")?;
/// let mut reserved = body.try_reserve(ByteSize::kib(64))?;
/// let mut bytes: Vec<u8> = Vec::with_capacity(64 << 10);
///
/// reserved.try_grow(ByteSize::kib(64))?; // before the vector grows
/// bytes.reserve_exact(128 << 10);
/// assert_eq!((reserved.size(), reserved.account().reserved()), (ByteSize::kib(128), ByteSize::kib(128)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the bytes are released when this is dropped"]
pub struct Reservation {
    /// Of which this is a user.
    account: AccountRef,
    size: ByteSize,
}

impl Reservation {
    /// Makes a reservation of bytes that the table has counted, and of a user that it has counted.
    pub(super) const fn new(account: AccountRef, size: ByteSize) -> Self {
        Self { account, size }
    }

    /// Returns the reserved bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let reserved = MemoryBudget::new(ByteSize::mib(1)).account("body")?.try_reserve(ByteSize::kib(64))?;
    /// assert_eq!(reserved.size(), ByteSize::kib(64));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn size(&self) -> ByteSize {
        self.size
    }

    /// Returns the account.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let reserved = MemoryBudget::new(ByteSize::mib(1)).account("body")?.try_reserve(ByteSize::kib(64))?;
    /// assert_eq!(reserved.account().name(), "body");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn account(&self) -> Account {
        Account::of(self.account)
    }

    /// Reserves `more`, as [`Account::try_reserve`] does.
    ///
    /// # Errors
    ///
    /// [`BudgetExceeded`]. What was reserved stays.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let mut reserved = MemoryBudget::new(ByteSize::kib(100)).account("body")?.try_reserve(ByteSize::kib(64))?;
    /// assert!(reserved.try_grow(ByteSize::kib(64)).is_err());
    /// assert_eq!(reserved.size(), ByteSize::kib(64));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_grow(&mut self, more: ByteSize) -> Result<(), BudgetExceeded> {
        self.account.take(more, 0)?;
        // Never saturates: all sums of a budget are below 2^63.
        self.size = self.size.saturating_add(more);
        Ok(())
    }

    /// Reserves `more` if it is available, as [`Account::try_reserve_without_reclaim`] does. Returns `true` if so.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let mut reserved = MemoryBudget::new(ByteSize::kib(100)).account("body")?.try_reserve(ByteSize::kib(64))?;
    /// assert!(reserved.try_grow_without_reclaim(ByteSize::kib(36)));
    /// assert!(!reserved.try_grow_without_reclaim(ByteSize::bytes(1)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[must_use = "where it did not grow, there is nothing to allocate"]
    pub fn try_grow_without_reclaim(&mut self, more: ByteSize) -> bool {
        let is_grown = self.account.take_without_reclaim(more, 0);
        if is_grown {
            self.size = self.size.saturating_add(more);
        }
        is_grown
    }

    /// Reserves `more` in any case, as [`Account::reserve`] does: for memory that is allocated already.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let mut reserved = MemoryBudget::new(ByteSize::kib(100)).account("table")?.try_reserve(ByteSize::kib(64))?;
    /// reserved.grow(ByteSize::kib(64)); // it turned out to be twice as large
    /// assert_eq!(reserved.size(), ByteSize::kib(128));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn grow(&mut self, more: ByteSize) {
        self.size = self.size.saturating_add(self.account.reserve(more, 0));
    }

    /// Releases `less`, at most all of it. Returns the bytes that were released.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let mut reserved = MemoryBudget::new(ByteSize::kib(100)).account("body")?.try_reserve(ByteSize::kib(64))?;
    /// assert_eq!(reserved.shrink(ByteSize::kib(24)), ByteSize::kib(24));
    /// assert_eq!(reserved.shrink(ByteSize::MAX), ByteSize::kib(40));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn shrink(&mut self, less: ByteSize) -> ByteSize {
        let less = less.min(self.size);
        if less > ByteSize::ZERO {
            self.size = self.size.saturating_sub(less);
            self.account.release(less, 0);
        }
        less
    }

    /// Grows or shrinks to `size`.
    ///
    /// # Errors
    ///
    /// [`BudgetExceeded`] if it cannot grow. What was reserved stays.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let mut reserved = MemoryBudget::new(ByteSize::kib(100)).account("body")?.try_reserve(ByteSize::kib(64))?;
    /// reserved.try_resize(ByteSize::kib(90))?;
    /// reserved.try_resize(ByteSize::kib(10))?;
    /// assert_eq!(reserved.size(), ByteSize::kib(10));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_resize(&mut self, size: ByteSize) -> Result<(), BudgetExceeded> {
        let (more, less) = (size.saturating_sub(self.size), self.size.saturating_sub(size));
        self.shrink(less);
        self.try_grow(more)
    }

    /// Splits off `size` into another reservation. Returns `None` if less is reserved. Nothing is reserved or released.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let mut reserved = MemoryBudget::new(ByteSize::kib(100)).account("parts")?.try_reserve(ByteSize::kib(64))?;
    /// let first_part = reserved.split(ByteSize::kib(16)).ok_or("it is that large")?; // goes its own way
    /// assert_eq!((first_part.size(), reserved.size()), (ByteSize::kib(16), ByteSize::kib(48)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "what is split off is given back when this is dropped"]
    pub fn split(&mut self, size: ByteSize) -> Option<Self> {
        self.size = self.size.checked_sub(size)?;
        self.account.core.add_user();
        Some(Self::new(self.account, size))
    }

    /// Adds what `other` has reserved under the same account. Nothing is reserved or released.
    ///
    /// # Errors
    ///
    /// `other` itself, unchanged, if it belongs to another account or budget.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let account = MemoryBudget::new(ByteSize::kib(100)).account("parts")?;
    /// let (mut all, part) = (account.try_reserve(ByteSize::kib(16))?, account.try_reserve(ByteSize::kib(8))?);
    /// assert!(all.merge(part).is_ok());
    /// assert_eq!(all.size(), ByteSize::kib(24));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn merge(&mut self, mut other: Self) -> Result<(), Self> {
        if !self.account.is(other.account) {
            return Err(other);
        }
        self.size = self.size.saturating_add(other.size);
        other.size = ByteSize::ZERO;
        Ok(())
    }
}

impl Reservation {
    /// Returns `true` if it could become `size` bytes after all accounts that may be asked have released everything, and its own
    /// account `others` bytes besides this reservation.
    pub(crate) fn could_become(&self, size: ByteSize, others: ByteSize) -> bool {
        self.account.could_reserve(size, self.size.saturating_add(others))
    }

    /// Returns the bytes that its account can have without reclaiming.
    pub(crate) fn available(&self) -> ByteSize {
        self.account.available()
    }

    /// Returns `true` if the pages have to be checked outside of all locks.
    #[inline]
    pub(crate) fn is_check_due(&self) -> bool {
        self.account.is_check_due()
    }

    /// Returns how full the budget is.
    pub(crate) fn pressure(&self) -> Pressure {
        self.account.core.pressure()
    }
}

impl Drop for Reservation {
    #[inline]
    fn drop(&mut self) {
        self.account.release(self.size, 1);
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
