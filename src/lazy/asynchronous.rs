//! The resource that is loaded by a future, which its waiters poll.

use std::fmt;
use std::future::{Future, poll_fn, ready};
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::budget::{Account, Pressure, Reclaim, ReclaimPriority};
use crate::clock::{Clock, millis};
use crate::heap;
use crate::singleflight::{Abandonment, BoxFuture, Joined, SharedFuture, Waiter};
use crate::size::ByteSize;
use crate::unwind::contained;

use super::backoff::Backoff;
use super::core::ResourceCore;
use super::error::{LazyError, LoadFailure};
use super::face::face;
use super::generation::Pinned;
use super::load::{InFlight, Outcome};
use super::state::{Lookup, Purpose, Then};
use super::status::sealed::Sealed;
use super::status::{Resource, ResourceStatus};

/// A load in flight.
type SharedLoad<T, E> = SharedFuture<Outcome<T, E>>;

/// The next step of a caller. A load that it starts has this caller as its first waiter.
type NextStep<T, E> = Lookup<T, E, SharedLoad<T, E>, Waiter<Outcome<T, E>>>;

/// The future of a loader in a `static`, where its type must have a name.
///
/// # Examples
///
/// ```
/// use plimsoll::lazy::BoxedLoad;
///
/// fn load() -> BoxedLoad<String, std::io::Error> {
///     Box::pin(async { Ok("hello".to_owned()) })
/// }
/// # let _ = load();
/// ```
pub type BoxedLoad<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// The future of a refresh, for the function of [`AsyncLazyResource::refresh_on`].
///
/// # Examples
///
/// ```
/// use plimsoll::lazy::BoxedRefresh;
///
/// fn spawn(refresh: BoxedRefresh) {
///     tokio::spawn(refresh);
/// }
/// # let _ = spawn;
/// ```
pub type BoxedRefresh = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Loads a value by a future when it is first asked for: one load, shared by all callers, on any runtime or none.
///
/// The load belongs to all callers that wait for it, and one of them polls it. A caller that is cancelled neither ends nor
/// repeats it. When the last of them is cancelled, the load is dropped: that is a failed attempt, and the next caller starts
/// another one. For failures and unloading see [`LazyResource`](super::LazyResource).
///
/// While there is an old value, no caller waits for a refresh: [`refresh_after`](Self::refresh_after) describes which
/// callers poll it, and [`refresh_on`](Self::refresh_on) moves it to a task.
///
/// A panic in the load passes through to the caller that started it, if that caller polls. If another caller polls, that
/// caller starts a load of its own and the first one gets [`LazyError::Panicked`].
///
/// A load that needs a runtime, as the timers of `tokio` do, is bound to the runtime on which it was first polled. If that
/// runtime is shut down, a caller on another one finds the load panicked, and starts its own.
///
/// # Deadlocks
///
/// A load that waits for its own resource gets [`LazyError::Reentrant`] if it asks inside its own poll. If two loads wait
/// for the resource of each other, on two tasks, both wait without end: this is not detected. A timeout ends it.
///
/// The caller that polls the load is the one that is woken. If it keeps its future without polling or dropping it, other
/// waiters wait until another call polls the load. So do not hold an unfinished `get` across another `await`.
///
/// # Cost
///
/// As [`LazyResource`](super::LazyResource), and two allocations more: for the future and its waker.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use plimsoll::AsyncLazyResource;
///
/// static GREETING: AsyncLazyResource<String, Infallible> =
///     AsyncLazyResource::new("greeting", || Box::pin(async { Ok("hello".to_owned()) }));
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let greeting = GREETING.get().await?;
/// assert_eq!(*greeting, "hello");
/// # Ok::<(), plimsoll::LazyError<Infallible>>(())
/// # }).unwrap();
/// ```
pub struct AsyncLazyResource<T, E, F = fn() -> BoxedLoad<T, E>> {
    core: ResourceCore<T, E, SharedLoad<T, E>>,
    refresh_on: Option<fn(BoxedRefresh)>,
    load: F,
}

impl<T, E> AsyncLazyResource<T, E> {
    /// Makes a resource; nothing is loaded yet. The name goes into reports as it is.
    ///
    /// The loader is a function, or a closure that captures nothing: so the type of a `static` has a name.
    #[track_caller]
    pub const fn new(name: &'static str, load: fn() -> BoxedLoad<T, E>) -> Self {
        Self::capturing(name, load)
    }
}

impl<T, E, F> AsyncLazyResource<T, E, F> {
    /// Makes a resource with a loader that may capture; nothing is loaded yet. It runs once for each load.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use plimsoll::AsyncLazyResource;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let bucket = "orders".to_owned();
    /// let head = AsyncLazyResource::capturing("head", move || {
    ///     let bucket = bucket.clone();
    ///     async move { Ok::<_, Infallible>(format!("the head of {bucket}")) }
    /// });
    /// assert_eq!(*head.get().await?, "the head of orders");
    /// # Ok::<(), plimsoll::LazyError<Infallible>>(())
    /// # }).unwrap();
    /// ```
    #[track_caller]
    pub const fn capturing(name: &'static str, load: F) -> Self {
        Self { core: ResourceCore::new(name, Location::caller()), refresh_on: None, load }
    }

    /// Sets the function that runs refreshes in the background, for example `tokio::spawn`. Default: none, callers poll
    /// them.
    ///
    /// A caller that finds the value stale and due for a refresh calls `spawn` with the refresh, and returns the stale
    /// value. The first call after the refresh has ended returns the new value. If `spawn` panics or drops the future, or if
    /// its runtime is shut down, that is a failed attempt. A load without an old value is not spawned: its callers poll it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    /// use plimsoll::AsyncLazyResource;
    ///
    /// static RATES: AsyncLazyResource<u64, Infallible> = AsyncLazyResource::new("rates", || Box::pin(async { Ok(7) }))
    ///     .refresh_after(Duration::from_secs(60))
    ///     .refresh_on(|refresh| {
    ///         tokio::spawn(refresh);
    ///     });
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// assert_eq!(*RATES.get().await?, 7);
    /// # Ok::<(), plimsoll::LazyError<Infallible>>(())
    /// # }).unwrap();
    /// ```
    #[must_use = "a setting makes a new resource"]
    pub const fn refresh_on(mut self, spawn: fn(BoxedRefresh)) -> Self {
        self.refresh_on = Some(spawn);
        self.core.has_drivers = true;
        self
    }
}

impl<T, E, F, L> AsyncLazyResource<T, E, F>
where
    T: Send + Sync + 'static,
    E: Send + Sync + 'static,
    F: Fn() -> L + Sync,
    L: Future<Output = Result<T, E>> + Send + 'static,
{
    /// Returns the value, and loads it if there is none. Nothing happens until the future is polled.
    ///
    /// If there is an old value, it is returned at the first poll; see [`refresh_after`](Self::refresh_after).
    ///
    /// # Errors
    ///
    /// [`LazyError::Failed`] if the load fails, or has failed and the next attempt is not due.
    /// [`LazyError::OverBudget`] if the budget has no room for it. [`LazyError::Reentrant`] inside a poll of the load
    /// itself. [`LazyError::Panicked`] if the load that this call started panicked while another waiter polled it. If there
    /// is a value to show, that is returned instead of an error.
    ///
    /// # Deadlocks
    ///
    /// See the [type](Self).
    #[track_caller]
    pub fn get(&self) -> impl Future<Output = Result<Pinned<T>, LazyError<E>>> + Send {
        let caller = Location::caller();
        async move {
            if let Some(pin) = self.core.pin() {
                return Ok(pin);
            }
            self.core.touch(caller);
            self.find_or_load(Purpose::Get).await
        }
    }

    /// Loads the value if it is not there, without counting as a use: for the init phase, for what every request needs.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use plimsoll::AsyncLazyResource;
    ///
    /// static PRICES: AsyncLazyResource<Vec<u64>, Infallible> =
    ///     AsyncLazyResource::new("prices", || Box::pin(async { Ok(vec![10, 20]) }));
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// PRICES.prefetch().await?; // in `main`, before the first request
    /// assert!(PRICES.status().is_never_used());
    /// # Ok::<(), plimsoll::LazyError<Infallible>>(())
    /// # }).unwrap();
    /// ```
    pub async fn prefetch(&self) -> Result<(), LazyError<E>> {
        self.find_or_load(Purpose::Get).await.map(drop)
    }

    /// Loads the value again, or waits for the load that is in flight. Does not count as a use.
    ///
    /// For a task of your own that refreshes the value before callers find it stale, or that drives a refresh which too few
    /// callers poll. It ignores [`refresh_after`](Self::refresh_after) and the wait after failures: the caller chooses the
    /// time. Until it succeeds, callers get the old value. If it is dropped, and no other caller waits for its load, that is
    /// a failed attempt.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), also if there is an old value, which stays. [`LazyError::Failed`] with
    /// [`FailureCause::TimedOut`](super::FailureCause::TimedOut) if the load counts as hung.
    ///
    /// # Deadlocks
    ///
    /// See the [type](Self).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    /// use plimsoll::AsyncLazyResource;
    ///
    /// static RATES: AsyncLazyResource<u64, Infallible> = AsyncLazyResource::new("rates", || Box::pin(async { Ok(7) }));
    ///
    /// async fn refresh_each_minute() {
    ///     loop {
    ///         tokio::time::sleep(Duration::from_secs(60)).await;
    ///         if let Err(error) = RATES.refresh().await {
    ///             eprintln!("{error}"); // the old value stays
    ///         }
    ///     }
    /// }
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// # let task = tokio::spawn(refresh_each_minute());
    /// # RATES.refresh().await?;
    /// # task.abort();
    /// # assert_eq!(RATES.status().loads, 1);
    /// # Ok::<(), plimsoll::LazyError<Infallible>>(())
    /// # }).unwrap();
    /// ```
    pub async fn refresh(&self) -> Result<(), LazyError<E>> {
        self.find_or_load(Purpose::Refresh).await.map(drop)
    }

    async fn find_or_load(&self, purpose: Purpose) -> Result<Pinned<T>, LazyError<E>> {
        loop {
            let (mut waiting, then, is_starter) = match self.look_up(purpose) {
                Lookup::Found(pin) => return Ok(pin),
                Lookup::Stale(pin, refresh) => match self.poll_refresh(pin, refresh) {
                    Some(pin) => return Ok(pin),
                    None => continue,
                },
                Lookup::Failed(failure) => return Err(self.core.to_error(&failure)),
                Lookup::Start { started, attempt, stale: Some(pin) } => {
                    let refresh = self.start_refresh(started, attempt);
                    match self.poll_refresh(pin, Some(refresh)) {
                        Some(pin) => return Ok(pin),
                        None => continue,
                    }
                }
                Lookup::Start { started, attempt, stale: None } => {
                    let mut waiting = Waiting { core: &self.core, waiter: started };
                    waiting.waiter.start(|| self.make_load(attempt));
                    (waiting, Then::Return, true)
                }
                Lookup::Wait { handle, then } => (Waiting { core: &self.core, waiter: handle.waiter() }, then, false),
            };
            let attempts = if purpose == Purpose::Refresh { self.failed_attempts() } else { 0 };
            let joined = poll_fn(|cx| Pin::new(&mut waiting.waiter).poll(cx)).await;
            self.core.collect_ended();
            match joined {
                Joined::Complete(outcome) => {
                    // The handle has the outcome too, which would count as a pin.
                    drop(waiting);
                    self.core.reclaim_overdraft();
                    match then {
                        Then::Return => return self.core.deliver(outcome, None),
                        Then::ReturnStale => return self.core.deliver(outcome, None).map(Pinned::into_stale),
                        Then::LookAgain => {}
                    }
                }
                Joined::Reentrant => return Err(LazyError::Reentrant { name: self.core.name() }),
                Joined::Abandoned => match waiting.waiter.shared().abandonment() {
                    Some(Abandonment::Panicked) if is_starter => {
                        return Err(LazyError::Panicked { name: self.core.name() });
                    }
                    Some(Abandonment::Stopped) if purpose == Purpose::Refresh => {
                        // Its own failure. A load that was stopped by `unload` has none.
                        let failure = self.core.last_failure();
                        if let Some(failure) = failure.filter(|failure| failure.attempts > attempts) {
                            return Err(self.core.to_error(&failure));
                        }
                    }
                    // A caller starts at most one load that panics, so this ends.
                    _ => {}
                },
            }
        }
    }

    fn failed_attempts(&self) -> u32 {
        self.core.last_failure().map_or(0, |failure| failure.attempts)
    }

    fn look_up(&self, purpose: Purpose) -> NextStep<T, E> {
        // The poll that follows brings the waker of the caller. To clone it here would run its code under the lock.
        let start = |_| {
            let starter = SharedFuture::begin(Waker::noop().clone());
            (Arc::clone(starter.shared()), starter)
        };
        self.core.look_up(purpose, start)
    }

    /// Starts a refresh that no caller waits for. A panic counts as a failed attempt.
    fn start_refresh(&self, starter: Waiter<Outcome<T, E>>, attempt: u32) -> Arc<SharedLoad<T, E>> {
        let refresh = Arc::clone(starter.shared());
        contained(|| starter.detach(|| self.make_load(attempt)));
        if let Some(spawn) = self.refresh_on {
            let driver = Driver { waiter: Some(refresh.waiter()) };
            contained(|| spawn(Box::pin(driver)));
        }
        refresh
    }

    /// Polls the refresh if callers poll it and it can continue. Returns the new value if there is one, else the stale one.
    /// `None` if the stale one is too old after that.
    fn poll_refresh(&self, stale: Pinned<T>, refresh: Option<Arc<SharedLoad<T, E>>>) -> Option<Pinned<T>> {
        let Some(refresh) = refresh else { return self.core.deliver_stale(stale) };
        let has_ended = if self.refresh_on.is_none() { refresh.poll_if_woken() } else { refresh.ended().is_some() };
        if !has_ended {
            return self.core.deliver_stale(stale);
        }
        self.core.collect_ended();
        self.core.reclaim_overdraft();
        match refresh.output() {
            Some(Joined::Complete(Outcome::Loaded(generation))) => {
                // Its `Drop` may panic, so not when the result is complete.
                drop(stale);
                Some(self.core.deliver_late(generation))
            }
            _ => self.core.deliver_stale(stale),
        }
    }

    /// Makes the future of a load, which lives longer than the caller.
    fn make_load(&self, attempt: u32) -> BoxFuture<Outcome<T, E>> {
        let pending = match self.core.start_load(attempt) {
            Ok(pending) => pending,
            Err(refused) => return Box::pin(ready(Outcome::Refused(refused))),
        };
        // The memory of the future itself is freed in its last poll.
        let (load, made) = heap::scope(&self.load);
        Box::pin(async move {
            let (loaded, polled) = heap::scope_async(load).await;
            pending.finish(loaded, made.zip(polled).map(|(made, polled)| made.then(polled)))
        })
    }
}

/// A caller that waits for a load.
struct Waiting<'a, T: Send + Sync + 'static, E: Send + Sync + 'static> {
    core: &'a ResourceCore<T, E, SharedLoad<T, E>>,
    waiter: Waiter<Outcome<T, E>>,
}

impl<T: Send + Sync + 'static, E: Send + Sync + 'static> Drop for Waiting<'_, T, E> {
    fn drop(&mut self) {
        /// Records a load that was abandoned, also if the future or the waker panics when it is dropped.
        struct Collect<'a, T, E>(&'a ResourceCore<T, E, SharedLoad<T, E>>);
        impl<T, E> Drop for Collect<'_, T, E> {
            fn drop(&mut self) {
                contained(|| self.0.collect_ended());
            }
        }
        let _collect = Collect(self.core);
        self.waiter.leave();
    }
}

/// The refresh for the function of `refresh_on`. Dropped before the end, it abandons the load.
struct Driver<T: Send + Sync + 'static, E: Send + Sync + 'static> {
    /// `None` after the end, so that a driver that is kept does not keep the value.
    waiter: Option<Waiter<Outcome<T, E>>>,
}

impl<T: Send + Sync + 'static, E: Send + Sync + 'static> Future for Driver<T, E> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.waiter.as_mut().map_or(Poll::Ready(()), |waiter| Pin::new(waiter).poll(cx).map(drop));
        if polled.is_ready() {
            self.waiter = None;
        }
        polled
    }
}

impl<T: Send + Sync + 'static, E: Send + Sync + 'static> Drop for Driver<T, E> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            contained(|| waiter.shared().abandon());
            contained(|| drop(waiter));
        }
    }
}

face!(
    AsyncLazyResource,
    " A caller that finds the value due starts the refresh, polls it once, and returns the stale value unless the",
    " refresh is ready. Each later caller polls it once if it was woken since. Nothing else polls it: with few calls, or",
    " with an environment that is frozen between them, a refresh that needs several polls takes as many calls. Use",
    " [`refresh_on`](Self::refresh_on) or [`refresh`](Self::refresh) to have it driven in the background.",
    "",
    " A refresh counts as hung if calls find that it was not polled for the longest wait of the back-off, at least 30 s,",
    " and at least twice the duration of the last load. The time between two calls counts for at most half of that, because",
    " the process may have been frozen. A hung refresh is dropped, as a failed attempt, so that one request without an",
    " answer does not end all refreshes.",
);
