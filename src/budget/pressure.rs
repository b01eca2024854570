//! The pressure of a budget.

use std::fmt;

use super::BuildError;

/// The share of a budget that is reserved, in levels. Compare with `>=`, because there may be more levels in later versions.
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget, Pressure};
///
/// let budget = MemoryBudget::new(ByteSize::kib(100));
/// let buffers = budget.account("buffers")?;
/// let _chunk = buffers.try_reserve(ByteSize::kib(85))?;
/// let next = if budget.pressure() >= Pressure::High { ByteSize::kib(4) } else { ByteSize::kib(64) };
/// assert_eq!(next, ByteSize::kib(4));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Pressure {
    /// Less than the threshold of [`High`](Self::High) is reserved.
    #[default]
    Normal,
    /// Use less: smaller chunks, no prefetching, nothing that can wait. From 80 % of the capacity.
    High,
    /// The next request may be refused. From 95 % of the capacity, and if more is reserved than that.
    Critical,
}

impl fmt::Display for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        })
    }
}

/// The percentages of the capacity from which the pressure is high and critical.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    high: u8,
    critical: u8,
}

impl Thresholds {
    pub(super) const DEFAULT: Self = Self { high: 80, critical: 95 };

    pub(super) fn new(high: u8, critical: u8) -> Result<Self, BuildError> {
        if 0 < high && high < critical && critical <= 100 {
            Ok(Self { high, critical })
        } else {
            Err(BuildError::PressureThresholds { high, critical })
        }
    }

    /// Returns the pressure with `reserved` bytes of `capacity`. A capacity of zero is always full.
    pub(super) fn pressure(self, reserved: u64, capacity: u64) -> Pressure {
        let reached = |percent: u8| u128::from(reserved) * 100 >= u128::from(capacity) * u128::from(percent);
        if reached(self.critical) {
            Pressure::Critical
        } else if reached(self.high) {
            Pressure::High
        } else {
            Pressure::Normal
        }
    }
}
