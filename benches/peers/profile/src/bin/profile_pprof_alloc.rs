//! Worker: pprof-alloc over the system's allocator, with the profile on.

use std::process::ExitCode;

use pprof_alloc::PprofAlloc;

#[global_allocator]
static GLOBAL: PprofAlloc = PprofAlloc::new().with_pprof();

fn main() -> ExitCode {
    profile_workers::worker(&[], |_| Err("this worker has no profile of ours".to_owned()))
}
