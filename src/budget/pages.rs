//! The rss against a limit that the kernel enforces: looked at when much is reserved, brought down when it is in the way.
//!
//! What a reclaimer frees is released to the budget at once, but the allocator keeps its pages, in pieces and in arenas
//! where a large block may not fit: then the rss rises by what is reserved though the reserved bytes do not. So before
//! a large reservation is granted that does not fit beside the rss, the allocator gives its free pages back. What the rss
//! has beyond the live heap after that is overhead in full, and the room follows at once.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::os;

/// Reservations from this part of the limit on are large.
const LARGE: u64 = 32;

pub(super) struct Pages {
    /// What the rss should not pass; `u64::MAX` where the limit is not the kernel's.
    most: u64,
    /// The smallest reservation that is large; a power of two.
    large: u64,
    /// Whether the rss was above when last looked at.
    over: AtomicBool,
}

impl Pages {
    /// Watches over a limit that was found in the environment; one that was given says nothing about the process.
    pub(super) fn new(limit: u64, found: bool) -> Self {
        let (most, large) = if found { (limit, (limit / LARGE).max(1)) } else { (u64::MAX, 1 << 63) };
        Self { most, large: large.next_power_of_two(), over: AtomicBool::new(false) }
    }

    #[inline]
    pub(super) fn is_large(&self, n: u64) -> bool {
        n >= self.large
    }

    /// Whether the reservation of `n` that led to `used` passed a mark: they stand at the multiples of what is large.
    #[inline]
    pub(super) fn is_due(&self, used: u64, n: u64) -> bool {
        (used ^ (used - n)) >= self.large
    }

    /// Notes the rss, and gives it back.
    pub(super) fn note(&self, rss: u64) -> u64 {
        self.over.store(rss > self.most, Relaxed);
        rss
    }

    /// Whether the rss was above the limit when last looked at.
    pub(super) fn are_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// How much `n` bytes beside the rss are too many by.
    pub(super) fn missing(&self, n: u64) -> Option<u64> {
        let over = rss()?.saturating_add(n).saturating_sub(self.most);
        Some(over).filter(|&over| over > 0)
    }

    /// Has the allocator give back free pages, and tells the rss then; `None` where it cannot.
    pub(super) fn trim(&self) -> Option<u64> {
        let _given_back = os::trim().ok()?;
        rss().map(|rss| self.note(rss))
    }
}

/// The rss in bytes.
pub(super) fn rss() -> Option<u64> {
    os::rss().ok().map(|rss| rss.total.as_u64())
}
