//! Whole functions under a memory limit that the kernel enforces, and what their logs say before it kills.
//!
//! The limit is 116 MiB for a "128 MB" function, as Lambda's own processes are missing here. The negative control must
//! die, or nothing is proven. Where no memory cgroup can be made the tests are not run, and say why; with
//! `PLIMSOLL_SANDBOX=required` in the environment that is a failure.

#![allow(
    unsafe_code,
    unused_macros,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "tests without libtest's attribute"
)]

#[path = "sandbox/cage.rs"]
mod cage;
#[path = "sandbox/functions.rs"]
mod functions;
#[path = "support/runtime_api.rs"]
mod runtime_api;
mod support;
#[path = "sandbox/survival.rs"]
mod survival;
#[path = "sandbox/survivor.rs"]
mod survivor;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use cage::Cage;
use plimsoll::{Clock, TrackingAllocator};
use runtime_api::{Call, Function, RuntimeApi};
use serde_json::{Value, json};
use support::child;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// How long a function may take to die or to answer; none took a tenth of it.
const PATIENCE_MS: u64 = 300_000;

/// What a function of 128 MB has for itself.
const CAGE_MIB: u64 = 116;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--function") {
        let ended = functions::serve(&arguments.next().unwrap_or_default());
        eprintln!("the function ended: {ended:?}");
        return ExitCode::FAILURE;
    }
    let no_cage = Cage::new(CAGE_MIB).err();
    let no_watch = emulator().is_none().then(|| "cargo-lambda is not installed".to_owned());
    if std::env::var("PLIMSOLL_SANDBOX").is_ok_and(|value| value == "required")
        && let Some(why) = no_cage.as_ref().or(no_watch.as_ref())
    {
        eprintln!("the sandbox is required and cannot be: {why}");
        return ExitCode::from(101);
    }
    let (no_cage, no_watch) = (no_cage.as_deref(), no_watch.as_deref());
    support::run(&[
        ("the_naive_twin_is_killed_by_300_mb", the_naive_twin_is_killed_by_300_mb as fn(), no_cage),
        ("the_handler_answers_300_mb", the_handler_answers_300_mb, no_cage),
        ("a_spike_alarms_in_the_invocation_that_is_killed", a_spike_alarms_in_the_invocation_that_is_killed, no_cage),
        ("leaks_of_every_speed_alarm_before_the_kill", leaks_of_every_speed_alarm_before_the_kill, no_cage),
        ("a_refused_vec_ends_with_the_abort_report", a_refused_vec_ends_with_the_abort_report, no_cage),
        ("the_naive_twin_dies_of_everything", survival::the_naive_twin_dies_of_everything, no_cage),
        (
            "the_function_with_all_the_parts_answers_everything",
            survival::the_function_with_all_the_parts_answers_everything,
            no_cage,
        ),
        ("the_handler_serves_the_emulator", the_handler_serves_the_emulator, no_watch),
        ("lambda_http_serves_the_emulator", lambda_http_serves_the_emulator, no_watch),
    ])
}

/// How a function ended, what it said, and what it was asked and answered.
struct Ended {
    status: ExitStatus,
    stderr: String,
    calls: Vec<Call>,
    oom_kills: u64,
}

impl Ended {
    /// Runs the function in a cage over `events` until it dies, or `last` of its answers has come.
    fn of(
        program: &Path,
        arguments: &[&str],
        events: impl Iterator<Item = String> + Send + 'static,
        last: usize,
    ) -> Self {
        let cage = Cage::new(CAGE_MIB).unwrap();
        let api = RuntimeApi::serve(events);
        let mut command = cage.command(program);
        api.environment(command.args(arguments), 128).env("PLIMSOLL_REPORT", "off").env("RUST_BACKTRACE", "0");
        let mut function = Function(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        let mut stderr = function.0.stderr.take().unwrap();
        let said = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).map(|_| text)
        });
        let (mut calls, mut answers) = (Vec::new(), 0);
        let clock = Clock::system();
        let deadline = clock.now() + PATIENCE_MS;
        while answers < last {
            assert!(clock.now() < deadline, "neither dead nor done after {} calls", calls.len());
            match api.calls.recv_timeout(Duration::from_millis(20)) {
                Ok(call) => {
                    answers += usize::from(matches!(call, Call::Posted { .. }));
                    calls.push(call);
                }
                Err(_) if function.0.try_wait().unwrap().is_some() => break,
                Err(_) => (),
            }
        }
        drop(function.0.kill());
        let status = function.0.wait().unwrap();
        calls.extend(api.calls.try_iter());
        Self { status, stderr: said.join().unwrap().unwrap(), calls, oom_kills: cage.oom_kills() }
    }

    fn of_function(name: &str, events: impl Iterator<Item = String> + Send + 'static) -> Self {
        Self::of(&std::env::current_exe().unwrap(), &["--function", name], events, usize::MAX)
    }

    fn assert_killed_for_memory(&self) {
        let Self { status, stderr, calls, oom_kills } = self;
        assert_eq!((status.signal(), *oom_kills), (Some(9), 1), "{status} after {} calls: {stderr}", calls.len());
    }

    fn last_started(&self) -> &str {
        let started = self.calls.iter().rev().find_map(|call| match call {
            Call::Started(id) => Some(id),
            Call::Posted { .. } => None,
        });
        started.expect("it was given an event")
    }

    fn alarms(&self) -> Vec<Value> {
        let lines = self.stderr.lines().filter(|line| line.starts_with(r#"{"plimsoll":"alarm""#));
        lines.map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

/// An object of 300 MB, of words as they come.
struct Object(PathBuf);

impl Object {
    fn large(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let words: Vec<String> = (0..9000).map(|number| format!("word{}", number * 7919 % 2000)).collect();
        let text = words.join(" ");
        let mut file = BufWriter::new(File::create(&path).unwrap());
        for _ in 0..=300_000_000 / text.len() {
            file.write_all(text.as_bytes()).unwrap();
        }
        file.flush().unwrap();
        Self(path)
    }

    fn event(&self) -> String {
        json!({ "path": self.0 }).to_string()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

fn the_naive_twin_is_killed_by_300_mb() {
    let object = Object::large("naive");
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let events = [json!({ "path": small }).to_string(), object.event()];
    let ended = Ended::of_function("naive", events.into_iter());
    ended.assert_killed_for_memory();
    assert_eq!(ended.last_started(), "request-1", "it answers what fits: {}", ended.stderr);
}

fn the_handler_answers_300_mb() {
    let object = Object::large("handler");
    let events = [object.event(), object.event()];
    let ended = Ended::of(&child::example("lambda_handler"), &[], events.into_iter(), 2);
    let bodies = ended.calls.iter().filter_map(|call| match call {
        Call::Posted { path, body } => path.ends_with("/response").then_some(body.as_str()),
        Call::Started(_) => None,
    });
    let bodies: Vec<&str> = bodies.collect();
    assert_eq!((bodies.len(), ended.oom_kills), (2, 0), "{:?} {}", ended.calls, ended.stderr);
    for body in bodies {
        let answer: Value = serde_json::from_str(body).unwrap();
        assert!(answer["objects"][0]["bytes"].as_u64().unwrap() >= 300_000_000, "{answer}");
    }
    assert!(ended.alarms().is_empty(), "{}", ended.stderr);
}

fn a_spike_alarms_in_the_invocation_that_is_killed() {
    let events = (0..10).map(|_| 1024).chain([300 << 10]).map(|kb| json!({ "leak_kb": kb }).to_string());
    let ended = Ended::of_function("leak", events);
    ended.assert_killed_for_memory();
    assert_eq!(ended.last_started(), "request-10");
    let alarms = ended.alarms();
    assert_eq!(alarms.len(), 1, "once for one crossing: {}", ended.stderr);
    let alarm = &alarms[0];
    assert_eq!(alarm["requests"][0]["request_id"], "request-10", "between its START and the kill");
    assert_eq!((&alarm["alarm_threshold"], &alarm["memory_size"]), (&json!(97), &json!(128 << 20)));
    let heap = alarm["heap"].as_u64().unwrap();
    assert!(alarm["gauges"]["sessions"].as_u64().unwrap() > heap * 9 / 10, "{alarm}");
    assert!(alarm["largest_growth"].as_u64().unwrap() > 1_000_000, "{alarm}");
}

/// From 10 KB to 10 MB a call, in twenty steps of 7/5 and a little.
fn leaks_of_every_speed_alarm_before_the_kill() {
    let speeds = std::iter::successors(Some(10_u64), |kb| Some((kb * 1439).div_ceil(1000)));
    for kb in speeds.take(20) {
        let event = json!({ "leak_kb": kb }).to_string();
        let ended = Ended::of_function("leak", std::iter::repeat(event));
        ended.assert_killed_for_memory();
        let alarms = ended.alarms();
        assert_eq!(alarms.len(), 1, "at {kb} KB a call: {}", ended.stderr);
        let number = |id: &str| id.strip_prefix("request-").unwrap().parse::<u64>().unwrap();
        let (alarmed, last) =
            (number(alarms[0]["requests"][0]["request_id"].as_str().unwrap()), number(ended.last_started()));
        // What lies between the line and the limit is 3.5 MiB, and a few for what the kernel counts beside the rss.
        assert!(alarmed <= last && last - alarmed <= 1 + 16_000 / kb, "at {kb} KB a call: {alarmed} of {last}");
        let (held, heap) = (&alarms[0]["gauges"]["sessions"], &alarms[0]["heap"]);
        assert!(held.as_u64().unwrap() > heap.as_u64().unwrap() * 9 / 10, "{}", alarms[0]);
    }
}

fn a_refused_vec_ends_with_the_abort_report() {
    let ended = Ended::of_function("refused", std::iter::once("{}".to_owned()));
    assert_eq!((ended.status.signal(), ended.oom_kills), (Some(6), 0), "{}", ended.stderr);
    let words = ended.stderr.lines().find(|line| line.starts_with("plimsoll abort report: ")).expect(&ended.stderr);
    assert!(words.contains("abort report: failed allocations 2, largest 100.0 MiB, last "), "{words}");
    assert!(words.contains(" limit 60.0 MiB | requests request-0"), "{words}");
}

/// The emulator's program: a cargo subcommand.
fn emulator() -> Option<Command> {
    let found = Command::new("cargo-lambda").args(["lambda", "--version"]).output();
    found.is_ok_and(|output| output.status.success()).then(|| Command::new("cargo-lambda"))
}

/// The emulator of cargo-lambda on a port of its own, without a function; it ends with this value.
struct Emulator {
    port: u16,
    /// A package that the emulator can stand in.
    package: PathBuf,
    _process: Function,
}

impl Emulator {
    fn start(name: &str) -> Self {
        let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("watched-{name}-{}", std::process::id()));
        std::fs::create_dir_all(package.join("src")).unwrap();
        let manifest = "[package]\nname = \"watched\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n";
        std::fs::write(package.join("Cargo.toml"), manifest).unwrap();
        std::fs::write(package.join("src/main.rs"), "fn main() {}").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut emulator = emulator().unwrap();
        emulator.args(["lambda", "watch", "--only-lambda-apis", "-A", "127.0.0.1", "-P", &port.to_string()]);
        let process = emulator.current_dir(&package).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let emulator = Self { port, package, _process: Function(process) };
        let is_up = (0..300).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(is_up, "the emulator does not listen");
        emulator
    }

    /// Starts the example `name` as the emulator's function.
    fn serve(&self, name: &str) -> Function {
        let mut function = child::command(&child::example(name));
        function
            .env("AWS_LAMBDA_RUNTIME_API", format!("http://127.0.0.1:{}/.rt", self.port))
            .env("AWS_LAMBDA_FUNCTION_NAME", "_")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128");
        Function(function.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Posts `body` to `path` as a client would, and returns the body of the response.
    fn post(&self, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
        assert!(head.starts_with("HTTP/1.1 200 "), "{response}");
        body.to_owned()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.package);
    }
}

/// Returns the first `count` lines that the function writes to standard error.
fn lines(function: &mut Function, count: usize) -> Vec<String> {
    let stderr = function.0.stderr.take().unwrap();
    BufReader::new(stderr).lines().take(count).map(Result::unwrap).collect()
}

fn the_handler_serves_the_emulator() {
    let emulator = Emulator::start("handler");
    let mut function = emulator.serve("lambda_handler");
    for _ in 0..20 {
        let event = json!({ "path": emulator.package.join("src/main.rs") }).to_string();
        let answer = emulator.post("/2015-03-31/functions/_/invocations", &event);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["objects"][0]["words"], 2, "{answer}");
    }
    let said = lines(&mut function, 20);
    assert!(said.iter().all(|line| line.starts_with("plimsoll ") && line.contains(" of 116 MiB (")), "{said:#?}");
}

fn lambda_http_serves_the_emulator() {
    let emulator = Emulator::start("http");
    let mut function = emulator.serve("lambda_http");
    for _ in 0..20 {
        assert_eq!(emulator.post("/lambda-url/_/orders/4711?full=1", "three small words"), "3 words\n");
    }
    for line in lines(&mut function, 20) {
        let mut parts = line.split(' ').skip(1);
        let (id, label) = (parts.next().unwrap(), parts.next().unwrap());
        assert_eq!((id.len(), id.matches('-').count()), (36, 4), "the id of the invocation: {line}");
        assert!(label.ends_with("/orders/4711") && line.contains(" of 116 MiB ("), "{line}");
    }
}
