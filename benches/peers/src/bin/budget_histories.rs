//! Worker: histories of a budget over the system's allocator.

use plimsoll::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn main() {
    plimsoll_peers::histories::worker(None);
}
