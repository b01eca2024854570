//! Worker: the system's allocator alone.

use std::process::ExitCode;

use std::alloc::System;

#[global_allocator]
static GLOBAL: System = System;

fn main() -> ExitCode {
    plimsoll_peers::heap::worker(None)
}
