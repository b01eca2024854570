//! Worker: this crate over the system's allocator.

use std::process::ExitCode;

use plimsoll::heap::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn main() -> ExitCode {
    plimsoll_peers::heap::worker(Some(&GLOBAL))
}
