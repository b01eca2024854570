//! Live and peak heap of the process, against a limit: the tracking allocator and the functions that read and steer it.
//!
//! Install [`TrackingAllocator`] as the global allocator; the rest of this module then answers.
//!
//! ```
//! use plimsoll::{ByteSize, TrackingAllocator, heap};
//!
//! #[global_allocator]
//! static GLOBAL: TrackingAllocator = TrackingAllocator::new();
//!
//! fn main() -> Result<(), heap::NotInstalled> {
//!     heap::set_limit(ByteSize::mib(100))?;               // past it an allocation fails, here and not in the kernel
//!     heap::reset_peak();
//!     let rows: Vec<u64> = (0..10_000).collect();
//!     let stats = heap::stats()?;
//!     assert!(stats.peak.at_most >= ByteSize::bytes(80_000));
//!     assert!(Vec::<u8>::new().try_reserve(200 << 20).is_err());
//!     assert_eq!(heap::stats()?.refused, 1);
//!     # drop(rows);
//!     Ok(())
//! }
//! ```
//!
//! # Heap is not rss
//!
//! *Heap* is what the program asked of the allocator and has not freed. Lambda kills by what the kernel
//! counts, *rss*, which adds what the inner allocator rounds up and keeps, stacks, the binary and mapped files. Set the
//! limit below the memory size by that much; [`os::rss`](crate::os::rss) tells it.
//!
//! # How exact
//!
//! * **Live** is exact whenever no other thread is inside an allocation, beginning or ending; each that is may put it
//!   off by 32 KiB.
//! * **Peak** is exact where no other thread that allocates was alive since the last reset. Else it is a bracket,
//!   `[at_most - threads x 32 KiB, at_most]`, and `at_most` never under-reports.
//! * **Limit**: the live heap never passes it, whatever the number of threads. A request may be refused up to
//!   `threads x 32 KiB` early, as other threads hold that much credit.
//! * What the *inner* allocator fails is not counted, but as a refusal. While it is being asked under a limit, its
//!   size may show in other threads' figures; one of less than 32 KiB may stay in a [`scope`](scope())'s peak, and
//!   makes the process's peak a bracket until the next reset.
//! * A block of another allocator that is freed here, as over the border of a `cdylib`, is a breach of the contract of
//!   `GlobalAlloc`. It makes the figures wrong: `live` can wrap around zero.
//! * A block that moves in `realloc` exists twice for a moment, and one being freed a moment longer than on the books:
//!   neither is counted.

mod abort_report;
mod alarm;
mod alarm_state;
mod allocator;
mod emergency_log;
mod fresh;
mod gross;
mod holders;
mod holders_json;
mod in_flight;
mod kept;
mod ledger;
mod meter;
#[cfg(not(feature = "profile"))]
mod no_profile;
#[cfg(not(feature = "profile"))]
mod no_sites;
mod peak;
#[cfg(feature = "profile")]
pub mod profile;
mod refusal;
#[cfg(feature = "symbols")]
mod resolve;
mod scope;
mod site_names;
mod slot;
mod thread;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

pub(crate) use abort_report::install as install_abort_report;
pub(crate) use alarm::check_now;
pub use alarm::{AlarmThresholds, AlarmThresholdsError, highest_crossed_threshold, set_alarm_thresholds};
pub use allocator::TrackingAllocator;
pub(crate) use allocator::releases_pages;
pub(crate) use emergency_log::{InFlightRequest, MAX_TEXT, record_growth, set_alarm_metrics};
pub use holders::{HeapSite, Holders};
pub(crate) use holders::{growing_sites, record_baseline, split_of_heap};
pub(crate) use holders_json::{Extent, SiteJson, build_id};
#[cfg(feature = "http")]
pub(crate) use meter::outside_of_tasks;
pub(crate) use meter::{Meter, MeterReading, Metered, note_reserved};
pub use scope::{HeapDelta, assert_peak, scope, scope_async};

use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;
use thread::LEDGER;

/// Returns the live heap by one load: at most 32 KiB for each thread too high, and 0 without the tracking allocator.
#[inline]
pub(crate) fn live_estimate() -> u64 {
    LEDGER.line() as u64
}

/// Returns a small number for this thread: few threads that run at the same time have the same.
pub(crate) fn thread_number() -> usize {
    thread::number().unwrap_or(0)
}

/// The [`TrackingAllocator`] is not the global allocator, so there are no books to read.
///
/// # Examples
///
/// ```standalone_crate
/// use plimsoll::heap;
///
/// let forgotten = heap::stats().unwrap_err(); // no `#[global_allocator]` in this program
/// assert!(forgotten.to_string().starts_with("the heap is not tracked"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the heap is not tracked: `plimsoll::TrackingAllocator` is not installed as `#[global_allocator]`")]
#[non_exhaustive]
pub struct NotInstalled;

debug_as_chain!(NotInstalled);

/// The heap of the process at one moment, in bytes asked of the allocator.
///
/// # Examples
///
/// ```
/// use plimsoll::{TrackingAllocator, heap};
///
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
///
/// fn main() -> Result<(), heap::NotInstalled> {
///     let before = heap::stats()?;
///     let rows = vec![0_u8; 1_000_000];
///     let after = heap::stats()?;
///     assert!(after.live.as_u64() - before.live.as_u64() >= 1_000_000);
///     assert_eq!((after.refused, after.limit), (0, None));
///     # drop(rows);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeapStats {
    /// Bytes allocated and not freed.
    pub live: ByteSize,
    /// The most that lived since [`reset_peak`], or since the process began.
    pub peak: HeapPeak,
    /// Bytes ever allocated. A `realloc` counts its growth.
    pub allocated: ByteSize,
    /// Bytes ever freed. A `realloc` counts what it gave up.
    pub freed: ByteSize,
    /// Requests answered with null, by the limit or by the inner allocator.
    pub refused: u64,
    /// The largest request answered with null; zero when none was.
    pub largest_refused: ByteSize,
    /// The limit in force, if one is set.
    pub limit: Option<ByteSize>,
}

/// The bounds between which the true peak lies; equal where it is known exactly.
///
/// # Examples
///
/// ```
/// use plimsoll::{TrackingAllocator, heap};
///
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
///
/// fn main() -> Result<(), heap::NotInstalled> {
///     let peak = heap::stats()?.peak;
///     assert!(peak.at_least <= peak.at_most);
///     println!("never more than {}", peak.at_most);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeapPeak {
    /// At least this much lived at one moment. Under a limit, requests that other threads were making at that moment
    /// count, and so do those that failed.
    pub at_least: ByteSize,
    /// More than this never did.
    pub at_most: ByteSize,
}

/// Reads live and peak heap, the gross sums, refusals and the limit.
///
/// # Errors
///
/// [`NotInstalled`] where the allocator was forgotten, never a report of zeros.
///
/// # Cost
///
/// Two loads for each thread that allocates, some ten more for the rest; no allocation, no lock.
///
/// # Examples
///
/// ```
/// use plimsoll::{TrackingAllocator, heap};
///
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
///
/// fn main() -> Result<(), heap::NotInstalled> {
///     let stats = heap::stats()?;
///     println!("heap {} peak {}", stats.live, stats.peak.at_most);
///     assert!(stats.peak.at_most >= stats.live);
///     Ok(())
/// }
/// ```
pub fn stats() -> Result<HeapStats, NotInstalled> {
    if !is_installed() {
        return Err(NotInstalled);
    }
    let live = LEDGER.live();
    let peak = LEDGER.peak(thread::own());
    let allocated = ByteSize::bytes(LEDGER.allocated());
    Ok(HeapStats {
        live: size(live),
        peak: HeapPeak { at_least: size(peak.at_least), at_most: size(peak.at_most.max(live)) },
        allocated,
        freed: allocated.saturating_sub(size(live)),
        refused: refusal::count(),
        largest_refused: size(refusal::largest()),
        limit: Some(LEDGER.limit()).filter(|&limit| limit != usize::MAX).map(size),
    })
}

/// Lets the peak begin anew: from what is live now, not from zero.
///
/// At the start of each invocation this makes the peak the invocation's own. With several requests in flight it is
/// the environment's. Without the allocator installed it does nothing. Cost: some ten loads and stores; at most once
/// in a second some system calls for each thread that allocates, to find those that have ended without a trace.
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
///     drop(vec![0_u8; 8 << 20]);
///     assert!(heap::stats()?.peak.at_most >= ByteSize::mib(8));
///     heap::reset_peak(); // the next invocation
///     assert!(heap::stats()?.peak.at_most < ByteSize::mib(8));
///     Ok(())
/// }
/// ```
pub fn reset_peak() {
    // The peak is exact only if no other thread has a counter.
    thread::release_ended();
    LEDGER.reset_peak(thread::own());
}

/// Sets the limit of the live heap, past which an allocation gets null: `try_reserve` sees `Err`, the rest aborts.
///
/// A limit below what is live refuses every further request until enough is freed; what threads hold as credit, at
/// most 32 KiB each, may still be spent. So does a limit of zero. [`ByteSize::MAX`] is the same as no limit. Setting
/// it costs one store.
///
/// The limit counts *heap*. Keep it below the memory size by what the process needs besides: see [the module](self).
///
/// # Errors
///
/// [`NotInstalled`] where the allocator was forgotten: a limit that holds nothing back is not set in silence.
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
///     heap::set_limit(ByteSize::mib(64))?;
///     let mut body: Vec<u8> = Vec::new();
///     assert!(body.try_reserve(100 << 20).is_err(), "answer 413 and go on");
///     assert!(body.try_reserve(1 << 20).is_ok());
///     Ok(())
/// }
/// ```
pub fn set_limit(limit: ByteSize) -> Result<(), NotInstalled> {
    if !is_installed() {
        return Err(NotInstalled);
    }
    LEDGER.set_limit(limit.as_usize());
    Ok(())
}

/// Removes the limit.
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
///     heap::set_limit(ByteSize::mib(64))?;
///     heap::clear_limit();
///     assert_eq!(heap::stats()?.limit, None);
///     Ok(())
/// }
/// ```
pub fn clear_limit() {
    LEDGER.set_limit(usize::MAX);
}

/// Whether the [`TrackingAllocator`] is the global allocator.
///
/// Once it is seen to be, the cost is one load; until then each call makes one allocation to find out.
///
/// # Examples
///
/// ```standalone_crate
/// assert!(!plimsoll::heap::is_installed()); // no `#[global_allocator]` in this program
/// ```
pub fn is_installed() -> bool {
    static SEEN: AtomicBool = AtomicBool::new(false);
    if !SEEN.load(Relaxed) {
        let before = LEDGER.allocated();
        drop(std::hint::black_box(Box::new(0u8)));
        SEEN.store(LEDGER.allocated() != before, Relaxed);
    }
    SEEN.load(Relaxed)
}

fn size(bytes: usize) -> ByteSize {
    ByteSize::bytes(bytes as u64)
}
