//! Ticks: the times of entries in words of 32 bits.
//!
//! ```text
//!   insert, start of the load       stale_from                 expired            expires: not kept
//!     |------ refresh_after ------------|                         |                      |
//!     |------ time to live -------------------------------------->|------ grace -------->|
//! ```
//!
//! An entry that has expired is a miss. It is kept for the grace, and returned if its load fails.

use std::borrow::Borrow;

use crate::clock::RESOLUTION;

use super::expiry::Pass;
use super::{NEVER, Slot, Store};

/// Ages of entries, in milliseconds.
#[derive(Clone, Copy, Default)]
pub(in super::super) struct Ages {
    /// Without access, after which an entry expires.
    pub(in super::super) idle: Option<u64>,
    /// After which an entry is stale.
    pub(in super::super) refresh_after: Option<u64>,
    /// For which an entry is kept after its time to live.
    pub(in super::super) grace: u64,
}

impl<K, V> Store<K, V> {
    /// The tick of a moment. A tick lasts [`RESOLUTION`]. Before ticks run out, after 248 days, tick zero moves.
    #[inline]
    pub(in super::super) fn tick(&mut self, now: u64) -> u32 {
        let tick = now.saturating_sub(self.epoch) / TICK;
        match u32::try_from(tick) {
            Ok(tick) if tick <= HALF => tick,
            _ => self.rebase_epoch(now),
        }
    }

    #[cold]
    fn rebase_epoch(&mut self, now: u64) -> u32 {
        let passed = now.saturating_sub(self.epoch) / TICK;
        self.epoch += passed * TICK;
        let earlier = |tick: u32| u32::try_from(u64::from(tick).saturating_sub(passed)).unwrap_or(0);
        for slot in self.slots.iter_mut().filter(|slot| slot.expires != NEVER) {
            slot.expires = earlier(slot.expires);
        }
        for tick in self.idle_deadlines.iter_mut().chain(&mut self.stale_from).flatten() {
            *tick = earlier(*tick);
        }
        self.first_expiry = if self.first_expiry == NEVER { NEVER } else { earlier(self.first_expiry) };
        self.pass = Pass::default(); // it has ticks of the former count
        whole_ticks(now.saturating_sub(self.epoch))
    }

    /// The tick from which on an entry is not kept that lives for `ttl` milliseconds from the moment `from`.
    pub(in super::super) fn expiry(&mut self, from: u64, ttl: u64) -> u32 {
        let ttl = ttl.min(u64::from(HALF - self.grace) * TICK);
        // Up to a tick early, never late.
        let expires = whole_ticks(from.saturating_add(ttl).saturating_sub(self.epoch));
        expires.saturating_add(self.grace).min(NEVER - 1)
    }

    /// The tick from which on an entry is expired that is accessed now and not again.
    #[inline]
    pub(in super::super) fn idle_deadline(&self, now: u64) -> u32 {
        if self.idle_deadlines.is_some() { idle_deadline(self.epoch, self.idle, now) } else { NEVER }
    }

    /// The tick from which on an entry is stale. `from`: the moment of its insert, or of the start of its load.
    #[inline]
    pub(in super::super) fn stale_from(&self, from: u64) -> u32 {
        if self.stale_from.is_none() {
            return NEVER;
        }
        whole_ticks(from.saturating_add(self.refresh_after).saturating_sub(self.epoch))
    }

    /// Sets the tick from which on an entry is stale.
    #[inline]
    pub(in super::super) fn set_stale_from(&mut self, index: u32, tick: u32) {
        if let Some(place) = self.stale_from.as_mut().and_then(|ticks| ticks.get_mut(index as usize)) {
            *place = tick;
        }
    }

    /// Returns `true` if the entry is to be refreshed.
    pub(in super::super) fn is_stale(&self, index: u32, tick: u32) -> bool {
        self.stale_from.as_ref().and_then(|ticks| ticks.get(index as usize)).is_some_and(|&from| from <= tick)
    }

    /// The moment from which on an entry is expired by its age, in milliseconds.
    pub(in super::super) fn expires_at(&self, slot: &Slot<K, V>) -> u64 {
        match slot.expires {
            NEVER => u64::MAX,
            expires => self.epoch + u64::from(expires.saturating_sub(self.grace)) * TICK,
        }
    }

    /// Returns `true` if a tick is the end of a time to live that is over, by [`expiry`](Self::expiry).
    #[inline]
    pub(in super::super) const fn has_passed(&self, expires: u32, tick: u32) -> bool {
        expires <= tick + self.grace
    }

    /// Returns `true` if the entry has expired.
    #[inline]
    pub(in super::super) fn is_expired(&self, index: u32, tick: u32) -> bool {
        self.slots.get(index as usize).is_some_and(|slot| self.has_passed(slot.expires, tick))
            || self.idle_deadline_of(index) <= tick
    }

    /// Returns `true` if the entry is kept: it has not expired, or only within the grace.
    pub(in super::super) fn is_kept(&self, index: u32, tick: u32) -> bool {
        self.kept_until(index) > tick
    }

    /// The tick from which on the entry is not kept, if no access comes before it.
    #[inline]
    pub(super) fn kept_until(&self, index: u32) -> u32 {
        let expires = self.slots.get(index as usize).map_or(NEVER, |slot| slot.expires);
        expires.min(self.idle_deadline_of(index))
    }

    #[inline]
    fn idle_deadline_of(&self, index: u32) -> u32 {
        let deadlines = self.idle_deadlines.as_ref();
        deadlines.and_then(|deadlines| deadlines.get(index as usize)).copied().unwrap_or(NEVER)
    }

    /// The value of a key, unless it has expired. Records nothing.
    pub(in super::super) fn peek<Q>(&mut self, hash: u32, key: &Q, now: u64) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let index = self.find(hash, key)?;
        let tick = self.tick(now);
        if self.is_expired(index, tick) { None } else { self.get(index).map(|slot| &slot.value) }
    }

    /// The value of a key, also if it has expired within the grace. Records nothing.
    pub(in super::super) fn peek_kept<Q>(&mut self, hash: u32, key: &Q, now: u64) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let index = self.find(hash, key)?;
        let tick = self.tick(now);
        if self.is_kept(index, tick) { self.get(index).map(|slot| &slot.value) } else { None }
    }
}

/// Milliseconds in a tick.
pub(super) const TICK: u64 = RESOLUTION.subsec_millis() as u64;

/// Half of the ticks there are. No time to live is longer, and tick zero moves here.
pub(super) const HALF: u32 = u32::MAX / 2;

/// Whole ticks in `millis`.
#[inline]
pub(super) fn whole_ticks(millis: u64) -> u32 {
    u32::try_from(millis / TICK).unwrap_or(NEVER).min(NEVER - 1)
}

/// Up to a tick early, never late.
#[inline]
pub(super) fn idle_deadline(epoch: u64, idle: u64, now: u64) -> u32 {
    whole_ticks(now.saturating_add(idle).saturating_sub(epoch))
}
