//! A named share of a budget: the unit of the report.

use std::fmt;
use std::sync::{Arc, Weak};

use super::pressure::Pressure;
use crate::board::Meter;
use crate::size::ByteSize;

use super::books::Slot;
use super::{BudgetExceeded, Core, MemoryBudget, Rank, Reclaim, Reservation};

/// Reserves from a budget under a name.
///
/// A clone is the same account. An account outlives the handle of its [`MemoryBudget`], and the budget works on.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(10));
/// let uploads = budget.account("uploads");
/// let part = uploads.try_reserve(ByteSize::mib(5))?;
/// assert_eq!((uploads.name(), uploads.held()), ("uploads", ByteSize::mib(5)));
/// drop(part);
/// assert_eq!((uploads.held(), uploads.peak()), (ByteSize::ZERO, ByteSize::mib(5)));
/// # Ok::<(), plimsoll::BudgetExceeded>(())
/// ```
#[derive(Clone)]
pub struct Account(Arc<Inner>);

/// On cache lines of its own: each reservation counts as a handle, and other accounts' threads must not notice.
#[repr(align(128))]
struct Inner {
    core: Arc<Core>,
    /// Its place in the books.
    index: usize,
}

impl Account {
    pub(super) fn open(core: Arc<Core>, name: &'static str) -> Self {
        let index = core.index_of(name);
        Self(Arc::new(Inner { core, index }))
    }

    /// Reserves `size`, asking others to give memory back if it is not free.
    ///
    /// Zero bytes are always granted, also by a budget that is overdrawn. A reservation may be kept for as long as one
    /// likes, and goes to any thread.
    ///
    /// Costs three atomic additions if the bytes are free. Else reclaimers run on this thread; see the
    /// [module](super). Where the limit was found in the environment, a large reservation, of about a thirty-second of it
    /// or more, looks at the rss as well, some two microseconds, and so does the first in a kernel's tick that brings the
    /// sum past a multiple of that; if the pages there are do not leave the room, free ones are given back, which takes
    /// milliseconds. Call it without holding a lock that a reclaimer, a value it drops or a trim hook may want.
    ///
    /// # Errors
    ///
    /// [`BudgetExceeded`], with the report. Sizes beyond the room, up to [`ByteSize::MAX`], are refused without asking
    /// anybody.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, MemoryBudget};
    ///
    /// let uploads = MemoryBudget::new(ByteSize::mib(10)).account("uploads");
    /// let part = uploads.try_reserve(ByteSize::mib(8))?;
    /// let refused = uploads.try_reserve(ByteSize::mib(8)).unwrap_err();
    /// assert_eq!(
    ///     refused.to_string(),
    ///     "uploads asked for 8.0 MiB, 2.0 MiB are free of a 10.0 MiB budget: held by uploads 8.0 MiB"
    /// );
    /// # drop(part);
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    #[inline]
    pub fn try_reserve(&self, size: ByteSize) -> Result<Reservation, BudgetExceeded> {
        let promised = self.take(size)?;
        Ok(Reservation::new(self.clone(), size, promised))
    }

    /// Reserves `size` if it is free, asking nobody: never blocks, and without a report where it is not.
    ///
    /// For code that holds a lock, and for a cache that evicts its own entries before it asks others.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, MemoryBudget};
    ///
    /// let prefetch = MemoryBudget::new(ByteSize::mib(1)).account("prefetch");
    /// assert!(prefetch.reserve_if_free(ByteSize::mib(2)).is_none(), "then without prefetching");
    /// ```
    #[inline]
    #[must_use = "what is reserved is given back when this is dropped"]
    pub fn reserve_if_free(&self, size: ByteSize) -> Option<Reservation> {
        self.take_if_free(size).then(|| Reservation::new(self.clone(), size, ByteSize::ZERO))
    }

    /// Enters `size` that is there already, such as a load whose cost was not known: it may overdraw the budget.
    ///
    /// Overdrawing raises the pressure, and nothing further is granted until the sum is back below the room;
    /// [`relieve`](Self::relieve) asks others for that. Entered are at most as many bytes as keep the budget's sum
    /// within `i64::MAX`; [`Reservation::size`] tells how many.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, MemoryBudget, Pressure};
    ///
    /// let budget = MemoryBudget::new(ByteSize::mib(10));
    /// let table = budget.account("table").book(ByteSize::mib(12)); // it is there, whatever the budget says
    /// assert_eq!((table.size(), budget.pressure()), (ByteSize::mib(12), Pressure::Critical));
    /// ```
    pub fn book(&self, size: ByteSize) -> Reservation {
        let booked = self.enter(size);
        Reservation::new(self.clone(), booked, ByteSize::ZERO)
    }

    /// Asks others for memory back until the budget is no longer overdrawn, as [`MemoryBudget::relieve`], sparing this
    /// account and those ranked above it.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, MemoryBudget};
    ///
    /// let account = MemoryBudget::new(ByteSize::mib(10)).account("table");
    /// let table = account.book(ByteSize::mib(12));
    /// assert!(!account.relieve(), "nobody else holds anything");
    /// drop(table);
    /// assert!(account.relieve());
    /// ```
    pub fn relieve(&self) -> bool {
        self.0.core.relieve(Some(self.0.index))
    }

    /// Names whom to ask when others need memory. It is asked while it lives; an earlier one is forgotten.
    ///
    /// On the account `other`, which is shared, it is set beside the earlier ones.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use plimsoll::{ByteSize, MemoryBudget, Pressure, budget::Rank};
    ///
    /// let budget = MemoryBudget::new(ByteSize::kib(100));
    /// let spare = budget.account("spare buffers");
    /// let held = Arc::new(Mutex::new(spare.try_reserve(ByteSize::kib(60))?));
    ///
    /// let buffers = Arc::clone(&held);
    /// let reclaimer = Arc::new(move |want: ByteSize, _: Pressure| {
    ///     buffers.try_lock().map_or(ByteSize::ZERO, |mut held| held.shrink(want)) // and frees as many
    /// });
    /// spare.set_reclaimer(Rank::BUFFER, Arc::downgrade(&reclaimer));
    ///
    /// let _body = budget.account("body").try_reserve(ByteSize::kib(70))?;
    /// assert_eq!(spare.held(), ByteSize::kib(30));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn set_reclaimer<R: Reclaim + 'static>(&self, rank: Rank, reclaimer: Weak<R>) {
        self.0.core.reclaimers.set(self.0.index, rank, reclaimer);
    }

    /// Tells the name: the one asked for, or `other`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// assert_eq!(MemoryBudget::new(ByteSize::ZERO).account("orders").name(), "orders");
    /// ```
    pub fn name(&self) -> &'static str {
        self.0.core.entry(self.0.index).name
    }

    /// Tells how much the account holds.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let orders = MemoryBudget::new(ByteSize::mib(1)).account("orders");
    /// let _one = orders.try_reserve(ByteSize::kib(3))?;
    /// let _other = orders.try_reserve(ByteSize::kib(4))?;
    /// assert_eq!(orders.held(), ByteSize::kib(7));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn held(&self) -> ByteSize {
        ByteSize::bytes(self.slot().held())
    }

    /// Tells the most it ever held.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let orders = MemoryBudget::new(ByteSize::mib(1)).account("orders");
    /// drop(orders.try_reserve(ByteSize::kib(64))?);
    /// assert_eq!(orders.peak(), ByteSize::kib(64));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn peak(&self) -> ByteSize {
        ByteSize::bytes(self.slot().peak())
    }

    /// Tells how full its budget is, as [`MemoryBudget::pressure`]. Costs two loads.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget, Pressure};
    /// let orders = MemoryBudget::new(ByteSize::mib(1)).account("orders");
    /// assert_eq!(orders.pressure(), Pressure::Calm);
    /// ```
    pub fn pressure(&self) -> Pressure {
        self.0.core.pressure()
    }

    /// Gives the budget it belongs to.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let orders = MemoryBudget::new(ByteSize::mib(1)).account("orders");
    /// assert_eq!(orders.budget().limit(), ByteSize::mib(1)); // the handle of the budget itself is long gone
    /// ```
    pub fn budget(&self) -> MemoryBudget {
        MemoryBudget { core: Arc::clone(&self.0.core) }
    }

    /// Returns `true` if the account is one of `budget`.
    pub(crate) fn belongs_to(&self, budget: &MemoryBudget) -> bool {
        Arc::ptr_eq(&self.0.core, &budget.core)
    }

    #[inline]
    fn slot(&self) -> &Slot<Meter> {
        &self.0.core.entry(self.0.index).slot
    }

    #[inline]
    pub(super) fn take_if_free(&self, size: ByteSize) -> bool {
        let (core, n) = (&*self.0.core, size.as_u64());
        if n == 0 {
            return true;
        }
        let Some(used) = core.line.take_to(self.slot(), n) else { return false };
        if core.pages.is_due(used, n) {
            core.look_at_pages(used);
        }
        true
    }

    /// Takes the bytes, and tells how many of them are counted as promised pages: all if they are large, else none.
    #[inline]
    pub(super) fn take(&self, size: ByteSize) -> Result<ByteSize, BudgetExceeded> {
        let (core, n) = (&*self.0.core, size.as_u64());
        let claim = if core.pages.is_large(n) { core.fit_pages(self.0.index, n)? } else { None };
        let promised = if claim.is_some() { size } else { ByteSize::ZERO };
        if self.take_if_free(size) {
            self.tidy();
            return Ok(promised);
        }
        let taken = core.take_reclaimed(self.0.index, n);
        if let Some(claim) = claim {
            core.settle(claim, taken.is_ok());
        }
        taken.map(|()| promised)
    }

    /// Gives free pages back where small reservations have taken new ones instead. Not under a lock.
    #[inline]
    pub(crate) fn tidy(&self) {
        if self.is_untidy() {
            self.0.core.trim(false);
        }
    }

    /// Whether [`tidy`](Self::tidy) has something to do.
    #[inline]
    pub(crate) fn is_untidy(&self) -> bool {
        self.0.core.pages.are_crowded()
    }

    /// Returns `true` if `size` bytes could be reserved, if all accounts that may be asked release everything, and this
    /// account `own` bytes.
    pub(crate) fn could_hold(&self, size: ByteSize, own: ByteSize) -> bool {
        let core = &*self.0.core;
        let kept = core.kept_from(self.0.index).saturating_sub(own.as_u64());
        kept.saturating_add(size.as_u64()) <= core.line.room()
    }

    /// Enters bytes that are there already, and tells how many were entered.
    pub(super) fn enter(&self, size: ByteSize) -> ByteSize {
        ByteSize::bytes(self.0.core.line.book(self.slot(), size.as_u64()))
    }

    #[inline]
    pub(super) fn give(&self, size: ByteSize, promised: ByteSize) {
        let core = &*self.0.core;
        core.line.give(self.slot(), size.as_u64());
        if promised > ByteSize::ZERO {
            core.pages.leave(promised.as_u64());
        }
    }

    /// Whether both are the same account of the same budget.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.core, &other.0.core) && self.0.index == other.0.index
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.name())
            .field("held", &self.held())
            .field("peak", &self.peak())
            .finish_non_exhaustive()
    }
}
