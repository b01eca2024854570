//! A first answer to "is this block a sample?" for each free: one load, and almost always no.

use crate::sync::{AtomicU8, Ordering::Relaxed, array, constructor};

/// Blocks are aligned, so the lowest bits of their addresses are mostly zero.
const SHIFT: u32 = 4;

/// A counter in use by this many samples or more stays in use.
const STUCK: u8 = u8::MAX;

/// The number of samples for each value of the lowest address bits; `N` is a power of two.
#[derive(Debug)]
pub(crate) struct AddressFilter<const N: usize>([AtomicU8; N]);

impl<const N: usize> AddressFilter<N> {
    constructor! {
        pub(crate) const fn new() -> Self {
            Self(array![AtomicU8::new(0); N])
        }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, clippy::indexing_slicing, reason = "a part of every free")]
    fn counter(&self, address: usize) -> &AtomicU8 {
        // Below `N`, because `N` is a power of two.
        &self.0[(address >> SHIFT) & (N - 1)]
    }

    /// Returns `false` if the block at `address` is no sample.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a part of every free")]
    pub(crate) fn may_contain(&self, address: usize) -> bool {
        self.counter(address).load(Relaxed) != 0
    }

    /// Counts a sample, before its block is handed out.
    pub(crate) fn insert(&self, address: usize) {
        let up = |count: u8| (count != STUCK).then(|| count + 1);
        let _stuck = self.counter(address).fetch_update(Relaxed, Relaxed, up);
    }

    /// Takes a sample out, before its block is freed.
    pub(crate) fn remove(&self, address: usize) {
        let down = |count: u8| (count != STUCK).then(|| count.saturating_sub(1));
        let _stuck = self.counter(address).fetch_update(Relaxed, Relaxed, down);
    }
}
