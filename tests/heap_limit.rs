//! Under a limit `try_reserve` sees an error in silence, and what cannot cope aborts as Rust does.

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

use plimsoll::{ByteSize, TrackingAllocator, heap};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

use support::{Block, in_child, live};

support::tests! {
    try_reserve_sees_the_limit_in_silence if cfg!(not(miri)), else "Miri has no fork",
    what_cannot_cope_aborts_as_rust_does if cfg!(not(miri)), else "Miri has no fork",
    a_limit_below_what_is_live_waits_for_frees,
    a_huge_request_neither_passes_nor_leaves_a_mark,
}

fn try_reserve_sees_the_limit_in_silence() {
    let ended = in_child(try_reserve_sees_the_limit);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "nothing is printed");
}

fn what_cannot_cope_aborts_as_rust_does() {
    let ended = in_child(|| {
        heap::set_limit(ByteSize::mib(8)).unwrap();
        let zeros = vec![0u8; std::hint::black_box(16 << 20)];
        drop(zeros);
    });
    assert_eq!(ended.signal, Some(libc::SIGABRT));
    assert!(ended.stderr.contains("memory allocation of 16777216 bytes failed"), "{}", ended.stderr);
}

fn try_reserve_sees_the_limit() {
    let limit = ByteSize::bytes(live().unsigned_abs()).saturating_add(ByteSize::mib(1));
    heap::set_limit(limit).unwrap();
    assert_eq!(heap::stats().unwrap().limit, Some(limit));
    let mut vec = Vec::<u8>::new();
    assert!(vec.try_reserve_exact(2 << 20).is_err());
    assert!(vec.try_reserve_exact(512 << 10).is_ok());
    assert!(vec.try_reserve_exact(2 << 20).is_err(), "growing in place is refused too");
    assert_eq!(vec.capacity(), 512 << 10, "and leaves the vector as it was");
    let stats = heap::stats().unwrap();
    assert_eq!(stats.refused, 2);
    assert_eq!(stats.largest_refused.as_u64(), 2 << 20);
    assert!(stats.peak.at_most <= limit);
    heap::clear_limit();
    assert_eq!(heap::stats().unwrap().limit, None);
    assert!(vec.try_reserve_exact(2 << 20).is_ok());
}

fn a_limit_below_what_is_live_waits_for_frees() {
    let held = Block::new(4 << 20);
    let below = live() - (2 << 20);
    heap::set_limit(ByteSize::bytes(below.unsigned_abs())).unwrap();
    assert!(Block::with(100_000, 1, false).is_none());
    drop(held);
    assert!(Block::with(100_000, 1, false).is_some());
    heap::set_limit(ByteSize::ZERO).unwrap();
    assert!(Block::with(100_000, 1, false).is_none(), "zero leaves no room");
    heap::set_limit(ByteSize::MAX).unwrap();
    assert_eq!(heap::stats().unwrap().limit, None, "the largest size is no limit");
}

fn a_huge_request_neither_passes_nor_leaves_a_mark() {
    heap::set_limit(ByteSize::mib(64)).unwrap();
    heap::reset_peak();
    let before = live();
    for size in [isize::MAX as usize, isize::MAX as usize - 4096, 65 << 20] {
        assert!(Block::with(size, 1, false).is_none());
        assert!(Block::with(size, 1, true).is_none());
    }
    assert_eq!(live(), before);
    assert!(heap::stats().unwrap().peak.at_most < ByteSize::mib(64));
}
