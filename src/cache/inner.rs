//! The shards of a cache, and operations that remove many entries, in batches: eviction, expiry, reclaim.
//!
//! No thread holds the locks of two shards. An operation on all entries visits the shards one after the other.

use std::hash::{BuildHasher, Hash};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crate::budget::{Account, Pressure, Reclaim, ReclaimerHandle};
use crate::clock::Clock;
use crate::size::ByteSize;
use crate::sync::{Mutex, MutexGuard};

use super::bound::{Amount, Bound, Claim};
use super::builder::Weigher;
use super::expire_by::ExpireBy;
use super::locked::{Locked, Quota, State};
use super::removal::Listener;
use super::removed::{FEW, FirstPanic, MAX_VISITED, Places, Removed};
use super::stats::Cause;
use super::store::Slot;

/// The part of a cache that its handles share.
pub(super) struct Inner<K, V, S> {
    /// A power of two.
    pub(super) shards: Box<[Shard<K, V>]>,
    pub(super) bound: Arc<Bound>,
    pub(super) name: &'static str,
    /// Set at the end of the build, if the cache has an account.
    pub(super) reclaimer: OnceLock<ReclaimerHandle>,
    pub(super) weigher: Option<Weigher<K, V>>,
    pub(super) by_load: bool,
    pub(super) listener: Option<Listener<K, V>>,
    pub(super) reserve_per_load: Option<ByteSize>,
    /// Milliseconds.
    pub(super) ttl: Option<u64>,
    pub(super) expire_by: Option<ExpireBy<K, V>>,
    /// Milliseconds.
    pub(super) refresh_after: Option<u64>,
    /// `true`: a value may be returned after its time to live, if its load fails.
    pub(super) has_grace: bool,
    /// `false`: nothing expires, and no clock is read.
    pub(super) timed: AtomicBool,
    pub(super) clock: Clock,
    pub(super) hasher: S,
}

/// One part of a cache, for a part of the keys. It has cache lines of its own, two because processors load them in pairs.
#[repr(align(128))]
pub(super) struct Shard<K, V>(Mutex<State<K, V>>);

impl<K, V> Shard<K, V> {
    pub(super) const fn new(state: State<K, V>) -> Self {
        Self(Mutex::new(state))
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.0.lock()
    }
}

/// The hash of a key, and the shard that the key belongs to.
#[derive(Clone, Copy)]
pub(super) struct KeyHash {
    pub(super) hash: u32,
    pub(super) shard: u32,
}

/// Takes the lock of a shard. `None`: not now.
type Lock<K, V> = fn(&Shard<K, V>) -> Option<MutexGuard<'_, State<K, V>>>;

impl<K, V, S> Inner<K, V, S> {
    /// The time, if entries may expire.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        if self.timed.load(Relaxed) { self.clock.now() } else { 0 }
    }

    /// The shard of a key.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a `KeyHash` has the number of a shard of this cache")]
    pub(super) fn shard(&self, hash: KeyHash) -> &Shard<K, V> {
        &self.shards[hash.shard as usize]
    }

    /// The account that is charged.
    pub(super) fn account(&self) -> Option<Account> {
        self.shards.first().and_then(|shard| shard.lock().account())
    }

    pub(super) fn weigh(&self, key: &K, value: &V) -> usize {
        self.weigher.as_ref().map_or(0, |weigher| weigher(key, value))
    }

    /// The places for an operation on one key.
    #[inline]
    pub(super) fn places(&self) -> Places<'_, K, V, FEW> {
        Places::new(self.listener.as_ref())
    }

    /// Takes the lock of a shard, for a change that removes at most as many entries as there are places.
    pub(super) fn locked<'a, const N: usize>(
        &'a self,
        hash: KeyHash,
        places: &'a mut Places<'_, K, V, N>,
    ) -> Locked<'a, K, V> {
        Locked::new(self.shard(hash).lock(), places.removed(), false)
    }

    /// Calls `step` under the lock of a shard, once for each batch, until it returns `true`. Removed entries are dropped
    /// after each batch, also if `step` panics. If their `Drop` panics, the other batches follow: the caller resumes the
    /// first panic.
    pub(super) fn in_batches(
        &self,
        shard: usize,
        panics: &mut FirstPanic,
        step: impl FnMut(&mut State<K, V>, &mut Removed<'_, K, V>) -> bool,
    ) {
        self.in_batches_by(lock, shard, panics, step);
    }

    fn in_batches_by(
        &self,
        lock: Lock<K, V>,
        shard: usize,
        panics: &mut FirstPanic,
        step: impl FnMut(&mut State<K, V>, &mut Removed<'_, K, V>) -> bool,
    ) {
        if let Some(shard) = self.shards.get(shard) {
            shard.in_batches(self.listener.as_ref(), lock, panics, step);
        }
    }

    /// Removes expired entries, then evicts others, until `bytes` less are held. Returns how many bytes less they are.
    pub(super) fn evict_bytes(&self, bytes: u64, cause: Cause) -> ByteSize {
        self.evict_bytes_by(lock, bytes, cause)
    }

    fn evict_bytes_by(&self, lock: Lock<K, V>, bytes: u64, cause: Cause) -> ByteSize {
        let (_, mut freed) = self.remove_expired_by(lock, usize::MAX, bytes);
        self.evict_in_turn(lock, cause, |state, now_freed| {
            state.release_spare_claim();
            freed += now_freed;
            Amount { bytes: bytes.saturating_sub(freed), entries: 0 }
        });
        ByteSize::bytes(freed)
    }

    /// Removes expired entries, then evicts others, until at most `target` bytes are held. Returns the number of freed bytes.
    pub(super) fn evict_to(&self, target: u64) -> ByteSize {
        let excess = || self.bound.stored_bytes().saturating_sub(target);
        let mut freed = 0;
        if excess() > 0 {
            freed = self.remove_expired(usize::MAX, excess()).1;
            self.evict_in_turn(lock, Cause::Size, |state, now_freed| {
                state.release_spare_claim();
                freed += now_freed;
                Amount { bytes: excess(), entries: 0 }
            });
        }
        ByteSize::bytes(freed)
    }

    /// Evicts until the bounds are kept, after they were lowered.
    pub(super) fn enforce_bound(&self) {
        self.evict_in_turn(lock, Cause::Size, |state, _freed| {
            state.release_spare_claim();
            self.bound.excess()
        });
    }

    /// Evicts until `claim` has `bytes`, or the cache is empty: entries that have expired first.
    pub(super) fn evict_to_claim(&self, claim: &mut Claim<'_>, bytes: u64) {
        let missing = bytes.saturating_sub(claim.bytes());
        if missing > 0 {
            self.remove_expired(usize::MAX, missing);
            claim.add(self.bound.claim_free_bytes(missing));
            self.evict_in_turn(lock, Cause::Size, |state, _freed| {
                let missing = bytes.saturating_sub(claim.bytes());
                claim.add(state.split_claim(Amount { bytes: missing, entries: 0 }));
                state.release_spare_claim();
                Amount { bytes: bytes.saturating_sub(claim.bytes()), entries: 0 }
            });
        }
    }

    /// Evicts in the shards, until `excess` returns nothing more or the cache is empty. `excess` gets the shard of the batch,
    /// and the number of bytes that were freed in it.
    ///
    /// Each shard evicts an equal part, or all that it has, a few batches in turn. So values that were allocated one after
    /// the other are freed at about the same time, which takes the allocator less time.
    fn evict_in_turn(&self, lock: Lock<K, V>, cause: Cause, mut excess: impl FnMut(&mut State<K, V>, u64) -> Amount) {
        let shards = self.shards.len();
        let (mut eviction, mut waiting, mut idle) = (self.bound.begin_eviction(), shards, 0);
        let mut rest = None;
        // As many as there are now, also if others insert at the same time.
        let mut left = self.bound.entries();
        let (mut panics, mut has_evicted) = (FirstPanic::default(), false);
        while left > 0 && !rest.is_some_and(Amount::is_none) {
            if waiting == 0 && has_evicted {
                // Some shards had less than their part.
                (eviction, waiting) = (self.bound.begin_eviction(), shards);
                (idle, has_evicted) = (0, false);
            } else if idle == shards {
                break;
            }
            let number = self.bound.turn(shards);
            self.bound.turn_after(number);
            idle += 1;
            let mut batches = BATCHES_IN_TURN;
            self.in_batches_by(lock, number, &mut panics, |state, removed| {
                let (before, places) = (state.store.bytes(), removed.free());
                let now = rest.unwrap_or_else(|| excess(state, 0));
                if state.quota.eviction != eviction {
                    let part = now.div_ceil(shards);
                    let target = before.saturating_sub(part.bytes);
                    state.quota = Quota { eviction, target, entries: part.entries, is_done: false };
                }
                state.quota.entries = state.quota.entries.min(now.entries);
                while state.quota.entries > 0 && removed.free() > 0 && state.evict_next(cause, removed) {
                    state.quota.entries -= 1;
                }
                let target = before.saturating_sub(now.bytes).max(state.quota.target);
                let is_done =
                    state.evict_to(target, cause, removed) && (state.quota.entries == 0 || state.store.len() == 0);
                state.shrink_if_sparse(removed);
                let freed = before.saturating_sub(state.store.bytes());
                let evicted = places - removed.free();
                if evicted > 0 || freed > 0 {
                    (idle, has_evicted) = (0, true);
                }
                // Another thread that evicts sets a quota of its own.
                waiting = waiting.saturating_sub(usize::from(is_done && !state.quota.is_done));
                state.quota.is_done |= is_done;
                left = left.saturating_sub(evicted);
                let now = *rest.insert(excess(state, freed));
                batches -= 1;
                now.is_none() || left == 0 || is_done || batches == 0
            });
        }
        panics.resume();
    }

    /// Removes expired entries among the next `limit`, until `bytes` less are held. Returns how many entries and bytes.
    pub(super) fn remove_expired(&self, limit: usize, bytes: u64) -> (usize, u64) {
        self.remove_expired_by(lock, limit, bytes)
    }

    /// A few batches in each shard in turn, for the reason of [`evict_in_turn`](Self::evict_in_turn).
    fn remove_expired_by(&self, lock: Lock<K, V>, limit: usize, bytes: u64) -> (usize, u64) {
        if !self.timed.load(Relaxed) {
            return (0, 0);
        }
        let now = self.clock.refresh();
        let shards = self.shards.len();
        let (mut left, mut count, mut freed, mut idle) = (limit, 0, 0, 0);
        let mut panics = FirstPanic::default();
        while idle < shards && left > 0 && freed < bytes {
            let number = self.bound.sweep_turn(shards);
            self.bound.sweep_turn_after(number);
            idle += 1;
            let mut batches = BATCHES_IN_TURN;
            self.in_batches_by(lock, number, &mut panics, |state, removed| {
                let tick = state.store.tick(now);
                if !state.store.may_have_expired(tick) {
                    return true;
                }
                idle = 0;
                let visits = left.min(MAX_VISITED);
                let (before, mut unused) = (state.store.bytes(), visits);
                while removed.free() > 0 {
                    let Some(index) = state.store.next_expired(&mut unused, tick) else { break };
                    state.remove(index, Cause::Expired, removed);
                    count += 1;
                }
                left -= visits - unused;
                state.shrink_if_sparse(removed);
                freed += before.saturating_sub(state.store.bytes());
                batches -= 1;
                batches == 0 || left == 0 || freed >= bytes
            });
        }
        panics.resume();
        (count, freed)
    }
}

impl<K, V> Shard<K, V> {
    /// See [`Inner::in_batches`]. Ends when `lock` returns `None`.
    ///
    /// Entries are moved to the stack: 16 at a time if they are small.
    fn in_batches(
        &self,
        listener: Option<&Listener<K, V>>,
        lock: Lock<K, V>,
        panics: &mut FirstPanic,
        step: impl FnMut(&mut State<K, V>, &mut Removed<'_, K, V>) -> bool,
    ) {
        match size_of::<Slot<K, V>>() {
            0..=512 => self.in_batches_of::<16>(listener, lock, panics, step),
            513..=4096 => self.in_batches_of::<2>(listener, lock, panics, step),
            _ => self.in_batches_of::<1>(listener, lock, panics, step),
        }
    }

    fn in_batches_of<const N: usize>(
        &self,
        listener: Option<&Listener<K, V>>,
        lock: Lock<K, V>,
        panics: &mut FirstPanic,
        mut step: impl FnMut(&mut State<K, V>, &mut Removed<'_, K, V>) -> bool,
    ) {
        loop {
            let mut places = Places::<K, V, N>::new(listener);
            let Some(state) = lock(self) else { return };
            let mut locked = Locked::new(state, places.removed(), true);
            let done = step(&mut locked.state, &mut locked.removed);
            drop(locked);
            panics.contain(|| drop(places));
            if done {
                return;
            }
        }
    }
}

/// The number of batches for each shard in turn.
const BATCHES_IN_TURN: usize = 4;

/// Takes the lock of a shard.
#[expect(clippy::unnecessary_wraps, reason = "it is a `Lock`")]
fn lock<K, V>(shard: &Shard<K, V>) -> Option<MutexGuard<'_, State<K, V>>> {
    Some(shard.lock())
}

/// Takes the lock of a shard for a reclaimer. Another thread holds it for much less than a millisecond. If it does not, or
/// if this thread holds it, a reclaimer that waits could wait for its own caller.
fn lock_to_reclaim<K, V>(shard: &Shard<K, V>) -> Option<MutexGuard<'_, State<K, V>>> {
    shard.0.try_lock_for(Duration::from_millis(1))
}

impl<K, V, S: BuildHasher> Inner<K, V, S> {
    /// The hash of a key. Both halves of the product are used, so that all bits depend on all bits of a poor hash.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a hash is cut to 32 bits, and a shard to the number of shards"
    )]
    pub(super) fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> KeyHash {
        let product = u128::from(self.hasher.hash_one(key)) * 0x9E37_79B9_7F4A_7C15;
        let folded = (product >> 64) ^ product;
        // The shard by other bits than the place in its index.
        KeyHash { hash: (folded >> 32) as u32, shard: folded as u32 & (self.shards.len() as u32).wrapping_sub(1) }
    }
}

/// Removes expired entries first. Under [`Pressure::Critical`] evicts in the order of the policy, until `want` bytes less
/// are held.
/// The reclaimer of a cache, which does not keep it alive.
pub(super) struct CacheReclaimer<K, V, S>(pub(super) Weak<Inner<K, V, S>>);

impl<K: Send, V: Send, S: Send + Sync> Reclaim for CacheReclaimer<K, V, S> {
    fn reclaim(&self, want: ByteSize, pressure: Pressure) {
        let Some(inner) = self.0.upgrade() else { return };
        // Small requests come in numbers: one move of the tables serves many.
        let want = want.as_u64().max(inner.bound.stored_bytes() / 128);
        if pressure < Pressure::Critical {
            inner.remove_expired_by(lock_to_reclaim, usize::MAX, want);
        } else {
            inner.evict_bytes_by(lock_to_reclaim, want, Cause::Pressure);
        }
    }
}
