//! The sums of all live samples, by stack.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crate::os;

use super::sample::Sample;
use super::tree::NodeId;
use super::{MAX_FRAMES, NODES, SAMPLES, STACKS, TABLE, settings};

/// Bytes of the live samples of each stack.
pub(super) static BYTES: [AtomicU64; NODES] = [const { AtomicU64::new(0) }; NODES];
/// Blocks of the live samples of each stack, in units of 1 / [`BLOCK_UNIT`](super::sample::BLOCK_UNIT).
pub(super) static BLOCKS: [AtomicU64; NODES] = [const { AtomicU64::new(0) }; NODES];

/// Bytes of all live samples.
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// The number of live samples.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// More samples make searches in the table long.
const CROWDED: usize = TABLE / 8 * 5;

/// Bytes of samples that found no room in the table.
static LOST: AtomicU64 = AtomicU64::new(0);

/// One thread is thinning the table.
static IS_THINNING: AtomicBool = AtomicBool::new(false);

/// Stands for a stack that could not be walked or had no room. No code is at this address.
pub(super) const UNKNOWN: usize = 1;

/// Returns the stack above the frame that contains `above`.
pub(super) fn stack_of(above: *const u8) -> NodeId {
    let mut frames = [0; MAX_FRAMES];
    let count = os::walk_stack(settings::stack_source(), above, &mut frames);
    let stack = frames.get(..count).unwrap_or_default();
    // A part of a stack would look like a whole one.
    STACKS.insert(stack).or_else(|| STACKS.insert(&[UNKNOWN])).unwrap_or(NodeId::new(0))
}

/// Adds a sample to the sums.
pub(super) fn add(sample: Sample) {
    LIVE.fetch_add(1, Relaxed);
    // Release: a reader of the sum finds the stack in the tree.
    change(sample, |sum, by| _ = sum.fetch_add(by, Release));
}

/// Takes a sample out of the sums.
pub(super) fn remove(sample: Sample) {
    LIVE.fetch_sub(1, Relaxed);
    change(sample, |sum, by| _ = sum.fetch_sub(by, Relaxed));
}

fn change(sample: Sample, by: impl Fn(&AtomicU64, u64)) {
    let base = settings::interval().base;
    let index = sample.node.index();
    by(&TOTAL, sample.bytes(base));
    for (sums, amount) in [(&BYTES, sample.bytes(base)), (&BLOCKS, sample.blocks(base))] {
        // There is a sum for each node of the tree.
        if let Some(sum) = sums.get(index) {
            by(sum, amount);
        }
    }
}

/// Returns the bytes of all live samples.
pub(super) fn total() -> u64 {
    TOTAL.load(Relaxed)
}

/// Returns bytes and blocks of the live samples of the stack with this index, blocks in units of 1 /
/// [`BLOCK_UNIT`](super::sample::BLOCK_UNIT).
pub(super) fn sums(index: usize) -> (u64, u64) {
    let sum = |sums: &[AtomicU64; NODES]| sums.get(index).map_or(0, |sum| sum.load(Acquire));
    (sum(&BYTES), sum(&BLOCKS))
}

/// Counts a sample that found no room.
pub(super) fn note_lost(sample: Sample) {
    LOST.fetch_add(sample.bytes(settings::interval().base), Relaxed);
}

/// Returns the bytes that samples without room stood for, since the start.
pub(super) fn lost() -> u64 {
    LOST.load(Relaxed)
}

/// Thins the table if it is crowded.
pub(super) fn thin_if_crowded() {
    if LIVE.load(Relaxed) > CROWDED {
        thin();
    }
}

/// Doubles the interval, and drops the samples that would not have been taken with it: about half of them.
#[cold]
pub(super) fn thin() {
    if IS_THINNING.swap(true, Acquire) {
        return;
    }
    if let Some(interval) = settings::double_interval() {
        let mut random = interval.bytes();
        let thinned = |word: u64| {
            random = random.wrapping_add(word | 1);
            let kept = Sample::unpack(word).and_then(|sample| sample.thinned(interval, random));
            kept.map_or(0, Sample::pack)
        };
        let all = |word: u64, change: fn(Sample)| Sample::unpack(word).into_iter().for_each(change);
        SAMPLES.thin(thinned, |new| all(new, add), |old| all(old, remove));
    }
    IS_THINNING.store(false, Release);
}

/// Adds up the samples of the table again in the child of a fork: another thread of the parent may have changed a sample
/// and not yet its sum.
pub(super) fn restart_after_fork() {
    IS_THINNING.store(false, Release);
    LIVE.store(0, Relaxed);
    TOTAL.store(0, Relaxed);
    for sum in BYTES.iter().chain(&BLOCKS).filter(|sum| sum.load(Relaxed) != 0) {
        sum.store(0, Relaxed);
    }
    SAMPLES.samples().filter_map(Sample::unpack).for_each(add);
}
