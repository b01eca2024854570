//! Threads that wait for a latch, also in rings.

use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;

use super::must_panic;
use crate::singleflight::{Latch, WouldDeadlock};
use crate::sync::thread_id;

/// Waits until `count` threads are blocked at the latch.
fn until_waiting<T>(latch: &Latch<T>, count: usize) {
    while latch.waiting() < count {
        thread::yield_now();
    }
}

#[test]
fn latch_gives_its_outcome_to_all_waiters() {
    for outcome in [Some(5), None] {
        let latch = Latch::closed(thread_id());
        thread::scope(|scope| {
            let waiters: Vec<_> = (0..4).map(|_| scope.spawn(|| latch.wait())).collect();
            until_waiting(&latch, 4);
            latch.open(outcome);
            for waiter in waiters {
                assert_eq!(waiter.join().unwrap(), Ok(outcome));
            }
        });
        assert_eq!((latch.wait(), latch.waiting()), (Ok(outcome), 0), "an open latch has no leader");
    }
}

#[test]
fn latch_waited_for_by_its_leader_would_deadlock() {
    let latch = Latch::<u32>::closed(thread_id());
    assert_eq!(latch.wait(), Err(WouldDeadlock));
    latch.open(Some(1));
    assert_eq!(latch.wait(), Ok(Some(1)));
}

/// Each of `count` threads leads a latch and waits for that of the next.
fn ring(count: usize) -> Vec<Result<Option<usize>, WouldDeadlock>> {
    let (send, leaders) = mpsc::channel();
    let latches = Mutex::new(Vec::<Arc<Latch<usize>>>::new());
    let (ready, go) = (Barrier::new(count + 1), Barrier::new(count + 1));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| {
                let (send, latches, ready, go) = (send.clone(), &latches, &ready, &go);
                scope.spawn(move || {
                    send.send((index, thread_id())).unwrap();
                    ready.wait();
                    go.wait();
                    let (own, next) = {
                        let latches = latches.lock().unwrap();
                        (Arc::clone(&latches[index]), Arc::clone(&latches[(index + 1) % count]))
                    };
                    let waited = next.wait();
                    own.open(Some(index));
                    waited
                })
            })
            .collect();
        ready.wait();
        let mut leaders: Vec<_> = leaders.iter().take(count).collect();
        leaders.sort_by_key(|(index, _)| *index);
        *latches.lock().unwrap() = leaders.into_iter().map(|(_, leader)| Arc::new(Latch::closed(leader))).collect();
        go.wait();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn latches_in_a_ring_fail_one_thread_and_the_others_go_on() {
    for count in [2, 3, 8] {
        for _ in 0..50 {
            let waited = ring(count);
            let failed = waited.iter().filter(|waited| waited.is_err()).count();
            assert_eq!(failed, 1, "{waited:?}");
            for (index, waited) in waited.iter().enumerate() {
                assert!(waited.is_err() || *waited == Ok(Some((index + 1) % count)), "{index}: {waited:?}");
            }
        }
    }
}

#[test]
fn latch_outcome_that_panics_when_cloned_fails_its_waiter_only() {
    struct Panics;
    impl Clone for Panics {
        fn clone(&self) -> Self {
            panic!("cloned (this panic belongs to the test)");
        }
    }
    let latch = Latch::closed(thread_id());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| latch.wait().is_ok());
        until_waiting(&latch, 1);
        latch.open(Some(Panics));
        assert!(waiter.join().is_err());
    });
    must_panic(|| latch.wait().is_ok());
    assert_eq!(latch.waiting(), 0);
}
