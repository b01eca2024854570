//! Loading by a future: one shared load for each key, also if its callers leave or fail.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "support/remote.rs"]
mod remote;

use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use plimsoll::cache::{Cache, LoadError};
use plimsoll::{ByteSize, MemoryBudget};
use remote::Remote;

fn cache() -> Cache<String, u32> {
    Cache::builder("load").max_entries(100).build().unwrap()
}

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn of_a_thousand_tasks_half_are_cancelled_and_the_load_runs_once() {
    let (cache, loads) = (cache(), Arc::new(AtomicUsize::new(0)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    runtime.block_on(async {
        let task = || {
            let (cache, loads) = (cache.clone(), Arc::clone(&loads));
            tokio::spawn(async move {
                let load = |_| async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    loads.fetch_add(1, SeqCst);
                    Ok::<_, ()>(7)
                };
                cache.try_get_or_load_async("k", load).await.unwrap()
            })
        };
        let tasks: Vec<_> = (0..1000).map(|_| task()).collect();
        tokio::task::yield_now().await;
        for (n, task) in tasks.into_iter().enumerate() {
            // The first one leads, so it is among those that go.
            if n % 2 == 0 {
                task.abort();
            } else {
                assert_eq!(task.await.unwrap(), 7);
            }
        }
    });
    assert_eq!((loads.load(SeqCst), cache.stats().load_successes, cache.get("k")), (1, 1, Some(7)));
}

#[test]
fn when_all_have_gone_the_load_is_dropped_and_the_next_begins_anew() {
    let (cache, remote) = (cache(), Remote::default());
    let mut calls: Vec<_> = (0..1000).map(|_| Box::pin(cache.try_get_or_load_async("k", |_| remote.load()))).collect();
    assert_eq!(remote.starts(), 0, "nothing happens until it is polled");
    assert!(calls.iter_mut().all(|call| poll(call.as_mut()).is_pending()));
    assert_eq!((remote.starts(), remote.drops()), (1, 0));
    calls.clear();
    assert_eq!((remote.starts(), remote.drops(), cache.len()), (1, 1, 0));

    let mut next = pin!(cache.try_get_or_load_async("k", |_| remote.load()));
    assert!(poll(next.as_mut()).is_pending());
    remote.end(Ok(5));
    assert_eq!(poll(next).map(Result::ok), Poll::Ready(Some(5)));
    assert_eq!((remote.starts(), remote.drops(), cache.get("k")), (2, 2, Some(5)));
}

#[test]
fn all_who_wait_get_the_same_error_and_the_next_one_loads_again() {
    let (cache, remote) = (cache(), Remote::default());
    let mut calls: Vec<_> = (0..3).map(|_| Box::pin(cache.try_get_or_load_async("k", |_| remote.load()))).collect();
    assert!(calls.iter_mut().all(|call| poll(call.as_mut()).is_pending()));
    remote.end(Err("down"));
    let mut failed = |n: usize| match poll(calls[n].as_mut()) {
        Poll::Ready(Err(LoadError::Load(error))) => error,
        other => panic!("{other:?}"),
    };
    let first = failed(0);
    // Though two have not heard of the failure yet.
    let mut next = pin!(cache.try_get_or_load_async("k", |_| remote.load()));
    assert!(poll(next.as_mut()).is_pending());
    assert!(Arc::ptr_eq(&first, &failed(1)) && Arc::ptr_eq(&first, &failed(2)));
    assert_eq!((remote.starts(), cache.stats().load_failures), (2, 1));
    remote.end(Ok(4));
    assert_eq!(poll(next).map(Result::ok), Poll::Ready(Some(4)));
}

#[test]
fn a_value_that_is_not_taken_is_returned_to_all_the_same() {
    let cache: Cache<u8, Vec<u8>> = Cache::builder("load").max_bytes(ByteSize::kib(1)).build().unwrap();
    let mut load = pin!(cache.try_get_or_load_async(&1, |_| async { Ok::<_, ()>(vec![0; 5_000]) }));
    assert!(matches!(poll(load.as_mut()), Poll::Ready(Ok(value)) if value.len() == 5_000));
    assert_eq!((cache.len(), cache.stats().rejections), (0, 1));
}

#[test]
fn a_load_that_asks_for_its_own_key_gets_an_error() {
    let cache = cache();
    let (inner, outer) = (cache.clone(), pin!(cache.try_get_or_load_async("k", |_| async { Ok::<_, ()>(1) })));
    let nested = cache.try_get_or_load_async("nested", move |_| async move {
        let own = inner.try_get_or_load_async("nested", |_| async { Ok::<_, ()>(0) }).await;
        assert!(matches!(own, Err(LoadError::Reentrant)), "{own:?}");
        inner.try_get_or_load_async("other", |_| async { Ok(3) }).await.map_err(|_: LoadError<()>| ())
    });
    assert_eq!(poll(pin!(nested)).map(Result::ok), Poll::Ready(Some(3)));
    assert_eq!(poll(outer).map(Result::ok), Poll::Ready(Some(1)));
    assert_eq!(cache.len(), 3);
}

#[test]
fn who_asks_with_another_error_type_loads_for_himself() {
    let (cache, remote) = (cache(), Remote::default());
    let mut first = Box::pin(cache.try_get_or_load_async("k", |_| remote.load()));
    assert!(poll(first.as_mut()).is_pending());
    let other = pin!(cache.try_get_or_load_async("k", |_| async { Ok::<_, String>(8) }));
    assert_eq!(poll(other).map(Result::ok), Poll::Ready(Some(8)));
    remote.end(Ok(9));
    assert_eq!(poll(first.as_mut()).map(Result::ok), Poll::Ready(Some(9)));
}

#[test]
fn what_a_load_is_expected_to_take_is_held_until_it_ends_or_is_dropped() {
    let budget = MemoryBudget::new(ByteSize::kib(40));
    let cache: Cache<String, u32> = Cache::builder("load")
        .max_bytes(ByteSize::kib(30))
        .reserve_per_load(ByteSize::kib(20))
        .account(budget.account("load").unwrap())
        .build()
        .unwrap();
    let remote = Remote::default();
    let held = || (cache.stats().loading, budget.reserved() >= ByteSize::kib(20));
    let mut call = Box::pin(cache.try_get_or_load_async("k", |_| remote.load()));
    assert_eq!(held(), (ByteSize::ZERO, false));
    assert!(poll(call.as_mut()).is_pending());
    assert_eq!(held(), (ByteSize::kib(20), true));
    drop(call);
    assert_eq!(held(), (ByteSize::ZERO, false));
    let mut call = Box::pin(cache.try_get_or_load_async("k", |_| remote.load()));
    assert!(poll(call.as_mut()).is_pending());
    remote.end(Ok(1));
    assert_eq!(poll(call.as_mut()).map(Result::ok), Poll::Ready(Some(1)));
    assert_eq!(held(), (ByteSize::ZERO, false));

    let _other = budget.account("other").unwrap().try_reserve(ByteSize::kib(25)).unwrap();
    let refused = pin!(cache.try_get_or_load_async("l", |_| remote.load()));
    assert!(matches!(poll(refused), Poll::Ready(Err(LoadError::BudgetExceeded(_)))));
    assert_eq!((remote.starts(), held()), (2, (ByteSize::ZERO, true)));
}

#[test]
fn a_call_that_was_forgotten_holds_up_nobody_and_does_not_keep_the_cache() {
    let cache: Cache<String, Arc<u32>> =
        Cache::builder("load").max_entries(9).reserve_per_load(ByteSize::mib(1)).build().unwrap();
    let kept = Arc::new(1);
    let alive: Weak<u32> = Arc::downgrade(&kept);
    cache.insert("kept".into(), kept).unwrap();
    let remote = Remote::default();
    let load = |_| {
        let load = remote.load();
        async { load.await.map(Arc::new) }
    };
    let mut forgotten = ManuallyDrop::new(Box::pin(cache.try_get_or_load_async("k", load)));
    assert!(poll(forgotten.as_mut()).is_pending());
    let mut next = Box::pin(cache.try_get_or_load_async("k", load));
    assert!(poll(next.as_mut()).is_pending());
    remote.end(Ok(3));
    assert!(matches!(poll(next.as_mut()), Poll::Ready(Ok(value)) if *value == 3));
    drop(next);
    assert_eq!(remote.starts(), 1);

    let mut forgotten = ManuallyDrop::new(Box::pin(cache.try_get_or_load_async("l", load)));
    assert!(poll(forgotten.as_mut()).is_pending());
    drop(cache);
    assert_eq!(alive.strong_count(), 0);
}
