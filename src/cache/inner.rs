//! Operations of a cache that remove many entries, in batches: eviction, expiry, reclaim.

use std::hash::{BuildHasher, Hash};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::budget::{Pressure, Reclaim};
use crate::size::ByteSize;
use crate::sync::MutexGuard;

use super::Inner;
use super::locked::{Locked, State};
use super::removed::{MAX_VISITED, Places, Removed};
use super::stats::Cause;
use super::store::Slot;

/// Takes the lock of a cache. `None`: not now.
type Lock<'a, K, V, S> = fn(&'a Inner<K, V, S>) -> Option<MutexGuard<'a, State<K, V>>>;

impl<K, V, S> Inner<K, V, S> {
    /// The time, if entries may expire.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        if self.timed.load(Relaxed) { self.clock.now() } else { 0 }
    }

    pub(super) fn weigh(&self, key: &K, value: &V) -> usize {
        self.weigher.as_ref().map_or(0, |weigher| weigher(key, value))
    }

    /// Takes the lock, for a change that removes at most as many entries as there are places.
    pub(super) fn locked<'a, const N: usize>(&'a self, places: &'a mut Places<K, V, N>) -> Locked<'a, K, V> {
        Locked { state: self.state.lock(), removed: places.removed(), is_batch: false }
    }

    /// Calls `step` under the lock, once for each batch, until it returns `true`. Removed entries are dropped after each
    /// batch, also if `step` panics.
    ///
    /// Entries are moved to the stack: 16 at a time if they are small.
    pub(super) fn in_batches(&self, step: impl FnMut(&mut State<K, V>, &mut Removed<'_, K, V>) -> bool) {
        self.in_batches_by(Self::lock, step);
    }

    /// As [`in_batches`](Self::in_batches), until `lock` returns `None`.
    fn in_batches_by<'a>(
        &'a self,
        lock: Lock<'a, K, V, S>,
        step: impl FnMut(&mut State<K, V>, &mut Removed<'_, K, V>) -> bool,
    ) {
        match size_of::<Slot<K, V>>() {
            0..=512 => self.in_batches_of::<16>(lock, step),
            513..=4096 => self.in_batches_of::<2>(lock, step),
            _ => self.in_batches_of::<1>(lock, step),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is a `Lock`")]
    fn lock(&self) -> Option<MutexGuard<'_, State<K, V>>> {
        Some(self.state.lock())
    }

    /// Takes the lock for a reclaimer. Another thread holds it for much less than a millisecond. If it does not, or if this
    /// thread holds it, a reclaimer that waits could wait for its own caller.
    fn lock_to_reclaim(&self) -> Option<MutexGuard<'_, State<K, V>>> {
        self.state.try_lock_for(Duration::from_millis(1))
    }

    fn in_batches_of<'a, const N: usize>(
        &'a self,
        lock: Lock<'a, K, V, S>,
        mut step: impl FnMut(&mut State<K, V>, &mut Removed<'_, K, V>) -> bool,
    ) {
        loop {
            let mut places = Places::<K, V, N>::default();
            let Some(state) = lock(self) else { return };
            let mut locked = Locked { state, removed: places.removed(), is_batch: true };
            let done = step(&mut locked.state, &mut locked.removed);
            drop(locked);
            if done {
                return;
            }
        }
    }

    /// Removes expired entries, then evicts others, until `bytes` less are held. Returns how many bytes less they are.
    pub(super) fn evict_bytes(&self, bytes: u64, cause: Cause) -> ByteSize {
        self.evict_bytes_by(Self::lock, bytes, cause)
    }

    fn evict_bytes_by<'a>(&'a self, lock: Lock<'a, K, V, S>, bytes: u64, cause: Cause) -> ByteSize {
        let (_, mut freed) = self.remove_expired_by(lock, usize::MAX, bytes);
        let mut left = None;
        if freed < bytes {
            self.in_batches_by(lock, |state, removed| {
                // As many as there are now, also if others insert at the same time.
                let left = left.get_or_insert(state.store.len());
                let (before, places) = (state.store.bytes(), removed.free());
                let done = state.evict_to(before.saturating_sub(bytes - freed), cause, removed);
                state.shrink_if_sparse(removed);
                freed += before.saturating_sub(state.store.bytes());
                *left = left.saturating_sub(places - removed.free());
                done || freed >= bytes || *left == 0
            });
        }
        ByteSize::bytes(freed)
    }

    /// Removes expired entries among the next `limit`, until `bytes` less are held. Returns how many entries and bytes.
    pub(super) fn remove_expired(&self, limit: usize, bytes: u64) -> (usize, u64) {
        self.remove_expired_by(Self::lock, limit, bytes)
    }

    fn remove_expired_by<'a>(&'a self, lock: Lock<'a, K, V, S>, limit: usize, bytes: u64) -> (usize, u64) {
        if !self.timed.load(Relaxed) {
            return (0, 0);
        }
        let now = self.clock.refresh();
        let (mut pass, mut count, mut freed) = (None, 0, 0);
        self.in_batches_by(lock, |state, removed| {
            let tick = state.store.tick(now);
            if pass.is_none() && !state.store.may_have_expired(tick) {
                return true;
            }
            let pass = pass.get_or_insert_with(|| state.store.begin_pass(limit));
            let (before, mut visits) = (state.store.bytes(), MAX_VISITED);
            while removed.free() > 0 {
                let Some(index) = state.store.next_expired(pass, &mut visits, tick) else { break };
                state.remove(index, Cause::Expired, removed);
                count += 1;
            }
            state.shrink_if_sparse(removed);
            freed += before.saturating_sub(state.store.bytes());
            pass.left == 0 || freed >= bytes
        });
        (count, freed)
    }
}

impl<K, V, S: BuildHasher> Inner<K, V, S> {
    /// The hash of a key. Both halves of the product are used, so that 32 bits of it depend on all bits of a poor hash.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a hash is cut to 32 bits")]
    pub(super) fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u32 {
        let product = u128::from(self.hasher.hash_one(key)) * 0x9E37_79B9_7F4A_7C15;
        (((product >> 64) ^ product) >> 32) as u32
    }
}

/// Removes expired entries first. Under [`Pressure::Critical`] evicts in the order of the policy, until `want` bytes less
/// are held.
impl<K: Send, V: Send, S: Send + Sync> Reclaim for Inner<K, V, S> {
    fn reclaim(&self, want: ByteSize, pressure: Pressure) -> ByteSize {
        let Some(state) = self.lock_to_reclaim() else { return ByteSize::ZERO };
        // Small requests come in numbers: one move of the tables serves many.
        let want = want.as_u64().max(state.store.bytes() / 128);
        drop(state);
        if pressure < Pressure::Critical {
            return ByteSize::bytes(self.remove_expired_by(Self::lock_to_reclaim, usize::MAX, want).1);
        }
        self.evict_bytes_by(Self::lock_to_reclaim, want, Cause::Pressure)
    }
}
