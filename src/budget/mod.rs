//! One memory budget for all that is large: caches, buffers and models reserve from it, so their sum has a bound too.
//!
//! ```
//! use plimsoll::{ByteSize, MemoryBudget};
//!
//! let budget = MemoryBudget::new(ByteSize::mib(100)); // on Lambda: MemoryBudget::from_env()?
//! let orders = budget.account("orders");
//!
//! let mut reserved = orders.try_reserve(ByteSize::kib(64))?;   // before allocating
//! let mut buffer = Vec::<u8>::with_capacity(64 << 10);
//! reserved.try_grow(ByteSize::kib(64))?;
//! buffer.reserve_exact(128 << 10);
//! drop(buffer);
//! drop(reserved);                                              // after freeing
//! assert_eq!((orders.held(), orders.peak()), (ByteSize::ZERO, ByteSize::kib(128)));
//! # Ok::<(), plimsoll::BudgetExceeded>(())
//! ```
//!
//! # Rules
//!
//! 1. Reserve before allocating, release after freeing. A reservation is a promise about memory, not memory.
//! 2. What does not fit is first [reclaimed](Reclaim) from others: in the order of their [`Rank`], in two rounds
//!    ([`Pressure::High`], then [`Pressure::Critical`]), each asked for what is still missing. Then it is refused, with
//!    a report of who holds what.
//! 3. The account that asks is not asked: a cache evicts its own entries first. Nor is anyone asked whose rank is above
//!    its own: a cache does not unload a model.
//! 4. Nobody is asked where all that could be given back would not be enough: a request that must fail costs no cache.
//! 5. No lock is held while a reclaimer runs, and a reclaimer does not wait for one: it uses `try_lock`, or a wait of a
//!    millisecond at most, or releases nothing.
//! 6. A reservation made inside a reclaimer is granted if it is free, and else refused at once.
//! 7. Nothing runs in the background, since Lambda freezes it. The room follows what the process really holds when
//!    [`MemoryBudget::rebaseline`] says how much that is: at the start of each invocation.
//! 8. Where the limit was found in the environment, the kernel has the last word. A reservation of about a thirty-second
//!    of the limit or more has to fit beside the anonymous pages of the process, less those that an earlier large one has
//!    left, and with those that others were promised lately and have not touched. If it does not, the allocator gives
//!    free pages [back](crate::os::trim), then others are asked, then it is refused: an allocator keeps pages of values
//!    that are gone, and what small values leave between those that stay is no room for a large one. An allocator that
//!    gives nothing back when asked is not judged by its pages.
//! 9. Small reservations are not held against the pages, each by itself. Where many of them have taken new pages past
//!    the limit while others lie free, [`Account::try_reserve`], [`Reservation::try_grow`] and a cache's insert give the
//!    free ones back.
//!
//! Rule 8 holds for [`Account::try_reserve`] and [`Reservation::try_grow`]. With several requests at a time leave a
//! [margin](BudgetBuilder::margin) for what becomes of pages between two looks, and on glibc set `MALLOC_ARENA_MAX=1`, as
//! free pages in one thread's arena are no room for another thread.
//!
//! # What is not counted
//!
//! What nobody reserves. Its heap is known from one [`MemoryBudget::rebaseline`] to the next, and not in between. Not
//! bounded: [`Account::book`], which states what is there already.

mod account;
mod baseline;
mod books;
mod builder;
mod core;
mod error;
mod outlook;
mod pages;
mod pressure;
mod reclaim;
mod reservation;

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::board::Meter;
use crate::size::ByteSize;
use crate::sync::Mutex;

pub use account::Account;
pub use baseline::Baseline;
pub use builder::{Basis, BudgetBuilder, BudgetError};
pub use error::BudgetExceeded;
pub use pressure::Pressure;
pub use reclaim::{Rank, Reclaim};
pub use reservation::Reservation;

use baseline::Reckoning;
use books::{Line, Slot};
use pages::Pages;
use pressure::Thresholds;
use reclaim::Registry;

/// Accounts with a name of their own; those beyond share the account `other`.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget, budget};
///
/// let all = MemoryBudget::new(ByteSize::mib(1));
/// (0..budget::ACCOUNTS).for_each(|n| drop(all.account(format!("tenant {n}").leak())));
/// assert_eq!(all.account("one more").name(), "other");
/// ```
pub const ACCOUNTS: usize = 64;

/// The name of the account that is shared.
const OTHER: &str = "other";

/// Bounds what its accounts hold together, in bytes.
///
/// See the [module](self) for the rules. A clone is the same budget. One takes 3 KiB, in one allocation, and goes when
/// the last of its handles, accounts and reservations does: releasing after the budget is gone is no special case.
///
/// A limit of zero grants nothing but reservations of zero bytes.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(100));
/// let (cache, buffers) = (budget.account("cache"), budget.account("buffers"));
/// let _entries = cache.try_reserve(ByteSize::mib(70))?;
/// assert!(buffers.try_reserve(ByteSize::mib(40)).is_err(), "their sum is bounded");
/// assert_eq!((budget.reserved(), budget.available()), (ByteSize::mib(70), ByteSize::mib(30)));
/// # Ok::<(), plimsoll::BudgetExceeded>(())
/// ```
#[derive(Clone)]
pub struct MemoryBudget {
    core: Arc<Core>,
}

/// What a budget, its accounts and their reservations share.
struct Core {
    line: Line,
    thresholds: Thresholds,
    basis: Basis,
    reckoning: Mutex<Reckoning>,
    pages: Pages,
    reclaimers: Registry,
    /// The accounts, filled from the first.
    entries: [OnceLock<Entry>; ACCOUNTS],
    /// The account of those that came too late for a name of their own.
    other: OnceLock<Entry>,
}

/// An account's place in the books.
struct Entry {
    name: &'static str,
    slot: Slot<Meter>,
}

/// What an account holds; see [`MemoryBudget::holders`].
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(100));
/// let _model = budget.account("model").try_reserve(ByteSize::mib(30))?;
/// for holding in budget.holders() {
///     println!("{}: {} (peak {})", holding.name, holding.held, holding.peak);
/// }
/// # Ok::<(), plimsoll::BudgetExceeded>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Holding {
    /// The account's name.
    pub name: &'static str,
    /// What it holds now.
    pub held: ByteSize,
    /// The most it ever held.
    pub peak: ByteSize,
}

impl MemoryBudget {
    /// Makes a budget of so many bytes, with the defaults of [`BudgetBuilder`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// assert_eq!(MemoryBudget::new(ByteSize::mib(100)).available(), ByteSize::mib(100));
    /// ```
    pub fn new(limit: ByteSize) -> Self {
        Self::with(Basis::given(limit), Thresholds::DEFAULT, None, None)
    }

    /// Makes a budget of what the environment leaves: Lambda's memory size less Lambda's own share and a margin, or
    /// the cgroup's limit less the margin. [`basis`](Self::basis) says what was taken, and why.
    ///
    /// # Errors
    ///
    /// [`BudgetError::Environment`] where no limit is known, as on a laptop, or one is not understood.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let budget = plimsoll::MemoryBudget::from_env()?;
    /// println!("{}", budget.basis());
    /// // 109.6 MiB: 128.0 MiB (lambda memory size) less 12.0 MiB for the environment and a margin of 6.4 MiB
    /// # Ok::<(), plimsoll::budget::BudgetError>(())
    /// ```
    pub fn from_env() -> Result<Self, BudgetError> {
        Self::builder().build()
    }

    /// Begins a budget with settings of one's own.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::builder().limit(ByteSize::mib(100)).pressure_at(70, 90).build()?;
    /// assert_eq!(budget.limit(), ByteSize::mib(100));
    /// # Ok::<(), plimsoll::budget::BudgetError>(())
    /// ```
    pub fn builder() -> BudgetBuilder {
        BudgetBuilder::default()
    }

    fn with(basis: Basis, thresholds: Thresholds, floor: Option<ByteSize>, step: Option<ByteSize>) -> Self {
        let limit = basis.limit();
        let reckoning = Reckoning {
            limit: limit.as_u64(),
            floor: floor.unwrap_or(limit.percent(BudgetBuilder::FLOOR_PERCENT)).as_u64(),
            step: step.unwrap_or(limit.percent(BudgetBuilder::STEP_PERCENT)).as_u64().max(1),
            unreserved: 0,
            overhead: 0,
            low: u64::MAX,
            carried: 0,
            height: 0,
        };
        let core = Core {
            line: Line::new(reckoning.room()),
            thresholds,
            basis,
            reckoning: Mutex::new(reckoning),
            pages: Pages::new(limit.as_u64(), basis.found().is_some()),
            reclaimers: Registry::default(),
            entries: [const { OnceLock::new() }; ACCOUNTS],
            other: OnceLock::new(),
        };
        Self { core: Arc::new(core) }
    }

    /// Finds the account of that name, or opens it; beyond [`ACCOUNTS`] names, the common one `other`.
    ///
    /// Names should be short and constant; they go into reports as they are. The same name is the same account. What
    /// accounts hold is published on the [board](crate::board). Costs a search of the names and an allocation of 256 bytes: keep the
    /// account.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let _held = budget.account("orders").try_reserve(ByteSize::mib(1))?;
    /// assert_eq!(budget.account("orders").held(), ByteSize::mib(1)); // the same name, the same account
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn account(&self, name: &'static str) -> Account {
        Account::open(Arc::clone(&self.core), name)
    }

    /// Tells the limit the budget was made with.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// assert_eq!(MemoryBudget::new(ByteSize::mib(100)).limit(), ByteSize::mib(100));
    /// ```
    pub fn limit(&self) -> ByteSize {
        self.core.basis.limit()
    }

    /// Tells where the limit comes from.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// assert_eq!(MemoryBudget::new(ByteSize::mib(100)).basis().to_string(), "100.0 MiB, as given");
    /// ```
    pub fn basis(&self) -> Basis {
        self.core.basis
    }

    /// Tells how much all accounts hold together.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let _held = budget.account("orders").try_reserve(ByteSize::mib(1))?;
    /// assert_eq!(budget.reserved(), ByteSize::mib(1));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn reserved(&self) -> ByteSize {
        ByteSize::bytes(self.core.line.used())
    }

    /// Tells how much could be reserved now without asking anyone to give something back.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let _held = budget.account("orders").try_reserve(ByteSize::mib(1))?;
    /// assert_eq!(budget.available(), ByteSize::mib(99));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn available(&self) -> ByteSize {
        ByteSize::bytes(self.core.available())
    }

    /// Tells how full the budget is: what is reserved against the room there is. Costs two loads.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget, Pressure};
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let _held = budget.account("orders").try_reserve(ByteSize::mib(96))?;
    /// assert!(budget.pressure() >= Pressure::Critical);
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn pressure(&self) -> Pressure {
        self.core.pressure()
    }

    /// Tells what every account holds, in the order of their opening, `other` last.
    ///
    /// Figures are read one after the other: they sum to [`reserved`](Self::reserved) whenever nobody reserves or
    /// releases meanwhile. No allocation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let _held = budget.account("orders").try_reserve(ByteSize::mib(1))?;
    /// assert_eq!(budget.holders().map(|holding| holding.name).collect::<Vec<_>>(), ["orders"]);
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn holders(&self) -> impl Iterator<Item = Holding> {
        self.core.opened().map(|Entry { name, slot }| Holding {
            name,
            held: ByteSize::bytes(slot.held()),
            peak: ByteSize::bytes(slot.peak()),
        })
    }

    /// Tells what of the limit is kept from being reserved, and the room that is left.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// assert_eq!(MemoryBudget::new(ByteSize::mib(100)).baseline().room, ByteSize::mib(100));
    /// ```
    pub fn baseline(&self) -> Baseline {
        self.core.reckoning.lock().report()
    }

    /// Corrects the room by how much heap is live: what nobody reserved is not there to be reserved.
    ///
    /// For the start of an invocation, when little is in flight: what is reserved and not allocated yet hides as much
    /// heap that nobody reserved. A room below what is reserved takes nothing away; [`relieve`](Self::relieve) does.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, MemoryBudget};
    ///
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// let _held = budget.account("cache").try_reserve(ByteSize::mib(40))?;
    /// budget.rebaseline(ByteSize::mib(55)); // 15 MiB of the heap are nobody's
    /// assert_eq!(budget.available(), ByteSize::mib(45));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn rebaseline(&self, live_heap: ByteSize) {
        self.core.reckon(|reckoning, reserved| reckoning.rebaseline(live_heap.as_u64(), reserved));
    }

    /// Corrects the room by what the rss has beyond the heap that its pages have carried: code, stacks, fragmentation.
    ///
    /// For once an invocation: the rss, and the peak heap since the last call. Pages that carried more heap than is
    /// live now are no overhead, since they will carry it again; as many as the rss fell by are taken to be given
    /// back. The first measurement is taken as it is; from then on the figure kept moves a quarter of the way to the one
    /// measured, upward by at most [one step](BudgetBuilder::overhead_step). It never takes more than what leaves the
    /// [floor](BudgetBuilder::floor) of the room.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, MemoryBudget};
    ///
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// budget.observe_rss(ByteSize::mib(48), ByteSize::mib(40));
    /// assert_eq!(budget.available(), ByteSize::mib(92)); // 8 MiB are no heap
    /// ```
    pub fn observe_rss(&self, rss: ByteSize, peak_heap: ByteSize) {
        self.core.reckon(|reckoning, _| reckoning.observe_rss(rss.as_u64(), peak_heap.as_u64()));
        self.core.pages.note(rss.as_u64());
    }

    /// Asks for memory back until the budget is no longer overdrawn, and tells whether that is so.
    ///
    /// A budget is overdrawn after a [`rebaseline`](Self::rebaseline) that found the room smaller than what is
    /// reserved, and after an [`Account::book`]. High pressure alone takes nothing from anyone. Inside a reclaimer,
    /// nobody is asked. Costs three loads if there is nothing to do. Where the limit was found in the environment, and
    /// more anonymous pages than that were there when last looked at, free ones are [given back](crate::os::trim) first,
    /// which takes milliseconds; not again until a thirty-second of the limit has become free beside the live heap.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::new(ByteSize::mib(100));
    /// budget.rebaseline(ByteSize::mib(120)); // more heap than the limit, and nobody to give any back
    /// assert!(budget.relieve(), "nothing is reserved, so nothing is overdrawn");
    /// ```
    pub fn relieve(&self) -> bool {
        self.core.relieve(None)
    }

    /// Asks for `want` back from those ranked up to `up_to`, whatever is free, and tells how much less is reserved then.
    ///
    /// For when less is better than enough: before a snapshot of the process is taken, or when it will be idle for long.
    /// They are asked in two rounds as for a reservation, so [`ByteSize::MAX`] takes whatever they can do without. Inside
    /// a reclaimer, nobody is asked.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::{Arc, Mutex};
    /// # use plimsoll::{ByteSize, MemoryBudget, budget::Rank};
    /// # let budget = MemoryBudget::new(ByteSize::kib(100));
    /// # let held = Arc::new(Mutex::new(budget.account("cache").try_reserve(ByteSize::kib(80))?));
    /// # let shared = Arc::clone(&held);
    /// # let reclaimer = Arc::new(move |want: ByteSize, _| {
    /// #     shared.try_lock().map_or(ByteSize::ZERO, |mut held| held.shrink(want))
    /// # });
    /// # budget.account("cache").set_reclaimer(Rank::CACHE, Arc::downgrade(&reclaimer));
    /// assert_eq!(budget.reclaim(Rank::CACHE, ByteSize::kib(30)), ByteSize::kib(30));
    /// assert_eq!(budget.reclaim(Rank::CACHE, ByteSize::MAX), ByteSize::kib(50));
    /// # Ok::<(), plimsoll::BudgetExceeded>(())
    /// ```
    pub fn reclaim(&self, up_to: Rank, want: ByteSize) -> ByteSize {
        let before = self.reserved();
        let freed = || before.saturating_sub(self.reserved());
        self.core.reclaim(None, up_to, || Some(want.saturating_sub(freed())).filter(|left| *left > ByteSize::ZERO));
        freed()
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("limit", &self.limit())
            .field("reserved", &self.reserved())
            .field("baseline", &self.baseline())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
