//! Allocation after the thread has given its slot back: in destructors that run later than ours.

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

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use support::{Block, live};

static LATE: AtomicUsize = AtomicUsize::new(0);

struct AllocatesWhenDropped(Option<Block>);

impl Drop for AllocatesWhenDropped {
    fn drop(&mut self) {
        let mut block = Block::new(50_000);
        assert!(block.resize(90_000));
        assert!(block.resize(10));
        drop(self.0.take());
        drop(block);
        // A scope that cannot measure says so, one that can is right.
        let (_block, delta) = heap::scope(|| Block::new(77));
        assert!(delta.is_none_or(|delta| delta.retained.as_i64() == 77));
        LATE.fetch_add(1 + 1000 * usize::from(delta.is_none()), SeqCst);
    }
}

thread_local! {
    static EARLY: RefCell<Option<AllocatesWhenDropped>> = const { RefCell::new(None) };
}

/// POSIX keys are destroyed after `thread_local!`s, so after our slot has gone.
#[cfg(unix)]
extern "C" fn destroy(value: *mut libc::c_void) {
    // SAFETY: `value` is the box that the thread stored under the key.
    drop(unsafe { Box::from_raw(value.cast::<AllocatesWhenDropped>()) });
}

support::tests! { destructors_that_allocate_late_are_booked }

fn destructors_that_allocate_late_are_booked() {
    std::thread::spawn(|| {}).join().unwrap();
    let base = live();
    std::thread::spawn(|| EARLY.set(Some(AllocatesWhenDropped(Some(Block::new(5_000)))))).join().unwrap();
    assert_eq!(LATE.load(SeqCst) % 1000, 1);
    assert_eq!(live(), base);

    #[cfg(unix)]
    {
        let mut key = 0;
        // SAFETY: `key` is ours, `destroy` matches what is stored under it.
        assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(destroy)) }, 0);
        let before = live();
        heap::reset_peak();
        std::thread::spawn(move || {
            let late = Box::into_raw(Box::new(AllocatesWhenDropped(Some(Block::new(5_000)))));
            // SAFETY: the key exists.
            assert_eq!(unsafe { libc::pthread_setspecific(key, late.cast()) }, 0);
        })
        .join()
        .unwrap();
        assert_eq!(LATE.load(SeqCst), 1002, "the slot had gone, so the scope had nothing to tell");
        assert_eq!(live(), before);
        let peak = heap::stats().unwrap().peak;
        assert!(peak.at_most >= ByteSize::bytes(before.unsigned_abs() + 95_000), "{peak:?}");
    }
}
