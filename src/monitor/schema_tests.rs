//! The page of the guide that documents the records, against the records. `tests/json_report.rs` has the alarm's part.

use std::collections::BTreeSet;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::Value;

use super::*;
use crate::size::ByteDelta;

const PAGE: &str = include_str!("../guide/schema.md");

/// Returns the first column of the tables under a heading of the page.
fn rows(heading: &str) -> BTreeSet<String> {
    let (_, section) = PAGE.split_once(&format!("\n# {heading}\n")).unwrap();
    let section = section.split("\n# ").next().unwrap();
    let names = section.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()));
    names.collect()
}

fn sections(headings: &[&str]) -> BTreeSet<String> {
    headings.iter().flat_map(|heading| rows(heading)).collect()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Returns random reports.
fn reports() -> Vec<InvocationReport> {
    let mut runner = TestRunner::deterministic();
    let reports: Vec<_> =
        (0..256).map(|_| json::tests::any_report().new_tree(&mut runner).unwrap().current()).collect();
    #[cfg(feature = "profile")]
    let reports = {
        os::record_executable();
        let sites = HeapSite::for_test();
        reports.into_iter().map(|report| InvocationReport { growing_sites: sites, ..report }).collect()
    };
    reports
}

/// Members that only a feature adds.
fn of_profile() -> BTreeSet<String> {
    let names: &[&str] = if cfg!(feature = "profile") { &[] } else { &["growing_sites", "build_id"] };
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn schema_page_has_the_members_of_a_report() {
    let documented = sections(&["All records in JSON", "The report in JSON"]);
    let records: Vec<Value> = reports().iter().map(|report| parse(&json::Record(report).to_string())).collect();
    let written: BTreeSet<String> = records.iter().flat_map(keys).collect();
    assert_eq!(&written | &of_profile(), documented);

    let labels = records.iter().filter_map(|record| record.get("of_label"));
    let written: BTreeSet<String> = labels.clone().flat_map(keys).collect();
    assert_eq!(written, rows("Labels"));
    let peaks = labels.filter_map(|label| label.get("peak"));
    assert_eq!(peaks.flat_map(keys).collect::<Vec<_>>()[..4], ["max", "p50", "p95", "p99"]);

    let sites =
        records.iter().filter_map(|record| record.get("growing_sites")).flat_map(|sites| sites.as_array().unwrap());
    let written: BTreeSet<String> = sites.flat_map(keys).collect();
    assert_eq!(written, if cfg!(feature = "profile") { rows("Allocation sites") } else { BTreeSet::new() });
}

#[cfg(feature = "emf")]
#[test]
fn schema_page_has_the_members_of_the_metrics() {
    let documented = sections(&["The report as metrics", "The report in JSON"]);
    let emf = Emf::for_test();
    let written: BTreeSet<String> =
        reports().iter().flat_map(|report| keys(&parse(&emf.line(report).to_string()))).collect();
    assert_eq!(&written | &of_profile(), documented);
}

#[test]
fn schema_page_has_the_members_of_a_snapshot() {
    let monitor = Monitor::builder().memory_size(ByteSize::mib(128)).report(ReportPolicy::Off).build().unwrap();
    drop(monitor.start("r").finish().alerts());
    let mut snapshot = monitor.snapshot();
    (snapshot.live, snapshot.peak) =
        (Some(ByteSize::ZERO), Some(heap::HeapPeak { at_least: ByteSize::ZERO, at_most: ByteSize::ZERO }));
    (snapshot.rss, snapshot.highest_rss) = (Some(ByteSize::mib(1)), ByteSize::mib(1));
    snapshot.highest_cgroup_anonymous = Some(ByteSize::mib(1));
    (snapshot.holders.kept, snapshot.holders.rest) = (Some(ByteSize::ZERO), Some(ByteDelta::bytes(0)));
    snapshot.peaks.get_or_insert_default();
    let documented = sections(&["All records in JSON", "The snapshot in JSON"]);
    assert_eq!(keys(&parse(&format!("{}}}", snapshot::Record(&snapshot)))), documented);
}

#[test]
fn schema_page_has_the_parts_of_the_line_in_their_order() {
    let (_, section) = PAGE.split_once("\n# The report line\n").unwrap();
    let table = section.split("\n# ").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `"));
    let parts: Vec<&str> = table.map(|row| row.split_once('`').unwrap().0).collect();
    let mut seen = BTreeSet::new();
    for report in reports() {
        // Names and labels can have the sign between parts.
        let report = InvocationReport {
            id: RequestId::new("r"),
            label: Label::default(),
            gauges: [None; 3],
            accounts: [None; 3],
            resources: ResourceCounts { first_never_used: Some("model"), ..report.resources },
            ..report
        };
        let line = report.to_string();
        let mut before = 0;
        for part in line.split(" | ").skip(1).filter(|part| !part.starts_with("reserved ")) {
            if part.starts_with("unattributed ") {
                continue;
            }
            let at = parts.iter().position(|known| part.starts_with(known));
            let at = at.unwrap_or_else(|| panic!("{part:?} of {line}"));
            assert!(at >= before, "{part:?} is out of order in {line}");
            seen.insert(parts[at]);
            before = at;
        }
    }
    let missing: Vec<_> = parts.iter().filter(|part| !seen.contains(*part)).collect();
    assert_eq!(missing, Vec::<&&str>::new(), "no report has these parts");
}
