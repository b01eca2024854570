//! The budget: bytes that are released for a request go to it, others wait for its end and no longer, and the queue loses
//! neither bytes nor wakes.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Wake, Waker};

use loom::sync::Arc;
use loom::thread;

use crate::board::Meter;
use crate::budget::shared::Shared;
use crate::budget::table::{QueuePlace, Readings, Table, Turn};

const READINGS: Readings = Readings { live: 0, resident: None, now_ms: 0 };

/// A table of 100 bytes, of which account 0 has all.
fn full() -> Arc<Shared> {
    let mut table = Table::new(100, u64::MAX);
    for name in ["full", "asker"] {
        table.open(name, |_| Meter::new()).unwrap();
    }
    assert!(table.try_reserve(0, 100, 0));
    Arc::new(Shared::new(table))
}

#[test]
fn a_request_gets_what_is_released_for_it_and_others_wait_for_its_end() {
    loom::model(|| {
        let shared = full();
        let other = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let mut table = shared.lock_between_passes();
                assert!(!table.is_reclaiming());
                table.decide(1, 10, &READINGS, Turn::New).is_ok()
            }
        });
        let pass = {
            let mut table = shared.lock();
            shared.begin_pass(&mut table, 1, 30)
        };
        shared.lock().release(0, 30);
        let granted = shared.lock().decide(1, 30, &READINGS, Turn::Reclaiming(pass.number()));
        assert!(granted.is_ok(), "nobody else has taken any of it");
        drop(pass);
        assert!(!other.join().unwrap(), "all is reserved, before and after");
        assert_eq!(shared.lock().reserved(), 100);
    });
}

/// Releases 60 bytes on another thread.
fn release_60(shared: &Arc<Shared>) -> thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let is_awaited = shared.lock().release(0, 60);
        if is_awaited {
            shared.serve(|| READINGS);
        }
    })
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_request_that_waits_is_granted_or_woken() {
    loom::model(|| {
        let shared = full();
        let other = release_60(&shared);
        let flag = std::sync::Arc::<Flag>::default();
        let waker = Waker::from(std::sync::Arc::clone(&flag));
        let number = shared.lock().enqueue(1, 50, waker.clone());
        shared.serve(|| READINGS);
        let mut place = shared.look_up(number, &waker);
        other.join().unwrap();
        if place != QueuePlace::Granted {
            assert!(flag.0.load(SeqCst), "the release has woken it");
            place = shared.look_up(number, &waker);
        }
        assert_eq!(place, QueuePlace::Granted);
        assert_eq!(shared.lock().reserved(), 90);
    });
}

#[test]
fn a_request_that_is_cancelled_while_it_is_granted_loses_no_byte() {
    loom::model(|| {
        let shared = full();
        let number = shared.lock().enqueue(1, 50, Waker::noop().clone());
        let next = shared.lock().enqueue(1, 40, Waker::noop().clone());
        let other = release_60(&shared);
        shared.dequeue(number, || READINGS);
        other.join().unwrap();
        assert_eq!(shared.look_up(next, Waker::noop()), QueuePlace::Granted, "the next one has its turn");
        assert_eq!(shared.lock().reserved(), 80);
        assert!(!shared.lock().has_queue());
    });
}
