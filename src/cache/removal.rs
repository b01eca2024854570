//! Removal listeners: user code that is called for each entry that leaves a cache.

use super::CacheBuilder;

/// The reason why an entry left a cache, for a [removal listener](CacheBuilder::removal_listener).
///
/// # Examples
///
/// ```
/// use plimsoll::{Cache, cache::RemovalCause};
///
/// let files: Cache<u64, std::path::PathBuf> = Cache::builder("files")
///     .max_entries(100)
///     .removal_listener(|_key, path, cause| {
///         // A replaced value has the same path.
///         if cause != RemovalCause::Replaced {
///             _ = std::fs::remove_file(path);
///         }
///     })
///     .build()?;
/// # assert!(files.is_empty());
/// # Ok::<(), plimsoll::cache::BuildError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum RemovalCause {
    /// It was evicted to keep the cache within its bounds: by an insert, a load, [`evict_to`](super::Cache::evict_to), or
    /// a lower bound.
    Size,
    /// It had expired. The listener is called when the entry is freed, which may be long after its expiry.
    Expired,
    /// It was evicted because the budget had no room: for another account, or for the next value of this cache.
    Pressure,
    /// It was removed by [`remove`](super::Cache::remove), [`compute`](super::Cache::compute) or
    /// [`retain`](super::Cache::retain), or because the next value of its key was rejected.
    Removed,
    /// A later value of its key replaced it. If the tables had to shrink for this value, the budget may still reject it.
    Replaced,
    /// It was removed by [`clear`](super::Cache::clear).
    Cleared,
}

/// User code that is called for each entry that leaves a cache.
pub(super) type Listener<K, V> = Box<dyn Fn(&K, &V, RemovalCause) + Send + Sync>;

impl<K, V, S> CacheBuilder<K, V, S> {
    /// Sets a function that is called with each entry that leaves the cache, once, before the entry is dropped.
    ///
    /// It is called on the thread that removes the entry, after the lock is released, and may use the cache. For entries
    /// that are evicted for another account, this is the thread that reserves memory there: the listener should be fast and
    /// allocate little. A call may come after a later value of the same key was inserted.
    ///
    /// It is not called for values that were never stored: inserts that are rejected, and loads that store nothing. If the
    /// cache is dropped, its last entries are dropped without a call; call [`clear`](super::Cache::clear) before if they
    /// matter. A listener that owns a handle of the cache keeps the cache alive, and with it itself.
    ///
    /// # Panics
    ///
    /// A panic of the listener is that of a `Drop` of the entry: the other entries are still reported and dropped, operations
    /// on many entries go on to their end, and the first panic continues in the caller. A load still returns its value if the
    /// listener panics for an entry that was evicted for it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::mpsc;
    /// # use plimsoll::{Cache, cache::RemovalCause};
    /// let (sender, removed) = mpsc::channel();
    /// let cache: Cache<u64, String> = Cache::builder("cache")
    ///     .max_entries(100)
    ///     .removal_listener(move |key, value: &String, cause| _ = sender.send((*key, value.clone(), cause)))
    ///     .build()?;
    /// cache.insert(1, "one".to_owned())?;
    /// cache.insert(1, "another".to_owned())?;
    /// cache.clear();
    /// assert_eq!(removed.recv()?, (1, "one".to_owned(), RemovalCause::Replaced));
    /// assert_eq!(removed.recv()?, (1, "another".to_owned(), RemovalCause::Cleared));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn removal_listener(mut self, listener: impl Fn(&K, &V, RemovalCause) + Send + Sync + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }
}
