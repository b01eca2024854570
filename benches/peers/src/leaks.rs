//! Leaks and what only looks like one, with real allocations under a monitor for a function of 128 MB.
//!
//! A leak runs in a memory cgroup until the kernel kills it, and writes one byte for each invocation; what is clean runs
//! many times in one process. Requests in flight are guards that are finished in the order of their starts, and each
//! holds memory.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::f64::consts::TAU;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use plimsoll::ByteSize;
use plimsoll::board::{self, Holder};
use plimsoll::monitor::{Alert, Invocation, InvocationReport, LeakVerdict, Monitor, ReportPolicy};

use crate::Random;
use crate::survival::cage::Cage;

/// The memory size of the function, in MiB.
const MEMORY_MIB: u64 = 128;

/// The capacity of that size: less the environment's share.
const CAPACITY: f64 = 116.0 * MIB;
const MIB: f64 = 1048576.0;
const KIB: f64 = 1024.0;

/// The shapes of leaks.
pub const LEAKS: [&str; 10] =
    ["pieces", "fiftieth", "errors", "bursts", "map", "strings", "vector", "with saw", "with gauge", "late"];

/// The shapes without a leak.
pub const CLEAN: [&str; 9] = ["line", "exponential", "zipf", "day", "saw", "sessions", "ring", "steps", "vector"];

/// Invocations of a run without a leak.
const LIFE: u32 = 4000;

/// The numbers of requests in flight.
pub const IN_FLIGHT: [usize; 4] = [1, 2, 8, 64];

fn uniform(random: &mut Random, from: f64, to: f64) -> f64 {
    from + (to - from) * (random.bits() >> 11) as f64 / (1_u64 << 53) as f64
}

/// As likely in each octave.
fn octaves(random: &mut Random, from: f64, to: f64) -> f64 {
    uniform(random, from.ln(), to.ln()).exp()
}

fn below(random: &mut Random, bound: u64) -> u64 {
    (random.bits() >> 11) % bound
}

/// Returns the bytes per invocation of the leak `seed` of a shape. Each of 64 in flight leaks before the first has ended, and a
/// shape that leaks rarely leaks much at once; so both leak less on average.
pub fn pace(shape: &str, in_flight: usize, seed: u64) -> usize {
    let most = match shape {
        "fiftieth" => 100.0 * KIB,
        "errors" => 300.0 * KIB,
        "bursts" => 12.0 * KIB,
        "map" | "strings" => 1200.0 * KIB,
        _ => 2.0 * MIB,
    };
    let most = if in_flight == 64 { f64::min(most, 500.0 * KIB) } else { most };
    octaves(&mut Random::new(seed * 64 + in_flight as u64), 10.0 * KIB, most) as usize
}

/// The memory that a function keeps.
struct Store {
    random: Random,
    pieces: Vec<Vec<u8>>,
    vector: Vec<u8>,
    map: HashMap<u64, [u8; 120]>,
    strings: HashMap<String, String>,
    saw: Vec<Vec<u8>>,
    gauge: Holder,
    period: usize,
    start: usize,
}

impl Store {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let period = octaves(&mut random, 30.0, 1000.0) as usize;
        let start = uniform(&mut random, 50.0, 1000.0) as usize;
        Self {
            random,
            pieces: Vec::new(),
            vector: Vec::new(),
            map: HashMap::new(),
            strings: HashMap::new(),
            saw: Vec::new(),
            gauge: board::holder("saw"),
            period,
            start,
        }
    }

    fn leak(&mut self, shape: &str, number: usize, bytes: usize) {
        let times = match shape {
            "fiftieth" => {
                if number.is_multiple_of(50) {
                    50
                } else {
                    0
                }
            }
            "errors" => {
                if below(&mut self.random, 20) == 0 {
                    20
                } else {
                    0
                }
            }
            "bursts" => {
                if number % 400 < 20 {
                    20
                } else {
                    0
                }
            }
            "late" => usize::from(number > self.start),
            _ => 1,
        };
        match shape {
            "map" => {
                for _ in 0..bytes / 128 {
                    self.map.insert(self.map.len() as u64, [1; 120]);
                }
            }
            "strings" => {
                for _ in 0..bytes / 160 {
                    self.strings.insert(format!("key-{}", self.strings.len()), "x".repeat(64));
                }
            }
            // A leak that a gauge explains.
            "named" => {
                self.pieces.push(vec![1; bytes]);
                self.gauge.set(ByteSize::bytes((self.pieces.len() * bytes) as u64));
            }
            "vector" => self.vector.extend(std::iter::repeat_n(1, bytes)),
            _ => self.pieces.extend((0..times).map(|_| vec![1; bytes])),
        }
        if shape.starts_with("with ") {
            if number.is_multiple_of(self.period) {
                self.saw.clear();
            }
            // Up to 20 MiB.
            self.saw.push(vec![1; (20 << 20) / self.period]);
            if shape == "with gauge" {
                self.gauge.set(ByteSize::bytes((self.saw.len() * (20 << 20) / self.period) as u64));
            }
        }
    }
}

/// Requests in flight: each has a guard, and holds memory.
struct Requests {
    monitor: Monitor,
    in_flight: VecDeque<(Invocation, Vec<u8>)>,
    held: usize,
    random: Random,
}

impl Requests {
    fn new(monitor: Monitor, in_flight: usize, held: usize, seed: u64) -> Self {
        let mut requests = Self { monitor, in_flight: VecDeque::new(), held, random: Random::new(seed) };
        for _ in 1..in_flight {
            requests.start();
        }
        requests
    }

    fn start(&mut self) {
        let invocation = self.monitor.start("r");
        self.in_flight.push_back((invocation, vec![1; self.random.size(self.held)]));
    }

    /// Starts one, runs `work` in it, and ends the oldest.
    fn run(&mut self, work: impl FnOnce()) -> Option<InvocationReport> {
        self.start();
        work();
        let (invocation, held) = self.in_flight.pop_front()?;
        drop(held);
        Some(invocation.finish())
    }
}

fn monitor(policy: ReportPolicy) -> Result<Monitor, Box<dyn Error>> {
    Ok(Monitor::builder().memory_size(ByteSize::mib(MEMORY_MIB)).report(policy).build()?)
}

/// Runs a leak until the process is killed. Writes a point for each invocation that has ended, and an `A` for the alert.
///
/// # Errors
///
/// If standard output is closed, and if the capacity was passed without a kill.
pub fn leak(shape: &str, bytes: usize, in_flight: usize, seed: u64) -> Result<(), Box<dyn Error>> {
    let mut store = Store::new(seed);
    let held = octaves(&mut store.random, 10.0 * KIB, 16.0 * MIB / in_flight as f64) as usize;
    let mut requests = Requests::new(monitor(ReportPolicy::Off)?, in_flight, held, seed);
    let mut output = std::io::stdout().lock();
    for number in 1..200_000 {
        let report = requests.run(|| store.leak(shape, number, bytes)).ok_or("no request was in flight")?;
        let is_alert = report.alerts().any(|alert| alert == Alert::GrowingHeap);
        output.write_all(if is_alert { b"A." } else { b"." })?;
        output.flush()?;
    }
    Err("it was not killed".into())
}

/// Runs a leak of many bytes in each invocation until the process is killed, as a function with the usual settings.
///
/// # Errors
///
/// If the monitor cannot be built, and if it was not killed.
pub fn leak_much(bytes: usize) -> Result<(), Box<dyn Error>> {
    let monitor = monitor(ReportPolicy::OnChange)?;
    monitor.install();
    let mut pieces = Vec::new();
    for _ in 0..1000 {
        let invocation = monitor.start("r");
        pieces.push(vec![1_u8; bytes]);
        drop(invocation.finish().alerts());
    }
    Err("it was not killed".into())
}

/// The end of a leak.
#[derive(Clone, Copy, Debug)]
pub struct Killed {
    /// Invocations up to the kill.
    pub invocations: usize,
    /// Those of them after the alert; `None` if there was none.
    pub warned: Option<usize>,
}

/// Runs the worker `program` in a cgroup of its own until it is killed.
///
/// # Errors
///
/// If there can be no cgroup here, and if it is not killed.
pub fn killed(
    program: &Path,
    shape: &str,
    bytes: usize,
    in_flight: usize,
    seed: u64,
) -> Result<Killed, Box<dyn Error>> {
    let cage = Cage::new(MEMORY_MIB)?;
    let arguments = ["leak", shape, &bytes.to_string(), &in_flight.to_string(), &seed.to_string()];
    let output = cage.command(program).args(arguments).stderr(Stdio::inherit()).output()?;
    if output.status.signal() != Some(9) {
        return Err(format!("{arguments:?}: {}", output.status).into());
    }
    let points = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'.').count();
    let alert = output.stdout.iter().position(|byte| *byte == b'A');
    let warned = alert.map(|alert| points(output.stdout.get(alert..).unwrap_or_default()));
    Ok(Killed { invocations: points(&output.stdout), warned })
}

/// Runs the worker `program` that leaks `bytes` in each invocation until it is killed. Returns `true` if there was an alert or an
/// alarm.
///
/// # Errors
///
/// As [`killed`].
pub fn is_large_leak_warned(program: &Path, bytes: usize) -> Result<bool, Box<dyn Error>> {
    let cage = Cage::new(MEMORY_MIB)?;
    let output = cage.command(program).args(["much", &bytes.to_string()]).output()?;
    if output.status.signal() != Some(9) {
        return Err(format!("{bytes} bytes each: {}", output.status).into());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Ok(text.lines().any(|line| line.contains(" | ALERT ") || line.contains("\"plimsoll\":\"alarm\"")))
}

/// Blocks with a sum that follows a level.
struct Blocks {
    blocks: VecDeque<Vec<u8>>,
}

impl Blocks {
    const SIZE: usize = 32 << 10;

    fn set(&mut self, level: f64) {
        let wanted = level.max(0.0) as usize / Self::SIZE;
        while self.blocks.len() < wanted {
            self.blocks.push_back(vec![1; Self::SIZE]);
        }
        // The oldest go first, as in a cache.
        while self.blocks.len() > wanted {
            self.blocks.pop_front();
        }
    }
}

/// The level after a number of invocations: at most `height`.
fn level(shape: &str, height: f64, random: &mut Random) -> Box<dyn FnMut(f64) -> f64> {
    let warm_up = octaves(random, 200.0, 2000.0);
    match shape {
        "line" => Box::new(move |time| height * (time / warm_up).min(1.0)),
        "exponential" => Box::new(move |time| height * (1.0 - (-4.0 * time / warm_up).exp())),
        "zipf" => {
            let power = uniform(random, 0.3, 0.8);
            Box::new(move |time| height * (time / f64::from(LIFE)).min(1.0).powf(power))
        }
        "day" => Box::new(move |time| height * (0.6 - 0.4 * (time / warm_up * TAU).cos())),
        "saw" => {
            let period = octaves(random, 100.0, 3000.0);
            Box::new(move |time| height * (0.2 + 0.8 * (time % period) / period))
        }
        "sessions" => {
            let (mut sessions, mut sum, mut random) = (VecDeque::new(), 0.0, Random::new(random.bits()));
            Box::new(move |_| {
                let size = octaves(&mut random, 0.2, 3.0) * height / warm_up / 1.6;
                sum += size;
                sessions.push_back(size);
                if sessions.len() as f64 > warm_up {
                    sum -= sessions.pop_front().unwrap_or(0.0);
                }
                f64::min(sum, height)
            })
        }
        "ring" => Box::new(move |time| height * ((time / 25.0).floor() * 25.0 / warm_up).min(1.0)),
        _ => {
            let steps: Vec<f64> = (0..=below(random, 5)).map(|_| uniform(random, 0.0, 2000.0)).collect();
            Box::new(move |time| height * steps.iter().filter(|at| **at <= time).count() as f64 / steps.len() as f64)
        }
    }
}

/// The verdicts of a run without a leak.
#[derive(Clone, Copy, Debug, Default)]
pub struct Called {
    /// It was called growing, which is an alert.
    pub growing: bool,
    /// It was called rising or growing.
    pub rising: bool,
}

/// Runs a shape without a leak, the `seed`th time. `map`, a map that fills, is one of the shapes, too.
///
/// # Errors
///
/// If the monitor cannot be built.
pub fn clean(shape: &str, seed: u64) -> Result<Called, Box<dyn Error>> {
    let mut random = Random::new(seed * 131 + shape.len() as u64);
    // Half of the runs have one request at a time.
    let in_flight = IN_FLIGHT.get(below(&mut random, 6).saturating_sub(2) as usize).copied().unwrap_or(1);
    let held = octaves(&mut random, 10.0 * KIB, 4.0 * MIB / in_flight as f64) as usize;
    // The memory of the requests is a part of it.
    let height = uniform(&mut random, 0.1, 0.7) * CAPACITY - (held * in_flight) as f64;
    let mut requests = Requests::new(monitor(ReportPolicy::Off)?, in_flight, held, seed);
    let mut called = Called::default();
    let mut count = |report: Option<InvocationReport>| {
        let verdict = report.map_or(LeakVerdict::Unknown, |report| report.verdict);
        called.growing |= matches!(verdict, LeakVerdict::Growing { .. });
        called.rising |= matches!(verdict, LeakVerdict::Rising { .. } | LeakVerdict::Growing { .. });
    };
    let warm_up = octaves(&mut random, 200.0, 2000.0);
    match shape {
        "vector" | "map" => {
            let (mut vector, mut map) = (Vec::new(), HashMap::new());
            // As many as the largest table below the height has room for.
            let slots = (height / 129.0).log2().floor().exp2();
            let items = if shape == "map" { slots * 7.0 / 8.0 - 1.0 } else { height / 2.0 };
            for number in 1..=LIFE {
                let filled = (items * (f64::from(number) / warm_up).min(1.0)) as usize;
                count(requests.run(|| {
                    if shape == "map" {
                        (map.len()..filled).for_each(|key| _ = map.insert(key as u64, [1_u8; 120]));
                    } else {
                        vector.resize(filled, 1_u8);
                    }
                }));
            }
        }
        _ => {
            let mut blocks = Blocks { blocks: VecDeque::new() };
            let mut level = level(shape, height, &mut random);
            for number in 1..=LIFE {
                count(requests.run(|| blocks.set(level(f64::from(number)))));
            }
        }
    }
    drop(requests);
    // The next run begins with few pages.
    drop(plimsoll::os::trim());
    Ok(called)
}
