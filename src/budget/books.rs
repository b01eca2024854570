//! The books of a budget: one line that reservations may not pass, and what each account holds of it.
//!
//! ```text
//!   line.used  >=  sum of slot.held     at every instant; equal whenever nobody moves
//!   line.used  <=  line.room            after every `take`; only `book`, or a room that shrank, overdraws
//! ```
//!
//! A reservation is taken on the line first and then entered under its account, and leaves in the other order. The line
//! moves by compare-and-exchange, never by add and then undo: of two requests of which one fits, one is granted.
//! Releasing is a `Release` and taking an `Acquire`, so that who takes what another gave back sees the memory freed.
//!
//! Nothing here blocks, allocates or panics, and `tests/loom` runs this very file under loom.

use std::ops::Deref;

use crate::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// The most that can be on the line, so that every sum of what is held fits a signed word.
pub(crate) const MOST: u64 = i64::MAX.cast_unsigned();

/// What is reserved of a budget, and how much of it may be: on cache lines of its own, as all threads write here.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Line {
    /// Reserved bytes of all accounts. Never above [`MOST`].
    used: AtomicU64,
    /// How far `take` may move `used`, in bytes. Never above [`MOST`].
    room: AtomicU64,
}

impl Line {
    pub(crate) fn new(room: u64) -> Self {
        Self { used: AtomicU64::new(0), room: AtomicU64::new(room.min(MOST)) }
    }

    /// Reserves `n` bytes under `slot` if they fit the room; on `false` nothing has changed. Zero bytes always fit.
    #[inline]
    pub(crate) fn take(&self, slot: &Slot<impl Deref<Target = AtomicU64>>, n: u64) -> bool {
        n == 0 || self.take_to(slot, n).is_some()
    }

    /// The same, and tells what is reserved then.
    #[inline]
    pub(crate) fn take_to(&self, slot: &Slot<impl Deref<Target = AtomicU64>>, n: u64) -> Option<u64> {
        let most = self.room.load(Relaxed);
        let mut used = self.used.load(Relaxed);
        loop {
            // `used` is below 2^63, so nothing wraps unless `n` is beyond the room by itself.
            let sum = used.checked_add(n).filter(|&sum| sum <= most)?;
            match self.used.compare_exchange_weak(used, sum, Acquire, Relaxed) {
                Ok(_) => {
                    slot.add(n);
                    return Some(sum);
                }
                Err(now) => used = now,
            }
        }
    }

    /// Enters `n` bytes that are there already, past the room if need be; tells how many, fewer only at [`MOST`].
    pub(crate) fn book(&self, slot: &Slot<impl Deref<Target = AtomicU64>>, n: u64) -> u64 {
        let mut used = self.used.load(Relaxed);
        let booked = loop {
            let booked = n.min(MOST - used);
            match self.used.compare_exchange_weak(used, used + booked, Acquire, Relaxed) {
                Ok(_) => break booked,
                Err(now) => used = now,
            }
        };
        slot.add(booked);
        booked
    }

    /// Gives back `n` bytes that `slot` holds.
    #[inline]
    pub(crate) fn give(&self, slot: &Slot<impl Deref<Target = AtomicU64>>, n: u64) {
        if n > 0 {
            slot.sub(n);
            self.used.fetch_sub(n, Release);
        }
    }

    /// Reserved bytes.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Acquire)
    }

    /// How much may be reserved in all.
    pub(crate) fn room(&self) -> u64 {
        self.room.load(Relaxed)
    }

    /// Sets how much may be reserved in all. What is reserved beyond it stays.
    pub(crate) fn set_room(&self, room: u64) {
        self.room.store(room.min(MOST), Relaxed);
    }
}

/// What one account holds.
#[derive(Debug)]
pub(crate) struct Slot<H> {
    /// Where its reserved bytes are counted.
    held: H,
    /// The most that `held` ever was.
    peak: AtomicU64,
}

impl<H: Deref<Target = AtomicU64>> Slot<H> {
    /// Counts on `held`, at zero now, which nobody else changes.
    pub(crate) fn new(held: H) -> Self {
        Self { held, peak: AtomicU64::new(0) }
    }

    #[inline]
    fn add(&self, n: u64) {
        let now = self.held.fetch_add(n, Relaxed) + n;
        if now > self.peak.load(Relaxed) {
            self.peak.fetch_max(now, Relaxed);
        }
    }

    #[inline]
    fn sub(&self, n: u64) {
        self.held.fetch_sub(n, Relaxed);
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    pub(crate) fn peak(&self) -> u64 {
        // It is raised after what is held.
        self.peak.load(Relaxed).max(self.held())
    }
}
