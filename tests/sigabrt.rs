//! The handler of SIGABRT on a small stack, and after a signal that the process survived.
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
/// Bytes of the pages below a signal stack.
const GUARD: usize = 64 << 10;
const REPORT: &str = "failed allocations 1, largest 200.0 MiB";

support::tests! {
    overflow_of_main_after_a_refusal_ends_by_sigabrt if HAS_SIGNALS, else "needs fork and signals",
    overflow_of_main_ends_by_sigabrt if HAS_SIGNALS, else "needs fork and signals",
    overflow_of_a_thread_after_a_refusal_ends_by_sigabrt if HAS_SIGNALS, else "needs fork and signals",
    overflow_of_a_thread_ends_by_sigabrt if HAS_SIGNALS, else "needs fork and signals",
    overflow_with_a_small_signal_stack_ends_by_sigabrt if HAS_SIGNALS, else "needs fork and signals",
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
    if depth == u64::MAX { 0 } else { overflow(depth + 1) + black_box(&frame).iter().sum::<u64>() }
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

fn overflow_with_a_small_signal_stack_ends_by_sigabrt() {
    for refused in [true, false] {
        let ended = in_child(|| {
            // Room for the frames of two signals, and for little more.
            set_signal_stack(2 * signal_frame().max(1776) + 1600);
            install(refused);
            overflow(1);
        });
        assert_eq!(ended.signal, Some(libc::SIGABRT), "refused {refused}: {}", ended.stderr);
        assert!(!ended.stderr.contains(REPORT), "{}", ended.stderr);
    }
}

fn overflow_with_a_large_signal_stack_writes_the_report() {
    let ended = in_child(|| {
        set_signal_stack(64 << 10);
        install(true);
        overflow(1);
    });
    assert_eq!(ended.signal, Some(libc::SIGABRT), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches(REPORT).count(), 1, "{}", ended.stderr);
}

#[cfg(target_os = "linux")]
fn signal_frame() -> usize {
    // SAFETY: `getauxval` takes any type of entry, and returns 0 for those that are missing.
    usize::try_from(unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) }).unwrap()
}

#[cfg(not(target_os = "linux"))]
fn signal_frame() -> usize {
    libc::MINSIGSTKSZ
}

/// Gives this thread an alternate signal stack of `size` bytes, above a page that cannot be touched.
fn set_signal_stack(size: usize) {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new private mapping at an address that the kernel chooses does not touch existing memory.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), GUARD + size, access, kind, -1, 0) };
    assert_ne!(start, libc::MAP_FAILED);
    // SAFETY: the range is the start of the mapping made above.
    assert_eq!(unsafe { libc::mprotect(start, GUARD, libc::PROT_NONE) }, 0);
    let stack = libc::stack_t { ss_sp: start.wrapping_byte_add(GUARD), ss_flags: 0, ss_size: size };
    // SAFETY: the range is writable, and lives as long as the process.
    assert_eq!(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
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
