//! Children forked while another thread is inside the allocator: each crosses the threshold and must notice.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};

use super::histories::{MIB, PERCENT, thresholds};

const MEMORY_SIZE: usize = 512 * MIB;

/// Counts the children that requested 99 % of the memory size and found no threshold crossed.
pub(super) fn unnoticed(count: usize, alarm: bool) -> Value {
    if alarm {
        thresholds::set(MEMORY_SIZE);
    }
    no_stderr();
    let stop = AtomicBool::new(false);
    let mut unnoticed = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                drop(black_box(Vec::<u8>::with_capacity(2 * MIB)));
            }
        });
        for _ in 0..count {
            unnoticed += u32::from(!child_notices());
        }
        stop.store(true, Relaxed);
    });
    json!({ "children": count, "unnoticed": unnoticed })
}

fn child_notices() -> bool {
    // SAFETY: the child allocates, which the C library allows after a fork, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed");
    if child == 0 {
        let block = black_box(Vec::<u8>::with_capacity(MEMORY_SIZE / 100 * 99));
        let noticed = thresholds::crossed() == Some(PERCENT);
        drop(block);
        // SAFETY: ends this process.
        unsafe { libc::_exit(if noticed { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: the child is ours, and `status` is writable.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert!(ended == child && libc::WIFEXITED(status), "a child ended otherwise");
    libc::WEXITSTATUS(status) == 0
}

/// Discards what is written to stderr: each child writes its alarm.
fn no_stderr() {
    // SAFETY: the path ends with a zero.
    let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY) };
    // SAFETY: plain descriptors of this process.
    unsafe { libc::dup2(null, 2) };
}
