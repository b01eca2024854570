//! A handler with a planted leak, beside a cache that warms up and buffers that come and go; and the verdict as it forms.
//!
//! ```text
//! cargo run --example leak_hunt
//! cargo run --example leak_hunt -- --leak 1KiB --noise 100KiB --svg hunt.svg
//! cargo run --example leak_hunt -- --leak 0 --invocations 2000
//! RUSTFLAGS="-C force-frame-pointers=yes" cargo run --features profile,symbols --example leak_hunt
//! ```
//!
//! With the feature `profile` it names the allocation sites that grew: by function with the feature `symbols`, else by
//! address, with the command that prints the function.

mod arguments;
mod chart;
mod handler;

use std::error::Error;
use std::io::{self, Write};
use std::mem::discriminant;
use std::process::ExitCode;

use plimsoll::monitor::{HeapSite, InvocationHeap, InvocationReport, LeakVerdict, ReportPolicy};
use plimsoll::{ByteSize, Monitor, TrackingAllocator};

use crate::arguments::{Arguments, HELP, Parsed};
use crate::handler::Handler;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// What one invocation left, and what was made of it.
struct Point {
    live: ByteSize,
    unattributed: ByteSize,
    verdict: LeakVerdict,
}

/// All that was seen.
struct Hunt {
    points: Vec<Point>,
    capacity: ByteSize,
}

impl Hunt {
    /// The first invocation that was called growing, counted from 1.
    fn seen(&self) -> Option<usize> {
        let is_growing = |point: &Point| matches!(point.verdict, LeakVerdict::Growing { .. });
        self.points.iter().position(is_growing).map(|index| index + 1)
    }
}

fn main() -> ExitCode {
    let arguments = match arguments::parse(std::env::args().skip(1)) {
        Ok(Parsed::Run(arguments)) => arguments,
        Ok(Parsed::Help) => return print(HELP).unwrap_or_else(|error| fail(&error.to_string(), 1)),
        Err(why) => return fail(&format!("{why}\n\n{HELP}"), 2),
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), 1),
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    #[cfg(feature = "profile")]
    plimsoll::heap::profile::start(ByteSize::kib(64))?;
    // Its own lines would be hundreds; what changes is printed here.
    let monitor = Monitor::builder().memory_size(arguments.memory).report(ReportPolicy::Off).build()?;
    let mut handler = Handler::new(arguments);
    let capacity = monitor.alarm_thresholds().ok_or("no memory limit")?.capacity();
    let mut hunt = Hunt { points: Vec::with_capacity(arguments.invocations), capacity };
    let mut said = None;
    let mut growing = None;
    for number in 1..=arguments.invocations {
        let invocation = monitor.start("hunt");
        handler.handle();
        let report = invocation.finish();
        // What the verdict is may change; its figures do with every invocation.
        let kind = discriminant(&report.verdict);
        if said.replace(kind) != Some(kind) || number == arguments.invocations {
            print(&line(number, &report))?;
        }
        growing = report.growing_sites[0].or(growing);
        let InvocationHeap { live, unattributed, .. } = report.heap.ok_or("the heap is not tracked")?;
        hunt.points.push(Point { live, unattributed, verdict: report.verdict });
        if live.max(report.rss.unwrap_or_default()) > capacity {
            print(&format!("{number:>6}  over {capacity}: Lambda would have killed it\n"))?;
            break;
        }
    }
    if let Some(site) = growing.filter(|site| site.function.is_none()) {
        print(&command(&site)?)?;
    }
    if let Some(path) = &arguments.svg {
        std::fs::write(path, chart::svg(&hunt)?).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

fn line(number: usize, report: &InvocationReport) -> String {
    let rss = report.rss.map_or_else(|| "not known".to_owned(), |rss| rss.to_string());
    let heap = report
        .heap
        .map_or_else(|| "not known".to_owned(), |heap| format!("{}, unattributed {}", heap.live, heap.unattributed));
    let sites = report.growing_sites.iter().flatten();
    let sites: Vec<_> = sites.map(|site| format!("{site} +{}", site.bytes)).collect();
    let colon = if sites.is_empty() { "" } else { ": " };
    format!("{number:>6}  {}{colon}{}  (heap {heap}, rss {rss})\n", report.verdict, sites.join(", "))
}

/// The command that prints the functions of a site.
fn command(site: &HeapSite) -> io::Result<String> {
    let addresses: Vec<_> = site.addresses().map(|address| format!("{address:#x}")).collect();
    Ok(format!("addr2line -Cfip -e {} {}\n", std::env::current_exe()?.display(), addresses.join(" ")))
}

/// Prints to standard output. A reader that went away, as `head` does, is no failure.
fn print(text: &str) -> io::Result<ExitCode> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn fail(why: &str, code: u8) -> ExitCode {
    // There is nowhere left to tell of a standard error that is closed.
    let _closed = writeln!(io::stderr(), "leak_hunt: {}", why.trim_end());
    ExitCode::from(code)
}
