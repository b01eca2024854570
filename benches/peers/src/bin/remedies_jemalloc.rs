//! Worker: a cause of memory beyond the heap and its remedy, over jemalloc.

use plimsoll::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator<tikv_jemallocator::Jemalloc> = TrackingAllocator::over(tikv_jemallocator::Jemalloc);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    plimsoll_peers::remedies::program(Some(plimsoll::os::trim_jemalloc))
}
