//! The sums at an earlier moment, to see which stacks grow.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::NODES;
use super::account::BYTES;

static BASELINE: [AtomicU64; NODES] = [const { AtomicU64::new(0) }; NODES];

/// Keeps the live bytes of each stack.
pub(super) fn record() {
    for (kept, sum) in BASELINE.iter().zip(&BYTES) {
        let sum = sum.load(Relaxed);
        if kept.load(Relaxed) != sum {
            kept.store(sum, Relaxed);
        }
    }
}

/// Returns the kept bytes of a stack.
pub(super) fn bytes(index: usize) -> u64 {
    BASELINE.get(index).map_or(0, |kept| kept.load(Relaxed))
}
