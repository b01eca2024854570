//! One stream of events that has everything in it, against the function with all the parts and against its naive twin.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use plimsoll::{ByteSize, Clock};
use serde_json::{Value, json};

use crate::cage::{Cage, Freezer};
use crate::runtime_api::{Call, Function, RuntimeApi};
use crate::{CAGE_MIB, Object, PATIENCE_MS};

/// Anonymous memory that the function may have at any moment: 12 of 116 MB are left for pages of files.
const MOST_ANONYMOUS: ByteSize = ByteSize::bytes(104_000_000);

/// Requests at a time.
const CONCURRENCY: usize = 8;

/// Keys that a flood brings, none of them twice.
const FLOOD: u64 = 50_000;

/// A function at work in a cage.
struct Living {
    function: Function,
    said: std::thread::JoinHandle<String>,
    events: mpsc::Sender<String>,
    api: RuntimeApi,
    cage: Cage,
    freezer: Freezer,
    highest: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    sent: usize,
    answers: Vec<(String, Value)>,
}

impl Living {
    fn start(name: &str) -> Self {
        let cage = Cage::new(CAGE_MIB).unwrap();
        let (events, waiting) = mpsc::channel();
        let api = RuntimeApi::serve(waiting);
        let mut command = cage.command(&std::env::current_exe().unwrap());
        api.environment(command.args(["--function", name]), 128)
            .env("PLIMSOLL_REPORT", "each")
            .env("RUST_BACKTRACE", "0")
            // As is advised where several threads allocate: what one frees is no room for another in glibc's arenas.
            .env("MALLOC_ARENA_MAX", "1")
            .env("AWS_LAMBDA_MAX_CONCURRENCY", CONCURRENCY.to_string());
        let mut function = Function(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        let mut stderr = function.0.stderr.take().unwrap();
        let said = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).map(|_| text).unwrap()
        });
        let freezer = Freezer::around(function.0.id(), &cage).unwrap();
        let (highest, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (id, seen, enough) = (function.0.id(), Arc::clone(&highest), Arc::clone(&done));
        std::thread::spawn(move || {
            while !enough.load(Relaxed) {
                seen.fetch_max(anonymous(id).unwrap_or(0), Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { function, said, events, api, cage, freezer, highest, done, sent: 0, answers: Vec::new() }
    }

    /// Sends events and waits until each is answered; `false` if the function died before.
    fn answer(&mut self, events: impl IntoIterator<Item = Value>) -> bool {
        for event in events {
            self.events.send(event.to_string()).unwrap();
            self.sent += 1;
        }
        let clock = Clock::system();
        let deadline = clock.now() + PATIENCE_MS;
        while self.answers.len() < self.sent {
            assert!(clock.now() < deadline, "{} of {} events are answered", self.answers.len(), self.sent);
            match self.api.calls.recv_timeout(Duration::from_millis(20)) {
                Ok(Call::Posted { path, body }) => {
                    let answer = serde_json::from_str(&body).expect(&body);
                    self.answers.push((path.rsplit('/').next().unwrap().to_owned(), answer));
                }
                Err(_) if self.function.0.try_wait().unwrap().is_some() => return false,
                Ok(Call::Started(_)) | Err(_) => (),
            }
        }
        true
    }

    /// The answer to one event that must succeed.
    fn ask(&mut self, event: &Value) -> Value {
        assert!(self.answer([event.clone()]), "it died of {event}");
        let (kind, answer) = self.answers.last().unwrap();
        assert_eq!(kind, "response", "{event}: {answer}");
        answer.clone()
    }

    /// Ends it: what it said, and whether the kernel killed it for memory.
    fn end(mut self) -> (String, bool) {
        self.done.store(true, Relaxed);
        drop(self.function.0.kill());
        let status = self.function.0.wait().unwrap();
        let killed = status.signal() == Some(9) && self.cage.oom_kills() > 0;
        (self.said.join().unwrap(), killed)
    }
}

/// The anonymous memory of a process, in bytes.
fn anonymous(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Lines that kill readers of lines: one of 40 MB, bytes that are no text, nothing but line feeds, none at the end.
struct Hostile(PathBuf);

impl Hostile {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{}", std::process::id()));
        let mut file = BufWriter::new(File::create(&path).unwrap());
        file.write_all(b"a good line\n").unwrap();
        file.write_all(&vec![b'x'; 40_000_000]).unwrap();
        file.write_all(b"\n\xff\xfe\0\0\n").unwrap();
        file.write_all(&vec![b'\n'; 1_000_000]).unwrap();
        file.write_all(b"cut off").unwrap();
        file.flush().unwrap();
        Self(path)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// Twenty rounds of all there is, 1,000,000 distinct keys together.
fn everything(object: &Object, hostile: &Hostile) -> Vec<Value> {
    let round = |round: u64| {
        let (object, hostile) = (json!({ "lines": object.0 }), json!({ "lines": hostile.0 }));
        let flood = json!({ "do": "flood", "from": round * FLOOD, "count": FLOOD });
        let model = json!({ "do": "model" });
        let last = if round.is_multiple_of(3) { json!({ "do": "unload" }) } else { model.clone() };
        // So that up to eight of any kind come together.
        let crowd = std::iter::repeat_n(if round.is_multiple_of(2) { &hostile } else { &model }, 8).cloned();
        let object = (round.is_multiple_of(4)).then_some(object);
        object.into_iter().chain([flood, hostile.clone(), model.clone(), last]).chain(crowd.collect::<Vec<_>>())
    };
    (0..20).flat_map(round).collect()
}

pub(crate) fn the_naive_twin_dies_of_everything() {
    let (object, hostile) = (Object::large("everything-naive"), Hostile::new());
    let mut twin = Living::start("naive-survivor");
    let survived = twin.answer(everything(&object, &hostile));
    let answered = twin.answers.len();
    let (said, killed) = twin.end();
    assert!(!survived && killed, "{answered} answered: {said}");
}

pub(crate) fn the_function_with_all_the_parts_answers_everything() {
    let (object, hostile) = (Object::large("everything"), Hostile::new());
    let mut function = Living::start("survivor");
    let events = everything(&object, &hostile);
    if !function.answer(events) {
        let answered = function.answers.len();
        let highest = function.highest.load(Relaxed);
        panic!("dead after {answered} answers at {highest} anonymous bytes: {}", function.end().0);
    }

    // What is served after a freeze, and after a jump of the clock, has not expired.
    let put = |key: u64| json!({ "do": "put", "key": key, "ttl_ms": 3_000 });
    let get = |key: u64| json!({ "do": "get", "key": key });
    function.ask(&put(u64::MAX));
    assert_eq!(function.ask(&get(u64::MAX)), json!({ "value": true, "turned": true }));
    function.freezer.freeze(Duration::from_secs(5));
    assert_eq!(function.ask(&get(u64::MAX)), json!({ "value": false, "turned": true }));
    function.ask(&json!({ "do": "jump", "ms": 5_000 }));
    assert_eq!(function.ask(&get(u64::MAX)), json!({ "value": false, "turned": false }));

    let refused = function.answers.iter().filter(|(kind, _)| kind == "error").count();
    for (kind, answer) in &function.answers {
        assert!(kind == "response" || answer["errorType"] == "Overloaded", "{kind} {answer}");
    }
    let (answered, highest) = (function.answers.len(), ByteSize::bytes(function.highest.load(Relaxed)));
    let (said, killed) = function.end();
    eprintln!("{answered} answered, {refused} of them with Overloaded; at most {highest} anonymous");
    assert!(!killed && highest < MOST_ANONYMOUS, "{highest} anonymous: {said}");
    assert!(refused * 2 < answered, "it answers by refusing: {refused} of {answered}");
}
