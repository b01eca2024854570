//! Taking memory back from those who can do without it: who may be asked, in which order, and by whom.

use std::cell::Cell;
use std::sync::{Arc, Weak};

use crate::size::ByteSize;
use crate::sync::Mutex;
use crate::unwind::contained;

use super::{ACCOUNTS, Pressure};

/// Gives memory back when someone else needs it.
///
/// Runs on the thread of the one who asks, in the middle of *his* work: it must not wait for anything. A lock is taken
/// by `try_lock`; where that fails the answer is [`ByteSize::ZERO`]. A reservation it makes is granted only if that is
/// free without asking anyone. Several threads may ask at a time.
///
/// What counts is what is released of its own account; the number returned tells the same, and is not relied upon. One
/// that gives nothing is passed over. One that panics is taken to have given nothing, and is asked again next time; the
/// panic goes no further than the panic hook.
///
/// Closures of the same shape are reclaimers too.
///
/// # Examples
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use plimsoll::{ByteSize, MemoryBudget, budget::Rank};
///
/// let budget = MemoryBudget::new(ByteSize::kib(100));
/// let cache = budget.account("cache");
/// let held = Arc::new(Mutex::new(cache.try_reserve(ByteSize::kib(80))?));
///
/// let shared = Arc::clone(&held);
/// let reclaimer = Arc::new(move |want: ByteSize, _| {
///     shared.try_lock().map_or(ByteSize::ZERO, |mut held| held.shrink(want))
/// });
/// cache.set_reclaimer(Rank::CACHE, Arc::downgrade(&reclaimer));
///
/// let _buffer = budget.account("buffer").try_reserve(ByteSize::kib(50))?;
/// assert_eq!(held.try_lock().map(|held| held.size()).ok(), Some(ByteSize::kib(50)));
/// # Ok::<(), plimsoll::BudgetExceeded>(())
/// ```
pub trait Reclaim: Send + Sync {
    /// Frees at least `want` if it can, releases what was reserved for it, and tells how much.
    ///
    /// At [`Pressure::High`] only what costs little: entries that have expired, pages nobody used. At
    /// [`Pressure::Critical`], on the second round, whatever it can do without, since the request is refused otherwise.
    fn reclaim(&self, want: ByteSize, pressure: Pressure) -> ByteSize;
}

impl<F: Fn(ByteSize, Pressure) -> ByteSize + Send + Sync> Reclaim for F {
    fn reclaim(&self, want: ByteSize, pressure: Pressure) -> ByteSize {
        self(want, pressure)
    }
}

/// How dear it is to lose what a reclaimer gives back: the lowest is asked first. Among equals, the one set first.
///
/// # Examples
///
/// ```
/// use plimsoll::budget::Rank;
///
/// assert!(Rank::BUFFER < Rank::CACHE && Rank::CACHE < Rank::RESOURCE);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rank(u8);

impl Rank {
    /// Spare buffers: nothing is lost but an allocation.
    pub const BUFFER: Self = Self(50);
    /// Cache entries: each is loaded again when it is wanted again.
    pub const CACHE: Self = Self(100);
    /// Whole resources such as models, slow to load again.
    pub const RESOURCE: Self = Self(150);
    pub(super) const HIGHEST: Self = Self(u8::MAX);

    /// A rank of one's own, between or beyond those named here.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::budget::Rank;
    /// assert!(Rank::new(101) > Rank::CACHE); // asked just after the caches
    /// ```
    pub const fn new(rank: u8) -> Self {
        Self(rank)
    }

    /// Tells the rank as a number.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::budget::Rank;
    /// assert_eq!(Rank::new(7).get(), 7);
    /// ```
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// A reclaimer's place in the order of asking.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    rank: Rank,
    /// Which reclaimer it is, counting from the first that was set.
    number: u64,
}

impl Key {
    pub(super) const fn rank(self) -> Rank {
        self.rank
    }
}

/// The reclaimers of a budget. Its lock is held for a look at the list, never while one of them runs.
#[derive(Default)]
pub(super) struct Registry(Mutex<List>);

#[derive(Default)]
struct List {
    /// Sorted by key.
    registered: Vec<Registered>,
    /// How many were ever set.
    count: u64,
}

struct Registered {
    key: Key,
    /// The index of the account it belongs to.
    account: usize,
    reclaimer: Weak<dyn Reclaim>,
}

impl Registry {
    /// Sets the reclaimer of an account, in the place of an earlier one; on the shared account, beside the others.
    pub(super) fn set(&self, account: usize, rank: Rank, reclaimer: Weak<dyn Reclaim>) {
        let mut list = self.0.lock();
        let key = Key { rank, number: list.count };
        list.count += 1;
        list.registered.retain(|entry| {
            let replaced = entry.account == account && account < ACCOUNTS;
            !replaced && entry.reclaimer.strong_count() > 0
        });
        let place = list.registered.partition_point(|entry| entry.key < key);
        list.registered.insert(place, Registered { key, account, reclaimer });
    }

    /// How many were ever set: who is set later has a number from this on.
    pub(super) fn count(&self) -> u64 {
        self.0.lock().count
    }

    /// The next reclaimer to ask after the one at `key`, of those with a number below `count`: one that sets itself
    /// anew when it is asked is not asked again for it.
    pub(super) fn after(&self, key: Option<Key>, count: u64, asker: Option<usize>) -> Option<(Key, Arc<dyn Reclaim>)> {
        let list = self.0.lock();
        list.askable(asker)
            .filter(|entry| Some(entry.key) > key && entry.key.number < count)
            .find_map(|entry| Some((entry.key, entry.reclaimer.upgrade()?)))
    }

    /// The accounts that `asker` may ask, one bit for each index; those beyond the last name share the bit behind it.
    pub(super) fn askable(&self, asker: usize) -> u128 {
        let list = self.0.lock();
        list.askable(Some(asker)).fold(0, |bits, entry| bits | 1 << entry.account.min(ACCOUNTS))
    }
}

impl List {
    /// Those whom `asker` may ask: all that live but itself, and none above its own rank if it has one.
    fn askable(&self, asker: Option<usize>) -> impl Iterator<Item = &Registered> {
        let own = move |entry: &&Registered| Some(entry.account) == asker;
        let alive = || self.registered.iter().filter(|entry| entry.reclaimer.strong_count() > 0);
        let rank = alive().filter(own).map(|entry| entry.key.rank).max();
        alive().filter(move |entry| !own(entry) && rank.is_none_or(|rank| entry.key.rank <= rank))
    }
}

/// Asks one reclaimer. What it answers is not relied upon, and a panic in it is no business of the one who asks.
pub(super) fn ask(reclaimer: Arc<dyn Reclaim>, want: ByteSize, pressure: Pressure) {
    // Nothing of ours is seen by it but the books, which are atomic.
    contained(move || reclaimer.reclaim(want, pressure));
}

thread_local! {
    static RECLAIMING: Cell<bool> = const { Cell::new(false) };
}

/// As long as it lives, this thread asks reclaimers, and nobody whom it calls may begin to.
pub(super) struct Reclaiming(());

impl Reclaiming {
    /// `None` where this thread is asking already.
    pub(super) fn begin() -> Option<Self> {
        // Not `then_some`: a guard made and thrown away would end what the outer one began.
        (!RECLAIMING.replace(true)).then(|| Self(()))
    }

    pub(super) fn is_on() -> bool {
        RECLAIMING.get()
    }
}

impl Drop for Reclaiming {
    fn drop(&mut self) {
        RECLAIMING.set(false);
    }
}
