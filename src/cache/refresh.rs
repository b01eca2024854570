//! Settings of values that are returned although they are old: while they are refreshed, and if their load fails.

use std::time::Duration;

use crate::clock::RESOLUTION;

use super::{BuildError, CacheBuilder};

impl<K, V, S> CacheBuilder<K, V, S> {
    /// Sets the age after which a value is *stale*: it is still returned, and is loaded again before it expires. Default: no
    /// value is refreshed. The age counts as the time to live does. It is up to 10 ms less.
    ///
    /// The first loading call that finds a stale value starts a *refresh*, which is a load of this key. Loading calls are
    /// [`try_get_or_load`](super::Cache::try_get_or_load), [`get_or_load`](super::Cache::get_or_load), and their async forms.
    /// No other call waits for it, and there is one refresh of a key at a time. [`get`](super::Cache::get) and
    /// [`peek`](super::Cache::peek) return a stale value, and start nothing.
    ///
    /// - A blocking caller runs its loader and returns the new value. If the load fails, the caller returns the stale value
    ///   if it is still there and has not expired, else the error. A panic of the loader passes through.
    /// - An async caller polls the future of its loader once. If it is ready, the caller returns the new value, else the stale
    ///   value. The future stays in the cache. No task is spawned, because a task makes no progress while the environment is
    ///   frozen. Each later async call with the same error type that finds the value stale polls the future again if it was
    ///   woken. If a poll panics, the future is dropped, and the caller returns the stale value. If the value expires or is
    ///   evicted during the first poll, the caller waits for the future, as for any load.
    ///
    /// The time to live bounds the staleness: a value is never returned by a refresh after it has expired. Then callers join
    /// the refresh, and wait as for any load. They return its value only if this has not expired: a freeze may have been longer
    /// than the time to live. A refresh that started `age` ago or earlier is dropped instead, and they load again: a freeze may
    /// have ended its connection.
    ///
    /// After a refresh has failed, the next one of the key starts `age` later, or when the value has expired.
    ///
    /// A future that is not ready is dropped when the entry of its key is removed, evicted or replaced, or when the cache is
    /// dropped. So there are at most as many of them as entries. Until then it keeps its
    /// [reserved bytes](Self::reserve_per_load). A write cancels a refresh as it cancels any load.
    ///
    /// # Errors
    ///
    /// [`build`](Self::build) returns [`BuildError`] if `age` is below the clock's resolution of 10 ms, also if it is zero, or
    /// not below the time to live, or if neither [`time_to_live`](Self::time_to_live) nor [`expire_by`](Self::expire_by) is
    /// set.
    ///
    /// # Performance
    ///
    /// A hit of a fresh value costs one comparison more, and an entry takes four bytes more. A hit of a stale value takes the
    /// lock twice.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use plimsoll::{Cache, ManualClock};
    /// let manual = ManualClock::new();
    /// let rates: Cache<String, u64> = Cache::builder("rates")
    ///     .max_entries(100)
    ///     .time_to_live(Duration::from_secs(300)) // never older than this
    ///     .refresh_after(Duration::from_secs(60))
    ///     .clock(manual.clock())
    ///     .build()?;
    /// rates.insert("EUR".to_owned(), 1)?;
    /// manual.advance(Duration::from_secs(60));
    /// let down = |_: &_| Err(std::io::Error::other("the upstream is down"));
    /// assert_eq!(rates.try_get_or_load("EUR", down)?, 1); // this call runs the loader, which fails
    /// manual.advance(Duration::from_secs(60));
    /// assert_eq!(rates.try_get_or_load("EUR", |_| Ok::<_, std::io::Error>(2))?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn refresh_after(mut self, age: Duration) -> Self {
        self.refresh_after = Some(age);
        self
    }

    /// Sets the time for which a value may still be returned after it has expired, if its load fails: `stale-if-error` of
    /// RFC 5861. Default: [`Duration::ZERO`], which returns no expired value.
    ///
    /// Expired entries are kept for this time. All lookups treat them as expired, and loading calls load. If the loader
    /// returns an error, each caller of this load returns the expired value instead, if it is still there. Other failures,
    /// such as [`LoadError::BudgetExceeded`](super::LoadError::BudgetExceeded), are returned. Each call loads again, because
    /// an error is not stored.
    ///
    /// The time counts from the end of the time to live, and this and the time to live together count as at most 248 days. A
    /// value that has expired by [`time_to_idle`](Self::time_to_idle) is not returned. A kept entry counts in
    /// [`len`](super::Cache::len) and in bytes. [`remove_expired`](super::Cache::remove_expired) leaves it,
    /// [`retain`](super::Cache::retain) removes it, and the policy evicts it as any other.
    ///
    /// # Errors
    ///
    /// [`build`](Self::build) returns [`BuildError`] if `time` is below the clock's resolution of 10 ms, and not zero.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use plimsoll::{Cache, ManualClock};
    /// let manual = ManualClock::new();
    /// let rates: Cache<String, u64> = Cache::builder("rates")
    ///     .max_entries(100)
    ///     .time_to_live(Duration::from_secs(60))
    ///     .stale_if_error(Duration::from_secs(600))
    ///     .clock(manual.clock())
    ///     .build()?;
    /// rates.insert("EUR".to_owned(), 1)?;
    /// manual.advance(Duration::from_secs(300));
    /// assert_eq!(rates.get("EUR"), None);
    /// let down = |_: &_| Err(std::io::Error::other("the upstream is down"));
    /// assert_eq!(rates.try_get_or_load("EUR", down)?, 1);
    /// manual.advance(Duration::from_secs(360));
    /// assert!(rates.try_get_or_load("EUR", down).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stale_if_error(mut self, time: Duration) -> Self {
        self.stale_if_error = time;
        self
    }

    /// Checks the settings of refreshes.
    pub(super) fn check_refresh(&self) -> Result<(), BuildError> {
        let cache = self.name;
        let grace = Some(self.stale_if_error).filter(|grace| !grace.is_zero());
        for (what, time) in [("refresh_after", self.refresh_after), ("stale_if_error", grace)] {
            if let Some(time) = time.filter(|&time| time < RESOLUTION) {
                return Err(BuildError::TooShort { cache, what, time, least: RESOLUTION });
            }
        }
        let Some(refresh_after) = self.refresh_after else { return Ok(()) };
        match self.ttl {
            None if self.expire_by.is_none() => Err(BuildError::RefreshUnbounded { cache }),
            Some(time_to_live) if refresh_after >= time_to_live => {
                Err(BuildError::RefreshTooLate { cache, refresh_after, time_to_live })
            }
            _ => Ok(()),
        }
    }
}
