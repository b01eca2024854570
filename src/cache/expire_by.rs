//! Times to live that are computed from the value.

use std::time::Duration;

use crate::clock::{RESOLUTION, millis};

use super::CacheBuilder;
use super::inner::Inner;

/// Computes the time to live of an entry.
pub(super) type ExpireBy<K, V> = Box<dyn Fn(&K, &V) -> Duration + Send + Sync>;

impl<K, V, S> CacheBuilder<K, V, S> {
    /// Sets a function that returns the time to live of each entry, such as a token that contains its own expiry.
    ///
    /// It is called without a lock, once for each [`insert`](super::Cache::insert) and for each loaded value. The time
    /// counts from the insert, or from the start of the load. If [`time_to_live`](Self::time_to_live) is set too, the
    /// shorter time applies. [`insert_with_ttl`](super::Cache::insert_with_ttl) does not call it.
    ///
    /// A value with a time below the clock's resolution of 10 ms has expired already, and is not stored. A load returns it
    /// to its callers, and [`expired_loads`](super::CacheStats::expired_loads) counts it. An insert returns it with
    /// [`RejectReason::TimeToLive`](super::RejectReason::TimeToLive), and removes the former value of the key.
    /// [`Duration::MAX`] sets no time.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use plimsoll::{Cache, ManualClock};
    /// #[derive(Clone)]
    /// struct Token { text: String, expires_in: Duration }
    ///
    /// let manual = ManualClock::new();
    /// let tokens: Cache<u64, Token> = Cache::builder("tokens")
    ///     .max_entries(100)
    ///     // A token is renewed 30 seconds before it expires.
    ///     .expire_by(|_user, token: &Token| token.expires_in.saturating_sub(Duration::from_secs(30)))
    ///     .clock(manual.clock())
    ///     .build()?;
    /// tokens.insert(1, Token { text: "abc".to_owned(), expires_in: Duration::from_secs(300) })?;
    /// manual.advance(Duration::from_secs(260));
    /// assert_eq!(tokens.get(&1).map(|token| token.text).as_deref(), Some("abc"));
    /// manual.advance(Duration::from_secs(10));
    /// assert!(tokens.get(&1).is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn expire_by(mut self, time_to_live: impl Fn(&K, &V) -> Duration + Send + Sync + 'static) -> Self {
        self.expire_by = Some(Box::new(time_to_live));
        self
    }
}

impl<K, V, S> Inner<K, V, S> {
    /// Returns the time to live of an entry in milliseconds. 0: it has expired already. `None`: it does not expire by its
    /// age.
    #[inline]
    pub(super) fn ttl(&self, key: &K, value: &V) -> Option<u64> {
        let Some(expire_by) = &self.expire_by else { return self.ttl };
        let by_value = match expire_by(key, value) {
            Duration::MAX => return self.ttl,
            // In milliseconds it may be the next tick.
            ttl if ttl < RESOLUTION => 0,
            ttl => millis(ttl),
        };
        Some(self.ttl.map_or(by_value, |ttl| ttl.min(by_value)))
    }
}
