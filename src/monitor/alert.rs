//! What deserves attention beyond one invocation; each is said once, until it clears.

use std::fmt;

/// Something the operator should know.
///
/// # Examples
///
/// ```no_run
/// use plimsoll::{Monitor, monitor::Alert};
///
/// let monitor = Monitor::builder()
///     .on_report(|report| {
///         if report.alerts().any(|alert| alert == Alert::GrowingHeap) {
///             eprintln!("ask for a heap profile of {}", report.id);
///         }
///     })
///     .install()?;
/// # Ok::<(), plimsoll::monitor::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Alert {
    /// The peak of the heap or of the rss is over 90 % of the capacity.
    NearLimit,
    /// The median peak of the window's newer half is more than a fifth above that of the older half. Only invocations that
    /// were alone count; at least half of each half must be such.
    RisingMemory,
    /// Allocations were refused since the report before.
    Refused,
    /// The verdict is [`LeakVerdict::Growing`](super::LeakVerdict::Growing).
    GrowingHeap,
}

impl Alert {
    const ALL: [Self; 4] = [Self::NearLimit, Self::RisingMemory, Self::Refused, Self::GrowingHeap];

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NearLimit => "near-limit",
            Self::RisingMemory => "rising-memory",
            Self::Refused => "refused-allocations",
            Self::GrowingHeap => "growing-heap",
        })
    }
}

/// A set of alerts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Alerts(u8);

impl Alerts {
    pub(super) const fn with(self, alert: Alert, holds: bool) -> Self {
        if holds { Self(self.0 | alert.bit()) } else { Self(self.0 & !alert.bit()) }
    }

    /// Those that hold now and did not before.
    pub(super) const fn new_since(self, before: Self) -> Self {
        Self(self.0 & !before.0)
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Alert> {
        Alert::ALL.into_iter().filter(move |alert| self.0 & alert.bit() != 0)
    }
}

/// Whether the newer figure is a fifth over the older one.
pub(super) const fn is_a_fifth_over(older: u64, newer: u64) -> bool {
    older > 0 && newer as u128 * 5 > older as u128 * 6
}
