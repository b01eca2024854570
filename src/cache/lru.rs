//! Least recently used, exactly: the `lru` crate keeps the order, over numbers of our own.
//!
//! The keys of the user stay outside: `lru` calls `Hash` and `Eq` in the middle of its work, and an implementation that
//! panics or returns wrong results would break its list. An entry keeps its number when it moves to another slot, so its
//! place in the order stays.
//!
//! Numbers are dense and each hashes to itself, so each has a place of its own in the table of `lru`: a lookup finds it at
//! the first place, and removals leave no mark that would double the table.
//!
//! The tables never shrink until the last entry is gone: `lru` can only move its entries to a table next to the old one,
//! and code that releases memory must not allocate. The bytes they take are counted.

use std::hash::{BuildHasher, Hasher};
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::weigh::GROUP;

use super::policy::{Entry, Policy, Sizes, set_capacity};

/// The policy.
#[derive(Default)]
pub(super) struct Lru {
    /// From the number of an entry to its slot, in the order of use. `None` at capacity 0.
    order: Option<Order>,
    /// The number of occupied slots.
    len: usize,
    /// The number of the entry in each occupied slot, followed by the free numbers.
    numbers: Vec<u32>,
    /// The highest capacity that was set since the policy was empty.
    capacity: usize,
}

type Order = LruCache<u32, u32, IdentityBuildHasher>;

impl Lru {
    fn number(&self, index: u32) -> u32 {
        self.numbers.get(index as usize).copied().unwrap_or(u32::MAX)
    }

    /// Moves all entries to a table for `slots`, the least recent first, and gives them new numbers.
    fn rebuild(&mut self, slots: usize) {
        let mut order = NonZeroUsize::new(load_of(slots)).map(|load| Order::with_hasher(load, IdentityBuildHasher));
        let mut number = 0;
        while let Some((_, index)) = self.order.as_mut().and_then(LruCache::pop_lru) {
            if let Some(order) = &mut order {
                order.put(number, index);
            }
            if let Some(place) = self.numbers.get_mut(index as usize) {
                *place = number;
            }
            number += 1;
        }
        self.order = order;
        self.numbers.truncate(self.len);
    }
}

impl Policy for Lru {
    /// A node, which is an allocation of its own.
    const ENTRY: usize = size_of::<Node>();

    fn insert(&mut self, index: u32, _new: Entry) {
        if self.numbers.len() == self.len {
            self.numbers.push(u32::try_from(self.len).unwrap_or(u32::MAX));
        }
        self.len += 1;
        let number = self.number(index);
        if let Some(order) = &mut self.order {
            order.put(number, index);
        }
    }

    #[inline]
    fn hit(&mut self, index: u32) {
        let number = self.number(index);
        if let Some(order) = &mut self.order {
            order.promote(&number);
        }
    }

    fn remove(&mut self, index: u32, _size: u64) {
        let number = self.number(index);
        if let Some(order) = &mut self.order {
            order.pop(&number);
        }
        self.len -= 1;
        // The last entry moves to its slot, and its number is free.
        self.numbers.swap(index as usize, self.len);
    }

    fn renumber(&mut self, _from: u32, to: u32) {
        let number = self.number(to);
        if let Some(slot) = self.order.as_mut().and_then(|order| order.peek_mut(&number)) {
            *slot = to;
        }
    }

    fn victim(&mut self, _sizes: Sizes<'_>) -> Option<u32> {
        self.order.as_ref()?.peek_lru().map(|(_, &index)| index)
    }

    /// The new entry takes the number of the victim: nothing is allocated.
    fn replace_victim(&mut self, index: u32, _before: Entry, _new: Entry) {
        self.hit(index);
    }

    fn set_capacity(&mut self, slots: usize) {
        if slots == 0 {
            *self = Self::default();
        } else if slots > self.capacity {
            if buckets(slots) != buckets(self.capacity) {
                self.rebuild(slots);
            }
            set_capacity(&mut self.numbers, slots);
            self.capacity = slots;
        }
    }

    /// The numbers, the table, and a node for each of its ends.
    fn bytes(&self, slots: usize) -> usize {
        if slots == 0 {
            return 0;
        }
        let slots = slots.max(self.capacity);
        slots * size_of::<u32>() + buckets(slots) * (size_of::<Bucket>() + 1) + GROUP + 2 * size_of::<Node>()
    }
}

/// The layouts of a node of `lru`, and of a bucket of its table.
type Node = (*const (), *const (), u32, u32);
type Bucket = (*const (), *const ());

/// The number of buckets of hashbrown for `slots` entries: the power of two of which they take at most seven eighths.
const fn buckets(slots: usize) -> usize {
    match slots {
        0 => 0,
        1..4 => 4,
        4..8 => 8,
        8..15 => 16,
        _ => (slots.saturating_mul(8) / 7).next_power_of_two(),
    }
}

/// The highest number of entries in the table for `slots` entries.
const fn load_of(slots: usize) -> usize {
    match buckets(slots) {
        0 => 0,
        4 => 3,
        8 => 7,
        buckets => buckets / 8 * 7,
    }
}

/// Hashes a number to itself.
#[derive(Clone, Default)]
struct IdentityBuildHasher;

impl BuildHasher for IdentityBuildHasher {
    type Hasher = IdentityHasher;

    fn build_hasher(&self) -> IdentityHasher {
        IdentityHasher(0)
    }
}

struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = number.into();
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Removals and insertions in any order: the numbers stay dense, and the order is that of use.
    #[test]
    fn lru_after_random_operations_is_the_order_of_use() {
        let (mut lru, mut model) = (Lru::default(), Vec::new());
        lru.set_capacity(100);
        let mut bits = 1_u64;
        let mut below = |bound: usize| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(bits >> 33).unwrap_or(0) % bound
        };
        // The model holds the entry of each slot, in the order of use.
        let (mut slots, mut next, mut capacity) = (Vec::new(), 0, 100);
        let turns = if cfg!(miri) { 1_000 } else { 50_000 };
        for turn in 0..turns {
            if turn % (turns / 10) == 0 {
                capacity = slots.len() + below(200);
                lru.set_capacity(capacity);
            }
            let at = below(slots.len().max(1));
            match below(4) {
                _ if slots.is_empty() || (below(2) == 0 && slots.len() < 100) => {
                    if slots.len() == capacity {
                        capacity += 1;
                        lru.set_capacity(capacity);
                    }
                    lru.insert(u32::try_from(slots.len()).unwrap_or(0), Entry { hash: 0, size: 1 });
                    slots.push(next);
                    model.push(next);
                    next += 1;
                }
                0 => {
                    let entry = slots.swap_remove(at);
                    model.retain(|&other| other != entry);
                    let (at, last) = (u32::try_from(at).unwrap_or(0), u32::try_from(slots.len()).unwrap_or(0));
                    lru.remove(at, 1);
                    if at != last {
                        lru.renumber(last, at);
                    }
                }
                _ => {
                    let entry = slots.get(at).copied().unwrap_or(0);
                    model.retain(|&other| other != entry);
                    model.push(entry);
                    lru.hit(u32::try_from(at).unwrap_or(0));
                }
            }
            let victim = lru.victim(Sizes { weights: None, slot: 1 }).and_then(|at| slots.get(at as usize));
            assert_eq!(victim, model.first(), "turn {turn}");
            assert!(lru.numbers.len() <= lru.capacity, "turn {turn}");
        }
    }

    #[test]
    fn lru_put_at_capacity_evicts_nothing() {
        for slots in 1..1_000 {
            assert!(load_of(slots) >= slots, "{slots}");
        }
    }
}
