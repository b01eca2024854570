//! Panics in futures, outputs and wakers: waiters never wait without end.

use std::future::{self, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use super::{Remote, Task, must_panic, waiters, woken};
use crate::singleflight::{Abandonment, BoxFuture, Joined, SharedFuture, Waiter};

/// Panics when it is dropped, unless the thread is panicking.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(thread::panicking(), "dropped (this panic belongs to the test)");
    }
}

/// A waker. The last clone of it panics when it is dropped.
struct Fused(#[allow(dead_code, reason = "dropped")] Bomb);

impl Wake for Fused {
    fn wake(self: Arc<Self>) {}
}

fn poll_fused(waiter: &mut Waiter<u32>) {
    let waker = Waker::from(Arc::new(Fused(Bomb)));
    assert!(Pin::new(waiter).poll(&mut Context::from_waker(&waker)).is_pending());
}

#[test]
fn panic_in_the_poll_of_another_waiter_is_contained() {
    let remote = Remote::default();
    let (tasks, mut waiters) = waiters(&remote, 3);
    remote.wake();
    remote.0.panics.store(true, SeqCst);
    assert_eq!(tasks[1].poll(&mut waiters[1]), Poll::Ready(Joined::Abandoned));
    assert_eq!((woken(&tasks), remote.drops()), (vec![2, 1, 1], 1));
    assert_eq!(waiters[1].shared().abandonment(), Some(Abandonment::Panicked));
    assert_eq!(tasks[0].poll(&mut waiters[0]), Poll::Ready(Joined::Abandoned));
    assert_eq!(tasks[2].poll(&mut waiters[2]), Poll::Ready(Joined::Abandoned));
}

#[test]
fn panic_in_the_poll_of_the_starter_passes_through() {
    let remote = Remote::default();
    let (tasks, mut waiters) = waiters(&remote, 2);
    remote.wake();
    remote.0.panics.store(true, SeqCst);
    must_panic(|| tasks[0].poll(&mut waiters[0]));
    assert_eq!((woken(&tasks), remote.drops()), (vec![2, 1], 1));
    assert_eq!(tasks[1].poll(&mut waiters[1]), Poll::Ready(Joined::Abandoned));
    assert_eq!(tasks[0].poll(&mut waiters[0]), Poll::Ready(Joined::Abandoned));

    let first = Task::default();
    let mut starter = SharedFuture::begin(first.waker());
    let mut other = starter.shared().waiter();
    must_panic(|| starter.start(|| remote.future()));
    assert_eq!(tasks[1].poll(&mut other), Poll::Ready(Joined::Abandoned));
}

#[test]
fn panic_before_there_is_a_future_abandons_it() {
    let task = Task::default();
    for detaches in [false, true] {
        let mut starter = SharedFuture::<u32>::begin(Waker::noop().clone());
        let mut other = starter.shared().waiter();
        thread::scope(|scope| scope.spawn(|| assert!(task.poll(&mut other).is_pending())).join().unwrap());
        let fail = || -> BoxFuture<u32> { panic!("no future (this panic belongs to the test)") };
        must_panic(|| if detaches { starter.detach(fail) } else { starter.start(fail) });
        assert_eq!((task.woken(), task.poll(&mut other)), (1, Poll::Ready(Joined::Abandoned)));
    }
}

#[test]
fn panic_of_a_detached_future_is_contained() {
    let remote = Remote::default();
    remote.0.panics.store(true, SeqCst);
    let starter = SharedFuture::begin(Waker::noop().clone());
    let shared = Arc::clone(starter.shared());
    starter.detach(|| remote.future());
    assert!(shared.poll_if_woken());
    assert_eq!((shared.abandonment(), remote.drops()), (Some(Abandonment::Panicked), 1));
}

#[test]
fn future_that_panics_when_dropped_leaves_no_waiter() {
    let bombed = || -> BoxFuture<u32> {
        let bomb = Bomb;
        let mut polls = 0;
        Box::pin(poll_fn(move |cx| {
            let _bomb = &bomb;
            polls += 1;
            cx.waker().wake_by_ref();
            if polls == 2 { Poll::Ready(polls) } else { Poll::Pending }
        }))
    };
    let tasks = [Task::default(), Task::default()];
    let mut starter = SharedFuture::begin(tasks[0].waker());
    starter.start(bombed);
    let mut other = starter.shared().waiter();
    // Its second poll ends it, and drops it.
    assert_eq!(tasks[1].poll(&mut other), Poll::Ready(Joined::Abandoned));
    assert_eq!(tasks[0].poll(&mut starter), Poll::Ready(Joined::Abandoned));

    let mut starter = SharedFuture::begin(tasks[0].waker());
    starter.start(bombed);
    let shared = Arc::clone(starter.shared());
    must_panic(|| drop(starter));
    assert_eq!(shared.abandonment(), Some(Abandonment::Left));
}

#[test]
fn output_that_panics_when_cloned_leaves_no_lock_held() {
    struct Once(AtomicUsize);
    impl Clone for Once {
        fn clone(&self) -> Self {
            assert_eq!(self.0.fetch_add(1, SeqCst), 0, "cloned twice (this panic belongs to the test)");
            Self(AtomicUsize::new(0))
        }
    }
    let task = Task::default();
    let mut starter = SharedFuture::begin(task.waker());
    starter.start(|| Box::pin(future::ready(Once(AtomicUsize::new(0)))));
    let mut other = starter.shared().waiter();
    assert!(task.poll(&mut starter).is_ready());
    must_panic(|| task.poll(&mut other));
    assert_eq!(starter.shared().waiting(), 0);
}

#[test]
fn waker_that_owns_a_waiter_may_be_dropped_anywhere() {
    // As a task that only its waker keeps alive.
    struct Owner(#[expect(dead_code, reason = "owned")] Mutex<Option<Waiter<u32>>>);
    impl Wake for Owner {
        fn wake(self: Arc<Self>) {}
    }
    let remote = Remote::default();
    let (tasks, mut waiters) = waiters(&remote, 2);
    let waker = Waker::from(Arc::new(Owner(Mutex::new(waiters.pop()))));
    assert!(Pin::new(&mut waiters[0]).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(waker);
    assert_eq!(waiters[0].shared().waiting(), 2);
    assert!(tasks[0].poll(&mut waiters[0]).is_pending(), "the waker is replaced, and its waiter leaves");
    assert_eq!(waiters[0].shared().waiting(), 1);
}

#[test]
fn waker_that_panics_when_replaced_keeps_the_future() {
    let remote = Remote::default();
    let (tasks, mut waiters) = waiters(&remote, 2);
    poll_fused(&mut waiters[0]);
    remote.end(3);
    must_panic(|| tasks[0].poll(&mut waiters[0]));
    assert_eq!(tasks[1].poll(&mut waiters[1]), Poll::Ready(Joined::Complete(3)));
    assert_eq!(tasks[0].poll(&mut waiters[0]), Poll::Ready(Joined::Complete(3)));
}

#[test]
fn waker_that_panics_as_the_last_waiter_leaves_abandons() {
    let remote = Remote::default();
    let (_tasks, mut waiters) = waiters(&remote, 1);
    let shared = Arc::clone(waiters[0].shared());
    poll_fused(&mut waiters[0]);
    must_panic(|| drop(waiters));
    assert_eq!((remote.drops(), shared.abandonment()), (1, Some(Abandonment::Left)));

    let starter = SharedFuture::<u32>::begin(Waker::from(Arc::new(Fused(Bomb))));
    let shared = Arc::clone(starter.shared());
    must_panic(|| drop(starter));
    assert_eq!(shared.abandonment(), Some(Abandonment::Left));
}

#[test]
fn waker_that_panics_keeps_the_wake_ups_of_others() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker that panics (this panic belongs to the test)");
        }
    }
    let remote = Remote::default();
    let (tasks, mut waiters) = waiters(&remote, 3);
    let panics_when_woken = Waker::from(Arc::new(Panics));
    assert!(Pin::new(&mut waiters[0]).poll(&mut Context::from_waker(&panics_when_woken)).is_pending());
    remote.end(1);
    assert_eq!(woken(&tasks), [0, 0, 0]);
    assert_eq!(tasks[2].poll(&mut waiters[2]), Poll::Ready(Joined::Complete(1)));
    assert_eq!(woken(&tasks), [0, 1, 1]);
}
