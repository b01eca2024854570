//! Between the two stages: where records end in the current piece, found and not yet handed out.

use super::error::BuildError;
use super::storage;

/// A queue of the ends of records, filled by stage one when it is empty and emptied by stage two.
///
/// It also is where the core's position is kept, so that handing out a record changes one word: `next`.
#[derive(Debug)]
pub(super) struct Ends {
    /// Positions in the piece: at 0 the end before the first, then those found. Behind `len` there is nothing to read.
    found: Vec<u32>,
    /// How many ends were handed out: `found[next]` is the last of them.
    next: usize,
    /// How many ends there are, the one at 0 not counted.
    len: usize,
    /// Bytes from an end to the start of the next record.
    tail: u32,
}

/// The content of a record, or its head and content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Ends {
    /// Ends that it holds. More would leave the first-level cache together with the records they point at.
    pub(super) const ROOM: usize = 1024;

    /// Bytes of a piece that stage one looks at in one go: their records are then handed out from the first-level cache.
    pub(super) const WINDOW: usize = 16 * 1024;

    /// With the position 0; `tail` is shorter than 4 GiB.
    pub(super) fn new(tail: usize) -> Result<Self, BuildError> {
        let tail = u32::try_from(tail).unwrap_or(0);
        let mut ends = Self { found: storage::fixed(1 + Self::ROOM)?, next: 0, len: 0, tail };
        ends.restart(0);
        Ok(ends)
    }

    /// Where the next record ends and where it starts; handed out with [`pop`](Self::pop).
    #[inline]
    pub(super) fn peek(&self) -> Option<Span> {
        if self.next >= self.len {
            return None;
        }
        let [before, end] = *self.found.get(self.next..)?.first_chunk()?;
        Some(Span { start: before.wrapping_add(self.tail) as usize, end: end as usize })
    }

    #[inline]
    pub(super) fn pop(&mut self) {
        self.next += 1;
    }

    /// Where the next record starts.
    #[inline]
    pub(super) fn at(&self) -> usize {
        self.found.get(self.next).map_or(0, |before| before.wrapping_add(self.tail) as usize)
    }

    /// How many were handed out since the restart or refill.
    #[inline]
    pub(super) const fn popped(&self) -> u64 {
        self.next as u64
    }

    /// Forgets all ends: the next record starts at `at`, which is less than 4 GiB.
    #[expect(clippy::cast_possible_truncation, reason = "no piece has 4 GiB")]
    pub(super) fn restart(&mut self, at: usize) {
        (self.next, self.len) = (0, 0);
        if let Some(before) = self.found.first_mut() {
            *before = (at as u32).wrapping_sub(self.tail);
        }
    }

    /// Takes the ends that `find` writes, which returns how many. All before must have been handed out.
    #[inline]
    pub(super) fn refill(&mut self, find: impl FnOnce(&mut [u32]) -> usize) {
        self.restart(self.at());
        self.len = find(self.found.get_mut(1..).unwrap_or_default());
    }
}
