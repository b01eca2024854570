//! Real log excerpts with what a person read in them, and runs with what aws-lambda-power-tuning's own code chose.
//!
//! They are not part of this crate: a folder with `corpus.jsonl`, `vectors.jsonl` and `vectors_select.jsonl` is named
//! by `PLIMSOLL_SIZING_CORPUS`. Without it these tests count as ignored.
#![expect(unsafe_code, reason = "the shared test support")]
#![expect(clippy::print_stdout, reason = "tells how many excerpts and figures were compared")]

mod support;

use std::time::Duration;

use plimsoll::sizing::{Entry, OutOfMemory, ReportLine, ReportLog};
use serde_json::Value;

support::tests!(
    every_excerpt_reads_as_a_person_read_it if folder().is_some(), else "PLIMSOLL_SIZING_CORPUS names no folder",
);

fn folder() -> Option<std::path::PathBuf> {
    std::env::var_os("PLIMSOLL_SIZING_CORPUS").map(Into::into)
}

fn lines_of(file: &str) -> Vec<Value> {
    let path = folder().unwrap().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Figures in `corpus.jsonl` that are not in its text: the excerpt, the place among its reports, the field, what is
/// expected, what the text says. A changed duration was written into the place of a billed duration that is smaller.
const SLIPS: [(&str, usize, &str, &str, &str); 8] = [
    ("c025", 1, "status", "\"timeout\"", "null"),
    ("c027", 0, "billed_ms", "618276.34", "600000.0"),
    ("c031", 0, "billed_ms", "315478.94", "300000.0"),
    ("c033", 1, "billed_ms", "608276.53", "600000.0"),
    ("c033", 2, "billed_ms", "608276.53", "600000.0"),
    ("c035", 0, "billed_ms", "979218.83", "900000.0"),
    ("c073", 0, "billed_ms", "14099.95", "13269.0"),
    ("c103", 0, "billed_ms", "5344.5", "5000.0"),
];

fn every_excerpt_reads_as_a_person_read_it() {
    let (mut excerpts, mut reports, mut figures, mut slips, mut wrong) = (0, 0, 0, 0, Vec::new());
    for excerpt in lines_of("corpus.jsonl") {
        excerpts += 1;
        let id = excerpt["id"].as_str().unwrap();
        let read = read(excerpt["text"].as_str().unwrap());
        let expected = excerpt["expect"].as_array().unwrap();
        let expected: Vec<&Value> = expected.iter().filter(|entry| entry["kind"] == "report").collect();
        if read.len() != expected.len() {
            wrong.push(format!("{id}: {} reports, not {}", read.len(), expected.len()));
            continue;
        }
        for (index, (read, expected)) in read.iter().zip(expected).enumerate() {
            reports += 1;
            for (field, expected) in expected.as_object().unwrap().iter().filter(|(field, _)| *field != "kind") {
                figures += 1;
                let read = field_of(read, field);
                let equal = match (read.as_f64(), expected.as_f64()) {
                    (Some(read), Some(expected)) => read.to_bits() == expected.to_bits(),
                    _ => read == *expected,
                };
                let (said, wanted) = (read.to_string(), expected.to_string());
                if !equal && SLIPS.contains(&(id, index, field.as_str(), wanted.as_str(), said.as_str())) {
                    slips += 1;
                } else if !equal {
                    wrong.push(format!("{id}[{index}].{field}: read {said}, expected {wanted}"));
                }
            }
        }
    }
    println!("{excerpts} excerpts, {reports} reports, {figures} figures, of which {slips} are not in the text");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(excerpts > 0);
}

fn read(text: &str) -> Vec<ReportLine> {
    let mut reports = Vec::new();
    let mut keep = |entry| {
        if let Entry::Report(report) = entry {
            reports.push(report);
        }
    };
    let mut log = ReportLog::new();
    for (number, line) in (1..).zip(text.split('\n')) {
        log.push(number, line.as_bytes(), &mut keep);
    }
    log.finish(&mut keep);
    reports
}

fn field_of(report: &ReportLine, field: &str) -> Value {
    let ms = |duration: Option<Duration>| duration.map(|duration| duration.as_nanos() as f64 / 1e6).into();
    match field {
        "request_id" => report.request_id.map(|id| id.to_string()).into(),
        "duration_ms" => ms(report.duration),
        "billed_ms" => ms(report.billed_duration),
        "memory_mb" => report.memory_size.map(|size| size.as_mib_f64()).into(),
        "max_used_mb" => report.max_memory_used.map(|size| size.as_mib_f64()).into(),
        "init_ms" => ms(report.init_duration),
        "restore_ms" => ms(report.restore_duration),
        "billed_restore_ms" => ms(report.billed_restore_duration),
        "status" => report.status.map(|status| status.as_str()).into(),
        "error_type" => report.error_type.map(|text| text.to_string()).into(),
        "is_oom" => (report.out_of_memory() == OutOfMemory::Certain).into(),
        _ => panic!("no field {field}"),
    }
}
