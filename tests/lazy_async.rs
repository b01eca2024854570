//! One shared load: polled by whoever waits, dropped when nobody does.

#[path = "support/remote.rs"]
mod remote;

use std::future::{self, Future};
use std::mem::ManuallyDrop;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use plimsoll::lazy::ResourceState;
use plimsoll::{AsyncLazyResource, ByteSize, LazyError, ManualClock, MemoryBudget, TrackingAllocator};
use remote::Remote;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn of_a_thousand_tasks_half_are_cancelled_and_the_load_runs_once() {
    static LOADS: AtomicUsize = AtomicUsize::new(0);
    static SLOW: AsyncLazyResource<usize, &str> = AsyncLazyResource::new("slow", || {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(LOADS.fetch_add(1, SeqCst))
        })
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..1000).map(|_| tokio::spawn(async { *SLOW.get().await.unwrap() })).collect();
        tokio::task::yield_now().await;
        for (n, task) in tasks.into_iter().enumerate() {
            // The first one leads, so it is among those that go.
            if n % 2 == 0 {
                task.abort();
            } else {
                assert_eq!(task.await.unwrap(), 0);
            }
        }
    });
    assert_eq!(LOADS.load(SeqCst), 1);
    assert_eq!((SLOW.status().state, SLOW.status().loads), (ResourceState::Loaded, 1));
}

#[test]
fn when_all_have_gone_the_load_is_dropped_and_the_next_begins_anew() {
    let remote = Remote::default();
    let resource = AsyncLazyResource::capturing("left", || remote.load());
    let mut calls: Vec<_> = (0..1000).map(|_| Box::pin(resource.get())).collect();
    assert_eq!(remote.starts(), 0, "nothing happens until it is polled");
    assert!(calls.iter_mut().all(|call| poll(call.as_mut()).is_pending()));
    assert_eq!((remote.starts(), remote.drops()), (1, 0));
    assert!(matches!(resource.status().state, ResourceState::Loading { waiting: 1000, .. }));
    calls.clear();
    assert_eq!((remote.starts(), remote.drops()), (1, 1));
    assert_eq!(resource.status().state, ResourceState::Unloaded);

    let mut next = pin!(resource.get());
    assert!(poll(next.as_mut()).is_pending());
    remote.end(Ok(5));
    assert!(matches!(poll(next), Poll::Ready(Ok(pin)) if *pin == 5));
    assert_eq!((remote.starts(), remote.drops()), (2, 2));
}

#[test]
fn the_one_who_began_may_go_and_the_others_get_the_value() {
    let remote = Remote::default();
    let resource = AsyncLazyResource::capturing("passed on", || remote.load());
    let (mut first, mut second) = (Box::pin(resource.get()), Box::pin(resource.get()));
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    drop(first);
    remote.end(Ok(3));
    assert!(matches!(poll(second.as_mut()), Poll::Ready(Ok(pin)) if *pin == 3));
    assert_eq!(remote.starts(), 1);
    assert!(matches!(poll(pin!(resource.get())), Poll::Ready(Ok(pin)) if *pin == 3));
    assert_eq!(resource.unload(), Some(0));
    assert_eq!(resource.unload(), None);
}

#[test]
fn all_waiters_get_the_same_error_and_the_back_off_holds() {
    let (manual, remote) = (ManualClock::new(), Remote::default());
    let resource = AsyncLazyResource::capturing("dead", || remote.load())
        .clock(manual.clock())
        .retry_after(Duration::from_millis(100), Duration::from_secs(1));
    let mut calls = [Box::pin(resource.get()), Box::pin(resource.get())];
    for call in &mut calls {
        assert!(poll(call.as_mut()).is_pending());
    }
    remote.end(Err("down"));
    let errors = calls.map(|mut call| match poll(call.as_mut()) {
        Poll::Ready(Err(LazyError::Failed(failure))) => failure.error,
        other => panic!("{other:?}"),
    });
    assert!(Arc::ptr_eq(&errors[0], &errors[1]));
    assert!(
        matches!(poll(pin!(resource.get())), Poll::Ready(Err(LazyError::Failed(failure))) if failure.attempts == 1)
    );
    assert_eq!(remote.starts(), 1);
    manual.advance(Duration::from_millis(100));
    let mut next = pin!(resource.get());
    assert!(poll(next.as_mut()).is_pending());
    remote.end(Err("still down"));
    assert!(matches!(poll(next), Poll::Ready(Err(LazyError::Failed(failure))) if failure.attempts == 2));
}

#[test]
fn a_refresh_is_awaited_by_one_and_passed_by_the_others() {
    let (manual, remote) = (ManualClock::new(), Remote::default());
    let resource = AsyncLazyResource::capturing("rates", || remote.load())
        .clock(manual.clock())
        .refresh_after(Duration::from_secs(1));
    remote.end(Ok(1));
    assert!(matches!(poll(pin!(resource.prefetch())), Poll::Ready(Ok(()))));
    manual.advance(Duration::from_secs(1));
    let mut refreshing = Box::pin(resource.get());
    assert!(poll(refreshing.as_mut()).is_pending());
    assert!(matches!(poll(pin!(resource.get())), Poll::Ready(Ok(pin)) if *pin == 1 && pin.is_stale()));
    remote.end(Ok(2));
    assert!(matches!(poll(refreshing.as_mut()), Poll::Ready(Ok(pin)) if *pin == 2 && !pin.is_stale()));
    assert!(matches!(poll(pin!(resource.get())), Poll::Ready(Ok(pin)) if *pin == 2));
}

#[test]
fn a_value_unloaded_on_its_way_in_is_counted_charged_and_watched_like_any_other() {
    static RESOURCE: AsyncLazyResource<Vec<u8>, ()> = AsyncLazyResource::new("quick", || {
        let mut polled = false;
        Box::pin(future::poll_fn(move |_| {
            let ready = std::mem::replace(&mut polled, true);
            if ready { Poll::Ready(Ok(vec![1; 50_000])) } else { Poll::Pending }
        }))
    });
    /// Unloads when it is woken: between the load's end and the moment its value is in place.
    struct Unloads(Mutex<Option<usize>>);
    impl Wake for Unloads {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap() = RESOURCE.unload();
        }
    }
    let budget = MemoryBudget::new(ByteSize::mib(1));
    RESOURCE.charge_to(budget.account("quick")).unwrap();
    let unloads = Arc::new(Unloads(Mutex::new(None)));
    let waker = Waker::from(Arc::clone(&unloads));
    let mut get = pin!(RESOURCE.get());
    assert!(get.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let Poll::Ready(Ok(pin)) = get.poll(&mut Context::from_waker(&waker)) else { panic!("it is loaded") };
    assert!(unloads.0.lock().unwrap().is_some());
    let status = RESOURCE.status();
    assert_eq!((status.state, status.loads, status.unloading_pins), (ResourceState::Unloaded, 1, 1));
    assert_eq!(Some(budget.reserved()), status.cost.unwrap().retained, "what a pin keeps is charged");
    assert!(budget.reserved() > ByteSize::bytes(50_000));
    drop(pin);
    assert_eq!((budget.reserved(), RESOURCE.status().unloading_pins), (ByteSize::ZERO, 0));
}

#[test]
fn a_waker_that_was_left_behind_keeps_neither_the_value_nor_the_load() {
    let (left, value) = (Mutex::new(Vec::new()), Mutex::new(Weak::new()));
    let left = &left;
    let resource: AsyncLazyResource<_, (), _> = AsyncLazyResource::capturing("left", || {
        let mut polls = 0;
        let loaded = Arc::new(7);
        *value.lock().unwrap() = Arc::downgrade(&loaded);
        let wakers = Arc::new(Mutex::new(Vec::new()));
        left.lock().unwrap().push(Arc::clone(&wakers));
        future::poll_fn(move |cx| {
            wakers.lock().unwrap().push(cx.waker().clone());
            polls += 1;
            if polls < 2 { Poll::Pending } else { Poll::Ready(Ok(Arc::clone(&loaded))) }
        })
    });
    let mut call = Box::pin(resource.get());
    assert!(poll(call.as_mut()).is_pending());
    assert!(matches!(poll(call.as_mut()), Poll::Ready(Ok(pin)) if **pin == 7));
    drop(call);
    assert_eq!(resource.unload(), Some(0));
    assert_eq!(value.lock().unwrap().strong_count(), 0);

    let mut call = Box::pin(resource.get());
    assert!(poll(call.as_mut()).is_pending());
    drop(call);
    assert_eq!(value.lock().unwrap().strong_count(), 0);
    let wakers: Vec<Waker> = left.lock().unwrap().iter().flat_map(|wakers| wakers.lock().unwrap().clone()).collect();
    assert!(wakers.len() == 3 && wakers[0].will_wake(&wakers[1]) && !wakers[1].will_wake(&wakers[2]));
    wakers.into_iter().for_each(Waker::wake);
}

#[test]
fn a_call_that_was_forgotten_holds_up_nobody() {
    let remote = Remote::default();
    let resource = AsyncLazyResource::capturing("forgotten", || remote.load());
    let mut forgotten = ManuallyDrop::new(Box::pin(resource.get()));
    assert!(poll(forgotten.as_mut()).is_pending());
    drop({
        let mut gone = Box::pin(resource.get());
        assert!(poll(gone.as_mut()).is_pending());
        gone
    });
    assert_eq!(remote.drops(), 0, "the forgotten one may still want it");
    let mut next = Box::pin(resource.get());
    assert!(poll(next.as_mut()).is_pending());
    remote.end(Ok(3));
    assert!(matches!(poll(next.as_mut()), Poll::Ready(Ok(pin)) if *pin == 3));
    assert_eq!(remote.starts(), 1);
}
