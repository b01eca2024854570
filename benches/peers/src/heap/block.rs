//! Blocks straight from the global allocator, and an exact count of them that no allocator keeps.

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

/// Every block has the alignment of most real ones.
const ALIGN: usize = 8;

/// The exact count of what the patterns hold, in bytes.
///
/// It rises after an allocation has succeeded and falls before a block is freed, so it never stands above the truth:
/// a limit or a peak that it proves wrong is wrong.
#[derive(Debug)]
pub(super) struct Truth {
    live: AtomicI64,
    peak: AtomicI64,
}

impl Truth {
    pub(super) const fn new() -> Self {
        Self { live: AtomicI64::new(0), peak: AtomicI64::new(0) }
    }

    /// Bytes held now.
    pub(super) fn live(&self) -> i64 {
        self.live.load(SeqCst)
    }

    /// The most bytes held at once since the last [`reset_peak`](Self::reset_peak).
    pub(super) fn peak(&self) -> i64 {
        self.peak.load(SeqCst)
    }

    pub(super) fn reset_peak(&self) {
        self.peak.store(self.live(), SeqCst);
    }

    fn add(&self, bytes: usize) {
        let live = self.live.fetch_add(bytes as i64, SeqCst) + bytes as i64;
        self.peak.fetch_max(live, SeqCst);
    }

    fn subtract(&self, bytes: usize) {
        self.live.fetch_sub(bytes as i64, SeqCst);
    }
}

/// One live block. Dropping it leaks: whoever holds it hands it to [`Block::free`].
#[derive(Debug)]
pub(super) struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a block is plain memory with one owner; the global allocator may free it on any thread.
unsafe impl Send for Block {}

impl Block {
    /// A block of `size` bytes, or `None` if the allocator refuses. `size` is not zero.
    pub(super) fn new(size: usize, truth: &Truth) -> Option<Self> {
        debug_assert!(size > 0, "the allocator is never asked for nothing");
        let layout = Layout::from_size_align(size, ALIGN).ok()?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc(layout) })?;
        truth.add(size);
        Some(Self { start, layout })
    }

    /// Grows the block to `size` bytes; `false` and unchanged if the allocator refuses.
    pub(super) fn grow(&mut self, size: usize, truth: &Truth) -> bool {
        debug_assert!(size >= self.layout.size(), "a block grows, it does not shrink");
        let Ok(layout) = Layout::from_size_align(size, ALIGN) else { return false };
        // SAFETY: the block came from the global allocator with `self.layout`; the new size is not zero and fits.
        let Some(start) = NonNull::new(unsafe { realloc(self.start.as_ptr(), self.layout, size) }) else {
            return false;
        };
        truth.add(size - self.layout.size());
        *self = Self { start, layout };
        true
    }

    pub(super) fn size(&self) -> usize {
        self.layout.size()
    }

    pub(super) fn free(self, truth: &Truth) {
        truth.subtract(self.layout.size());
        // SAFETY: the block came from the global allocator with this layout, and it is gone after this.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
