//! When a load that failed is tried again.

use std::time::Duration;

use crate::clock::millis;

/// The wait after the first failure, doubled after each further one in a row, up to a bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    /// In milliseconds, as the next.
    first: u64,
    most: u64,
}

impl Backoff {
    pub(super) const DEFAULT: Self = Self { first: 100, most: 30_000 };

    pub(super) const fn new(first: Duration, most: Duration) -> Self {
        Self { first: millis(first), most: millis(most) }
    }

    /// Returns the longest wait, at least 30 s, in milliseconds.
    pub(super) fn longest(self) -> u64 {
        self.most.max(Self::DEFAULT.most)
    }

    /// Returns the wait after `failures` failures in a row, in milliseconds.
    pub(super) fn wait(self, failures: u32) -> u64 {
        let times = 2_u64.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(times).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_bound_and_never_wraps() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let waits: Vec<u64> = [1, 2, 3, 4, 5, 64, 65, u32::MAX].map(|failures| backoff.wait(failures)).into();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000, 1000, 1000]);
        let at_once = Backoff::new(Duration::ZERO, Duration::MAX);
        assert_eq!([1, 9, 65, u32::MAX].map(|failures| at_once.wait(failures)), [0; 4]);
        assert_eq!(Backoff::new(Duration::MAX, Duration::MAX).wait(9), u64::MAX);
    }
}
