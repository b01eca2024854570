//! Loads that cannot fail.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

use super::super::{Cache, ToKey};

/// The error of a loader that has run before. It never occurs: a load calls its loader once at most.
struct HasRun;

impl<K, V, S> Cache<K, V, S>
where
    K: Hash + Eq + Send + 'static,
    V: Clone + Send + 'static,
    S: BuildHasher,
{
    /// Returns the value of `key`, or loads it on this thread and stores it, by a loader that cannot fail. The loader
    /// receives `key`. Other blocking callers of this method for the key wait for this load and get its value.
    ///
    /// If the load is refused, the caller runs its loader itself, without the others, and gets a value that is not stored.
    /// [`rejections`](super::super::CacheStats::rejections) counts it. This has two reasons:
    ///
    /// - The bytes [reserved for each load](super::super::CacheBuilder::reserve_per_load) cannot be had. Then the loader
    ///   uses memory that the bound and the budget do not have. Use [`try_get_or_load`](Self::try_get_or_load) to return an
    ///   error instead.
    /// - The loader asks for its own key, also by way of loads on other threads that wait for each other. It runs again
    ///   inside itself, as without a cache. A loader that always asks for its own key never ends.
    ///
    /// Writes, cancelled loads, the time to live and panics: see [`try_get_or_load`](Self::try_get_or_load), which does not
    /// share its loads with callers of this method.
    ///
    /// # Deadlocks
    ///
    /// A loader never ends if it waits, by a channel or a lock, for a thread that waits for this load.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use plimsoll::Cache;
    ///
    /// let lengths: Cache<Arc<str>, usize> = Cache::builder("lengths").max_entries(100).build()?;
    /// assert_eq!(lengths.get_or_load("four", |id| id.len()), 4);
    /// assert_eq!(lengths.get("four"), Some(4));
    /// # Ok::<(), plimsoll::cache::BuildError>(())
    /// ```
    #[inline]
    pub fn get_or_load<'k, Q>(&self, key: &'k Q, load: impl FnOnce(&'k Q) -> V) -> V
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
    {
        let mut load = Some(load);
        match self.try_get_or_load(key, |key| load.take().map(|load| load(key)).ok_or(HasRun)) {
            Ok(value) => value,
            Err(_refused) => self.load_refused(key, load),
        }
    }

    /// Runs a loader after its load was refused.
    #[cold]
    fn load_refused<'k, Q>(&self, key: &'k Q, load: Option<impl FnOnce(&'k Q) -> V>) -> V
    where
        Q: Hash + ?Sized,
    {
        let Some(load) = load else { has_panicked() };
        let value = load(key);
        self.count_refused(key);
        value
    }

    /// Counts a value that was loaded and not stored, because its load was refused.
    fn count_refused<Q: Hash + ?Sized>(&self, key: &Q) {
        let counters = &mut self.inner.shard(self.inner.hash(key)).lock().counters;
        counters.load_successes += 1;
        counters.rejections += 1;
    }
}

impl<K, V, S> Cache<K, V, S>
where
    K: Hash + Eq + Send + 'static,
    V: Clone + Send + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Returns the value of `key`, or loads it by a future that cannot fail, and stores it. Other async callers of this
    /// method for the key wait for this load and get its value.
    ///
    /// If the load is refused, the caller runs its loader itself, and gets a value that is not stored: see
    /// [`get_or_load`](Self::get_or_load). All else is as with
    /// [`try_get_or_load_async`](Self::try_get_or_load_async), which does not share its loads with callers of this method.
    ///
    /// # Panics
    ///
    /// If the load of this caller panicked in a poll of another waiter.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::Cache;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let lengths: Cache<String, usize> = Cache::builder("lengths").max_entries(100).build()?;
    /// assert_eq!(lengths.get_or_load_async("four", |_| async { 4 }).await, 4);
    /// assert_eq!(lengths.get("four"), Some(4));
    /// # Ok::<(), plimsoll::cache::BuildError>(())
    /// # }).unwrap();
    /// ```
    pub async fn get_or_load_async<'k, Q, L>(&self, key: &'k Q, load: impl FnOnce(&'k Q) -> L) -> V
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
        L: Future<Output = V> + Send + 'static,
    {
        let mut load = Some(load);
        let start = |key| {
            let load = load.take().map(|load| load(key));
            async move {
                match load {
                    Some(load) => Ok(load.await),
                    None => Err(HasRun),
                }
            }
        };
        if let Ok(value) = self.try_get_or_load_async(key, start).await {
            return value;
        }
        let Some(load) = load else { has_panicked() };
        let value = load(key).await;
        self.count_refused(key);
        value
    }
}

/// Panics because the loader of this caller has run and returned nothing.
#[expect(clippy::panic, reason = "a load that cannot fail has panicked, in a poll of another waiter")]
#[cold]
fn has_panicked() -> ! {
    panic!("the load panicked in a poll of another waiter")
}
