//! The handler of SIGABRT where it has little stack, or more to do than once.
#![cfg(unix)]
#![allow(unsafe_code, reason = "signals and an alternate stack")]
#![allow(clippy::unwrap_used, reason = "tests without libtest's attribute")]

mod support;

use std::hint::black_box;

use plimsoll::monitor::ReportPolicy;
use plimsoll::{ByteSize, Monitor, TrackingAllocator, heap};
use support::in_child;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

const HAS_SIGNALS: bool = cfg!(not(miri));
const REPORT: &str = "plimsoll last words";

support::tests! {
    overflow_of_main_after_a_refusal_ends_by_sigabrt if HAS_SIGNALS, else "needs fork and signals",
    overflow_of_main_ends_by_sigabrt if HAS_SIGNALS, else "needs fork and signals",
    overflow_of_a_thread_after_a_refusal_ends_by_sigabrt if HAS_SIGNALS, else "needs fork and signals",
    overflow_of_a_thread_ends_by_sigabrt if HAS_SIGNALS, else "needs fork and signals",
    overflow_with_a_large_signal_stack_writes_the_report if HAS_SIGNALS, else "needs fork and signals",
    survived_signal_leaves_the_report_to_the_next if HAS_SIGNALS, else "needs fork and signals",
}

fn install(refused: bool) {
    Monitor::builder().memory_size(ByteSize::mib(512)).report(ReportPolicy::Off).install().unwrap();
    heap::set_limit(ByteSize::mib(100)).unwrap();
    if refused {
        assert!(Vec::<u8>::new().try_reserve(200 << 20).is_err());
    }
}

#[inline(never)]
fn overflow(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { overflow(depth + 1) + frame[usize::from(depth as u8 % 64)] }
}

#[track_caller]
fn assert_aborts(on_thread: bool, refused: bool) {
    let ended = in_child(|| {
        install(refused);
        if on_thread {
            std::thread::spawn(|| overflow(1)).join().unwrap();
        } else {
            overflow(1);
        }
    });
    assert_eq!(ended.signal, Some(libc::SIGABRT), "{}", ended.stderr);
    assert!(ended.stderr.contains("has overflowed its stack"), "{}", ended.stderr);
}

fn overflow_of_main_after_a_refusal_ends_by_sigabrt() {
    assert_aborts(false, true);
}

fn overflow_of_main_ends_by_sigabrt() {
    assert_aborts(false, false);
}

fn overflow_of_a_thread_after_a_refusal_ends_by_sigabrt() {
    assert_aborts(true, true);
}

fn overflow_of_a_thread_ends_by_sigabrt() {
    assert_aborts(true, false);
}

fn overflow_with_a_large_signal_stack_writes_the_report() {
    let ended = in_child(|| {
        let block = Box::leak(vec![0_u8; 64 << 10].into_boxed_slice());
        let stack = libc::stack_t { ss_sp: block.as_mut_ptr().cast(), ss_flags: 0, ss_size: block.len() };
        // SAFETY: the block is writable, and lives as long as the process.
        assert_eq!(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
        install(true);
        overflow(1);
    });
    assert_eq!(ended.signal, Some(libc::SIGABRT), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches(REPORT).count(), 1, "{}", ended.stderr);
}

extern "C" fn survive(_signal: libc::c_int) {}

fn survived_signal_leaves_the_report_to_the_next() {
    let ended = in_child(|| {
        let handler: extern "C" fn(libc::c_int) = survive;
        // SAFETY: the handler has the signature of one, and does nothing.
        unsafe { libc::signal(libc::SIGABRT, handler as libc::sighandler_t) };
        install(true);
        for _ in 0..2 {
            // SAFETY: raises a signal in this process.
            unsafe { libc::raise(libc::SIGABRT) };
        }
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches(REPORT).count(), 2, "{}", ended.stderr);
}
