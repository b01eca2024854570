//! The lines that this crate writes to standard error: their format, and warnings.
//!
//! Each record is one line, written with one system call, of at most 4 KiB. A pipe takes 4 KiB in one piece, so records
//! of several threads do not mix.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use crate::os;

/// The longest record, in bytes.
pub(crate) const MAX_RECORD: usize = 4096;

/// The variable in which AWS Lambda names the log format of the function.
const FORMAT_VARIABLE: &str = "AWS_LAMBDA_LOG_FORMAT";

/// The format of the records that the crate writes to standard error.
///
/// The default is the format that the function is configured with: `AWS_LAMBDA_LOG_FORMAT=JSON` selects `Json`, and
/// everything else `Text`. The alarm is JSON in both formats.
///
/// # Examples
///
/// ```no_run
/// use plimsoll::{Monitor, monitor::LogFormat};
///
/// let monitor = Monitor::builder().log_format(LogFormat::Json).install()?;
/// # Ok::<(), plimsoll::monitor::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// One line of text a record.
    #[default]
    Text,
    /// One JSON object a record. It has the keys `plimsoll` (the kind of record), `v` (the version of the format, 1),
    /// `timestamp` and `level`; Lambda's filter of log levels reads the last two.
    Json,
}

/// The format in force, as `LogFormat as u8 + 1`; 0 until it is first needed.
static FORMAT: AtomicU8 = AtomicU8::new(0);

/// Sets the format of all later records.
pub(crate) fn set_format(format: LogFormat) {
    FORMAT.store(format as u8 + 1, Relaxed);
}

/// Returns the format in force. The first call reads the environment, which allocates.
pub(crate) fn format() -> LogFormat {
    match FORMAT.load(Relaxed) {
        0 => {
            let format = named(std::env::var_os(FORMAT_VARIABLE).as_deref());
            set_format(format);
            format
        }
        known => decoded(known),
    }
}

/// Returns the format in force if it is known, else text. Does not allocate: for signal handlers.
pub(crate) fn format_if_known() -> LogFormat {
    decoded(FORMAT.load(Relaxed))
}

const fn decoded(stored: u8) -> LogFormat {
    if stored == LogFormat::Json as u8 + 1 { LogFormat::Json } else { LogFormat::Text }
}

fn named(value: Option<&std::ffi::OsStr>) -> LogFormat {
    if value.is_some_and(|value| value.eq_ignore_ascii_case("json")) { LogFormat::Json } else { LogFormat::Text }
}

/// Writes one line of warning: for a setting that has no effect, or not the effect that its user expects.
///
/// The message names the mistake and the remedy. It does not fail, and the caller continues with the default.
pub(crate) fn warn(message: fmt::Arguments<'_>) {
    let mut text = Message::new();
    // A message that is too long is cut.
    let _is_cut = text.write_fmt(message);
    let mut line = os::Line::<MAX_RECORD>::new();
    let is_whole = match format() {
        LogFormat::Text => line.put(format_args!("plimsoll warning: {}", text.as_str())),
        LogFormat::Json => {
            line.put(format_args!("{},\"message\":\"{}\"}}", Head::new("warning", Level::Warn), Escaped(text.as_str())))
        }
    };
    debug_assert!(is_whole, "a message of `MAX_MESSAGE` bytes fits, even if each of them is escaped");
    line.write_stderr();
}

/// Writes the warning unless `warned` is set, and sets it: for a mistake that a loop can repeat.
pub(crate) fn warn_once(warned: &AtomicBool, message: fmt::Arguments<'_>) {
    if !warned.swap(true, Relaxed) {
        warn(message);
    }
}

/// The longest message, in bytes. An escaped byte takes six at most, so a record holds it.
const MAX_MESSAGE: usize = 640;

/// The text of a message on the stack, without control characters, which could forge a line.
struct Message {
    text: [u8; MAX_MESSAGE],
    len: usize,
}

impl Message {
    const fn new() -> Self {
        Self { text: [0; MAX_MESSAGE], len: 0 }
    }

    fn as_str(&self) -> &str {
        let text = self.text.get(..self.len).and_then(|text| std::str::from_utf8(text).ok());
        debug_assert!(text.is_some(), "only whole characters are kept");
        text.unwrap_or_default()
    }
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|letter| {
            let letter = if letter.is_control() { '?' } else { letter };
            let mut bytes = [0; 4];
            let encoded = letter.encode_utf8(&mut bytes).as_bytes();
            let place = self.text.get_mut(self.len..self.len + encoded.len()).ok_or(fmt::Error)?;
            place.copy_from_slice(encoded);
            self.len += encoded.len();
            Ok(())
        })
    }
}

/// The level of a record, as Lambda's filter of log levels names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Info,
    Warn,
    Error,
}

/// The start of a JSON record, from the brace to the last key that all kinds have; the next key follows after a comma.
///
/// Lambda reads `level` only if `timestamp` is valid RFC 3339, and takes the record for `INFO` otherwise.
pub(crate) struct Head {
    kind: &'static str,
    level: Level,
    wall_ms: u64,
}

impl Head {
    pub(crate) fn new(kind: &'static str, level: Level) -> Self {
        Self { kind, level, wall_ms: os::coarse_wall_ms() }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
        };
        write!(f, r#"{{"plimsoll":"{}","v":1,"timestamp":"{}","level":"{level}""#, self.kind, Rfc3339(self.wall_ms))
    }
}

/// A time in milliseconds since 1970, printed in UTC as RFC 3339: `2026-11-29T05:40:08.123Z`.
struct Rfc3339(u64);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY_MS: u64 = 86_400_000;
        let (day, time) = (self.0 / DAY_MS, self.0 % DAY_MS);
        let (year, month, day) = civil_date(day);
        let (hour, minute, second) = (time / 3_600_000, time / 60_000 % 60, time / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", time % 1000)
    }
}

/// Converts days since 1970-01-01 to year, month and day of the Gregorian calendar.
///
/// Counts from 0000-03-01, so that the leap day is the last day of a year, in eras of 400 years or 146,097 days. See
/// [`chrono`-compatible low-level date algorithms](https://howardhinnant.github.io/date_algorithms.html#civil_from_days).
const fn civil_date(since_1970: u64) -> (u64, u64, u64) {
    let days = since_1970 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // The months from March on have 153 days in five.
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era;
    (if month <= 2 { year + 1 } else { year }, month, day)
}

/// Text as the inside of a JSON string.
pub(crate) struct Escaped<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaper(f), "{}", self.0)
    }
}

struct Escaper<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaper<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|letter| match letter {
            '"' | '\\' => write!(self.0, "\\{letter}"),
            control if control.is_control() => write!(self.0, "\\u{:04x}", u32::from(control)),
            other => self.0.write_char(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_known_moments_print_as_date_prints_them() {
        for (wall_ms, printed) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_796_000_000_123, "2026-11-30T00:53:20.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Rfc3339(wall_ms).to_string(), printed);
        }
        assert!(!Rfc3339(u64::MAX).to_string().is_empty());
    }

    #[test]
    fn civil_date_day_by_day_is_the_next_day() {
        let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for since_1970 in 0..200_000 {
            assert_eq!(civil_date(since_1970), (year, month, day));
            let last = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            day += 1;
            if day > last[usize::try_from(month - 1).unwrap()] {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn escaped_quotes_and_control_characters_stay_inside_the_string() {
        assert_eq!(Escaped("a\"b\\c\nd\u{7f}é").to_string(), r#"a\"b\\c\u000ad\u007fé"#);
    }

    #[test]
    fn message_of_any_text_is_one_line_of_bounded_length() {
        let mut message = Message::new();
        assert!(message.write_str(&"\n\u{85}é\"".repeat(1000)).is_err());
        assert!(message.as_str().starts_with("??é\"??é\"") && message.len <= MAX_MESSAGE);
        let head = Head::new("warning", Level::Warn).to_string().len();
        assert!(head + 6 * MAX_MESSAGE + ",\"message\":\"\"}\n".len() <= MAX_RECORD, "{head}");
    }

    #[test]
    fn named_only_json_in_any_case_is_json() {
        for (value, format) in [("JSON", LogFormat::Json), ("json", LogFormat::Json), ("Text", LogFormat::Text)] {
            assert_eq!(named(Some(value.as_ref())), format);
        }
        assert_eq!((named(None), named(Some("".as_ref()))), (LogFormat::Text, LogFormat::Text));
    }
}
