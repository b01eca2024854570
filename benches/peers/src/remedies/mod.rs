//! The remedies that the monitor names, each applied to a planted cause: does it release what the verdict promised?
//!
//! A case is one process with one allocator. It plants a cause in one invocation, reads the verdict of that invocation, and
//! applies the remedy: a trim, or an end of the native code. For `MALLOC_ARENA_MAX` and another allocator, the same cause is
//! planted in another process, and the remains are compared.

mod plant;

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::Command;

use plimsoll::monitor::{LeakVerdict, Monitor, Remedy, ReportPolicy, TrimPolicy};
use plimsoll::{ByteSize, heap, os};
use serde_json::{Value, json};

use plant::{grow_and_trim, plant};

/// The causes that [`plant`] knows.
pub const CAUSES: [&str; 14] = [
    "freed",
    "fast",
    "checkerboard",
    "sparse",
    "arenas",
    "tops",
    "c_small",
    "c_large",
    "mmap",
    "mmap_live",
    "mmap_later",
    "mmap_amid",
    "tiny",
    "live",
];

/// The share of the promised bytes that a remedy must release.
const HOLDS_PERCENT: u64 = 80;

/// One case and its result, in bytes.
#[derive(Debug)]
pub struct Case {
    /// The allocator, with its setting of arenas.
    pub allocator: &'static str,
    /// The planted cause.
    pub cause: &'static str,
    /// `true` if the monitor trims by itself.
    pub trims: bool,
    /// The verdict, as text.
    pub verdict: String,
    /// The promised bytes; 0 without a remedy.
    pub promised: u64,
    /// The bytes that the remedy has released.
    pub released: u64,
    /// The live heap.
    pub live: u64,
    /// Anonymous rss less the live heap.
    pub beyond: u64,
    /// The bytes that a trim released of it.
    pub trimmed: u64,
}

impl Case {
    /// Returns `true` if the remedy released as much as promised; `None` without a promise.
    pub fn holds(&self) -> Option<bool> {
        (self.promised > 0).then(|| self.released >= self.promised / 100 * HOLDS_PERCENT)
    }

    /// Returns the same for a verdict that promises a trim of all that is beyond the heap, from 16 MiB and as much as the heap on.
    pub fn control_holds(&self) -> Option<bool> {
        let is_much = self.beyond >= (16 << 20).max(self.live);
        is_much.then(|| self.trimmed >= self.beyond / 100 * HOLDS_PERCENT)
    }
}

/// Returns the share of the promises that hold, in percent, and the same of the control.
pub fn held(cases: &[Case]) -> (f64, f64) {
    let share = |holds: &dyn Fn(&Case) -> Option<bool>| {
        let holds: Vec<bool> = cases.iter().filter_map(holds).collect();
        100.0 * holds.iter().filter(|held| **held).count() as f64 / holds.len() as f64
    };
    (share(&Case::holds), share(&Case::control_holds))
}

/// The programs of the three allocators.
#[derive(Clone, Copy, Debug)]
pub struct Programs<'a> {
    /// glibc's.
    pub system: &'a Path,
    /// mimalloc's.
    pub mimalloc: &'a Path,
    /// jemalloc's.
    pub jemalloc: &'a Path,
}

/// Runs all causes on four allocators, with the trims of the monitor off and on.
///
/// # Errors
///
/// If a program does not start or does not answer.
pub fn run(programs: Programs<'_>) -> Result<Vec<Case>, Box<dyn Error>> {
    let Programs { system, mimalloc, jemalloc } = programs;
    let allocators = [
        ("glibc", system, ""),
        ("glibc, 1 arena", system, "1"),
        ("mimalloc", mimalloc, ""),
        ("jemalloc", jemalloc, ""),
        ("mimalloc, no hook", mimalloc, NO_HOOK),
        ("jemalloc, no hook", jemalloc, NO_HOOK),
    ];
    let mut cases = Vec::new();
    for (allocator, program, setting) in allocators {
        for cause in CAUSES {
            for trims in [false, true] {
                let own = ask(program, cause, trims, setting)?;
                let figure = |name: &str| own.get(name).and_then(Value::as_u64).ok_or("a figure is missing");
                let beyond = figure("beyond")?;
                let text = |name: &str| own.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                // The remains of the same cause in a process with the remedy, after the trim of its monitor.
                let elsewhere = match text("remedy").as_str() {
                    "MALLOC_ARENA_MAX" => Some(ask(program, cause, true, "1")?),
                    "another allocator" if program == jemalloc => Some(ask(system, cause, true, "1")?),
                    "another allocator" => Some(ask(jemalloc, cause, true, "")?),
                    _ => None,
                };
                let remains = elsewhere.map(|other| other.get("beyond").and_then(Value::as_u64).unwrap_or(u64::MAX));
                cases.push(Case {
                    allocator,
                    cause,
                    trims,
                    verdict: text("verdict"),
                    promised: figure("promised")?,
                    released: remains.map_or(figure("released")?, |remains| beyond.saturating_sub(remains)),
                    live: figure("live")?,
                    beyond,
                    trimmed: figure("trimmed")?,
                });
            }
        }
    }
    Ok(cases)
}

/// The setting of an allocator without its trim hook.
const NO_HOOK: &str = "no hook";

fn ask(program: &Path, cause: &str, trims: bool, setting: &str) -> Result<Value, Box<dyn Error>> {
    let mut command = Command::new(program);
    command.args([cause, if trims { "trims" } else { "keeps" }, setting]).env_remove("MALLOC_ARENA_MAX");
    if setting == "1" {
        command.env("MALLOC_ARENA_MAX", setting);
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{cause}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Runs the program of one allocator with its trim hook: plants the cause of the first argument, applies the remedy, and prints
/// the result as JSON.
///
/// # Errors
///
/// If the arguments are wrong, or a reading fails.
pub fn program(hook: Option<fn()>) -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [cause, trims, setting] = arguments.as_slice() else {
        return Err("expected a cause, `trims` or `keeps`, and a setting".into());
    };
    if let Some(hook) = hook.filter(|_| setting != NO_HOOK) {
        os::set_trim_hook(hook);
    }
    let policy = if trims == "trims" { TrimPolicy::new().share_of_time(100) } else { TrimPolicy::off() };
    let monitor = Monitor::builder().memory_size(ByteSize::mib(256)).trim(policy).report(ReportPolicy::Off).build()?;
    for _ in 0..20 {
        monitor.start("before").finish();
    }
    if cause == "mmap_later" {
        let earlier = monitor.start("earlier");
        grow_and_trim();
        earlier.finish();
    }
    let invocation = monitor.start("plants");
    if cause == "mmap_amid" {
        grow_and_trim();
        monitor.start("between").finish();
    }
    let mut planted = plant(cause).ok_or_else(|| io::Error::other("not a cause"))?;
    let verdict = invocation.finish().verdict;
    let (before, beyond, live) = (anonymous()?, beyond()?, heap::stats()?.live.as_u64());
    let (remedy, promised) = match verdict {
        LeakVerdict::Retaining { beyond_heap, remedy, .. } => (Some(remedy), beyond_heap),
        LeakVerdict::Outside { bytes, remedy, .. } => (Some(remedy), bytes),
        _ => (None, ByteSize::ZERO),
    };
    match remedy {
        Some(Remedy::Trim) => _ = os::trim()?,
        Some(Remedy::CLibrary) => planted.end_native_code(),
        _ => {}
    }
    let released = before.saturating_sub(anonymous()?);
    // As a verdict that always names a trim would have it.
    let trimmed = if remedy == Some(Remedy::Trim) { released } else { os::trim()?.as_u64() };
    let answer = json!({
        "verdict": verdict.to_string(), "remedy": remedy.map(|remedy| remedy.to_string()), "promised": promised.as_u64(),
        "released": released, "beyond": beyond, "live": live, "trimmed": trimmed,
    });
    println!("{answer}");
    drop(planted);
    Ok(())
}

fn anonymous() -> Result<u64, os::OsError> {
    Ok(os::rss()?.anonymous.as_u64())
}

/// The anonymous rss less the live heap.
fn beyond() -> Result<u64, Box<dyn Error>> {
    Ok(anonymous()?.saturating_sub(heap::stats()?.live.as_u64()))
}
