//! A Lambda function that digests text objects and says after each invocation what that cost in memory.
//!
//! On Lambda it serves the runtime. Elsewhere the same handler runs over events from a file or standard input, or, with
//! no argument at all, over the sources on this machine, and ends with a picture of the memory and a size to configure.
//!
//! ```text
//! cargo run --release --features lambda --example lambda_handler
//! echo '{"path": "README.md"}' | cargo run --release --features lambda --example lambda_handler -- -
//! ```

mod digest;
mod event;
mod local;

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::process::ExitCode;

use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn, spawn_graceful_shutdown_handler};
use plimsoll::integration::lambda;
use plimsoll::monitor::ReportPolicy;
use plimsoll::{Monitor, ReportLayer, TrackingAllocator};
use serde::Serialize;
use serde_json::Value;

use crate::digest::Digest;
use crate::event::{Buckets, HandlerError, Object};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

const HELP: &str = "\
Digests text objects: bytes, lines, and the ten most frequent words of each.

usage: lambda_handler            digest the sources on this machine and draw the memory it took
       lambda_handler FILE       answer the events in FILE, one JSON event a line
       lambda_handler -          answer the events on standard input
       lambda_handler --help

An event is an S3 ObjectCreated notification, or {\"path\": \"FILE\"}.
Answers go to standard output, one line of memory per event to standard error.

environment:
  PLIMSOLL_BUCKETS         a folder that holds one folder per bucket; stands for S3
  CARGO_HOME               where the sources of cargo's registry are looked for (else ~/.cargo)
  AWS_LAMBDA_RUNTIME_API   set by Lambda: serve the runtime, whatever the arguments
";

/// Most frequent words in an answer.
const TOP: usize = 10;

/// The answer to one event.
#[derive(Debug, Serialize)]
struct Answer {
    objects: Vec<ObjectAnswer>,
}

#[derive(Debug, Serialize)]
struct ObjectAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    bytes: u64,
    lines: u64,
    words: u64,
    /// Words that `top` was chosen without: see `digest`.
    not_counted: u64,
    top: Vec<(String, u64)>,
}

impl ObjectAnswer {
    fn new(object: Object, digest: &Digest) -> Self {
        let (key, path) = if object.bucket.is_some() { (Some(object.name), None) } else { (None, Some(object.name)) };
        Self {
            bucket: object.bucket,
            key,
            path,
            bytes: digest.bytes,
            lines: digest.lines,
            words: digest.words,
            not_counted: digest.counts.not_counted(),
            top: digest.counts.top(TOP),
        }
    }
}

/// Answers one event: the handler, on Lambda and off it. Each digest is shown to `seen` before it is dropped.
///
/// One object that fails fails the event, as Lambda repeats and dead-letters events, not parts of them.
fn handle(event: &Value, buckets: &Buckets, mut seen: impl FnMut(&Digest)) -> Result<Answer, HandlerError> {
    let mut objects = Vec::new();
    for object in event::objects(event)? {
        let file = event::open(&object, &buckets.locate(&object)?)?;
        let digest = digest::digest(file).map_err(|error| event::broken_read(&object, error))?;
        seen(&digest);
        objects.push(ObjectAnswer::new(object, &digest));
    }
    Ok(Answer { objects })
}

/// Serves the Lambda runtime until it ends the process.
async fn serve() -> Result<(), Error> {
    let monitor = Monitor::from_env()?;
    let buckets = &Buckets::from_env();
    spawn_graceful_shutdown_handler(lambda::final_picture(&monitor)).await;
    // It blocks, and may: an environment has one invocation at a time, so nothing else waits for this thread.
    let handler = service_fn(|event: LambdaEvent<Value>| async move { handle(&event.payload, buckets, |_| ()) });
    Runtime::new(handler).layer(ReportLayer::new(&monitor)).run().await
}

fn run() -> Result<(), Error> {
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some() {
        return tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve());
    }
    let mut out = io::stdout().lock();
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    if arguments.next().is_some() {
        return Err("one argument at most; see --help".into());
    }
    let Some(first) = first else { return Ok(local::sources(&local::monitor(ReportPolicy::Off)?, &mut out)?) };
    match first.to_str() {
        Some("-h" | "--help") => out.write_all(HELP.as_bytes())?,
        Some("-") => local::events(io::stdin().lock(), &local::monitor(ReportPolicy::Each)?, &mut out)?,
        Some(option) if option.starts_with('-') => return Err(format!("unknown option {option}; see --help").into()),
        _ => {
            let file = File::open(&first).map_err(|error| format!("{}: {error}", first.display()))?;
            local::events(BufReader::new(file), &local::monitor(ReportPolicy::Each)?, &mut out)?;
        }
    }
    Ok(out.flush()?)
}

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    let closed = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if closed {
        return ExitCode::SUCCESS; // `| head` has read enough
    }
    // Nobody is left to tell if standard error is closed as well.
    drop(writeln!(io::stderr(), "lambda_handler: {error}"));
    ExitCode::FAILURE
}
