//! Worker: cap over mimalloc.

use std::process::ExitCode;

use cap::Cap;
use mimalloc::MiMalloc;

#[global_allocator]
static GLOBAL: Cap<MiMalloc> = Cap::new(MiMalloc, usize::MAX);

fn main() -> ExitCode {
    plimsoll_peers::heap::worker(Some(&GLOBAL))
}
