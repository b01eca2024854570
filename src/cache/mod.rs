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
//! `max_bytes` is a bound of heap: the tables, and the heap that keys and values own, as reported by
//! [`HeapSize`](crate::HeapSize). A cache evicts before it inserts, so the sum is never above the bound. With the default
//! policy, the tables take for each entry
//!
//! ```text
//!   size_of::<K>() + size_of::<V>() + 8                    the slot: hash and expiry, padded to their alignment
//!   + 9 + 6                                                policy: two links and a state; a ghost and a half
//!   + 5 x buckets / entries                                index: buckets are the power of two above 8/7 x entries
//!   + 4 if values are weighed + 4 if they expire by idleness + 4 if they are refreshed
//! ```
//!
//! These are 29 to 36 bytes in addition to a `u64` and a `u64`, at `max_entries` entries. Until then, tables grow by an
//! eighth at a time, so up to an eighth of them is spare. Instead of 9 + 6, [`Eviction::Lru`] takes 4, an allocation of 24
//! for each entry, and 17 x buckets / entries. Not counted: the overhead of the allocator, removed values that are not yet
//! dropped, about 1 KiB for each shard, and values that are being loaded
//! ([`reserve_per_load`](CacheBuilder::reserve_per_load) counts these).
//!
//! Tables shrink when less than a quarter of them is used, and by eviction for other memory. They shrink in place. The index
//! shrinks when less than an eighth is used and at most 32,768 entries are left, because they are moved under the lock. The
//! tables of `Lru` are freed with the last entry.
//!
//! # Time
//!
//! Entries expire by [the crate's clock](crate::clock), which counts a freeze. An expired entry is never returned, unless
//! its load fails and [`stale_if_error`](CacheBuilder::stale_if_error) allows it. It is freed when its key is looked up, by
//! [`Cache::remove_expired`], by [`Cache::retain`], and before other entries when memory is released. An insert that evicts
//! does not look for expired entries. Nothing runs in the background. A cache without expiry reads no clock.
//!
//! With [`refresh_after`](CacheBuilder::refresh_after), one caller loads a value again before it expires.
//!
//! # Pressure
//!
//! A cache with an [account](CacheBuilder::account) charges it all its bytes. If the budget has no room, the cache evicts
//! its own entries first, and other accounts are asked when it is empty. If other accounts need memory, the cache releases
//! expired entries, and under [`Pressure::Critical`](crate::Pressure::Critical) others in the order of its policy: as many
//! as the bytes need, at least 1/128 of the cache at a time. It grows again by use.
//!
//! Code that releases memory allocates nothing. It removes 16 entries at a time, fewer if they are
//! larger than 512 bytes inline, and drops them after the lock is released.
//!
//! # Shards
//!
//! A large cache has several [shards](CacheBuilder::shards), so that several threads can use it at once. The bounds apply
//! to all of them together, at any time. An insert into a full cache evicts from its own shard. If this shard holds less
//! than its share, or gets most of the inserts, it evicts from the others, in turn. So the keys of one shard can fill the
//! whole cache, and an entry may be as large as the bound.
//!
//! # Locks and user code
//!
//! One lock guards a shard, and no thread holds the locks of two. Under a lock run `Eq` of keys, `Clone` of values, and the
//! closures of [`Cache::for_each`], [`Cache::retain`] and [`Cache::try_get_or_load_if`]: **these must not use the same
//! cache**, or they wait for themselves. `Hash`, weighers, [`expire_by`](CacheBuilder::expire_by), loaders, the closure
//! of [`Cache::compute`], removal listeners and `Drop` run without a lock, and may use it. Each of them may panic: the cache
//! stays whole. Make values cheap to clone: an `Arc`.

mod bound;
mod builder;
mod compute;
mod error;
mod expire_by;
mod ghosts;
mod hasher;
mod in_flight;
mod index;
mod inner;
mod load;
mod locked;
mod lru;
mod maintenance;
mod policy;
mod put;
mod refresh;
mod removal;
mod removed;
mod s3fifo;
mod stats;
mod store;
mod to_key;

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::board;
use crate::clock::{RESOLUTION, millis};
use crate::size::ByteSize;
use crate::sync::MutexGuard;

pub use builder::{CacheBuilder, Eviction};
pub use compute::Change;
pub use error::{BuildError, ComputeError, InsertError, LoadError, RejectReason};
pub use hasher::{DefaultHashBuilder, DefaultHasher};
pub use removal::RemovalCause;
pub use stats::CacheStats;
pub use to_key::ToKey;

use bound::{Amount, Bound, Demand};
use in_flight::InFlight;
use inner::{CacheReclaimer, Inner, KeyHash, Shard};
use load::{Miss, Missed};
use locked::{Accounting, Locked, Quota, State};
use stats::Cause;
use store::{Ages, Lookup, MAX_SLOTS, NEVER, Slot, Store};

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
/// let order = orders.try_get_or_load(&4711, |_| Ok::<_, std::io::Error>("two lamps".to_owned()))?; // loads
/// assert_eq!(orders.get(&4711), Some(order));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Cache<K, V, S = DefaultHashBuilder> {
    inner: Arc<Inner<K, V, S>>,
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
    /// # Ok::<(), plimsoll::cache::BuildError>(())
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
        let count = builder.shard_count();
        let CacheBuilder {
            name, weigher, by_load, listener, expire_by, reserve_per_load, eviction, clock, hasher, ..
        } = builder;
        let max_entries = builder.max_entries.unwrap_or(MAX_SLOTS).min(MAX_SLOTS);
        let max_bytes = builder.max_bytes.map_or(u64::MAX, ByteSize::as_u64);
        let bound = Arc::new(Bound::new(max_bytes, max_entries));
        let weighs = weigher.is_some() || by_load;
        let grace = millis(builder.stale_if_error);
        let ages = Ages { idle: builder.tti.map(millis), refresh_after: builder.refresh_after.map(millis), grace };
        let shard = |_| {
            let accounting = match &builder.account {
                Some((account, _)) => Accounting::Account(account.reserve(ByteSize::ZERO)),
                None => Accounting::Gauge(board::holder(name), 0),
            };
            Shard::new(State {
                store: Store::new(eviction, max_entries, count, weighs, ages, clock.now()),
                bound: Arc::clone(&bound),
                claimed: Amount::default(),
                shards: count,
                demand: Demand::default(),
                quota: Quota::default(),
                accounting,
                arrivals: 0,
                in_flight: InFlight::default(),
                counters: CacheStats::default(),
            })
        };
        let shards = (0..count).map(shard).collect();
        let inner = Arc::new(Inner {
            shards,
            bound,
            name,
            weigher,
            by_load,
            listener,
            reserve_per_load,
            ttl: builder.ttl.map(millis),
            timed: AtomicBool::new(builder.ttl.is_some() || builder.tti.is_some() || expire_by.is_some()),
            expire_by,
            refresh_after: ages.refresh_after,
            has_grace: grace > 0,
            clock,
            hasher,
            reclaimer: OnceLock::new(),
        });
        if let Some((account, priority)) = builder.account {
            let reclaimer = CacheReclaimer(Arc::downgrade(&inner));
            inner.reclaimer.get_or_init(|| account.register_reclaimer(priority, reclaimer));
        }
        Self { inner }
    }

    /// Returns the present figures and the counters. Takes the lock of each shard for a copy.
    ///
    /// `entries` and `bytes` are never above the bounds. For a moment after a bound was lowered, they may have a part that an
    /// insert has claimed and releases again. While other threads use the cache, the counters of its shards are
    /// read one after the other.
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
        let bound = &self.inner.bound;
        let mut stats = CacheStats { name: self.inner.name, ..CacheStats::default() };
        self.inner.shards.iter().for_each(|shard| stats.add(&shard.lock().counters));
        CacheStats {
            entries: bound.entries(),
            max_entries: Some(bound.max_entries()).filter(|&max| max < MAX_SLOTS),
            bytes: ByteSize::bytes(bound.stored_bytes()),
            max_bytes: Some(ByteSize::bytes(bound.max_bytes())).filter(|&max| max < ByteSize::MAX),
            loading: ByteSize::bytes(bound.loading()),
            ..stats
        }
    }

    /// Returns the name of the cache.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("orders").max_entries(10).build()?;
    /// assert_eq!(cache.name(), "orders");
    /// # Ok::<(), plimsoll::cache::BuildError>(())
    /// ```
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Returns the number of entries. Expired entries that are not yet freed count.
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
        self.inner.bound.entries()
    }

    /// Returns `true` if there are no entries.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<u64, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// assert!(cache.is_empty());
    /// # Ok::<(), plimsoll::cache::BuildError>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Hash + Eq, V, S: BuildHasher> Cache<K, V, S> {
    /// Returns a clone of the value of `key`. `None` if it is absent or expired.
    ///
    /// # Performance
    ///
    /// Costs a hash, a lock, and a reading of the coarse clock if entries may expire. Allocates nothing itself.
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
        self.look::<Q, false>(self.inner.hash(key), key, |_| true).ok()
    }

    /// Looks a key up. If there is no value that `accept` accepts, returns the state of the cache at this moment. `REFRESHES`:
    /// a stale value is a miss too.
    #[expect(clippy::inline_always, reason = "a tenth of a hit: called, it returns the value in memory")]
    #[inline(always)]
    fn look<Q, const REFRESHES: bool>(&self, hash: KeyHash, key: &Q, accept: impl FnOnce(&V) -> bool) -> Result<V, Miss>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
        V: Clone,
    {
        let now = self.inner.now();
        let mut guard = self.inner.shard(hash).lock();
        let state = &mut *guard;
        match state.store.lookup::<Q, REFRESHES>(hash.hash, key, now, accept) {
            Lookup::Live(value) => {
                state.counters.hits += 1;
                Ok(value.clone())
            }
            Lookup::Stale => {
                state.counters.hits += 1;
                Err(Miss::Stale)
            }
            Lookup::Absent => {
                state.counters.misses += 1;
                Err(Miss::Load(Missed { absent_at: Some(state.arrivals) }))
            }
            Lookup::Rejected => {
                state.counters.misses += 1;
                Err(Miss::Load(Missed { absent_at: None }))
            }
            Lookup::Expired(index) => Err(Miss::Load(self.remove_expired_entry(guard, hash, index, now))),
        }
    }

    /// Removes an entry that was looked up and has expired, unless it is kept for a load that may fail, or for its refresh,
    /// which the next loads join.
    #[cold]
    #[inline(never)]
    fn remove_expired_entry(&self, state: MutexGuard<'_, State<K, V>>, hash: KeyHash, index: u32, now: u64) -> Missed {
        let mut places = self.inner.places();
        let mut locked = Locked::new(state, places.removed(), false);
        let Locked { state, removed, .. } = &mut locked;
        state.counters.misses += 1;
        let tick = state.store.tick(now);
        if state.store.is_kept(index, tick) || state.in_flight.has_detached(hash.hash) {
            return Missed { absent_at: None };
        }
        state.remove(index, Cause::Expired, removed);
        Missed { absent_at: Some(state.arrivals) }
    }

    /// Returns a clone of the value of `key`. `None` if it is absent or expired. This is no access: neither the
    /// statistics nor the eviction policy nor the time to idle count it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<String, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// cache.insert("lamps".to_owned(), 2)?;
    /// assert_eq!(cache.peek("lamps"), Some(2));
    /// assert_eq!(cache.stats().hits, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peek<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        let (hash, now) = (self.inner.hash(key), self.inner.now());
        self.inner.shard(hash).lock().store.peek(hash.hash, key, now).cloned()
    }

    /// Returns `true` if the key is there and has not expired. This is no access, as with [`peek`](Self::peek).
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::Cache;
    /// let cache: Cache<String, u64> = Cache::builder("cache").max_entries(10).build()?;
    /// assert!(!cache.contains_key("lamps"));
    /// assert_eq!(cache.stats().misses, 0);
    /// # Ok::<(), plimsoll::cache::BuildError>(())
    /// ```
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let (hash, now) = (self.inner.hash(key), self.inner.now());
        self.inner.shard(hash).lock().store.peek(hash.hash, key, now).is_some()
    }

    /// Inserts a value, or replaces the former value of the key, and cancels the running loads of the key. It expires after
    /// the cache's time to live.
    ///
    /// If the cache is full, entries are evicted for it. A replaced value keeps its rank in the eviction order. Removed
    /// entries are dropped after the lock is released.
    ///
    /// # Errors
    ///
    /// [`InsertError`] with the key and the value, if the entry alone is larger than the bound, the cache may hold no
    /// entries, running loads leave too little of the bound, the budget has no room, or the value has expired already by
    /// [`expire_by`](CacheBuilder::expire_by). For an entry that can never fit, nothing is evicted. A new key is rejected once
    /// if its weight exceeds a tenth of `max_bytes` and entries that were hit would be evicted for it
    /// ([`RejectReason::NotAdmitted`]).
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
        let inner = &*self.inner;
        let (weight, ttl, hash) = (inner.weigh(&key, &value), inner.ttl(&key, &value), inner.hash(&key));
        inner.put(hash, &mut Some(Slot { key, value, hash: hash.hash, expires: NEVER }), weight, ttl, None)
    }

    /// Inserts a value that expires after `ttl`, instead of the cache's time to live. For its accuracy see
    /// [`CacheBuilder::time_to_live`].
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert), and if `ttl` is below the clock's resolution of 10 ms.
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
            self.inner.shard(self.inner.hash(&key)).lock().counters.rejections += 1;
            return Err(InsertError::new(
                key,
                value,
                RejectReason::TimeToLive { cache: self.inner.name, ttl, least: RESOLUTION },
            ));
        }
        // Before the entry is there: a reader that finds it reads the clock.
        self.inner.timed.store(true, Relaxed);
        let (weight, hash) = (self.inner.weigh(&key, &value), self.inner.hash(&key));
        let mut slot = Some(Slot { key, value, hash: hash.hash, expires: NEVER });
        self.inner.put(hash, &mut slot, weight, Some(millis(ttl)), None)
    }

    /// Removes the entry of `key` and returns its value. `None` if it is absent or expired. Cancels the running loads of the
    /// key.
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
        let (hash, now) = (self.inner.hash(key), self.inner.now());
        let mut places = self.inner.places();
        let mut locked = self.inner.locked(hash, &mut places);
        let Locked { state, removed, .. } = &mut locked;
        state.in_flight.cancel(hash.hash, key);
        let index = state.store.find(hash.hash, key)?;
        let tick = state.store.tick(now);
        if state.store.is_expired(index, tick) {
            state.remove(index, Cause::Expired, removed);
            return None;
        }
        let slot = state.store.remove(index)?;
        state.counters.count(Cause::Removed);
        // The value belongs to the caller now, and the cache is no longer charged for it.
        drop(locked);
        if let Some(listener) = &self.inner.listener {
            listener(&slot.key, &slot.value, Cause::Removed);
        }
        Some(slot.value)
    }
}

impl<K, V, S> Clone for Cache<K, V, S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K, V, S> fmt::Debug for Cache<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}
