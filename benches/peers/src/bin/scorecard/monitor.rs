//! Area `monitor`: what a report costs an invocation, and what hooking in costs a function's start and its size.
//!
//! The two hello functions differ in the hook-in alone; both are built as they would be shipped, stripped.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use plimsoll_peers::median;

use crate::Options;
use crate::programs::{ask, build};
use crate::row::{Card, Goal, Row};

pub(crate) fn measure(options: Options) -> Result<Card, Box<dyn Error>> {
    let mut card = Card::default();
    let worker = built("release", "monitor_invocations")?;
    let invocations = if options.quick { 20_000 } else { 100_000 };
    let answer = ask(&worker, &[&invocations.to_string()])?;
    for (metric, key, unit, goal) in [
        ("monitor.invocation.us", "invocation_us", "us", 20.0),
        ("monitor.clean.live_growth_bytes", "live_growth_bytes", "bytes", 0.0),
    ] {
        let ours = answer.get(key).and_then(Value::as_f64).ok_or("the worker left out a figure")?;
        card.rows.push(Row { metric, unit, ours, goal: Goal::AtMost(goal), best_peer: None });
    }

    crate::leaks::measure(options, &built("release", "monitor_leaks")?, &mut card)?;
    throughput(options, &mut card)?;
    own_peak(options, &mut card)?;
    #[cfg(target_os = "linux")]
    remedies(&mut card)?;

    let (plain, ours) = (built("shipped", "hello_plain")?, built("shipped", "hello_plimsoll")?);
    let rounds = if options.quick { 21 } else { 101 };
    // In pairs, so that a slow moment of the host meets both.
    let mut added = Vec::with_capacity(rounds);
    let mut starts = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let (without, with) = (start_ms(&plain)?, start_ms(&ours)?);
        added.push(with - without);
        starts.push(without);
    }
    let kib = |path: &Path| Ok::<_, std::io::Error>(path.metadata()?.len() as f64 / 1024.0);
    for (metric, unit, ours, goal) in [
        ("monitor.cold_start.ms", "ms added", median(added), 1.0),
        ("monitor.binary.kib", "KiB added", kib(&ours)? - kib(&plain)?, 300.0),
    ] {
        card.rows.push(Row { metric, unit, ours, goal: Goal::AtMost(goal), best_peer: None });
    }
    let size = kib(&plain)?;
    card.notes.push(format!("hello without: {:.2} ms to its first `next`, {size:.0} KiB stripped", median(starts)));
    Ok(card)
}

/// A light HTTP service under the layer, as a share of the same service without.
fn throughput(options: Options, card: &mut Card) -> Result<(), Box<dyn Error>> {
    let programs = build("release", &["http_load", "http_plain", "http_plimsoll"])?;
    let program = |name: &str| programs.get(name).map(|path| path.display().to_string()).ok_or("not built");
    let (plain, ours) = (program("http_plain")?, program("http_plimsoll")?);
    let rounds = if options.quick { "31" } else { "151" };
    // The plain one twice: what it is of itself is the noise of the machine.
    let services = [rounds, &plain, &plain, &ours, &format!("{ours} all")];
    let answer = ask(Path::new(&program("http_load")?), &services)?;
    let of_plain = |place: usize| answer.get("of_plain_pct")?.get(place)?.as_f64();
    for (place, metric, goal) in
        [(2, "monitor.layer.throughput_of_plain_pct", 95.0), (3, "monitor.all_on.throughput_of_plain_pct", 90.0)]
    {
        let ours = of_plain(place).ok_or("the load left out a figure")?;
        card.rows.push(Row { metric, unit: "%", ours, goal: Goal::AtLeast(goal), best_peer: None });
    }
    card.notes.push(format!("a light HTTP service beside itself: {:.1} %", of_plain(1).unwrap_or(f64::NAN)));
    Ok(())
}

/// The own peaks of requests next to others; the control is the process peak, which a report had before.
fn own_peak(options: Options, card: &mut Card) -> Result<(), Box<dyn Error>> {
    let worker = built("release", "monitor_own_peak")?;
    let answer = ask(&worker, &[if options.quick { "2000" } else { "10000" }])?;
    for (metric, key, goal) in [
        ("monitor.own_peak.error_pct", "error_pct", Goal::AtMost(1.0)),
        ("monitor.own_peak.error_pct.control", "process_error_pct", Goal::Above(1.0)),
        ("monitor.own_peak.upload_error_pct", "upload_error_pct", Goal::AtMost(1.0)),
    ] {
        let ours = answer.get(key).and_then(Value::as_f64).ok_or("the worker left out a figure")?;
        card.rows.push(Row { metric, unit: "%", ours, goal, best_peer: None });
    }
    Ok(())
}

/// The remedies of the verdicts, applied; the control names a trim for all that is beyond the heap.
#[cfg(target_os = "linux")]
fn remedies(card: &mut Card) -> Result<(), Box<dyn Error>> {
    use plimsoll_peers::remedies::{Programs, held, run};

    let names = ["remedies_system", "remedies_mimalloc", "remedies_jemalloc"];
    let programs = build("release", &names)?;
    let program = |name: &str| programs.get(name).map(PathBuf::as_path).ok_or("not built");
    let [system, mimalloc, jemalloc] = names.map(program);
    let (ours, control) = held(&run(Programs { system: system?, mimalloc: mimalloc?, jemalloc: jemalloc? })?);
    for (metric, ours, goal) in [
        ("monitor.leak.remedies_held_pct", ours, Goal::AtLeast(100.0)),
        ("monitor.leak.remedies_held_pct.control", control, Goal::Below(100.0)),
    ] {
        card.rows.push(Row { metric, unit: "%", ours, goal, best_peer: None });
    }
    Ok(())
}

fn built(profile: &str, name: &str) -> Result<PathBuf, Box<dyn Error>> {
    build(profile, &[name])?.remove(name).ok_or_else(|| format!("{name} was not built").into())
}

/// Milliseconds from the start of the process to its first request for an event: the init phase, as Lambda sees it.
fn start_ms(program: &Path) -> Result<f64, Box<dyn Error>> {
    let api = TcpListener::bind("127.0.0.1:0")?;
    let mut command = Command::new(program);
    command
        .env("AWS_LAMBDA_RUNTIME_API", api.local_addr()?.to_string())
        .env("AWS_LAMBDA_FUNCTION_NAME", "hello")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .stderr(Stdio::null());
    let started = Instant::now();
    let mut function = command.spawn()?;
    let mut request = String::new();
    BufReader::new(api.accept()?.0).read_line(&mut request)?;
    let taken = started.elapsed();
    function.kill()?;
    function.wait()?;
    if !request.starts_with("GET /2018-06-01/runtime/invocation/next") {
        return Err(format!("the function asked for {request:?} first").into());
    }
    Ok(taken.as_secs_f64() * 1e3)
}
