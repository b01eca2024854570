//! A named part of a budget: the unit of reports.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::board;
use crate::heap;
use crate::size::ByteSize;

#[cfg(feature = "http")]
use super::Claim;
use super::core::Core;
use super::error::{AccountError, MinimumTooLarge};
use super::pressure::Pressure;
use super::reclaim::Registry;
use super::{BudgetExceeded, MAX_ACCOUNTS, MemoryBudget, Reclaim, ReclaimPriority, ReclaimerHandle, Reservation, wait};

/// An account of a table. It is not counted as a user: [`Account`] and [`Reservation`] are.
#[derive(Clone, Copy)]
pub(super) struct AccountRef {
    pub(super) core: &'static Core,
    pub(super) index: usize,
}

impl AccountRef {
    /// Reserves `size`, and counts `users` more.
    #[inline]
    pub(super) fn take(self, size: ByteSize, users: u64) -> Result<(), BudgetExceeded> {
        let n = size.as_u64();
        let live = self.core.live_estimate();
        let mut table = self.core.shared.lock();
        // Zero bytes are granted even if more is reserved than the capacity.
        if n == 0 || table.try_reserve(self.index, n, live) {
            table.users += users;
            drop(table);
            heap::note_reserved(n.cast_signed());
            return Ok(());
        }
        drop(table);
        self.take_slowly(n, users)
    }

    #[cold]
    fn take_slowly(self, n: u64, users: u64) -> Result<(), BudgetExceeded> {
        self.core.reserve_slow(self.index, n)?;
        heap::note_reserved(n.cast_signed());
        if users > 0 {
            self.core.add_user();
        }
        Ok(())
    }

    /// Reserves `size` if it is available, and counts `users` more.
    #[inline]
    pub(super) fn take_without_reclaim(self, size: ByteSize, users: u64) -> bool {
        let n = size.as_u64();
        let live = self.core.live_estimate();
        let mut table = self.core.shared.lock();
        let is_taken = n == 0 || table.try_reserve_unchecked(self.index, n, live);
        if is_taken {
            table.users += users;
            if table.is_check_due() {
                self.core.shared.set_check_due();
            }
            drop(table);
            heap::note_reserved(n.cast_signed());
        }
        is_taken
    }

    /// Reserves up to `size`, and returns how much.
    pub(super) fn reserve(self, size: ByteSize, users: u64) -> ByteSize {
        let mut table = self.core.shared.lock();
        table.users += users;
        let reserved = table.reserve(self.index, size.as_u64());
        drop(table);
        heap::note_reserved(reserved.cast_signed());
        ByteSize::bytes(reserved)
    }

    /// Releases `size`, and counts `users` less.
    #[inline]
    pub(super) fn release(self, size: ByteSize, users: u64) {
        let mut table = self.core.shared.lock();
        let is_awaited = table.release(self.index, size.as_u64());
        table.users -= users;
        let is_unused = table.users == 0;
        drop(table);
        heap::note_reserved(size.as_u64().cast_signed().wrapping_neg());
        if is_awaited {
            // Requests that wait are users.
            self.core.serve();
        }
        if is_unused {
            self.core.recycle();
        }
    }

    pub(super) fn is(self, other: Self) -> bool {
        std::ptr::eq(self.core, other.core) && self.index == other.index
    }

    pub(super) fn name(self) -> &'static str {
        self.core.shared.lock().usage(self.index).name
    }

    pub(super) fn available(self) -> ByteSize {
        ByteSize::bytes(self.core.available(Some(self.index)))
    }

    pub(super) fn could_reserve(self, size: ByteSize, own: ByteSize) -> bool {
        self.core.could_reserve(self.index, size.as_u64(), own.as_u64())
    }

    pub(super) fn is_check_due(self) -> bool {
        self.core.shared.is_check_due()
    }
}

/// Reserves bytes of a budget under a name.
///
/// A clone is the same account. An account can be used after all handles of its [`MemoryBudget`] are dropped.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(10));
/// let uploads = budget.account("uploads")?;
/// let part = uploads.try_reserve(ByteSize::mib(5))?;
/// assert_eq!((uploads.name(), uploads.reserved()), ("uploads", ByteSize::mib(5)));
/// drop(part);
/// assert_eq!((uploads.reserved(), uploads.peak()), (ByteSize::ZERO, ByteSize::mib(5)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Account(AccountRef);

impl Account {
    pub(super) fn open(core: &'static Core, name: Cow<'static, str>) -> Result<Self, AccountError> {
        let name = board::intern(name).ok_or(AccountError::TooManyNames { max: board::MAX_NAMES })?;
        let mut table = core.shared.lock();
        let index = table.open(name, board::meter).ok_or(AccountError::TooManyAccounts { name, max: MAX_ACCOUNTS })?;
        table.users += 1;
        Ok(Self(AccountRef { core, index }))
    }

    /// Makes an account of a place, which has one more user for it.
    pub(super) fn of(place: AccountRef) -> Self {
        place.core.add_user();
        Self(place)
    }

    /// Reserves `size`. If it is not available, reclaims memory from other accounts first.
    ///
    /// Zero bytes are always granted. A reservation can be kept as long as needed, and moved to other threads.
    ///
    /// # Errors
    ///
    /// [`BudgetExceeded`], with the largest accounts. Sizes that no reclaim could make room for, up to [`ByteSize::MAX`],
    /// are refused without one.
    ///
    /// # Performance
    ///
    /// One lock and a few additions if the bytes are available. Otherwise it waits until no other request reclaims, at most
    /// 100 ms, and reclaimers run on this thread: call it without holding a lock that a reclaimer, a value that it drops,
    /// or a trim hook needs. If the limit was found in the environment, requests of 1/32 of it, and one of as many bytes
    /// of smaller ones, read the resident pages, about 2 us; if they are in the way, the allocator releases free ones,
    /// about 100 us for each MiB.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, MemoryBudget};
    ///
    /// let uploads = MemoryBudget::new(ByteSize::mib(10)).account("uploads")?;
    /// let part = uploads.try_reserve(ByteSize::mib(8))?;
    /// let refused = uploads.try_reserve(ByteSize::mib(8)).unwrap_err();
    /// assert_eq!(
    ///     refused.to_string(),
    ///     "uploads asked for 8.0 MiB, 2.0 MiB are available of a 10.0 MiB budget: reserved by uploads 8.0 MiB"
    /// );
    /// # drop(part);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_reserve(&self, size: ByteSize) -> Result<Reservation, BudgetExceeded> {
        self.0.take(size, 1)?;
        Ok(Reservation::new(self.0, size))
    }

    /// Reserves `size` if it is available, and reclaims nothing. Never waits, except for the budget's own short lock.
    ///
    /// For code that holds a lock, and for a cache that evicts its own entries before it reclaims from others.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, MemoryBudget};
    ///
    /// let prefetch = MemoryBudget::new(ByteSize::mib(1)).account("prefetch")?;
    /// assert!(prefetch.try_reserve_without_reclaim(ByteSize::mib(2)).is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[must_use = "the bytes are released when this is dropped"]
    pub fn try_reserve_without_reclaim(&self, size: ByteSize) -> Option<Reservation> {
        self.0.take_without_reclaim(size, 1).then(|| Reservation::new(self.0, size))
    }

    /// Reserves `size` in any case, for memory that is allocated already: more than the capacity can be reserved then.
    ///
    /// Nothing else is granted until the sum is below the capacity again;
    /// [`reclaim_overdraft`](Self::reclaim_overdraft) reclaims memory for that. At most `i64::MAX` bytes are reserved in total;
    /// [`Reservation::size`] returns how many were.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, MemoryBudget, Pressure};
    ///
    /// let budget = MemoryBudget::new(ByteSize::mib(10));
    /// let table = budget.account("table")?.reserve(ByteSize::mib(12)); // it is there, whatever the budget allows
    /// assert_eq!((table.size(), budget.pressure()), (ByteSize::mib(12), Pressure::Critical));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve(&self, size: ByteSize) -> Reservation {
        let reserved = self.0.reserve(size, 1);
        Reservation::new(self.0, reserved)
    }

    /// Reserves `size`, and waits for it until `deadline` is ready.
    ///
    /// The crate has no timer, so the deadline is a future of your runtime, such as `tokio::time::sleep`. It is required,
    /// because the bytes may never be released. Requests that wait get their bytes in the order of their first poll: a large one
    /// is not overtaken by small ones that wait. When it is the first of the queue, it reclaims memory as
    /// [`try_reserve`](Self::try_reserve) does, on the thread that polls it.
    ///
    /// # Cancellation
    ///
    /// Dropped, it leaves the queue, and bytes that were granted already are released.
    ///
    /// # Deadlocks
    ///
    /// A task that holds a reservation and waits for another one can wait for a task that does the same. Both end at
    /// their deadline. Reserve all that a task needs at once.
    ///
    /// # Fairness
    ///
    /// [`try_reserve`](Self::try_reserve) does not queue: it takes what is available at its moment. If all requests wait,
    /// the order is strict. A request within its [minimum share](Self::set_minimum) does not queue either.
    ///
    /// # Errors
    ///
    /// [`BudgetExceeded`] at the deadline; at once if `size` is above the limit less the minimum shares of others, so that it
    /// could never be granted, and within a reclaimer.
    ///
    /// # Performance
    ///
    /// The first poll is a [`try_reserve`](Self::try_reserve). Later ones take the lock and search the queue by halves. A
    /// request that waits takes 48 bytes of the queue, which has no bound of its own: bound the tasks.
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
    /// use std::time::Duration;
    /// use plimsoll::{ByteSize, MemoryBudget};
    ///
    /// let uploads = MemoryBudget::new(ByteSize::mib(10)).account("uploads")?;
    /// let first = uploads.try_reserve(ByteSize::mib(8))?;
    /// let deadline = || tokio::time::sleep(Duration::from_secs(5));
    /// let (second, ()) = tokio::join!(uploads.reserve_async(ByteSize::mib(8), deadline()), async { drop(first) });
    /// assert_eq!(second?.size(), ByteSize::mib(8));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn reserve_async(
        &self,
        size: ByteSize,
        deadline: impl Future<Output = ()>,
    ) -> Result<Reservation, BudgetExceeded> {
        wait::reserve_async(self.0, size, deadline).await
    }

    /// Reserves `size`, and blocks the thread until it is granted, for at most `timeout`.
    ///
    /// The blocking form of [`reserve_async`](Self::reserve_async), in the same queue. A `timeout` of zero does not wait.
    ///
    /// # Errors
    ///
    /// Those of [`reserve_async`](Self::reserve_async).
    ///
    /// # Performance
    ///
    /// One small allocation, and what [`reserve_async`](Self::reserve_async) takes.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use plimsoll::{ByteSize, MemoryBudget};
    ///
    /// let uploads = MemoryBudget::new(ByteSize::mib(10)).account("uploads")?;
    /// let first = uploads.reserve_blocking(ByteSize::mib(8), Duration::from_secs(1))?;
    /// assert!(uploads.reserve_blocking(ByteSize::mib(8), Duration::from_millis(1)).is_err());
    /// # drop(first);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve_blocking(&self, size: ByteSize, timeout: Duration) -> Result<Reservation, BudgetExceeded> {
        wait::reserve_blocking(self.0, size, timeout)
    }

    /// Reserves `size` as [`try_reserve`](Self::try_reserve), but not before requests that wait.
    #[cfg(feature = "http")]
    pub(crate) fn try_reserve_in_turn(&self, size: ByteSize) -> Result<Reservation, BudgetExceeded> {
        wait::try_reserve_in_turn(self.0, size)
    }

    /// Returns the refusal of a request for `size`.
    #[cfg(feature = "http")]
    pub(crate) fn refusal(&self, size: ByteSize) -> BudgetExceeded {
        wait::refusal(self.0, size)
    }

    /// Returns a request for `size` that joins the queue when it is polled. If not `may_reclaim`, no account releases memory
    /// for it.
    #[cfg(feature = "http")]
    pub(crate) fn claim(&self, size: ByteSize, may_reclaim: bool) -> Claim {
        Claim::new(self.0, size, may_reclaim)
    }

    /// Reserves `size` if it is available, and calls no reclaimers; the allocator may release free pages. `in_turn`: not
    /// before requests that wait.
    #[cfg(feature = "http")]
    pub(crate) fn try_reserve_without_reclaimers(&self, size: ByteSize, in_turn: bool) -> Option<Reservation> {
        wait::try_reserve_without_reclaimers(self.0, size, in_turn)
    }

    /// Sets how much of the limit only this account can have. Default: 0, no share of its own.
    ///
    /// For what must work while others fill the budget, such as a health check. It is a part of the capacity: if unreserved heap
    /// takes the capacity, the share cannot be granted either.
    ///
    /// # Errors
    ///
    /// [`MinimumTooLarge`] if the minimum shares of all accounts were above the limit. The share is as before.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, MemoryBudget};
    ///
    /// let budget = MemoryBudget::new(ByteSize::mib(10));
    /// let (health, bulk) = (budget.account("health")?, budget.account("bulk")?);
    /// health.set_minimum(ByteSize::kib(64))?;
    /// assert!(bulk.try_reserve(ByteSize::mib(10)).is_err());
    /// let _bulk = bulk.try_reserve(ByteSize::mib(10).saturating_sub(ByteSize::kib(64)))?;
    /// let _check = health.try_reserve(ByteSize::kib(64))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_minimum(&self, minimum: ByteSize) -> Result<(), MinimumTooLarge> {
        let AccountRef { core, index } = self.0;
        let set = core.shared.lock().set_minimum(index, minimum.as_u64());
        core.recheck_queue();
        set.map_err(|left| MinimumTooLarge { account: self.name(), minimum, available: ByteSize::bytes(left) })
    }

    /// Reclaims memory from others until no more is reserved than the capacity, as [`MemoryBudget::reclaim_overdraft`], but
    /// not from this account and from those of a higher priority. Returns `true` if nothing is left of the overdraft.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, MemoryBudget};
    ///
    /// let account = MemoryBudget::new(ByteSize::mib(10)).account("table")?;
    /// let table = account.reserve(ByteSize::mib(12));
    /// assert!(!account.reclaim_overdraft(), "no other account has reserved anything");
    /// drop(table);
    /// assert!(account.reclaim_overdraft());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reclaim_overdraft(&self) -> bool {
        self.0.core.reclaim_overdraft(Some(self.0.index))
    }

    /// Registers a reclaimer, which is called when other accounts need memory. The handle keeps it alive; dropped, it
    /// unregisters it. An account can have several.
    ///
    /// A component that owns the handle and is its own reclaimer registers a small value with a [`Weak`](std::sync::Weak)
    /// reference to itself, so that it can be dropped.
    ///
    /// # Performance
    ///
    /// An allocation for the reclaimer, and an insertion into a sorted list.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use plimsoll::budget::{ReclaimPriority, reclaim_fn};
    /// use plimsoll::{ByteSize, MemoryBudget};
    ///
    /// let budget = MemoryBudget::new(ByteSize::kib(100));
    /// let spare = budget.account("spare buffers")?;
    /// let buffers = Arc::new(Mutex::new(spare.try_reserve(ByteSize::kib(60))?));
    ///
    /// let shared = Arc::clone(&buffers);
    /// let _registered = spare.register_reclaimer(ReclaimPriority::BUFFER, reclaim_fn(move |want, _| {
    ///     if let Ok(mut buffers) = shared.try_lock() {
    ///         buffers.shrink(want); // after freeing as many
    ///     }
    /// }));
    ///
    /// let _body = budget.account("body")?.try_reserve(ByteSize::kib(70))?;
    /// assert_eq!(spare.reserved(), ByteSize::kib(30));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn register_reclaimer(&self, priority: ReclaimPriority, reclaimer: impl Reclaim + 'static) -> ReclaimerHandle {
        ReclaimerHandle::register(self, priority, Arc::new(reclaimer))
    }

    /// Returns the name.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// assert_eq!(MemoryBudget::new(ByteSize::ZERO).account("orders")?.name(), "orders");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// Returns the bytes that the account has reserved.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let orders = MemoryBudget::new(ByteSize::mib(1)).account("orders")?;
    /// let _one = orders.try_reserve(ByteSize::kib(3))?;
    /// let _other = orders.try_reserve(ByteSize::kib(4))?;
    /// assert_eq!(orders.reserved(), ByteSize::kib(7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserved(&self) -> ByteSize {
        ByteSize::bytes(self.0.core.shared.lock().usage(self.0.index).reserved)
    }

    /// Returns the most bytes that the account ever had reserved.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let orders = MemoryBudget::new(ByteSize::mib(1)).account("orders")?;
    /// drop(orders.try_reserve(ByteSize::kib(64))?);
    /// assert_eq!(orders.peak(), ByteSize::kib(64));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peak(&self) -> ByteSize {
        ByteSize::bytes(self.0.core.shared.lock().usage(self.0.index).peak)
    }

    /// Returns how full the budget is, as [`MemoryBudget::pressure`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget, Pressure};
    /// let orders = MemoryBudget::new(ByteSize::mib(1)).account("orders")?;
    /// assert_eq!(orders.pressure(), Pressure::Normal);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pressure(&self) -> Pressure {
        self.0.core.pressure()
    }

    /// Returns the budget of the account.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let orders = MemoryBudget::new(ByteSize::mib(1)).account("orders")?;
    /// assert_eq!(orders.budget().limit(), ByteSize::mib(1)); // the first handle of the budget is long gone
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn budget(&self) -> MemoryBudget {
        MemoryBudget::of(self.0.core)
    }

    /// Returns `true` if the account is one of `budget`.
    pub(crate) fn belongs_to(&self, budget: &MemoryBudget) -> bool {
        std::ptr::eq(self.0.core, budget.core())
    }

    /// Returns the bytes that the account can have without reclaiming.
    pub(crate) fn available(&self) -> ByteSize {
        self.0.available()
    }

    /// Returns `true` if `size` bytes could be reserved after all accounts that may be asked have released everything, and this
    /// account `own` bytes.
    pub(crate) fn could_reserve(&self, size: ByteSize, own: ByteSize) -> bool {
        self.0.could_reserve(size, own)
    }

    /// Checks the pages, if that is due. No caller may hold a lock that a reclaimer wants.
    #[inline]
    pub(crate) fn check_pages_if_due(&self) {
        if self.0.is_check_due() {
            self.0.core.check_pages();
        }
    }

    pub(super) fn recheck_queue(&self) {
        self.0.core.recheck_queue();
    }

    pub(super) const fn index(&self) -> usize {
        self.0.index
    }

    pub(super) const fn reclaimers(&self) -> &'static Registry {
        &self.0.core.reclaimers
    }
}

impl Clone for Account {
    fn clone(&self) -> Self {
        Self::of(self.0)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.0.core.remove_user();
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.name())
            .field("reserved", &self.reserved())
            .field("peak", &self.peak())
            .finish_non_exhaustive()
    }
}
