//! The global allocator: books every allocation, then lets an inner allocator do it.
//!
//! Each method is a fast path and a cold twin. The fast path books on the thread's slot and calls the inner allocator;
//! where the slot refuses, it *tail-calls* the cold twin, which does the whole operation from the start. So the fast
//! path keeps no frame for cases it does not handle, and `dealloc`, which books first, ends in a jump to the inner one.
//!
//! Only what succeeded counts as live: an inner allocator that answers null has the booking taken back.

#![expect(unsafe_code, reason = "implementing `GlobalAlloc` is unsafe; every method only books and forwards")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::any::TypeId;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::os;

#[cfg(not(feature = "profile"))]
use super::no_profile as profile;
#[cfg(feature = "profile")]
use super::profile::hooks as profile;
use super::thread::LEDGER;
use super::{alarm, refusal, thread};

/// The alignment that `malloc` gives unasked on 64-bit platforms, and at which `System` begins to take another way.
const MALLOC_ALIGN: usize = 16;

/// Books every allocation of the program and forwards it to an inner allocator: live and peak heap, and a limit.
///
/// Install it once, as the global allocator; read and steer it through the functions of [`heap`](crate::heap). There
/// is one set of books for each copy of this crate in the process, so two instances share them.
///
/// ```
/// use plimsoll::TrackingAllocator;
///
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
///
/// fn main() -> Result<(), plimsoll::heap::NotInstalled> {
///     let before = plimsoll::heap::stats()?.live;
///     let kept = vec![0u8; 1000];
///     assert_eq!(plimsoll::heap::stats()?.live.as_u64(), before.as_u64() + 1000);
///     drop(kept);
///     Ok(())
/// }
/// ```
///
/// # What is counted
///
/// The sizes asked for, of everything that comes through the global allocator. *Not* counted: what the inner allocator
/// rounds up, keeps free or needs for itself; memory that C libraries take from `malloc`; thread stacks, the binary
/// and mapped files. The kernel's figure for all of these is [`os::rss`].
///
/// # Cost
///
/// A subtraction, a compare and two stores in memory of the calling thread; no lock, no header before an object, no
/// allocation. Once in 16 KiB or more of net growth or shrinking, and for every block over 32 KiB, a compare-and-swap
/// and some loads of shared words, about 10 ns. 128 bytes for each of up to 128 threads, static; threads beyond 128
/// alive at a time book each operation on the shared words.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrackingAllocator<A = System> {
    inner: A,
}

impl TrackingAllocator {
    /// Tracks the system's allocator.
    pub const fn new() -> Self {
        Self::over(System)
    }
}

impl<A> TrackingAllocator<A> {
    /// Tracks any other allocator, for instance mimalloc.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::TrackingAllocator;
    ///
    /// #[global_allocator]
    /// static GLOBAL: TrackingAllocator<mimalloc::MiMalloc> = TrackingAllocator::over(mimalloc::MiMalloc);
    /// # fn main() {}
    /// ```
    pub const fn over(inner: A) -> Self {
        Self { inner }
    }
}

/// Whether `System` would leave `malloc` for its aligned sibling. Sent to the cold twin up front, so that `System`'s
/// own test folds away; for other allocators this test does.
#[inline(always)]
#[expect(clippy::inline_always, reason = "folds to a constant or two compares")]
fn is_special<A: 'static>(layout: Layout) -> bool {
    TypeId::of::<A>() == TypeId::of::<System>() && (layout.align() > MALLOC_ALIGN || layout.align() > layout.size())
}

/// The inner allocator is not `System`.
static IS_FOREIGN: AtomicBool = AtomicBool::new(false);

/// Notes the inner allocator. The first allocation of a program is a slow one, which calls it.
#[inline]
fn note_inner<A: 'static>() {
    if TypeId::of::<A>() != TypeId::of::<System>() && !IS_FOREIGN.load(Relaxed) {
        IS_FOREIGN.store(true, Relaxed);
    }
}

/// Returns `true` if [`os::trim`] is known to release the free pages of the inner allocator: of `System` on glibc, and of one
/// with a trim hook.
pub(crate) fn releases_pages() -> bool {
    os::has_trim_hook() || (os::can_trim() && !IS_FOREIGN.load(Relaxed))
}

/// Returns `true` if a zeroed block comes from the `calloc` of the C library. It writes zeros to pages that it kept,
/// which are resident unless a trim has released them, and none to pages that are new. Only the inner allocator knows
/// which pages it touches; of others than `System` all are assumed.
fn is_calloc<A: 'static>(layout: Layout) -> bool {
    TypeId::of::<A>() == TypeId::of::<System>() && layout.align() <= MALLOC_ALIGN
}

/// Returns `true` if `realloc` moves the pages of such a block, and copies none. glibc and musl map every block over 32
/// MiB for itself, and `mremap` it. See `DEFAULT_MMAP_THRESHOLD_MAX` in
/// [mallopt(3)](https://man7.org/linux/man-pages/man3/mallopt.3.html).
fn is_remapped<A: 'static>(layout: Layout) -> bool {
    const ALWAYS_MAPPED: usize = 33 << 20;

    cfg!(target_os = "linux")
        && TypeId::of::<A>() == TypeId::of::<System>()
        && layout.align() <= MALLOC_ALIGN
        && layout.size() >= ALWAYS_MAPPED
}

// SAFETY: every block comes from `inner` by the same call, with the same layout, and goes back to it; the counters change
// no pointer and no layout, and nothing here unwinds or uses the global allocator. (glibc registers the exit of each
// thread that allocates, and once the handler of forks, with its own `malloc`.)
unsafe impl<A: GlobalAlloc + 'static> GlobalAlloc for TrackingAllocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_special::<A>(layout) || !thread::slot().take(layout.size()) {
            // SAFETY: the caller's contract for `alloc`, passed on.
            return unsafe { self.alloc_cold(layout) };
        }
        // SAFETY: the caller's contract for `alloc`, passed on.
        let block = unsafe { self.inner.alloc(layout) };
        if block.is_null() {
            return untake(layout.size(), layout.size());
        }
        block
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_special::<A>(layout) || !thread::slot().take(layout.size()) {
            // SAFETY: the caller's contract for `alloc_zeroed`, passed on.
            return unsafe { self.alloc_zeroed_cold(layout) };
        }
        // SAFETY: the caller's contract for `alloc_zeroed`, passed on.
        let block = unsafe { self.inner.alloc_zeroed(layout) };
        if block.is_null() {
            return untake(layout.size(), layout.size());
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !thread::slot().give(layout.size()) {
            // SAFETY: the caller's contract for `dealloc`, passed on.
            return unsafe { Self::dealloc_looked_at(block, layout, self) };
        }
        // SAFETY: the caller's contract for `dealloc`: `block` came from `inner` with this layout.
        unsafe { self.inner.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(growth) = new_size.checked_sub(layout.size()) else {
            // SAFETY: the caller's contract for `realloc`, passed on.
            return unsafe { self.shrink(block, layout, new_size) };
        };
        // A large block that moves is copied, so the alarm must know of it, however little it grows.
        let is_looked_at = layout.size() >= alarm::LARGE || profile::is_on(thread::slot());
        if is_special::<A>(layout) || is_looked_at || !thread::slot().take(growth) {
            // SAFETY: the caller's contract for `realloc`, passed on.
            return unsafe { self.grow_cold(block, layout, new_size) };
        }
        // SAFETY: the caller's contract for `realloc`, passed on.
        let moved = unsafe { self.inner.realloc(block, layout, new_size) };
        if moved.is_null() {
            return untake(growth, new_size);
        }
        moved
    }
}

impl<A: GlobalAlloc + 'static> TrackingAllocator<A> {
    /// # Safety
    ///
    /// As for [`GlobalAlloc::alloc`].
    #[cold]
    #[inline(never)]
    unsafe fn alloc_cold(&self, layout: Layout) -> *mut u8 {
        let here = 0_u8;
        note_inner::<A>();
        let request = Request { growth: layout.size(), size: layout.size(), touched: 0 };
        charge_around(request, || {
            // SAFETY: the caller's contract for `alloc`, passed on.
            let block = unsafe { self.inner.alloc(layout) };
            profile::after_alloc(block, layout.size(), &raw const here);
            block
        })
    }

    /// # Safety
    ///
    /// As for [`GlobalAlloc::alloc_zeroed`].
    #[cold]
    #[inline(never)]
    unsafe fn alloc_zeroed_cold(&self, layout: Layout) -> *mut u8 {
        let here = 0_u8;
        note_inner::<A>();
        let touched = if is_calloc::<A>(layout) { layout.size().min(os::trimmed()) } else { layout.size() };
        let request = Request { growth: layout.size(), size: layout.size(), touched };
        charge_around(request, || {
            // SAFETY: the caller's contract for `alloc_zeroed`, passed on.
            let block = unsafe { self.inner.alloc_zeroed(layout) };
            profile::after_alloc(block, layout.size(), &raw const here);
            block
        })
    }

    /// Frees a block that may be a sample of the profile: while the profile is on, every free comes here.
    ///
    /// The allocator is the last argument, so that the others stay in the registers in which `dealloc` got them.
    ///
    /// # Safety
    ///
    /// As for [`GlobalAlloc::dealloc`].
    #[cfg_attr(feature = "profile", inline(never))]
    #[cfg_attr(
        not(feature = "profile"),
        expect(clippy::inline_always, reason = "folds to the slow path"),
        inline(always)
    )]
    unsafe fn dealloc_looked_at(block: *mut u8, layout: Layout, allocator: &Self) {
        if profile::may_be_sample(block) || !thread::slot().give_slowly(layout.size()) {
            // SAFETY: the caller's contract for `dealloc`, passed on.
            return unsafe { Self::dealloc_cold(block, layout, allocator) };
        }
        // SAFETY: the caller's contract for `dealloc`: `block` came from `inner` with this layout.
        unsafe { allocator.inner.dealloc(block, layout) }
    }

    /// # Safety
    ///
    /// As for [`GlobalAlloc::dealloc`].
    #[cold]
    #[inline(never)]
    unsafe fn dealloc_cold(block: *mut u8, layout: Layout, allocator: &Self) {
        // Before the block is free, and another thread can have one at the same address.
        profile::before_free(block);
        alarm::before_dealloc(block, layout.size());
        let total = give(layout.size());
        // SAFETY: the caller's contract for `dealloc`: `block` came from `inner` with this layout.
        unsafe { allocator.inner.dealloc(block, layout) };
        // The pages of a large block are gone from the rss now.
        if let Some(total) = total {
            alarm::after_dealloc(total);
        }
    }

    /// # Safety
    ///
    /// As for [`GlobalAlloc::realloc`], and `new_size` is at least the old one.
    #[cold]
    #[inline(never)]
    unsafe fn grow_cold(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let here = 0_u8;
        let sample = profile::before_free(block);
        alarm::before_dealloc(block, layout.size());
        let touched = if is_remapped::<A>(layout) { 0 } else { layout.size() };
        let request = Request { growth: new_size - layout.size(), size: new_size, touched };
        let moved = charge_around(request, || {
            // SAFETY: the caller's contract for `realloc`, passed on.
            let moved = unsafe { self.inner.realloc(block, layout, new_size) };
            profile::after_alloc(moved, new_size, &raw const here);
            moved
        });
        if moved.is_null() {
            alarm::still_there(block, layout.size());
            profile::still_there(block, sample);
        }
        moved
    }

    /// Books after the call, as a block that could not be made smaller is still as large as it was.
    ///
    /// # Safety
    ///
    /// As for [`GlobalAlloc::realloc`], and `new_size` is below the old one.
    #[inline(never)]
    unsafe fn shrink(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let here = 0_u8;
        let sample = profile::before_free(block);
        alarm::before_dealloc(block, layout.size());
        // SAFETY: the caller's contract for `realloc`, passed on.
        let moved = unsafe { self.inner.realloc(block, layout, new_size) };
        if moved.is_null() {
            refusal::note(new_size);
            alarm::still_there(block, layout.size());
            profile::still_there(block, sample);
            return moved;
        }
        alarm::still_there(moved, new_size);
        profile::after_alloc(moved, new_size, &raw const here);
        if let Some(total) = give(layout.size() - new_size) {
            alarm::after_dealloc(total);
        }
        moved
    }
}

/// Takes a fast booking back after the inner allocator had no memory, and passes its null on.
#[cold]
#[inline(never)]
fn untake(booked: usize, asked: usize) -> *mut u8 {
    thread::slot().untake(booked);
    // The low mark keeps what never came, so this thread alone no longer knows the exact peak.
    LEDGER.crowd();
    refusal::note(asked);
    ptr::null_mut()
}

/// Charges freed bytes back, with or without a thread counter. Returns the total if it has fallen.
fn give(size: usize) -> Option<usize> {
    let slot = thread::bound();
    (!slot.is_some_and(|slot| slot.give_slowly(size))).then(|| LEDGER.unbook(slot, size))
}

/// A request to the inner allocator, in bytes.
#[derive(Clone, Copy)]
struct Request {
    /// The bytes that it adds to the heap.
    growth: usize,
    /// The size of the block.
    size: usize,
    /// The bytes that the inner allocator may touch before it returns.
    touched: usize,
}

/// Charges a request to the heap and makes it. Over the limit nothing is requested; a failure leaves no trace.
fn charge_around(request: Request, allocate: impl FnOnce() -> *mut u8) -> *mut u8 {
    let block = charge(request, allocate);
    profile::look_at_peak();
    block
}

fn charge(request: Request, allocate: impl FnOnce() -> *mut u8) -> *mut u8 {
    let Request { growth, size, touched } = request;
    let slot = thread::bound();
    if slot.is_some_and(|slot| slot.take_slowly(growth)) {
        let foreseen = alarm::before_alloc(touched, growth);
        let block = allocate();
        if block.is_null() {
            alarm::after_failed_alloc(foreseen);
            return untake(growth, size);
        }
        // The total has not risen, so the check is due only if the request was foreseen to cross.
        alarm::after_alloc(foreseen, 0, block, size);
        return block;
    }
    let limit = LEDGER.limit();
    let block = if limit == usize::MAX {
        // Without a limit the charge comes after the request: one that cannot be met must not show in the figures of
        // other threads while it is made.
        let foreseen = alarm::before_alloc(touched, growth);
        let block = allocate();
        if block.is_null() {
            alarm::after_failed_alloc(foreseen);
        } else if let Ok(rise) = LEDGER.book(slot, growth, limit) {
            alarm::after_alloc(foreseen, rise.height, block, size);
            LEDGER.settle(rise);
        }
        block
    } else if let Ok(rise) = LEDGER.book(slot, growth, limit) {
        let foreseen = alarm::before_alloc(touched, 0);
        let block = allocate();
        if block.is_null() {
            LEDGER.cancel(slot, growth);
            alarm::after_failed_alloc(foreseen);
        } else {
            alarm::after_alloc(foreseen, rise.height, block, size);
            LEDGER.settle(rise);
        }
        block
    } else {
        ptr::null_mut()
    };
    if block.is_null() {
        refusal::note(size);
    }
    block
}
