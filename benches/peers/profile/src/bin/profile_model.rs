//! Worker: this crate over an allocator that knows the exact bytes of each site.

use std::process::ExitCode;

use plimsoll::heap::{TrackingAllocator, profile};
use profile_workers::model::Model;

#[global_allocator]
static GLOBAL: TrackingAllocator<Model> = TrackingAllocator::over(Model::new());

fn main() -> ExitCode {
    profile_workers::model::worker(|interval| profile::start(interval).map_err(|error| error.to_string()))
}
