//! Eight threads race for the last bytes under a limit, and the true sum never passes it.

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
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use support::{Block, Random, live};

/// Bytes left under the limit when the race begins.
const ROOM: usize = 2_000_000;

support::tests! { eight_threads_racing_for_the_last_bytes_never_pass_the_limit }

fn eight_threads_racing_for_the_last_bytes_never_pass_the_limit() {
    let threads = if cfg!(miri) { 3 } else { 8 };
    let steps = if cfg!(miri) { 150 } else { 100_000 };
    let ready = Barrier::new(threads + 1);
    // Raised after a block came and lowered before it goes: never above what is truly held.
    let (held, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (granted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let free = |block: Option<Block>| {
        held.fetch_sub(block.as_ref().map_or(0, Block::size), SeqCst);
        drop(block);
    };
    std::thread::scope(|scope| {
        for me in 0..threads {
            let (ready, held, most, granted, refused, free) = (&ready, &held, &most, &granted, &refused, &free);
            scope.spawn(move || {
                let mut random = Random::new(me as u64 + 1);
                let mut blocks: Vec<Block> = Vec::with_capacity(steps);
                ready.wait();
                ready.wait();
                for _ in 0..steps {
                    if random.below(100) < 55 {
                        if let Some(block) = Block::with(1 + random.below(60_000), 1, false) {
                            let now = held.fetch_add(block.size(), SeqCst) + block.size();
                            most.fetch_max(now, SeqCst);
                            granted.fetch_add(1, SeqCst);
                            blocks.push(block);
                        } else {
                            refused.fetch_add(1, SeqCst);
                        }
                    } else {
                        free(blocks.pop());
                    }
                }
                blocks.drain(..).for_each(|block| free(Some(block)));
                ready.wait();
                // `blocks` itself is on the books until the main thread has looked.
                ready.wait();
            });
        }
        ready.wait();
        let base = live();
        heap::set_limit(ByteSize::bytes(base.unsigned_abs()).saturating_add(ByteSize::bytes(ROOM as u64))).unwrap();
        ready.wait();
        ready.wait();
        heap::clear_limit();
        assert_eq!(live(), base, "every byte is back");
        ready.wait();
    });
    let (most, refused) = (most.into_inner(), refused.into_inner());
    assert!(most <= ROOM, "{most} bytes held under a limit of {ROOM}");
    assert!(refused > 0 && granted.into_inner() > 0, "the race was for the last bytes");
    assert_eq!(heap::stats().unwrap().refused, refused);
    // Credit of other threads may refuse early, by no more than this.
    assert!(cfg!(miri) || most + (threads + 1) * 32 * 1024 + 60_000 >= ROOM, "only {most} of {ROOM} could be had");
}
