//! Between the two stages: where records end in the current piece, found and not yet handed out.

use std::fmt;

use crate::size::ByteSize;

use super::charge::{Charge, Held, NoRoom};
use super::storage;

/// A queue of the ends of records, filled by stage one when it is empty and emptied by stage two.
///
/// It also is where the core's position is kept, so that handing out a record changes one word: `next`.
pub(super) struct Ends {
    /// Positions in the piece: at 0 the start of the next record, less `tail`, then the ends found. Behind `len` there is
    /// nothing to read. `tail`, of which every method is told, leads from an end to the start of the next record.
    found: Box<[u32; 1 + Self::ROOM]>,
    /// How many ends were handed out: `found[next]` is the last of them.
    next: usize,
    /// How many ends there are, the one at 0 not counted.
    len: usize,
    /// For `found`.
    _held: Held,
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ends").field("next", &self.next).field("len", &self.len).finish_non_exhaustive()
    }
}

/// A record in the piece, from the start of its head to the end of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Ends {
    /// Ends that it holds. More would leave the first-level cache together with the records they point at.
    pub(super) const ROOM: usize = 1023;

    /// Bytes of a piece that stage one looks at in one go: their records are then handed out from the first-level cache.
    pub(super) const WINDOW: usize = 16 * 1024;

    /// With the position 0.
    pub(super) fn new(tail: usize, charge: &Charge) -> Result<Self, NoRoom> {
        let held = charge.hold(ByteSize::bytes(size_of::<[u32; 1 + Self::ROOM]>() as u64))?;
        let found = storage::fixed(1 + Self::ROOM)?.into_boxed_slice();
        let found = found.try_into().unwrap_or_else(|_| Box::new([0; 1 + Self::ROOM]));
        let mut ends = Self { found, next: 0, len: 0, _held: held };
        ends.restart(0, tail);
        Ok(ends)
    }

    /// Where the next record lies; handed out with [`pop`](Self::pop).
    #[inline]
    pub(super) fn peek(&self, tail: usize) -> Option<Span> {
        if self.next >= self.len {
            return None;
        }
        let end = *self.found.get(self.next + 1)?;
        Some(Span { start: self.at(tail), end: end as usize })
    }

    #[inline]
    pub(super) fn pop(&mut self) {
        self.next += 1;
    }

    /// How many stage one found when it looked last.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Where the next record starts.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a delimiter is far shorter")]
    pub(super) fn at(&self, tail: usize) -> usize {
        self.found.get(self.next).map_or(0, |before| before.wrapping_add(tail as u32) as usize)
    }

    /// All that are left, to be handed out one right after the other.
    #[inline]
    pub(super) fn drain(&mut self) -> Drain<'_> {
        let ends = self.found.get(self.next + 1..=self.len).unwrap_or_default().iter();
        Drain { ends, len: self.len, next: &mut self.next }
    }

    /// How many were handed out since the restart or refill.
    #[inline]
    pub(super) const fn popped(&self) -> u64 {
        self.next as u64
    }

    /// Forgets all ends: the next record starts at `at`, which is less than 4 GiB.
    #[expect(clippy::cast_possible_truncation, reason = "no piece has 4 GiB")]
    pub(super) fn restart(&mut self, at: usize, tail: usize) {
        (self.next, self.len) = (0, 0);
        if let Some(before) = self.found.first_mut() {
            *before = (at as u32).wrapping_sub(tail as u32);
        }
    }

    /// Takes the ends that `find` writes, which returns how many. All before must have been handed out.
    #[inline]
    pub(super) fn refill(&mut self, find: impl FnOnce(&mut [u32]) -> usize) {
        self.found.swap(0, self.next);
        self.next = 0;
        self.len = find(self.found.get_mut(1..).unwrap_or_default());
    }
}

/// Ends on their way out. How many were taken is noted when it is dropped, so that each costs no store.
pub(super) struct Drain<'a> {
    ends: std::slice::Iter<'a, u32>,
    len: usize,
    next: &'a mut usize,
}

impl Drain<'_> {
    /// Where the next record ends; handed out with [`pop`](Self::pop).
    #[inline]
    pub(super) fn peek(&self) -> Option<usize> {
        self.ends.as_slice().first().map(|end| *end as usize)
    }

    #[inline]
    pub(super) fn pop(&mut self) {
        self.ends.next();
    }

    /// How many were handed out since the restart or refill.
    #[inline]
    pub(super) fn popped(&self) -> u64 {
        (self.len - self.ends.len()) as u64
    }
}

impl Drop for Drain<'_> {
    #[inline]
    fn drop(&mut self) {
        *self.next = self.len - self.ends.len();
    }
}
