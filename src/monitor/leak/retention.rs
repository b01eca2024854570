//! Memory beyond the live heap: the part that is free pages of the allocator, and the part that is not.
//!
//! ```text
//! anonymous rss = live heap + headers + free pages of the allocator + blocks and mappings of native code + stacks
//! ```
//!
//! Only the sum and the live heap are exact. So each part that is promised is a lower bound: the sum less upper bounds of the
//! others. What is left between the bounds has no verdict.

use crate::os;
use crate::size::ByteSize;

use super::beyond::{Allocator, Figures};
use super::trims::Trims;
use super::verdict::{LeakVerdict, Remedy};
use super::watch::Left;

/// Resident stack of a thread and its caches, at most.
const THREAD: u64 = 64 << 10;

/// The rules and figures by which memory beyond the heap has a verdict.
#[derive(Clone, Copy, Debug)]
pub(in crate::monitor) struct Retention {
    /// The rss beyond the heap from which on it is worth a verdict.
    pub(super) over: u64,
    /// Memory of other processes that the environment's share allows.
    pub(super) share: u64,
    /// `true` if `MALLOC_ARENA_MAX` is set.
    pub(super) arenas_bound: bool,
    pub(super) figures: Figures,
    pub(super) trims: Trims,
}

/// Parts of the memory beyond the heap: lower bounds in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Parts {
    /// Bytes that a trim releases.
    trim: u64,
    /// Free ends of the arenas of threads.
    thread_tops: u64,
    /// Free pages that a trim has left.
    kept: u64,
    /// Blocks and mappings of native code.
    native: u64,
}

#[cfg(test)]
impl Retention {
    /// Returns a retention without figures, so without a verdict.
    pub(super) fn for_test(over: u64) -> Self {
        let (figures, trims) = (Figures::default(), Trims::default());
        Self { over, share: 0, arenas_bound: false, figures, trims }
    }

    /// Returns one that finds the pages which a hook has left, with several threads.
    pub(super) fn keeping_for_test(over: u64, kept: u64) -> Self {
        let figures = Figures { allocator: Allocator::Hooked, threads: 2, ..Figures::default() };
        let trims = Trims { helps: Some(false), kept, ..Trims::default() };
        Self { figures, trims, ..Self::for_test(over) }
    }
}

impl Retention {
    /// Returns the verdict of the largest part, if that is much. Free pages must be as many as the heap that is live, too.
    pub(super) fn found(&self, left: &Left) -> Option<LeakVerdict> {
        let beyond = left.rss?.anonymous.as_u64().saturating_sub(left.live);
        let over = self.over.max(1);
        let parts = self.parts();
        let of_pages = over.max(left.live);
        let others = self.figures.others;
        // The first of equals.
        let found = [
            (others, over.saturating_add(self.share), Remedy::ChildProcess),
            (parts.trim.min(beyond.saturating_sub(self.trims.left)), of_pages, Remedy::Trim),
            (parts.native.min(beyond), over, Remedy::CLibrary),
            (parts.thread_tops.min(beyond), of_pages, Remedy::ArenaMax),
            (parts.kept.min(beyond), of_pages.max(left.live.saturating_mul(2)), Remedy::AnotherAllocator),
        ];
        let much = found.into_iter().filter(|(bytes, least, _)| bytes >= least);
        let (bytes, _, remedy) = much.rev().max_by_key(|(bytes, ..)| *bytes)?;
        let bytes = ByteSize::bytes(bytes);
        Some(match remedy {
            Remedy::CLibrary | Remedy::ChildProcess => LeakVerdict::Outside { bytes, remedy },
            Remedy::Trim | Remedy::ArenaMax | Remedy::AnotherAllocator => {
                LeakVerdict::Retaining { beyond_heap: bytes, remedy }
            }
        })
    }

    fn parts(&self) -> Parts {
        let Figures { anonymous, live, allocator, malloc, threads, .. } = self.figures;
        let rest = anonymous.saturating_sub(threads.saturating_mul(THREAD));
        let bound = self.trims.bound();
        match (allocator, malloc) {
            (Allocator::Malloc { has_hook }, Some(malloc)) => self.of_malloc(&malloc, rest, has_hook),
            (Allocator::Counted(pages), _) => {
                // The allocator's own tables are in no figure: 2 % of what it has.
                let held = pages.active.saturating_add(pages.releasable);
                let native = self.native(rest, held.saturating_add(held / 50));
                Parts { trim: pages.releasable, native, ..Parts::default() }
            }
            (Allocator::Hooked, _) => {
                let trim = if self.trims.helps == Some(true) { self.trims.fall(live) } else { 0 };
                // The hook has left pages of other threads. With one thread, what it has left are fragments.
                let kept = if self.trims.helps == Some(false) && threads > 1 { self.trims.kept } else { 0 };
                Parts { trim, kept, native: self.native(rest, bound), ..Parts::default() }
            }
            (Allocator::Other, _) => {
                let native = self.native(rest, bound);
                // The heap was larger by `fall` once, and the resident memory still is. A quarter may be fragments, which another
                // allocator has too.
                let fall = self.trims.fall(live).min(rest.saturating_sub(live.saturating_add(native)));
                Parts { kept: fall - fall / 4, native, ..Parts::default() }
            }
            (Allocator::Malloc { .. } | Allocator::Unknown, _) => Parts::default(),
        }
    }

    /// Splits the memory of a process that has glibc's as its global allocator.
    fn of_malloc(&self, malloc: &os::MallocInfo, rest: u64, has_hook: bool) -> Parts {
        let live = self.figures.live;
        let handed_out = malloc.in_use.saturating_add(malloc.mmapped);
        let blocks = handed_out.saturating_sub(live);
        // Up to twice the live heap may be headers and rounding: a `Box<u64>` in a vector has 16 bytes and takes 40.
        let blocks = if blocks / 2 >= live { blocks } else { 0 };
        let mapped = rest.saturating_sub(handed_out.saturating_add(malloc.free));
        let resident = rest.saturating_sub(handed_out).min(malloc.free);
        let reaches = !has_hook || self.trims.helps == Some(true);
        // The free memory that is not resident may be in the chunks that a trim reaches.
        let absent = malloc.free - resident;
        let trim = if reaches { malloc.trimmable.saturating_sub(absent) } else { 0 };
        // A trim comes first: with fewer arenas, the free ends are in the first one, and a trim releases that. Threads that free
        // at the same time leave some of it below other blocks: a quarter is not promised.
        let tops = malloc.thread_tops.saturating_sub(absent).min(resident.saturating_sub(trim)).min(self.trims.left);
        let thread_tops = if self.arenas_bound { 0 } else { tops - tops / 4 };
        Parts { trim, thread_tops, kept: 0, native: blocks.saturating_add(mapped) }
    }

    /// Returns the bytes of native code next to another global allocator than glibc's, which has at most `held`.
    ///
    /// The blocks of `malloc` are known, as far as they are resident. Mappings are what no allocator can have.
    fn native(&self, rest: u64, held: u64) -> u64 {
        let malloc = self.figures.malloc.unwrap_or_default();
        let blocks = malloc.in_use.saturating_add(malloc.mmapped);
        let outside = rest.saturating_sub(held.max(self.figures.live));
        let mapped = outside.saturating_sub(blocks.saturating_add(malloc.free));
        mapped.saturating_add(blocks.min(rest.saturating_sub(self.figures.live)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::trims::End;
    use super::*;

    const MIB: u64 = 1 << 20;

    const NONE: os::MallocInfo = os::MallocInfo { in_use: 0, mmapped: 0, free: 0, trimmable: 0, thread_tops: 0 };

    /// Returns the verdict of a process with the given MiB, as text.
    fn verdict(anonymous: u64, live: u64, allocator: Allocator, malloc: os::MallocInfo, trims: Trims) -> String {
        let mib = |bytes: u64| bytes * MIB;
        let malloc = os::MallocInfo {
            in_use: mib(malloc.in_use),
            mmapped: mib(malloc.mmapped),
            free: mib(malloc.free),
            trimmable: mib(malloc.trimmable),
            thread_tops: mib(malloc.thread_tops),
        };
        let (anonymous, live) = (mib(anonymous), mib(live));
        let figures = Figures { anonymous, live, malloc: Some(malloc), allocator, threads: 0, others: 0 };
        let retention = Retention { figures, trims, ..Retention::for_test(mib(16)) };
        let rss = os::Rss { total: ByteSize::bytes(anonymous), anonymous: ByteSize::bytes(anonymous) };
        let left = Left { rss: Some(rss), ..Left::for_test(live) };
        retention.found(&left).map_or_else(|| "none".to_owned(), |verdict| verdict.to_string())
    }

    fn glibc(anonymous: u64, live: u64, malloc: os::MallocInfo) -> String {
        verdict(anonymous, live, Allocator::Malloc { has_hook: false }, malloc, Trims::default())
    }

    #[test]
    fn free_pages_of_glibc_are_promised_to_a_trim_as_far_as_it_reaches() {
        let free = os::MallocInfo { in_use: 10, free: 90, trimmable: 80, ..NONE };
        assert_eq!(glibc(100, 9, free), "retaining 80.0 MiB beyond heap: trim");
        assert_eq!(glibc(40, 9, free), "retaining 20.0 MiB beyond heap: trim", "60 of the free ones are not resident");
        let small = os::MallocInfo { in_use: 10, free: 90, trimmable: 2, ..NONE };
        assert_eq!(glibc(100, 9, small), "none", "no remedy releases chunks smaller than a page");
        let left = Trims { left: 60 * MIB, ..Trims::default() };
        let after = |trims| verdict(100, 9, Allocator::Malloc { has_hook: false }, free, trims);
        assert_eq!(after(left), "retaining 31.0 MiB beyond heap: trim");
        assert_eq!(after(Trims { left: 91 * MIB, ..left }), "none");
    }

    #[test]
    fn free_ends_of_the_arenas_of_threads_ask_for_fewer_arenas() {
        let tops = os::MallocInfo { in_use: 10, free: 90, trimmable: 20, thread_tops: 65, ..NONE };
        assert_eq!(glibc(100, 9, tops), "retaining 20.0 MiB beyond heap: trim");
        let left = Trims { left: 91 * MIB, ..Trims::default() };
        let after = verdict(100, 9, Allocator::Malloc { has_hook: false }, tops, left);
        assert_eq!(after, "retaining 48.8 MiB beyond heap: MALLOC_ARENA_MAX");
    }

    #[test]
    fn blocks_and_mappings_of_native_code_are_outside() {
        let blocks = os::MallocInfo { in_use: 40, mmapped: 50, ..NONE };
        assert_eq!(glibc(92, 5, blocks), "outside 87.0 MiB beyond heap: C library");
        assert_eq!(glibc(92, 50, blocks), "none", "headers of small blocks are as many");
        assert_eq!(glibc(100, 9, os::MallocInfo { in_use: 10, ..NONE }), "outside 90.0 MiB beyond heap: C library");
        let other = |allocator| verdict(92, 5, allocator, blocks, Trims::default());
        for allocator in [Allocator::Hooked, Allocator::Other, Allocator::Counted(os::AllocatorPages::default())] {
            assert!(other(allocator).starts_with("outside 87"), "{allocator:?}: {}", other(allocator));
        }
        assert_eq!(other(Allocator::Unknown), "none");
    }

    #[test]
    fn statistics_of_an_allocator_tell_its_free_pages_from_mappings() {
        let counted = |anonymous, active, releasable| {
            let pages = os::AllocatorPages { active: active * MIB, releasable: releasable * MIB };
            verdict(anonymous, 5, Allocator::Counted(pages), NONE, Trims::default())
        };
        assert_eq!(counted(90, 6, 80), "retaining 80.0 MiB beyond heap: trim");
        assert_eq!(counted(90, 80, 3), "none", "pages with a block each");
        assert_eq!(counted(100, 8, 2), "outside 89.8 MiB beyond heap: C library");
    }

    #[test]
    fn a_hook_without_statistics_is_promised_by_experience() {
        let mut trims = Trims::default();
        let hooked = |trims| verdict(90, 5, Allocator::Hooked, NONE, trims);
        let end = End { anonymous: 90 * MIB, live: 5 * MIB, peak: 90 * MIB, concurrent: false, is_trimmed: false };
        trims.record(&end, &Figures::default());
        assert_eq!(hooked(trims), "none", "no trim yet");
        assert_eq!(hooked(Trims { helps: Some(true), ..trims }), "retaining 85.0 MiB beyond heap: trim");
        let failed = Trims { helps: Some(false), kept: 40 * MIB, left: 85 * MIB, ..trims };
        assert_eq!(hooked(failed), "none", "one thread");
    }

    #[test]
    fn other_processes_are_outside_beyond_the_share_of_the_environment() {
        let figures = Figures { others: 40 * MIB, ..Figures::default() };
        let found = |share| {
            let left = Left { rss: os::rss().ok(), ..Left::for_test(0) };
            Retention { share, figures, ..Retention::for_test(16 * MIB) }.found(&left)
        };
        if os::rss().is_err() {
            return;
        }
        let bytes = ByteSize::mib(40);
        assert_eq!(found(12 * MIB), Some(LeakVerdict::Outside { bytes, remedy: Remedy::ChildProcess }));
        assert_eq!(found(30 * MIB), None);
    }
}
