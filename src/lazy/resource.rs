//! The resource that is loaded on its caller's thread.

use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::time::Duration;

use crate::budget::{Account, Pressure, Rank, Reclaim};
use crate::clock::{Clock, millis};
use crate::heap;
use crate::size::ByteSize;

use super::backoff::Backoff;
use super::core::{Core, Found};
use super::error::{LazyError, LoadFailure};
use super::face::face;
use super::generation::Pinned;
use super::status::sealed::Sealed;
use super::status::{Resource, ResourceStatus};

/// Loads a value when it is first asked for, keeps it until it is unloaded, and knows what it costs.
///
/// Made in a `static`, for nothing. One thread loads, others that ask meanwhile block until it is done. A load that fails
/// is tried again after a while that doubles from failure to failure; who asks sooner gets the stored error. A panic in
/// the load passes through to the caller who ran it, and the next one tries again.
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
    core: Core<T, E>,
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
        Self { core: Core::new(name, Location::caller()), load }
    }
}

impl<T, E, F: Fn() -> Result<T, E>> LazyResource<T, E, F> {
    /// Gets the value, loading it on this thread if it is not there.
    ///
    /// Blocks while another thread loads it. What that load returns is what this call gets, even where it is unloaded
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// [`LazyError::Failed`], now or stored; [`LazyError::OverBudget`]; [`LazyError::Reentrant`] inside the load itself.
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
        self.find_or_load().map(drop)
    }

    #[inline(never)]
    fn use_or_load(&self, caller: &'static Location<'static>) -> Result<Pinned<T>, LazyError<E>> {
        self.core.touch(caller);
        self.find_or_load()
    }

    fn find_or_load(&self) -> Result<Pinned<T>, LazyError<E>> {
        match self.core.find() {
            Found::Fresh(pin) => Ok(pin),
            Found::Stale(pin) => self.load(Some(pin)),
            Found::Nothing => self.load(None),
        }
    }

    fn load(&self, stale: Option<Pinned<T>>) -> Result<Pinned<T>, LazyError<E>> {
        let stale = match stale {
            Some(pin) if self.core.stays_stale() => return Ok(pin.into_stale()),
            stale => stale,
        };
        let failures = Cell::new(0);
        let loaded = self.core.flight.get_or_load(
            |failure| {
                failures.set(failure.error.attempts());
                self.core.is_due(failure)
            },
            || self.core.clock.now(),
            || match self.core.begin(failures.get())? {
                Ok(generation) => Ok(generation),
                Err(begun) => {
                    let (loaded, delta) = heap::scope(&self.load);
                    Core::made(begun, loaded, delta)
                }
            },
        );
        let pin = self.core.conclude(loaded, stale);
        self.core.settle();
        pin
    }
}

face!(LazyResource,);
