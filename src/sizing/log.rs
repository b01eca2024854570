//! A log line by line: reports put together from what several lines say of one invocation, and what was passed over.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;

use crate::error_chain::debug_as_chain;

use super::pretty::{Collected, Pretty};
use super::report_line::{InitReport, Marks, ReportLine, RestoreReport};
use super::scan::{self, Found};
use super::text::ShortText;
use super::{ending, json};

/// Reports that are held back, and endings that wait for their report.
const WINDOW: usize = 16;

/// What a log tells.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::{Entry, read_log};
///
/// let log: &[u8] = b"INIT_REPORT Init Duration: 10001.20 ms\tPhase: init\tStatus: timeout";
/// read_log(log, |entry| match entry {
///     Entry::Init(init) => println!("line {}: init took {:?}", init.line, init.init_duration),
///     other => panic!("{other:?}"),
/// })?;
/// # Ok::<(), plimsoll::sizing::ReadLogError>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Entry {
    /// An invocation.
    Report(ReportLine),
    /// An init, by a line of its own.
    Init(InitReport),
    /// A restore, by a line of its own.
    Restore(RestoreReport),
    /// A report that does not read, or not in full. What reads of it comes as an entry of its own.
    Malformed(MalformedLine),
}

/// Tells in which line a report does not read, and why. The log goes on behind it.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::{Entry, read_log};
///
/// let log: &[u8] = b"REPORT RequestId: 1\tDuration: many ms\tMemory Size: 128 MB\tMax Memory Used: 61 MB";
/// let mut faults = Vec::new();
/// read_log(log, |entry| if let Entry::Malformed(line) = entry { faults.push(line) })?;
/// assert_eq!(faults[0].line(), 1);
/// assert_eq!(faults[0].to_string(), "line 1: `Duration` is followed by no number of ms");
/// # Ok::<(), plimsoll::sizing::ReadLogError>(())
/// ```
pub struct MalformedLine {
    line: u64,
    fault: Fault,
}

debug_as_chain!(MalformedLine);

#[derive(Debug)]
pub(super) enum Fault {
    Figure { field: &'static str, unit: &'static str },
    Json(serde_json::Error),
    Empty,
}

impl MalformedLine {
    /// The number of the line, from 1.
    pub const fn line(&self) -> u64 {
        self.line
    }
}

impl fmt::Display for MalformedLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match self.fault {
            Fault::Figure { field, unit } => write!(f, "`{field}` is followed by no number of {unit}"),
            Fault::Json(_) => f.write_str("the JSON of a platform report does not read"),
            Fault::Empty => f.write_str("a report with neither a request id nor a figure"),
        }
    }
}

impl Error for MalformedLine {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.fault {
            Fault::Json(error) => Some(error),
            Fault::Figure { .. } | Fault::Empty => None,
        }
    }
}

/// What was read, and what was passed over.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::{LogCounts, read_log};
///
/// let counts: LogCounts = read_log(&b"START RequestId: 1 Version: 7\n"[..], |_entry| {})?;
/// assert_eq!((counts.lines, counts.reports, counts.malformed), (1, 0, 0));
/// # Ok::<(), plimsoll::sizing::ReadLogError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogCounts {
    /// Lines in all, oversized ones included.
    pub lines: u64,
    /// Reports told.
    pub reports: u64,
    /// Reports not told because they are copies of one of the last 16.
    pub copies: u64,
    /// Lines that have nothing to do with reports.
    pub skipped: u64,
    /// Faults in reports; a line may have several.
    pub malformed: u64,
    /// Lines longer than the reader's limit; not read.
    pub oversized: u64,
    /// Invocations killed, as a line says, for which no report was found. They ran out of memory at an unknown size.
    pub killed_without_report: u64,
}

/// Reads a log line by line, and tells its reports in their order.
///
/// What one line cannot tell: a report wrapped over several lines, JSON printed over several lines, a line that was
/// copied twice, an invocation that another line says was killed or timed out. For that, the last 16 reports are held
/// back until [`finish`](Self::finish), and 16 endings wait for their report, kills the longest. Lines of several log
/// streams may be mixed.
///
/// It holds at most 12 KiB, and the text of one JSON object of up to 16 KiB that is printed over several lines; nothing
/// grows with the log. Linear time; text lines are read without an allocation.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::{Entry, OutOfMemory, ReportLog};
///
/// let text = b"\
/// REPORT RequestId: 8a1c\tDuration: 2500.00 ms\tBilled Duration: 2500 ms\tMemory Size: 128 MB\tMax Memory Used: 128 MB
/// RequestId: 8a1c Error: Runtime exited with error: signal: killed
/// Runtime.ExitError";
///
/// let mut reports = Vec::new();
/// let mut keep = |entry| if let Entry::Report(report) = entry { reports.push(report) };
/// let mut log = ReportLog::new();
/// for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
///     log.push(number, line, &mut keep);
/// }
/// log.finish(&mut keep);
/// assert_eq!(reports.len(), 1);
/// assert_eq!(reports.first().map(|report| report.out_of_memory()), Some(OutOfMemory::Certain));
/// ```
#[derive(Debug)]
pub struct ReportLog {
    /// The last reports, the oldest in front.
    held: VecDeque<Held>,
    /// Endings whose report was not seen yet, the oldest in front. A kill waits longest: nothing else proves it.
    endings: VecDeque<(ShortText, Marks)>,
    /// Whether the line before was, or continued, the newest report held.
    continues: bool,
    pretty: Pretty,
    counts: LogCounts,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    report: ReportLine,
    /// An invocation with the same id began since: an ending speaks of that one.
    is_over: bool,
}

impl Default for ReportLog {
    fn default() -> Self {
        Self::new()
    }
}

impl ReportLog {
    /// An empty log.
    pub fn new() -> Self {
        Self {
            held: VecDeque::new(),
            endings: VecDeque::new(),
            continues: false,
            pretty: Pretty::default(),
            counts: LogCounts::default(),
        }
    }

    /// Takes the next line, without its line end, and tells `each` what is complete by now.
    pub fn push(&mut self, number: u64, line: &[u8], mut each: impl FnMut(Entry)) {
        self.take(number, line, &mut each);
    }

    /// Counts a line that was too long to be read.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::sizing::ReportLog;
    ///
    /// let mut log = ReportLog::new();
    /// log.push_oversized(|_entry| {}); // a line that the reader did not give out
    /// assert_eq!((log.counts().lines, log.counts().oversized), (1, 1));
    /// ```
    pub fn push_oversized(&mut self, mut each: impl FnMut(Entry)) {
        self.counts.lines += 1;
        self.counts.oversized += 1;
        self.continues = false;
        self.give_up_json(&mut each);
    }

    /// Ends the log: tells `each` the reports held back, and what was cut off.
    pub fn finish(&mut self, mut each: impl FnMut(Entry)) -> LogCounts {
        self.give_up_json(&mut each);
        while self.release(&mut each) {}
        while self.forget_ending() {}
        self.continues = false;
        self.counts
    }

    /// What was read so far. Reports held back are not in it yet.
    pub const fn counts(&self) -> LogCounts {
        self.counts
    }

    fn take(&mut self, number: u64, line: &[u8], each: &mut dyn FnMut(Entry)) {
        self.counts.lines += 1;
        if !self.pretty.is_open() {
            self.pretty.open(number, line);
        } else if !self.pretty.add(line) {
            self.give_up_json(each);
            self.pretty.open(number, line);
        }
        let closed = self.pretty.take_closed();
        let is_part = closed.is_some() || self.pretty.is_open();
        let told = scan::scan(line, &mut |found| self.note(number, found, each))
            || !is_part && json::scan(line, &mut |found| self.note(number, found, each))
            || ending::scan(line, &mut |found| self.note(number, found, each))
            || self.continuation(number, line, each);
        match closed {
            Some(mut object) => {
                object.lines = object.lines.saturating_sub(u64::from(told));
                self.json(&object, each);
            }
            None if told && is_part => self.pretty.last_told(),
            None => self.counts.skipped += u64::from(!told && !is_part),
        }
    }

    /// Takes the fields of a line that continues the newest report; `false` if it does not.
    fn continuation(&mut self, number: u64, line: &[u8], each: &mut dyn FnMut(Entry)) -> bool {
        if !std::mem::take(&mut self.continues) {
            return false;
        }
        let more = scan::continuation(line, &mut |found| self.note(number, found, each));
        if let Some((more, newest)) = more.zip(self.held.back_mut()) {
            newest.report.continue_with(&more);
            self.continues = true;
        }
        self.continues
    }

    fn give_up_json(&mut self, each: &mut dyn FnMut(Entry)) {
        if let Some(object) = self.pretty.give_up() {
            self.json(&object, each);
        }
    }

    fn json(&mut self, object: &Collected, each: &mut dyn FnMut(Entry)) {
        if !json::scan(&object.text, &mut |found| self.note(object.first, found, each)) {
            self.counts.skipped += object.lines;
        }
    }

    fn note(&mut self, line: u64, found: Found, each: &mut dyn FnMut(Entry)) {
        self.continues = false;
        match found {
            Found::Report(report) => self.hold(ReportLine { line, ..report }, each),
            Found::Init(init) => each(Entry::Init(InitReport { line, ..init })),
            Found::Restore(restore) => each(Entry::Restore(RestoreReport { line, ..restore })),
            Found::Mark(id, marks) => self.mark(id, marks),
            Found::Start(id) => {
                let same = self.held.iter_mut().filter(|held| held.report.request_id == Some(id));
                same.for_each(|held| held.is_over = true);
            }
            Found::Fault(fault) => {
                self.counts.malformed += 1;
                each(Entry::Malformed(MalformedLine { line, fault }));
            }
        }
    }

    fn hold(&mut self, mut report: ReportLine, each: &mut dyn FnMut(Entry)) {
        if self.held.iter().any(|held| held.report.is_copy_of(&report)) {
            self.counts.copies += 1;
            return;
        }
        let waiting = |(id, _): &(ShortText, Marks)| report.request_id == Some(*id);
        if let Some(at) = self.endings.iter().position(waiting)
            && let Some((_, marks)) = self.endings.remove(at)
        {
            report.marks.merge(marks);
        }
        if self.held.len() >= WINDOW {
            self.release(each);
        }
        self.held.push_back(Held { report, is_over: false });
        self.continues = true;
    }

    /// Tells the oldest report held; `false` if there is none.
    fn release(&mut self, each: &mut dyn FnMut(Entry)) -> bool {
        let Some(held) = self.held.pop_front() else { return false };
        self.counts.reports += 1;
        each(Entry::Report(held.report));
        true
    }

    /// An ending stands behind the report of its invocation in old logs, and in front of it in newer ones.
    fn mark(&mut self, id: Option<ShortText>, marks: Marks) {
        let Some(id) = id else {
            self.counts.killed_without_report += u64::from(marks.killed);
            return;
        };
        let mut newest_first = self.held.iter_mut().rev();
        if let Some(held) = newest_first.find(|held| held.report.request_id == Some(id) && !held.is_over) {
            held.report.marks.merge(marks);
        } else if let Some((_, waiting)) = self.endings.iter_mut().find(|(other, _)| *other == id) {
            waiting.merge(marks);
        } else {
            if self.endings.len() >= WINDOW {
                self.forget_ending();
            }
            self.endings.push_back((id, marks));
        }
    }

    /// Gives up an ending that waits: the oldest that tells of no kill, or else the oldest. `false` if there is none.
    fn forget_ending(&mut self) -> bool {
        let least = self.endings.iter().position(|(_, marks)| !marks.killed).unwrap_or_default();
        let Some((_, marks)) = self.endings.remove(least) else { return false };
        self.counts.killed_without_report += u64::from(marks.killed);
        true
    }
}
