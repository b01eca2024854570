//! When hooks, sweep and trim run: at the end of an invocation, by time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::millis;

/// The shortest time from one maintenance to the next, while invocations are in flight.
const PERIOD: Duration = Duration::from_secs(1);

/// Maintenance takes at most the inverse of this of the time.
const SHARE: u32 = 100;

/// When the next maintenance is due.
#[derive(Debug)]
pub(super) struct Schedule {
    /// In milliseconds of the monitor's clock.
    next: AtomicU64,
}

impl Schedule {
    /// The first one is due a period after `now`.
    pub(super) const fn new(now: u64) -> Self {
        Self { next: AtomicU64::new(now.saturating_add(millis(PERIOD))) }
    }

    /// Returns `true` for one of the threads that ask after the period has passed. `now` is in milliseconds.
    pub(super) fn claim(&self, now: u64) -> bool {
        let next = self.next.load(Relaxed);
        let later = now.saturating_add(millis(PERIOD));
        now >= next && self.next.compare_exchange(next, later, Relaxed, Relaxed).is_ok()
    }

    /// Lets the next one wait, after one that has ended at `now`.
    pub(super) fn done(&self, now: u64, took: Duration) {
        let pause = took.saturating_mul(SHARE).max(PERIOD);
        self.next.fetch_max(now.saturating_add(millis(pause)), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_succeeds_once_a_period() {
        let schedule = Schedule::new(0);
        let second = millis(PERIOD);
        let claims = |at: &[u64]| at.iter().map(|&at| schedule.claim(at)).collect::<Vec<_>>();
        assert_eq!(claims(&[0, 1, second - 1, second, second, 2 * second]), [false, false, false, true, false, true]);
        schedule.done(2 * second, Duration::from_millis(50));
        assert_eq!(claims(&[3 * second, 7 * second - 1, 7 * second]), [false, false, true]);
    }
}
