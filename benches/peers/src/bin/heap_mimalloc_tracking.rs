//! Worker: tracking-allocator over mimalloc, calling back a counter of live and peak.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use plimsoll_peers::heap::{Tally, worker};
use tracking_allocator::Allocator;

#[global_allocator]
static GLOBAL: Allocator<MiMalloc> = Allocator::from_allocator(MiMalloc);

fn main() -> ExitCode {
    match Tally::install() {
        Ok(tally) => worker(Some(tally)),
        Err(error) => {
            eprintln!("tracking-allocator: {error}");
            ExitCode::FAILURE
        }
    }
}
