//! A report before the process aborts, by a handler of SIGABRT that calls the handler before it.
#![expect(unsafe_code, reason = "signal handlers are installed and chained by hand")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use super::OsError;
use super::errno::preserve_errno;

const WHAT: &str = "a handler of SIGABRT";

/// Longest wait of a thread for the report of another one, in steps of 1 ms.
const WAIT_MS: u32 = 100;

/// The functions to call, and the action that was installed before.
struct Handlers {
    speak: fn(),
    survived: fn(),
    before: libc::sigaction,
}

static HANDLERS: OnceLock<Handlers> = OnceLock::new();

/// State of the report: `READY`, `WRITING` or `WRITTEN`.
static REPORT: AtomicU8 = AtomicU8::new(READY);
const READY: u8 = 0;
const WRITING: u8 = 1;
const WRITTEN: u8 = 2;

/// Registers `speak`, which is called when the process aborts, before the handler that was installed until now.
///
/// One thread at a time calls `speak`. Another thread that aborts at the same time waits until it has returned, at most
/// 100 ms. `survived` is called if the earlier handler returns: the process may go on, and a later abort calls `speak`
/// again. Both run in a signal handler, so they must not allocate, lock or panic.
///
/// The first call registers the functions, later calls have no effect. On Linux with glibc a shared library that
/// contains this code stays loaded from here on, since the handler would dangle after a `dlclose`. musl never unloads a
/// library. On other platforms do not unload it.
pub(crate) fn on_abort(speak: fn(), survived: fn()) -> Result<(), OsError> {
    let failed = || OsError::Io { what: WHAT, source: io::Error::last_os_error() };
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null action only asks for the present one, written to `before`, which has room for it.
    if unsafe { libc::sigaction(libc::SIGABRT, ptr::null(), before.as_mut_ptr()) } != 0 {
        return Err(failed());
    }
    // SAFETY: `sigaction` succeeded and has filled it; all zeros are a valid value besides.
    let before = unsafe { before.assume_init() };
    keep_loaded()?;
    let mut first = false;
    HANDLERS.get_or_init(|| {
        first = true;
        Handlers { speak, survived, before }
    });
    if !first {
        return Ok(());
    }
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
    let mut action = before;
    action.sa_sigaction = handler as libc::sighandler_t;
    // On the stack that aborted, which has room; the alternate one that std sets up has 8 KiB, and half is the
    // kernel's.
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `action` is a whole `sigaction`, and its handler has the signature that SA_SIGINFO promises.
    if unsafe { libc::sigaction(libc::SIGABRT, &raw const action, ptr::null_mut()) } != 0 {
        return Err(failed());
    }
    Ok(())
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(handlers) = HANDLERS.get() else { return };
    preserve_errno(|| report(handlers.speak));
    let before = handlers.before.sa_sigaction;
    if before == libc::SIG_DFL {
        // The process ends when this handler returns.
        die_of(signal);
        return;
    } else if before == libc::SIG_IGN {
        // Nothing is called, and `abort` ends the process when this returns.
    } else if handlers.before.sa_flags & libc::SA_SIGINFO == 0 {
        // SAFETY: without SA_SIGINFO the kernel was given a function that takes the signal's number.
        let before = unsafe { std::mem::transmute::<libc::sighandler_t, extern "C" fn(libc::c_int)>(before) };
        before(signal);
    } else {
        type Informed = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
        // SAFETY: with SA_SIGINFO the kernel was given a function of this signature.
        let before = unsafe { std::mem::transmute::<libc::sighandler_t, Informed>(before) };
        before(signal, info, context);
    }
    (handlers.survived)();
    let _other_thread_writes = REPORT.compare_exchange(WRITTEN, READY, SeqCst, SeqCst);
}

/// Calls `speak`, unless another thread has done so or does so now. Then it waits until the report is written.
fn report(speak: fn()) {
    match REPORT.compare_exchange(READY, WRITING, SeqCst, SeqCst) {
        Ok(_ready) => {
            speak();
            REPORT.store(WRITTEN, SeqCst);
        }
        Err(_taken) => {
            for _ in 0..WAIT_MS {
                if REPORT.load(SeqCst) != WRITING {
                    break;
                }
                sleep_1_ms();
            }
        }
    }
}

fn sleep_1_ms() {
    let time = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    // SAFETY: `time` is valid for reading, and a null pointer asks for no remaining time. POSIX lists `nanosleep` as
    // safe in handlers.
    unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) };
}

/// Ends the process as the signal would have without a handler: it is pending until the handler returns.
fn die_of(signal: libc::c_int) {
    // SAFETY: takes any signal and the default action; POSIX lists it as safe in handlers.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: raises a signal in this thread; POSIX lists it as safe in handlers.
    unsafe { libc::raise(signal) };
}

/// Keeps the shared library that contains this code loaded until the process ends.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_loaded() -> Result<(), OsError> {
    // SAFETY: `getauxval` takes any type of entry, and returns 0 for those that are missing.
    let entry = unsafe { libc::getauxval(libc::AT_ENTRY) };
    let Some(object) = object_of((&raw const HANDLERS).cast()) else { return Ok(()) }; // a static program
    let program = object_of(ptr::with_exposed_provenance(usize::try_from(entry).unwrap_or(0)));
    if program.is_some_and(|program| program.dli_fbase == object.dli_fbase) {
        return Ok(());
    }
    let flags = libc::RTLD_NOLOAD | libc::RTLD_NODELETE | libc::RTLD_LAZY;
    // SAFETY: `dli_fname` is the name of an object that is loaded now, because this code is part of it. With
    // RTLD_NOLOAD no initializer runs.
    let handle = unsafe { libc::dlopen(object.dli_fname, flags) };
    // The handle is not closed. NODELETE alone would keep the library too.
    if handle.is_null() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        return Err(OsError::Io { what: "keeping the library of the handler of SIGABRT loaded", source });
    }
    Ok(())
}

/// Returns the program or shared library that contains `address`.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn object_of(address: *const libc::c_void) -> Option<libc::Dl_info> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: `dladdr` takes any address, and `info` has room for its answer.
    if unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: `dladdr` succeeded and has filled it; null pointers are valid values besides.
    Some(unsafe { info.assume_init() })
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
#[expect(clippy::unnecessary_wraps, reason = "the signature of all platforms")]
const fn keep_loaded() -> Result<(), OsError> {
    Ok(())
}

/// Returns the free bytes of the alternate signal stack below the caller; `None` if the caller runs on another stack.
///
/// For signal handlers: it makes one system call and keeps `errno`.
#[inline]
pub(crate) fn signal_stack_left() -> Option<usize> {
    let mut stack = MaybeUninit::<libc::stack_t>::zeroed();
    // SAFETY: a null stack only asks for the present one, written to `stack`, which has room for it.
    if unsafe { libc::sigaltstack(ptr::null(), stack.as_mut_ptr()) } != 0 {
        return None;
    }
    let here = stack.as_ptr().addr();
    // SAFETY: `sigaltstack` succeeded and has filled it; all zeros are a valid value besides.
    let stack = unsafe { stack.assume_init() };
    (stack.ss_flags & libc::SS_ONSTACK != 0).then(|| here.saturating_sub(stack.ss_sp.addr()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn report_of_another_thread_is_waited_for() {
        static STARTED: AtomicBool = AtomicBool::new(false);
        static ENDED: AtomicBool = AtomicBool::new(false);
        let first = thread::spawn(|| {
            report(|| {
                STARTED.store(true, SeqCst);
                thread::sleep(Duration::from_millis(20));
                ENDED.store(true, SeqCst);
            });
        });
        while !STARTED.load(SeqCst) {
            thread::yield_now();
        }
        report(|| panic!("a second report"));
        assert!(ENDED.load(SeqCst));
        first.join().unwrap();
        report(|| panic!("a third report"));
        REPORT.store(WRITING, SeqCst);
        report(|| panic!("the wait for a writer that never ends is bounded"));
        REPORT.store(READY, SeqCst);
    }

    #[test]
    fn signal_stack_left_on_a_plain_stack_is_none() {
        assert_eq!(signal_stack_left(), None);
    }
}
