//! The peak is reset while others allocate: it never falls below what they hold.

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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use support::{Block, Random, live, some_size};

support::tests! { a_reset_while_others_allocate_loses_no_spike_that_follows_it }

fn a_reset_while_others_allocate_loses_no_spike_that_follows_it() {
    let rounds = if cfg!(miri) { 10 } else { 3_000 };
    let churning = 2;
    let stop = AtomicBool::new(false);
    let (reset_done, spike_held) = (Barrier::new(2), Barrier::new(2));
    let base = live().unsigned_abs();
    let spike = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for me in 0..churning {
            let stop = &stop;
            scope.spawn(move || {
                let mut random = Random::new(me + 3);
                let mut blocks: Vec<Option<Block>> = (0..100).map(|_| None).collect();
                while !stop.load(SeqCst) {
                    let index = random.below(blocks.len());
                    blocks[index] = Some(Block::new(some_size(&mut random)));
                }
            });
        }
        let (stop, spike, reset_done, spike_held) = (&stop, &spike, &reset_done, &spike_held);
        scope.spawn(move || {
            let mut random = Random::new(99);
            for _ in 0..rounds {
                reset_done.wait();
                let size = 40_000_000 + random.below(1_000_000);
                spike.store(size as u64, SeqCst);
                // Gone again before anyone reads: only the peak can know of it.
                drop(Block::new(size));
                spike_held.wait();
            }
            stop.store(true, SeqCst);
        });
        for round in 0..rounds {
            heap::reset_peak();
            let after_reset = heap::stats().unwrap().peak;
            assert!(after_reset.at_most.as_u64() < 40_000_000, "round {round}: the last spike was forgotten");
            assert!(after_reset.at_least <= after_reset.at_most);
            reset_done.wait();
            // Races with the spike on purpose: this reset may or may not see it.
            if round % 3 == 0 {
                heap::reset_peak();
                spike_held.wait();
                continue;
            }
            spike_held.wait();
            let peak = heap::stats().unwrap().peak;
            let truth = base + spike.load(SeqCst);
            assert!(peak.at_most.as_u64() >= truth, "round {round}: {peak:?} is below {truth}");
        }
    });
    assert!(heap::stats().unwrap().peak.at_most >= ByteSize::bytes(base));
}
