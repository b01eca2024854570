//! The handler off Lambda: over events of a file or a pipe, or over the sources that are on this machine anyway.

use std::fs::DirEntry;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lambda_runtime::Diagnostic;
use plimsoll::monitor::{MonitorError, ReportPolicy};
use plimsoll::{ByteSize, EnvError, LambdaEnv, Monitor, heap, os};
use serde_json::json;

use crate::digest::{Digest, WordCounts};
use crate::event::{Buckets, HandlerError};
use crate::{TOP, handle};

/// Longest event, in bytes: Lambda's own bound for a synchronous one.
const MAX_EVENT: ByteSize = ByteSize::mib(6);
/// The cap on sources: bytes in all, and files.
const MAX_BYTES: ByteSize = ByteSize::mib(300);
const MAX_FILES: usize = 100_000;
/// What counts as a source.
const EXTENSIONS: [&str; 5] = ["rs", "md", "toml", "txt", "json"];
/// Errors shown in full after a run; all are counted.
const ERRORS_SHOWN: usize = 5;

/// What a function has where nothing is configured: memory is drawn against it off Lambda.
const SMALLEST_FUNCTION: ByteSize = ByteSize::mib(128);

/// A monitor for a function's memory size: Lambda's variable if it is set, else the smallest there is.
///
/// # Errors
///
/// If a variable is set and does not read.
pub(crate) fn monitor(policy: ReportPolicy) -> Result<Monitor, MonitorError> {
    let builder = Monitor::builder().report(policy);
    let builder = match LambdaEnv::from_env() {
        Err(EnvError::Missing { .. }) => builder.memory_size(SMALLEST_FUNCTION),
        _ => builder,
    };
    let monitor = builder.build()?;
    monitor.install()?;
    Ok(monitor)
}

/// Answers one event per line of `input`, each by one line on `out`, and says to standard error what each took.
///
/// # Errors
///
/// If `input` or `out` fails. An event that fails is answered as Lambda would, and the next one is served.
pub(crate) fn events(mut input: impl BufRead, monitor: &Monitor, out: &mut impl Write) -> io::Result<()> {
    let buckets = Buckets::from_env();
    let mut line = Vec::new();
    let mut number = 0_u64;
    while let Some(fits) = next_line(&mut input, &mut line)? {
        if line.trim_ascii().is_empty() {
            continue;
        }
        number += 1;
        let invocation = monitor.start(&*format!("event-{number}"));
        match answer(&line, fits, &buckets) {
            Ok(answer) => writeln!(out, "{answer}")?,
            Err(error) => writeln!(out, "{}", json!(Diagnostic::from(error)))?,
        }
        let _printed = invocation.finish();
    }
    Ok(())
}

fn answer(line: &[u8], fits: bool, buckets: &Buckets) -> Result<String, HandlerError> {
    if !fits {
        return Err(HandlerError::BadEvent(format!("longer than {MAX_EVENT}")));
    }
    let bad = |error: serde_json::Error| HandlerError::BadEvent(error.to_string());
    let event = serde_json::from_slice(line).map_err(bad)?;
    serde_json::to_string(&handle(&event, buckets, |_| ())?).map_err(bad)
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
pub(crate) fn sources(monitor: &Monitor, out: &mut impl Write) -> io::Result<()> {
    let found = Sources::find();
    let bar = progress_bar(found.bytes);
    let watch = Stopwatch::start();
    let mut totals = Totals::default();
    for (path, size) in &found.files {
        let event = json!({ "path": path.to_string_lossy() });
        let invocation = monitor.start("source");
        if let Err(error) = handle(&event, &Buckets::default(), |digest| totals.add(digest)) {
            totals.failed(&error);
        }
        let _kept_for_the_picture = invocation.finish();
        bar.inc(*size);
        if totals.files.is_multiple_of(64) {
            bar.set_message(brief());
        }
    }
    let taken = watch.read();
    bar.finish_and_clear();
    for folder in &found.folders {
        writeln!(out, "{folder}")?;
    }
    totals.write(taken, out)?;
    writeln!(out)?;
    write!(out, "{}", monitor.snapshot())?;
    out.flush()
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

/// The files to digest, in a fixed order.
#[derive(Debug, Default)]
struct Sources {
    files: Vec<(PathBuf, u64)>,
    bytes: u64,
    /// One line on each folder that was looked through.
    folders: Vec<String>,
}

impl Sources {
    fn find() -> Self {
        let mut found = Self::default();
        found.add("this project", Path::new(env!("CARGO_MANIFEST_DIR")));
        let cargo_home = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        if let Some(home) = cargo_home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))) {
            found.add("cargo registry", &home.join("registry").join("src"));
        }
        found
    }

    fn add(&mut self, name: &str, folder: &Path) {
        let (files, bytes) = (self.files.len(), self.bytes);
        let left_out = self.walk(folder);
        let (files, size) = (self.files.len() - files, ByteSize::bytes(self.bytes - bytes));
        let cap = if left_out > 0 { format!(", {left_out} files left out by the cap") } else { String::new() };
        self.folders.push(format!("{name}: {files} files, {size}{cap}"));
    }

    /// Takes the sources under `folder` as far as the cap allows, and returns how many it left out.
    ///
    /// It follows no links, so it ends. A folder that cannot be listed is passed over.
    fn walk(&mut self, folder: &Path) -> u64 {
        let mut left_out = 0;
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            let Ok(entries) = folder.read_dir() else { continue };
            let mut entries: Vec<_> = entries.flatten().collect();
            entries.sort_by_key(DirEntry::file_name);
            for entry in entries {
                let (path, name) = (entry.path(), entry.file_name());
                let Ok(metadata) = entry.metadata() else { continue };
                let skipped = name == "target" || name.to_string_lossy().starts_with('.');
                if metadata.is_dir() && !skipped {
                    open.push(path);
                } else if metadata.is_file() && is_source(&path) {
                    left_out += u64::from(!self.take(path, metadata.len()));
                }
            }
        }
        left_out
    }

    fn take(&mut self, path: PathBuf, size: u64) -> bool {
        let bytes = self.bytes.saturating_add(size);
        let fits = bytes <= MAX_BYTES.as_u64() && self.files.len() < MAX_FILES;
        if fits {
            self.bytes = bytes;
            self.files.push((path, size));
        }
        fits
    }
}

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known))
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
