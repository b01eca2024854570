//! Storing an entry: by a write, or at the end of a load.
//!
//! An entry that many others must be evicted for takes several batches. Between them, other threads use the cache. The
//! budget's bytes of the evicted entries stay reserved for it; of the cache's own bound, others may take what was evicted.
//! So the number of batches is bounded. Whether its load was cancelled is checked in each batch, the last of which stores
//! the value.

use crate::budget::{Account, Reservation};
use crate::size::ByteSize;

use super::Inner;
use super::error::{InsertError, Refusal};
use super::in_flight::{InFlight, InFlightEntry, LoadId};
use super::locked::{Insert, Locked, NewEntry, State};
use super::removed::{FEW, Places, Removed};
use super::stats::Cause;
use super::store::{NEVER, Slot, Terms};

/// A load that has ended with a value to store.
pub(super) struct Loaded<'a, K> {
    pub(super) id: LoadId,
    /// The time of the load's start. The time to live counts from here.
    pub(super) started: u64,
    /// The reservation for the value.
    pub(super) reserved: Option<Reservation>,
    /// The number of arrivals when the key was absent. While it is the same, the key is absent.
    pub(super) absent_at: Option<u64>,
    /// The entry of the load, once it is removed: each batch removes it, and puts it back if another batch follows.
    finished: &'a mut Option<InFlightEntry<K>>,
    is_counted: bool,
}

impl<'a, K> Loaded<'a, K> {
    pub(super) const fn new(
        id: LoadId,
        started: u64,
        absent_at: Option<u64>,
        finished: &'a mut Option<InFlightEntry<K>>,
    ) -> Self {
        Self { id, started, reserved: None, absent_at, finished, is_counted: false }
    }

    pub(super) const fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// Removes the entry of the load.
    #[inline]
    pub(super) fn finish(&mut self, in_flight: &mut InFlight<K>, hash: u32) {
        *self.finished = in_flight.finish(hash, self.id);
    }
}

/// An entry that is to be stored.
struct Put<'a, 'b, K, V> {
    new: NewEntry<'a, K, V>,
    hash: u32,
    /// The number of batches after which it is rejected. `None` before the first.
    batches: Option<usize>,
    /// Milliseconds. `None`: it does not expire by its age.
    ttl: Option<u64>,
    now: u64,
    /// `None`: it is a write.
    load: Option<&'a mut Loaded<'b, K>>,
    /// Granted for it by the budget, and not yet part of the cache's reservation.
    granted: Option<Reservation>,
    /// The account that wants to release free pages when all is done.
    untidy: Option<Account>,
}

/// The number of batches that other threads may take the room from that was made in them.
const MAX_CONTENDED: usize = 1_024;

/// The result of one batch.
enum Batch {
    /// It is stored, or the value of a load that must not be stored.
    Done,
    Rejected(Refusal),
    /// More entries must be evicted.
    Continue,
    /// The account is asked for the bytes, without the lock.
    Ask(Account, ByteSize),
}

impl<K: Eq, V, S> Inner<K, V, S> {
    /// Stores the entry in `slot`: by a write, which cancels the loads of its key, or at the end of a load, unless it was
    /// cancelled.
    ///
    /// It is moved once: from the stack of the caller to its slot.
    pub(super) fn put(
        &self,
        slot: &mut Option<Slot<K, V>>,
        weight: usize,
        ttl: Option<u64>,
        load: Option<&mut Loaded<'_, K>>,
    ) -> Result<(), InsertError<K, V>> {
        // 4 GiB or more fit nowhere.
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let hash = slot.as_ref().map_or(0, |slot| slot.hash);
        let terms = Terms { weight, expires: NEVER, idle_deadline: NEVER };
        let new = NewEntry { slot, terms, replaces: false, is_feasible: false };
        let mut put = Put { new, hash, batches: None, ttl, now: self.now(), load, granted: None, untidy: None };
        if let Some(load) = &mut put.load {
            put.granted = load.reserved.take();
        }
        let rejected = loop {
            let batch = {
                let mut places = Places::<K, V, FEW>::default();
                self.put_batch(&mut put, &mut places)
            };
            match batch {
                Batch::Done => break None,
                Batch::Rejected(reason) => break Some(reason),
                Batch::Continue => {}
                Batch::Ask(account, bytes) => match account.try_reserve(bytes) {
                    Ok(more) => {
                        put.new.is_feasible = true;
                        put.granted = Some(match put.granted.take() {
                            None => more,
                            // Both are of the cache's account.
                            Some(mut granted) => granted.merge(more).map_or_else(|more| more, |()| granted),
                        });
                    }
                    Err(exceeded) => {
                        self.reject_by_budget(&mut put);
                        break Some(Refusal::Budget(exceeded));
                    }
                },
            }
        };
        if let Some(account) = &put.untidy {
            account.tidy();
        }
        match (rejected, put.new.slot.take()) {
            (Some(reason), Some(Slot { key, value, .. })) => Err(InsertError::new(key, value, reason)),
            _ => Ok(()),
        }
    }

    /// Stores the entry, or evicts one batch for it.
    #[inline]
    fn put_batch(&self, put: &mut Put<'_, '_, K, V>, places: &mut Places<K, V, FEW>) -> Batch {
        let mut locked = self.locked(places);
        let Locked { state, removed, .. } = &mut locked;
        let Some(slot) = put.new.slot.as_ref() else { return Batch::Done };
        let is_absent = put.load.as_ref().is_some_and(|load| load.absent_at == Some(state.arrivals));
        let found = if is_absent { None } else { state.store.find(put.hash, &slot.key) };
        let tick = state.store.tick(put.now);
        let from = put.load.as_ref().map_or(put.now, |load| load.started);
        put.new.terms.expires = put.ttl.map_or(NEVER, |ttl| state.store.expiry(from, ttl));
        put.new.terms.idle_deadline = state.store.idle_deadline(put.now);
        if let Some(granted) = put.granted.take() {
            state.adopt(granted);
        }
        let is_expired = put.new.terms.expires <= tick;
        match &mut put.load {
            // In each batch: a load may have started since the last one.
            None => state.in_flight.cancel(put.hash, &slot.key),
            Some(load) => {
                if !state.may_store(put.hash, load, is_expired) {
                    return Batch::Done;
                }
            }
        }
        let bytes = state.store.min_bytes(put.new.terms.weight);
        let left = put.batches.get_or_insert(state.store.len().saturating_add(MAX_CONTENDED));
        if !state.fits_alone(bytes) || bytes > state.unreserved_bytes() || *left == 0 {
            let reason = self.reason(state, bytes);
            reject(state, found, removed);
            return Batch::Rejected(reason);
        }
        *left -= 1;
        match state.insert(found, &mut put.new, removed) {
            Insert::Done(index) => {
                // Of two loads of one key, the value of the one that was started later stays.
                let State { store, in_flight, .. } = &mut **state;
                if let Some(load) = &put.load
                    && let Some(slot) = store.get(index)
                {
                    in_flight.supersede(put.hash, &slot.key, load.id);
                }
                put.untidy = state.needs_trim();
                Batch::Done
            }
            Insert::Continue => {
                // Tables that go now are part of what was evicted for it.
                state.shrink_if_sparse(removed);
                put.granted = state.split_spare(bytes);
                put.resume_load(state);
                Batch::Continue
            }
            Insert::AskBudget | Insert::NeverFits => {
                let Some(account) = state.account() else {
                    debug_assert!(false, "a cache without an account has no budget to exceed");
                    return Batch::Rejected(self.reason(state, bytes));
                };
                put.granted = state.split_spare(bytes);
                let granted = put.granted.as_ref().map_or(0, |granted| granted.size().as_u64());
                put.resume_load(state);
                Batch::Ask(account, ByteSize::bytes(bytes - granted))
            }
        }
    }

    /// Rejects an entry for which the budget has no room.
    fn reject_by_budget(&self, put: &mut Put<'_, '_, K, V>) {
        let mut places = Places::<K, V, FEW>::default();
        let mut locked = self.locked(&mut places);
        let Locked { state, removed, .. } = &mut locked;
        let key = put.new.slot.as_ref().map(|slot| &slot.key);
        let found = key.and_then(|key| state.store.find(put.hash, key));
        // A rejected write is a write: the former value is gone, and no load may bring an older one.
        if let (None, Some(key)) = (&put.load, key) {
            state.in_flight.cancel(put.hash, key);
        }
        reject(state, found, removed);
        if let Some(load) = &mut put.load {
            load.finish(&mut state.in_flight, put.hash);
        }
    }

    /// Returns the reason why an entry of `bytes` cannot be stored.
    #[cold]
    fn reason(&self, state: &State<K, V>, bytes: u64) -> Refusal {
        let cache = self.name;
        if state.store.max_entries() == 0 {
            return Refusal::NoEntries { cache };
        }
        let size = ByteSize::bytes(bytes);
        if !state.fits_alone(bytes) {
            return Refusal::TooLarge { cache, size, limit: ByteSize::bytes(state.max_entry_bytes()) };
        }
        let available = state.unreserved_bytes();
        if bytes > available {
            return Refusal::ReservedForLoads { cache, size, available: ByteSize::bytes(available) };
        }
        Refusal::Contended { cache, size }
    }
}

impl<K, V> Put<'_, '_, K, V> {
    /// Puts the entry of the load back, for the next batch.
    fn resume_load(&mut self, state: &mut State<K, V>) {
        if let Some(entry) = self.load.as_mut().and_then(|load| load.finished.take()) {
            state.in_flight.resume(entry);
        }
    }
}

impl<K, V> State<K, V> {
    /// Removes the entry of the load, counts the load, and returns `false` if its value must not be stored.
    fn may_store(&mut self, hash: u32, load: &mut Loaded<'_, K>, is_expired: bool) -> bool {
        load.finish(&mut self.in_flight, hash);
        self.counters.loads += u64::from(!std::mem::replace(&mut load.is_counted, true));
        if load.finished.as_ref().is_none_or(InFlightEntry::is_overtaken) {
            self.counters.cancelled_loads += 1;
            return false;
        }
        self.counters.expired_loads += u64::from(is_expired);
        !is_expired
    }
}

/// Counts a rejected entry, and removes the former value of its key.
fn reject<K, V>(state: &mut State<K, V>, found: Option<u32>, removed: &mut Removed<'_, K, V>) {
    state.counters.refused += 1;
    if let Some(index) = found {
        state.remove(index, Cause::Removed, removed);
    }
}
