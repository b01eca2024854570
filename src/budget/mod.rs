//! One memory budget for everything that is large: caches, buffers and models reserve their bytes, so that their sum is
//! bounded as well.
//!
//! ```
//! use plimsoll::{ByteSize, MemoryBudget};
//!
//! let budget = MemoryBudget::new(ByteSize::mib(100)); // on Lambda: MemoryBudget::from_env()?
//! let orders = budget.account("orders")?;
//!
//! let mut reserved = orders.try_reserve(ByteSize::kib(64))?;   // before allocating
//! let mut buffer = Vec::<u8>::with_capacity(64 << 10);
//! reserved.try_grow(ByteSize::kib(64))?;
//! buffer.reserve_exact(128 << 10);
//! drop(buffer);
//! drop(reserved);                                              // after freeing
//! assert_eq!((orders.reserved(), orders.peak()), (ByteSize::ZERO, ByteSize::kib(128)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rules
//!
//! 1. Reserve before allocating, and release after freeing. A reservation counts bytes; it does not allocate them.
//! 2. All accounts are in one table under one lock. So figures and refusals are of one moment, and sums are exact.
//! 3. A request that does not fit reclaims memory from other accounts: their [reclaimers](Reclaim) run in the order of their
//!    [priority](ReclaimPriority), first at [`Pressure::High`], then at [`Pressure::Critical`], until they release nothing
//!    more. What they release is promised to the request. Then it is refused, with the largest accounts.
//! 4. Its own account is not asked: a cache evicts its own entries before. Nor is an account of a higher priority: a
//!    cache does not unload a model.
//! 5. A request that must fail in any case reclaims nothing.
//! 6. No lock of the budget is held while a reclaimer runs. A reclaimer does not wait for locks. What it reserves
//!    itself is granted if it is available, and refused otherwise.
//! 7. Nothing runs in the background, because Lambda freezes it.
//!
//! If the limit was found in the environment, the kernel enforces it, and three rules more hold. The second and the third need
//! the [tracking allocator](crate::TrackingAllocator).
//!
//! 8. A [margin](BudgetBuilder::margin) is left for memory that is not heap.
//! 9. *Unreserved heap* reduces the capacity: the live heap that no account has reserved. Reserved memory may not be allocated
//!    yet, so it is estimated: `min(live now, highest (live - reserved) of the last seconds)`.
//! 10. *Pages.* A request of 1/32 of the limit has to fit next to the resident pages and to what is reserved and not
//!     allocated yet. An allocator keeps pages of freed blocks, which may be too small for a large block. So it releases its free
//!     pages first; then memory is reclaimed; then the request is refused. Smaller requests are checked once for as many bytes. It
//!     is known of `System` on glibc, and of an allocator with a [trim hook](crate::os::set_trim_hook), that they
//!     release free pages. With others nothing is refused for its pages. On glibc such a budget sets `M_TRIM_THRESHOLD` to 1
//!     MiB, because `malloc_trim` cannot release the free end of an arena.
//!
//! With several requests at a time and glibc, [limit the arenas](crate::os::limit_arenas), because free pages of one thread's
//! arena are no use for another thread.
//!
//! # What is not counted
//!
//! Memory that is neither reserved nor heap: C code, thread stacks, mapped files. It is seen in the pages only.
//!
//! # Forks
//!
//! The child of a `fork` must not use a budget that other threads used at that moment: its lock may be taken.

mod account;
mod builder;
mod core;
mod error;
mod pressure;
mod reclaim;
mod reservation;
mod shared;
mod table;
mod wait;

use std::borrow::Cow;
use std::fmt;

use crate::size::ByteSize;

pub use account::Account;
pub use builder::{BudgetBuilder, BuildError, LimitBreakdown};
pub use error::{AccountError, BudgetExceeded, MinimumTooLarge};
pub use pressure::Pressure;
pub use reclaim::{Reclaim, ReclaimPriority, ReclaimerHandle, reclaim_fn};
pub use reservation::Reservation;
#[cfg(feature = "http")]
pub(crate) use wait::Claim;

use core::Core;
use pressure::Thresholds;
use table::Usage;

/// The most accounts of a budget.
///
/// # Examples
///
/// ```
/// use plimsoll::budget::MAX_ACCOUNTS;
///
/// assert_eq!(MAX_ACCOUNTS, 64);
/// ```
pub const MAX_ACCOUNTS: usize = 64;

/// Bounds the bytes that its accounts reserve in total.
///
/// See the [module](self) for the rules. A clone is the same budget. It is in use as long as it has handles, accounts or
/// reservations.
///
/// A limit of 0 grants nothing but reservations of zero bytes.
///
/// # Performance
///
/// A budget takes 3.3 KiB, which the next one uses after it. A reservation, made and dropped, takes its lock twice.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(100));
/// let (cache, buffers) = (budget.account("cache")?, budget.account("buffers")?);
/// let _entries = cache.try_reserve(ByteSize::mib(70))?;
/// assert!(buffers.try_reserve(ByteSize::mib(40)).is_err(), "their sum is bounded");
/// assert_eq!((budget.reserved(), budget.available()), (ByteSize::mib(70), ByteSize::mib(30)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MemoryBudget {
    core: &'static Core,
}

/// The figures of an account; see [`MemoryBudget::accounts`].
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(100));
/// let _model = budget.account("model")?.try_reserve(ByteSize::mib(30))?;
/// for account in budget.accounts() {
///     println!("{}: {} (peak {}, minimum {})", account.name, account.reserved, account.peak, account.minimum);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AccountUsage {
    /// The name of the account.
    pub name: &'static str,
    /// The bytes reserved now.
    pub reserved: ByteSize,
    /// The most bytes reserved at any time.
    pub peak: ByteSize,
    /// The [minimum share](Account::set_minimum); 0 for none.
    pub minimum: ByteSize,
}

impl From<Usage> for AccountUsage {
    fn from(usage: Usage) -> Self {
        Self {
            name: usage.name,
            reserved: ByteSize::bytes(usage.reserved),
            peak: ByteSize::bytes(usage.peak),
            minimum: ByteSize::bytes(usage.minimum),
        }
    }
}

/// The bytes that accounts can reserve in total, and the reason that it is not the limit; see [`MemoryBudget::capacity`].
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let capacity = MemoryBudget::new(ByteSize::mib(100)).capacity();
/// assert_eq!((capacity.unreserved_heap, capacity.total), (ByteSize::ZERO, ByteSize::mib(100)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BudgetCapacity {
    /// Live heap that no account has reserved, as estimated; at most the limit.
    pub unreserved_heap: ByteSize,
    /// The limit less the unreserved heap.
    pub total: ByteSize,
}

impl MemoryBudget {
    /// Creates a budget of `limit` bytes, with the defaults of [`BudgetBuilder`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// assert_eq!(MemoryBudget::new(ByteSize::mib(100)).available(), ByteSize::mib(100));
    /// ```
    pub fn new(limit: ByteSize) -> Self {
        Self::with(LimitBreakdown::given(limit), Thresholds::DEFAULT)
    }

    /// Creates a budget of what the environment leaves: Lambda's memory size less Lambda's own share and a margin, or
    /// the limit of the cgroup less the margin. [`limit_breakdown`](Self::limit_breakdown) returns the parts.
    ///
    /// # Errors
    ///
    /// [`BuildError::Environment`] if no limit is known, as on a laptop, or one is not understood.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let budget = plimsoll::MemoryBudget::from_env()?;
    /// println!("{}", budget.limit_breakdown());
    /// // 109.6 MiB: 128.0 MiB (lambda memory size) less 12.0 MiB for the environment and a margin of 6.4 MiB
    /// # Ok::<(), plimsoll::budget::BuildError>(())
    /// ```
    pub fn from_env() -> Result<Self, BuildError> {
        Self::builder().build()
    }

    /// Returns a builder with other settings.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::builder().limit(ByteSize::mib(100)).pressure_thresholds(70, 90).build()?;
    /// assert_eq!(budget.limit(), ByteSize::mib(100));
    /// # Ok::<(), plimsoll::budget::BuildError>(())
    /// ```
    pub fn builder() -> BudgetBuilder {
        BudgetBuilder::default()
    }

    fn with(breakdown: LimitBreakdown, thresholds: Thresholds) -> Self {
        Self { core: Core::new(breakdown, thresholds) }
    }

    fn of(core: &'static Core) -> Self {
        core.add_user();
        Self { core }
    }

    const fn core(&self) -> &'static Core {
        self.core
    }

    /// Counts unreserved heap from now on, because the limit is one of the whole process.
    pub(crate) fn count_heap(&self) {
        self.core.count_heap();
    }

    /// Returns the account of that name, and opens it if there is none.
    ///
    /// The name appears in reports, and the reserved bytes under it on the [board](crate::board). Names are kept for the
    /// life of the process; use one for each component, not for each tenant.
    ///
    /// # Errors
    ///
    /// [`AccountError`] beyond [`MAX_ACCOUNTS`] accounts, and beyond 1024 different names in the process.
    ///
    /// # Performance
    ///
    /// A search of the names, and an allocation for a new one. Keep the account.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let _reserved = budget.account(format!("shard {}", 7))?.try_reserve(ByteSize::mib(1))?;
    /// assert_eq!(budget.account("shard 7")?.reserved(), ByteSize::mib(1)); // the same name, the same account
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn account(&self, name: impl Into<Cow<'static, str>>) -> Result<Account, AccountError> {
        Account::open(self.core, name.into())
    }

    /// Returns the limit that the budget was created with.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// assert_eq!(MemoryBudget::new(ByteSize::mib(100)).limit(), ByteSize::mib(100));
    /// ```
    pub fn limit(&self) -> ByteSize {
        self.limit_breakdown().limit()
    }

    /// Returns the parts of the limit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// assert_eq!(MemoryBudget::new(ByteSize::mib(100)).limit_breakdown().to_string(), "100.0 MiB, as given");
    /// ```
    pub fn limit_breakdown(&self) -> LimitBreakdown {
        self.core.breakdown()
    }

    /// Returns the bytes that all accounts have reserved: the sum of [`accounts`](Self::accounts) at that moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let _reserved = budget.account("orders")?.try_reserve(ByteSize::mib(1))?;
    /// assert_eq!(budget.reserved(), ByteSize::mib(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserved(&self) -> ByteSize {
        ByteSize::bytes(self.core.reserved())
    }

    /// Returns the bytes that any account could reserve now without reclaiming. An account with a minimum share can have
    /// that in addition.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let _reserved = budget.account("orders")?.try_reserve(ByteSize::mib(1))?;
    /// assert_eq!(budget.available(), ByteSize::mib(99));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn available(&self) -> ByteSize {
        ByteSize::bytes(self.core.available(None))
    }

    /// Returns how full the budget is: the reserved bytes as a share of the [capacity](Self::capacity).
    ///
    /// # Performance
    ///
    /// The lock, and the exact live heap, some 200 ns.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget, Pressure};
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let _reserved = budget.account("orders")?.try_reserve(ByteSize::mib(96))?;
    /// assert!(budget.pressure() >= Pressure::Critical);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pressure(&self) -> Pressure {
        self.core.pressure()
    }

    /// Returns what each account has reserved, in the order of their opening, at one moment. Their sum is
    /// [`reserved`](Self::reserved).
    ///
    /// # Performance
    ///
    /// One allocation, outside of the lock.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let _reserved = budget.account("orders")?.try_reserve(ByteSize::mib(1))?;
    /// assert_eq!(budget.accounts()[0].name, "orders");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn accounts(&self) -> Vec<AccountUsage> {
        let mut accounts = Vec::with_capacity(MAX_ACCOUNTS);
        accounts.extend(self.core.shared.lock().usages().map(AccountUsage::from));
        accounts
    }

    /// Returns what accounts can reserve in total at this moment.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// assert_eq!(MemoryBudget::new(ByteSize::mib(100)).capacity().total, ByteSize::mib(100));
    /// ```
    pub fn capacity(&self) -> BudgetCapacity {
        let mut table = self.core.shared.lock();
        let total = table.capacity(&self.core.heap_readings());
        BudgetCapacity {
            unreserved_heap: ByteSize::bytes(table.limit().saturating_sub(total)),
            total: ByteSize::bytes(total),
        }
    }

    /// Reclaims memory until no more is reserved than the [capacity](Self::capacity). Returns `true` if nothing is left of the
    /// overdraft.
    ///
    /// More can be reserved than the capacity after an [`Account::reserve`], and if unreserved heap grew. High pressure alone
    /// reclaims nothing. A monitor calls it at the start of each invocation with a full report, and requests that
    /// [wait](Account::reserve_async) are looked at. Within a reclaimer it reclaims nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// assert!(budget.reclaim_overdraft(), "nothing is reserved");
    /// ```
    pub fn reclaim_overdraft(&self) -> bool {
        self.core.recheck_queue();
        self.core.reclaim_overdraft(None)
    }

    /// Reclaims `want` bytes from accounts of a priority up to `up_to`, whatever is available, and returns by how much less is
    /// reserved then.
    ///
    /// For moments when less is better than enough: before a snapshot of the process is taken, or when it will be idle for
    /// long. [`ByteSize::MAX`] reclaims what they can do without. Within a reclaimer it reclaims nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::{Arc, Mutex};
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// # use plimsoll::budget::{ReclaimPriority, reclaim_fn};
    /// # let budget = MemoryBudget::new(ByteSize::kib(100));
    /// # let cache = budget.account("cache")?;
    /// # let entries = Arc::new(Mutex::new(cache.try_reserve(ByteSize::kib(80))?));
    /// # let shared = Arc::clone(&entries);
    /// # let _registered = cache.register_reclaimer(ReclaimPriority::CACHE, reclaim_fn(move |want, _| {
    /// #     if let Ok(mut entries) = shared.try_lock() { entries.shrink(want); }
    /// # }));
    /// assert_eq!(budget.reclaim(ReclaimPriority::CACHE, ByteSize::kib(30)), ByteSize::kib(30));
    /// assert_eq!(budget.reclaim(ReclaimPriority::CACHE, ByteSize::MAX), ByteSize::kib(50));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reclaim(&self, up_to: ReclaimPriority, want: ByteSize) -> ByteSize {
        let before = self.core.reserved();
        let released = || before.saturating_sub(self.core.reserved());
        let missing = || Some(want.as_u64().saturating_sub(released())).filter(|left| *left > 0);
        let _as_much_as_possible = self.core.run_reclaimers(None, up_to, None, missing);
        ByteSize::bytes(released())
    }
}

impl Clone for MemoryBudget {
    fn clone(&self) -> Self {
        Self::of(self.core)
    }
}

impl Drop for MemoryBudget {
    fn drop(&mut self) {
        self.core.remove_user();
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("limit", &self.limit())
            .field("reserved", &self.reserved())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
