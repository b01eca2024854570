//! What a request to a cache costs: hits, misses, inserts that evict, loads, and sweeping.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use plimsoll::cache::Eviction;
use plimsoll::{ByteSize, Cache, ManualClock};

const HOUR: Duration = Duration::from_hours(1);

fn main() {
    let settings = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1200));
    let mut criterion = settings.configure_from_args();
    requests(&mut criterion);
    sweeping(&mut criterion);
    criterion.final_summary();
}

/// A cache of a thousand, full, with or without a time to live.
fn full(eviction: Eviction, ttl: bool) -> Option<Cache<u64, u64>> {
    let builder = Cache::builder("bench").max_entries(1_000).eviction(eviction);
    let cache = if ttl { builder.time_to_live(HOUR).build() } else { builder.build() }.ok()?;
    (0..1_000).for_each(|key| drop(cache.insert(key, key)));
    Some(cache)
}

fn requests(criterion: &mut Criterion) {
    for (name, eviction) in [("s3-fifo", Eviction::S3Fifo), ("lru", Eviction::Lru)] {
        let (Some(timeless), Some(timed)) = (full(eviction, false), full(eviction, true)) else { return };
        let mut group = criterion.benchmark_group(format!("cache/{name}"));
        group.throughput(Throughput::Elements(1));
        let mut key = 0;
        let mut next = move || {
            key = (key + 7) % 1_000;
            key
        };
        group.bench_function("hit", |b| b.iter(|| timeless.get(&black_box(next()))));
        group.bench_function("hit-ttl", |b| b.iter(|| timed.get(&black_box(next()))));
        group.bench_function("miss", |b| b.iter(|| timeless.get(&black_box(next() + 1_000_000))));
        let mut fresh = 1_000_000;
        let mut fresh = move || {
            fresh += 1;
            fresh
        };
        group.bench_function("insert-evict", |b| b.iter(|| timed.insert(fresh(), 0)));
        group.bench_function("load-evict", |b| b.iter(|| timed.try_get_or_load(&(fresh() << 32), |_| Ok::<_, ()>(0))));
        group.finish();
    }
}

/// Freeing 10,000 expired values of 1,000 bytes.
fn sweeping(criterion: &mut Criterion) {
    let manual = ManualClock::new();
    let built = Cache::builder("bench").max_bytes(ByteSize::mib(20)).time_to_live(HOUR).clock(manual.clock()).build();
    let Ok(cache) = built else { return };
    let mut group = criterion.benchmark_group("cache/sweep");
    group.throughput(Throughput::Elements(10_000));
    let fill = || {
        (0..10_000_u64).for_each(|key| drop(cache.insert(key, vec![0_u8; 1_000])));
        manual.advance(2 * HOUR);
    };
    group.bench_function("10k-of-1kB", |b| {
        b.iter_batched(fill, |()| cache.remove_expired(usize::MAX), BatchSize::PerIteration);
    });
    group.finish();
}
