//! A function of 128 MB whose cache stays under 5 MB and whose alert comes at 115 MB, as one would configure it.
//!
//! The figures are those of a published profile of a small function in production. What Lambda counts is the process
//! and about 12 MiB of its own: its 115 MB are 103 MiB of the process, which is the 89 % line of 116 MiB.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test: it allocates by hand, counts in signed bytes and stops at the first surprise"
)]

mod support;

use plimsoll::monitor::ReportPolicy;
use plimsoll::{ByteSize, Cache, MemoryBudget, Monitor, TrackingAllocator, heap, os};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

support::tests! {
    a_function_of_128_mb_keeps_its_cache_under_5_mb_in_a_flood_and_alerts_at_115_mb
        if support::lean(),
        else "needs fork and an rss that is this program's own",
}

const ALERT_PERCENT: u8 = 89;

struct Function {
    monitor: Monitor,
    budget: MemoryBudget,
    digests: Cache<String, Vec<u8>>,
}

fn function() -> Function {
    let memory_size = ByteSize::mib(128);
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let built =
        Cache::builder("digests").max_bytes(ByteSize::mib(5)).account(budget.account("digests").unwrap()).build();
    let digests = built.unwrap();
    let monitor = Monitor::builder()
        .memory_size(memory_size)
        .alarm_thresholds(&[70, ALERT_PERCENT])
        .report(ReportPolicy::Off)
        .budget(&budget)
        .cache(&digests)
        .install()
        .unwrap();
    Function { monitor, budget, digests }
}

/// The invocation's work: a thousand digests nobody has asked for before, of 1 to 2,000 bytes.
fn flood(function: &Function, round: usize) {
    for at in 0..1_000 {
        let key = format!("{:064x}", round * 1_000 + at);
        let loaded = function.digests.try_get_or_load(&key, |_| Ok::<_, ()>(vec![0; 1 + at * 2]));
        assert_eq!(loaded.ok().map(|digest| digest.len()), Some(1 + at * 2));
        let stats = function.digests.stats();
        assert!(stats.bytes <= ByteSize::mib(5), "{stats:?}");
    }
}

fn a_function_of_128_mb_keeps_its_cache_under_5_mb_in_a_flood_and_alerts_at_115_mb() {
    let ended = support::in_child(|| {
        let function = function();
        let lines = *function.monitor.alarm_thresholds().unwrap();
        let before = support::live();
        for round in 0..50 {
            let invocation = function.monitor.start("flood");
            flood(&function, round);
            let report = invocation.finish();
            assert_eq!(report.caches.misses, 1_000);
        }
        let full = function.digests.stats();
        assert!(full.bytes > ByteSize::kib(4_800), "the flood fills it: {full:?}");
        let more = ByteSize::bytes(u64::try_from(support::live() - before).unwrap());
        assert!(more < ByteSize::bytes(5_242_880 * 105 / 100), "the heap agrees: {more}");
        assert_eq!(function.budget.account("digests").unwrap().reserved(), full.bytes);
        assert!(heap::highest_crossed_threshold().is_none(), "far below the first line");

        // Something else grows, a MiB at a time, and is used.
        let mut grown = Vec::new();
        while heap::highest_crossed_threshold() != Some(ALERT_PERCENT) {
            grown.push(vec![1_u8; 1 << 20]);
            assert!(grown.len() < 128, "no alert");
        }
        let counted = os::rss().unwrap().total.saturating_add(ByteSize::mib(12));
        assert!(counted > ByteSize::mib(112) && counted < ByteSize::mib(117), "at {counted} as Lambda counts");
        assert_eq!(lines.threshold(ALERT_PERCENT).saturating_add(ByteSize::mib(12)).as_u64() >> 20, 115);
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let alarm = ended.stderr.lines().find(|line| line.contains("\"plimsoll\":\"alarm\"")).expect(&ended.stderr);
    let alarm: serde_json::Value = serde_json::from_str(alarm).expect(alarm);
    assert_eq!(alarm["alarm_threshold"], ALERT_PERCENT);
    assert!(alarm["reserved"]["digests"].as_u64().is_some_and(|held| held > 4 << 20 && held <= 5 << 20), "{alarm}");
}
