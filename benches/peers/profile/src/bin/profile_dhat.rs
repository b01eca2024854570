//! Worker: dhat over the system's allocator, with the profile on.

use std::process::ExitCode;

use dhat::Alloc;

#[global_allocator]
static GLOBAL: Alloc = Alloc;

fn main() -> ExitCode {
    let profiler = dhat::Profiler::builder().testing().build();
    let code = profile_workers::worker(&[], |_| Err("this worker has no profile of ours".to_owned()));
    drop(profiler);
    code
}
