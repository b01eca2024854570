//! Memory beyond the live heap.

use crate::os;
use crate::size::ByteSize;

use super::verdict::{LeakVerdict, Remedy};
use super::watch::Left;

/// What counts as pages kept, and what has been done about them.
#[derive(Clone, Copy, Debug)]
pub(in crate::monitor) struct Retention {
    /// The rss beyond the heap from which on it is worth a word.
    pub(in crate::monitor) over: u64,
    /// Whether a trim has left most of it.
    pub(in crate::monitor) trimmed: bool,
    /// Whether `MALLOC_ARENA_MAX` is set.
    pub(in crate::monitor) arenas_bound: bool,
}

impl Retention {
    /// What the allocator keeps, if that is much: more than the heap that is live, too.
    pub(super) fn found(&self, left: &Left) -> Option<LeakVerdict> {
        let beyond = left.rss?.anonymous.as_u64().saturating_sub(left.live);
        let much = beyond >= self.over.max(left.live).max(1);
        let beyond_heap = ByteSize::bytes(beyond);
        much.then(|| LeakVerdict::Retaining { beyond_heap, remedy: self.remedy() })
    }

    fn remedy(&self) -> Remedy {
        if !self.trimmed && os::can_trim() {
            return Remedy::Trim;
        }
        let has_arenas = cfg!(all(target_os = "linux", target_env = "gnu")) && !os::has_trim_hook();
        // The thread that asks has the main arena.
        if has_arenas && !self.arenas_bound && os::threads().is_some_and(|threads| threads > 2) {
            return Remedy::ArenaMax;
        }
        Remedy::AnotherAllocator
    }
}
