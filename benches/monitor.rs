//! What a report costs: `cargo bench --bench monitor`.
#![expect(clippy::expect_used, reason = "a bench that cannot start")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use plimsoll::monitor::ReportPolicy;
use plimsoll::{ByteSize, Monitor, TrackingAllocator, board};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn invocation(criterion: &mut Criterion) {
    let monitor = Monitor::builder().memory_size(ByteSize::mib(1024)).report(ReportPolicy::Off).install();
    let monitor = monitor.expect("constant settings");
    for name in ["orders", "sessions", "index"] {
        board::holder(name).set(ByteSize::mib(1));
    }
    let mut group = criterion.benchmark_group("monitor");
    group.bench_function("start and finish", |bencher| {
        bencher.iter(|| black_box(monitor.start("4f1c9a1e-83aa-4b1c-9d55-0242ac120002").finish()));
    });
    let report = monitor.start("4f1c9a1e-83aa-4b1c-9d55-0242ac120002").finish();
    group.bench_function("format the line", |bencher| bencher.iter(|| black_box(&report).to_string()));
    group.bench_function("snapshot", |bencher| bencher.iter(|| monitor.snapshot()));
    group.finish();
}

criterion_group!(benches, invocation);
criterion_main!(benches);
