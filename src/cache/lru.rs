//! Least recently used, exactly: the order is kept by the `lru` crate, over numbers of its own.
//!
//! Keys of the user stay outside: `lru` calls `Hash` and `Eq` in the middle of its work, and one that panics or lies
//! there would tear its list. An entry keeps its number when its slot gets another, so its place in the order stays.
//!
//! Numbers are dense and each hashes to itself, so each has a place of its own in the table of `lru`: a request finds it
//! at the first look, and removals leave no mark that would double the table.

use std::hash::{BuildHasher, Hasher};
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::weigh::GROUP;

use super::policy::{Policy, resize};

/// The policy.
#[derive(Default)]
pub(super) struct Lru {
    /// From an entry's number to its slot, in the order of use; `None` without room for any.
    order: Option<Order>,
    /// How many slots are filled.
    len: usize,
    /// The number of the entry in each slot that is filled, and behind them those that are free.
    numbers: Vec<u32>,
    /// How many places the table of `order` has.
    buckets: usize,
}

type Order = LruCache<u32, u32, Themselves>;

impl Lru {
    fn number(&self, at: u32) -> u32 {
        self.numbers.get(at as usize).copied().unwrap_or(u32::MAX)
    }

    /// Moves all entries into a table for so many, the oldest first, and numbers them anew.
    fn rebuild(&mut self, slots: usize) {
        let mut order = NonZeroUsize::new(slots).map(|slots| Order::with_hasher(slots, Themselves));
        let mut number = 0;
        while let Some((_, at)) = self.order.as_mut().and_then(LruCache::pop_lru) {
            if let Some(order) = &mut order {
                order.put(number, at);
            }
            if let Some(place) = self.numbers.get_mut(at as usize) {
                *place = number;
            }
            number += 1;
        }
        self.order = order;
        self.numbers.truncate(self.len);
        self.buckets = buckets(slots);
    }
}

impl Policy for Lru {
    /// A node, which is a block of its own.
    const ENTRY: usize = size_of::<Node>();

    fn insert(&mut self, at: u32, _hash: u32) {
        if self.numbers.len() == self.len {
            self.numbers.push(u32::try_from(self.len).unwrap_or(u32::MAX));
        }
        self.len += 1;
        let number = self.number(at);
        if let Some(order) = &mut self.order {
            order.put(number, at);
        }
    }

    #[inline]
    fn hit(&mut self, at: u32) {
        let number = self.number(at);
        if let Some(order) = &mut self.order {
            order.promote(&number);
        }
    }

    fn remove(&mut self, at: u32) {
        let number = self.number(at);
        if let Some(order) = &mut self.order {
            order.pop(&number);
        }
        self.len -= 1;
        // The last one takes its place, and its number is free.
        self.numbers.swap(at as usize, self.len);
    }

    fn renumber(&mut self, _from: u32, to: u32) {
        let number = self.number(to);
        if let Some(slot) = self.order.as_mut().and_then(|order| order.peek_mut(&number)) {
            *slot = to;
        }
    }

    fn victim(&mut self) -> Option<u32> {
        self.order.as_ref()?.peek_lru().map(|(_, &at)| at)
    }

    /// Its number stays: nothing is allocated.
    fn supersede(&mut self, at: u32, _before: u32, _hash: u32) {
        self.hit(at);
    }

    fn resize(&mut self, slots: usize) {
        // The table of `lru` neither shrinks nor says how large it is, so it grows here alone.
        if buckets(slots) != self.buckets || self.numbers.len() > slots {
            self.rebuild(slots);
        } else if let (Some(order), Some(slots)) = (&mut self.order, NonZeroUsize::new(slots)) {
            order.resize(slots);
        }
        resize(&mut self.numbers, slots);
    }

    /// The numbers, the table, and a node for each of its ends.
    fn bytes(slots: usize) -> usize {
        if slots == 0 {
            return 0;
        }
        let buckets = buckets(slots);
        slots * size_of::<u32>() + buckets * (size_of::<Bucket>() + 1) + GROUP + 2 * size_of::<Node>()
    }
}

/// What lies in a node of `lru`, and in a bucket of its table.
type Node = (*const (), *const (), u32, u32);
type Bucket = (*const (), *const ());

/// How many buckets hashbrown makes for so many entries: the power of two of which they take seven eighths.
const fn buckets(slots: usize) -> usize {
    match slots {
        0 => 0,
        1..4 => 4,
        4..8 => 8,
        8..15 => 16,
        _ => (slots.saturating_mul(8) / 7).next_power_of_two(),
    }
}

/// Hashes a number to itself.
#[derive(Clone, Default)]
struct Themselves;

impl BuildHasher for Themselves {
    type Hasher = Itself;

    fn build_hasher(&self) -> Itself {
        Itself(0)
    }
}

struct Itself(u64);

impl Hasher for Itself {
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

    /// Removals and insertions without end: the numbers stay dense, and the order is that of use.
    #[test]
    fn numbers_stay_dense_and_the_order_exact() {
        let (mut lru, mut twin) = (Lru::default(), Vec::new());
        lru.resize(100);
        let mut bits = 1_u64;
        let mut below = |bound: usize| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(bits >> 33).unwrap_or(0) % bound
        };
        // The twin holds what each slot's entry is, in the order of use.
        let (mut slots, mut next) = (Vec::new(), 0);
        let turns = if cfg!(miri) { 1_000 } else { 50_000 };
        for turn in 0..turns {
            if turn % (turns / 10) == 0 {
                lru.resize(slots.len() + below(200));
            }
            let at = below(slots.len().max(1));
            match below(4) {
                _ if slots.is_empty()
                    || (below(2) == 0 && slots.len() < 100 && lru.numbers.capacity() > slots.len()) =>
                {
                    lru.insert(u32::try_from(slots.len()).unwrap_or(0), 0);
                    slots.push(next);
                    twin.push(next);
                    next += 1;
                }
                0 => {
                    let entry = slots.swap_remove(at);
                    twin.retain(|&other| other != entry);
                    let (at, last) = (u32::try_from(at).unwrap_or(0), u32::try_from(slots.len()).unwrap_or(0));
                    lru.remove(at);
                    if at != last {
                        lru.renumber(last, at);
                    }
                }
                _ => {
                    let entry = slots.get(at).copied().unwrap_or(0);
                    twin.retain(|&other| other != entry);
                    twin.push(entry);
                    lru.hit(u32::try_from(at).unwrap_or(0));
                }
            }
            let victim = lru.victim().and_then(|at| slots.get(at as usize));
            assert_eq!(victim, twin.first(), "turn {turn}");
            assert!(lru.numbers.len() <= lru.buckets, "turn {turn}");
        }
    }
}
