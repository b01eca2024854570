//! Every table and example of the document that the sizing rules come from, with the figure that is right.
//!
//! What each test is named after is what the document says, or what is true in its place; the page
//! `sizing::source_document` lists them.
#![cfg(feature = "sizing")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a test: it counts in small figures and stops at the first surprise"
)]

use std::time::Duration;

use plimsoll::ByteSize;
use plimsoll::sizing::{
    Architecture, Entry, Fit, GbSeconds, OutOfMemory, Point, Pricing, Profile, Recommendation, ReportLine, Sizing,
    Strategy, Value, cpu_share, plateau, read_log, select,
};

fn x86() -> Pricing {
    Pricing::us_east_1(Architecture::X86)
}

fn run(mb: u64, ms: u64) -> GbSeconds {
    GbSeconds::new(ByteSize::mib(mb), Duration::from_millis(ms))
}

fn point(mb: u64, ms: u64) -> Point {
    Point { memory_size: ByteSize::mib(mb), cost: x86().run(run(mb, ms)).as_f64(), duration: ms as f64 }
}

/// A log of one report for each size, duration and memory used.
fn log(reports: &[(u64, u64, u64)]) -> String {
    let line = |(n, (mb, ms, used)): (usize, &(u64, u64, u64))| {
        format!(
            "REPORT RequestId: {n}\tDuration: {ms}.00 ms\tBilled Duration: {ms} ms\tMemory Size: {mb} MB\tMax Memory \
             Used: {used} MB\n"
        )
    };
    reports.iter().enumerate().map(line).collect()
}

fn profile(reports: &[(u64, u64, u64)]) -> Profile {
    let mut profile = Profile::new();
    read_log(log(reports).as_bytes(), |entry| match entry {
        Entry::Report(report) => profile.add(&report),
        other => panic!("{other:?}"),
    })
    .unwrap();
    profile
}

fn advice(reports: &[(u64, u64, u64)]) -> Recommendation {
    Sizing::new(x86()).recommend(&profile(reports)).unwrap()
}

fn needed(peak: u64) -> (u64, u64) {
    let (low, high) = advice(&[(10_240, 10, peak)]).needed;
    (low.as_u64() >> 20, high.as_u64() >> 20)
}

#[test]
fn sizes_run_from_128_to_10240_mb_in_steps_of_1_mb() {
    assert_eq!(needed(1), (128, 128));
    assert_eq!(needed(107), (129, 140));
    assert_eq!(needed(108), (130, 141));
    assert_eq!(needed(8_533), (10_240, 11_093));
    let error = Sizing::new(x86()).recommend(&profile(&[(10_240, 10, 8_534)])).unwrap_err();
    assert_eq!(error.to_string(), "10241 MB are needed with headroom, and a function has 10240 MB at most");
}

#[test]
fn the_share_of_a_cpu_is_linear() {
    let said = [(128, "0.07"), (256, "0.14"), (512, "0.28"), (1024, "0.57"), (1536, "0.86"), (3008, "1.77")];
    let right = ["0.072", "0.145", "0.289", "0.579", "0.868", "1.700"];
    for ((mb, said), right) in said.into_iter().zip(right) {
        let share = cpu_share(ByteSize::mib(mb));
        assert_eq!(format!("{share:.3}"), right);
        // The document cuts what it should round; its last figure is wrong.
        assert_eq!(format!("{:.2}", (share * 100.0).floor() / 100.0) == said, mb != 3008, "{mb}");
    }
    // "1769MB-3008MB: 1 full vCPU, 3009MB-5307MB: 2 full vCPUs"
    for (mb, share) in [(1769, "1.000"), (3009, "1.701"), (5307, "3.000"), (10_240, "5.789")] {
        assert_eq!(format!("{:.3}", cpu_share(ByteSize::mib(mb))), share);
    }
}

#[test]
fn the_cost_multiples_hold_for_a_millisecond() {
    let cost = |mb| x86().run(run(mb, 1_000)).as_f64() / x86().run(run(128, 1_000)).as_f64();
    for (mb, said) in [(256, 2.0), (512, 4.0), (1024, 8.0), (1536, 12.0)] {
        assert!((cost(mb) - said).abs() < 1e-9, "{mb}");
    }
    assert!((cost(3008) - 23.5).abs() < 1e-9); // not 23.4
}

/// "Test 1", "Test 2", "Test 3".
const TESTS: [(u64, u64, u64); 3] = [(128, 2500, 110), (256, 1300, 110), (512, 1280, 110)];

#[test]
fn the_test_costs_are_twice_as_high_and_the_choice_stands() {
    let costs: Vec<String> = TESTS.iter().map(|(mb, ms, _)| format!("{:.9}", x86().run(run(*mb, *ms)))).collect();
    assert_eq!(costs, ["$0.000005208", "$0.000005417", "$0.000010667"]); // not 2.5, 2.6, 5.1 e-6
    assert_eq!(x86().request().to_string(), "$0.0000002000");

    let [first, second, third] = TESTS.map(|(mb, ms, _)| point(mb, ms));
    assert_eq!(format!("{:.1}", 100.0 * (1.0 - second.duration / first.duration)), "48.0"); // "50% faster"
    assert_eq!(format!("{:.1}", 100.0 * (second.cost / first.cost - 1.0)), "4.0"); // "minimal cost increase"
    assert!(matches!(Value::of(&first, &second), Value::Gain(gain) if (gain - 12.0).abs() < 0.01));
    assert!(matches!(Value::of(&second, &third), Value::Gain(gain) if gain < 0.02));

    for strategy in [Strategy::Cost, Strategy::Speed, Strategy::Balanced(0.5)] {
        let advice = Sizing::new(x86()).strategy(strategy).recommend(&profile(&TESTS)).unwrap();
        assert_eq!((advice.memory_size, advice.extrapolated), (ByteSize::mib(256), false), "{strategy}");
    }
    // By the selection alone, the headroom aside: cost takes 128 MB, speed takes 512.
    let points = [first, second, third];
    let chosen = |strategy| select(&points, strategy).unwrap().memory_size;
    assert_eq!(chosen(Strategy::Cost), ByteSize::mib(128));
    assert_eq!(chosen(Strategy::Speed), ByteSize::mib(512));
    assert_eq!(plateau(&points, 10).unwrap().memory_size, ByteSize::mib(256));
    assert_eq!(plateau(&points, 0).unwrap().memory_size, ByteSize::mib(512));
}

#[test]
fn test_1_breaks_the_documents_own_headroom() {
    let advice = advice(&TESTS);
    assert_eq!(needed(110), (132, 143));
    assert_eq!(advice.candidates[0].fit, Fit::UnderHeadroom);
}

#[test]
fn a_peak_of_180_mb_needs_216_to_234_mb() {
    assert_eq!(needed(180), (216, 234)); // not 230 to 234, and nothing rounds to 256
    let advice = advice(&[(216, 100, 180), (256, 100, 180)]);
    assert_eq!(advice.memory_size, ByteSize::mib(216));
}

#[test]
fn the_value_equation_divides_by_zero_where_the_document_uses_it() {
    // "3000ms @ $0.0000025 = 1.2 million ms/$1"
    for (ms, said, billions) in [(3000.0_f64, 0.000_002_5, 1.2), (1500.0, 0.000_005, 0.3), (1400.0, 0.000_01, 0.14)] {
        assert!((ms / said / 1e9 - billions).abs() < 1e-9_f64); // billion, not million
    }
    let costs = [(128, 3000), (256, 1500), (512, 1400)].map(|(mb, ms)| format!("{:.9}", x86().run(run(mb, ms))));
    assert_eq!(costs, ["$0.000006250", "$0.000006250", "$0.000011667"]);

    let [first, second, third] = [(128, 3000), (256, 1500), (512, 1400)].map(|(mb, ms)| point(mb, ms));
    assert_eq!(second.cost.to_bits(), first.cost.to_bits()); // not "2x cost"
    assert_eq!(Value::of(&first, &second), Value::Better);
    assert!(matches!(Value::of(&second, &third), Value::Gain(gain) if (gain - 0.0769).abs() < 0.001));
    // "Best value: 256MB" by every rule.
    for strategy in [Strategy::Cost, Strategy::Speed, Strategy::Balanced(0.5)] {
        let points = [first, second, third];
        let (selected, plateau) = (select(&points, strategy).unwrap(), plateau(&points, 10).unwrap());
        assert_eq!(selected.memory_size.min(plateau.memory_size), ByteSize::mib(256));
    }
}

#[test]
fn the_value_equation_has_a_value_everywhere() {
    let at = |cost: f64, duration: f64| Point { memory_size: ByteSize::mib(1), cost, duration };
    let from = at(1.0, 100.0);
    for (to, value) in [
        (at(1.0, 100.0), Value::Same),
        (at(1.0, 50.0), Value::Better),
        (at(0.5, 100.0), Value::Better),
        (at(0.5, 50.0), Value::Better),
        (at(1.0, 150.0), Value::Worse),
        (at(2.0, 100.0), Value::Worse),
        (at(2.0, 150.0), Value::Worse),
        (at(2.0, 50.0), Value::Gain(0.5)),
        (at(0.5, 150.0), Value::Saving(1.0)),
    ] {
        assert_eq!(Value::of(&from, &to), value, "{to:?}");
    }
    assert_eq!(Value::of(&at(0.0, 100.0), &at(1.0, 50.0)), Value::Gain(0.0));
}

#[test]
fn process_exited_is_not_always_out_of_memory() {
    let said = "RequestId: 0 Process exited before completing request\n";
    for (used, verdict) in [(74, OutOfMemory::No), (128, OutOfMemory::Suspected)] {
        let mut seen = None;
        let log = log(&[(128, 88, used)]) + said;
        read_log(log.as_bytes(), |entry| {
            if let Entry::Report(report) = entry {
                seen = Some(report);
            }
        })
        .unwrap();
        assert_eq!(seen.as_ref().map(ReportLine::out_of_memory), Some(verdict));
    }
}

#[test]
fn lee_is_under_the_documents_own_rule() {
    // "Typical Usage: 85-95MB, Peak Usage: 110MB", at 128 MB.
    let reports: Vec<_> = (0..100).map(|n| (128, 40, if n == 99 { 110 } else { 85 + n % 11 })).collect();
    let advice = advice(&reports);
    assert_eq!((advice.peak, advice.p99, advice.p95), (ByteSize::mib(110), ByteSize::mib(95), ByteSize::mib(95)));
    let text = advice.to_string();
    assert!(text.contains("128 MB is under the 20 % rule: 132-143 MB"), "{text}");
    assert_eq!((advice.memory_size, advice.extrapolated), (ByteSize::mib(132), true));

    let headroom = ByteSize::mib(128 - 110).as_mib_f64();
    assert_eq!(format!("{:.1} {:.1}", 100.0 * headroom / 128.0, 100.0 * headroom / 110.0), "14.1 16.4"); // not 15
    assert_eq!(format!("{:.1}", 100.0 * 115.0 / 128.0), "89.8"); // "Alert if usage >115MB", and ">90%"
}

#[test]
fn the_free_tier_is_not_tied_to_128_mb() {
    let free = |mb| {
        // 400,000 GB-seconds in a million requests.
        let each = GbSeconds::new(ByteSize::mib(mb), Duration::from_nanos(1024 * 400_000_000 / mb));
        x86().with_free_tier().month(1_000_000, each).total()
    };
    for mb in [128, 256, 1024, 2048] {
        assert_eq!(free(mb).to_string(), "$0.00", "{mb}");
    }
}

#[test]
fn the_lru_sample_is_first_in_first_out_with_one_entry_more() {
    const MAX_CACHE_SIZE: usize = 100;
    /// `OrderedDict` with `cache_get` as the document has it.
    struct Sample(Vec<(u32, u32)>);
    impl Sample {
        fn get(&mut self, key: u32) -> Option<u32> {
            if self.0.len() > MAX_CACHE_SIZE {
                self.0.remove(0);
            }
            self.0.iter().find(|(other, _)| *other == key).map(|(_, value)| *value)
        }
    }
    let mut cache = Sample(Vec::new());
    let mut most = 0;
    for key in 0..1_000 {
        let first = cache.0.first().map_or(key, |(first, _)| *first);
        cache.get(first); // read all the time, and evicted all the same
        cache.0.push((key, key));
        most = most.max(cache.0.len());
    }
    assert_eq!((most, cache.0[0].0), (MAX_CACHE_SIZE + 1, 899));
    // Without reads, nothing bounds it.
    cache.0.extend((0..10_000).map(|key| (key, key)));
    assert_eq!(cache.0.len(), 10_101);
}
