//! S3-FIFO: three queues, of which a hit moves nothing (Yang et al., "FIFO queues are all you need for cache eviction",
//! SOSP 23).
//!
//! ```text
//!   new ---> small (a tenth) ---- asked for again ----> main ---> asked for since? to its end : out
//!              |                                          ^
//!              +--- not asked for again: out, ghost ------+ comes back while the ghost remembers it
//! ```
//!
//! Most entries are read once and never again. They pass through the small queue, and the entries of the main queue stay.
//! A hit counts to three in a byte of its own. A ghost is four bytes of the key's hash; two keys with one hash share it,
//! which costs nothing but a place in the main queue.
//!
//! The small queue's share is a tenth of the bytes: the weight of each entry and the bytes of its slot. In a cache without
//! weights all entries count the same.
//!
//! *Filling.* While there is room, entries that exceed the small queue's share go to the main queue. The paper's small queue
//! takes them all: the main queue of a full cache is then empty, and the cache is one queue until entries are hit. A loop
//! over more keys than the capacity never hits one. The cache counts as full from each eviction until it has grown by more
//! than an eighth without another. So it fills the main queue again after memory was released.
//!
//! *Sizes.* A large entry needs more hits than a small one to move to the main queue (`S3Fifo::is_worth`). While the cache
//! fills, an entry counts as hit once.
//!
//! *Admission.* An entry larger than the small queue's share of the bound would evict many others, and most entries are
//! read once. If one of the oldest entries that would be evicted was hit, the new one only becomes a ghost
//! ([`Store::admits`](super::store::Store::admits) calls [`Policy::admits`] for such entries alone).
//!
//! The search for a victim ends after [`MAX_CHANCES`] entries with hits. The paper's queue has no such bound: if all
//! entries have been hit, it goes through all of them, under the lock.

use super::ghosts::{Ghosts, Set};
use super::policy::{Entry, Policy, Sizes, set_capacity};

/// No slot.
const NONE: u32 = u32::MAX;

/// The highest count of hits. The other bit of the byte is the queue.
const MAX_FREQ: u8 = 3;
const MAIN_FLAG: u8 = 4;

/// The highest number of second chances for one victim.
const MAX_CHANCES: u32 = 64;

/// The number of entries at the end of a queue that show whether its entries are hit.
const SAMPLE: u32 = 8;

#[derive(Clone, Copy)]
struct Link {
    /// The one that came earlier.
    before: u32,
    /// The one that came later.
    after: u32,
}

/// A queue within the links.
#[derive(Clone, Copy)]
struct Queue {
    oldest: u32,
    newest: u32,
    /// The sum of the sizes.
    size: u64,
}

impl Queue {
    const EMPTY: Self = Self { oldest: NONE, newest: NONE, size: 0 };
}

/// Victims come from the small queue while it holds more than one in this many of all bytes.
pub(super) const SMALL_SHARE: u64 = 10;

/// The policy. It has a link and a byte for each slot.
pub(super) struct S3Fifo {
    links: Vec<Link>,
    states: Vec<u8>,
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
    /// The sum of all sizes after the last eviction, or a lower one after later removals. 0: nothing was evicted yet.
    full_size: u64,
}

impl Default for S3Fifo {
    fn default() -> Self {
        Self {
            links: Vec::new(),
            states: Vec::new(),
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            ghosts: Ghosts::default(),
            full_size: 0,
        }
    }
}

impl S3Fifo {
    /// Returns the sum of all sizes.
    const fn size(&self) -> u64 {
        self.small.size + self.main.size
    }

    /// Returns `true` if the small queue exceeds its share.
    #[inline]
    const fn exceeds_share(&self) -> bool {
        // As `small > (small + main) / SMALL_SHARE`, without a division.
        self.small.size * (SMALL_SHARE - 1) > self.main.size
    }

    /// Returns the bytes by which the small queue exceeds its share.
    const fn small_excess(&self) -> u64 {
        self.small.size.saturating_sub(self.size() / SMALL_SHARE)
    }

    /// Returns `true` if the cache has grown by more than an eighth since the last eviction.
    const fn is_filling(&self) -> bool {
        self.size() > self.full_size + self.full_size / 8
    }

    /// Returns `true` if an entry of this size, hit this many times, is worth its bytes in the main queue.
    ///
    /// Its hits, times twice the mean size, must be at least its size. With a mean of 2 KB, an entry of 4 KB needs one hit
    /// and one of 12 KB needs three. A larger one must come back as a ghost. Entries of equal size are all worth it.
    fn is_worth(&self, size: u64, hits: u8) -> bool {
        size.saturating_mul(self.links.len() as u64) <= self.size().saturating_mul(2 * u64::from(hits))
    }

    /// Returns `true` if one of the oldest entries of a queue was hit.
    fn is_hot(&self, queue: Queue) -> bool {
        let mut index = queue.oldest;
        for _ in 0..SAMPLE {
            if index == NONE {
                return false;
            }
            if self.state(index) & MAX_FREQ > 0 {
                return true;
            }
            index = self.link(index).after;
        }
        false
    }

    fn state(&self, index: u32) -> u8 {
        self.states.get(index as usize).copied().unwrap_or(0)
    }

    fn set_state(&mut self, index: u32, state: u8) {
        if let Some(place) = self.states.get_mut(index as usize) {
            *place = state;
        }
    }

    fn queue(&mut self, state: u8) -> &mut Queue {
        if state & MAIN_FLAG == 0 { &mut self.small } else { &mut self.main }
    }

    fn link(&self, index: u32) -> Link {
        self.links.get(index as usize).copied().unwrap_or(Link { before: NONE, after: NONE })
    }

    /// Makes `before` and `after` neighbours in the queue of `state`.
    fn link_neighbours(&mut self, before: u32, after: u32, state: u8) {
        match self.links.get_mut(before as usize) {
            Some(link) => link.after = after,
            None => self.queue(state).oldest = after,
        }
        match self.links.get_mut(after as usize) {
            Some(link) => link.before = before,
            None => self.queue(state).newest = before,
        }
    }

    fn push(&mut self, index: u32, state: u8, size: u64) {
        let newest = self.queue(state).newest;
        if let Some(link) = self.links.get_mut(index as usize) {
            *link = Link { before: newest, after: NONE };
        }
        self.set_state(index, state);
        self.link_neighbours(newest, index, state);
        // `link_neighbours` has taken the slot before `index` for the newest.
        let queue = self.queue(state);
        queue.newest = index;
        queue.size += size;
    }

    fn unlink(&mut self, index: u32, size: u64) {
        let (link, state) = (self.link(index), self.state(index));
        self.link_neighbours(link.before, link.after, state);
        self.queue(state).size -= size;
    }

    fn take_out(&mut self, index: u32, size: u64) {
        self.unlink(index, size);
        self.links.swap_remove(index as usize);
        self.states.swap_remove(index as usize);
    }

    /// Remembers a victim of the small queue as a ghost.
    fn remember(&mut self, index: u32, hash: u32) {
        if self.state(index) & MAIN_FLAG == 0 {
            self.ghosts.insert(hash);
        }
    }
}

impl Policy for S3Fifo {
    fn insert(&mut self, index: u32, new: Entry) {
        self.links.push(Link { before: NONE, after: NONE });
        self.states.push(0);
        let is_known = self.ghosts.remove(new.hash);
        let goes_to_main = is_known || (self.exceeds_share() && self.is_filling() && self.is_worth(new.size, 1));
        self.push(index, if goes_to_main { MAIN_FLAG } else { 0 }, new.size);
    }

    #[inline]
    fn hit(&mut self, index: u32) {
        if let Some(state) = self.states.get_mut(index as usize)
            && *state & MAX_FREQ < MAX_FREQ
        {
            *state += 1;
        }
    }

    fn resize(&mut self, index: u32, before: u64, after: u64) {
        let state = self.state(index);
        let queue = self.queue(state);
        queue.size = queue.size - before + after;
    }

    fn remove(&mut self, index: u32, size: u64) {
        self.take_out(index, size);
        self.full_size = self.full_size.min(self.size());
    }

    fn renumber(&mut self, _from: u32, to: u32) {
        // Its link and state have moved already, as the last of their vectors.
        let (link, state) = (self.link(to), self.state(to));
        self.link_neighbours(link.before, to, state);
        match self.links.get_mut(link.after as usize) {
            Some(after) => after.before = to,
            None => self.queue(state).newest = to,
        }
    }

    fn victim(&mut self, sizes: Sizes<'_>) -> Option<u32> {
        let mut chances = MAX_CHANCES;
        loop {
            let small = self.exceeds_share() || self.main.oldest == NONE;
            let index = if small { self.small.oldest } else { self.main.oldest };
            if index == NONE {
                return None;
            }
            let state = self.state(index);
            let hits = state & MAX_FREQ;
            if hits == 0 || chances == 0 {
                return Some(index);
            }
            let size = sizes.of(index);
            if small && !self.is_worth(size, hits) {
                return Some(index);
            }
            chances -= 1;
            self.unlink(index, size);
            self.push(index, if small { MAIN_FLAG } else { state - 1 }, size);
        }
    }

    fn evict(&mut self, index: u32, entry: Entry) {
        self.remember(index, entry.hash);
        self.take_out(index, entry.size);
        self.full_size = self.size();
    }

    fn replace_victim(&mut self, index: u32, before: Entry, new: Entry) {
        self.remember(index, before.hash);
        self.unlink(index, before.size);
        self.full_size = self.size();
        let is_known = self.ghosts.remove(new.hash);
        self.push(index, if is_known { MAIN_FLAG } else { 0 }, new.size);
    }

    fn admits(&mut self, new: Entry) -> bool {
        if self.ghosts.contains(new.hash) {
            return true;
        }
        let is_hot = self.is_hot(self.small) || (self.small_excess() < new.size && self.is_hot(self.main));
        if is_hot {
            self.ghosts.insert(new.hash);
        }
        !is_hot
    }

    fn set_capacity(&mut self, slots: usize) {
        set_capacity(&mut self.links, slots);
        set_capacity(&mut self.states, slots);
        self.ghosts.set_capacity(slots);
    }

    fn bytes(&self, slots: usize) -> usize {
        slots * (size_of::<Link>() + size_of::<u8>()) + self.ghosts.sets_for(slots) * size_of::<Set>()
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    const EQUAL: Sizes<'_> = Sizes { weights: None, slot: 1 };

    #[test]
    fn victim_of_entries_that_were_all_hit_takes_bounded_time() {
        let entries = if cfg!(miri) { 200 } else { 1_000 };
        let mut policy = S3Fifo::default();
        policy.set_capacity(1_000);
        for index in 0..entries {
            policy.insert(index, Entry { hash: index, size: 1 });
            (0..3).for_each(|_| policy.hit(index));
        }
        let hits = |policy: &S3Fifo| policy.states.iter().map(|state| u32::from(state & MAX_FREQ)).sum::<u32>();
        assert!(policy.victim(EQUAL).is_some());
        // A chance in the small queue takes all hits of an entry, a chance in the main queue one.
        assert!(hits(&policy) >= 3 * entries - 3 * MAX_CHANCES, "{}", hits(&policy));
    }

    /// A policy and the weights of its entries.
    #[derive(Default)]
    struct Weighed {
        policy: S3Fifo,
        weights: Vec<u32>,
    }

    const SLOT: u64 = 10;

    impl Weighed {
        fn with_capacity(slots: usize) -> Self {
            let mut weighed = Self::default();
            weighed.policy.set_capacity(slots);
            weighed
        }

        fn size(&self, index: u32) -> u64 {
            Sizes { weights: Some(&self.weights), slot: SLOT }.of(index)
        }

        fn last(&self) -> u32 {
            u32::try_from(self.weights.len()).unwrap_or(0).wrapping_sub(1)
        }

        fn insert(&mut self, hash: u32, weight: u32) {
            self.weights.push(weight);
            let index = self.last();
            self.policy.insert(index, Entry { hash, size: self.size(index) });
        }

        fn victim(&mut self) -> u32 {
            self.policy.victim(Sizes { weights: Some(&self.weights), slot: SLOT }).unwrap_or(NONE)
        }

        fn take_out(&mut self, index: u32, evicted: bool) {
            let (size, last) = (self.size(index), self.last());
            if evicted {
                self.policy.evict(index, Entry { hash: index, size });
            } else {
                self.policy.remove(index, size);
            }
            self.weights.swap_remove(index as usize);
            if index != last {
                self.policy.renumber(last, index);
            }
        }

        fn evict(&mut self, count: usize) {
            for _ in 0..count {
                let victim = self.victim();
                self.take_out(victim, true);
            }
        }

        fn is_in_main(&self, index: u32) -> bool {
            self.policy.state(index) & MAIN_FLAG != 0
        }

        /// Returns the sizes of both queues, as sums over all slots.
        fn sums(&self) -> [u64; 2] {
            let sum = |main| (0..=self.last()).filter(|&at| self.is_in_main(at) == main).map(|at| self.size(at)).sum();
            if self.weights.is_empty() { [0; 2] } else { [sum(false), sum(true)] }
        }
    }

    #[test]
    fn queues_after_random_operations_have_exact_sizes() {
        let mut weighed = Weighed::with_capacity(64);
        let mut bits = 1_u64;
        let mut below = |bound: u32| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u32::try_from(bits >> 33).unwrap_or(0) % bound
        };
        for turn in 0..if cfg!(miri) { 500 } else { 20_000 } {
            let index = below(weighed.last().wrapping_add(1).max(1));
            match below(8) {
                _ if weighed.weights.is_empty() => weighed.insert(turn, below(1_000)),
                0..3 if weighed.weights.len() < 64 => weighed.insert(below(200), below(1_000)),
                0 | 1 => weighed.evict(1),
                2 => weighed.take_out(index, false),
                3 => {
                    let before = weighed.size(index);
                    weighed.weights[index as usize] = below(1_000);
                    weighed.policy.resize(index, before, weighed.size(index));
                }
                4 => {
                    let victim = weighed.victim();
                    let before = Entry { hash: below(200), size: weighed.size(victim) };
                    weighed.weights[victim as usize] = below(1_000);
                    let new = Entry { hash: below(200), size: weighed.size(victim) };
                    weighed.policy.replace_victim(victim, before, new);
                }
                5 => _ = weighed.policy.admits(Entry { hash: below(200), size: 10_000 }),
                _ => weighed.policy.hit(index),
            }
            assert_eq!([weighed.policy.small.size, weighed.policy.main.size], weighed.sums(), "turn {turn}");
        }
    }

    #[test]
    fn small_queue_over_its_share_of_bytes_has_the_victim() {
        let mut weighed = Weighed::with_capacity(64);
        (0..40).for_each(|hash| weighed.insert(hash, 90));
        weighed.evict(2);
        let [small, main] = weighed.sums();
        assert!(small <= (small + main) / SMALL_SHARE, "{small} {main}");
        // By its number the new entry is within the share, by its bytes it is not.
        weighed.insert(100, 900);
        weighed.evict(4);
        assert!(!weighed.weights.contains(&900), "{:?}", weighed.weights);
        // The victims came from the small queue alone.
        assert_eq!(weighed.sums()[1], main);
    }

    #[test]
    fn fill_puts_the_excess_of_the_small_queue_in_main() {
        let mut weighed = Weighed::with_capacity(64);
        (0..50).for_each(|hash| weighed.insert(hash, 0));
        assert_eq!(weighed.sums(), [5 * SLOT, 45 * SLOT]);
        weighed.evict(1);
        weighed.insert(100, 0);
        assert!(!weighed.is_in_main(weighed.last()), "a full cache inserts in the small queue");
    }

    #[test]
    fn fill_of_a_large_entry_goes_to_the_small_queue() {
        let mut weighed = Weighed::with_capacity(64);
        (0..30).for_each(|hash| weighed.insert(hash, 100));
        weighed.insert(100, 500);
        assert!(!weighed.is_in_main(weighed.last()));
        weighed.insert(101, 100);
        assert!(weighed.is_in_main(weighed.last()));
    }

    #[test]
    fn fill_after_a_release_puts_entries_in_main_again() {
        for evicted in [true, false] {
            let mut weighed = Weighed::with_capacity(64);
            (0..60).for_each(|hash| weighed.insert(hash, 0));
            weighed.evict(1);
            for _ in 0..30 {
                let victim = weighed.victim();
                weighed.take_out(victim, evicted);
            }
            weighed.policy.set_capacity(30);
            weighed.policy.set_capacity(64);
            let [_, before] = weighed.sums();
            (1_000..1_030).for_each(|hash| weighed.insert(hash, 0));
            let [small, main] = weighed.sums();
            assert!(main >= before + 20 * SLOT && small <= 10 * SLOT, "{evicted}: {before} {small} {main}");
        }
    }

    #[test]
    fn large_entry_needs_more_hits_for_main() {
        for (hits, stays) in [(1, false), (3, true)] {
            let mut weighed = Weighed::with_capacity(64);
            (0..40).for_each(|hash| weighed.insert(hash, 90));
            weighed.evict(4);
            weighed.insert(100, 400);
            let large = weighed.last();
            (0..hits).for_each(|_| weighed.policy.hit(large));
            weighed.evict(6);
            assert_eq!(weighed.weights.contains(&400), stays, "{hits} hits");
        }
    }

    #[test]
    fn unknown_large_entry_is_admitted_over_cold_entries_only() {
        let mut weighed = Weighed::with_capacity(64);
        let new = Entry { hash: 100, size: 2_000 };
        assert!(weighed.policy.admits(new), "into an empty cache");
        (0..40).for_each(|hash| weighed.insert(hash, 90));
        assert!(weighed.policy.admits(new));
        (0..40).for_each(|index| weighed.policy.hit(index));
        assert_eq!([(); 3].map(|()| weighed.policy.admits(new)), [false, true, true]);
        // The insert takes the ghost.
        weighed.insert(new.hash, 1_990);
        assert!(weighed.is_in_main(weighed.last()) && !weighed.policy.admits(new));
    }
}
