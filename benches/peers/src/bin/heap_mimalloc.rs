//! Worker: mimalloc alone.

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static GLOBAL: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    plimsoll_peers::heap::worker(None)
}
