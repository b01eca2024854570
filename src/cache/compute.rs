//! Computations: atomic changes of one key by user code that runs without a lock.
//!
//! ```text
//!   join ----> look ----> change ----> end         the value is stored, or removed, or kept
//!               ^                       |
//!               +------ overtaken ------+          by a write of the key, a stored load, `clear`, `retain`
//! ```
//!
//! A computation has an entry in the table of in-flight loads, of a class of its own. So there is one for each key at a time,
//! and other callers wait for its latch. Writes mark the entry, as they cancel loads. The end checks the mark and changes the
//! key under the same lock, the one of the last batch. If the entry is marked, it stays, and the computation begins again
//! with the present value: so no other computation comes between.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use crate::singleflight::{Latch, WouldDeadlock};

use super::in_flight::{InFlightEntry, LoadId, Role};
use super::inner::{Inner, KeyHash};
use super::locked::Locked;
use super::put::Loaded;
use super::stats::Cause;
use super::store::{NEVER, Slot};
use super::{Cache, ComputeError, ToKey};

/// The latch that the other callers of a computation wait for. The type is the class of its entry.
type Turn = Latch<()>;

/// The result of the closure of [`Cache::compute`].
///
/// # Examples
///
/// ```
/// use plimsoll::{Cache, cache::Change};
///
/// let stock: Cache<String, u64> = Cache::builder("stock").max_entries(100).build()?;
/// stock.insert("lamps".to_owned(), 1)?;
/// // The last lamp leaves no entry.
/// let take = |lamps| match lamps {
///     None => Change::Keep,
///     Some(0 | 1) => Change::Remove,
///     Some(lamps) => Change::Put(lamps - 1),
/// };
/// assert_eq!(stock.compute("lamps", take)?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a closure returns it, and there is nothing else to do with a key")]
pub enum Change<V> {
    /// The key keeps its value, or stays absent.
    Keep,
    /// The key gets this value.
    Put(V),
    /// The key is removed, if it is present.
    Remove,
}

/// The computation that this thread runs. However it ends, also by a panic, its entry is removed and its latch opened.
struct Computation<'a, K, V, S> {
    inner: &'a Inner<K, V, S>,
    hash: KeyHash,
    id: LoadId,
    /// The entry, once it is removed.
    finished: Option<InFlightEntry<K>>,
}

impl<K, V, S> Drop for Computation<'_, K, V, S> {
    fn drop(&mut self) {
        let entry = self
            .finished
            .take()
            .or_else(|| self.inner.shard(self.hash).lock().in_flight.finish(self.hash.hash, self.id));
        if let Some(turn) = entry.as_ref().and_then(InFlightEntry::load::<Turn>) {
            turn.open(Some(()));
        }
    }
}

impl<K, V, S> Cache<K, V, S>
where
    K: Hash + Eq,
    V: Clone,
    S: BuildHasher,
{
    /// Computes the next value of `key` from the present one, atomically, and returns it.
    ///
    /// `change` receives the present value, or `None` if it is absent or has expired. It runs without a lock, and may use
    /// the cache for other keys. Computations of one key run one after the other: other callers of this method for the key
    /// wait. They wait for no loads.
    ///
    /// If the key is written before the change takes effect, `change` runs again with the new value, as in
    /// [`AtomicU64::fetch_update`](std::sync::atomic::AtomicU64::fetch_update). Such writes are [`insert`](Self::insert),
    /// [`remove`](Self::remove), [`clear`](Self::clear), [`retain`](Self::retain), and a load that stores its value.
    /// Eviction is no write: [`Change::Keep`] may return a value that was evicted a moment ago.
    ///
    /// [`Change::Put`] is an [`insert`](Self::insert), and [`Change::Remove`] a [`remove`](Self::remove): for the running
    /// loads of the key, which they cancel, for the time to live, the removal listener and the statistics.
    /// [`Change::Keep`] cancels no loads. Each run of `change` counts as a lookup.
    ///
    /// # Errors
    ///
    /// [`ComputeError::Rejected`] with the new value, for the reasons of [`insert`](Self::insert). The former value is
    /// removed. [`ComputeError::Reentrant`] if `change` computes its own key, also by way of other threads that wait for
    /// each other.
    ///
    /// # Panics
    ///
    /// If `change` panics: then nothing is changed, and the next caller goes on.
    ///
    /// # Deadlocks
    ///
    /// A computation never ends if `change` writes its own key each time, or if it waits, by a channel or a lock, for a
    /// thread that computes this key.
    ///
    /// # Performance
    ///
    /// Costs two clones of the key, two of the value for each run of `change`, one of a new value, and takes the lock three
    /// times. Each waiter costs an allocation.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{Cache, cache::Change};
    ///
    /// let visits: Cache<String, u64> = Cache::builder("visits").max_entries(100).build()?;
    /// let count = |visits: Option<u64>| Change::Put(visits.unwrap_or(0) + 1);
    /// assert_eq!(visits.compute("alice", count)?, Some(1));
    /// assert_eq!(visits.compute("alice", count)?, Some(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compute<Q>(
        &self,
        key: &Q,
        mut change: impl FnMut(Option<V>) -> Change<V>,
    ) -> Result<Option<V>, ComputeError<K, V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToKey<K> + ?Sized,
    {
        let hash = self.inner.hash(key);
        let mut computation = self.begin_computation(hash, key)?;
        loop {
            let present = self.look::<Q, false>(hash, key, |_| true).ok();
            let ended = match change(present.clone()) {
                Change::Keep => computation.keep().then_some(present),
                Change::Put(value) => computation.put(key.to_key(), value)?.map(Some),
                Change::Remove => computation.remove(key).then_some(None),
            };
            if let Some(value) = ended {
                return Ok(value);
            }
        }
    }

    /// Waits for the computation of the key that runs, and begins another one.
    fn begin_computation<Q>(&self, hash: KeyHash, key: &Q) -> Result<Computation<'_, K, V, S>, ComputeError<K, V>>
    where
        K: Borrow<Q>,
        Q: Eq + ToKey<K> + ?Sized,
    {
        let inner = &*self.inner;
        loop {
            let mut owned = Some(key.to_key());
            let mut state = inner.shard(hash).lock();
            let share = |leader| Arc::new(Turn::closed(leader));
            let role = state.in_flight.join(hash.hash, key, &mut owned, None, share);
            if let Role::Leader(id) = role {
                state.in_flight.begin_again(hash.hash, id);
            }
            drop(state);
            drop(owned);
            match role {
                Role::Leader(id) => return Ok(Computation { inner, hash, id, finished: None }),
                Role::Follower(_, turn) | Role::Refresh(_, turn) => {
                    if let Err(WouldDeadlock) = turn.wait() {
                        return Err(ComputeError::Reentrant { cache: inner.name });
                    }
                }
            }
        }
    }
}

/// Each end returns `false` or `None` if the computation was overtaken and begins again.
impl<K: Eq, V: Clone, S> Computation<'_, K, V, S> {
    fn keep(&mut self) -> bool {
        let mut state = self.inner.shard(self.hash).lock();
        if state.in_flight.begin_again(self.hash.hash, self.id) {
            return false;
        }
        self.finished = state.in_flight.finish(self.hash.hash, self.id);
        true
    }

    fn remove<Q>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let (inner, hash) = (self.inner, self.hash.hash);
        let now = inner.now();
        let mut places = inner.places();
        let mut locked = inner.locked(self.hash, &mut places);
        let Locked { state, removed, .. } = &mut locked;
        if !state.end_computation(hash, key, &mut Loaded::computed(self.id, now, &mut self.finished)) {
            return false;
        }
        if let Some(index) = state.store.find(hash, key) {
            let tick = state.store.tick(now);
            let cause = if state.store.is_expired(index, tick) { Cause::Expired } else { Cause::Removed };
            state.remove(index, cause, removed);
        }
        true
    }

    /// Returns the value if it is stored.
    fn put(&mut self, key: K, value: V) -> Result<Option<V>, ComputeError<K, V>> {
        let (inner, hash) = (self.inner, self.hash);
        let (weight, ttl) = (inner.weigh(&key, &value), inner.ttl(&key, &value));
        let mut slot = Some(Slot { key, value: value.clone(), hash: hash.hash, expires: NEVER });
        let mut computed = Loaded::computed(self.id, inner.now(), &mut self.finished);
        inner.put(hash, &mut slot, weight, ttl, Some(&mut computed)).map_err(ComputeError::Rejected)?;
        Ok(self.finished.is_some().then_some(value))
    }
}
