//! How much of the limit may be reserved, given what the process holds besides: corrected from measurements, so that
//! drift heals both ways.
//!
//! ```text
//!   room  =  limit  -  unreserved  -  overhead
//!                      live heap       rss beyond the heap it has carried, smoothed; after the first measurement it
//!                      that nobody     rises by one step at a time, and never takes more than what leaves `floor`
//!                      reserved
//! ```
//!
//! Counting reservations alone lets the process grow past its limit beside them. Following the rss instead starves the
//! caches: pages outlive the values, so a cache that shrinks would see the rss stay, and be told to shrink again. The
//! same holds for the rss beyond the *live* heap. But pages that once carried more heap can carry it again. What counts
//! as overhead is only what the rss has beyond that: code, stacks, and what fragmentation makes useless.

use crate::size::ByteSize;

/// What is kept from being reserved, and what is left. Read it with
/// [`MemoryBudget::baseline`](super::MemoryBudget::baseline).
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::new(ByteSize::mib(100));
/// budget.rebaseline(ByteSize::mib(15)); // live heap, of which nobody has reserved any
/// let baseline = budget.baseline();
/// assert_eq!((baseline.unreserved, baseline.overhead, baseline.room),
///     (ByteSize::mib(15), ByteSize::ZERO, ByteSize::mib(85)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Baseline {
    /// Live heap that no account had reserved, when last measured.
    pub unreserved: ByteSize,
    /// Rss beyond the heap that its pages have carried, smoothed. It may exceed what it is let to take.
    pub overhead: ByteSize,
    /// What may be reserved in all.
    pub room: ByteSize,
}

/// The reckoning behind the room, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reckoning {
    /// What the room is without anything else in the process.
    pub(super) limit: u64,
    /// What `overhead` must leave of the room.
    pub(super) floor: u64,
    /// By how much `overhead` rises at most from one measurement to the next.
    pub(super) step: u64,
    pub(super) unreserved: u64,
    pub(super) overhead: u64,
    /// The lowest rss observed since `carried` was last raised.
    pub(super) low: u64,
    /// The most heap that pages of the rss have carried: it rises with the heap, and falls by pages given back.
    pub(super) carried: u64,
    /// The most that was reserved when the rss was looked at since the heap was last measured.
    pub(super) height: u64,
}

impl Reckoning {
    /// One measurement counts for this part in the smoothed overhead.
    const PART: u64 = 4;

    /// Takes over how much of the live heap is not reserved.
    pub(super) fn rebaseline(&mut self, live: u64, reserved: u64) {
        self.height = 0;
        self.unreserved = live.saturating_sub(reserved);
    }

    /// Moves the overhead a quarter of the way to what the rss has beyond the heap it carried, upward by at most one
    /// step; the first time it takes it as it is. `peak_heap` is the most heap that pages still there have carried since
    /// the last observation.
    pub(super) fn observe_rss(&mut self, rss: u64, peak_heap: u64) {
        let first = (self.low, self.carried) == (u64::MAX, 0);
        // A rise that follows a fall takes pages anew, so only what falls below all before was given back for good.
        let given_back = self.low.saturating_sub(rss);
        self.carried = self.carried.saturating_sub(given_back);
        self.low = self.low.min(rss);
        if peak_heap > self.carried {
            (self.carried, self.low) = (peak_heap, rss);
        }
        let measured = rss.saturating_sub(self.carried);
        if first {
            self.overhead = measured;
        } else {
            self.move_to(measured);
        }
    }

    /// Measures anew after free pages were given back: there is no page left that could carry more heap.
    pub(super) fn trimmed(&mut self, rss: u64, reserved: u64) {
        let live = self.unreserved.saturating_add(reserved);
        (self.carried, self.low) = (live, rss);
        self.move_to(rss.saturating_sub(live));
    }

    /// Whether so much was not reserved before since the heap was last measured, which it notes. Before the first
    /// measurement nothing is: what is live and not reserved would pass for overhead.
    pub(super) fn is_new_height(&mut self, used: u64) -> bool {
        let new = self.low != u64::MAX && used > self.height;
        self.height = self.height.max(used);
        new
    }

    fn move_to(&mut self, measured: u64) {
        if measured > self.overhead {
            self.overhead += (measured - self.overhead).div_ceil(Self::PART).min(self.step);
        } else {
            self.overhead -= (self.overhead - measured).div_ceil(Self::PART);
        }
    }

    pub(super) fn room(&self) -> u64 {
        let left = self.limit.saturating_sub(self.unreserved);
        left - self.overhead.min(left.saturating_sub(self.floor))
    }

    pub(super) fn report(&self) -> Baseline {
        Baseline {
            unreserved: ByteSize::bytes(self.unreserved),
            overhead: ByteSize::bytes(self.overhead),
            room: ByteSize::bytes(self.room()),
        }
    }
}
