//! What a resource costs once it is loaded, and what a load costs beside its loader. `scorecard lazy` has the peers.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use plimsoll::LazyResource;

static NUMBER: LazyResource<u64, Infallible> = LazyResource::new("number", || Ok(7));
static FRESH: LazyResource<u64, Infallible> =
    LazyResource::new("fresh", || Ok(7)).refresh_after(Duration::from_secs(1 << 30));

fn loaded(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lazy/loaded");
    group.bench_function("get", |bencher| bencher.iter(|| *NUMBER.get().unwrap()));
    group.bench_function("get/refresh_after", |bencher| bencher.iter(|| *FRESH.get().unwrap()));
    let pin = NUMBER.get().unwrap();
    group.bench_function("pinned", |bencher| bencher.iter(|| **black_box(&pin)));
    group.finish();
}

fn loads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lazy/load");
    let resource = LazyResource::new("again", || Ok::<u64, Infallible>(7));
    group.bench_function("load_and_unload", |bencher| {
        bencher.iter(|| {
            let number = *resource.get().unwrap();
            resource.unload();
            number
        });
    });
    group.finish();
}

/// Some 10 MB of words and their numbers.
fn words() -> HashMap<String, u64> {
    (0..100_000).map(|n| (format!("word {n}"), n)).collect()
}

/// What the first request waits for: everything, or a look.
fn first_request(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lazy/first_request");
    for (name, prefetches) in [("lazy", false), ("prefetched", true)] {
        group.bench_function(name, |bencher| {
            let start = || {
                let resource = LazyResource::new("words", || Ok::<_, Infallible>(words()));
                if prefetches {
                    resource.prefetch().unwrap();
                }
                resource
            };
            bencher.iter_batched_ref(
                start,
                |resource| resource.get().unwrap().get("word 7").copied(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, loaded, loads, first_request);
criterion_main!(benches);
