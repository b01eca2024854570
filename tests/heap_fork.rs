//! A forked child has the books of its parent at the fork, and keeps them right.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test: it allocates by hand, counts in signed bytes and stops at the first surprise"
)]

mod support;

use plimsoll::{ByteSize, TrackingAllocator, heap};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

use std::sync::Barrier;
use std::sync::atomic::Ordering::Relaxed;

use support::{Block, in_child, live};

support::tests! {
    a_forked_child_books_on if cfg!(not(miri)), else "Miri has no fork",
    child_of_many_threads_has_exact_peaks_and_counters if cfg!(not(miri)), else "Miri has no fork",
    c_threads_that_ended_leave_no_counter_bound if cfg!(all(target_os = "linux", not(miri))), else "needs pthread keys",
}

/// More threads than there are counters.
const MANY: usize = 140;

fn child_of_many_threads_has_exact_peaks_and_counters() {
    let (held, done) = (Barrier::new(MANY + 1), Barrier::new(MANY + 1));
    std::thread::scope(|scope| {
        let thread = |_| {
            scope.spawn(|| {
                drop(Block::new(100));
                held.wait();
                done.wait();
            })
        };
        let threads: Vec<_> = (0..MANY).map(thread).collect();
        held.wait();
        assert!(heap::scope(|| ()).1.is_some(), "this thread was first");
        let ended = in_child(|| {
            heap::reset_peak();
            let before = live();
            drop(Block::new(50_000));
            let peak = heap::stats().unwrap().peak;
            assert_eq!(peak.at_least, peak.at_most, "no other thread is there");
            assert_eq!(peak.at_most, ByteSize::bytes(before.unsigned_abs() + 50_000));
            let scope = std::thread::spawn(|| heap::scope(|| drop(Block::new(10))).1).join().unwrap();
            assert!(scope.is_some(), "the counters of the parent's threads are free");
        });
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        done.wait();
        // A scope waits for the closures, not for the ends of the threads. These take a lock of std, which the child of the
        // next test's fork would find locked for good.
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

static KEY: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// A callback of a C library, which comes when thread-local destructors have run.
extern "C" fn at_thread_end(_value: *mut libc::c_void) {
    drop(Block::new(100));
}

extern "C" fn c_thread(_argument: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: the key was created before the first thread, and its destructor does not read the value.
    unsafe { libc::pthread_setspecific(KEY.load(Relaxed), std::ptr::without_provenance(1)) };
    std::ptr::null_mut()
}

fn c_threads_that_ended_leave_no_counter_bound() {
    let ended = in_child(|| {
        let mut key = 0;
        // SAFETY: `key` is written, and the function has the signature of a destructor.
        unsafe { libc::pthread_key_create(&raw mut key, Some(at_thread_end)) };
        KEY.store(key, Relaxed);
        let live_before = live();
        let run = |count: usize| {
            for _ in 0..count {
                let mut id = 0;
                // SAFETY: `id` is written before the thread is joined, and the function has the right signature.
                let created =
                    unsafe { libc::pthread_create(&raw mut id, std::ptr::null(), c_thread, std::ptr::null_mut()) };
                assert_eq!(created, 0);
                // SAFETY: the thread was created above, and is joined once.
                unsafe { libc::pthread_join(id, std::ptr::null_mut()) };
            }
        };
        run(100);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        heap::reset_peak();
        let peak = heap::stats().unwrap().peak;
        assert_eq!(peak.at_least, peak.at_most, "no other thread is there");
        run(300);
        // Counters are looked for at most once in a second.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let own = heap::scope(|| drop(Block::new(10))).1;
        let others = std::thread::spawn(|| heap::scope(|| drop(Block::new(10))).1).join().unwrap();
        assert!(own.is_some() && others.is_some(), "{own:?} {others:?}");
        assert_eq!(live(), live_before);
        // Threads that run keep theirs, however many look for one.
        let (held, done) = (Barrier::new(MANY + 1), Barrier::new(MANY + 1));
        std::thread::scope(|scope| {
            for _ in 0..MANY {
                scope.spawn(|| {
                    let scope_before = heap::scope(|| drop(Block::new(10))).1.is_some();
                    held.wait();
                    let blocks: Vec<Block> = (0..20).map(|_| Block::new(40_000)).collect();
                    drop(blocks);
                    assert!(!scope_before || heap::scope(|| drop(Block::new(10))).1.is_some());
                    done.wait();
                });
            }
            held.wait();
            done.wait();
        });
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

fn a_forked_child_books_on() {
    let (held, done) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let block = Block::new(1_000_000);
            held.wait();
            done.wait();
            drop(block);
        });
        held.wait();
        let before = live();
        let ended = in_child(|| {
            assert_eq!(live(), before, "the other thread's block was copied along");
            let block = Block::new(2_000_000);
            assert_eq!(live(), before + 2_000_000);
            heap::reset_peak();
            drop(block);
            assert_eq!(live(), before);
            assert!(heap::stats().unwrap().peak.at_most >= ByteSize::bytes(before.unsigned_abs() + 2_000_000));
            heap::set_limit(ByteSize::bytes(before.unsigned_abs() + 1_000_000)).unwrap();
            assert!(Block::with(1_000_001, 1, false).is_none());
        });
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(live(), before, "the parent's books know nothing of it");
        assert_eq!(heap::stats().unwrap().limit, None);
        done.wait();
    });
}
