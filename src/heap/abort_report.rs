//! The report that is written when the process aborts because of a refused allocation.
//!
//! A refusal alone is only counted, because `try_reserve` handles it. Code that cannot handle it aborts, and the signal
//! handler writes the report. If nothing was refused, the abort has another cause, and there is no report.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::board::Shown;
use crate::log::{self, Head, Level, LogFormat};
use crate::os::{self, OsError};
use crate::size::ByteSize;

use super::emergency_log::{self, FewHolders, MAX_SITES};
use super::refusal;
use super::thread::LEDGER;

/// Addresses of a site's stack in a JSON record, which is short.
const MAX_FRAMES: usize = 3;

/// A record that fits on the alternate stack of a signal handler.
type Line = os::Line<1280>;

/// The free stack from which on [`say`] runs on an alternate signal stack, in bytes.
///
/// Measured on x86-64, as the bytes of a painted stack that a report overwrites: 5.6 KiB optimized, 10.1 KiB without.
const NEEDED_STACK: usize = if cfg!(debug_assertions) { 12 << 10 } else { 6 << 10 };

/// Installs the abort report: limit, live and peak heap, refusals, requests in flight, allocation sites, gauges and
/// accounts.
///
/// One line to standard error, from a handler of SIGABRT that calls the one before it. It allocates nothing, keeps
/// `errno`. A second call changes nothing. A stack overflow aborts on the alternate signal stack: if the report does
/// not fit there, none is written.
///
/// # Errors
///
/// [`OsError`] if the handler cannot be installed, or signals are not available.
pub(crate) fn install() -> Result<(), OsError> {
    os::on_abort(speak, survived)
}

/// The limit that was lifted for a handler behind this one; `usize::MAX` while there is none.
static LIFTED: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Restores the limit if the process continues.
fn survived() {
    let limit = LIFTED.swap(usize::MAX, SeqCst);
    if limit != usize::MAX {
        LEDGER.set_limit(limit);
    }
}

fn speak() {
    let has_room = os::signal_stack_left().is_none_or(|left| left >= NEEDED_STACK);
    if refusal::count() > 0 && has_room {
        say();
    }
}

/// In a frame of its own: after a stack overflow the handler has little stack, and writes nothing.
#[inline(never)]
fn say() {
    // A handler that was installed before this one may need memory, a backtrace above all.
    let limit = LEDGER.limit();
    LIFTED.store(limit, SeqCst);
    LEDGER.set_limit(usize::MAX);
    let heap = super::size(LEDGER.live());
    // No slot is asked for: a signal handler must not bind one.
    let peak = super::size(LEDGER.peak(None).at_most);
    let abort = Abort { limit: (limit != usize::MAX).then(|| super::size(limit)), heap, peak };
    let mut line = Line::new();
    match log::format_if_known() {
        LogFormat::Text => abort.put_text(&mut line),
        LogFormat::Json => abort.put_json(&mut line),
    }
    line.write_stderr();
}

/// Adds ` | kind` and those of the members that fit, or nothing if there are none.
fn put_group<T>(line: &mut Line, kind: &str, members: impl Iterator<Item = T>, put: impl Fn(&mut Line, T)) {
    let mut before = Some(kind);
    for member in members {
        line.put_whole(0, |line| {
            if let Some(kind) = before.take() {
                line.put(format_args!(" | {kind}"));
            }
            put(line, member);
        });
    }
}

/// The heap when the process aborts.
struct Abort {
    limit: Option<ByteSize>,
    heap: ByteSize,
    peak: ByteSize,
}

impl Abort {
    #[inline(never)]
    fn put_text(&self, line: &mut Line) {
        let Self { limit, heap, peak } = self;
        line.put(format_args!(
            "plimsoll abort report: failed allocations {}, largest {}, last {} ms ago | heap {heap} peak {peak}",
            refusal::count(),
            super::size(refusal::largest()),
            refusal::last_ms_ago(),
        ));
        match limit {
            Some(limit) => line.put(format_args!(" limit {limit}")),
            None => line.put(format_args!(" no limit")),
        };
        line.put_whole(0, emergency_log::put_request_ids);
        let mut holders = FewHolders::EMPTY;
        emergency_log::fill_holders(&mut holders, *heap);
        put_group(line, "sites", holders.largest_sites().take(MAX_SITES), |line, site| {
            line.put(format_args!(" {site} {}", site.bytes));
        });
        let named = |line: &mut Line, (name, bytes): &(Shown, ByteSize)| _ = line.put(format_args!(" {name} {bytes}"));
        put_group(line, "gauges", holders.top_gauges.iter().flatten(), named);
        put_group(line, "reserved", holders.top_accounts.iter().flatten(), named);
        let unattributed = holders.unattributed.unwrap_or_default();
        line.put_whole(0, |line| _ = line.put(format_args!(" | unattributed {unattributed}")));
    }

    /// Writes the same figures as a JSON record, with sizes in bytes.
    #[inline(never)]
    fn put_json(&self, line: &mut Line) {
        let Self { limit, heap, peak } = self;
        line.put(format_args!(
            r#"{},"refused":{},"largest_refused":{},"last_refused_ms_ago":{},"heap":{},"peak":{}"#,
            Head::new("abort", Level::Error),
            refusal::count(),
            refusal::largest(),
            refusal::last_ms_ago(),
            heap.as_u64(),
            peak.as_u64(),
        ));
        if let Some(limit) = limit {
            line.put(format_args!(r#","limit":{}"#, limit.as_u64()));
        }
        emergency_log::put_requests(line, os::coarse_monotonic_ms());
        emergency_log::put_holders(line, heap.as_usize(), MAX_FRAMES);
        line.put(format_args!("}}"));
    }
}
