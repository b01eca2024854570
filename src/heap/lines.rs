//! The load lines: shares of the memory that raise a flag when the process crosses them, and the topmost an alarm.
//!
//! A kill by the kernel leaves no time for words, so the alarm must come before. What is tested is
//!
//! ```text
//!   max( heap + what the rss had beside the heap when the lines were set,  rss now + the request at hand )
//! ```
//!
//! because pages are counted when they are touched, which is after they were asked for. It is tested on the allocator's
//! slow path only, behind one compare: when the line has risen by 1 MiB since the last look or the lowest point after
//! it, or to where the next load line could be. A flag falls again when the load is a twentieth under its line.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};

use crate::env::ENVIRONMENT_SHARE;
use crate::error_chain::debug_as_chain;
use crate::log::{Head, Level};
use crate::os;
use crate::size::ByteSize;

use super::NotInstalled;
use super::note::{self, Line};
use super::thread::LEDGER;

/// The most load lines there can be.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, heap::{LoadLines, MAX_LOAD_LINES}};
///
/// let lines = LoadLines::new(ByteSize::mib(512)).percents(&[50, 70, 90, 97])?;
/// assert_eq!(lines.levels().count(), MAX_LOAD_LINES);
/// # Ok::<(), plimsoll::heap::LoadLinesError>(())
/// ```
pub const MAX_LOAD_LINES: usize = 4;

/// How far the line may move before the rss is read again, in bytes.
const LOOK_AGAIN: usize = 1 << 20;

/// Where the load lines lie: percentages of the memory size less what the environment itself takes of it.
///
/// ```
/// use plimsoll::{ByteSize, heap::LoadLines};
///
/// let lines = LoadLines::new(ByteSize::mib(128)).percents(&[50, 95])?;
/// assert_eq!(lines.capacity(), ByteSize::mib(116));
/// assert_eq!(lines.at(50), ByteSize::mib(58));
/// # Ok::<(), plimsoll::heap::LoadLinesError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadLines {
    memory_size: ByteSize,
    environment_share: ByteSize,
    /// Rising; zero where there are fewer than four.
    percents: [u8; MAX_LOAD_LINES],
}

/// Load lines that cannot be.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, heap::LoadLines};
///
/// let wrong = LoadLines::new(ByteSize::mib(128)).percents(&[90, 70]);
/// println!("{}", wrong.unwrap_err());
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadLinesError {
    /// There are none, or more than there is room for.
    #[error("{count} load lines were given: there can be 1 to {MAX_LOAD_LINES}")]
    #[non_exhaustive]
    Count {
        /// How many were given.
        count: usize,
    },
    /// A percentage is not between 1 and 100, or not above the one before.
    #[error("a load line at {percent} % is not between 1 and 100 and above the one before it")]
    #[non_exhaustive]
    NotRising {
        /// The percentage that does not fit.
        percent: u8,
    },
}

debug_as_chain!(LoadLinesError);

impl LoadLines {
    /// What Lambda's own processes take of the memory size, about.
    pub const ENVIRONMENT_SHARE: ByteSize = ENVIRONMENT_SHARE;

    /// Lines at 70, 90 and 97 % of the memory size less [`ENVIRONMENT_SHARE`](Self::ENVIRONMENT_SHARE).
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, heap::LoadLines};
    ///
    /// let lines = LoadLines::new(ByteSize::mib(128));
    /// assert_eq!(lines.levels().collect::<Vec<_>>(), [70, 90, 97]);
    /// ```
    pub const fn new(memory_size: ByteSize) -> Self {
        Self { memory_size, environment_share: Self::ENVIRONMENT_SHARE, percents: [70, 90, 97, 0] }
    }

    /// Sets the memory size, and keeps the percentages.
    pub(crate) const fn with_memory_size(mut self, size: ByteSize) -> Self {
        self.memory_size = size;
        self
    }

    /// Sets the environment's share; zero where the memory size is the process's alone, as in a container.
    ///
    /// A share as large as the memory size leaves a capacity of zero, and every line is crossed from the start.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, heap::LoadLines};
    ///
    /// let container = LoadLines::new(ByteSize::mib(256)).environment_share(ByteSize::ZERO);
    /// assert_eq!(container.capacity(), container.memory_size());
    /// ```
    #[must_use]
    pub const fn environment_share(mut self, share: ByteSize) -> Self {
        self.environment_share = share;
        self
    }

    /// Sets the lines, rising.
    ///
    /// # Errors
    ///
    /// [`LoadLinesError`] for none, more than four, a percentage outside 1 to 100, or one not above the one before.
    pub fn percents(mut self, percents: &[u8]) -> Result<Self, LoadLinesError> {
        if percents.is_empty() || percents.len() > MAX_LOAD_LINES {
            return Err(LoadLinesError::Count { count: percents.len() });
        }
        self.percents = [0; MAX_LOAD_LINES];
        let mut before = 0;
        for (place, &percent) in self.percents.iter_mut().zip(percents) {
            if percent <= before || percent > 100 {
                return Err(LoadLinesError::NotRising { percent });
            }
            *place = percent;
            before = percent;
        }
        Ok(self)
    }

    /// The memory size, of which the kernel kills what passes it.
    pub const fn memory_size(&self) -> ByteSize {
        self.memory_size
    }

    /// What is left of the memory size for this process.
    pub const fn capacity(&self) -> ByteSize {
        self.memory_size.saturating_sub(self.environment_share)
    }

    /// Where a line of so many percent lies.
    pub const fn at(&self, percent: u8) -> ByteSize {
        self.capacity().percent(percent as u32)
    }

    /// The percentages, rising.
    pub fn levels(&self) -> impl Iterator<Item = u8> {
        self.percents.into_iter().take_while(|&percent| percent > 0)
    }
}

/// The lines in force, in bytes and rising; `usize::MAX` where there is none.
static LINES: [AtomicUsize; MAX_LOAD_LINES] = [const { AtomicUsize::new(usize::MAX) }; MAX_LOAD_LINES];
/// The same in percent, for the alarm.
static PERCENTS: [AtomicU8; MAX_LOAD_LINES] = [const { AtomicU8::new(0) }; MAX_LOAD_LINES];
static MEMORY_SIZE: AtomicUsize = AtomicUsize::new(0);
/// Which lines are crossed, one bit each.
static CROSSED: AtomicU8 = AtomicU8::new(0);
/// What the rss had beside the heap when the lines were set, in bytes: code and stacks.
static BESIDE: AtomicUsize = AtomicUsize::new(0);
/// How far the line may rise from where it was at the last look until the next one.
static ROOM: AtomicUsize = AtomicUsize::new(usize::MAX);
/// How many looks were asked for since the one that is under way began; zero while there is none.
static LOOKS: AtomicUsize = AtomicUsize::new(0);
/// The largest request among them.
static REQUESTED: AtomicUsize = AtomicUsize::new(0);
/// The most that one of them is to add to the line.
static UNBOOKED: AtomicUsize = AtomicUsize::new(0);
/// A line of the ledger at or above this wakes the test.
static WAKE_ABOVE: AtomicUsize = AtomicUsize::new(usize::MAX);
/// A line of the ledger below this wakes it too, while a load line is crossed.
static WAKE_BELOW: AtomicUsize = AtomicUsize::new(0);

/// Puts the load lines in force, with their flags down, and looks at once.
///
/// From now on crossing the topmost line writes one line of JSON to standard error, at once and unbuffered, and not
/// again until the load has fallen a twentieth under it:
///
/// ```json
/// {"plimsoll":"alarm","v":1,"timestamp":"2026-11-29T05:40:08.123Z","level":"ERROR","request_id":"4f1c9a",
///  "load_line_percent":97,"heap":117964800,"rss":119013376,
///  "requested":1048576,"memory_size":134217728,"holders":{"orders":94371840},"unaccounted":23592960,"largest_growth":0}
/// ```
///
/// All sizes are in bytes. `requested` is what was being asked for at the crossing, `holders` are the five largest of the
/// [`board`](crate::board), `unaccounted` is what of the heap no holder names, and `largest_growth` the most that the
/// heap grew over any one invocation before.
///
/// The alarm comes before the request that would cross is served. It cannot foresee what is no request: a block that the
/// inner allocator moves in `realloc` exists twice for a moment, and memory that C code takes is seen at the heap's next
/// rise by 1 MiB, and at an invocation's end.
///
/// Costs one reading of the rss each time the heap has grown by 1 MiB, about a microsecond.
///
/// # Errors
///
/// [`NotInstalled`] where the allocator was forgotten: an alarm that cannot sound is not set in silence.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, TrackingAllocator, heap};
///
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
///
/// fn main() -> Result<(), heap::NotInstalled> {
///     heap::set_load_lines(&heap::LoadLines::new(ByteSize::gib(8)))?; // what a `Monitor` does
///     assert_eq!(heap::crossed_load_line(), None);
///     Ok(())
/// }
/// ```
pub fn set_load_lines(lines: &LoadLines) -> Result<(), NotInstalled> {
    if !super::is_installed() {
        return Err(NotInstalled);
    }
    WAKE_ABOVE.store(usize::MAX, SeqCst);
    for ((line, level), percent) in LINES.iter().zip(&PERCENTS).zip(lines.percents) {
        let at = if percent == 0 { usize::MAX } else { lines.at(percent).as_usize() };
        line.store(at, SeqCst);
        level.store(percent, SeqCst);
    }
    MEMORY_SIZE.store(lines.memory_size.as_usize(), SeqCst);
    CROSSED.store(0, SeqCst);
    let rss = rss();
    BESIDE.store(rss.as_usize().saturating_sub(LEDGER.line()), SeqCst);
    look(rss);
    Ok(())
}

/// The rss, or zero where it cannot be read: then the heap alone decides.
fn rss() -> ByteSize {
    os::rss().map_or(ByteSize::ZERO, |rss| rss.total)
}

/// Looks at the load now, as an invocation's end does with the `rss` it has read: flags rise and fall.
pub(crate) fn look(rss: ByteSize) {
    if LINES.first().is_some_and(|line| line.load(SeqCst) != usize::MAX) {
        test(0, Some(rss));
    }
}

/// The highest load line that is crossed, in percent.
///
/// # Examples
///
/// ```
/// let busy = plimsoll::heap::crossed_load_line().is_some_and(|percent| percent >= 90);
/// assert!(!busy, "no lines are set in this program");
/// ```
pub fn crossed_load_line() -> Option<u8> {
    let crossed = CROSSED.load(SeqCst);
    PERCENTS.iter().enumerate().rev().find(|(i, _)| crossed >> i & 1 != 0).map(|(_, percent)| percent.load(SeqCst))
}

/// Tests the line before `request` is served, of which `booked` bytes are on the line already. What is larger than all
/// memory is tested when it is there: most likely it will not be.
#[inline]
pub(super) fn will_rise(request: usize, booked: usize) {
    let unbooked = request.saturating_sub(booked);
    let line = LEDGER.line().saturating_add(unbooked);
    if line >= WAKE_ABOVE.load(SeqCst) && request <= MEMORY_SIZE.load(SeqCst) {
        UNBOOKED.fetch_max(unbooked, SeqCst);
        test(request, None);
    }
}

/// Tests a line that has risen.
#[inline]
pub(super) fn rose(line: usize) {
    if line >= WAKE_ABOVE.load(SeqCst) {
        test(0, None);
    }
}

/// Tests a line that has fallen, and has the next rise counted from there.
#[inline]
pub(super) fn fell(line: usize) {
    if line < WAKE_BELOW.load(SeqCst) {
        test(0, None);
    } else {
        wake_above(line.saturating_add(ROOM.load(SeqCst)));
    }
}

/// Tests anew after a request that came to nothing.
#[cold]
pub(super) fn came_to_nothing() {
    if CROSSED.load(SeqCst) == 0 {
        fell(LEDGER.line());
    } else {
        test(0, None);
    }
}

/// Has a line at or above `line` tested, if it would not be already.
fn wake_above(line: usize) {
    if line < WAKE_ABOVE.load(SeqCst) {
        WAKE_ABOVE.fetch_min(line, SeqCst);
    }
}

/// Looks at the load, or leaves it to the thread that is looking already: it looks again, at a line that this thread has
/// moved. So nobody waits, no rise goes unseen, and nobody judges by a line that others have left long since.
#[cold]
fn test(request: usize, mut rss_read: Option<ByteSize>) {
    REQUESTED.fetch_max(request, SeqCst);
    if LOOKS.fetch_add(1, SeqCst) > 0 {
        return;
    }
    let mut asked_for = 1;
    loop {
        let rss = rss_read.take().unwrap_or_else(rss);
        weigh(LEDGER.line(), REQUESTED.swap(0, SeqCst), rss.as_usize());
        match LOOKS.compare_exchange(asked_for, 0, SeqCst, SeqCst) {
            Ok(_) => return,
            Err(more) => asked_for = more,
        }
    }
}

/// Holds the load against the load lines.
fn weigh(line: usize, request: usize, rss: usize) {
    let heap = line.saturating_add(UNBOOKED.swap(0, SeqCst));
    let load = heap.saturating_add(BESIDE.load(SeqCst)).max(rss.saturating_add(request));
    let mut room = LOOK_AGAIN;
    let mut fall = usize::MAX;
    for (index, at) in LINES.iter().enumerate() {
        let at = at.load(SeqCst);
        let bit = 1 << index;
        if load >= at {
            fall = fall.min(at / 40);
            let crosses = CROSSED.fetch_or(bit, SeqCst) & bit == 0;
            if crosses && LINES.get(index + 1).is_none_or(|above| above.load(SeqCst) == usize::MAX) {
                alarm(line, rss, request);
            }
        } else {
            room = room.min(at - load);
            // Until then crossed, if it was: a load that plays about its line alarms once.
            if load < at - at / 20 {
                CROSSED.fetch_and(!bit, SeqCst);
            } else if CROSSED.load(SeqCst) & bit != 0 {
                fall = fall.min(at / 40);
            }
        }
    }
    ROOM.store(room, SeqCst);
    WAKE_ABOVE.store(line.saturating_add(room), SeqCst);
    // Where a flag is up, small falls are watched too, so that it comes down in time.
    WAKE_BELOW.store(if fall == usize::MAX { 0 } else { line.saturating_sub(fall.min(LOOK_AGAIN)) }, SeqCst);
    // Others may have lowered the line since it was read, and the mark before it was set.
    wake_above(LEDGER.line().saturating_add(room));
}

/// Says once that the kernel may kill the process any moment now, and who holds the memory.
fn alarm(heap: usize, rss: usize, requested: usize) {
    let percent = crossed_load_line().unwrap_or(0);
    let limit = MEMORY_SIZE.load(SeqCst);
    let mut line = Line::new();
    line.put(format_args!(r#"{},"request_id":""#, Head::new("alarm", Level::Error)));
    note::put_context(&mut line);
    line.put(format_args!(r#"","load_line_percent":{percent},"heap":{heap},"rss":{rss}"#));
    line.put(format_args!(r#","requested":{requested},"memory_size":{limit}"#));
    note::put_holders(&mut line, ByteSize::bytes(heap as u64));
    line.put(format_args!(r#","largest_growth":{}}}"#, note::largest_growth()));
    line.write_stderr();
}
