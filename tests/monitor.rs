//! What one invocation is told about, which of it is printed, and when an alert speaks.
#![allow(unsafe_code, reason = "forked children, and blocks of known layout")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "tests without libtest's attribute"
)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use plimsoll::budget::{MemoryBudget, Pressure, ReclaimPriority, reclaim_fn};
use plimsoll::heap;
use plimsoll::monitor::{
    Alert, BuildError, InvocationReport, LeakVerdict, Monitor, MonitorBuilder, Outcome, ReportPolicy, RequestId,
    TrimPolicy,
};
use plimsoll::{ByteDelta, ByteSize, ManualClock, TrackingAllocator, board};

use support::{Block, alone, lean, on_threads};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

const CAN_FORK: bool = cfg!(all(unix, not(miri)));

support::tests! {
    an_invocation_has_a_peak_and_a_growth_of_its_own,
    heap_without_a_gauge_is_unattributed,
    invocations_that_overlap_say_so_and_the_next_one_alone_does_not,
    overlapping_invocations_of_eight_threads_are_all_counted_and_end_with_none_in_flight,
    hooks_run_when_none_is_left_in_flight,
    a_hook_or_an_observer_that_panics_harms_nobody,
    a_guard_dropped_or_unwound_is_unfinished,
    near_limit_is_said_once_until_it_clears if alone(), else "is told the rss of what is around it",
    a_refused_allocation_is_an_alert_of_its_invocation,
    refusals_of_many_threads_are_counted_once,
    every_last_invocation_to_end_runs_the_hooks,
    a_start_notices_that_the_environment_was_frozen,
    the_rss_counts_where_the_heap_does_not_show_it if lean(), else "needs fork and an rss that is this program's own",
    the_end_of_an_invocation_looks_at_the_load if lean(), else "needs fork and an rss that is this program's own",
    the_alarm_names_whom_it_can if cfg!(all(target_os = "linux", not(miri))), else "needs fork and the rss",
    an_invocation_allocates_nothing_and_leaves_nothing,
    a_start_corrects_the_budget_and_the_report_tells_its_drift if alone(), else "is told the rss of what is around it",
    what_invocations_leave_behind_is_growing_unless_someone_accounts_for_it if alone(), else "is told the rss of what is around it",
    invocations_beside_others_have_a_verdict if alone(), else "is told the rss of what is around it",
    request_ids_are_clean,
    recommended_mb_follows_from_the_highest_rss if cfg!(all(target_os = "linux", not(miri))), else "needs the rss",
    impossible_settings_are_errors_that_say_what,
    the_line_reads_as_documented if CAN_FORK, else "needs fork",
    the_policy_decides_which_lines_are_printed if CAN_FORK && alone(), else "needs fork, and is told the rss of what is around it",
    the_variable_overrides_the_policy if CAN_FORK, else "needs fork",
    the_picture_has_the_load_line_holders_and_percentiles,
    percentiles_of_concurrent_invocations_are_not_shown,
    percent_above_100_is_explained,
}

fn builder() -> MonitorBuilder {
    Monitor::builder().memory_size(ByteSize::mib(1024)).print_reports(false)
}

fn quiet() -> Monitor {
    builder().build().unwrap()
}

/// One invocation that does `work`, and its report.
fn invoke(monitor: &Monitor, work: impl FnOnce()) -> InvocationReport {
    let invocation = monitor.start("r");
    work();
    invocation.finish()
}

fn an_invocation_has_a_peak_and_a_growth_of_its_own() {
    let monitor = quiet();
    let large = invoke(&monitor, || drop(Block::new(5 << 20)));
    assert!(
        large.heap.unwrap().peak.at_least >= large.heap.unwrap().live_before.saturating_add(ByteSize::mib(5)),
        "{large:?}"
    );
    assert_eq!(large.heap.unwrap().growth, ByteDelta::bytes(0));
    let small = invoke(&monitor, || ());
    assert!(small.heap.unwrap().peak.at_most < ByteSize::mib(1), "the peak before is gone: {small:?}");

    let mut kept = None;
    let grown = invoke(&monitor, || kept = Some(Block::new(3 << 20)));
    assert_eq!(grown.heap.unwrap().growth, ByteDelta::bytes(3 << 20));
    assert_eq!(grown.heap.unwrap().live, grown.heap.unwrap().live_before.saturating_add(ByteSize::mib(3)));
    let shrunk = invoke(&monitor, || drop(kept.take()));
    assert_eq!(shrunk.heap.unwrap().growth, ByteDelta::bytes(-(3 << 20)));
    assert_eq!((shrunk.invocations, shrunk.outcome), (4, Outcome::Finished));
}

fn heap_without_a_gauge_is_unattributed() {
    let monitor = quiet();
    let block = Block::new(4 << 20);
    let holder = board::holder("ledger of the test");
    holder.set(ByteSize::mib(3));
    let report = invoke(&monitor, || ());
    assert_eq!(report.gauges[0], Some(("ledger of the test", ByteSize::mib(3))));
    assert_eq!(report.heap.unwrap().unattributed, report.heap.unwrap().live.saturating_sub(ByteSize::mib(3)));
    holder.set(ByteSize::ZERO);
    drop(block);
    assert_eq!(invoke(&monitor, || ()).gauges[0], None, "an empty gauge has no name in a report");
}

fn invocations_that_overlap_say_so_and_the_next_one_alone_does_not() {
    let monitor = quiet();
    let first = monitor.start("first");
    let second = monitor.start("second");
    assert!(first.finish().concurrent, "another began while it ran");
    let third = monitor.start("third");
    assert!(second.finish().concurrent);
    assert!(third.finish().concurrent, "it began beside another");
    assert!(!invoke(&monitor, || ()).concurrent);
}

fn overlapping_invocations_of_eight_threads_are_all_counted_and_end_with_none_in_flight() {
    let monitor = quiet();
    on_threads(8, |_| {
        for _ in 0..50 {
            let report = invoke(&monitor, || drop(Block::new(10_000)));
            assert!(report.heap.unwrap().peak.at_most >= ByteSize::bytes(10_000));
        }
    });
    let last = invoke(&monitor, || ());
    assert_eq!((last.invocations, last.concurrent), (401, false));
}

fn hooks_run_when_none_is_left_in_flight() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    static TRIMS: AtomicUsize = AtomicUsize::new(0);
    plimsoll::os::set_trim_hook(|| {
        TRIMS.fetch_add(1, SeqCst);
    });
    TRIMS.store(0, SeqCst);
    let block = Mutex::new(Some(Block::new(2 << 20)));
    let monitor = builder()
        .at_end(|| {
            CALLS.fetch_add(1, SeqCst);
        })
        .at_end(move || drop(block.lock().unwrap().take()))
        .trim(TrimPolicy::each())
        .build()
        .unwrap();
    let (first, second) = (monitor.start("1"), monitor.start("2"));
    assert_eq!(first.finish().heap.unwrap().growth, ByteDelta::bytes(0));
    assert_eq!(CALLS.load(SeqCst), 0);
    let report = second.finish();
    assert_eq!((CALLS.load(SeqCst), TRIMS.load(SeqCst)), (1, 1));
    assert_eq!(report.heap.unwrap().growth, ByteDelta::bytes(-(2 << 20)), "the hook came before the report");
    drop(monitor.start("dropped"));
    assert_eq!(CALLS.load(SeqCst), 2, "unfinished ones end too");
}

/// Panics when it is dropped, as nobody should.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

fn a_hook_or_an_observer_that_panics_harms_nobody() {
    // The hook of the test program would end the process.
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let monitor = builder()
        .at_end(|| panic!("hook"))
        .at_end(|| std::panic::panic_any(Bomb))
        .on_report(|_| panic!("observer"))
        .on_report(move |report| {
            counted.fetch_add(usize::from(report.invocations > 0), SeqCst);
        })
        .build()
        .unwrap();
    assert!(!invoke(&monitor, || ()).concurrent);
    drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _invocation = monitor.start("unwinding");
        panic!("the handler");
    })));
    assert!(!invoke(&monitor, || ()).concurrent, "none was left in flight");
    std::panic::set_hook(say);
    assert_eq!(seen.load(SeqCst), 3);
}

fn a_guard_dropped_or_unwound_is_unfinished() {
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&outcomes);
    let monitor = builder().on_report(move |report| noted.lock().unwrap().push(report.outcome)).build().unwrap();
    drop(monitor.start("dropped"));
    let guard = monitor.start("sent");
    std::thread::spawn(move || drop(guard)).join().unwrap();
    let _report = monitor.start("finished").finish();
    assert_eq!(*outcomes.lock().unwrap(), [Outcome::Unfinished, Outcome::Unfinished, Outcome::Finished]);
}

fn near_limit_is_said_once_until_it_clears() {
    // The heap's peak decides: a limit that this process's rss is far below.
    let monitor = Monitor::builder().memory_size(ByteSize::mib(400)).environment_share(ByteSize::ZERO);
    let monitor = monitor.report(ReportPolicy::Off).build().unwrap();
    let alerts = |size: usize| {
        let report = invoke(&monitor, || drop(Block::with(size, 1, true)));
        report.alerts().collect::<Vec<_>>()
    };
    assert_eq!(alerts(300 << 20), []);
    assert_eq!(alerts(370 << 20), [Alert::NearLimit]);
    assert_eq!(alerts(370 << 20), [], "it still holds, and was said");
    assert_eq!(alerts(1), []);
    assert_eq!(alerts(370 << 20), [Alert::NearLimit]);
}

fn a_refused_allocation_is_an_alert_of_its_invocation() {
    let monitor = quiet();
    let refused = |invocation: InvocationReport| (invocation.refused, invocation.alerts().collect::<Vec<_>>());
    let fail = || {
        heap::set_limit(ByteSize::mib(50)).unwrap();
        assert!(Vec::<u8>::new().try_reserve(60 << 20).is_err());
        heap::clear_limit();
    };
    assert_eq!(refused(invoke(&monitor, fail)), (1, vec![Alert::Refused]));
    assert_eq!(refused(invoke(&monitor, || ())), (0, vec![]));
    assert_eq!(refused(invoke(&monitor, fail)), (1, vec![Alert::Refused]));
}

fn refusals_of_many_threads_are_counted_once() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let monitor = builder()
        .on_report(move |report| {
            counted.fetch_add(usize::try_from(report.refused).unwrap(), SeqCst);
        })
        .build()
        .unwrap();
    heap::set_limit(ByteSize::mib(50)).unwrap();
    on_threads(4, |_| {
        for _ in 0..500 {
            drop(invoke(&monitor, || assert!(Vec::<u8>::new().try_reserve(60 << 20).is_err())).alerts());
        }
    });
    heap::clear_limit();
    assert_eq!(seen.load(SeqCst), 2000);
}

fn every_last_invocation_to_end_runs_the_hooks() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let monitor = builder().at_end(|| drop(CALLS.fetch_add(1, SeqCst).to_string())).build().unwrap();
    let both = std::sync::Barrier::new(2);
    on_threads(2, |_| {
        for round in 1..=500 {
            let invocation = monitor.start("one of two");
            both.wait();
            let _report = invocation.finish();
            both.wait();
            assert_eq!(CALLS.load(SeqCst), round);
            both.wait();
        }
    });
}

fn a_start_notices_that_the_environment_was_frozen() {
    let hands = ManualClock::new();
    let (clock, monitor) = (hands.clock(), builder().clock(hands.clock()).build().unwrap());
    let before = clock.now();
    // A wall clock that leads and a monotonic one that stood still: only a look at both sees it.
    hands.freeze(std::time::Duration::from_mins(1));
    let _report = monitor.start("after a freeze").finish();
    assert!(clock.now() >= before + 60_000, "{before} and {}", clock.now());
}

/// Memory that the kernel counts and the ledger does not, as a C library's; for good.
fn beside_the_heap(bytes: usize) {
    let layout = std::alloc::Layout::from_size_align(bytes, 4096).unwrap();
    // SAFETY: the size is not zero.
    let block = unsafe { std::alloc::GlobalAlloc::alloc(&std::alloc::System, layout) };
    // SAFETY: the block has so many bytes, and is never freed.
    unsafe { block.write_bytes(1, bytes) };
}

fn the_rss_counts_where_the_heap_does_not_show_it() {
    let ended = support::in_child(|| {
        let monitor = Monitor::builder().memory_size(ByteSize::mib(300)).environment_share(ByteSize::ZERO);
        let monitor = monitor.report(ReportPolicy::Off).build().unwrap();
        let touched = invoke(&monitor, || drop(std::hint::black_box(vec![1u8; 100 << 20])));
        assert!(touched.peak_rss.unwrap() >= ByteSize::mib(100), "{touched:?}");
        if plimsoll::os::reset_peak_rss().is_ok() {
            let after = invoke(&monitor, || ());
            assert!(after.peak_rss.unwrap() < ByteSize::mib(50), "a peak of its own: {after:?}");
        }
        let near = invoke(&monitor, || beside_the_heap(280 << 20));
        assert_eq!(near.alerts().collect::<Vec<_>>(), [Alert::NearLimit], "{near:?}");
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

fn the_end_of_an_invocation_looks_at_the_load() {
    let ended = support::in_child(|| {
        let monitor = Monitor::builder().memory_size(ByteSize::mib(300)).environment_share(ByteSize::ZERO);
        let monitor = monitor.report(ReportPolicy::Off).build().unwrap();
        monitor.install();
        let report = invoke(&monitor, || beside_the_heap(230 << 20));
        assert_eq!(report.crossed, Some(70));
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

fn the_alarm_names_whom_it_can() {
    let alarm = |work: &dyn Fn(&Monitor)| {
        let ended = support::in_child(|| {
            let monitor = Monitor::builder().memory_size(ByteSize::mib(300)).environment_share(ByteSize::ZERO);
            let monitor = monitor.report(ReportPolicy::Off).build().unwrap();
            monitor.install();
            work(&monitor);
        });
        let alarm: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap();
        let requests = alarm["requests"].as_array().map(Vec::as_slice).unwrap_or_default();
        requests.iter().map(|request| request["request_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let most = || drop(Block::with(295 << 20, 1, true));
    assert_eq!(alarm(&|monitor| drop(invoke(monitor, most).alerts())), ["r"]);
    let beside_a_later_one = alarm(&|monitor| {
        let (_earlier, _later) = (monitor.start("earlier"), monitor.start("later"));
        most();
    });
    assert_eq!(beside_a_later_one, ["earlier", "later"], "the oldest first");
    let after_a_later_one = alarm(&|monitor| {
        let _earlier = monitor.start("earlier");
        drop(monitor.start("later"));
        most();
    });
    assert_eq!(after_a_later_one, ["earlier"]);
}

fn an_invocation_allocates_nothing_and_leaves_nothing() {
    let monitor = quiet();
    // The kept descriptors of `/proc`, and a window that has come round.
    (0..300).for_each(|_| drop(invoke(&monitor, || ()).alerts()));
    let (allocated, delta) = heap::scope(|| {
        for _ in 0..1000 {
            let report = monitor.start("4f1c9a1e-0000-1111-2222-333344445555").finish();
            assert_eq!(report.heap.unwrap().growth, ByteDelta::bytes(0));
        }
    });
    let () = allocated;
    assert_eq!(delta.unwrap().allocated, ByteSize::ZERO);
}

fn a_start_corrects_the_budget_and_the_report_tells_its_drift() {
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let monitor = builder().budget(&budget).build().unwrap();
    assert_eq!(quiet().start("without").finish().reserved, None);
    let cache = budget.account("cache of the test").unwrap();
    let reserved = cache.try_reserve(ByteSize::mib(60)).unwrap();
    let values: Vec<Block> = (0..60).map(|_| Block::new(1 << 20)).collect();
    let held = Arc::new(Mutex::new((values, reserved)));
    let releasing = Arc::clone(&held);
    // Frees whole values, and releases them.
    let reclaimer = reclaim_fn(move |want: ByteSize, _| {
        let (values, reserved) = &mut *releasing.lock().unwrap();
        let count = want.as_usize().div_ceil(1 << 20).min(values.len());
        values.truncate(values.len() - count);
        reserved.shrink(ByteSize::mib(count as u64));
    });
    let _registered = cache.register_reclaimer(ReclaimPriority::CACHE, reclaimer);

    let block = Block::new(10 << 20);
    let report = invoke(&monitor, || ());
    let reserved = report.reserved.unwrap();
    assert_eq!((reserved.bytes, reserved.pressure), (ByteSize::mib(60), Pressure::Normal));
    assert_eq!(report.drift(), Some(ByteDelta::between(ByteSize::mib(60), report.heap.unwrap().live)));
    let capacity = budget.capacity();
    // The block, and what else the process has.
    assert_eq!(capacity.unreserved_heap.as_u64() >> 20, 10, "{capacity:?}");
    assert_eq!(reserved.capacity.as_u64() >> 20, 89);
    let refused = budget.account("asker").unwrap().try_reserve(ByteSize::mib(90)).unwrap_err().to_string();
    assert!(
        refused.ends_with("cache of the test 60.0 MiB; 10.0 MiB of heap are not reserved by any account"),
        "{refused}"
    );

    let more = Block::new(50 << 20);
    let others = monitor.start("other");
    assert_eq!(
        held.lock().unwrap().1.size(),
        ByteSize::mib(39),
        "60 and a little are unreserved: less than 40 are left"
    );
    let line = others.finish().to_string();
    assert!(line.contains(" | reserved 39.0 of 40.0 pressure critical drift +60."), "{line}");
    let (reserved, accounts) = monitor.snapshot().reserved.unwrap();
    assert_eq!((accounts[0].name, accounts[0].reserved), ("cache of the test", reserved.bytes));
    assert!(monitor.snapshot().to_string().contains("cache of the test 39.0"));
    let before = budget.capacity().total;
    let never_ending = monitor.start("never ending");
    drop((block, more));
    assert!(invoke(&monitor, || ()).reserved.unwrap().capacity > before, "and it comes back, whoever is in flight");
    drop(never_ending);
}

/// Kept after each of the 300 invocations of [`keeping`].
const KEPT: ByteSize = ByteSize::kib(160);

/// A monitor of 52 MiB.
fn small() -> Monitor {
    Monitor::builder().memory_size(ByteSize::mib(64)).report(ReportPolicy::Off).build().unwrap()
}

/// The last of 300 reports, after each of which more is kept; and how often an alert spoke of it.
fn keeping(monitor: &Monitor, holder: Option<board::Holder>) -> (InvocationReport, usize) {
    let mut kept: Vec<Vec<u8>> = Vec::with_capacity(300);
    let mut last = None;
    let mut said = 0;
    for _ in 0..300 {
        let report = invoke(monitor, || {
            kept.push(vec![1; KEPT.as_usize()]);
            if let Some(holder) = holder {
                holder.add(KEPT);
            }
        });
        said += report.alerts().filter(|alert| *alert == Alert::GrowingHeap).count();
        last = Some(report);
    }
    (last.unwrap(), said)
}

/// Returns `true` if the verdict is growing, at the pace of [`keeping`].
fn is_growing(report: &InvocationReport) -> bool {
    let LeakVerdict::Growing { per_invocation, invocations_left, .. } = report.verdict else { return false };
    per_invocation.as_u64().abs_diff(KEPT.as_u64()) < KEPT.as_u64() / 10
        && invocations_left.is_some_and(|left| left < 60)
}

fn what_invocations_leave_behind_is_growing_unless_someone_accounts_for_it() {
    let monitor = small();
    let (report, said) = keeping(&monitor, None);
    assert!(is_growing(&report) && said == 1, "{said} times: {report}");
    assert!(report.to_string().contains(" | growing 1"), "{report}");
    assert!(monitor.snapshot().to_string().contains("what invocations leave: growing 1"));

    let (report, said) = keeping(&small(), Some(board::holder("cache that warms up")));
    assert_eq!((report.verdict, said), (LeakVerdict::Steady, 0), "{report}");
    assert!(report.to_string().contains(" | steady"), "{report}");
    board::holder("cache that warms up").set(ByteSize::ZERO);
}

fn invocations_beside_others_have_a_verdict() {
    let monitor = small();
    let never_ending = monitor.start("never ending");
    let (report, said) = keeping(&monitor, None);
    assert!(report.concurrent && is_growing(&report) && said == 1, "{said} times: {report}");
    drop(never_ending);
}

fn request_ids_are_clean() {
    let long = "x".repeat(1000);
    for (given, kept) in [
        ("4f1c9a1e-83aa_b.c:d", "4f1c9a1e-83aa_b.c:d"),
        ("a\n\"plimsoll\" \u{1b}[31m\0é", "aplimsoll31m"),
        ("\u{202e}", ""),
        (long.as_str(), &long[..64]),
    ] {
        assert_eq!(RequestId::new(given).as_str(), kept, "{given:?}");
    }
    assert_eq!(RequestId::new("").to_string(), "-");
    assert_eq!(quiet().start("a b").id().as_str(), "ab");
}

fn recommended_mb_follows_from_the_highest_rss() {
    let monitor = Monitor::builder().memory_size(ByteSize::mib(1024)).report(ReportPolicy::Off).build().unwrap();
    assert_eq!(invoke(&monitor, || ()).recommended_mb(), Some(128), "no function is smaller");
    let grown = invoke(&monitor, || drop(std::hint::black_box(vec![1u8; 200 << 20])));
    let expected = |report: &InvocationReport| {
        (report.highest_rss.as_u64() + (12 << 20)).saturating_mul(125).div_ceil(100).div_ceil(1 << 20)
    };
    assert!(grown.highest_rss >= ByteSize::mib(200), "{grown:?}");
    assert_eq!(grown.recommended_mb(), Some(expected(&grown)));
    let after = invoke(&monitor, || ());
    assert_eq!(after.highest_rss, grown.highest_rss, "the size must fit the largest");
    assert!(after.to_string().ends_with("MB?"), "{after}: three invocations tell little");
    (0..20).for_each(|_| drop(invoke(&monitor, || ()).alerts()));
    assert!(invoke(&monitor, || ()).to_string().ends_with("MB"));
}

fn impossible_settings_are_errors_that_say_what() {
    let rising = builder().alarm_thresholds(&[90, 70]).build().unwrap_err();
    assert!(matches!(rising, BuildError::AlarmThresholds { .. }));
    let source = std::error::Error::source(&rising).unwrap().to_string();
    assert!(source.contains("70 %"), "{source}");
    let report = invoke(&builder().window(usize::MAX).build().unwrap(), || ());
    assert_eq!(report.invocations, 1, "a window has an end");
    for hostile in [ByteSize::ZERO, ByteSize::bytes(1), ByteSize::MAX] {
        for share in [ByteSize::ZERO, ByteSize::MAX] {
            let monitor = builder().memory_size(hostile).environment_share(share).window(0).build().unwrap();
            let report = invoke(&monitor, || ());
            assert!(report.to_string().len() < 500 && monitor.snapshot().to_string().len() < 5000);
        }
    }
}

fn the_line_reads_as_documented() {
    let ended = support::in_child(|| {
        let monitor = Monitor::builder().memory_size(ByteSize::mib(128)).install().unwrap();
        board::holder("sessions").set(ByteSize::kib(512));
        let sessions = Block::new(600 << 10);
        assert!(!invoke(&monitor, || drop(Block::new(39 << 20))).alerts().any(|alert| alert == Alert::NearLimit));
        drop(monitor.start("cut\nshort"));
        drop(sessions);
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("plimsoll r heap 0.6 peak 39.6 of 116 MiB (34 %) "), "{}", lines[0]);
    assert!(lines[0].contains(" +0 B | sessions 0.5 unattributed 0.1"), "{}", lines[0]);
    if cfg!(target_os = "linux") {
        assert!(lines[0].ends_with(" | recommended=128MB?"), "{}", lines[0]);
    }
    assert!(lines[1].starts_with("plimsoll cutshort heap") && lines[1].contains(" | unfinished"), "{}", lines[1]);
}

/// Which of ten invocations printed: from the seventh on each has a peak larger by 101 MiB, of 1000, than the one before.
fn printed(policy: ReportPolicy) -> Vec<usize> {
    let ended = support::in_child(|| {
        let monitor = Monitor::builder().memory_size(ByteSize::mib(1000)).environment_share(ByteSize::ZERO);
        let monitor = monitor.report(policy).install().unwrap();
        for number in 0..10_usize {
            let invocation = monitor.start(&*number.to_string());
            drop(Block::with(1 + number.saturating_sub(5) * (101 << 20), 1, true));
            let _report = invocation.finish();
        }
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stderr.lines().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect()
}

fn the_policy_decides_which_lines_are_printed() {
    let every = |n| ReportPolicy::Every(std::num::NonZeroU32::new(n).unwrap());
    assert_eq!(printed(ReportPolicy::Each), (0..10).collect::<Vec<_>>());
    assert_eq!(printed(every(4)), [0, 4, 8]);
    assert_eq!(printed(every(1)).len(), 10);
    assert_eq!(printed(ReportPolicy::OnChange), [0, 6, 7, 8, 9]);
    assert!(printed(ReportPolicy::Off).is_empty());

    let ended = support::in_child(|| {
        let monitor = Monitor::builder().memory_size(ByteSize::mib(1000)).environment_share(ByteSize::ZERO);
        let monitor = monitor.report(ReportPolicy::OnChange).install().unwrap();
        for percent in [29, 31, 29, 31, 38, 40, 30] {
            let invocation = monitor.start(&*percent.to_string());
            drop(Block::with(percent * (10 << 20) + (5 << 20), 1, true));
            drop(invocation);
        }
    });
    let printed: Vec<_> = ended.stderr.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(printed, ["29", "40", "30"], "a peak that plays about a tenth is no change, nor is being unfinished");
}

fn the_variable_overrides_the_policy() {
    let with = |name: &str, value: &str| {
        support::in_child(|| {
            // SAFETY: the forked child has one thread.
            unsafe { std::env::set_var(name, value) };
            let monitor = Monitor::builder().memory_size(ByteSize::mib(128)).install().unwrap();
            (0..4).for_each(|_| drop(invoke(&monitor, || ()).alerts()));
        })
        .stderr
    };
    assert_eq!(with("PLIMSOLL_REPORT", "each").lines().count(), 4);
    assert_eq!(with("PLIMSOLL_REPORT", " every:3 ").lines().count(), 2);
    assert_eq!(with("PLIMSOLL_REPORT", "off"), "");
    for bad in ["", "foo", "every:0", "every:-1", "loud\n{\"forged\":1}"] {
        let said = with("PLIMSOLL_REPORT", bad);
        assert_eq!(said.lines().count(), 5, "one warning, and the default: {said}");
        assert!(said.starts_with("plimsoll warning: PLIMSOLL_REPORT is ignored: invalid report policy \""), "{said}");
    }
    let said = with("PLIMSOLL", "every(3)");
    assert_eq!(said.lines().count(), 3, "{said}");
    assert!(said.starts_with("plimsoll warning: the variable PLIMSOLL is deprecated: set PLIMSOLL_REPORT=every:3\n"));
}

fn the_picture_has_the_load_line_holders_and_percentiles() {
    let monitor = builder().memory_size(ByteSize::mib(128)).build().unwrap();
    board::holder("atlas").set(ByteSize::mib(7));
    (0..10).for_each(|n| drop(invoke(&monitor, || drop(Block::new(1 + n * (1 << 20)))).alerts()));
    let snapshot = monitor.snapshot();
    assert_eq!(snapshot.invocations, 10);
    let peaks = snapshot.peaks.unwrap();
    assert!((ByteSize::mib(4)..ByteSize::mib(6)).contains(&peaks.p50), "{snapshot:?}");
    assert!(peaks.max >= ByteSize::mib(9) && peaks.p95 == peaks.max);
    let picture = snapshot.to_string();
    for part in ["memory against 128.0 MiB, of which 116.0 MiB", "heap now", "rss peak", "atlas: 7.0 MiB", "p50", "p99"]
    {
        assert!(picture.contains(part), "{part} in\n{picture}");
    }
    let bars: Vec<_> = picture.lines().filter(|line| line.contains('|')).collect();
    assert!(bars.len() == 4 && bars.iter().all(|bar| bar.find('!') == bars[0].find('!')), "{picture}");
    board::holder("atlas").set(ByteSize::ZERO);
}

fn percentiles_of_concurrent_invocations_are_not_shown() {
    let monitor = builder().memory_size(ByteSize::mib(128)).build().unwrap();
    let others = monitor.start("long");
    (0..40).for_each(|_| drop(invoke(&monitor, || drop(Block::new(8 << 20))).alerts()));
    let report = invoke(&monitor, || ());
    assert!(report.to_string().contains(" | concurrent: peaks are the environment's"), "{report}");
    let snapshot = monitor.snapshot();
    assert_eq!(snapshot.peaks, None);
    let picture = snapshot.to_string();
    assert!(picture.contains("  41 invocations\n"), "{picture}");
    assert!(!picture.contains("p50"), "no percentile without a peak of its own: {picture}");
    drop(others);
    drop(invoke(&monitor, || ()).alerts());
    assert!(monitor.snapshot().peaks.is_some(), "one was alone");
}

fn percent_above_100_is_explained() {
    let monitor = builder().memory_size(ByteSize::mib(128)).environment_share(ByteSize::mib(12)).build().unwrap();
    let mut report = invoke(&monitor, || ());
    let mut line = |peak: ByteSize| {
        report.heap.as_mut().unwrap().peak.at_most = peak;
        report.to_string()
    };
    let above = line(ByteSize::mib(125));
    assert!(above.contains(" peak 125.0 of 116 MiB (107 %, above the capacity) "), "{above}");
    let at = line(ByteSize::mib(116));
    assert!(at.contains(" peak 116.0 of 116 MiB (100 %) "), "{at}");
}
