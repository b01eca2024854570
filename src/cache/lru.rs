//! Least recently used, exactly: the order is kept by the `lru` crate, over numbers of its own.
//!
//! Keys of the user stay outside: `lru` calls `Hash` and `Eq` in the middle of its work, and one that panics or lies
//! there would tear its list. An entry keeps its number when its slot gets another, so its place in the order stays.

use std::hash::{BuildHasher, Hasher};

use lru::LruCache;

use super::policy::{Policy, resize};

/// The policy.
pub(super) struct Lru {
    /// From an entry's number to its slot, in the order of use.
    order: LruCache<u64, u32, Numbers>,
    /// The number of the entry in each slot.
    numbers: Vec<u64>,
    /// How many entries there ever were.
    count: u64,
}

impl Default for Lru {
    fn default() -> Self {
        Self { order: LruCache::unbounded_with_hasher(Numbers), numbers: Vec::new(), count: 0 }
    }
}

impl Lru {
    fn number(&self, at: u32) -> u64 {
        self.numbers.get(at as usize).copied().unwrap_or(u64::MAX)
    }
}

impl Policy for Lru {
    fn insert(&mut self, at: u32, _hash: u32) {
        self.order.put(self.count, at);
        self.numbers.push(self.count);
        self.count += 1;
    }

    fn hit(&mut self, at: u32) {
        self.order.promote(&self.number(at));
    }

    fn remove(&mut self, at: u32) {
        self.order.pop(&self.number(at));
        self.numbers.swap_remove(at as usize);
    }

    fn renumber(&mut self, _from: u32, to: u32) {
        if let Some(slot) = self.order.peek_mut(&self.number(to)) {
            *slot = to;
        }
    }

    fn victim(&mut self) -> Option<u32> {
        self.order.peek_lru().map(|(_, &at)| at)
    }

    /// Its number stays: nothing is allocated.
    fn supersede(&mut self, at: u32, _before: u32, _hash: u32) {
        self.hit(at);
    }

    fn resize(&mut self, slots: usize) {
        if slots < self.numbers.capacity() {
            // The table of `lru` does not shrink: the order is copied into a new one, the oldest first.
            let mut order = LruCache::unbounded_with_hasher(Numbers);
            for (&number, &at) in self.order.iter().rev() {
                order.put(number, at);
            }
            self.order = order;
        }
        resize(&mut self.numbers, slots);
    }

    /// A node for each entry and two for the ends, and the table at its
    /// largest: it doubles when removals use it up, and cannot be looked into.
    fn bytes(slots: usize) -> usize {
        type Node = (*const (), *const (), u64, u32);
        type Bucket = (*const (), *const ());
        if slots == 0 {
            return 0;
        }
        let buckets = 2 * (slots * 8 / 7 + 1).next_power_of_two();
        (slots + 2) * size_of::<Node>() + slots * size_of::<u64>() + buckets * (size_of::<Bucket>() + 1)
    }
}

/// Spreads numbers that nobody outside chooses.
#[derive(Clone, Default)]
struct Numbers;

impl BuildHasher for Numbers {
    type Hasher = Spread;

    fn build_hasher(&self) -> Spread {
        Spread(0)
    }
}

struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let product = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ product >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
