//! Memory as this function sees it: one line per invocation, and a picture at the end of a run.

use std::io::{self, Write};

use plimsoll::{ByteSize, EnvError, MemoryLimit, heap, os};

/// What Lambda's own processes take of the memory size beside the function's.
const ENVIRONMENT_SHARE: ByteSize = ByteSize::mib(12);
/// Smallest memory size of a function, in MB.
const SMALLEST_MB: u64 = 128;
/// Columns of a bar.
const WIDTH: usize = 50;

/// Reads the process's memory; where a figure cannot be had, it is left out.
#[derive(Debug)]
pub(crate) struct Meter {
    limit: Result<MemoryLimit, EnvError>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { limit: MemoryLimit::detect() }
    }

    /// Begins an invocation: from here on the heap's peak is this invocation's.
    #[expect(clippy::unused_self, reason = "the meter is what starts and says, also where starting needs none of it")]
    pub(crate) fn start(&self) {
        heap::reset_peak();
    }

    /// Writes the invocation's one line to standard error.
    pub(crate) fn say(&self, id: &str) {
        // A function whose log is closed still answers.
        drop(writeln!(io::stderr(), "{}", self.line(id)));
    }

    fn line(&self, id: &str) -> String {
        let (live, peak) = heap_now();
        let limit = match &self.limit {
            Ok(limit) => format!("of {limit}"),
            Err(EnvError::NoLimitKnown) => "(no limit known)".to_owned(),
            Err(error) => format!("({error})"),
        };
        format!("plimsoll {id} heap {} peak {} rss {} {limit}", show(live), show(peak), show(rss_now()))
    }

    /// Draws the memory at the end of a run as bars under a load line, and the memory size that follows from it.
    ///
    /// # Errors
    ///
    /// If `out` fails.
    pub(crate) fn draw(&self, out: &mut impl Write) -> io::Result<()> {
        let (live, peak) = heap_now();
        // The kernel sums both figures roughly, so the peak may read lower than what is there now.
        let rss_peak = os::peak_rss().ok().max(rss_now());
        let (scale, title) = self.scale(rss_peak);
        let load_line = scale.saturating_sub(ENVIRONMENT_SHARE);
        writeln!(out, "memory against {title}\n")?;
        for (name, size) in [("heap now", live), ("heap peak", peak), ("rss now", rss_now()), ("rss peak", rss_peak)] {
            writeln!(out, "  {name:<9} |{}| {}", bar(size, load_line, scale), share(size, scale))?;
        }
        let indent = " ".repeat(column_of(load_line, scale));
        writeln!(out, "             {indent}^ load line, {load_line}: the rest is Lambda's own\n")?;
        let Some(peak) = rss_peak else { return writeln!(out, "recommended memory size: unknown, as peak rss is") };
        writeln!(out, "recommended memory size: {} MB", recommended_mb(peak))?;
        writeln!(out, "  = peak rss {peak} and {ENVIRONMENT_SHARE} for Lambda's own processes, and a quarter on top,")?;
        writeln!(out, "  rounded up to whole MB, and at least {SMALLEST_MB}")
    }

    /// The memory size to draw against: the limit, unless so large that nothing could be seen in it.
    fn scale(&self, rss_peak: Option<ByteSize>) -> (ByteSize, String) {
        let what_if = ByteSize::mib(rss_peak.map_or(SMALLEST_MB, recommended_mb));
        let visible = rss_peak.unwrap_or(ByteSize::mib(1)).saturating_mul(WIDTH as u64);
        match &self.limit {
            Ok(limit) if limit.size() <= visible => (limit.size(), format!("the limit of {limit}")),
            Ok(limit) => (what_if, format!("a what-if of {what_if}; the limit here is {limit}")),
            Err(EnvError::NoLimitKnown) => (what_if, format!("a what-if of {what_if}; no limit known here")),
            Err(error) => (what_if, format!("a what-if of {what_if}; {error}")),
        }
    }
}

/// Live and peak heap; the peak is the highest it can have been.
fn heap_now() -> (Option<ByteSize>, Option<ByteSize>) {
    let stats = heap::stats().ok();
    (stats.as_ref().map(|stats| stats.live), stats.as_ref().map(|stats| stats.peak.at_most))
}

fn rss_now() -> Option<ByteSize> {
    os::rss().ok().map(|rss| rss.total)
}

/// For a progress bar: what the process takes just now.
pub(crate) fn brief() -> String {
    format!("heap {} rss {}", show(heap_now().0), show(rss_now()))
}

/// (peak rss + environment share) x 1.25 in whole MB, rounded up, and at least what Lambda allows.
fn recommended_mb(rss_peak: ByteSize) -> u64 {
    let needed = rss_peak.saturating_add(ENVIRONMENT_SHARE).percent(125);
    needed.as_u64().div_ceil(ByteSize::mib(1).as_u64()).max(SMALLEST_MB)
}

/// Columns up to `size`, where `scale` is all of them.
fn column_of(size: ByteSize, scale: ByteSize) -> usize {
    let columns = size.saturating_mul(WIDTH as u64).as_u64().checked_div(scale.as_u64());
    columns.and_then(|columns| usize::try_from(columns).ok()).unwrap_or_default().min(WIDTH)
}

fn bar(size: Option<ByteSize>, load_line: ByteSize, scale: ByteSize) -> String {
    // What is there shows, however little.
    let filled = size.map_or(0, |size| column_of(size, scale).max(1));
    let mark = column_of(load_line, scale);
    let cell = |column| match (column == mark, column < filled) {
        (true, _) => '!',
        (false, true) => '#',
        (false, false) => ' ',
    };
    (0..WIDTH).map(cell).collect()
}

fn share(size: Option<ByteSize>, scale: ByteSize) -> String {
    let Some(size) = size else { return "not known here".to_owned() };
    let percent = size.saturating_mul(100).as_u64().checked_div(scale.as_u64()).unwrap_or_default();
    format!("{size:>10} {percent:>3} %")
}

fn show(size: Option<ByteSize>) -> String {
    size.map_or_else(|| "unknown".to_owned(), |size| size.to_string())
}
