//! `Debug` of the error types: the message and its causes in one line, as `main` and `unwrap` print them.
#![allow(clippy::unwrap_used, reason = "clippy knows `#[test]` functions as tests, but not their helpers")]

#[path = "support/child.rs"]
mod child;

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use plimsoll::cache::{BuildError, Change};
use plimsoll::stream::{LineReader, Oversize};
use plimsoll::{
    BudgetExceeded, ByteSize, Cache, EnvError, LambdaEnv, LazyError, LazyResource, MemoryBudget, Reservation, heap,
};

const NOT_INSTALLED: &str =
    "the heap is not tracked: `plimsoll::TrackingAllocator` is not installed as `#[global_allocator]`";

/// Set in the process that `main_with_an_error_prints_the_remedy` starts.
const CHILD: &str = "PLIMSOLL_TEST_CHILD";

#[track_caller]
fn prints(error: impl fmt::Debug, expected: &str) {
    assert_eq!(format!("{error:?}"), expected);
    assert_eq!(format!("{error:#?}"), expected);
}

/// An input that fails.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the pipe broke"))
    }
}

/// Returns a budget of 10 MiB, of which 9 MiB are reserved.
fn nearly_full() -> (MemoryBudget, Reservation) {
    let budget = MemoryBudget::new(ByteSize::mib(10));
    let model = budget.account("model").unwrap().try_reserve(ByteSize::mib(9)).unwrap();
    (budget, model)
}

fn exceeded() -> BudgetExceeded {
    let (budget, _model) = nearly_full();
    budget.account("orders").unwrap().try_reserve(ByteSize::mib(8)).unwrap_err()
}

const EXCEEDED: &str =
    "orders asked for 8.0 MiB, 1.0 MiB are available of a 10.0 MiB budget: reserved by model 9.0 MiB";

fn orders() -> Cache<u64, String> {
    Cache::builder("orders").max_entries(10).build().unwrap()
}

#[test]
fn main_with_an_error_prints_the_remedy() -> Result<(), heap::NotInstalled> {
    if std::env::var_os(CHILD).is_some() {
        return heap::set_limit(ByteSize::mib(1));
    }
    let program = std::env::current_exe().unwrap();
    let arguments = ["main_with_an_error_prints_the_remedy", "--exact", "--nocapture"];
    let output = child::command(&program).args(arguments).env(CHILD, "yes").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && stderr.contains(&format!("Error: {NOT_INSTALLED}\n")), "{stderr}");
    Ok(())
}

#[test]
fn not_installed_debug_names_the_remedy() {
    prints(heap::stats().unwrap_err(), NOT_INSTALLED);
}

#[test]
fn alarm_thresholds_error_debug_is_the_message() {
    let error = heap::AlarmThresholds::new(ByteSize::mib(128)).with_percents(&[90, 70]).unwrap_err();
    prints(error, "alarm threshold of 70 %: expected 1 to 100 %, each above the one before it");
}

#[test]
fn env_error_debug_is_the_message() {
    let error: EnvError = LambdaEnv::from_lookup(|_| None).unwrap_err();
    prints(error, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE is not set: not on AWS Lambda?");
    let error = LambdaEnv::from_lookup(|name| (name == "AWS_LAMBDA_FUNCTION_MEMORY_SIZE").then(|| "1 GB".into()));
    prints(
        error.unwrap_err(),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE is \"1 GB\": expected digits alone, 128 to 10240 MB of 1,048,576 bytes",
    );
}

#[test]
fn parse_byte_size_error_debug_is_the_message() {
    let error = "128M".parse::<ByteSize>().unwrap_err();
    prints(error, "the unit \"M\" is ambiguous: write MB (1000-based) or MiB (1024-based)");
}

#[test]
fn budget_error_debug_is_the_message() {
    let error = MemoryBudget::builder().limit(ByteSize::mib(1)).pressure_thresholds(90, 80).build().unwrap_err();
    prints(error, "pressure is high at 90 % and critical at 80 %: expected 0 < high < critical <= 100");
}

#[test]
fn budget_exceeded_debug_prints_the_message_once() {
    prints(exceeded(), EXCEEDED);
}

#[test]
fn cache_error_debug_is_the_message() {
    let error: BuildError = Cache::<u64, u64>::builder("orders").build().unwrap_err();
    prints(error, "cache orders has no bound: give it max_entries() or max_bytes()");
}

#[test]
fn insert_error_debug_omits_key_and_value() {
    let tokens: Cache<String, String> = Cache::builder("tokens").max_bytes(ByteSize::kib(4)).build().unwrap();
    let error = tokens.insert("alice".to_owned(), "secret".repeat(10_000)).unwrap_err();
    let printed = format!("{error:?}");
    assert!(printed.starts_with("cache tokens: an entry of "), "{printed}");
    assert!(!printed.contains("alice") && !printed.contains("secret"), "{printed}");
    prints(error.reason(), &printed);
    prints(error, &printed);
}

#[test]
fn insert_error_debug_needs_no_debug_of_the_entry() {
    struct Opaque;
    let error = Cache::builder("none").max_entries(0).build().unwrap().insert(1, Opaque).unwrap_err();
    prints(error, "cache none: it may hold no entries");
}

#[test]
fn load_error_debug_prints_the_cause() {
    let failed = orders().try_get_or_load(&1, |_| Err(exceeded())).unwrap_err();
    prints(failed, &format!("the value could not be loaded: {EXCEEDED}"));
    let failed = orders().try_get_or_load(&1, |_| Err("no table")).unwrap_err();
    prints(failed, "the value could not be loaded: \"no table\"");
}

#[test]
fn compute_error_debug_omits_key_and_value() {
    let tokens: Cache<String, String> = Cache::builder("tokens").max_entries(0).build().unwrap();
    let error = tokens.compute("alice", |_| Change::Put("secret".to_owned())).unwrap_err();
    prints(error, "the computed value was rejected: cache tokens: it may hold no entries");
    let orders = orders();
    let outer = orders.compute(&1, |_| {
        let own = orders.compute(&1, |_| Change::Keep).unwrap_err();
        prints(own, "cache orders: the computation waits for the key that it computes");
        Change::Keep
    });
    assert_eq!(outer.unwrap(), None);
}

#[test]
fn load_error_debug_without_a_cause_is_the_message() {
    let orders = orders();
    let value = orders.try_get_or_load(&1, |_| {
        let own = orders.try_get_or_load(&1, |_| Ok::<_, io::Error>(String::new()));
        prints(own.unwrap_err(), "the loader waits for the key that it loads");
        Ok::<_, io::Error>(String::new())
    });
    assert!(value.is_ok(), "{value:?}");
}

#[test]
fn lazy_error_debug_prints_the_cause() {
    let model = LazyResource::new("model", || Err::<u8, _>(exceeded()));
    let error = model.get().unwrap_err();
    let printed = format!("{error:?}");
    assert!(printed.starts_with("model could not be loaded: attempt 1 failed "), "{printed}");
    assert!(printed.ends_with(&format!("): {EXCEEDED}")), "{printed}");
    assert_eq!(printed.lines().count(), 1);
    let LazyError::Failed(failure) = error else { panic!("{error:?}") };
    prints(&failure, &format!("{failure}: {EXCEEDED}"));
}

#[test]
fn lazy_error_over_budget_debug_prints_the_refusal() {
    let (budget, _model) = nearly_full();
    let orders = LazyResource::new("orders", || Ok::<_, io::Error>(1_u8)).expecting(ByteSize::mib(8));
    orders.charge_to(budget.account("orders").unwrap()).unwrap();
    prints(orders.get().unwrap_err(), &format!("orders cannot be loaded: {EXCEEDED}"));
}

#[test]
fn stream_error_debug_prints_the_io_cause() {
    let mut lines = LineReader::builder(ByteSize::kib(1)).build(Broken).unwrap();
    prints(lines.next_record().unwrap_err(), "reading failed after byte 0, in record 1: the pipe broke");
}

#[test]
fn stream_error_debug_without_a_cause_is_the_message() {
    let builder = LineReader::builder(ByteSize::bytes(8)).oversize(Oversize::Error);
    let error = builder.build(&b"longer than eight\n"[..]).unwrap().next_record().unwrap_err();
    prints(&error, &error.to_string());
}

#[test]
fn build_error_debug_is_the_message() {
    let wrong = LineReader::builder(ByteSize::kib(1)).chunk(ByteSize::ZERO).build(io::empty());
    prints(wrong.unwrap_err(), "a chunk of 0 bytes reads nothing: give it 1 byte at least");
}

#[test]
fn parallel_error_debug_prints_all_causes() {
    let lines = LineReader::builder(ByteSize::kib(1)).build(Broken).unwrap();
    let error = lines
        .into_parallel(2)
        .map(|_line| Ok::<_, io::Error>(()))
        .for_each_in_order(|()| Ok::<(), io::Error>(()))
        .unwrap_err();
    prints(
        error,
        "reading stopped the parallel run; resume at byte 0: reading failed after byte 0, in record 1: the pipe broke",
    );
}

#[cfg(feature = "gzip")]
#[test]
fn gzip_error_debug_is_the_message() {
    use plimsoll::stream::{GzipError, GzipReader};

    let mut text = String::new();
    let error = GzipReader::new(&b"\x1f\x8b"[..], ByteSize::mib(1)).read_to_string(&mut text).unwrap_err();
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<GzipError>()).unwrap();
    prints(cause, "the gzip input is truncated: it ends at byte 2, after 0 decompressed bytes");
}

#[cfg(feature = "tower")]
#[test]
fn admission_error_debug_is_that_of_the_error_inside() {
    use plimsoll::AdmissionLayer;
    use plimsoll::integration::AdmissionError;
    use tower::{Layer, ServiceExt, service_fn};

    let (budget, _model) = nearly_full();
    let echo = service_fn(async |order: u64| Ok::<_, io::Error>(order));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error =
        runtime.block_on(AdmissionLayer::new(&budget, ByteSize::mib(8)).unwrap().layer(echo).oneshot(1)).unwrap_err();
    let expected = format!("not admitted: {}", EXCEEDED.replace("orders", "requests"));
    prints(&error, &expected);
    let AdmissionError::Overloaded(over) = error else { panic!("{error:?}") };
    prints(over, &expected);
    prints(AdmissionError::Service(exceeded()), EXCEEDED);
    prints(AdmissionError::Service("no table"), "\"no table\"");
}

#[cfg(feature = "sizing")]
#[test]
fn read_log_error_debug_prints_all_causes() {
    let error = plimsoll::sizing::read_log(Broken, |_entry| {}).unwrap_err();
    prints(error, "the log ends early: reading failed after byte 0, in record 1: the pipe broke");
}

#[cfg(feature = "sizing")]
#[test]
fn sizing_error_debug_is_the_message() {
    use plimsoll::sizing::{Architecture, Pricing, Profile, Sizing};

    let error = Sizing::new(Pricing::us_east_1(Architecture::X86)).recommend(&Profile::new()).unwrap_err();
    prints(error, "no report tells both its memory size and the memory used");
}

#[cfg(feature = "sizing")]
#[test]
fn parse_strategy_error_debug_is_the_message() {
    let error = "cheapest".parse::<plimsoll::sizing::Strategy>().unwrap_err();
    prints(error, &error.to_string());
}

#[cfg(feature = "sizing")]
#[test]
fn malformed_line_debug_prints_the_json_cause() {
    use plimsoll::sizing::{Entry, read_log};

    let log: &[u8] = b"REPORT RequestId: 1\tDuration: many ms\tMemory Size: 128 MB\tMax Memory Used: 61 MB
{\"type\":\"platform.report\",\"record\":{\"requestId\":\"2\",\"metrics\":{\"durationMs\":many}}}";
    let mut printed = Vec::new();
    read_log(log, |entry| {
        if let Entry::Malformed(line) = entry {
            printed.push(format!("{line:?}"));
        }
    })
    .unwrap();
    assert_eq!(printed.len(), 2, "{printed:?}");
    assert_eq!(printed[0], "line 1: `Duration` is followed by no number of ms");
    assert!(printed[1].starts_with("line 2: the JSON of a platform report does not read: "), "{printed:?}");
}

#[test]
fn refusal_debug_prints_durations() {
    let error = orders().insert_with_ttl(1, String::new(), Duration::ZERO).unwrap_err();
    prints(error, "cache orders: a time to live of 0ns is below the clock's resolution of 10ms");
}
