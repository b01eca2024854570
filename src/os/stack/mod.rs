//! Call stacks: the code that is about to allocate.
//!
//! A stack is walked in one of two ways. [`probe_stack_walk`] finds the one that works in this program.
//!
//! - *Frame pointers.* Each frame contains the address of its caller's frame and the return address, so a walk follows a
//!   linked list. The prebuilt standard library has frame pointers. A program has them on aarch64 by default, and on
//!   x86-64 if it is built with `RUSTFLAGS="-C force-frame-pointers=yes"`. Each address is checked before it is read:
//!   see [`frame_pointers`]. C libraries are mostly built without: a walk ends at the first frame of such a library.
//! - *Unwind tables.* The unwinder that panics use reads the tables of `.eh_frame`. It needs no flag and takes many times
//!   as long. It is used only if it takes no lock: see [`unwind_tables`].
//!
//! If a program has neither, its stacks are not walked. It must be built with frame pointers.
//!
//! A walk runs inside of the global allocator. It does not allocate, neither from Rust nor from C. It takes no lock, does
//! not panic and preserves `errno`.

#[cfg(all(
    any(target_os = "linux", target_os = "macos"),
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(miri)
))]
mod frame_pointers;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
mod maps;
#[cfg(test)]
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
mod tests;
#[cfg(all(
    any(
        all(target_os = "linux", target_env = "gnu", not(target_feature = "crt-static")),
        all(target_os = "linux", target_env = "musl", target_feature = "crt-static"),
    ),
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(miri)
))]
mod unwind_tables;

use std::cell::Cell;
use std::fmt;
use std::hint::black_box;
use std::ptr;

use super::errno::preserve_errno;

/// The way in which stacks are walked.
///
/// # Examples
///
/// ```
/// use plimsoll::heap::profile::{HeapProfile, StackSource};
///
/// fn has_stacks(profile: &HeapProfile) -> bool {
///     profile.stacks != StackSource::Unavailable
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StackSource {
    /// By frame pointers: about 0.1 us for a stack of 15 frames.
    FramePointers,
    /// By the unwind tables that panics use: about 3 us for a stack of 15 frames.
    UnwindTables,
    /// Stacks are not walked: the program has no frame pointers, and the unwinder of this platform takes locks.
    Unavailable,
}

impl fmt::Display for StackSource {
    /// Writes "frame pointers", "unwind tables" or "unavailable".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::FramePointers => "frame pointers",
            Self::UnwindTables => "unwind tables",
            Self::Unavailable => "unavailable",
        })
    }
}

thread_local! {
    /// `true` while this thread is inside of [`walk_stack`].
    static WALKING: Cell<bool> = const { Cell::new(false) };
}

/// Finds the way of walking stacks that works in this program.
///
/// A chain of three known functions is walked by frame pointers, and if that fails by the unwinder. A way works if the
/// return addresses are in those functions, in their order. This first walk also has the dynamic loader bind the
/// functions that the unwinder imports. The loader may take a lock for that, and later walks need no binding.
///
/// Call it once, before the first [`walk_stack`] and outside of the allocator.
pub(crate) fn probe_stack_walk() -> StackSource {
    if chain_is_found(StackSource::FramePointers) {
        return StackSource::FramePointers;
    }
    if unwind_tables::is_lock_free() && chain_is_found(StackSource::UnwindTables) {
        return StackSource::UnwindTables;
    }
    StackSource::Unavailable
}

/// Writes the return addresses of callers into `frames`, innermost first, and returns their number.
///
/// `above` is the address of a local variable in the allocator's entry function. The frame that contains it is left out,
/// and so are the frames that this function has called. The first address is in its caller. The walk ends after the
/// outermost frame, at the first frame that cannot be read, or when `frames` is full.
///
/// A walk inside of a walk finds nothing. It happens if a signal handler allocates. If the handler never returns, as by
/// `longjmp`, later walks of that thread find nothing either.
///
/// # Performance
///
/// A stack of 15 frames takes about 0.1 us by frame pointers and about 3 us by unwind tables. See [`frame_pointers`] for
/// the first walk of a thread and for stacks that are not the thread's own.
///
/// Takes at most 3 KiB of stack by frame pointers. By unwind tables it is 4 KiB on x86-64, and 7 KiB on aarch64, which has
/// more registers.
pub(crate) fn walk_stack(source: StackSource, above: *const u8, frames: &mut [usize]) -> usize {
    if source == StackSource::Unavailable || WALKING.replace(true) {
        return 0;
    }
    let count = preserve_errno(|| match source {
        StackSource::FramePointers => frame_pointers::walk(above.addr(), frames),
        StackSource::UnwindTables => unwind_tables::walk(above.addr(), frames),
        StackSource::Unavailable => 0,
    });
    WALKING.set(false);
    count
}

/// The walk by frame pointers on other platforms, which finds nothing.
#[cfg(not(all(
    any(target_os = "linux", target_os = "macos"),
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(miri)
)))]
mod frame_pointers {
    pub(super) const fn walk(_above: usize, _frames: &mut [usize]) -> usize {
        0
    }
}

/// The walk by unwind tables on platforms with an unwinder that takes locks or is not known.
#[cfg(not(all(
    any(
        all(target_os = "linux", target_env = "gnu", not(target_feature = "crt-static")),
        all(target_os = "linux", target_env = "musl", target_feature = "crt-static"),
    ),
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(miri)
)))]
mod unwind_tables {
    pub(super) const fn is_lock_free() -> bool {
        false
    }

    pub(super) const fn walk(_above: usize, _frames: &mut [usize]) -> usize {
        0
    }
}

/// The most bytes of code of a function of the probe.
const PROBE_BYTES: usize = 1024;

/// Returns `true` if a walk by `source` finds the three functions of the probe.
fn chain_is_found(source: StackSource) -> bool {
    let mut frames = [0; 3];
    if probe_first(source, &mut frames) != frames.len() {
        return false;
    }
    let starts =
        [probe_third as *const () as usize, probe_second as *const () as usize, probe_first as *const () as usize];
    // A function reaches to the start of the next one, and none of them is long. Two of them can be the nearest to an
    // address only if the linker has merged them.
    frames.iter().zip(starts).all(|(&address, start)| {
        let nearest = starts.into_iter().filter(|&start| start < address).max();
        nearest == Some(start) && address - start < PROBE_BYTES
    })
}

/// Begins the chain of the probe. Each of its functions uses the result of the next one, so that no call becomes a jump,
/// and each in its own way, so that the linker does not merge them.
#[inline(never)]
fn probe_first(source: StackSource, frames: &mut [usize; 3]) -> usize {
    black_box(probe_second(source, frames)) ^ black_box(0)
}

#[inline(never)]
fn probe_second(source: StackSource, frames: &mut [usize; 3]) -> usize {
    black_box(probe_third(source, frames)) | black_box(0)
}

#[inline(never)]
fn probe_third(source: StackSource, frames: &mut [usize; 3]) -> usize {
    black_box(probe_entry(source, frames)) & black_box(usize::MAX)
}

/// Walks the chain, in the part of the allocator's entry function.
#[inline(never)]
fn probe_entry(source: StackSource, frames: &mut [usize; 3]) -> usize {
    let local = black_box(0_u8);
    let count = walk_stack(source, ptr::from_ref(black_box(&local)), frames);
    black_box(count)
}
