//! Pages against a limit that the kernel enforces: looked at when much is reserved, given back when they are in the way.
//!
//! What a reclaimer frees is released to the budget at once, but the allocator keeps its pages, in pieces and in arenas
//! where a large block may not fit: then the process grows by what is reserved though the reserved bytes do not. So a
//! large reservation has to fit beside the anonymous pages there are, less those that an earlier large one has left.
//! If it does not, the allocator gives free pages back; if that is not enough, others do.
//!
//! An allocator that never gave anything back when asked may keep pages of any size free, which nobody can see from
//! here. With such a one nothing is refused for its pages.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::os;

/// Reservations from this part of the limit on are large.
const LARGE: u64 = 32;
/// A trim that gave back less did nothing.
const SOMETHING: u64 = 64 << 10;

pub(super) struct Pages {
    /// What the anonymous pages should not pass; `u64::MAX` where the limit is not the kernel's.
    most: u64,
    /// The smallest reservation that is large; a power of two.
    large: u64,
    /// Whether there were more when last looked at.
    over: AtomicBool,
    /// Whether a trim ever gave something back.
    helps: AtomicBool,
    /// What the last trim left.
    left: AtomicU64,
    /// What large reservations have left since, for other large ones.
    vacant: AtomicU64,
    /// How many there were when the last large one was taken.
    before: AtomicU64,
}

impl Pages {
    /// Watches over a limit that was found in the environment; one that was given says nothing about the process.
    pub(super) fn new(limit: u64, found: bool) -> Self {
        let (most, large) = if found { (limit, (limit / LARGE).max(1)) } else { (u64::MAX, 1 << 63) };
        Self {
            most,
            large: large.next_power_of_two(),
            over: AtomicBool::new(false),
            helps: AtomicBool::new(false),
            left: AtomicU64::new(0),
            vacant: AtomicU64::new(0),
            before: AtomicU64::new(0),
        }
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

    /// A large reservation was taken, and its pages will be.
    pub(super) fn taken(&self, n: u64) {
        let _before = self.vacant.fetch_update(Relaxed, Relaxed, |vacant| Some(vacant.saturating_sub(n)));
        self.before.store(anonymous().unwrap_or(0), Relaxed);
    }

    /// A large reservation was released. Its pages are vacant unless they went back at once, as mappings do.
    pub(super) fn left(&self, n: u64) {
        let more = anonymous().unwrap_or(0).saturating_sub(self.before.load(Relaxed));
        let _before = self.vacant.fetch_update(Relaxed, Relaxed, |vacant| Some(vacant.saturating_add(n).min(more)));
    }

    /// Notes whether there are too many, which needs a look only where the rss, of which they are a part, is above.
    pub(super) fn note(&self, rss: u64) {
        self.over.store(rss > self.most && anonymous().is_some_and(|pages| pages > self.most), Relaxed);
    }

    /// Whether there were too many when last looked at, and a trim is worth its time: they have grown since the last.
    pub(super) fn are_in_the_way(&self) -> bool {
        self.over.load(Relaxed) && anonymous().is_some_and(|pages| self.have_grown(pages))
    }

    fn have_grown(&self, pages: u64) -> bool {
        pages >= self.left.load(Relaxed).saturating_add(self.large)
    }

    /// How much `n` bytes are too many by, where so many bytes of heap are live.
    pub(super) fn missing(&self, n: u64, live: u64) -> Option<u64> {
        let pages = anonymous()?;
        let vacant = self.vacant.load(Relaxed).min(pages.saturating_sub(live)).min(n);
        let over = pages.saturating_add(n - vacant).saturating_sub(self.most);
        Some(over).filter(|&over| over > 0)
    }

    /// Has the allocator give back free pages; tells whether it did anything. Unless `always`, only if it is worth it.
    pub(super) fn trim(&self, always: bool) -> bool {
        let Some(before) = anonymous().filter(|&pages| always || self.have_grown(pages)) else { return false };
        if os::trim().is_err() {
            return false;
        }
        let after = anonymous().unwrap_or(before);
        self.left.store(after, Relaxed);
        self.over.store(after > self.most, Relaxed);
        self.vacant.store(0, Relaxed);
        let helped = after.saturating_add(SOMETHING) <= before;
        if helped {
            self.helps.store(true, Relaxed);
        }
        helped
    }

    /// Whether what remains after a trim is known to be of no use for large blocks.
    pub(super) fn are_trimmed(&self) -> bool {
        self.helps.load(Relaxed)
    }
}

/// The resident set size in bytes.
pub(super) fn rss() -> Option<u64> {
    os::rss().ok().map(|rss| rss.total.as_u64())
}

/// Those that no file backs: the kernel cannot drop them.
fn anonymous() -> Option<u64> {
    os::rss().ok().map(|rss| rss.anonymous.as_u64())
}
