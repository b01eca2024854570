//! From REPORT lines to the memory size that fits, with the cost beside it.

mod figure;
mod json;
mod log;
mod pretty;
mod report_line;
mod scan;
mod text;

pub use log::{Entry, LogCounts, MalformedLine, ReportLog};
pub use report_line::{InitReport, OutOfMemory, Outcome, ReportLine, RestoreReport, Status};
pub use text::ShortText;
