//! A function with all the parts, and its twin as one writes it who need not care for memory.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lambda_runtime::{Diagnostic, Error, LambdaEvent, Runtime, service_fn};
use plimsoll::budget::BudgetExceeded;
use plimsoll::stream::{LineReader, Oversize};
use plimsoll::{
    Account, AdmissionLayer, ByteSize, Cache, LazyResource, ManualClock, MemoryBudget, Monitor, ReportLayer,
};
use serde_json::{Value, json};
use tower::Layer;

/// Words of the model, as bytes on the heap; 30 MiB.
const MODEL_WORDS: usize = 30 << 17;

/// What a request works with, while it runs.
const SCRATCH: usize = 6 << 20;

static MODEL: LazyResource<Vec<u64>, Infallible> =
    LazyResource::new("model", || Ok(model())).expecting(ByteSize::mib(31)).idle_after(20);

fn model() -> Vec<u64> {
    (0..MODEL_WORDS as u64).map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect()
}

/// The value under a key: 64 to 1087 bytes.
fn value(key: u64) -> String {
    let length = 64 + usize::try_from(key.wrapping_mul(7919) % 1024).unwrap_or(0);
    char::from(b'a' + u8::try_from(key % 26).unwrap_or(0)).to_string().repeat(length)
}

struct Survivor {
    values: Cache<u64, Arc<str>>,
    /// By a clock that events turn.
    turned: Cache<u64, u64>,
    turns: ManualClock,
    scratch: Account,
}

/// Serves all that comes, eight requests at a time, in the memory there is.
pub(crate) fn survive() -> Result<(), Error> {
    // Values come and go between two looks at the pages, and what one leaves is not always room for the next.
    let budget = MemoryBudget::builder().margin(ByteSize::mib(34)).build()?;
    let turns = ManualClock::new();
    let values = Cache::builder("values").max_bytes(ByteSize::mib(40)).account(budget.account("values")?);
    let turned = Cache::builder("turned").max_entries(100).time_to_live(Duration::from_mins(1)).clock(turns.clock());
    let survivor = Arc::new(Survivor {
        values: values.time_to_live(Duration::from_mins(5)).build()?,
        turned: turned.build()?,
        turns,
        scratch: budget.account("scratch")?,
    });
    // Each invocation's start looks whether this clock jumped, as it does with the system's.
    let monitor = Monitor::builder().clock(survivor.turns.clock()).budget(&budget);
    let monitor = monitor.resource(&MODEL, budget.account("model")?).install()?;
    let handler = service_fn(move |event: LambdaEvent<Value>| {
        let survivor = Arc::clone(&survivor);
        async move { survivor.answer(&event.payload).map_err(|error| diagnostic(&*error)) }
    });
    let handler = AdmissionLayer::new(&budget, ByteSize::mib(1))?.layer(handler);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(8).enable_all().build()?;
    runtime.block_on(Runtime::new(handler).layer(ReportLayer::new(&monitor)).run_concurrent())
}

/// Says whether it was for want of memory.
fn diagnostic(error: &(dyn std::error::Error + 'static)) -> Diagnostic {
    let causes = || std::iter::successors(Some(error), |error| error.source());
    let over_memory = causes().any(|cause| cause.downcast_ref::<BudgetExceeded>().is_some());
    let error_type = if over_memory { "Overloaded" } else { "Failed" }.to_owned();
    let causes: Vec<String> = causes().map(ToString::to_string).collect();
    Diagnostic { error_type, error_message: causes.join(": ") }
}

impl Survivor {
    fn answer(&self, event: &Value) -> Result<Value, Error> {
        let number = |name: &str| event[name].as_u64().ok_or_else(|| format!("no number `{name}` in {event}"));
        if let Some(path) = event["lines"].as_str() {
            return self.lines(path);
        }
        match event["do"].as_str() {
            Some("flood") => {
                let (from, count) = (number("from")?, number("count")?);
                for key in from..from + count {
                    let found = self.values.try_get_or_load(&key, |_| Ok::<_, Infallible>(value(key).into()))?;
                    if *found != *value(key) {
                        return Err(format!("the value of another key for {key}").into());
                    }
                }
                Ok(json!({ "flooded": count }))
            }
            Some("model") => {
                let _scratch = self.scratch()?;
                let model = MODEL.get()?;
                Ok(json!({ "model": model.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word)) }))
            }
            Some("unload") => Ok(json!({ "unloaded": MODEL.unload() })),
            Some("put") => {
                let (key, ttl) = (number("key")?, Duration::from_millis(number("ttl_ms")?));
                self.values.insert_with_ttl(key, value(key).into(), ttl)?;
                self.turned.insert_with_ttl(key, key, ttl)?;
                Ok(Value::Null)
            }
            Some("get") => {
                let key = number("key")?;
                Ok(json!({ "value": self.values.get(&key).is_some(), "turned": self.turned.get(&key).is_some() }))
            }
            Some("jump") => {
                self.turns.freeze(Duration::from_millis(number("ms")?));
                Ok(Value::Null)
            }
            _ => Err(format!("no such event: {event}").into()),
        }
    }

    /// Memory of the request's own, reserved before it is allocated.
    fn scratch(&self) -> Result<Scratch, Error> {
        let reserved = self.scratch.try_reserve(ByteSize::bytes(SCRATCH as u64))?;
        Ok(Scratch { bytes: vec![1; SCRATCH], _reserved: reserved })
    }

    fn lines(&self, path: &str) -> Result<Value, Error> {
        let mut scratch = self.scratch()?;
        let mut lines = LineReader::builder(ByteSize::kib(64))
            .oversize(Oversize::Skip)
            .account(self.scratch.clone())
            .build(File::open(path)?)?;
        while let Some(line) = lines.next_record()? {
            let place = line.number() % scratch.bytes.len() as u64;
            if let Some(byte) = scratch.bytes.get_mut(usize::try_from(place)?) {
                *byte = byte.wrapping_add(1);
            }
        }
        let stats = lines.stats();
        Ok(json!({ "records": stats.records, "skipped": stats.skipped }))
    }
}

/// Released after the bytes are freed: fields drop in their order.
struct Scratch {
    bytes: Vec<u8>,
    _reserved: plimsoll::Reservation,
}

/// The same answers without a bound on anything.
pub(crate) async fn naive(event: LambdaEvent<Value>) -> Result<Value, Error> {
    static VALUES: Mutex<Option<HashMap<u64, String>>> = Mutex::new(None);
    static MODEL: std::sync::OnceLock<Vec<u64>> = std::sync::OnceLock::new();
    let event = event.payload;
    if let Some(path) = event["lines"].as_str() {
        let content = std::fs::read(path)?;
        return Ok(json!({ "records": content.split(|byte| *byte == b'\n').count() }));
    }
    match event["do"].as_str() {
        Some("flood") => {
            let mut values = VALUES.lock().map_err(|error| error.to_string())?;
            let values = values.get_or_insert_default();
            let (from, count) = (event["from"].as_u64().unwrap_or(0), event["count"].as_u64().unwrap_or(0));
            for key in from..from + count {
                values.entry(key).or_insert_with(|| value(key));
            }
            Ok(json!({ "flooded": count }))
        }
        Some("model") => Ok(json!({ "model": MODEL.get_or_init(model).len() })),
        _ => Ok(Value::Null),
    }
}
