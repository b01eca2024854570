//! Between the two stages: where records end in the current input, found and not yet handed out.

use super::error::BuildError;
use super::storage;

/// A queue of positions, filled by stage one when it is empty and emptied by stage two.
#[derive(Debug)]
pub(super) struct Ends {
    /// Positions, counted from `origin`.
    found: Vec<u32>,
    /// What the positions count from, in the input.
    origin: usize,
    /// The first that was not handed out.
    next: usize,
    /// Behind the last.
    len: usize,
}

impl Ends {
    /// Positions it holds. More would leave the first-level cache together with the records they point at.
    pub(super) const ROOM: usize = 1024;

    /// Bytes of input that stage one looks at in one go: their records are then handed out from the first-level cache.
    pub(super) const WINDOW: usize = 16 * 1024;

    pub(super) fn new() -> Result<Self, BuildError> {
        Ok(Self { found: storage::fixed(Self::ROOM)?, origin: 0, next: 0, len: 0 })
    }

    /// The next end, as a position in the input.
    #[inline]
    pub(super) fn next(&mut self) -> Option<usize> {
        if self.next >= self.len {
            return None;
        }
        let end = self.found.get(self.next).copied()?;
        self.next += 1;
        Some(self.origin + end as usize)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next >= self.len
    }

    /// Forgets all positions, and takes those that `find` writes, counted from `origin`. It returns how many.
    #[inline]
    pub(super) fn refill(&mut self, origin: usize, find: impl FnOnce(&mut [u32]) -> usize) {
        (self.origin, self.next) = (origin, 0);
        self.len = find(&mut self.found);
    }
}
