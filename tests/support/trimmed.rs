//! The assertions of the tests of the trim hooks. Each allocator needs a process of its own.
#![allow(unreachable_pub, reason = "each test binary includes this file")]

use plimsoll::{ByteSize, os};

/// Checks that `os::trim` with `hook` releases most of 128 MiB of freed blocks, and returns the fall of rss.
pub fn assert_trim_releases_freed_blocks(hook: fn()) {
    let rss = || os::rss().unwrap().total;
    os::set_trim_hook(hook);
    let mut blocks: Vec<Box<[u8; 2048]>> = Vec::with_capacity(64 << 10);
    for _ in 0..blocks.capacity() {
        blocks.push(std::hint::black_box(Box::new([1; 2048])));
    }
    drop(blocks);
    let before = rss();
    assert!(before > ByteSize::mib(120), "the allocator keeps the pages: rss {before}");
    let released = os::trim().unwrap();
    let after = rss();
    assert!(after < ByteSize::mib(24), "rss {before} before, {after} after");
    let fell = before.saturating_sub(after).as_u64();
    assert!(released.as_u64().abs_diff(fell) < 1 << 20, "{released} returned, rss {before} before, {after} after");
}

/// Checks that `os::trim` returns 0 or little if there is nothing to release.
pub fn assert_second_trim_releases_nothing() {
    os::trim().unwrap();
    let released = os::trim().unwrap();
    assert!(released < ByteSize::mib(1), "{released}");
}
