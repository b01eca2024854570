//! A log read from an input: the crate's line reader feeding [`ReportLog`].

use std::io::Read;

use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;
use crate::stream::{BuildError, LineReader, Oversize, StreamError};

use super::log::{Entry, LogCounts, ReportLog};

/// The longest line that is read: a `CloudWatch` Logs event is no larger. 1 MiB.
///
/// # Examples
///
/// ```
/// assert_eq!(plimsoll::sizing::MAX_LINE, plimsoll::ByteSize::mib(1));
/// ```
pub const MAX_LINE: ByteSize = ByteSize::mib(1);

/// Tells why a log was not read to its end. What came before was told.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::{ReadLogError, read_log};
///
/// struct Broken;
/// impl std::io::Read for Broken {
///     fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
///         Err(std::io::Error::other("the pipe broke"))
///     }
/// }
/// assert!(matches!(read_log(Broken, |_entry| {}), Err(ReadLogError::Stream(_))));
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ReadLogError {
    /// The reader has no memory for its buffers.
    #[error("the log cannot be read")]
    Build(#[from] BuildError),
    /// The input failed.
    #[error("the log ends early")]
    Stream(#[from] StreamError),
}

debug_as_chain!(ReadLogError);

/// Reads a whole log and tells `each` what is in it, in order.
///
/// Holds at most 288 KiB, the longest line up to [`MAX_LINE`], and twice as much more where it quotes or nests JSON,
/// whatever the size of the log; longer lines are counted and passed over. Lines that are no reports are skipped at the
/// speed of a search.
///
/// # Errors
///
/// [`ReadLogError`] where the input fails or there is no memory for the buffers.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::{Entry, Profile, read_log};
///
/// let log: &[u8] = b"START RequestId: 4f1c Version: 7
/// REPORT RequestId: 4f1c\tDuration: 12.07 ms\tBilled Duration: 13 ms\tMemory Size: 128 MB\tMax Memory Used: 61 MB
/// REPORT RequestId: 4f1d\tDuration: 12.07 ms\tBilled Duration: many ms\tMemory Size: 128 MB\tMax Memory Used: 61 MB";
///
/// let mut profile = Profile::new();
/// let counts = read_log(log, |entry| match entry {
///     Entry::Report(report) => profile.add(&report),
///     Entry::Malformed(line) => eprintln!("{line}"), // line 3: `Billed Duration` is followed by no number of ms
///     _ => {}
/// })?;
/// assert_eq!((counts.lines, counts.reports, counts.skipped, counts.malformed), (3, 2, 0, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_log(input: impl Read, mut each: impl FnMut(Entry)) -> Result<LogCounts, ReadLogError> {
    let mut lines = LineReader::builder(MAX_LINE).oversize(Oversize::Skip).build(input)?;
    let mut log = ReportLog::new();
    let end = loop {
        match lines.next_record() {
            Ok(Some(line)) => {
                pass_over(&mut log, line.number() - 1, &mut each);
                log.push(line.number(), &line, &mut each);
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    pass_over(&mut log, lines.stats().records + lines.stats().skipped, &mut each);
    let counts = log.finish(&mut each);
    end?;
    Ok(counts)
}

/// Counts the lines up to the number `last` that the reader did not give out.
fn pass_over(log: &mut ReportLog, last: u64, each: &mut impl FnMut(Entry)) {
    while log.counts().lines < last {
        log.push_oversized(&mut *each);
    }
}
