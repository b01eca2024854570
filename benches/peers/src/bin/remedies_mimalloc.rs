//! Worker: a cause of memory beyond the heap and its remedy, over mimalloc.

use plimsoll::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator<mimalloc::MiMalloc> = TrackingAllocator::over(mimalloc::MiMalloc);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    plimsoll_peers::remedies::program(Some(plimsoll::os::trim_mimalloc))
}
