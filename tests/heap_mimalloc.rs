//! Over another allocator: the books are as exact over mimalloc as over the system's.

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

use plimsoll::{TrackingAllocator, heap};
use support::{Block, Random, live, some_size};

#[cfg(not(miri))]
#[global_allocator]
static GLOBAL: TrackingAllocator<mimalloc::MiMalloc> = TrackingAllocator::over(mimalloc::MiMalloc);

#[cfg(miri)]
#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

support::tests! { live_is_exact_over_mimalloc if cfg!(not(miri)), else "mimalloc is C, which Miri does not run" }

fn live_is_exact_over_mimalloc() {
    let mut random = Random::new(5);
    let mut blocks: Vec<Block> = Vec::with_capacity(2_000);
    heap::reset_peak();
    let base = live();
    let mut peak = 0;
    let held = |blocks: &[Block]| blocks.iter().map(|block| block.size() as i64).sum::<i64>();
    for _ in 0..20_000 {
        match random.below(3) {
            0 if blocks.len() < blocks.capacity() => {
                let align = 1 << random.below(13);
                let block = Block::with(some_size(&mut random), align, random.below(2) == 0).unwrap();
                assert!(block.is_aligned());
                blocks.push(block);
            }
            1 if !blocks.is_empty() => drop(blocks.swap_remove(random.below(blocks.len()))),
            _ if !blocks.is_empty() => {
                let index = random.below(blocks.len());
                assert!(blocks[index].resize(some_size(&mut random)));
            }
            _ => {}
        }
        peak = peak.max(held(&blocks));
    }
    assert_eq!(live() - base, held(&blocks));
    let seen = heap::stats().unwrap().peak;
    assert!(seen.at_least.as_u64() as i64 <= base + peak && base + peak <= seen.at_most.as_u64() as i64, "{seen:?}");
    blocks.clear();
    assert_eq!(live(), base);
}
