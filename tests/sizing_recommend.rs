//! What is recommended, on what evidence, and what is left out of it.
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
    Architecture, Caveat, Dollars, Fit, GbSeconds, Point, Pricing, Profile, Recommendation, ReportLine, Sizing,
    SizingError, Strategy, Value, billed_duration, plateau, select, trimmed_mean,
};
use proptest::prelude::*;

/// A report with these fields, read from its line.
fn report(fields: &str) -> ReportLine {
    let read = ReportLine::parse(format!("REPORT RequestId: a\t{fields}").as_bytes());
    read.unwrap_or_else(|| panic!("no report: {fields}"))
}

fn run(size: u64, ms: u64, used: u64, tail: &str) -> ReportLine {
    report(&format!(
        "Duration: {ms}.00 ms\tBilled Duration: {ms} ms\tMemory Size: {size} MB\tMax Memory Used: {used} MB\t{tail}"
    ))
}

/// So many equal runs of each size, milliseconds and MB used.
fn profile(count: usize, runs: &[(u64, u64, u64)]) -> Profile {
    let mut profile = Profile::new();
    for (size, ms, used) in runs {
        (0..count).for_each(|_| profile.add(&run(*size, *ms, *used, "")));
    }
    profile
}

fn sizing() -> Sizing {
    Sizing::new(Pricing::us_east_1(Architecture::X86))
}

fn advice(profile: &Profile) -> Recommendation {
    sizing().recommend(profile).unwrap()
}

fn fits(advice: &Recommendation) -> Vec<(u64, Fit)> {
    advice.candidates.iter().map(|candidate| (candidate.memory_size.as_u64() >> 20, candidate.fit)).collect()
}

#[test]
fn a_size_that_ran_out_of_memory_is_excluded_and_so_are_its_failures() {
    let mut profile = profile(30, &[(256, 900, 120), (512, 800, 120)]);
    profile.add(&run(256, 20, 130, "Status: error\tError Type: Runtime.OutOfMemory"));
    let advice = advice(&profile);
    assert_eq!(fits(&advice), [(256, Fit::OutOfMemory), (512, Fit::Fits)]);
    assert_eq!(advice.memory_size, ByteSize::mib(512));
    // The run that was killed early made nothing look fast.
    assert_eq!(advice.candidates[0].point.unwrap().duration.to_bits(), 900.0_f64.to_bits());
    assert_eq!(advice.candidates[0].runs, 30);
    assert!(advice.to_string().contains("256 MB ran out of memory, or failed at its limit"));
}

#[test]
fn no_size_is_recommended_up_to_one_that_ran_out_of_memory() {
    let killed = "Status: error\tError Type: Runtime.OutOfMemory";
    let mut early = profile(30, &[(160, 900, 100), (256, 900, 100)]);
    early.add(&run(256, 20, 110, killed));
    let found = advice(&early);
    assert_eq!(fits(&found), [(160, Fit::UnderHeadroom), (256, Fit::OutOfMemory)]);
    assert_eq!((found.memory_size, found.extrapolated), (ByteSize::mib(308), true));
    assert!(found.untried.is_none_or(|untried| untried.memory_size > ByteSize::mib(256)));
    let ran_out =
        |caveat: &Caveat| matches!(caveat, Caveat::RanOut { memory_size, .. } if *memory_size == ByteSize::mib(256));
    assert!(found.caveats.iter().any(ran_out));

    let mut unseen = profile(30, &[(256, 900, 100), (1024, 300, 100)]);
    unseen.add(&report(&format!("Duration: 5 ms\tBilled Duration: 5 ms\tMemory Size: 512 MB\t{killed}")));
    assert_eq!(advice(&unseen).memory_size, ByteSize::mib(1024));
    assert_eq!(fits(&advice(&unseen))[0], (256, Fit::UnderHeadroom));

    let mut one = Profile::new();
    one.add(&run(1024, 20, 1024, killed));
    let found = sizing().headroom(0..=0).recommend(&one).unwrap();
    assert_eq!(found.memory_size, ByteSize::mib(1025));
}

#[test]
fn a_suspicion_excludes_and_thrashing_shows_as_the_peak() {
    let mut suspected = profile(30, &[(256, 900, 120), (512, 800, 120)]);
    suspected.add(&run(256, 60_000, 256, "Status: timeout"));
    assert_eq!(fits(&advice(&suspected)), [(256, Fit::OutOfMemory), (512, Fit::Fits)]);

    let mut thrashing = profile(30, &[(256, 900, 120), (512, 800, 120)]);
    thrashing.add(&run(256, 900, 256, ""));
    let advice = advice(&thrashing);
    assert_eq!(thrashing.sizes().next().unwrap().thrashing(), 1);
    assert_eq!(fits(&advice), [(256, Fit::UnderHeadroom), (512, Fit::Fits)]);
    let first = advice.caveats[0];
    assert!(matches!(first, Caveat::PeakAtLimit { memory_size, .. } if memory_size == ByteSize::mib(256)), "{first}");
}

#[test]
fn one_timeout_in_a_hundred_is_an_accident_and_more_exclude() {
    for (timeouts, fit) in [(1, Fit::Fits), (2, Fit::TimesOut)] {
        let mut profile = profile(99, &[(256, 100, 120)]);
        (0..timeouts).for_each(|_| profile.add(&run(256, 3_000, 120, "Status: timeout")));
        let advice = sizing().recommend(&profile).unwrap();
        assert_eq!(fits(&advice), [(256, fit)]);
        assert_eq!(advice.candidates[0].point.unwrap().duration.to_bits(), 100.0_f64.to_bits());
    }
}

#[test]
fn a_size_whose_every_run_failed_is_not_measured() {
    let mut profile = profile(30, &[(512, 800, 120)]);
    (0..30).for_each(|_| profile.add(&run(256, 5, 100, "Status: error\tError Type: Runtime.ExitError")));
    let advice = advice(&profile);
    assert_eq!(fits(&advice), [(256, Fit::NotMeasured), (512, Fit::Fits)]);
    // A failure is billed all the same.
    assert_eq!(advice.candidates[0].billed, GbSeconds::new(ByteSize::mib(256), Duration::from_millis(5)));
}

#[test]
fn more_memory_stops_where_duration_no_longer_decreases() {
    let profile = profile(30, &[(256, 1300, 110), (512, 1200, 110), (1024, 1171, 110), (2048, 1171, 110)]);
    let speed = |gain| sizing().strategy(Strategy::Speed).min_gain(gain).recommend(&profile).unwrap();
    assert_eq!(speed(10).memory_size, ByteSize::mib(256)); // 1171 of 1300 are 9.9 % less
    assert_eq!(speed(9).memory_size, ByteSize::mib(512));
    assert_eq!(speed(0).memory_size, ByteSize::mib(1024));
    assert_eq!(speed(10).selected, Some(ByteSize::mib(1024)));
    let text = speed(10).to_string();
    assert!(text.contains("1024 MB is what speed selects; from 256 MB on duration no longer decreases"), "{text}");
}

#[test]
fn headroom_is_settable_and_zero_demands_none() {
    let profile = profile(30, &[(128, 100, 110), (143, 100, 110), (256, 100, 110)]);
    let with = |headroom| sizing().headroom(headroom).recommend(&profile).map(|advice| advice.memory_size);
    assert_eq!(with(0..=0), Ok(ByteSize::mib(128)));
    assert_eq!(with(20..=30), Ok(ByteSize::mib(143)));
    assert_eq!(with(31..=40), Ok(ByteSize::mib(256)));
    #[expect(clippy::reversed_empty_ranges, reason = "what is tested")]
    let empty = with(30..=20);
    assert_eq!(empty.unwrap_err().to_string(), "a headroom of 30 to 20 % is empty");
    assert!(matches!(with(u32::MAX..=u32::MAX), Err(SizingError::TooLarge { .. })));
}

#[test]
fn where_nothing_fits_the_choice_follows_from_memory_and_says_so() {
    let advice = advice(&profile(30, &[(128, 40, 110)]));
    assert_eq!((advice.memory_size, advice.extrapolated, advice.choice()), (ByteSize::mib(132), true, None));
    assert_eq!(advice.caveats, [Caveat::NothingFits]);
    let untried = advice.untried.unwrap();
    assert_eq!((untried.memory_size, untried.from), (ByteSize::mib(132), ByteSize::mib(128)));
    // Between work that only computes and work that only waits.
    assert!((untried.duration.0 - 40.0 * 128.0 / 132.0).abs() < 1e-9 && (untried.duration.1 - 40.0).abs() < 1e-9);
}

#[test]
fn a_function_that_was_only_seen_too_large_is_told_what_to_measure() {
    let seen = advice(&profile(30, &[(1024, 50, 61)]));
    assert_eq!((seen.memory_size, seen.extrapolated), (ByteSize::mib(1024), false));
    assert_eq!(seen.caveats, [Caveat::NoCurve]);
    let untried = seen.untried.unwrap();
    assert_eq!((untried.memory_size, untried.duration), (ByteSize::mib(128), (50.0, 400.0)));
    // Not where a size in the range was measured, however it did.
    let seen = advice(&profile(30, &[(128, 500, 61), (1024, 50, 61)]));
    assert_eq!((seen.memory_size, seen.untried), (ByteSize::mib(1024), None));
}

#[test]
fn too_few_runs_are_said() {
    let few = advice(&profile(19, &[(256, 100, 110)]));
    let [Caveat::NoCurve, Caveat::FewRuns { memory_size, runs: 19, enough: 20, .. }] = few.caveats[..] else {
        panic!("{:?}", few.caveats);
    };
    assert_eq!(memory_size, ByteSize::mib(256));
    assert_eq!(advice(&profile(20, &[(256, 100, 110)])).caveats, [Caveat::NoCurve]);
}

#[test]
fn without_memory_there_is_no_recommendation() {
    let mut profile = Profile::new();
    assert_eq!(sizing().recommend(&profile).unwrap_err(), SizingError::NoMemory);
    profile.add(&report("Duration: 5.11 ms")); // Managed Instances
    profile.add(&report("Memory Size: 128 MB"));
    assert_eq!(sizing().recommend(&profile).unwrap_err(), SizingError::NoMemory);
    profile.add(&run(128, 5, 61, ""));
    let seen = advice(&profile);
    assert!(seen.caveats.iter().any(|caveat| matches!(caveat, Caveat::WithoutMemory { reports: 1, .. })));
    assert_eq!(seen.reports, 2);
}

#[test]
fn figures_that_no_function_has_are_not_believed() {
    let mut profile = profile(20, &[(256, 100, 110)]);
    for fields in [
        "Memory Size: 0 MB\tMax Memory Used: 1 MB",
        "Memory Size: 32769 MB\tMax Memory Used: 1 MB",
        "Memory Size: 128 MB\tMax Memory Used: 999999999999 MB",
    ] {
        profile.add(&report(fields));
    }
    let longest = "999999999999 ms";
    profile.add(&report(&format!("Duration: {longest}\tBilled Duration: {longest}\tMemory Size: 32768 MB")));
    assert_eq!(profile.unusable(), 3);
    let seen = advice(&profile);
    assert_eq!((seen.memory_size, seen.peak), (ByteSize::mib(256), ByteSize::mib(110)));
    // A 65th size is only counted.
    (1_000..1_100).for_each(|size| profile.add(&run(size, 100, 110, "")));
    assert_eq!((profile.sizes().len(), profile.unusable()), (64, 3 + 38));
}

#[test]
fn restores_are_billed_once_and_power_tuning_bills_them_twice() {
    let mut profile = Profile::new();
    profile.add(&report(
        "Duration: 148.95 ms\tBilled Duration: 203 ms\tMemory Size: 512 MB\tMax Memory Used: 91 MB\tRestore Duration: \
         506.89 ms\tBilled Restore Duration: 54 ms",
    ));
    let size = profile.sizes().next().unwrap();
    // 203 = 149 + 54: the restore is in it. There, the price is that of 257 ms.
    assert_eq!(size.mean_billed(0.2).map(f64::to_bits), Some(203.0_f64.to_bits()));
    assert_eq!(size.mean_duration(0.2).map(f64::to_bits), Some((148.95_f64 + 506.89).to_bits()));
    assert_eq!(
        (size.cold_starts(), size.billed()),
        (1, GbSeconds::new(ByteSize::mib(512), Duration::from_millis(203)))
    );
}

#[test]
fn what_a_line_does_not_bill_is_billed_by_the_rule() {
    let mut profile = Profile::new();
    profile.add(&report("Duration: 1.22 ms\tInit Duration: 8.99 ms\tMemory Size: 128 MB\tMax Memory Used: 13 MB"));
    assert_eq!(profile.sizes().next().unwrap().mean_billed(0.0).map(f64::to_bits), Some(11.0_f64.to_bits()));
    assert_eq!(billed_duration(Duration::ZERO, Duration::ZERO), Duration::ZERO);
    assert_eq!(billed_duration(Duration::from_millis(7), Duration::ZERO), Duration::from_millis(7));
    assert_eq!(billed_duration(Duration::from_nanos(7_000_001), Duration::ZERO), Duration::from_millis(8));
    assert_eq!(billed_duration(Duration::MAX, Duration::MAX), Duration::from_millis(u64::MAX));
}

#[test]
fn of_many_runs_an_even_sample_is_kept_and_the_sums_stay_exact() {
    let mut profile = Profile::new();
    for n in 0..40_000 {
        profile.add(&run(256, 1_000 + n % 1_000, 100 + n % 7, ""));
    }
    let size = profile.sizes().next().unwrap();
    assert_eq!((size.measured(), size.sampled(), size.used(100)), (40_000, true, Some(ByteSize::mib(106))));
    // The later three quarters are in the sample with their share: the mean of an even one is 1499.5 +- 2.9.
    assert!((size.mean_duration(0.0).unwrap() - 1_499.5).abs() < 15.0);
    let mean = GbSeconds::new(ByteSize::mib(256), Duration::from_micros(1_499_500));
    assert_eq!(size.billed(), mean);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn percentiles_are_those_of_a_sorted_list(mut used in prop::collection::vec(1..61_u64, 1..110), percent in 0..=100_u32) {
        let mut profile = Profile::new();
        for used in &used {
            profile.add(&run(128, *used, *used, ""));
        }
        used.sort_unstable();
        let rank = (used.len() * percent as usize).div_ceil(100).max(1);
        let size = profile.sizes().next().unwrap();
        prop_assert_eq!(size.used(percent), Some(ByteSize::mib(used[rank - 1])));
        prop_assert_eq!(profile.used(percent), size.used(percent));
        prop_assert_eq!(size.duration(percent).map(|ms| ms as u64), Some(used[rank - 1]));
    }

    #[test]
    fn the_choice_is_that_of_a_naive_twin(
        figures in prop::collection::vec((0..4_u8, 0..5_u8), 0..8),
        weight in -0.1..1.1_f64,
        gain in prop::sample::select(vec![0, 10, 50, 100]),
    ) {
        let point = |(n, (cost, duration)): (u64, &(u8, u8))| {
            Point { memory_size: ByteSize::mib(n), cost: f64::from(*cost), duration: f64::from(*duration) }
        };
        let points: Vec<Point> = (128..).zip(&figures).map(point).collect();
        for strategy in [Strategy::Cost, Strategy::Speed, Strategy::Balanced(weight)] {
            // Sorted with a stable sort, as the other program does it.
            let mut sorted: Vec<&Point> = points.iter().filter(|point| point.duration != 0.0).collect();
            let most = |of: fn(&Point) -> f64| sorted.iter().map(|point| of(point)).fold(0.0, f64::max);
            let (cost, duration) = (most(|point| point.cost), most(|point| point.duration));
            let w = weight.clamp(0.0, 1.0);
            let score = |p: &Point| w * p.cost / cost + (1.0 - w) * p.duration / duration;
            let compare = |a: f64, b: f64| a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal);
            sorted.sort_by(|a, b| match strategy {
                Strategy::Cost => compare(a.cost, b.cost).then(compare(a.duration, b.duration)),
                Strategy::Speed => compare(a.duration, b.duration).then(compare(a.cost, b.cost)),
                _ => compare(score(a), score(b)),
            });
            prop_assert_eq!(select(&points, strategy), sorted.first().copied());
        }
        let measured: Vec<&Point> = points.iter().filter(|point| point.duration != 0.0).collect();
        let beats = |a: &Point, b: &Point| a.duration < b.duration * (1.0 - f64::from(gain) / 100.0);
        let stop = |at: &usize| !measured[at + 1..].iter().any(|larger| beats(larger, measured[*at]));
        prop_assert_eq!(plateau(&points, gain), (0..measured.len()).find(stop).map(|at| measured[at]));
    }
}

#[test]
fn strange_figures_choose_without_a_panic() {
    let strange = [f64::NAN, f64::INFINITY, -1.0, 0.0, f64::MIN_POSITIVE];
    let point = |cost, duration| Point { memory_size: ByteSize::mib(128), cost, duration };
    for (cost, duration) in strange.iter().flat_map(|a| strange.iter().map(move |b| (*a, *b))) {
        let points = [point(cost, duration), point(1.0, 1.0), point(duration, cost)];
        for strategy in [Strategy::Cost, Strategy::Speed, Strategy::Balanced(cost), Strategy::Balanced(0.5)] {
            assert!(select(&points, strategy).is_some());
        }
        assert!(plateau(&points, u32::MAX).is_some());
        let _any = Value::of(&points[0], &points[2]);
    }
    assert_eq!(select(&[point(1.0, f64::NAN)], Strategy::Cost), None);
}

#[test]
fn a_point_that_was_not_measured_is_never_chosen() {
    let point = |cost, duration| Point { memory_size: ByteSize::mib(128), cost, duration };
    let measured = point(2.0, 100.0);
    for strange in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0] {
        let points = [point(1.0, strange), measured, point(1.0, strange)];
        for strategy in [Strategy::Cost, Strategy::Speed, Strategy::Balanced(0.5)] {
            assert_eq!(select(&points, strategy), Some(&measured), "{strategy} {strange}");
        }
        assert_eq!(plateau(&points, 10), Some(&measured), "{strange}");
        assert_eq!(plateau(&[point(1.0, strange)], 10), None);
    }
    for strange in [f64::NAN, f64::INFINITY] {
        let points = [point(strange, 1.0), measured, point(strange, 1.0)];
        for strategy in [Strategy::Cost, Strategy::Speed, Strategy::Balanced(0.5)] {
            assert_eq!(select(&points, strategy), Some(&measured), "{strategy} {strange}");
        }
        assert_eq!(plateau(&points, 10), Some(&measured), "{strange}");
    }
}

#[test]
fn the_trimmed_mean_cuts_whole_values_at_both_ends() {
    let mean = |values: &[f64], discard| trimmed_mean(&mut values.to_vec(), discard).map(|mean| mean.to_string());
    assert_eq!(mean(&[9.0, 1.0, 2.0, 3.0, 100.0], 0.2).as_deref(), Some("4.666666666666667"));
    assert_eq!(mean(&[1.0, 2.0, 3.0, 100.0], 0.2).as_deref(), Some("26.5")); // int(4 x 0.2) = 0
    assert_eq!(mean(&[5.0], 0.4).as_deref(), Some("5"));
    assert_eq!(mean(&[1.0, 2.0, 3.0, 4.0, 9.0], 7.0).as_deref(), Some("3")); // clamped to 0.4
    assert_eq!(mean(&[1.0, 3.0], f64::NAN).as_deref(), Some("2"));
    assert_eq!(mean(&[], 0.2), None);
}

#[test]
fn strategies_are_read_as_they_are_printed() {
    for (text, strategy) in [
        ("cost", Strategy::Cost),
        ("speed", Strategy::Speed),
        ("balanced:0.5", Strategy::Balanced(0.5)),
        ("balanced:0.25", Strategy::Balanced(0.25)),
    ] {
        assert_eq!(text.parse(), Ok(strategy));
        assert_eq!(strategy.to_string(), text);
    }
    assert_eq!("balanced".parse(), Ok(Strategy::Balanced(0.5)));
    for text in ["", "Cost", "balanced:", "balanced:2", "balanced:-1", "balanced:nan", "cheap"] {
        assert!(text.parse::<Strategy>().is_err(), "{text}");
    }
}

#[test]
fn a_month_is_priced_step_by_step() {
    let pricing = Pricing::us_east_1(Architecture::X86);
    // 20 billion GB-seconds: a GB for 1000 s, 20 million times.
    let each = GbSeconds::new(ByteSize::gib(1), Duration::from_secs(1_000));
    let month = pricing.month(20_000_000, each);
    // 6 at 16,666.70, 9 at 15,000 and 5 at 13,334 dollars a billion GB-seconds x 1000.
    let compute = 6.0 * 16_666.7 + 9.0 * 15_000.0 + 5.0 * 13_334.0;
    assert_eq!(month.compute.to_string(), format!("${compute:.2}"));
    assert_eq!(month.requests.to_string(), "$4.00");
    let arm = Pricing::us_east_1(Architecture::Arm).month(20_000_000, each).compute;
    assert_eq!(arm.to_string(), format!("${:.2}", 7.5 * 13_333.4 + 12.5 * 12_000.1));
    assert_eq!(pricing.month(0, each).total(), Dollars::ZERO);
    assert_eq!(pricing.month(u64::MAX, GbSeconds::ZERO).compute, Dollars::ZERO);
    let most = GbSeconds::new(ByteSize::MAX, Duration::MAX);
    assert!(pricing.month(u64::MAX, most).total() > month.total());
    assert_eq!(pricing.run(GbSeconds::new(ByteSize::gib(1), Duration::from_secs(1))).to_string(), "$0.00001667");
}

#[test]
fn dollars_print_with_the_places_that_matter() {
    for (trillionths, text) in [
        (0, "$0.00"),
        (1, "$0.000000000001000"),
        (5_208_333, "$0.000005208"),
        (999_950_000_000, "$1.0000"),
        (1_000_000_000_000, "$1.00"),
        (1_234_567_000_000_000, "$1234.57"),
    ] {
        assert_eq!(Dollars::from_trillionths(trillionths).to_string(), text);
    }
    assert_eq!(format!("{:>10.1}", Dollars::from_trillionths(1_260_000_000_000)), "      $1.3");
    assert_eq!(format!("{:.0}", Dollars::from_trillionths(1_500_000_000_000)), "$2");
}
