//! Functions for [`set_trim_hook`](super::set_trim_hook), one for each allocator that a feature names.
//!
//! They are `#[inline]`, so that only a program that calls one of them is linked with the allocator. A linked allocator
//! runs its constructor at the start, which takes some hundred KiB of rss even if the program has another global
//! allocator.
#![cfg_attr(any(feature = "jemalloc", feature = "mimalloc"), expect(unsafe_code, reason = "functions of C"))]

/// Releases the free pages of jemalloc to the kernel: a hook for [`set_trim_hook`](super::set_trim_hook).
///
/// It purges the unused dirty pages of all arenas (`arena.4096.purge`). Blocks in the caches of threads stay. The first call
/// also lets the [monitor](crate::monitor) read the number of these pages from jemalloc's statistics. The feature `jemalloc`
/// builds `tikv-jemalloc-sys` 0.7, the crate below `tikv-jemallocator` 0.7.
///
/// # Performance
///
/// About 25 ms for each 100 MiB released, and 10 us if there is nothing to release.
///
/// # Examples
///
/// In a program with the global allocator `TrackingAllocator::over(tikv_jemallocator::Jemalloc)`:
///
/// ```no_run
/// use plimsoll::os;
///
/// os::set_trim_hook(os::trim_jemalloc);
/// println!("released {}", os::trim()?);
/// # Ok::<(), os::OsError>(())
/// ```
#[cfg(feature = "jemalloc")]
#[inline]
pub fn trim_jemalloc() {
    use std::ptr::null_mut;

    super::allocator_pages::register(jemalloc_pages);
    // 4096 is `MALLCTL_ARENAS_ALL`. jemalloc answers EPERM if a pointer to an old or new value is not null.
    let name = c"arena.4096.purge".as_ptr();
    // SAFETY: the name ends in a NUL, and jemalloc accepts null pointers for the values that this control does not
    // have.
    let error = unsafe { tikv_jemalloc_sys::mallctl(name, null_mut(), null_mut(), null_mut(), 0) };
    debug_assert_eq!(error, 0, "jemalloc knows the control and takes no value");
}

/// Reads the pages of all arenas of jemalloc. It keeps these three figures also if it is built without statistics.
///
/// About 10 us: it adds up the arenas with the lock of its controls.
#[cfg(feature = "jemalloc")]
#[inline]
fn jemalloc_pages() -> Option<super::AllocatorPages> {
    let mut epoch = 1_u64;
    // SAFETY: the name ends in a NUL, and this control takes a new value of 8 bytes and no pointers for the old one.
    let error = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"epoch".as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            (&raw mut epoch).cast(),
            size_of::<u64>(),
        )
    };
    if error != 0 {
        return None;
    }
    let page = jemalloc_figure(c"arenas.page")?;
    let bytes = |name| Some(jemalloc_figure(name)?.saturating_mul(page));
    let active = bytes(c"stats.arenas.4096.pactive")?;
    let dirty = bytes(c"stats.arenas.4096.pdirty")?;
    let muzzy = bytes(c"stats.arenas.4096.pmuzzy")?;
    Some(super::AllocatorPages { active, releasable: dirty.saturating_add(muzzy) })
}

/// Reads a control of jemalloc that has a `size_t` as its value.
#[cfg(feature = "jemalloc")]
#[inline]
fn jemalloc_figure(name: &std::ffi::CStr) -> Option<u64> {
    let (mut value, mut length) = (0_usize, size_of::<usize>());
    // SAFETY: the name ends in a NUL, and `value` is valid for writing the `length` bytes of a `size_t`.
    let error = unsafe {
        tikv_jemalloc_sys::mallctl(name.as_ptr(), (&raw mut value).cast(), &raw mut length, std::ptr::null_mut(), 0)
    };
    (error == 0).then(|| value.try_into().unwrap_or(u64::MAX))
}

/// Releases the free pages of mimalloc to the kernel: a hook for [`set_trim_hook`](super::set_trim_hook).
///
/// It calls `mi_collect` with `force`. The free pages of other threads that are alive may stay. The feature `mimalloc`
/// builds `libmimalloc-sys` 0.1, the crate below `mimalloc` 0.1.
///
/// # Performance
///
/// About 0.7 ms for each 100 MiB released, and 8 us if there is nothing to release.
///
/// # Examples
///
/// ```
/// use mimalloc::MiMalloc;
/// use plimsoll::{TrackingAllocator, os};
///
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator<MiMalloc> = TrackingAllocator::over(MiMalloc);
///
/// # fn main() -> Result<(), os::OsError> {
/// os::set_trim_hook(os::trim_mimalloc);
/// drop(vec![1_u8; 16 << 20]);
/// let released = os::trim()?;
/// # let _ = released;
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "mimalloc")]
#[inline]
pub fn trim_mimalloc() {
    // The crate declares it only with a feature that adds a dependency.
    use libmimalloc_sys as _;
    unsafe extern "C" {
        fn mi_collect(force: bool);
    }
    // SAFETY: mimalloc's `mi_collect` has this signature, and takes both values of `force` from any thread.
    unsafe { mi_collect(true) };
}
