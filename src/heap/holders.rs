//! Memory attribution: the gauges, accounts and allocation sites that hold the memory, in one type of fixed size.
//!
//! The alarm and the abort report fill it inside of an allocation and in a signal handler. So nothing here allocates,
//! locks or blocks, except [`Holders::read`], which is for reports.

use std::fmt;

use crate::board::{self, Shown};
use crate::os;
use crate::size::{ByteDelta, ByteSize};

#[cfg(not(feature = "profile"))]
use super::no_sites::{self as profile, Site};
#[cfg(feature = "profile")]
use super::profile::{self, Site};
#[cfg(feature = "symbols")]
use super::resolve::resolve;
use super::{kept, site_names, stats};

pub(crate) use profile::record_baseline;

/// The code and the components that hold the memory of the process at one moment.
///
/// Three lists have up to `N` entries each, the largest first: gauges of the [`board`], accounts of all budgets, and
/// allocation sites (feature `profile`). Two equations hold exactly:
///
/// ```text
///   heap = gauges + sites + unattributed
///   rss  = heap + kept + rest
/// ```
///
/// - A block can be counted by a gauge and by its allocation site. So [`sites`](Self::sites) is the part of the heap
///   that the profile attributes beyond the gauges: `min(sum of all sites, heap) - gauges`, at least 0. The entries of
///   the list keep their full estimates.
/// - A gauge can count memory that is not heap, such as a mapped file. So [`gauges`](Self::gauges) is at most the heap.
///   The entries of the list keep the bytes that were published.
/// - Reserved bytes are not part of the equations: an account reserves memory before it is allocated, and both a
///   gauge and an allocation site may count it as soon as it is.
///
/// The figures are read one after the other while other threads allocate, so they can be of moments that are some
/// microseconds apart.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, TrackingAllocator, board, monitor::Holders};
///
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
///
/// fn main() {
///     let index = vec![0_u8; 1 << 20];
///     board::holder("index").set(ByteSize::mib(1));
///     let holders = Holders::read();
///     let attributed = holders.gauges.saturating_add(holders.sites);
///     assert_eq!(holders.heap, holders.unattributed.map(|rest| rest.saturating_add(attributed)));
///     assert_eq!(holders.largest_gauges().next(), Some(("index", ByteSize::mib(1))));
///     # drop(index);
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Holders<const N: usize = 16> {
    /// The live heap; `None` without the tracking allocator.
    pub heap: Option<ByteSize>,
    /// The sum of all gauges, at most the heap.
    pub gauges: ByteSize,
    /// The heap that allocation sites explain beyond the gauges. Zero if no profile runs.
    pub sites: ByteSize,
    /// The heap that neither a gauge nor an allocation site explains; `None` without the tracking allocator.
    pub unattributed: Option<ByteSize>,
    /// The sum of all accounts of all budgets. It can be memory that is not allocated yet.
    pub reserved: ByteSize,
    /// Resident set size; `None` if it is not known.
    pub rss: Option<ByteSize>,
    /// Pages that the allocator keeps for later allocations: the free chunks of glibc's arenas, at most the anonymous
    /// rss beyond the heap. It is read at most once a second. `None` for other allocators and in the alarm.
    pub kept: Option<ByteSize>,
    /// The rss that is neither heap nor kept: stacks, the binary, memory of C code, overhead of the allocator. It is
    /// negative if a part of the heap was never touched. `None` if `kept` is.
    pub rest: Option<ByteDelta>,
    /// `true` if the profile of allocation sites runs.
    pub is_profiled: bool,
    pub(super) top_gauges: [Option<(Shown, ByteSize)>; N],
    pub(super) top_accounts: [Option<(Shown, ByteSize)>; N],
    pub(super) top_sites: [Option<HeapSite>; N],
}

/// The live blocks that were allocated with one stack: an entry of [`Holders`] and of
/// [`growing_sites`](crate::monitor::InvocationReport::growing_sites).
///
/// `Display` prints the function with file and line if they are known, else the addresses of the eight innermost calls.
///
/// # Examples
///
/// ```
/// use plimsoll::monitor::Holders;
///
/// for site in Holders::read().largest_sites() {
///     println!("{site} {} in {} blocks", site.bytes, site.blocks);
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct HeapSite {
    /// The bytes of its live blocks: an estimate from samples. In a list of growing sites: their growth.
    pub bytes: ByteSize,
    /// The number of its live blocks: an estimate from samples.
    pub blocks: u64,
    /// The share of `bytes` in the live heap, from 0 to 1.
    pub share: f64,
    /// The first function of the stack that is in the program's own crates. `None` until a report or
    /// [`Holders::read`] has resolved it, and without the feature `symbols`.
    pub function: Option<&'static str>,
    /// The file and line in that function, such as `src/main.rs:12`, if the binary has debug information.
    pub location: Option<&'static str>,
    site: Site,
}

impl<const N: usize> Holders<N> {
    pub(super) const EMPTY: Self = Self {
        heap: None,
        gauges: ByteSize::ZERO,
        sites: ByteSize::ZERO,
        unattributed: None,
        reserved: ByteSize::ZERO,
        rss: None,
        kept: None,
        rest: None,
        is_profiled: false,
        top_gauges: [None; N],
        top_accounts: [None; N],
        top_sites: [None; N],
    };

    /// Reads the holders of a live heap of `heap` bytes. Does not allocate, lock or block: for the allocator and for
    /// signal handlers.
    ///
    /// A signal handler has little stack. So it fills a value in place, and each list in a frame of its own.
    pub(super) fn fill(&mut self, heap: Option<ByteSize>) {
        let sites = self.read_sites();
        let gauges = self.read_names();
        let parts = split(heap.unwrap_or(ByteSize::MAX), gauges, sites);
        (self.heap, self.gauges) = (heap, parts.gauges);
        if heap.is_some() {
            (self.sites, self.unattributed) = (parts.sites, Some(parts.unattributed));
        }
    }

    /// Reads the largest sites. Returns the sum of all.
    #[inline(never)]
    fn read_sites(&mut self) -> ByteSize {
        let Some((sites, sum)) = profile::largest_sites::<N>() else { return ByteSize::ZERO };
        self.is_profiled = true;
        for (place, site) in self.top_sites.iter_mut().zip(sites) {
            *place = site.map(HeapSite::new);
        }
        sum
    }

    /// Reads the largest gauges and accounts. Returns the sum of all gauges.
    #[inline(never)]
    fn read_names(&mut self) -> ByteSize {
        (self.top_accounts, self.reserved) = board::largest_reserved();
        let gauges;
        (self.top_gauges, gauges) = board::largest_gauges();
        gauges
    }

    /// Cuts the list of gauges, so that its sum does not exceed the heap: no entry is larger than the heap less the
    /// entries before it.
    pub(super) fn cut_gauges(&mut self) {
        let mut left = self.heap.unwrap_or(ByteSize::MAX);
        for (_, bytes) in self.top_gauges.iter_mut().flatten() {
            *bytes = (*bytes).min(left);
            left = left.saturating_sub(*bytes);
        }
    }

    /// Returns the names and bytes of the largest gauges, the largest first.
    pub fn largest_gauges(&self) -> impl Iterator<Item = (&'static str, ByteSize)> {
        self.top_gauges.iter().flatten().map(|(name, bytes)| (name.name(), *bytes))
    }

    /// Returns the names and reserved bytes of the largest accounts, the largest first.
    ///
    /// # Examples
    ///
    /// ```
    /// for (name, reserved) in plimsoll::monitor::Holders::read().largest_accounts() {
    ///     println!("{name} {reserved}");
    /// }
    /// ```
    pub fn largest_accounts(&self) -> impl Iterator<Item = (&'static str, ByteSize)> {
        self.top_accounts.iter().flatten().map(|(name, bytes)| (name.name(), *bytes))
    }

    /// Returns the largest allocation sites, the largest first. Empty if no profile runs.
    pub fn largest_sites(&self) -> impl Iterator<Item = &HeapSite> {
        self.top_sites.iter().flatten()
    }
}

impl Holders {
    /// Reads the holders now, up to 16 of each kind: for a handler of HTTP, an
    /// [observer](crate::monitor::MonitorBuilder::on_report) or a health check.
    ///
    /// # Performance
    ///
    /// Some 20 microseconds. At most once a second it reads the figures of glibc's allocator, which takes up to some
    /// milliseconds: see [`os::malloc_stats`].
    ///
    /// With the feature `symbols` it resolves up to four sites that were not resolved before, each in a second or less.
    /// The debug information is read into memory for that, so it is done only if 32 MiB and twice the size of the
    /// executable are free below the topmost alarm threshold. Then free pages are [released](os::trim).
    pub fn read() -> Self {
        let heap = stats().ok().map(|stats| stats.live);
        let rss = os::rss().ok();
        let mut holders = Self { rss: rss.map(|rss| rss.total), ..Self::EMPTY };
        holders.fill(heap);
        resolve(&mut holders.top_sites, None);
        if let Some((heap, rss)) = heap.zip(rss) {
            holders.kept = kept::free_of_malloc(heap).map(|free| free.min(rss.anonymous.saturating_sub(heap)));
            holders.rest = holders.kept.map(|kept| ByteDelta::between(heap.saturating_add(kept), rss.total));
        }
        holders
    }
}

/// The parts of a heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    gauges: ByteSize,
    sites: ByteSize,
    pub(crate) unattributed: ByteSize,
}

/// Splits a heap into the parts that gauges explain, that sites explain beyond them, and that nothing explains.
fn split(heap: ByteSize, gauges: ByteSize, sites: ByteSize) -> Split {
    let gauges = gauges.min(heap);
    let sites = sites.min(heap).saturating_sub(gauges);
    Split { gauges, sites, unattributed: heap.saturating_sub(gauges).saturating_sub(sites) }
}

/// Splits a live heap of `heap` bytes with gauges of `gauges` bytes in all. Does not allocate.
pub(crate) fn split_of_heap(heap: ByteSize, gauges: ByteSize) -> Split {
    split(heap, gauges, profile::attributed())
}

/// Returns the sites that grew most since the last [`record_baseline`]. Resolves names that
/// are not known yet if the rss stays below `top`.
pub(crate) fn growing_sites<const N: usize>(top: Option<ByteSize>) -> [Option<HeapSite>; N] {
    let mut sites = profile::largest_growth::<N>().map(|site| site.map(HeapSite::new));
    resolve(&mut sites, top);
    sites
}

#[cfg(not(feature = "symbols"))]
const fn resolve(_sites: &mut [Option<HeapSite>], _top: Option<ByteSize>) {}

impl HeapSite {
    /// Addresses of a stack without a known function, as text shows them.
    pub(crate) const PRINTED_FRAMES: usize = 8;

    /// Returns a site of which the name is known, and one of which it is not.
    #[cfg(all(test, feature = "profile"))]
    pub(crate) fn for_test() -> [Option<Self>; 3] {
        let profile =
            profile::HeapProfile::for_test(&[(&[0x7fff_1234_5678; 3], 6000, 3), (&[0x7fff_1234_0000; 2], 2500, 2)]);
        let mut sites = profile.sites.into_iter().map(Self::new);
        let named =
            sites.next().map(|site| Self { function: Some("app::leak"), location: Some("src/main.rs:12"), ..site });
        [named, sites.next(), None]
    }

    pub(super) fn new(site: Site) -> Self {
        let Site { bytes, blocks, share, .. } = site;
        let mut heap_site = Self { bytes, blocks, share, function: None, location: None, site };
        heap_site.find_name();
        heap_site
    }

    /// Sets the name if it was resolved before.
    pub(super) fn find_name(&mut self) {
        if let Some(name) = site_names::find(self.key()) {
            self.function = name.function.as_deref();
            self.location = name.location.as_deref();
        }
    }

    /// Returns the addresses of the calls on the stack, innermost first, as `addr2line` takes them: relative to the
    /// executable if they are in it, else absolute.
    ///
    /// Each is the return address less one, which is inside of the call.
    pub fn addresses(&self) -> impl Iterator<Item = usize> {
        self.site.addresses().map(|address| in_executable(address).saturating_sub(1))
    }

    /// Returns a number for the stack, under which its function is found.
    pub(super) fn key(&self) -> u64 {
        // FNV-1a over words. The low bits of a product depend on low bits only, so the rotation.
        self.site.addresses().fold(0xcbf2_9ce4_8422_2325, |hash: u64, address| {
            (hash ^ address as u64).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
        })
    }

    /// Returns the first function of the stack in the program's own crates. Allocates, and is slow.
    #[cfg(feature = "symbols")]
    pub(super) fn own_function(&self) -> Option<profile::Symbol> {
        self.site.own_function()
    }
}

impl fmt::Display for HeapSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.function, self.location) {
            (Some(function), Some(location)) => write!(f, "{function} ({location})"),
            (Some(function), None) => f.write_str(function),
            (None, _) if self.addresses().next().is_none() => f.write_str("unknown"),
            // The innermost calls are in the standard library, so sites differ in later ones.
            (None, _) => self
                .addresses()
                .take(Self::PRINTED_FRAMES)
                .enumerate()
                .try_for_each(|(index, address)| write!(f, "{}{address:#x}", if index == 0 { "" } else { " " })),
        }
    }
}

/// Returns the address in the numbering of the executable's file, or the same address if it is not in the executable.
#[cfg(feature = "profile")]
fn in_executable(address: usize) -> usize {
    let os::Executable { bias, start, end, .. } = os::executable();
    if (start..end).contains(&address) { address.saturating_sub(bias) } else { address }
}

#[cfg(not(feature = "profile"))]
const fn in_executable(address: usize) -> usize {
    address
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size() -> impl Strategy<Value = ByteSize> {
        prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0..1_u64 << 40].prop_map(ByteSize::bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2048) })]

        #[test]
        fn split_of_any_sizes_adds_up_to_the_heap(heap in size(), gauges in size(), sites in size()) {
            let parts = split(heap, gauges, sites);
            let [whole, first, second, third] =
                [heap, parts.gauges, parts.sites, parts.unattributed].map(|size| u128::from(size.as_u64()));
            prop_assert_eq!(whole, first + second + third);
            prop_assert!(parts.gauges <= gauges && parts.sites <= sites);
            let explained = gauges.max(sites).min(heap);
            prop_assert_eq!(parts.unattributed, heap.saturating_sub(explained));
        }
    }

    #[test]
    fn holders_without_an_allocator_have_no_heap() {
        let mut holders = Holders::<4>::EMPTY;
        holders.fill(None);
        assert_eq!((holders.heap, holders.unattributed, holders.sites), (None, None, ByteSize::ZERO));
        assert_eq!(holders.largest_sites().count(), 0);
    }
}
