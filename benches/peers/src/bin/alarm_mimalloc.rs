//! Worker: the alarm over mimalloc.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use plimsoll::heap::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator<MiMalloc> = TrackingAllocator::over(MiMalloc);

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    plimsoll_peers::alarm::worker()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
