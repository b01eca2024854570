//! The library's trim hook for jemalloc, with the real jemalloc as global allocator.
//!
//! It is here because this package links jemalloc already.

use plimsoll::{ByteSize, TrackingAllocator, os};
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static GLOBAL: TrackingAllocator<Jemalloc> = TrackingAllocator::over(Jemalloc);

#[test]
fn trim_jemalloc_freed_blocks_returns_the_fall_of_rss() -> Result<(), os::OsError> {
    os::set_trim_hook(os::trim_jemalloc);
    let blocks: Vec<Vec<u8>> = (0..64 << 10).map(|_| vec![1; 2048]).collect();
    drop(std::hint::black_box(blocks));
    let before = os::rss()?.total;
    let released = os::trim()?;
    let after = os::rss()?.total;
    assert!(before > ByteSize::mib(120), "the allocator keeps the pages: {before}");
    assert!(after < ByteSize::mib(24), "{before} before, {after} after");
    let fall = before.saturating_sub(after);
    assert!(released.as_u64().abs_diff(fall.as_u64()) < 1 << 20, "{released} returned, {before} before, {after} after");
    assert!(os::trim()? < ByteSize::mib(1), "a second trim has nothing to release");
    Ok(())
}
