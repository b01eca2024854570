//! The memory that a request will take.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use http::request::Parts;
use parking_lot::Mutex;

use super::learned::Learned;
use crate::monitor::Label;
use crate::size::ByteSize;
use crate::unwind::contained;

/// The minimum of a learned estimate: a request has a head and buffers.
pub(super) const MIN_ESTIMATE: ByteSize = ByteSize::kib(64);

/// The memory of a body of an unknown kind, as a multiple of its length: that of short objects of JSON as values of
/// `serde_json`.
const UNKNOWN_PER_BODY_BYTE: u64 = 24;

/// A request of an unknown kind reserves at least this part of the limit, and at most half of it.
const UNKNOWN_PART: u64 = 4;

/// A function of the request.
type OfRequest = Arc<dyn Fn(&Parts) -> ByteSize + Send + Sync>;

/// An estimate of the memory that a request will take: an [`Admission`](super::Admission) reserves it.
///
/// An estimate need not be exact. If the request [holds](crate::monitor::RequestHeap::net) more after a poll, its
/// reservation grows, and if the budget has no more, the request is ended. An estimate that is too low lets in requests that are then ended; one that is too high
/// lets in too few.
///
/// A clone shares what it has learned.
///
/// # Examples
///
/// ```
/// use plimsoll::{Admission, ByteSize, Estimate, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(100));
/// // Objects of JSON take up to some twenty times the text.
/// let admission = Admission::new(&budget)?.estimate(Estimate::per_body_byte(20, ByteSize::mib(1)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Estimate(Kind);

#[derive(Clone)]
enum Kind {
    Constant(ByteSize),
    PerBodyByte { factor: u32, minimum: ByteSize },
    OfRequest(OfRequest),
    Learned(Arc<Mutex<Learned>>),
}

impl Estimate {
    /// Creates an estimate that is the same for each request. 0 admits every request.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, Estimate};
    ///
    /// let estimate = Estimate::constant(ByteSize::mib(8));
    /// ```
    pub const fn constant(size: ByteSize) -> Self {
        Self(Kind::Constant(size))
    }

    /// Creates an estimate of `factor` bytes for each byte of the body, and at least `minimum`.
    ///
    /// For a body without a length, `minimum` is reserved first, and more as its frames arrive. With a factor of 0 it is the
    /// same as [`constant`](Self::constant).
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, Estimate};
    ///
    /// // A body that is collected as a whole is copied as its buffer grows.
    /// let uploads = Estimate::per_body_byte(2, ByteSize::kib(256));
    /// ```
    pub const fn per_body_byte(factor: u32, minimum: ByteSize) -> Self {
        Self(Kind::PerBodyByte { factor, minimum })
    }

    /// Creates an estimate by a function of the head of the request. A panic in it refuses the request, if panics unwind.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, Estimate};
    ///
    /// let estimate = Estimate::of_request(|request| match request.uri.path() {
    ///     "/export" => ByteSize::mib(40),
    ///     _ => ByteSize::mib(1),
    /// });
    /// ```
    pub fn of_request(size: impl Fn(&Parts) -> ByteSize + Send + Sync + 'static) -> Self {
        Self(Kind::OfRequest(Arc::new(size)))
    }

    /// Creates an estimate by the peaks of earlier requests with the same label. The default of an
    /// [`Admission`](super::Admission).
    ///
    /// It is a high [peak](crate::monitor::RequestHeap::peak) of the last 32 requests with the label and a body of about the
    /// same length (a factor of two), in proportion to the length of the body, plus a sixteenth. Two of 32 may be above it, so
    /// that a rare large request does not make all others wait. So it is right for a label with requests of one kind, after
    /// the first one.
    ///
    /// As long as no request of its kind has had its response, a request reserves a quarter of the limit, or 24 bytes for each
    /// byte of its body, up to half of the limit, without reclaiming. If that is not available, one request at a time gets
    /// half of what is. So few requests of a new kind are in flight at first: let them
    /// [wait](super::Admission::wait_up_to). A response with an error status does not lower the estimate.
    ///
    /// Without the [tracking allocator](crate::TrackingAllocator) nothing is learned.
    ///
    /// The 128 kinds that were used last are kept, 0.4 KiB each.
    ///
    /// # Performance
    ///
    /// Two short locks and look-ups in a hash table for each request.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::Estimate;
    ///
    /// let estimate = Estimate::learned();
    /// ```
    pub fn learned() -> Self {
        Self(Kind::Learned(Arc::default()))
    }

    /// Returns the bytes to reserve for a request; `length`: of its body. `limit`: of the budget.
    pub(super) fn of(&self, parts: &Parts, label: Label, length: Option<u64>, limit: ByteSize) -> Estimated {
        match &self.0 {
            Kind::Constant(size) => Estimated::Known(*size),
            Kind::PerBodyByte { factor, minimum } => Estimated::Known(of_body(*factor, *minimum, length.unwrap_or(0))),
            Kind::OfRequest(size) => Estimated::Known(contained(|| size(parts)).unwrap_or(ByteSize::MAX)),
            Kind::Learned(_) => match self.of_kind(label, length) {
                Some(size) => Estimated::Known(size),
                None => Estimated::Guess(guess(length, limit.as_u64())),
            },
        }
    }

    /// Returns what was learned of a kind, if anything.
    pub(super) fn of_kind(&self, label: Label, length: Option<u64>) -> Option<ByteSize> {
        match &self.0 {
            Kind::Learned(learned) => learned.lock().estimate(label, length).map(of_peak),
            _ => None,
        }
    }

    /// Returns what to reserve instead of a guess, once it is known. Wakes the task of `waker` when it may be.
    pub(super) fn poll_learned(
        &self,
        label: Label,
        length: Option<u64>,
        number: u64,
        waker: &Waker,
    ) -> Option<ByteSize> {
        match &self.0 {
            Kind::Learned(learned) => {
                // The old waker is dropped after the lock.
                let (estimate, _old) = { learned.lock().poll_estimate(label, length, number, waker) };
                estimate.map(of_peak)
            }
            _ => None,
        }
    }

    /// Does not wake the request any more.
    pub(super) fn forget(&self, number: u64) {
        if let Kind::Learned(learned) = &self.0 {
            // Dropped after the lock.
            let _waker = { learned.lock().forget(number) };
        }
    }

    /// Returns the bytes to reserve after `received` bytes of a body without a length.
    pub(super) fn after(&self, received: u64) -> u64 {
        match &self.0 {
            Kind::PerBodyByte { factor, minimum } => of_body(*factor, *minimum, received).as_u64(),
            _ => 0,
        }
    }

    /// Returns `true` if a smaller estimate is as good, in case this one can never be reserved.
    pub(super) const fn is_learned(&self) -> bool {
        matches!(self.0, Kind::Learned(_))
    }

    /// Returns the part of the estimate that is for a body of this length.
    pub(super) fn of_body(&self, length: u64) -> u64 {
        match &self.0 {
            Kind::PerBodyByte { factor, .. } => length.saturating_mul((*factor).into()),
            _ => 0,
        }
    }

    /// Records the peak of a request; `lowers`: it may lower the estimate.
    pub(super) fn record(&self, label: Label, length: Option<u64>, peak: ByteSize, lowers: bool) {
        if let Kind::Learned(learned) = &self.0 {
            let woken = learned.lock().record(label, length, peak.as_u64(), lowers);
            for (_, waker) in woken {
                // It runs code of others, perhaps while the request unwinds.
                contained(|| waker.wake());
            }
        }
    }
}

/// The bytes to reserve for a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Estimated {
    Known(ByteSize),
    /// Nothing was learned yet.
    Guess(ByteSize),
}

/// Returns what to reserve for a request of a kind with this peak.
fn of_peak(peak: u64) -> ByteSize {
    ByteSize::bytes(peak.saturating_add(peak / 16)).max(MIN_ESTIMATE)
}

/// Returns what to reserve for a request of an unknown kind.
fn guess(length: Option<u64>, limit: u64) -> ByteSize {
    let of_body = length.unwrap_or(0).saturating_mul(UNKNOWN_PER_BODY_BYTE);
    ByteSize::bytes(of_body.clamp(limit / UNKNOWN_PART, limit / 2)).max(MIN_ESTIMATE)
}

fn of_body(factor: u32, minimum: ByteSize, length: u64) -> ByteSize {
    ByteSize::bytes(length.saturating_mul(factor.into())).max(minimum)
}

impl fmt::Debug for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Constant(size) => f.debug_tuple("Constant").field(size).finish(),
            Kind::PerBodyByte { factor, minimum } => {
                f.debug_struct("PerBodyByte").field("factor", factor).field("minimum", minimum).finish()
            }
            Kind::OfRequest(_) => f.write_str("OfRequest(..)"),
            Kind::Learned(_) => f.write_str("Learned(..)"),
        }
    }
}
