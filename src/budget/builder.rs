//! A budget with settings of one's own, and what its limit is made of.

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
///     .pressure_at(70, 90)
///     .floor(ByteSize::mib(40))
///     .build()?;
/// assert_eq!(budget.basis().to_string(), "100.0 MiB, as given");
/// # Ok::<(), plimsoll::budget::BudgetError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct BudgetBuilder {
    limit: Option<ByteSize>,
    environment_share: Option<ByteSize>,
    margin: Option<ByteSize>,
    pressure_at: Option<(u8, u8)>,
    floor: Option<ByteSize>,
    overhead_step: Option<ByteSize>,
}

impl BudgetBuilder {
    const MARGIN_PERCENT: u32 = 5;
    pub(super) const FLOOR_PERCENT: u32 = 50;
    pub(super) const STEP_PERCENT: u32 = 5;

    /// Sets the limit, of which nothing is taken off. Default: what [`MemoryLimit::detect`] finds, less the environment's
    /// share and the margin. Zero grants nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::builder().limit(ByteSize::mib(64)).build()?;
    /// assert_eq!(budget.limit(), ByteSize::mib(64));
    /// # Ok::<(), plimsoll::budget::BudgetError>(())
    /// ```
    pub const fn limit(mut self, limit: ByteSize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sets what the environment takes of the memory size found. Default: [`ENVIRONMENT_SHARE`](crate::env::ENVIRONMENT_SHARE) on Lambda, nothing
    /// under a cgroup. Where share and margin are all of the size found, the limit is zero, which grants nothing.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// // An extension of 60 MiB beside the function.
    /// let budget = MemoryBudget::builder().environment_share(ByteSize::mib(60)).build()?;
    /// # Ok::<(), plimsoll::budget::BudgetError>(())
    /// ```
    pub const fn environment_share(mut self, share: ByteSize) -> Self {
        self.environment_share = Some(share);
        self
    }

    /// Sets what is left free of the memory size found, for what is not heap. Default: 5 % of it. Where share and margin are
    /// all of it, the limit is zero, which grants nothing.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// // Eight requests at a time, each of which may touch 4 MiB that it has reserved.
    /// let budget = MemoryBudget::builder().margin(ByteSize::mib(32)).build()?;
    /// # Ok::<(), plimsoll::budget::BudgetError>(())
    /// ```
    pub const fn margin(mut self, margin: ByteSize) -> Self {
        self.margin = Some(margin);
        self
    }

    /// Sets from which percentages of the room on the pressure is high and critical. Default: 80 and 95.
    /// [`build`](Self::build) refuses them unless `0 < high < critical <= 100`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget, Pressure};
    /// let budget = MemoryBudget::builder().limit(ByteSize::kib(100)).pressure_at(50, 75).build()?;
    /// let _held = budget.account("buffers").try_reserve(ByteSize::kib(60))?;
    /// assert_eq!(budget.pressure(), Pressure::High);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn pressure_at(mut self, high: u8, critical: u8) -> Self {
        self.pressure_at = Some((high, critical));
        self
    }

    /// Sets how much of the room the [overhead](MemoryBudget::observe_rss) leaves in any case. Heap that nobody
    /// reserved knows no such bound. Default: half of the limit. With zero the overhead may take all; with the limit or
    /// more, nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::builder().limit(ByteSize::mib(100)).floor(ByteSize::mib(80)).build()?;
    /// budget.observe_rss(ByteSize::mib(70), ByteSize::mib(10)); // 60 MiB are no heap
    /// assert_eq!(budget.available(), ByteSize::mib(80));
    /// # Ok::<(), plimsoll::budget::BudgetError>(())
    /// ```
    pub const fn floor(mut self, floor: ByteSize) -> Self {
        self.floor = Some(floor);
        self
    }

    /// Sets by how much the [overhead](MemoryBudget::observe_rss) rises at most from one measurement to the next;
    /// at least one byte. Default: 5 % of the limit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, MemoryBudget};
    /// let budget = MemoryBudget::builder().limit(ByteSize::mib(100)).overhead_step(ByteSize::mib(1)).build()?;
    /// budget.observe_rss(ByteSize::mib(10), ByteSize::mib(10));
    /// budget.observe_rss(ByteSize::mib(50), ByteSize::mib(10)); // one bad reading
    /// assert_eq!(budget.baseline().overhead, ByteSize::mib(1));
    /// # Ok::<(), plimsoll::budget::BudgetError>(())
    /// ```
    pub const fn overhead_step(mut self, step: ByteSize) -> Self {
        self.overhead_step = Some(step);
        self
    }

    /// Makes the budget. Without a [`limit`](Self::limit), reads the environment: some 100 us under a cgroup.
    ///
    /// # Errors
    ///
    /// [`BudgetError`] where no limit is known or one is not understood, and where the percentages do not rise.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let budget = plimsoll::MemoryBudget::builder().build()?;
    /// println!("{}", budget.basis());
    /// # Ok::<(), plimsoll::budget::BudgetError>(())
    /// ```
    pub fn build(self) -> Result<MemoryBudget, BudgetError> {
        let thresholds =
            self.pressure_at.map_or(Ok(Thresholds::DEFAULT), |(high, critical)| Thresholds::new(high, critical))?;
        let basis = if let Some(limit) = self.limit {
            Basis::given(limit)
        } else {
            let found = MemoryLimit::detect().map_err(|source| BudgetError::Environment { source })?;
            Basis::of(
                found,
                self.environment_share.unwrap_or_else(|| found.environment_share()),
                self.margin.unwrap_or(found.size().percent(Self::MARGIN_PERCENT)),
            )
        };
        Ok(MemoryBudget::with(basis, thresholds, self.floor, self.overhead_step))
    }
}

/// What a budget's limit is made of. `Display` says it in a line, for the log.
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
/// let basis = MemoryBudget::new(ByteSize::mib(64)).basis();
/// assert_eq!((basis.limit(), basis.found()), (ByteSize::mib(64), None));
/// assert_eq!((basis.environment_share(), basis.margin()), (ByteSize::ZERO, ByteSize::ZERO));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Basis {
    limit: ByteSize,
    found: Option<MemoryLimit>,
    environment_share: ByteSize,
    margin: ByteSize,
}

impl Basis {
    pub(super) const fn given(limit: ByteSize) -> Self {
        Self { limit, found: None, environment_share: ByteSize::ZERO, margin: ByteSize::ZERO }
    }

    /// Takes share and margin off the limit found; where they are all of it, nothing is left.
    pub(super) const fn of(found: MemoryLimit, environment_share: ByteSize, margin: ByteSize) -> Self {
        let limit = found.size().saturating_sub(environment_share).saturating_sub(margin);
        Self { limit, found: Some(found), environment_share, margin }
    }

    /// Tells the budget's limit.
    pub const fn limit(&self) -> ByteSize {
        self.limit
    }

    /// Tells the memory limit found in the environment; `None` where the budget's limit was given.
    pub const fn found(&self) -> Option<MemoryLimit> {
        self.found
    }

    /// Tells what was taken off for the environment's own processes.
    pub const fn environment_share(&self) -> ByteSize {
        self.environment_share
    }

    /// Tells what was taken off to be left free.
    pub const fn margin(&self) -> ByteSize {
        self.margin
    }
}

impl fmt::Display for Basis {
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

/// Why there is no budget.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, MemoryBudget};
///
/// let wrong = MemoryBudget::builder().limit(ByteSize::mib(1)).pressure_at(90, 80).build().unwrap_err();
/// assert_eq!(
///     wrong.to_string(),
///     "pressure is high at 90 % and critical at 80 %: expected 0 < high < critical <= 100"
/// );
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// The environment does not say how much memory there is, and no limit was given.
    #[error("no memory size for the budget: name one with limit()")]
    #[non_exhaustive]
    Environment {
        /// What the environment says.
        source: EnvError,
    },
    /// The percentages at which the pressure rises are not between 1 and 100, or do not rise.
    #[error("pressure is high at {high} % and critical at {critical} %: expected 0 < high < critical <= 100")]
    #[non_exhaustive]
    Thresholds {
        /// Where it is high.
        high: u8,
        /// Where it is critical.
        critical: u8,
    },
}

debug_as_chain!(BudgetError);
