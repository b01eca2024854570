//! Real log excerpts with what a person read in them, and runs with what aws-lambda-power-tuning's own code chose.
//!
//! They are not part of this crate: a folder with `corpus.jsonl`, `vectors.jsonl` and `vectors_select.jsonl` is named
//! by `PLIMSOLL_SIZING_CORPUS`. Without it these tests count as ignored.
#![allow(
    unsafe_code,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a test with the shared support: it tells what it compared, counts in small figures and stops at the first surprise"
)]

mod support;

use std::fmt::Write;
use std::time::Duration;

use plimsoll::ByteSize;
use plimsoll::sizing::{
    Architecture, Dollars, Entry, GbSeconds, OutOfMemory, Point, Pricing, Profile, ReportLine, ReportLog, Status,
    Strategy, read_log, select,
};
use serde_json::Value;

support::tests!(
    every_excerpt_reads_as_a_person_read_it if folder().is_some(), else "PLIMSOLL_SIZING_CORPUS names no folder",
    every_run_gives_the_statistics_and_the_choice_of_power_tuning
        if folder().is_some(), else "PLIMSOLL_SIZING_CORPUS names no folder",
    every_selection_is_that_of_power_tuning if folder().is_some(), else "PLIMSOLL_SIZING_CORPUS names no folder",
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
        "memory_mb" => report.memory_size.map(ByteSize::as_mib_f64).into(),
        "max_used_mb" => report.max_memory_used.map(ByteSize::as_mib_f64).into(),
        "init_ms" => ms(report.init_duration),
        "restore_ms" => ms(report.restore_duration),
        "billed_restore_ms" => ms(report.billed_restore_duration),
        "status" => report.status.map(Status::as_str).into(),
        "error_type" => report.error_type.map(|text| text.to_string()).into(),
        "is_oom" => (report.out_of_memory() == OutOfMemory::Certain).into(),
        _ => panic!("no field {field}"),
    }
}

/// Relative tolerance against figures that another program computed in floats.
const TOLERANCE: f64 = 1e-12;

/// aws-lambda-power-tuning's prices, in 1e-12 dollars: so much for 128 MB and a millisecond, no request.
fn power_tuning(input: &Value) -> Pricing {
    let (architecture, millisecond) = match (input["architecture"].as_str().unwrap(), input["region"].as_str().unwrap())
    {
        ("arm64", _) => (Architecture::Arm, 1_700),
        (_, "af-south-1") => (Architecture::X86, 2_800),
        (_, "ap-east-1") => (Architecture::X86, 2_900),
        (_, "ap-northeast-3") => (Architecture::X86, 2_700),
        (_, "cn-north-1" | "cn-northwest-1") => (Architecture::X86, 14_200),
        (_, "eu-south-1") => (Architecture::X86, 2_400),
        (_, "me-south-1") => (Architecture::X86, 2_600),
        _ => (Architecture::X86, 2_100),
    };
    let gb_second = Dollars::from_trillionths(millisecond * 8 * 1_000);
    Pricing::flat(architecture, "aws-lambda-power-tuning", gb_second, Dollars::ZERO)
}

fn close(ours: f64, theirs: &Value) -> bool {
    let theirs = theirs.as_f64().unwrap();
    (ours - theirs).abs() <= TOLERANCE * theirs.abs()
}

/// The log that a measurement stands for; `twice` bills the restore a second time, as the other program does.
fn log_of(measured: &Value, twice: bool) -> String {
    let figure = |column: &str, run: usize| measured[column].get(run).and_then(Value::as_f64);
    let mut log = String::new();
    for run in 0..measured["duration_ms"].as_array().unwrap().len() {
        let restore = figure("billed_restore_ms", run);
        let billed = figure("billed_ms", run).unwrap() + if twice { restore.unwrap_or(0.0) } else { 0.0 };
        let (duration, power) = (figure("duration_ms", run).unwrap(), &measured["power"]);
        write!(log, "REPORT RequestId: {run}\tDuration: {duration} ms\tBilled Duration: {billed} ms\t").unwrap();
        write!(log, "Memory Size: {power} MB\tMax Memory Used: 64 MB\t").unwrap();
        if let Some(init) = figure("init_ms", run) {
            write!(log, "Init Duration: {init} ms\t").unwrap();
        }
        if let Some(restored) = figure("restore_ms", run) {
            write!(log, "Restore Duration: {restored} ms\tBilled Restore Duration: {} ms\t", restore.unwrap()).unwrap();
        }
        log += "\n";
    }
    log
}

/// What is made of a measurement, from its log.
fn point_of(measured: &Value, twice: bool, pricing: &Pricing, discard: f64) -> (Point, f64) {
    let mut profile = Profile::new();
    let mut spent = Dollars::ZERO;
    read_log(log_of(measured, twice).as_bytes(), |entry| {
        let Entry::Report(report) = entry else { panic!("{entry:?}") };
        profile.add(&report);
        let (size, billed) = (report.memory_size.unwrap(), report.billed_duration.unwrap());
        spent = spent.saturating_add(pricing.run(GbSeconds::new(size, billed)));
    })
    .unwrap();
    let size = profile.sizes().next().unwrap();
    (size.point(pricing, discard).unwrap(), spent.as_f64())
}

fn strategy_of(input: &Value) -> Option<Strategy> {
    let weight = match &input["balancedWeight"] {
        Value::String(text) => text.parse().unwrap(),
        weight => weight.as_f64().unwrap_or(0.5),
    };
    match input["strategy"].as_str() {
        None | Some("cost") => Some(Strategy::Cost),
        Some("speed") => Some(Strategy::Speed),
        Some("balanced") => Some(Strategy::Balanced(weight)),
        Some(_) => None,
    }
}

fn every_run_gives_the_statistics_and_the_choice_of_power_tuning() {
    let (mut runs, mut points, mut restored, mut dearer, mut other_choice) = (0, 0, 0, 0, 0);
    let mut wrong = Vec::new();
    for vector in lines_of("vectors.jsonl") {
        runs += 1;
        let (input, output) = (&vector["input"], &vector["output"]);
        let pricing = power_tuning(input);
        let only_cold = input["onlyColdStarts"].as_bool() == Some(true);
        let discard = if only_cold { 0.0 } else { input["discardTopBottom"].as_f64().unwrap_or(0.2) };
        let strategy = strategy_of(input).unwrap();
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for (measured, stats) in
            input["measurements"].as_array().unwrap().iter().zip(output["stats"].as_array().unwrap())
        {
            points += 1;
            let (point, spent) = point_of(measured, true, &pricing, discard);
            let equal = close(point.cost, &stats["averagePrice"])
                && close(point.duration, &stats["averageDuration"])
                && close(spent, &stats["totalCost"]);
            if !equal {
                wrong.push(format!("{}: {point:?} {spent} {stats}", input["id"]));
            }
            theirs.push(point);
            // The same with the restore billed once, as the platform does.
            let (once, _) = point_of(measured, false, &pricing, discard);
            let has_restore =
                measured["billed_restore_ms"].as_array().is_some_and(|all| all.iter().any(|ms| !ms.is_null()));
            restored += usize::from(has_restore);
            dearer += usize::from(once.cost < point.cost);
            assert!(once.cost <= point.cost && (has_restore || once == point));
            ours.push(once);
        }
        let chosen = select(&theirs, strategy).unwrap();
        let selected = &output["selected"];
        let equal = chosen.memory_size == ByteSize::mib(selected["power"].as_u64().unwrap())
            && close(chosen.cost, &selected["cost"])
            && close(chosen.duration, &selected["duration"]);
        if !equal {
            wrong.push(format!("{}: chose {chosen:?}, not {selected}", input["id"]));
        }
        other_choice += usize::from(select(&ours, strategy).unwrap().memory_size != chosen.memory_size);
    }
    println!("{runs} runs, {points} sizes; {restored} with restores, {dearer} of them cheaper when billed once");
    println!("{other_choice} runs in which that changes the choice");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(runs > 0);
}

fn every_selection_is_that_of_power_tuning() {
    let (mut selections, mut refused) = (0, 0);
    for vector in lines_of("vectors_select.jsonl") {
        selections += 1;
        let (input, output) = (&vector["input"], &vector["output"]);
        let point = |stats: &Value| {
            let power = stats["value"].as_u64()?;
            let (cost, duration) = (stats["averagePrice"].as_f64()?, stats["averageDuration"].as_f64()?);
            Some(Point { memory_size: ByteSize::mib(power), cost, duration })
        };
        let points: Vec<Point> = input["stats"].as_array().unwrap().iter().filter_map(point).collect();
        let chosen = strategy_of(input).and_then(|strategy| select(&points, strategy).copied());
        let selected = output["selected"].as_object();
        assert_eq!(chosen.is_some(), selected.is_some(), "{}", input["id"]);
        refused += usize::from(chosen.is_none());
        if let (Some(chosen), Some(selected)) = (chosen, selected) {
            assert_eq!(chosen.memory_size, ByteSize::mib(selected["power"].as_u64().unwrap()), "{}", input["id"]);
            assert!(close(chosen.cost, &selected["cost"]) && close(chosen.duration, &selected["duration"]));
        }
    }
    println!("{selections} selections, {refused} of which have none");
    assert!(selections > refused);
}
