//! Worker: the service of the survival matrix over mimalloc.

use plimsoll::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator<mimalloc::MiMalloc> = TrackingAllocator::over(mimalloc::MiMalloc);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    plimsoll_peers::survival::serve(Some(plimsoll::os::trim_mimalloc))
}
