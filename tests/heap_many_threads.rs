//! More threads than slots, and threads that come and go: nothing is lost and nothing is leaked.

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

use plimsoll::TrackingAllocator;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

use std::sync::Barrier;

use support::{Block, live};

support::tests! {
    two_hundred_threads_at_once_share_128_slots,
    what_exited_threads_left_stays_on_the_books_until_freed,
    a_thread_may_begin_by_freeing,
}

fn two_hundred_threads_at_once_share_128_slots() {
    let threads = if cfg!(miri) { 130 } else { 200 };
    let (held, checked) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    held.wait();
                    checked.wait();
                    let mut block = Block::new(70_000);
                    held.wait();
                    checked.wait();
                    assert!(block.resize(30_000));
                    held.wait();
                    checked.wait();
                    drop(block);
                    held.wait();
                    checked.wait();
                })
            })
            .collect();
        held.wait();
        let base = live();
        for expected in [70_000, 30_000, 0] {
            checked.wait();
            held.wait();
            assert_eq!(live() - base, expected * threads as i64, "bytes held by {threads} threads");
        }
        checked.wait();
        for handle in handles {
            handle.join().unwrap();
        }
    });
}

fn what_exited_threads_left_stays_on_the_books_until_freed() {
    let threads = if cfg!(miri) { 20 } else { 200 };
    let mut left: Vec<Block> = Vec::with_capacity(threads);
    // `JoinHandle::join`, unlike the end of a scope, waits for the thread's destructors.
    let run = |size| std::thread::spawn(move || Block::new(size)).join().unwrap();
    left.push(run(1));
    let base = live() - 1;
    for size in 2..=threads {
        left.push(run(size));
    }
    let sum = (threads * (threads + 1) / 2) as i64;
    assert_eq!(live() - base, sum);
    left.clear();
    assert_eq!(live() - base, 0);
}

fn a_thread_may_begin_by_freeing() {
    let base = live();
    let block = Block::new(100_000);
    std::thread::spawn(move || drop(block)).join().unwrap();
    assert_eq!(live(), base);
}
