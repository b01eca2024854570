//! What both kinds of resource offer alike, written once.

/// Settings, figures and unloading of a resource type that wraps a `Core` as `core`.
macro_rules! face {
    ($name:ident, $($send:tt)*) => {
        impl<T, E, F> $name<T, E, F> {
            /// Sets what a load takes, to be reserved of the account before it begins. Default: nothing is known.
            ///
            /// A load that does not fit is refused before it allocates. What it keeps beyond or below that is corrected
            /// after it, as far as the [`TrackingAllocator`](crate::heap::TrackingAllocator) knows.
            #[must_use = "a setting makes a new resource"]
            pub const fn expecting(mut self, size: ByteSize) -> Self {
                self.core.expecting = size;
                self
            }

            /// Sets the wait after a failed load, doubled after each further one in a row, up to `most`. Default: 100 ms
            /// to 30 s. Zero tries again at each call.
            #[must_use = "a setting makes a new resource"]
            pub const fn retry_after(mut self, first: Duration, most: Duration) -> Self {
                self.core.backoff = Backoff::new(first, most);
                self
            }

            /// Loads anew when the value is asked for and has come to this age. Default: never. Zero loads each time.
            ///
            /// One caller loads; the others go on with the value there is, as does he if the load fails: his pin
            /// [`is_stale`](Pinned::is_stale), and the back-off runs. Old and new value live side by side until the
            /// pins of the old one have gone. Costs each `get` a reading of the clock, some 10 ns.
            #[must_use = "a setting makes a new resource"]
            pub const fn refresh_after(mut self, age: Duration) -> Self {
                self.core.refresh_after(millis(age));
                self
            }

            /// Sets how dear it is to lose: the lowest is asked to unload first. Default: [`Rank::RESOURCE`].
            #[must_use = "a setting makes a new resource"]
            pub const fn rank(mut self, rank: Rank) -> Self {
                self.core.rank = rank;
                self
            }

            /// Sets how many invocations without a use make it idle. Default: 3. Zero: as soon as nobody holds a pin.
            ///
            /// What is idle is unloaded when others need memory and the pressure is high; what is not, at critical
            /// pressure alone. What is pinned never is.
            #[must_use = "a setting makes a new resource"]
            pub const fn idle_after(mut self, invocations: u64) -> Self {
                self.core.idle_after = invocations;
                self
            }

            /// Sets the clock for back-off and refresh. Default: the system's.
            #[must_use = "a setting makes a new resource"]
            pub fn clock(mut self, clock: Clock) -> Self {
                self.core.clock = clock;
                self
            }

            /// Tells the name.
            pub const fn name(&self) -> &'static str {
                self.core.name()
            }

            /// Tells what is known of it: what it cost, where it was declared and first used, how long it is idle.
            pub fn status(&self) -> ResourceStatus {
                self.core.status()
            }

            /// Tells of the load that failed last, until the next one begins: of a refresh as well.
            pub fn failure(&self) -> Option<LoadFailure<E>> {
                self.core.failure()
            }

            /// Takes the value out, so that the next caller loads it anew, and tells how many pins still hold it; `None`
            /// where there is nothing.
            ///
            /// The memory returns with the last pin: here, if there is none. A load that is running goes on.
            pub fn unload(&self) -> Option<usize> {
                self.core.unload()
            }

            /// Charges an account for what is loaded, now and later. A monitor does so for what it is told of.
            ///
            /// # Errors
            ///
            /// The account, where another one is charged already.
            pub fn charge_to(&self, account: Account) -> Result<(), Account> {
                self.core.charge_to(account)
            }
        }

        impl<T: Send + Sync, E: Send + Sync, F: Send + Sync> Reclaim for $name<T, E, F> $($send)* {
            /// Unloads the value if it is idle, or the pressure critical, and nobody holds a pin.
            fn reclaim(&self, _want: ByteSize, pressure: Pressure) -> ByteSize {
                self.core.reclaim(pressure)
            }
        }

        impl<T, E, F> Sealed for $name<T, E, F> {}

        impl<T: Send + Sync, E: Send + Sync, F: Send + Sync> Resource for $name<T, E, F> $($send)* {
            fn name(&self) -> &'static str {
                self.core.name()
            }

            fn rank(&self) -> Rank {
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
