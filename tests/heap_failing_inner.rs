//! An inner allocator that fails: every method passes its null on and leaves the books as they were.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test: it allocates by hand, counts in signed bytes and stops at the first surprise"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use plimsoll::{TrackingAllocator, heap};
use support::{Block, live};

/// Fails every request of a telltale size class while `FAIL` is set.
struct Flaky;

static FAIL: AtomicBool = AtomicBool::new(false);

fn fails(size: usize) -> bool {
    FAIL.load(SeqCst) && size > 1_000 && size % 1_000 == 7
}

// SAFETY: forwards to `System`, or returns null and does nothing.
unsafe impl GlobalAlloc for Flaky {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        if fails(layout.size()) { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        if fails(layout.size()) { std::ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(block, layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract.
        if fails(size) { std::ptr::null_mut() } else { unsafe { System.realloc(block, layout, size) } }
    }
}

#[global_allocator]
static GLOBAL: TrackingAllocator<Flaky> = TrackingAllocator::over(Flaky);

support::tests! { what_the_inner_allocator_fails_leaves_no_trace_but_the_refusal }

fn what_the_inner_allocator_fails_leaves_no_trace_but_the_refusal() {
    let mut block = Block::new(5_000);
    heap::reset_peak();
    let before = heap::stats().unwrap();
    FAIL.store(true, SeqCst);
    let mut refused = 0;
    // Small sizes spend credit, large ones book on the line; both must be taken back.
    for size in [1_007, 20_007, 100_007, 50_000_007, isize::MAX as usize / 1000 * 1000 - 1000 + 7] {
        for zeroed in [false, true] {
            for align in [1, 64] {
                assert!(Block::with(size, align, zeroed).is_none(), "{size} bytes");
                refused += 1;
            }
        }
        if size > block.size() {
            assert!(!block.resize(size), "{size} bytes");
            refused += 1;
        }
        assert_eq!(live(), before.live.as_u64() as i64, "live after {size} bytes failed");
    }
    assert!(!block.resize(1_007), "making it smaller fails too");
    refused += 1;
    FAIL.store(false, SeqCst);
    let after = heap::stats().unwrap();
    assert_eq!(block.size(), 5_000);
    assert_eq!(after.live, before.live);
    assert_eq!(after.allocated, before.allocated);
    assert_eq!(after.freed, before.freed);
    assert_eq!(after.refused - before.refused, refused);
    assert!(after.peak.at_most.as_u64() <= before.peak.at_most.as_u64() + 32 * 1024, "{after:?}");
    assert!(block.resize(10_000));
    assert_eq!(live(), before.live.as_u64() as i64 + 5_000);
}
