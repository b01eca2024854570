//! Worker: the service of the survival matrix over system.

use plimsoll::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn main() -> Result<(), Box<dyn std::error::Error>> {
    plimsoll_peers::survival::serve(None)
}
