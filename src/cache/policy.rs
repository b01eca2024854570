//! Who goes when there is no room: the one thing in which the stores differ.
//!
//! A policy orders slot numbers and knows nothing of keys, values, time or bytes; those stand above it, once. Slots are
//! dense: when one is given up, the last one takes its number ([`Policy::renumber`]). No user code runs inside one.
//!
//! A new policy is one file that implements the trait, a variant of [`Eviction`] of its name, and its name in `policies!`
//! (CONTRIBUTING.md says which tests are told of it). First in, first out, in full but for its links:
//!
//! ```text
//! #[derive(Default)]
//! pub(super) struct Fifo { order: VecDeque<u32> }
//!
//! impl Policy for Fifo {
//!     fn insert(&mut self, at: u32, _hash: u32) { self.order.push_back(at); }
//!     fn hit(&mut self, _at: u32) {}
//!     fn remove(&mut self, at: u32) { self.order.retain(|&other| other != at); }      // O(n): a list does better
//!     fn renumber(&mut self, from: u32, to: u32) {
//!         self.order.iter_mut().filter(|at| **at == from).for_each(|at| *at = to);
//!     }
//!     fn victim(&mut self) -> Option<u32> { self.order.front().copied() }
//!     fn supersede(&mut self, at: u32, _before: u32, hash: u32) { self.remove(at); self.insert(at, hash); }
//!     fn resize(&mut self, slots: usize) { /* exactly: see `bytes` */ }
//!     fn bytes(slots: usize) -> usize { slots * size_of::<u32>() }
//! }
//! ```

use super::builder::Eviction;
use super::lru::Lru;
use super::s3fifo::S3Fifo;

/// The order in which slots are given up.
pub(super) trait Policy {
    /// Heap bytes that it takes for each slot that is filled, beside [`bytes`](Self::bytes).
    const ENTRY: usize = 0;

    /// Slot `at`, the one after all others, is filled.
    fn insert(&mut self, at: u32, hash: u32);

    /// The value in the slot was asked for.
    fn hit(&mut self, at: u32);

    /// The slot is emptied, for another reason than want of room.
    fn remove(&mut self, at: u32);

    /// What is in slot `from`, the last one, is in slot `to` from now on, which is empty.
    fn renumber(&mut self, from: u32, to: u32);

    /// The slot to give up next; `None` only if all are empty. Asked twice, it may answer another.
    fn victim(&mut self) -> Option<u32>;

    /// The slot is emptied for want of room, at the policy's own word.
    fn evict(&mut self, at: u32, _hash: u32) {
        self.remove(at);
    }

    /// As if the slot were emptied for want of room, and filled at once with what has another hash.
    fn supersede(&mut self, at: u32, before: u32, hash: u32);

    /// There will be room for so many slots, never fewer than are filled.
    fn resize(&mut self, slots: usize);

    /// Heap bytes that it takes with room for so many slots.
    fn bytes(slots: usize) -> usize
    where
        Self: Sized;
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
            pub(super) fn insert(&mut self, at: u32, hash: u32) {
                match self { $(Self::$name(policy) => policy.insert(at, hash)),+ }
            }
            #[inline]
            pub(super) fn hit(&mut self, at: u32) {
                match self { $(Self::$name(policy) => policy.hit(at)),+ }
            }
            #[inline]
            pub(super) fn remove(&mut self, at: u32) {
                match self { $(Self::$name(policy) => policy.remove(at)),+ }
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
            pub(super) fn evict(&mut self, at: u32, hash: u32) {
                match self { $(Self::$name(policy) => policy.evict(at, hash)),+ }
            }
            #[inline]
            pub(super) fn supersede(&mut self, at: u32, before: u32, hash: u32) {
                match self { $(Self::$name(policy) => policy.supersede(at, before, hash)),+ }
            }
            pub(super) fn resize(&mut self, slots: usize) {
                match self { $(Self::$name(policy) => policy.resize(slots)),+ }
            }
            pub(super) const fn entry_bytes(&self) -> usize {
                match self { $(Self::$name(_) => $name::ENTRY),+ }
            }
            pub(super) fn bytes(&self, slots: usize) -> usize {
                match self { $(Self::$name(_) => $name::bytes(slots)),+ }
            }
        }
    };
}

policies!(S3Fifo, Lru);

/// Sets the room of a vector that holds something for each slot, exactly.
pub(super) fn resize<T>(vec: &mut Vec<T>, slots: usize) {
    if slots > vec.capacity() {
        vec.reserve_exact(slots - vec.len());
    } else {
        vec.shrink_to(slots);
    }
}
