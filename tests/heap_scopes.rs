//! Scopes: nested, unwinding, on several threads, and following a future from thread to thread.

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

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};

use support::{Block, Random, some_size};

support::tests! {
    a_scope_tells_sums_and_peak,
    nested_scopes_each_see_their_own_peak,
    a_panic_in_a_scope_leaves_the_outer_scope_right,
    random_nested_scopes_agree_with_a_twin,
    a_scope_sees_its_own_thread_only,
    a_future_is_followed_across_threads,
    assert_peak_passes_and_fails,
}

fn a_scope_tells_sums_and_peak() {
    let outside = Block::new(300_000);
    let (kept, delta) = heap::scope(|| {
        drop(outside);
        let mut kept = Block::new(1_000);
        drop(Block::new(500_000));
        assert!(kept.resize(3_000));
        assert!(kept.resize(2_000));
        kept
    });
    let delta = delta.unwrap();
    assert_eq!(delta.allocated, ByteSize::bytes(1_000 + 500_000 + 2_000));
    assert_eq!(delta.freed, ByteSize::bytes(300_000 + 500_000 + 1_000));
    assert_eq!(delta.retained.as_i64(), 2_000 - 300_000);
    assert_eq!(delta.peak, ByteSize::bytes(501_000 - 300_000), "above where the scope began");
    drop(kept);
}

fn nested_scopes_each_see_their_own_peak() {
    let ((), outer) = heap::scope(|| {
        let held = Block::new(10_000);
        let ((), inner) = heap::scope(|| drop(Block::new(700)));
        assert_eq!(inner.unwrap().peak.as_u64(), 700);
        drop(held);
        let ((), inner) = heap::scope(|| drop(Block::new(60_000)));
        assert_eq!(inner.unwrap().peak.as_u64(), 60_000);
        let ((), inner) = heap::scope(|| {});
        assert_eq!(inner.unwrap().peak.as_u64(), 0);
    });
    let outer = outer.unwrap();
    assert_eq!((outer.peak.as_u64(), outer.retained.as_i64()), (60_000, 0));
    assert_eq!(outer.allocated.as_u64(), 70_700);
}

fn a_panic_in_a_scope_leaves_the_outer_scope_right() {
    // `resume_unwind` unwinds without the hook, whose message would allocate.
    let ((), outer) = heap::scope(|| {
        let held = Block::new(5_000);
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            heap::scope(|| {
                let _held = Block::new(90_000);
                std::panic::resume_unwind(Box::new(()));
            })
        }));
        assert!(unwound.is_err());
        drop(unwound);
        drop(held);
    });
    let outer = outer.unwrap();
    assert!((95_000..97_000).contains(&outer.peak.as_u64()), "{outer}");
    assert_eq!(outer.retained.as_i64(), 0);
}

/// The twin: a stack of `(net at start, highest net seen)`.
fn random_nested_scopes_agree_with_a_twin() {
    fn nest(random: &mut Random, depth: usize, net: &mut i64, blocks: &mut Vec<Block>) -> i64 {
        let start = *net;
        let mut highest = start;
        let ((), delta) = heap::scope(|| {
            for _ in 0..random.below(40) {
                match random.below(10) {
                    0..5 if blocks.len() < blocks.capacity() => {
                        blocks.push(Block::new(some_size(random)));
                        *net += blocks.last().unwrap().size() as i64;
                    }
                    5..9 if !blocks.is_empty() => {
                        *net -= blocks.swap_remove(random.below(blocks.len())).size() as i64;
                    }
                    9 if depth < 5 => highest = highest.max(nest(random, depth + 1, net, blocks)),
                    _ => {}
                }
                highest = highest.max(*net);
                if random.below(50) == 0 {
                    heap::reset_peak();
                }
            }
        });
        let delta = delta.unwrap();
        assert_eq!(delta.retained.as_i64(), *net - start);
        assert_eq!(delta.peak.as_u64() as i64, highest - start);
        assert_eq!(delta.allocated.as_u64() as i64 - delta.freed.as_u64() as i64, *net - start);
        highest
    }
    let mut blocks = Vec::with_capacity(500);
    let mut net = 0;
    for seed in 0..if cfg!(miri) { 5 } else { 3_000 } {
        nest(&mut Random::new(seed), 0, &mut net, &mut blocks);
    }
}

fn a_scope_sees_its_own_thread_only() {
    let block = Block::new(1);
    let ((), delta) = heap::scope(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (block, delta) = heap::scope(|| Block::new(1_000_000));
                assert_eq!(delta.unwrap().retained.as_i64(), 1_000_000);
                drop(block);
            });
        });
    });
    assert!(delta.unwrap().peak < ByteSize::kib(100), "only what spawning needs");
    drop(block);
}

fn a_future_is_followed_across_threads() {
    /// Pending once, so that the next poll can happen elsewhere.
    struct Once(bool);
    impl Future for Once {
        type Output = ();
        fn poll(mut self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
        }
    }
    let mut future = Box::pin(heap::scope_async(async {
        let first = Block::new(100_000);
        Once(false).await;
        let second = Block::new(50_000);
        Once(false).await;
        drop(first);
        second
    }));
    let mut output = None;
    while output.is_none() {
        future = std::thread::scope(|scope| {
            let poll = scope.spawn(|| {
                if let Poll::Ready(ready) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    output = Some(ready);
                }
                future
            });
            poll.join().unwrap()
        });
    }
    let (second, delta) = output.unwrap();
    let delta = delta.unwrap();
    assert_eq!(delta.allocated.as_u64(), 150_000);
    assert_eq!(delta.freed.as_u64(), 100_000);
    assert_eq!((delta.retained.as_i64(), delta.peak.as_u64()), (50_000, 150_000));
    drop(second);
}

fn assert_peak_passes_and_fails() {
    let sum = heap::assert_peak(ByteSize::kib(1), || Block::new(1_000).size());
    assert_eq!(sum, 1_000);
    std::panic::set_hook(Box::new(|_| {}));
    let failed = catch_unwind(|| heap::assert_peak(ByteSize::kib(1), || drop(Block::new(2_000))));
    drop(std::panic::take_hook());
    let message = *failed.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("heap_scopes.rs") && message.contains("over 1.0 KiB"), "{message}");
}
