//! The eviction policies: which slot is evicted next. Stores differ in nothing else.
//!
//! A policy orders slot numbers and knows no keys, values or times. It is passed the size of each entry that comes, moves
//! or goes, and can keep sums of them. Slots are dense: when one is emptied, the last entry moves into it
//! ([`Policy::renumber`]). No user code runs inside a policy.
//!
//! A new policy is one file that implements the trait, a variant of [`Eviction`] of its name, and its name in `policies!`
//! (CONTRIBUTING.md lists the tests to extend). First in, first out, complete but for its links:
//!
//! ```text
//! #[derive(Default)]
//! pub(super) struct Fifo { order: VecDeque<u32> }
//!
//! impl Policy for Fifo {
//!     fn insert(&mut self, index: u32, _new: Entry) { self.order.push_back(index); }
//!     fn hit(&mut self, _index: u32) {}
//!     fn remove(&mut self, index: u32, _size: u64) { self.order.retain(|&other| other != index); } // O(n): use a list
//!     fn renumber(&mut self, from: u32, to: u32) {
//!         self.order.iter_mut().filter(|index| **index == from).for_each(|index| *index = to);
//!     }
//!     fn victim(&mut self, _sizes: Sizes<'_>) -> Option<u32> { self.order.front().copied() }
//!     fn replace_victim(&mut self, index: u32, before: Entry, new: Entry) {
//!         self.remove(index, before.size);
//!         self.insert(index, new);
//!     }
//!     fn set_capacity(&mut self, slots: usize) { /* exactly: see `bytes` */ }
//!     fn bytes(&self, slots: usize) -> usize { slots * size_of::<u32>() }
//! }
//! ```

use super::builder::Eviction;
use super::lru::Lru;
use super::s3fifo::S3Fifo;

/// The hash and the size of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) hash: u32,
    /// As returned by [`Sizes::of`].
    pub(super) size: u64,
}

/// The sizes of the entries in all slots: the weight and the bytes of a slot. Without weights all sizes are equal.
#[derive(Clone, Copy)]
pub(super) struct Sizes<'a> {
    pub(super) weights: Option<&'a [u32]>,
    /// The bytes of a slot in all tables. At least 1.
    pub(super) slot: u64,
}

impl Sizes<'_> {
    /// Returns the size of the entry in a slot.
    #[inline]
    pub(super) fn of(self, index: u32) -> u64 {
        let weight = self.weights.and_then(|weights| weights.get(index as usize)).copied();
        self.slot + u64::from(weight.unwrap_or(0))
    }
}

/// The order in which slots are evicted.
pub(super) trait Policy {
    /// Heap bytes of each occupied slot, in addition to [`bytes`](Self::bytes).
    const ENTRY: usize = 0;

    /// Slot `index`, the one after all others, becomes occupied.
    fn insert(&mut self, index: u32, new: Entry);

    /// The value in the slot is read or replaced.
    fn hit(&mut self, index: u32);

    /// The size of the entry in the slot changes.
    fn resize(&mut self, _index: u32, _before: u64, _after: u64) {}

    /// The slot is emptied by a removal.
    fn remove(&mut self, index: u32, size: u64);

    /// The entry in slot `from`, the last one, moves to slot `to`, which is empty.
    fn renumber(&mut self, from: u32, to: u32);

    /// The slot to evict next. `None` only if all are empty. A second call may return another slot.
    ///
    /// Takes bounded time.
    fn victim(&mut self, sizes: Sizes<'_>) -> Option<u32>;

    /// The slot is emptied because this policy chose it.
    fn evict(&mut self, index: u32, entry: Entry) {
        self.remove(index, entry.size);
    }

    /// The slot is evicted and at once occupied by another entry.
    fn replace_victim(&mut self, index: u32, before: Entry, new: Entry);

    /// Returns `false` if the entries that would be evicted for a new large one are worth more than it.
    ///
    /// A rejected entry is admitted when it comes a second time, as long as the policy remembers it.
    fn admits(&mut self, _new: Entry) -> bool {
        true
    }

    /// Sets the capacity in slots, never below the number of occupied ones.
    ///
    /// To a smaller capacity this neither allocates nor takes longer than the reallocation of its vectors.
    fn set_capacity(&mut self, slots: usize);

    /// Heap bytes after [`set_capacity`](Self::set_capacity). Never smaller for more slots.
    fn bytes(&self, slots: usize) -> usize;
}

/// Declares the policies, and a type that is any of them: known at compile time, so that a hit calls it directly.
macro_rules! policies {
    ($($name:ident),+) => {
        /// One of the policies.
        pub(super) enum Order { $($name($name)),+ }

        impl Order {
            pub(super) fn new(eviction: Eviction) -> Self {
                match eviction { $(Eviction::$name => Self::$name($name::default())),+ }
            }
            #[inline]
            pub(super) fn insert(&mut self, index: u32, new: Entry) {
                match self { $(Self::$name(policy) => policy.insert(index, new)),+ }
            }
            #[inline]
            pub(super) fn hit(&mut self, index: u32) {
                match self { $(Self::$name(policy) => policy.hit(index)),+ }
            }
            #[inline]
            pub(super) fn resize(&mut self, index: u32, before: u64, after: u64) {
                match self { $(Self::$name(policy) => policy.resize(index, before, after)),+ }
            }
            #[inline]
            pub(super) fn remove(&mut self, index: u32, size: u64) {
                match self { $(Self::$name(policy) => policy.remove(index, size)),+ }
            }
            #[inline]
            pub(super) fn renumber(&mut self, from: u32, to: u32) {
                match self { $(Self::$name(policy) => policy.renumber(from, to)),+ }
            }
            #[inline]
            pub(super) fn victim(&mut self, sizes: Sizes<'_>) -> Option<u32> {
                match self { $(Self::$name(policy) => policy.victim(sizes)),+ }
            }
            #[inline]
            pub(super) fn evict(&mut self, index: u32, entry: Entry) {
                match self { $(Self::$name(policy) => policy.evict(index, entry)),+ }
            }
            #[inline]
            pub(super) fn replace_victim(&mut self, index: u32, before: Entry, new: Entry) {
                match self { $(Self::$name(policy) => policy.replace_victim(index, before, new)),+ }
            }
            pub(super) fn admits(&mut self, new: Entry) -> bool {
                match self { $(Self::$name(policy) => policy.admits(new)),+ }
            }
            pub(super) fn set_capacity(&mut self, slots: usize) {
                match self { $(Self::$name(policy) => policy.set_capacity(slots)),+ }
            }
            pub(super) const fn entry_bytes(&self) -> usize {
                match self { $(Self::$name(_) => $name::ENTRY),+ }
            }
            pub(super) fn bytes(&self, slots: usize) -> usize {
                match self { $(Self::$name(policy) => policy.bytes(slots)),+ }
            }
        }
    };
}

policies!(S3Fifo, Lru);

/// Sets the capacity of a vector that holds one element for each slot, exactly.
pub(super) fn set_capacity<T>(vec: &mut Vec<T>, slots: usize) {
    if slots > vec.capacity() {
        vec.reserve_exact(slots - vec.len());
    } else {
        vec.shrink_to(slots);
    }
}
