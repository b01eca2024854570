//! The trim hook for mimalloc, with mimalloc as the global allocator.
#![allow(unsafe_code, clippy::unwrap_used, reason = "a test, with the support of the allocator tests")]

mod support;
#[path = "support/trimmed.rs"]
mod trimmed;

use plimsoll::os;

#[cfg(all(target_os = "linux", not(miri)))]
#[global_allocator]
static GLOBAL: plimsoll::TrackingAllocator<mimalloc::MiMalloc> = plimsoll::TrackingAllocator::over(mimalloc::MiMalloc);

const HAS_RSS: bool = cfg!(all(target_os = "linux", not(miri)));

support::tests! {
    trim_freed_blocks_returns_the_fall_of_rss if HAS_RSS, else "needs rss and mimalloc",
    trim_twice_releases_nothing if HAS_RSS, else "needs rss and mimalloc",
}

fn trim_freed_blocks_returns_the_fall_of_rss() {
    trimmed::assert_trim_releases_freed_blocks(os::trim_mimalloc);
}

fn trim_twice_releases_nothing() {
    trimmed::assert_second_trim_releases_nothing();
}
