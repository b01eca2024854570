//! One thread alone: live and peak are exact to the byte, against a twin that adds and subtracts.

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

use support::{Block, Random, live, some_size};

support::tests! {
    a_lone_threads_live_and_peak_are_exact,
    a_reset_keeps_what_is_live,
    a_scope_takes_nothing_from_the_peak,
}

fn a_lone_threads_live_and_peak_are_exact() {
    let steps = if cfg!(miri) { 2_000 } else { 200_000 };
    let mut random = Random::new(1);
    let mut blocks: Vec<Block> = Vec::with_capacity(1_000);
    // The first reading of all looks whether the allocator is installed, with an allocation of its own.
    let base = live();
    heap::reset_peak();
    let (mut now, mut peak) = (base, base);
    for step in 0..steps {
        match random.below(10) {
            0..4 if blocks.len() < blocks.capacity() => {
                let align = 1 << random.below(8);
                let zeroed = random.below(2) == 0;
                let block = Block::with(some_size(&mut random), align, zeroed).unwrap();
                assert!(block.is_aligned());
                now += block.size() as i64;
                blocks.push(block);
            }
            4..8 if !blocks.is_empty() => {
                let block = blocks.swap_remove(random.below(blocks.len()));
                now -= block.size() as i64;
            }
            8 if !blocks.is_empty() => {
                let index = random.below(blocks.len());
                now -= blocks[index].size() as i64;
                assert!(blocks[index].resize(some_size(&mut random)));
                now += blocks[index].size() as i64;
            }
            9 if step % 64 == 9 => {
                heap::reset_peak();
                peak = now;
            }
            _ => {}
        }
        peak = peak.max(now);
        if step % 16 == 0 {
            let stats = heap::stats().unwrap();
            assert_eq!(stats.live.as_u64() as i64, now, "live at step {step}");
            assert_eq!(stats.peak.at_most.as_u64() as i64, peak, "peak at step {step}");
            assert_eq!(stats.peak.at_least, stats.peak.at_most, "a lone thread knows its peak, step {step}");
            assert_eq!(stats.allocated.checked_sub(stats.freed), Some(stats.live));
        }
    }
    drop(blocks);
}

fn a_reset_keeps_what_is_live() {
    let held = Block::new(1 << 20);
    drop(Block::new(3 << 20));
    heap::reset_peak();
    let stats = heap::stats().unwrap();
    assert_eq!(stats.peak.at_most, stats.live);
    assert_eq!(stats.peak.at_least, stats.live);
    assert!(stats.live >= ByteSize::mib(1));
    drop(held);
}

fn a_scope_takes_nothing_from_the_peak() {
    heap::reset_peak();
    let base = live();
    drop(Block::new(10_000));
    // The peak lies before the scope, in the same interval of credit.
    let ((), delta) = heap::scope(|| drop(Block::new(100)));
    assert_eq!(delta.unwrap().peak.as_u64(), 100);
    assert_eq!(heap::stats().unwrap().peak.at_most.as_u64() as i64, base + 10_000);
}
