//! The exact bytes of each allocation site, kept by an allocator below the tracking one.
//!
//! A marked site is one of forty functions. The model puts a header before each block with the site that allocated it
//! last. The tracking allocator and the profile do not see the header.

mod driver;
mod sites;
mod styles;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use crate::Start;

/// The number of marked sites.
pub(crate) const SITES: usize = 40;

/// The index of a block that no marked site allocated.
const UNMARKED: usize = SITES;

static BYTES: [AtomicI64; SITES + 1] = [const { AtomicI64::new(0) }; SITES + 1];
static LIVE: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static SITE: Cell<usize> = const { Cell::new(UNMARKED) };
}

/// Marks the allocations of this thread until it is dropped.
pub(crate) struct Mark(usize);

impl Mark {
    pub(crate) fn new(site: usize) -> Self {
        Self(SITE.replace(site))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        SITE.set(self.0);
    }
}

/// Returns the live bytes of each site.
pub(crate) fn bytes_by_site() -> Vec<u64> {
    BYTES.iter().take(SITES).map(|bytes| bytes.load(SeqCst).max(0) as u64).collect()
}

/// Returns the live bytes of the process, and their peak.
pub(crate) fn live_and_peak() -> (u64, u64) {
    (LIVE.load(SeqCst).max(0) as u64, PEAK.load(SeqCst).max(0) as u64)
}

/// The system's allocator with an exact account of each site.
#[derive(Debug, Default)]
pub struct Model(());

impl Model {
    /// Creates the allocator.
    pub const fn new() -> Self {
        Self(())
    }
}

/// Returns the bytes before a block: a multiple of its alignment.
fn header(layout: Layout) -> usize {
    layout.align().max(16)
}

fn with_header(layout: Layout) -> Option<Layout> {
    Layout::from_size_align(layout.size().checked_add(header(layout))?, header(layout)).ok()
}

/// Stores the site of a block and returns the block.
///
/// # Safety
///
/// `start` is null, or was allocated for `layout` with its header.
unsafe fn record(start: *mut u8, layout: Layout) -> *mut u8 {
    if start.is_null() {
        return start;
    }
    let site = SITE.get();
    change(site, layout.size() as i64);
    // SAFETY: the block begins after the header, inside the allocation.
    let block = unsafe { start.add(header(layout)) };
    // SAFETY: the eight bytes before the block belong to the header and are aligned.
    unsafe { block.cast::<u64>().sub(1).write(site as u64) }
    block
}

/// Subtracts a block and returns the start of its header.
///
/// # Safety
///
/// `block` came from [`record`] with this layout.
unsafe fn forget(block: *mut u8, layout: Layout) -> *mut u8 {
    // SAFETY: the header has the site.
    let site = unsafe { block.cast::<u64>().sub(1).read() };
    change(site as usize, -(layout.size() as i64));
    // SAFETY: the header is before the block.
    unsafe { block.sub(header(layout)) }
}

fn change(site: usize, bytes: i64) {
    if let Some(sum) = BYTES.get(site) {
        sum.fetch_add(bytes, SeqCst);
    }
    let live = LIVE.fetch_add(bytes, SeqCst) + bytes;
    if bytes > 0 {
        PEAK.fetch_max(live, SeqCst);
    }
}

// SAFETY: every block comes from `System` with its header and returns to it with the same layout. Nothing here unwinds
// or allocates.
unsafe impl GlobalAlloc for Model {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(whole) = with_header(layout) else { return std::ptr::null_mut() };
        // SAFETY: the size is not zero.
        let start = unsafe { System.alloc(whole) };
        // SAFETY: `start` was allocated for this layout.
        unsafe { record(start, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(whole) = with_header(layout) else { return std::ptr::null_mut() };
        // SAFETY: the size is not zero.
        let start = unsafe { System.alloc_zeroed(whole) };
        // SAFETY: `start` was allocated for this layout.
        unsafe { record(start, layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract: the block came from this allocator with this layout.
        let start = unsafe { forget(block, layout) };
        let Some(whole) = with_header(layout) else { return };
        // SAFETY: the allocation was made with this layout.
        unsafe { System.dealloc(start, whole) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let new = Layout::from_size_align(new_size, layout.align());
        let (Ok(new), Some(whole)) = (new, with_header(layout)) else { return std::ptr::null_mut() };
        let Some(new_whole) = with_header(new) else { return std::ptr::null_mut() };
        // SAFETY: the header is before the block.
        let start = unsafe { block.sub(header(layout)) };
        // SAFETY: the allocation was made with this layout, and the new size is not zero.
        let moved = unsafe { System.realloc(start, whole, new_whole.size()) };
        if moved.is_null() {
            return moved;
        }
        // SAFETY: the header moved with the block, and its length depends on the alignment only.
        unsafe { forget(moved.add(header(layout)), layout) };
        // SAFETY: the allocation is as large as the new layout with its header.
        unsafe { record(moved, new) }
    }
}

/// Runs the worker `profile_model`: prints the share of the true peak that the profile explains.
pub fn worker(start: Start) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = match arguments.as_slice() {
        [threads, seed, interval] => match (threads.parse(), seed.parse()) {
            (Ok(threads), Ok(seed)) => crate::started(start, interval).and_then(|()| driver::measure(threads, seed)),
            _ => Err("threads and seed are numbers".to_owned()),
        },
        _ => Err("usage: profile_model <threads> <seed> <interval>".to_owned()),
    };
    crate::printed(answer)
}
