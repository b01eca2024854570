//! The time of a document of JSON, step by step.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use plimsoll_peers::median;

use super::builds::Builds;
use super::cost::{per_operation, workers};
use super::{INTERVAL, row};
use crate::programs::NO_VALGRIND;
use crate::row::{Card, Goal, Peer, Row, Table};

/// Times a document of JSON in every build, one document of each in turn. The median of the ratios counts.
pub(super) fn measure(builds: &Builds, rounds: usize, card: &mut Card) -> Result<(), Box<dyn Error>> {
    const STEPS: usize = 40;
    let workers = workers(builds)?;
    let mut times: [Vec<f64>; 7] = Default::default();
    for _ in 0..rounds {
        // New processes in each round: the place of a process in memory has an influence on its speed.
        let steppers = workers.iter().map(|worker| Stepper::new(worker.program, worker.interval));
        let mut steppers = steppers.collect::<Result<Vec<_>, _>>()?;
        for _ in 0..STEPS {
            for (stepper, times) in steppers.iter_mut().zip(&mut times) {
                times.push(stepper.step()?);
            }
        }
    }
    // A document takes dhat half a second, so it parses few.
    let mut stepper = Stepper::new(builds.off.get("profile_dhat")?, "off")?;
    let dhat = (0..3).map(|_| stepper.step()).collect::<Result<Vec<_>, _>>()?;

    let quickest = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
    let cells = |times: &[f64]| {
        [quickest(times), median(times.iter().copied())].map(|time| format!("{:.2}", time / 1e6)).to_vec()
    };
    let mut rows: Vec<_> =
        workers.iter().zip(&times).map(|(worker, times)| (worker.name.to_owned(), cells(times))).collect();
    rows.push(("dhat".to_owned(), cells(&dhat)));
    card.tables.push(Table {
        title: "processor time of the parsing and the drop of a document of 1 MB, ms".to_owned(),
        columns: vec!["quickest", "median"],
        rows,
    });
    let [plain, off, _, on, off_default, on_default, pprof] = &times;
    let over = |a: &[f64], b: &[f64]| 100.0 * (median(a.iter().zip(b).map(|(a, b)| a / b)) - 1.0);
    let peers = [
        Peer { name: "pprof-alloc", figure: over(pprof, plain) },
        Peer { name: "dhat", figure: 100.0 * (quickest(&dhat) / quickest(plain) - 1.0) },
    ];
    let best_peer = Peer::best(peers);
    card.rows.extend([
        Row { best_peer, ..row("profile.on.json_pct", "%", over(on, off), Goal::AtMost(3.0)) },
        row("profile.on.default_flags.json_pct", "%", over(on_default, off_default), Goal::Reported),
    ]);
    instructions_of_documents(builds, card)
}

/// Counts the instructions of a document, which other processes do not change.
fn instructions_of_documents(builds: &Builds, card: &mut Card) -> Result<(), Box<dyn Error>> {
    let metric = "profile.on.json.instructions_pct";
    let count = |program, interval: String| {
        per_operation(program, |count| vec!["documents".to_owned(), count, interval.clone()], 2)
    };
    let system = "profile_system";
    let on = count(builds.on.get(system)?, INTERVAL.to_owned())?;
    let off = count(builds.off.get(system)?, "off".to_owned())?;
    match (on, off) {
        (Some(on), Some(off)) => card.rows.push(row(metric, "%", 100.0 * (on / off - 1.0), Goal::Reported)),
        _ => card.notes.push(format!("{metric}: {NO_VALGRIND}")),
    }
    Ok(())
}

/// A worker that parses a document at each step.
struct Stepper {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Stepper {
    fn new(program: &Path, interval: &str) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(program);
        command.args(["document-steps", interval]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().ok_or("a worker without input")?;
        let output = child.stdout.take().ok_or("a worker without output")?;
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    /// Returns the nanoseconds of one document.
    fn step(&mut self) -> Result<f64, Box<dyn Error>> {
        let mut line = String::new();
        self.input.write_all(b"\n")?;
        self.output.read_line(&mut line)?;
        Ok(line.trim().parse().map_err(|error| format!("a worker printed {line:?}: {error}"))?)
    }
}

impl Drop for Stepper {
    fn drop(&mut self) {
        // Neither can fail, except for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
