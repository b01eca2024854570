//! What `os` tells, beside what this process did. The figures need Linux with a `/proc` of its own.
#![expect(unsafe_code, reason = "a counting allocator, `fork`, `mmap`, namespaces and a signal handler")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts the allocations of each thread, so that a test can say "none".
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static GLOBAL: Counting = Counting;

// SAFETY: every call goes to `System` unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's contract is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is `System`'s.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::hint::black_box;
    use std::ptr;
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use plimsoll::os;

    use super::ALLOCATIONS;

    const MIB: u64 = 1 << 20;

    /// Each test holds this: what one maps, another would measure.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pages of our own, all touched, given back on drop, whatever the allocator does.
    struct Pages(*mut libc::c_void, usize);

    impl Pages {
        fn touched(mib: usize) -> Self {
            let bytes = mib << 20;
            let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
            let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
            assert_ne!(start, libc::MAP_FAILED);
            // SAFETY: `start` begins `bytes` writable bytes, mapped just now.
            unsafe { ptr::write_bytes(start.cast::<u8>(), 1, bytes) };
            Self(start, bytes)
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: this is the mapping that `touched` made, and nothing points into it.
            unsafe { libc::munmap(self.0, self.1) };
        }
    }

    #[test]
    fn rss_rises_with_touched_pages_and_falls_when_they_go() {
        let _alone = alone();
        let before = os::rss().unwrap();
        let pages = Pages::touched(64);
        let during = os::rss().unwrap();
        drop(pages);
        let after = os::rss().unwrap();
        for (figure, before, during, after) in [
            ("total", before.total, during.total, after.total),
            ("anonymous", before.anonymous, during.anonymous, after.anonymous),
        ] {
            let rise = during.as_u64().checked_sub(before.as_u64()).expect(figure);
            assert!((60 * MIB..80 * MIB).contains(&rise), "{figure}: {rise} B up for 64 MiB touched");
            let fall = during.as_u64().checked_sub(after.as_u64()).expect(figure);
            assert!((60 * MIB..80 * MIB).contains(&fall), "{figure}: {fall} B down for 64 MiB given back");
        }
        assert!(during.anonymous < during.total, "the binary's own pages are not anonymous");
    }

    #[test]
    fn the_peak_stays_until_it_is_reset() {
        let _alone = alone();
        let before = os::rss().unwrap().total.as_u64();
        drop(Pages::touched(64));
        let peak = os::peak_rss().unwrap().as_u64();
        assert!(peak >= before + 60 * MIB, "peak {peak} B, before {before} B");
        os::reset_peak_rss().unwrap();
        let reset = os::peak_rss().unwrap().as_u64();
        assert!(reset <= peak - 60 * MIB, "reset to {reset} B from {peak} B");
        drop(Pages::touched(32));
        let next = os::peak_rss().unwrap().as_u64();
        assert!((reset + 28 * MIB..peak).contains(&next), "next peak {next} B, after a reset to {reset} B");
    }

    #[test]
    fn a_forked_child_reads_its_own_figures() {
        let _alone = alone();
        os::rss().unwrap();
        os::peak_rss().unwrap();
        // SAFETY: the child calls only what is safe in a signal handler, and ends by `_exit`.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let rose = |before: u64, after: u64| after.saturating_sub(before) > 50 * MIB;
            let told = match (os::rss(), os::peak_rss()) {
                (Ok(rss), Ok(peak)) => {
                    let pages = Pages::touched(256);
                    let now = os::rss().map_or(0, |rss| rss.total.as_u64());
                    let peak_now = os::peak_rss().unwrap_or(peak).as_u64();
                    drop(pages);
                    u8::from(rose(rss.total.as_u64(), now)) | u8::from(rose(peak.as_u64(), peak_now)) << 1
                }
                _ => 4,
            };
            // SAFETY: `_exit` has no preconditions.
            unsafe { libc::_exit(i32::from(told)) }
        }
        assert_eq!(exit_code(child), 3, "1: saw its rss rise, 2: saw its peak rise");
    }

    /// Waits for the child and returns its exit code.
    fn exit_code(child: libc::pid_t) -> libc::c_int {
        let mut status = 0;
        // SAFETY: `status` is valid for writing, and `child` is a child not waited for.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(waited, child);
        assert!(libc::WIFEXITED(status), "{status:#x}");
        libc::WEXITSTATUS(status)
    }

    /// Runs `child` in a forked child and returns its exit code.
    fn fork(child: impl FnOnce() -> libc::c_int) -> libc::c_int {
        // SAFETY: the child calls only what is safe in a signal handler, and ends by `_exit`.
        let id = unsafe { libc::fork() };
        assert!(id >= 0);
        if id == 0 {
            let code = child();
            // SAFETY: `_exit` has no preconditions.
            unsafe { libc::_exit(code) }
        }
        exit_code(id)
    }

    /// Moves the children of this process into a new PID namespace. Fails if that is not permitted.
    fn new_pid_namespace(flags: libc::c_int) -> bool {
        // SAFETY: the call has no preconditions.
        unsafe { libc::unshare(libc::CLONE_NEWPID | flags) == 0 }
    }

    #[test]
    fn rss_of_process_1_in_a_new_namespace_is_its_own() {
        const NOT_PERMITTED: libc::c_int = 77;
        let _alone = alone();
        let code = fork(|| {
            if !new_pid_namespace(0) && !new_pid_namespace(libc::CLONE_NEWUSER) {
                return NOT_PERMITTED;
            }
            fork(|| {
                let parent = os::rss().map_or(0, |rss| rss.total.as_u64());
                if std::process::id() != 1 || parent == 0 || !new_pid_namespace(0) {
                    return NOT_PERMITTED;
                }
                fork(|| {
                    let _pages = Pages::touched(64);
                    let child = os::rss().map_or(0, |rss| rss.total.as_u64());
                    i32::from(std::process::id() != 1 || child < parent + 56 * MIB)
                })
            })
        });
        assert!(code == 0 || code == NOT_PERMITTED, "the figures of another process");
    }

    #[test]
    fn rss_after_its_descriptor_became_a_file_of_numbers_is_right() {
        let _alone = alone();
        let truth = os::rss().unwrap().total.as_u64();
        let path = std::env::temp_dir().join(format!("plimsoll-os-numbers-{}", std::process::id()));
        std::fs::write(&path, "2024 123456789 17 4 rows of a table\n").unwrap();
        let numbers = std::fs::File::open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let code = fork(|| {
            if os::rss().is_err() {
                return 2;
            }
            // The number of the kept descriptor is one of these.
            for number in 3..100 {
                // SAFETY: no other thread of this forked child uses its descriptors.
                unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&numbers), number) };
            }
            i32::from(os::rss().map_or(0, |rss| rss.total.as_u64()).abs_diff(truth) > 16 * MIB)
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn readings_that_fail_preserve_errno() {
        let _alone = alone();
        let code = fork(|| {
            // SAFETY: no other thread of this forked child uses its descriptors.
            unsafe { libc::close_range(0, libc::c_uint::MAX, 0) };
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: `none` is valid for reading.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) };
            // SAFETY: the location of this thread's `errno` is valid.
            let errno = unsafe { libc::__errno_location() };
            // SAFETY: as above.
            unsafe { *errno = 77 };
            let failed = os::rss().is_err() && os::peak_rss().is_err() && os::reset_peak_rss().is_err();
            // SAFETY: as above.
            i32::from(!failed || unsafe { *errno } != 77)
        });
        assert_eq!(code, 0);
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn trim_twice_returns_nothing_the_second_time() {
        let _alone = alone();
        // Another test may have set a hook that does nothing.
        os::set_trim_hook(|| {
            // SAFETY: `malloc_trim` takes any padding and is thread-safe.
            unsafe { libc::malloc_trim(0) };
        });
        // Between the blocks that stay there are free runs of 64 KiB.
        let mut blocks: Vec<Box<[u8; 2048]>> = (0..8192).map(|_| black_box(Box::new([1; 2048]))).collect();
        let mut index = 0;
        blocks.retain(|_| {
            index += 1;
            index % 33 == 0
        });
        assert!(os::trim().unwrap().as_u64() > 8 * MIB);
        assert!(os::trim().unwrap().as_u64() < MIB);
        drop(blocks);
    }

    #[test]
    fn malloc_stats_follow_blocks_and_free_chunks() {
        let _alone = alone();
        if !cfg!(target_env = "gnu") {
            assert!(matches!(os::malloc_stats(), Err(os::OsError::NotAvailable { .. })));
            return;
        }
        let before = os::malloc_stats().unwrap();
        let large = black_box(vec![1_u8; 64 << 20]);
        let small: Vec<Box<[u8; 1024]>> = (0..8192).map(|_| black_box(Box::new([1; 1024]))).collect();
        let during = os::malloc_stats().unwrap();
        let mapped = during.mmapped.saturating_sub(before.mmapped);
        assert!((64 * MIB..66 * MIB).contains(&mapped.as_u64()), "{mapped} mapped");
        let used = during.in_use.saturating_sub(before.in_use);
        assert!((8 * MIB..10 * MIB).contains(&used.as_u64()), "{used} more in use");
        let mut index = 0;
        let kept: Vec<_> = small
            .into_iter()
            .filter(|_| {
                index += 1;
                index % 2 == 0
            })
            .collect();
        let after = os::malloc_stats().unwrap();
        let freed = during.in_use.saturating_sub(after.in_use);
        assert!((3 * MIB..5 * MIB).contains(&freed.as_u64()), "{freed} less in use");
        assert_eq!(after.arenas, after.in_use.saturating_add(after.free));
        assert!(after.free.as_u64() > 3 * MIB && after.releasable <= after.free, "{after:?}");
        drop((large, kept));
    }

    #[test]
    fn readings_allocate_nothing_not_even_the_first() {
        let _alone = alone();
        let before = ALLOCATIONS.get();
        let (rss, peak, reset) = (os::rss(), os::peak_rss(), os::reset_peak_rss());
        assert_eq!(ALLOCATIONS.get() - before, 0);
        assert!(rss.is_ok() && peak.is_ok() && reset.is_ok());
        drop(black_box(Box::new(1)));
        assert_eq!(ALLOCATIONS.get() - before, 1, "the counter counts");
    }

    #[test]
    fn what_stays_open_is_not_inherited_by_other_programs() {
        let _alone = alone();
        os::rss().unwrap();
        os::peak_rss().unwrap();
        let mut kept = 0;
        for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
            let number = entry.unwrap().file_name();
            let Ok(path) = std::fs::read_link(std::path::Path::new("/proc/self/fd").join(&number)) else { continue };
            if path.ends_with("statm") || path.ends_with("status") {
                // SAFETY: asking for the flags of a descriptor changes nothing.
                let flags = unsafe { libc::fcntl(number.to_str().unwrap().parse().unwrap(), libc::F_GETFD) };
                assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC, "{}", path.display());
                kept += 1;
            }
        }
        assert_eq!(kept, 2, "statm and status, each once");
    }

    #[test]
    fn a_signal_handler_may_read() {
        static TOLD: AtomicU64 = AtomicU64::new(0);
        extern "C" fn handler(_signal: libc::c_int) {
            TOLD.store(os::rss().map_or(1, |rss| rss.total.as_u64()), Ordering::Relaxed);
        }
        let _alone = alone();
        // SAFETY: the handler stores to an atomic and reads `rss`, which is made for handlers.
        let earlier = unsafe { libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t) };
        assert_ne!(earlier, libc::SIG_ERR);
        // SAFETY: `raise` has no preconditions; the handler stands.
        unsafe { libc::raise(libc::SIGUSR1) };
        assert!(TOLD.load(Ordering::Relaxed) > 100_000);
    }

    #[test]
    fn trim_gives_pages_back_and_a_hook_takes_its_place() {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let _alone = alone();
        // 64 MiB in small blocks; the last one stays and keeps the allocator from giving the rest back by itself.
        let mut blocks: Vec<Box<[u8; 1024]>> = (0..65_536).map(|_| black_box(Box::new([1; 1024]))).collect();
        let last = blocks.pop();
        drop(blocks);
        let before = os::rss().unwrap().anonymous.as_u64();
        let gave = os::trim();
        let after = os::rss().unwrap().anonymous.as_u64();
        drop(last);
        if cfg!(target_env = "gnu") {
            let released = gave.unwrap().as_u64();
            assert!(released.abs_diff(before - after) < MIB, "{released} B, {before} B before, {after} B after");
            assert!(before - after > 50 * MIB, "{before} B before, {after} B after");
        } else {
            let error = gave.unwrap_err();
            assert!(matches!(error, os::OsError::NotAvailable { .. }), "{error:?}");
            assert_eq!(error.to_string(), "malloc_trim is not available on linux without glibc");
        }

        os::set_trim_hook(|| {
            CALLS.fetch_add(1, Ordering::Relaxed);
        });
        os::trim().unwrap();
        os::trim().unwrap();
        os::set_trim_hook(|| os::set_trim_hook(|| {}));
        os::trim().unwrap();
        os::trim().unwrap();
        assert_eq!(CALLS.load(Ordering::Relaxed), 3, "once when it was set, and until another was set");
    }
}

#[cfg(not(target_os = "linux"))]
#[test]
fn without_proc_the_figures_are_not_available_and_say_so() {
    use plimsoll::os::{self, OsError};

    let before = ALLOCATIONS.get();
    assert!(matches!(os::rss(), Err(OsError::NotAvailable { .. })));
    assert!(matches!(os::peak_rss(), Err(OsError::NotAvailable { .. })));
    assert!(matches!(os::reset_peak_rss(), Err(OsError::NotAvailable { .. })));
    assert_eq!(ALLOCATIONS.get(), before);
    let said = os::rss().unwrap_err().to_string();
    assert!(said.starts_with("the resident set size is not available on "), "{said}");
}
