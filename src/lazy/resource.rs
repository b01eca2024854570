//! The resource that is loaded on its caller's thread.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::{Account, Pressure, Reclaim, ReclaimPriority};
use crate::clock::{Clock, millis};
use crate::heap;
use crate::singleflight::{Latch, WouldDeadlock};
use crate::size::ByteSize;
use crate::sync::thread_id;

use super::backoff::Backoff;
use super::core::ResourceCore;
use super::error::{LazyError, LoadFailure};
use super::face::face;
use super::generation::Pinned;
use super::load::Outcome;
use super::state::{Lookup, Purpose, Then};
use super::status::sealed::Sealed;
use super::status::{Resource, ResourceStatus};

/// Loads a value when it is first asked for, keeps it until it is unloaded, and knows what it costs.
///
/// Declared in a `static`, at no cost. One thread loads, and others that ask for it block until the load has ended. If
/// there is an old value, they get that and do not block. A load that fails is tried again after a wait that doubles from
/// failure to failure; a caller within the wait gets the stored error. A panic in the load passes through to the caller
/// that ran it, and counts as a failed attempt.
///
/// A loader that hangs blocks its thread, and all callers if there is no value to show. It needs a timeout of its own.
///
/// # Deadlocks
///
/// A load that asks for its own resource gets [`LazyError::Reentrant`]. If the
/// loads of two or more threads ask for each other's resource, one thread gets this error and the others continue. This is not detected if a thread in the ring waits for something
/// else than a blocking load of this crate: a lock, a channel or a task.
///
/// # Cost
///
/// A `get` of a loaded value and letting go of the [pin](Pinned) are two atomic operations on what is the thread's own: a
/// few nanoseconds, on any number of threads. The pin is as good as a reference. A load makes three allocations of its own.
///
/// # Examples
///
/// ```
/// use std::{fs, io};
/// use plimsoll::{ByteSize, LazyError, LazyResource};
///
/// static HOSTS: LazyResource<String, io::Error> =
///     LazyResource::new("hosts", || fs::read_to_string("Cargo.toml")).expecting(ByteSize::kib(64));
///
/// fn handle() -> Result<usize, LazyError<io::Error>> {
///     let hosts = HOSTS.get()?; // loaded here, once
///     Ok(hosts.lines().count())
/// }
///
/// assert!(handle()? > 0);
/// assert_eq!(HOSTS.unload(), Some(0)); // no pin is left, so the memory has gone back
/// # Ok::<(), LazyError<io::Error>>(())
/// ```
pub struct LazyResource<T, E, F = fn() -> Result<T, E>> {
    core: ResourceCore<T, E, Latch<Outcome<T, E>>>,
    load: F,
}

impl<T, E> LazyResource<T, E> {
    /// Makes a resource; nothing is loaded yet. The name goes into reports as it is.
    ///
    /// The loader is a function, or a closure that captures nothing: so the type of a `static` has a name.
    #[track_caller]
    pub const fn new(name: &'static str, load: fn() -> Result<T, E>) -> Self {
        Self::capturing(name, load)
    }
}

impl<T, E, F> LazyResource<T, E, F> {
    /// Makes a resource with a loader that may capture; nothing is loaded yet. It runs once for each load.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use plimsoll::LazyResource;
    ///
    /// let folder = std::env::temp_dir(); // known at run time alone
    /// let names = LazyResource::capturing("names", move || Ok::<_, Infallible>(folder.display().to_string()));
    /// assert!(!names.get()?.is_empty());
    /// # Ok::<(), plimsoll::LazyError<Infallible>>(())
    /// ```
    #[track_caller]
    pub const fn capturing(name: &'static str, load: F) -> Self {
        Self { core: ResourceCore::new(name, Location::caller()), load }
    }
}

impl<T, E, F: Fn() -> Result<T, E>> LazyResource<T, E, F> {
    /// Returns the value, and loads it on this thread if there is none, or if it is due for a refresh.
    ///
    /// Blocks while another thread loads it and there is no value to show. The value of that load is the value of this
    /// call, also if it is unloaded during the load.
    ///
    /// # Errors
    ///
    /// [`LazyError::Failed`] if the load fails, or has failed and the next attempt is not due.
    /// [`LazyError::OverBudget`] if the budget has no room for it. [`LazyError::Reentrant`] inside the load itself, and if
    /// loads wait for each other. If there is a value to show, that is returned instead of the first two.
    ///
    /// # Deadlocks
    ///
    /// See the [type](Self).
    #[inline]
    #[track_caller]
    pub fn get(&self) -> Result<Pinned<T>, LazyError<E>> {
        if let Some(pin) = self.core.pin() {
            return Ok(pin);
        }
        // Not returned as it is: where that call writes its result, the pin above would have to be written too.
        let pin = self.use_or_load(Location::caller())?;
        Ok(pin)
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
    /// use plimsoll::LazyResource;
    ///
    /// static PRICES: LazyResource<Vec<u64>, Infallible> = LazyResource::new("prices", || Ok(vec![10, 20]));
    ///
    /// PRICES.prefetch()?; // in `main`, before the first request
    /// assert!(PRICES.status().is_never_used());
    /// # Ok::<(), plimsoll::LazyError<Infallible>>(())
    /// ```
    pub fn prefetch(&self) -> Result<(), LazyError<E>> {
        self.find_or_load(Purpose::Get).map(drop)
    }

    /// Loads the value again on this thread, or waits for the load that is running. Does not count as a use.
    ///
    /// For a thread of your own that refreshes the value before callers find it stale, so that no caller runs the loader.
    /// It ignores [`refresh_after`](Self::refresh_after) and the wait after failures: the caller chooses the time. Until it
    /// succeeds, callers get the old value.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), also if there is an old value, which stays.
    ///
    /// # Deadlocks
    ///
    /// See the [type](Self).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{convert::Infallible, sync::atomic::{AtomicU64, Ordering}};
    /// use plimsoll::LazyResource;
    ///
    /// static VERSION: AtomicU64 = AtomicU64::new(1);
    /// static RATES: LazyResource<u64, Infallible> =
    ///     LazyResource::new("rates", || Ok(VERSION.load(Ordering::Relaxed)));
    ///
    /// assert_eq!(*RATES.get()?, 1);
    /// VERSION.store(2, Ordering::Relaxed);
    /// std::thread::spawn(|| RATES.refresh()).join().expect("the loader does not panic")?;
    /// assert_eq!(*RATES.get()?, 2);
    /// # Ok::<(), plimsoll::LazyError<Infallible>>(())
    /// ```
    pub fn refresh(&self) -> Result<(), LazyError<E>> {
        self.find_or_load(Purpose::Refresh).map(drop)
    }

    #[inline(never)]
    fn use_or_load(&self, caller: &'static Location<'static>) -> Result<Pinned<T>, LazyError<E>> {
        self.core.touch(caller);
        self.find_or_load(Purpose::Get)
    }

    fn find_or_load(&self, purpose: Purpose) -> Result<Pinned<T>, LazyError<E>> {
        loop {
            match self.core.look_up(purpose, |_| Leading::start(&self.core)) {
                Lookup::Found(pin) => return Ok(pin),
                Lookup::Stale(pin, _) => return Ok(pin.into_stale()),
                Lookup::Failed(failure) => return Err(self.core.to_error(&failure)),
                Lookup::Wait { handle, then } => match handle.wait() {
                    Ok(Some(outcome)) if then == Then::Return => return self.core.deliver(outcome, None),
                    Ok(Some(outcome)) if then == Then::ReturnStale => {
                        return self.core.deliver(outcome, None).map(Pinned::into_stale);
                    }
                    // It panicked, or is too old.
                    Ok(_) => {}
                    Err(WouldDeadlock) => return Err(LazyError::Reentrant { name: self.core.name() }),
                },
                Lookup::Start { started, attempt, stale } => {
                    let outcome = match self.core.start_load(attempt) {
                        Ok(pending) => {
                            let (loaded, delta) = heap::scope(&self.load);
                            pending.finish(loaded, delta)
                        }
                        Err(refused) => Outcome::Refused(refused),
                    };
                    started.finish(&outcome);
                    let result = self.core.deliver(outcome, stale);
                    self.core.reclaim_overdraft();
                    return result;
                }
            }
        }
    }
}

/// The part of the thread that runs a load. Dropped before it has finished, by a panic, the load is lost.
struct Leading<'a, T, E> {
    core: &'a ResourceCore<T, E, Latch<Outcome<T, E>>>,
    /// `None` once it has finished.
    latch: Option<Arc<Latch<Outcome<T, E>>>>,
}

impl<'a, T, E> Leading<'a, T, E> {
    fn start(core: &'a ResourceCore<T, E, Latch<Outcome<T, E>>>) -> (Arc<Latch<Outcome<T, E>>>, Self) {
        let latch = Arc::new(Latch::closed(thread_id()));
        (Arc::clone(&latch), Self { core, latch: Some(latch) })
    }

    fn finish(mut self, outcome: &Outcome<T, E>) {
        if let Some(latch) = self.latch.take() {
            // The value first, so that the threads that wake find it.
            self.core.complete(Some(outcome), || latch.open(Some(outcome.clone())));
        }
    }
}

impl<T, E> Drop for Leading<'_, T, E> {
    fn drop(&mut self) {
        if let Some(latch) = self.latch.take() {
            self.core.complete(None, || latch.open(None));
        }
    }
}

face!(
    LazyResource,
    " One caller runs the loader on its thread. To keep refreshes off the threads of callers, call",
    " [`refresh`](Self::refresh) on a thread of your own. A loader that hangs blocks its caller, and no refresh runs",
    " until it returns: give it a timeout.",
);
