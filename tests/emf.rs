//! Lines for CloudWatch: that it can read them, what they say, and that each is one line and one write.
#![cfg(feature = "emf")]
#![allow(unsafe_code, reason = "forked children")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests without libtest's attribute")]

#[path = "support/cases.rs"]
mod cases;
#[path = "support/schema.rs"]
mod schema;
mod support;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

use plimsoll::heap::{self, AlarmThresholds};
use plimsoll::monitor::{
    Emf, EmfError, InvocationReport, Label, MonitorBuilder, Outcome, ReportPolicy, RequestId, ResourceCounts,
};
use plimsoll::{ByteDelta, ByteSize, MemoryBudget, Monitor, Pressure, TrackingAllocator};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, json};

use cases::cases;
use support::{Block, Random};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

const CAN_FORK: bool = cfg!(all(unix, not(miri)));

support::tests! {
    the_schema_turns_away_what_cloudwatch_would,
    a_report_reads_as_documented,
    what_is_not_known_is_neither_named_nor_told,
    an_alert_is_counted_and_named,
    own_peak_is_a_metric_with_the_sums_of_its_label,
    budget_utilization_is_from_0_to_100_or_absent,
    ten_thousand_random_reports_are_lines_that_cloudwatch_takes,
    the_longest_names_and_figures_fit_a_line,
    names_that_cloudwatch_would_drop_are_errors,
    a_line_allocates_nothing,
    each_report_is_one_line_in_one_write if CAN_FORK, else "needs fork",
    requests_of_a_busy_service_are_values_of_few_lines if CAN_FORK, else "needs fork",
    alarm_has_metrics if CAN_FORK && cfg!(target_os = "linux"), else "needs fork and the rss",
}

fn builder() -> MonitorBuilder {
    Monitor::builder().memory_size(ByteSize::mib(128)).report(ReportPolicy::Off)
}

fn emf() -> Emf {
    Emf::new("orders").unwrap()
}

/// A report of an invocation that did nothing.
fn report() -> InvocationReport {
    builder().build().unwrap().start("r-1").finish()
}

/// The names of an object's members, as often as they stand there.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Names;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = members.next_entry::<String, _>()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// What is wrong with a line: against the schema, and against what a schema cannot say.
fn faults(line: &str) -> Vec<String> {
    let document: Value = match serde_json::from_str(line) {
        Ok(document) => document,
        Err(error) => return vec![error.to_string()],
    };
    let schema = serde_json::from_str(include_str!("emf.schema.json")).unwrap();
    let mut faults = schema::faults(&schema, &document, "");
    let Ok(Names(names)) = serde_json::from_str(line) else { return faults };
    let unique: HashSet<_> = names.iter().collect();
    if unique.len() != names.len() {
        faults.push(format!("a member stands there twice: {names:?}"));
    }
    // Of all that a root may hold besides, a reader should know what it is.
    faults.extend(names.iter().filter(|name| schema["properties"].get(name).is_none()).cloned());
    if line.contains('\n') {
        faults.push("more than one line".to_owned());
    }
    // With its line end: a pipe takes that much in one piece.
    if line.len() >= 4096 {
        faults.push(format!("{} bytes", line.len()));
    }
    let directive = &document["_aws"]["CloudWatchMetrics"][0];
    for metric in directive["Metrics"].as_array().into_iter().flatten() {
        let name = metric["Name"].as_str().unwrap_or_default();
        if !document[name].is_number() {
            faults.push(format!("the metric {name} is {}", document[name]));
        }
    }
    for dimension in directive["Dimensions"][0].as_array().into_iter().flatten() {
        let name = dimension.as_str().unwrap_or_default();
        if !document[name].is_string() {
            faults.push(format!("the dimension {name} is {}", document[name]));
        }
    }
    faults
}

#[track_caller]
fn read(emf: &Emf, report: &InvocationReport) -> Value {
    let line = emf.line(report).to_string();
    assert_eq!(faults(&line), Vec::<String>::new(), "{line}");
    serde_json::from_str(&line).unwrap()
}

fn metric_names(document: &Value) -> Vec<&str> {
    let metrics = document["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap();
    metrics.iter().map(|metric| metric["Name"].as_str().unwrap()).collect()
}

fn the_schema_turns_away_what_cloudwatch_would() {
    let line = emf().line(&report()).to_string();
    assert_eq!(faults(&line), Vec::<String>::new());
    let document: Value = serde_json::from_str(&line).unwrap();
    let broken: [(&str, Value); 16] = [
        ("", json!([])),
        ("/_aws", Value::Null),
        ("/_aws/Timestamp", json!("2026-11-25")),
        ("/_aws/Timestamp", json!(1.5)),
        ("/_aws/CloudWatchMetrics", json!([])),
        ("/_aws/CloudWatchMetrics/0/Namespace", json!("")),
        ("/_aws/CloudWatchMetrics/0/Namespace", json!("n".repeat(256))),
        ("/_aws/CloudWatchMetrics/0/Dimensions", json!(["FunctionName"])),
        ("/_aws/CloudWatchMetrics/0/Dimensions/0/0", json!("request")),
        ("/_aws/CloudWatchMetrics/0/Dimensions/0/0", json!("heap_peak")),
        ("/_aws/CloudWatchMetrics/0/Metrics/0/Name", json!("request_id")),
        ("/_aws/CloudWatchMetrics/0/Metrics/0/Unit", json!("MiB")),
        ("/_aws/CloudWatchMetrics/0/Metrics/0", json!({ "Name": "alerts", "StorageResolution": 5 })),
        ("/_aws/CloudWatchMetrics/0/Metrics/0", json!({ "Name": "alerts", "unit": "Count" })),
        ("/heap_peak", json!("12")),
        ("/FunctionName", json!(7)),
    ];
    for (at, value) in broken {
        let mut document = document.clone();
        *document.pointer_mut(at).unwrap() = value;
        assert_ne!(faults(&document.to_string()), Vec::<String>::new(), "{at}");
    }
    let definitions = vec![json!({ "Name": "alerts" }); 101];
    let mut many = document;
    many["_aws"]["CloudWatchMetrics"][0]["Metrics"] = json!(definitions);
    assert_ne!(faults(&many.to_string()), Vec::<String>::new());
    let twice = format!("{},\"heap_peak\":1}}", line.strip_suffix('}').unwrap());
    assert_ne!(faults(&twice), Vec::<String>::new());
}

fn a_report_reads_as_documented() {
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let held = budget.account("orders").unwrap().try_reserve(ByteSize::mib(25)).unwrap();
    let monitor = builder().budget(&budget).build().unwrap();
    let mut report = monitor.start("r-1").finish();
    drop(held);
    report.thresholds = Some(AlarmThresholds::new(ByteSize::mib(128)));
    report.heap.as_mut().unwrap().peak.at_most = ByteSize::mib(29);
    report.heap.as_mut().unwrap().live = ByteSize::mib(20);
    report.heap.as_mut().unwrap().growth = ByteDelta::bytes(-3);
    report.rss = Some(ByteSize::mib(40));
    report.peak_rss = Some(ByteSize::bytes((52 << 20) - 1));
    report.highest_rss = ByteSize::mib(60);
    report.crossed = Some(70);
    report.duration = Duration::from_micros(12_345_006);
    if let Some(reserved) = &mut report.reserved {
        reserved.capacity = ByteSize::mib(100);
        reserved.pressure = Pressure::High;
    }
    report.heap.as_mut().unwrap().unattributed = ByteSize::ZERO;
    let mut document = read(&emf().namespace("Shop/Lambda").unwrap(), &report);
    assert!(document["_aws"]["Timestamp"].take().as_u64().unwrap() > 1_700_000_000_000, "in milliseconds");
    let metric = |name: &str, unit: &str| json!({ "Name": name, "Unit": unit });
    let expected = json!({
        "_aws": {
            "Timestamp": null,
            "CloudWatchMetrics": [{
                "Namespace": "Shop/Lambda",
                "Dimensions": [["FunctionName"]],
                "Metrics": [
                    metric("memory_utilization", "Percent"),
                    metric("used_memory_max", "Megabytes"),
                    metric("heap_utilization", "Percent"),
                    metric("heap_peak", "Bytes"),
                    metric("heap_live", "Bytes"),
                    metric("allocations_refused", "Count"),
                    metric("alerts", "Count"),
                    metric("budget_utilization", "Percent"),
                    metric("requests", "Count"),
                ]
            }]
        },
        "v": 1, "FunctionName": "orders",
        // (52 + 12) / 128, rounded down; 29 of 116.
        "memory_utilization": 49.9, "used_memory_max": 64,
        "heap_utilization": 25.0, "heap_peak": 29 << 20, "heap_live": 20 << 20,
        "allocations_refused": 0, "alerts": 0, "budget_utilization": 25.0, "requests": 1,
        "request_id": "r-1", "outcome": "finished", "cold_start": true, "concurrent": false, "invocations": 1,
        "duration": 12_345.006, "total_memory": 128,
        "heap_growth": -3, "heap_unattributed": 0,
        "rss": 40 << 20, "rss_peak": (52 << 20) - 1, "rss_highest": 60 << 20, "recommended_mb": 128, "alarm_threshold": 70, "verdict": "unknown",
        "budget_reserved": 25 << 20, "budget_room": 100 << 20, "budget_pressure": "high", "budget_drift": -(5 << 20),
        "alert_names": [], "gauges": {}, "reserved": { "orders": 25 << 20 },
    });
    assert_eq!(document, expected);
}

fn what_is_not_known_is_neither_named_nor_told() {
    let mut report = report();
    (report.rss, report.peak_rss, report.highest_rss) = (None, None, ByteSize::ZERO);
    let document = read(&emf(), &report);
    let expected = ["heap_utilization", "heap_peak", "heap_live", "allocations_refused", "alerts", "requests"];
    assert_eq!(metric_names(&document), expected);
    for absent in
        ["rss", "rss_peak", "recommended_mb", "alarm_threshold", "budget_room", "resources_loaded", "first_never_used"]
    {
        assert_eq!(document.get(absent), None, "{absent}");
    }
    report.rss = Some(ByteSize::mib(4));
    report.resources.failed = 1;
    let document = read(&emf(), &report);
    assert_eq!((&document["used_memory_max"], &document["resources_failed"]), (&json!(16), &json!(1)));
    assert_eq!(metric_names(&document).len(), 9);
}

fn an_alert_is_counted_and_named() {
    let monitor = builder().build().unwrap();
    let invocation = monitor.start("r");
    heap::set_limit(ByteSize::mib(64)).unwrap();
    assert!(Block::with(65 << 20, 1, false).is_none());
    heap::set_limit(ByteSize::MAX).unwrap();
    let document = read(&emf(), &invocation.finish());
    assert_eq!((&document["alerts"], &document["allocations_refused"]), (&json!(1), &json!(1)));
    assert_eq!(document["alert_names"], json!(["refused-allocations"]));
    assert_eq!(document["cold_start"], json!(true));
    assert_eq!(read(&emf(), &monitor.start("next").finish())["cold_start"], json!(false));
}

/// A figure as they come, and now and then one at an end.
fn figure(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => 0,
        1 => u64::MAX,
        _ => (random.below(1 << 30) as u64) << random.below(12),
    }
}

fn size(random: &mut Random) -> ByteSize {
    ByteSize::bytes(figure(random))
}

/// A name with all that a name should not have.
fn name(random: &mut Random) -> &'static str {
    let letters = ['a', 'Z', '"', '\\', '\n', '\0', '\u{7f}', '\u{2028}', 'é', '💾', ',', '}'];
    let name: String = (0..random.below(80)).map(|_| letters[random.below(letters.len())]).collect();
    name.leak()
}

fn some<T>(random: &mut Random, value: impl FnOnce(&mut Random) -> T) -> Option<T> {
    (random.below(2) == 0).then(|| value(random))
}

/// Any report, whether or not it could ever be made.
fn any_report(random: &mut Random, model: &InvocationReport) -> InvocationReport {
    let mut report = *model;
    report.id = RequestId::new(name(random));
    report.label = Label::new(name(random));
    report.outcome = if random.below(2) == 0 { Outcome::Finished } else { Outcome::Unfinished };
    report.heap.as_mut().unwrap().live = size(random);
    report.heap.as_mut().unwrap().peak.at_most = size(random);
    report.heap.as_mut().unwrap().growth = ByteDelta::bytes(figure(random).cast_signed());
    report.rss = some(random, size);
    report.peak_rss = some(random, size);
    report.highest_rss = size(random);
    report.thresholds = Some(AlarmThresholds::new(size(random)).environment_share(size(random)));
    report.crossed = some(random, |random| 1 + u8::try_from(random.below(100)).unwrap());
    report.refused = figure(random);
    report.heap.as_mut().unwrap().unattributed = size(random);
    report.duration = Duration::from_micros(figure(random));
    report.concurrent = random.below(2) == 0;
    report.invocations = figure(random);
    if let Some(reserved) = &mut report.reserved {
        (reserved.bytes, reserved.capacity) = (size(random), size(random));
        reserved.pressure = [Pressure::Normal, Pressure::High, Pressure::Critical][random.below(3)];
    }
    for holder in report.gauges.iter_mut().chain(&mut report.accounts) {
        *holder = some(random, |random| (name(random), size(random)));
    }
    report.resources = ResourceCounts::default();
    if random.below(2) == 0 {
        report.resources.loaded = random.below(usize::MAX);
        report.resources.failed = random.below(3);
        report.resources.never_used = random.below(3);
        report.resources.first_never_used = some(random, name);
    }
    report
}

/// A report of an invocation with own figures and the longest label.
fn measured() -> InvocationReport {
    let monitor = builder().build().unwrap();
    let invocation = monitor.start("r").with_label("l".repeat(64));
    invocation.scope().in_scope(|| drop(std::hint::black_box(vec![1_u8; 4000])));
    invocation.finish()
}

fn own_peak_is_a_metric_with_the_sums_of_its_label() {
    let document = read(&emf(), &measured());
    assert_eq!(
        (&document["request_peak"], &document["own_peak"], &document["own_net"]),
        (&json!(4000), &json!(4000), &json!(0))
    );
    assert_eq!((&document["of_label"]["requests"], &document["of_label"]["peak"]["max"]), (&json!(1), &json!(4000)));
    assert!(metric_names(&document).contains(&"request_peak"));
}

fn budget_utilization_is_from_0_to_100_or_absent() {
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let mut report = builder().budget(&budget).build().unwrap().start("r").finish();
    for (bytes, room, expected) in
        [(0, 7, json!(0.0)), (5, 10, json!(50.0)), (30, 10, json!(100.0)), (5, 0, Value::Null)]
    {
        let reserved = report.reserved.as_mut().unwrap();
        (reserved.bytes, reserved.capacity) = (ByteSize::mib(bytes), ByteSize::mib(room));
        assert_eq!(read(&emf(), &report).get("budget_utilization").unwrap_or(&Value::Null), &expected);
        assert_eq!(report.budget_percent(), expected.as_f64());
    }
}

fn ten_thousand_random_reports_are_lines_that_cloudwatch_takes() {
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let plain = measured();
    let budgeted = builder().budget(&budget).build().unwrap().start("r").finish();
    let mut random = Random::new(8);
    for round in 0..cases(10_000) {
        let model = if random.below(2) == 0 { &plain } else { &budgeted };
        let report = any_report(&mut random, model);
        let line = emf().line(&report).to_string();
        assert_eq!(faults(&line), Vec::<String>::new(), "in round {round}: {line}");
    }
}

fn the_longest_names_and_figures_fit_a_line() {
    let monitor = builder().budget(&MemoryBudget::new(ByteSize::MAX)).build().unwrap();
    let invocation = monitor.start("r").with_label("l".repeat(64));
    invocation.scope().in_scope(|| drop(std::hint::black_box(vec![1_u8; 4000])));
    heap::set_limit(ByteSize::mib(64)).unwrap();
    assert!(Block::with(65 << 20, 1, false).is_none());
    heap::set_limit(ByteSize::MAX).unwrap();
    let mut report = invocation.finish();
    report.id = RequestId::new(&"i".repeat(100));
    report.label = Label::new(&"l".repeat(100));
    report.outcome = Outcome::Unfinished;
    report.thresholds = Some(AlarmThresholds::new(ByteSize::mib(1)).environment_share(ByteSize::MAX));
    let heap = report.heap.as_mut().unwrap();
    (heap.peak.at_most, heap.live, heap.unattributed) = (ByteSize::MAX, ByteSize::MAX, ByteSize::MAX);
    (report.rss, report.peak_rss, report.highest_rss) = (Some(ByteSize::MAX), Some(ByteSize::MAX), ByteSize::MAX);
    (report.refused, report.duration, report.invocations) = (u64::MAX, Duration::MAX, u64::MAX);
    report.heap.as_mut().unwrap().growth = ByteDelta::bytes(i64::MIN);
    report.crossed = Some(100);
    report.gauges = [Some(("\"".repeat(99).leak(), ByteSize::MAX)); 3];
    report.accounts = report.gauges;
    report.resources.loaded = usize::MAX;
    report.resources.unloaded = usize::MAX / 4;
    report.resources.never_used = usize::MAX;
    report.resources.first_never_used = Some("é".repeat(99).leak());
    if let Some(reserved) = &mut report.reserved {
        (reserved.bytes, reserved.capacity) = (ByteSize::MAX, ByteSize::ZERO);
        reserved.pressure = Pressure::Critical;
    }
    report.resources.loaded = 1;
    let emf = Emf::new(&"\"".repeat(255)).unwrap().namespace(&"\\".repeat(255)).unwrap();
    let line = emf.line(&report).to_string();
    assert_eq!(faults(&line), Vec::<String>::new(), "{line}");
    assert!((2500..3500).contains(&line.len()), "{} bytes: what is left is for figures to come", line.len());
}

fn names_that_cloudwatch_would_drop_are_errors() {
    for wrong in ["", "   ", "a\nb", "größe", &"n".repeat(256), "a\0", "\u{7f}"] {
        assert!(matches!(Emf::new(wrong), Err(EmfError::Name { .. })), "{wrong:?}");
        assert!(matches!(emf().namespace(wrong), Err(EmfError::Name { .. })), "{wrong:?}");
    }
    for reserved in ["AWS/Lambda", ":orders"] {
        assert!(Emf::new(reserved).is_ok());
        let error = emf().namespace(reserved).unwrap_err().to_string();
        let expected = format!("the namespace {reserved:?} begins with a colon or with AWS/, which is Amazon's");
        assert_eq!(error, expected);
    }
    assert!(emf().namespace(&"n".repeat(255)).is_ok());
    assert_eq!(Emf::new("a\nb").unwrap_err().to_string().lines().count(), 1);
}

fn a_line_allocates_nothing() {
    struct Sink;
    impl std::fmt::Write for Sink {
        fn write_str(&mut self, _: &str) -> std::fmt::Result {
            Ok(())
        }
    }
    let (emf, report) = (emf(), report());
    let (written, delta) = heap::scope(|| write!(Sink, "{}", emf.line(&report)));
    assert!(written.is_ok());
    assert_eq!(delta.unwrap().allocated, ByteSize::ZERO);
}

#[cfg(unix)]
fn each_report_is_one_line_in_one_write() {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;

    // A datagram socket keeps the bounds of each write.
    let (reader, writer) = UnixDatagram::pair().unwrap();
    let ended = support::in_child(|| {
        // SAFETY: both are open descriptors.
        assert_eq!(unsafe { libc::dup2(writer.as_raw_fd(), 1) }, 1);
        let environment = [
            ("AWS_LAMBDA_FUNCTION_NAME", "orders"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ];
        for (name, value) in environment {
            // SAFETY: no other thread of the child reads it.
            unsafe { std::env::set_var(name, value) };
        }
        let monitor = Monitor::builder().report(ReportPolicy::Off).emf(Emf::from_env().unwrap()).install().unwrap();
        let (_, delta) = heap::scope(|| monitor.start("r-1").finish());
        assert_eq!(delta.unwrap().allocated, ByteSize::ZERO, "nor does the write");
        drop(monitor.start("r-2"));
    });
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    reader.set_nonblocking(true).unwrap();
    let mut buffer = [0; 8192];
    for (id, outcome) in [("r-1", "finished"), ("r-2", "unfinished")] {
        let length = reader.recv(&mut buffer).unwrap();
        let line = std::str::from_utf8(&buffer[..length]).unwrap();
        let line = line.strip_suffix('\n').unwrap();
        assert_eq!(faults(line), Vec::<String>::new(), "{line}");
        let document: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&document["request_id"], &document["outcome"]), (&json!(id), &json!(outcome)));
        assert_eq!((&document["FunctionName"], &document["function_version"]), (&json!("orders"), &json!("$LATEST")));
        assert_eq!(document["_aws"]["CloudWatchMetrics"][0]["Namespace"], Emf::NAMESPACE);
    }
    assert!(reader.recv(&mut buffer).is_err(), "and no more");
}

#[cfg(unix)]
fn requests_of_a_busy_service_are_values_of_few_lines() {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;

    let (reader, writer) = UnixDatagram::pair().unwrap();
    let ended = support::in_child(|| {
        // SAFETY: both are open descriptors.
        assert_eq!(unsafe { libc::dup2(writer.as_raw_fd(), 1) }, 1);
        let monitor = builder().emf(emf()).install().unwrap();
        let request = |bytes: usize| {
            let invocation = monitor.start("r");
            invocation.scope().in_scope(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(bytes))));
            let _report = invocation.finish();
        };
        let _another = monitor.start("another");
        request(1_000_000);
        (1..=1000).for_each(request);
        // Longer than the pause between two lines.
        std::thread::sleep(Duration::from_millis(150));
        request(2_000_000);
    });
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    reader.set_nonblocking(true).unwrap();
    let mut buffer = [0; 8192];
    let (mut requests, mut lines) = (0, 0);
    while let Ok(length) = reader.recv(&mut buffer) {
        assert!(length <= 4096, "{length}");
        let document: Value = serde_json::from_slice(&buffer[..length]).unwrap();
        let count = document["requests"].as_u64().unwrap();
        if let Some(values) = document["request_peak"].as_array() {
            assert_eq!(values.len() as u64, count.min(100));
            assert!(values.iter().all(|peak| (1..=2_000_000).contains(&peak.as_u64().unwrap())), "{document}");
        } else {
            assert_eq!(count, 1, "{document}");
        }
        (requests, lines) = (requests + count, lines + 1);
    }
    assert_eq!(requests, 1002, "each is counted");
    assert!((2..=20).contains(&lines), "{lines} lines");
}

#[cfg(unix)]
fn alarm_has_metrics() {
    let ended = support::in_child(|| {
        let monitor = Monitor::builder().memory_size(ByteSize::mib(100)).environment_share(ByteSize::ZERO);
        let emf = emf().namespace("Shop/Lambda").unwrap();
        let monitor = monitor.alarm_thresholds(&[97]).emf(emf).report(ReportPolicy::Off).install().unwrap();
        let _request = monitor.start("r-1");
        drop(std::hint::black_box(Vec::<u8>::with_capacity(98 << 20)));
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let alarm: Value = serde_json::from_str(&ended.stderr).unwrap();
    let directive = &alarm["_aws"]["CloudWatchMetrics"][0];
    assert_eq!(
        (&directive["Namespace"], &directive["Dimensions"]),
        (&json!("Shop/Lambda"), &json!([["FunctionName"]]))
    );
    assert!(alarm["_aws"]["Timestamp"].as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!((&alarm["FunctionName"], &alarm["plimsoll"]), (&json!("orders"), &json!("alarm")));
    for metric in metric_names(&alarm) {
        assert!(alarm[metric].is_u64(), "{metric}: {alarm}");
    }
    assert_eq!(metric_names(&alarm), ["alarms", "rss", "heap"]);
}

#[cfg(not(unix))]
fn each_report_is_one_line_in_one_write() {}

#[cfg(not(unix))]
fn requests_of_a_busy_service_are_values_of_few_lines() {}

#[cfg(not(unix))]
fn alarm_has_metrics() {}
