//! What a monitor says of the caches it is told of.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::LazyLock;
use std::time::Duration;

use plimsoll::monitor::{Monitor, ReportPolicy};
use plimsoll::{ByteSize, Cache, ManualClock, MemoryBudget, TrackingAllocator};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

static NUMBERS: LazyLock<Cache<u32, u32>> = LazyLock::new(|| Cache::builder("numbers").max_entries(2).build().unwrap());

#[test]
fn each_invocation_is_told_what_was_evicted_in_it_and_why() {
    let manual = ManualClock::new();
    let budget = MemoryBudget::new(ByteSize::kib(100));
    let built = Cache::builder("blobs").max_bytes(ByteSize::mib(1)).account(budget.account("blobs").unwrap());
    let blobs: Cache<u32, Vec<u8>> = built.time_to_live(Duration::from_mins(1)).clock(manual.clock()).build().unwrap();
    NUMBERS.insert(1, 1).unwrap();
    assert_eq!(NUMBERS.get(&1), Some(1), "before the monitor: nobody's invocation");

    let builder = Monitor::builder().memory_size(ByteSize::mib(128)).report(ReportPolicy::Off);
    let sweep = blobs.clone();
    let monitor =
        builder.cache(&NUMBERS).cache(&blobs).at_end(move || _ = sweep.remove_expired(usize::MAX)).build().unwrap();

    let invocation = monitor.start("1");
    (0..5).for_each(|key| NUMBERS.insert(key, key).unwrap());
    (0..12).for_each(|key| blobs.insert(key, vec![0; 1_000]).unwrap());
    assert_eq!((NUMBERS.get(&4), NUMBERS.get(&9), blobs.get(&11).map(|blob| blob.len())), (Some(4), None, Some(1_000)));
    let report = invocation.finish();
    assert_eq!((report.caches.hits, report.caches.misses), (2, 1));
    assert!(report.to_string().contains(" | evicted size 3 expired 0 pressure 0 |"), "{report}");

    let invocation = monitor.start("2");
    manual.advance(Duration::from_secs(61));
    let report = invocation.finish();
    assert_eq!(report.caches.expirations, 12, "the sweep at its end is its own");
    assert!(report.to_string().contains(" | evicted size 0 expired 12 pressure 0 |"), "{report}");

    let invocation = monitor.start("3");
    blobs.insert(1, vec![0; 90_000]).unwrap();
    drop(budget.account("other").unwrap().try_reserve(ByteSize::kib(90)).unwrap());
    let report = invocation.finish();
    assert_eq!((report.caches.evictions_by_size, report.caches.evictions_by_pressure), (0, 1));

    let report = monitor.start("4").finish();
    assert!(report.caches.is_none_evicted() && !report.to_string().contains("evicted"), "{report}");
    let picture = monitor.snapshot().to_string();
    assert!(picture.contains("\n  cache numbers 2 entries "), "{picture}");
    assert!(picture.contains("\n  cache blobs 0 entries 0 B of 1.0 MiB"), "{picture}");
}
