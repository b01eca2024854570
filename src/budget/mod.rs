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
//! 5. No lock is held while a reclaimer runs, and a reclaimer never waits for one: it uses `try_lock` or gives nothing.
//! 6. A reservation made inside a reclaimer is granted if it is free, and else refused at once.
//! 7. Nothing runs in the background, since Lambda freezes it. The room follows what the process really holds when
//!    [`MemoryBudget::rebaseline`] says how much that is: at the start of each invocation.
//! 8. Where the limit was found in the environment, the kernel has the last word. A reservation of about a thirty-second
//!    of the limit or more has to fit beside the anonymous pages of the process, less those that an earlier large one has
//!    left. If it does not, the allocator gives free pages [back](crate::os::trim), then others are asked, then it is
//!    refused: an allocator keeps pages of values that are gone, and what small values leave between those that stay is
//!    no room for a large one. An allocator that gives nothing back when asked is not judged by its pages.
//!
//! Rule 8 holds for [`Account::try_reserve`] and [`Reservation::try_grow`], each by itself. It looks at the pages as they
//! are, so what several threads have reserved and not touched yet is not in it. With several requests at a time leave a
//! [margin](BudgetBuilder::margin) of what they may touch together, and on glibc set `MALLOC_ARENA_MAX=1`, as free pages
//! in one thread's arena are no room for another thread.
//!
//! # What is not counted
//!
//! What nobody reserves. Its heap is known from one [`MemoryBudget::rebaseline`] to the next, and not in between. Not
//! bounded: [`Account::book`], which states what is there already.

mod account;
mod baseline;
mod books;
mod builder;
mod error;
mod pages;
mod pressure;
mod reclaim;
mod reservation;

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::board::{self, Meter};
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
use error::Refusal;
use pages::Pages;
use pressure::Thresholds;
use reclaim::{Reclaiming, Registry};

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
            unaccounted: 0,
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
    /// accounts hold is published on the [board]. Costs a search of the names and an allocation of 256 bytes: keep the
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
    /// which takes milliseconds; not again until they have grown by a thirty-second of the limit.
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

impl Core {
    /// The place of an account; those beyond the last share one.
    #[inline]
    fn entry(&self, index: usize) -> &Entry {
        self.entries.get(index).unwrap_or(&self.other).get_or_init(|| Entry::new(OTHER))
    }

    /// The index of the account of that name, which is put there unless all places are taken.
    fn index_of(&self, name: &'static str) -> usize {
        let own = |entry: &OnceLock<Entry>| entry.get_or_init(|| Entry::new(name)).name == name;
        let found = if name == OTHER { None } else { self.entries.iter().position(own) };
        found.unwrap_or(ACCOUNTS)
    }

    fn opened(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map_while(OnceLock::get).chain(self.other.get())
    }

    fn pressure(&self) -> Pressure {
        self.thresholds.pressure(self.line.used(), self.line.room())
    }

    fn available(&self) -> u64 {
        self.line.room().saturating_sub(self.line.used())
    }

    fn reckon(&self, correct: impl FnOnce(&mut Reckoning, u64)) {
        let mut reckoning = self.reckoning.lock();
        correct(&mut reckoning, self.line.used());
        self.line.set_room(reckoning.room());
    }

    /// Corrects the overhead in the middle of an invocation that reserves much; `used` stands for the heap that is live.
    #[cold]
    fn look_at_pages(&self, used: u64) {
        // Another thread looks, or tells what it saw: no need to wait, and perhaps a lock is held.
        let Some(mut reckoning) = self.reckoning.try_lock() else { return };
        if !reckoning.is_new_height(used) {
            return;
        }
        let Some(rss) = pages::rss() else { return };
        let live = used.saturating_add(reckoning.unaccounted);
        reckoning.observe_rss(rss, live);
        self.line.set_room(reckoning.room());
        self.pages.note(rss);
    }

    /// Sees to it that a large reservation, not taken yet, fits beside the pages there are.
    #[cold]
    fn fit_pages(&self, asker: usize, n: u64) -> Result<(), BudgetExceeded> {
        let missing = || self.pages.missing(n, self.line.used().saturating_add(self.reckoning.lock().unaccounted));
        // What is beyond the room is refused for that, when it is taken.
        if n > self.line.room() || missing().is_none() {
            return Ok(());
        }
        self.trim(false);
        let Some(over) = missing().filter(|_| self.pages.are_trimmed()) else { return Ok(()) };
        // Who holds less than that is not asked in vain.
        let mut used = self.line.used();
        let granted = used.saturating_sub(self.kept_from(asker)) >= over
            && self.reclaim(Some(asker), Rank::HIGHEST, || {
                let now = self.line.used();
                if now < used {
                    self.trim(true);
                }
                used = now;
                missing().map(ByteSize::bytes)
            });
        if granted {
            return Ok(());
        }
        let beside = ByteSize::bytes(n.saturating_sub(missing().unwrap_or(0)));
        let refusal = self.refusal(asker, n);
        Err(Refusal { available: refusal.available.min(beside), ..refusal }.into())
    }

    /// Gives free pages back, and has what is left of the rss beyond the live heap told from pages that carried more.
    fn trim(&self, always: bool) {
        if self.pages.trim(always)
            && let Some(rss) = pages::rss()
        {
            self.reckon(|reckoning, used| reckoning.trimmed(rss, used));
        }
    }

    /// What those hold who would not be asked.
    fn kept_from(&self, asker: usize) -> u64 {
        let askable = self.reclaimers.askable(asker);
        let places = self.entries.iter().chain([&self.other]).enumerate();
        let kept = places.filter(|(index, _)| askable >> index & 1 == 0).filter_map(|(_, entry)| entry.get());
        kept.fold(0, |sum, entry| sum.saturating_add(entry.slot.held()))
    }

    /// Asks reclaimers in turn until nothing is `missing`, and tells whether that is so; `missing` is called again
    /// after each. Nobody is asked who is ranked above `up_to`; for `asker`, an account, only those that it may ask.
    fn reclaim(&self, asker: Option<usize>, up_to: Rank, mut missing: impl FnMut() -> Option<ByteSize>) -> bool {
        let Some(_guard) = Reclaiming::begin() else { return missing().is_none() };
        for pressure in [Pressure::High, Pressure::Critical] {
            let (mut last, count) = (None, self.reclaimers.count());
            loop {
                let Some(want) = missing() else { return true };
                let next = self.reclaimers.after(last, count, asker);
                let Some((key, reclaimer)) = next.filter(|(key, _)| key.rank() <= up_to) else { break };
                reclaim::ask(reclaimer, want, pressure);
                last = Some(key);
            }
        }
        false
    }

    fn relieve(&self, asker: Option<usize>) -> bool {
        let overdrawn = || {
            let over = self.line.used().saturating_sub(self.line.room());
            Some(ByteSize::bytes(over)).filter(|&over| over > ByteSize::ZERO)
        };
        if self.pages.are_in_the_way() {
            self.trim(false);
        }
        overdrawn().is_none() || self.reclaim(asker, Rank::HIGHEST, overdrawn)
    }

    /// Takes `n` bytes that were not free, from what others give back.
    #[cold]
    fn take_reclaimed(&self, asker: usize, n: u64) -> Result<(), BudgetExceeded> {
        let slot = &self.entry(asker).slot;
        // What the others hold may move meanwhile, and all of it may be had.
        let kept = self.kept_from(asker).saturating_add(n);
        let granted = kept <= self.line.room()
            && self.reclaim(Some(asker), Rank::HIGHEST, || {
                if self.line.take(slot, n) {
                    return None;
                }
                // Where the budget is overdrawn, that comes on top.
                let sum = self.line.used().saturating_add(n);
                Some(ByteSize::bytes(sum.saturating_sub(self.line.room()).max(1)))
            });
        if granted { Ok(()) } else { Err(self.refusal(asker, n).into()) }
    }

    fn refusal(&self, asker: usize, n: u64) -> Refusal {
        let mut holders = [None; 3];
        for Entry { name, slot } in self.opened() {
            // Sinks to its place, pushing smaller ones down and the smallest out.
            let mut sinking = Some((*name, ByteSize::bytes(slot.held()))).filter(|(_, held)| *held > ByteSize::ZERO);
            for place in &mut holders {
                if sinking.map(|(_, held)| held) > place.map(|(_, held)| held) {
                    std::mem::swap(place, &mut sinking);
                }
            }
        }
        let limit = self.basis.limit();
        Refusal {
            requester: self.entry(asker).name,
            requested: ByteSize::bytes(n),
            available: ByteSize::bytes(self.available()),
            limit,
            withheld: limit.saturating_sub(ByteSize::bytes(self.line.room())),
            holders,
            reentrant: Reclaiming::is_on(),
        }
    }
}

impl Entry {
    fn new(name: &'static str) -> Self {
        Self { name, slot: Slot::new(board::meter(name)) }
    }
}

#[cfg(test)]
mod tests;
