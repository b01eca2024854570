//! The samples of live blocks: a hash table of fixed size, from the address of a block to its sample.
//!
//! The owner of a block owns its entry: the allocator enters it before the caller has the block, and removes it before
//! the block is freed. So no two threads enter or remove the same address at one time. A third party is the *thinning*
//! of a table that is full: it changes or drops samples of others.
//!
//! An entry is two words. The sample is changed by single steps (swap, compare-and-exchange), so each change is counted
//! once. A bit of the address locks the entry for its owner, and no thread waits for it:
//!
//! ```text
//!   address  0 ──insert──> block | LOCKED ──> block ──remove──> block | LOCKED ──> 0
//!   sample   0                    store        │                  swap 0
//!                                              ├──thin──> other weight
//!                                              └──thin──> 0: dropped. Another insert may take the entry.
//! ```
//!
//! Nothing here is unsafe, blocks, allocates or panics, and `tests/loom` runs this very file under loom.

use crate::sync::{
    AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, array,
    constructor,
};

/// The entries that are looked at for one address.
const MAX_PROBES: usize = 32;

/// An entry that its owner is changing. Addresses are shifted up by one bit; no user address has the topmost.
const LOCKED: usize = 1;

/// A table of `N` entries; `N` is a power of two. Samples are not zero.
#[derive(Debug)]
pub(crate) struct SampleTable<const N: usize> {
    addresses: [AtomicUsize; N],
    samples: [AtomicU64; N],
}

/// An entry that was taken although its block is live, because its sample was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Displaced {
    /// The block; 0 if the entry was free.
    pub(crate) block: usize,
    /// The sample, if the block has got one in the meantime; else 0.
    pub(crate) sample: u64,
}

/// The table has no room for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl<const N: usize> SampleTable<N> {
    constructor! {
        pub(crate) const fn new() -> Self {
            Self { addresses: array![AtomicUsize::new(0); N], samples: array![AtomicU64::new(0); N] }
        }
    }

    /// The entries in which the sample of a block can be.
    fn entries(&self, block: usize) -> impl Iterator<Item = (&AtomicUsize, &AtomicU64)> {
        let start = (block as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let indices = (0..MAX_PROBES.min(N)).map(move |probe| (start as usize + probe) & (N - 1));
        indices.filter_map(|index| Some((self.addresses.get(index)?, self.samples.get(index)?)))
    }

    /// Enters the sample of a block.
    pub(crate) fn insert(&self, block: usize, sample: u64) -> Result<Displaced, Full> {
        for (address, place) in self.entries(block) {
            let found = address.load(Acquire);
            let is_free = found == 0 || (found & LOCKED == 0 && place.load(Acquire) == 0);
            if is_free && address.compare_exchange(found, block << 1 | LOCKED, AcqRel, Relaxed).is_ok() {
                // Not 0 if the entry was freed and taken again between the two loads. Then its block has no sample now.
                let displaced = Displaced { block: found >> 1, sample: place.swap(sample, AcqRel) };
                address.store(block << 1, Release);
                return Ok(displaced);
            }
        }
        Err(Full)
    }

    /// Removes the entry of a block and returns its sample, 0 if that was dropped. `None` if the block has no entry.
    pub(crate) fn remove(&self, block: usize) -> Option<u64> {
        let (address, place) = self.entries(block).find(|(address, _)| address.load(Relaxed) == block << 1)?;
        // Fails if the sample was dropped, and the entry taken.
        address.compare_exchange(block << 1, block << 1 | LOCKED, AcqRel, Relaxed).ok()?;
        let sample = place.swap(0, AcqRel);
        address.store(0, Release);
        Some(sample)
    }

    /// Replaces each sample by `thinned(sample)`, where 0 drops it. Each new sample is counted by `add` before it can
    /// be removed, and each old one by `remove` after it is gone.
    pub(crate) fn thin(&self, mut thinned: impl FnMut(u64) -> u64, add: impl Fn(u64), remove: impl Fn(u64)) {
        for place in &self.samples {
            let old = place.load(Acquire);
            if old == 0 {
                continue;
            }
            let new = thinned(old);
            if new == old {
                continue;
            }
            add(new);
            // Fails if the owner has removed the sample.
            let is_replaced = place.compare_exchange(old, new, AcqRel, Relaxed).is_ok();
            remove(if is_replaced { old } else { new });
        }
    }

    /// Returns all samples.
    pub(crate) fn samples(&self) -> impl Iterator<Item = u64> {
        self.samples.iter().map(|place| place.load(Acquire)).filter(|&sample| sample != 0)
    }
}
