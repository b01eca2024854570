//! From REPORT lines to the memory size that fits, with the cost beside it.

mod advice;
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
