//! What the kernel counts for this process, and the few system calls the rest of the crate stands on.
//!
//! The kernel kills on **rss**, the resident set size: the pages that are in memory now, whoever asked for them. It
//! holds more than the heap does (the binary's own pages, stacks, what an allocator keeps back, C libraries), and it
//! falls only when pages are given back. [`rss()`] reads it, [`peak_rss()`] reads its high-water mark,
//! [`reset_peak_rss()`] draws the mark anew, and [`trim()`] asks the allocator to give back what it keeps.
//!
//! The readings need `/proc`, so Linux; elsewhere they are [`OsError::NotAvailable`]. They allocate nothing, take no
//! lock, do not panic and preserve `errno`, so that an allocator or a signal handler may call them. [`trim()`],
//! [`set_trim_hook()`] and [`malloc_stats()`] take locks: call them from neither.
//!
//! # Examples
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use plimsoll::os;
//!
//! match os::rss() {
//!     Ok(rss) => assert!(rss.anonymous <= rss.total),
//!     Err(os::OsError::NotAvailable { .. }) => {} // not on Linux
//!     Err(other) => return Err(other.into()),
//! }
//! # Ok(())
//! # }
//! ```

mod allocator_pages;
mod allocators;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
mod errno;
#[cfg(target_os = "linux")]
mod kept_file;
mod line;
#[cfg(target_os = "linux")]
mod linux;
mod malloc_info;
mod malloc_stats;
#[cfg(feature = "profile")]
mod modules;
#[cfg(all(target_os = "linux", not(miri)))]
mod residency;
#[cfg(unix)]
mod sigabrt;
#[cfg(feature = "profile")]
mod stack;
mod threads;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(not(target_os = "linux"))]
use elsewhere as host;
#[cfg(target_os = "linux")]
use linux as host;

use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;
use crate::unwind::contained;

pub(crate) use allocator_pages::{AllocatorPages, allocator_pages};
#[cfg(feature = "jemalloc")]
pub use allocators::trim_jemalloc;
#[cfg(feature = "mimalloc")]
pub use allocators::trim_mimalloc;
use errno::preserve_errno;
pub(crate) use line::Line;
pub(crate) use malloc_info::{MallocInfo, malloc_info};
pub use malloc_stats::{MallocStats, malloc_stats};
#[cfg(feature = "profile")]
pub use stack::StackSource;
pub(crate) use threads::{ThreadStamp, on_fork_child};
#[cfg(feature = "profile")]
pub(crate) use {
    modules::{Executable, Module, executable, executable_build_id, modules, record_executable},
    stack::{probe_stack_walk, walk_stack},
};

/// The function that [`trim()`] calls instead of `malloc_trim`.
static TRIM_HOOK: Mutex<Option<fn()>> = Mutex::new(None);

/// The memory of this process that is resident: one reading, in bytes, a multiple of the page size.
///
/// Memory that C libraries take from `malloc` or `mmap` counts as soon as its pages are touched, as any other memory does.
///
/// Not counted: pages swapped out, page tables, kernel memory (socket buffers, pipes), and other processes of the
/// same Lambda environment (extensions, the runtime's own): `max_memory_used` holds them all, so it lies higher.
///
/// # Examples
///
/// ```no_run
/// let rss = plimsoll::os::rss()?;
/// println!("{} resident, {} of it anonymous", rss.total, rss.anonymous);
/// # Ok::<(), plimsoll::os::OsError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rss {
    /// All resident bytes: heap, stacks, the binary's and its libraries' pages, mapped files, shared memory.
    pub total: ByteSize,
    /// The resident bytes that no file backs: heap and stacks, and pages written to in private mappings.
    ///
    /// The kernel cannot drop these under pressure, as it can the binary's pages. Shared memory is not among them.
    pub anonymous: ByteSize,
}

/// Why a figure could not be had from the operating system, or a request not be put to it.
///
/// # Examples
///
/// ```
/// use plimsoll::os::{self, OsError};
///
/// match os::rss() {
///     Ok(rss) => println!("{}", rss.total),
///     Err(OsError::NotAvailable { .. }) => println!("not on this platform"),
///     Err(other) => eprintln!("{other}"),
/// }
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum OsError {
    /// This platform has no such thing; asking again will not help.
    #[error("{what} is not available on {here}")]
    #[non_exhaustive]
    NotAvailable {
        /// What was asked for, in words.
        what: &'static str,
        /// The platform, in words.
        here: &'static str,
    },
    /// The system call failed.
    #[error("{what} could not be had from the operating system")]
    #[non_exhaustive]
    Io {
        /// What was asked for, in words.
        what: &'static str,
        /// What the system said; an error number, so nothing was allocated for it.
        source: io::Error,
    },
    /// The answer of the operating system does not read as it should.
    #[error("{what}: the operating system's answer could not be understood")]
    #[non_exhaustive]
    Malformed {
        /// What was asked for, in words.
        what: &'static str,
    },
}

debug_as_chain!(OsError);

/// Tells the resident set size of this process now.
///
/// A forked child reads its own figures. The kernel adds pages up in batches, per thread or per CPU depending on its
/// version, so a reading may miss some tens of pages for each: see `/proc/pid/statm` in [proc(5)].
///
/// The file `/proc/self/statm` is opened (close-on-exec) at the first call and stays open. It is opened again if the
/// program has closed the descriptor, also if another file has its number.
///
/// # Performance
///
/// One `fstat` and one `pread`, without an allocation: about 2 us.
///
/// # Errors
///
/// [`OsError::NotAvailable`] off Linux; [`OsError::Io`] if `/proc` is not mounted or no descriptor is left;
/// [`OsError::Malformed`] if `/proc/self/statm` does not start with three numbers.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> Result<(), plimsoll::os::OsError> {
/// let before = plimsoll::os::rss()?;
/// // .. work ..
/// let after = plimsoll::os::rss()?;
/// println!("{} -> {}", before.total, after.total);
/// # Ok(())
/// # }
/// ```
///
/// [proc(5)]: https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html
pub fn rss() -> Result<Rss, OsError> {
    host::rss()
}

/// Tells the highest resident set size of this process since it started, or since [`reset_peak_rss()`].
///
/// This is `VmHWM` of `/proc/self/status`. `getrusage`'s `ru_maxrss` is not the same: it survives `exec`, so a small
/// program started by a large one would be told the large one's peak.
///
/// # Performance
///
/// One `fstat` and one `pread` of a file that stays open. The kernel prints the whole file: about 12 us. Takes
/// 4 KiB of stack.
///
/// # Errors
///
/// As for [`rss()`]; [`OsError::Malformed`] if there is no `VmHWM` line in the first 4 KiB.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> Result<(), plimsoll::os::OsError> {
/// println!("at most {} so far", plimsoll::os::peak_rss()?);
/// # Ok(())
/// # }
/// ```
pub fn peak_rss() -> Result<ByteSize, OsError> {
    host::peak_rss().map(ByteSize::bytes)
}

/// Sets the high-water mark that [`peak_rss()`] tells back to what is resident now.
///
/// Writes `5` to `/proc/self/clear_refs` (Linux 4.0 and later). It also lowers `ru_maxrss`, and so what a profiler
/// outside sees; it does not lower `max_memory_used`, which Lambda keeps outside the process.
///
/// Costs an `open`, a `write` and a `close`: about 4 us.
///
/// # Errors
///
/// [`OsError::NotAvailable`] off Linux; [`OsError::Io`] if the file cannot be opened or written, as in a sandbox whose
/// `/proc` is read-only.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> Result<(), plimsoll::os::OsError> {
/// plimsoll::os::reset_peak_rss()?;
/// // .. one invocation ..
/// println!("this invocation: at most {}", plimsoll::os::peak_rss()?);
/// # Ok(())
/// # }
/// ```
pub fn reset_peak_rss() -> Result<(), OsError> {
    host::reset_peak_rss()
}

/// Releases the free pages of the allocator to the kernel, and returns the bytes by which rss fell; 0 if it did not fall.
///
/// Calls the hook of [`set_trim_hook()`] if there is one, else glibc's `malloc_trim(0)`, which releases free pages of all
/// arenas. `malloc_trim` knows only glibc's heap: with another global allocator it releases next to nothing, so set a
/// hook.
///
/// The result is rss before the call less rss after it. Other threads that touch new pages during the call lower it, and
/// threads that release pages raise it. It is 0 where rss is not available. A released page is faulted in when it is next
/// used.
///
/// # Errors
///
/// [`OsError::NotAvailable`] if no hook is set and the C library is not glibc.
///
/// # Performance
///
/// Call it between invocations. It takes about 6 us if the allocator has no free pages. With many it takes milliseconds
/// (glibc: 1 ms for 13 MiB of one thread, 11 ms for 84 MiB of eight threads in one arena). A second call is not free: glibc
/// advises the kernel again about each free run of pages.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// match plimsoll::os::trim() {
///     Ok(released) => println!("rss fell by {released}"),
///     Err(plimsoll::os::OsError::NotAvailable { .. }) => {} // musl, macOS, Windows
///     Err(other) => return Err(other.into()),
/// }
/// # Ok(())
/// # }
/// ```
pub fn trim() -> Result<ByteSize, OsError> {
    // Copied out, so that the hook runs after the lock is released and may itself set another.
    let hook = *trim_hook();
    let before = rss();
    match hook {
        // It may run while a panic unwinds at an invocation's end. A second panic there would abort.
        Some(hook) => drop(contained(hook)),
        None => host::trim()?,
    }
    let after = rss();
    let released = before.ok().zip(after.ok());
    let released = released.map_or(ByteSize::ZERO, |(before, after)| before.total.saturating_sub(after.total));
    TRIMMED.fetch_add(released.as_usize(), Relaxed);
    TRIMS.fetch_add(1, Relaxed);
    Ok(released)
}

/// Lets the system's allocator release the free end of each arena when it is larger than 1 MiB, so that [`trim()`] finds no page
/// that it cannot release. Without effect on platforms other than glibc.
pub(crate) fn fix_trim_threshold() {
    host::fix_trim_threshold();
}

/// Limits the number of arenas of glibc's allocator. Returns `true` if the limit is set; `false` with another C library.
/// 0 sets the default of glibc, eight for each processor.
///
/// Each arena keeps free pages that threads of other arenas cannot use, so in a service with several threads the rss can be
/// far above the heap. With one arena it stays near the heap. Call it in the first line of `main`, before the first thread
/// starts: arenas that exist stay. In a function with `#[tokio::main]` the workers run already. The environment variable
/// `MALLOC_ARENA_MAX` has the same effect.
///
/// With another global allocator it has no effect on the Rust heap.
///
/// # Performance
///
/// Threads that allocate at the same time wait for the arena. Small blocks are mostly served by caches of each thread.
///
/// # Examples
///
/// ```
/// // The first line of `main`, before a runtime is built:
/// plimsoll::os::limit_arenas(2);
/// ```
pub fn limit_arenas(count: u32) -> bool {
    host::limit_arenas(count)
}

/// The bytes that all calls of [`trim()`] have released.
static TRIMMED: AtomicUsize = AtomicUsize::new(0);

/// The number of calls of [`trim()`] that were made.
static TRIMS: AtomicUsize = AtomicUsize::new(0);

/// Returns the number of calls of [`trim()`] that were made.
pub(crate) fn trims() -> usize {
    TRIMS.load(Relaxed)
}

/// Returns the bytes that all calls of [`trim()`] have released.
pub(crate) fn trimmed() -> usize {
    TRIMMED.load(Relaxed)
}

/// Sets the function that [`trim()`] calls instead of `malloc_trim`, and calls it once. A later call replaces it.
///
/// By that one call `trim_jemalloc` lets the monitor read jemalloc's statistics before the first trim.
///
/// `trim_jemalloc` (feature `jemalloc`) and `trim_mimalloc` (feature `mimalloc`) are such functions. For another allocator,
/// write one that asks it to release its free pages. If the function panics, [`trim()`] returns as if it had released
/// nothing, where panics unwind.
///
/// # Examples
///
/// With the feature `jemalloc`:
///
/// ```
/// # #[cfg(feature = "jemalloc")]
/// plimsoll::os::set_trim_hook(plimsoll::os::trim_jemalloc);
/// ```
///
/// With the feature `mimalloc`:
///
/// ```
/// # #[cfg(feature = "mimalloc")]
/// plimsoll::os::set_trim_hook(plimsoll::os::trim_mimalloc);
/// ```
pub fn set_trim_hook(hook: fn()) {
    *trim_hook() = Some(hook);
    allocator_pages::forget();
    let _panicked = contained(hook);
}

/// Whether a [`trim()`] can do anything at all.
pub(crate) fn can_trim() -> bool {
    cfg!(all(target_os = "linux", target_env = "gnu")) || has_trim_hook()
}

/// Whether [`trim()`] calls a hook.
pub(crate) fn has_trim_hook() -> bool {
    trim_hook().is_some()
}

/// Returns the bytes of `block` that are not resident, at most `enough`; 0 if the platform does not report it.
pub(crate) fn untouched(block: *const u8, size: usize, enough: usize) -> usize {
    #[cfg(all(target_os = "linux", not(miri)))]
    return preserve_errno(|| residency::untouched(block, size, enough));
    #[cfg(not(all(target_os = "linux", not(miri))))]
    {
        let _ = (block, size, enough);
        0
    }
}

/// How many threads the process has now; `None` where that is not known. As dear as [`peak_rss()`].
pub(crate) fn threads() -> Option<u64> {
    host::threads()
}

/// The slot of the hook. No code of others runs under this lock, so a poisoned one holds a whole value.
fn trim_hook() -> MutexGuard<'static, Option<fn()>> {
    TRIM_HOOK.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(unix)]
pub(crate) use sigabrt::{on_abort, signal_stack_left};

/// Returns the free bytes of the alternate signal stack: none, because this platform has no signals.
#[cfg(not(unix))]
pub(crate) const fn signal_stack_left() -> Option<usize> {
    None
}

/// Calls `speak` when the process aborts: not here, where there are no signals.
#[cfg(not(unix))]
pub(crate) fn on_abort(_speak: fn(), _survived: fn()) -> Result<(), OsError> {
    Err(OsError::NotAvailable { what: "a handler of SIGABRT", here: std::env::consts::OS })
}

/// Writes to standard error, without a lock on Linux; what it does not take is lost, as there is nobody left to tell.
pub(crate) fn write_stderr(bytes: &[u8]) {
    host::write_stderr(bytes);
}

/// Writes to standard error without waiting for a reader. Returns `true` if all bytes were taken.
///
/// For code inside of an allocation: a full pipe without a reader would block the allocating thread for good.
pub(crate) fn write_stderr_nonblocking(bytes: &[u8]) -> bool {
    preserve_errno(|| host::write_stderr_nonblocking(bytes))
}

/// Milliseconds of a clock that never goes back, as of the last kernel tick; on Linux since boot.
pub(crate) fn coarse_monotonic_ms() -> u64 {
    host::coarse_monotonic_ms()
}

/// Milliseconds of the wall clock since 1970, as of the last kernel tick; 0 before 1970.
pub(crate) fn coarse_wall_ms() -> u64 {
    host::coarse_wall_ms()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_to_standard_error_is_no_trouble() {
        write_stderr(b"");
    }

    #[test]
    fn the_clocks_move_and_the_wall_clock_knows_the_century() {
        const YEAR_2020_MS: u64 = 1_577_836_800_000;
        let (monotonic, wall) = (coarse_monotonic_ms(), coarse_wall_ms());
        assert!(wall > YEAR_2020_MS, "{wall} ms since 1970");
        while coarse_monotonic_ms() == monotonic {
            std::thread::yield_now();
        }
        assert!(coarse_monotonic_ms() > monotonic);
    }
}
