//! Logs that no platform wrote: whatever the bytes, the module answers in bounds, or says why it does not.
#![cfg(feature = "sizing")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy knows `#[test]` functions as tests, but not their helpers"
)]

#[path = "support/cases.rs"]
mod cases;

use plimsoll::ByteSize;
use plimsoll::sizing::{
    Architecture, Entry, LogCounts, MAX_LINE, OutOfMemory, Pricing, Profile, ReportLine, Sizing, Strategy, read_log,
};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

use cases::proptest_cases;

/// Pieces that logs are made of, whole and broken.
const PIECES: [&str; 64] = [
    "REPORT RequestId: a\t",
    "REPORT RequestId: b ",
    "REPORT ",
    "INIT_REPORT Init Duration: 3 ms\t",
    "RESTORE_REPORT Restore Duration: 3 ms\t",
    "RequestId: a Error: Runtime exited with error: signal: killed",
    "RequestId: Error: signal: killed",
    "RequestId: b Process exited before completing request",
    "START RequestId: a Version: 1",
    "2026-01-01T00:00:00Z a Task timed out after 3.00 seconds",
    "2026/01/01/[$LATEST]0f5f ",
    "[/aws/lambda/x] ",
    "[",
    "Duration: ",
    "Billed Duration: ",
    "Memory Size: ",
    "Max Memory Used: ",
    "Init Duration: ",
    "Restore Duration: ",
    "Billed Restore Duration: ",
    "Status: ",
    "Error Type: Runtime.OutOfMemory\t",
    "Phase: init\t",
    "success\t",
    "timeout\t",
    "error",
    "Runtime ",
    "many ms ",
    "0 ms\t",
    "0 MB\t",
    "1 MB\t",
    "128 MB\t",
    "128 ms\t",
    "127.999999 MB\t",
    "1024 MB\t",
    "10240 MB\t",
    "32768 MB\t",
    "999999999999.999999 ms\t",
    "999999999999 MB\t",
    "18446744073709551615 MB\t",
    "18446744073709551615 ms\t",
    "NaN ms\t",
    "-1 MB\t",
    "1e9 ms\t",
    "0.0000001 ms\t",
    "\n",
    "\n",
    "\n",
    "\r\n",
    "\n  ",
    "\r",
    "\0",
    "\\t",
    "\\n",
    "\"",
    "{\n",
    "{\"type\":\"platform.report\",\"record\":{\"requestId\":\"a\",\"status\":\"success\",\"metrics\":{",
    "\"durationMs\":1.5,\"billedDurationMs\":2,",
    "\"memorySizeMB\":128,\"maxMemoryUsedMB\":128",
    "\"maxMemoryUsedMB\":18446744073709551615",
    "}}}",
    "{\"timestamp\":1,\"message\":\"",
    "]",
    "\u{feff}|\u{2013}\x1b[32m",
];

fn read(log: &[u8]) -> (Profile, Vec<ReportLine>, LogCounts) {
    let (mut profile, mut reports) = (Profile::new(), Vec::new());
    let counts = read_log(log, |entry| match entry {
        Entry::Report(report) => {
            profile.add(&report);
            reports.push(report);
        }
        other => assert!(!format!("{other:?}").is_empty()),
    });
    (profile, reports, counts.unwrap())
}

/// What must hold of any log.
fn is_sound(log: &[u8], headroom: std::ops::RangeInclusive<u32>, strategy: Strategy) -> Result<(), TestCaseError> {
    let (profile, reports, counts) = read(log);
    let lines = log.split_inclusive(|byte| *byte == b'\n').count();
    prop_assert_eq!((counts.lines, counts.reports), (lines as u64, reports.len() as u64));
    prop_assert!(counts.skipped + counts.oversized <= counts.lines);
    prop_assert!(reports.is_sorted_by_key(|report| report.line), "the order is that of the log");
    prop_assert!(reports.iter().all(|report| (1..=counts.lines).contains(&report.line)));
    let sized: u64 = profile.sizes().map(plimsoll::sizing::SizeProfile::reports).sum();
    prop_assert_eq!(sized + profile.unusable() + profile.without_memory(), counts.reports);

    let pricing = Pricing::us_east_1(Architecture::X86);
    let Ok(advice) = Sizing::new(pricing.clone()).headroom(headroom).strategy(strategy).recommend(&profile) else {
        return Ok(());
    };
    prop_assert!(!advice.to_string().is_empty());
    prop_assert!(advice.memory_size >= advice.needed.0 && advice.needed.0 <= advice.needed.1, "{}", advice);
    prop_assert!(advice.choice().is_none_or(|choice| choice.point.is_some_and(|point| point.duration > 0.0)));
    // Figures that no function has are counted, and believed in nothing.
    for report in reports.iter().filter(|report| report.max_memory_used <= Some(ByteSize::gib(32))) {
        let failed_here = report.memory_size == Some(advice.memory_size);
        prop_assert!(!failed_here || report.out_of_memory() == OutOfMemory::No, "{}", advice);
    }
    for candidate in &advice.candidates {
        let month = pricing.month(u64::MAX, candidate.billed).total();
        prop_assert!(month.as_f64().is_finite() && !month.to_string().is_empty());
    }
    Ok(())
}

fn strategy() -> impl proptest::strategy::Strategy<Value = Strategy> {
    prop_oneof![
        Just(Strategy::Cost),
        Just(Strategy::Speed),
        any::<f64>().prop_map(Strategy::Balanced),
        Just(Strategy::Balanced(f64::NAN)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: proptest_cases(500), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pieces_in_any_order_are_answered(
        pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..60),
        (low, high) in (0..200_u32, prop_oneof![0..200_u32, Just(u32::MAX)]),
        strategy in strategy(),
    ) {
        is_sound(pieces.concat().as_bytes(), low..=high, strategy)?;
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..400), strategy in strategy()) {
        is_sound(&bytes, 20..=30, strategy)?;
    }

    #[test]
    fn full_reports_of_any_figures_are_answered(
        reports in prop::collection::vec(
            (prop::sample::select(vec![0_u64, 1, 128, 129, 256, 10_240, 32_768, 999_999_999_999, u64::MAX]),
             prop::sample::select(vec![0_u64, 1, 100, 127, 128, 10_239, 32_768, 999_999_999_999, u64::MAX]),
             prop::sample::select(vec!["0", "0.01", "100.5", "999999999999.999999", "18446744073709551615"]),
             prop::sample::select(vec!["", "Status: timeout", "Error Type: Runtime.OutOfMemory", "Status: success"])),
            0..30),
        strategy in strategy(),
    ) {
        let line = |(n, (size, used, ms, tail)): (usize, &(u64, u64, &str, &str))| {
            format!(
                "REPORT RequestId: {n}\tDuration: {ms} ms\tBilled Duration: {ms} ms\tMemory Size: {size} MB\tMax \
                 Memory Used: {used} MB\t{tail}\r\n"
            )
        };
        let log: String = reports.iter().enumerate().map(line).collect();
        is_sound(log.as_bytes(), 20..=30, strategy)?;
    }
}

#[test]
fn a_log_that_shrinks_while_it_is_read_gives_what_is_left() {
    let line = "REPORT RequestId: a\tDuration: 10.00 ms\tBilled Duration: 10 ms\tMemory Size: 1280 MB\tMax Memory Used: \
        128 MB\tInit Duration: 10.00 ms\tStatus: success";
    let whole = ReportLine::parse(line.as_bytes()).unwrap();
    for end in 0..line.len() {
        let Some(cut) = ReportLine::parse(&line.as_bytes()[..end]) else { continue };
        assert!(cut.duration.is_none() || cut.duration == whole.duration, "{}", &line[..end]);
        assert!(cut.billed_duration.is_none() || cut.billed_duration == whole.billed_duration, "{}", &line[..end]);
        assert!(cut.memory_size.is_none() || cut.memory_size == whole.memory_size, "{}", &line[..end]);
        assert!(cut.max_memory_used.is_none() || cut.max_memory_used == whole.max_memory_used, "{}", &line[..end]);
        assert!(cut.init_duration.is_none() || cut.init_duration == whole.init_duration, "{}", &line[..end]);
        assert!(cut.status.is_none() || cut.status == whole.status, "{}", &line[..end]);
    }
}

#[test]
fn the_longest_line_may_hold_anything() {
    for piece in
        ["REPORT ", "REPORT RequestId: a ", "[1]", "[", "{", "{\"", "}", "9", "9.", "\\", "\"\"", "Duration: x "]
    {
        let line = piece.repeat(MAX_LINE.as_usize() / piece.len());
        let (_, _, counts) = read(line.as_bytes());
        assert_eq!((counts.lines, counts.oversized), (1, 0), "{piece}");
    }
}
