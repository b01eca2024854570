//! Shared futures, with futures and wakers that the test controls.

use std::future::{self, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use super::{Abandonment, BoxFuture, Joined, SharedFuture, Waiter};

#[path = "latch_tests.rs"]
mod latch;
#[path = "panic_tests.rs"]
mod panics;
#[path = "random_tests.rs"]
mod random;

/// A task that counts how often it is woken.
#[derive(Default)]
struct Task(Arc<Count>);

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Task {
    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.0))
    }

    fn poll<T: Clone + Send + 'static>(&self, waiter: &mut Waiter<T>) -> Poll<Joined<T>> {
        Pin::new(waiter).poll(&mut Context::from_waker(&self.waker()))
    }

    /// Returns the number of wake-ups since the last call.
    fn woken(&self) -> usize {
        self.0.0.swap(0, SeqCst)
    }
}

/// A future in the hands of the test, and its counters.
#[derive(Clone, Default)]
struct Remote(Arc<RemoteState>);

#[derive(Default)]
struct RemoteState {
    output: Mutex<Option<u32>>,
    waker: Mutex<Option<Waker>>,
    panics: AtomicBool,
    polls: AtomicUsize,
    drops: AtomicUsize,
}

impl Remote {
    fn future(&self) -> BoxFuture<u32> {
        struct Dropped(Remote);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.0.drops.fetch_add(1, SeqCst);
            }
        }
        let remote = Dropped(self.clone());
        Box::pin(poll_fn(move |cx| {
            let state = &remote.0.0;
            state.polls.fetch_add(1, SeqCst);
            assert!(!state.panics.load(SeqCst), "the future panics (this panic belongs to the test)");
            *state.waker.lock().unwrap() = Some(cx.waker().clone());
            state.output.lock().unwrap().take().map_or(Poll::Pending, Poll::Ready)
        }))
    }

    /// Starts the future for `task`, which polls it once.
    fn start(&self, task: &Task) -> Waiter<u32> {
        let mut starter = SharedFuture::begin(task.waker());
        starter.start(|| self.future());
        starter
    }

    fn wake(&self) {
        self.0.waker.lock().unwrap().as_ref().unwrap().wake_by_ref();
    }

    fn end(&self, output: u32) {
        *self.0.output.lock().unwrap() = Some(output);
        self.wake();
    }

    fn polls(&self) -> usize {
        self.0.polls.load(SeqCst)
    }

    fn drops(&self) -> usize {
        self.0.drops.load(SeqCst)
    }
}

/// The tasks and waiters of a started future. The first one started it.
fn waiters(remote: &Remote, count: usize) -> (Vec<Task>, Vec<Waiter<u32>>) {
    let tasks: Vec<Task> = (0..count).map(|_| Task::default()).collect();
    let mut waiters = vec![remote.start(&tasks[0])];
    for task in &tasks[1..] {
        let mut waiter = waiters[0].shared().waiter();
        assert!(task.poll(&mut waiter).is_pending());
        waiters.push(waiter);
    }
    (tasks, waiters)
}

fn woken(tasks: &[Task]) -> Vec<usize> {
    tasks.iter().map(Task::woken).collect()
}

/// Runs `work`, which must panic.
fn must_panic<T>(work: impl FnOnce() -> T) {
    assert!(catch_unwind(AssertUnwindSafe(|| drop(work()))).is_err());
}

#[test]
fn output_reaches_all_waiters_and_later_ones() {
    let remote = Remote::default();
    let (tasks, mut waiters) = waiters(&remote, 3);
    remote.end(7);
    let shared = Arc::clone(waiters[0].shared());
    for (task, waiter) in tasks.iter().zip(&mut waiters) {
        assert_eq!(task.poll(waiter), Poll::Ready(Joined::Complete(7)));
    }
    assert_eq!(tasks[0].poll(&mut shared.waiter()), Poll::Ready(Joined::Complete(7)));
    assert_eq!((shared.output(), shared.waiting(), shared.abandonment()), (Some(Joined::Complete(7)), 0, None));
    assert_eq!(remote.polls(), 2);
}

#[test]
fn wake_up_wakes_the_driver_and_the_end_wakes_all() {
    let remote = Remote::default();
    let (tasks, mut waiters) = waiters(&remote, 3);
    remote.wake();
    assert_eq!(woken(&tasks), [1, 0, 0]);
    assert!(tasks[0].poll(&mut waiters[0]).is_pending());
    remote.end(7);
    assert_eq!(woken(&tasks), [1, 0, 0]);
    assert_eq!(tasks[0].poll(&mut waiters[0]), Poll::Ready(Joined::Complete(7)));
    assert_eq!(woken(&tasks), [1, 1, 1]);
    assert_eq!(remote.drops(), 1, "the future is dropped when it is complete, and not with its last waiter");
}

#[test]
fn waiter_polled_after_a_wake_up_becomes_the_driver() {
    let remote = Remote::default();
    let (tasks, mut waiters) = waiters(&remote, 3);
    remote.wake();
    assert!(tasks[2].poll(&mut waiters[2]).is_pending());
    assert!(tasks[0].poll(&mut waiters[0]).is_pending());
    assert_eq!((remote.polls(), woken(&tasks)), (2, vec![1, 0, 0]));
    remote.wake();
    assert_eq!(woken(&tasks), [0, 0, 1]);
}

#[test]
fn driver_that_leaves_passes_its_wake_up_on() {
    let remote = Remote::default();
    let (tasks, mut waiters) = waiters(&remote, 3);
    remote.end(7);
    drop(waiters.remove(0));
    assert_eq!(woken(&tasks), [1, 1, 0]);
    drop(waiters.remove(0));
    assert_eq!(woken(&tasks), [0, 0, 1]);
    assert_eq!(tasks[2].poll(&mut waiters[0]), Poll::Ready(Joined::Complete(7)));
    assert_eq!((remote.polls(), remote.drops()), (2, 1));
}

#[test]
fn driver_that_leaves_without_a_wake_up_is_replaced_at_the_next() {
    let remote = Remote::default();
    let (tasks, mut waiters) = waiters(&remote, 2);
    drop(waiters.remove(0));
    assert_eq!(woken(&tasks), [0, 0]);
    remote.wake();
    assert_eq!(woken(&tasks), [0, 1]);
}

#[test]
fn many_waiters_and_wake_ups_poll_once_per_wake_up() {
    let remote = Remote::default();
    let (tasks, mut waiters) = waiters(&remote, 1000);
    let mut polled = 0;
    for _ in 0..200 {
        remote.wake();
        for (task, waiter) in tasks.iter().zip(&mut waiters) {
            // As an executor does.
            if task.woken() > 0 {
                polled += 1;
                assert!(task.poll(waiter).is_pending());
            }
        }
    }
    assert_eq!((remote.polls(), polled), (201, 200));
    assert_eq!(waiters[0].shared().polls_if_idle(), Some(201));
}

#[test]
fn wake_up_during_the_poll_is_kept() {
    let task = Task::default();
    let mut polls = 0;
    let mut waiter = SharedFuture::begin(task.waker());
    waiter.start(|| {
        Box::pin(poll_fn(move |cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls == 3 { Poll::Ready(polls) } else { Poll::Pending }
        }))
    });
    assert_eq!(task.woken(), 1);
    assert!(task.poll(&mut waiter).is_pending());
    assert_eq!(task.woken(), 1);
    assert_eq!(task.poll(&mut waiter), Poll::Ready(Joined::Complete(3)));
}

#[test]
fn last_waiter_that_leaves_abandons_and_drops_the_future() {
    let remote = Remote::default();
    let (tasks, mut waiters) = waiters(&remote, 2);
    let shared = Arc::clone(waiters[0].shared());
    drop(shared.waiter()); // not polled, so it has no part in it
    assert!(!waiters[0].leave());
    assert_eq!((remote.drops(), shared.output()), (0, None));
    assert!(waiters[1].leave());
    assert_eq!((remote.drops(), shared.abandonment()), (1, Some(Abandonment::Left)));
    assert!(!waiters[1].leave(), "it has left");
    assert_eq!(tasks[0].poll(&mut shared.waiter()), Poll::Ready(Joined::Abandoned));
    remote.wake();
    assert_eq!(woken(&tasks), [0, 0]);
}

#[test]
fn future_is_dropped_outside_the_lock() {
    struct Looks(Arc<SharedFuture<u32>>, Arc<AtomicUsize>);
    impl Drop for Looks {
        fn drop(&mut self) {
            assert_eq!(self.0.output(), None, "no waiter learns of the end before this");
            assert_eq!(Task::default().poll(&mut self.0.waiter()), Poll::Ready(Joined::Reentrant));
            self.1.fetch_add(1, SeqCst);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    for how in 0..3 {
        let mut waiter = SharedFuture::begin(Waker::noop().clone());
        let looks = Looks(Arc::clone(waiter.shared()), Arc::clone(&drops));
        waiter.start(|| {
            Box::pin(async move { future::pending::<u32>().await + u32::from(Arc::strong_count(&looks.1) > 9) })
        });
        match how {
            0 => drop(waiter),
            1 => waiter.shared().abandon(),
            _ => assert!(waiter.leave()),
        }
    }
    assert_eq!(drops.load(SeqCst), 3);
}

#[test]
fn starter_that_leaves_before_it_starts_abandons() {
    let task = Task::default();
    let mut starter = SharedFuture::<u32>::begin(Waker::noop().clone());
    let mut other = starter.shared().waiter();
    assert_eq!(task.poll(&mut other), Poll::Ready(Joined::Reentrant), "this thread is about to make it");
    thread::scope(|scope| scope.spawn(|| assert!(task.poll(&mut other).is_pending())).join().unwrap());
    assert!(starter.leave());
    assert_eq!((task.woken(), task.poll(&mut other)), (1, Poll::Ready(Joined::Abandoned)));
    assert_eq!(starter.shared().abandonment(), Some(Abandonment::Left));
}

#[test]
fn waiter_inside_the_poll_gets_reentrant() {
    let mut starter = SharedFuture::begin(Waker::noop().clone());
    let shared = Arc::clone(starter.shared());
    let inner = Arc::clone(&shared);
    starter.start(|| Box::pin(async move { inner.waiter().await == Joined::Reentrant }));
    assert_eq!(shared.output(), Some(Joined::Complete(true)));

    // Another thread is not inside the poll.
    let (begun, in_poll) = mpsc::channel();
    let (polled, go_on) = mpsc::channel::<()>();
    let mut other = thread::scope(|scope| {
        scope.spawn(move || {
            let mut starter = SharedFuture::begin(Waker::noop().clone());
            let other = starter.shared().waiter();
            starter.start(move || {
                begun.send(other).unwrap();
                assert!(go_on.recv().is_ok());
                Box::pin(future::ready(1))
            });
        });
        let mut other = in_poll.recv().unwrap();
        let joined = Task::default().poll(&mut other);
        polled.send(()).unwrap();
        assert!(joined.is_pending());
        other
    });
    assert_eq!(Task::default().poll(&mut other), Poll::Ready(Joined::Complete(1)));
}

#[test]
fn detached_future_stays_without_waiters() {
    let remote = Remote::default();
    let starter = SharedFuture::begin(Waker::noop().clone());
    let shared = Arc::clone(starter.shared());
    starter.detach(|| remote.future());
    assert_eq!((remote.polls(), shared.waiting()), (0, 0));
    assert!(!shared.poll_if_woken() && !shared.poll_if_woken());
    assert_eq!((remote.polls(), shared.polls_if_idle()), (1, Some(1)));
    let task = Task::default();
    let mut waiter = shared.waiter();
    assert!(task.poll(&mut waiter).is_pending());
    remote.wake();
    assert_eq!((task.woken(), shared.polls_if_idle()), (1, Some(1)));
    assert!(!waiter.leave() && !shared.poll_if_woken());
    assert_eq!((remote.polls(), remote.drops()), (2, 0));
    remote.end(3);
    assert!(shared.poll_if_woken() && shared.poll_if_woken());
    assert_eq!((shared.output(), remote.drops()), (Some(Joined::Complete(3)), 1));
}

#[test]
fn detached_future_wakes_the_waiter_that_came_before() {
    let (remote, task) = (Remote::default(), Task::default());
    let starter = SharedFuture::begin(Waker::noop().clone());
    let mut waiter = starter.shared().waiter();
    thread::scope(|scope| scope.spawn(|| assert!(task.poll(&mut waiter).is_pending())).join().unwrap());
    starter.detach(|| remote.future());
    assert_eq!(task.woken(), 1);
    assert!(task.poll(&mut waiter).is_pending());
    assert_eq!(remote.polls(), 1);
}

#[test]
fn abandon_wakes_the_waiters_and_keeps_an_output() {
    let remote = Remote::default();
    let (tasks, mut waiters) = waiters(&remote, 2);
    let shared = Arc::clone(waiters[0].shared());
    shared.abandon();
    assert_eq!((woken(&tasks), remote.drops()), (vec![1, 1], 1));
    assert_eq!(tasks[1].poll(&mut waiters[1]), Poll::Ready(Joined::Abandoned));
    assert_eq!(shared.abandonment(), Some(Abandonment::Stopped));

    let mut complete = SharedFuture::begin(Waker::noop().clone());
    complete.start(|| Box::pin(future::ready(1)));
    complete.shared().abandon();
    assert_eq!(complete.shared().output(), Some(Joined::Complete(1)));
}

#[test]
fn abandon_during_a_poll_waits_for_its_end() {
    struct Counts(Arc<AtomicUsize>);
    impl Drop for Counts {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    for ready in [false, true] {
        let drops = Arc::new(AtomicUsize::new(0));
        let mut starter = SharedFuture::begin(Waker::noop().clone());
        let (shared, counts) = (Arc::clone(starter.shared()), Counts(Arc::clone(&drops)));
        starter.start(|| {
            Box::pin(poll_fn(move |_| {
                assert_eq!(counts.0.load(SeqCst), 0);
                shared.abandon();
                assert_eq!(shared.output(), None);
                if ready { Poll::Ready(1) } else { Poll::Pending }
            }))
        });
        assert_eq!(drops.load(SeqCst), 1);
        let joined = if ready { Joined::Complete(1) } else { Joined::Abandoned };
        assert_eq!(Task::default().poll(&mut starter), Poll::Ready(joined));
    }
}

#[test]
fn waker_left_behind_keeps_neither_future_nor_output() {
    let output = Arc::new(5);
    let (alive, wakers) = (Arc::downgrade(&output), Arc::new(Mutex::new(Vec::new())));
    let kept = Arc::clone(&wakers);
    let mut starter = SharedFuture::begin(Waker::noop().clone());
    starter.start(|| {
        Box::pin(poll_fn(move |cx| {
            kept.lock().unwrap().push(cx.waker().clone());
            cx.waker().wake_by_ref();
            if kept.lock().unwrap().len() < 2 { Poll::Pending } else { Poll::Ready(Arc::clone(&output)) }
        }))
    });
    assert!(matches!(Task::default().poll(&mut starter), Poll::Ready(Joined::Complete(output)) if *output == 5));
    drop(starter);
    assert_eq!(Weak::strong_count(&alive), 0);
    let wakers = std::mem::take(&mut *wakers.lock().unwrap());
    assert!(wakers[0].will_wake(&wakers[1]));
    wakers.into_iter().for_each(Waker::wake);
}

#[test]
fn half_of_a_thousand_cancelled_tasks_leave_one_load() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let all_wait = Arc::new(AtomicBool::new(false));
    let (ended, gate) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&all_wait));
    let counted = Arc::clone(&ended);
    runtime.block_on(async {
        let mut starter = SharedFuture::begin(Waker::noop().clone());
        let shared = Arc::clone(starter.shared());
        starter.start(|| {
            Box::pin(async move {
                while !gate.load(SeqCst) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                counted.fetch_add(1, SeqCst);
                11
            })
        });
        let tasks: Vec<_> = (0..1000)
            .map(|_| {
                let waiter = shared.waiter();
                tokio::spawn(waiter)
            })
            .collect();
        while shared.waiting() <= 1000 {
            tokio::task::yield_now().await;
        }
        drop(starter);
        let (cancelled, kept): (Vec<_>, Vec<_>) = tasks.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
        for (_, task) in &cancelled {
            task.abort();
        }
        for (_, task) in cancelled {
            assert!(task.await.is_err_and(|error| error.is_cancelled()));
        }
        all_wait.store(true, SeqCst);
        for (_, task) in kept {
            assert_eq!(task.await.unwrap(), Joined::Complete(11));
        }
    });
    assert_eq!(ended.load(SeqCst), 1);
}
