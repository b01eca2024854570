//! Memory attribution: the stacks of the allocations that hold the heap, now and at its peak.
//!
//! The live heap is the memory that the program holds; this module attributes it to the code that allocated it. It
//! samples allocations, by default one in 512 KiB, over any inner allocator. It is off until [`start`] is called; a
//! [`Monitor`](crate::Monitor) calls it if the variable `PLIMSOLL_PROFILE` is `on`.
//!
//! ```
//! use plimsoll::heap::profile;
//! use plimsoll::{ByteSize, TrackingAllocator};
//!
//! #[global_allocator]
//! static GLOBAL: TrackingAllocator = TrackingAllocator::new();
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     profile::start(profile::DEFAULT_INTERVAL)?;
//!     let index = vec![0_u8; 8 << 20];
//!     let largest = profile::live()?.sites[0];
//!     assert_eq!((largest.bytes, largest.blocks), (ByteSize::mib(8), 1));
//!     drop(index);
//!     assert!(profile::peak()?.sites[0].bytes >= ByteSize::mib(8));
//!     Ok(())
//! }
//! ```
//!
//! # How it is measured
//!
//! Each allocated byte has the same chance to be a *sampling point*, one in [`interval`](HeapProfile::interval)
//! bytes. A block with a sampling point is a *sample*, and stands for one interval of bytes. A block of one interval
//! or more is always a sample and counts with its exact size. So a site that holds `n` intervals in small blocks is
//! measured with a standard error of about `sqrt(n)` intervals: 10 % of 50 MiB at the default interval.
//!
//! A block belongs to the stack of its last `realloc`. If a program has more live samples than the table of 8,192 has
//! room for, the interval is doubled, and half of the samples go.
//!
//! # Stacks
//!
//! A stack has at most 32 frames, the innermost. Frame pointers are the cheapest way to walk it; build the program with
//! `RUSTFLAGS="-C force-frame-pointers=yes"`. Without them the tables of the platform's unwinder are used if it takes
//! no lock, see [`StackSource`]. If neither works, all sites are one.
//!
//! # What is not seen
//!
//! - Blocks that were allocated before [`start`].
//! - Memory that does not come from the global allocator: C libraries, mapped files, stacks.
//! - Stacks beyond 12,288 different frames and callers share one site, which has no addresses.
//!
//! # Performance
//!
//! Memory: less than 1 MiB, static, of which pages are used as samples come. Time: see [`start`].

mod account;
mod baseline;
#[cfg(feature = "symbols")]
mod crates;
mod display;
mod filter;
#[cfg(feature = "flamegraph")]
mod flame_graph;
mod folded;
pub(super) mod hooks;
mod modules;
#[cfg(feature = "pprof")]
mod pprof;
mod sample;
mod sampling;
mod setting;
mod settings;
mod snapshot;
#[cfg(feature = "symbols")]
mod symbols;
mod table;
#[cfg(test)]
mod tests;
mod tree;

use crate::error_chain::debug_as_chain;
use crate::os;
use crate::size::ByteSize;

use super::{NotInstalled, thread::LEDGER};

pub use crate::os::StackSource;
pub use modules::ModuleAddress;
pub use setting::{ParseProfileSettingError, ProfileSetting};
#[cfg(feature = "symbols")]
pub use symbols::{Symbol, set_own_crates};

use filter::AddressFilter;
use sample::{BLOCK_UNIT, Sample};
pub(super) use sampling::{Hits, Interval, ThreadSampling};
pub(super) use settings::looks_at_frees;
use table::SampleTable;
use tree::{CallTree, NodeId};

/// The most nodes of all stacks together.
const NODES: usize = 16_384;
/// Places for live samples.
const TABLE: usize = 8_192;
/// The most frames of a stack.
const MAX_FRAMES: usize = 32;

static STACKS: CallTree<NODES> = CallTree::new();
static SAMPLES: SampleTable<TABLE> = SampleTable::new();
static FILTER: AddressFilter<{ 32 * 1024 }> = AddressFilter::new();

/// The interval that suits a service: 512 KiB, as in the profilers of Go, tcmalloc and jemalloc.
pub const DEFAULT_INTERVAL: ByteSize = ByteSize::kib(512);

/// The shortest interval: 64 KiB.
pub const MIN_INTERVAL: ByteSize = ByteSize::kib(64);

/// The longest interval: 1 GiB.
pub const MAX_INTERVAL: ByteSize = ByteSize::gib(1);

/// Error returned by [`start`].
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, TrackingAllocator, heap::profile};
///
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
///
/// fn main() {
///     let error = profile::start(ByteSize::bytes(1)).unwrap_err();
///     assert_eq!(error.to_string(), "a sampling interval of 1 B, expected 64.0 KiB to 1.0 GiB");
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The tracking allocator is not the global allocator.
    #[error(transparent)]
    NotInstalled(#[from] NotInstalled),
    /// The interval is out of range.
    #[error("a sampling interval of {interval}, expected {MIN_INTERVAL} to {MAX_INTERVAL}")]
    #[non_exhaustive]
    Interval {
        /// The interval that was asked for.
        interval: ByteSize,
    },
    /// The profile is on already. It stays on for the life of the process.
    #[error("the heap profile is on already")]
    AlreadyStarted,
}

debug_as_chain!(StartError);

/// The heap profile is off: [`start`] was not called.
///
/// # Examples
///
/// ```
/// let off = plimsoll::heap::profile::live().unwrap_err();
/// assert_eq!(off.to_string(), "the heap profile is off: set PLIMSOLL_PROFILE=on or call heap::profile::start");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the heap profile is off: set PLIMSOLL_PROFILE=on or call heap::profile::start")]
#[non_exhaustive]
pub struct NotStarted;

debug_as_chain!(NotStarted);

/// Switches the profile on, for all threads and for the life of the process.
///
/// Call it at the start of `main`, because blocks that exist already are not attributed. `interval` is the average
/// distance of two samples in allocated bytes: a shorter one measures smaller sites and costs more.
///
/// # Errors
///
/// [`StartError`] if the tracking allocator is not installed, if `interval` is out of range, or if the profile is on.
///
/// # Performance
///
/// About 1 ns for each pair of an allocation and a free. One allocation in `interval` bytes is a sample, which costs
/// about 0.3 us with frame pointers and some microseconds with the unwinder. Each time the heap exceeds its last
/// snapshot by 1/64, one thread copies the sums of all stacks: an estimated 20 us.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, TrackingAllocator, heap::profile};
///
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
///
/// fn main() -> Result<(), profile::StartError> {
///     profile::start(ByteSize::kib(64))?;
///     assert!(profile::is_started());
///     Ok(())
/// }
/// ```
#[inline(never)]
pub fn start(interval: ByteSize) -> Result<(), StartError> {
    if !super::is_installed() {
        return Err(NotInstalled.into());
    }
    if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        return Err(StartError::Interval { interval });
    }
    if !settings::claim_start() {
        return Err(StartError::AlreadyStarted);
    }
    os::record_executable();
    let source = os::probe_stack_walk();
    #[cfg(feature = "symbols")]
    learn_own_crate(source);
    // Has a place from now on, however full the tree gets.
    let _unknown = STACKS.insert(&[account::UNKNOWN]);
    settings::switch_on(interval.as_u64(), source);
    Ok(())
}

/// Keeps the stack of the call that starts the profile: it is in the program's own code.
#[cfg(feature = "symbols")]
#[inline(never)]
fn learn_own_crate(source: StackSource) {
    let here = 0_u8;
    let mut frames = [0; MAX_FRAMES];
    let count = os::walk_stack(source, &raw const here, &mut frames);
    symbols::learn_own_crate(frames.get(..count).unwrap_or_default());
}

/// Returns `true` if the profile is on.
///
/// # Examples
///
/// ```
/// assert!(!plimsoll::heap::profile::is_started());
/// ```
pub fn is_started() -> bool {
    settings::is_on()
}

/// The heap by allocation sites at one moment.
///
/// # Examples
///
/// ```
/// # use plimsoll::{ByteSize, TrackingAllocator, heap::profile};
/// # #[global_allocator]
/// # static GLOBAL: TrackingAllocator = TrackingAllocator::new();
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// profile::start(profile::DEFAULT_INTERVAL)?;
/// let profile = profile::live()?;
/// for site in &profile.sites {
///     println!("{} in {} blocks, {:.0} %", site.bytes, site.blocks, 100.0 * site.share);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HeapProfile {
    /// The live heap at that moment.
    pub heap: ByteSize,
    /// The average distance of two samples, in allocated bytes. It is a multiple of the one that [`start`] got, if the
    /// table of samples has been full.
    pub interval: ByteSize,
    /// The allocation sites, the largest first.
    pub sites: Vec<Site>,
    /// The way in which stacks are walked.
    pub stacks: StackSource,
    /// The bytes that samples without room in the table stood for, since the start. They are in no site.
    pub lost: ByteSize,
}

impl HeapProfile {
    fn new(heap: u64, sums: impl Fn(usize) -> (u64, u64)) -> Self {
        let mut sites: Vec<Site> = (0..NODES).filter_map(|index| Site::new(index, sums(index), heap)).collect();
        sites.sort_by_key(|site| std::cmp::Reverse(site.bytes));
        Self {
            heap: ByteSize::bytes(heap),
            interval: ByteSize::bytes(settings::interval().bytes()),
            sites,
            stacks: settings::stack_source(),
            lost: ByteSize::bytes(account::lost()),
        }
    }
}

/// The live blocks that were allocated with one stack.
///
/// # Examples
///
/// ```
/// # use plimsoll::{ByteSize, TrackingAllocator, heap::profile};
/// # #[global_allocator]
/// # static GLOBAL: TrackingAllocator = TrackingAllocator::new();
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// profile::start(profile::DEFAULT_INTERVAL)?;
/// let index = vec![0_u8; 8 << 20];
/// let site = profile::live()?.sites[0];
/// assert_eq!(site.bytes, ByteSize::mib(8));
/// # drop(index);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Site {
    /// The bytes of its live blocks: an estimate from the samples.
    pub bytes: ByteSize,
    /// The number of its live blocks: an estimate from the samples, at least 1.
    pub blocks: u64,
    /// Its share of the live heap, from 0 to 1.
    pub share: f64,
    node: NodeId,
}

impl Site {
    fn new(index: usize, (bytes, blocks): (u64, u64), heap: u64) -> Option<Self> {
        (bytes > 0).then(|| Self {
            bytes: ByteSize::bytes(bytes),
            blocks: (blocks.saturating_add(BLOCK_UNIT / 2) / BLOCK_UNIT).max(1),
            share: share(bytes, heap),
            node: NodeId::new(index),
        })
    }

    /// Returns the return addresses of the stack, innermost first, at most 32. Empty if the stack is not known.
    ///
    /// Does not allocate.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, TrackingAllocator, heap::profile};
    /// # #[global_allocator]
    /// # static GLOBAL: TrackingAllocator = TrackingAllocator::new();
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// profile::start(profile::DEFAULT_INTERVAL)?;
    /// let index = vec![0_u8; 8 << 20];
    /// for address in profile::live()?.sites[0].addresses() {
    ///     println!("{address:#x}");
    /// }
    /// # drop(index);
    /// # Ok(())
    /// # }
    /// ```
    pub fn addresses(&self) -> impl Iterator<Item = usize> {
        STACKS.stack(self.node).filter(|&address| address != account::UNKNOWN)
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes below 8 PiB")]
fn share(bytes: u64, heap: u64) -> f64 {
    (bytes as f64 / heap.max(1) as f64).min(1.0)
}

/// Returns the live heap by allocation sites.
///
/// # Errors
///
/// [`NotStarted`] if the profile is off.
///
/// # Performance
///
/// About 20 us for a few sites, and an allocation.
///
/// # Examples
///
/// ```
/// # use plimsoll::{ByteSize, TrackingAllocator, heap::profile};
/// # #[global_allocator]
/// # static GLOBAL: TrackingAllocator = TrackingAllocator::new();
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// profile::start(profile::DEFAULT_INTERVAL)?;
/// println!("{} sites", profile::live()?.sites.len());
/// # Ok(())
/// # }
/// ```
pub fn live() -> Result<HeapProfile, NotStarted> {
    if !is_started() {
        return Err(NotStarted);
    }
    Ok(HeapProfile::new(LEDGER.live() as u64, account::sums))
}

/// Returns the heap by allocation sites at its peak, since [`start`] or [`reset_peak`].
///
/// The figures are those of the last snapshot, which is at most 1/64 or one interval below the highest heap. A peak
/// that is over in less than 20 us, while another thread takes a snapshot or reads one, can be missed.
///
/// # Errors
///
/// [`NotStarted`] if the profile is off.
///
/// # Performance
///
/// An estimated 40 us, and an allocation of 256 KiB. It waits for a thread that is taking a snapshot.
///
/// # Examples
///
/// ```
/// # use plimsoll::{ByteSize, TrackingAllocator, heap::profile};
/// # #[global_allocator]
/// # static GLOBAL: TrackingAllocator = TrackingAllocator::new();
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// profile::start(profile::DEFAULT_INTERVAL)?;
/// drop(vec![0_u8; 8 << 20]);
/// assert_eq!(profile::peak()?.sites[0].bytes, ByteSize::mib(8));
/// # Ok(())
/// # }
/// ```
pub fn peak() -> Result<HeapProfile, NotStarted> {
    if !is_started() {
        return Err(NotStarted);
    }
    let (heap, sums) = snapshot::read();
    Ok(HeapProfile::new(heap, |index| sums.get(index).copied().unwrap_or_default()))
}

/// Starts a new peak at what is live now. Does nothing if the profile is off.
///
/// # Examples
///
/// ```
/// plimsoll::heap::profile::reset_peak(); // after the start-up of the service
/// ```
pub fn reset_peak() {
    if is_started() {
        snapshot::reset();
    }
}

/// Returns the largest sites, largest first, and the sum of all; `None` if the profile is off. Does not allocate,
/// lock or wait.
pub(crate) fn largest_sites<const N: usize>() -> Option<([Option<Site>; N], ByteSize)> {
    if !is_started() {
        return None;
    }
    let heap = LEDGER.line() as u64;
    let sites = (0..NODES).filter_map(|index| Site::new(index, account::sums(index), heap));
    Some((largest_of(sites, |site| site.bytes.as_u64()), attributed()))
}

/// Returns the sum of all sites; zero if the profile is off. Does not allocate, lock or wait.
pub(crate) fn attributed() -> ByteSize {
    ByteSize::bytes(account::total())
}

/// Keeps the live bytes of each site, for [`largest_growth`]. Does nothing if the profile is off.
pub(crate) fn record_baseline() {
    if is_started() {
        baseline::record();
    }
}

/// Returns the sites with the largest growth of live bytes since the last [`record_baseline`]. Their `bytes` are the
/// growth. Does not allocate, lock or wait.
pub(crate) fn largest_growth<const N: usize>() -> [Option<Site>; N] {
    if !is_started() {
        return [None; N];
    }
    let heap = LEDGER.line() as u64;
    let grown = (0..NODES).filter_map(|index| {
        let (bytes, blocks) = account::sums(index);
        let growth = bytes.saturating_sub(baseline::bytes(index));
        Site::new(index, (growth, blocks), heap)
    });
    largest_of(grown, |site| site.bytes.as_u64())
}

/// Returns the sites with the largest keys, largest first.
fn largest_of<const N: usize>(sites: impl Iterator<Item = Site>, key: impl Fn(&Site) -> u64) -> [Option<Site>; N] {
    let mut largest = [None; N];
    for site in sites {
        // Sinks to its place, and the smallest falls out.
        let mut sinking = Some(site);
        for place in &mut largest {
            if sinking.as_ref().map(&key) > place.as_ref().map(&key) {
                std::mem::swap(place, &mut sinking);
            }
        }
    }
    largest
}

/// Releases what other threads of the parent held, in the child of a fork.
pub(super) fn restart_after_fork() {
    if settings::restart_after_fork() {
        account::restart_after_fork();
        snapshot::restart_after_fork();
    }
}

#[cfg(test)]
impl HeapProfile {
    /// Creates a profile of stacks with bytes and blocks.
    pub(crate) fn for_test(stacks: &[(&[usize], u64, u64)]) -> Self {
        let heap = stacks.iter().map(|(_, bytes, _)| bytes).sum();
        let site = |&(stack, bytes, blocks): &(&[usize], u64, u64)| {
            Site::new(STACKS.insert(stack)?.index(), (bytes, blocks * BLOCK_UNIT), heap)
        };
        Self {
            heap: ByteSize::bytes(heap),
            interval: DEFAULT_INTERVAL,
            sites: stacks.iter().filter_map(site).collect(),
            stacks: StackSource::FramePointers,
            lost: ByteSize::ZERO,
        }
    }
}
