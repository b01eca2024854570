//! A last word before an abort: a handler of SIGABRT that calls the one before it.
#![expect(unsafe_code, reason = "signal handlers are installed and chained by hand")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use super::OsError;

const WHAT: &str = "a handler of SIGABRT";

/// What to call, and what was installed before.
struct Handlers {
    speak: fn(),
    survived: fn(),
    before: libc::sigaction,
}

static HANDLERS: OnceLock<Handlers> = OnceLock::new();

/// Calls `speak` when the process aborts, then whatever handled SIGABRT before, and `survived` where that returns: the
/// signal may have been sent by somebody whom it was to survive. The first call counts; later ones change nothing. Both
/// run in a signal handler: they must not allocate, lock or panic.
pub(crate) fn on_abort(speak: fn(), survived: fn()) -> Result<(), OsError> {
    let failed = || OsError::Io { what: WHAT, source: io::Error::last_os_error() };
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null action only asks for the present one, written to `before`, which has room for it.
    if unsafe { libc::sigaction(libc::SIGABRT, ptr::null(), before.as_mut_ptr()) } != 0 {
        return Err(failed());
    }
    // SAFETY: `sigaction` succeeded and has filled it; all zeros are a valid value besides.
    let before = unsafe { before.assume_init() };
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
    // On the stack that aborted, which has room; the alternate one that std sets up has 8 KiB, and half is the kernel's.
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `action` is a whole `sigaction` whose handler has the signature that SA_SIGINFO promises.
    if unsafe { libc::sigaction(libc::SIGABRT, &raw const action, ptr::null_mut()) } != 0 {
        return Err(failed());
    }
    Ok(())
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(handlers) = HANDLERS.get() else { return };
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
    (handlers.speak)();
    set_errno(errno);
    let before = handlers.before.sa_sigaction;
    if before == libc::SIG_DFL {
        die_of(signal);
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
}

/// Ends the process as the signal would have without a handler: it is pending until the handler returns.
fn die_of(signal: libc::c_int) {
    // SAFETY: takes any signal and the default action; POSIX lists it as safe in handlers.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: raises a signal in this thread; POSIX lists it as safe in handlers.
    unsafe { libc::raise(signal) };
}

#[cfg(any(target_os = "linux", target_os = "emscripten"))]
fn set_errno(errno: libc::c_int) {
    // SAFETY: the location of this thread's `errno` is valid for as long as the thread runs.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *location = errno };
}

#[cfg(not(any(target_os = "linux", target_os = "emscripten")))]
fn set_errno(_errno: libc::c_int) {}
