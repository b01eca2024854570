//! Who holds the memory: names and bytes in static slots, readable at the worst of times.
//!
//! Whatever keeps a lot of memory publishes how much under a name: a cache, a model, a buffer pool. The alarm before a
//! kill, the last words of an abort and the invocation's report then say who held it. The rest of the heap is what
//! nobody names, and prints as `unaccounted`.
//!
//! ```
//! use plimsoll::{ByteSize, board};
//!
//! let index = board::holder("index");
//! let table = vec![0u64; 1000];
//! index.set(ByteSize::bytes(8 * table.len() as u64));
//! assert_eq!(board::holders().next(), Some(("index", ByteSize::bytes(8000))));
//! ```
//!
//! There is room for 64 names; holders beyond them share the name `other`. Nothing here allocates, blocks or is ever
//! freed, so a reader may be a signal handler or the allocator itself.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use crate::size::ByteSize;

/// Names with a slot of their own.
pub const SLOTS: usize = 64;

/// One name and what is held under it.
#[derive(Debug)]
struct Entry {
    /// Set once; the bytes are meaningless before.
    name: OnceLock<&'static str>,
    /// What was added less what was taken away: for an instant below zero, where two threads book in the other order.
    bytes: AtomicI64,
}

impl Entry {
    const fn new() -> Self {
        Self { name: OnceLock::new(), bytes: AtomicI64::new(0) }
    }
}

static ENTRIES: [Entry; SLOTS] = [const { Entry::new() }; SLOTS];

/// Where holders beyond [`SLOTS`] names go.
static OTHER: Entry = Entry::new();

/// A name on the board, under which bytes are published. A copy publishes under the same name.
#[derive(Clone, Copy, Debug)]
pub struct Holder(&'static Entry);

/// Finds the name on the board, or puts it there with zero bytes; beyond [`SLOTS`] names, the common one `other`.
///
/// Names should be short and constant; they go into reports as they are. The same name is the same holder. Costs a
/// search of the board: keep the holder, rather than the name.
pub fn holder(name: &'static str) -> Holder {
    let entry = ENTRIES.iter().find(|entry| *entry.name.get_or_init(|| name) == name);
    Holder(entry.unwrap_or_else(|| {
        OTHER.name.get_or_init(|| "other");
        &OTHER
    }))
}

impl Holder {
    /// Publishes how much is held now; for a holder that is alone under its name. Costs one store.
    pub fn set(&self, bytes: ByteSize) {
        self.0.bytes.store(signed(bytes), Relaxed);
    }

    /// Publishes that so much more is held. Costs one atomic addition.
    pub fn add(&self, bytes: ByteSize) {
        self.0.bytes.fetch_add(signed(bytes), Relaxed);
    }

    /// Publishes that so much less is held. Costs one atomic subtraction; below zero it reads as zero.
    pub fn sub(&self, bytes: ByteSize) {
        self.0.bytes.fetch_sub(signed(bytes), Relaxed);
    }

    /// Reads what is published under the name.
    pub fn bytes(&self) -> ByteSize {
        ByteSize::bytes(u64::try_from(self.0.bytes.load(Relaxed)).unwrap_or(0))
    }

    /// Tells the name on the board: the one asked for, or `other`.
    pub fn name(&self) -> &'static str {
        self.0.name.get().copied().unwrap_or("other")
    }
}

/// All names with what they hold, in the order of their coming; `other` last, where it is in use.
///
/// Costs a load or two for each name. The figures are read one after the other, so their sum may be that of no moment.
pub fn holders() -> impl Iterator<Item = (&'static str, ByteSize)> {
    let named = |entry: &'static Entry| entry.name.get().map(|name| (*name, Holder(entry).bytes()));
    ENTRIES.iter().map_while(named).chain(named(&OTHER))
}

/// The largest holders, largest first, and what all together hold. Without allocation.
pub(crate) fn largest<const N: usize>() -> ([Option<(&'static str, ByteSize)>; N], ByteSize) {
    let mut top: [Option<(&'static str, ByteSize)>; N] = [None; N];
    let mut sum = ByteSize::ZERO;
    for held in holders().filter(|(_, bytes)| *bytes > ByteSize::ZERO) {
        sum = sum.saturating_add(held.1);
        // Sinks to its place, pushing smaller ones down and the smallest out.
        let mut sinking = Some(held);
        for place in &mut top {
            if place.is_none_or(|placed| sinking.is_some_and(|sinking| sinking.1 > placed.1)) {
                std::mem::swap(place, &mut sinking);
            }
        }
    }
    (top, sum)
}

fn signed(bytes: ByteSize) -> i64 {
    i64::try_from(bytes.as_u64()).unwrap_or(i64::MAX)
}
