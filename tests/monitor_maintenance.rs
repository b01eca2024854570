//! Maintenance by time, and observers that follow the policy.
#![expect(clippy::expect_used, reason = "clippy knows `#[test]` functions as tests, but not their helpers")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use plimsoll::monitor::{MonitorBuilder, ReportPolicy};
use plimsoll::{Cache, ManualClock, Monitor, TrackingAllocator};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn builder() -> MonitorBuilder {
    Monitor::builder().print_reports(false)
}

/// A monitor with a hook that counts its calls.
fn counting(builder: MonitorBuilder) -> (Monitor, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let monitor = builder.at_end(move || _ = counted.fetch_add(1, SeqCst)).build().expect("constant settings");
    (monitor, calls)
}

#[test]
fn hooks_run_once_a_second_while_a_request_is_always_in_flight() {
    let manual = ManualClock::new();
    let (monitor, calls) = counting(builder().clock(manual.clock()));
    let _always = monitor.start("always");
    let end = || _ = monitor.start("r").finish();
    for second in 0..5 {
        (0..10).for_each(|_| end());
        assert_eq!(calls.load(SeqCst), second, "a period has not passed");
        manual.advance(Duration::from_millis(999));
        end();
        assert_eq!(calls.load(SeqCst), second);
        manual.advance(Duration::from_millis(20));
        end();
        assert_eq!(calls.load(SeqCst), second + 1);
    }
}

#[test]
fn hooks_run_at_each_end_that_leaves_none_in_flight() {
    let manual = ManualClock::new();
    let (monitor, calls) = counting(builder().clock(manual.clock()));
    (0..10).for_each(|_| _ = monitor.start("r").finish());
    assert_eq!(calls.load(SeqCst), 10);
    drop(monitor.start("unfinished"));
    assert_eq!(calls.load(SeqCst), 11);
}

#[test]
fn hook_that_takes_long_waits_a_hundred_times_as_long() {
    let manual = ManualClock::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let monitor = builder().clock(manual.clock()).at_end(move || {
        std::thread::sleep(Duration::from_millis(50));
        counted.fetch_add(1, SeqCst);
    });
    let monitor = monitor.build().expect("constant settings");
    let _always = monitor.start("always");
    manual.advance(Duration::from_millis(1020));
    _ = monitor.start("r").finish();
    assert_eq!(calls.load(SeqCst), 1);
    manual.advance(Duration::from_millis(4900));
    _ = monitor.start("r").finish();
    assert_eq!(calls.load(SeqCst), 1, "50 ms are 1 % of 5 s");
    manual.advance(Duration::from_mins(1));
    _ = monitor.start("r").finish();
    assert_eq!(calls.load(SeqCst), 2);
}

#[test]
fn watched_cache_frees_expired_entries_by_time() {
    let manual = ManualClock::new();
    let cache: Cache<u32, Box<u32>> = Cache::builder("orders")
        .max_entries(1000)
        .time_to_live(Duration::from_secs(10))
        .clock(manual.clock())
        .build()
        .expect("it has a bound");
    let monitor = builder().clock(manual.clock()).cache(&cache).build().expect("constant settings");
    let _always = monitor.start("always");
    (0..100).for_each(|key| cache.insert(key, Box::new(key)).expect("it fits"));
    manual.advance(Duration::from_secs(5));
    _ = monitor.start("r").finish();
    assert_eq!(cache.len(), 100);
    manual.advance(Duration::from_secs(6));
    _ = monitor.start("r").finish();
    assert_eq!(cache.len(), 0);
}

#[test]
fn run_maintenance_does_all_at_once() {
    let manual = ManualClock::new();
    let cache: Cache<u32, Box<u32>> = Cache::builder("orders")
        .max_entries(5000)
        .time_to_live(Duration::from_secs(10))
        .clock(manual.clock())
        .build()
        .expect("it has a bound");
    let (monitor, calls) = counting(builder().clock(manual.clock()).cache(&cache).trim(false));
    (0..3000).for_each(|key| cache.insert(key, Box::new(key)).expect("it fits"));
    manual.advance(Duration::from_secs(11));
    assert_eq!(monitor.run_maintenance(), None, "trims are off");
    assert_eq!((cache.len(), calls.load(SeqCst)), (0, 1));
    // It takes the place of the one at the end of an invocation.
    let _always = monitor.start("always");
    _ = monitor.start("r").finish();
    assert_eq!(calls.load(SeqCst), 1);
}

#[test]
fn observers_of_reports_follow_the_policy() {
    let seen = |policy| {
        let [reports, requests] = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
        let (counted, all) = (Arc::clone(&reports), Arc::clone(&requests));
        let monitor = builder()
            .report(policy)
            .on_report(move |_| _ = counted.fetch_add(1, SeqCst))
            .on_request(move |_| _ = all.fetch_add(1, SeqCst))
            .build()
            .expect("constant settings");
        (0..100).for_each(|_| _ = monitor.start("r").finish());
        assert_eq!(requests.load(SeqCst), 100);
        reports.load(SeqCst)
    };
    assert_eq!(seen(ReportPolicy::Each), 100);
    assert_eq!(seen(ReportPolicy::Off), 0);
    let every = |n| seen(ReportPolicy::Every(NonZeroU32::new(n).expect("not zero")));
    assert_eq!([every(1), every(7), every(100), every(1000)], [100, 15, 1, 1]);
}
