//! The allocator's calls: a sample is entered after the inner allocator returned its block, and removed before the block
//! is freed, so that another thread can have a block at the same address.
//!
//! Nothing here allocates, blocks or unwinds, and no call of it is on the fast path but [`may_be_sample`].

use std::sync::atomic::Ordering::Relaxed;

use crate::heap::slot::Slot;
use crate::heap::thread::{self, LEDGER};

use super::sampling::{self, Hits};
use super::{FILTER, SAMPLES, Sample, account, settings, snapshot};

/// Returns `true` if the profile is on, as the counter of the thread knows it.
#[inline]
pub(in crate::heap) fn is_on(slot: &Slot) -> bool {
    slot.looks_at_frees()
}

/// Returns `false` if the block is no sample.
#[inline]
pub(in crate::heap) fn may_be_sample(block: *const u8) -> bool {
    FILTER.may_contain(block.addr())
}

/// Removes the sample of a block that is about to be freed or resized.
#[inline]
pub(in crate::heap) fn before_free(block: *const u8) -> Option<Sample> {
    if may_be_sample(block) { remove(block) } else { None }
}

#[cold]
#[inline(never)]
fn remove(block: *const u8) -> Option<Sample> {
    let packed = SAMPLES.remove(block.addr())?;
    FILTER.remove(block.addr());
    let sample = Sample::unpack(packed)?;
    account::remove(sample);
    Some(sample)
}

/// Enters a sample again after its block could not be resized.
pub(in crate::heap) fn still_there(block: *const u8, sample: Option<Sample>) {
    if let Some(sample) = sample {
        enter(block, sample);
    }
}

/// Samples a new block of `size` bytes, if a sampling point is in it. `above` is an address in the stack frame of the
/// allocator's function. The stack of the sample begins above that frame.
#[inline]
pub(in crate::heap) fn after_alloc(block: *const u8, size: usize, above: *const u8) {
    if settings::is_on() && !block.is_null() {
        sample(block, size, above);
    }
}

/// The position of the threads without a counter on their common line of bytes.
static SHARED_POSITION: crate::sync::AtomicU64 = crate::sync::AtomicU64::new(0);

#[inline(never)]
fn sample(block: *const u8, size: usize, above: *const u8) {
    let interval = settings::interval();
    let hits = if size as u64 >= interval.bytes() {
        Hits { count: 1, doublings: interval.doublings }
    } else if let Some(slot) = thread::own() {
        slot.pass(size, interval, thread::number().unwrap_or(0) as u64)
    } else {
        let position = SHARED_POSITION.fetch_add(size as u64, Relaxed);
        let count = sampling::points_in(position, size as u64, interval, u64::from(u16::MAX));
        Hits { count, doublings: interval.doublings }
    };
    if hits.count > 0 {
        let node = account::stack_of(above);
        enter(block, Sample::new(node, hits, size as u64));
    }
}

/// Takes a snapshot if the heap has risen to a new peak, after the block is counted.
#[inline]
pub(in crate::heap) fn look_at_peak() {
    if settings::is_on() {
        snapshot::take_if_higher(LEDGER.line());
    }
}

fn enter(block: *const u8, sample: Sample) {
    // Before the sample can be seen, so that no sum falls below zero.
    account::add(sample);
    FILTER.insert(block.addr());
    match SAMPLES.insert(block.addr(), sample.pack()) {
        Ok(displaced) => {
            if displaced.block != 0 {
                FILTER.remove(displaced.block);
            }
            if let Some(sample) = Sample::unpack(displaced.sample) {
                account::remove(sample);
            }
            account::thin_if_crowded();
        }
        Err(_full) => {
            FILTER.remove(block.addr());
            account::remove(sample);
            account::note_lost(sample);
            account::thin();
        }
    }
}
