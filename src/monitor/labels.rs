//! Sums for each label: which kind of request takes the memory.

use std::cmp::Reverse;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::OnceLock;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::heap;
use crate::size::{ByteDelta, ByteSize};

use super::histogram::Histogram;
use super::request_id::Label;
use super::request_scope::RequestHeap;
use super::window::Percentiles;

/// The most labels with sums of their own, the empty one included. Further ones are summed as one.
pub(super) const MAX_LABELS: usize = 64;

/// Parts of the sums, so that few threads share one.
const PARTS: usize = 4;

/// The label of the sums of all others.
const OTHERS: &str = "(other)";

/// The heap of all requests with one label since the monitor was built: see
/// [`Monitor::labels`](super::Monitor::labels).
///
/// Prints as `/orders/{id} 1200 requests allocated 1.2 GiB net +2.1 MiB peak p50 14.0 KiB p95 15.0 KiB p99 6.5 MiB max
/// 41.0 MiB`, with `3 refused` after the requests if there are any.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::install_from_env();
/// for label in monitor.labels() {
///     println!("{}: {} requests, peaks {:?}", label.label, label.requests, label.peak);
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LabelStats {
    /// The label; empty for requests without one, and `(other)` for all beyond the first 64 labels.
    pub label: Label,
    /// Requests that have ended, without those that were refused.
    pub requests: u64,
    /// Requests that a layer did not admit.
    pub refused: u64,
    /// Requests of which the heap is not available, and that the sums miss: see [`RequestHeap`].
    pub not_available: u64,
    /// Bytes that they have allocated, in sum.
    pub allocated: ByteSize,
    /// The sum of the bytes that they left behind: see [`RequestHeap::net`].
    pub net: ByteDelta,
    /// Their own peaks. Each but the highest is rounded up by a sixteenth at most. `None` if the heap of none is available.
    pub peak: Option<Percentiles<ByteSize>>,
}

impl fmt::Display for LabelStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, requests, refused, allocated, net, peak, .. } = self;
        let label = if label.is_empty() { "-" } else { label.as_str() };
        write!(f, "{label} {requests} requests")?;
        if *refused > 0 {
            write!(f, " {refused} refused")?;
        }
        let Some(Percentiles { p50, p95, p99, max }) = peak else { return Ok(()) };
        write!(f, " allocated {allocated} net {net} peak p50 {p50} p95 {p95} p99 {p99} max {max}")
    }
}

/// The sums of all labels. They are in parts that each serve some of the threads, so that two threads seldom write to the
/// same cache lines.
#[derive(Debug)]
pub(super) struct Labels {
    hash_builder: RandomState,
    /// The labels with sums of their own, from the first on. They only grow, so a look writes nothing.
    known: [OnceLock<Known>; MAX_LABELS],
    /// Held by the thread that adds a label.
    adding: Mutex<()>,
    parts: [Part; PARTS],
}

#[derive(Debug)]
struct Known {
    hash: u64,
    label: Label,
}

/// The sums by the number of their label, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
struct Part(Mutex<[Option<Box<Sums>>; MAX_LABELS + 1]>);

#[derive(Debug)]
struct Sums {
    requests: u64,
    refused: u64,
    not_available: u64,
    allocated: u64,
    net: i64,
    peaks: Histogram,
}

impl Labels {
    /// A table with the sums of requests without a label, so that their end allocates nothing on this thread.
    pub(super) fn new() -> Self {
        let labels = Self {
            hash_builder: RandomState::default(),
            known: [const { OnceLock::new() }; MAX_LABELS],
            adding: Mutex::new(()),
            parts: [const { Part(Mutex::new([const { None }; MAX_LABELS + 1])) }; PARTS],
        };
        labels.with_sums(&Label::default(), |_| ());
        labels
    }

    /// Adds a request that has ended.
    pub(super) fn record(&self, label: &Label, own: Option<RequestHeap>) {
        self.with_sums(label, |sums| {
            sums.requests += 1;
            let Some(own) = own else {
                sums.not_available += 1;
                return;
            };
            sums.allocated = sums.allocated.saturating_add(own.allocated.as_u64());
            sums.net = sums.net.saturating_add(own.net.as_i64());
            sums.peaks.record(own.peak.as_u64());
        });
    }

    /// Adds a request that was not admitted.
    #[cfg(feature = "http")]
    pub(super) fn record_refused(&self, label: &Label) {
        self.with_sums(label, |sums| sums.refused += 1);
    }

    /// Returns the sums that a label is a part of: its own, or those of all others.
    pub(super) fn of(&self, label: &Label) -> LabelStats {
        let number = self.find(label).unwrap_or(MAX_LABELS);
        self.merged(number).stats(self.label(number))
    }

    /// Returns the sums of all labels, the one with the highest peak first.
    pub(super) fn stats(&self) -> Vec<LabelStats> {
        let all = (0..=MAX_LABELS).map(|number| self.merged(number).stats(self.label(number)));
        let mut stats: Vec<_> = all.filter(|stats| stats.requests + stats.refused > 0).collect();
        stats.sort_by_key(|stats| Reverse((stats.peak.map(|peak| peak.max), stats.requests)));
        stats
    }

    /// Calls `change` with the sums of a label on this thread's part.
    fn with_sums(&self, label: &Label, change: impl FnOnce(&mut Sums)) {
        let number = self.find(label).unwrap_or_else(|| self.add(label));
        let [first, ..] = &self.parts;
        let Part(sums) = self.parts.get(heap::thread_number() % PARTS).unwrap_or(first);
        let mut sums = sums.lock();
        debug_assert!(number < sums.len(), "a number of `find` or `add`");
        if let Some(sums) = sums.get_mut(number) {
            change(sums.get_or_insert_with(|| Box::new(Sums::new())));
        }
    }

    /// Returns the number of a label with sums of its own.
    fn find(&self, label: &Label) -> Option<usize> {
        let hash = self.hash_builder.hash_one(label);
        let known = self.known.iter().map_while(OnceLock::get);
        known.enumerate().find(|(_, known)| known.hash == hash && known.label == *label).map(|(number, _)| number)
    }

    /// Gives a label sums of its own, if there are still some. Returns its number.
    #[cold]
    fn add(&self, label: &Label) -> usize {
        let _adding = self.adding.lock();
        if let Some(number) = self.find(label) {
            return number;
        }
        let Some(number) = self.known.iter().position(|known| known.get().is_none()) else { return MAX_LABELS };
        if let Some(free) = self.known.get(number) {
            let known = Known { hash: self.hash_builder.hash_one(label), label: *label };
            let _is_free = free.set(known);
        }
        number
    }

    fn label(&self, number: usize) -> Label {
        self.known.get(number).and_then(OnceLock::get).map_or_else(|| Label::new(OTHERS), |known| known.label)
    }

    /// Returns the sums of a number over all parts.
    fn merged(&self, number: usize) -> Sums {
        let mut all = Sums::new();
        for Part(sums) in &self.parts {
            if let Some(Some(sums)) = sums.lock().get(number) {
                all.merge(sums);
            }
        }
        all
    }
}

impl Sums {
    const fn new() -> Self {
        Self { requests: 0, refused: 0, not_available: 0, allocated: 0, net: 0, peaks: Histogram::new() }
    }

    fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.refused += other.refused;
        self.not_available += other.not_available;
        self.allocated = self.allocated.saturating_add(other.allocated);
        self.net = self.net.saturating_add(other.net);
        self.peaks.merge(&other.peaks);
    }

    fn stats(&self, label: Label) -> LabelStats {
        LabelStats {
            label,
            requests: self.requests,
            refused: self.refused,
            not_available: self.not_available,
            allocated: ByteSize::bytes(self.allocated),
            net: ByteDelta::bytes(self.net),
            peak: self.peaks.percentiles().map(|peaks| peaks.map(ByteSize::bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(allocated: u64, net: i64, peak: u64) -> RequestHeap {
        let (allocated, peak) = (ByteSize::bytes(allocated), ByteSize::bytes(peak));
        RequestHeap { allocated, net: ByteDelta::bytes(net), peak }
    }

    #[test]
    fn sums_of_a_label_are_those_of_its_requests() {
        let labels = Labels::new();
        for n in 1..=100 {
            labels.record(&Label::new("/a"), Some(own(n, -1, n)));
            labels.record(&Label::new("/b"), Some(own(2, 2, 1000)));
        }
        labels.record(&Label::new("/a"), None);
        let [b, a] = labels.stats()[..] else { panic!("{:?}", labels.stats()) };
        assert_eq!((a.label.as_str(), a.requests, a.not_available), ("/a", 101, 1));
        assert_eq!((a.allocated.as_u64(), a.net.as_i64(), a.peak.unwrap().max.as_u64()), (5050, -100, 100));
        assert!((50..=53).contains(&a.peak.unwrap().p50.as_u64()), "{a}");
        assert_eq!((b.requests, b.net.as_i64(), b.peak.unwrap().p50.as_u64()), (100, 200, 1000));
        assert_eq!(labels.of(&Label::new("/b")), b);
    }

    #[test]
    fn label_of_which_no_heap_is_available_has_no_peak() {
        let labels = Labels::new();
        labels.record(&Label::new("/a"), None);
        let stats = labels.of(&Label::new("/a"));
        assert_eq!((stats.peak, stats.to_string().as_str()), (None, "/a 1 requests"));
        labels.record(&Label::new("/a"), Some(own(0, 0, 0)));
        assert!(labels.of(&Label::new("/a")).peak.is_some(), "zero bytes are a figure");
    }

    #[test]
    fn labels_beyond_the_table_are_summed_as_one() {
        let labels = Labels::new();
        for n in 0..10_000 {
            labels.record(&Label::from(format!("/orders/{n}")), Some(own(1, 0, 1)));
        }
        let stats = labels.stats();
        assert_eq!(stats.len(), MAX_LABELS, "one is for requests without a label");
        let others = stats.iter().find(|stats| stats.label.as_str() == "(other)").unwrap();
        assert_eq!((others.requests, others.allocated.as_u64()), (10_000 - 63, 10_000 - 63));
        assert_eq!(stats.iter().map(|stats| stats.requests).sum::<u64>(), 10_000);
        let beyond = labels.of(&Label::new("/orders/9999"));
        assert_eq!((beyond.label.as_str(), beyond.requests), ("(other)", 10_000 - 63));
    }

    #[test]
    fn labels_of_several_threads_have_sums_of_their_own_everywhere_or_nowhere() {
        let labels = Labels::new();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let labels = &labels;
                scope.spawn(move || {
                    for n in 0..80 {
                        labels.record(&Label::from(format!("/{thread}/{n}")), Some(own(1, 0, 1)));
                        labels.record(&Label::new("/common"), Some(own(1, 0, 1)));
                    }
                });
            }
        });
        let stats = labels.stats();
        assert_eq!(stats.len(), MAX_LABELS, "one is for requests without a label");
        assert_eq!(labels.of(&Label::new("/common")).requests, 640);
        assert_eq!(stats.iter().map(|stats| stats.requests).sum::<u64>(), 1280);
    }
}
