//! `errno` across work that the caller does not know of.
#![allow(unsafe_code, reason = "`errno` is set by its address, on the platforms that have one")]

/// Runs `work` and restores `errno`.
///
/// For code that runs inside of an allocation or a signal handler: `free` keeps `errno` in glibc since 2.33.
pub(crate) fn preserve_errno<T>(work: impl FnOnce() -> T) -> T {
    let before = get();
    let result = work();
    set(before);
    result
}

/// Returns the `errno` of this thread.
fn get() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

#[cfg(any(target_os = "linux", target_os = "emscripten"))]
fn set(errno: i32) {
    // SAFETY: `__errno_location` has no preconditions.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: the location of this thread's `errno` is valid for as long as the thread runs.
    unsafe { *location = errno };
}

#[cfg(any(target_os = "macos", target_os = "ios", target_os = "freebsd"))]
fn set(errno: i32) {
    // SAFETY: `__error` has no preconditions.
    let location = unsafe { libc::__error() };
    // SAFETY: the location of this thread's `errno` is valid for as long as the thread runs.
    unsafe { *location = errno };
}

/// Does nothing: the readings of this crate make no system calls on these platforms.
#[cfg(not(any(
    target_os = "linux",
    target_os = "emscripten",
    target_os = "macos",
    target_os = "ios",
    target_os = "freebsd"
)))]
fn set(_errno: i32) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn preserve_errno_failing_call_leaves_errno() {
        set(77);
        preserve_errno(|| {
            // SAFETY: closing a descriptor that does not exist only sets `errno`.
            let closed = unsafe { libc::close(-1) };
            assert_eq!((closed, get()), (-1, libc::EBADF));
        });
        assert_eq!(get(), 77);
    }
}
