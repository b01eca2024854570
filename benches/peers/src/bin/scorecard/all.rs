//! `scorecard all`: every area in a process of its own, and `benches/RESULTS.md` made of what they measured.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::row::MISSED;
use crate::{AREAS, Options};

/// Where an area leaves its part of the results.
pub(crate) fn section_file(area: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/scorecard").join(format!("{area}.md"))
}

/// Measures all areas and writes the results.
pub(crate) fn measure(options: Options) -> Result<(), Box<dyn Error>> {
    let scorecard = std::env::current_exe()?;
    let date = said("date", "+%F").unwrap_or_else(unknown);
    let flags: Vec<&str> = [("--quick", options.quick), ("--full", options.full)]
        .iter()
        .filter(|flag| flag.1)
        .map(|flag| flag.0)
        .collect();
    let mut sections = String::new();
    for area in &AREAS {
        // What one leaves in the heap is nothing to the next.
        let status = Command::new(&scorecard).arg(area.name).args(&flags).status()?;
        if !status.success() {
            return Err(format!("{}: {status}", area.name).into());
        }
        let section = fs::read_to_string(section_file(area.name))?;
        sections.push_str(&format!("\n## {}\n\n{}.\n\n{section}", area.name, first_upper(area.about)));
    }
    let command = format!(
        "cargo run --release --manifest-path benches/peers/Cargo.toml -- {}",
        ["all"].iter().chain(&flags).copied().collect::<Vec<_>>().join(" ")
    );
    let results = format!(
        "# Results\n\nMeasured on {date} by\n\n```sh\n{command}\n```\n\n{}\n\
         Peers run the same work in the same round, and figures are medians or quickest chunks as each area's source \
         says. Quote the ratios: nanoseconds belong to the machine. The areas can be measured one by one, with their \
         names in place of `{}`.\n\n## What is not met\n\n{}{sections}",
        machine(),
        ["all"].iter().chain(&flags).copied().collect::<Vec<_>>().join(" "),
        missed(&sections),
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../RESULTS.md");
    fs::write(&file, results)?;
    println!("\nwritten: benches/RESULTS.md");
    Ok(())
}

/// The rows that miss their goals, once more.
fn missed(sections: &str) -> String {
    let rows: Vec<String> = sections
        .lines()
        .filter(|line| line.contains(MISSED))
        .filter_map(|line| {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let (metric, ours, goal, unit) = (cells.next()?, cells.next()?, cells.next()?, cells.next()?);
            let goal = match goal.split_once(' ') {
                Some((">=", goal)) => format!("at least {goal}"),
                Some((">", goal)) => format!("above {goal}"),
                Some(("<", goal)) => format!("below {goal}"),
                _ => format!("at most {goal}"),
            };
            Some(format!("- {metric}: {ours} {unit}, the goal is {goal}\n"))
        })
        .collect();
    if rows.is_empty() { "Every goal is met.\n".to_owned() } else { rows.concat() }
}

/// Processor, threads, memory, kernel and compiler.
fn machine() -> String {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = file("/proc/cpuinfo");
    let model = field(&cpu, "model name").or_else(|| field(&cpu, "CPU implementer")).unwrap_or_else(unknown);
    let kib = field(&file("/proc/meminfo"), "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let gib = kib.map_or_else(unknown, |kib| format!("{:.0} GiB", kib as f64 / (1 << 20) as f64));
    let glibc = said("getconf", "GNU_LIBC_VERSION").unwrap_or_else(unknown);
    let rustc = said("rustc", "--version").unwrap_or_else(unknown);
    let (system, kernel) = (std::env::consts::ARCH, said("uname", "-sr").unwrap_or_else(unknown));
    format!(
        "| machine | |\n|---|---|\n| processor | {model}, {threads} threads, {system} |\n| memory | {gib} |\n| system | \
         {kernel}, {glibc} |\n| compiler | {rustc} |\n"
    )
}

/// What a program prints, on one line.
fn said(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn first_upper(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
