//! From REPORT lines to the memory size that fits, with the cost beside it.
//!
//! Each invocation of a Lambda function leaves one line in its log that tells how long it took, what was billed, how
//! much memory it may use and how much it used at most. This module reads those lines out of logs as people have them,
//! and recommends a memory size: first what fits, then what of that is best, then where more memory no longer helps.
//!
//! | step | |
//! |---|---|
//! | [`read_log`], [`ReportLog`], [`ReportLine`] | REPORT lines, in text and JSON, in every shape seen; fixed memory |
//! | [`Profile`] | what they say of each memory size; bounded memory |
//! | [`Pricing`], [`cpu_share`], [`billed_duration`] | what a size costs and comes with |
//! | [`Sizing`], [`Recommendation`] | the size, its evidence, and what weakens it |
//! | [`select`], [`plateau`], [`Value`] | the rules alone, for figures from elsewhere |
//!
//! What the platform calls `Max Memory Used` is the highest use of the *environment* so far, extensions included, about
//! 10 MB above what the process itself holds. It never falls while the environment lives: percentiles of it are
//! percentiles of marks, not of runs.
//!
//! [`source_document`] lists where the document that the rules come from errs.
//!
//! The example `right_size` puts it together: logs in, a table, JSON or a chart out.

mod advice;
mod ending;
mod figure;
mod json;
mod log;
mod pretty;
mod pricing;
mod profile;
mod read;
mod recommend;
mod report_line;
mod scan;
mod selection;
#[doc = include_str!("source_document.md")]
pub mod source_document {}
mod text;

pub use advice::{Candidate, Caveat, Fit, Recommendation, Untried};
pub use log::{Entry, LogCounts, MalformedLine, ReportLog};
pub use pricing::{Architecture, Dollars, FULL_CPU_MB, GbSeconds, MonthlyCost, Pricing, billed_duration, cpu_share};
pub use profile::{Profile, SizeProfile};
pub use read::{MAX_LINE, ReadLogError, read_log};
pub use recommend::{Sizing, SizingError};
pub use report_line::{InitReport, OutOfMemory, Outcome, ReportLine, RestoreReport, Status};
pub use selection::{ParseStrategyError, Point, Strategy, Value, plateau, select, trimmed_mean};
pub use text::ShortText;
