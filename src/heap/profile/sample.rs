//! One sample: a live block that stands for other blocks of its size.

use super::sampling::{Hits, Interval, random_below};
use super::tree::NodeId;

const NODE_BITS: u32 = 14;
const DOUBLINGS_BITS: u32 = 5;
const COUNT_BITS: u32 = 2;
const SIZE_BITS: u32 = u64::BITS - NODE_BITS - DOUBLINGS_BITS - COUNT_BITS;

/// The largest number of blocks is a fraction, in units of 1/256.
pub(super) const BLOCK_UNIT: u64 = 256;

/// A block that was sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Its stack.
    pub(super) node: NodeId,
    pub(super) hits: Hits,
    /// The size of the block, in bytes.
    pub(super) size: u64,
}

impl Sample {
    /// Creates a sample of a block. A size of 8 TiB and more is cut.
    pub(super) fn new(node: NodeId, hits: Hits, size: u64) -> Self {
        Self { node, hits, size: size.clamp(1, (1 << SIZE_BITS) - 1) }
    }

    /// Packs a sample into a word that is not zero.
    pub(super) fn pack(self) -> u64 {
        let Self { node, hits, size } = self;
        let mut word = size;
        word = word << COUNT_BITS | hits.count.min(3);
        word = word << DOUBLINGS_BITS | u64::from(hits.doublings);
        word << NODE_BITS | node.index() as u64
    }

    /// Unpacks a sample; `None` from zero.
    #[expect(clippy::cast_possible_truncation, reason = "a field has fewer bits than the type that it gets")]
    pub(super) fn unpack(word: u64) -> Option<Self> {
        let field = |shift: u32, bits: u32| word >> shift & ((1 << bits) - 1);
        let node = NodeId::new(field(0, NODE_BITS) as usize);
        let doublings = field(NODE_BITS, DOUBLINGS_BITS) as u32;
        let count = field(NODE_BITS + DOUBLINGS_BITS, COUNT_BITS);
        let size = word >> (NODE_BITS + DOUBLINGS_BITS + COUNT_BITS);
        (word != 0).then_some(Self { node, hits: Hits { count, doublings }, size })
    }

    /// Returns the bytes that the sample stands for: its own if its block was sure to be sampled, else one interval for
    /// each sampling point in it. `base` is the interval before it was doubled.
    pub(super) fn bytes(self, base: u64) -> u64 {
        let interval = Interval { base, doublings: self.hits.doublings }.bytes();
        if self.size >= interval { self.size } else { self.hits.count * interval }
    }

    /// Returns the number of blocks that the sample stands for, in units of 1 / [`BLOCK_UNIT`].
    pub(super) fn blocks(self, base: u64) -> u64 {
        self.bytes(base).saturating_mul(BLOCK_UNIT).saturating_add(self.size / 2) / self.size.max(1)
    }

    /// Returns the sample as if it had been taken with a longer interval; `None` if it would not have been taken. The
    /// chance makes up for the bytes that the others stand for.
    pub(super) fn thinned(self, interval: Interval, random: u64) -> Option<Self> {
        let Interval { base, doublings } = interval;
        if self.hits.doublings >= doublings {
            return Some(self);
        }
        let is_sure = self.size >= interval.bytes() || random_below(random, interval.bytes()) < self.bytes(base);
        is_sure.then_some(Self { hits: Hits { count: 1, doublings }, ..self })
    }
}
