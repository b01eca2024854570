//! Loading by a future, which whoever waits for the key polls: the same marks and flights as those of a blocking load.

use std::borrow::Borrow;
use std::future::ready;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use crate::flight::{BoxLoad, Flight, FlightError, Join};
use crate::heap;
use crate::sync::ThreadId;

use super::load::{AnyFlight, Arrival, Expecting, Fault, Part, Ticket};
use super::{Cache, LoadError};

impl<K, V, S> Cache<K, V, S>
where
    K: Hash + Eq + Send + 'static,
    V: Clone + Send + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Gets the value, or loads it by a future and keeps it; whoever asks meanwhile gets the same. Nothing happens until
    /// it is polled. Needs no runtime.
    ///
    /// Any of those who wait polls the load, so that one who is cancelled neither loses nor repeats it. When all have
    /// gone, it is dropped, and the next caller begins anew. That is why it may borrow nothing: it can outlive the one
    /// who began it. It does not keep the cache alive.
    ///
    /// What is kept, what an error or a panic means, and who asks with another error type: all as with
    /// [`try_get_or_load`](Self::try_get_or_load). Callers of both share one load of a key. One that blocks a thread is
    /// awaited; one that is polled blocks the thread of who asks by `try_get_or_load`, **for ever if only that thread
    /// would poll it**: do not call that from async code. It does not poll the load, as this may want a runtime around
    /// it; when all who poll have gone, it loads itself.
    ///
    /// A hit costs what [`get`](Self::get) costs; a load two keys and some allocations, among them one for the future.
    ///
    /// # Errors
    ///
    /// As [`try_get_or_load`](Self::try_get_or_load), where [`LoadError::Reentrant`] comes inside a poll of the load;
    /// [`LoadError::Panicked`] where another waiter's poll of this call's load panicked.
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
        let shared = &*self.shared;
        let hash = shared.hash(key);
        let missed = match self.look(hash, key) {
            Ok(value) => return Ok(value),
            Err(missed) => missed,
        };
        let make: fn(ThreadId) -> AnyFlight = |by| Arc::new(Flight::<V, Fault<E>>::begun_by(by));
        let new: AnyFlight = Arc::new(Flight::<V, Fault<E>>::new());
        let mut ticket = match shared.join(hash, key, key.to_owned(), missed, make, Some(Arc::clone(&new))) {
            Part::Take(value) => return Ok(value),
            // Any of those who wait may have to take the mark off.
            Part::Lead(_) => Ticket::new(shared, hash, new),
            Part::Follow(ticket) => ticket,
        };
        let start = || self.start(hash, key, load);
        let flight = Arc::clone(&ticket.flight);
        let Some(flight) = flight.downcast_ref::<Flight<V, Fault<E>>>() else {
            return start().await.map_err(LoadError::from);
        };
        let loaded = Join::new(flight, start, |_| false, || 0).await;
        ticket.settled = matches!(loaded, Ok(_) | Err(FlightError::Failed(_)));
        loaded.map_err(LoadError::from)
    }

    /// The load as the flight keeps it, for longer than the caller may live.
    fn start<Q, E, L>(&self, hash: u32, key: &Q, load: impl FnOnce() -> L) -> BoxLoad<V, Fault<E>>
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + ?Sized,
        E: Send + Sync + 'static,
        L: Future<Output = Result<V, E>> + Send + 'static,
    {
        let expecting = match Expecting::begin(&self.shared) {
            Ok(expecting) => expecting,
            Err(refused) => return Box::pin(ready(Err(Fault::NoRoom(refused)))),
        };
        // What the future is made of is freed in its last poll.
        let ((key, load), made) = heap::scope(|| (key.to_owned(), load()));
        let shared = Arc::downgrade(&self.shared);
        Box::pin(async move {
            let (loaded, polled) = heap::scope_async(load).await;
            let loaded = loaded.map(|value| (key, value));
            match shared.upgrade() {
                Some(shared) => {
                    let retained = made.zip(polled).map(|(made, polled)| made.then(polled));
                    let retained = retained.filter(|_| shared.by_load);
                    shared.keep(hash, loaded, retained, expecting, &mut Arrival::default())
                }
                None => loaded.map(|(_, value)| value).map_err(|error| Fault::Failed(Arc::new(error))),
            }
        })
    }
}
