//! The table of requests in flight: what the process works on, for readers that must not allocate or wait.
//!
//! The alarm and the abort report name the oldest requests. They run inside of an allocation and in a signal handler,
//! so a reader takes no lock. Each entry has a *version*; its two lowest bits are the state of the entry:
//!
//! ```text
//!   00 free ──claim──> 01 being written ──> 10 in use ──set_label──> 11 being rewritten
//!     ^                                       │  ^                          │
//!     └──────────────── end ──────────────────┘  └────── next version ──────┘
//! ```
//!
//! Every change moves the version up. A reader copies an entry between two loads of its version, and drops the copy if
//! they differ: it may miss a request that is being entered, and never sees a mixture of two. Requests beyond the last
//! entry are counted.
//!
//! Nothing here is unsafe, blocks, allocates or panics, and `tests/loom` runs this very file under loom.

use crate::sync::{
    AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, array, constructor,
};

const STATE: u64 = 3;
const FREE: u64 = 0;
const WRITING: u64 = 1;
const IN_USE: u64 = 2;
const REWRITING: u64 = 3;
/// From one version in a state to the next one in it.
const NEXT: u64 = 4;

/// A text without NUL of at most 8 bytes a word.
#[derive(Debug)]
struct Text<const WORDS: usize>([AtomicU64; WORDS]);

impl<const WORDS: usize> Text<WORDS> {
    constructor! {
        const fn new() -> Self {
            Self(array![AtomicU64::new(0); WORDS])
        }
    }

    /// Stores the first bytes of `text`. `Release`, so that a reader of a word sees the version that came before.
    fn store(&self, text: &[u8]) {
        let mut rest = text;
        for word in &self.0 {
            let packed = if let Some((first, others)) = rest.split_first_chunk::<8>() {
                rest = others;
                *first
            } else {
                let mut packed = [0; 8];
                packed.iter_mut().zip(std::mem::take(&mut rest)).for_each(|(place, byte)| *place = *byte);
                packed
            };
            word.store(u64::from_le_bytes(packed), Release);
        }
    }

    fn load(&self) -> ShortText<WORDS> {
        let mut words = self.0.iter().map(|word| word.load(Acquire));
        ShortText(std::array::from_fn(|_| words.next().unwrap_or(0)))
    }
}

/// A copied text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShortText<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> ShortText<WORDS> {
    /// Returns the bytes of the text, up to the first NUL.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).take_while(|&byte| byte != 0)
    }
}

#[derive(Debug)]
struct Entry<const WORDS: usize> {
    version: AtomicU64,
    /// Milliseconds of the coarse monotonic clock.
    started_ms: AtomicU64,
    /// The most bytes that the request held so far; 0 if they are not known. Changes while the entry is in use.
    peak: AtomicU64,
    id: Text<WORDS>,
    label: Text<WORDS>,
}

impl<const WORDS: usize> Entry<WORDS> {
    constructor! {
        const fn new() -> Self {
            Self {
                version: AtomicU64::new(FREE),
                started_ms: AtomicU64::new(0),
                peak: AtomicU64::new(0),
                id: Text::new(),
                label: Text::new(),
            }
        }
    }

    /// Copies the entry if it is in use and nothing changes while it is copied.
    fn read(&self) -> Option<Request<WORDS>> {
        let version = self.version.load(Acquire);
        if version & STATE != IN_USE {
            return None;
        }
        let request = Request {
            started_ms: self.started_ms.load(Acquire),
            peak: self.peak.load(Acquire),
            id: self.id.load(),
            label: self.label.load(),
        };
        // The loads above are `Acquire`: a word of a later version has brought that version along.
        (self.version.load(Relaxed) == version).then_some(request)
    }
}

/// A request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request<const WORDS: usize> {
    /// Milliseconds of the coarse monotonic clock.
    pub(crate) started_ms: u64,
    /// The most bytes that it held so far; 0 if they are not known.
    pub(crate) peak: u64,
    pub(crate) id: ShortText<WORDS>,
    pub(crate) label: ShortText<WORDS>,
}

/// The right to change one request's entry, and the duty to end it.
#[derive(Debug)]
#[must_use = "a request that is not ended stays in the table"]
pub(crate) struct Ticket {
    /// The entry, if there was a free one.
    index: Option<usize>,
    version: u64,
    /// The table's generation at the start.
    generation: usize,
}

/// A table of `N` requests, with ids and labels of at most 8 bytes a word.
#[derive(Debug)]
pub(crate) struct InFlightTable<const N: usize, const WORDS: usize> {
    entries: [Entry<WORDS>; N],
    /// Requests in flight that found no free entry.
    unlisted: AtomicUsize,
    /// The number of times that the table was cleared. Tickets of an earlier generation have no effect.
    generation: AtomicUsize,
}

impl<const N: usize, const WORDS: usize> InFlightTable<N, WORDS> {
    constructor! {
        pub(crate) const fn new() -> Self {
            Self {
                entries: array![Entry::new(); N],
                unlisted: AtomicUsize::new(0),
                generation: AtomicUsize::new(0),
            }
        }
    }

    /// Enters a request. `id` and `label` must not contain NUL; what exceeds `WORDS` is cut. The entries are tried from
    /// `first` on, so that each thread has its own in its cache.
    ///
    /// Costs two dozen stores; up to `N` loads if the table is nearly full.
    pub(crate) fn start(&self, id: &[u8], label: &[u8], now_ms: u64, first: usize) -> Ticket {
        let generation = self.generation.load(Relaxed);
        let first = first % N;
        for index in (first..N).chain(0..first) {
            let Some(entry) = self.entries.get(index) else { break };
            let version = entry.version.load(Relaxed);
            let is_claimed = version & STATE == FREE
                && entry.version.compare_exchange(version, version | WRITING, Acquire, Relaxed).is_ok();
            if is_claimed {
                entry.started_ms.store(now_ms, Release);
                entry.peak.store(0, Release);
                entry.id.store(id);
                entry.label.store(label);
                entry.version.store(version | IN_USE, Release);
                return Ticket { index: Some(index), version: version | IN_USE, generation };
            }
        }
        self.unlisted.fetch_add(1, Relaxed);
        Ticket { index: None, version: 0, generation }
    }

    /// Replaces the label of a request.
    pub(crate) fn set_label(&self, ticket: &mut Ticket, label: &[u8]) {
        let Some(entry) = self.entry(ticket) else { return };
        entry.version.store(ticket.version | REWRITING, Relaxed);
        entry.label.store(label);
        ticket.version += NEXT;
        entry.version.store(ticket.version, Release);
    }

    /// Sets the most bytes that a request held so far.
    pub(crate) fn set_peak(&self, ticket: &Ticket, peak: u64) {
        if let Some(entry) = self.entry(ticket) {
            entry.peak.store(peak, Release);
        }
    }

    /// Takes a request out of the table. A second call has no effect.
    pub(crate) fn end(&self, ticket: &mut Ticket) {
        if let Some(entry) = self.entry(ticket) {
            entry.version.store((ticket.version & !STATE) + NEXT, Release);
        } else if ticket.index.is_none() && ticket.generation == self.generation.load(Relaxed) {
            self.unlisted.fetch_sub(1, Relaxed);
        }
        // An earlier generation than any: nothing more is done with it.
        *ticket = Ticket { index: None, version: 0, generation: usize::MAX };
    }

    /// The entry of a ticket, unless the table was cleared since.
    fn entry(&self, ticket: &Ticket) -> Option<&Entry<WORDS>> {
        let is_current = ticket.generation == self.generation.load(Relaxed);
        self.entries.get(ticket.index?).filter(|_| is_current)
    }

    /// Copies the requests in flight that have started first, in this order.
    ///
    /// A request that starts, ends or gets its label during the call may be missing.
    pub(crate) fn oldest<const K: usize>(&self) -> [Option<Request<WORDS>>; K] {
        let mut oldest: [Option<Request<WORDS>>; K] = [None; K];
        for request in self.entries.iter().filter_map(Entry::read) {
            // It sinks to its place, and pushes the youngest out.
            let mut sinking = Some(request);
            for place in &mut oldest {
                let is_older = match (&sinking, &*place) {
                    (Some(request), Some(other)) => request.started_ms < other.started_ms,
                    (request, None) => request.is_some(),
                    (None, Some(_)) => false,
                };
                if is_older {
                    std::mem::swap(place, &mut sinking);
                }
            }
        }
        oldest
    }

    /// Returns the number of requests in flight, those without an entry included.
    pub(crate) fn count(&self) -> usize {
        let is_used = |entry: &&Entry<WORDS>| matches!(entry.version.load(Relaxed) & STATE, IN_USE | REWRITING);
        self.entries.iter().filter(is_used).count() + self.unlisted.load(Relaxed)
    }

    /// Empties the table in the child of a fork: its requests are the parent's. No other thread may be in the table.
    pub(crate) fn clear(&self) {
        self.generation.fetch_add(1, Relaxed);
        self.unlisted.store(0, Relaxed);
        for entry in &self.entries {
            let version = entry.version.load(Relaxed);
            if version & STATE != FREE {
                entry.version.store((version & !STATE) + NEXT, Release);
            }
        }
    }
}
