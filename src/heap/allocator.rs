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

use super::thread::LEDGER;
use super::{lines, refusal, thread};

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
/// and mapped files. The kernel's figure for all of these is [`os::rss`](crate::os::rss).
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

// SAFETY: every block comes from `inner` by the same call, with the same layout, and goes back to it; the books change
// no pointer and no layout, and nothing here unwinds or uses the global allocator. (glibc registers the first booking of
// a thread, for its exit, with a `calloc` of its own.)
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
            return unsafe { self.dealloc_cold(block, layout) };
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
        if is_special::<A>(layout) || !thread::slot().take(growth) {
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
        book_around(layout.size(), layout.size(), || {
            // SAFETY: the caller's contract for `alloc`, passed on.
            unsafe { self.inner.alloc(layout) }
        })
    }

    /// # Safety
    ///
    /// As for [`GlobalAlloc::alloc_zeroed`].
    #[cold]
    #[inline(never)]
    unsafe fn alloc_zeroed_cold(&self, layout: Layout) -> *mut u8 {
        book_around(layout.size(), layout.size(), || {
            // SAFETY: the caller's contract for `alloc_zeroed`, passed on.
            unsafe { self.inner.alloc_zeroed(layout) }
        })
    }

    /// # Safety
    ///
    /// As for [`GlobalAlloc::dealloc`].
    #[cold]
    #[inline(never)]
    unsafe fn dealloc_cold(&self, block: *mut u8, layout: Layout) {
        give(layout.size());
        // SAFETY: the caller's contract for `dealloc`: `block` came from `inner` with this layout.
        unsafe { self.inner.dealloc(block, layout) }
    }

    /// # Safety
    ///
    /// As for [`GlobalAlloc::realloc`], and `new_size` is at least the old one.
    #[cold]
    #[inline(never)]
    unsafe fn grow_cold(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        book_around(new_size - layout.size(), new_size, || {
            // SAFETY: the caller's contract for `realloc`, passed on.
            unsafe { self.inner.realloc(block, layout, new_size) }
        })
    }

    /// Books after the call, as a block that could not be made smaller is still as large as it was.
    ///
    /// # Safety
    ///
    /// As for [`GlobalAlloc::realloc`], and `new_size` is below the old one.
    #[inline(never)]
    unsafe fn shrink(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's contract for `realloc`, passed on.
        let moved = unsafe { self.inner.realloc(block, layout, new_size) };
        if moved.is_null() {
            refusal::note(new_size);
        } else {
            give(layout.size() - new_size);
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

/// Books freed bytes wherever the thread stands.
fn give(size: usize) {
    let slot = thread::bound();
    if !slot.is_some_and(|slot| slot.give(size)) {
        lines::fell(LEDGER.unbook(slot, size));
    }
}

/// Books `more` bytes around a request for `asked`: a refusal asks for nothing, a failure leaves the books as they were.
fn book_around(more: usize, asked: usize, request: impl FnOnce() -> *mut u8) -> *mut u8 {
    let slot = thread::bound();
    if slot.is_some_and(|slot| slot.take(more)) {
        let block = request();
        return if block.is_null() { untake(more, asked) } else { block };
    }
    let limit = LEDGER.limit();
    let block = if limit == usize::MAX {
        // With nothing to hold it back, it is booked when it is there: a hopeless request must not show in other
        // threads' figures meanwhile.
        lines::will_rise(more, 0);
        let block = request();
        if block.is_null() {
            lines::came_to_nothing();
        } else if let Ok(rise) = LEDGER.book(slot, more, limit) {
            lines::rose(rise.height);
            LEDGER.settle(rise);
        }
        block
    } else if let Ok(rise) = LEDGER.book(slot, more, limit) {
        lines::will_rise(more, more);
        let block = request();
        if block.is_null() {
            LEDGER.cancel(slot, more);
            lines::came_to_nothing();
        } else {
            lines::rose(rise.height);
            LEDGER.settle(rise);
        }
        block
    } else {
        ptr::null_mut()
    };
    if block.is_null() {
        refusal::note(asked);
    }
    block
}
