//! Runs the example `right_size` as users do: as a process of its own, over files and standard input.
#![cfg(feature = "sizing")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy knows `#[test]` functions as tests, but not their helpers"
)]

#[path = "support/child.rs"]
mod child;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn example() -> Command {
    child::command(&child::example("right_size"))
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data").join(name)
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn study(name: &str, options: &[&str]) -> Value {
    let output = example().arg("--json").args(options).arg(data(name)).output().unwrap();
    serde_json::from_str(&succeeded(output)).unwrap()
}

#[test]
fn the_sample_logs_get_the_sizes_that_their_story_asks_for() {
    let thumbnails = study("thumbnails.log", &[]);
    assert_eq!(thumbnails["memorySizeMB"], 192);
    assert_eq!(thumbnails["sizes"][0]["fit"], "out of memory");
    assert_eq!(study("thumbnails.log", &["--strategy", "speed"])["memorySizeMB"], 1769);
    assert_eq!(study("thumbnails.log", &["--strategy=balanced:0.5"])["memorySizeMB"], 1024);
    assert_eq!(study("thumbnails.log", &["--headroom", "40"])["memorySizeMB"], 256);

    let home = study("home.jsonl", &[]);
    assert_eq!((&home["memorySizeMB"], &home["extrapolated"]), (&json!(132), &json!(true)));
    assert_eq!((&home["needed"]["fromMB"], &home["needed"]["toMB"]), (&json!(132), &json!(143)));

    let orders = study("orders.log", &[]);
    assert_eq!((&orders["memorySizeMB"], &orders["untried"]["memorySizeMB"]), (&json!(1024), &json!(128)));
}

#[test]
fn a_log_on_standard_input_gives_a_table_and_what_a_month_costs() {
    let log = File::open(data("thumbnails.log")).unwrap();
    let output = example().args(["--arch", "arm", "--invocations-per-month", "5_000_000"]).stdin(log).output();
    let table = succeeded(output.unwrap());
    assert!(table.contains("arm64") && table.contains("a month"), "{table}");
    let chosen: Vec<&str> = table.lines().filter(|line| line.ends_with("<- recommended")).collect();
    assert!(chosen.len() == 1 && chosen[0].trim_start().starts_with("192 "), "{table}");
    assert!(table.contains("\n192 MB by cost: "), "{table}");
}

#[test]
fn the_chart_is_an_svg_with_the_load_line_and_the_choice() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (name, load_line) in [("thumbnails.log", "170"), ("home.jsonl", "132"), ("orders.log", "128")] {
        let path = folder.join(format!("right_size-{}-{name}.svg", std::process::id()));
        let output = example().arg("--svg").arg(&path).arg(data(name)).output().unwrap();
        succeeded(output);
        let svg = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains(&format!("load line {load_line} MB")), "{name}");
    }
}

#[test]
fn what_is_wrong_is_said_and_the_exit_code_tells() {
    for (arguments, code, why) in [
        (&["--strategy", "cheap"][..], 2, "a strategy is"),
        (&["--headroom", "30-20"], 2, "`30-20` is no headroom"),
        (&["--arch", "mips"], 2, "`mips` is no architecture"),
        (&["--invocations-per-month"], 2, "--invocations-per-month asks for a value"),
        (&["--colour"], 2, "there is no option --colour"),
        (&["--json=yes"], 2, "--json takes no value"),
        (&["--svg", "--json", "log"], 2, "--svg asks for a value"),
        (&["--svg", "-", "log"], 2, "--svg asks for a value"),
        (&["-json"], 2, "there is no option -json"),
        (&["no such file"], 1, "no such file: "),
        (&["--", "--no-such-file"], 1, "--no-such-file: "),
        (&["/"], 1, "/: the log ends early: "),
        (&["/dev/null"], 1, "no report tells both"),
    ] {
        let output = example().args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{arguments:?}");
        assert!(said.starts_with("right_size: ") && said.contains(why), "{said}");
    }
    let help = succeeded(example().arg("--help").output().unwrap());
    assert!(help.contains("usage: right_size"));
}

#[test]
fn an_operator_reads_the_cause_that_the_system_gives() {
    let output = example().arg("/").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let cause = File::open("/").and_then(|mut folder| io::Read::read(&mut folder, &mut [0])).unwrap_err();
    assert!(said.contains(&cause.to_string()), "{said}");
}

#[test]
fn a_file_may_be_named_like_an_option_after_two_dashes() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("right_size-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::copy(data("thumbnails.log"), folder.join("--log")).unwrap();
    let output = example().current_dir(&folder).args(["--svg=--chart", "--", "--log"]).output().unwrap();
    assert!(succeeded(output).contains("192 MB by cost"));
    assert!(fs::read_to_string(folder.join("--chart")).unwrap().starts_with("<svg "));
    fs::remove_dir_all(folder).unwrap();
}

#[cfg(unix)]
#[test]
fn a_file_may_have_a_name_that_is_not_utf_8() {
    use std::os::unix::ffi::OsStrExt;

    let name = |name: &'static [u8]| std::ffi::OsStr::from_bytes(name);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name(b"right_size-\xff.log"));
    fs::copy(data("thumbnails.log"), &path).unwrap();
    let chart = path.with_extension("svg");
    let output = example().arg("--svg").arg(&chart).arg(&path).output().unwrap();
    assert!(succeeded(output).contains("192 MB by cost"));
    fs::remove_file(chart).unwrap();
    fs::remove_file(path).unwrap();
    for (arguments, why) in [
        (&[name(b"--arch"), name(b"\xff")][..], "is no text"),
        (&[name(b"--\xff")], "is no text"),
        (&[name(b"--svg=\xff")], "is no text"),
    ] {
        let output = example().args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(why), "{said}");
    }
}
