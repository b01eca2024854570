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
mod function;
mod local;
mod model;
mod sources;

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::process::ExitCode;
use std::sync::Arc;

use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn, spawn_graceful_shutdown_handler};
use plimsoll::budget::ReclaimPriority;
use plimsoll::integration::lambda;
use plimsoll::monitor::ReportPolicy;
use plimsoll::{AdmissionLayer, ByteSize, ReportLayer, TrackingAllocator};
use serde_json::Value;
use tower::Layer;

use crate::function::Function;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

const HELP: &str = "\
Digests text objects: bytes, lines, and the ten most frequent words of each.

usage: lambda_handler            digest the sources on this machine and draw the memory it took
       lambda_handler FILE       answer the events in FILE, one JSON event a line
       lambda_handler -          answer the events on standard input
       lambda_handler --help

An event is an S3 ObjectCreated notification, or {\"path\": \"FILE\"}; with \"unusual\": 5 it asks for so many words
that are out of proportion, told by a model that is made of the sources on this machine when it is first needed.
Answers go to standard output, one line of memory per event to standard error.

environment:
  PLIMSOLL_BUCKETS         a folder that holds one folder per bucket; stands for S3
  CARGO_HOME               where the sources of cargo's registry are looked for (else ~/.cargo)
  AWS_LAMBDA_RUNTIME_API   set by Lambda: serve the runtime, whatever the arguments
  AWS_LAMBDA_MAX_CONCURRENCY   set by Lambda where an environment has several invocations at a time
";

/// What an invocation takes beside what it reserves: its event, its answer, the chunk it reads by. Without as much it is
/// not begun.
const IN_PASSING: ByteSize = ByteSize::mib(1);

/// Most frequent words in an answer.
const TOP: usize = 10;

/// Serves the Lambda runtime until it ends the process: as many invocations at a time as Lambda says.
async fn serve() -> Result<(), Error> {
    let function = Arc::new(Function::new(ReportPolicy::Each)?);
    spawn_graceful_shutdown_handler(lambda::final_picture(&function.monitor)).await;
    let report = ReportLayer::new(&function.monitor);
    let snapshot = lambda::snap_start(&function.monitor, ReclaimPriority::CACHE);
    let admission = AdmissionLayer::new(&function.budget, IN_PASSING)?;
    // It blocks, and may: each invocation has a thread for itself.
    let handler = service_fn(move |event: LambdaEvent<Value>| {
        let function = Arc::clone(&function);
        async move { function.handle(&event.payload, |_| ()) }
    });
    let runtime = Runtime::new(admission.layer(handler)).register_snapstart_resource(snapshot);
    runtime.layer(report).run_concurrent().await
}

/// A runtime with a thread for each invocation that Lambda runs at a time: one, but on Managed Instances.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let most = std::env::var("AWS_LAMBDA_MAX_CONCURRENCY").ok().and_then(|most| most.parse().ok());
    match most {
        Some(most @ 2..) => tokio::runtime::Builder::new_multi_thread().worker_threads(most).enable_all().build(),
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    }
}

fn run() -> Result<(), Error> {
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some() {
        return runtime()?.block_on(serve());
    }
    let mut out = io::stdout().lock();
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    if arguments.next().is_some() {
        return Err("one argument at most; see --help".into());
    }
    let Some(first) = first else { return Ok(local::sources(&Function::new(ReportPolicy::Off)?, &mut out)?) };
    match first.to_str() {
        Some("-h" | "--help") => out.write_all(HELP.as_bytes())?,
        Some("-") => local::events(io::stdin().lock(), &Function::new(ReportPolicy::Each)?, &mut out)?,
        Some(option) if option.starts_with('-') => return Err(format!("unknown option {option}; see --help").into()),
        _ => {
            let file = File::open(&first).map_err(|error| format!("{}: {error}", first.display()))?;
            local::events(BufReader::new(file), &Function::new(ReportPolicy::Each)?, &mut out)?;
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
