//! What a REPORT line says of one invocation, and what that means for its memory.

use std::fmt;
use std::time::Duration;

use crate::size::ByteSize;

use super::log::{Entry, ReportLog};
use super::text::ShortText;

/// "At the limit": the difference that the platform's rounding makes, in bytes. Real lines show 1023 of 1024 MB.
const ROUNDING: ByteSize = ByteSize::mib(1);

/// One invocation as a REPORT line tells it, in text or as JSON. What the line does not say is `None`.
///
/// No figure is derived: `billed_duration` is the printed one even where it lies below `duration`, as at old timeouts.
/// A figure counts only with its unit behind it, because a line cut after `Memory Size: 25` does not say 25 MB.
///
/// About 300 bytes, no allocation.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
/// use plimsoll::sizing::{OutOfMemory, ReportLine};
///
/// let line = b"REPORT RequestId: 4f1c\tDuration: 7032.68 ms\tBilled Duration: 7033 ms\tMemory Size: 1024 MB\tMax \
///     Memory Used: 1023 MB\tStatus: error\tError Type: Runtime.OutOfMemory";
/// let report = ReportLine::parse(line).ok_or("no report in this line")?;
/// assert_eq!(report.memory_size, Some(ByteSize::mib(1024)));
/// assert_eq!(report.out_of_memory(), OutOfMemory::Certain);
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportLine {
    /// The number of the line it begins in, from 1.
    pub line: u64,
    /// The request id, as printed; need not be a UUID.
    pub request_id: Option<ShortText>,
    /// `Duration`: how long the handler ran.
    pub duration: Option<Duration>,
    /// `Billed Duration`. It contains `billed_restore_duration`, and init where init is billed.
    pub billed_duration: Option<Duration>,
    /// `Memory Size`: the limit. Managed Instances do not print it.
    pub memory_size: Option<ByteSize>,
    /// `Max Memory Used`: the highest of *all* invocations of the environment so far, extensions included.
    pub max_memory_used: Option<ByteSize>,
    /// `Init Duration`: printed for the first invocation of an environment.
    pub init_duration: Option<Duration>,
    /// `Restore Duration`, with `SnapStart` in the place of init.
    pub restore_duration: Option<Duration>,
    /// `Billed Restore Duration`, a part of `billed_duration`.
    pub billed_restore_duration: Option<Duration>,
    /// `Status`. Text lines carry it since 2025, and only where the invocation failed.
    pub status: Option<Status>,
    /// `Error Type`, such as `Runtime.OutOfMemory`.
    pub error_type: Option<ShortText>,
    /// What other lines of the log say of the same invocation.
    pub(super) marks: Marks,
}

/// The `Status` of a report.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::{ReportLine, Status};
///
/// let line = b"REPORT RequestId: 1\tDuration: 3000.00 ms\tMemory Size: 128 MB\tMax Memory Used: 61 MB\tStatus: timeout";
/// let status = ReportLine::parse(line).and_then(|report| report.status);
/// assert_eq!(status, Some(Status::Timeout));
/// assert_eq!(Status::Timeout.as_str(), "timeout");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// `success`.
    Success,
    /// `error`: the runtime or an extension ended.
    Error,
    /// `failure`: the handler answered with an error.
    Failure,
    /// `timeout`.
    Timeout,
    /// A word that this crate does not know.
    Unknown,
}

/// What lines other than the REPORT say of an invocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// `Runtime exited with error: signal: killed`.
    pub(super) killed: bool,
    /// `Task timed out after ..`.
    pub(super) timed_out: bool,
    /// `RequestId: .. Error: ..`, or `Process exited before completing request`.
    pub(super) failed: bool,
}

impl Marks {
    pub(super) const fn merge(&mut self, other: Self) {
        self.killed |= other.killed;
        self.timed_out |= other.timed_out;
        self.failed |= other.failed;
    }
}

/// How an invocation ended, as far as the log says.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::{Outcome, ReportLine};
///
/// let line = b"REPORT RequestId: 1\tDuration: 12.00 ms\tMemory Size: 128 MB\tMax Memory Used: 61 MB";
/// assert_eq!(ReportLine::parse(line).map(|report| report.outcome()), Some(Outcome::Finished));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Nothing says that it failed.
    Finished,
    /// It failed.
    Failed,
    /// It ran into the function's timeout.
    TimedOut,
}

/// Whether memory ran out. The platform kills without a word, so one verdict must stay a suspicion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OutOfMemory {
    /// It ended well, or it failed with memory to spare. A success at the limit is thrashing, not out-of-memory.
    No,
    /// It failed or timed out at the limit, or was killed and the line does not tell the memory.
    Suspected,
    /// The platform says `Runtime.OutOfMemory`, or it was killed at the limit.
    Certain,
}

impl ReportLine {
    /// Reads the first report that a single line holds, with whatever stands in front of it; `None` if there is none.
    ///
    /// Linear time, no allocation for text. A log tells more than its lines one by one: what is wrapped over several
    /// lines, killed, copied twice. [`ReportLog`] sees that.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut first = None;
        let mut keep = |entry| {
            if let Entry::Report(report) = entry {
                first.get_or_insert(report);
            }
        };
        let mut log = ReportLog::new();
        log.push(1, line, &mut keep);
        log.finish(&mut keep);
        first
    }

    /// Whether the memory used reached the memory size, within the 1 MB by which real lines differ. `false` if unknown.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::sizing::ReportLine;
    /// let line = b"REPORT RequestId: 1\tDuration: 12.00 ms\tMemory Size: 1024 MB\tMax Memory Used: 1023 MB";
    /// assert!(ReportLine::parse(line).is_some_and(|report| report.is_at_limit()));
    /// ```
    pub fn is_at_limit(&self) -> bool {
        let used = self.max_memory_used.map(|used| used.saturating_add(ROUNDING));
        used.zip(self.memory_size).is_some_and(|(used, size)| used >= size)
    }

    /// How the invocation ended.
    ///
    /// Its own `Status` decides. Where it has none, or one that this crate does not know, other lines of the log do.
    pub fn outcome(&self) -> Outcome {
        let Marks { killed, timed_out, failed } = self.marks;
        match self.status {
            Some(Status::Timeout) => Outcome::TimedOut,
            Some(Status::Unknown) | None if timed_out => Outcome::TimedOut,
            Some(Status::Error | Status::Failure | Status::Unknown) => Outcome::Failed,
            None if killed || failed => Outcome::Failed,
            Some(Status::Success) | None if self.error_type.is_some() => Outcome::Failed,
            Some(Status::Success) | None => Outcome::Finished,
        }
    }

    /// Whether memory ran out. A line that tells of a kill counts only where the invocation did not succeed.
    pub fn out_of_memory(&self) -> OutOfMemory {
        let told = self.error_type.is_some_and(|error| error.as_str() == "Runtime.OutOfMemory");
        let killed = self.marks.killed && self.status != Some(Status::Success);
        let is_unseen = self.max_memory_used.is_none() || self.memory_size.is_none();
        match (self.is_at_limit(), self.outcome()) {
            _ if told => OutOfMemory::Certain,
            (true, _) if killed => OutOfMemory::Certain,
            (true, Outcome::Failed | Outcome::TimedOut) => OutOfMemory::Suspected,
            _ if killed && is_unseen => OutOfMemory::Suspected,
            _ => OutOfMemory::No,
        }
    }

    /// Whether both say the same of an invocation that has an id and a duration: then one line was copied twice.
    ///
    /// The id alone does not do: an asynchronous retry keeps it.
    pub(super) fn is_copy_of(&self, other: &Self) -> bool {
        // What differs most often comes first, as this runs for each of the reports held.
        self.duration.is_some()
            && self.duration == other.duration
            && self.request_id.is_some()
            && Self { line: 0, marks: Marks::default(), ..*self } == Self { line: 0, marks: Marks::default(), ..*other }
    }

    /// Takes from the next line what this one does not say.
    pub(super) fn continue_with(&mut self, next: &Self) {
        self.duration = self.duration.or(next.duration);
        self.billed_duration = self.billed_duration.or(next.billed_duration);
        self.memory_size = self.memory_size.or(next.memory_size);
        self.max_memory_used = self.max_memory_used.or(next.max_memory_used);
        self.init_duration = self.init_duration.or(next.init_duration);
        self.restore_duration = self.restore_duration.or(next.restore_duration);
        self.billed_restore_duration = self.billed_restore_duration.or(next.billed_restore_duration);
        self.status = self.status.or(next.status);
        self.error_type = self.error_type.or(next.error_type);
    }
}

impl Status {
    /// Whether a word of the platform begins so and goes on.
    pub(super) fn is_begun_by(begin: &[u8]) -> bool {
        let all = [Self::Success, Self::Error, Self::Failure, Self::Timeout].map(Self::as_str);
        all.iter().any(|word| word.len() > begin.len() && word.as_bytes().starts_with(begin))
    }

    /// The status that a word of the platform names.
    pub(super) fn from_word(word: &[u8]) -> Self {
        match word {
            b"success" => Self::Success,
            b"error" => Self::Error,
            b"failure" => Self::Failure,
            b"timeout" => Self::Timeout,
            _ => Self::Unknown,
        }
    }

    /// The word as the platform prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An init that failed or ran into its limit: an `INIT_REPORT` line, or `platform.initReport`.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::InitReport;
///
/// fn tell(init: &InitReport) -> String {
///     let why = init.error_type.map_or(String::new(), |text| format!(" ({})", text.as_str()));
///     format!("line {}: the init ended{why}", init.line)
/// }
/// # assert_eq!(tell(&InitReport::default()), "line 0: the init ended");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InitReport {
    /// The number of its line, from 1.
    pub line: u64,
    /// How long it took.
    pub init_duration: Option<Duration>,
    /// `init` or `invoke`.
    pub phase: Option<ShortText>,
    /// How it ended.
    pub status: Option<Status>,
    /// Why it failed.
    pub error_type: Option<ShortText>,
}

/// A restore from a snapshot: a `RESTORE_REPORT` line, or `platform.restoreReport`. A REPORT repeats its duration.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::RestoreReport;
///
/// fn took_long(restore: &RestoreReport) -> bool {
///     restore.restore_duration.is_some_and(|took| took > std::time::Duration::from_secs(1))
/// }
/// # assert!(!took_long(&RestoreReport::default()));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The number of its line, from 1.
    pub line: u64,
    /// How long it took.
    pub restore_duration: Option<Duration>,
    /// How it ended.
    pub status: Option<Status>,
    /// Why it failed.
    pub error_type: Option<ShortText>,
}
