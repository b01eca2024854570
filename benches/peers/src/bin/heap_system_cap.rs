//! Worker: cap over the system's allocator.

use std::alloc::System;
use std::process::ExitCode;

use cap::Cap;

#[global_allocator]
static GLOBAL: Cap<System> = Cap::new(System, usize::MAX);

fn main() -> ExitCode {
    plimsoll_peers::heap::worker(Some(&GLOBAL))
}
