//! What the handles of a cache share at work: putting an entry in, refusing one, giving memory back.

use std::hash::{BuildHasher, Hash};
use std::sync::atomic::Ordering::Relaxed;

use crate::budget::{Pressure, Reclaim};
use crate::size::ByteSize;

use super::Shared;
use super::error::{InsertError, Refusal};
use super::load::Arrival;
use super::state::{Full, Locked, State};
use super::stats::Cause;
use super::store::{Gone, NEVER, Slot};

impl<K, V, S> Shared<K, V, S> {
    /// The time, where it matters.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        if self.timed.load(Relaxed) { self.clock.now() } else { 0 }
    }

    pub(super) fn weigh(&self, key: &K, value: &V) -> usize {
        self.weigher.as_ref().map_or(0, |weigher| weigher(key, value))
    }

    pub(super) fn locked(&self) -> Locked<'_, K, V> {
        Locked { state: self.state.lock(), gone: Gone::default() }
    }

    /// Changes the state under the lock; what leaves is dropped after it is released, also where `change` panics.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State<K, V>, &mut Gone<K, V>) -> T) -> T {
        let mut locked = self.locked();
        let Locked { state, gone } = &mut locked;
        change(state, gone)
    }
}

impl<K, V, S: BuildHasher> Shared<K, V, S> {
    /// The hash of a key, spread so that also the hash of a poor hasher fills 32 bits.
    #[inline]
    pub(super) fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u32 {
        (self.hasher.hash_one(key).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
    }
}

impl<K: Eq, V, S> Shared<K, V, S> {
    /// Puts an entry in.
    pub(super) fn put(
        &self,
        slot: Slot<K, V>,
        weight: usize,
        ttl: Option<u64>,
        arrival: &mut Arrival<'_>,
    ) -> Result<(), InsertError<K, V>> {
        let now = self.now();
        // 4 GiB or more fit nowhere.
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let mut new = Some(slot);
        loop {
            let mut locked = self.locked();
            let Locked { state, gone } = &mut locked;
            let Some(slot) = &mut new else { return Ok(()) };
            // Where no key came in since it was missing, it need not be looked for.
            let missing = arrival.inserts == Some(state.counters.inserts);
            let found = if missing { None } else { state.store.find(slot.hash, &slot.key) };
            state.counters.loads += u64::from(std::mem::take(&mut arrival.loaded));
            if let Some(granted) = arrival.reserved.take() {
                state.take_over(granted);
            }
            let tick = state.store.tick(now);
            slot.expires = ttl.map_or(NEVER, |ttl| state.store.expiry(now, ttl));
            let fits = state.fits(weight);
            let admitted = if fits {
                state.admit(found, &mut new, weight, tick, gone)
            } else {
                if let Some(at) = found {
                    state.remove(at, Cause::Removed, gone);
                }
                Err(Full::Bound)
            };
            let asks = if let Err(Full::Budget(needed)) = admitted { state.account().zip(Some(needed)) } else { None };
            let refusal = if admitted.is_err() && asks.is_none() {
                state.counters.refused += 1;
                Some(self.refusal(state, weight))
            } else {
                None
            };
            let left = if asks.is_none() { arrival.mark.take().and_then(|mark| mark.take_off(state)) } else { None };
            let untidy = state.untidy();
            drop(locked);
            drop(left);
            if let Some(account) = untidy {
                account.tidy();
            }
            // The cache is empty and the budget full: others are asked, without the lock.
            let refusal = match asks.map(|(account, needed)| account.try_reserve(ByteSize::bytes(needed))) {
                Some(Ok(granted)) => {
                    arrival.reserved = Some(granted);
                    continue;
                }
                Some(Err(exceeded)) => {
                    self.state.lock().counters.refused += 1;
                    Some(Refusal::Budget(exceeded))
                }
                None => refusal,
            };
            return match (refusal, new) {
                (Some(refusal), Some(Slot { key, value, .. })) => Err(InsertError::new(key, value, refusal)),
                _ => Ok(()),
            };
        }
    }
}

impl<K, V, S> Shared<K, V, S> {
    /// Why an entry of this weight can never come in.
    #[cold]
    pub(super) fn refusal(&self, state: &State<K, V>, weight: u32) -> Refusal {
        let cache = self.name;
        if state.store.max_entries() == 0 {
            return Refusal::NoEntries { cache };
        }
        let (size, limit) = (ByteSize::bytes(state.store.least_bytes(weight)), ByteSize::bytes(state.most_bytes()));
        Refusal::TooLarge { cache, size, limit }
    }
}

/// Gives back what has expired, and under critical pressure entries in the order of the policy.
impl<K: Send, V: Send, S: Send + Sync> Reclaim for Shared<K, V, S> {
    fn reclaim(&self, want: ByteSize, pressure: Pressure) -> ByteSize {
        /// As many as are looked at for what has expired, so that the lock is not held for long.
        const LOOK_AT: usize = 10_000;
        let now = self.now();
        let Some(state) = self.state.try_lock() else { return ByteSize::ZERO };
        let mut locked = Locked { state, gone: Gone::default() };
        let Locked { state, gone } = &mut locked;
        let before = state.store.bytes();
        let tick = state.store.tick(now);
        state.sweep(LOOK_AT, tick, gone);
        if pressure >= Pressure::Critical {
            state.shrink_to(before.saturating_sub(want.as_u64()), Cause::Pressure, gone);
        }
        let freed = before - state.store.bytes();
        drop(locked);
        ByteSize::bytes(freed)
    }
}
