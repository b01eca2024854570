//! Worker: tracking-allocator over the system's allocator, calling back a counter of live and peak.

use std::alloc::System;
use std::process::ExitCode;

use plimsoll_peers::heap::{Tally, worker};
use tracking_allocator::Allocator;

#[global_allocator]
static GLOBAL: Allocator<System> = Allocator::from_allocator(System);

fn main() -> ExitCode {
    match Tally::install() {
        Ok(tally) => worker(Some(tally)),
        Err(error) => {
            eprintln!("tracking-allocator: {error}");
            ExitCode::FAILURE
        }
    }
}
