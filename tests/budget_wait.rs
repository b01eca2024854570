//! Requests that wait for a reservation: the order, cancellation, deadlines, and what they may not wait for.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::future::{pending, ready};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use plimsoll::budget::{ReclaimPriority, reclaim_fn};
use plimsoll::{Account, BudgetExceeded, ByteSize, MemoryBudget, Reservation};

const LONG: Duration = Duration::from_mins(1);

const fn kib(n: u64) -> ByteSize {
    ByteSize::kib(n)
}

fn account(budget: &MemoryBudget, name: &'static str) -> Account {
    budget.account(name).unwrap()
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Wakes {
    fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>, wakes: &Arc<Wakes>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&wakes.waker()))
}

fn granted(polled: Poll<Result<Reservation, BudgetExceeded>>) -> Option<Reservation> {
    match polled {
        Poll::Ready(result) => Some(result.unwrap()),
        Poll::Pending => None,
    }
}

#[test]
fn waiting_requests_are_granted_in_their_order_and_a_large_one_is_not_overtaken() {
    let budget = MemoryBudget::new(kib(100));
    let (held, asker) = (account(&budget, "held"), account(&budget, "asker"));
    let (first_part, second_part) = (held.try_reserve(kib(50)).unwrap(), held.try_reserve(kib(50)).unwrap());
    let wakes = [(); 3].map(|()| Arc::<Wakes>::default());
    let mut large = pin!(asker.reserve_async(kib(70), pending()));
    let mut small = pin!(asker.reserve_async(kib(10), pending()));
    let mut last = pin!(asker.reserve_async(kib(20), pending()));
    assert!(granted(poll(large.as_mut(), &wakes[0])).is_none());
    assert!(granted(poll(small.as_mut(), &wakes[1])).is_none());
    assert!(granted(poll(last.as_mut(), &wakes[2])).is_none());
    drop(first_part);
    assert_eq!(wakes[1].0.load(SeqCst), 0, "10 of 50 would fit, and are not the first");
    assert!(granted(poll(small.as_mut(), &wakes[1])).is_none());
    // A request that does not queue takes what is available.
    let barging = asker.try_reserve(kib(5)).unwrap();
    drop(second_part);
    assert_eq!(
        wakes.each_ref().map(|wakes| wakes.0.load(SeqCst)),
        [1, 1, 1],
        "70, 10 and 5 of 100, and one to reclaim"
    );
    let large = granted(poll(large.as_mut(), &wakes[0])).unwrap();
    let small = granted(poll(small.as_mut(), &wakes[1])).unwrap();
    assert_eq!((large.size(), small.size(), budget.reserved()), (kib(70), kib(10), kib(85)));
    assert!(granted(poll(last.as_mut(), &wakes[2])).is_none());
    drop(barging);
    let last = granted(poll(last.as_mut(), &wakes[2])).unwrap();
    drop((large, small, last));
    assert_eq!(budget.reserved(), ByteSize::ZERO);
}

#[test]
fn a_cancelled_request_gives_its_place_and_its_bytes_to_the_next() {
    let budget = MemoryBudget::new(kib(100));
    let asker = account(&budget, "asker");
    for is_granted in [false, true] {
        let full = account(&budget, "held").try_reserve(kib(100)).unwrap();
        let wakes = Arc::<Wakes>::default();
        let mut next = pin!(asker.reserve_async(kib(60), pending()));
        {
            let mut first = Box::pin(asker.reserve_async(kib(80), pending()));
            assert!(poll(first.as_mut(), &wakes).is_pending());
            assert!(poll(next.as_mut(), &wakes).is_pending());
            let mut full = Some(full);
            if is_granted {
                full = None;
                assert_eq!(budget.reserved(), kib(80), "granted, and not picked up");
            }
            drop(first);
            drop(full);
        }
        let next = granted(poll(next.as_mut(), &wakes)).unwrap();
        assert_eq!(budget.reserved(), kib(60));
        drop(next);
    }
    assert_eq!(budget.reserved(), ByteSize::ZERO);
}

#[test]
fn deadlines_end_a_wait_and_impossible_sizes_never_wait() {
    let budget = MemoryBudget::new(kib(100));
    let (asker, health) = (account(&budget, "asker"), account(&budget, "health"));
    let full = account(&budget, "held").try_reserve(kib(95)).unwrap();
    let wakes = Arc::<Wakes>::default();
    let mut refused = pin!(asker.reserve_async(kib(10), ready(())));
    let Poll::Ready(Err(error)) = poll(refused.as_mut(), &wakes) else { panic!("the deadline has passed") };
    assert_eq!((error.account(), error.available()), ("asker", kib(5)));
    let error = asker.reserve_blocking(kib(10), Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.requested(), kib(10));
    health.set_minimum(kib(1)).unwrap();
    let error = asker.reserve_blocking(kib(100), LONG).unwrap_err();
    assert_eq!(error.requested(), kib(100), "one of it is the share of another");
    assert!(asker.reserve_blocking(ByteSize::MAX, LONG).is_err());
    // A minimum share does not wait behind others.
    let mut waits = pin!(asker.reserve_async(kib(50), pending()));
    assert!(poll(waits.as_mut(), &wakes).is_pending());
    assert_eq!(health.reserve_blocking(kib(1), LONG).unwrap().size(), kib(1));
    assert_eq!(asker.reserve_blocking(ByteSize::ZERO, LONG).unwrap().size(), ByteSize::ZERO);
    drop(full);
    assert!(granted(poll(waits.as_mut(), &wakes)).is_some());
}

#[test]
fn the_first_of_the_queue_reclaims() {
    let budget = MemoryBudget::new(kib(100));
    let cache = account(&budget, "cache");
    let entries = Arc::new(Mutex::new(cache.try_reserve(kib(60)).unwrap()));
    let shared = Arc::clone(&entries);
    let release = reclaim_fn(move |want, _| {
        if let Ok(mut entries) = shared.try_lock() {
            entries.shrink(want);
        }
    });
    let _registered = cache.register_reclaimer(ReclaimPriority::CACHE, release);
    let pinned = account(&budget, "pinned").try_reserve(kib(40)).unwrap();
    let (asker, wakes) = (account(&budget, "asker"), Arc::<Wakes>::default());
    let mut first = pin!(asker.reserve_async(kib(70), pending()));
    let mut second = pin!(asker.reserve_async(kib(10), pending()));
    assert!(poll(first.as_mut(), &wakes).is_pending(), "the cache alone has not as much");
    assert_eq!(cache.reserved(), kib(60), "so it loses nothing");
    assert!(poll(second.as_mut(), &wakes).is_pending());
    drop(pinned);
    // The grant of 70 needs 30 of the cache. The release has looked at the queue without reclaiming.
    let first = match poll(first.as_mut(), &wakes) {
        Poll::Ready(result) => result.unwrap(),
        Poll::Pending => panic!("the first of the queue reclaims when it is polled: {budget:?}"),
    };
    assert_eq!((first.size(), cache.reserved()), (kib(70), kib(30)));
    let second = granted(poll(second.as_mut(), &wakes)).unwrap();
    assert_eq!((second.size(), cache.reserved()), (kib(10), kib(20)), "the next one does the same");
}

/// A large request against threads that grow and drop small ones, and a cache with twice the bytes to release.
#[test]
fn a_large_request_wins_against_small_ones_and_these_are_not_refused() {
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let cache = account(&budget, "cache");
    let entries = Arc::new(Mutex::new(cache.try_reserve(ByteSize::ZERO).unwrap()));
    let shared = Arc::clone(&entries);
    let release = reclaim_fn(move |want, _| {
        // The main thread holds it for one step at a time.
        shared.lock().unwrap().shrink(want);
    });
    let _registered = cache.register_reclaimer(ReclaimPriority::CACHE, release);
    let (stop, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let small = account(&budget, "small");
                while !stop.load(SeqCst) {
                    let Ok(mut reserved) = small.try_reserve(kib(64)) else {
                        refused.fetch_add(1, SeqCst);
                        continue;
                    };
                    for _ in 0..32 {
                        if reserved.try_grow(kib(64)).is_err() {
                            refused.fetch_add(1, SeqCst);
                        }
                    }
                }
            });
        }
        let large = account(&budget, "large");
        for round in 0..200 {
            while entries.lock().unwrap().try_grow_without_reclaim(ByteSize::mib(1)) {}
            assert!(large.try_reserve(ByteSize::mib(30)).is_ok(), "round {round}: {budget:?}");
        }
        stop.store(true, SeqCst);
    });
    assert_eq!(refused.load(SeqCst), 0, "small requests");
}

#[test]
fn blocked_threads_and_cancelled_tasks_lose_no_byte() {
    let budget = MemoryBudget::new(kib(100));
    let rounds = if cfg!(debug_assertions) { 300 } else { 3000 };
    thread::scope(|scope| {
        for thread in 0..6_u64 {
            let budget = &budget;
            scope.spawn(move || {
                let account = account(budget, "waiters");
                for round in 0..rounds {
                    let size = kib(20 + (thread * 7 + round * 13) % 70);
                    match (thread + round) % 3 {
                        0 => {
                            let wakes = Arc::<Wakes>::default();
                            let mut request = Box::pin(account.reserve_async(size, pending()));
                            drop(poll(request.as_mut(), &wakes));
                        }
                        1 => drop(account.reserve_blocking(size, Duration::from_micros(200))),
                        _ => drop(account.reserve_blocking(size, LONG).unwrap()),
                    }
                }
            });
        }
    });
    assert_eq!(budget.reserved(), ByteSize::ZERO);
    assert_eq!(account(&budget, "waiters").try_reserve(kib(100)).unwrap().size(), kib(100));
}

#[test]
fn a_waker_that_panics_costs_no_byte_and_no_other_request_its_turn() {
    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker of the test");
        }
    }

    let budget = MemoryBudget::new(kib(100));
    let asker = account(&budget, "asker");
    let full = account(&budget, "held").try_reserve(kib(100)).unwrap();
    let (panics, wakes) = (Waker::from(Arc::new(Panics)), Arc::<Wakes>::default());
    let mut first = pin!(asker.reserve_async(kib(60), pending()));
    let mut second = pin!(asker.reserve_async(kib(40), pending()));
    assert!(first.as_mut().poll(&mut Context::from_waker(&panics)).is_pending());
    assert!(poll(second.as_mut(), &wakes).is_pending());
    drop(full);
    assert_eq!(wakes.0.load(SeqCst), 1, "the second one is granted too");
    let both = [granted(poll(first.as_mut(), &wakes)).unwrap(), granted(poll(second.as_mut(), &wakes)).unwrap()];
    assert_eq!(budget.reserved(), kib(100));
    drop(both);
    assert_eq!(budget.reserved(), ByteSize::ZERO);
}

#[test]
fn a_waker_may_use_the_budget_when_it_is_dropped() {
    struct Asks(MemoryBudget);

    impl Wake for Asks {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Asks {
        fn drop(&mut self) {
            assert_eq!(self.0.reserved(), kib(100));
        }
    }

    let budget = MemoryBudget::new(kib(100));
    let asks = || Waker::from(Arc::new(Asks(budget.clone())));
    let full = account(&budget, "held").try_reserve(kib(100)).unwrap();
    let asker = account(&budget, "asker");
    let mut request = Box::pin(asker.reserve_async(kib(60), pending()));
    // The second waker replaces the first, and is dropped with the request.
    for waker in [asks(), asks()] {
        assert!(request.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    drop(request);
    drop(full);
}

#[test]
fn a_minimum_share_that_is_given_up_lets_the_first_of_the_queue_reclaim() {
    let budget = MemoryBudget::new(kib(100));
    let (health, cache, asker) = (account(&budget, "health"), account(&budget, "cache"), account(&budget, "asker"));
    health.set_minimum(kib(10)).unwrap();
    let _fixed = account(&budget, "fixed").try_reserve(kib(20)).unwrap();
    let entries = Arc::new(Mutex::new(cache.try_reserve(kib(70)).unwrap()));
    let shared = Arc::clone(&entries);
    let release = reclaim_fn(move |want, _| {
        shared.lock().unwrap().shrink(want);
    });
    let _registered = cache.register_reclaimer(ReclaimPriority::CACHE, release);
    let wakes = Arc::<Wakes>::default();
    let mut request = pin!(asker.reserve_async(kib(75), pending()));
    // The second poll is that of the first of the queue.
    for _ in 0..2 {
        assert!(poll(request.as_mut(), &wakes).is_pending(), "20, 10 and 75 are too many");
    }
    assert_eq!(cache.reserved(), kib(70));
    let before = wakes.0.load(SeqCst);
    health.set_minimum(ByteSize::ZERO).unwrap();
    assert_eq!(wakes.0.load(SeqCst), before + 1);
    assert_eq!(granted(poll(request.as_mut(), &wakes)).unwrap().size(), kib(75));
    assert_eq!(cache.reserved(), kib(5));
}

#[test]
fn a_reclaim_that_fails_does_not_wake_its_own_request() {
    let budget = MemoryBudget::new(kib(100));
    let (cache, asker) = (account(&budget, "cache"), account(&budget, "asker"));
    let _entries = cache.try_reserve(kib(90)).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let (counted, scratch) = (Arc::clone(&calls), account(&budget, "scratch"));
    // It reserves and releases a little, and releases nothing of its own.
    let release = reclaim_fn(move |_, _| {
        counted.fetch_add(1, SeqCst);
        drop(scratch.try_reserve(kib(1)));
    });
    let _registered = cache.register_reclaimer(ReclaimPriority::CACHE, release);
    let wakes = Arc::<Wakes>::default();
    let mut request = pin!(asker.reserve_async(kib(50), pending()));
    for _ in 0..10 {
        assert!(poll(request.as_mut(), &wakes).is_pending());
    }
    assert!(wakes.0.load(SeqCst) <= 1, "{wakes:?} wakes", wakes = wakes.0);
    assert!(calls.load(SeqCst) <= 4, "two rounds when it came, and two as the first of the queue: {calls:?}");
}

#[test]
fn a_deadline_does_not_overtake() {
    let budget = MemoryBudget::new(kib(100));
    let asker = account(&budget, "asker");
    let _held = account(&budget, "held").try_reserve(kib(50)).unwrap();
    let wakes = Arc::<Wakes>::default();
    let mut first = pin!(asker.reserve_async(kib(80), pending()));
    assert!(poll(first.as_mut(), &wakes).is_pending());
    let mut second = pin!(asker.reserve_async(kib(10), ready(())));
    let Poll::Ready(Err(refused)) = poll(second.as_mut(), &wakes) else { panic!("80 are before it") };
    assert_eq!(refused.requested(), kib(10));
}
