//! Worker: the service of the survival matrix over jemalloc.

use plimsoll::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator<tikv_jemallocator::Jemalloc> = TrackingAllocator::over(tikv_jemallocator::Jemalloc);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    plimsoll_peers::survival::serve(Some(plimsoll::os::trim_jemalloc))
}
