//! The trim hook for jemalloc, with jemalloc as the global allocator.
#![allow(unsafe_code, clippy::unwrap_used, reason = "a test, with the support of the allocator tests")]

mod support;
#[path = "support/trimmed.rs"]
mod trimmed;

use plimsoll::os;

#[cfg(all(target_os = "linux", not(miri)))]
#[global_allocator]
static GLOBAL: plimsoll::TrackingAllocator<tikv_jemallocator::Jemalloc> =
    plimsoll::TrackingAllocator::over(tikv_jemallocator::Jemalloc);

const HAS_RSS: bool = cfg!(all(target_os = "linux", not(miri)));

support::tests! {
    trim_freed_blocks_returns_the_fall_of_rss if HAS_RSS, else "needs rss and jemalloc",
    trim_twice_releases_nothing if HAS_RSS, else "needs rss and jemalloc",
}

fn trim_freed_blocks_returns_the_fall_of_rss() {
    trimmed::assert_trim_releases_freed_blocks(os::trim_jemalloc);
}

fn trim_twice_releases_nothing() {
    trimmed::assert_second_trim_releases_nothing();
}
