//! Worker: the system's allocator alone.

use std::alloc::System;
use std::process::ExitCode;

#[global_allocator]
static GLOBAL: System = System;

fn main() -> ExitCode {
    profile_workers::worker(&[], |_| Err("this worker has no profile of ours".to_owned()))
}
