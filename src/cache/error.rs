//! Why a value is not in the cache. It comes back to its owner.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::BudgetExceeded;
use crate::error_chain::{debug_as_chain, fmt_chain};
use crate::size::ByteSize;

/// A key and a value that the cache did not take; [`into_entry`](Self::into_entry) gives them back.
///
/// The former value of the key is removed, because it was to be replaced. It stays if
/// [`insert_with_ttl`](crate::Cache::insert_with_ttl) rejects the time to live that it was called with.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, Cache};
///
/// let pages: Cache<u64, String> = Cache::builder("pages").max_bytes(ByteSize::kib(4)).build()?;
/// let refused = pages.insert(1, "x".repeat(100_000)).unwrap_err();
/// println!("{}", refused.reason()); // cache pages: an entry of 97.8 KiB is more than the 4.0 KiB it may hold
/// let (_key, page) = refused.into_entry();
/// assert_eq!(page.len(), 100_000);
/// # Ok::<(), plimsoll::cache::BuildError>(())
/// ```
#[derive(thiserror::Error)]
#[error("{reason}")]
pub struct InsertError<K, V> {
    key: K,
    value: V,
    /// Not a `source`: the message is its own.
    reason: RejectReason,
}

impl<K, V> InsertError<K, V> {
    pub(super) const fn new(key: K, value: V, reason: RejectReason) -> Self {
        Self { key, value, reason }
    }

    /// Returns why it was rejected.
    pub const fn reason(&self) -> &RejectReason {
        &self.reason
    }

    /// Gives back what was to be inserted.
    pub fn into_entry(self) -> (K, V) {
        (self.key, self.value)
    }
}

/// Prints the message. Keys and values are not printed, because they may be secrets.
impl<K, V> fmt::Debug for InsertError<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_chain(self, f)
    }
}

/// Why a value is not taken.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, Cache, cache::RejectReason};
///
/// let pages: Cache<u64, String> = Cache::builder("pages").max_bytes(ByteSize::kib(4)).build()?;
/// let refused = pages.insert(1, "x".repeat(100_000)).unwrap_err();
/// assert!(matches!(refused.reason(), RejectReason::TooLarge { limit, .. } if *limit == ByteSize::kib(4)));
/// # Ok::<(), plimsoll::cache::BuildError>(())
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RejectReason {
    /// The entry alone is larger than the cache may be. Nothing was evicted for it.
    #[error("cache {cache}: an entry of {size} is more than the {limit} it may hold")]
    #[non_exhaustive]
    TooLarge {
        /// The cache's name.
        cache: &'static str,
        /// The entry with the least tables it needs.
        size: ByteSize,
        /// What it had to be within: `max_bytes`, or 4 GiB.
        limit: ByteSize,
    },
    /// The cache may hold no entry at all: `max_entries` is 0.
    #[error("cache {cache}: it may hold no entries")]
    #[non_exhaustive]
    NoEntries {
        /// The cache's name.
        cache: &'static str,
    },
    /// The entry does not fit next to the bytes that are reserved for running loads. It may fit later. Nothing was evicted
    /// for it, unless a load started in the meantime.
    #[error("cache {cache}: an entry of {size} is more than the {available} that running loads leave")]
    #[non_exhaustive]
    ReservedForLoads {
        /// The cache's name.
        cache: &'static str,
        /// The entry with the smallest tables it needs.
        size: ByteSize,
        /// `max_bytes` without the reserved bytes.
        available: ByteSize,
    },
    /// The entry is large and new, and entries that were hit would have been evicted for it. Nothing was evicted. The cache
    /// remembers the key for a while, and admits it at the next insert.
    ///
    /// Only [`Eviction::S3Fifo`](super::Eviction::S3Fifo) rejects entries for this reason.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, Cache, cache::RejectReason};
    ///
    /// let pages: Cache<u64, Vec<u8>> = Cache::builder("pages").max_bytes(ByteSize::kib(64)).build()?;
    /// for key in 0..50 {
    ///     pages.insert(key, vec![0; 1_000])?;
    ///     pages.get(&key);
    /// }
    /// let rejected = pages.insert(100, vec![0; 40_000]).unwrap_err();
    /// assert!(matches!(rejected.reason(), RejectReason::NotAdmitted { .. }));
    /// let (key, page) = rejected.into_entry();
    /// pages.insert(key, page)?; // the second insert is admitted
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[error("cache {cache}: a new entry of {size} is more than {share}, and was not admitted over entries in use")]
    #[non_exhaustive]
    NotAdmitted {
        /// The cache's name.
        cache: &'static str,
        /// The entry and its slot in the tables.
        size: ByteSize,
        /// The tenth of `max_bytes` up to which each new entry is admitted.
        share: ByteSize,
    },
    /// Other threads took the room that was made for the entry, again and again. It may fit later.
    #[error("cache {cache}: other threads took the room that was made for an entry of {size}")]
    #[non_exhaustive]
    Contended {
        /// The cache's name.
        cache: &'static str,
        /// The entry with the smallest tables it needs.
        size: ByteSize,
    },
    /// The budget had no room, although the cache and other accounts were asked to release memory. If nothing they could
    /// release would have been enough, nothing was evicted.
    #[error(transparent)]
    Budget(BudgetExceeded),
    /// The time to live is below the clock's resolution: that of
    /// [`insert_with_ttl`](crate::Cache::insert_with_ttl), or of the value by
    /// [`expire_by`](crate::cache::CacheBuilder::expire_by).
    #[error("cache {cache}: a time to live of {ttl:?} is below the clock's resolution of {least:?}")]
    #[non_exhaustive]
    TimeToLive {
        /// The cache's name.
        cache: &'static str,
        /// What was asked for.
        ttl: Duration,
        /// The least there is.
        least: Duration,
    },
}

debug_as_chain!(RejectReason);

/// Why a load returned no value.
///
/// All waiters of one load get the same error.
///
/// # Examples
///
/// ```
/// use plimsoll::{Cache, cache::LoadError};
///
/// let orders: Cache<u64, String> = Cache::builder("orders").max_entries(100).build()?;
/// let failed = orders.try_get_or_load(&1, |_| Err(std::io::Error::other("the table is locked"))).unwrap_err();
/// assert!(matches!(&failed, LoadError::Load(cause) if cause.to_string() == "the table is locked"));
/// # Ok::<(), plimsoll::cache::BuildError>(())
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum LoadError<E> {
    /// The loader returned an error.
    #[error("the value could not be loaded")]
    Load(#[source] Arc<E>),
    /// The budget has no room for the bytes that are [reserved for each load](super::CacheBuilder::reserve_per_load). The
    /// loader did not run.
    #[error("the load did not start: its bytes could not be reserved")]
    BudgetExceeded(#[source] BudgetExceeded),
    /// The bytes that are [reserved for each load](super::CacheBuilder::reserve_per_load) do not fit next to those of the
    /// running loads. The loader did not run.
    #[error("cache {cache}: the load did not start: its {size} exceed the {available} that running loads leave")]
    #[non_exhaustive]
    TooManyLoads {
        /// The cache's name.
        cache: &'static str,
        /// Bytes reserved for each load.
        size: ByteSize,
        /// `max_bytes` without the bytes of running loads.
        available: ByteSize,
    },
    /// The loader asked for the key that it loads: itself, or by way of loads on other threads that wait for each other.
    #[error("the loader waits for the key that it loads")]
    Reentrant,
    /// The async load that this caller started panicked while another waiter polled it. Or it was a refresh that panicked or
    /// was cancelled by a write, after the stale value had expired. The next call loads again.
    #[error("the load panicked")]
    Panicked,
}

/// Prints the message and the `Debug` text of its cause.
// The bound `E: Error` would print the causes of `E`, but types such as `String` and `Box<dyn Error>` do not meet it.
impl<E: fmt::Debug> fmt::Debug for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        match self {
            Self::Load(error) => write!(f, ": {error:?}"),
            Self::BudgetExceeded(exceeded) => write!(f, ": {exceeded:?}"),
            Self::TooManyLoads { .. } | Self::Reentrant | Self::Panicked => Ok(()),
        }
    }
}

impl<E> Clone for LoadError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Load(error) => Self::Load(Arc::clone(error)),
            Self::BudgetExceeded(exceeded) => Self::BudgetExceeded(exceeded.clone()),
            Self::TooManyLoads { cache, size, available } => {
                Self::TooManyLoads { cache, size: *size, available: *available }
            }
            Self::Reentrant => Self::Reentrant,
            Self::Panicked => Self::Panicked,
        }
    }
}

/// Why [`Cache::compute`](super::Cache::compute) changed nothing, or rejected the new value.
///
/// # Examples
///
/// ```
/// use plimsoll::cache::{Change, ComputeError};
/// use plimsoll::{ByteSize, Cache};
///
/// let pages: Cache<u64, String> = Cache::builder("pages").max_bytes(ByteSize::kib(4)).build()?;
/// let rejected = pages.compute(&1, |_| Change::Put("x".repeat(100_000))).unwrap_err();
/// if let ComputeError::Rejected(rejected) = rejected {
///     let (_key, page) = rejected.into_entry();
///     assert_eq!(page.len(), 100_000);
/// }
/// # Ok::<(), plimsoll::cache::BuildError>(())
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ComputeError<K, V> {
    /// The cache did not take the new value, which the error returns. The former value is removed, as by
    /// [`insert`](super::Cache::insert).
    #[error("the computed value was rejected")]
    Rejected(#[source] InsertError<K, V>),
    /// The computation waits for itself: it computes its own key, directly or by computations and loads on other threads
    /// that wait for each other. Nothing was changed.
    #[error("cache {cache}: the computation waits for the key that it computes")]
    #[non_exhaustive]
    Reentrant {
        /// The cache's name.
        cache: &'static str,
    },
}

/// Prints the message and its cause. Keys and values are not printed, because they may be secrets.
// A derived `Debug` would print the variant, and `fmt_chain` requires `K: 'static`.
impl<K, V> fmt::Debug for ComputeError<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        match self {
            Self::Rejected(rejected) => write!(f, ": {rejected:?}"),
            Self::Reentrant { .. } => Ok(()),
        }
    }
}

/// Why there is no cache.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use plimsoll::Cache;
///
/// let wrong = Cache::<u64, u64>::builder("orders").max_entries(1).time_to_live(Duration::ZERO).build();
/// assert_eq!(
///     wrong.unwrap_err().to_string(),
///     "cache orders: a time to live of 0ns is below the clock's resolution of 10ms"
/// );
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Neither entries nor bytes are bounded.
    #[error("cache {cache} has no bound: give it max_entries() or max_bytes()")]
    #[non_exhaustive]
    NoBound {
        /// The cache's name.
        cache: &'static str,
    },
    /// A time is below what the clock can tell apart.
    #[error("cache {cache}: a {what} of {time:?} is below the clock's resolution of {least:?}")]
    #[non_exhaustive]
    TooShort {
        /// The cache's name.
        cache: &'static str,
        /// Which time, in words.
        what: &'static str,
        /// What was asked for.
        time: Duration,
        /// The least there is.
        least: Duration,
    },
    /// The bytes reserved for each load exceed the bound, so that no load could start.
    #[error("cache {cache}: {size} reserved for each load exceed its max_bytes of {limit}")]
    #[non_exhaustive]
    LoadExceedsBound {
        /// The cache's name.
        cache: &'static str,
        /// Bytes reserved for each load.
        size: ByteSize,
        /// The bound.
        limit: ByteSize,
    },
    /// Loads cannot be weighed by what they retain, as nobody watches the heap.
    #[error("cache {cache} is to weigh by what loads retain: `plimsoll::TrackingAllocator` is not installed")]
    #[non_exhaustive]
    NotTracked {
        /// The cache's name.
        cache: &'static str,
    },
    /// Values are to be [refreshed](super::CacheBuilder::refresh_after), and have no time to live: nothing bounds the age of
    /// a value if its refresh fails.
    #[error("cache {cache} is to refresh its values, and has neither time_to_live() nor expire_by()")]
    #[non_exhaustive]
    RefreshUnbounded {
        /// The cache's name.
        cache: &'static str,
    },
    /// Values expire before they are [refreshed](super::CacheBuilder::refresh_after).
    #[error("cache {cache}: a refresh after {refresh_after:?} is not before the time to live of {time_to_live:?} ends")]
    #[non_exhaustive]
    RefreshTooLate {
        /// The cache's name.
        cache: &'static str,
        /// The age after which a value is stale.
        refresh_after: Duration,
        /// The age after which it expires.
        time_to_live: Duration,
    },
    /// Loads cannot be weighed without a bound in bytes.
    #[error("cache {cache} is to weigh by what loads retain, and has no max_bytes()")]
    #[non_exhaustive]
    NothingToWeigh {
        /// The cache's name.
        cache: &'static str,
    },
}

debug_as_chain!(BuildError);
