//! The text forms: what one line of a log says, whatever stands in front of it.
//!
//! A report is `REPORT` and then fields by name, in any order, between tabs or blanks, each a figure with its unit or a
//! word. Pastes lose tabs, escape them as `\t`, glue `msBilled`, and end in the middle of a number.

use std::sync::LazyLock;

use memchr::memmem::{self, Finder};

use super::figure::{self, Unit};
use super::log::Fault;
use super::report_line::{InitReport, Marks, ReportLine, RestoreReport, Status};
use super::text::ShortText;

/// One thing that a line says.
#[derive(Debug)]
pub(super) enum Found {
    Report(ReportLine),
    Init(InitReport),
    Restore(RestoreReport),
    /// How the invocation with this id ended; without an id nobody can tell which.
    Mark(Option<ShortText>, Marks),
    /// An invocation with this id begins.
    Start(ShortText),
    Fault(Fault),
}

static REPORT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("REPORT"));

/// Tells all reports of the line. Returns whether it does.
pub(super) fn scan(line: &[u8], found: &mut dyn FnMut(Found)) -> bool {
    let mut any = false;
    let mut at = REPORT.find(line);
    while let Some(start) = at {
        let (before, marked) = line.split_at(start);
        let after = marked.get(REPORT.needle().len()..).unwrap_or_default();
        let next = REPORT.find(after);
        let region = next.and_then(|next| after.get(..next)).unwrap_or(after);
        any |= report(before, region, found);
        at = next.map(|next| line.len() - after.len() + next);
    }
    any
}

/// The fields of a line that continues the report before it: it begins with one of their names.
pub(super) fn continuation(line: &[u8], found: &mut dyn FnMut(Found)) -> Option<ReportLine> {
    let (_, rest) = separators(line);
    let xray = rest.starts_with(b"XRAY TraceId:");
    let known = Label::at(rest).is_some_and(|(label, _)| label != Label::RequestId);
    (xray || known).then(|| Fields::read(rest, found).report)
}

/// What follows one `REPORT`; `before` is what stands in front of it.
fn report(before: &[u8], region: &[u8], found: &mut dyn FnMut(Found)) -> bool {
    let (gap, rest) = separators(region);
    if gap == Gap::None {
        return false;
    }
    if before.ends_with(b"INIT_") {
        let fields = Fields::read(rest, found);
        let ReportLine { init_duration, status, error_type, .. } = fields.report;
        let told = init_duration.is_some();
        if told {
            found(Found::Init(InitReport { line: 0, init_duration, phase: fields.phase, status, error_type }));
        }
        return told || fields.faulty;
    }
    if before.ends_with(b"RESTORE_") {
        let fields = Fields::read(rest, found);
        let ReportLine { restore_duration, status, error_type, .. } = fields.report;
        let told = restore_duration.is_some() || status.is_some();
        if told {
            found(Found::Restore(RestoreReport { line: 0, restore_duration, status, error_type }));
        }
        return told || fields.faulty;
    }
    if without_color(before).last().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
        return false;
    }
    let named = rest.starts_with(b"RequestId:");
    // The word alone is prose, unless it tells of memory.
    if !named && memmem::find(rest, b"Memory").is_none() {
        return false;
    }
    let fields = Fields::read(rest, found);
    let report = fields.report;
    let says_nothing = report == ReportLine::default();
    match (says_nothing, named) {
        (true, true) if !fields.faulty => found(Found::Fault(Fault::Empty)),
        (true, _) => {}
        (false, true) => found(Found::Report(report)),
        (false, false) if report.memory_size.is_some() || report.max_memory_used.is_some() => {
            found(Found::Report(report));
        }
        (false, false) => return fields.faulty,
    }
    named || fields.faulty || !says_nothing
}

/// The text without a terminal's colour at its end: `ESC [ 3 2 m`.
fn without_color(text: &[u8]) -> &[u8] {
    let Some(color) = text.strip_suffix(b"m") else { return text };
    let end = color.iter().rposition(|byte| !byte.is_ascii_digit() && *byte != b';').map_or(0, |at| at + 1);
    color.get(..end).and_then(|color| color.strip_suffix(b"\x1b[")).unwrap_or(text)
}

/// The fields by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    RequestId,
    Duration,
    Billed,
    MemorySize,
    MaxMemoryUsed,
    Init,
    Restore,
    BilledRestore,
    Status,
    ErrorType,
    Phase,
    Xray,
}

impl Label {
    const NAMES: [(&'static str, Self); 14] = [
        ("Duration:", Self::Duration),
        ("Billed Duration:", Self::Billed),
        ("Memory Size:", Self::MemorySize),
        ("Max Memory Used:", Self::MaxMemoryUsed),
        ("Init Duration:", Self::Init),
        ("Status:", Self::Status),
        ("Error Type:", Self::ErrorType),
        ("RequestId:", Self::RequestId),
        ("Restore Duration:", Self::Restore),
        ("Billed Restore Duration:", Self::BilledRestore),
        ("Phase:", Self::Phase),
        ("TraceId:", Self::Xray),
        ("SegmentId:", Self::Xray),
        ("Sampled:", Self::Xray),
    ];

    /// The name that `text` begins with, and the text behind it.
    fn at(text: &[u8]) -> Option<(Self, &[u8])> {
        // Every name begins with a capital letter; most texts asked for do not.
        if !text.first()?.is_ascii_uppercase() {
            return None;
        }
        Self::NAMES.iter().find_map(|(name, label)| Some((*label, text.strip_prefix(name.as_bytes())?)))
    }

    fn name(self) -> &'static str {
        let name = Self::NAMES.iter().find(|(_, label)| *label == self).map_or("", |(name, _)| name);
        name.trim_end_matches(':')
    }

    /// The unit of its figure; `None` if its value is a word.
    const fn unit(self) -> Option<Unit> {
        match self {
            Self::Duration | Self::Billed | Self::Init | Self::Restore | Self::BilledRestore => Some(Unit::Ms),
            Self::MemorySize | Self::MaxMemoryUsed => Some(Unit::Mb),
            Self::RequestId | Self::Status | Self::ErrorType | Self::Phase | Self::Xray => None,
        }
    }
}

/// All fields of a region. The first value of a field counts.
#[derive(Default)]
struct Fields {
    report: ReportLine,
    phase: Option<ShortText>,
    faulty: bool,
}

impl Fields {
    fn read(mut rest: &[u8], found: &mut dyn FnMut(Found)) -> Self {
        let mut fields = Self::default();
        // Whether a word that is no name stands in front: `Runtime Duration` is not `Duration`.
        let mut in_other_name = false;
        while !rest.is_empty() {
            let label = Label::at(rest).filter(|_| !in_other_name);
            if let Some((label, value)) = label {
                rest = fields.value(label, value, found);
                in_other_name = false;
            } else {
                let end = rest.iter().position(|byte| is_separator(*byte)).unwrap_or(rest.len()).max(1);
                in_other_name = rest.get(end - 1).is_some_and(u8::is_ascii_alphabetic);
                rest = rest.get(end..).unwrap_or_default();
            }
            let (gap, after) = separators(rest);
            in_other_name &= gap != Gap::Wide;
            rest = after;
        }
        fields
    }

    /// Reads the value of a field and returns the text behind it.
    fn value<'a>(&mut self, label: Label, text: &'a [u8], found: &mut dyn FnMut(Found)) -> &'a [u8] {
        let (_, text) = separators(text);
        match label.unit() {
            Some(unit) => match value_in(unit, text) {
                Ok((millionths, rest)) => {
                    self.figure(label, millionths);
                    rest
                }
                Err(Unread::Cut) => &[],
                Err(Unread::NoFigure) => {
                    self.faulty = true;
                    found(Found::Fault(Fault::Figure { field: label.name(), unit: unit.name() }));
                    behind_faulty(text)
                }
            },
            // The value was cut out, and the next name follows.
            None if Label::at(text).is_some() => text,
            None => self.word(label, text),
        }
    }

    fn figure(&mut self, label: Label, millionths: u64) {
        let report = &mut self.report;
        let time = match label {
            Label::Duration => &mut report.duration,
            Label::Billed => &mut report.billed_duration,
            Label::Init => &mut report.init_duration,
            Label::Restore => &mut report.restore_duration,
            Label::BilledRestore => &mut report.billed_restore_duration,
            Label::MemorySize => {
                report.memory_size.get_or_insert(figure::megabytes(millionths));
                return;
            }
            _ => {
                report.max_memory_used.get_or_insert(figure::megabytes(millionths));
                return;
            }
        };
        time.get_or_insert(figure::milliseconds(millionths));
    }

    fn word<'a>(&mut self, label: Label, text: &'a [u8]) -> &'a [u8] {
        let (mut value, mut rest) = word(text);
        if label == Label::Status {
            let end = value.iter().position(|byte| !byte.is_ascii_lowercase()).unwrap_or(value.len());
            (value, rest) = text.split_at(end);
            // A line that ends in it may have been cut: `Status: succ` is no failure.
            let is_cut = rest.is_empty() && Status::is_begun_by(value);
            if !value.is_empty() && !is_cut {
                self.report.status.get_or_insert(Status::from_word(value));
            }
            return rest;
        }
        // Where the tab behind it was lost.
        for glued in [&b"Duration:"[..], b"XRAY"] {
            if let Some(short) = value.strip_suffix(glued) {
                (value, rest) = text.split_at(short.len());
            }
        }
        let place = match label {
            Label::RequestId => &mut self.report.request_id,
            Label::ErrorType => &mut self.report.error_type,
            Label::Phase => &mut self.phase,
            _ => return rest,
        };
        if let Some(text) = ShortText::new(value) {
            place.get_or_insert(text);
        }
        rest
    }
}

/// Why a figure was not read.
enum Unread {
    /// The line ends in it, so that its last digits may be missing.
    Cut,
    NoFigure,
}

/// The figure that `text` begins with, in millionths, its unit behind it, and the text behind both.
fn value_in(unit: Unit, text: &[u8]) -> Result<(u64, &[u8]), Unread> {
    if text.is_empty() {
        return Err(Unread::Cut);
    }
    let (millionths, rest) = figure::decimal(text).ok_or(Unread::NoFigure)?;
    let (_, rest) = separators(rest);
    match rest.strip_prefix(unit.name().as_bytes()) {
        Some(rest) => Ok((millionths, rest)),
        None if unit.name().as_bytes().starts_with(rest) => Err(Unread::Cut),
        None => Err(Unread::NoFigure),
    }
}

/// What follows a value that is no figure, and the unit behind it: the next name must not pass for a part of another.
fn behind_faulty(text: &[u8]) -> &[u8] {
    let name = |text: &[u8]| Label::at(text).is_some();
    let skip = |text: &[u8]| text.iter().position(|byte| is_separator(*byte)).unwrap_or(text.len());
    if name(text) {
        return text;
    }
    let (_, rest) = text.split_at(skip(text));
    let (_, behind) = separators(rest);
    let (unit, after) = behind.split_at(skip(behind));
    let is_unit = unit.len() <= 3 || unit.first().is_some_and(u8::is_ascii_lowercase);
    if is_unit && !name(behind) { after } else { rest }
}

/// What stands between two fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    None,
    /// One blank: what follows may belong to the word before.
    Blank,
    /// A tab, several blanks, the edge of a table.
    Wide,
}

/// Splits the separators off the beginning, tabs and line ends that were escaped included.
pub(super) fn separators(text: &[u8]) -> (Gap, &[u8]) {
    let mut rest = text;
    loop {
        rest = match rest {
            [b' ' | b'\t' | b'\r' | b'\n' | b'|', rest @ ..] | [b'\\', b't' | b'r' | b'n', rest @ ..] => rest,
            _ => break,
        };
    }
    let gap = match text.get(..text.len() - rest.len()) {
        Some([]) | None => Gap::None,
        Some(b" ") => Gap::Blank,
        Some(_) => Gap::Wide,
    };
    (gap, rest)
}

const fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b'|' | b'\\')
}

/// The word that `text` begins with, up to a separator or a mark that quotes, lists or brackets, and what follows.
pub(super) fn word(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|byte| ends_word(*byte)).unwrap_or(text.len()))
}

const fn ends_word(byte: u8) -> bool {
    let is_blank = byte.is_ascii() && !byte.is_ascii_graphic();
    is_blank
        || matches!(byte, b'|' | b'\\' | b'"' | b'\'' | b'`' | b',')
        || matches!(byte, b'<' | b'>' | b'(' | b')' | b'[' | b']' | b'{' | b'}')
}
