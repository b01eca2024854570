//! The highest the line stood since the last reset, in one word with the *era* that the reset began.
//!
//! Whoever raises the line tells the peak afterwards, maybe long afterwards. Were a reset to come in between, a height of
//! the old era would count in the new one. So a rise carries the era in which it was booked, and one that comes too late
//! tells how high the line stands now instead.

use crate::sync::{AtomicU64, Ordering::SeqCst, constructor};

/// Heights up to 256 TiB; an era is what is left of the word, and wraps.
const HEIGHT_BITS: u32 = 48;
const MAX_HEIGHT: u64 = u64::MAX >> (64 - HEIGHT_BITS);
const MAX_ERA: u64 = u64::MAX >> HEIGHT_BITS;

/// The peak of one line.
#[derive(Debug)]
pub(crate) struct Peak(AtomicU64);

/// An era of the peak, from one reset to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Era(u64);

impl Peak {
    constructor! {
        pub(crate) const fn new() -> Self {
            Self(AtomicU64::new(0))
        }
    }

    /// The era now: to be asked before the line is moved.
    pub(crate) fn era(&self) -> Era {
        Era(self.0.load(SeqCst) >> HEIGHT_BITS)
    }

    /// The highest that was told in this era.
    pub(crate) fn height(&self) -> usize {
        (self.0.load(SeqCst) & MAX_HEIGHT) as usize
    }

    /// Tells of a `height` that the line reached in `era`, or if that is over, of where it stands by now.
    pub(crate) fn tell(&self, era: Era, height: usize, line_now: impl Fn() -> usize) {
        let (mut era, mut height) = (era, height);
        let mut word = self.0.load(SeqCst);
        loop {
            let current = Era(word >> HEIGHT_BITS);
            if current != era {
                (era, height) = (current, line_now());
            }
            if height as u64 <= word & MAX_HEIGHT {
                return;
            }
            match self.0.compare_exchange_weak(word, pack(era, height), SeqCst, SeqCst) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// Begins a new era at the height where the line stands.
    pub(crate) fn reset(&self, line_now: impl Fn() -> usize) {
        let mut word = self.0.load(SeqCst);
        let era = loop {
            let era = Era(((word >> HEIGHT_BITS) + 1) & MAX_ERA);
            match self.0.compare_exchange_weak(word, pack(era, line_now()), SeqCst, SeqCst) {
                Ok(_) => break era,
                Err(now) => word = now,
            }
        };
        // Once more: a line that rose before the new era began has told the old one.
        self.tell(era, line_now(), line_now);
    }
}

fn pack(era: Era, height: usize) -> u64 {
    era.0 << HEIGHT_BITS | (height as u64).min(MAX_HEIGHT)
}
