//! Walks of stacks by the unwinder that panics use.
//!
//! `_Unwind_Backtrace` finds the tables of each function by its address. It is used only if that needs no lock:
//!
//! - *glibc with `_dl_find_object`*: glibc 2.35 or later and the libgcc of GCC 12 or later. Before, libgcc called
//!   `dl_iterate_phdr`, which takes the lock of the loader. Another thread may hold that lock while it allocates, and a
//!   child of `fork` may inherit it locked. The search of [`_dl_find_object`] takes no lock, and signal handlers may call
//!   it. glibc may be new and libgcc old, as in a package that brings its own, so [`is_lock_free`] looks for the import
//!   in the library that is loaded. libgcc allocates nothing in a walk.
//! - *A static executable with musl*, which has no loader. LLVM's libunwind is linked there. For a function without
//!   tables, as at the end of a stack, it takes a reader lock. Only `__register_frame` takes that lock for writing, which
//!   compilers at run time call. It allocates only if it has no index of the tables; linkers write one by default.
//!
//! A program that registers frames at run time (`__register_frame`, as just-in-time compilers do) also takes a mutex in
//! the libgcc of GCC 12, which later versions do without.
//!
//! The unwinder trusts the tables, so a walk is as safe as a backtrace of a panic at the same place. Frame by frame, both
//! unwinders report the stack pointer as `_Unwind_GetCFA`, and not the address of the frame's end: libgcc keeps the value
//! of the frame before, and libunwind returns the register. So a local variable is not below that address of its own
//! frame, and is below that of the caller.
//!
//! [`_dl_find_object`]: https://sourceware.org/glibc/manual/latest/html_node/Dynamic-Linker-Introspection.html
#![expect(unsafe_code, reason = "std has the unwinder only with names and allocations")]

use std::ffi::{c_int, c_void};

/// Continues a walk.
const NO_REASON: c_int = 0;

/// Ends a walk.
const NORMAL_STOP: c_int = 4;

/// A frame, as the unwinder passes it on.
#[repr(C)]
struct Context {
    _opaque: [u8; 0],
}

// The library that has these functions is linked by std.
unsafe extern "C" {
    fn _Unwind_Backtrace(visit: extern "C" fn(*mut Context, *mut c_void) -> c_int, state: *mut c_void) -> c_int;
    fn _Unwind_GetIPInfo(context: *mut Context, is_before: *mut c_int) -> usize;
    fn _Unwind_GetCFA(context: *mut Context) -> usize;
}

/// The state of a walk.
struct Walk<'a> {
    above: usize,
    frames: &'a mut [usize],
    count: usize,
}

/// Writes the return addresses of the frames above `above` into `frames`, innermost first, and returns their number.
pub(super) fn walk(above: usize, frames: &mut [usize]) -> usize {
    let mut walk = Walk { above, frames, count: 0 };
    // SAFETY: `visit` takes the state as what it is, a `Walk` that nothing else uses until the call returns.
    unsafe { _Unwind_Backtrace(visit, (&raw mut walk).cast()) };
    walk.count
}

/// Notes a frame.
extern "C" fn visit(context: *mut Context, state: *mut c_void) -> c_int {
    // SAFETY: `state` is the `Walk` that was passed to the unwinder, which calls this function and uses nothing of it.
    let walk = unsafe { &mut *state.cast::<Walk<'_>>() };
    // SAFETY: the unwinder has passed this frame, and it is valid until this function returns.
    if unsafe { _Unwind_GetCFA(context) } <= walk.above {
        return NO_REASON;
    }
    let mut is_before = 0;
    // SAFETY: the frame is valid as above, and `is_before` is valid for writing.
    let address = unsafe { _Unwind_GetIPInfo(context, &raw mut is_before) };
    let Some(frame) = walk.frames.get_mut(walk.count).filter(|_| address != 0) else { return NORMAL_STOP };
    // A frame that a signal has interrupted has the address of the next instruction, and not that after a call. Readers
    // subtract 1 from return addresses.
    *frame = address + usize::from(is_before != 0);
    walk.count += 1;
    if walk.count == walk.frames.len() { NORMAL_STOP } else { NO_REASON }
}

/// Returns `true`: a static executable has no loader, and so no lock of it.
#[cfg(target_env = "musl")]
pub(super) const fn is_lock_free() -> bool {
    true
}

/// Returns `true` if the unwinder that is loaded imports `_dl_find_object`.
#[cfg(target_env = "gnu")]
pub(super) fn is_lock_free() -> bool {
    crate::os::modules::mentions(_Unwind_Backtrace as *const () as usize, c"_dl_find_object")
}
