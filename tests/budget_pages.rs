//! A budget whose limit is the kernel's, against pages that the allocator keeps and heap that nobody reserved.

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

mod support;

use std::process::Command;

use plimsoll::{ByteSize, MemoryBudget, os};

/// A process of its own, which is told that it is a Lambda function of 128 MB: the limit of its budget is 109.6 MiB.
fn of_128_mb(part: &str) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--part", part])
        .env("AWS_LAMBDA_FUNCTION_NAME", "function")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
        .status();
    assert!(status.unwrap().success(), "{part}");
}

fn free_pages_make_room_for_a_large_reservation() {
    of_128_mb("free pages");
}

fn a_large_reservation_is_refused_where_the_rss_leaves_no_room() {
    of_128_mb("no room");
}

/// 96 MiB in pieces of 4 KB, each of which is written to.
fn pieces() -> Vec<Box<[u8]>> {
    (0..24 << 10).map(|_| vec![1; 4000].into()).collect()
}

fn rss() -> u64 {
    os::rss().unwrap().total.as_u64() >> 20
}

fn free_pages() {
    let budget = MemoryBudget::from_env().unwrap();
    let account = budget.account("model");
    let mut pieces = pieces();
    // The last one keeps all before it from going back by itself.
    let last = pieces.pop();
    drop(pieces);
    assert!(rss() > 80, "the pages are kept, or nothing is shown: {} MiB", rss());
    let small = account.try_reserve(ByteSize::kib(64)).unwrap();
    assert!(rss() > 80, "a small reservation does not look: {} MiB", rss());
    let large = account.try_reserve(ByteSize::mib(48)).unwrap();
    assert!(rss() < 40, "they went back: {} MiB", rss());
    drop((small, large, last));
}

fn no_room() {
    let budget = MemoryBudget::from_env().unwrap();
    let account = budget.account("model");
    let pieces = pieces();
    let refused = account.try_reserve(ByteSize::mib(48)).unwrap_err();
    let beside = 109 - rss();
    assert!(refused.available() <= ByteSize::mib(beside + 1), "{refused}");
    assert!(refused.withheld() >= ByteSize::mib(50), "what nobody reserved is known now, down to the floor: {refused}");
    assert_eq!(account.held(), ByteSize::ZERO);
    drop(pieces);
    drop(account.try_reserve(ByteSize::mib(48)).unwrap());
}

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--part") {
        match arguments.next().as_deref() {
            Some("free pages") => free_pages(),
            _ => no_room(),
        }
        return std::process::ExitCode::SUCCESS;
    }
    let why = (!cfg!(all(target_os = "linux", target_env = "gnu"))).then_some("needs an allocator that can be trimmed");
    support::run(&[
        ("free_pages_make_room_for_a_large_reservation", free_pages_make_room_for_a_large_reservation as fn(), why),
        (
            "a_large_reservation_is_refused_where_the_rss_leaves_no_room",
            a_large_reservation_is_refused_where_the_rss_leaves_no_room,
            why,
        ),
    ])
}
