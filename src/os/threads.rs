//! Forks and the ends of threads.
#![allow(unsafe_code, reason = "`pthread_atfork` and thread ids are system calls that std does not have")]

#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
#[cfg(all(target_os = "linux", not(miri)))]
use std::{
    fs::File,
    io::{Read, Write},
};

#[cfg(all(target_os = "linux", not(miri)))]
use super::errno::preserve_errno;

/// A thread of a process, so that its end can be proved later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadStamp {
    /// Process id in the high half, thread id in the low half. 0 if not known.
    pub(crate) ids: u64,
    /// A moment at which the thread was running, in milliseconds since boot.
    pub(crate) seen_ms: u64,
}

impl ThreadStamp {
    /// Creates the stamp of the calling thread. Costs three system calls, one of them in the vdso.
    #[cfg(all(target_os = "linux", not(miri)))]
    pub(crate) fn current() -> Self {
        // SAFETY: `gettid` has no preconditions.
        let thread = unsafe { libc::gettid() };
        let ids = u64::from(std::process::id()) << 32 | u64::from(thread.unsigned_abs());
        Self { ids, seen_ms: boot_ms() }
    }

    #[cfg(not(all(target_os = "linux", not(miri))))]
    pub(crate) const fn current() -> Self {
        Self { ids: 0, seen_ms: 0 }
    }

    /// Returns `true` if it is proved that the thread has ended. Everything else, a doubt included, is `false`.
    ///
    /// The proof: the kernel knows no such thread of this process, or knows one that started later and got the same id.
    /// Stamps of another process (before a fork) prove nothing.
    #[cfg(all(target_os = "linux", not(miri)))]
    pub(crate) fn has_ended(self) -> bool {
        /// Start times are in ticks of 10 ms, and the clock of the stamp is as coarse.
        const SLACK_MS: u64 = 100;

        let process = std::process::id();
        if self.ids == 0 || self.ids >> 32 != u64::from(process) {
            return false;
        }
        let thread = self.ids & u64::from(u32::MAX);
        preserve_errno(|| {
            // SAFETY: signal 0 is not sent: the call only looks the thread up.
            let found = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, 0) };
            if found != 0 {
                return std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
            }
            start_ms(thread).is_some_and(|start| start > self.seen_ms.saturating_add(SLACK_MS))
        })
    }

    #[cfg(not(all(target_os = "linux", not(miri))))]
    pub(crate) const fn has_ended(self) -> bool {
        false
    }
}

/// Returns the milliseconds since boot, suspensions included, as of the last kernel tick or earlier.
#[cfg(all(target_os = "linux", not(miri)))]
fn boot_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing one `timespec`; if the clock is not known, the time stays 0.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1000).saturating_add(nanos.unwrap_or(0) / 1_000_000)
}

/// Returns when a thread of this process started, in milliseconds since boot: field 22 of
/// [`/proc/self/task/tid/stat`](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
#[cfg(all(target_os = "linux", not(miri)))]
fn start_ms(thread: u64) -> Option<u64> {
    let mut path = [0_u8; 48];
    let mut rest = path.as_mut_slice();
    write!(rest, "/proc/self/task/{thread}/stat").ok()?;
    let unused = rest.len();
    let path = std::str::from_utf8(path.get(..path.len().checked_sub(unused)?)?).ok()?;
    let mut text = [0_u8; 512];
    // Short paths and system errors do not allocate in std.
    let read = File::open(path).ok()?.read(&mut text).ok()?;
    // SAFETY: `sysconf` has no preconditions.
    let ticks_per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok()?;
    start_ticks(text.get(..read)?)?.saturating_mul(1000).checked_div(ticks_per_second)
}

/// Returns field 22 of `stat`. Field 2 is the thread's name, in parentheses, and may contain spaces and parentheses.
#[cfg(all(target_os = "linux", not(miri)))]
fn start_ticks(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    // The field after the name is number 3.
    let field = stat.get(name_end + 1..)?.split(|&byte| byte == b' ').filter(|field| !field.is_empty()).nth(22 - 3)?;
    std::str::from_utf8(field).ok()?.trim_ascii().parse().ok()
}

/// Has `child` called in every child of a later `fork`, on its only thread, before `fork` returns there.
///
/// Not called after `vfork`, `posix_spawn` and a raw `clone`. glibc forgets the handler when the library that
/// contains it is unloaded.
#[cfg(all(unix, not(miri)))]
pub(crate) fn on_fork_child(child: unsafe extern "C" fn()) {
    // SAFETY: the handler is a function of this program, and safe to call at any time.
    let _no_memory_for_it = unsafe { libc::pthread_atfork(None, None, Some(child)) };
}

#[cfg(not(all(unix, not(miri))))]
pub(crate) fn on_fork_child(_child: unsafe extern "C" fn()) {}

/// The forks between the process that called [`count_forks`] first and this one.
#[cfg(target_os = "linux")]
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Has [`forks`] count from now on.
#[cfg(target_os = "linux")]
pub(super) fn count_forks() {
    static COUNTED: AtomicBool = AtomicBool::new(false);

    unsafe extern "C" fn count() {
        FORKS.fetch_add(1, Relaxed);
    }

    if !COUNTED.swap(true, Relaxed) {
        on_fork_child(count);
    }
}

/// Returns the number of forks since [`count_forks`] was called first.
#[cfg(target_os = "linux")]
pub(super) fn forks() -> u64 {
    FORKS.load(Relaxed)
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn has_ended_running_thread_is_false() {
        assert!(!ThreadStamp::current().has_ended());
        let (stamp, end) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
        let thread = std::thread::spawn(move || {
            stamp.0.send(ThreadStamp::current()).unwrap();
            end.1.recv().unwrap();
        });
        let running = stamp.1.recv().unwrap();
        assert!(!running.has_ended());
        end.0.send(()).unwrap();
        thread.join().unwrap();
        // `join` returns when the kernel clears the id, a moment before the task is gone.
        while !running.has_ended() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn has_ended_id_of_a_younger_thread_is_true() {
        let stamp = ThreadStamp::current();
        let old = ThreadStamp { seen_ms: 0, ..stamp };
        assert!(old.has_ended(), "this thread started after the machine did");
    }

    #[test]
    fn start_ticks_name_with_spaces_and_parentheses_reads_field_22() {
        let stat = b"7 (a) b (c)) S 1 7 7 0 -1 4194304 1 0 0 0 1 2 3 4 20 0 1 0 456789 1 2 3";
        assert_eq!(start_ticks(stat), Some(456_789));
        for odd in [&b""[..], b"7 (a", b"7 (a) S 1 2", b"7 (a) S 1 7 7 0 -1 4194304 1 0 0 0 1 2 3 4 20 0 1 0 x 1"] {
            assert_eq!(start_ticks(odd), None);
        }
    }

    #[test]
    fn start_ms_own_thread_is_before_now() {
        let thread = ThreadStamp::current().ids & u64::from(u32::MAX);
        assert!(start_ms(thread).is_some_and(|start| start > 0 && start <= boot_ms()));
        assert_eq!(start_ms(u64::from(u32::MAX)), None);
    }

    #[test]
    fn has_ended_other_process_or_unknown_is_false() {
        let stamp = ThreadStamp::current();
        let elsewhere = ThreadStamp { ids: stamp.ids ^ 1 << 40, seen_ms: 0 };
        assert!(!elsewhere.has_ended());
        assert!(!ThreadStamp { ids: 0, seen_ms: 0 }.has_ended());
    }
}
