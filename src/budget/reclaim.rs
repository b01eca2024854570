//! Reclaimers: the components that release memory on request, and the order of the requests.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Weak};

use crate::size::ByteSize;
use crate::sync::Mutex;
use crate::unwind::contained;

use super::{Account, Pressure};

/// A component that can release memory of its account when another one needs it.
///
/// It runs on the thread of the request that needs the memory, which may hold locks of its own. So it must not wait: it
/// takes a lock by `try_lock`, and releases nothing if that fails. Several threads may call it at the same time. A
/// reservation that it makes is granted if it is available without reclaiming, and refused otherwise.
///
/// The bytes that it has released are read from the account. A reclaimer that panics has released nothing, and the panic ends here, where panics
/// unwind.
///
/// # Examples
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use plimsoll::budget::{ReclaimPriority, reclaim_fn};
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::kib(100));
/// let cache = budget.account("cache")?;
/// let entries = Arc::new(Mutex::new(cache.try_reserve(ByteSize::kib(80))?));
///
/// let shared = Arc::clone(&entries);
/// let _registered = cache.register_reclaimer(ReclaimPriority::CACHE, reclaim_fn(move |want, _| {
///     if let Ok(mut entries) = shared.try_lock() {
///         entries.shrink(want); // after freeing as many
///     }
/// }));
///
/// let _buffer = budget.account("buffer")?.try_reserve(ByteSize::kib(50))?;
/// assert_eq!(cache.reserved(), ByteSize::kib(50));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Reclaim: Send + Sync {
    /// Frees at least `want` bytes if it can, and releases what was reserved for them.
    ///
    /// At [`Pressure::High`] only what costs little: expired entries, unused pages. At [`Pressure::Critical`] whatever it
    /// can do without, because the request is refused otherwise.
    fn reclaim(&self, want: ByteSize, pressure: Pressure);
}

/// Returns a reclaimer that calls a closure.
///
/// # Examples
///
/// ```
/// use plimsoll::budget::reclaim_fn;
///
/// let reclaimer = reclaim_fn(|want, pressure| println!("{want} are wanted at {pressure} pressure"));
/// # let _ = reclaimer;
/// ```
pub fn reclaim_fn<F>(reclaim: F) -> impl Reclaim
where
    F: Fn(ByteSize, Pressure) + Send + Sync,
{
    struct Closure<F>(F);

    impl<F: Fn(ByteSize, Pressure) + Send + Sync> Reclaim for Closure<F> {
        fn reclaim(&self, want: ByteSize, pressure: Pressure) {
            (self.0)(want, pressure);
        }
    }

    Closure(reclaim)
}

/// The order of reclaimers: the lowest is called first. Of equal ones, the one that was registered first.
///
/// # Examples
///
/// ```
/// use plimsoll::budget::ReclaimPriority;
///
/// assert!(ReclaimPriority::BUFFER < ReclaimPriority::CACHE && ReclaimPriority::CACHE < ReclaimPriority::RESOURCE);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReclaimPriority(u8);

impl ReclaimPriority {
    /// Spare buffers: nothing is lost but an allocation.
    pub const BUFFER: Self = Self(50);
    /// Cache entries: each is loaded again when it is wanted.
    pub const CACHE: Self = Self(100);
    /// Whole resources such as models, slow to load again.
    pub const RESOURCE: Self = Self(150);
    pub(super) const HIGHEST: Self = Self(u8::MAX);

    /// Creates a custom priority.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::budget::ReclaimPriority;
    /// assert!(ReclaimPriority::new(101) > ReclaimPriority::CACHE); // called just after the caches
    /// ```
    pub const fn new(priority: u8) -> Self {
        Self(priority)
    }

    /// Returns the priority as a number.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::budget::ReclaimPriority;
    /// assert_eq!(ReclaimPriority::new(7).get(), 7);
    /// ```
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// A registered reclaimer, which is called as long as this lives. [`Account::register_reclaimer`] returns it.
///
/// # Examples
///
/// ```
/// use plimsoll::budget::{ReclaimPriority, ReclaimerHandle, reclaim_fn};
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// struct Pool {
///     _reclaimer: ReclaimerHandle, // unregistered when the pool is dropped
/// }
///
/// let account = MemoryBudget::new(ByteSize::mib(1)).account("pool")?;
/// let release = reclaim_fn(|want, _| println!("releases {want}"));
/// let _pool = Pool { _reclaimer: account.register_reclaimer(ReclaimPriority::BUFFER, release) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the reclaimer is unregistered when this is dropped"]
pub struct ReclaimerHandle {
    account: Account,
    key: Key,
    _reclaimer: Arc<dyn Reclaim>,
}

impl ReclaimerHandle {
    pub(super) fn register(account: &Account, priority: ReclaimPriority, reclaimer: Arc<dyn Reclaim>) -> Self {
        let key = account.reclaimers().add(account.index(), priority, Arc::downgrade(&reclaimer));
        account.recheck_queue();
        Self { account: account.clone(), key, _reclaimer: reclaimer }
    }
}

impl Drop for ReclaimerHandle {
    fn drop(&mut self) {
        self.account.reclaimers().remove(self.key);
    }
}

impl fmt::Debug for ReclaimerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReclaimerHandle").field("account", &self.account).finish_non_exhaustive()
    }
}

/// The place of a reclaimer in the order of calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    priority: ReclaimPriority,
    /// The number of reclaimers registered before it.
    number: u64,
}

impl Key {
    pub(super) const fn priority(self) -> ReclaimPriority {
        self.priority
    }
}

/// The reclaimers of a budget. No reclaimer runs under its lock.
#[derive(Default)]
pub(super) struct Registry(Mutex<List>);

#[derive(Default)]
struct List {
    /// Sorted by key.
    registered: Vec<Registered>,
    /// The number of reclaimers that were ever registered.
    count: u64,
}

struct Registered {
    key: Key,
    /// The index of its account.
    account: usize,
    reclaimer: Weak<dyn Reclaim>,
}

impl Registry {
    fn add(&self, account: usize, priority: ReclaimPriority, reclaimer: Weak<dyn Reclaim>) -> Key {
        let mut list = self.0.lock();
        let key = Key { priority, number: list.count };
        list.count += 1;
        let place = list.registered.partition_point(|entry| entry.key < key);
        list.registered.insert(place, Registered { key, account, reclaimer });
        key
    }

    fn remove(&self, key: Key) {
        let mut list = self.0.lock();
        list.registered.retain(|entry| entry.key != key);
    }

    /// Returns the number of reclaimers that were ever registered: later ones have this number or a higher one.
    pub(super) fn count(&self) -> u64 {
        self.0.lock().count
    }

    /// Returns the next reclaimer after `key` that `asker`, an account, may call, and its account. Those with a number from `count` on are left
    /// out, so that one that registers again during the call is not called again.
    pub(super) fn after(
        &self,
        key: Option<Key>,
        count: u64,
        asker: Option<usize>,
    ) -> Option<(Key, usize, Arc<dyn Reclaim>)> {
        let list = self.0.lock();
        list.askable(asker)
            .filter(|entry| Some(entry.key) > key && entry.key.number < count)
            .find_map(|entry| Some((entry.key, entry.account, entry.reclaimer.upgrade()?)))
    }

    /// Returns the accounts with a reclaimer that `asker` may call, one bit for each index.
    pub(super) fn askable(&self, asker: usize) -> u64 {
        let list = self.0.lock();
        list.askable(Some(asker)).fold(0, |bits, entry| bits | 1 << entry.account)
    }
}

impl List {
    /// Returns those that `asker` may call: not its own, and none of a higher priority than its own has.
    fn askable(&self, asker: Option<usize>) -> impl Iterator<Item = &Registered> {
        let is_own = move |entry: &&Registered| Some(entry.account) == asker;
        let own = self.registered.iter().filter(is_own).map(|entry| entry.key.priority).max();
        let others = self.registered.iter().filter(move |entry| !is_own(entry));
        others.filter(move |entry| own.is_none_or(|own| entry.key.priority <= own))
    }
}

/// Calls one reclaimer.
pub(super) fn call(reclaimer: Arc<dyn Reclaim>, want: ByteSize, pressure: Pressure) {
    // Nothing of the budget is half changed here, and the panic is not the caller's.
    contained(move || reclaimer.reclaim(want, pressure));
}

/// The address of a budget, and the number of its request that reclaims.
type Pass = (usize, u64);

/// The reclaimers that a thread runs.
#[derive(Clone, Copy)]
enum Runs {
    Nothing,
    /// Those for a request, or those that no request waits for.
    Reclaimers(Option<Pass>),
}

thread_local! {
    static RECLAIMING: Cell<Runs> = const { Cell::new(Runs::Nothing) };
}

/// Marks this thread as one that runs reclaimers or a trim, which must not reclaim themselves.
pub(super) struct Reclaiming(());

impl Reclaiming {
    /// Returns `None` if the thread is marked already.
    pub(super) fn begin(pass: Option<Pass>) -> Option<Self> {
        if Self::is_on() {
            return None;
        }
        RECLAIMING.set(Runs::Reclaimers(pass));
        Some(Self(()))
    }

    pub(super) fn is_on() -> bool {
        matches!(RECLAIMING.get(), Runs::Reclaimers(_))
    }

    /// Returns the request for which this thread reclaims.
    pub(super) fn pass() -> Option<Pass> {
        match RECLAIMING.get() {
            Runs::Nothing => None,
            Runs::Reclaimers(pass) => pass,
        }
    }
}

impl Drop for Reclaiming {
    fn drop(&mut self) {
        RECLAIMING.set(Runs::Nothing);
    }
}
