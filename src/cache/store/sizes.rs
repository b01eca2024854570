//! The sizes of entries, as the policy is passed them, and the admission of large ones.

use super::super::policy::{Entry, Sizes};
use super::super::s3fifo::SMALL_SHARE;
use super::Store;

/// The lowest number of entries of mean size that a new one displaces if it may be rejected for them.
const MIN_DISPLACED: u64 = 4;

impl<K, V> Store<K, V> {
    /// Returns the sizes of the entries.
    #[inline]
    pub(super) fn sizes(&self) -> Sizes<'_> {
        Sizes { weights: self.weights.as_deref(), slot: self.slot_size }
    }

    /// Returns the size of an entry: its weight, and the bytes of its slot.
    pub(in super::super) fn size_of(&self, weight: u32) -> u64 {
        self.slot_size + u64::from(weight)
    }

    /// Returns the part of a bound in bytes that an entry may exceed only if the policy [admits](Self::admits) it.
    pub(in super::super) const fn admission_share(max_bytes: u64) -> u64 {
        max_bytes / SMALL_SHARE
    }

    /// Returns `true` if the weight of an entry exceeds the [share](Self::admission_share) of the bound.
    #[inline]
    pub(in super::super) const fn is_large(&self, weight: u32, max_bytes: u64) -> bool {
        self.weights.is_some() && weight as u64 > Self::admission_share(max_bytes)
    }

    /// Returns `false` if a new large entry is not to be inserted, because other entries would be evicted for it that are
    /// worth more. The caller has seen that it [is large](Self::is_large), and that entries would be evicted.
    ///
    /// An entry that displaces few others is always admitted: in a cache of a few large values, each is large. `entries` and
    /// `bytes` are those of all shards, which make the room for it.
    pub(in super::super) fn admits(&mut self, hash: u32, weight: u32, entries: usize, bytes: u64) -> bool {
        let size = self.size_of(weight);
        let displaced = size.saturating_mul(entries as u64) / bytes.max(1);
        displaced < MIN_DISPLACED || self.order.admits(Entry { hash, size })
    }
}
