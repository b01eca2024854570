//! What the function is asked for, where that lies, and what can go wrong on the way.

use std::io;
use std::path::{Component, Path, PathBuf};

use std::sync::Arc;

use lambda_runtime::Diagnostic;
use plimsoll::budget::BudgetExceeded;
use plimsoll::lazy::LazyError;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// Trees of the kernel: their "files" have no size, may have no end, and some hold the function's credentials.
const KERNEL_TREES: [&str; 2] = ["/proc", "/sys"];

/// Objects that one event may name: S3 names one, and the answer has a bound because there is one.
const MAX_OBJECTS: usize = 100;

/// Unusual words that may be asked for.
const MAX_UNUSUAL: usize = 100;

/// Why an event got no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum HandlerError {
    #[error("bad event: {0}")]
    BadEvent(String),
    #[error("bucket `{bucket}`: {reason}")]
    UnknownBucket { bucket: String, reason: String },
    #[error("object `{object}` lies outside what may be read")]
    Forbidden { object: String },
    #[error("object `{object}` does not exist")]
    MissingObject { object: String },
    #[error("object `{object}` is {what}, not a file")]
    NotAFile { object: String, what: &'static str },
    #[error("object `{object}` cannot be read")]
    Unreadable { object: String, source: io::Error },
    #[error("the digest of `{object}` was given up: {why}")]
    GivenUp { object: String, why: String },
    #[error("no memory for a digest")]
    Overloaded(#[from] BudgetExceeded),
    #[error("no model to tell unusual words by")]
    NoModel(#[from] LazyError<io::Error>),
    /// What another invocation met that digested the same object.
    #[error(transparent)]
    Shared(Arc<Self>),
}

impl HandlerError {
    /// The word that alarms and retries look for; it stays when the message changes.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::BadEvent(_) => "BadEvent",
            Self::UnknownBucket { .. } => "UnknownBucket",
            Self::Forbidden { .. } => "Forbidden",
            Self::MissingObject { .. } => "MissingObject",
            Self::NotAFile { .. } => "NotAFile",
            Self::Unreadable { .. } => "Unreadable",
            Self::Overloaded(_) | Self::NoModel(LazyError::OverBudget { .. }) => "Overloaded",
            Self::NoModel(_) => "NoModel",
            Self::GivenUp { .. } => "GivenUp",
            Self::Shared(error) => error.kind(),
        }
    }

    fn from_io(object: &str, source: io::Error) -> Self {
        let object = object.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::MissingObject { object },
            _ => Self::Unreadable { object, source },
        }
    }
}

/// Without this the `errorType` would be the name of a Rust type, which no caller can rely on.
impl From<HandlerError> for Diagnostic {
    fn from(error: HandlerError) -> Self {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Self { error_type: error.kind().to_owned(), error_message: format!("{error}{cause}") }
    }
}

/// An object the event names.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) bucket: Option<String>,
    /// The decoded key, or the path as given.
    pub(crate) name: String,
}

#[derive(Deserialize)]
struct Notification {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    event_source: String,
    event_name: String,
    s3: S3,
}

#[derive(Deserialize)]
struct S3 {
    bucket: Bucket,
    object: Key,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Key {
    key: String,
}

/// What an event asks for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) objects: Vec<Object>,
    /// How many unusual words of each to tell: `"unusual": 5` in the event.
    pub(crate) unusual: usize,
}

/// Reads an event.
///
/// # Errors
///
/// [`HandlerError::BadEvent`] if it is neither an S3 notification of created objects nor `{"path": ".."}`.
pub(crate) fn request(event: &Value) -> Result<Request, HandlerError> {
    let unusual = match event.get("unusual") {
        None => Some(0),
        Some(number) => number.as_u64().and_then(|number| usize::try_from(number).ok()),
    };
    let unusual = unusual
        .filter(|number| *number <= MAX_UNUSUAL)
        .ok_or_else(|| HandlerError::BadEvent(format!("`unusual` is a number of words, at most {MAX_UNUSUAL}")))?;
    Ok(Request { objects: objects(event)?, unusual })
}

fn objects(event: &Value) -> Result<Vec<Object>, HandlerError> {
    if event.get("Records").is_some() {
        let notification =
            Notification::deserialize(event).map_err(|error| HandlerError::BadEvent(error.to_string()))?;
        if notification.records.len() > MAX_OBJECTS {
            let records = notification.records.len();
            return Err(HandlerError::BadEvent(format!("{records} records, where at most {MAX_OBJECTS} are answered")));
        }
        return notification.records.into_iter().map(Record::into_object).collect();
    }
    if event.get("Event").and_then(Value::as_str) == Some("s3:TestEvent") {
        return Ok(Vec::new()); // what S3 sends once when notifications are switched on
    }
    match event.get("path").and_then(Value::as_str) {
        Some(path) => Ok(vec![Object { bucket: None, name: path.to_owned() }]),
        None => Err(HandlerError::BadEvent(
            r#"expected an S3 notification, {"Records": [..]}, or {"path": ".."}"#.to_owned(),
        )),
    }
}

impl Record {
    fn into_object(self) -> Result<Object, HandlerError> {
        if self.event_source != "aws:s3" || !self.event_name.starts_with("ObjectCreated:") {
            let (name, source) = (self.event_name, self.event_source);
            return Err(HandlerError::BadEvent(format!("expected aws:s3 ObjectCreated, got {source} {name}")));
        }
        Ok(Object { bucket: Some(self.s3.bucket.name), name: decode_key(&self.s3.object.key)? })
    }
}

/// Undoes the encoding of keys in notifications: `+` is a space, `%` and two hex digits are one byte of UTF-8.
fn decode_key(key: &str) -> Result<String, HandlerError> {
    let bad = || HandlerError::BadEvent(format!("the key `{key}` is not URL-encoded UTF-8"));
    let mut decoded = Vec::with_capacity(key.len());
    let mut bytes = key.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
                u8::try_from(high * 16 + low).map_err(|_| bad())?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).map_err(|_| bad())
}

/// Stands for S3: a folder that holds one folder for each bucket.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buckets {
    /// `None` if `PLIMSOLL_BUCKETS` is not set; then only `{"path": ".."}` events can be answered.
    root: Option<PathBuf>,
}

impl Buckets {
    pub(crate) fn from_env() -> Self {
        Self { root: std::env::var_os("PLIMSOLL_BUCKETS").map(PathBuf::from) }
    }

    /// The file behind `object`.
    ///
    /// # Errors
    ///
    /// If there is none, if it is no plain file, or if it lies outside its bucket's folder, by `..` or by a link.
    pub(crate) fn locate(&self, object: &Object) -> Result<PathBuf, HandlerError> {
        let name = &object.name;
        let forbidden = || HandlerError::Forbidden { object: name.clone() };
        let canonical = |path: &Path| path.canonicalize().map_err(|source| HandlerError::from_io(name, source));
        let file = match &object.bucket {
            None => canonical(Path::new(name))?,
            Some(bucket) => {
                let folder = self.folder(bucket)?;
                // Before anything is asked of the file system: an answer would tell what exists outside.
                if !only_names(name) {
                    return Err(forbidden());
                }
                let file = canonical(&folder.join(name))?;
                if !file.starts_with(&folder) {
                    return Err(forbidden());
                }
                file
            }
        };
        if KERNEL_TREES.iter().any(|tree| file.starts_with(tree)) {
            return Err(forbidden());
        }
        // Asked before it is opened, because opening a pipe waits for its writer.
        let kind = file.metadata().map_err(|source| HandlerError::from_io(name, source))?.file_type();
        if kind.is_file() {
            return Ok(file);
        }
        let what = if kind.is_dir() { "a directory" } else { "a device, pipe or socket" };
        Err(HandlerError::NotAFile { object: name.clone(), what })
    }

    fn folder(&self, bucket: &str) -> Result<PathBuf, HandlerError> {
        let unknown = |reason: String| HandlerError::UnknownBucket { bucket: bucket.to_owned(), reason };
        let root = self.root.as_ref().ok_or_else(|| unknown("PLIMSOLL_BUCKETS is not set".to_owned()))?;
        let mut parts = Path::new(bucket).components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(part)), None) if part == bucket => {
                root.join(part).canonicalize().map_err(|error| unknown(error.to_string()))
            }
            _ => Err(unknown("is not a bucket name".to_owned())),
        }
    }
}

/// Whether `key` is a path made of names alone: nothing that climbs, and no root.
fn only_names(key: &str) -> bool {
    !key.is_empty() && Path::new(key).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Opens what [`Buckets::locate`] found.
pub(crate) fn open(object: &Object, file: &Path) -> Result<std::fs::File, HandlerError> {
    std::fs::File::open(file).map_err(|source| HandlerError::from_io(&object.name, source))
}

/// A read that failed half way through `object`.
pub(crate) fn broken_read(object: &Object, source: io::Error) -> HandlerError {
    HandlerError::Unreadable { object: object.name.clone(), source }
}
