//! The platform's lines on how an invocation began or ended, told apart from prose that quotes them.
//!
//! The platform says `START RequestId: ..`, `RequestId: .. Error: ..`, `RequestId: .. Process exited before ..` and
//! `<time> <id> Task timed out after N.NN seconds`, each at the beginning of its message. Only what is known to be put
//! in front of messages may stand there: a function that logs such words itself ends nothing.

use std::sync::LazyLock;

use memchr::memmem::{self, Finder};

use super::figure;
use super::report_line::Marks;
use super::scan::{Found, separators, word};
use super::text::ShortText;

static REQUEST_ID: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("RequestId:"));
static TIMED_OUT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("Task timed out after "));
/// `"message":"`, `"@message": "`, `"errorMessage":"`.
static MESSAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("essage\""));
/// That of the Telemetry API. The record of a report is an object.
static RECORD: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"record\":\""));

/// Tells what the line says of how an invocation began or ended. Returns whether it does.
pub(super) fn scan(line: &[u8], found: &mut dyn FnMut(Found)) -> bool {
    // Nearly every line has neither, and a search is faster than a reading.
    if REQUEST_ID.find(line).is_none() && TIMED_OUT.find(line).is_none() {
        return false;
    }
    let Some((rest, is_timed)) = message(line) else { return false };
    if let Some(rest) = rest.strip_prefix(b"START RequestId:") {
        return ShortText::new(id(rest).0).map(|id| found(Found::Start(id))).is_some();
    }
    if let Some(rest) = rest.strip_prefix(b"RequestId:") {
        return failure(rest, found);
    }
    is_timed && timeout(rest, found)
}

/// The id that `text` begins with, and what follows.
fn id(text: &[u8]) -> (&[u8], &[u8]) {
    let (id, rest) = word(separators(text).1);
    (id, separators(rest).1)
}

/// What follows `RequestId:`.
fn failure(text: &[u8], found: &mut dyn FnMut(Found)) -> bool {
    let (id, rest) = match id(text) {
        // The id was cut out.
        (b"Error:", rest) => (None, rest),
        (id, rest) => match rest.strip_prefix(b"Error:") {
            Some(rest) => (ShortText::new(id), rest),
            None if rest.starts_with(b"Process exited before") => (ShortText::new(id), rest),
            None => return false,
        },
    };
    let killed = memmem::find(rest, b"signal: killed").is_some();
    found(Found::Mark(id, Marks { killed, failed: true, timed_out: false }));
    true
}

/// What follows a time.
fn timeout(text: &[u8], found: &mut dyn FnMut(Found)) -> bool {
    let timed_out = TIMED_OUT.needle();
    let (id, rest) = if text.starts_with(timed_out) { (None, text) } else { (Some(word(text).0), id(text).1) };
    let seconds = rest.strip_prefix(timed_out).and_then(figure::decimal);
    let Some(rest) = seconds.and_then(|(_, rest)| rest.strip_prefix(b" seconds")) else { return false };
    // The message ends here, or its colour, or the string that holds it.
    if !matches!(separators(rest).1, [] | [b'"' | b'\x1b', ..]) {
        return false;
    }
    found(Found::Mark(id.and_then(ShortText::new), Marks { timed_out: true, ..Marks::default() }));
    true
}

/// The message of a line, without what stands in front of it, and whether that ends with a time. `None` for JSON
/// without a message of the platform.
fn message(line: &[u8]) -> Option<(&[u8], bool)> {
    let (rest, is_timed) = behind_prefixes(line);
    if !matches!(rest, [b'{' | b'"', ..]) {
        return Some((rest, is_timed));
    }
    let value = match MESSAGE.find(rest) {
        Some(at) => {
            let colon = separators(rest.get(at + MESSAGE.needle().len()..)?).1;
            separators(colon.strip_prefix(b":")?).1.strip_prefix(b"\"")?
        }
        None => rest.get(RECORD.find(rest)? + RECORD.needle().len()..)?,
    };
    // What a function logs has a level, or the type `function`.
    let is_own = [&b"\"level\""[..], b"\"function\""].iter().any(|mark| memmem::find(rest, mark).is_some());
    (!is_own).then(|| behind_prefixes(value))
}

/// What follows times, numbers, streams and groups in front of a message, and whether a time stands last.
fn behind_prefixes(line: &[u8]) -> (&[u8], bool) {
    let (mut rest, mut is_timed) = (line, false);
    loop {
        let (_, text) = separators(rest);
        let behind = match text {
            [b',', behind @ ..] => Some((behind, is_timed)),
            // A string of CSV. One that names a value is JSON.
            [b'"', b'0'..=b'9' | b'R' | b'S' | b'T', ..] => text.get(1..).map(|behind| (behind, is_timed)),
            [b'[', ..] => group(text).map(|behind| (behind, false)),
            [b'\x1b', b'[', color @ ..] => {
                let end = color.iter().position(|byte| !byte.is_ascii_digit() && *byte != b';');
                let behind = end.and_then(|end| color.get(end..)?.strip_prefix(b"m"));
                behind.map(|behind| (behind, is_timed))
            }
            [b'@', ..] => text.strip_prefix(b"@message=").map(|behind| (behind, false)),
            _ => time(text).map(|behind| (behind, true)).or_else(|| Some((stream(text)?, false))),
        };
        let Some(behind) = behind else { return (text, is_timed) };
        (rest, is_timed) = behind;
    }
}

/// What follows a time or a count of ms since 1970.
fn time(text: &[u8]) -> Option<&[u8]> {
    if !text.first()?.is_ascii_digit() {
        return None;
    }
    // From `-` to `:` lie `.`, `/` and the digits.
    let is_part = |byte: &u8| matches!(byte, b'-'..=b':' | b'+' | b'T' | b'Z');
    let end = text.iter().position(|byte| !is_part(byte)).unwrap_or(text.len());
    let (time, rest) = text.split_at(end);
    let has = |byte| time.contains(&byte);
    // An id may consist of digits and dashes, too.
    let is_time = has(b':') || time.len() == "2026-01-01".len() && (has(b'-') || has(b'/'));
    let is_count = time.len() >= "1767225600".len() && time.iter().all(u8::is_ascii_digit);
    let ends = matches!(rest, [] | [b' ' | b'\t' | b'\r' | b'\n' | b'\\' | b'|' | b',' | b'"' | b'[' | b']', ..]);
    (ends && (is_time || is_count)).then_some(rest)
}

/// What follows the name of a log group, or of a stream: `2026/01/01/[$LATEST]0f5f..`.
fn stream(text: &[u8]) -> Option<&[u8]> {
    let is_date = |text: &[u8]| matches!(text, [y, _, _, _, b'/', _, _, b'/', _, _, b'/', ..] if y.is_ascii_digit());
    if !text.starts_with(b"/aws/") && !is_date(text) && !text.starts_with(b"EVENTS\t") {
        return None;
    }
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    text.get(end..)
}

/// What follows a name in brackets, as tools print that of the group or of the stream; a level is a function's own.
fn group(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|byte| *byte == b']')?;
    let (name, rest) = (text.get(1..end)?, text.get(end + 1..)?);
    let is_level = name.len() <= "CRITICAL".len() && name.iter().all(u8::is_ascii_alphabetic);
    (!is_level).then_some(rest)
}
