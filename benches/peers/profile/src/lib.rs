//! The work of the programs that the scorecard's area `profile` runs.
//!
//! The package is built with and without the profile, and with frame pointers and without. The programs of one build
//! differ only in their allocator.

#[cfg(all(feature = "profile", feature = "service"))]
mod hunt;
mod leaked;
#[cfg(feature = "service")]
pub mod leaks;
#[cfg(feature = "profile")]
pub mod model;
#[path = "../../src/random.rs"]
mod random;
mod resident;
mod speed;
#[cfg(feature = "profile")]
mod symbol;
mod threads;

use std::process::ExitCode;

use plimsoll::ByteSize;
pub use random::Random;

/// The modes of a worker. `pairs` and `documents` print nothing, `document-steps` prints a number for each line of the
/// standard input, and the other modes print one line of JSON.
const USAGE: &str = "usage: <worker> speed <chunks> <interval> | documents <count> <interval> | document-steps <interval> | \
    pairs <count> | \
    threads <rounds> <interval> | fixed | leaked <interval> | hunt <interval> <own crates>; an interval in bytes or `off`";

/// A function that leaks.
#[derive(Debug, Clone, Copy)]
pub struct Leak {
    /// The name of the function.
    pub name: &'static str,
    /// The way to the allocation.
    pub kind: &'static str,
    /// Leaks about this many bytes.
    pub plant: fn(usize),
    /// The path of the source file.
    pub file: &'static str,
    /// The text of the source file.
    pub source: &'static str,
}

/// A function of the program that starts the profile.
pub type Start = fn(ByteSize) -> Result<(), String>;

/// Runs the mode that the command line selects. `planted` are the leaks in the program's own crate.
pub fn worker(planted: &[Leak], start: Start) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = match arguments.as_slice() {
        ["speed", chunks, interval] if let Ok(chunks) = chunks.parse() => {
            started(start, interval).map(|()| speed::measure(chunks))
        }
        ["document-steps", interval] => {
            return code(started(start, interval).and_then(|()| speed::step_documents()));
        }
        ["documents", count, interval] if let Ok(count) = count.parse() => {
            return code(started(start, interval).map(|()| speed::documents(count)));
        }
        ["pairs", count] if let Ok(count) = count.parse() => {
            speed::pairs(count);
            return ExitCode::SUCCESS;
        }
        ["threads", rounds, interval] if let Ok(rounds) = rounds.parse() => {
            started(start, interval).map(|()| threads::measure(rounds))
        }
        ["fixed"] => resident::measure(start),
        ["leaked", interval] => started(start, interval).and_then(|()| leaked::measure()),
        ["hunt", interval, names] => started(start, interval).and_then(|()| hunted(planted, names)),
        _ => Err(USAGE.to_owned()),
    };
    printed(answer)
}

/// Prints the answer of a worker.
pub(crate) fn printed(answer: Result<serde_json::Value, String>) -> ExitCode {
    code(answer.map(|answer| println!("{answer}")))
}

/// Prints the error, if there is one.
fn code(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts the profile at this interval. `off` starts nothing.
fn started(start: Start, interval: &str) -> Result<(), String> {
    if interval == "off" {
        return Ok(());
    }
    let interval = interval.parse().map_err(|error| format!("interval {interval:?}: {error}"))?;
    start(ByteSize::bytes(interval))
}

#[cfg(all(feature = "profile", feature = "service"))]
fn hunted(planted: &[Leak], names: &str) -> Result<serde_json::Value, String> {
    hunt::measure(planted, names)
}

#[cfg(not(all(feature = "profile", feature = "service")))]
fn hunted(_: &[Leak], _: &str) -> Result<serde_json::Value, String> {
    Err("this worker has no leaks".to_owned())
}

/// Returns the processor time of this thread in nanoseconds, so that other processes do not count.
pub(crate) fn thread_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0, "no clock of the thread");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
