//! A leak under a memory limit that the kernel enforces: the verdict must be there well before the kill.
//!
//! As in `sandbox`, the limit is 116 MiB for a "128 MB" function. Where no memory cgroup can be made the tests are not
//! run, and say why; with `PLIMSOLL_SANDBOX=required` in the environment that is a failure.
#![allow(
    unsafe_code,
    unused_macros,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "tests without libtest's attribute"
)]

#[path = "sandbox/cage.rs"]
mod cage;
mod support;

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use cage::Cage;
use plimsoll::monitor::{LeakVerdict, Monitor, ReportPolicy};
use plimsoll::{ByteSize, TrackingAllocator, board, env};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// What a function of 128 MB has for itself.
const CAGE_MIB: u64 = 116;

/// How many invocations before its kill a leak must be known.
const AHEAD: usize = 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--function", how, kib] => {
            function(how, kib.parse().unwrap());
            return ExitCode::SUCCESS;
        }
        ["--parent"] => {
            parent();
            return ExitCode::SUCCESS;
        }
        ["--recommended"] => {
            print_recommended();
            return ExitCode::SUCCESS;
        }
        ["--filler"] => {
            fill();
            return ExitCode::SUCCESS;
        }
        ["--child", mib] => {
            child(mib.parse().unwrap());
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let no_cage = Cage::new(CAGE_MIB).err();
    if std::env::var("PLIMSOLL_SANDBOX").is_ok_and(|value| value == "required")
        && let Some(why) = &no_cage
    {
        eprintln!("the sandbox is required and cannot be: {why}");
        return ExitCode::from(101);
    }
    let why = no_cage.as_deref();
    support::run(&[
        ("a_leak_is_known_twenty_invocations_before_its_kill", a_leak_is_known_before_its_kill as fn(), why),
        ("a_vector_that_doubles_is_known_by_its_pages", a_vector_that_doubles_is_known_by_its_pages, why),
        ("recommended_mb_counts_a_child_but_no_page_cache", recommended_mb_counts_a_child, why),
        ("a_leak_of_native_code_is_outside_before_its_kill", a_leak_of_native_code_is_outside_before_its_kill, why),
        ("a_child_process_is_outside_until_it_ends", a_child_process_is_outside_until_it_ends, why),
        ("what_is_freed_or_accounted_for_is_neither_killed_nor_growing", what_is_no_leak_is_not_growing, why),
    ])
}

/// Keeps `kib` of every invocation, by one way or another, and prints its number and the verdict after each.
fn function(how: &str, kib: usize) {
    let monitor = Monitor::builder().memory_size(ByteSize::mib(128)).environment_share(ByteSize::mib(12));
    let monitor = monitor.report(ReportPolicy::Off).build().unwrap();
    let bytes = kib << 10;
    let (mut pieces, mut one): (Vec<Vec<u8>>, Vec<u8>) = (Vec::new(), Vec::new());
    let cache = board::holder("cache");
    if how == "mmap" {
        // As in a service: their stacks could be what is mapped.
        (0..3).for_each(|_| drop(std::thread::spawn(std::thread::park)));
    }
    for number in 1_usize.. {
        let invocation = monitor.start("r");
        // An event and its answer, which are gone afterwards.
        drop(std::hint::black_box(vec![1_u8; 10_000 + number * 7919 % 100_000]));
        match how {
            "pieces" => pieces.push(vec![1; bytes]),
            "one" => one.resize(one.len() + bytes, 1),
            // A verdict on memory beyond the heap reads its figures once a second.
            "mmap" | "malloc" => {
                leak_native(how, bytes);
                std::thread::sleep(Duration::from_millis(30));
            }
            "cached" if number <= 60 => {
                pieces.push(vec![1; bytes]);
                cache.add(ByteSize::kib(kib as u64));
            }
            _ => drop(std::hint::black_box(vec![1_u8; bytes])),
        }
        println!("{}", invocation.finish().verdict);
        if number == 600 && matches!(how, "cached" | "freed") {
            return;
        }
    }
}

/// Takes memory that is not of the Rust heap, and touches it.
fn leak_native(how: &str, bytes: usize) {
    let block = if how == "malloc" {
        // SAFETY: it takes any size.
        unsafe { libc::malloc(bytes) }
    } else {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping at any address.
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0) }
    };
    assert!(!block.is_null() && block != libc::MAP_FAILED);
    // SAFETY: the block has as many bytes.
    unsafe { libc::memset(std::hint::black_box(block), 1, bytes) };
}

/// Reports before, during and after the life of a child process, and prints its verdicts and the memory of the cgroup.
fn parent() {
    let monitor = Monitor::builder().memory_size(ByteSize::mib(128)).environment_share(ByteSize::mib(12));
    let monitor = monitor.report(ReportPolicy::Off).build().unwrap();
    let in_use = || env::CgroupMemory::read().unwrap().unwrap().in_use.as_u64();
    let report = || {
        // The memory of the cgroup is read once a second.
        std::thread::sleep(Duration::from_millis(1100));
        let verdict = monitor.start("r").finish().verdict;
        let bytes = if let LeakVerdict::Outside { bytes, .. } = verdict { bytes.as_u64() } else { 0 };
        println!("{bytes} {} {verdict}", in_use());
    };
    for _ in 0..20 {
        monitor.start("r").finish();
    }
    report();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let mut child = child.args(["--child", "60"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    report();
    drop(child.stdin.take());
    child.wait().unwrap();
    report();
}

/// Holds memory until its parent ends it.
fn child(mib: usize) {
    let held = std::hint::black_box(vec![1_u8; mib << 20]);
    println!("ready");
    io::stdin().read_line(&mut String::new()).unwrap();
    drop(held);
}

/// How the function ended, and the verdict after each invocation.
fn run(how: &str, kib: usize) -> (ExitStatus, u64, Vec<String>) {
    let cage = Cage::new(CAGE_MIB).unwrap();
    let mut command = cage.command(&std::env::current_exe().unwrap());
    let output = command.args(["--function", how, &kib.to_string()]).output().unwrap();
    let verdicts = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    (output.status, cage.oom_kills(), verdicts)
}

/// How many invocations after it grows the kernel kills, once it has.
fn ahead(how: &str, kib: usize) -> usize {
    let (status, kills, verdicts) = run(how, kib);
    assert_eq!((status.signal(), kills), (Some(9), 1), "{how} {kib}: {status} after {} invocations", verdicts.len());
    let seen = verdicts.iter().position(|verdict| verdict.starts_with("growing"));
    let seen = seen.unwrap_or_else(|| panic!("{how} {kib}: killed unseen after {} invocations", verdicts.len()));
    // Once it is known it is said to the end.
    let last = verdicts.last().unwrap();
    assert!(last.starts_with("growing"), "{how} {kib}: {last}");
    println!(
        "\n    {how}, {kib} KiB: `{}` after {} invocations, killed after {}",
        verdicts[seen],
        seen + 1,
        verdicts.len()
    );
    verdicts.len() - (seen + 1)
}

fn a_leak_is_known_before_its_kill() {
    for kib in [10, 100, 1024] {
        let ahead = ahead("pieces", kib);
        assert!(ahead >= AHEAD, "{kib} KiB per invocation: {ahead} before the kill");
    }
}

fn a_vector_that_doubles_is_known_by_its_pages() {
    for kib in [100, 1024] {
        let ahead = ahead("one", kib);
        assert!(ahead >= AHEAD, "{kib} KiB per invocation: {ahead} before the kill");
    }
}

/// The memory of the child, in MiB.
const CHILD_MIB: usize = 300;

/// Starts a child that holds memory and fills the page cache, and prints the memory size recommended before and after.
fn print_recommended() {
    let monitor = Monitor::builder().memory_size(ByteSize::mib(512)).environment_share(ByteSize::mib(12));
    let monitor = monitor.report(ReportPolicy::Off).build().unwrap();
    let recommended = || monitor.start("r").finish().recommended_mb().unwrap();
    let before = recommended();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let mut child = child.arg("--filler").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    // The cgroup is read once a second.
    std::thread::sleep(Duration::from_millis(1100));
    println!("{before} {}", recommended());
    drop(child.stdin.take());
    child.wait().unwrap();
    println!("{}", recommended());
}

/// Holds memory until the standard input ends.
fn fill() {
    let held = std::hint::black_box(vec![1_u8; CHILD_MIB << 20]);
    let path = std::env::temp_dir().join(format!("plimsoll-page-cache-{}", std::process::id()));
    fs::write(&path, &held[..100 << 20]).unwrap();
    println!();
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
    fs::remove_file(path).unwrap();
}

fn recommended_mb_counts_a_child() {
    let cage = Cage::new(512).unwrap();
    let output = cage.command(&std::env::current_exe().unwrap()).arg("--recommended").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let figures: Vec<u64> = printed.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
    let [before, during, after] = figures[..] else { panic!("{}: {printed}", output.status) };
    assert_eq!((before, during), (128, after), "the highest is kept");
    // 12 MiB for the environment, and a quarter on top; the two processes themselves have less than 20 MiB.
    let least = (CHILD_MIB as u64 + 12) * 5 / 4;
    assert!((least..least + 25).contains(&during), "{during} MB");
}

fn a_leak_of_native_code_is_outside_before_its_kill() {
    // The small one is killed within a fraction of a second.
    for (how, kib) in [("mmap", 1024), ("malloc", 1024), ("mmap", 256)] {
        let (status, kills, verdicts) = run(how, kib);
        assert_eq!((status.signal(), kills), (Some(9), 1), "{how}: {status} after {} invocations", verdicts.len());
        let seen = verdicts.iter().position(|verdict| verdict.starts_with("outside"));
        let seen = seen.unwrap_or_else(|| panic!("{how}: killed unseen after {} invocations", verdicts.len()));
        assert!(verdicts.len() - seen > AHEAD, "{how}: seen after {seen} of {}", verdicts.len());
        assert!(verdicts.last().unwrap().ends_with("C library"), "{how}: {verdicts:?}");
        assert!(!verdicts.iter().any(|verdict| verdict.starts_with("retaining")), "{how}: {verdicts:?}");
        println!("\n    {how}: `{}` after {}, killed after {}", verdicts[seen], seen + 1, verdicts.len());
    }
}

fn a_child_process_is_outside_until_it_ends() {
    let cage = Cage::new(CAGE_MIB).unwrap();
    let output = cage.command(&std::env::current_exe().unwrap()).arg("--parent").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let figures: Vec<(u64, u64, &str)> = text
        .lines()
        .map(|line| line.splitn(3, ' ').collect::<Vec<_>>())
        .map(|words| (words[0].parse().unwrap(), words[1].parse().unwrap(), words[2]))
        .collect();
    let [before, during, after] = figures[..] else { panic!("{text}") };
    assert_eq!((before.2, after.2), ("steady", "steady"), "{text}");
    assert!(during.2.ends_with("child or other process"), "{text}");
    let released = during.1.saturating_sub(after.1);
    assert!(released >= during.0 / 100 * 80, "{text}");
    println!("\n    `{}`, its end released {}", during.2, ByteSize::bytes(released));
}

fn what_is_no_leak_is_not_growing() {
    for (how, kib) in [("freed", 40 << 10), ("cached", 1024)] {
        let (status, kills, verdicts) = run(how, kib);
        assert!(status.success() && kills == 0 && verdicts.len() == 600, "{how}: {status}");
        let growing = verdicts.iter().find(|verdict| verdict.starts_with("growing"));
        assert_eq!((growing, verdicts.last().unwrap().as_str()), (None, "steady"), "{how}");
    }
}
