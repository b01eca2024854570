//! How each allocator is asked for its figures.

use std::alloc::GlobalAlloc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cap::Cap;
use peak_alloc::PeakAlloc;
use plimsoll::ByteSize;
use plimsoll::heap::{self, TrackingAllocator};
use stats_alloc::StatsAlloc;
use tracking_allocator::{AllocationGroupId, AllocationRegistry, AllocationTracker, SetTrackerError};

use super::books::{Books, Bracket};

impl<A: GlobalAlloc + Sync> Books for TrackingAllocator<A> {
    fn live(&self) -> u64 {
        heap::stats().map_or(0, |stats| stats.live.as_u64())
    }

    fn peak(&self) -> Option<Bracket> {
        let peak = heap::stats().ok()?.peak;
        Some(Bracket { at_least: peak.at_least.as_u64(), at_most: peak.at_most.as_u64() })
    }

    fn reset_peak(&self) {
        heap::reset_peak();
    }

    fn set_limit(&self, bytes: u64) -> bool {
        heap::set_limit(ByteSize::bytes(bytes)).is_ok()
    }

    fn clear_limit(&self) {
        heap::clear_limit();
    }

    fn read_rss(&self) -> bool {
        plimsoll::os::rss().is_ok()
    }
}

/// Without its feature `stats`, as it is quickest; with it there is a peak, but none that can be reset.
impl<A: Sync> Books for Cap<A> {
    fn live(&self) -> u64 {
        self.allocated() as u64
    }

    fn set_limit(&self, bytes: u64) -> bool {
        Cap::set_limit(self, bytes as usize).is_ok()
    }

    fn clear_limit(&self) {
        // Raising the limit cannot fail.
        let _ = Cap::set_limit(self, usize::MAX);
    }
}

impl Books for PeakAlloc {
    fn live(&self) -> u64 {
        self.current_usage() as u64
    }

    fn peak(&self) -> Option<Bracket> {
        let peak = self.peak_usage() as u64;
        Some(Bracket { at_least: peak, at_most: peak })
    }

    fn reset_peak(&self) {
        self.reset_peak_usage();
    }
}

impl<A: GlobalAlloc + Sync> Books for StatsAlloc<A> {
    fn live(&self) -> u64 {
        let stats = self.stats();
        (stats.bytes_allocated as u64).wrapping_sub(stats.bytes_deallocated as u64)
    }
}

/// The least that tracking-allocator, which calls back and counts nothing itself, needs to be compared: live and peak.
#[derive(Debug)]
pub struct Tally {
    live: AtomicU64,
    peak: AtomicU64,
}

// A tracker is owned by the registry, so what it counts lies beside it.
static TALLY: Tally = Tally { live: AtomicU64::new(0), peak: AtomicU64::new(0) };

impl Tally {
    /// Turns the counting on and returns the counter.
    ///
    /// # Errors
    /// If a tracker has been set before.
    pub fn install() -> Result<&'static Self, SetTrackerError> {
        AllocationRegistry::set_global_tracker(CallBack)?;
        AllocationRegistry::enable_tracking();
        Ok(&TALLY)
    }
}

struct CallBack;

impl AllocationTracker for CallBack {
    fn allocated(&self, _: usize, size: usize, _: usize, _: AllocationGroupId) {
        let live = TALLY.live.fetch_add(size as u64, Relaxed).wrapping_add(size as u64);
        // What was allocated before the counting began may be freed after: then live is below zero, not a peak.
        if live as i64 > TALLY.peak.load(Relaxed) as i64 {
            TALLY.peak.fetch_max(live, Relaxed);
        }
    }

    fn deallocated(&self, _: usize, size: usize, _: usize, _: AllocationGroupId, _: AllocationGroupId) {
        TALLY.live.fetch_sub(size as u64, Relaxed);
    }
}

impl Books for Tally {
    fn live(&self) -> u64 {
        self.live.load(Relaxed)
    }

    fn peak(&self) -> Option<Bracket> {
        let peak = self.peak.load(Relaxed);
        Some(Bracket { at_least: peak, at_most: peak })
    }

    fn reset_peak(&self) {
        self.peak.store(self.live.load(Relaxed), Relaxed);
    }
}
