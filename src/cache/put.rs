//! Storing an entry: by a write, or at the end of a load or a computation.
//!
//! An entry that many others must be evicted for takes several batches, in its own shard and in others, of which one is
//! locked at a time. Between them, other threads use the cache. What was evicted for the entry stays claimed and reserved
//! for it, but other threads may insert what is evicted next. So the number of batches is bounded. Whether its load was
//! cancelled is checked in each batch in its own shard, the last of which stores the value.

use std::borrow::Borrow;
use std::thread;
use std::time::Duration;

use crate::budget::{Account, Reservation};
use crate::clock::RESOLUTION;
use crate::size::ByteSize;

use super::bound::{Amount, Bound, Claim};
use super::error::{InsertError, RejectReason};
use super::in_flight::{InFlight, InFlightEntry, LoadId};
use super::inner::{Inner, KeyHash};
use super::locked::{Insert, Locked, NewEntry, Others, State};
use super::removed::{FEW, FirstPanic, Places, Removed};
use super::stats::Cause;
use super::store::{NEVER, Slot, Store, Terms};

/// A load or a computation that has ended with a value to store.
pub(super) struct Loaded<'a, K> {
    pub(super) id: LoadId,
    /// The time of the load's start. The time to live counts from here.
    pub(super) started: u64,
    /// The reservation for the value, and the bytes of the bound that are claimed for it.
    pub(super) reserved: Option<Reservation>,
    pub(super) claimed: u64,
    /// The number of arrivals when the key was absent. While it is the same, the key is absent.
    pub(super) absent_at: Option<u64>,
    /// The entry of the load, once it is removed: each batch removes it, and puts it back if another batch follows.
    finished: &'a mut Option<InFlightEntry<K>>,
    is_counted: bool,
    /// A computation: its value is stored as by a write, unless it was overtaken.
    is_computation: bool,
}

impl<'a, K> Loaded<'a, K> {
    pub(super) const fn new(
        id: LoadId,
        started: u64,
        absent_at: Option<u64>,
        finished: &'a mut Option<InFlightEntry<K>>,
    ) -> Self {
        Self { id, started, reserved: None, claimed: 0, absent_at, finished, is_counted: false, is_computation: false }
    }

    /// A computation that stores a value now.
    pub(super) const fn computed(id: LoadId, now: u64, finished: &'a mut Option<InFlightEntry<K>>) -> Self {
        let mut computed = Self::new(id, now, None, finished);
        computed.is_computation = true;
        computed
    }

    const fn has_reserved(&self) -> bool {
        self.reserved.is_some() || self.claimed > 0
    }

    pub(super) const fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// Removes the entry of a load that has no value to store.
    pub(super) fn finish_failed<V, S>(&mut self, inner: &Inner<K, V, S>, hash: KeyHash)
    where
        K: Eq,
    {
        *self.finished = inner.finish_failed(hash, self.id);
    }

    /// Removes the entry of the load.
    #[inline]
    fn finish(&mut self, in_flight: &mut InFlight<K>, hash: u32) {
        *self.finished = in_flight.finish(hash, self.id);
    }
}

/// An entry that is to be stored.
struct Put<'a, 'b, K, V> {
    new: NewEntry<'a, K, V>,
    hash: KeyHash,
    /// Milliseconds. `None`: it does not expire by its age.
    ttl: Option<u64>,
    now: u64,
    /// `None`: it is a write. The fields of a computation are those of a load.
    load: Option<&'a mut Loaded<'b, K>>,
    /// `None`: no batch has come before, and nothing was reserved for it.
    room: Option<Room<'a>>,
}

/// The room for an entry that takes several batches.
struct Room<'a> {
    bound: &'a Bound,
    /// The number of batches after which the entry is rejected. `None` before the first.
    batches: Option<usize>,
    /// Granted by the budget, and not yet part of the cache's reservation.
    granted: Option<Reservation>,
    /// Claimed, and not yet part of the claims of the entry's shard.
    claim: Claim<'a>,
}

/// The number of batches that other threads may take the room from that was made in them.
const MAX_CONTENDED: usize = 1_024;

/// The result of one batch.
enum Batch {
    /// It is stored, or the value of a load or a computation that must not be stored. The account, if there is one, wants
    /// to release free pages.
    Done(Option<Account>),
    Rejected(RejectReason),
    /// More entries must be evicted.
    Continue,
    /// Other threads have claimed what is free.
    Contended,
    /// Other shards must evict this much.
    EvictElsewhere(Amount, Cause),
    /// The account is asked for the bytes, without the lock.
    Ask(Account, ByteSize),
}

impl<K: Eq, V, S> Inner<K, V, S> {
    /// Stores the entry in `slot`: by a write, which cancels the loads of its key, or at the end of a load, unless it was
    /// cancelled. An overtaken computation stores nothing, and keeps its entry, without which it is complete.
    ///
    /// It is moved once: from the stack of the caller to its slot.
    pub(super) fn put(
        &self,
        hash: KeyHash,
        slot: &mut Option<Slot<K, V>>,
        weight: usize,
        ttl: Option<u64>,
        load: Option<&mut Loaded<'_, K>>,
    ) -> Result<(), InsertError<K, V>> {
        // 4 GiB or more fit nowhere.
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let terms = Terms { weight, expires: NEVER, idle_deadline: NEVER, stale_from: NEVER };
        let new =
            NewEntry { slot, terms, replaces: false, is_feasible: false, others: Others::Unknown, is_admitted: false };
        let mut put = Put { new, hash, ttl, now: self.now(), load, room: None };
        if let Some(load) = &mut put.load
            && load.has_reserved()
        {
            let mut room = Room::new(&self.bound);
            room.granted = load.reserved.take();
            room.claim.add(Amount { bytes: std::mem::take(&mut load.claimed), entries: 0 });
            put.room = Some(room);
        }
        let rejected = loop {
            let batch = {
                let mut places = self.places();
                self.put_batch(&mut put, &mut places)
            };
            match batch {
                Batch::Done(to_check) => {
                    if let Some(account) = to_check {
                        account.check_pages_if_due();
                    }
                    break None;
                }
                Batch::Rejected(reason) => break Some(reason),
                Batch::Continue => put.new.others = Others::Unknown,
                Batch::Contended => thread::yield_now(),
                Batch::EvictElsewhere(amount, cause) => {
                    let found = self.evict_elsewhere(&mut put, amount, cause);
                    put.new.others = if found { Others::Unknown } else { Others::Empty };
                }
                Batch::Ask(account, bytes) => match account.try_reserve(bytes) {
                    Ok(more) => {
                        put.new.is_feasible = true;
                        put.room(&self.bound).grant(Some(more));
                    }
                    Err(exceeded) => {
                        let is_rejected = self.reject_by_budget(&mut put);
                        break is_rejected.then_some(RejectReason::Budget(exceeded));
                    }
                },
            }
        };
        match (rejected, put.new.slot.take()) {
            (Some(reason), Some(Slot { key, value, .. })) => Err(InsertError::new(key, value, reason)),
            _ => Ok(()),
        }
    }

    /// Stores the entry, or evicts one batch for it.
    #[inline]
    fn put_batch<'a>(&'a self, put: &mut Put<'a, '_, K, V>, places: &mut Places<'_, K, V, FEW>) -> Batch {
        let hash = put.hash.hash;
        let mut locked = self.locked(put.hash, places);
        let Locked { state, removed, .. } = &mut locked;
        if let Some(room) = &mut put.room {
            room.hand_over(state);
        }
        let Some(slot) = put.new.slot.as_ref() else { return Batch::Done(None) };
        let is_absent = put.load.as_ref().is_some_and(|load| load.absent_at == Some(state.arrivals));
        let found = if is_absent { None } else { state.store.find(hash, &slot.key) };
        let tick = state.store.tick(put.now);
        let from = put.load.as_ref().map_or(put.now, |load| load.started);
        put.new.terms.expires = put.ttl.map_or(NEVER, |ttl| state.store.expiry(from, ttl));
        put.new.terms.idle_deadline = state.store.idle_deadline(put.now);
        put.new.terms.stale_from = state.store.stale_from(from);
        let has_no_time = put.ttl == Some(0);
        let is_expired = state.store.has_passed(put.new.terms.expires, tick);
        // In each batch: a load may have started since the last one, and a write may have come.
        if !state.may_store(hash, &slot.key, put.load.as_deref_mut(), is_expired) {
            return Batch::Done(None);
        }
        let bytes = state.store.min_bytes(put.new.terms.weight);
        let is_last = put.room.as_mut().is_some_and(|room| !room.count_batch(state.store.len()));
        if has_no_time || !state.fits_alone(bytes) || bytes > self.bound.unreserved_bytes() || is_last {
            let reason = self.reason(state, bytes, put.ttl.filter(|_| has_no_time));
            reject(state, found, removed);
            return Batch::Rejected(reason);
        }
        match state.insert(found, &mut put.new, removed) {
            Insert::Done(index) => {
                // Of two loads of one key, the value of the one that was started later stays.
                let State { store, in_flight, .. } = &mut **state;
                if let Some(load) = &put.load
                    && let Some(slot) = store.get(index)
                {
                    in_flight.supersede(hash, &slot.key, load.id);
                }
                Batch::Done(state.account_to_check())
            }
            Insert::Continue => {
                // Tables that go now are part of what was evicted for it.
                state.shrink_if_sparse(removed);
                put.pause(&self.bound, state, bytes);
                Batch::Continue
            }
            Insert::Contended => {
                // Without its claims, one of two inserts that wait for each other's can go on.
                put.room(&self.bound);
                put.resume_load(state);
                put.new.others = Others::Unknown;
                Batch::Contended
            }
            Insert::EvictElsewhere(amount, cause) => {
                put.pause(&self.bound, state, bytes);
                Batch::EvictElsewhere(amount, cause)
            }
            Insert::NotAdmitted => {
                reject(state, found, removed);
                Batch::Rejected(self.not_admitted(state, put.new.terms.weight))
            }
            Insert::AskBudget | Insert::NeverFits => {
                let Some(account) = state.account() else {
                    debug_assert!(false, "a cache without an account has no budget to exceed");
                    return Batch::Rejected(self.reason(state, bytes, None));
                };
                let room = put.pause(&self.bound, state, bytes);
                let granted = room.granted.as_ref().map_or(0, |granted| granted.size().as_u64());
                Batch::Ask(account, ByteSize::bytes(bytes - granted))
            }
        }
    }

    /// Evicts for the entry in other shards, in turn, until one has had entries. Returns `false` if none had.
    #[cold]
    fn evict_elsewhere<'a>(&'a self, put: &mut Put<'a, '_, K, V>, amount: Amount, cause: Cause) -> bool {
        let shards = self.shards.len();
        let mut found = false;
        let own = put.hash.shard as usize;
        let room = put.room(&self.bound);
        // It is a batch in another shard, from which the entry gets a part of its room.
        room.batches = room.batches.map(|left| left + 1);
        let mut panics = FirstPanic::default();
        for _ in 0..shards {
            let shard = self.bound.turn(shards);
            self.bound.turn_after(shard);
            if shard == own {
                continue;
            }
            let (mut part, mut left) = (None, 0);
            self.in_batches(shard, &mut panics, |state, removed| {
                let before = state.store.bytes();
                let part = part.get_or_insert_with(|| {
                    // As many as there are now, also if others insert at the same time.
                    left = state.store.len();
                    // Of an amount that is large for one shard, others evict their part.
                    let bytes = amount.bytes.min((amount.bytes / shards as u64).max(before / 16));
                    Amount { bytes, ..amount }
                });
                let places = removed.free();
                if part.entries > 0 && state.evict_next(cause, removed) {
                    part.entries -= 1;
                }
                let done = part.bytes == 0 || state.evict_to(before.saturating_sub(part.bytes), cause, removed);
                state.shrink_if_sparse(removed);
                left = left.saturating_sub(places - removed.free());
                let claim = state.split_claim(Amount { bytes: part.bytes, entries: amount.entries });
                found |= !claim.is_none();
                room.claim.add(claim);
                room.grant(state.split_spare(part.bytes));
                part.bytes -= claim.bytes;
                done || part.bytes == 0 || left == 0
            });
            if found {
                break;
            }
        }
        panics.resume();
        found
    }

    /// Rejects an entry for which the budget has no room. Returns `false` if it is of a computation that was overtaken.
    fn reject_by_budget(&self, put: &mut Put<'_, '_, K, V>) -> bool {
        let mut places = self.places();
        let mut locked = self.locked(put.hash, &mut places);
        let Locked { state, removed, .. } = &mut locked;
        let key = put.new.slot.as_ref().map(|slot| &slot.key);
        if let (Some(load), Some(key)) = (&mut put.load, key)
            && load.is_computation
            && !state.end_computation(put.hash.hash, key, load)
        {
            return false;
        }
        let found = key.and_then(|key| state.store.find(put.hash.hash, key));
        // A rejected write is a write: the former value is gone, and no load may bring an older one.
        if let (None, Some(key)) = (&put.load, key) {
            state.in_flight.cancel(put.hash.hash, key);
        }
        reject(state, found, removed);
        if let Some(load) = &mut put.load
            && !load.is_computation
        {
            load.finish(&mut state.in_flight, put.hash.hash);
        }
        true
    }

    #[cold]
    fn not_admitted(&self, state: &State<K, V>, weight: u32) -> RejectReason {
        let size = ByteSize::bytes(state.store.size_of(weight));
        let share = ByteSize::bytes(Store::<K, V>::admission_share(self.bound.max_bytes()));
        RejectReason::NotAdmitted { cache: self.name, size, share }
    }

    /// Returns the reason why an entry of `bytes` cannot be stored. `expired`: its time to live in milliseconds, if that is
    /// the reason.
    #[cold]
    fn reason(&self, state: &State<K, V>, bytes: u64, expired: Option<u64>) -> RejectReason {
        let cache = self.name;
        if let Some(ttl) = expired {
            return RejectReason::TimeToLive { cache, ttl: Duration::from_millis(ttl), least: RESOLUTION };
        }
        if self.bound.max_entries() == 0 {
            return RejectReason::NoEntries { cache };
        }
        let size = ByteSize::bytes(bytes);
        if !state.fits_alone(bytes) {
            return RejectReason::TooLarge { cache, size, limit: ByteSize::bytes(state.max_entry_bytes()) };
        }
        let available = self.bound.unreserved_bytes();
        if bytes > available {
            return RejectReason::ReservedForLoads { cache, size, available: ByteSize::bytes(available) };
        }
        RejectReason::Contended { cache, size }
    }
}

impl<'a> Room<'a> {
    const fn new(bound: &'a Bound) -> Self {
        Self { bound, batches: None, granted: None, claim: Claim::new(bound) }
    }

    /// Adds what the budget has granted. All is of the cache's account.
    fn grant(&mut self, more: Option<Reservation>) {
        self.granted = match (self.granted.take(), more) {
            (Some(mut granted), Some(more)) => Some(granted.merge(more).map_or_else(|more| more, |()| granted)),
            (granted, more) => granted.or(more),
        };
    }

    /// Counts a batch. Returns `false` if there were too many.
    fn count_batch(&mut self, entries: usize) -> bool {
        let left = self.batches.get_or_insert(entries.saturating_add(MAX_CONTENDED));
        *left = left.saturating_sub(1);
        *left > 0
    }

    /// Hands over to the shard of the entry.
    #[cold]
    fn hand_over<K, V>(&mut self, state: &mut State<K, V>) {
        if let Some(granted) = self.granted.take() {
            state.adopt(granted);
        }
        state.adopt_claim(self.claim.take());
        if !self.bound.excess().is_none() {
            // A bound was lowered. What was evicted for this entry is in excess now.
            state.release_spare_claim();
        }
    }
}

impl<'a, K, V> Put<'a, '_, K, V> {
    fn room(&mut self, bound: &'a Bound) -> &mut Room<'a> {
        self.room.get_or_insert_with(|| Room::new(bound))
    }

    /// Keeps what was evicted for an entry of `bytes`, and the load, until the next batch.
    #[cold]
    fn pause(&mut self, bound: &'a Bound, state: &mut State<K, V>, bytes: u64) -> &mut Room<'a> {
        self.resume_load(state);
        let room = self.room(bound);
        room.granted = state.split_spare(bytes);
        room.claim.add(state.split_claim(Amount { bytes, entries: 1 }));
        room
    }

    /// Puts the entry of the load back, for the next batch.
    fn resume_load(&mut self, state: &mut State<K, V>) {
        if let Some(entry) = self.load.as_mut().and_then(|load| load.finished.take()) {
            state.in_flight.resume(entry);
        }
    }
}

impl<K, V> State<K, V> {
    /// Removes the entry of the load, counts the load, and returns `false` if its value must not be stored.
    fn may_store_loaded(&mut self, hash: u32, load: &mut Loaded<'_, K>, is_expired: bool) -> bool {
        load.finish(&mut self.in_flight, hash);
        let is_first = !std::mem::replace(&mut load.is_counted, true);
        self.counters.load_successes += u64::from(is_first);
        let is_refresh = load.finished.as_ref().is_some_and(InFlightEntry::is_refresh);
        self.counters.refreshes += u64::from(is_first && is_refresh);
        if load.finished.as_ref().is_none_or(InFlightEntry::is_overtaken) {
            self.counters.cancelled_loads += 1;
            return false;
        }
        self.counters.expired_loads += u64::from(is_expired);
        !is_expired
    }
}

impl<K: Eq, V> State<K, V> {
    /// Returns `false` if the value must not be stored. `None`: it is a write, which cancels the loads of its key.
    #[inline]
    fn may_store(&mut self, hash: u32, key: &K, load: Option<&mut Loaded<'_, K>>, is_expired: bool) -> bool {
        match load {
            None => {
                self.in_flight.cancel(hash, key);
                true
            }
            Some(load) if load.is_computation => self.end_computation(hash, key, load),
            Some(load) => self.may_store_loaded(hash, load, is_expired),
        }
    }

    /// Ends a computation that changes its key: removes its entry, and cancels the loads of the key, as a write does. Returns
    /// `false` if it was overtaken, and begins again.
    pub(super) fn end_computation<Q>(&mut self, hash: u32, key: &Q, computation: &mut Loaded<'_, K>) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        if self.in_flight.begin_again(hash, computation.id) {
            return false;
        }
        computation.finish(&mut self.in_flight, hash);
        self.in_flight.cancel(hash, key);
        true
    }
}

/// Counts a rejected entry, and removes the former value of its key.
fn reject<K, V>(state: &mut State<K, V>, found: Option<u32>, removed: &mut Removed<'_, K, V>) {
    state.counters.rejections += 1;
    if let Some(index) = found {
        state.remove(index, Cause::Removed, removed);
    }
}
