//! Worker: a cause of memory beyond the heap and its remedy, over glibc's allocator.

use plimsoll::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn main() -> Result<(), Box<dyn std::error::Error>> {
    plimsoll_peers::remedies::program(None)
}
