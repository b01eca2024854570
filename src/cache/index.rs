//! Which slot a key lies in: a table of slot numbers that grows only where it must.
//!
//! The slots are dense and each knows its hash, so the table can be made anew from them at any time, without a second
//! one beside it and without calling anybody's `Hash`. hashbrown left alone doubles when removals have used it up
//! (hashbrown #602), though it holds not one entry more; here it is refilled in place as long as an eighth is free.

use hashbrown::HashTable;

use crate::weigh::GROUP;

/// A table of slot numbers.
#[derive(Default)]
pub(super) struct Index {
    table: HashTable<u32>,
    /// How many the table holds when no removal has left its mark: 7/8 of its buckets.
    full: usize,
    /// Bytes of the table.
    bytes: usize,
}

impl Index {
    /// The least it begins with: 8 buckets.
    const LEAST: usize = 7;

    /// Bytes of the table.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes by which one more insertion would grow the table.
    pub(super) fn growth(&self) -> usize {
        if self.table.len() < self.table.capacity() || self.has_spare() { 0 } else { self.grown_bytes() - self.bytes() }
    }

    /// The slot whose hash is this and for which `is` holds.
    #[inline]
    pub(super) fn find(&self, hash: u32, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.table.find(spread(hash), |&at| is(at)).copied()
    }

    /// Enters slot `at`, the one after all those entered; `hash_of` tells the hash of each.
    pub(super) fn insert(&mut self, hash: u32, at: u32, hash_of: impl Fn(u32) -> u32) {
        if self.table.len() == self.table.capacity() {
            self.refill(self.roomy(), self.table.len(), &hash_of);
        }
        self.table.insert_unique(spread(hash), at, |&at| spread(hash_of(at)));
    }

    /// Enters slot `at`, whose hash was `before`, under another; `hash_of` tells it already.
    pub(super) fn supersede(&mut self, at: u32, before: u32, hash: u32, hash_of: impl Fn(u32) -> u32) {
        let slots = self.table.len();
        self.remove(before, at);
        if self.table.len() == self.table.capacity() {
            self.refill(self.roomy(), slots, &hash_of);
        } else {
            self.table.insert_unique(spread(hash), at, |&at| spread(hash_of(at)));
        }
    }

    /// Takes slot `at` out.
    pub(super) fn remove(&mut self, hash: u32, at: u32) {
        if let Ok(entry) = self.table.find_entry(spread(hash), |&entered| entered == at) {
            entry.remove();
        }
    }

    /// Gives slot `from` another number.
    pub(super) fn renumber(&mut self, hash: u32, from: u32, to: u32) {
        if let Some(at) = self.table.find_mut(spread(hash), |&at| at == from) {
            *at = to;
        }
    }

    /// Makes the table as small as `capacity` allows.
    pub(super) fn shrink(&mut self, capacity: usize, hash_of: impl Fn(u32) -> u32) {
        if capacity == 0 {
            *self = Self::default();
        } else if capacity.max(Self::LEAST) <= self.full / 2 {
            self.refill(capacity.max(Self::LEAST), self.table.len(), &hash_of);
        }
    }

    /// The capacity for one more than there are.
    fn roomy(&self) -> usize {
        if self.has_spare() { self.full } else { (self.full + 1).max(Self::LEAST) }
    }

    /// Whether refilling the table would leave an eighth of it free, so that it pays.
    fn has_spare(&self) -> bool {
        let len = self.table.len();
        len + len / 8 < self.full
    }

    /// Empties the table, gives it room for `capacity`, and enters the first so many slots again.
    #[cold]
    fn refill(&mut self, capacity: usize, slots: usize, hash_of: &impl Fn(u32) -> u32) {
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        if capacity == self.full {
            self.table.clear();
        } else {
            // The old one first: there are never two.
            self.table = HashTable::new();
            self.table = HashTable::with_capacity(capacity);
            self.full = self.table.capacity();
            self.bytes = self.table.allocation_size();
        }
        for at in 0..slots {
            self.table.insert_unique(spread(hash_of(at)), at, |&at| spread(hash_of(at)));
        }
    }

    /// Bytes of the next larger table: a number and a control byte for each bucket, and a group of control bytes more.
    fn grown_bytes(&self) -> usize {
        let buckets = if self.full == 0 { Self::LEAST + 1 } else { 2 * self.table.num_buckets() };
        (size_of::<u32>() + 1) * buckets + GROUP
    }
}

/// The hash as the table wants it: it takes the place from the low bits and the control byte from the highest.
#[inline]
pub(super) const fn spread(hash: u32) -> u64 {
    (hash as u64) << 32 | hash as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(at: u32) -> u32 {
        at.wrapping_mul(0x9E37_79B9)
    }

    #[test]
    #[cfg_attr(miri, ignore = "releases of hashbrown differ in how they compare control bytes under Miri")]
    fn what_it_says_it_will_grow_by_is_what_it_grows_by() {
        let mut index = Index::default();
        let mut grown = 0;
        for at in 0..100_000 {
            let (before, growth) = (index.bytes(), index.growth());
            index.insert(hash_of(at), at, hash_of);
            assert_eq!(index.bytes(), before + growth, "at {at}");
            grown += usize::from(growth > 0);
        }
        assert!((10..20).contains(&grown), "grown {grown} times");
    }

    #[test]
    fn churn_does_not_double_a_table_with_an_eighth_to_spare() {
        // Three quarters of a table, and a fill of it twenty times over.
        let entries = if cfg!(miri) { 97 } else { 100_000 };
        let last = entries - 1;
        let mut index = Index::default();
        let mut hashes: Vec<u32> = (0..entries).map(hash_of).collect();
        for at in 0..entries {
            index.insert(hashes[at as usize], at, |at| hashes[at as usize]);
        }
        let bytes = index.bytes();
        for turn in 0..20 * entries {
            let at = turn % entries;
            let fresh = hash_of(turn + entries);
            index.remove(hashes[at as usize], at);
            hashes[at as usize] = fresh;
            // The last slot is the one that is entered anew: renumber it as the store does.
            if at != last {
                index.renumber(hashes[last as usize], last, at);
                hashes.swap(at as usize, last as usize);
            }
            index.insert(fresh, last, |at| hashes[at as usize]);
        }
        assert_eq!(index.bytes(), bytes);
        for at in 0..entries {
            assert_eq!(index.find(hashes[at as usize], |found| found == at), Some(at));
        }
    }
}
