//! A forked child has the books of its parent at the fork, and keeps them right.

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

use std::sync::Barrier;

use support::{Block, in_child, live};

support::tests! { a_forked_child_books_on if cfg!(not(miri)), else "Miri has no fork" }

fn a_forked_child_books_on() {
    let (held, done) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let block = Block::new(1_000_000);
            held.wait();
            done.wait();
            drop(block);
        });
        held.wait();
        let before = live();
        let ended = in_child(|| {
            assert_eq!(live(), before, "the other thread's block was copied along");
            let block = Block::new(2_000_000);
            assert_eq!(live(), before + 2_000_000);
            heap::reset_peak();
            drop(block);
            assert_eq!(live(), before);
            assert!(heap::stats().unwrap().peak.at_most >= ByteSize::bytes(before.unsigned_abs() + 2_000_000));
            heap::set_limit(ByteSize::bytes(before.unsigned_abs() + 1_000_000)).unwrap();
            assert!(Block::with(1_000_001, 1, false).is_none());
        });
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(live(), before, "the parent's books know nothing of it");
        assert_eq!(heap::stats().unwrap().limit, None);
        done.wait();
    });
}
