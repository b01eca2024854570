//! A service over jemalloc that trims: prints rss before and after, and what the two trims returned, in bytes.

use plimsoll::{TrackingAllocator, os};
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static GLOBAL: TrackingAllocator<Jemalloc> = TrackingAllocator::over(Jemalloc);

fn main() -> Result<(), os::OsError> {
    os::set_trim_hook(os::trim_jemalloc);
    let blocks: Vec<Vec<u8>> = (0..64 << 10).map(|_| vec![1; 2048]).collect();
    drop(std::hint::black_box(blocks));
    let before = os::rss()?.total.as_u64();
    let released = os::trim()?.as_u64();
    let after = os::rss()?.total.as_u64();
    let again = os::trim()?.as_u64();
    println!("[{before},{after},{released},{again}]");
    Ok(())
}
