//! Pages that glibc keeps: told from a leak, given back, at a bounded cost, and not held against the budget.
#![allow(unsafe_code, reason = "forked children, and memory beside the heap")]
#![allow(
    unused_macros,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests without libtest's attribute"
)]

mod support;

use plimsoll::monitor::{InvocationReport, LeakVerdict, Monitor, Remedy, ReportPolicy, TrimPolicy};
use plimsoll::{ByteSize, TrackingAllocator};
use support::lean;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

const GLIBC: bool = cfg!(all(target_os = "linux", target_env = "gnu", not(miri)));

support::tests! {
    pages_that_glibc_keeps_are_retained_until_they_are_given_back if GLIBC && lean(), else "needs glibc and an rss that is this program's own",
    trims_keep_to_their_share_of_the_time if GLIBC, else "needs glibc",
}

/// One invocation that does `work`, and its report.
fn invoke(monitor: &Monitor, work: impl FnOnce()) -> InvocationReport {
    let invocation = monitor.start("r");
    work();
    invocation.finish()
}

/// Frees 35 MiB of small blocks, but for one in 350: 0.1 MiB, between which glibc keeps the pages of all others.
#[expect(clippy::vec_box, reason = "each is to be a block of its own")]
fn pitted() -> Vec<Box<[u8; 1000]>> {
    let all: Vec<_> = (0..35 << 10).map(|_| Box::new([1; 1000])).collect();
    all.into_iter().step_by(350).collect()
}

fn pages_that_glibc_keeps_are_retained_until_they_are_given_back() {
    let ended = support::in_child(|| {
        let builder = || Monitor::builder().memory_size(ByteSize::mib(128)).report(ReportPolicy::Off);
        let keeps = builder().build().unwrap();
        let mut pits = Vec::new();
        for number in 1..=300 {
            let report = invoke(&keeps, || pits = pitted());
            assert!(report.heap.unwrap().live < ByteSize::kib(600), "{report}");
            match report.verdict {
                LeakVerdict::Retaining { beyond_heap, remedy: Remedy::Trim, .. } => {
                    assert!(beyond_heap > ByteSize::mib(25), "{report}");
                }
                other => assert!(number < 16 && other == LeakVerdict::Unknown, "{number}: {report}"),
            }
        }
        let kept = invoke(&keeps, || ());
        assert!(kept.rss.unwrap() > ByteSize::mib(30) && kept.to_string().contains(" beyond heap: trim"), "{kept}");

        let trims = builder().trim(TrimPolicy::new().share_of_time(100)).build().unwrap();
        let report = invoke(&trims, || ());
        let trimmed = report.trimmed.unwrap();
        assert!(report.rss.unwrap() < ByteSize::mib(10), "{report}");
        assert!(trimmed.given_back > ByteSize::mib(25) && trimmed.duration.as_micros() > 0, "{report}");
        assert!(report.to_string().contains(&format!(" | trimmed {} in ", trimmed.given_back)), "{report}");
        assert_eq!(invoke(&trims, || ()).trimmed, None, "there is nothing left");
        for _ in 0..40 {
            let report = invoke(&trims, || pits = pitted());
            assert!(report.trimmed.is_some() && report.rss.unwrap() < ByteSize::mib(10), "{report}");
            assert!(!matches!(report.verdict, LeakVerdict::Retaining { .. } | LeakVerdict::Growing { .. }), "{report}");
        }
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

fn trims_keep_to_their_share_of_the_time() {
    let ended = support::in_child(|| {
        let monitor = Monitor::builder().memory_size(ByteSize::mib(128)).report(ReportPolicy::Off);
        let monitor = monitor.trim(true).build().unwrap();
        let (mut worked, mut spent, mut trims, mut pits) = (0, 0, 0, Vec::new());
        for _ in 0..300 {
            let report = invoke(&monitor, || pits = pitted());
            worked += report.duration.as_micros();
            if let Some(trimmed) = report.trimmed {
                // What one takes is known only afterwards.
                assert!(spent * 100 <= worked, "{spent} of {worked} us before {report}");
                (spent, trims) = (spent + trimmed.duration.as_micros(), trims + 1);
            }
        }
        assert!(trims > 0 && trims < 300, "{trims} trims, {spent} of {worked} us");
        // Another may need the pages.
        let never_ending = monitor.start("never ending");
        let trims = (0..50).filter(|_| invoke(&monitor, || pits = pitted()).trimmed.is_some()).count();
        let took = never_ending.finish().duration;
        assert!(trims as u64 <= took.as_secs() + 1, "{trims} trims in {took:?}");
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
