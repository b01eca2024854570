//! The stacks of all samples, as one tree: a stack is a node, its caller's stack is the parent of the node.
//!
//! Each node is one word, the address and the number of the parent, in a hash table of fixed size. A node is never
//! removed, so its number stands for its stack for the life of the process. Stacks share the nodes of their common
//! callers.
//!
//! ```text
//!   main ─── serve ──┬── parse ─── Vec::push        a stack is the path from the root to a node
//!                    └── store ─── String::from
//!
//!   word = address (48 bits) | number of the parent + 1 (16 bits)         0: free
//! ```
//!
//! Nothing here is unsafe, blocks, allocates or panics, and `tests/loom` runs this very file under loom.

use crate::sync::{
    AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, array, constructor,
};

/// The nodes that are looked at for one frame. With a table that is three quarters full, a search ends after 8 on
/// average.
const MAX_PROBES: usize = 64;

const ADDRESS_BITS: u32 = 48;
const ADDRESS: u64 = (1 << ADDRESS_BITS) - 1;

/// The number of a node, and with it of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(u16);

impl NodeId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// Returns the node at `index` of the table, which is below 65,535.
    pub(crate) fn new(index: usize) -> Self {
        debug_assert!(index < usize::from(u16::MAX), "a table has at most 65,535 nodes");
        Self(u16::try_from(index).unwrap_or(u16::MAX))
    }
}

/// A table of `N` nodes; `N` is a power of two and at most 32,768.
#[derive(Debug)]
pub(crate) struct CallTree<const N: usize> {
    nodes: [AtomicU64; N],
    used: AtomicUsize,
}

impl<const N: usize> CallTree<N> {
    constructor! {
        pub(crate) const fn new() -> Self {
            Self { nodes: array![AtomicU64::new(0); N], used: AtomicUsize::new(0) }
        }
    }

    /// Returns the node of a stack of return addresses, innermost first. `None` if there is no room for it, or if the
    /// stack is empty.
    ///
    /// A quarter of the table stays free, so that searches are short.
    pub(crate) fn insert(&self, stack: &[usize]) -> Option<NodeId> {
        stack.iter().rev().try_fold(None, |parent, &address| Some(Some(self.child(parent, address)?))).flatten()
    }

    fn child(&self, parent: Option<NodeId>, address: usize) -> Option<NodeId> {
        let word = (address as u64 & ADDRESS) | parent.map_or(0, |parent| u64::from(parent.0) + 1) << ADDRESS_BITS;
        let start = spread(word);
        for probe in 0..MAX_PROBES.min(N) {
            let index = (start + probe) & (N - 1);
            let node = self.nodes.get(index)?;
            let mut found = node.load(Acquire);
            if found == 0 {
                if self.used.load(Relaxed) >= N - N / 4 {
                    return None;
                }
                match node.compare_exchange(0, word, Release, Acquire) {
                    Ok(_) => {
                        self.used.fetch_add(1, Relaxed);
                        found = word;
                    }
                    Err(other) => found = other,
                }
            }
            if found == word {
                return Some(NodeId::new(index));
            }
        }
        None
    }

    /// Returns the address of a node and its parent.
    fn node(&self, id: NodeId) -> Option<(usize, Option<NodeId>)> {
        let word = self.nodes.get(id.index())?.load(Acquire);
        let parent = usize::try_from(word >> ADDRESS_BITS).ok()?.checked_sub(1).map(NodeId::new);
        Some((usize::try_from(word & ADDRESS).ok()?, parent)).filter(|_| word != 0)
    }

    /// Returns the return addresses of a stack, innermost first.
    pub(crate) fn stack(&self, id: NodeId) -> impl Iterator<Item = usize> {
        let mut next = Some(id);
        std::iter::from_fn(move || {
            let (address, parent) = self.node(next?)?;
            next = parent;
            Some(address)
        })
    }
}

/// Returns the index at which the search for a word begins.
///
/// Both halves of the product are mixed, because each depends on other bits.
#[expect(clippy::cast_possible_truncation, reason = "any bits do")]
fn spread(word: u64) -> usize {
    let product = u128::from(word) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
    (product >> 64) as usize ^ product as usize
}
