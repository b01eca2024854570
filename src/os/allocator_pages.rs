//! Statistics of the allocator that a trim hook belongs to.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Pages of an allocator other than the system's, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AllocatorPages {
    /// Pages with at least one allocated block. Some may not be resident.
    pub(crate) active: u64,
    /// Free pages that are resident: the hook releases them.
    pub(crate) releasable: u64,
}

/// Reads the pages; `None` if the allocator does not answer.
type Reader = fn() -> Option<AllocatorPages>;

static READER: Mutex<Option<Reader>> = Mutex::new(None);

/// Sets the reader, from a trim hook of this crate. So only a program that names the hook is linked with the allocator.
#[cfg_attr(not(feature = "jemalloc"), expect(dead_code, reason = "one hook has statistics"))]
pub(super) fn register(read: Reader) {
    *reader() = Some(read);
}

/// Forgets the reader, before another hook registers its own.
pub(super) fn forget() {
    *reader() = None;
}

/// Reads the pages of the allocator; `None` if no hook has registered a reader.
pub(crate) fn allocator_pages() -> Option<AllocatorPages> {
    // Copied out, so that the lock is released before the allocator is asked.
    let read = *reader();
    read?()
}

/// The slot of the reader. Every write leaves it whole, so poison does no harm.
fn reader() -> MutexGuard<'static, Option<Reader>> {
    READER.lock().unwrap_or_else(PoisonError::into_inner)
}
