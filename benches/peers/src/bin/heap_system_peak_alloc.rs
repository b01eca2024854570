//! Worker: peak_alloc, which works over the system's allocator only.

use std::process::ExitCode;

use peak_alloc::PeakAlloc;

#[global_allocator]
static GLOBAL: PeakAlloc = PeakAlloc;

fn main() -> ExitCode {
    plimsoll_peers::heap::worker(Some(&GLOBAL))
}
