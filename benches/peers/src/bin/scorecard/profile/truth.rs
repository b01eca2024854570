//! The peak against an exact model, planted leaks, and other allocators and targets.

use std::error::Error;
use std::path::Path;

use plimsoll_peers::median;
use serde_json::Value;

use super::builds::{Builds, for_target, is_installed};
use super::{INTERVAL, SHORT_INTERVAL, figure, row};
use crate::programs::ask;
use crate::row::{Card, Goal, Table};

/// Compares the profile of the peak with the exact bytes of each site. Per number of threads the median of all seeds
/// counts, and of those the lowest.
pub(super) fn peaks(builds: &Builds, seeds: u32, card: &mut Card) -> Result<(), Box<dyn Error>> {
    const THREADS: [u32; 2] = [1, 8];
    let program = builds.on.get("profile_model")?;
    let intervals = [
        (SHORT_INTERVAL, "profile.peak_explained_pct", "profile.peak_explained_pct.control", 95.0),
        (INTERVAL, "profile.peak_explained_pct.512k", "profile.peak_explained_pct.512k.control", 90.0),
    ];
    let mut table = Table {
        title: format!("share of the peak that the profile explains, %, {seeds} seeds; heap and intervals in KiB"),
        columns: vec!["lowest", "median", "highest", "at random", "heap", "interval at end"],
        rows: Vec::new(),
    };
    for (interval, metric, control_metric, goal) in intervals {
        let (mut lowest, mut control) = (f64::INFINITY, 0.0_f64);
        for threads in THREADS {
            let (mut shares, mut heap, mut widest) = (Vec::new(), 0.0, 0.0_f64);
            let mut at_random = 0.0_f64;
            for seed in 1..=seeds {
                let answer = ask(program, &[&threads.to_string(), &seed.to_string(), interval])?;
                shares.push(figure(&answer, "explained_pct")?);
                at_random = at_random.max(figure(&answer, "control_pct")?);
                heap = figure(&answer, "heap")? / 1024.0;
                widest = widest.max(figure(&answer, "interval")? / 1024.0);
            }
            shares.sort_by(f64::total_cmp);
            let middle = median(shares.iter().copied());
            let ends = [shares.first(), shares.last()].map(|share| share.copied().unwrap_or(f64::NAN));
            lowest = lowest.min(middle);
            control = control.max(at_random);
            let [least, most] = ends;
            let cells = [least, middle, most, at_random, heap, widest].map(|figure| format!("{figure:.1}")).to_vec();
            let kib = interval.parse().unwrap_or(0) >> 10;
            table.rows.push((format!("every {kib} KiB, {threads} threads"), cells));
        }
        card.rows.push(row(metric, "%", lowest, Goal::AtLeast(goal)));
        card.rows.push(row(control_metric, "%", control, Goal::Below(goal)));
    }
    card.tables.push(table);
    Ok(())
}

/// Hunts the planted leaks with each kind of names and over each allocator. In each row the lowest share of named leaks
/// counts, and for the control the highest share.
///
/// The program is a workspace of two crates. Without line tables it names them, as `set_own_crates` asks for.
pub(super) fn leaks(builds: &Builds, card: &mut Card) -> Result<(), Box<dyn Error>> {
    const KINDS: [&str; 5] = ["plain", "spawn", "spawn_blocking", "rayon", "serde_json"];
    const NAMED: &str = "profile.leaks_named_pct";
    const RELEASE: &str = "profile.leaks_named_pct.release";
    const UNNAMED: &str = "profile.leaks_named_pct.crates_not_named";
    let system = "profile_system";
    let crates = "profile_workers,profile_system";
    let programs = [
        (NAMED, "line tables", builds.lines.get(system)?, ""),
        (NAMED, "generic arguments in names", builds.full_names.get(system)?, crates),
        (RELEASE, "release", builds.on.get(system)?, crates),
        (RELEASE, "release, mimalloc", builds.on.get("profile_mimalloc")?, "profile_workers,profile_mimalloc"),
        (RELEASE, "release, jemalloc", builds.on.get("profile_jemalloc")?, "profile_workers,profile_jemalloc"),
        (UNNAMED, "generic arguments, crates not named", builds.full_names.get(system)?, ""),
    ];
    let mut table = Table {
        title: "planted leaks whose largest growing site names the function, of 8 of each kind".to_owned(),
        columns: [KINDS.as_slice(), &["innermost frame"]].concat(),
        rows: Vec::new(),
    };
    let mut rows = [(NAMED, Goal::AtLeast(95.0)), (RELEASE, Goal::AtLeast(95.0)), (UNNAMED, Goal::Reported)]
        .map(|(metric, goal)| row(metric, "%", f64::INFINITY, goal));
    let mut control = 0.0_f64;
    for (metric, name, program, own_crates) in programs {
        let answer = ask(program, &["hunt", INTERVAL, own_crates])?;
        let percent = |key| Ok::<f64, Box<dyn Error>>(100.0 * figure(&answer, key)? / figure(&answer, "leaks")?);
        let (named, innermost) = (percent("named")?, percent("control")?);
        if let Some(row) = rows.iter_mut().find(|row| row.metric == metric) {
            row.ours = row.ours.min(named);
        }
        control = control.max(innermost);
        let count = |kind: &str| answer.pointer(&format!("/by_kind/{kind}")).map_or("-".to_owned(), Value::to_string);
        let mut cells: Vec<String> = KINDS.iter().map(|kind| count(kind)).collect();
        cells.push(format!("{innermost:.0} %"));
        table.rows.push((name.to_owned(), cells));
        if metric == NAMED {
            let missed = answer.get("missed").and_then(Value::as_array).into_iter().flatten();
            card.notes.extend(missed.map(|missed| format!("{name}: {}", described(missed))));
        }
    }
    card.tables.push(table);
    card.rows.extend(rows);
    card.rows.push(row("profile.leaks_named_pct.control", "%", control, Goal::Below(95.0)));
    Ok(())
}

/// Describes a leak that was not named: the function that was, and the innermost frames.
fn described(missed: &Value) -> String {
    const FRAMES: usize = 3;
    let of = |key| missed.get(key).and_then(Value::as_str).unwrap_or("no function");
    let stack = missed.get("stack").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let frames: Vec<String> = stack.take(FRAMES).map(|frame| frame.chars().take(100).collect()).collect();
    format!("`{}` was not named, but {}: {}", of("leak"), of("named"), frames.join(", "))
}

/// Counts the allocators and targets on which a leak of 100 MiB is named with its bytes.
pub(super) fn allocators(builds: &Builds, card: &mut Card) -> Result<(), Box<dyn Error>> {
    let mut table = Table {
        title: "a leak of 100 MiB by one function: its bytes by the profile".to_owned(),
        columns: vec!["MiB", "error"],
        rows: Vec::new(),
    };
    let mut work = 0;
    let targets = [
        ("system", on(builds, "profile_system")),
        ("mimalloc", on(builds, "profile_mimalloc")),
        ("jemalloc", on(builds, "profile_jemalloc")),
        ("system of musl, static", on_musl()),
        ("system of aarch64, emulated", on_aarch64()),
    ];
    for (name, answer) in targets {
        let cells = match answer {
            Ok(answer) => {
                let (bytes, truth) = (figure(&answer, "bytes")?, figure(&answer, "truth")?);
                let error = 100.0 * (bytes / truth - 1.0);
                if error.abs() <= 10.0 {
                    work += 1;
                } else {
                    card.notes.push(format!("{name}: not named: {answer}"));
                }
                vec![format!("{:.1}", bytes / f64::from(1 << 20)), format!("{error:+.1} %")]
            }
            Err(error) => {
                card.notes.push(format!("{name}: not measured: {error}"));
                vec!["not measured".to_owned(), "-".to_owned()]
            }
        };
        table.rows.push((name.to_owned(), cells));
    }
    card.tables.push(table);
    card.rows.push(row("profile.allocators", "of 5", f64::from(work), Goal::AtLeast(5.0)));
    Ok(())
}

fn leaked(program: &Path) -> Result<Value, Box<dyn Error>> {
    ask(program, &["leaked", SHORT_INTERVAL])
}

fn on(builds: &Builds, name: &str) -> Result<Value, Box<dyn Error>> {
    leaked(builds.on.get(name)?)
}

fn on_musl() -> Result<Value, Box<dyn Error>> {
    leaked(&for_target("x86_64-unknown-linux-musl", &[])?)
}

fn on_aarch64() -> Result<Value, Box<dyn Error>> {
    const EMULATOR: &str = "qemu-aarch64-static";
    const COMPILER: &str = "aarch64-linux-gnu-gcc";
    for program in [EMULATOR, COMPILER] {
        if !is_installed(program) {
            return Err(format!("{program} not found").into());
        }
    }
    let variables =
        [("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", COMPILER), ("CC_aarch64_unknown_linux_gnu", COMPILER)];
    let program = for_target("aarch64-unknown-linux-gnu", &variables)?;
    let program = program.to_str().ok_or("the worker has no name in UTF-8")?;
    ask(Path::new(EMULATOR), &["-L", "/usr/aarch64-linux-gnu", program, "leaked", SHORT_INTERVAL])
}
