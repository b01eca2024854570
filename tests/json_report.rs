//! Records in JSON: each is one object, in one line and one write of at most 4 KiB, that log tools can read.
#![cfg(unix)]
#![allow(unsafe_code, reason = "forked children")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests without libtest's attribute")]

mod support;

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use plimsoll::monitor::{LogFormat, Monitor, MonitorBuilder};
use plimsoll::{ByteSize, MemoryBudget, TrackingAllocator, board, heap};
use serde_json::Value;

use support::{Block, alone};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

const CAN_FORK: bool = cfg!(not(miri));

support::tests! {
    report_in_json_is_one_object_in_one_write if CAN_FORK, else "needs fork",
    report_with_the_longest_names_fits_one_record if CAN_FORK, else "needs fork",
    snapshot_in_json_is_one_record if CAN_FORK, else "needs fork",
    report_near_the_limit_has_the_level_warn if CAN_FORK && alone(), else "needs fork and an rss that is its own",
    format_follows_the_variable_of_lambda if CAN_FORK, else "needs fork",
    warning_in_json_is_escaped if CAN_FORK, else "needs fork",
    alarm_and_abort_report_have_the_common_members if CAN_FORK && alone(), else "needs fork and an rss that is its own",
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

fn parse(record: Vec<u8>) -> Value {
    assert!(record.len() <= 4096, "{} bytes", record.len());
    let line = String::from_utf8(record).unwrap();
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    let record: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(record["v"], 1, "{line}");
    assert!(record["plimsoll"].is_string() && record["level"].is_string(), "{line}");
    let timestamp = record["timestamp"].as_str().unwrap();
    assert!(timestamp.len() == 24 && timestamp.starts_with("20") && timestamp.ends_with('Z'), "{timestamp}");
    record
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
    assert_eq!(report["holders"].as_array().map(Vec::len), Some(3));
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
    assert_eq!(records[0]["holders"].as_array().map(Vec::len), Some(16));
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

fn alarm_and_abort_report_have_the_common_members() {
    let records = records(|| {
        let monitor = Monitor::builder().memory_size(ByteSize::mib(200)).environment_share(ByteSize::ZERO);
        let monitor = monitor.log_format(LogFormat::Json).install().unwrap();
        board::holder("sessions").set(ByteSize::mib(1));
        let _invocation = monitor.start("r-1");
        let _held = Block::with(196 << 20, 1, true);
        heap::set_limit(ByteSize::mib(197)).unwrap();
        drop(std::hint::black_box(vec![1_u8; 100 << 20]));
    });
    let kinds: Vec<_> = records.iter().map(|record| record["plimsoll"].as_str().unwrap()).collect();
    let abort = records.iter().find(|record| record["plimsoll"] == "abort").unwrap_or_else(|| panic!("{kinds:?}"));
    assert_eq!((kinds[0], &records[0]["level"]), ("alarm", &"ERROR".into()), "{records:?}");
    assert_eq!((&abort["level"], &abort["request_id"]), (&"ERROR".into(), &"r-1".into()));
    assert!(abort["refused"].as_u64().is_some_and(|count| count > 0), "{abort}");
    assert_eq!((&abort["limit"], &abort["largest_refused"]), (&(197 << 20).into(), &(100 << 20).into()));
    assert_eq!(abort["holders"]["sessions"], 1 << 20);
}
