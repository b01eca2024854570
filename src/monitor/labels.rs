//! Sums for each label: which kind of request takes the memory.

use std::cmp::Reverse;
use std::fmt;
use std::hash::BuildHasher;

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

/// Tables, so that few threads share one.
const PARTS: usize = 4;

/// The label of the sums of all others.
const OTHERS: &str = "(other)";

/// The heap of all requests with one label since the monitor was built: see
/// [`Monitor::labels`](super::Monitor::labels).
///
/// Prints as `/orders/{id} 1200 requests allocated 1.2 GiB net +2.1 MiB peak p50 14.0 KiB p95 15.0 KiB p99 6.5 MiB max
/// 41.0 MiB`.
///
/// # Examples
///
/// ```no_run
/// # let monitor = plimsoll::Monitor::install_from_env();
/// for label in monitor.labels() {
///     println!("{}: {} requests, p99 {}", label.label, label.requests, label.peak.p99);
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LabelStats {
    /// The label; empty for requests without one, and `(other)` for all beyond the first 64 labels.
    pub label: Label,
    /// Requests that have ended.
    pub requests: u64,
    /// Requests of which the heap is not available, and that the sums miss: see [`RequestHeap`].
    pub not_available: u64,
    /// Bytes that they have allocated, in sum.
    pub allocated: ByteSize,
    /// The sum of the bytes that they left behind: see [`RequestHeap::net`].
    pub net: ByteDelta,
    /// Their own peaks. Each but the highest is rounded up by a sixteenth at most.
    pub peak: Percentiles<ByteSize>,
}

impl fmt::Display for LabelStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, requests, allocated, net, peak: Percentiles { p50, p95, p99, max }, .. } = self;
        let label = if label.is_empty() { "-" } else { label.as_str() };
        write!(f, "{label} {requests} requests allocated {allocated} net {net}")?;
        write!(f, " peak p50 {p50} p95 {p95} p99 {p99} max {max}")
    }
}

/// The sums of all labels, in parts that each serve some of the threads, so that two threads seldom write to the same
/// cache lines.
#[derive(Debug)]
pub(super) struct Labels {
    hash_builder: RandomState,
    parts: [Part; PARTS],
}

/// On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part(Mutex<Table>);

/// One entry for each label, and one for all that found none.
#[derive(Debug, Default)]
struct Table {
    /// In the order of `sums`, so that a look reads few cache lines.
    hashes: Vec<u64>,
    #[expect(clippy::vec_box, reason = "each is 2.5 KiB, and a vector has room to spare")]
    sums: Vec<Box<Sums>>,
}

#[derive(Debug)]
struct Sums {
    label: Label,
    requests: u64,
    not_available: u64,
    allocated: u64,
    net: i64,
    peaks: Histogram,
}

impl Labels {
    /// Tables with the entry of requests without a label, so that their end allocates nothing on this thread.
    pub(super) fn new() -> Self {
        let labels = Self { hash_builder: RandomState::default(), parts: Default::default() };
        labels.with_sums(labels.own_part(), &Label::default(), |_| ());
        labels
    }

    /// Adds a request that has ended.
    pub(super) fn record(&self, label: &Label, own: Option<RequestHeap>) {
        self.with_sums(self.own_part(), label, |sums| {
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

    /// Returns the sums of a label; of all others if it has none of its own.
    pub(super) fn of(&self, label: &Label) -> LabelStats {
        let hash = self.hash_builder.hash_one(label);
        let mut all = Sums::new(*label);
        for Part(table) in &self.parts {
            let table = table.lock();
            if let Some(sums) = table.sums_of(hash, label) {
                all.merge(sums);
            }
        }
        all.stats()
    }

    /// Returns the sums of all labels, the one with the highest peak first.
    pub(super) fn stats(&self) -> Vec<LabelStats> {
        let mut all: Vec<Sums> = Vec::new();
        for Part(table) in &self.parts {
            for sums in table.lock().sums.iter().filter(|sums| sums.requests > 0) {
                if let Some(other) = all.iter_mut().find(|other| other.label == sums.label) {
                    other.merge(sums);
                } else {
                    let mut copy = Sums::new(sums.label);
                    copy.merge(sums);
                    all.push(copy);
                }
            }
        }
        let mut stats: Vec<_> = all.iter().map(Sums::stats).collect();
        stats.sort_by_key(|stats| Reverse((stats.peak.max, stats.requests)));
        stats
    }

    /// The part of this thread.
    fn own_part(&self) -> &Part {
        let [first, ..] = &self.parts;
        self.parts.get(heap::thread_number() % PARTS).unwrap_or(first)
    }

    #[expect(clippy::indexing_slicing, reason = "`find` and `enter` return indexes of the table")]
    fn with_sums<T>(&self, Part(table): &Part, label: &Label, change: impl FnOnce(&mut Sums) -> T) -> T {
        let hash = self.hash_builder.hash_one(label);
        let mut table = table.lock();
        let index = table.find(hash, label).unwrap_or_else(|| table.enter(hash, label, &self.hash_builder));
        change(&mut table.sums[index])
    }
}

impl Table {
    #[expect(clippy::indexing_slicing, reason = "`sums` is as long as `hashes`")]
    fn find(&self, hash: u64, label: &Label) -> Option<usize> {
        let mut candidates = self.hashes.iter().enumerate().filter(|(_, other)| **other == hash);
        candidates.find(|(index, _)| self.sums[*index].label == *label).map(|(index, _)| index)
    }

    #[expect(clippy::indexing_slicing, reason = "`find` returns indexes of the table")]
    fn sums_of(&self, hash: u64, label: &Label) -> Option<&Sums> {
        self.find(hash, label).map(|index| &*self.sums[index])
    }

    /// Returns the place of a label that is not in the table; of all others if the table is full.
    #[cold]
    fn enter(&mut self, hash: u64, label: &Label, hash_builder: &RandomState) -> usize {
        let (hash, label) = if self.sums.len() < MAX_LABELS {
            (hash, *label)
        } else {
            let others = Label::new(OTHERS);
            (hash_builder.hash_one(others), others)
        };
        self.find(hash, &label).unwrap_or_else(|| {
            self.hashes.push(hash);
            self.sums.push(Box::new(Sums::new(label)));
            self.sums.len() - 1
        })
    }
}

impl Sums {
    const fn new(label: Label) -> Self {
        Self { label, requests: 0, not_available: 0, allocated: 0, net: 0, peaks: Histogram::new() }
    }

    fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.not_available += other.not_available;
        self.allocated = self.allocated.saturating_add(other.allocated);
        self.net = self.net.saturating_add(other.net);
        self.peaks.merge(&other.peaks);
    }

    fn stats(&self) -> LabelStats {
        LabelStats {
            label: self.label,
            requests: self.requests,
            not_available: self.not_available,
            allocated: ByteSize::bytes(self.allocated),
            net: ByteDelta::bytes(self.net),
            peak: self.peaks.percentiles().map(ByteSize::bytes),
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
        assert_eq!((a.allocated.as_u64(), a.net.as_i64(), a.peak.max.as_u64()), (5050, -100, 100));
        assert!((50..=53).contains(&a.peak.p50.as_u64()), "{a}");
        assert_eq!((b.requests, b.net.as_i64(), b.peak.p50.as_u64()), (100, 200, 1000));
        assert_eq!(labels.of(&Label::new("/b")), b);
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
    }
}
