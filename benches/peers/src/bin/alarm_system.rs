//! Worker: the alarm over the system's allocator.

use std::process::ExitCode;

use plimsoll::heap::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    plimsoll_peers::alarm::worker()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
