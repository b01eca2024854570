//! How many lines of a log are read in a second, by what stands in them.
//!
//! Each is read through the crate's line reader into a profile, as a user does.

use std::fmt::Write;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use plimsoll::sizing::{Architecture, Entry, Pricing, Profile, Sizing, read_log};

fn main() {
    let settings = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1200));
    let mut criterion = settings.configure_from_args();
    parse(&mut criterion);
    recommend(&mut criterion);
    criterion.final_summary();
}

const LINES: u64 = 12_000;

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sizing/parse");
    group.throughput(Throughput::Elements(LINES));
    for (name, line) in [("text", text as fn(u64) -> String), ("json", json), ("log", log), ("other", other)] {
        let log: String = (0..LINES).map(line).collect();
        group.bench_function(name, |b| b.iter(|| profile(black_box(log.as_bytes()))));
    }
    group.finish();
}

fn recommend(criterion: &mut Criterion) {
    let log: String = (0..LINES).map(text).collect();
    let profile = profile(log.as_bytes());
    let sizing = Sizing::new(Pricing::us_east_1(Architecture::X86));
    let mut group = criterion.benchmark_group("sizing/recommend");
    group.throughput(Throughput::Elements(LINES));
    group.bench_function("text", |b| b.iter(|| sizing.recommend(black_box(&profile))));
    group.finish();
}

fn profile(log: &[u8]) -> Profile {
    let mut profile = Profile::new();
    let counts = read_log(log, |entry| {
        if let Entry::Report(report) = entry {
            profile.add(&report);
        }
    });
    assert_eq!(counts.map(|counts| counts.lines).ok(), Some(LINES));
    profile
}

fn id(n: u64) -> String {
    format!("{n:08x}-9c1e-4d5a-8b7f-{:012x}", n.wrapping_mul(0x9E37_79B9_7F4A))
}

/// A REPORT line of one of six sizes.
fn text(n: u64) -> String {
    let (size, ms, used) = (128 << (n % 6), 40 + n % 1_000, 60 + n % 50);
    format!(
        "REPORT RequestId: {}\tDuration: {ms}.27 ms\tBilled Duration: {} ms\tMemory Size: {size} MB\tMax Memory Used: \
         {used} MB\t\n",
        id(n),
        ms + 1
    )
}

fn json(n: u64) -> String {
    let (size, ms, used) = (128 << (n % 6), 40 + n % 1_000, 60 + n % 50);
    format!(
        "{{\"time\":\"2026-07-09T06:05:50.581Z\",\"type\":\"platform.report\",\"record\":{{\"requestId\":\"{}\",\
         \"metrics\":{{\"durationMs\":{ms}.274,\"billedDurationMs\":{},\"memorySizeMB\":{size},\"maxMemoryUsedMB\":{used}\
         }},\"status\":\"success\"}}}}\n",
        id(n),
        ms + 1
    )
}

/// What a function logs of its own.
fn other(n: u64) -> String {
    let id = id(n);
    format!("2026-07-09T06:05:50.581Z INFO {id} listed 24 objects under thumbnails/, resized 3, skipped the others\n")
}

/// A log as it is: start, two lines of the function, end, report, one after the other.
fn log(n: u64) -> String {
    let mut line = String::new();
    let id = id(n / 5);
    match n % 5 {
        0 => drop(writeln!(line, "START RequestId: {id} Version: $LATEST")),
        3 => drop(writeln!(line, "END RequestId: {id}")),
        4 => line = text(n / 5),
        _ => line = other(n),
    }
    line
}
