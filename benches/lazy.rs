//! What a resource costs once it is loaded, and what a load costs beside its loader. `scorecard lazy` has the peers.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
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

criterion_group!(benches, loaded, loads);
criterion_main!(benches);
