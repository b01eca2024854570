//! Loads by a future, which belongs to all its waiters: one of them polls it.

use std::borrow::Borrow;
use std::future::{poll_fn, ready};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::task::Poll;

use crate::heap;
use crate::singleflight::{BoxFuture, Joined, SharedFuture, Waiter};

use super::super::in_flight::{LoadId, Role};
use super::super::put::Loaded;
use super::super::{Cache, Inner, LoadError};
use super::reservation::LoadReservation;
use super::{Fault, Joining, Missed, Outcome};

/// A waiter of an in-flight load. Fields are dropped in their order, also if the `Drop` of the load panics: first the waiter
/// leaves, then the entry is removed if there is no load any more.
struct InFlightWaiter<'a, K, V, S, E>
where
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    waiter: Waiter<Outcome<V, E>>,
    _entry: EntryGuard<'a, K, V, S, E>,
}

/// Removes the entry of an abandoned load when it is dropped.
struct EntryGuard<'a, K, V, S, E>
where
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    inner: &'a Inner<K, V, S>,
    hash: u32,
    id: LoadId,
    shared: Arc<SharedFuture<Outcome<V, E>>>,
}

impl<'a, K, V, S, E> InFlightWaiter<'a, K, V, S, E>
where
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    fn new(inner: &'a Inner<K, V, S>, hash: u32, id: LoadId, waiter: Waiter<Outcome<V, E>>) -> Self {
        let shared = Arc::clone(waiter.shared());
        Self { waiter, _entry: EntryGuard { inner, hash, id, shared } }
    }
}

impl<K, V, S, E> Drop for EntryGuard<'_, K, V, S, E>
where
    V: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    fn drop(&mut self) {
        if self.shared.abandonment().is_some() {
            let entry = self.inner.state.lock().in_flight.finish(self.hash, self.id);
            drop(entry);
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
    /// cancelled, the future is dropped, and the next caller loads again. Therefore it may borrow nothing. It does not keep
    /// the cache alive.
    ///
    /// If a poll panics, the panic passes to the caller only if this caller started the load. Other waiters load again. A
    /// load that needs its runtime, such as a timer of tokio, may panic when this runtime ends.
    ///
    /// Writes, cancelled loads, the time to live and error types: see [`try_get_or_load`](Self::try_get_or_load), which
    /// does not share its loads with async callers.
    ///
    /// # Errors
    ///
    /// As [`try_get_or_load`](Self::try_get_or_load). [`LoadError::Reentrant`] inside a poll of the load itself.
    /// [`LoadError::Panicked`] if the load of this caller panicked in a poll of another waiter.
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
    /// let value = cache.try_get_or_load_async("four", || fetch("four".to_owned())).await?;
    /// assert_eq!((value, cache.get("four")), (4, Some(4)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn try_get_or_load_async<Q, E, L>(&self, key: &Q, load: impl FnOnce() -> L) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        E: Send + Sync + 'static,
        L: Future<Output = Result<V, E>> + Send + 'static,
    {
        self.get_or_load_async(key, |_| true, load).await
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
    /// let load = || async { Ok::<_, std::io::Error>((20, "second")) };
    /// let token = tokens.try_get_or_load_if_async(&1, |(expires, _)| *expires <= now, load).await?;
    /// assert_eq!(token, (20, "second"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn try_get_or_load_if_async<Q, E, L>(
        &self,
        key: &Q,
        replace_if: impl Fn(&V) -> bool,
        load: impl FnOnce() -> L,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        E: Send + Sync + 'static,
        L: Future<Output = Result<V, E>> + Send + 'static,
    {
        self.get_or_load_async(key, |value| !replace_if(value), load).await
    }

    async fn get_or_load_async<Q, E, L>(
        &self,
        key: &Q,
        accept: impl Fn(&V) -> bool,
        load: impl FnOnce() -> L,
    ) -> Result<V, LoadError<E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        E: Send + Sync + 'static,
        L: Future<Output = Result<V, E>> + Send + 'static,
    {
        let inner = &*self.inner;
        let hash = inner.hash(key);
        let mut missed = match self.look(hash, key, &accept) {
            Ok(value) => return Ok(value),
            Err(missed) => missed,
        };
        loop {
            let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
            let begun = SharedFuture::<Outcome<V, E>>::begin(waker);
            let new = Arc::clone(begun.shared());
            let share = |_| Arc::clone(begun.shared());
            let mut owned = Some(key.to_owned());
            let joined = inner.join(hash, key, &mut owned, missed, &accept, Some(new), share);
            drop(owned);
            match joined {
                Joining::Ready(value) => return Ok(value),
                Joining::Role(Role::Leader(id)) => {
                    let mut waiting = InFlightWaiter::new(inner, hash, id, begun);
                    waiting.waiter.start(|| self.start(hash, key, id, missed, load));
                    return match (&mut waiting.waiter).await {
                        Joined::Complete(outcome) => outcome.map_err(LoadError::from),
                        Joined::Abandoned => Err(LoadError::Panicked),
                        Joined::Reentrant => Err(LoadError::Reentrant),
                    };
                }
                Joining::Role(Role::Follower(id, shared)) => {
                    drop(begun);
                    let mut waiting = InFlightWaiter::new(inner, hash, id, shared.waiter());
                    match (&mut waiting.waiter).await {
                        Joined::Complete(outcome) => return outcome.map_err(LoadError::from),
                        Joined::Reentrant => return Err(LoadError::Reentrant),
                        // It panicked, or its waiters left before this one was polled.
                        Joined::Abandoned => missed.absent_at = None,
                    }
                }
            }
        }
    }

    /// Makes the future of a load, which may outlive the caller.
    fn start<Q, E, L>(
        &self,
        hash: u32,
        key: &Q,
        id: LoadId,
        missed: Missed,
        load: impl FnOnce() -> L,
    ) -> BoxFuture<Outcome<V, E>>
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + ?Sized,
        E: Send + Sync + 'static,
        L: Future<Output = Result<V, E>> + Send + 'static,
    {
        let started = self.inner.now();
        let reservation = match LoadReservation::begin(&self.inner) {
            Ok(reservation) => reservation,
            Err(error) => {
                let entry = self.inner.state.lock().in_flight.finish(hash, id);
                drop(entry);
                return Box::pin(ready(Err(self.inner.fault(error))));
            }
        };
        // The parts of the future are freed in its last poll.
        let ((key, load), made) = heap::scope(|| (key.to_owned(), load()));
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
