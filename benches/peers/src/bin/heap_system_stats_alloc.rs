//! Worker: stats_alloc over the system's allocator.

use std::alloc::System;
use std::process::ExitCode;

use stats_alloc::StatsAlloc;

#[global_allocator]
static GLOBAL: StatsAlloc<System> = StatsAlloc::system();

fn main() -> ExitCode {
    plimsoll_peers::heap::worker(Some(&GLOBAL))
}
