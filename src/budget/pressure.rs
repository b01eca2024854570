//! How full a budget is, in three words.

use std::fmt;

use super::BudgetError;

/// How full a budget is. Compare with `>=`: there may be more levels some day.
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget, Pressure};
///
/// let budget = MemoryBudget::new(ByteSize::kib(100));
/// let buffers = budget.account("buffers");
/// let _chunk = buffers.try_reserve(ByteSize::kib(85))?;
/// let next = if budget.pressure() >= Pressure::High { ByteSize::kib(4) } else { ByteSize::kib(64) };
/// assert_eq!(next, ByteSize::kib(4));
/// # Ok::<(), plimsoll::BudgetExceeded>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Pressure {
    /// There is room.
    #[default]
    Calm,
    /// Take less: smaller chunks, no prefetching, nothing that can wait. From 80 % of the room on.
    High,
    /// The next request may be refused. From 95 % of the room on, and where the budget is overdrawn.
    Critical,
}

impl fmt::Display for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Calm => "calm",
            Self::High => "high",
            Self::Critical => "critical",
        })
    }
}

/// From which percentages of the room on the pressure is high and critical.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    high: u8,
    critical: u8,
}

impl Thresholds {
    pub(super) const DEFAULT: Self = Self { high: 80, critical: 95 };

    pub(super) fn new(high: u8, critical: u8) -> Result<Self, BudgetError> {
        if 0 < high && high < critical && critical <= 100 {
            Ok(Self { high, critical })
        } else {
            Err(BudgetError::Thresholds { high, critical })
        }
    }

    /// How full `room` is with `used` bytes of it reserved. A room of nothing is always full.
    pub(super) fn pressure(self, used: u64, room: u64) -> Pressure {
        let reached = |percent: u8| u128::from(used) * 100 >= u128::from(room) * u128::from(percent);
        if reached(self.critical) {
            Pressure::Critical
        } else if reached(self.high) {
            Pressure::High
        } else {
            Pressure::Calm
        }
    }
}
