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
//! The search for a victim ends after [`MAX_CHANCES`] entries with hits. The paper's queue has no such bound: if all
//! entries have been hit, it goes through all of them, under the lock.

use super::policy::{Policy, set_capacity};

/// No slot.
const NONE: u32 = u32::MAX;

/// The highest count of hits. The other bit of the byte is the queue.
const MAX_FREQ: u8 = 3;
const MAIN_FLAG: u8 = 4;

/// The highest number of second chances for one victim.
const MAX_CHANCES: u32 = 64;

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
    len: usize,
}

impl Queue {
    const EMPTY: Self = Self { oldest: NONE, newest: NONE, len: 0 };
}

/// The policy. It has a link and a byte for each slot.
pub(super) struct S3Fifo {
    links: Vec<Link>,
    states: Vec<u8>,
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
}

impl Default for S3Fifo {
    fn default() -> Self {
        Self {
            links: Vec::new(),
            states: Vec::new(),
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            ghosts: Ghosts::default(),
        }
    }
}

impl S3Fifo {
    /// Victims come from the small queue while it holds more than one in this many of all entries.
    const SMALL_SHARE: usize = 10;

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

    fn push(&mut self, index: u32, state: u8) {
        let newest = self.queue(state).newest;
        if let Some(link) = self.links.get_mut(index as usize) {
            *link = Link { before: newest, after: NONE };
        }
        self.set_state(index, state);
        self.link_neighbours(newest, index, state);
        // `link_neighbours` has taken the slot before `index` for the newest.
        let queue = self.queue(state);
        queue.newest = index;
        queue.len += 1;
    }

    fn unlink(&mut self, index: u32) {
        let (link, state) = (self.link(index), self.state(index));
        self.link_neighbours(link.before, link.after, state);
        self.queue(state).len -= 1;
    }
}

impl Policy for S3Fifo {
    fn insert(&mut self, index: u32, hash: u32) {
        self.links.push(Link { before: NONE, after: NONE });
        self.states.push(0);
        let known = self.ghosts.remove(hash);
        self.push(index, if known { MAIN_FLAG } else { 0 });
    }

    #[inline]
    fn hit(&mut self, index: u32) {
        if let Some(state) = self.states.get_mut(index as usize)
            && *state & MAX_FREQ < MAX_FREQ
        {
            *state += 1;
        }
    }

    fn remove(&mut self, index: u32) {
        self.unlink(index);
        self.links.swap_remove(index as usize);
        self.states.swap_remove(index as usize);
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

    fn victim(&mut self) -> Option<u32> {
        let mut chances = MAX_CHANCES;
        loop {
            let all = self.small.len + self.main.len;
            let small = self.small.len > all / Self::SMALL_SHARE || self.main.len == 0;
            let index = if small { self.small.oldest } else { self.main.oldest };
            if index == NONE {
                return None;
            }
            let state = self.state(index);
            if state & MAX_FREQ == 0 || chances == 0 {
                return Some(index);
            }
            chances -= 1;
            self.unlink(index);
            self.push(index, if small { MAIN_FLAG } else { state - 1 });
        }
    }

    fn evict(&mut self, index: u32, hash: u32) {
        if self.state(index) & MAIN_FLAG == 0 {
            self.ghosts.insert(hash);
        }
        self.remove(index);
    }

    fn replace_victim(&mut self, index: u32, before: u32, hash: u32) {
        if self.state(index) & MAIN_FLAG == 0 {
            self.ghosts.insert(before);
        }
        self.unlink(index);
        let known = self.ghosts.remove(hash);
        self.push(index, if known { MAIN_FLAG } else { 0 });
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

/// Hashes of one neighbourhood, the latest first. 0: empty.
type Set = [u32; WIDTH];

const WIDTH: usize = 8;

/// Hashes of evicted entries, in sets that each forget their oldest.
#[derive(Default)]
struct Ghosts {
    sets: Vec<Set>,
}

impl Ghosts {
    /// Half as many again as there are slots: with fewer, real traces lose hits.
    const fn full_sets(slots: usize) -> usize {
        (slots + slots / 2).div_ceil(WIDTH)
    }

    /// The number of sets for `slots`. It shrinks only by half or more: a smaller table forgets most of its ghosts.
    const fn sets_for(&self, slots: usize) -> usize {
        let full = Self::full_sets(slots);
        let present = self.sets.len();
        if full < present && full > present / 2 { present } else { full }
    }

    /// The set of a hash. Any number of sets will do.
    fn set(&mut self, hash: u32) -> Option<&mut Set> {
        let index = (u64::from(hash) * self.sets.len() as u64) >> 32;
        self.sets.get_mut(usize::try_from(index).unwrap_or(usize::MAX))
    }

    fn insert(&mut self, hash: u32) {
        if let Some(set) = self.set(hash) {
            set.copy_within(..WIDTH - 1, 1);
            if let Some(first) = set.first_mut() {
                *first = hash.max(1);
            }
        }
    }

    /// Removes a hash. Returns `true` if it was there.
    fn remove(&mut self, hash: u32) -> bool {
        let Some(set) = self.set(hash) else { return false };
        // Most are absent, which one comparison of the whole set shows.
        if !set.iter().fold(false, |any, &ghost| any | (ghost == hash.max(1))) {
            return false;
        }
        let Some(place) = set.iter().position(|&ghost| ghost == hash.max(1)) else { return false };
        let Some(rest) = set.get_mut(place..) else { return false };
        rest.rotate_left(1);
        if let Some(last) = rest.last_mut() {
            *last = 0;
        }
        true
    }

    fn set_capacity(&mut self, slots: usize) {
        let sets = self.sets_for(slots);
        if sets < self.sets.len() {
            // Without a move of the ghosts, which takes time under the lock. A ghost in the wrong set is never found, and
            // leaves with the oldest.
            self.sets.truncate(sets);
            self.sets.shrink_to_fit();
        } else if sets > self.sets.len() {
            let before = std::mem::replace(&mut self.sets, vec![[0; WIDTH]; sets]);
            // From the oldest to the latest, so that the latest stay.
            for hash in before.iter().flat_map(|set| set.iter().rev()).filter(|&&hash| hash != 0) {
                self.insert(*hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn victim_of_entries_that_were_all_hit_takes_bounded_time() {
        let entries = if cfg!(miri) { 200 } else { 1_000 };
        let mut policy = S3Fifo::default();
        policy.set_capacity(1_000);
        for index in 0..entries {
            policy.insert(index, index);
            (0..3).for_each(|_| policy.hit(index));
        }
        let hits = |policy: &S3Fifo| policy.states.iter().map(|state| u32::from(state & MAX_FREQ)).sum::<u32>();
        assert!(policy.victim().is_some());
        // A chance in the small queue takes all hits of an entry, a chance in the main queue one.
        assert!(hits(&policy) >= 3 * entries - 3 * MAX_CHANCES, "{}", hits(&policy));
    }

    #[test]
    fn ghosts_after_a_small_reduction_are_all_known() {
        let slots = if cfg!(miri) { 100 } else { 1_000 };
        let count = u32::try_from(slots / 2).unwrap_or(0);
        let mut ghosts = Ghosts::default();
        ghosts.set_capacity(slots);
        let hash = |n: u32| n.wrapping_mul(0x9E37_79B9);
        (1..count).for_each(|n| ghosts.insert(hash(n)));
        let known = |ghosts: &Ghosts| {
            (1..count).filter(|&n| ghosts.sets.iter().flatten().any(|&ghost| ghost == hash(n))).count()
        };
        let before = known(&ghosts);
        ghosts.set_capacity(slots * 6 / 10);
        assert_eq!((known(&ghosts), ghosts.sets.len()), (before, Ghosts::full_sets(slots)));
        ghosts.set_capacity(slots * 3 / 10);
        assert_eq!(ghosts.sets.len(), Ghosts::full_sets(slots * 3 / 10));
        assert!((1..count).filter(|&n| ghosts.remove(hash(n))).count() < before);
        ghosts.set_capacity(0);
        assert_eq!(ghosts.sets.capacity(), 0);
    }
}
