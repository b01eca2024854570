//! Records that must be written when nothing may be allocated: in the allocator, and in a signal handler.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::log::{Head, Level, MAX_RECORD};
use crate::os::{self, Line};
use crate::size::ByteSize;

use super::holders::Holders;
use super::holders_json::Extent;
use super::in_flight::{InFlightTable, Request, Ticket};
use super::thread::LEDGER;

/// The longest request id and the longest label, in bytes.
pub(crate) const MAX_TEXT: usize = 64;

/// `MAX_TEXT` bytes as words.
const WORDS: usize = MAX_TEXT / 8;

/// Entries of the table. A Lambda environment has one request, a service tens.
const MAX_LISTED: usize = 128;

/// Requests that a record names.
const MAX_NAMED: usize = 4;

/// Gauges, and accounts, that a record names.
const MAX_GAUGES: usize = 5;

/// Allocation sites that a record names.
pub(super) const MAX_SITES: usize = 3;

/// Addresses of a site's stack in the alarm.
const MAX_FRAMES: usize = 8;

static IN_FLIGHT: InFlightTable<MAX_LISTED, WORDS> = InFlightTable::new();

/// A request in the table of requests in flight, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlightRequest(Ticket);

impl InFlightRequest {
    /// Enters a request. `id` and `label` must be clean ASCII; their first 64 bytes are kept.
    pub(crate) fn start(id: &[u8], label: &[u8]) -> Self {
        // Twelve threads share no entries while each has few requests.
        let first = super::thread_number() * 10;
        Self(IN_FLIGHT.start(id, label, os::coarse_monotonic_ms(), first))
    }

    /// Replaces the label.
    pub(crate) fn set_label(&mut self, label: &[u8]) {
        IN_FLIGHT.set_label(&mut self.0, label);
    }

    /// Sets the most bytes that the request held so far.
    pub(crate) fn set_peak(&self, peak: ByteSize) {
        IN_FLIGHT.set_peak(&self.0, peak.as_u64());
    }

    /// Takes the request out of the table before the guard is dropped.
    pub(crate) fn end(&mut self) {
        IN_FLIGHT.end(&mut self.0);
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        self.end();
    }
}

/// Empties the table in the child of a fork.
pub(super) fn clear_after_fork() {
    IN_FLIGHT.clear();
}

/// The most that the live heap grew in any one invocation, in bytes.
static LARGEST_GROWTH: AtomicUsize = AtomicUsize::new(0);

/// JSON members that make metrics of an alarm: the text before and after the time in milliseconds. Set once.
static ALARM_METRICS: OnceLock<[Box<str>; 2]> = OnceLock::new();

/// Sets members to add to the alarm, each after a comma: the text before and after the time in milliseconds. Only the first call
/// has an effect.
pub(crate) fn set_alarm_metrics(members: [Box<str>; 2]) {
    let _is_set_already = ALARM_METRICS.set(members);
}

/// Records how much the live heap grew in an invocation.
pub(crate) fn record_growth(growth: ByteSize) {
    LARGEST_GROWTH.fetch_max(growth.as_usize(), Relaxed);
}

/// The figures of an alarm, in bytes.
#[derive(Debug)]
pub(super) struct Alarm {
    pub(super) percent: u8,
    pub(super) memory_size: usize,
    pub(super) rss: usize,
    pub(super) untouched: usize,
    pub(super) requested: usize,
    pub(super) heap: usize,
    /// Milliseconds of the coarse monotonic clock.
    pub(super) now_ms: u64,
}

/// Writes the alarm to standard error, without waiting for its reader. Returns `true` if it was taken.
#[inline(never)]
pub(super) fn write_alarm(alarm: &Alarm) -> bool {
    let Alarm { percent, memory_size, rss, untouched, requested, heap, now_ms } = alarm;
    let mut line = Line::<MAX_RECORD>::new();
    line.put(format_args!(
        r#"{},"alarm_threshold":{percent},"memory_size":{memory_size},"rss":{rss},"untouched":{untouched}"#,
        Head::new("alarm", Level::Error)
    ));
    line.put(format_args!(r#","requested":{requested},"heap":{heap}"#));
    if let Some([before, after]) = ALARM_METRICS.get() {
        put_field(&mut line, format_args!("{before}{}{after}", os::coarse_wall_ms()));
    }
    put_requests(&mut line, *now_ms);
    put_holders(&mut line, *heap, MAX_FRAMES);
    put_field(&mut line, format_args!(r#","largest_growth":{}"#, LARGEST_GROWTH.load(Relaxed)));
    line.put(format_args!("}}"));
    line.write_stderr_nonblocking()
}

/// Adds a whole field of a JSON object, or nothing: one byte stays free for the end of the object.
fn put_field<const LEN: usize>(line: &mut Line<LEN>, field: std::fmt::Arguments<'_>) {
    line.put_whole(1, |line| _ = line.put(field));
}

/// Adds the JSON members `requests_in_flight` and `requests`, the oldest first. Both are left out if there are none.
pub(super) fn put_requests<const LEN: usize>(line: &mut Line<LEN>, now_ms: u64) {
    let count = IN_FLIGHT.count();
    if count == 0 {
        return;
    }
    // If the request is alone, the peak of the process has begun with it.
    let peak = (count == 1).then(|| LEDGER.peak(None).at_most as u64);
    put_field(line, format_args!(r#","requests_in_flight":{count}"#));
    line.put_whole(1, |line| {
        let mut before = r#","requests":["#;
        for request in IN_FLIGHT.oldest::<MAX_NAMED>().iter().flatten() {
            // `]` and the end of the object.
            let fits = line.put_whole(2, |line| {
                line.put(format_args!("{before}"));
                put_request(line, request, now_ms, peak);
            });
            if fits {
                before = ",";
            }
        }
        if before == "," {
            line.put(format_args!("]"));
        }
    });
}

fn put_request<const LEN: usize>(line: &mut Line<LEN>, request: &Request<WORDS>, now_ms: u64, peak: Option<u64>) {
    line.put(format_args!(r#"{{"request_id":""#));
    put_text(line, request.id.bytes());
    if request.label.bytes().next().is_some() {
        line.put(format_args!(r#"","label":""#));
        put_text(line, request.label.bytes());
    }
    line.put(format_args!(r#"","age_ms":{}"#, now_ms.saturating_sub(request.started_ms)));
    if let Some(peak) = Some(request.peak).filter(|peak| *peak > 0).or(peak) {
        line.put(format_args!(r#","peak":{peak}"#));
    }
    line.put(format_args!("}}"));
}

fn put_text<const LEN: usize>(line: &mut Line<LEN>, text: impl Iterator<Item = u8>) {
    for byte in text {
        line.put_bytes(&[byte]);
    }
}

/// Adds ` | requests ` and the ids of the oldest requests in flight, or nothing if there are none.
pub(super) fn put_request_ids<const LEN: usize>(line: &mut Line<LEN>) {
    let mut before = " | requests ";
    for request in IN_FLIGHT.oldest::<MAX_NAMED>().iter().flatten() {
        line.put(format_args!("{before}"));
        put_text(line, request.id.bytes());
        before = ", ";
    }
    let count = IN_FLIGHT.count();
    if count > MAX_NAMED {
        line.put(format_args!(" of {count}"));
    }
}

/// The holders that a record has.
pub(super) type FewHolders = Holders<MAX_GAUGES>;

/// Reads the holders of a live heap of `heap` bytes. The gauges do not exceed it.
pub(super) fn fill_holders(holders: &mut FewHolders, heap: ByteSize) {
    holders.fill(Some(heap));
    holders.cut_gauges();
}

/// Adds the JSON members of the holders, with the addresses of up to `frames` calls for each site.
#[inline(never)]
pub(super) fn put_holders<const LEN: usize>(line: &mut Line<LEN>, heap: usize, frames: usize) {
    let mut holders = FewHolders::EMPTY;
    fill_holders(&mut holders, ByteSize::bytes(heap as u64));
    holders.put_json(line, Extent { sites: MAX_SITES, frames, named_frames: frames });
}
