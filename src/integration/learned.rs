//! The peaks of earlier requests of each kind: the core of [`Estimate::learned`](super::Estimate::learned).
//!
//! A kind is a label and a class of body lengths. From 64 KiB on there is a class for each power of two, and within it the
//! memory is proportional to the length: a route that parses JSON takes some twenty times the body. The estimate is a high
//! peak of the last requests of the kind, but not the highest, so that one request of a hundred with ten times the memory
//! does not make the others wait. Such a request is covered as it grows.

use std::collections::HashMap;
use std::mem;
use std::task::Waker;

use crate::monitor::Label;

/// The most kinds. The one that was not used for the longest time is replaced, so that a scan of paths replaces the others of the
/// scan.
const MAX_KINDS: usize = 128;

/// The peaks that are kept of a kind.
const PEAKS: usize = 32;

/// Of this many peaks one may be above the estimate: two of 32. From four on it is at least one, for the first request,
/// which may fill caches.
const PEAKS_PER_OUTLIER: usize = 16;

/// Bodies below this length, as a power of two, take no memory by their length: 64 KiB.
const FIRST_CLASS: u32 = 16;

/// A kind of request: its label, and the class of its body's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    label: Label,
    /// The logarithm of the length; 0 for short bodies, `None` for bodies without a known length.
    class: Option<u32>,
}

impl Kind {
    fn new(label: Label, length: Option<u64>) -> Self {
        let class = length.map(|length| length.checked_ilog2().filter(|log| *log >= FIRST_CLASS).unwrap_or(0));
        Self { label, class }
    }

    /// Converts a peak to one of the shortest body of the class.
    fn normalize(self, peak: u64, length: Option<u64>) -> u64 {
        match (self.class, length) {
            (Some(class), Some(length)) if class > 0 => scale(peak, 1 << class, length),
            _ => peak,
        }
    }

    /// The inverse of [`normalize`](Self::normalize).
    fn for_length(self, peak: u64, length: Option<u64>) -> u64 {
        match (self.class, length) {
            (Some(class), Some(length)) if class > 0 => scale(peak, length, 1 << class),
            _ => peak,
        }
    }
}

fn scale(bytes: u64, numerator: u64, denominator: u64) -> u64 {
    let scaled = u128::from(bytes) * u128::from(numerator) / u128::from(denominator.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// The last peaks of a kind.
#[derive(Debug)]
struct Peaks {
    last: [u64; PEAKS],
    /// All that were ever recorded.
    count: usize,
    /// The estimate.
    high: u64,
    /// The time of the last use, in uses of all kinds.
    used: u64,
}

impl Peaks {
    const fn new() -> Self {
        Self { last: [0; PEAKS], count: 0, high: 0, used: 0 }
    }

    fn record(&mut self, peak: u64) {
        if let Some(oldest) = self.last.get_mut(self.count % PEAKS) {
            *oldest = peak;
        }
        self.count += 1;
        let mut sorted = self.last;
        sorted.sort_unstable_by_key(|peak| std::cmp::Reverse(*peak));
        // The rest is zero as long as there are fewer.
        let count = self.count.min(PEAKS);
        let outliers = if count < 4 { 0 } else { (count / PEAKS_PER_OUTLIER).max(1) };
        self.high = sorted.get(outliers).copied().unwrap_or(0);
    }
}

/// The kinds of requests, and what they took.
#[derive(Debug, Default)]
pub(super) struct Learned {
    kinds: HashMap<Kind, Peaks, foldhash::fast::RandomState>,
    /// Requests that wait with a guess, by their number, until the first of a kind has ended.
    guesses: Vec<(u64, Waker)>,
    uses: u64,
}

impl Learned {
    /// Returns the bytes that a request of this kind will take at most; `None` if none has ended yet.
    pub(super) fn estimate(&mut self, label: Label, length: Option<u64>) -> Option<u64> {
        let kind = Kind::new(label, length);
        let peaks = self.kinds.get_mut(&kind)?;
        self.uses += 1;
        peaks.used = self.uses;
        Some(kind.for_length(peaks.high, length))
    }

    /// Returns the estimate as [`estimate`](Self::estimate) does. If there is none, the next [`record`](Self::record) of an
    /// unknown kind returns `waker`, unless the request is [forgotten](Self::forget). Returns also an older waker, to be
    /// dropped without the lock.
    pub(super) fn poll_estimate(
        &mut self,
        label: Label,
        length: Option<u64>,
        number: u64,
        waker: &Waker,
    ) -> (Option<u64>, Option<Waker>) {
        let estimate = self.estimate(label, length);
        if estimate.is_some() {
            return (estimate, None);
        }
        let waker = waker.clone();
        if let Some((_, known)) = self.guesses.iter_mut().find(|guess| guess.0 == number) {
            return (None, Some(mem::replace(known, waker)));
        }
        self.guesses.push((number, waker));
        (None, None)
    }

    /// Returns the waker of a request that does not wait any more, to be dropped without the lock.
    #[must_use = "a waker is dropped without the lock"]
    pub(super) fn forget(&mut self, number: u64) -> Option<Waker> {
        let index = self.guesses.iter().position(|guess| guess.0 == number)?;
        Some(self.guesses.swap_remove(index).1)
    }

    /// Records the peak of a request. If not `lowers`, a peak below an estimate is left out. Returns requests to wake: their
    /// estimate may be known now.
    #[must_use = "wakers are called without the lock"]
    pub(super) fn record(&mut self, label: Label, length: Option<u64>, peak: u64, lowers: bool) -> Vec<(u64, Waker)> {
        let kind = Kind::new(label, length);
        let peak = kind.normalize(peak, length);
        self.uses += 1;
        if let Some(peaks) = self.kinds.get_mut(&kind) {
            peaks.used = self.uses;
            if lowers || peak > peaks.high {
                peaks.record(peak);
            }
            return Vec::new();
        }
        if self.kinds.len() >= MAX_KINDS {
            let oldest = self.kinds.iter().min_by_key(|(_, peaks)| peaks.used).map(|(kind, _)| *kind);
            oldest.and_then(|kind| self.kinds.remove(&kind));
        }
        let peaks = self.kinds.entry(kind).or_insert_with(Peaks::new);
        peaks.used = self.uses;
        peaks.record(peak);
        mem::take(&mut self.guesses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn label() -> Label {
        Label::new("/upload")
    }

    fn record(learned: &mut Learned, label: Label, length: Option<u64>, peak: u64) {
        assert!(learned.record(label, length, peak, true).is_empty(), "no request waits");
    }

    #[test]
    fn first_of_a_kind_wakes_the_requests_that_wait_with_a_guess() {
        let mut learned = Learned::default();
        for number in [1, 2, 1, 3] {
            assert_eq!(learned.poll_estimate(label(), Some(0), number, Waker::noop()).0, None);
        }
        assert!(learned.forget(2).is_some() && learned.forget(2).is_none());
        let woken = learned.record(label(), Some(0), MIB, true);
        assert_eq!(woken.iter().map(|guess| guess.0).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(learned.poll_estimate(label(), Some(0), 4, Waker::noop()).0, Some(MIB));
        record(&mut learned, label(), Some(0), MIB);
        assert_eq!(learned.poll_estimate(label(), None, 5, Waker::noop()).0, None);
        record(&mut learned, label(), Some(0), MIB);
        assert_eq!(learned.record(Label::default(), None, MIB, true).len(), 1, "of another kind: it looks again");
    }

    #[test]
    fn failed_requests_raise_the_estimate_and_do_not_lower_it() {
        let mut learned = Learned::default();
        assert!(learned.record(label(), Some(0), MIB, false).is_empty());
        assert_eq!(learned.estimate(label(), Some(0)), Some(MIB), "the first of a kind");
        record(&mut learned, label(), Some(0), 50 * MIB);
        for _ in 0..100 {
            assert!(learned.record(label(), Some(0), MIB, false).is_empty());
        }
        assert_eq!(learned.estimate(label(), Some(0)), Some(50 * MIB));
        assert!(learned.record(label(), Some(0), 60 * MIB, false).is_empty());
        assert_eq!(learned.estimate(label(), Some(0)), Some(60 * MIB));
    }

    #[test]
    fn estimate_of_an_unknown_kind_is_none() {
        let mut learned = Learned::default();
        assert_eq!(learned.estimate(label(), Some(0)), None);
        record(&mut learned, label(), Some(0), MIB);
        assert_eq!(learned.estimate(label(), Some(65_535)), Some(MIB), "short bodies are one kind");
        assert_eq!(learned.estimate(label(), Some(65_536)), None);
        assert_eq!(learned.estimate(label(), None), None);
        assert_eq!(learned.estimate(Label::default(), Some(0)), None);
    }

    #[test]
    fn estimate_is_proportional_to_the_length_within_a_class() {
        let mut learned = Learned::default();
        record(&mut learned, label(), Some(5 * MIB), 100 * MIB);
        assert_eq!(learned.estimate(label(), Some(4 * MIB)), Some(80 * MIB));
        assert_eq!(learned.estimate(label(), Some(7 * MIB)), Some(140 * MIB));
        assert_eq!(learned.estimate(label(), Some(8 * MIB)), None);
        record(&mut learned, label(), Some(u64::MAX), u64::MAX);
        assert!(learned.estimate(label(), Some(u64::MAX)).is_some_and(|bytes| bytes > u64::MAX / 2));
    }

    #[test]
    fn one_of_a_hundred_does_not_raise_the_estimate_and_a_change_does() {
        let mut learned = Learned::default();
        for number in 0..1000 {
            record(&mut learned, label(), Some(0), if number % 100 == 99 { 40 * MIB } else { 4 * MIB });
            if number >= 32 {
                assert_eq!(learned.estimate(label(), Some(0)), Some(4 * MIB), "after {number}");
            }
        }
        for _ in 0..3 {
            record(&mut learned, label(), Some(0), 9 * MIB);
        }
        assert_eq!(learned.estimate(label(), Some(0)), Some(9 * MIB));
        for _ in 0..32 {
            record(&mut learned, label(), Some(0), MIB);
        }
        assert_eq!(learned.estimate(label(), Some(0)), Some(MIB), "what was is forgotten");
    }

    #[test]
    fn kind_that_is_used_survives_a_scan_of_paths() {
        let mut learned = Learned::default();
        record(&mut learned, label(), Some(0), MIB);
        for number in 0..10_000 {
            record(&mut learned, Label::from(format!("/{number}")), Some(0), number);
            assert_eq!(learned.estimate(label(), Some(0)), Some(MIB));
        }
        assert_eq!(learned.kinds.len(), MAX_KINDS);
        assert_eq!(learned.estimate(Label::new("/9999"), Some(0)), Some(9999));
        assert_eq!(learned.estimate(Label::new("/7"), Some(0)), None);
    }
}
