//! Records in JSON: each is one object, in one line and one write of at most 4 KiB, that log tools can read.
#![cfg(unix)]
#![allow(unsafe_code, reason = "forked children")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests without libtest's attribute")]

mod support;

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::SystemTime;

use plimsoll::monitor::{LogFormat, Monitor, MonitorBuilder};
use plimsoll::{ByteSize, MemoryBudget, TrackingAllocator, board, heap};
use serde_json::Value;

use support::{Block, alone};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

const CAN_FORK: bool = cfg!(not(miri));

support::tests! {
    report_in_text_has_the_label_after_the_id if CAN_FORK, else "needs fork",
    report_in_json_is_one_object_in_one_write if CAN_FORK, else "needs fork",
    report_with_the_longest_names_fits_one_record if CAN_FORK, else "needs fork",
    snapshot_in_json_is_one_record if CAN_FORK, else "needs fork",
    report_near_the_limit_has_the_level_warn if CAN_FORK && alone(), else "needs fork and an rss that is its own",
    report_of_a_later_invocation_over_a_line_is_warn if CAN_FORK && alone(), else "needs fork and an rss that is its own",
    report_with_a_refused_allocation_has_the_level_warn if CAN_FORK, else "needs fork",
    format_follows_the_variable_of_lambda if CAN_FORK, else "needs fork",
    warning_in_json_is_escaped if CAN_FORK, else "needs fork",
    alarm_and_abort_report_have_the_common_members if CAN_FORK && alone(), else "needs fork and an rss that is its own",
    schema_page_has_the_members_of_alarm_and_abort_report if CAN_FORK && alone() && cfg!(target_os = "linux"), else "needs fork and an rss that is its own",
    schema_page_has_the_members_of_a_warning if CAN_FORK, else "needs fork",
    alarm_and_abort_report_with_longest_names_parse if CAN_FORK && alone(), else "needs fork and an rss that is its own",
}

fn builder() -> MonitorBuilder {
    Monitor::builder().memory_size(ByteSize::mib(1024)).log_format(LogFormat::Json)
}

/// The records that `work` writes to standard error in a child process, each as one write.
fn records(work: impl FnOnce()) -> Vec<Value> {
    // A datagram socket keeps the bounds of each write.
    let (reader, writer) = UnixDatagram::pair().unwrap();
    let ended = support::in_child(|| {
        // SAFETY: both are open descriptors.
        assert_eq!(unsafe { libc::dup2(writer.as_raw_fd(), 2) }, 2);
        work();
    });
    assert!(ended.code == Some(0) || ended.signal == Some(libc::SIGABRT), "{:?} {:?}", ended.code, ended.signal);
    reader.set_nonblocking(true).unwrap();
    let mut buffer = [0; 8192];
    let received = std::iter::from_fn(|| reader.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()));
    // std writes its own message in parts before it aborts.
    let is_ours = |record: &Vec<u8>| ended.signal.is_none() || record.starts_with(b"{");
    received.filter(is_ours).map(parse).collect()
}

fn wall_seconds() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the time of the machine is the expectation")]
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since_1970.as_secs()).unwrap()
}

/// Reads `2026-11-29T05:40:08.123Z` by the C library's calendar. Panics if a character is not at its place.
fn seconds_of_rfc3339(timestamp: &str) -> i64 {
    let shape = timestamp.replace(|letter: char| letter.is_ascii_digit(), "0");
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{timestamp}");
    let number = |from: usize, to: usize| timestamp[from..to].parse::<i32>().unwrap();
    // SAFETY: all fields are numbers or a pointer that may be null.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    (time.tm_year, time.tm_mon, time.tm_mday) = (number(0, 4) - 1900, number(5, 7) - 1, number(8, 10));
    (time.tm_hour, time.tm_min, time.tm_sec) = (number(11, 13), number(14, 16), number(17, 19));
    let read = (time.tm_mon, time.tm_mday, time.tm_hour, time.tm_min, time.tm_sec);
    // SAFETY: `time` is valid for reads and writes.
    let seconds = unsafe { libc::timegm(&raw mut time) };
    // A field outside its range would have changed.
    assert_eq!((time.tm_mon, time.tm_mday, time.tm_hour, time.tm_min, time.tm_sec), read, "{timestamp}");
    seconds
}

fn parse(record: Vec<u8>) -> Value {
    assert!(record.len() <= 4096, "{} bytes", record.len());
    let line = String::from_utf8(record).unwrap();
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    let record: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(record["v"], 1, "{line}");
    assert!(record["plimsoll"].is_string() && record["level"].is_string(), "{line}");
    let timestamp = record["timestamp"].as_str().unwrap();
    assert!((seconds_of_rfc3339(timestamp) - wall_seconds()).abs() <= 60, "{timestamp} is not the time of the test");
    record
}

fn report_in_text_has_the_label_after_the_id() {
    let ended = support::in_child(|| {
        let monitor = builder().log_format(LogFormat::Text).install().unwrap();
        drop(monitor.start("4f1c/9a").with_label("/orders/{id}").finish().alerts());
        drop(monitor.start("4f1c/9b").finish().alerts());
    });
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!((ended.code, lines.len()), (Some(0), 2), "{lines:?}");
    assert!(lines[0].starts_with("plimsoll 4f1c/9a /orders/{id} heap "), "{lines:?}");
    assert!(lines[1].starts_with("plimsoll 4f1c/9b heap "), "{lines:?}");
}

fn report_in_json_is_one_object_in_one_write() {
    let records = records(|| {
        let monitor = builder().install().unwrap();
        for number in 0..3 {
            drop(monitor.start(number.to_string()).with_label("/orders/{id}").finish().alerts());
        }
    });
    assert_eq!(records.len(), 3);
    for (number, record) in records.iter().enumerate() {
        assert_eq!((&record["plimsoll"], &record["level"]), (&"report".into(), &"INFO".into()));
        assert_eq!((&record["request_id"], &record["label"]), (&number.to_string().into(), &"/orders/{id}".into()));
        assert_eq!(record["total_memory"], 1024);
        assert!(record["heap_live"].is_u64() && record["heap_peak"].is_u64() && record["heap_growth"].is_i64());
    }
}

fn report_with_the_longest_names_fits_one_record() {
    let records = records(|| {
        for name in ["\"a", "\\b", "c\n"] {
            board::holder(name.repeat(100).leak()).set(ByteSize::MAX);
        }
        let budget = MemoryBudget::new(ByteSize::MAX);
        let monitor = builder().budget(&budget).memory_size(ByteSize::MAX).install().unwrap();
        let id = "i".repeat(1000);
        drop(monitor.start(&id).with_label("l".repeat(1000)).finish().alerts());
    });
    let report = records.iter().find(|record| record["plimsoll"] == "report").unwrap();
    assert_eq!(report["label"].as_str().map(str::len), Some(64));
    assert_eq!(report["gauges"].as_object().map(serde_json::Map::len), Some(3));
}

fn snapshot_in_json_is_one_record() {
    let records = records(|| {
        for number in 0..30 {
            board::holder(format!("{number}{}", "\"".repeat(100)).leak()).set(ByteSize::MAX);
        }
        builder().install().unwrap().snapshot().print();
    });
    assert_eq!((records.len(), &records[0]["plimsoll"]), (1, &"snapshot".into()));
    assert_eq!((&records[0]["memory_size"], &records[0]["invocations"]), (&(1_u64 << 30).into(), &0.into()));
    assert_eq!(records[0]["gauges"].as_object().map(serde_json::Map::len), Some(16));
}

fn report_near_the_limit_has_the_level_warn() {
    let records = records(|| {
        let monitor = Monitor::builder().memory_size(ByteSize::mib(400)).environment_share(ByteSize::ZERO);
        let monitor = monitor.log_format(LogFormat::Json).build().unwrap();
        let invocation = monitor.start("large");
        drop(Block::with(370 << 20, 1, true));
        assert_eq!(invocation.finish().alerts().count(), 1);
    });
    assert_eq!((&records[0]["level"], &records[0]["alert_names"][0]), (&"WARN".into(), &"near-limit".into()));
}

fn report_of_a_later_invocation_over_a_line_is_warn() {
    let records = records(|| {
        let monitor = Monitor::builder().memory_size(ByteSize::mib(400)).environment_share(ByteSize::ZERO);
        let monitor = monitor.log_format(LogFormat::Json).install().unwrap();
        let held = Block::with(370 << 20, 1, true);
        drop(monitor.start("first").finish().alerts());
        drop(monitor.start("second").finish().alerts());
        drop(held);
        drop(monitor.start("third").finish().alerts());
    });
    // The alert is shown once; the crossed line remains until the memory is freed.
    let alerts = records.iter().map(|record| record["alerts"].as_u64());
    assert_eq!(alerts.collect::<Vec<_>>(), [Some(1), Some(0), Some(0)], "{records:?}");
    let levels = records.iter().map(|record| record["level"].as_str());
    assert_eq!(levels.collect::<Vec<_>>(), [Some("WARN"), Some("WARN"), Some("INFO")], "{records:?}");
}

fn report_with_a_refused_allocation_has_the_level_warn() {
    let records = records(|| {
        let monitor = builder().install().unwrap();
        let invocation = monitor.start("refused");
        heap::set_limit(ByteSize::mib(64)).unwrap();
        assert!(Block::with(65 << 20, 1, false).is_none());
        drop(invocation.finish().alerts());
    });
    assert_eq!((&records[0]["level"], &records[0]["alert_names"][0]), (&"WARN".into(), &"refused-allocations".into()));
    assert!(records[0]["alarm_threshold"].is_null(), "{records:?}");
}

fn format_follows_the_variable_of_lambda() {
    let first_byte = |value: &str| {
        let ended = support::in_child(|| {
            // SAFETY: the forked child has one thread.
            unsafe { std::env::set_var("AWS_LAMBDA_LOG_FORMAT", value) };
            let monitor = Monitor::builder().memory_size(ByteSize::mib(1024)).install().unwrap();
            drop(monitor.start("r").finish().alerts());
        });
        assert_eq!((ended.code, ended.stderr.lines().count()), (Some(0), 1), "{}", ended.stderr);
        ended.stderr.as_bytes()[0]
    };
    assert_eq!(["JSON", "json", "Text", "", "xml"].map(first_byte), *b"{{ppp");
}

fn warning_in_json_is_escaped() {
    let records = records(|| {
        // SAFETY: the forked child has one thread.
        unsafe { std::env::set_var("PLIMSOLL_REPORT", "\"}\n{\u{7}") };
        drop(builder().install().unwrap());
    });
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!((&records[0]["plimsoll"], &records[0]["level"]), (&"warning".into(), &"WARN".into()));
    assert!(records[0]["message"].as_str().unwrap().starts_with("PLIMSOLL_REPORT is ignored: "), "{records:?}");
}

/// The records of a process that crosses the topmost line and aborts over a refused allocation.
fn alarm_and_abort(id: &str, holders: &[&'static str]) -> Vec<Value> {
    records(|| {
        let monitor = Monitor::builder().memory_size(ByteSize::mib(200)).environment_share(ByteSize::ZERO);
        let monitor = monitor.log_format(LogFormat::Json).install().unwrap();
        for name in holders {
            board::holder(name).set(ByteSize::mib(1));
        }
        let _invocation = monitor.start(id);
        let _held = Block::with(196 << 20, 1, true);
        heap::set_limit(ByteSize::mib(197)).unwrap();
        drop(std::hint::black_box(vec![1_u8; 100 << 20]));
    })
}

fn only<'a>(records: &'a [Value], kind: &str) -> &'a Value {
    let mut found = records.iter().filter(|record| record["plimsoll"] == kind);
    found.next().filter(|_| found.next().is_none()).unwrap_or_else(|| panic!("not one {kind}: {records:?}"))
}

fn alarm_and_abort_report_have_the_common_members() {
    let records = alarm_and_abort("r-1", &["sessions"]);
    let (alarm, abort) = (only(&records, "alarm"), only(&records, "abort"));
    for record in [alarm, abort] {
        assert_eq!((&record["level"], &record["requests"][0]["request_id"]), (&"ERROR".into(), &"r-1".into()));
    }
    assert!(abort["refused"].as_u64().is_some_and(|count| count > 0), "{abort}");
    assert_eq!((&abort["limit"], &abort["largest_refused"]), (&(197 << 20).into(), &(100 << 20).into()));
    assert_eq!(abort["gauges"]["sessions"], 1 << 20);
}

fn alarm_and_abort_report_with_longest_names_parse() {
    let names = ["a", "b", "c", "d", "e", "f"].map(|letter| &*format!("{letter}\"\\\n").repeat(30).leak());
    let records = alarm_and_abort(&"i".repeat(100), &names);
    for record in [only(&records, "alarm"), only(&records, "abort")] {
        assert_eq!(record["requests"][0]["request_id"].as_str().map(str::len), Some(64), "{record}");
        let lengths = record["gauges"].as_object().unwrap().keys().map(String::len);
        assert_eq!(lengths.collect::<Vec<_>>(), [48; 5], "{record}");
    }
}

/// Returns the first column of the tables under these headings of the guide's page.
fn documented(headings: &[&str]) -> BTreeSet<String> {
    let page = include_str!("../src/guide/schema.md");
    let rows = headings.iter().flat_map(|heading| {
        let (_, section) = page.split_once(&format!("\n# {heading}\n")).unwrap();
        section.split("\n# ").next().unwrap().lines()
    });
    // The row of a member that only a feature adds names the feature.
    let is_built = |row: &&str| {
        let features = [("emf", cfg!(feature = "emf")), ("profile", cfg!(feature = "profile"))];
        features.iter().all(|(name, is_on)| *is_on || !row.contains(&format!("(feature `{name}`)")))
    };
    let names = rows.filter(is_built).filter_map(|row| Some(row.strip_prefix("| `")?.split_once('`')?.0.to_owned()));
    names.collect()
}

fn keys<'a>(objects: impl IntoIterator<Item = &'a Value>) -> BTreeSet<String> {
    objects.into_iter().flat_map(|object| object.as_object().unwrap().keys().cloned()).collect()
}

fn schema_page_has_the_members_of_alarm_and_abort_report() {
    let records = records(|| {
        let monitor = Monitor::builder().memory_size(ByteSize::mib(200)).environment_share(ByteSize::ZERO);
        #[cfg(feature = "emf")]
        let monitor = monitor.emf(plimsoll::monitor::Emf::new("orders").unwrap());
        #[cfg(feature = "profile")]
        let monitor = monitor.profile("64KiB".parse().unwrap());
        let monitor = monitor.log_format(LogFormat::Json).print_reports(false).install().unwrap();
        board::holder("sessions").set(ByteSize::mib(1));
        let budget = MemoryBudget::new(ByteSize::mib(100));
        let _reserved = budget.account("orders").unwrap().try_reserve(ByteSize::mib(1)).unwrap();
        let _invocation = monitor.start("r-1").with_label("/orders");
        let _held = Block::with(196 << 20, 1, true);
        heap::set_limit(ByteSize::mib(197)).unwrap();
        drop(std::hint::black_box(vec![1_u8; 100 << 20]));
    });
    let (alarm, abort) = (only(&records, "alarm"), only(&records, "abort"));
    assert_eq!(keys([alarm]), documented(&["All records in JSON", "The alarm", "Holders"]), "{alarm}");
    assert_eq!(keys([abort]), documented(&["All records in JSON", "The abort report", "Holders"]), "{abort}");
    for record in [alarm, abort] {
        assert_eq!(keys([&record["requests"][0]]), documented(&["Requests in flight"]), "{record}");
        assert_eq!(keys([&record["sums"]]), BTreeSet::from(["gauges", "sites", "reserved"].map(str::to_owned)));
        let sites = record.get("sites").into_iter().flat_map(|sites| sites.as_array().unwrap());
        let undocumented: Vec<_> = keys(sites).difference(&documented(&["Allocation sites"])).cloned().collect();
        assert_eq!(undocumented, Vec::<String>::new(), "{record}");
    }
}

fn schema_page_has_the_members_of_a_warning() {
    let records = records(|| drop(builder().build().unwrap().start("r").finish().alerts()));
    let warning = only(&records, "warning");
    assert_eq!(keys([warning]), documented(&["All records in JSON", "Warnings"]), "{warning}");
}
