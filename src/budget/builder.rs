//! The builder of a budget, and the parts of its limit.

use std::fmt;

use crate::env::{EnvError, MemoryLimit};
use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;

use super::MemoryBudget;
use super::pressure::Thresholds;

/// Settings of a [`MemoryBudget`].
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let budget = MemoryBudget::builder()
///     .limit(ByteSize::mib(100))
///     .pressure_thresholds(70, 90)
///     .count_heap()
///     .build()?;
/// assert_eq!(budget.limit_breakdown().to_string(), "100.0 MiB, as given");
/// # Ok::<(), plimsoll::budget::BuildError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct BudgetBuilder {
    limit: Option<ByteSize>,
    environment_share: Option<ByteSize>,
    margin: Option<ByteSize>,
    pressure_thresholds: Option<(u8, u8)>,
    counts_heap: bool,
}

impl BudgetBuilder {
    const MARGIN_PERCENT: u32 = 5;

    /// Sets the limit. Nothing is subtracted from it. Default: what [`MemoryLimit::detect`] finds, less the environment's
    /// share and the margin. 0 grants nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::builder().limit(ByteSize::mib(64)).build()?;
    /// assert_eq!(budget.limit(), ByteSize::mib(64));
    /// # Ok::<(), plimsoll::budget::BuildError>(())
    /// ```
    pub const fn limit(mut self, limit: ByteSize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sets what the environment uses of the memory size that was found. Default:
    /// [`ENVIRONMENT_SHARE`](crate::env::ENVIRONMENT_SHARE) on Lambda, 0 under a cgroup. If share and margin are all of that
    /// size, the limit is 0, which grants nothing.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// // An extension of 60 MiB next to the function.
    /// let budget = MemoryBudget::builder().environment_share(ByteSize::mib(60)).build()?;
    /// # Ok::<(), plimsoll::budget::BuildError>(())
    /// ```
    pub const fn environment_share(mut self, share: ByteSize) -> Self {
        self.environment_share = Some(share);
        self
    }

    /// Sets what is left free of the memory size that was found, for memory that is not heap. Default: 5 % of it. If share and
    /// margin are all of it, the limit is 0, which grants nothing.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// // Eight requests at a time, each of which may touch 4 MiB that it has reserved.
    /// let budget = MemoryBudget::builder().margin(ByteSize::mib(32)).build()?;
    /// # Ok::<(), plimsoll::budget::BuildError>(())
    /// ```
    pub const fn margin(mut self, margin: ByteSize) -> Self {
        self.margin = Some(margin);
        self
    }

    /// Sets the percentages of the capacity from which the pressure is high and critical. Default: 80 and 95.
    /// [`build`](Self::build) refuses them unless `0 < high < critical <= 100`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget, Pressure};
    /// let budget = MemoryBudget::builder().limit(ByteSize::kib(100)).pressure_thresholds(50, 75).build()?;
    /// let _held = budget.account("buffers")?.try_reserve(ByteSize::kib(60))?;
    /// assert_eq!(budget.pressure(), Pressure::High);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn pressure_thresholds(mut self, high: u8, critical: u8) -> Self {
        self.pressure_thresholds = Some((high, critical));
        self
    }

    /// Counts the live heap that no account has reserved against the limit. Default: if the limit was found in the
    /// environment, and from the moment on at which a [monitor](crate::monitor::MonitorBuilder::budget) has the budget.
    ///
    /// It needs the [tracking allocator](crate::TrackingAllocator). For a budget of a part of the process, such as a pool of
    /// buffers, leave it out.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::builder().limit(ByteSize::mib(100)).count_heap().build()?;
    /// assert_eq!(budget.limit(), ByteSize::mib(100));
    /// # Ok::<(), plimsoll::budget::BuildError>(())
    /// ```
    pub const fn count_heap(mut self) -> Self {
        self.counts_heap = true;
        self
    }

    /// Creates the budget. Without a [`limit`](Self::limit) it reads the environment, which takes some 100 us under a cgroup.
    ///
    /// # Errors
    ///
    /// [`BuildError`] if no limit is known or one is not understood, and if the percentages do not rise.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let budget = plimsoll::MemoryBudget::builder().build()?;
    /// println!("{}", budget.limit_breakdown());
    /// # Ok::<(), plimsoll::budget::BuildError>(())
    /// ```
    pub fn build(self) -> Result<MemoryBudget, BuildError> {
        let thresholds = self
            .pressure_thresholds
            .map_or(Ok(Thresholds::DEFAULT), |(high, critical)| Thresholds::new(high, critical))?;
        let breakdown = if let Some(limit) = self.limit {
            LimitBreakdown::given(limit)
        } else {
            let found = MemoryLimit::detect().map_err(|source| BuildError::Environment { source })?;
            LimitBreakdown::of(
                found,
                self.environment_share.unwrap_or_else(|| found.environment_share()),
                self.margin.unwrap_or(found.size().percent(Self::MARGIN_PERCENT)),
            )
        };
        let budget = MemoryBudget::with(breakdown, thresholds);
        if self.counts_heap {
            budget.count_heap();
        }
        Ok(budget)
    }
}

/// The parts of a budget's limit. `Display` writes them in a line, for the log.
///
/// ```text
/// 109.6 MiB: 128.0 MiB (lambda memory size) less 12.0 MiB for the environment and a margin of 6.4 MiB
/// ```
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let breakdown = MemoryBudget::new(ByteSize::mib(64)).limit_breakdown();
/// assert_eq!((breakdown.limit(), breakdown.found()), (ByteSize::mib(64), None));
/// assert_eq!((breakdown.environment_share(), breakdown.margin()), (ByteSize::ZERO, ByteSize::ZERO));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitBreakdown {
    limit: ByteSize,
    found: Option<MemoryLimit>,
    environment_share: ByteSize,
    margin: ByteSize,
}

impl LimitBreakdown {
    pub(super) const fn given(limit: ByteSize) -> Self {
        Self { limit, found: None, environment_share: ByteSize::ZERO, margin: ByteSize::ZERO }
    }

    /// Subtracts share and margin from the limit that was found, down to zero.
    pub(super) const fn of(found: MemoryLimit, environment_share: ByteSize, margin: ByteSize) -> Self {
        let limit = found.size().saturating_sub(environment_share).saturating_sub(margin);
        Self { limit, found: Some(found), environment_share, margin }
    }

    /// Returns the budget's limit.
    pub const fn limit(&self) -> ByteSize {
        self.limit
    }

    /// Returns the memory limit that was found in the environment; `None` if the limit was given.
    pub const fn found(&self) -> Option<MemoryLimit> {
        self.found
    }

    /// Returns the part for the environment's own processes.
    pub const fn environment_share(&self) -> ByteSize {
        self.environment_share
    }

    /// Returns the part that is left free.
    pub const fn margin(&self) -> ByteSize {
        self.margin
    }
}

impl fmt::Display for LimitBreakdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, found, environment_share, margin } = self;
        match found {
            None => write!(f, "{limit}, as given"),
            Some(found) => {
                write!(f, "{limit}: {found} less {environment_share} for the environment and a margin of {margin}")
            }
        }
    }
}

/// An error returned by [`BudgetBuilder::build`] and [`MemoryBudget::from_env`].
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let wrong = MemoryBudget::builder().limit(ByteSize::mib(1)).pressure_thresholds(90, 80).build().unwrap_err();
/// assert_eq!(
///     wrong.to_string(),
///     "pressure is high at 90 % and critical at 80 %: expected 0 < high < critical <= 100"
/// );
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No limit was given, and the environment has none.
    #[error("no memory size for the budget: name one with limit()")]
    #[non_exhaustive]
    Environment {
        /// The error of the environment.
        source: EnvError,
    },
    /// The percentages at which the pressure rises are not between 1 and 100, or do not rise.
    #[error("pressure is high at {high} % and critical at {critical} %: expected 0 < high < critical <= 100")]
    #[non_exhaustive]
    PressureThresholds {
        /// From here it is high.
        high: u8,
        /// From here it is critical.
        critical: u8,
    },
}

debug_as_chain!(BuildError);
