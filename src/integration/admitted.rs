//! The reservation of a request in flight: it grows with what the request holds, and shrinks to it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::Overloaded;
use super::admission::Admission;
use crate::budget::Reservation;
use crate::heap;
use crate::monitor::Label;
use crate::size::ByteSize;

/// The slack of a reservation of 0 bytes.
const MIN_SLACK: u64 = 4 << 10;

/// The upper bound of the slack.
const MAX_SLACK: u64 = 64 << 10;

/// Returns the bytes by which a request may hold more or less than it has reserved, so that most polls do not change the
/// reservation.
fn slack(reserved: u64) -> u64 {
    (MIN_SLACK + reserved / 8).min(MAX_SLACK)
}

/// The admission of a request, and the properties that its estimate depends on.
pub(super) struct OfKind {
    pub(super) admission: Arc<Admission>,
    pub(super) label: Label,
    /// The length of its body.
    pub(super) length: Option<u64>,
}

/// The part of a reservation that is a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guess {
    Nothing,
    Whole,
    /// Less than a guess.
    Probe {
        until: u64,
    },
}

/// A reservation, which is taken out while it grows or shrinks: then code of others runs, and no lock is held.
enum Held {
    Reserved(Reservation),
    Changing,
    Released,
}

/// The reservation of a request in flight.
pub(super) struct Admitted {
    kind: OfKind,
    /// Bytes of its body so far.
    received: AtomicU64,
    held: Mutex<Held>,
    /// The size of the reservation.
    reserved: AtomicU64,
    guess: Guess,
    /// The size is still the guess.
    is_guess: AtomicBool,
    /// The peak that was recorded for the estimate; 0 before the response.
    recorded: AtomicU64,
    /// It was ended, or its response is an error: then it takes less than others of its kind.
    has_failed: AtomicBool,
    /// The first refusal of a frame of its body.
    refused_frame: OnceLock<Overloaded>,
}

impl Admitted {
    pub(super) fn new(kind: OfKind, reservation: Reservation, guess: Guess) -> Self {
        Self {
            kind,
            received: AtomicU64::new(0),
            reserved: AtomicU64::new(reservation.size().as_u64()),
            held: Mutex::new(Held::Reserved(reservation)),
            guess,
            is_guess: AtomicBool::new(guess != Guess::Nothing),
            recorded: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
            refused_frame: OnceLock::new(),
        }
    }

    pub(super) const fn admission(&self) -> &Arc<Admission> {
        &self.kind.admission
    }

    /// Returns the length of the request's body, or what was received of it.
    pub(super) fn body(&self) -> u64 {
        self.kind.length.unwrap_or(0).max(self.received.load(Relaxed))
    }

    /// Lets the reservation grow to `held` if that is more. A guess shrinks once there is an estimate.
    pub(super) fn cover(&self, held: ByteSize) -> Result<(), Overloaded> {
        let OfKind { admission, label, length } = &self.kind;
        if self.is_guess.load(Relaxed)
            && let Some(estimate) = admission.estimate.of_kind(*label, *length)
        {
            self.is_guess.store(false, Relaxed);
            self.shrink_to(held.max(estimate));
        }
        let reserved = self.reserved.load(Relaxed);
        if held.as_u64() <= reserved.saturating_add(slack(reserved)) {
            return Ok(());
        }
        self.change(|reservation| {
            let reserved = reservation.size();
            let grown = reservation.try_grow(held.saturating_sub(reserved));
            grown.map_err(|exceeded| Overloaded::Outgrown { reserved, exceeded })
        })
        .unwrap_or(Ok(()))
    }

    /// Lets the reservation shrink to `needed` if that is less.
    pub(super) fn shrink_to(&self, needed: ByteSize) {
        let reserved = self.reserved.load(Relaxed);
        if needed.as_u64().saturating_add(slack(reserved)) >= reserved {
            return;
        }
        let _released = self.change(|reservation| reservation.shrink(reservation.size().saturating_sub(needed)));
    }

    /// Charges a frame of the body; `held`: by the request, with it.
    pub(super) fn receive(&self, len: u64, held: ByteSize) -> Result<(), Overloaded> {
        let received = self.received.fetch_add(len, Relaxed).saturating_add(len);
        let OfKind { admission, length, .. } = &self.kind;
        let estimate = if length.is_none() { admission.estimate.after(received) } else { 0 };
        let result = self.cover(held.max(ByteSize::bytes(estimate)));
        if let Err(overloaded) = &result {
            let _first = self.refused_frame.set(overloaded.clone());
        }
        result
    }

    /// Returns the refusal of a frame of its body.
    pub(super) fn refused_frame(&self) -> Option<&Overloaded> {
        self.refused_frame.get()
    }

    /// Its peak may raise the estimate of later requests, and does not lower it.
    pub(super) fn note_error(&self) {
        self.has_failed.store(true, Relaxed);
    }

    /// Records the peak up to the response, or up to the end, for the estimate of later requests.
    pub(super) fn record(&self, peak: ByteSize) {
        let recorded = self.recorded.load(Relaxed);
        // A small growth after the response is not worth a second record.
        if recorded == 0 || peak.as_u64() > recorded.saturating_add(recorded / 8).saturating_add(MAX_SLACK) {
            self.recorded.store(peak.as_u64().max(1), Relaxed);
            let OfKind { admission, label, length } = &self.kind;
            admission.estimate.record(*label, *length, peak, !self.has_failed.load(Relaxed));
        }
        self.end_probe();
    }

    fn end_probe(&self) {
        if let Guess::Probe { until } = self.guess {
            self.kind.admission.end_probe(until);
        }
    }

    /// Releases the reservation.
    pub(super) fn release(&self) {
        self.end_probe();
        let held = std::mem::replace(&mut *self.held.lock(), Held::Released);
        self.reserved.store(0, Relaxed);
        heap::outside_of_tasks(|| drop(held));
    }

    /// Changes the reservation. `None` if another thread changes it, or it is released.
    fn change<T>(&self, change: impl FnOnce(&mut Reservation) -> T) -> Option<T> {
        let mut reservation = {
            let mut held = self.held.lock();
            match std::mem::replace(&mut *held, Held::Changing) {
                Held::Reserved(reservation) => reservation,
                other => {
                    *held = other;
                    return None;
                }
            }
        };
        // Memory that reclaimers free is none of the request.
        let result = heap::outside_of_tasks(|| change(&mut reservation));
        let mut held = self.held.lock();
        if matches!(*held, Held::Changing) {
            self.reserved.store(reservation.size().as_u64(), Relaxed);
            *held = Held::Reserved(reservation);
            return Some(result);
        }
        drop(held);
        // The request has ended during the change.
        heap::outside_of_tasks(|| drop(reservation));
        Some(result)
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").field("reserved", &self.reserved).finish_non_exhaustive()
    }
}
