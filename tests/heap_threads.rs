//! Many threads: live is exact at rest, the peak lies in its bracket, whoever frees what.

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

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

use std::sync::{Barrier, Mutex};

use support::{Block, Random, live, some_size};

support::tests! {
    live_is_exact_at_rest_and_the_bracket_holds_whoever_frees_what,
    a_peak_held_by_all_threads_at_once_lies_in_the_bracket,
}

fn live_is_exact_at_rest_and_the_bracket_holds_whoever_frees_what() {
    let threads = if cfg!(miri) { 3 } else { 8 };
    let (rounds, steps) = if cfg!(miri) { (2, 60) } else { (20, 5_000) };
    let pool: Vec<Mutex<Vec<Block>>> = (0..threads).map(|_| Mutex::new(Vec::with_capacity(10_000))).collect();
    let quiet = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        for me in 0..threads {
            let (pool, quiet) = (&pool, &quiet);
            scope.spawn(move || {
                let mut random = Random::new(me as u64 + 7);
                quiet.wait();
                quiet.wait();
                for _ in 0..rounds {
                    for _ in 0..steps {
                        // Allocate into any thread's pool, free from any: much is freed where it was not allocated.
                        let other = random.below(threads);
                        if random.below(5) < 3 {
                            let block = Block::new(some_size(&mut random));
                            let mut pool = pool[other].lock().unwrap();
                            if pool.len() < pool.capacity() {
                                pool.push(block);
                            }
                        } else {
                            let freed = pool[other].lock().unwrap().pop();
                            drop(freed);
                        }
                    }
                    quiet.wait();
                    quiet.wait();
                }
            });
        }
        let held = || pool.iter().map(|p| p.lock().unwrap().iter().map(|b| b.size() as i64).sum::<i64>()).sum::<i64>();
        // Every thread is up, which needs memory of its own, and waits.
        quiet.wait();
        let base = live();
        quiet.wait();
        for round in 0..rounds {
            quiet.wait();
            let stats = heap::stats().unwrap();
            assert_eq!(live() - base, held(), "live at rest, round {round}");
            assert!(stats.live <= stats.peak.at_most);
            let bracket = stats.peak.at_most.as_u64() - stats.peak.at_least.as_u64();
            assert!(bracket <= (threads as u64 + 2) * 32 * 1024, "bracket {bracket}");
            quiet.wait();
        }
    });
    drop(pool);
}

fn a_peak_held_by_all_threads_at_once_lies_in_the_bracket() {
    const SPIKE: usize = 1_000_000;
    let threads = if cfg!(miri) { 2 } else { 8 };
    let (start, full, end) = (Barrier::new(threads + 1), Barrier::new(threads), Barrier::new(threads + 1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                start.wait();
                start.wait();
                let spike = Block::new(SPIKE);
                full.wait();
                drop(spike);
                end.wait();
            });
        }
        start.wait();
        heap::reset_peak();
        let base = live();
        start.wait();
        end.wait();
        let peak = heap::stats().unwrap().peak;
        let truth = base + (threads * SPIKE) as i64;
        assert!(peak.at_most.as_u64() as i64 >= truth, "{peak:?} never under-reports {truth}");
        assert!(peak.at_least.as_u64() as i64 <= truth, "{peak:?} claims no more than {truth}");
        let unknown = (threads as u64 + 2) * 32 * 1024;
        assert!(peak.at_most.as_u64() - peak.at_least.as_u64() <= unknown, "{peak:?}");
    });
}
