//! The worst time that one thread spends in one allocation next to a thread that allocates without a pause.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::histories::{MIB, thresholds};

/// The processor time of this thread in nanoseconds: other processes do not count.
fn thread_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0, "no clock of the thread");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Measures blocks of 2 MiB for some seconds; a memory size of 4 GiB keeps the thresholds far away.
pub(super) fn measure(seconds: usize, alarm: bool) -> Value {
    if alarm {
        thresholds::set(4096 * MIB);
    }
    let stop = AtomicBool::new(false);
    let mut times = Vec::with_capacity(100_000 * seconds);
    // The share of the processor that the other thread had: if it is low, the two threads did not run at once.
    let share = std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            while !stop.load(Relaxed) {
                drop(black_box(Vec::<u8>::with_capacity(2 * MIB)));
            }
            thread_time()
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(seconds as u64) {
            let before = thread_time();
            let block = black_box(Vec::<u8>::with_capacity(2 * MIB));
            times.push(thread_time() - before);
            drop(block);
            std::thread::sleep(Duration::from_micros(200));
        }
        stop.store(true, Relaxed);
        busy.join().map_or(0.0, |nanos| nanos as f64 / begun.elapsed().as_nanos() as f64)
    });
    times.sort_unstable();
    let micros = |nanos: Option<&u64>| nanos.map(|&nanos| nanos as f64 / 1000.0);
    json!({
        "allocations": times.len(),
        "busy_share": share,
        "worst_us": micros(times.last()),
        "p999_us": micros(times.get(times.len() * 999 / 1000)),
    })
}
