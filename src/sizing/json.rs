//! The JSON forms: `platform.report` and its kin, as a log line, from the Telemetry API, or quoted in another text.
//!
//! Figures are taken as the digits stand there, without a detour over floats.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::{memchr, memmem::Finder};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::figure::{self, Unit};
use super::log::Fault;
use super::report_line::{InitReport, Marks, ReportLine, RestoreReport, Status};
use super::scan::Found;
use super::text::ShortText;

/// Objects around the one that is looked for: an event in a batch in a wrapper lies no deeper.
const MAX_DEPTH: usize = 8;

/// How many times its length may be read of a line: objects that are cut, or lie in each other, are read again.
const READINGS: usize = 8;

static PLATFORM: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("platform."));

/// Of an event what is asked for, each value as it stands in the text.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default, rename = "type", deserialize_with = "raw")]
    kind: Raw<'a>,
    #[serde(borrow)]
    record: Option<Record<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Record<'a> {
    #[serde(borrow, deserialize_with = "raw")]
    request_id: Raw<'a>,
    #[serde(borrow, deserialize_with = "raw")]
    status: Raw<'a>,
    #[serde(borrow, deserialize_with = "raw")]
    error_type: Raw<'a>,
    #[serde(borrow, deserialize_with = "raw")]
    phase: Raw<'a>,
    #[serde(borrow)]
    metrics: Option<Metrics<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metrics<'a> {
    #[serde(borrow, rename = "durationMs", deserialize_with = "raw")]
    duration: Raw<'a>,
    #[serde(borrow, rename = "billedDurationMs", deserialize_with = "raw")]
    billed: Raw<'a>,
    #[serde(borrow, rename = "memorySizeMB", deserialize_with = "raw")]
    memory_size: Raw<'a>,
    #[serde(borrow, rename = "maxMemoryUsedMB", deserialize_with = "raw")]
    max_memory_used: Raw<'a>,
    #[serde(borrow, rename = "initDurationMs", deserialize_with = "raw")]
    init: Raw<'a>,
    #[serde(borrow, rename = "restoreDurationMs", deserialize_with = "raw")]
    restore: Raw<'a>,
    #[serde(borrow, rename = "billedRestoreDurationMs", deserialize_with = "raw")]
    billed_restore: Raw<'a>,
}

type Raw<'a> = Option<&'a RawValue>;

/// One body for all fields: with a copy of its own for each, the code outgrows the processor's cache.
#[inline(never)]
fn raw<'de, D: Deserializer<'de>>(value: D) -> Result<Raw<'de>, D::Error> {
    Raw::deserialize(value)
}

/// Tells all platform reports of the text, one object or many. Returns whether it tells any, or should have.
pub(super) fn scan(text: &[u8], found: &mut dyn FnMut(Found)) -> bool {
    let Some(name) = named(text, 0) else { return false };
    let mut spent = 0;
    let (any, error) = objects(text, name, &mut spent, found);
    let Some(error) = error else { return any };
    // The object may stand in a string of another: quotes are then escaped, or doubled in CSV.
    if !any {
        let unquoted = unquoted(text);
        if unquoted.len() < text.len()
            && let Some(name) = named(&unquoted, 0)
            && objects(&unquoted, name, &mut spent, found).0
        {
            return true;
        }
    }
    found(Found::Fault(Fault::Json(error)));
    true
}

/// Where a report is named from `position` on.
fn named(text: &[u8], position: usize) -> Option<usize> {
    let text = text.get(position..)?;
    let mut names = PLATFORM.find_iter(text).filter(|at| {
        let name = text.get(at + PLATFORM.needle().len()..).unwrap_or_default();
        [&b"report"[..], b"initReport", b"restoreReport"]
            .iter()
            .any(|kind| name.strip_prefix(*kind).is_some_and(|rest| matches!(rest, [b'"', ..] | [b'\\', b'"', ..])))
    });
    Some(position + names.next()?)
}

/// Tells each object that names itself a report, from the first `name` on, and adds to `spent` how many bytes it reads
/// for that. Returns whether there was one, and why another does not read.
fn objects(
    text: &[u8],
    name: usize,
    spent: &mut usize,
    found: &mut dyn FnMut(Found),
) -> (bool, Option<serde_json::Error>) {
    // Text that is known to be UTF-8 is not tested value by value.
    let whole = std::str::from_utf8(text).ok();
    let most = text.len().saturating_mul(READINGS);
    let (mut any, mut failure) = (false, None);
    let (mut position, mut next) = (0, Some(name));
    while let Some(name) = next {
        let (mut depth, mut why) = (0, None);
        while let Some(start) =
            brace(text, position).filter(|start| *start < name && depth < MAX_DEPTH && *spent < most)
        {
            let rest = text.get(start..).unwrap_or_default();
            let (event, len) = match whole.and_then(|text| text.get(start..)) {
                Some(text) => first(serde_json::Deserializer::from_str(text)),
                None => first(serde_json::Deserializer::from_slice(rest)),
            };
            *spent += read(event.as_ref(), len, rest);
            match event {
                Some(Ok(event)) if tell(&event, found) => {
                    any = true;
                    position = start + len;
                    break;
                }
                // Another event, in front.
                Some(Ok(_)) if start + len <= name => position = start + len,
                // One around it, or none.
                event => {
                    why = why.or(event.and_then(Result::err));
                    position = start + 1;
                    depth += 1;
                }
            }
        }
        if position <= name {
            // Prose, or what does not read.
            position = name + 1;
            failure = failure.or(why);
        }
        next = named(text, position);
    }
    (any, failure)
}

/// How many bytes were read of `rest` for an event of `len`.
fn read(event: Option<&serde_json::Result<Event<'_>>>, len: usize, rest: &[u8]) -> usize {
    match event {
        Some(Err(error)) if error.line() == 1 => error.column(),
        Some(Err(_)) => rest.len(),
        _ => len,
    }
}

/// Where the first brace opens from `position` on.
fn brace(text: &[u8], position: usize) -> Option<usize> {
    Some(position + memchr(b'{', text.get(position..)?)?)
}

/// The first value, and where it ends.
fn first<'a, R>(json: serde_json::Deserializer<R>) -> (Option<serde_json::Result<Event<'a>>>, usize)
where
    R: serde_json::de::Read<'a>,
{
    let mut values = json.into_iter();
    (values.next(), values.byte_offset())
}

/// Tells what the event reports; `false` if it is none of ours.
fn tell(event: &Event<'_>, found: &mut dyn FnMut(Found)) -> bool {
    let kind = text(event.kind);
    let kind = kind.as_deref().unwrap_or_default();
    if !["platform.report", "platform.initReport", "platform.restoreReport"].contains(&kind) {
        return false;
    }
    let (no_record, no_metrics) = (Record::default(), Metrics::default());
    let record = event.record.as_ref().unwrap_or(&no_record);
    let metrics = record.metrics.as_ref().unwrap_or(&no_metrics);

    let mut read = |field, unit: Unit, value: Raw<'_>| {
        let value = value?.get();
        let figure = figure::decimal(value.as_bytes()).filter(|(_, rest)| rest.is_empty());
        if figure.is_none() {
            found(Found::Fault(Fault::Figure { field, unit: unit.name() }));
        }
        figure.map(|(millionths, _)| millionths)
    };
    let mut ms = |field, value| read(field, Unit::Ms, value).map(figure::milliseconds);
    let duration = ms("durationMs", metrics.duration);
    let billed_duration = ms("billedDurationMs", metrics.billed);
    let init_duration = ms("initDurationMs", metrics.init);
    let restore_duration = ms("restoreDurationMs", metrics.restore);
    let billed_restore_duration = ms("billedRestoreDurationMs", metrics.billed_restore);
    let mut mb = |field, value| read(field, Unit::Mb, value).map(figure::megabytes);
    let memory_size = mb("memorySizeMB", metrics.memory_size);
    let max_memory_used = mb("maxMemoryUsedMB", metrics.max_memory_used);

    let status = text(record.status).map(|word| Status::from_word(word.as_bytes()));
    let error_type = short(record.error_type);
    found(match kind {
        "platform.report" => Found::Report(ReportLine {
            line: 0,
            request_id: short(record.request_id),
            duration,
            billed_duration,
            memory_size,
            max_memory_used,
            init_duration,
            restore_duration,
            billed_restore_duration,
            status,
            error_type,
            marks: Marks::default(),
        }),
        "platform.initReport" => {
            let phase = short(record.phase);
            Found::Init(InitReport { line: 0, init_duration: duration, phase, status, error_type })
        }
        _ => Found::Restore(RestoreReport { line: 0, restore_duration: duration, status, error_type }),
    });
    true
}

/// The string that a value is, without an allocation where nothing in it is escaped.
fn text(value: Raw<'_>) -> Option<Cow<'_, str>> {
    let json = value?.get();
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(json).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

fn short(value: Raw<'_>) -> Option<ShortText> {
    ShortText::new(text(value)?.as_bytes())
}

/// The text with `\"` and `""` as `"`.
fn unquoted(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = if let [b'\\' | b'"', b'"', after @ ..] = rest { (b'"', after) } else { (*first, after) };
        plain.push(byte);
        rest = after;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_a_few_times_however_its_objects_are_nested_or_cut() {
        let nested = r#"{"a":"#.repeat(MAX_DEPTH) + r#"["platform.report","#;
        for open in [nested.as_str(), r#"{"a":["platform.report","#] {
            for line in [open.repeat(16) + &"1,".repeat(20_000), open.repeat(2_000)] {
                let line = line.as_bytes();
                let mut spent = 0;
                let (any, error) = objects(line, named(line, 0).unwrap(), &mut spent, &mut |_| ());
                assert!(!any && error.is_some());
                // The last reading may pass the bound.
                let readings = spent / line.len();
                assert!((READINGS..=READINGS + 1).contains(&readings), "{readings}");
            }
        }
    }
}
