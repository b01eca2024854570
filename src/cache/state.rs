//! What is under the cache's lock: the store, its bounds in bytes, what is reserved for it, and the counters.
//!
//! ```text
//!   at every unlock:   store.bytes() <= max_bytes      store.len() <= max_entries      reserved == store.bytes()
//! ```

use crate::board::Holder;
use crate::budget::{Account, Reservation};
use crate::size::ByteSize;
use crate::sync::MutexGuard;

use super::load::Flights;
use super::stats::{CacheStats, Cause};
use super::store::{Gone, Slot, Store};

/// Under the lock.
pub(super) struct State<K, V> {
    pub(super) store: Store<K, V>,
    /// The bound in bytes; `u64::MAX` where there is none.
    pub(super) max_bytes: u64,
    pub(super) charge: Charge,
    /// Bytes expected of loads that are running.
    pub(super) loading: u64,
    /// Which keys are being loaded.
    pub(super) flights: Flights<K>,
    /// Only the counters are kept here; the rest is filled in when they are read.
    pub(super) counters: CacheStats,
}

/// The state while it is changed, and what leaves it: when this goes, also by a panic, what is held is said, the lock is
/// released, and then the values are dropped.
pub(super) struct Locked<'a, K, V> {
    pub(super) state: MutexGuard<'a, State<K, V>>,
    pub(super) gone: Gone<K, V>,
}

impl<K, V> Drop for Locked<'_, K, V> {
    fn drop(&mut self) {
        self.state.settle(&mut self.gone);
    }
}

/// Who is told what the cache holds.
pub(super) enum Charge {
    /// An account of a budget, which publishes it.
    Account(Reservation),
    /// The board alone, and how much it was told last.
    Board(Holder, u64),
}

/// Why an entry cannot come in at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Free,
    /// The cache's own bounds.
    Bound,
    /// The budget.
    Budget,
}

/// Why an entry cannot come in at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Full {
    /// It is larger than the bound.
    Bound,
    /// The budget lacks room, with nothing left to evict: so many bytes in all, as what the cache had is given back.
    Budget(u64),
}

impl<K, V> State<K, V> {
    /// Takes an entry in, `found` being the slot that has its key already. Room first, then the value.
    pub(super) fn admit(
        &mut self,
        found: Option<u32>,
        new: &mut Option<Slot<K, V>>,
        weight: u32,
        tick: u32,
        gone: &mut Gone<K, V>,
    ) -> Result<(), Full> {
        if let Some(at) = found {
            let bytes = self.store.bytes() - u64::from(self.store.weight(at)) + u64::from(weight);
            if self.room_for(bytes) == Room::Free {
                if let Some(slot) = new.take() {
                    self.store.replace(at, slot, weight, tick).into_iter().for_each(|before| gone.push(before));
                    self.counters.replaced += 1;
                }
                return Ok(());
            }
            self.remove(at, Cause::Removed, gone);
        }
        loop {
            let enough = self.store.len() < self.store.max_entries();
            let room = if enough { self.room_for(self.store.bytes_with(weight)) } else { Room::Bound };
            let cause = match room {
                Room::Free => {
                    if let Some(slot) = new.take() {
                        self.store.insert(slot, weight, tick);
                        self.counters.inserts += 1;
                    }
                    return Ok(());
                }
                Room::Bound => Cause::Size,
                Room::Budget => Cause::Pressure,
            };
            let Some(victim) = self.store.victim() else {
                // All of it: what was reserved for the evicted goes with them, and is no longer there to be added to.
                let needed = self.store.bytes_with(weight) - self.store.bytes();
                return Err(if room == Room::Budget { Full::Budget(needed) } else { Full::Bound });
            };
            let in_its_place = self.store.len() <= self.store.max_entries()
                && self.room_for(self.store.bytes_in_place(victim, weight)) == Room::Free;
            self.counters.count(cause);
            if in_its_place {
                if let Some(slot) = new.take() {
                    self.store.supersede(victim, slot, weight, tick).into_iter().for_each(|before| gone.push(before));
                    self.counters.inserts += 1;
                }
                return Ok(());
            }
            self.store.evict(victim).into_iter().for_each(|evicted| gone.push(evicted));
        }
    }

    /// Whether an entry of this weight fits alone.
    pub(super) fn fits(&self, weight: u32) -> bool {
        self.store.max_entries() > 0 && self.store.least_bytes(weight) <= self.most_bytes()
    }

    /// What an entry has to be within.
    pub(super) fn most_bytes(&self) -> u64 {
        self.max_bytes.min(u64::from(u32::MAX))
    }

    /// Whether the cache may hold so many bytes; if so, they are reserved.
    fn room_for(&mut self, bytes: u64) -> Room {
        // What is being loaded counts as long as there is something to evict for it.
        let loading = if self.store.len() == 0 { 0 } else { self.loading };
        if bytes.saturating_add(loading) > self.max_bytes {
            return Room::Bound;
        }
        match &mut self.charge {
            Charge::Board(..) => Room::Free,
            Charge::Account(reserved) => {
                let more = bytes.saturating_sub(reserved.size().as_u64());
                if reserved.grow_if_free(ByteSize::bytes(more)) { Room::Free } else { Room::Budget }
            }
        }
    }

    /// The account that is charged.
    pub(super) fn account(&self) -> Option<Account> {
        match &self.charge {
            Charge::Account(reserved) => Some(reserved.account().clone()),
            Charge::Board(..) => None,
        }
    }

    /// The account, if it wants to have pages given back once the lock is gone.
    #[inline]
    pub(super) fn untidy(&self) -> Option<Account> {
        match &self.charge {
            Charge::Account(reserved) => Some(reserved.account()).filter(|account| account.is_untidy()).cloned(),
            Charge::Board(..) => None,
        }
    }

    /// Takes over what was reserved for what comes in next. The account is the same, so it is never given back.
    pub(super) fn take_over(&mut self, granted: Reservation) {
        if let Charge::Account(reserved) = &mut self.charge {
            reserved.merge(granted).unwrap_or_else(drop);
        }
    }

    /// Evicts one entry; `false` if there is none.
    pub(super) fn evict(&mut self, cause: Cause, gone: &mut Gone<K, V>) -> bool {
        let Some(slot) = self.store.victim().and_then(|victim| self.store.evict(victim)) else { return false };
        self.counters.count(cause);
        gone.push(slot);
        true
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, at: u32, cause: Cause, gone: &mut Gone<K, V>) {
        if let Some(slot) = self.store.remove(at) {
            self.counters.count(cause);
            gone.push(slot);
        }
    }

    /// Frees what has expired among the next `most` entries.
    pub(super) fn sweep(&mut self, most: usize, tick: u32, gone: &mut Gone<K, V>) -> usize {
        let before = self.store.len();
        self.store.sweep(most, tick, |slot| gone.push(slot));
        let swept = before - self.store.len();
        self.counters.evicted_expired += swept as u64;
        swept
    }

    /// Evicts until the cache holds no more than so many bytes.
    pub(super) fn shrink_to(&mut self, bytes: u64, cause: Cause, gone: &mut Gone<K, V>) {
        while self.store.bytes() > bytes && self.evict(cause, gone) {}
    }

    /// Evicts until the cache is within bounds that may have changed.
    pub(super) fn keep_bounds(&mut self, gone: &mut Gone<K, V>) {
        while self.store.len() > self.store.max_entries() && self.evict(Cause::Size, gone) {}
        self.shrink_to(self.max_bytes.saturating_sub(self.loading), Cause::Size, gone);
    }

    /// Says what is held now. What is no longer reserved is released when `gone` is dropped: after what it was for.
    pub(super) fn settle(&mut self, gone: &mut Gone<K, V>) {
        let bytes = self.store.bytes();
        match &mut self.charge {
            Charge::Account(reserved) => {
                let size = reserved.size().as_u64();
                if bytes > size {
                    reserved.book(ByteSize::bytes(bytes - size));
                } else if bytes < size {
                    let less = ByteSize::bytes(size - bytes);
                    if gone.is_empty() {
                        reserved.shrink(less);
                    } else {
                        gone.released = reserved.split(less);
                    }
                }
            }
            Charge::Board(holder, told) => {
                if bytes > *told {
                    holder.add(ByteSize::bytes(bytes - *told));
                } else if bytes < *told {
                    holder.sub(ByteSize::bytes(*told - bytes));
                }
                *told = bytes;
            }
        }
    }
}

impl<K, V> Drop for State<K, V> {
    fn drop(&mut self) {
        if let Charge::Board(holder, told) = &mut self.charge {
            holder.sub(ByteSize::bytes(std::mem::take(told)));
        }
    }
}
