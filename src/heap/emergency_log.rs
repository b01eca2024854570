//! Records that must be written when nothing may be allocated: in the allocator, and in a signal handler.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::board::{self, Shown};
use crate::log::{Head, Level, MAX_RECORD};
use crate::os::{self, Line};
use crate::size::ByteSize;

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

static IN_FLIGHT: InFlightTable<MAX_LISTED, WORDS> = InFlightTable::new();

/// A request in the table of requests in flight, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlightRequest(Ticket);

impl InFlightRequest {
    /// Enters a request. `id` and `label` must be clean ASCII; their first 64 bytes are kept.
    pub(crate) fn start(id: &str, label: &str) -> Self {
        Self(IN_FLIGHT.start(id, label, os::coarse_monotonic_ms()))
    }

    /// Replaces the label.
    pub(crate) fn set_label(&mut self, label: &str) {
        IN_FLIGHT.set_label(&mut self.0, label);
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
    put_requests(&mut line, *now_ms);
    put_gauges(&mut line, *heap);
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
    // The peak begins again with each request that is alone, so it is this one's own.
    let peak = (count == 1).then(|| LEDGER.peak(None).at_most);
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

fn put_request<const LEN: usize>(line: &mut Line<LEN>, request: &Request<WORDS>, now_ms: u64, peak: Option<usize>) {
    line.put(format_args!(r#"{{"request_id":""#));
    put_text(line, request.id.bytes());
    if request.label.bytes().next().is_some() {
        line.put(format_args!(r#"","label":""#));
        put_text(line, request.label.bytes());
    }
    line.put(format_args!(r#"","age_ms":{}"#, now_ms.saturating_sub(request.started_ms)));
    if let Some(peak) = peak {
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

/// The largest gauges and accounts of a moment.
pub(super) struct Holders {
    /// The largest gauges. None is larger than the heap less those before it.
    pub(super) gauges: [Option<(Shown, ByteSize)>; MAX_GAUGES],
    /// The largest accounts.
    pub(super) reserved: [Option<(Shown, ByteSize)>; MAX_GAUGES],
    /// The heap less all gauges and accounts.
    pub(super) unaccounted: ByteSize,
}

/// Reads the gauges and accounts against a live heap of `heap` bytes.
pub(super) fn holders(heap: ByteSize) -> Holders {
    let (mut gauges, counted) = board::largest_gauges();
    let (reserved, granted) = board::largest_reserved();
    let mut rest = heap;
    for (_, bytes) in gauges.iter_mut().flatten() {
        *bytes = (*bytes).min(rest);
        rest = rest.saturating_sub(*bytes);
    }
    Holders { gauges, reserved, unaccounted: heap.saturating_sub(counted).saturating_sub(granted) }
}

/// Adds the JSON members `gauges`, `reserved` and `unaccounted`. Sizes are in bytes.
pub(super) fn put_gauges<const LEN: usize>(line: &mut Line<LEN>, heap: usize) {
    let Holders { gauges, reserved, unaccounted } = holders(ByteSize::bytes(heap as u64));
    for (name, members) in [("gauges", gauges), ("reserved", reserved)] {
        line.put_whole(1, |line| {
            line.put(format_args!(r#","{name}":{{"#));
            let mut comma = "";
            for (name, bytes) in members.iter().flatten() {
                line.put(format_args!(r#"{comma}"{name}":{}"#, bytes.as_u64()));
                comma = ",";
            }
            line.put(format_args!("}}"));
        });
    }
    put_field(line, format_args!(r#","unaccounted":{}"#, unaccounted.as_u64()));
}
