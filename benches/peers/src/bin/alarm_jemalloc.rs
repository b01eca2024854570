//! Worker: the alarm over jemalloc.

use std::process::ExitCode;

use plimsoll::heap::TrackingAllocator;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static GLOBAL: TrackingAllocator<Jemalloc> = TrackingAllocator::over(Jemalloc);

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    plimsoll_peers::alarm::worker()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
