//! The resource that is loaded by a future, which whoever waits for it polls.

use std::fmt;
use std::future::{Future, ready};
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::budget::{Account, Pressure, Rank, Reclaim};
use crate::clock::{Clock, millis};
use crate::flight::Join;
use crate::heap;
use crate::size::ByteSize;

use super::backoff::Backoff;
use super::core::{Core, Failed, Found};
use super::error::{LazyError, LoadFailure};
use super::face::face;
use super::generation::{Generation, Pinned};
use super::status::sealed::Sealed;
use super::status::{Resource, ResourceStatus};

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

/// Loads a value by a future when it is first asked for: one load, shared by all who wait, on any runtime or none.
///
/// Any of the waiters polls the load, so that one who is cancelled neither loses nor repeats it. When all have gone, it
/// is dropped, and the next caller begins anew. For failures, panics and unloading see
/// [`LazyResource`](super::LazyResource).
///
/// A load that needs a runtime around it, as `tokio`'s timers do, is polled within that of its waiters.
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
    core: Core<T, E>,
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
        Self { core: Core::new(name, Location::caller()), load }
    }
}

impl<T, E, F, L> AsyncLazyResource<T, E, F>
where
    T: Send + Sync + 'static,
    E: Send + Sync + 'static,
    F: Fn() -> L + Sync,
    L: Future<Output = Result<T, E>> + Send + 'static,
{
    /// Gets the value, loading it if it is not there. Nothing happens until the future is polled.
    ///
    /// # Errors
    ///
    /// [`LazyError::Failed`], now or stored; [`LazyError::OverBudget`]; [`LazyError::Reentrant`] inside a poll of the
    /// load itself; [`LazyError::Panicked`] where another waiter's poll of this call's load panicked.
    #[track_caller]
    pub fn get(&self) -> impl Future<Output = Result<Pinned<T>, LazyError<E>>> + Send {
        let caller = Location::caller();
        async move {
            if let Some(pin) = self.core.pin() {
                return Ok(pin);
            }
            self.core.touch(caller);
            self.find_or_load().await
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
        self.find_or_load().await.map(drop)
    }

    async fn find_or_load(&self) -> Result<Pinned<T>, LazyError<E>> {
        match self.core.find() {
            Found::Fresh(pin) => Ok(pin),
            Found::Stale(pin) => self.load(Some(pin)).await,
            Found::Nothing => self.load(None).await,
        }
    }

    async fn load(&self, stale: Option<Pinned<T>>) -> Result<Pinned<T>, LazyError<E>> {
        let stale = match stale {
            Some(pin) if self.core.stays_stale() => return Ok(pin.into_stale()),
            stale => stale,
        };
        let failures = AtomicU32::new(0);
        let loaded = Join::new(
            &self.core.flight,
            || self.start(failures.load(Relaxed)),
            |failure| {
                failures.store(failure.error.attempts(), Relaxed);
                self.core.is_due(failure)
            },
            || self.core.clock.now(),
        )
        .await;
        let pin = self.core.conclude(loaded, stale);
        self.core.settle();
        pin
    }

    /// The load as the flight keeps it, for longer than the caller may live.
    fn start(&self, failures: u32) -> BoxedLoad<Arc<Generation<T>>, Failed<E>> {
        match self.core.begin(failures) {
            Err(failed) => Box::pin(ready(Err(failed))),
            Ok(Ok(generation)) => Box::pin(ready(Ok(generation))),
            Ok(Err(begun)) => {
                // What the future is made of is freed in its last poll.
                let (load, made) = heap::scope(&self.load);
                Box::pin(async move {
                    let (loaded, polled) = heap::scope_async(load).await;
                    Core::made(begun, loaded, made.zip(polled).map(|(made, polled)| made.then(polled)))
                })
            }
        }
    }
}

face!(AsyncLazyResource,);
