//! From a key to its slot: a table of slot numbers that grows only if it must.
//!
//! The slots are dense and each has its hash, so the table can be rebuilt from them at any time, without a second table
//! and without a call of `Hash`. hashbrown itself doubles when removals have used it up (hashbrown #602), although it holds
//! no more entries; here it is refilled in place while an eighth is free.

use std::sync::LazyLock;

use hashbrown::{HashTable, TryReserveError};

/// The highest number of entries that are moved to a smaller table: under a millisecond, with the lock of the cache.
const MAX_MOVED: usize = 32_768;

/// Bytes of the first table. Measured, because it depends on the release of hashbrown, the target and its features.
static FIRST_BYTES: LazyLock<usize> = LazyLock::new(|| HashTable::<u32>::with_capacity(Index::LEAST).allocation_size());

/// A table of slot numbers.
#[derive(Default)]
pub(super) struct Index {
    table: HashTable<u32>,
    /// The capacity of the table before removals: 7/8 of its buckets.
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

    /// Bytes by which one more insertion grows the table.
    pub(super) fn growth(&self) -> usize {
        if self.table.len() < self.table.capacity() || self.has_spare() { 0 } else { self.grown_bytes() - self.bytes() }
    }

    /// The slot with this hash for which `matches` holds.
    #[inline]
    pub(super) fn find(&self, hash: u32, matches: impl Fn(u32) -> bool) -> Option<u32> {
        self.table.find(to_table_hash(hash), |&index| matches(index)).copied()
    }

    /// Enters slot `at`, the one after all others. `hash_of` returns the hash of each slot.
    pub(super) fn insert(&mut self, hash: u32, at: u32, hash_of: impl Fn(u32) -> u32) {
        if self.table.len() == self.table.capacity() {
            self.refill(self.next_capacity(), self.table.len(), &hash_of);
        }
        self.table.insert_unique(to_table_hash(hash), at, |&at| to_table_hash(hash_of(at)));
    }

    /// Enters slot `at` under another hash than `before`. `hash_of` returns the new one already.
    pub(super) fn replace(&mut self, at: u32, before: u32, hash: u32, hash_of: impl Fn(u32) -> u32) {
        let slots = self.table.len();
        self.remove(before, at);
        if self.table.len() == self.table.capacity() {
            self.refill(self.next_capacity(), slots, &hash_of);
        } else {
            self.table.insert_unique(to_table_hash(hash), at, |&at| to_table_hash(hash_of(at)));
        }
    }

    /// Removes slot `at`.
    pub(super) fn remove(&mut self, hash: u32, at: u32) {
        if let Ok(entry) = self.table.find_entry(to_table_hash(hash), |&entered| entered == at) {
            entry.remove();
        }
    }

    /// Changes the number of slot `from`.
    pub(super) fn renumber(&mut self, hash: u32, from: u32, to: u32) {
        if let Some(at) = self.table.find_mut(to_table_hash(hash), |&at| at == from) {
            *at = to;
        }
    }

    /// Returns `true` if the table is to be [shrunk](Self::shrink): less than an eighth of it is used, and the move of the
    /// remaining entries takes little time.
    #[inline]
    pub(super) fn is_sparse(&self) -> bool {
        let len = self.table.len();
        len <= MAX_MOVED && len < self.full / 8 && self.full > Self::LEAST
    }

    /// Shrinks the table to twice its entries. The old table is freed first, so that the heap does not grow.
    ///
    /// # Errors
    ///
    /// There is no memory for the smaller table. The table is empty then.
    pub(super) fn shrink(&mut self, hash_of: impl Fn(u32) -> u32) -> Result<(), TryReserveError> {
        let len = self.table.len();
        *self = Self::default();
        self.table.try_reserve((2 * len).max(Self::LEAST), |&index| to_table_hash(hash_of(index)))?;
        self.note_size();
        self.enter(len, &hash_of);
        Ok(())
    }

    fn note_size(&mut self) {
        self.full = self.table.capacity();
        self.bytes = self.table.allocation_size();
    }

    /// Enters the first `slots` slots into the empty table, which has the capacity.
    fn enter(&mut self, slots: usize, hash_of: &impl Fn(u32) -> u32) {
        for index in 0..u32::try_from(slots).unwrap_or(u32::MAX) {
            self.table.insert_unique(to_table_hash(hash_of(index)), index, |&index| to_table_hash(hash_of(index)));
        }
    }

    /// The capacity for one more entry.
    fn next_capacity(&self) -> usize {
        if self.has_spare() { self.full } else { (self.full + 1).max(Self::LEAST) }
    }

    /// Returns `true` if an eighth of the table would be free after a refill.
    fn has_spare(&self) -> bool {
        let len = self.table.len();
        len + len / 8 < self.full
    }

    /// Empties the table, sets its capacity, and enters the first `slots` slots again.
    #[cold]
    fn refill(&mut self, capacity: usize, slots: usize, hash_of: &impl Fn(u32) -> u32) {
        if capacity == self.full {
            self.table.clear();
        } else {
            // The old one first: there are never two.
            self.table = HashTable::new();
            self.table = HashTable::with_capacity(capacity);
            self.note_size();
        }
        self.enter(slots, hash_of);
    }

    /// Bytes of the next larger table: twice the buckets, with a number and a control byte each. The rest stays.
    fn grown_bytes(&self) -> usize {
        if self.full == 0 { *FIRST_BYTES } else { self.bytes + (size_of::<u32>() + 1) * self.table.num_buckets() }
    }
}

/// The table takes the place from the low bits of a hash and the control byte from the highest.
#[inline]
pub(super) const fn to_table_hash(hash: u32) -> u64 {
    (hash as u64) << 32 | hash as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(at: u32) -> u32 {
        at.wrapping_mul(0x9E37_79B9)
    }

    #[test]
    fn what_it_says_it_will_grow_by_is_what_it_grows_by() {
        let mut index = Index::default();
        let mut grown = 0;
        let entries = if cfg!(miri) { 100 } else { 100_000 };
        for at in 0..entries {
            let (before, growth) = (index.bytes(), index.growth());
            index.insert(hash_of(at), at, hash_of);
            assert_eq!(index.bytes(), before + growth, "at {at}");
            grown += usize::from(growth > 0);
        }
        // The first has 8 buckets.
        assert_eq!(grown, if cfg!(miri) { 5 } else { 15 });
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
