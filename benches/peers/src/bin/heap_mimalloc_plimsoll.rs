//! Worker: this crate over mimalloc.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use plimsoll::heap::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator<MiMalloc> = TrackingAllocator::over(MiMalloc);

fn main() -> ExitCode {
    plimsoll_peers::heap::worker(Some(&GLOBAL))
}
