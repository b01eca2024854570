//! The handler off Lambda: over events of a file or a pipe, or over the sources that are on this machine anyway.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lambda_runtime::Diagnostic;
use plimsoll::{ByteSize, heap, os};
use serde_json::json;

use crate::TOP;
use crate::digest::{Digest, WordCounts};
use crate::event::HandlerError;
use crate::function::Function;
use crate::sources::Sources;

/// Longest event, in bytes: Lambda's own bound for a synchronous one.
const MAX_EVENT: ByteSize = ByteSize::mib(6);
/// The most sources that are digested, in bytes.
const MAX_BYTES: ByteSize = ByteSize::mib(300);
/// Errors shown in full after a run; all are counted.
const ERRORS_SHOWN: usize = 5;

/// Answers one event per line of `input`, each by one line on `out`, and says to standard error what each took.
///
/// # Errors
///
/// If `input` or `out` fails. An event that fails is answered as Lambda would, and the next one is served.
pub(crate) fn events(mut input: impl BufRead, function: &Function, out: &mut impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    let mut number = 0_u64;
    while let Some(fits) = next_line(&mut input, &mut line)? {
        if line.trim_ascii().is_empty() {
            continue;
        }
        number += 1;
        let invocation = function.monitor.start(&*format!("event-{number}"));
        match answer(&line, fits, function) {
            Ok(answer) => writeln!(out, "{answer}")?,
            Err(error) => writeln!(out, "{}", json!(Diagnostic::from(error)))?,
        }
        let _printed = invocation.finish();
    }
    Ok(())
}

fn answer(line: &[u8], fits: bool, function: &Function) -> Result<String, HandlerError> {
    if !fits {
        return Err(HandlerError::BadEvent(format!("longer than {MAX_EVENT}")));
    }
    let bad = |error: serde_json::Error| HandlerError::BadEvent(error.to_string());
    let event = serde_json::from_slice(line).map_err(bad)?;
    serde_json::to_string(&function.handle(&event, |_| ())?).map_err(bad)
}

/// Reads the next line and says whether it fits into `MAX_EVENT`; the rest of a longer one is passed over, not kept.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    *line = Vec::new(); // given back, so that one large event does not stay in the figures of the next
    if input.by_ref().take(MAX_EVENT.as_u64() + 1).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    let fits = line.ends_with(b"\n") || line.len() as u64 <= MAX_EVENT.as_u64();
    if !fits {
        input.skip_until(b'\n')?;
    }
    Ok(Some(fits))
}

/// Digests this project's and the cargo registry's sources, one event a file, and draws the memory that took.
///
/// # Errors
///
/// If `out` fails. Files that cannot be read are counted and shown.
pub(crate) fn sources(function: &Function, out: &mut impl Write) -> io::Result<()> {
    let found = Sources::find(MAX_BYTES);
    let bar = progress_bar(found.bytes);
    let watch = Stopwatch::start();
    let mut totals = Totals::default();
    for (path, size) in &found.files {
        let event = json!({ "path": path.to_string_lossy() });
        let invocation = function.monitor.start("source");
        if let Err(error) = function.handle(&event, |digest| totals.add(digest)) {
            totals.failed(&error);
        }
        let _kept_for_the_picture = invocation.finish();
        bar.inc(*size);
        if totals.files.is_multiple_of(64) {
            bar.set_message(brief());
        }
    }
    let taken = watch.read();
    bar.set_message("the model of words");
    let unusual = unusual(function);
    bar.finish_and_clear();
    for folder in &found.folders {
        writeln!(out, "{folder}")?;
    }
    totals.write(taken, out)?;
    writeln!(out, "  out of proportion in README.md: {unusual}")?;
    writeln!(out)?;
    write!(out, "{}", function.monitor.snapshot())?;
    out.flush()
}

/// Asks one question that needs the model: which words of this project's README stand out.
fn unusual(function: &Function) -> String {
    let event = json!({ "path": concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"), "unusual": 5 });
    let invocation = function.monitor.start("unusual");
    let answer = function.handle(&event, |_| ());
    let _kept_for_the_picture = invocation.finish();
    match answer {
        Ok(answer) => answer.unusual().collect::<Vec<_>>().join(", "),
        Err(error) => Diagnostic::from(error).error_message,
    }
}

/// For the progress bar: what the process takes just now.
fn brief() -> String {
    let heap = heap::stats().map_or(ByteSize::ZERO, |stats| stats.live);
    os::rss().map_or_else(|_| format!("heap {heap}"), |rss| format!("heap {heap} rss {}", rss.total))
}

/// A bar on a terminal, nothing elsewhere.
fn progress_bar(bytes: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {binary_bytes} of {binary_total_bytes} | {msg}");
    let bar = ProgressBar::new(bytes);
    // The template is a constant; were it wrong, the default style would do.
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

/// What a whole run counted.
#[derive(Debug, Default)]
struct Totals {
    files: u64,
    bytes: u64,
    lines: u64,
    words: u64,
    counts: WordCounts,
    errors: u64,
    /// At most `ERRORS_SHOWN`.
    shown: Vec<String>,
}

impl Totals {
    fn add(&mut self, digest: &Digest) {
        self.files += 1;
        self.bytes += digest.bytes;
        self.lines += digest.lines;
        self.words += digest.words;
        self.counts.merge(&digest.counts);
    }

    fn failed(&mut self, error: &HandlerError) {
        self.errors += 1;
        if self.shown.len() < ERRORS_SHOWN {
            self.shown.push(format!("{}: {error}", error.kind()));
        }
    }

    fn write(&self, taken: Duration, out: &mut impl Write) -> io::Result<()> {
        let Self { files, lines, words, errors, .. } = self;
        let (size, speed) = (ByteSize::bytes(self.bytes), per_second(self.bytes, taken));
        writeln!(out, "digested {files} files, {size} in {:.2} s on one thread: {speed}/s", taken.as_secs_f64())?;
        writeln!(out, "  {lines} lines, {words} words, {errors} errors")?;
        for error in &self.shown {
            writeln!(out, "  {error}")?;
        }
        let top = self.counts.top(TOP);
        let top: Vec<String> = top.into_iter().map(|(word, count)| format!("{word} {count}")).collect();
        writeln!(out, "  most frequent: {}", if top.is_empty() { "none".to_owned() } else { top.join(", ") })?;
        let (distinct, rest) = (self.counts.distinct(), self.counts.not_counted());
        writeln!(out, "  counted by name: {distinct} distinct words; too long or too late for that: {rest} words")
    }
}

fn per_second(bytes: u64, taken: Duration) -> ByteSize {
    let rate = u128::from(bytes).saturating_mul(1_000_000_000).checked_div(taken.as_nanos());
    ByteSize::bytes(rate.and_then(|rate| u64::try_from(rate).ok()).unwrap_or_default())
}

/// Wall time of a run, for the rate that is printed.
struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "a duration to print; nothing expires by it")]
    fn start() -> Self {
        Self(Instant::now())
    }

    fn read(&self) -> Duration {
        self.0.elapsed()
    }
}
