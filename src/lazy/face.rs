//! What both kinds of resource offer alike, written once.

/// Settings, figures and unloading of a resource type that wraps a `Core` as `core`.
macro_rules! face {
    ($name:ident, $($refresh:literal),* $(,)?) => {
        impl<T, E, F> $name<T, E, F> {
            /// Sets what a load takes, to be reserved of the account before it begins. Default: zero, nothing is known.
            ///
            /// Without an [account](Self::charge_to) it has no effect.
            /// A load that does not fit is refused before it allocates. What it keeps beyond or below that is corrected
            /// after it, as far as the [`TrackingAllocator`](crate::heap::TrackingAllocator) knows.
            ///
            /// # Examples
            ///
            /// ```
            /// use std::convert::Infallible;
            /// use plimsoll::{ByteSize, LazyError, LazyResource, MemoryBudget};
            ///
            /// let model = LazyResource::new("model", || Ok::<_, Infallible>(vec![0_u8; 100])).expecting(ByteSize::mib(200));
            /// let budget = MemoryBudget::new(ByteSize::mib(100));
            /// assert!(model.charge_to(budget.account("model")?).is_ok());
            /// assert!(matches!(model.get(), Err(LazyError::OverBudget { name: "model", .. })));
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            #[must_use = "a setting makes a new resource"]
            pub const fn expecting(mut self, size: ByteSize) -> Self {
                self.core.expecting = size;
                self
            }

            /// Sets the wait after a failed load, doubled after each further one in a row, up to `most`. Default: 100 ms
            /// to 30 s. Zero: each call tries again.
            ///
            /// A load that panics or is cancelled is a failed attempt too. Within the wait, callers get the value that is
            /// there, or else the last error. If no attempt returned an error, a caller without a value loads at once: a
            /// cancelled caller is no information about the resource, and there is no error to return.
            ///
            /// # Examples
            ///
            /// ```
            /// use std::time::Duration;
            /// use plimsoll::LazyResource;
            ///
            /// static PRICES: LazyResource<String, std::io::Error> =
            ///     LazyResource::new("prices", || std::fs::read_to_string("no such file"))
            ///         .retry_after(Duration::from_secs(1), Duration::from_secs(60));
            ///
            /// assert!(PRICES.get().is_err());
            /// assert_eq!(PRICES.status().failed_attempts, 1);
            /// assert!(PRICES.get().is_err(), "within the second nobody tries again");
            /// assert_eq!(PRICES.status().failed_attempts, 1);
            /// ```
            #[must_use = "a setting makes a new resource"]
            pub const fn retry_after(mut self, first: Duration, most: Duration) -> Self {
                self.core.backoff = Backoff::new(first, most);
                self
            }

            /// Sets the age at which a value is stale, and the next caller starts a refresh. Default: never.
            ///
            /// The age counts from the start of the load. A stale value is returned until the refresh succeeds, to all
            /// callers, unless [`stale_at_most`](Self::stale_at_most) forbids it; their pins are
            /// [stale](Pinned::is_stale). Old and new value exist next to each other until the pins of the old one are
            /// dropped. Each `get` reads the clock, which takes some 10 ns.
            ///
            /// A refresh starts at the earliest when the time since the last load ended is as long as that load took, or
            /// 30 s. Otherwise a load that takes longer than `age` would run at each call. Zero: the value is stale at
            /// once, so that a refresh starts at each call for which this pause is over.
            ///
            /// A refresh that fails is tried again after the [back-off](Self::retry_after), also one that panics or is
            /// cancelled. If the [budget](Self::charge_to) refuses it, the next one starts after the first wait of the
            /// back-off.
            ///
            $(#[doc = $refresh])*
            ///
            /// # Examples
            ///
            /// ```
            /// use std::{convert::Infallible, time::Duration};
            /// use plimsoll::{LazyResource, ManualClock};
            ///
            /// let manual = ManualClock::new();
            /// let prices = LazyResource::new("prices", || Ok::<_, Infallible>(vec![10, 20]))
            ///     .refresh_after(Duration::from_secs(3600))
            ///     .clock(manual.clock());
            /// prices.prefetch()?;
            /// manual.advance(Duration::from_secs(3601));
            /// prices.get()?;
            /// assert_eq!(prices.status().loads, 2);
            /// # Ok::<(), plimsoll::LazyError<Infallible>>(())
            /// ```
            #[must_use = "a setting makes a new resource"]
            pub const fn refresh_after(mut self, age: Duration) -> Self {
                self.core.refresh_after(millis(age));
                self
            }

            /// Sets the age from which a stale value is not returned any more. Default: no bound.
            ///
            /// A caller then waits for the load, also for a refresh that is in flight, and gets its error if it fails. The
            /// age counts from the start of the load, so that a refresh that started longer before the call does not
            /// count: the call waits until it has ended, and loads again. A bound below
            /// [`refresh_after`](Self::refresh_after) holds too: the value is loaded at this age, and is never stale. Zero:
            /// each call runs a load of its own, one after another.
            ///
            /// The caller that runs the load gets its value at any age. So a bound that is shorter than the load makes each
            /// later call load.
            ///
            /// # Examples
            ///
            /// ```
            /// use std::{cell::Cell, time::Duration};
            /// use plimsoll::{LazyResource, ManualClock};
            ///
            /// let (manual, up) = (ManualClock::new(), Cell::new(true));
            /// let token = LazyResource::capturing("token", || if up.get() { Ok(1) } else { Err("down") })
            ///     .refresh_after(Duration::from_secs(60))
            ///     .stale_at_most(Duration::from_secs(300))
            ///     .clock(manual.clock());
            /// assert_eq!(*token.get()?, 1);
            /// up.set(false);
            /// manual.advance(Duration::from_secs(61));
            /// assert!(token.get()?.is_stale());
            /// manual.advance(Duration::from_secs(300));
            /// assert!(token.get().is_err(), "too old");
            /// # Ok::<(), plimsoll::LazyError<&str>>(())
            /// ```
            #[must_use = "a setting makes a new resource"]
            pub const fn stale_at_most(mut self, age: Duration) -> Self {
                self.core.stale_at_most(millis(age));
                self
            }

            /// Sets the reclaim priority: the lowest is unloaded first. Default: [`ReclaimPriority::RESOURCE`].
            ///
            /// # Examples
            ///
            /// ```
            /// use std::convert::Infallible;
            /// use plimsoll::{LazyResource, budget::ReclaimPriority};
            ///
            /// static FONTS: LazyResource<Vec<u8>, Infallible> =
            ///     LazyResource::new("fonts", || Ok(vec![0; 1000])).rank(ReclaimPriority::CACHE); // cheap to load again
            /// # assert_eq!(FONTS.name(), "fonts");
            /// ```
            #[must_use = "a setting makes a new resource"]
            pub const fn rank(mut self, rank: ReclaimPriority) -> Self {
                self.core.rank = rank;
                self
            }

            /// Sets how many invocations without a use make it idle. Default: 3. Zero: as soon as nobody holds a pin.
            ///
            /// What is idle is unloaded when others need memory and the pressure is high; what is not, at critical
            /// pressure alone. What is pinned never is. `u64::MAX` is never idle.
            ///
            /// # Examples
            ///
            /// ```
            /// use std::convert::Infallible;
            /// use plimsoll::LazyResource;
            ///
            /// static MODEL: LazyResource<Vec<u8>, Infallible> =
            ///     LazyResource::new("model", || Ok(vec![0; 1000])).idle_after(50); // seldom needed, dear to load
            /// # assert_eq!(MODEL.name(), "model");
            /// ```
            #[must_use = "a setting makes a new resource"]
            pub const fn idle_after(mut self, invocations: u64) -> Self {
                self.core.idle_after = invocations;
                self
            }

            /// Sets the clock for back-off and refresh. Default: the system's.
            ///
            /// # Examples
            ///
            /// ```
            /// use std::convert::Infallible;
            /// use plimsoll::{LazyResource, ManualClock};
            ///
            /// let manual = ManualClock::new();
            /// let resource = LazyResource::new("resource", || Ok::<_, Infallible>(1)).clock(manual.clock());
            /// assert_eq!(*resource.get()?, 1);
            /// # Ok::<(), plimsoll::LazyError<Infallible>>(())
            /// ```
            #[must_use = "a setting makes a new resource"]
            pub fn clock(mut self, clock: Clock) -> Self {
                self.core.clock = clock;
                self
            }

            /// Tells the name.
            ///
            /// # Examples
            ///
            /// ```
            /// use std::convert::Infallible;
            /// use plimsoll::LazyResource;
            ///
            /// assert_eq!(LazyResource::new("model", || Ok::<_, Infallible>(1)).name(), "model");
            /// ```
            pub const fn name(&self) -> &'static str {
                self.core.name()
            }

            /// Tells what is known of it: what it cost, where it was declared and first used, how long it is idle.
            ///
            /// # Examples
            ///
            /// ```
            /// use std::convert::Infallible;
            /// use plimsoll::{LazyResource, lazy::ResourceState};
            ///
            /// let model = LazyResource::new("model", || Ok::<_, Infallible>(vec![0; 1000]));
            /// assert_eq!(model.status().state, ResourceState::Unloaded);
            /// let _pin = model.get()?;
            /// assert_eq!((model.status().state, model.status().loads), (ResourceState::Loaded, 1));
            /// # Ok::<(), plimsoll::LazyError<Infallible>>(())
            /// ```
            pub fn status(&self) -> ResourceStatus {
                self.core.status()
            }

            /// Returns the failed attempts since the last value, also those of refreshes; `None` if the last load succeeded.
            ///
            /// # Examples
            ///
            /// ```
            /// use plimsoll::LazyResource;
            ///
            /// let hosts = LazyResource::new("hosts", || std::fs::read("no such file"));
            /// assert!(hosts.get().is_err());
            /// let failure = hosts.failure().ok_or("it has failed")?;
            /// let kind = failure.error.map(|error| error.kind());
            /// assert_eq!((failure.attempts, kind), (1, Some(std::io::ErrorKind::NotFound)));
            /// # Ok::<(), &str>(())
            /// ```
            pub fn failure(&self) -> Option<LoadFailure<E>> {
                self.core.failure()
            }

            /// Unloads the value. Returns the number of pins that still hold it, or `None` if there was no value.
            ///
            /// The memory is freed with the last pin, or here if there is none. A load that is in flight continues, and its
            /// callers get its value, but it is not stored: the next call waits until that load has ended and loads again.
            /// So a value that was read before this call is not returned by a `get` that starts after it.
            ///
            /// # Examples
            ///
            /// ```
            /// use std::convert::Infallible;
            /// use plimsoll::LazyResource;
            ///
            /// let model = LazyResource::new("model", || Ok::<_, Infallible>(vec![0; 1000]));
            /// assert_eq!(model.unload(), None);
            /// let pin = model.get()?;
            /// assert_eq!(model.unload(), Some(1)); // in use: it goes with that pin
            /// assert_eq!(pin.len(), 1000);
            /// # Ok::<(), plimsoll::LazyError<Infallible>>(())
            /// ```
            pub fn unload(&self) -> Option<usize> {
                self.core.unload()
            }

            /// Charges an account for what is loaded, now and later. A monitor does so for what it is told of.
            ///
            /// # Errors
            ///
            /// The account, where another one is charged already.
            ///
            /// # Examples
            ///
            /// ```
            /// use std::convert::Infallible;
            /// use plimsoll::{ByteSize, LazyResource, MemoryBudget};
            ///
            /// let budget = MemoryBudget::new(ByteSize::mib(100));
            /// let model = LazyResource::new("model", || Ok::<_, Infallible>(vec![0; 1000])).expecting(ByteSize::kib(64));
            /// assert!(model.charge_to(budget.account("model")?).is_ok());
            /// let _pin = model.get()?;
            /// assert!(budget.account("model")?.reserved() > ByteSize::ZERO);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn charge_to(&self, account: Account) -> Result<(), Account> {
                self.core.charge_to(account)
            }
        }

        impl<T: Send + Sync, E: Send + Sync, F: Send + Sync> Reclaim for $name<T, E, F> {
            /// Unloads the value if it is idle, or the pressure critical, and nobody holds a pin.
            fn reclaim(&self, _want: ByteSize, pressure: Pressure) {
                self.core.reclaim(pressure);
            }
        }

        impl<T, E, F> Sealed for $name<T, E, F> {}

        impl<T: Send + Sync, E: Send + Sync, F: Send + Sync> Resource for $name<T, E, F> {
            fn name(&self) -> &'static str {
                self.core.name()
            }

            fn rank(&self) -> ReclaimPriority {
                self.core.rank
            }

            fn status(&self) -> ResourceStatus {
                self.core.status()
            }

            fn charge_to(&self, account: Account) -> Result<(), Account> {
                self.core.charge_to(account)
            }

            fn invocation_ended(&self) {
                self.core.invocation_ended();
            }
        }

        impl<T, E, F> fmt::Debug for $name<T, E, F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.core).finish()
            }
        }
    };
}

pub(super) use face;
