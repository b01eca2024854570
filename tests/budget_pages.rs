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
use std::sync::{Arc, Mutex};

use plimsoll::budget::{ReclaimPriority, reclaim_fn};
use plimsoll::{Account, ByteSize, MemoryBudget, TrackingAllocator, os};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

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

fn a_large_reservation_is_refused_where_the_pages_leave_no_room() {
    of_128_mb("no room");
}

fn who_could_not_give_enough_is_not_asked() {
    of_128_mb("too little");
}

fn what_others_were_promised_and_have_not_touched_is_in_the_way() {
    of_128_mb("promised");
}

fn small_reservations_that_take_new_pages_have_free_ones_given_back() {
    of_128_mb("small");
}

fn pages_of_reclaimed_values_make_room_for_a_large_reservation() {
    of_128_mb("reclaimed");
}

fn the_free_end_of_a_threads_arena_refuses_nothing() {
    of_128_mb("arena");
}

fn a_hook_that_panics_costs_no_memory() {
    of_128_mb("panics");
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
    let account = budget.account("model").unwrap();
    let mut pieces = pieces();
    // The last one keeps all before it from going back by itself.
    let last = pieces.pop();
    drop(pieces);
    assert!(rss() > 80, "the pages are kept, or nothing is shown: {} MiB", rss());
    let small = account.try_reserve(ByteSize::kib(64)).unwrap();
    assert!(rss() > 80, "a small reservation does not look: {} MiB", rss());
    for size in [ByteSize::MAX, ByteSize::MAX, ByteSize::gib(1)] {
        assert!(account.try_reserve(size).is_err(), "nor does one that can never be granted");
    }
    assert!(rss() > 80, "{} MiB", rss());
    let large = account.try_reserve(ByteSize::mib(48)).unwrap();
    assert!(rss() < 40, "they went back: {} MiB", rss());
    drop((small, large, last));
}

fn promised() {
    let (budget, account) = experienced();
    // Reserved while they are allocated, so nothing of them is unreserved heap.
    let mut cache = budget.account("cache").unwrap().reserve(ByteSize::mib(96));
    let pieces = riddled();
    cache.shrink(ByteSize::mib(52));
    let size = ByteSize::mib(12);
    let first = account.try_reserve(size).unwrap();
    let refused = account.try_reserve(size).unwrap_err();
    assert!(refused.available() < size, "some 88 of pages, 12 to come, and room for 10 more: {refused}");
    let small = account.try_reserve(ByteSize::kib(64)).unwrap();
    drop(first);
    let mut parts = account.try_reserve(size).unwrap();
    let part = parts.split(ByteSize::mib(5)).unwrap();
    assert!(account.try_reserve(size).is_err());
    drop((part, small));
    parts.shrink(ByteSize::mib(3));
    assert!(account.try_reserve(size).is_ok(), "4 are promised still");
    drop(pieces);
}

/// 40 MiB beside 96 that are free, in blocks that no free piece has room for.
fn small() {
    let budget = MemoryBudget::from_env().unwrap();
    let _pitted: Vec<_> = pieces().into_iter().step_by(32).collect();
    let small = budget.account("small").unwrap();
    let before = rss();
    let mut held = Vec::new();
    while budget.reserved() < ByteSize::mib(40) {
        let reserved = small.try_reserve(ByteSize::kib(256)).unwrap();
        // A mapping each: it takes new pages whatever is free.
        held.push((reserved, vec![1_u8; 256 << 10]));
        assert!(rss() < 118, "{} MiB of {before} before, for {}", rss(), budget.reserved());
    }
    assert!(before > 80 && rss() < 60, "{} MiB of {before} before", rss());
}

/// A budget that knows its allocator gives pages back.
fn experienced() -> (MemoryBudget, Account) {
    let budget = MemoryBudget::from_env().unwrap();
    let account = budget.account("model").unwrap();
    let mut pieces = pieces();
    let _last = pieces.pop();
    drop(pieces);
    drop(account.try_reserve(ByteSize::mib(48)).unwrap());
    (budget, account)
}

/// Some 88 MiB of pages for 44 MiB that are live: each page has some of what was left.
fn riddled() -> Vec<Box<[u8]>> {
    let mut pieces = pieces();
    pieces.truncate(22 << 10);
    let mut odd = false;
    pieces.retain(|_| {
        odd = !odd;
        odd
    });
    pieces
}

fn no_room() {
    let (budget, account) = experienced();
    let cache = budget.account("cache").unwrap().reserve(ByteSize::mib(44));
    let pieces = riddled();
    let refused = account.try_reserve(ByteSize::mib(48)).unwrap_err();
    assert!(refused.available() < ByteSize::mib(32), "what is beside some 88: {refused}");
    assert_eq!((account.reserved(), account.peak()), (ByteSize::ZERO, ByteSize::mib(48)));
    assert!(account.try_reserve(ByteSize::kib(64)).is_ok(), "small ones are not held against the pages");
    drop((pieces, cache));
    drop(account.try_reserve(ByteSize::mib(48)).unwrap());
    assert_eq!(budget.reserved(), ByteSize::ZERO);
}

fn too_little() {
    let (budget, account) = experienced();
    let cache = budget.account("cache").unwrap();
    let _fixed = budget.account("fixed").unwrap().reserve(ByteSize::mib(40));
    let held = Arc::new(Mutex::new(cache.try_reserve(ByteSize::mib(2)).unwrap()));
    let giving = Arc::clone(&held);
    let reclaimer = reclaim_fn(move |want: ByteSize, _| {
        let _released = giving.lock().unwrap().shrink(want);
    });
    let _registered = cache.register_reclaimer(ReclaimPriority::CACHE, reclaimer);
    let pieces = riddled();
    assert!(account.try_reserve(ByteSize::mib(48)).is_err());
    assert_eq!(held.lock().unwrap().size(), ByteSize::mib(2), "a request that must fail costs no cache");
    drop(pieces);
}

/// `free` of a large mapped block raises the threshold of glibc from which it releases the end of an arena, and no trim
/// releases that of a thread's arena.
fn arena() {
    let budget = MemoryBudget::from_env().unwrap();
    let (used, is_used) = std::sync::mpsc::channel();
    let (end, may_end) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        drop(vec![1_u8; 25 << 20]);
        drop((0..40 << 4).map(|_| vec![1_u8; 60 << 10]).collect::<Vec<_>>());
        used.send(()).unwrap();
        let _ended = may_end.recv();
    });
    is_used.recv().unwrap();
    let model = budget.account("model").unwrap().try_reserve(ByteSize::mib(80));
    assert!(model.is_ok(), "{} MiB are resident: {model:?}", rss());
    drop(end);
    thread.join().unwrap();
}

/// A cache of small values fills the limit. What it releases for a large block stays in the allocator until a trim.
fn reclaimed() {
    let budget = MemoryBudget::from_env().unwrap();
    let cache = budget.account("cache").unwrap();
    let reserved = cache.try_reserve(ByteSize::mib(100)).unwrap();
    let pieces: Vec<Box<[u8]>> = (0..25_000).map(|_| vec![1; 4000].into()).collect();
    let entries = Arc::new(Mutex::new((pieces, reserved)));
    let shared = Arc::clone(&entries);
    let evict = reclaim_fn(move |want, _| {
        let (pieces, reserved) = &mut *shared.lock().unwrap();
        let left = pieces.len().saturating_sub(want.as_usize() / 4000 + 1);
        pieces.truncate(left);
        reserved.shrink(want);
    });
    let _registered = cache.register_reclaimer(ReclaimPriority::CACHE, evict);
    let model = budget.account("model").unwrap().try_reserve(ByteSize::mib(30)).unwrap();
    let block = vec![1_u8; 30 << 20];
    assert!(rss() < 112, "{} MiB", rss());
    assert!(cache.reserved() > ByteSize::mib(50), "{budget:?}");
    drop((block, model));
}

fn panics() {
    os::set_trim_hook(|| panic!("a hook of the user's"));
    let budget = MemoryBudget::from_env().unwrap();
    let account = budget.account("model").unwrap();
    let pieces = pieces();
    drop(account.try_reserve(ByteSize::mib(48)));
    assert_eq!(account.reserved(), ByteSize::ZERO);
    assert!(os::trim().is_ok());
    drop(pieces);
}

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--part") {
        match arguments.next().as_deref() {
            Some("free pages") => free_pages(),
            Some("no room") => no_room(),
            Some("too little") => too_little(),
            Some("promised") => promised(),
            Some("small") => small(),
            Some("reclaimed") => reclaimed(),
            Some("arena") => arena(),
            Some("panics") => panics(),
            other => panic!("no part {other:?}"),
        }
        return std::process::ExitCode::SUCCESS;
    }
    let why = (!(cfg!(target_env = "gnu") && support::lean()))
        .then_some("needs an allocator that can be trimmed, and an rss that is this program's own");
    let tests: [(&str, fn()); 8] = [
        ("free_pages_make_room_for_a_large_reservation", free_pages_make_room_for_a_large_reservation),
        (
            "a_large_reservation_is_refused_where_the_pages_leave_no_room",
            a_large_reservation_is_refused_where_the_pages_leave_no_room,
        ),
        ("who_could_not_give_enough_is_not_asked", who_could_not_give_enough_is_not_asked),
        (
            "what_others_were_promised_and_have_not_touched_is_in_the_way",
            what_others_were_promised_and_have_not_touched_is_in_the_way,
        ),
        (
            "small_reservations_that_take_new_pages_have_free_ones_given_back",
            small_reservations_that_take_new_pages_have_free_ones_given_back,
        ),
        (
            "pages_of_reclaimed_values_make_room_for_a_large_reservation",
            pages_of_reclaimed_values_make_room_for_a_large_reservation,
        ),
        ("the_free_end_of_a_threads_arena_refuses_nothing", the_free_end_of_a_threads_arena_refuses_nothing),
        ("a_hook_that_panics_costs_no_memory", a_hook_that_panics_costs_no_memory),
    ];
    support::run(&tests.map(|(name, test)| (name, test, why)))
}
