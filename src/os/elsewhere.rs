//! What `os` says where there is no `/proc`: the figures are not available, the clocks are std's.

use std::env::consts::OS;
use std::io::Write;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use super::{OsError, Rss};

pub(super) const fn rss() -> Result<Rss, OsError> {
    Err(OsError::NotAvailable { what: "the resident set size", here: OS })
}

pub(super) const fn peak_rss() -> Result<u64, OsError> {
    Err(OsError::NotAvailable { what: "the peak resident set size", here: OS })
}

pub(super) const fn reset_peak_rss() -> Result<(), OsError> {
    Err(OsError::NotAvailable { what: "resetting the peak resident set size", here: OS })
}

pub(super) const fn trim() -> Result<(), OsError> {
    Err(OsError::NotAvailable { what: "malloc_trim", here: OS })
}

pub(super) const fn fix_trim_threshold() {}

pub(super) const fn limit_arenas(_: u32) -> bool {
    false
}

pub(super) const fn threads() -> Option<u64> {
    None
}

/// Writes to standard error what it takes. Unlike on Linux it goes through std's lock, so not from a signal handler.
pub(super) fn write_stderr(bytes: &[u8]) {
    // There is nobody left to tell that standard error is gone.
    drop(std::io::stderr().write_all(bytes));
}

/// Writes to standard error, and waits for its reader: std has no other way.
pub(super) fn write_stderr_nonblocking(bytes: &[u8]) -> bool {
    write_stderr(bytes);
    true
}

#[cfg(feature = "emf")]
pub(super) fn write_stdout(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    // Nor that standard output is.
    drop(stdout.write_all(bytes).and_then(|()| stdout.flush()));
}

/// Milliseconds of a clock that never goes back, since its first reading.
#[expect(clippy::disallowed_methods, reason = "this is what `clock` itself reads")]
pub(super) fn coarse_monotonic_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let now = Instant::now();
    u64::try_from(now.saturating_duration_since(*START.get_or_init(|| now)).as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970, 0 before then.
#[expect(clippy::disallowed_methods, reason = "this is what `clock` itself reads")]
pub(super) fn coarse_wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
