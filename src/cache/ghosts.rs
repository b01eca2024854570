//! The hashes of evicted entries: four bytes each. Two keys with one hash share a ghost.

/// Hashes of one neighbourhood, the latest first. 0: empty.
pub(super) type Set = [u32; WIDTH];

const WIDTH: usize = 8;

/// Hashes of evicted entries, in sets that each forget their oldest.
#[derive(Default)]
pub(super) struct Ghosts {
    sets: Vec<Set>,
}

impl Ghosts {
    /// Half as many again as there are slots: with fewer, real traces lose hits.
    const fn full_sets(slots: usize) -> usize {
        (slots + slots / 2).div_ceil(WIDTH)
    }

    /// The number of sets for `slots`. It shrinks only by half or more: a smaller table forgets most of its ghosts.
    pub(super) const fn sets_for(&self, slots: usize) -> usize {
        let full = Self::full_sets(slots);
        let present = self.sets.len();
        if full < present && full > present / 2 { present } else { full }
    }

    /// The place of a hash's set. Any number of sets will do.
    fn place(&self, hash: u32) -> usize {
        let index = (u64::from(hash) * self.sets.len() as u64) >> 32;
        usize::try_from(index).unwrap_or(usize::MAX)
    }

    fn set(&mut self, hash: u32) -> Option<&mut Set> {
        let place = self.place(hash);
        self.sets.get_mut(place)
    }

    pub(super) fn contains(&self, hash: u32) -> bool {
        self.sets.get(self.place(hash)).is_some_and(|set| set.contains(&hash.max(1)))
    }

    pub(super) fn insert(&mut self, hash: u32) {
        if let Some(set) = self.set(hash) {
            set.copy_within(..WIDTH - 1, 1);
            if let Some(first) = set.first_mut() {
                *first = hash.max(1);
            }
        }
    }

    /// Removes a hash. Returns `true` if it was there.
    pub(super) fn remove(&mut self, hash: u32) -> bool {
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

    pub(super) fn set_capacity(&mut self, slots: usize) {
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
