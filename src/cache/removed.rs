//! Entries that have left a cache, until they are dropped without its lock.

use std::any::Any;
use std::mem::{needs_drop, take};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use crate::budget::Reservation;
use crate::unwind::let_go;

use super::store::Slot;

/// The places of one batch, on the stack of the caller.
///
/// When they are dropped, the entries are dropped first, and then their reservation is released. The `Drop` of a key or a
/// value may panic: the others are dropped too, and the first panic goes on.
pub(super) struct Places<K, V, const N: usize> {
    batch: [Option<Slot<K, V>>; N],
    /// All entries of a store that was cleared.
    all: Vec<Slot<K, V>>,
    released: Option<Reservation>,
}

/// The entries that an operation removes under the lock: at most as many as it has places.
pub(super) struct Removed<'a, K, V> {
    free: &'a mut [Option<Slot<K, V>>],
    all: &'a mut Vec<Slot<K, V>>,
    released: &'a mut Option<Reservation>,
    is_empty: bool,
}

/// The places of an operation on one key: its former value, and a victim.
pub(super) const FEW: usize = 2;

/// The highest number of entries that are looked at in one batch.
pub(super) const MAX_VISITED: usize = 512;

impl<K, V, const N: usize> Default for Places<K, V, N> {
    fn default() -> Self {
        Self { batch: [const { None }; N], all: Vec::new(), released: None }
    }
}

impl<K, V, const N: usize> Places<K, V, N> {
    pub(super) fn removed(&mut self) -> Removed<'_, K, V> {
        Removed { free: &mut self.batch, all: &mut self.all, released: &mut self.released, is_empty: true }
    }
}

impl<K, V, const N: usize> Drop for Places<K, V, N> {
    fn drop(&mut self) {
        if !needs_drop::<(K, V)>() {
            return;
        }
        let mut first = None;
        for slot in self.batch.iter_mut().filter_map(Option::take).chain(take(&mut self.all)) {
            drop_contained(slot, &mut first);
        }
        if let Some(first) = first
            && !thread::panicking()
        {
            resume_unwind(first);
        }
    }
}

/// Drops an entry. Its panic is kept if it is the first.
fn drop_contained<K, V>(slot: Slot<K, V>, first: &mut Option<Box<dyn Any + Send>>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(slot))) {
        match first {
            None => *first = Some(payload),
            Some(_) => let_go(payload),
        }
    }
}

impl<K, V> Removed<'_, K, V> {
    /// Adds an entry. The caller has checked that there is a [free](Self::free) place.
    pub(super) fn push(&mut self, slot: Slot<K, V>) {
        let Some((place, rest)) = take(&mut self.free).split_first_mut() else {
            debug_assert!(false, "the batch is full");
            return; // dropped under the lock
        };
        *place = Some(slot);
        self.free = rest;
        self.is_empty = false;
    }

    /// Adds an entry, if there is one.
    pub(super) fn extend(&mut self, slot: Option<Slot<K, V>>) {
        if let Some(slot) = slot {
            self.push(slot);
        }
    }

    /// Adds all entries of a store.
    pub(super) fn push_all(&mut self, slots: Vec<Slot<K, V>>) {
        self.is_empty &= slots.is_empty();
        *self.all = slots;
    }

    /// The number of entries that may be added.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Sets the reservation to release after the entries are dropped.
    pub(super) fn set_released(&mut self, released: Option<Reservation>) {
        *self.released = released;
    }
}
