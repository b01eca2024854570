//! REPORT lines in the shapes that logs show, and what they mean for the memory.
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

#[path = "support/cases.rs"]
mod cases;

use std::time::Duration;

use plimsoll::ByteSize;
use plimsoll::sizing::{
    Entry, InitReport, LogCounts, MAX_LINE, OutOfMemory, Outcome, ReportLine, ReportLog, Status, read_log,
};
use proptest::prelude::*;

use cases::proptest_cases;

/// Everything that a log tells.
#[derive(Default)]
struct Read {
    reports: Vec<ReportLine>,
    inits: Vec<InitReport>,
    restores: usize,
    faults: Vec<String>,
    counts: LogCounts,
}

fn read(log: &[u8]) -> Read {
    let mut read = Read::default();
    read.counts = read_log(log, |entry| match entry {
        Entry::Report(report) => read.reports.push(report),
        Entry::Init(init) => read.inits.push(init),
        Entry::Restore(_) => read.restores += 1,
        Entry::Malformed(line) => read.faults.push(line.to_string()),
        _ => {}
    })
    .unwrap();
    read
}

#[track_caller]
fn one(log: &str) -> ReportLine {
    let read = read(log.as_bytes());
    assert_eq!((read.reports.len(), read.faults), (1, Vec::new()), "{log}");
    read.reports[0]
}

#[expect(clippy::unnecessary_wraps, reason = "as the fields of a report have it")]
fn ms(ms: f64) -> Option<Duration> {
    Some(Duration::from_nanos((ms * 1e6).round() as u64))
}

#[expect(clippy::unnecessary_wraps, reason = "as the fields of a report have it")]
fn mb(mb: u64) -> Option<ByteSize> {
    Some(ByteSize::mib(mb))
}

fn id(report: &ReportLine) -> String {
    report.request_id.map(|id| id.to_string()).unwrap_or_default()
}

const FULL: &str = "REPORT RequestId: 3f1c-9\tDuration: 134.46 ms\tBilled Duration: 163 ms\tMemory Size: 2048 MB\tMax \
    Memory Used: 212 MB\tRestore Duration: 344.80 ms\tBilled Restore Duration: 28 ms\tStatus: error\tError Type: \
    Runtime.ExitError\tXRAY TraceId: 1-66d978e5\tSegmentId: 2fe506b4\tSampled: true";

const JSON: &str = r#"{"time":"2026-07-09T06:05:50.581Z","type":"platform.report","record":{"requestId":"3f1c-9","metrics":{"durationMs":134.46,"billedDurationMs":163,"memorySizeMB":2048,"maxMemoryUsedMB":212,"restoreDurationMs":344.8,"billedRestoreDurationMs":28},"spans":[{"name":"responseLatency","durationMs":2.215}],"tracing":{"value":"Root=1-6352"},"status":"error","errorType":"Runtime.ExitError"}}"#;

#[track_caller]
fn is_the_full_report(report: &ReportLine) {
    assert_eq!(id(report), "3f1c-9");
    assert_eq!((report.duration, report.billed_duration), (ms(134.46), ms(163.0)));
    assert_eq!((report.memory_size, report.max_memory_used), (mb(2048), mb(212)));
    assert_eq!((report.restore_duration, report.billed_restore_duration), (ms(344.8), ms(28.0)));
    assert_eq!((report.init_duration, report.status), (None, Some(Status::Error)));
    assert_eq!(report.error_type.unwrap().as_str(), "Runtime.ExitError");
}

#[test]
fn one_report_reads_alike_in_every_form() {
    let glued = FULL.replace(" ms\t", " ms").replace(" MB\t", " MB");
    let spaces = FULL.replace('\t', "  ");
    let escaped = FULL.replace('\t', "\\t");
    let quoted = JSON.replace('"', "\\\"");
    let doubled = JSON.replace('"', "\"\"");
    for line in [
        FULL.to_owned(),
        FULL.replace('\t', " "),
        spaces.clone(),
        glued,
        escaped.clone(),
        format!("{FULL}\r"),
        format!("\x1b[1;32m{FULL}\x1b[0m"),
        format!("2026-05-15T08:12:43.039Z {FULL}"),
        format!("2026/05/15/[$LATEST]c481deae 2026-05-15T08:12:43.039000+00:00 {spaces}"),
        format!("    2020-12-02T09:59:11.668+01:00[     thumbnailer-dbb2] {FULL}"),
        format!("| 1753725990606 | {spaces}       |"),
        format!("1702417816561,\"{FULL}\""),
        format!("@message={FULL}"),
        format!("      \"@message\": \"{escaped}\\n\","),
        JSON.to_owned(),
        format!("2026-05-15T08:12:43.039Z {JSON}"),
        format!("[{JSON}]"),
        format!("{{\"log\":{JSON},\"host\":1}}"),
        format!("{{\"timestamp\":1,\"message\":\"{quoted}\\n\"}}"),
        format!("1702417816561,\"{doubled}\""),
    ] {
        let read = read(line.as_bytes());
        assert_eq!((read.reports.len(), read.faults.len()), (1, 0), "{line}");
        is_the_full_report(&read.reports[0]);
        assert_eq!(read.counts.skipped, 0, "{line}");
    }
}

#[test]
fn what_is_wrapped_over_lines_is_put_together() {
    let wrapped = FULL.replace("\tBilled Duration", "\n  Billed Duration").replace("\tStatus", "\n  Status");
    let wrapped = wrapped.replace("\tXRAY", "\nXRAY");
    is_the_full_report(&one(&wrapped));

    let value: serde_json::Value = serde_json::from_str(JSON).unwrap();
    let pretty = serde_json::to_string_pretty(&value).unwrap();
    is_the_full_report(&one(&pretty));
    let indented = format!("\t{}\r\n", pretty.lines().collect::<Vec<_>>().join("\r\n\t"));
    is_the_full_report(&one(&format!("some text\n{indented}REPORTED\n")));
}

#[test]
fn a_json_object_that_was_cut_does_not_swallow_what_follows() {
    let value: serde_json::Value = serde_json::from_str(JSON).unwrap();
    let pretty = serde_json::to_string_pretty(&value).unwrap();
    for cut in [1, 30, 60, 150, pretty.len() - 2] {
        let log = format!("{}\n{FULL}\nskipped", &pretty[..cut]);
        let read = read(log.as_bytes());
        assert_eq!(read.reports.len(), 1, "{log}");
        is_the_full_report(&read.reports[0]);
    }
    // Nor does one that is larger than what is kept.
    let endless = format!("{{\n{}\n{FULL}\n", " \"key\": 1,\n".repeat(10_000));
    let read = read(endless.as_bytes());
    assert_eq!((read.reports.len(), read.counts.skipped), (1, 10_002));
}

#[test]
fn an_open_brace_swallows_no_wrapped_report() {
    let wrapped = FULL.replace("\tBilled Duration", "\n  Billed Duration").replace("\tStatus", "\n  Status");
    for prose in ["{ user prose", "{", "{\"cut\": ["] {
        is_the_full_report(&one(&format!("{prose}\n  {wrapped}\n  skipped")));
        // What stands between a report and a line with fields parts them.
        let report = one(&format!("REPORT RequestId: a\tDuration: 1 ms\n{prose}\n  x\n  Memory Size: 128 MB"));
        assert_eq!(report.memory_size, None, "{prose}");
    }
    let counts = read(format!("{{ user prose\n  {wrapped}\n  skipped").as_bytes()).counts;
    assert_eq!((counts.lines, counts.skipped), (5, 2));
}

#[test]
fn one_line_may_hold_many_reports() {
    let batch = format!("[{JSON},{{\"type\":\"function\",\"record\":\"x\"}},{}]", JSON.replace("3f1c-9", "next"));
    assert_eq!(read(batch.as_bytes()).reports.iter().map(id).collect::<Vec<_>>(), ["3f1c-9", "next"]);
    let text = format!("{FULL} {}", FULL.replace("3f1c-9", "next"));
    assert_eq!(read(text.as_bytes()).reports.iter().map(id).collect::<Vec<_>>(), ["3f1c-9", "next"]);
}

#[test]
fn a_batch_of_the_telemetry_api_gives_its_reports_and_nothing_else() {
    let start = r#"{"type":"platform.start","record":{"requestId":"3f1c-9"}}"#;
    let done = r#"{"type":"platform.runtimeDone","record":{"metrics":{"durationMs":1.0},"spans":[{},{},{"a":{}}]}}"#;
    let event = format!("{start},{{\"type\":\"function\",\"record\":{{\"message\":{{}}}}}},{done},{JSON}");
    let batch = |n| format!("[{}]", vec![event.as_str(); n].join(","));
    assert_eq!(read(batch(1).as_bytes()).reports.iter().map(id).collect::<Vec<_>>(), ["3f1c-9"]);
    let counts = read(format!("{{\"records\":{}}}", batch(500)).as_bytes()).counts;
    assert_eq!((counts.reports, counts.copies, counts.malformed), (1, 499, 0));
    // What does not read is told, and what does is told once.
    let cut = read(&batch(2).as_bytes()[..batch(2).len() - 30]);
    assert_eq!((cut.reports.len(), cut.faults.len(), cut.counts.copies), (1, 1, 0));
    let bad = JSON.replace("\"status\":", "\"status\"");
    let mixed = read(format!("{bad} {JSON}").as_bytes());
    assert_eq!((mixed.reports.len(), mixed.faults.len()), (1, 1));
}

#[test]
fn a_report_behind_many_names_that_are_prose_is_told() {
    for (prose, times) in [(r#"{"kind":"platform.report"} "#, 40), (r#"platform.report" "#, 40), ("{", 7)] {
        is_the_full_report(&one(&(prose.repeat(times) + JSON)));
    }
}

#[test]
fn fields_are_read_by_name_in_any_order() {
    let report = one("REPORT RequestId: a\tInit Duration: 0.11 ms\tDuration: 60.25 ms\tBilled Duration: 61 ms");
    assert_eq!((report.init_duration, report.duration, report.billed_duration), (ms(0.11), ms(60.25), ms(61.0)));
    // Another program's name ends like one of ours.
    let report = one("REPORT RequestId: a Runtime Duration: 30000.00 ms Task failed");
    assert_eq!(report.duration, None);
    assert_eq!(one("REPORT RequestId:\ta\tDuration: 3 ms").duration, ms(3.0));
    // Managed Instances: no memory.
    let report = one("REPORT RequestId: a\tDuration: 5.11 ms");
    assert_eq!((report.memory_size, report.max_memory_used, report.is_at_limit()), (None, None, false));
}

#[test]
fn a_figure_that_may_be_cut_is_not_read() {
    for end in ["Memory Size: 25", "Memory Size: 25 ", "Memory Size: 25 M", "Memory Size:", "Memory Size: "] {
        let report = one(&format!("REPORT RequestId: a\tDuration: 3.10 ms\t{end}"));
        assert_eq!((report.duration, report.memory_size), (ms(3.1), None), "{end}");
    }
}

#[test]
fn a_malformed_figure_is_told_with_its_line_and_the_rest_is_read() {
    let log = format!("{FULL}\n\nREPORT RequestId: b\tDuration: many ms\tMemory Size: 128 MB");
    let read = read(log.as_bytes());
    assert_eq!(read.faults, ["line 3: `Duration` is followed by no number of ms"]);
    assert_eq!((read.reports[1].duration, read.reports[1].memory_size, read.reports[1].line), (None, mb(128), 3));
    for (text, fault) in [
        ("REPORT RequestId:", "line 1: a report with neither a request id nor a figure"),
        ("REPORT RequestId: a\tMemory Size: -128 MB", "line 1: `Memory Size` is followed by no number of MB"),
        ("REPORT RequestId: a\tDuration: 1e3 ms", "line 1: `Duration` is followed by no number of ms"),
        ("REPORT RequestId: a\tDuration: 1234567890123 ms", "line 1: `Duration` is followed by no number of ms"),
        ("REPORT RequestId: a\tMemory Size: 252\u{2013}254 MB", "line 1: `Memory Size` is followed by no number of MB"),
        (&JSON[..200], "line 1: the JSON of a platform report does not read"),
        (&JSON.replace("134.46", "\"x\""), "line 1: `durationMs` is followed by no number of ms"),
    ] {
        assert_eq!(self::read(text.as_bytes()).faults, [fault], "{text}");
    }
}

#[test]
fn a_malformed_figure_hides_no_field_behind_it() {
    for text in ["many ms", "many", "-12 ms", "12 s", "12 seconds", "1e3 ms", "12", "", "NaN ms"] {
        for gap in [" ", "  ", "\t"] {
            let fields = format!("Duration: {text}{gap}Memory Size: 128 MB{gap}Max Memory Used: 60 MB");
            let read = read(format!("REPORT RequestId: a{gap}{fields}").as_bytes());
            assert_eq!(read.faults, ["line 1: `Duration` is followed by no number of ms"], "{fields}");
            let report = &read.reports[0];
            let told = (report.duration, report.memory_size, report.max_memory_used);
            assert_eq!(told, (None, mb(128), mb(60)), "{fields}");
        }
    }
    // The name of another program's figure is no unit.
    let read = read(b"REPORT RequestId: a Duration: many Runtime Duration: 5 ms");
    assert_eq!(read.reports[0].duration, None);
}

#[test]
fn what_is_no_report_is_skipped_and_counted() {
    let log = "START RequestId: a Version: 7\nREPORT the Duration: 5 ms\nEND RequestId: a\nREPORTING RequestId: a\n\
        XREPORT RequestId: a\tDuration: 1 ms\n{\"type\":\"platform.report\nplatform.report\n\
        Max Memory Used: 127 MB\n{\"level\":\"INFO\",\"kind\":\"platform.report\"}\nDAILY_REPORT RequestId: 1\n\u{1}\n";
    let read = read(log.as_bytes());
    assert_eq!((read.reports.len(), read.faults.len()), (0, 0), "{:?}", read.faults);
    assert_eq!((read.counts.lines, read.counts.skipped), (11, 10)); // START tells that an invocation begins
}

#[test]
fn inits_and_restores_are_told_apart_from_reports() {
    let read = read(
        b"\tINIT_REPORT Init Duration: 9996.20 ms\tPhase: init\tStatus: timeout\n\
        INIT_REPORT Init Duration: 10174ms  Phase: invoke  Status: error  Error Type: Extension.Crash\n\
        RESTORE_REPORT Restore Duration: 418.41 ms\n\
        {\"type\":\"platform.initReport\",\"record\":{\"phase\":\"init\",\"metrics\":{\"durationMs\":178.499}}}\n\
        {\"type\":\"platform.restoreReport\",\"record\":{\"status\":\"failure\",\"errorType\":\"RestoreError\"}}\n",
    );
    assert_eq!((read.reports.len(), read.restores, read.faults.len()), (0, 2, 0));
    let inits: Vec<_> = read.inits.iter().map(|init| (init.init_duration, init.status)).collect();
    let (timeout, error) = (Some(Status::Timeout), Some(Status::Error));
    assert_eq!(inits, [(ms(9996.2), timeout), (ms(10174.0), error), (ms(178.499), None)]);
}

#[test]
fn a_copied_line_counts_once_and_a_retry_with_the_same_id_twice() {
    let retry = FULL.replace("134.46", "134.47");
    let read = read(format!("{FULL}\n{JSON}\n{FULL}\n{retry}\n").as_bytes());
    assert_eq!((read.reports.len(), read.counts.reports, read.counts.copies), (2, 2, 2));
    // Without a duration nobody can tell.
    let read = self::read(b"REPORT RequestId: a Status: error\nREPORT RequestId: a Status: error\n");
    assert_eq!(read.reports.len(), 2);
}

fn line(size: u64, used: u64, tail: &str) -> String {
    format!(
        "REPORT RequestId: a\tDuration: 10.00 ms\tBilled Duration: 10 ms\tMemory Size: {size} MB\tMax Memory Used: \
         {used} MB\t{tail}"
    )
}

#[test]
fn out_of_memory_has_three_verdicts() {
    let killed = "RequestId: a Error: Runtime exited with error: signal: killed\nRuntime.ExitError\n";
    let timed_out = "2026-01-01T00:00:00Z a Task timed out after 3.00 seconds\n";
    let failed = "RequestId: a Error: Runtime exited with error: exit status 1\nRuntime.ExitError\n";
    let (no, suspected, certain) = (OutOfMemory::No, OutOfMemory::Suspected, OutOfMemory::Certain);
    let (finished, is_failed, is_timed_out) = (Outcome::Finished, Outcome::Failed, Outcome::TimedOut);
    for (log, verdict, outcome) in [
        (line(128, 100, ""), no, finished),
        (line(128, 128, ""), no, finished), // thrashing
        (line(128, 128, "Status: success"), no, finished),
        (line(128, 100, "Status: error\tError Type: Runtime.OutOfMemory"), certain, is_failed),
        (line(1024, 1023, "Status: error\tError Type: Runtime.OutOfMemory"), certain, is_failed),
        (line(128, 128, "Status: error\tError Type: Runtime.ExitError"), suspected, is_failed),
        (line(192, 192, "Status: timeout"), suspected, is_timed_out),
        (line(3008, 3007, "Status: timeout"), suspected, is_timed_out),
        (line(128, 129, "Status: failure"), suspected, is_failed),
        (line(128, 126, "Status: timeout"), no, is_timed_out),
        (killed.to_owned() + &line(128, 128, ""), certain, is_failed),
        (line(128, 127, "") + "\n" + killed, certain, is_failed),
        (killed.to_owned() + &line(128, 60, ""), no, is_failed),
        (killed.to_owned() + "REPORT RequestId: a\tDuration: 5 ms", suspected, is_failed),
        (timed_out.to_owned() + &line(128, 128, ""), suspected, is_timed_out),
        (timed_out.to_owned() + &line(128, 60, ""), no, is_timed_out),
        (failed.to_owned() + &line(128, 128, ""), suspected, is_failed),
        (line(128, 60, "") + "\nRequestId: a Process exited before completing request", no, is_failed),
    ] {
        let report = one(&log);
        assert_eq!((report.out_of_memory(), report.outcome()), (verdict, outcome), "{log}");
    }
}

#[test]
fn an_ending_goes_to_the_invocation_that_it_speaks_of() {
    let killed = "RequestId: a Error: Runtime exited with error: signal: killed";
    let verdicts = |log: String| {
        let reports = read(log.as_bytes()).reports;
        reports.iter().map(|report| report.out_of_memory() == OutOfMemory::Certain).collect::<Vec<_>>()
    };
    let (first, retry) = (line(128, 128, ""), line(128, 128, "").replace("10.00", "11.00"));
    // Behind its report, as in old logs.
    assert_eq!(verdicts(format!("{first}\n{killed}\n{retry}")), [true, false]);
    // In front of it, behind the start.
    assert_eq!(verdicts(format!("{first}\nSTART RequestId: a Version: 1\n{killed}\n{retry}")), [false, true]);
    assert_eq!(verdicts(format!("{killed}\n{first}\n{retry}")), [true, false]);
    // Of another, or of nobody.
    let other = killed.replace(" a ", " b ");
    assert_eq!(verdicts(format!("{other}\n{first}")), [false]);
    let counts = read(format!("{other}\nRequestId:  Error: signal: killed\n{first}").as_bytes()).counts;
    assert_eq!(counts.killed_without_report, 2);
}

#[test]
fn the_platforms_own_status_stands_above_what_other_lines_say() {
    let killed = "RequestId: a Error: Runtime exited with error: signal: killed\n";
    let timed_out = "2026-01-01T00:00:00Z a Task timed out after 3.00 seconds\n";
    for (tail, outcome) in [
        ("Status: success", Outcome::Finished),
        ("Status: failure", Outcome::Failed),
        ("Status: error", Outcome::Failed),
        ("Status: unheard", Outcome::TimedOut),
    ] {
        let report = one(&format!("{timed_out}{killed}{}", line(128, 128, tail)));
        assert_eq!(report.outcome(), outcome, "{tail}");
        assert_eq!(report.out_of_memory() == OutOfMemory::No, outcome == Outcome::Finished, "{tail}");
    }
    let json = JSON.replace("3f1c-9", "a").replace("\"error\",\"errorType\":\"Runtime.ExitError\"", "\"success\"");
    let report = one(&(timed_out.to_owned() + &json.replace("212", "2048")));
    assert_eq!((report.outcome(), report.out_of_memory()), (Outcome::Finished, OutOfMemory::No));
}

#[test]
fn only_a_line_of_the_platform_says_how_an_invocation_ended() {
    let time = "2026-01-01T00:00:00.000Z";
    let stream = "2026/01/01/[$LATEST]0f5f9a61b0e04a1f";
    let platform = [
        "Task timed out after 3.00 seconds",
        "RequestId: a Error: Runtime exited with error: exit status 1",
        "RequestId: a Process exited before completing request",
    ];
    let said = |text: &str| if text.starts_with("Task") { format!("{time} a {text}") } else { text.to_owned() };
    for text in platform.map(said) {
        for ending in [
            format!("{text} \r"),
            format!("\t{text}"),
            format!("\x1b[31m{text}\x1b[0m"),
            format!("{time}\t{text}\t"),
            format!("{stream} 2026-01-01T00:00:00.123000+00:00 {text}"),
            format!("2026-01-01T01:00:00.123+01:00[    resize-ab12] {text}"),
            format!("/aws/lambda/resize 2026/01/01/resize[12]0f5f9a61 {text}"),
            format!("[/aws/lambda/resize] {text}"),
            format!("[2026-01-01 00:00:00] {text}"),
            format!("| 1767225600000 | {text} |"),
            format!("1767225600000,\"{text}"),
            format!("2026-01-01 00:00:00.123,{text}"),
            format!("@message={text}"),
            format!("      \"@message\": \"{text}\\n\\n\","),
            format!("{{\"timestamp\":1767225600000,\"message\":\"{text}\\n\",\"ingestionTime\":1}}"),
            format!("{{\"errorMessage\":\"{text}\"}}"),
            format!("{{\"time\":\"{time}\",\"type\":\"platform.fault\",\"record\":\"{text}\"}}"),
        ] {
            let report = one(&format!("{ending}\n{}", line(128, 128, "")));
            assert_eq!(report.out_of_memory(), OutOfMemory::Suspected, "{ending}");
        }
        for prose in [
            format!("INFO worker {text}"),
            format!("{time} a INFO {text}"),
            format!("[INFO]\t{time}\ta\t{text}"),
            format!("[ERROR] {text}"),
            format!("{time} a INFO retrying, upstream said {text}"),
            format!("{time} a upstream said: \"{text}\""),
            format!("12 {text}"),
            format!("{{\"timestamp\":\"{time}\",\"level\":\"INFO\",\"message\":\"{text}\"}}"),
            format!("{{\"message\":\"{text}\",\"level\":\"INFO\"}}"),
            format!("{{\"time\":\"{time}\",\"type\":\"function\",\"record\":\"{text}\"}}"),
            format!("{{\"cause\":\"{text}\"}}"),
        ] {
            let report = one(&format!("{prose}\n{}", line(128, 128, "")));
            assert_eq!(report.outcome(), Outcome::Finished, "{prose}");
        }
    }
    for prose in [
        "a Task timed out after 3.00 seconds".to_owned(),
        format!("{time} a Task timed out after 3.00 seconds, retried"),
        format!("{time} a Task timed out after 3 s"),
        format!("{time} a Task timed out after many seconds"),
    ] {
        assert_eq!(one(&format!("{prose}\n{}", line(128, 128, ""))).outcome(), Outcome::Finished, "{prose}");
    }
    // A start in prose begins nothing: the ending still speaks of the report.
    let killed = "RequestId: a Error: Runtime exited with error: signal: killed";
    let report = one(&format!("{}\nINFO saw START RequestId: a\n{killed}", line(128, 128, "")));
    assert_eq!(report.out_of_memory(), OutOfMemory::Certain);
}

#[test]
fn an_id_of_digits_alone_is_not_taken_for_a_time() {
    let id = "10616801-9624-4201-6605-944069213011";
    let report = one(&format!(
        "2026-01-01T00:00:00Z {id} Task timed out after 3.00 seconds\n{}",
        line(128, 128, "").replace("RequestId: a", &format!("RequestId: {id}"))
    ));
    assert_eq!(report.outcome(), Outcome::TimedOut);
}

#[test]
fn a_kill_waits_longer_for_its_report_than_other_endings() {
    let killed = "RequestId: a Error: Runtime exited with error: signal: killed\n";
    let others = |text: fn(usize) -> String| (0..40).map(text).collect::<String>();
    let timeouts = others(|n| format!("2026-01-01T00:00:00Z w{n} Task timed out after 3.00 seconds\n"));
    let report = one(&format!("{killed}{timeouts}{}", line(128, 128, "")));
    assert_eq!(report.out_of_memory(), OutOfMemory::Certain);
    // Kills whose report never came do not hold the place of what is said later.
    let kills = others(|n| format!("RequestId: w{n} Error: Runtime exited with error: signal: killed\n"));
    let timed_out = "2026-01-01T00:00:00Z a Task timed out after 3.00 seconds\n";
    let read = read(format!("{kills}{timed_out}{}", line(128, 128, "")).as_bytes());
    assert_eq!((read.reports[0].outcome(), read.counts.killed_without_report), (Outcome::TimedOut, 40));
}

#[test]
fn a_line_that_is_too_long_is_counted_and_the_log_goes_on() {
    let long = "x".repeat(MAX_LINE.as_usize() + 1);
    let read = read(format!("{FULL}\n{long}\nREPORT RequestId: b\tDuration: 1 ms\n{long}").as_bytes());
    assert_eq!((read.counts.lines, read.counts.reports, read.counts.oversized), (4, 2, 2));
    assert_eq!(read.reports[1].line, 3);
}

#[test]
fn reports_come_in_their_order_and_none_is_lost() {
    let lines: Vec<String> = (0..100).map(|n| format!("REPORT RequestId: {n}\tDuration: {n}.5 ms")).collect();
    let log = lines.join("\n");
    let read = read(log.as_bytes());
    let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(read.reports.iter().map(id).collect::<Vec<_>>(), expected);
    assert_eq!(read.reports.iter().map(|report| report.line).collect::<Vec<_>>(), (1..=100).collect::<Vec<_>>());
}

#[test]
fn an_input_that_fails_loses_no_report() {
    struct Fails<'a>(&'a [u8]);
    impl std::io::Read for Fails<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(std::io::Error::other("gone")),
                n => Ok(n),
            }
        }
    }
    let mut reports = 0;
    let log = format!("{FULL}\n{}\n", FULL.replace("3f1c-9", "next"));
    let error = read_log(Fails(log.as_bytes()), |_| reports += 1).unwrap_err();
    assert_eq!((error.to_string(), reports), ("the log ends early".to_owned(), 2));
    assert!(std::error::Error::source(&error).is_some());
}

/// All decimal numbers of a text, in millionths, read the naive way.
fn numbers(text: &[u8]) -> Vec<u128> {
    let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    let mut all = Vec::new();
    for token in text.split(|byte| !is_part(byte)).filter(|token| !token.is_empty()) {
        let token = String::from_utf8_lossy(token);
        let (whole, places) = token.split_once('.').unwrap_or((&token, ""));
        let kept: String = places.chars().chain("000000".chars()).take(6).collect();
        let up = places.chars().nth(6).is_some_and(|next| next >= '5');
        if let Ok(number) = format!("{whole}{kept}").parse::<u128>() {
            all.push(number + u128::from(up));
        }
    }
    all
}

/// Damage done to a line.
#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    Remove(usize),
    Insert(usize, u8),
    Cut(usize),
    Repeat(usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b" \t\n\\\"{}[]:.,-0159eMBmsREPORT".to_vec())];
    let at = 0..800_usize;
    prop_oneof![
        (at.clone(), byte.clone()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        at.clone().prop_map(Damage::Remove),
        (at.clone(), byte).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        at.clone().prop_map(Damage::Cut),
        (at.clone(), at).prop_map(|(from, to)| Damage::Repeat(from, to)),
    ]
}

fn damaged(line: &str, damages: &[Damage]) -> Vec<u8> {
    let mut line = line.as_bytes().to_vec();
    for damage in damages {
        let len = line.len().max(1);
        match damage {
            _ if line.is_empty() => {}
            Damage::Set(at, byte) => line[at % len] = *byte,
            Damage::Remove(at) => drop(line.remove(at % len)),
            Damage::Insert(at, byte) => line.insert(at % len, *byte),
            Damage::Cut(at) => line.truncate(at % len),
            Damage::Repeat(from, to) => {
                let (from, to) = ((from % len).min(to % len), (from % len).max(to % len));
                line.extend_from_within(from..to);
            }
        }
    }
    line
}

proptest! {
    #![proptest_config(ProptestConfig { cases: proptest_cases(1_500), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_line_never_gives_a_figure_that_is_not_in_it(
        json in any::<bool>(),
        damages in prop::collection::vec(damage(), 1..6),
    ) {
        let line = damaged(if json { JSON } else { FULL }, &damages);
        let numbers = numbers(&line);
        let mut reports = Vec::new();
        let mut keep = |entry| if let Entry::Report(report) = entry { reports.push(report) };
        let mut log = ReportLog::new();
        (1..).zip(line.split(|byte| *byte == b'\n')).for_each(|(number, line)| log.push(number, line, &mut keep));
        log.finish(&mut keep);
        for report in reports {
            let times = [report.duration, report.billed_duration, report.init_duration, report.restore_duration,
                report.billed_restore_duration];
            for time in times.into_iter().flatten() {
                prop_assert!(numbers.contains(&time.as_nanos()), "{time:?} in {}", line.escape_ascii());
            }
            for size in [report.memory_size, report.max_memory_used].into_iter().flatten() {
                let bytes = |millionths: &u128| (millionths << 20) / 1_000_000;
                prop_assert!(numbers.iter().any(|number| bytes(number) == u128::from(size.as_u64())), "{size:?}");
            }
        }
    }

    #[test]
    fn every_line_is_counted_once(lines in prop::collection::vec((0..4_usize, prop::option::of(damage())), 0..40)) {
        let mut log = ReportLog::new();
        let mut told = 0;
        for (number, (kind, hurt)) in (1..).zip(&lines) {
            let line = [FULL, JSON, "{", "text"][*kind].replace("3f1c-9", &number.to_string());
            let line = damaged(&line, hurt.as_slice());
            log.push(number, &line, |entry| told += u64::from(matches!(entry, Entry::Report(_))));
        }
        let counts = log.finish(|entry| told += u64::from(matches!(entry, Entry::Report(_))));
        prop_assert_eq!((counts.lines, counts.reports), (lines.len() as u64, told));
        prop_assert!(counts.skipped <= counts.lines);
    }
}
