//! The eviction policies: which slot is evicted next. Stores differ in nothing else.
//!
//! A policy orders slot numbers and knows no keys, values, times or bytes. Slots are dense: when one is emptied, the last
//! entry moves into it ([`Policy::renumber`]). No user code runs inside a policy.
//!
//! A new policy is one file that implements the trait, a variant of [`Eviction`] of its name, and its name in `policies!`
//! (CONTRIBUTING.md lists the tests to extend). First in, first out, complete but for its links:
//!
//! ```text
//! #[derive(Default)]
//! pub(super) struct Fifo { order: VecDeque<u32> }
//!
//! impl Policy for Fifo {
//!     fn insert(&mut self, index: u32, _hash: u32) { self.order.push_back(index); }
//!     fn hit(&mut self, _index: u32) {}
//!     fn remove(&mut self, index: u32) { self.order.retain(|&other| other != index); }    // O(n): a list does better
//!     fn renumber(&mut self, from: u32, to: u32) {
//!         self.order.iter_mut().filter(|index| **index == from).for_each(|index| *index = to);
//!     }
//!     fn victim(&mut self) -> Option<u32> { self.order.front().copied() }
//!     fn replace_victim(&mut self, index: u32, _before: u32, hash: u32) { self.remove(index); self.insert(index, hash); }
//!     fn set_capacity(&mut self, slots: usize) { /* exactly: see `bytes` */ }
//!     fn bytes(&self, slots: usize) -> usize { slots * size_of::<u32>() }
//! }
//! ```

use super::builder::Eviction;
use super::lru::Lru;
use super::s3fifo::S3Fifo;

/// The order in which slots are evicted.
pub(super) trait Policy {
    /// Heap bytes of each occupied slot, in addition to [`bytes`](Self::bytes).
    const ENTRY: usize = 0;

    /// Slot `index`, the one after all others, becomes occupied.
    fn insert(&mut self, index: u32, hash: u32);

    /// The value in the slot is read or replaced.
    fn hit(&mut self, index: u32);

    /// The slot is emptied by a removal.
    fn remove(&mut self, index: u32);

    /// The entry in slot `from`, the last one, moves to slot `to`, which is empty.
    fn renumber(&mut self, from: u32, to: u32);

    /// The slot to evict next. `None` only if all are empty. A second call may return another slot.
    ///
    /// Takes bounded time.
    fn victim(&mut self) -> Option<u32>;

    /// The slot is emptied because this policy chose it.
    fn evict(&mut self, index: u32, _hash: u32) {
        self.remove(index);
    }

    /// The slot is evicted and at once occupied by an entry with another hash.
    fn replace_victim(&mut self, index: u32, before: u32, hash: u32);

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
            pub(super) fn insert(&mut self, index: u32, hash: u32) {
                match self { $(Self::$name(policy) => policy.insert(index, hash)),+ }
            }
            #[inline]
            pub(super) fn hit(&mut self, index: u32) {
                match self { $(Self::$name(policy) => policy.hit(index)),+ }
            }
            #[inline]
            pub(super) fn remove(&mut self, index: u32) {
                match self { $(Self::$name(policy) => policy.remove(index)),+ }
            }
            #[inline]
            pub(super) fn renumber(&mut self, from: u32, to: u32) {
                match self { $(Self::$name(policy) => policy.renumber(from, to)),+ }
            }
            #[inline]
            pub(super) fn victim(&mut self) -> Option<u32> {
                match self { $(Self::$name(policy) => policy.victim()),+ }
            }
            #[inline]
            pub(super) fn evict(&mut self, index: u32, hash: u32) {
                match self { $(Self::$name(policy) => policy.evict(index, hash)),+ }
            }
            #[inline]
            pub(super) fn replace_victim(&mut self, index: u32, before: u32, hash: u32) {
                match self { $(Self::$name(policy) => policy.replace_victim(index, before, hash)),+ }
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
