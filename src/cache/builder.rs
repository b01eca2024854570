//! Settings of a cache.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::board::Clean;
use crate::budget::{Account, ReclaimPriority};
use crate::clock::{Clock, RESOLUTION};
use crate::heap;
use crate::log::warn_once;
use crate::size::ByteSize;
use crate::weigh::HeapSize;

use super::expire_by::ExpireBy;
use super::removal::Listener;
use super::store::Slot;
use super::{BuildError, Cache, DefaultHashBuilder};

/// Which entries go when there is no room.
///
/// # Examples
///
/// ```
/// use plimsoll::{Cache, cache::Eviction};
///
/// let recent: Cache<u64, u64> = Cache::builder("recent").max_entries(2).eviction(Eviction::Lru).build()?;
/// for key in [1, 2, 3] {
///     recent.insert(key, key)?;
/// }
/// assert!(!recent.contains_key(&1), "the least recently used");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Eviction {
    /// Those that were asked for once and not again, then those not asked for lately. Holds against scans; a hit writes
    /// at most one byte.
    ///
    /// The larger an entry, the more hits it needs to stay. A new entry with a weight above a tenth of `max_bytes` does not
    /// evict entries that were hit: its first insert is rejected ([`RejectReason::NotAdmitted`](super::RejectReason::NotAdmitted)),
    /// a load of it returns the value and stores nothing, and the next insert or load of its key is admitted. In a cache of
    /// a few large values, each is admitted at once.
    #[default]
    S3Fifo,
    /// The least recently used, exactly. A hit moves the entry, which costs most where many are resident.
    Lru,
}

/// Heap bytes that a key and a value own, by a rule of the user's.
pub(super) type Weigher<K, V> = Box<dyn Fn(&K, &V) -> usize + Send + Sync>;

/// The highest number of shards.
const MAX_SHARDS: usize = 1_024;

/// The least part of the bounds for each shard, also in inline keys and values.
const ENTRIES_PER_SHARD: usize = 128;
const BYTES_PER_SHARD: u64 = 1 << 20;
const SLOTS_PER_SHARD: u64 = 64;

/// Settings of a [`Cache`], begun with [`Cache::builder`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use plimsoll::{ByteSize, Cache};
///
/// let sessions: Cache<String, Vec<u8>> = Cache::builder("sessions")
///     .max_entries(10_000)
///     .max_bytes(ByteSize::mib(8))
///     .time_to_live(Duration::from_secs(300))
///     .time_to_idle(Duration::from_secs(60))
///     .build()?;
/// assert_eq!(sessions.stats().max_bytes, Some(ByteSize::mib(8)));
/// # Ok::<(), plimsoll::cache::BuildError>(())
/// ```
#[must_use]
pub struct CacheBuilder<K, V, S = DefaultHashBuilder> {
    pub(super) name: &'static str,
    pub(super) max_entries: Option<usize>,
    pub(super) max_bytes: Option<ByteSize>,
    pub(super) weigher: Option<Weigher<K, V>>,
    pub(super) by_load: bool,
    pub(super) listener: Option<Listener<K, V>>,
    pub(super) reserve_per_load: Option<ByteSize>,
    pub(super) ttl: Option<Duration>,
    pub(super) expire_by: Option<ExpireBy<K, V>>,
    pub(super) tti: Option<Duration>,
    pub(super) refresh_after: Option<Duration>,
    pub(super) stale_if_error: Duration,
    pub(super) eviction: Eviction,
    pub(super) shards: Option<usize>,
    pub(super) account: Option<(Account, ReclaimPriority)>,
    pub(super) clock: Clock,
    pub(super) hasher: S,
    entry: PhantomData<fn(K, V)>,
}

impl<K, V> CacheBuilder<K, V> {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            max_entries: None,
            max_bytes: None,
            weigher: None,
            by_load: false,
            listener: None,
            reserve_per_load: None,
            ttl: None,
            expire_by: None,
            tti: None,
            refresh_after: None,
            stale_if_error: Duration::ZERO,
            eviction: Eviction::default(),
            shards: None,
            account: None,
            clock: Clock::system(),
            hasher: DefaultHashBuilder::default(),
            entry: PhantomData,
        }
    }
}

impl<K, V, S> CacheBuilder<K, V, S> {
    /// Sets the highest number of entries. Zero holds none: every insert gives its value back, and loads still load. As zero
    /// lifts the bound elsewhere, the first cache of the process with a bound of zero is one warning.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let none: Cache<u64, u64> = Cache::builder("none").max_entries(0).build()?;
    /// assert_eq!(none.insert(1, 10).unwrap_err().into_entry(), (1, 10));
    /// # Ok::<(), plimsoll::cache::BuildError>(())
    /// ```
    pub fn max_entries(mut self, most: usize) -> Self {
        self.max_entries = Some(most);
        self
    }

    /// Bounds the bytes: of the tables, and of the heap that keys and values own as told by [`HeapSize`].
    ///
    /// Entries are weighed once, when they come in: one that grows afterwards is not noticed. An `Arc` counts in full.
    /// Zero holds nothing. [`ByteSize::MAX`] bounds nothing and weighs all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, Cache};
    /// let pages: Cache<u64, String> = Cache::builder("pages").max_bytes(ByteSize::kib(64)).build()?;
    /// pages.insert(1, "x".repeat(40_000))?;
    /// pages.insert(2, "x".repeat(40_000))?;
    /// assert_eq!(pages.len(), 1);
    /// assert!(pages.stats().bytes <= ByteSize::kib(64));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_bytes(mut self, most: ByteSize) -> Self
    where
        K: HeapSize,
        V: HeapSize,
    {
        self.max_bytes = Some(most);
        let owns = K::owns_heap() || V::owns_heap();
        self.weigher =
            owns.then(|| Box::new(|key: &K, value: &V| key.heap_size().saturating_add(value.heap_size())) as _);
        self
    }

    /// Bounds the bytes as [`max_bytes`](Self::max_bytes) does, where `weigh` tells what a key and a value own on the
    /// heap. It runs without a lock, once for each insert.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use plimsoll::{ByteSize, Cache};
    /// struct Image { pixels: Vec<u8> }
    ///
    /// let images: Cache<u64, Arc<Image>> = Cache::builder("images")
    ///     .max_bytes_weighed(ByteSize::mib(4), |_: &u64, image: &Arc<Image>| {
    ///         image.pixels.capacity() + size_of::<Image>()
    ///     })
    ///     .build()?;
    /// images.insert(1, Image { pixels: vec![0; 1 << 20] }.into())?;
    /// assert!(images.stats().bytes >= ByteSize::mib(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_bytes_weighed(
        mut self,
        most: ByteSize,
        weigh: impl Fn(&K, &V) -> usize + Send + Sync + 'static,
    ) -> Self {
        self.max_bytes = Some(most);
        self.weigher = Some(Box::new(weigh));
        self
    }

    /// Counts a loaded value by the heap that its load retained, as measured by the
    /// [`TrackingAllocator`](crate::TrackingAllocator): for values that cannot be measured by their type. Inserted values are
    /// weighed as before.
    ///
    /// Counted, and charged to the entry: bytes that the load leaves elsewhere. *Not counted*: bytes that other threads
    /// allocate for the load. An async load is measured in its polls, on whichever thread they run.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, Cache, TrackingAllocator};
    /// #[global_allocator]
    /// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let documents: Cache<u64, String> =
    ///         Cache::builder("documents").max_bytes(ByteSize::mib(4)).weigh_by_retained_heap().build()?;
    ///     let _text = documents.try_get_or_load(&1, |_| Ok::<_, std::io::Error>("x".repeat(100_000)))?;
    ///     assert!(documents.stats().bytes >= ByteSize::bytes(100_000));
    ///     Ok(())
    /// }
    /// ```
    pub fn weigh_by_retained_heap(mut self) -> Self {
        self.by_load = true;
        self
    }

    /// Reserves `size` bytes for each load before its loader runs: the cache and its running loads are within `max_bytes`
    /// together. With an account, the bytes are reserved there until the value is stored. Default: none are reserved.
    ///
    /// Entries are evicted for it. A load does not start if its bytes do not fit next to those of the running loads, or if
    /// the budget cannot grant them ([`LoadError`](super::LoadError)); nothing is evicted for a load that could never
    /// start. [`ByteSize::ZERO`] reserves nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, Cache, MemoryBudget};
    /// let budget = MemoryBudget::new(ByteSize::mib(2));
    /// let reports: Cache<u64, Vec<u8>> = Cache::builder("reports")
    ///     .max_bytes(ByteSize::mib(8))
    ///     .account(budget.account("reports")?)
    ///     .reserve_per_load(ByteSize::mib(4)) // more than the budget has, so no load starts
    ///     .build()?;
    /// assert!(reports.try_get_or_load(&1, |_| Ok::<_, std::io::Error>(Vec::new())).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve_per_load(mut self, size: ByteSize) -> Self {
        self.reserve_per_load = Some(size).filter(|&size| size > ByteSize::ZERO);
        self
    }

    /// Sets the time after which an entry expires: after its insert, or after the start of its load. It expires up to 10 ms
    /// early and, by the crate's clock, never late. More than 248 days count as 248 days.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use plimsoll::{Cache, ManualClock};
    /// let manual = ManualClock::new();
    /// let tokens: Cache<u64, u64> = Cache::builder("tokens")
    ///     .max_entries(100)
    ///     .time_to_live(Duration::from_secs(300))
    ///     .clock(manual.clock())
    ///     .build()?;
    /// tokens.insert(1, 10)?;
    /// manual.advance(Duration::from_secs(300));
    /// assert_eq!(tokens.get(&1), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn time_to_live(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the time without access after which an entry expires: up to 10 ms early and, by the crate's clock, never late.
    /// More than 124 days count as 124 days.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use plimsoll::{Cache, ManualClock};
    /// let manual = ManualClock::new();
    /// let sessions: Cache<u64, u64> = Cache::builder("sessions")
    ///     .max_entries(100)
    ///     .time_to_idle(Duration::from_secs(60))
    ///     .clock(manual.clock())
    ///     .build()?;
    /// sessions.insert(1, 10)?;
    /// for _ in 0..10 {
    ///     manual.advance(Duration::from_secs(40));
    ///     assert_eq!(sessions.get(&1), Some(10));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn time_to_idle(mut self, tti: Duration) -> Self {
        self.tti = Some(tti);
        self
    }

    /// Sets which entries go when there is no room. Default: [`Eviction::S3Fifo`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{Cache, cache::Eviction};
    /// let cache: Cache<u64, u64> = Cache::builder("recent").max_entries(2).eviction(Eviction::Lru).build()?;
    /// # assert!(cache.is_empty());
    /// # Ok::<(), plimsoll::cache::BuildError>(())
    /// ```
    pub fn eviction(mut self, eviction: Eviction) -> Self {
        self.eviction = eviction;
        self
    }

    /// Sets the number of shards, rounded up to a power of two: parts of the cache with a lock each, among which the keys are
    /// divided by their hash. 0: one shard. More than 1,024 count as 1,024.
    ///
    /// The bounds apply to all shards together, and a key that hashes to a full shard takes room of another. More shards
    /// let more threads use the cache at once, and cost some hits, because each shard evicts by the order of its own entries.
    /// Default: four for each processor, but at least 128 entries, 1 MiB, and the bytes of 64 slots of the bounds for each
    /// shard. Caches with [`Eviction::Lru`] have one, because its order is exact.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let names: Cache<u64, u64> = Cache::builder("names").max_entries(500).shards(4).build()?;
    /// (0..500).try_for_each(|key| names.insert(key, key))?;
    /// assert_eq!(names.len(), 500);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shards(mut self, count: usize) -> Self {
        self.shards = Some(count);
        self
    }

    /// The number of shards: a power of two.
    pub(super) fn shard_count(&self) -> usize {
        if self.eviction == Eviction::Lru {
            return 1;
        }
        if let Some(count) = self.shards {
            return count.clamp(1, MAX_SHARDS).next_power_of_two();
        }
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let by_entries = self.max_entries.map_or(usize::MAX, |max| max / ENTRIES_PER_SHARD);
        let by_bytes = {
            let least = BYTES_PER_SHARD.max(SLOTS_PER_SHARD * size_of::<Slot<K, V>>() as u64);
            self.max_bytes.map_or(u64::MAX, |max| max.as_u64() / least)
        };
        let most = by_entries.min(usize::try_from(by_bytes).unwrap_or(usize::MAX)).clamp(1, MAX_SHARDS);
        // One processor runs one thread at a time, which holds a lock for a moment.
        let wanted = if processors == 1 { 1 } else { 4 * processors };
        // Rounded down.
        1 << wanted.min(most).ilog2()
    }

    /// Charges what the cache holds to an account, and gives back when others of the budget need it, at
    /// [`ReclaimPriority::CACHE`].
    ///
    /// The cache evicts its own entries before it asks others; see the [module](super). An insert that finds free pages in
    /// the way of the kernel's limit has them given back, without the cache's lock: some milliseconds, once for many.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, Cache, MemoryBudget};
    /// let budget = MemoryBudget::new(ByteSize::kib(64));
    /// let pages: Cache<u64, Vec<u8>> =
    ///     Cache::builder("pages").max_bytes(ByteSize::mib(1)).account(budget.account("pages")?).build()?;
    /// pages.insert(1, vec![0; 40_000])?;
    /// assert_eq!(budget.reserved(), pages.stats().bytes);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn account(self, account: Account) -> Self {
        self.account_ranked(account, ReclaimPriority::CACHE)
    }

    /// As [`account`](Self::account), at a rank of one's own.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, Cache, MemoryBudget, budget::ReclaimPriority};
    /// let budget = MemoryBudget::new(ByteSize::mib(1));
    /// let prices: Cache<u64, u64> = Cache::builder("prices")
    ///     .max_entries(1_000)
    ///     .account_ranked(budget.account("prices")?, ReclaimPriority::new(ReclaimPriority::CACHE.get() + 1)) // after other caches
    ///     .build()?;
    /// # assert!(prices.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn account_ranked(mut self, account: Account, rank: ReclaimPriority) -> Self {
        self.account = Some((account, rank));
        self
    }

    /// Sets the clock, for tests that turn it by hand. Default: [`Clock::system`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use plimsoll::{Cache, ManualClock};
    /// let manual = ManualClock::new();
    /// let cache: Cache<u64, u64> = Cache::builder("cache")
    ///     .max_entries(1)
    ///     .time_to_live(Duration::from_secs(1))
    ///     .clock(manual.clock())
    ///     .build()?;
    /// cache.insert(1, 1)?;
    /// manual.freeze(Duration::from_secs(3600)); // the environment was frozen
    /// manual.advance(Duration::from_millis(10));
    /// assert_eq!(cache.get(&1), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the hash function. Default: [`DefaultHashBuilder`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::hash::RandomState;
    /// # use plimsoll::Cache;
    /// let by_user: Cache<String, u64, RandomState> =
    ///     Cache::builder("by user").max_entries(100).hash_builder(RandomState::new()).build()?;
    /// # assert!(by_user.is_empty());
    /// # Ok::<(), plimsoll::cache::BuildError>(())
    /// ```
    pub fn hash_builder<T>(self, hasher: T) -> CacheBuilder<K, V, T> {
        CacheBuilder {
            name: self.name,
            max_entries: self.max_entries,
            max_bytes: self.max_bytes,
            weigher: self.weigher,
            by_load: self.by_load,
            listener: self.listener,
            reserve_per_load: self.reserve_per_load,
            ttl: self.ttl,
            expire_by: self.expire_by,
            tti: self.tti,
            refresh_after: self.refresh_after,
            stale_if_error: self.stale_if_error,
            eviction: self.eviction,
            shards: self.shards,
            account: self.account,
            clock: self.clock,
            hasher,
            entry: PhantomData,
        }
    }

    /// Makes the cache, empty: it takes no memory ahead of its entries.
    ///
    /// # Errors
    ///
    /// [`BuildError`] if no bound is set, a time is below the clock's resolution, the bytes reserved for each load exceed the
    /// bound, loads cannot be weighed, or refreshes have no bound of staleness.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let unbounded = Cache::<u64, u64>::builder("orders").build();
    /// assert_eq!(
    ///     unbounded.unwrap_err().to_string(),
    ///     "cache orders has no bound: give it max_entries() or max_bytes()"
    /// );
    /// ```
    pub fn build(self) -> Result<Cache<K, V, S>, BuildError>
    where
        K: Hash + Eq + Send + 'static,
        V: Send + 'static,
        S: BuildHasher + Send + Sync + 'static,
    {
        let cache = self.name;
        if self.max_entries.is_none() && self.max_bytes.is_none() {
            return Err(BuildError::NoBound { cache });
        }
        for (what, time) in [("time to live", self.ttl), ("time to idle", self.tti)] {
            if let Some(time) = time.filter(|&time| time < RESOLUTION) {
                return Err(BuildError::TooShort { cache, what, time, least: RESOLUTION });
            }
        }
        self.check_refresh()?;
        if self.by_load && self.max_bytes.is_none() {
            return Err(BuildError::NothingToWeigh { cache });
        }
        if self.by_load && !heap::is_installed() {
            return Err(BuildError::NotTracked { cache });
        }
        if let Some((size, limit)) = self.reserve_per_load.zip(self.max_bytes).filter(|(size, limit)| size > limit) {
            return Err(BuildError::LoadExceedsBound { cache, size, limit });
        }
        self.warn_of_misuse();
        Ok(Cache::with(self))
    }
}

impl<K, V, S> CacheBuilder<K, V, S> {
    /// Warns, once in the life of the process for each kind, of bounds that are valid and seldom intended.
    fn warn_of_misuse(&self) {
        static NONE: AtomicBool = AtomicBool::new(false);
        static OVER_BUDGET: AtomicBool = AtomicBool::new(false);
        let cache = Clean(self.name);
        let zero =
            [("max_entries", self.max_entries == Some(0)), ("max_bytes", self.max_bytes == Some(ByteSize::ZERO))];
        if let Some((bound, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
            warn_once(
                &NONE,
                format_args!("cache `{cache}` stores nothing: {bound}(0) admits no entry, it does not lift the bound"),
            );
        }
        let Some((bytes, account)) = self.max_bytes.zip(self.account.as_ref().map(|(account, _)| account)) else {
            return;
        };
        let limit = account.budget().limit();
        // `ByteSize::MAX` leaves the bound to the budget.
        if bytes > limit && bytes < ByteSize::MAX {
            warn_once(
                &OVER_BUDGET,
                format_args!(
                    "cache `{cache}` can never hold its max_bytes of {bytes}: the budget of its account has {limit}"
                ),
            );
        }
    }
}

impl<K, V, S> fmt::Debug for CacheBuilder<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("name", &self.name)
            .field("max_entries", &self.max_entries)
            .field("max_bytes", &self.max_bytes)
            .field("time_to_live", &self.ttl)
            .field("time_to_idle", &self.tti)
            .field("refresh_after", &self.refresh_after)
            .field("stale_if_error", &self.stale_if_error)
            .field("eviction", &self.eviction)
            .finish_non_exhaustive()
    }
}
