//! Loads by a future, which belongs to all its waiters: one of them polls it.

use std::borrow::Borrow;
use std::future::{poll_fn, ready};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::task::Poll;

use crate::heap;
use crate::singleflight::{BoxFuture, Joined, SharedFuture, Waiter};

use super::super::in_flight::{LoadId, Role};
use super::super::inner::{Inner, KeyHash};
use super::super::put::Loaded;
use super::super::{Cache, LoadError, ToKey};
use super::refresh::Refreshed;
use super::reservation::LoadReservation;
use super::{Fault, Joining, Miss, Missed, Outcome};

/// A waiter of an in-flight load. Fields are dropped in their order, also if the `Drop` of the load panics: first the waiter
/// leaves, then the entry is removed if there is no load any more.
pub(super) struct InFlightWaiter<'a, K, V, S, E>
where
    K: Eq,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    pub(super) waiter: Waiter<Outcome<V, E>>,
    entry: EntryGuard<'a, K, V, S, E>,
}

/// Removes the entry of an abandoned load when it is dropped.
pub(super) struct EntryGuard<'a, K, V, S, E>
where
    K: Eq,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    inner: &'a Inner<K, V, S>,
    hash: KeyHash,
    id: LoadId,
    shared: Arc<SharedFuture<Outcome<V, E>>>,
}

impl<'a, K, V, S, E> InFlightWaiter<'a, K, V, S, E>
where
    K: Eq,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    pub(super) fn new(inner: &'a Inner<K, V, S>, hash: KeyHash, id: LoadId, waiter: Waiter<Outcome<V, E>>) -> Self {
        let shared = Arc::clone(waiter.shared());
        Self { waiter, entry: EntryGuard::new(inner, hash, id, shared) }
    }

    pub(super) const fn hash(&self) -> KeyHash {
        self.entry.hash
    }

    pub(super) const fn id(&self) -> LoadId {
        self.entry.id
    }
}

impl<'a, K, V, S, E> EntryGuard<'a, K, V, S, E>
where
    K: Eq,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    pub(super) const fn new(
        inner: &'a Inner<K, V, S>,
        hash: KeyHash,
        id: LoadId,
        shared: Arc<SharedFuture<Outcome<V, E>>>,
    ) -> Self {
        Self { inner, hash, id, shared }
    }
}

impl<K, V, S, E> Drop for EntryGuard<'_, K, V, S, E>
where
    K: Eq,
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    fn drop(&mut self) {
        if self.shared.abandonment().is_some() {
            drop(self.inner.finish_failed(self.hash, self.id));
        }
    }
}

impl<K, V, S> Cache<K, V, S>
where
    K: Hash + Eq + Send + 'static,
    V: Clone + Send + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Returns the value of `key`, or loads it by a future and stores it. Other async callers of the key wait for this load
    /// and get its outcome. Nothing happens until the returned future is polled. It needs no runtime.
    ///
    /// The future of the load belongs to all its waiters, and one of them, the driver, polls it. If the driver is
    /// cancelled, another waiter polls on: a cancelled caller neither loses nor repeats the load. If all waiters are
    /// cancelled, the future is dropped, and the next caller loads again. Therefore it may borrow nothing, not even
    /// `key`, which the loader receives. It does not keep the cache alive.
    ///
    /// If a poll panics, the panic passes to the caller only if this caller started the load. Other waiters load again. A
    /// load that needs its runtime, such as a timer of tokio, may panic when this runtime ends.
    ///
    /// Writes, cancelled loads, stale values, the time to live and error types: see
    /// [`try_get_or_load`](Self::try_get_or_load), which does not share its loads with async callers.
    ///
    /// # Errors
    ///
    /// As [`try_get_or_load`](Self::try_get_or_load). [`LoadError::Reentrant`] inside a poll of the load itself.
    /// [`LoadError::Panicked`] if the load of this caller panicked in a poll of another waiter, or if it is a refresh that
    /// panicked, or was cancelled by a write, after the stale value had expired.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    ///
    /// # Deadlocks
    ///
    /// Two loads that wait for each other's key never end, unless one task polls both. A driver that keeps its
    /// future and does not poll it holds up the other waiters, until it polls it or drops it.
    ///
    /// # Performance
    ///
    /// A hit costs what [`get`](Self::get) costs. A load costs two clones of the key, one of the value for each waiter, and
    /// four allocations, one of them for the future. N waiters and M wake-ups cost about M polls of the load.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use plimsoll::Cache;
    ///
    /// async fn fetch(id: String) -> io::Result<u64> {
    ///     Ok(id.len() as u64)
    /// }
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let cache: Cache<String, u64> = Cache::builder("lengths").max_entries(100).build()?;
    /// let value = cache.try_get_or_load_async("four", |id| fetch(id.to_owned())).await?;
    /// assert_eq!((value, cache.get("four")), (4, Some(4)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn try_get_or_load_async<'k, Q, E, L>(
        &self,
        key: &'k Q,
        load: impl FnOnce(&'k Q) -> L,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
        E: Send + Sync + 'static,
        L: Future<Output = Result<V, E>> + Send + 'static,
    {
        self.load_or_join::<Q, E, L, true>(key, |_| true, load).await
    }

    /// Returns the value of `key` unless it must be replaced; else loads a value by a future, which replaces it.
    ///
    /// Async callers that reject the present value share one load, as with
    /// [`try_get_or_load_async`](Self::try_get_or_load_async). Until the load ends, [`get`](Self::get) returns the present
    /// value. It stays if the load fails. `replace_if` runs under the lock of the cache, and must not use it.
    ///
    /// # Errors
    ///
    /// As [`try_get_or_load_async`](Self::try_get_or_load_async).
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::Cache;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let tokens: Cache<u64, (u64, &str)> = Cache::builder("tokens").max_entries(100).build()?;
    /// tokens.insert(1, (10, "first"))?;
    /// let now = 11;
    /// let load = |_| async { Ok::<_, std::io::Error>((20, "second")) };
    /// let token = tokens.try_get_or_load_if_async(&1, |(expires, _)| *expires <= now, load).await?;
    /// assert_eq!(token, (20, "second"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn try_get_or_load_if_async<'k, Q, E, L>(
        &self,
        key: &'k Q,
        replace_if: impl Fn(&V) -> bool,
        load: impl FnOnce(&'k Q) -> L,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
        E: Send + Sync + 'static,
        L: Future<Output = Result<V, E>> + Send + 'static,
    {
        self.load_or_join::<Q, E, L, false>(key, |value| !replace_if(value), load).await
    }

    /// `REFRESHES`: a stale value is refreshed.
    async fn load_or_join<'k, Q, E, L, const REFRESHES: bool>(
        &self,
        key: &'k Q,
        accept: impl Fn(&V) -> bool,
        load: impl FnOnce(&'k Q) -> L,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
        E: Send + Sync + 'static,
        L: Future<Output = Result<V, E>> + Send + 'static,
    {
        let inner = &*self.inner;
        let hash = inner.hash(key);
        let mut load = Some(load);
        let mut missed = match self.look::<Q, REFRESHES>(hash, key, &accept) {
            Ok(value) => return Ok(value),
            Err(Miss::Load(missed)) => missed,
            Err(Miss::Stale) => match self.refresh_async(hash, key, &mut load) {
                Refreshed::Ready(refreshed) => return refreshed,
                Refreshed::Waits(waiting) => {
                    let refreshed = Self::wait_as_starter(waiting, key, &accept).await;
                    // A write may have come.
                    return refreshed.or_else(|error| inner.peek(hash, key).ok_or(error));
                }
                Refreshed::Load => Missed { absent_at: None },
            },
        };
        loop {
            let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
            let begun = SharedFuture::<Outcome<V, E>>::begin(waker);
            let new = Arc::clone(begun.shared());
            let share = |_| Arc::clone(begun.shared());
            let mut owned = Some(key.to_key());
            let joined = inner.join(hash, key, &mut owned, missed, &accept, Some(new), share);
            let (mut waiting, is_refresh) = match joined {
                Joining::Ready(value) => return Ok(value),
                Joining::Role(Role::Leader(id)) => {
                    let mut waiting = InFlightWaiter::new(inner, hash, id, begun);
                    drop(owned);
                    let Some(load) = load.take() else {
                        debug_assert!(
                            false,
                            "a caller that has started a refresh waits for it, and joins no other load"
                        );
                        return Err(LoadError::Panicked);
                    };
                    waiting.waiter.start(|| self.start(hash, key, id, missed, load));
                    return Self::wait_as_starter(waiting, key, &accept).await;
                }
                Joining::Role(Role::Follower(id, shared)) => {
                    drop(begun);
                    (InFlightWaiter::new(inner, hash, id, shared.waiter()), false)
                }
                // Attached before user code runs: it may panic.
                Joining::Role(Role::Refresh(id, shared)) => {
                    (InFlightWaiter::new(inner, hash, id, shared.attaching_waiter()), true)
                }
            };
            drop(owned);
            match (&mut waiting.waiter).await {
                // It started before this call, unless the loader of this caller is what runs. It may have expired.
                Joined::Complete(Ok(_)) if is_refresh => missed.absent_at = None,
                Joined::Complete(outcome) => return inner.or_expired(hash, key, &accept, outcome),
                Joined::Reentrant => return Err(LoadError::Reentrant),
                // It panicked, or its waiters left before this one was polled.
                Joined::Abandoned => missed.absent_at = None,
            }
        }
    }

    /// Waits for the load that this caller has started.
    async fn wait_as_starter<Q, E>(
        mut waiting: InFlightWaiter<'_, K, V, S, E>,
        key: &Q,
        accept: impl Fn(&V) -> bool,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
        E: Send + Sync + 'static,
    {
        let (inner, hash) = (waiting.entry.inner, waiting.entry.hash);
        match (&mut waiting.waiter).await {
            Joined::Complete(outcome) => inner.or_expired(hash, key, accept, outcome),
            Joined::Abandoned => Err(LoadError::Panicked),
            Joined::Reentrant => Err(LoadError::Reentrant),
        }
    }

    /// Makes the future of a load, which may outlive the caller.
    pub(super) fn start<'k, Q, E, L>(
        &self,
        hash: KeyHash,
        key: &'k Q,
        id: LoadId,
        missed: Missed,
        load: impl FnOnce(&'k Q) -> L,
    ) -> BoxFuture<Outcome<V, E>>
    where
        K: Borrow<Q>,
        Q: ToKey<K> + ?Sized,
        E: Send + Sync + 'static,
        L: Future<Output = Result<V, E>> + Send + 'static,
    {
        let started = self.inner.now();
        let reservation = match LoadReservation::begin(&self.inner) {
            Ok(reservation) => reservation,
            Err(error) => {
                drop(self.inner.finish_failed(hash, id));
                return Box::pin(ready(Err(self.inner.fault(error))));
            }
        };
        // The parts of the future are freed in its last poll.
        let ((key, load), made) = heap::scope(|| (key.to_key(), load(key)));
        let inner = Arc::downgrade(&self.inner);
        Box::pin(async move {
            let (loaded, polled) = heap::scope_async(load).await;
            let loaded = loaded.map(|value| (key, value));
            match inner.upgrade() {
                Some(inner) => {
                    let retained = made.zip(polled).map(|(made, polled)| made.then(polled));
                    let retained = retained.filter(|_| inner.by_load);
                    let mut finished = None;
                    let mut ended = Loaded::new(id, started, missed.absent_at, &mut finished);
                    inner.store_loaded(hash, loaded, retained, reservation, &mut ended)
                }
                None => loaded.map(|(_, value)| value).map_err(|error| Fault::Load(Arc::new(error))),
            }
        })
    }
}
