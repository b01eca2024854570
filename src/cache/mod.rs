//! Caches that are bounded in entries and in true bytes, whose values expire though the environment was frozen.
//!
//! ```
//! use std::time::Duration;
//! use plimsoll::{ByteSize, Cache};
//!
//! let orders: Cache<String, Vec<u8>> = Cache::builder("orders")
//!     .max_entries(10_000)
//!     .max_bytes(ByteSize::mib(5))
//!     .time_to_live(Duration::from_secs(300))
//!     .build()?;
//! orders.insert("a-17".into(), vec![1, 2, 3])?;
//! assert_eq!(orders.get("a-17"), Some(vec![1, 2, 3]));
//! assert_eq!(orders.get("a-18"), None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Bytes
//!
//! `max_bytes` is a bound of heap: the tables, and what keys and values own as told by
//! [`HeapSize`](crate::HeapSize). Room is made before a value goes in, so the sum is never above it. For each entry the
//! tables take, with the default policy,
//!
//! ```text
//!   size_of::<K>() + size_of::<V>() + 8                    the slot: hash and expiry, padded to their alignment
//!   + 9 + 6                                                policy: two links and a mark; a ghost and a half
//!   + 5 x buckets / entries                                index: buckets are the power of two above 8/7 x entries
//!   + 4 if values are weighed + 4 if they expire by idleness
//! ```
//!
//! that is 29 to 34 bytes beyond a `u64` and a `u64`, where the room is `max_entries`; until it is reached tables grow by
//! an eighth at a time, so up to an eighth of it lies spare. In the place of the 9 + 6, [`Eviction::Lru`] takes 4, a block
//! of 24 for each entry, and 17 x buckets / entries. Removals do not grow the index. Tables shrink when less than
//! a quarter of them is in use. Not counted: what the allocator adds, and values that are on their way out or being
//! loaded ([`expected_load`](CacheBuilder::expected_load) makes room for these).
//!
//! # Time
//!
//! Entries expire by [the crate's clock](crate::clock), which counts a freeze. What has expired is never returned, and is
//! freed when it is asked for, by [`Cache::sweep`], and when others need memory. Nothing runs in the background. A cache
//! in which nothing expires reads no clock.
//!
//! # Pressure
//!
//! A cache with an [account](CacheBuilder::account) charges it all it holds. Where the budget has no room, it evicts its
//! own entries first; others are asked only when it is empty. When others need memory, it gives up what has expired, and
//! under [`Pressure::Critical`](crate::Pressure::Critical) entries in the order of its policy. It grows back by being used.
//!
//! # Locks and your code
//!
//! One lock guards a cache. Under it run `Eq` of keys, `Clone` of values, and the closures of [`Cache::for_each`] and
//! [`Cache::retain`]: **these must not use the same cache**, or they wait for themselves. `Hash`, weighers, loaders and
//! `Drop` run outside, and may. Each of them may panic: the cache stays whole. Make values cheap to clone: an `Arc`.

mod asynchronous;
mod builder;
mod error;
mod hasher;
mod index;
mod load;
mod lru;
mod policy;
mod s3fifo;
mod shared;
mod state;
mod stats;
mod store;

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::board;
use crate::clock::{Clock, RESOLUTION, millis};
use crate::size::ByteSize;
use crate::sync::{Mutex, MutexGuard};

pub use builder::{CacheBuilder, Eviction};
pub use error::{CacheError, InsertError, LoadError, Refusal};
pub use hasher::{Seeded, SeededHasher};
pub use stats::CacheStats;

use builder::Weigher;
use load::{Arrival, Flights, Missed};
use state::{Charge, Locked, State};
use stats::Cause;
use store::{Asked, Gone, MOST, NEVER, Slot, Store};

/// Keeps values by key, within a bound of entries, of bytes, or of both.
///
/// See the [module](self) for what counts as bytes, how entries expire, and what runs under the lock. A clone is the same
/// cache.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, Cache};
///
/// let orders: Cache<u64, String> = Cache::builder("orders").max_bytes(ByteSize::mib(5)).build()?;
/// let order = orders.try_get_or_load(&4711, || Ok::<_, std::io::Error>("two lamps".to_owned()))?; // loads
/// assert_eq!(orders.get(&4711), Some(order));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Cache<K, V, S = Seeded> {
    shared: Arc<Shared<K, V, S>>,
}

/// What the handles of a cache share.
struct Shared<K, V, S> {
    state: Mutex<State<K, V>>,
    name: &'static str,
    weigher: Option<Weigher<K, V>>,
    by_load: bool,
    expected_load: Option<ByteSize>,
    /// Milliseconds.
    ttl: Option<u64>,
    /// Whether anything may expire; else no clock is read.
    timed: AtomicBool,
    clock: Clock,
    hasher: S,
}

impl<K, V> Cache<K, V> {
    /// Begins a cache. The name goes into errors and reports: short and constant.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, Cache};
    /// let cache: Cache<String, Vec<u8>> = Cache::builder("pages").max_bytes(ByteSize::mib(1)).build()?;
    /// # assert!(cache.is_empty());
    /// # Ok::<(), plimsoll::cache::CacheError>(())
    /// ```
    pub fn builder(name: &'static str) -> CacheBuilder<K, V> {
        CacheBuilder::new(name)
    }
}

impl<K, V, S> Cache<K, V, S> {
    fn with(builder: CacheBuilder<K, V, S>) -> Self
    where
        K: Send + 'static,
        V: Send + 'static,
        S: Send + Sync + 'static,
    {
        let CacheBuilder { name, weigher, by_load, expected_load, eviction, clock, hasher, .. } = builder;
        let most = builder.max_entries.unwrap_or(MOST);
        let weighs = weigher.is_some() || by_load;
        let store = Store::new(eviction, most, weighs, builder.tti.map(millis), clock.now());
        let charge = match &builder.account {
            Some((account, _)) => Charge::Account(account.book(ByteSize::ZERO)),
            None => Charge::Board(board::holder(name), 0),
        };
        let state = State {
            store,
            max_bytes: builder.max_bytes.map_or(u64::MAX, ByteSize::as_u64),
            charge,
            loading: 0,
            flights: Flights::default(),
            counters: CacheStats { name, ..CacheStats::default() },
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            name,
            weigher,
            by_load,
            expected_load,
            ttl: builder.ttl.map(millis),
            timed: AtomicBool::new(builder.ttl.is_some() || builder.tti.is_some()),
            clock,
            hasher,
        });
        if let Some((account, rank)) = builder.account {
            account.set_reclaimer(rank, Arc::downgrade(&shared));
        }
        Self { shared }
    }

    /// Frees what has expired among the next `most` entries, going on where it stopped, and tells how many that were; zero
    /// where nothing may expire. `usize::MAX` looks at all there are.
    ///
    /// For the end of an invocation, when nobody waits. Holds the lock for as long as it looks; values are
    /// dropped after it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use plimsoll::{Cache, ManualClock};
    /// # let manual = ManualClock::new();
    /// let cache: Cache<u64, u64> = Cache::builder("cache")
    ///     .max_entries(100)
    ///     .time_to_live(Duration::from_secs(1))
    /// # .clock(manual.clock())
    ///     .build()?;
    /// cache.insert(1, 1)?;
    /// # manual.advance(Duration::from_secs(2));
    /// // Two seconds later, at the end of an invocation:
    /// assert_eq!(cache.sweep(1_000), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sweep(&self, most: usize) -> usize {
        if !self.shared.timed.load(Relaxed) {
            return 0;
        }
        let now = self.shared.clock.refresh();
        self.shared.change(|state, gone| {
            let tick = state.store.tick(now);
            state.sweep(most, tick, gone)
        })
    }

    /// Evicts until no more than `bytes` are held, and tells how many were given up. It may fill up again. Zero evicts all;
    /// [`ByteSize::MAX`] nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, Cache};
    /// let pages: Cache<u64, Vec<u8>> = Cache::builder("pages").max_bytes(ByteSize::mib(1)).build()?;
    /// pages.insert(1, vec![0; 100_000])?;
    /// assert!(pages.shrink_to(ByteSize::ZERO) >= ByteSize::bytes(100_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shrink_to(&self, bytes: ByteSize) -> ByteSize {
        self.shared.change(|state, gone| {
            let before = state.store.bytes();
            state.shrink_to(bytes.as_u64(), Cause::Size, gone);
            ByteSize::bytes(before - state.store.bytes())
        })
    }

    /// Changes the bounds, evicting what is beyond them; `None` leaves one as it is. Zero holds nothing from then on;
    /// `usize::MAX` and [`ByteSize::MAX`] bound nothing.
    ///
    /// A cache that was made without a bound in bytes has no weigher: it counts its tables alone.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, Cache};
    /// let pages: Cache<u64, Vec<u8>> = Cache::builder("pages").max_bytes(ByteSize::mib(1)).build()?;
    /// pages.resize(Some(500), Some(ByteSize::kib(512)));
    /// assert_eq!((pages.stats().max_entries, pages.stats().max_bytes), (Some(500), Some(ByteSize::kib(512))));
    /// # Ok::<(), plimsoll::cache::CacheError>(())
    /// ```
    pub fn resize(&self, max_entries: Option<usize>, max_bytes: Option<ByteSize>) {
        self.shared.change(|state, gone| {
            if let Some(most) = max_entries {
                state.store.set_max_entries(most);
            }
            if let Some(most) = max_bytes {
                state.max_bytes = most.as_u64();
            }
            state.keep_bounds(gone);
        });
    }

    /// Empties the cache. What it counted stays.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// cache.insert(1, 1)?;
    /// cache.clear();
    /// assert!(cache.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clear(&self) {
        self.shared.change(|state, gone| {
            let slots = state.store.clear();
            state.counters.cleared += slots.len() as u64;
            gone.take(slots);
        });
    }

    /// Removes all entries of which `keep` does not hold. It runs under the lock, and must not use the cache.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// (0..10).try_for_each(|key| cache.insert(key, key))?;
    /// cache.retain(|_key, value| value % 2 == 0);
    /// assert_eq!(cache.len(), 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.shared.change(|state, gone| {
            let mut at = 0;
            while let Some(slot) = state.store.get(at) {
                if keep(&slot.key, &slot.value) {
                    at += 1;
                } else {
                    // The last one takes its place.
                    state.remove(at, Cause::Removed, gone);
                }
            }
        });
    }

    /// Calls `each` with every entry that has not expired, in no order. It runs under the lock, and must not use the
    /// cache.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// (0..10).try_for_each(|key| cache.insert(key, key))?;
    /// let mut sum = 0;
    /// cache.for_each(|_key, value| sum += value);
    /// assert_eq!(sum, 45);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn for_each(&self, mut each: impl FnMut(&K, &V)) {
        let now = self.shared.now();
        let mut state = self.shared.state.lock();
        let tick = state.store.tick(now);
        for (at, slot) in (0..).zip(state.store.iter()) {
            if !state.store.is_expired(at, tick) {
                each(&slot.key, &slot.value);
            }
        }
    }

    /// Tells what the cache holds and has done. Costs the lock and a copy.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// cache.insert(1, 1)?;
    /// let _seen = (cache.get(&1), cache.get(&2));
    /// assert_eq!((cache.stats().hits, cache.stats().misses), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> CacheStats {
        let state = self.shared.state.lock();
        let entries = state.store.max_entries();
        CacheStats {
            entries: state.store.len(),
            max_entries: Some(entries).filter(|&most| most < MOST),
            bytes: ByteSize::bytes(state.store.bytes()),
            max_bytes: Some(ByteSize::bytes(state.max_bytes)).filter(|&most| most < ByteSize::MAX),
            loading: ByteSize::bytes(state.loading),
            ..state.counters
        }
    }

    /// Tells the name it was made with.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("orders").max_entries(10).build()?;
    /// assert_eq!(cache.name(), "orders");
    /// # Ok::<(), plimsoll::cache::CacheError>(())
    /// ```
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// Tells how many entries are there, those that have expired and were not yet freed among them.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// cache.insert(1, 1)?;
    /// assert_eq!(cache.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.shared.state.lock().store.len()
    }

    /// Tells whether there are none.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// assert!(cache.is_empty());
    /// # Ok::<(), plimsoll::cache::CacheError>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Hash + Eq, V, S: BuildHasher> Cache<K, V, S> {
    /// Gets a clone of the value, if it is there and has not expired.
    ///
    /// Costs a hash, a lock, and a reading of the coarse clock if anything may expire. Allocates nothing itself.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<String, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// cache.insert("lamps".to_owned(), 2)?;
    /// assert_eq!(cache.get("lamps"), Some(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        self.look(self.shared.hash(key), key).ok()
    }

    /// As [`get`](Self::get); where there is no value, tells what there was then.
    #[expect(clippy::inline_always, reason = "a tenth of a hit: called, it hands the value over in memory")]
    #[inline(always)]
    fn look<Q>(&self, hash: u32, key: &Q) -> Result<V, Missed>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
        V: Clone,
    {
        let now = self.shared.now();
        let mut guard = self.shared.state.lock();
        let state = &mut *guard;
        match state.store.ask(hash, key, now) {
            Asked::Live(value) => {
                state.counters.hits += 1;
                Ok(value.clone())
            }
            Asked::Absent => {
                state.counters.misses += 1;
                Err(Missed { inserts: state.counters.inserts })
            }
            Asked::Expired(at) => Err(Self::expired(guard, at)),
        }
    }

    /// Frees an entry that was asked for and has expired.
    #[cold]
    #[inline(never)]
    fn expired(state: MutexGuard<'_, State<K, V>>, at: u32) -> Missed {
        let mut locked = Locked { state, gone: Gone::default() };
        let Locked { state, gone } = &mut locked;
        state.counters.misses += 1;
        state.remove(at, Cause::Expired, gone);
        Missed { inserts: state.counters.inserts }
    }

    /// Tells whether the key is there and has not expired. Counts as nothing, for the statistics and for the policy.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<String, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// assert!(!cache.contains("lamps"));
    /// assert_eq!(cache.stats().misses, 0);
    /// # Ok::<(), plimsoll::cache::CacheError>(())
    /// ```
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let (hash, now) = (self.shared.hash(key), self.shared.now());
        self.shared.state.lock().store.peek(hash, key, now).is_some()
    }

    /// Puts a value in, in the place of an earlier one of the key. It lives as long as the cache's time to live says.
    ///
    /// Entries that have to go for it are dropped after the lock is released.
    ///
    /// # Errors
    ///
    /// [`InsertError`] with key and value, where the entry alone is larger than the bound, the cache may hold no entries, or
    /// the budget has no room.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, &str> = Cache::builder("cache").max_entries(10).build()?;
    /// cache.insert(1, "one")?;
    /// cache.insert(1, "another")?;
    /// assert_eq!((cache.get(&1), cache.len()), (Some("another"), 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn insert(&self, key: K, value: V) -> Result<(), InsertError<K, V>> {
        let shared = &*self.shared;
        let (weight, hash) = (shared.weigh(&key, &value), shared.hash(&key));
        shared.put(Slot { key, value, hash, expires: NEVER }, weight, shared.ttl, &mut Arrival::default())
    }

    /// Puts a value in that lives so long, whatever the cache's time to live; see
    /// [`CacheBuilder::time_to_live`] for how exact that is.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert), and where `ttl` is below the clock's resolution of 10 ms.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use plimsoll::{Cache, ManualClock};
    /// let manual = ManualClock::new();
    /// let tokens: Cache<u64, u64> = Cache::builder("tokens").max_entries(10).clock(manual.clock()).build()?;
    /// tokens.insert_with_ttl(1, 10, Duration::from_secs(3600))?; // as long as the token itself says
    /// manual.advance(Duration::from_secs(3600));
    /// assert_eq!(tokens.get(&1), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) -> Result<(), InsertError<K, V>> {
        if ttl < RESOLUTION {
            self.shared.state.lock().counters.refused += 1;
            return Err(InsertError::new(
                key,
                value,
                Refusal::TimeToLive { cache: self.shared.name, ttl, least: RESOLUTION },
            ));
        }
        // Before the entry is there: who finds it reads the clock.
        self.shared.timed.store(true, Relaxed);
        let (weight, hash) = (self.shared.weigh(&key, &value), self.shared.hash(&key));
        self.shared.put(Slot { key, value, hash, expires: NEVER }, weight, Some(millis(ttl)), &mut Arrival::default())
    }

    /// Takes the value out; `None` if it is not there or has expired.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// cache.insert(1, 10)?;
    /// assert_eq!((cache.remove(&1), cache.remove(&1)), (Some(10), None));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let (hash, now) = (self.shared.hash(key), self.shared.now());
        let mut locked = self.shared.locked();
        let Locked { state, gone } = &mut locked;
        let at = state.store.find(hash, key)?;
        let tick = state.store.tick(now);
        if state.store.is_expired(at, tick) {
            state.remove(at, Cause::Expired, gone);
            return None;
        }
        let slot = state.store.remove(at)?;
        state.counters.count(Cause::Removed);
        // The value is the caller's from here on, and no longer the cache's to be charged for.
        drop(locked);
        Some(slot.value)
    }
}

impl<K, V, S> Clone for Cache<K, V, S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K, V, S> fmt::Debug for Cache<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}
