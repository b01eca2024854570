//! Worker: this crate over mimalloc.

#[cfg(feature = "service")]
mod planted;

use std::process::ExitCode;

use mimalloc::MiMalloc;
use plimsoll::ByteSize;
use plimsoll::heap::TrackingAllocator;
#[cfg(feature = "profile")]
use plimsoll::heap::profile;

#[global_allocator]
static GLOBAL: TrackingAllocator<MiMalloc> = TrackingAllocator::over(MiMalloc);

fn main() -> ExitCode {
    #[cfg(feature = "service")]
    let leaks = planted::LEAKS;
    #[cfg(not(feature = "service"))]
    let leaks = &[];
    profile_workers::worker(leaks, start)
}

/// Starts the profile in the program's own crate, as a service does.
#[cfg(feature = "profile")]
fn start(interval: ByteSize) -> Result<(), String> {
    profile::start(interval).map_err(|error| error.to_string())
}

#[cfg(not(feature = "profile"))]
fn start(_: ByteSize) -> Result<(), String> {
    Err("this worker has no profile".to_owned())
}
