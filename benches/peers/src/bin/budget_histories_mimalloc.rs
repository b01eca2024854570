//! Worker: histories of a budget over mimalloc.

use mimalloc::MiMalloc;
use plimsoll::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator<MiMalloc> = TrackingAllocator::over(MiMalloc);

fn main() {
    plimsoll_peers::histories::worker(Some(plimsoll::os::trim_mimalloc));
}
