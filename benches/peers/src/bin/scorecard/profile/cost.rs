//! Instructions, times and memory.

use std::error::Error;
use std::path::Path;

use plimsoll_peers::median;

use super::builds::Builds;
use super::{INTERVAL, elf, figure, row};
use crate::programs::{NO_VALGRIND, ask, build, instructions};
use crate::row::{Card, Goal, Peer, Row, Table};

/// The instructions of a pair over the plain allocator before there was a profile.
const BEFORE: f64 = 19.0;

/// Counts the instructions of a pair of 64 bytes without the feature, and with it and not started.
pub(super) fn instructions_of_pairs(builds: &Builds, card: &mut Card) -> Result<(), Box<dyn Error>> {
    let names = ["heap_system_plimsoll", "heap_system"];
    let heap = build("release", &names)?;
    let heap = names.map(|name| heap.get(name).ok_or_else(|| format!("cargo built no {name}")));
    let [ours, plain] = heap;
    let off = difference(ours?, plain?)?;
    let system = "profile_system";
    let idle = difference(builds.on_default.get(system)?, builds.off_default.get(system)?)?;
    let framed = difference(builds.on.get(system)?, builds.off.get(system)?)?;
    let rows = [
        ("profile.off.instructions", off.map(|off| off - BEFORE), Goal::AtMost(0.0)),
        ("profile.idle.instructions", idle, Goal::AtMost(3.0)),
        ("profile.idle.frame_pointers.instructions", framed, Goal::AtMost(3.0)),
    ];
    for (metric, count, goal) in rows {
        match count {
            Some(count) => card.rows.push(row(metric, "instructions", count, goal)),
            None => card.notes.push(format!("{metric}: {NO_VALGRIND}")),
        }
    }
    Ok(())
}

/// Counts the instructions of a pair in one program over those in another, or `None` without valgrind.
fn difference(program: &Path, base: &Path) -> Result<Option<f64>, Box<dyn Error>> {
    let per_pair = |program| per_operation(program, |count| vec!["pairs".to_owned(), count], 20_000);
    let (Some(ours), Some(base)) = (per_pair(program)?, per_pair(base)?) else { return Ok(None) };
    Ok(Some(ours - base))
}

/// Counts the instructions of an operation, or `None` without valgrind. `arguments` returns those for a
/// number of operations.
pub(super) fn per_operation(
    program: &Path,
    arguments: impl Fn(String) -> Vec<String>,
    operations: u32,
) -> Result<Option<f64>, Box<dyn Error>> {
    let count = |operations: u32| {
        let arguments = arguments(operations.to_string());
        instructions(program, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    // The difference of two counts has no start and no end of the process.
    let (Some(once), Some(twice)) = (count(operations)?, count(2 * operations)?) else { return Ok(None) };
    Ok(Some((twice as f64 - once as f64) / f64::from(operations)))
}

/// The work of the workers, by the names they print.
const WORK: [&str; 2] = ["pair64.ns", "pair64k.ns"];

/// Times pairs in every build, the rounds interleaved. The quickest chunk of all rounds counts.
pub(super) fn pairs(builds: &Builds, rounds: usize, card: &mut Card) -> Result<(), Box<dyn Error>> {
    const CHUNKS: &str = "9";
    let workers = workers(builds)?;
    let mut best = [[f64::INFINITY; WORK.len()]; 7];
    for _ in 0..rounds {
        for (worker, best) in workers.iter().zip(&mut best) {
            let answer = ask(worker.program, &["speed", CHUNKS, worker.interval])?;
            for (best, work) in best.iter_mut().zip(WORK) {
                *best = best.min(figure(&answer, work)?);
            }
        }
    }
    let cells = |times: &[f64; WORK.len()]| times.map(|time| format!("{time:.1}")).to_vec();
    card.tables.push(Table {
        title: "processor time of an allocation of 64 bytes and its freeing, and of one of 64 KiB, ns".to_owned(),
        columns: vec!["pair of 64 B", "pair of 64 KiB"],
        rows: workers.iter().zip(&best).map(|(worker, times)| (worker.name.to_owned(), cells(times))).collect(),
    });
    let [plain, off, _, on, off_default, on_default, pprof] = best;
    let extra = |[a, b]: [f64; 2], [c, d]: [f64; 2]| [a - c, b - d];
    let peer = |figure| Some(Peer { name: "pprof-alloc", figure });
    let ([small, large], [small_peer, large_peer]) = (extra(on, off), extra(pprof, plain));
    let [small_default, large_default] = extra(on_default, off_default);
    card.rows.extend([
        Row { best_peer: peer(small_peer), ..row("profile.on.pair64.ns", "ns", small, Goal::AtMost(1.0)) },
        Row { best_peer: peer(large_peer), ..row("profile.on.pair64k.ns", "ns", large, Goal::Reported) },
        row("profile.on.default_flags.pair64.ns", "ns", small_default, Goal::Reported),
        row("profile.on.default_flags.pair64k.ns", "ns", large_default, Goal::Reported),
    ]);
    Ok(())
}

/// A worker that is timed.
pub(super) struct Worker<'a> {
    pub(super) name: &'static str,
    pub(super) program: &'a Path,
    pub(super) interval: &'static str,
}

/// The workers over the system's allocator, in the order of the tables.
pub(super) fn workers(builds: &Builds) -> Result<[Worker<'_>; 7], Box<dyn Error>> {
    let system = "profile_system";
    let worker = |name, program, interval| Worker { name, program, interval };
    Ok([
        worker("no tracking", builds.off.get("profile_plain")?, "off"),
        worker("feature off", builds.off.get(system)?, "off"),
        worker("not started", builds.on.get(system)?, "off"),
        worker("on", builds.on.get(system)?, INTERVAL),
        worker("feature off, default flags", builds.off_default.get(system)?, "off"),
        worker("on, default flags", builds.on_default.get(system)?, INTERVAL),
        worker("pprof-alloc", builds.off.get("profile_pprof_alloc")?, "off"),
    ])
}

/// Measures the statics of the profile, and the memory that a start maps.
pub(super) fn memory(builds: &Builds, card: &mut Card) -> Result<(), Box<dyn Error>> {
    let (on, off) = (builds.on_default.get("profile_system")?, builds.off_default.get("profile_system")?);
    let statics = elf::writable_bytes(on)?.saturating_sub(elf::writable_bytes(off)?) as f64;
    let mapped = figure(&ask(on, &["fixed"])?, "mapped")?;
    let kib = |bytes: f64| format!("{:.0}", bytes / 1024.0);
    card.tables.push(Table {
        title: "fixed memory of the profile, KiB".to_owned(),
        columns: vec!["statics", "mapped by a start"],
        rows: vec![("profile".to_owned(), vec![kib(statics), kib(mapped)])],
    });
    card.rows.push(row("profile.memory_kib", "KiB", (statics + mapped) / 1024.0, Goal::AtMost(1024.0)));
    Ok(())
}

/// Measures 128 threads at once, and the worst time of an allocation among them.
pub(super) fn threads(builds: &Builds, runs: usize, card: &mut Card) -> Result<(), Box<dyn Error>> {
    const KEYS: [&str; 4] = ["pair64.ns", "mix.ns", "worst.us", "p999.us"];
    let system = "profile_system";
    let programs = [(builds.off.get(system)?, "off"), (builds.on.get(system)?, INTERVAL)];
    let mut seen = [(); 2].map(|()| [(); KEYS.len()].map(|()| Vec::new()));
    for _ in 0..runs {
        for ((program, interval), seen) in programs.into_iter().zip(&mut seen) {
            let answer = ask(program, &["threads", "3", interval])?;
            for (key, seen) in KEYS.into_iter().zip(seen) {
                seen.push(figure(&answer, key)?);
            }
        }
    }
    let [off, on] = seen.map(|seen| seen.map(median));
    let cells = |figures: [f64; KEYS.len()]| figures.map(|figure| format!("{figure:.1}")).to_vec();
    card.tables.push(Table {
        title: format!(
            "processor time with 128 threads, median of {runs} runs: a pair of 64 bytes and a block of a mix, ns; one \
             allocation of a heap that grows to 128 MiB, us"
        ),
        columns: vec!["pair", "mix", "worst", "99.9th percentile"],
        rows: vec![("feature off".to_owned(), cells(off)), ("on".to_owned(), cells(on))],
    });
    let ([pair_off, mix_off, ..], [pair_on, mix_on, worst, _]) = (off, on);
    card.rows.push(row("profile.threads128.ns", "ns", pair_on - pair_off, Goal::Reported));
    card.rows.push(row("profile.threads128.mix.ns", "ns", mix_on - mix_off, Goal::Reported));
    card.rows.push(row("profile.worst_allocation_us", "us", worst, Goal::Reported));
    Ok(())
}
