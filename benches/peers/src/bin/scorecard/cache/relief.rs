//! Memory that a cache releases for others: how many entries that costs, how much heap, and how long readers wait.
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use plimsoll::budget::{Pressure, ReclaimPriority, reclaim_fn};
use plimsoll::cache::{CacheBuilder, Eviction};
use plimsoll::{ByteSize, Cache, ManualClock, MemoryBudget, heap};

use crate::Options;
use crate::row::{Goal, Row};
use crate::support::caches::{evict_to, remove_expired, set_max_bytes, set_max_entries};

const BOTH: [Eviction; 2] = [Eviction::S3Fifo, Eviction::Lru];

/// Measures all of it.
pub(super) fn measure(options: Options) -> Vec<Row> {
    let rounds = if options.quick { 9 } else { 15 };
    let row = |metric, unit, ours, goal| Row { metric, unit, ours, goal, best_peer: None };
    vec![
        row("cache.relief.lost_pct", "%", highest(BOTH.map(lost_percent)), Goal::AtMost(2.0)),
        row("cache.relief.lost_pct.control", "%", lost_percent_of_clear(), Goal::Above(2.0)),
        row("cache.relief.heap_growth_bytes", "bytes", highest(BOTH.map(heap_growth)), Goal::AtMost(16_384.0)),
        row("cache.relief.heap_growth_bytes.control", "bytes", heap_growth_of_list(), Goal::Above(16_384.0)),
        row("cache.relief.reader_wait_us", "us", reader_wait(rounds), Goal::AtMost(1_000.0)),
        row("cache.relief.reader_wait_us.control", "us", reader_wait_of_mutex(rounds), Goal::Above(1_000.0)),
    ]
}

/// The entries of a cache of numbers.
const ENTRIES: u64 = 100_000;

fn numbers(configure: impl FnOnce(CacheBuilder<u64, u64>) -> CacheBuilder<u64, u64>) -> Cache<u64, u64> {
    let built = configure(Cache::builder("numbers").max_entries(ENTRIES as usize)).build();
    let cache = built.unwrap_or_else(|error| unreachable!("{error}"));
    (0..ENTRIES).for_each(|key| drop(cache.insert(key, key)));
    cache
}

/// Returns the entries that a cache of numbers loses for 1 KiB of another account.
fn lost_percent(eviction: Eviction) -> f64 {
    let budget = MemoryBudget::new(ByteSize::mib(16));
    let cache = numbers(|builder| builder.eviction(eviction).account(budget.account("numbers").unwrap()));
    lost_for_one_kib(&budget, &cache)
}

/// Control: a reclaimer that clears its cache.
fn lost_percent_of_clear() -> f64 {
    let budget = MemoryBudget::new(ByteSize::mib(16));
    let (cache, account) = (numbers(|builder| builder), budget.account("numbers").unwrap());
    let Ok(reserved) = account.try_reserve(cache.stats().bytes) else { return f64::NAN };
    let (cleared, reserved) = (cache.clone(), Mutex::new(reserved));
    let reclaimer = reclaim_fn(move |_: ByteSize, _: Pressure| {
        let _released = {
            cleared.clear();
            reserved.lock().shrink(ByteSize::MAX)
        };
    });
    let _registered = account.register_reclaimer(ReclaimPriority::CACHE, reclaimer);
    lost_for_one_kib(&budget, &cache)
}

fn lost_for_one_kib(budget: &MemoryBudget, cache: &Cache<u64, u64>) -> f64 {
    let neighbor = budget.account("neighbor").unwrap();
    let before = cache.len();
    let reserved = [budget.available(), ByteSize::kib(1)].map(|size| neighbor.try_reserve(size));
    let lost = 100.0 * (before - cache.len()) as f64 / before as f64;
    if reserved.iter().all(Result::is_ok) && before as u64 == ENTRIES { lost } else { f64::NAN }
}

/// Returns the highest growth of the heap during `work`, which allocates on this thread alone.
fn growth(work: impl FnOnce()) -> f64 {
    heap::scope(work).1.map_or(f64::NAN, |delta| delta.peak.as_u64() as f64)
}

/// Returns the highest growth of the heap over each kind of relief.
fn heap_growth(eviction: Eviction) -> f64 {
    let of = |relief: fn(&Cache<u64, u64>)| {
        let cache = numbers(|builder| builder.eviction(eviction));
        growth(|| relief(&cache))
    };
    let kinds: [fn(&Cache<u64, u64>); 6] = [
        |cache| evict_to(cache, cache.stats().bytes.percent(50)),
        |cache| evict_to(cache, ByteSize::ZERO),
        |cache| set_max_entries(cache, cache.len() / 2),
        |cache| set_max_bytes(cache, cache.stats().bytes.percent(50)),
        |cache| cache.retain(|key, _| key % 2 == 0),
        Cache::clear,
    ];
    let manual = ManualClock::new();
    let cache =
        numbers(|builder| builder.eviction(eviction).time_to_live(Duration::from_secs(60)).clock(manual.clock()));
    manual.advance(Duration::from_secs(120));
    let expired = growth(|| _ = black_box(remove_expired(&cache, usize::MAX)));
    let budget = MemoryBudget::new(ByteSize::mib(16));
    let cache = numbers(|builder| builder.eviction(eviction).account(budget.account("numbers").unwrap()));
    let neighbor = budget.account("neighbor").unwrap();
    let all = neighbor.try_reserve(budget.available());
    let reclaimed = growth(|| drop(neighbor.try_reserve(ByteSize::mib(1))));
    let is_right = cache.len() as u64 <= ENTRIES && all.is_ok();
    let of_kinds = highest(kinds.map(of));
    if is_right { highest([of_kinds, expired, reclaimed]) } else { f64::NAN }
}

/// Control: relief that collects the keys before it removes them.
fn heap_growth_of_list() -> f64 {
    let cache = numbers(|builder| builder);
    growth(|| {
        let mut keys = Vec::new();
        cache.for_each(|key, _| keys.push(*key));
        keys.iter().step_by(2).for_each(|key| _ = black_box(cache.remove(key)));
    })
}

const BOX: usize = 64;
const CAPACITY: ByteSize = ByteSize::mib(40);
const WANTED: ByteSize = ByteSize::mib(20);

/// Returns the longest wait of a reader while 20 MiB of 64-byte values are reclaimed, in us.
///
/// Other processes only add to a wait, so the least of all rounds counts. The policy with the longer wait counts.
fn reader_wait(rounds: u32) -> f64 {
    let of = |eviction| {
        let round = |_| {
            let budget = MemoryBudget::new(CAPACITY);
            let builder = Cache::builder("boxes").max_bytes(CAPACITY).eviction(eviction);
            let built = builder.account(budget.account("boxes").unwrap()).build();
            let cache: Cache<u64, Box<[u8]>> = built.unwrap_or_else(|error| unreachable!("{error}"));
            let mut key = 0;
            while cache.stats().evictions_by_pressure + cache.stats().evictions_by_size == 0 {
                drop(cache.insert(key, vec![0; BOX].into()));
                key += 1;
            }
            let neighbor = budget.account("neighbor").unwrap();
            let all = neighbor.try_reserve(budget.available());
            let before = cache.stats().bytes;
            let wait = longest_wait(
                || _ = black_box(cache.contains_key(&1)),
                || black_box(neighbor.try_reserve(WANTED)).is_ok(),
            );
            let is_right = all.is_ok() && cache.stats().bytes.saturating_add(WANTED) <= before;
            if is_right { wait } else { f64::NAN }
        };
        (0..rounds).map(round).fold(f64::INFINITY, least)
    };
    highest(BOTH.map(of))
}

/// Control: a list under a lock, which is held until 20 MiB have been dropped.
fn reader_wait_of_mutex(rounds: u32) -> f64 {
    let round = |_| {
        let list = Mutex::new(lru::LruCache::<u64, Box<[u8]>>::unbounded());
        let entries = CAPACITY.as_u64() / (2 * BOX as u64);
        (0..entries).for_each(|key| _ = black_box(list.lock().put(key, vec![0; BOX].into())));
        longest_wait(
            || _ = black_box(list.lock().contains(&1)),
            || {
                let mut list = list.lock();
                (0..WANTED.as_u64() / (2 * BOX as u64)).for_each(|_| drop(list.pop_lru()));
                true
            },
        )
    };
    (0..rounds).map(round).fold(f64::INFINITY, least)
}

/// The lower of two figures, or not a number if one of them is not.
fn least(one: f64, other: f64) -> f64 {
    if one.is_nan() || other.is_nan() { f64::NAN } else { one.min(other) }
}

/// The highest figure, or not a number if one of them is not.
fn highest<const N: usize>(figures: [f64; N]) -> f64 {
    figures.into_iter().fold(0.0, |one, other| if one.is_nan() || other.is_nan() { f64::NAN } else { one.max(other) })
}

/// Returns the longest call of `read`, on a thread of its own, during `work`, in us.
fn longest_wait(read: impl Fn() + Sync, work: impl FnOnce() -> bool) -> f64 {
    let (reads, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !done.load(Ordering::Acquire) {
                let start = Instant::now();
                read();
                longest = longest.max(start.elapsed());
                reads.fetch_add(1, Ordering::AcqRel);
                // The lock is free most of the time.
                (0..200).for_each(|_| spin_loop());
            }
            longest
        });
        while reads.load(Ordering::Acquire) < 1_000 {
            thread::yield_now();
        }
        let worked = work();
        done.store(true, Ordering::Release);
        match reader.join() {
            Ok(longest) if worked => longest.as_nanos() as f64 / 1_000.0,
            _ => f64::NAN,
        }
    })
}
