//! The alarm: each crossing is one alarm, none is lost, and no check waits for another.

use crate::heap::alarm_state::{AlarmState, CHECK_DISTANCE, MAX_THRESHOLDS, Reading};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use loom::thread;

const THRESHOLD: usize = 100 << 20;
const LOW: usize = 10 << 20;
const HIGH: usize = 110 << 20;

/// A process: its alarm, its rss, its total, and the alarms that were written.
struct Process {
    alarm: AlarmState,
    rss: AtomicUsize,
    total: AtomicUsize,
    written: AtomicUsize,
}

impl Process {
    fn new(rss: usize) -> Arc<Self> {
        let process = Self {
            alarm: AlarmState::new(),
            rss: AtomicUsize::new(rss),
            total: AtomicUsize::new(rss),
            written: AtomicUsize::new(0),
        };
        let mut thresholds = [usize::MAX; MAX_THRESHOLDS];
        thresholds[0] = THRESHOLD;
        process.alarm.set_thresholds(thresholds);
        process.check(0);
        Arc::new(process)
    }

    /// The check of a thread on its slow path; `untouched` are the pages of its new block.
    fn check(&self, untouched: usize) {
        for is_last in [false, true] {
            let check = self.alarm.begin();
            let total = self.total.load(SeqCst);
            let load = self.rss.load(SeqCst) + untouched;
            let is_newest = self.alarm.finish(check, Reading { total, load }, is_last, || self.total.load(SeqCst));
            if self.alarm.take_owed() {
                self.written.fetch_add(1, SeqCst);
            }
            if is_newest {
                return;
            }
        }
    }

    fn allocate(&self, size: usize) {
        let total = self.total.fetch_add(size, SeqCst) + size;
        self.rss.fetch_add(size, SeqCst);
        if self.alarm.is_due_after_rise(total, size) {
            self.check(0);
        }
    }

    fn free(&self, size: usize) {
        let total = self.total.fetch_sub(size, SeqCst) - size;
        self.rss.fetch_sub(size, SeqCst);
        if self.alarm.is_due_after_fall(total) {
            self.check(0);
        }
    }

    fn is_crossed(&self) -> bool {
        self.alarm.highest_crossed().is_some()
    }
}

fn model(preemptions: usize, case: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(case);
}

#[test]
fn two_threads_that_cross_at_once_write_one_alarm() {
    model(3, || {
        let process = Process::new(LOW);
        let other = thread::spawn({
            let process = Arc::clone(&process);
            move || process.allocate(HIGH)
        });
        process.allocate(HIGH);
        other.join().unwrap();
        assert_eq!((process.written.load(SeqCst), process.is_crossed()), (1, true));
    });
}

#[test]
fn each_crossing_block_is_judged_before_its_caller_has_it() {
    model(3, || {
        let process = Process::new(LOW);
        let other = thread::spawn({
            let process = Arc::clone(&process);
            move || process.allocate(2 * CHECK_DISTANCE)
        });
        process.allocate(HIGH);
        assert!(process.is_crossed(), "whatever the other thread checks");
        other.join().unwrap();
        assert_eq!(process.written.load(SeqCst), 1);
    });
}

#[test]
fn a_reading_of_before_does_not_clear_the_flag_of_a_later_one() {
    model(3, || {
        let process = Process::new(LOW);
        let other = thread::spawn({
            let process = Arc::clone(&process);
            move || process.check(0)
        });
        process.allocate(HIGH);
        other.join().unwrap();
        assert_eq!((process.written.load(SeqCst), process.is_crossed()), (1, true));
    });
}

#[test]
fn a_fall_beside_small_rises_clears_the_flag_and_the_next_crossing_alarms() {
    model(2, || {
        let process = Process::new(LOW);
        process.allocate(HIGH);
        let other = thread::spawn({
            let process = Arc::clone(&process);
            move || {
                process.allocate(2 * CHECK_DISTANCE);
                process.free(2 * CHECK_DISTANCE);
            }
        });
        process.free(HIGH);
        other.join().unwrap();
        // Two checks of before the fall may have held the flag. The next check clears it.
        process.allocate(CHECK_DISTANCE);
        assert_eq!((process.written.load(SeqCst), process.is_crossed()), (1, false));
        process.allocate(HIGH);
        assert_eq!((process.written.load(SeqCst), process.is_crossed()), (2, true));
    });
}

#[test]
fn a_rise_by_the_distance_is_checked_whatever_falls_beside_it() {
    model(3, || {
        let process = Process::new(LOW);
        process.allocate(20 * CHECK_DISTANCE);
        let other = thread::spawn({
            let process = Arc::clone(&process);
            move || process.free(20 * CHECK_DISTANCE)
        });
        process.allocate(2 * CHECK_DISTANCE);
        other.join().unwrap();
        let total = process.total.load(SeqCst);
        assert!(process.alarm.is_due_after_rise(total + CHECK_DISTANCE, 1), "at {total}");
    });
}

#[test]
fn a_request_inside_of_the_allocator_holds_its_flag() {
    model(3, || {
        let process = Process::new(LOW);
        let other = thread::spawn({
            let process = Arc::clone(&process);
            move || process.check(0)
        });
        // Foreseen: the pages are touched inside.
        process.alarm.enter();
        process.check(HIGH);
        process.rss.fetch_add(HIGH, SeqCst);
        process.alarm.leave();
        process.check(0);
        other.join().unwrap();
        assert_eq!((process.written.load(SeqCst), process.is_crossed()), (1, true));
    });
}

#[test]
fn an_alarm_that_could_not_be_written_is_written_once_later() {
    model(3, || {
        let process = Process::new(LOW);
        let check = process.alarm.begin();
        process.alarm.finish(check, Reading { total: HIGH, load: HIGH }, true, || HIGH);
        assert!(process.alarm.take_owed());
        process.rss.store(HIGH, SeqCst);
        process.alarm.owe();
        let other = thread::spawn({
            let process = Arc::clone(&process);
            move || process.check(0)
        });
        process.check(0);
        other.join().unwrap();
        assert_eq!(process.written.load(SeqCst), 1);
    });
}
