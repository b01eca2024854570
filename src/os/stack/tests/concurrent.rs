//! Walks next to forks, signals and the loader, each with a limit in time that a deadlock exceeds.

use std::ffi::c_int;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use std::{mem, ptr, sync::mpsc, thread};

use super::{ALL, FRAMES, Mapped, recurse, sources, walk};

/// Runs `work` on a thread. Fails if it takes a minute, as in a deadlock.
fn in_time(work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let thread = thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    let result = is_done.recv_timeout(Duration::from_mins(1));
    assert_ne!(result, Err(mpsc::RecvTimeoutError::Timeout), "deadlock");
    thread.join().unwrap();
}

/// Runs `work` again and again on a thread, until the result is dropped.
struct Repeat {
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Repeat {
    fn new(mut work: impl FnMut() + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            while !seen.load(Relaxed) {
                work();
            }
        });
        Self { is_over, thread: Some(thread) }
    }
}

impl Drop for Repeat {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The frames that the handler has found, and its calls.
static IN_HANDLER: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

extern "C" fn walk_in_handler(_signal: c_int) {
    for source in ALL {
        IN_HANDLER[0].fetch_add(walk(source, &mut [0; FRAMES]), Relaxed);
    }
    IN_HANDLER[1].fetch_add(1, Relaxed);
}

/// Has `walk_in_handler` called for SIGUSR2.
fn handle_signals(flags: c_int) {
    // SAFETY: all zeros are a valid value of the structure.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = walk_in_handler as *const () as usize;
    action.sa_flags = flags | libc::SA_RESTART;
    // SAFETY: the handler only walks and adds to atomics.
    let failed = unsafe { libc::sigaction(libc::SIGUSR2, &raw const action, ptr::null_mut()) };
    assert_eq!(failed, 0);
}

/// Has the handlers of this thread run on `stack`.
fn set_signal_stack(stack: &Mapped) {
    let stack = libc::stack_t { ss_sp: stack.0.cast(), ss_flags: 0, ss_size: stack.1 };
    // SAFETY: the mapping lives until the thread has ended.
    let failed = unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
    assert_eq!(failed, 0);
}

#[test]
fn walk_stack_in_signal_handlers_survives() {
    in_time(|| {
        for flags in [libc::SA_ONSTACK, 0] {
            handle_signals(flags);
            let (sender, receiver) = mpsc::channel();
            let is_over = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&is_over);
            let thread = thread::spawn(move || {
                let stack = mem::ManuallyDrop::new(Mapped::new(32 << 10));
                set_signal_stack(&stack);
                // SAFETY: `gettid` has no preconditions.
                sender.send(unsafe { libc::gettid() }).unwrap();
                while !seen.load(Relaxed) {
                    for source in ALL {
                        recurse(10, &mut || _ = walk(source, &mut [0; FRAMES]));
                    }
                    (0..1000).for_each(|round| _ = black_box(round));
                }
            });
            let target = receiver.recv().unwrap();
            let before = IN_HANDLER[1].load(Relaxed);
            while IN_HANDLER[1].load(Relaxed) < before + 1000 {
                // SAFETY: the thread runs until it is joined below.
                unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), target, libc::SIGUSR2) };
                thread::sleep(Duration::from_micros(20));
            }
            is_over.store(true, Relaxed);
            thread.join().unwrap();
        }
        assert!(IN_HANDLER[0].load(Relaxed) > 0);
    });
}

/// Loads and unloads a library that each installation of glibc has.
#[cfg(target_env = "gnu")]
fn load_and_unload() {
    // SAFETY: the library has no initializers.
    let library = unsafe { libc::dlopen(c"libBrokenLocale.so.1".as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null());
    // SAFETY: nothing of the library is in use.
    unsafe { libc::dlclose(library) };
}

/// A static executable has no loader.
#[cfg(not(target_env = "gnu"))]
fn load_and_unload() {}

#[test]
fn walk_stack_while_libraries_are_loaded_goes_on() {
    in_time(|| {
        let _loads = Repeat::new(load_and_unload);
        let _lists = Repeat::new(|| drop(black_box(crate::os::modules())));
        for _ in 0..2000 {
            for source in sources() {
                assert!(walk(source, &mut [0; FRAMES]) >= 3);
            }
        }
    });
}

/// Waits for a child, and fails if it takes ten seconds.
fn wait_for(child: libc::pid_t) {
    for _ in 0..10_000 {
        let mut status = 0;
        // SAFETY: `status` is valid for writing.
        let ended = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) };
        if ended == child {
            assert_eq!(status, 0, "the child found no stack, or crashed");
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: the child is not waited for, so its id is still its own.
    unsafe { libc::kill(child, libc::SIGKILL) };
    panic!("deadlock in a child");
}

#[test]
fn walk_stack_in_a_forked_child_goes_on() {
    in_time(|| {
        let sources: Vec<_> = sources().collect();
        let of_thread = sources.clone();
        let _loads = Repeat::new(load_and_unload);
        let _walks = Repeat::new(move || of_thread.iter().for_each(|&source| _ = walk(source, &mut [0; FRAMES])));
        for _ in 0..200 {
            // SAFETY: the child only walks and ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let is_found = sources.iter().all(|&source| walk(source, &mut [0; FRAMES]) >= 3);
                // SAFETY: ends the process without handlers of the parent's.
                unsafe { libc::_exit(i32::from(!is_found)) };
            }
            assert!(child > 0);
            wait_for(child);
        }
    });
}
