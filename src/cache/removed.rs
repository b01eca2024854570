//! Entries that have left a cache, until they are dropped without its lock.

use std::any::Any;
use std::mem::{needs_drop, take};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use crate::budget::Reservation;
use crate::unwind::let_go;

use super::removal::Listener;
use super::stats::Cause;
use super::store::Slot;

/// The places of one batch, on the stack of the caller.
///
/// When they are dropped, the entries are dropped first, and then their reservation is released. The `Drop` of a key or a
/// value, and the removal listener, may panic: the others are reported and dropped too, and the first panic goes on.
pub(super) struct Places<'l, K, V, const N: usize> {
    batch: [Place<K, V>; N],
    /// All entries of a store that was cleared.
    all: Vec<Slot<K, V>>,
    all_cause: Cause,
    released: Option<Reservation>,
    /// Called with each entry before it is dropped.
    listener: Option<&'l Listener<K, V>>,
}

/// The place of one entry.
type Place<K, V> = Option<(Slot<K, V>, Cause)>;

/// The entries that an operation removes under the lock: at most as many as it has places.
pub(super) struct Removed<'a, K, V> {
    free: &'a mut [Place<K, V>],
    all: &'a mut Vec<Slot<K, V>>,
    all_cause: &'a mut Cause,
    released: &'a mut Option<Reservation>,
    is_empty: bool,
}

/// The places of an operation on one key: its former value, and a victim.
pub(super) const FEW: usize = 2;

/// The highest number of entries that are looked at in one batch.
pub(super) const MAX_VISITED: usize = 512;

impl<'l, K, V, const N: usize> Places<'l, K, V, N> {
    #[inline]
    pub(super) const fn new(listener: Option<&'l Listener<K, V>>) -> Self {
        Self { batch: [const { None }; N], all: Vec::new(), all_cause: Cause::Removed, released: None, listener }
    }

    pub(super) fn removed(&mut self) -> Removed<'_, K, V> {
        let Self { batch, all, all_cause, released, .. } = self;
        Removed { free: batch, all, all_cause, released, is_empty: true }
    }
}

impl<K, V, const N: usize> Places<'_, K, V, N> {
    /// Takes all entries out. `drop_entry` drops each of them.
    #[inline]
    fn empty(&mut self, drop_entry: impl Fn(Slot<K, V>, Cause, &mut FirstPanic)) {
        let mut panics = FirstPanic::default();
        let all = take(&mut self.all).into_iter().map(|slot| (slot, self.all_cause));
        for (slot, cause) in self.batch.iter_mut().filter_map(Option::take).chain(all) {
            drop_entry(slot, cause, &mut panics);
        }
        panics.resume();
    }

    /// Calls the listener with each entry, and drops it. A function of its own, so that others are short.
    #[cold]
    #[inline(never)]
    fn report_and_empty(&mut self, listener: &Listener<K, V>) {
        self.empty(|slot, cause, panics| {
            panics.contain(|| listener(&slot.key, &slot.value, cause));
            panics.contain(|| drop(slot));
        });
    }
}

impl<K, V, const N: usize> Drop for Places<'_, K, V, N> {
    #[inline]
    fn drop(&mut self) {
        match self.listener {
            Some(listener) => self.report_and_empty(listener),
            None if needs_drop::<(K, V)>() => self.empty(|slot, _cause, panics| panics.contain(|| drop(slot))),
            None => {}
        }
    }
}

/// The first panic of several calls of user code, which all run.
#[derive(Default)]
pub(super) struct FirstPanic(Option<Box<dyn Any + Send>>);

impl FirstPanic {
    pub(super) fn contain(&mut self, call: impl FnOnce()) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(call)) {
            match self.0 {
                None => self.0 = Some(payload),
                Some(_) => let_go(payload),
            }
        }
    }

    /// Goes on with the panic, unless the thread is panicking already.
    pub(super) fn resume(self) {
        if let Some(payload) = self.0
            && !thread::panicking()
        {
            resume_unwind(payload);
        }
    }
}

impl<K, V> Removed<'_, K, V> {
    /// Adds an entry. The caller has checked that there is a [free](Self::free) place.
    pub(super) fn push(&mut self, slot: Slot<K, V>, cause: Cause) {
        let Some((place, rest)) = take(&mut self.free).split_first_mut() else {
            debug_assert!(false, "the batch is full");
            return; // dropped under the lock
        };
        *place = Some((slot, cause));
        self.free = rest;
        self.is_empty = false;
    }

    /// Adds an entry, if there is one.
    pub(super) fn extend(&mut self, slot: Option<Slot<K, V>>, cause: Cause) {
        if let Some(slot) = slot {
            self.push(slot, cause);
        }
    }

    /// Adds all entries of a store.
    pub(super) fn push_all(&mut self, slots: Vec<Slot<K, V>>, cause: Cause) {
        self.is_empty &= slots.is_empty();
        *self.all = slots;
        *self.all_cause = cause;
    }

    /// The number of entries that may be added.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Sets the reservation to release after the entries are dropped.
    pub(super) fn set_released(&mut self, released: Option<Reservation>) {
        *self.released = released;
    }
}
