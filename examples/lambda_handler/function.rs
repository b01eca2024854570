//! The function: a handler, and what it keeps between invocations, each part within a bound of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use lambda_runtime::Error;
use plimsoll::cache::LoadError;
use plimsoll::heap::AlarmThresholds;
use plimsoll::monitor::ReportPolicy;
use plimsoll::{Account, ByteSize, Cache, EnvError, LambdaEnv, MemoryBudget, Monitor, impl_heap_size};
use serde::Serialize;
use serde_json::Value;

use crate::TOP;
use crate::digest::{self, Digest};
use crate::event::{self, Buckets, HandlerError, Object, Request};
use crate::model::MODEL;

/// What a function has where nothing is configured: memory is drawn against it off Lambda.
const SMALLEST_FUNCTION: ByteSize = ByteSize::mib(128);

/// What the digests that are kept may take.
const KEPT: ByteSize = ByteSize::mib(5);

/// The most that the making of one digest takes: its words by name, and the table over them while it grows.
const IN_THE_MAKING: ByteSize = ByteSize::mib(8);

/// Expired entries that are looked for at an invocation's end.
const SWEPT: usize = 1_000;

/// All that an invocation uses.
pub(crate) struct Function {
    buckets: Buckets,
    /// What was answered before, by the version of the object.
    digests: Cache<Version, Arc<Summary>>,
    /// Charged while a digest is made.
    in_the_making: Account,
    pub(crate) budget: MemoryBudget,
    pub(crate) monitor: Monitor,
}

impl Function {
    /// The function as Lambda runs it; off Lambda, for the smallest memory size there is.
    ///
    /// # Errors
    ///
    /// If a variable is set and does not read.
    pub(crate) fn new(policy: ReportPolicy) -> Result<Self, Error> {
        let (mut monitor, mut budget) = (Monitor::builder(), MemoryBudget::builder());
        if let Err(EnvError::Missing { .. }) = LambdaEnv::from_env() {
            monitor = monitor.memory_size(SMALLEST_FUNCTION);
            budget = budget.limit(SMALLEST_FUNCTION.saturating_sub(AlarmThresholds::ENVIRONMENT_SHARE));
        }
        let budget = budget.build()?;
        let digests = Cache::builder("digests").max_bytes(KEPT).account(budget.account("digests")?).build()?;
        let swept = digests.clone();
        let monitor = monitor
            .report(policy)
            .budget(&budget)
            .resource(&MODEL, budget.account("model")?)
            .cache(&digests)
            .at_end(move || _ = swept.remove_expired(SWEPT))
            .trim(true)
            .install()?;
        let in_the_making = budget.account("in the making")?;
        Ok(Self { buckets: Buckets::from_env(), digests, in_the_making, budget, monitor })
    }

    /// Answers one event: the handler, on Lambda and off it. Each digest that is made is shown to `seen`.
    ///
    /// One object that fails fails the event, as Lambda repeats and dead-letters events, not parts of them.
    pub(crate) fn handle(&self, event: &Value, mut seen: impl FnMut(&Digest)) -> Result<Answer, HandlerError> {
        let Request { objects, unusual } = event::request(event)?;
        let answer = |object: Object| {
            let file = self.buckets.locate(&object)?;
            let version = Version::of(&object, &file, unusual)?;
            let summary = self.digests.try_get_or_load(&version, |_| {
                let _reserved = self.in_the_making.try_reserve(IN_THE_MAKING)?;
                let digest = digest::digest(event::open(&object, &file)?);
                let digest = digest.map_err(|error| event::broken_read(&object, error))?;
                seen(&digest);
                Summary::of(&digest, unusual).map(Arc::new)
            });
            let summary = summary.map_err(|error| in_handler(&object, error))?;
            Ok(ObjectAnswer::new(object, summary))
        };
        objects.into_iter().map(answer).collect::<Result<_, _>>().map(|objects| Answer { objects })
    }
}

/// All who waited for one digest have the same error. Otherwise it can only be that another's making of it panicked.
fn in_handler(object: &Object, error: LoadError<HandlerError>) -> HandlerError {
    match error {
        LoadError::Load(error) => HandlerError::Shared(error),
        other => HandlerError::GivenUp { object: object.name.clone(), why: other.to_string() },
    }
}

/// Content, as far as it can be told without reading it: what S3 calls an object's `ETag`, and its version.
///
/// A file that is written over in place, to the same length, within one tick of the file system's clock is not noticed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Version {
    file: PathBuf,
    length: u64,
    changed: Option<SystemTime>,
    /// How many unusual words the answer has: part of what was asked.
    unusual: usize,
}

impl Version {
    fn of(object: &Object, file: &Path, unusual: usize) -> Result<Self, HandlerError> {
        let facts = file.metadata().map_err(|source| event::broken_read(object, source))?;
        Ok(Self { file: file.to_owned(), length: facts.len(), changed: facts.modified().ok(), unusual })
    }
}

impl_heap_size!(struct Version { file, length, changed, unusual });

/// The answer to one event.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    objects: Vec<ObjectAnswer>,
}

impl Answer {
    /// The unusual words of all objects.
    pub(crate) fn unusual(&self) -> impl Iterator<Item = &str> {
        self.objects.iter().flat_map(|object| &object.summary.unusual).map(String::as_str)
    }
}

#[derive(Debug, Serialize)]
struct ObjectAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(flatten)]
    summary: Arc<Summary>,
}

impl ObjectAnswer {
    fn new(object: Object, summary: Arc<Summary>) -> Self {
        let (key, path) = if object.bucket.is_some() { (Some(object.name), None) } else { (None, Some(object.name)) };
        Self { bucket: object.bucket, key, path, summary }
    }
}

/// What is told, and kept, of an object.
#[derive(Debug, Serialize)]
struct Summary {
    bytes: u64,
    lines: u64,
    words: u64,
    /// Words that `top` was chosen without: see `digest`.
    not_counted: u64,
    top: Vec<(String, u64)>,
    /// The words that are most out of proportion, if they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unusual: Vec<String>,
}

impl Summary {
    /// Loads the model, if it is asked for and not there.
    fn of(digest: &Digest, unusual: usize) -> Result<Self, HandlerError> {
        let counts = &digest.counts;
        let unusual = if unusual == 0 { Vec::new() } else { MODEL.get()?.unusual(counts, digest.words, unusual) };
        Ok(Self {
            bytes: digest.bytes,
            lines: digest.lines,
            words: digest.words,
            not_counted: counts.not_counted(),
            top: counts.top(TOP),
            unusual,
        })
    }
}

impl_heap_size!(struct Summary { bytes, lines, words, not_counted, top, unusual });
