//! A service over jemalloc, with the crate's trim hook.
#![cfg(target_os = "linux")]

use std::path::Path;

use plimsoll_newcomer::{build, command, output, program, text};

const MIB: u64 = 1 << 20;

#[test]
fn trim_jemalloc_freed_blocks_returns_the_fall_of_rss() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is inside of the target directory");
    let output = output(&mut command(&build("jemalloc", &program("jemalloc"), &[], target), &[]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let [before, after, released, again]: [u64; 4] = serde_json::from_slice(&output.stdout).expect("four numbers");
    assert!(before > 120 * MIB, "the allocator keeps the pages: {before}");
    assert!(after < 24 * MIB, "{before} before, {after} after");
    assert!(released.abs_diff(before - after) < MIB, "{released} returned, {before} before, {after} after");
    assert!(again < MIB, "{again} returned by a second trim");
}
