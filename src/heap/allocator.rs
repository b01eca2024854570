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

use super::ledger::Rise;
use super::slot::Slot;
use super::thread::LEDGER;
use super::{refusal, thread};

/// Set by the first allocation, which always takes the slow path.
pub(super) static INSTALLED: AtomicBool = AtomicBool::new(false);

/// The alignment that `malloc` gives unasked on 64-bit platforms, and at which `System` begins to take another way.
const MALLOC_ALIGN: usize = 16;

/// Books every allocation of the program and forwards it to an inner allocator: live and peak heap, and a limit.
///
/// Install it once, as the global allocator; read and steer it through the functions of [`heap`](crate::heap). There
/// is one set of books per process, so two instances would share them.
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
/// allocation. Once in 16 KiB or more of net growth or shrinking, one compare-and-swap on a shared word. 128 bytes for
/// each of up to 128 threads, static; threads beyond 128 at a time book each operation on the shared word.
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
// no pointer and no layout, and nothing here unwinds or allocates.
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
            return untake(layout.size());
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
            return untake(layout.size());
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
            return untake(growth);
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
        Booking::around(layout.size(), || {
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
        Booking::around(layout.size(), || {
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
        Booking::around(new_size - layout.size(), || {
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
fn untake(size: usize) -> *mut u8 {
    thread::slot().untake(size);
    refusal::note(size);
    ptr::null_mut()
}

/// Books freed bytes wherever the thread stands.
fn give(size: usize) {
    let slot = thread::bound();
    if !slot.is_some_and(|slot| slot.give(size)) {
        LEDGER.unbook(slot, size);
    }
}

/// A booking of the slow path, between the line and the memory.
struct Booking {
    slot: Option<&'static Slot>,
    size: usize,
    /// What the booking did to the line; `None` where credit was enough.
    rise: Option<Rise>,
}

impl Booking {
    /// Books `size` bytes around a request for them: a refusal asks for nothing, a failure leaves the books as they were.
    #[inline]
    fn around(size: usize, request: impl FnOnce() -> *mut u8) -> *mut u8 {
        INSTALLED.store(true, Relaxed);
        let Some(booking) = Self::new(size) else {
            refusal::note(size);
            return ptr::null_mut();
        };
        let block = request();
        if block.is_null() {
            booking.cancel();
            refusal::note(size);
        } else if let Some(rise) = booking.rise {
            LEDGER.settle(rise);
        }
        block
    }

    fn new(size: usize) -> Option<Self> {
        let slot = thread::bound();
        let rise = match slot {
            Some(slot) if slot.take(size) => None,
            _ => Some(LEDGER.book(slot, size).ok()?),
        };
        Some(Self { slot, size, rise })
    }

    fn cancel(&self) {
        match (self.slot, self.rise) {
            (Some(slot), None) => slot.untake(self.size),
            (slot, _) => LEDGER.cancel(slot, self.size),
        }
    }
}
