//! Runs the example `lambda_handler` as users do: as a process of its own, over files, and under a Runtime API.
#![cfg(feature = "lambda")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy knows `#[test]` functions as tests, but not their helpers"
)]

#[path = "support/child.rs"]
mod child;
#[path = "support/runtime_api.rs"]
mod runtime_api;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use plimsoll::ByteSize;
use runtime_api::{Call, Function, RuntimeApi};
use serde_json::{Value, json};

fn example() -> Command {
    let mut command = child::command(&child::example("lambda_handler"));
    for name in ["AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "PLIMSOLL_BUCKETS"] {
        command.env_remove(name);
    }
    command
}

/// A folder of one test's own, gone when the test is.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder.canonicalize().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// What a run over events said.
struct Run {
    answers: Vec<Value>,
    /// The lines of memory.
    said: Vec<String>,
}

impl Run {
    fn of(command: &mut Command, events: &[u8]) -> Self {
        let output = feed(command, events);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{}: {stderr}", output.status);
        Self {
            answers: stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
            said: stderr.lines().map(str::to_owned).collect(),
        }
    }

    /// Over `events`, on standard input, with `folder` for S3.
    fn over(events: &[Value], folder: &Path) -> Self {
        let lines: Vec<String> = events.iter().map(Value::to_string).collect();
        Self::of(example().arg("-").env("PLIMSOLL_BUCKETS", folder), lines.join("\n").as_bytes())
    }
}

/// The peak heap that a line of memory gives.
fn peak(line: &str) -> ByteSize {
    let peak = line.split_once(" peak ").and_then(|(_, rest)| rest.split_once(" of ")).unwrap().0;
    format!("{peak} MiB").parse().unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn feed(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the example starts");
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A program that ends without reading closes the pipe: its answer is what counts.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn path_event(path: &Path) -> Value {
    json!({ "path": path.to_str().unwrap() })
}

fn record(bucket: &str, key: &str) -> Value {
    let object = json!({ "key": key, "size": 1024, "eTag": "0" });
    json!({
        "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-west-1", "eventName": "ObjectCreated:Put",
        "s3": { "bucket": { "name": bucket, "arn": "arn:aws:s3:::b" }, "object": object }
    })
}

fn s3_event(bucket: &str, key: &str) -> Value {
    json!({ "Records": [record(bucket, key)] })
}

/// The digest as anyone would write it who need not care for memory; `top` is left to [`assert_top`].
fn naive(content: &[u8]) -> (Value, HashMap<String, u64>) {
    let text = String::from_utf8_lossy(content);
    let words = text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    let words: Vec<String> = words.map(|word| word.chars().flat_map(char::to_lowercase).collect()).collect();
    let mut counts = HashMap::new();
    for word in words.iter().filter(|word| word.len() <= 64) {
        *counts.entry(word.clone()).or_insert(0) += 1;
    }
    let named: u64 = counts.values().sum();
    let not_counted = words.len() as u64 - named;
    let facts = json!({
        "bytes": content.len(), "lines": text.lines().count(), "words": words.len(), "not_counted": not_counted
    });
    (facts, counts)
}

fn assert_is_digest_of(answer: &Value, content: &[u8]) {
    let (facts, counts) = naive(content);
    for (name, value) in facts.as_object().unwrap() {
        assert_eq!(&answer[name], value, "{name} of {answer}");
    }
    let mut top: Vec<(String, u64)> = counts.into_iter().collect();
    top.sort_by(|(a, x), (b, y)| y.cmp(x).then(a.cmp(b)));
    top.truncate(10);
    assert_eq!(answer["top"], json!(top));
}

fn assert_error(answer: &Value, kind: &str, named: &str) {
    assert_eq!(answer["errorType"], kind, "{answer}");
    assert!(answer["errorMessage"].as_str().unwrap().contains(named), "`{named}` is not in {answer}");
}

/// Bytes of words, breaks, letters of two to four bytes, and halves of letters.
fn random_content(seed: u64, length: usize) -> Vec<u8> {
    const PIECES: [&[u8]; 16] = [
        b"the",
        b"The",
        b"a",
        b" ",
        b" ",
        b"\n",
        b"\r\n",
        b"-",
        b"7",
        "\u{e9}".as_bytes(),
        "\u{c9}".as_bytes(),
        "\u{6f22}".as_bytes(),
        "\u{1d4d0}".as_bytes(),
        "\u{2014}".as_bytes(),
        b"\xe6\xbc",
        b"\xff",
    ];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut content = Vec::new();
    while content.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(PIECES[(state >> 60) as usize]);
    }
    content.truncate(length);
    content
}

#[test]
fn every_count_is_that_of_a_naive_twin() {
    let scratch = Scratch::new("twin");
    let mut contents: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"no line feed at the end".to_vec(),
        b"\n".to_vec(),
        b"\n\nThe end, the END.\r\n".to_vec(),
        b"\xf0\x9d\x93".to_vec(),
        b"line\n\xff".to_vec(),
        [vec![b'x'; 64], b" ".to_vec(), vec![b'x'; 65], b" ".to_vec(), vec![b'x'; 200]].concat(),
    ];
    // A letter of four bytes across the end of the first chunk of 64 KiB, at each place; then anything.
    contents.extend((0..4).map(|shift| ["a".repeat(65_536 - shift).as_bytes(), "\u{1d4d0} b".as_bytes()].concat()));
    contents.extend((0..40).map(|seed| random_content(seed, usize::try_from(seed * 5_003).unwrap())));

    let write = |(number, content)| scratch.write(&format!("{number}.txt"), content);
    let paths: Vec<PathBuf> = contents.iter().enumerate().map(write).collect();
    let events: Vec<Value> = paths.iter().map(|path| path_event(path)).collect();
    let run = Run::over(&events, &scratch.0);

    assert_eq!(run.answers.len(), contents.len());
    for ((answer, content), path) in run.answers.iter().zip(&contents).zip(&paths) {
        let object = &answer["objects"][0];
        assert_eq!(object["path"], path.to_str().unwrap());
        assert_is_digest_of(object, content);
    }
}

#[test]
fn a_notification_is_answered_object_by_object_under_the_decoded_keys() {
    let scratch = Scratch::new("keys");
    scratch.write("orders/2026/two words \u{e9}+.txt", "one line\n");
    scratch.write("invoices/plain", "two\nlines");
    let event = json!({ "Records": [record("orders", "2026/two+words+%C3%A9%2b.txt"), record("invoices", "plain")] });

    let run = Run::over(&[event], &scratch.0);
    let objects = &run.answers[0]["objects"];
    assert_eq!(objects[0]["bucket"], "orders");
    assert_eq!(objects[0]["key"], "2026/two words \u{e9}+.txt");
    assert_is_digest_of(&objects[0], b"one line\n");
    assert_eq!(objects[1]["key"], "plain");
    assert_is_digest_of(&objects[1], b"two\nlines");
}

#[test]
fn what_s3_sends_when_notifications_are_switched_on_is_no_error() {
    let scratch = Scratch::new("test-event");
    let run = Run::over(&[json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b" })], &scratch.0);
    assert_eq!(run.answers, [json!({ "objects": [] })]);
}

#[test]
fn an_event_that_fails_says_why_and_the_next_is_served() {
    let scratch = Scratch::new("errors");
    let good = scratch.write("b/good.txt", "good");
    scratch.write("secret.txt", "outside every bucket");
    let removed = json!({ "Records": [{ "eventSource": "aws:s3", "eventName": "ObjectRemoved:Delete",
        "s3": { "bucket": { "name": "b" }, "object": { "key": "good.txt" } } }] });
    let cases = [
        ("not JSON".to_owned(), "BadEvent", "line 1 column"),
        ("{}".to_owned(), "BadEvent", "expected an S3 notification"),
        (json!({ "path": 7 }).to_string(), "BadEvent", "expected an S3 notification"),
        (json!({ "Records": [{}] }).to_string(), "BadEvent", "missing field"),
        (removed.to_string(), "BadEvent", "ObjectRemoved:Delete"),
        (s3_event("b", "50%").to_string(), "BadEvent", "`50%` is not URL-encoded"),
        (s3_event("b", "%FF").to_string(), "BadEvent", "`%FF` is not URL-encoded"),
        (s3_event("b", "missing.txt").to_string(), "MissingObject", "missing.txt"),
        (path_event(&scratch.0.join("missing.txt")).to_string(), "MissingObject", "missing.txt"),
        (path_event(&scratch.0).to_string(), "NotAFile", "a directory"),
        (s3_event("b", "good.txt/below").to_string(), "Unreadable", "good.txt/below"),
        (s3_event("b", "a%00b").to_string(), "Unreadable", "a\0b"),
        (s3_event("b", "../secret.txt").to_string(), "Forbidden", "../secret.txt"),
        (s3_event("b", "%2E%2e/secret.txt").to_string(), "Forbidden", "../secret.txt"),
        (s3_event("b", "x/../../secret.txt").to_string(), "Forbidden", "x/../../secret.txt"),
        (s3_event("b", scratch.0.join("secret.txt").to_str().unwrap()).to_string(), "Forbidden", "secret.txt"),
        (s3_event("b", "").to_string(), "Forbidden", "object ``"),
        (s3_event("..", "secret.txt").to_string(), "UnknownBucket", "`..`"),
        (s3_event("b/..", "secret.txt").to_string(), "UnknownBucket", "`b/..`"),
        (s3_event("b/", "good.txt").to_string(), "UnknownBucket", "`b/`"),
        (s3_event("", "secret.txt").to_string(), "UnknownBucket", "``"),
        (s3_event("nowhere", "a").to_string(), "UnknownBucket", "`nowhere`"),
    ];
    let served = path_event(&good).to_string();
    let lines: Vec<String> = cases.iter().map(|(event, ..)| format!("{event}\n{served}\n")).collect();
    let run = Run::of(example().arg("-").env("PLIMSOLL_BUCKETS", &scratch.0), lines.concat().as_bytes());

    assert_eq!(run.answers.len(), 2 * cases.len());
    assert_eq!(run.said.len(), 2 * cases.len(), "one line of memory per event: {:#?}", run.said);
    for ((event, kind, named), answers) in cases.iter().zip(run.answers.chunks(2)) {
        assert_error(&answers[0], kind, named);
        assert_eq!(answers[1]["objects"][0]["words"], 1, "after {event}");
    }
}

#[test]
fn an_object_is_digested_once_and_anew_when_it_changed() {
    let scratch = Scratch::new("kept");
    let object = scratch.write("b/a.txt", "one two two");
    let event = s3_event("b", "a.txt");
    let mut child = example();
    let child = child.arg("-").env("PLIMSOLL_BUCKETS", &scratch.0).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Function(child.stderr(Stdio::piped()).spawn().unwrap());
    let mut stdin = child.0.stdin.take().unwrap();
    let mut answers = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let mut answer = |event: &Value| -> (Value, ByteSize) {
        writeln!(stdin, "{event}").unwrap();
        let answer = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        (answer, peak(&lines.next().unwrap().unwrap()))
    };

    let (first, making) = answer(&event);
    let (second, keeping) = answer(&event);
    assert_eq!(first, second);
    // What it is read by is a chunk of 64 KiB: the second time none was there.
    assert!(keeping < making, "{keeping} of {making}");
    let mut written = |content: &str| {
        fs::write(&object, content).unwrap();
        answer(&event).0["objects"][0]["words"].clone()
    };
    assert_eq!([written("one"), written("one two")].map(|words| words.as_u64()), [Some(1), Some(2)]);
}

#[test]
fn more_records_than_an_answer_has_room_for_are_a_bad_event() {
    let scratch = Scratch::new("records");
    scratch.write("b/a.txt", "one");
    let records = |count: usize| json!({ "Records": vec![record("b", "a.txt"); count] });
    let run = Run::over(&[records(100), records(101)], &scratch.0);
    assert_eq!(run.answers[0]["objects"].as_array().unwrap().len(), 100);
    assert_error(&run.answers[1], "BadEvent", "101 records, where at most 100 are answered");
}

#[test]
fn the_model_is_loaded_by_the_first_event_that_asks_for_unusual_words() {
    let scratch = Scratch::new("unusual");
    scratch.write("registry/src/index/krate-1.0.0/src/lib.rs", "the common words of the land ".repeat(1_000));
    let plain = path_event(&scratch.write("object.txt", "the zyzzyva of the land: zyzzyva, quokka"));
    let mut asking = plain.clone();
    asking["unusual"] = json!(2);
    let mut wrong = plain.clone();
    wrong["unusual"] = json!(101);
    let events = [plain.to_string(), asking.to_string(), wrong.to_string()].join("\n");
    let run = Run::of(example().arg("-").env("CARGO_HOME", &scratch.0), events.as_bytes());

    assert_eq!(run.answers[0]["objects"][0].get("unusual"), None);
    assert_eq!(run.answers[1]["objects"][0]["unusual"], json!(["zyzzyva", "quokka"]));
    assert_error(&run.answers[2], "BadEvent", "`unusual` is a number of words, at most 100");
    assert!(run.said[0].contains(" resources 1 unloaded 1 never used: model "), "{}", run.said[0]);
    assert!(run.said[1].contains(" resources 1 loaded "), "{}", run.said[1]);
}

#[cfg(unix)]
#[test]
fn a_link_leads_neither_out_of_the_bucket_nor_to_what_is_no_file() {
    let scratch = Scratch::new("links");
    scratch.write("b/good.txt", "good");
    scratch.write("secret.txt", "outside every bucket");
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, scratch.0.join(name)).unwrap();
    link("good.txt", "b/inside");
    link("../secret.txt", "b/outside");
    link("/dev/zero", "endless");
    let pipe = scratch.0.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let endless = path_event(&scratch.0.join("endless"));
    let events = [s3_event("b", "inside"), s3_event("b", "outside"), endless, path_event(&pipe)];

    let run = Run::over(&events, &scratch.0);
    assert_is_digest_of(&run.answers[0]["objects"][0], b"good");
    assert_error(&run.answers[1], "Forbidden", "outside");
    assert_error(&run.answers[2], "NotAFile", "a device, pipe or socket");
    assert_error(&run.answers[3], "NotAFile", "a device, pipe or socket");
}

#[cfg(target_os = "linux")]
#[test]
fn the_environment_with_its_credentials_is_no_object() {
    let scratch = Scratch::new("environ");
    let run = Run::over(&[json!({ "path": "/proc/self/environ" })], &scratch.0);
    assert_error(&run.answers[0], "Forbidden", "/proc/self/environ");
}

#[test]
fn one_line_of_10_mb_does_not_move_the_heap() {
    let scratch = Scratch::new("long-line");
    let one_word = scratch.write("word.txt", vec![b'x'; 10_000_000]);
    let few_words = scratch.write("words.txt", b"some words ".repeat(1_000_000));
    let run = Run::over(&[path_event(&one_word), path_event(&few_words)], &scratch.0);

    let first = &run.answers[0]["objects"][0];
    assert_eq!((&first["words"], &first["not_counted"], &first["lines"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!(run.answers[1]["objects"][0]["top"], json!([["some", 1_000_000], ["words", 1_000_000]]));
    for event in 0..2 {
        let peak = peak(&run.said[event]);
        // At least the chunk that it is read by, or nothing was measured.
        assert!(peak >= ByteSize::kib(64) && peak < ByteSize::kib(512), "peak heap {peak}");
    }
}

#[test]
fn distinct_words_past_the_bound_are_counted_but_not_by_name() {
    let scratch = Scratch::new("distinct");
    let mut content: String = (0..60_000).fold(String::new(), |words, number| words + &format!("w{number} "));
    content += "w7 w7 w59999";
    let run = Run::over(&[path_event(&scratch.write("many.txt", &content))], &scratch.0);

    let object = &run.answers[0]["objects"][0];
    assert_eq!(object["words"], 60_003);
    assert_eq!(object["not_counted"], 10_001);
    assert_eq!(object["top"][0], json!(["w7", 3]));
    let peak = peak(&run.said[0]);
    assert!(peak > ByteSize::mib(1) && peak < ByteSize::mib(8), "peak heap {peak}");
}

#[test]
fn an_event_longer_than_lambda_allows_is_refused_unread() {
    let scratch = Scratch::new("long-event");
    let good = path_event(&scratch.write("good.txt", "good"));
    let long = "x".repeat(40 * 1024 * 1024);
    let events = format!("{{\"path\": \"{long}\"}}\n\n{good}");
    let run = Run::of(example().arg("-"), events.as_bytes());

    assert_eq!(run.answers.len(), 2);
    assert_error(&run.answers[0], "BadEvent", "longer than 6.0 MiB");
    assert_is_digest_of(&run.answers[1]["objects"][0], b"good");
    let peaks = [peak(&run.said[0]), peak(&run.said[1])];
    assert!(peaks[1] < ByteSize::kib(512), "the long event stayed: {peaks:?}");
}

#[test]
fn events_come_from_a_file_too() {
    let scratch = Scratch::new("file");
    let good = path_event(&scratch.write("good.txt", "good"));
    let events = scratch.write("events.jsonl", format!("{good}\n{good}\n"));
    let run = Run::of(example().arg(&events), b"");
    assert_eq!(run.answers.len(), 2);
    assert_is_digest_of(&run.answers[1]["objects"][0], b"good");

    let output = feed(example().arg(scratch.0.join("missing.jsonl")), b"");
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("missing.jsonl"), "{}", text(&output.stderr));
}

#[test]
fn without_an_argument_it_digests_what_is_here_and_recommends_a_size() {
    let scratch = Scratch::new("sources");
    let empty = feed(example().env("CARGO_HOME", scratch.0.join("empty")), b"");
    let stdout = text(&empty.stdout);
    assert!(empty.status.success(), "{}", text(&empty.stderr));
    assert!(stdout.contains("cargo registry: 0 files"), "{stdout}");
    assert!(!stdout.contains("this project: 0 files"), "{stdout}");

    // A registry with one word more often than all of this project's together.
    scratch.write("registry/src/index/krate-1.0.0/src/lib.rs", "zyzzyva ".repeat(1_000_000));
    scratch.write("registry/src/index/krate-1.0.0/image.png", "not a source");
    let full = feed(example().env("CARGO_HOME", &scratch.0), b"");
    let stdout = text(&full.stdout);
    assert!(stdout.contains("cargo registry: 1 files, 7.6 MiB"), "{stdout}");
    assert!(stdout.contains("most frequent: zyzzyva 100000"), "{stdout}");
    assert!(stdout.contains(", 0 errors"), "{stdout}");
    for name in ["heap now", "heap peak", "rss now", "rss peak"] {
        let bar = stdout.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        assert!(bar.contains("|#"), "{bar}");
    }
    assert!(stdout.contains("  recommended 128 MB: "), "{stdout}");
    assert!(full.stderr.is_empty(), "no bar where nobody looks: {}", text(&full.stderr));
}

#[test]
fn help_names_the_modes_and_an_unknown_option_is_an_error() {
    let help = feed(example().arg("--help"), b"");
    assert!(help.status.success());
    for word in ["usage: ", "FILE", "PLIMSOLL_BUCKETS", "AWS_LAMBDA_RUNTIME_API"] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    let unknown = feed(example().arg("--verbose"), b"");
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("unknown option --verbose"));
}

#[test]
fn under_the_runtime_api_a_bad_event_is_a_function_error_and_the_next_is_served() {
    let scratch = Scratch::new("runtime");
    scratch.write("b/a.txt", "The function\nanswers the event.\n");
    scratch.write("b/many.txt", (0..40_000).fold(String::new(), |words, number| words + &format!("w{number} ")));
    let good = s3_event("b", "a.txt").to_string();
    let missing = s3_event("b", "missing.txt").to_string();
    let large = s3_event("b", "many.txt").to_string();
    let api = RuntimeApi::serve(vec![large, r#"{"nothing": true}"#.to_owned(), missing, good]);
    let mut command = example();
    let command = api.environment(&mut command, 128).env("PLIMSOLL_BUCKETS", &scratch.0);
    let mut function = Function(command.stderr(Stdio::piped()).spawn().unwrap());

    let mut answer = |number: usize, kind: &str| -> Value {
        let mut call = || {
            api.calls.recv_timeout(Duration::from_mins(1)).unwrap_or_else(|error| {
                panic!("no answer to event {number}: {error}; the function: {:?}", function.0.try_wait())
            })
        };
        assert_eq!(call(), Call::Started(format!("request-{number}")));
        let Call::Posted { path, body } = call() else { panic!("a second event before the first was answered") };
        assert_eq!(path, format!("/2018-06-01/runtime/invocation/request-{number}/{kind}"), "{body}");
        serde_json::from_str(&body).unwrap()
    };
    assert_eq!(answer(0, "response")["objects"][0]["words"], 40_000);
    assert_error(&answer(1, "error"), "BadEvent", "expected an S3 notification");
    assert_error(&answer(2, "error"), "MissingObject", "missing.txt");
    assert_is_digest_of(&answer(3, "response")["objects"][0], b"The function\nanswers the event.\n");

    let said = BufReader::new(function.0.stderr.take().unwrap()).lines().take(4);
    let said: Vec<String> = said.map(Result::unwrap).collect();
    for (number, line) in said.iter().enumerate() {
        assert!(line.starts_with(&format!("plimsoll request-{number} heap ")), "{line}");
        assert!(line.contains(" of 116 MiB ("), "{line}");
    }
    assert!(peak(&said[0]) > ByteSize::mib(1), "{}", said[0]);
    assert!(peak(&said[3]) < ByteSize::kib(512), "a peak belongs to its own invocation: {}", said[3]);
}
