//! The functions of allocation sites, resolved only if there is memory for it.
//!
//! The symbol table and the debug information of the executable are read into memory for that. Measured, as the peak of
//! the rss over the rss before: 36 MiB for a file of 2.4 MiB without debug information, and 51 MiB for one of 10 MiB
//! with line tables. A process that leaks has no such memory just before it is killed, and its sites keep their
//! addresses.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};

use crate::os;
use crate::size::ByteSize;

use super::holders::HeapSite;
use super::thread::LEDGER;
use super::{alarm, site_names, size};

/// The memory that a resolution takes, without the part that grows with the executable.
const BASE: ByteSize = ByteSize::mib(32);

/// The memory that a resolution takes for each byte of the executable.
const FACTOR: u64 = 2;

/// The size that is assumed if that of the executable is not known.
const UNKNOWN: ByteSize = ByteSize::mib(16);

/// Sites that are resolved in one call. Each takes as long as the first.
const AT_ONCE: usize = 4;

static IS_RUNNING: AtomicBool = AtomicBool::new(false);

/// Resolves sites that have no name yet, and gives each known name to its site. `top` is the size that the rss stays
/// below; `None`: the topmost alarm threshold.
pub(super) fn resolve(sites: &mut [Option<HeapSite>], top: Option<ByteSize>) {
    let is_new = |site: &&HeapSite| site_names::find(site.key()).is_none();
    if sites.iter().flatten().any(|site| is_new(&site)) && !IS_RUNNING.swap(true, AcqRel) {
        if room(top) >= needed() {
            for site in sites.iter().flatten().filter(is_new).take(AT_ONCE) {
                record(site);
            }
            // Most allocators keep the pages. If they cannot be released, nothing is lost.
            let _not_available = os::trim();
        }
        IS_RUNNING.store(false, Release);
    }
    sites.iter_mut().flatten().for_each(HeapSite::find_name);
}

fn record(site: &HeapSite) {
    let symbol = site.own_function();
    let function = symbol.as_ref().map(|symbol| symbol.function.as_str());
    let file = symbol.as_ref().and_then(|symbol| symbol.file.as_deref());
    let line = symbol.as_ref().and_then(|symbol| symbol.line);
    // A full table leaves the site its addresses.
    let _is_full = site_names::record(site.key(), function, file, line).is_none();
}

/// Returns the memory that a resolution can take: without an alarm, and without a refusal by the limit of the heap.
fn room(top: Option<ByteSize>) -> ByteSize {
    let live = LEDGER.live();
    let top = top.unwrap_or_else(|| size(alarm::highest_threshold()));
    let rss = os::rss().map_or_else(|_| size(live), |rss| rss.total);
    top.saturating_sub(rss).min(size(LEDGER.limit().saturating_sub(live)))
}

fn needed() -> ByteSize {
    static EXECUTABLE: OnceLock<ByteSize> = OnceLock::new();
    let file = || std::fs::metadata(std::env::current_exe()?);
    let executable = EXECUTABLE.get_or_init(|| file().map_or(UNKNOWN, |file| ByteSize::bytes(file.len())));
    BASE.saturating_add(executable.saturating_mul(FACTOR))
}
