//! The state of the profile, and its sampling interval.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use crate::heap::thread::LEDGER;
use crate::os::StackSource;

use super::sampling::Interval;

const OFF: u8 = 0;
const STARTING: u8 = 1;
const ON: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(OFF);
static BASE: AtomicU64 = AtomicU64::new(0);
static DOUBLINGS: AtomicU32 = AtomicU32::new(0);
static SOURCE: AtomicU8 = AtomicU8::new(StackSource::Unavailable as u8);

/// The most doublings: more than the table of samples can ask for.
const MAX_DOUBLINGS: u32 = 24;

/// Returns `true` if allocations are sampled.
#[inline]
pub(crate) fn is_on() -> bool {
    STATE.load(SeqCst) == ON
}

/// Returns `true` if each free must look for a sample: before the first sample is taken.
pub(crate) fn looks_at_frees() -> bool {
    STATE.load(SeqCst) != OFF
}

/// Claims the right to switch the profile on. Returns `false` if another call has done so.
pub(super) fn claim_start() -> bool {
    STATE.compare_exchange(OFF, STARTING, SeqCst, SeqCst).is_ok()
}

/// Returns `true` if the profile is on in the child of a fork. A start that another thread of the parent had begun is
/// forgotten.
pub(super) fn restart_after_fork() -> bool {
    let _not_starting = STATE.compare_exchange(STARTING, OFF, SeqCst, SeqCst);
    is_on()
}

/// Switches the profile on for all threads.
pub(super) fn switch_on(base: u64, source: StackSource) {
    BASE.store(base, SeqCst);
    SOURCE.store(source as u8, SeqCst);
    // Before the first sample, which any thread may free. A thread that gets its counter now reads the state after it has
    // prepared the counter.
    for slot in LEDGER.slots() {
        slot.look_at_frees();
    }
    STATE.store(ON, SeqCst);
}

/// Returns the interval in force.
pub(super) fn interval() -> Interval {
    Interval { base: BASE.load(Relaxed), doublings: DOUBLINGS.load(Relaxed) }
}

/// Doubles the interval, and returns the new one; `None` if it cannot be longer.
pub(super) fn double_interval() -> Option<Interval> {
    let doublings = DOUBLINGS.load(Relaxed) + 1;
    if doublings > MAX_DOUBLINGS {
        return None;
    }
    DOUBLINGS.store(doublings, Relaxed);
    Some(interval())
}

/// Returns the way in which stacks are walked.
pub(super) fn stack_source() -> StackSource {
    match SOURCE.load(Relaxed) {
        source if source == StackSource::FramePointers as u8 => StackSource::FramePointers,
        source if source == StackSource::UnwindTables as u8 => StackSource::UnwindTables,
        _ => StackSource::Unavailable,
    }
}
