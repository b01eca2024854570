//! REPORT lines in, a memory size out: a table in the terminal, JSON, or a chart.
//!
//! ```text
//! aws logs tail /aws/lambda/thumbnails --since 7d | cargo run --release --example right_size --features sizing
//! cargo run --example right_size --features sizing -- --svg chart.svg examples/data/thumbnails.log
//! ```

mod arguments;
mod chart;
mod json;
mod table;

use std::error::Error;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use plimsoll::sizing::{Entry, LogCounts, Pricing, Profile, Recommendation, Sizing, read_log};

use crate::arguments::{Arguments, HELP, Parsed};

/// Faults that are printed; the rest is counted.
const MOST_FAULTS: usize = 10;

/// All that was read, and what follows from it.
struct Study {
    counts: LogCounts,
    profile: Profile,
    advice: Recommendation,
    pricing: Pricing,
    /// Invocations in a month.
    monthly: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Parsed::Run(arguments)) => arguments,
        Ok(Parsed::Help) => return print(HELP),
        Err(why) => return fail(&format!("{why}\n\n{HELP}"), 2),
    };
    match run(&arguments) {
        Ok(text) => print(&text),
        Err(error) => fail(&with_causes(&*error), 1),
    }
}

fn run(arguments: &Arguments) -> Result<String, Box<dyn Error>> {
    let (mut profile, mut counts) = (Profile::new(), LogCounts::default());
    for name in &arguments.files {
        let read =
            read_input(name, &mut profile).map_err(|error| format!("{}: {}", name.display(), with_causes(&*error)))?;
        add(&mut counts, read);
    }
    let pricing = Pricing::us_east_1(arguments.architecture);
    let pricing = if arguments.free_tier { pricing.with_free_tier() } else { pricing };
    let sizing = Sizing::new(pricing.clone()).strategy(arguments.strategy).headroom(arguments.headroom.clone());
    let advice = sizing.recommend(&profile)?;
    let study = Study { counts, profile, advice, pricing, monthly: arguments.monthly };
    if let Some(path) = &arguments.svg {
        std::fs::write(path, chart::svg(&study)?).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(if arguments.json { json::text(&study) } else { table::text(&study)? })
}

fn read_input(name: &Path, profile: &mut Profile) -> Result<LogCounts, Box<dyn Error>> {
    let input: Box<dyn Read> = if name == Path::new("-") {
        if io::stdin().is_terminal() {
            return Err("no log: name files, or pipe one in (--help)".into());
        }
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(name)?)
    };
    let mut faults = 0;
    let counts = read_log(input, |entry| match entry {
        Entry::Report(report) => profile.add(&report),
        Entry::Malformed(line) => {
            faults += 1;
            if faults <= MOST_FAULTS {
                say(&format!("{}: {line}", name.display()));
            }
        }
        _ => {}
    })?;
    Ok(counts)
}

fn add(sum: &mut LogCounts, more: LogCounts) {
    sum.lines += more.lines;
    sum.reports += more.reports;
    sum.copies += more.copies;
    sum.skipped += more.skipped;
    sum.malformed += more.malformed;
    sum.oversized += more.oversized;
    sum.killed_without_report += more.killed_without_report;
}

/// The error and all its causes, down to what the system says.
fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Prints to standard output. A reader that went away, as `head` does, is no failure.
fn print(text: &str) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), 1),
    }
}

fn fail(why: &str, code: u8) -> ExitCode {
    say(&format!("right_size: {why}"));
    ExitCode::from(code)
}

fn say(text: &str) {
    // There is nowhere left to tell of a standard error that is closed.
    let _closed = writeln!(io::stderr(), "{}", text.trim_end());
}
