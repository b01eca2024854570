//! Which allocations are sampled: those that contain a sampling point.
//!
//! All bytes that a thread allocates are one line of bytes. The line is cut into strata of one interval, and each stratum
//! has one sampling point, at a random place in it. So each byte has the same chance to be a sampling point, and an
//! estimate from the samples is right on average:
//!
//! ```text
//!   blocks of the thread     |--64--|-----------4096-----------|-200-|--64--|--  ..
//!   strata, one point each   |              x              |      x           |  ..
//!                                           ^ this block is a sample; it counts for one interval of bytes
//! ```
//!
//! Points at random distances (a Poisson process, as in the profilers of Go and tcmalloc) have the same average. Strata
//! have a smaller variance, and need no logarithm inside of the allocator.
//!
//! A block of at least one interval is always a sample, counts with its own size, and does not move the thread on.

use crate::sync::{AtomicU64, Ordering::Relaxed, constructor};

/// The length of a stratum: `base` bytes, doubled `doublings` times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) base: u64,
    pub(crate) doublings: u32,
}

impl Interval {
    pub(crate) const fn bytes(self) -> u64 {
        self.base << self.doublings
    }
}

/// The sampling points in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hits {
    pub(crate) count: u64,
    /// The doublings of the interval that the points were chosen with.
    pub(crate) doublings: u32,
}

/// Returns the first sampling point at or after `position`.
pub(crate) fn next_point(position: u64, interval: Interval, seed: u64) -> u64 {
    let bytes = interval.bytes();
    let stratum = position / bytes;
    let point = |stratum: u64| (stratum * bytes).wrapping_add(random_below(stratum ^ (seed << 48), bytes));
    let own = point(stratum);
    if own >= position { own } else { point(stratum + 1) }
}

/// Returns the number of sampling points in the `size` bytes at `position`.
pub(crate) fn points_in(position: u64, size: u64, interval: Interval, seed: u64) -> u64 {
    let end = position + size;
    let mut count = 0;
    let mut point = next_point(position, interval, seed);
    // At most two, because a block of one interval does not come here.
    while point < end {
        count += 1;
        point = next_point(point + 1, interval, seed);
    }
    count
}

/// The finalizer of `SplitMix64` (Steele, Lea and Flood 2014): every bit of the result depends on every bit of `word`.
const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Returns a number below `bound` that depends on nothing but `word`.
pub(crate) const fn random_below(word: u64, bound: u64) -> u64 {
    ((mix(word) as u128 * bound as u128) >> 64) as u64
}

/// The next sampling point of one thread. Its owner alone changes it.
#[derive(Debug)]
pub(crate) struct ThreadSampling {
    /// The position of the next point.
    point: AtomicU64,
    /// One more than the doublings of the interval that it was chosen with; 0 before the first.
    doublings_and_1: AtomicU64,
}

impl ThreadSampling {
    constructor! {
        pub(crate) const fn new() -> Self {
            Self { point: AtomicU64::new(0), doublings_and_1: AtomicU64::new(0) }
        }
    }

    /// Returns the doublings of the interval that the next point was chosen with; `None` before the first.
    fn chosen(&self) -> Option<u32> {
        u32::try_from(self.doublings_and_1.load(Relaxed)).ok()?.checked_sub(1)
    }

    /// Returns `true` if the thread has a next point.
    pub(crate) fn has_begun(&self) -> bool {
        self.chosen().is_some()
    }

    /// Moves on by a block of `size` bytes. `countdown` are the bytes before the next point; `None` if there is none yet.
    /// Returns the points in the block, and the bytes before the next point after it.
    pub(crate) fn pass(&self, countdown: Option<u64>, size: u64, interval: Interval, seed: u64) -> (Hits, u64) {
        let chosen = self.chosen().filter(|_| countdown.is_some()).unwrap_or(interval.doublings);
        let chosen_with = Interval { doublings: chosen, ..interval };
        if let Some(left) = countdown
            && size >= chosen_with.bytes()
        {
            return (Hits { count: 1, doublings: chosen }, left);
        }
        let position = countdown.map_or(0, |left| self.point.load(Relaxed).saturating_sub(left));
        let hits = Hits { count: points_in(position, size, chosen_with, seed), doublings: chosen };
        let position = position + size;
        // A point of the old interval stays until it is reached.
        let interval = if hits.count == 0 { chosen_with } else { interval };
        let point = next_point(position, interval, seed);
        self.point.store(point, Relaxed);
        self.doublings_and_1.store(u64::from(interval.doublings) + 1, Relaxed);
        (hits, point - position)
    }
}
