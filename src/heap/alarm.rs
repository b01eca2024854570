//! The alarm before a kill: thresholds of the memory, and the checks that the allocator makes.
//!
//! The kernel kills without a warning, so the alarm must come before. Pages are counted when they are touched, which is
//! after the allocation. So a check asks what the rss is about to be:
//!
//! ```text
//!   projected = rss + pages of the new block that are not resident
//! ```
//!
//! The blocks that other threads have requested last count too, while their pages are being touched: see `fresh`.
//!
//! No sum of totals gives that. `rss + request` counts a request twice if the allocator serves it from pages that it
//! kept, and the live heap does not show memory of C code. Both wrong sums were measured with false and missed alarms.
//!
//! ```text
//!   request                     before the inner allocator                     after it, before the caller has the block
//!   alloc, 256 KiB and more     -                                              rss + untouched pages of the block
//!   alloc_zeroed, realloc       rss + bytes touched inside, against 100 %      the same
//!   smaller                     -                                              rss + request
//! ```
//!
//! A check runs on the allocator's slow path only, when `alarm_state` finds it due.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};

use crate::env::ENVIRONMENT_SHARE;
use crate::error_chain::debug_as_chain;
use crate::os::{self, OsError, Rss};
use crate::size::ByteSize;

use super::NotInstalled;
use super::alarm_state::{AlarmState, Check, MAX_THRESHOLDS, Reading};
use super::emergency_log::{self, Alarm};
use super::fresh;
use super::thread::{self, LEDGER};

/// The smallest block of which the pages are read, in bytes. A check can be wrong by more than a smaller block.
pub(super) const LARGE: usize = 256 * 1024;

/// The thresholds at which the memory of the process is reported as crossed; the topmost writes the alarm.
///
/// Thresholds are percentages of the capacity: the memory size less the environment's own share of it.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, heap::AlarmThresholds};
///
/// let thresholds = AlarmThresholds::new(ByteSize::mib(128)).with_percents(&[50, 95])?;
/// assert_eq!(thresholds.capacity(), ByteSize::mib(116));
/// assert_eq!(thresholds.threshold(50), ByteSize::mib(58));
/// # Ok::<(), plimsoll::heap::AlarmThresholdsError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmThresholds {
    memory_size: ByteSize,
    environment_share: ByteSize,
    /// Rising; the unused ones are zero.
    percents: [u8; MAX_THRESHOLDS],
}

/// Error returned by [`AlarmThresholds::with_percents`] for an invalid list of thresholds.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, heap::AlarmThresholds};
///
/// let wrong = AlarmThresholds::new(ByteSize::mib(128)).with_percents(&[90, 70]);
/// println!("{}", wrong.unwrap_err());
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AlarmThresholdsError {
    /// The list is empty or longer than [`AlarmThresholds::MAX`].
    #[error("{count} alarm thresholds were given, expected 1 to {}", AlarmThresholds::MAX)]
    #[non_exhaustive]
    Count {
        /// The length of the list.
        count: usize,
    },
    /// A percentage is not between 1 and 100, or not above the one before it.
    #[error("alarm threshold of {percent} %: expected 1 to 100 %, each above the one before it")]
    #[non_exhaustive]
    NotRising {
        /// The percentage that does not fit.
        percent: u8,
    },
}

debug_as_chain!(AlarmThresholdsError);

impl AlarmThresholds {
    /// The most thresholds there can be.
    pub const MAX: usize = MAX_THRESHOLDS;

    /// The part of the memory size that Lambda's own processes use, about.
    pub const ENVIRONMENT_SHARE: ByteSize = ENVIRONMENT_SHARE;

    /// Creates thresholds at 70, 90 and 97 % of the memory size less [`ENVIRONMENT_SHARE`](Self::ENVIRONMENT_SHARE).
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, heap::AlarmThresholds};
    ///
    /// let thresholds = AlarmThresholds::new(ByteSize::mib(128));
    /// assert_eq!(thresholds.percents().collect::<Vec<_>>(), [70, 90, 97]);
    /// ```
    pub const fn new(memory_size: ByteSize) -> Self {
        Self { memory_size, environment_share: Self::ENVIRONMENT_SHARE, percents: [70, 90, 97, 0] }
    }

    /// Sets the memory size, and keeps the percentages.
    pub(crate) const fn with_memory_size(mut self, size: ByteSize) -> Self {
        self.memory_size = size;
        self
    }

    /// Sets the environment's share of the memory size. Zero means that the process has all of it, as in a container.
    ///
    /// A share as large as the memory size leaves a capacity of zero, and every threshold is crossed from the start.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::{ByteSize, heap::AlarmThresholds};
    ///
    /// let container = AlarmThresholds::new(ByteSize::mib(256)).environment_share(ByteSize::ZERO);
    /// assert_eq!(container.capacity(), container.memory_size());
    /// ```
    #[must_use]
    pub const fn environment_share(mut self, share: ByteSize) -> Self {
        self.environment_share = share;
        self
    }

    /// Sets the percentages, rising.
    ///
    /// # Errors
    ///
    /// [`AlarmThresholdsError`] if the list is empty or longer than [`MAX`](Self::MAX), or if a percentage is not
    /// from 1 to 100 and above the one before it.
    pub fn with_percents(mut self, percents: &[u8]) -> Result<Self, AlarmThresholdsError> {
        if percents.is_empty() || percents.len() > Self::MAX {
            return Err(AlarmThresholdsError::Count { count: percents.len() });
        }
        self.percents = [0; MAX_THRESHOLDS];
        let mut before = 0;
        for (place, &percent) in self.percents.iter_mut().zip(percents) {
            if percent <= before || percent > 100 {
                return Err(AlarmThresholdsError::NotRising { percent });
            }
            *place = percent;
            before = percent;
        }
        Ok(self)
    }

    /// Returns the memory size. The kernel kills a process that exceeds it.
    pub const fn memory_size(&self) -> ByteSize {
        self.memory_size
    }

    /// Returns the part of the memory size that this process can use.
    pub const fn capacity(&self) -> ByteSize {
        self.memory_size.saturating_sub(self.environment_share)
    }

    /// Returns the size of which a threshold of `percent` consists.
    pub const fn threshold(&self, percent: u8) -> ByteSize {
        self.capacity().percent(percent as u32)
    }

    /// Returns the percentages, rising.
    pub fn percents(&self) -> impl Iterator<Item = u8> {
        self.percents.into_iter().take_while(|&percent| percent > 0)
    }
}

static STATE: AlarmState = AlarmState::new();
static MEMORY_SIZE: AtomicUsize = AtomicUsize::new(0);
/// 100 %, in bytes.
static CAPACITY: AtomicUsize = AtomicUsize::new(usize::MAX);
/// The thresholds in percent.
static PERCENTS: [AtomicU8; MAX_THRESHOLDS] = [const { AtomicU8::new(0) }; MAX_THRESHOLDS];

/// When a check before a request has found the capacity crossed, in milliseconds of the coarse monotonic clock; 0:
/// never.
static LAST_FORESEEN_MS: AtomicU64 = AtomicU64::new(0);

/// The time between two such alarms, in milliseconds.
const FORESEEN_AGAIN_MS: u64 = 10_000;

/// Installs the thresholds, clears their crossed state, and checks them immediately.
///
/// When the process crosses the topmost threshold, the allocator writes one line of JSON to standard error. It is not
/// written again until the load has fallen by a twentieth of the threshold:
///
/// ```json
/// {"plimsoll":"alarm","v":1,"timestamp":"2026-11-29T05:40:08.123Z","level":"ERROR","alarm_threshold":97,
///  "memory_size":134217728,"rss":117014528,"untouched":1048576,"requested":1048576,"heap":109051904,
///  "requests_in_flight":1,"requests":[{"request_id":"4f1c9a","label":"/orders","age_ms":210}],
///  "unattributed":10485760,"sums":{"gauges":54525952,"sites":44040192,"reserved":4194304},"build_id":"9f86d081",
///  "sites":[{"bytes":44040192,"share":40.4,"blocks":168,"function":"app::remember","location":"src/main.rs:12",
///            "address":"0x1a2b3b","stack":["0x1a2b3b","0x1a0f71"]}],
///  "gauges":{"orders":54525952},"reserved":{"thumbnails":4194304},"largest_growth":0}
/// ```
///
/// All sizes are in bytes.
///
/// | member | meaning |
/// |---|---|
/// | `rss`, `untouched` | their sum has reached the threshold. `untouched` are pages of the new block and of other threads' |
/// | `requested` | the size of that block; 0 if the check was not made for a request |
/// | `heap` | the live heap, with at most 32 KiB for each thread too much |
/// | `requests` | up to four requests in flight, the oldest first. `peak` is there if it is known |
/// | `unattributed` | the part of the heap that neither gauges nor allocation sites explain: see [`Holders`](crate::monitor::Holders) |
/// | `sums` | all gauges, all allocation sites beyond the gauges, and all accounts. `heap` = `gauges` + `sites` + `unattributed` |
/// | `build_id` | the build of the executable to which the addresses belong |
/// | `sites` | the three allocation sites with the most live bytes, and their share of the heap in percent |
/// | `address`, `stack` | the innermost call and up to eight calls, in the numbering of the executable's file, as `addr2line` takes it |
/// | `function`, `location` | the first function of the stack in the program's own crates, if a report has resolved it before |
/// | `gauges` | the five largest gauges of [`board`](crate::board). Their sum does not exceed `heap` |
/// | `reserved` | the five largest accounts of all budgets, which can be memory that was not allocated yet |
/// | `largest_growth` | the most that the heap grew over any one invocation |
///
/// `build_id` and `sites` are there if a [profile](crate::guide::attribution) runs (feature `profile`). A member or an
/// entry that would make the line longer than 4 KiB is left out, the last ones first. A line that standard error does not take at once
/// is written at a later check, with the figures of that one: the allocation does not wait for a reader. The child of
/// a fork has thresholds and an alarm of its own. Call this function from one thread at a time.
///
/// # What is not seen
///
/// - A block counts when it is allocated, and while its pages are touched one after the other. If it stays untouched
///   for a second, or its thread has requested another large block, and it is touched later, that is noticed at the
///   next check.
/// - Memory of C code and of mapped files is seen at the next check, that of child processes not at all.
/// - A thread beyond the 128 that have a counter sees its own block, and other threads do not see it.
/// - `alloc_zeroed` and `realloc` may touch pages inside of the allocator, and the kernel may kill there. So the rss
///   and the bytes that may be touched are checked against the capacity (100 %) before the call. This alarm can be
///   early, because pages that the allocator kept are counted twice; it is written at most once in 10 s. For
///   [`System`](std::alloc::System) only blocks that it copies and over-aligned zeroed blocks are checked so, and
///   other zeroed blocks up to the bytes that [`os::trim`] has released.
/// - Pages that were only read count as touched, though the kernel has given no memory for them yet.
/// - Under gVisor all pages count as resident, so a block is seen when it is touched.
///
/// # Errors
///
/// [`NotInstalled`] if the tracking allocator is not the global allocator: then nothing would check.
///
/// # Performance
///
/// One reading of the rss, about two microseconds, for each rise of the heap by 1 MiB and each block of 1 MiB and
/// more. If a block of 256 KiB and more can reach a threshold, about 0.5 us for each MiB of it and of the blocks that
/// other threads are filling.
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
///     heap::set_alarm_thresholds(&heap::AlarmThresholds::new(ByteSize::gib(8)))?; // a `Monitor` does this
///     assert_eq!(heap::highest_crossed_threshold(), None);
///     Ok(())
/// }
/// ```
pub fn set_alarm_thresholds(thresholds: &AlarmThresholds) -> Result<(), NotInstalled> {
    if !super::is_installed() {
        return Err(NotInstalled);
    }
    let mut bytes = [usize::MAX; MAX_THRESHOLDS];
    for (place, percent) in bytes.iter_mut().zip(thresholds.percents()) {
        *place = thresholds.threshold(percent).as_usize();
    }
    for (place, percent) in PERCENTS.iter().zip(thresholds.percents) {
        place.store(percent, SeqCst);
    }
    MEMORY_SIZE.store(thresholds.memory_size.as_usize(), SeqCst);
    CAPACITY.store(thresholds.capacity().as_usize(), SeqCst);
    LAST_FORESEEN_MS.store(0, SeqCst);
    STATE.set_thresholds(bytes);
    // If the rss is not available, the heap alone decides.
    let _rss = check_now();
    Ok(())
}

/// Returns the highest threshold that is crossed, in percent; `None` if none is.
///
/// # Examples
///
/// ```
/// let busy = plimsoll::heap::highest_crossed_threshold().is_some_and(|percent| percent >= 90);
/// assert!(!busy, "no thresholds are set in this program");
/// ```
pub fn highest_crossed_threshold() -> Option<u8> {
    let index = STATE.highest_crossed()?;
    PERCENTS.get(index).map(|percent| percent.load(SeqCst))
}

/// Returns the topmost threshold in bytes, `usize::MAX` if there is none.
#[cfg(feature = "symbols")]
pub(super) fn highest_threshold() -> usize {
    STATE.highest_threshold()
}

/// Reads the rss, checks the thresholds against it, and returns it. For the end of an invocation.
pub(crate) fn check_now() -> Result<Rss, OsError> {
    if STATE.is_set() { check(Request::NONE, 0) } else { os::rss() }
}

/// Clears the crossed state in the child of a fork: its memory is its own.
pub(super) fn restart_after_fork() {
    fresh::forget_all();
    LAST_FORESEEN_MS.store(0, SeqCst);
    STATE.restart();
}

/// The reason of a check.
#[derive(Clone, Copy)]
struct Request {
    /// The new block; null before the inner allocator was asked.
    block: *const u8,
    /// 0 if the check is not made for a request.
    size: usize,
}

impl Request {
    const NONE: Self = Self { block: std::ptr::null(), size: 0 };
}

/// Returns `true` if a request of which the inner allocator may touch `touched` bytes crosses the capacity. Then
/// [`after_alloc`] or [`after_failed_alloc`] must be called. The total rises by `growth` with it.
#[inline]
pub(super) fn before_alloc(touched: usize, growth: usize) -> Foreseen {
    Foreseen(
        touched >= LARGE
            && STATE.is_due_after_rise(LEDGER.line().saturating_add(touched.max(growth)), touched)
            && crosses_capacity(touched, growth),
    )
}

/// A large request that has crossed the capacity before the inner allocator was asked.
#[derive(Debug)]
pub(super) struct Foreseen(bool);

#[cold]
fn crosses_capacity(touched: usize, growth: usize) -> bool {
    let rss = os::rss().map_or(LEDGER.line(), |rss| rss.total.as_usize());
    if rss.saturating_add(touched) < CAPACITY.load(SeqCst) {
        return false;
    }
    // One line in this time is warning enough, because the next one may be early again.
    let (now, last) = (os::coarse_monotonic_ms(), LAST_FORESEEN_MS.load(SeqCst));
    if last != 0 && now < last.saturating_add(FORESEEN_AGAIN_MS) {
        return false;
    }
    LAST_FORESEEN_MS.store(now.max(1), SeqCst);
    STATE.enter();
    let _rss = check(Request { size: touched, ..Request::NONE }, growth);
    true
}

/// Checks a total that has risen for `block`, before the caller gets it.
#[inline]
pub(super) fn after_alloc(foreseen: Foreseen, total: usize, block: *const u8, size: usize) {
    if size >= LARGE && STATE.is_awake() {
        // Before the check, so that a thread that sees a flag of this check sees the block too.
        if let Some(thread) = thread::number() {
            fresh::record(thread, block, size, os::coarse_monotonic_ms());
        }
    }
    if STATE.is_due_after_rise(total, size) || foreseen.0 {
        check_block(foreseen, block, size);
    }
}

#[cold]
fn check_block(Foreseen(is_foreseen): Foreseen, block: *const u8, size: usize) {
    if is_foreseen {
        STATE.leave();
    }
    let _rss = check(Request { block, size }, 0);
}

/// Forgets a block that is about to be freed or resized.
#[inline]
pub(super) fn before_dealloc(block: *const u8, size: usize) {
    if size >= LARGE {
        fresh::forget(block);
    }
}

/// Records a block that was not resized, or was made smaller, after [`before_dealloc`].
pub(super) fn still_there(block: *const u8, size: usize) {
    if size >= LARGE
        && STATE.is_awake()
        && let Some(thread) = thread::number()
    {
        fresh::record(thread, block, size, os::coarse_monotonic_ms());
    }
}

/// Checks a total that has fallen.
#[inline]
pub(super) fn after_dealloc(total: usize) {
    if STATE.is_due_after_fall(total) {
        check_fall();
    }
}

#[cold]
fn check_fall() {
    let _rss = check(Request::NONE, 0);
}

/// Checks after a request that the inner allocator has refused.
#[cold]
pub(super) fn after_failed_alloc(Foreseen(is_foreseen): Foreseen) {
    if is_foreseen {
        STATE.leave();
        check_fall();
    } else {
        after_dealloc(LEDGER.line());
    }
}

/// Checks the thresholds, writes the alarm if one is owed, and returns the rss. The total rises by `growth` later.
fn check(request: Request, growth: usize) -> Result<Rss, OsError> {
    let is_last = true;
    let (is_newest, rss) = check_once(request, growth, !is_last);
    if is_newest { rss } else { check_once(request, growth, is_last).1 }
}

/// Returns the rss, and before it `false` if the check must be repeated: see [`AlarmState::finish`].
fn check_once(request: Request, growth: usize, is_last: bool) -> (bool, Result<Rss, OsError>) {
    let check = STATE.begin();
    let total = LEDGER.line().saturating_add(growth);
    let resident = os::rss();
    let now_ms = os::coarse_monotonic_ms();
    let (rss, untouched) = match &resident {
        Ok(rss) => (rss.total.as_usize(), untouched(check, request, rss.total.as_usize(), now_ms)),
        // The total stands in for it. It has a block that is there already.
        Err(_not_available) => (total, if request.block.is_null() { request.size } else { 0 }),
    };
    let load = rss.saturating_add(untouched);
    let is_newest = STATE.finish(check, Reading { total, load }, is_last, || LEDGER.line());
    if STATE.take_owed() {
        let percent = PERCENTS.iter().map(|percent| percent.load(SeqCst)).max().unwrap_or(0);
        let memory_size = MEMORY_SIZE.load(SeqCst);
        let alarm = Alarm { percent, memory_size, rss, untouched, requested: request.size, heap: total, now_ms };
        if !emergency_log::write_alarm(&alarm) {
            STATE.owe();
        }
    }
    (is_newest, resident)
}

/// Returns the bytes that new blocks add to the rss when they are touched. Pages are looked at only if the result of
/// the check depends on them; if not, it is the most that they can add.
fn untouched(check: Check, request: Request, rss: usize, now_ms: u64) -> usize {
    /// More than the check needs, so that the alarm shows how far the threshold is passed.
    const BEYOND: usize = 64 << 20;

    let Request { block, size } = request;
    let missing = STATE.highest_threshold().saturating_sub(rss);
    if missing == 0 {
        return 0;
    }
    let enough = missing.saturating_add(BEYOND).min(MEMORY_SIZE.load(SeqCst));
    let most = size.saturating_add(fresh::sizes(block, now_ms, enough));
    if !STATE.depends_on(check, rss, rss.saturating_add(most)) {
        return most;
    }
    let own = if size < LARGE || block.is_null() { size } else { os::untouched(block, size, enough) };
    own.saturating_add(fresh::untouched(block, enough))
}
