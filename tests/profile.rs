//! The profile of allocation sites: estimates against the truth, and no sample is left when its block is freed.
//!
//! The profile stays on for the life of a process, so all tests share one. What a test measures are differences.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a test: it allocates by hand and stops at the first surprise"
)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Barrier, Mutex};

use plimsoll::heap::profile::{self, StartError};
use plimsoll::{ByteSize, TrackingAllocator, heap};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

use support::{Block, Random, in_child, on_threads, some_size};

support::tests! {
    it_is_off_until_it_is_started_and_starts_once,
    large_blocks_are_exact,
    small_blocks_are_estimated_within_a_few_percent,
    a_block_that_grows_belongs_to_its_last_size,
    a_block_that_cannot_grow_keeps_its_sample,
    the_peak_has_blocks_that_are_freed_by_now,
    no_sample_is_left_whoever_frees_what,
    threads_without_a_counter_are_sampled if cfg!(not(miri)), else "too many threads for Miri",
    short_threads_are_sampled if cfg!(not(miri)), else "too slow in Miri",
    a_child_of_a_fork_goes_on if cfg!(not(miri)), else "Miri has no fork",
    a_full_table_doubles_the_interval_and_keeps_the_sums if cfg!(not(miri)), else "too much memory for Miri",
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const INTERVAL: ByteSize = ByteSize::kib(64);

/// The bytes of all sites together.
fn attributed() -> i64 {
    profile::live().unwrap().sites.iter().map(|site| site.bytes.as_u64() as i64).sum()
}

/// Blocks of `size` bytes, `total` bytes together.
fn blocks(size: usize, total: usize) -> Vec<Block> {
    (0..total / size).map(|_| Block::new(size)).collect()
}

fn it_is_off_until_it_is_started_and_starts_once() {
    assert!(!profile::is_started() && profile::live().is_err() && profile::peak().is_err());
    let wrong = profile::start(ByteSize::kib(1));
    assert!(matches!(wrong, Err(StartError::Interval { .. })), "{wrong:?}");
    // Exists already, and is not attributed.
    let early = Block::new(10 * MIB);
    profile::start(INTERVAL).unwrap();
    assert_eq!(profile::start(INTERVAL), Err(StartError::AlreadyStarted));
    assert_eq!(attributed(), 0);
    drop(early);
    assert_eq!(attributed(), 0);
}

fn large_blocks_are_exact() {
    let before = attributed();
    let large: Vec<_> = [64 * KIB, 65 * KIB, 600 * KIB, 5 * MIB].map(Block::new).into();
    assert_eq!(attributed() - before, (64 * KIB + 65 * KIB + 600 * KIB + 5 * MIB) as i64);
    let profile = profile::live().unwrap();
    assert_eq!(profile.interval, INTERVAL);
    assert!(profile.sites.windows(2).all(|pair| pair[0].bytes >= pair[1].bytes));
    let largest = profile.sites[0];
    assert!(largest.share > 0.5 && largest.share <= 1.0 && largest.blocks >= 1, "{largest:?}");
    drop(large);
    assert_eq!(attributed(), before);
}

fn small_blocks_are_estimated_within_a_few_percent() {
    let total = if cfg!(miri) { 4 * MIB } else { 64 * MIB };
    for size in [24, 100, 1000, 20_000] {
        let before = attributed();
        let held = blocks(size, total);
        let sites = profile::live().unwrap().sites;
        let estimate = attributed() - before;
        let error = estimate as f64 / (held.len() * (size + size_of::<Block>())) as f64 - 1.0;
        assert!(error.abs() < 0.1, "{size}: {estimate} bytes");
        if cfg!(not(miri)) {
            let count = sites.iter().filter(|site| site.bytes > ByteSize::mib(8)).map(|site| site.blocks).sum::<u64>();
            assert!((count as f64 / held.len() as f64 - 1.0).abs() < 0.1, "{size}: {count} blocks");
        }
        drop(held);
        assert_eq!(attributed(), before);
    }
}

fn a_block_that_grows_belongs_to_its_last_size() {
    let before = attributed();
    let mut grown = Block::new(1000);
    for size in [10_000, 100_000, 1_000_000, 700_000, 3_000_000] {
        assert!(grown.resize(size));
        if size >= 64 * KIB {
            assert_eq!(attributed() - before, size as i64);
        }
    }
    assert!(grown.resize(100_000));
    assert_eq!(attributed() - before, 100_000);
    drop(grown);
    assert_eq!(attributed(), before);
}

fn a_block_that_cannot_grow_keeps_its_sample() {
    let mut held = Block::new(MIB);
    let before = attributed();
    heap::set_limit(ByteSize::bytes(heap::stats().unwrap().live.as_u64() + MIB as u64)).unwrap();
    assert!(!held.resize(100 * MIB));
    heap::clear_limit();
    assert_eq!(attributed(), before);
    drop(held);
    assert_eq!(attributed(), before - MIB as i64);
}

fn the_peak_has_blocks_that_are_freed_by_now() {
    profile::reset_peak();
    let held = Block::new(40 * MIB);
    drop(held);
    let peak = profile::peak().unwrap();
    assert!(peak.heap >= ByteSize::mib(40) && peak.sites[0].bytes == ByteSize::mib(40), "{peak:?}");
    assert!(profile::live().unwrap().heap < ByteSize::mib(40));
    profile::reset_peak();
    assert!(profile::peak().unwrap().heap < ByteSize::mib(40));
}

fn no_sample_is_left_whoever_frees_what() {
    let threads = if cfg!(miri) { 3 } else { 8 };
    let steps = if cfg!(miri) { 200 } else { 100_000 };
    // Before the pools: what they need themselves is freed after the last look.
    let before = attributed();
    let pools: Vec<Mutex<Vec<Block>>> = (0..threads).map(|_| Mutex::new(Vec::new())).collect();
    on_threads(threads, |me| {
        let mut random = Random::new(me as u64 + 1);
        for _ in 0..steps {
            let pool = &pools[random.below(threads)];
            match random.below(8) {
                0..4 => {
                    let block = Block::new(some_size(&mut random));
                    pool.lock().unwrap().push(block);
                }
                4 => {
                    if let Some(block) = pool.lock().unwrap().last_mut() {
                        let _is_resized = block.resize(some_size(&mut random));
                    }
                }
                _ => drop(pool.lock().unwrap().pop()),
            }
        }
    });
    assert!(attributed() > before);
    drop(pools);
    assert_eq!(attributed(), before);
}

fn threads_without_a_counter_are_sampled() {
    const MANY: usize = 140;
    let before = attributed();
    let (held, done) = (Barrier::new(MANY + 1), Barrier::new(MANY + 1));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..MANY)
            .map(|_| {
                let (held, done) = (&held, &done);
                scope.spawn(move || {
                    let own = blocks(500, MIB);
                    held.wait();
                    done.wait();
                    drop(own);
                })
            })
            .collect();
        held.wait();
        let truth = (MANY * MIB) as f64 * (500 + size_of::<Block>()) as f64 / 500.0;
        let estimate = (attributed() - before) as f64;
        assert!((estimate / truth - 1.0).abs() < 0.1, "{estimate} of {truth}");
        done.wait();
        for thread in threads {
            thread.join().unwrap();
        }
    });
    assert_eq!(attributed(), before);
}

fn short_threads_are_sampled() {
    // Each allocates a tenth of an interval.
    let before = attributed();
    let held: Vec<_> = (0..2000).map(|_| std::thread::spawn(|| blocks(500, 6500)).join().unwrap()).collect();
    let truth = (2000 * 13 * (500 + size_of::<Block>())) as f64;
    let estimate = (attributed() - before) as f64;
    assert!((estimate / truth - 1.0).abs() < 0.25, "{estimate} of {truth}");
    drop(held);
    assert_eq!(attributed(), before);
}

fn a_child_of_a_fork_goes_on() {
    let before = attributed();
    let held = blocks(1000, 16 * MIB);
    let with_held = attributed();
    let stop = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            while !stop.load(Relaxed) {
                drop(blocks(300, MIB));
            }
        });
        let ended = in_child(|| {
            assert!(attributed() >= with_held);
            let more = Block::new(3 * MIB);
            assert!(attributed() >= with_held + 3 * MIB as i64);
            drop(more);
            profile::reset_peak();
            assert!(profile::peak().is_ok());
        });
        stop.store(true, Relaxed);
        busy.join().unwrap();
        ended
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    drop(held);
    assert_eq!(attributed(), before);
}

fn a_full_table_doubles_the_interval_and_keeps_the_sums() {
    let before = attributed();
    let held: Vec<_> = (0..4).map(|_| blocks(4000, 192 * MIB)).collect();
    let profile = profile::live().unwrap();
    assert!(profile.interval > INTERVAL, "{}", profile.interval);
    assert!(profile.lost < ByteSize::mib(2), "{}", profile.lost);
    let truth = (4 * 192 * MIB) as f64;
    let estimate = (attributed() - before) as f64;
    assert!((estimate / truth - 1.0).abs() < 0.05, "{estimate} of {truth}");
    drop(held);
    assert_eq!(attributed(), before);
}
