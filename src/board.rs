//! Who holds the memory: names and bytes in static slots, readable at the worst of times.
//!
//! A component that keeps a lot of memory publishes its bytes under a name: a cache, a model, a buffer pool. The alarm
//! before a kill, the abort report and the invocation's report then show them. The rest of the heap prints as
//! `unattributed`.
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
//! There are 64 names; holders beyond them share the name `other`, and the first of them is a warning on standard
//! error. Nothing here is ever freed. Reading and publishing neither block nor allocate, so a reader may be a signal
//! handler or the allocator itself. Finding a name by [`holder`], and a budget's new account, may allocate.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::ops::Deref;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicI64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::log::warn_once;
use crate::size::ByteSize;
use crate::sync::{AtomicU64, AtomicUsize, Mutex};

/// Names with a slot of their own.
///
/// # Examples
///
/// ```
/// use plimsoll::board;
///
/// assert!(board::holders().count() <= board::SLOTS + 1); // and one for `other`
/// ```
pub const SLOTS: usize = 64;

/// The most names that [`intern`] keeps.
pub(crate) const MAX_NAMES: usize = 1024;

/// Returns the name with a static lifetime, so that the alarm can read it at any time. A name that was made at run time is kept
/// for the life of the process, once. `None` if [`MAX_NAMES`] are kept.
pub(crate) fn intern(name: Cow<'static, str>) -> Option<&'static str> {
    static KEPT: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

    let name = match name {
        Cow::Borrowed(name) => return Some(name),
        Cow::Owned(name) => name,
    };
    let mut kept = KEPT.lock();
    let place = match kept.binary_search(&name.as_str()) {
        Ok(place) => return kept.get(place).copied(),
        Err(place) => place,
    };
    if kept.len() == MAX_NAMES {
        return None;
    }
    let name = Box::leak(name.into_boxed_str());
    kept.insert(place, name);
    Some(name)
}

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

    /// Returns the bytes that holders publish under this name.
    fn gauge(&self) -> ByteSize {
        ByteSize::bytes(u64::try_from(self.bytes.load(Relaxed)).unwrap_or(0))
    }

    /// Returns the bytes that accounts count under the name at `place` of the board.
    fn reserved_at(place: usize) -> ByteSize {
        let counted = cells().filter(|cell| cell.place.load(Relaxed) == place);
        counted.fold(ByteSize::ZERO, |sum, cell| sum.saturating_add(ByteSize::bytes(cell.bytes.load(Relaxed))))
    }

    /// Returns both together.
    fn bytes_at(&self, place: usize) -> ByteSize {
        self.gauge().saturating_add(Self::reserved_at(place))
    }
}

static ENTRIES: [Entry; SLOTS] = [const { Entry::new() }; SLOTS];

/// Where holders beyond [`SLOTS`] names go.
static OTHER: Entry = Entry::new();

/// Bytes counted by one owner, which are published under a name while he has them: the owner's own books are the
/// figure on the board, and counting costs one atomic operation rather than two.
///
/// Cells form a chain from [`CELLS`] that only grows, to as many as ever had an owner at one time.
#[derive(Debug)]
#[repr(align(128))]
struct Cell {
    /// The place of the name it counts for, from 1; zero while nobody owns it.
    place: AtomicUsize,
    bytes: AtomicU64,
    next: OnceLock<Box<Cell>>,
}

impl Cell {
    const fn new() -> Self {
        Self { place: AtomicUsize::new(0), bytes: AtomicU64::new(0), next: OnceLock::new() }
    }
}

static CELLS: Cell = Cell::new();

fn cells() -> impl Iterator<Item = &'static Cell> {
    std::iter::successors(Some(&CELLS), |cell| cell.next.get().map(|next| &**next))
}

/// The figure of one owner under a name; it counts bytes, and must be back at zero when it is dropped.
#[derive(Debug)]
pub(crate) struct Meter(&'static Cell);

/// Takes a cell for a figure under the name. Costs a search of the cells, and an allocation where all are taken.
pub(crate) fn meter(name: &'static str) -> Meter {
    let place = ENTRIES.iter().position(|entry| std::ptr::eq(entry, holder(name).0)).unwrap_or(SLOTS) + 1;
    let mut cell = &CELLS;
    while cell.place.compare_exchange(0, place, Acquire, Relaxed).is_err() {
        cell = cell.next.get_or_init(|| Box::new(Cell::new()));
    }
    Meter(cell)
}

impl Deref for Meter {
    type Target = AtomicU64;

    #[inline]
    fn deref(&self) -> &AtomicU64 {
        &self.0.bytes
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.0.bytes.store(0, Relaxed);
        self.0.place.store(0, Release);
    }
}

/// A name as records show it: its first 48 bytes, without characters that end a line or need an escape in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clean(pub(crate) &'static str);

impl Clean {
    fn chars(self) -> impl Iterator<Item = char> {
        let mut left = 48_usize;
        let fits = move |letter: &char| left.checked_sub(letter.len_utf8()).inspect(|rest| left = *rest).is_some();
        let clean = |letter: char| if letter.is_control() || matches!(letter, '"' | '\\' | '~') { '?' } else { letter };
        self.0.chars().take_while(fits).map(clean)
    }
}

impl fmt::Display for Clean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chars().try_for_each(|letter| f.write_char(letter))
    }
}

/// A name as the key of a JSON object. The second of two names that are shown alike ends with `~2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    name: Clean,
    /// 0 for the first name that is shown like this.
    repetition: usize,
}

impl Shown {
    /// Returns the name as it was given.
    pub(crate) const fn name(self) -> &'static str {
        self.name.0
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, repetition } = self;
        match repetition {
            0 => write!(f, "{name}"),
            _ => write!(f, "{name}~{}", repetition + 1),
        }
    }
}

/// A name on the board, under which bytes are published. A copy publishes under the same name.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, board};
///
/// let buffers = board::holder("buffers");
/// buffers.add(ByteSize::kib(64));
/// buffers.sub(ByteSize::kib(16));
/// assert_eq!((buffers.name(), buffers.bytes()), ("buffers", ByteSize::kib(48)));
/// buffers.set(ByteSize::ZERO);
/// assert_eq!(buffers.bytes(), ByteSize::ZERO);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Holder(&'static Entry);

/// Finds the name on the board, or puts it there with zero bytes; beyond [`SLOTS`] names, the common one `other`.
///
/// Names should be short and constant: lines show the first 48 bytes of them. The same name is the same holder. Costs a
/// search of the board: keep the holder, rather than the name.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, board};
///
/// board::holder("uploads").add(ByteSize::mib(2));
/// assert_eq!(board::holder("uploads").bytes(), ByteSize::mib(2)); // the same name, the same holder
/// ```
pub fn holder(name: &'static str) -> Holder {
    let own = |entry: &&Entry| *entry.name.get_or_init(|| name) == name;
    let entry = if name == "other" { None } else { ENTRIES.iter().find(own) };
    Holder(entry.unwrap_or_else(|| {
        OTHER.name.get_or_init(|| "other");
        if name != "other" {
            warn_full(name);
        }
        &OTHER
    }))
}

/// Warns, once in the life of the process, that `name` shares the name `other`.
fn warn_full(name: &'static str) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    warn_once(
        &WARNED,
        format_args!(
            "all {SLOTS} names on the board are taken: `{}` and later names are counted as `other`; use few constant names, \
             not one for each tenant",
            Clean(name)
        ),
    );
}

impl Holder {
    /// Publishes how much is held now; for a holder that is alone under its name. Costs one store.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, board};
    ///
    /// let page_cache = board::holder("sqlite page cache");
    /// page_cache.set(ByteSize::mib(2)); // whatever it was before
    /// assert_eq!(page_cache.bytes(), ByteSize::mib(2));
    /// ```
    pub fn set(&self, bytes: ByteSize) {
        self.0.bytes.store(signed(bytes), Relaxed);
    }

    /// Publishes that so much more is held. Costs one atomic addition; beyond 8 EiB the sum reads as zero.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, board};
    ///
    /// let parts = board::holder("parts");
    /// parts.add(ByteSize::mib(5)); // when one arrives
    /// parts.add(ByteSize::mib(5));
    /// assert_eq!(parts.bytes(), ByteSize::mib(10));
    /// ```
    pub fn add(&self, bytes: ByteSize) {
        self.0.bytes.fetch_add(signed(bytes), Relaxed);
    }

    /// Publishes that so much less is held. Costs one atomic subtraction; below zero it reads as zero.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, board};
    ///
    /// let parts = board::holder("parts sent");
    /// parts.add(ByteSize::mib(5));
    /// parts.sub(ByteSize::mib(5)); // when it is sent
    /// assert_eq!(parts.bytes(), ByteSize::ZERO);
    /// ```
    pub fn sub(&self, bytes: ByteSize) {
        self.0.bytes.fetch_sub(signed(bytes), Relaxed);
    }

    /// Reads what is published under the name, by holders and by accounts of a budget.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, MemoryBudget, board};
    ///
    /// let budget = MemoryBudget::new(ByteSize::mib(10));
    /// let _held = budget.account("thumbnails")?.try_reserve(ByteSize::mib(1))?;
    /// assert_eq!(board::holder("thumbnails").bytes(), ByteSize::mib(1)); // an account publishes too
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn bytes(&self) -> ByteSize {
        let place = ENTRIES.iter().position(|entry| std::ptr::eq(entry, self.0)).unwrap_or(SLOTS) + 1;
        self.0.bytes_at(place)
    }

    /// Tells the name on the board: the one asked for, or `other`.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(plimsoll::board::holder("index of words").name(), "index of words");
    /// ```
    pub fn name(&self) -> &'static str {
        self.0.name.get().copied().unwrap_or("other")
    }
}

/// All names with what they hold, in the order of their coming; `other` last, where it is in use.
///
/// Costs a load or two for each name and account. The figures are read one after the other, so their sum may be that
/// of no moment.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, board};
///
/// board::holder("sessions").set(ByteSize::mib(4));
/// for (name, bytes) in board::holders() {
///     println!("{name}: {bytes}");
/// }
/// assert!(board::holders().any(|held| held == ("sessions", ByteSize::mib(4))));
/// ```
pub fn holders() -> impl Iterator<Item = (&'static str, ByteSize)> {
    entries().map(|(place, name, entry)| (name, entry.bytes_at(place)))
}

/// The entries that have a name, with their places and names.
fn entries() -> impl Iterator<Item = (usize, &'static str, &'static Entry)> {
    let named = |(place, entry): (usize, &'static Entry)| Some((place, *entry.name.get()?, entry));
    (1..).zip(&ENTRIES).map_while(named).chain(named((SLOTS + 1, &OTHER)))
}

/// Returns the largest gauges, largest first, and the sum of all. Accounts do not count. Does not allocate.
pub(crate) fn largest_gauges<const N: usize>() -> ([Option<(Shown, ByteSize)>; N], ByteSize) {
    largest_shown(entries().map(|(_, name, entry)| (name, entry.gauge())))
}

/// Returns the names with the most bytes in accounts, largest first, and the sum of all. Does not allocate.
pub(crate) fn largest_reserved<const N: usize>() -> ([Option<(Shown, ByteSize)>; N], ByteSize) {
    largest_shown(entries().map(|(place, name, _)| (name, Entry::reserved_at(place))))
}

fn largest_shown<const N: usize>(
    held: impl Iterator<Item = (&'static str, ByteSize)>,
) -> ([Option<(Shown, ByteSize)>; N], ByteSize) {
    let mut sum = ByteSize::ZERO;
    let top: [_; N] = largest_of(held.inspect(|(_, bytes)| sum = sum.saturating_add(*bytes)));
    (numbered(top), sum)
}

/// Returns the names as keys of one JSON object.
pub(crate) fn numbered<const N: usize>(top: [Option<(&'static str, ByteSize)>; N]) -> [Option<(Shown, ByteSize)>; N] {
    let names = top.map(|held| held.map(|(name, _)| Clean(name)));
    let mut index = 0;
    top.map(|held| {
        let before = names.iter().take(index).flatten();
        index += 1;
        held.map(|(name, bytes)| {
            let repetition = before.filter(|other| other.chars().eq(Clean(name).chars())).count();
            (Shown { name: Clean(name), repetition }, bytes)
        })
    })
}

/// The largest of these, largest first; of equals, those that come first. Without allocation.
pub(crate) fn largest_of<const N: usize>(
    holders: impl Iterator<Item = (&'static str, ByteSize)>,
) -> [Option<(&'static str, ByteSize)>; N] {
    let mut top = [None; N];
    for held in holders.filter(|(_, bytes)| *bytes > ByteSize::ZERO) {
        // Sinks to its place, pushing smaller ones down and the smallest out.
        let mut sinking = Some(held);
        for place in &mut top {
            if sinking.map(|(_, bytes)| bytes) > place.map(|(_, bytes)| bytes) {
                std::mem::swap(place, &mut sinking);
            }
        }
    }
    top
}

fn signed(bytes: ByteSize) -> i64 {
    i64::try_from(bytes.as_u64()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Clean, cells, holder, largest_shown, meter};
    use crate::size::ByteSize;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn largest_shown_names_that_are_shown_alike_are_numbered() {
        let long = "a name of more than forty-eight bytes, which is cut";
        let held = [
            ("a\"b", 5),
            ("a\\b", 4),
            (long, 3),
            ("c", 2),
            ("a name of more than forty-eight bytes, which is lost", 1),
        ];
        let (top, sum) = largest_shown::<5>(held.iter().map(|&(name, bytes)| (name, ByteSize::bytes(bytes))));
        let names: Vec<_> = top.iter().flatten().map(|(name, _)| name.to_string()).collect();
        let cut = Clean(long).to_string();
        assert_eq!(names, ["a?b", "a?b~2", &cut, "c", &format!("{cut}~2")]);
        assert_eq!((sum, cut.len()), (ByteSize::bytes(15), 48));
    }

    #[test]
    fn figures_of_one_name_add_up_and_their_cells_are_used_again() {
        let (one, two) = (meter("figures"), meter("figures"));
        holder("figures").add(ByteSize::bytes(1));
        one.fetch_add(10, Relaxed);
        two.fetch_add(100, Relaxed);
        assert_eq!(holder("figures").bytes(), ByteSize::bytes(111));
        one.fetch_sub(10, Relaxed);
        drop(one);
        assert_eq!(holder("figures").bytes(), ByteSize::bytes(101));
        drop(two);
        for _ in 0..1000 {
            drop((meter("figures"), meter("more figures")));
        }
        // Other tests of this process own cells too, but not as many.
        assert!(cells().count() < 300, "{} cells", cells().count());
    }
}
