//! The report as an event of `tracing`, as a subscriber sees it.
#![cfg(feature = "tracing")]
#![expect(clippy::expect_used, reason = "clippy knows `#[test]` functions as tests, but not their helpers")]

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use plimsoll::heap::{self, AlarmThresholds};
use plimsoll::integration::tracing::{TARGET, event};
use plimsoll::monitor::{InvocationReport, Outcome, ReportPolicy};
use plimsoll::{ByteDelta, ByteSize, MemoryBudget, Monitor, Pressure, TrackingAllocator};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// What an event had: its level, its target, and its fields in words.
type Seen = (Level, String, BTreeMap<&'static str, String>);

/// Notes the events above a level.
struct Notes(Level, Arc<Mutex<Vec<Seen>>>);

impl Subscriber for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.0
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let seen = (*metadata.level(), metadata.target().to_owned(), fields.0);
        self.1.lock().expect("no panic here").push(seen);
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Fields by name; numbers carry their type, so that one in words is told from one.
#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name(), format!("{value}u"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name(), format!("{value}i"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name(), value.to_string());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

fn seen(level: Level, emit: impl FnOnce()) -> Vec<Seen> {
    let events = Arc::new(Mutex::new(Vec::new()));
    tracing::subscriber::with_default(Notes(level, Arc::clone(&events)), emit);
    std::mem::take(&mut *events.lock().expect("no panic here"))
}

/// Refusals and the limit are the process's: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn report() -> InvocationReport {
    let builder = Monitor::builder().memory_size(ByteSize::mib(128)).report(ReportPolicy::Off);
    let mut report = builder.build().expect("constant settings").start("r-1").finish();
    // Whatever the process really lies at.
    report.thresholds = Some(AlarmThresholds::new(ByteSize::mib(128)));
    report.crossed = None;
    report
}

#[test]
fn every_figure_is_a_field_of_its_own_type() {
    let _alone = alone();
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let builder = Monitor::builder().memory_size(ByteSize::mib(128)).report(ReportPolicy::Off);
    let monitor = builder.budget(&budget).build().unwrap();
    let invocation = monitor.start("r-1");
    let _held = budget.account("orders").unwrap().reserve(ByteSize::mib(85));
    let mut report = invocation.finish();
    report.heap.as_mut().unwrap().peak.at_most = ByteSize::mib(58);
    report.heap.as_mut().unwrap().live = ByteSize::mib(80);
    report.heap.as_mut().unwrap().growth = ByteDelta::bytes(-3);
    report.heap.as_mut().unwrap().unattributed = ByteSize::bytes(9);
    (report.rss, report.peak_rss, report.highest_rss) =
        (Some(ByteSize::bytes(1)), Some(ByteSize::bytes(2)), ByteSize::bytes(3));
    report.duration = Duration::from_micros(17);
    report.crossed = None;
    report.resources.loaded = 2;
    // Whatever the process has beside its heap.
    if let Some(reserved) = &mut report.reserved {
        (reserved.capacity, reserved.pressure) = (ByteSize::mib(100), Pressure::High);
    }
    let events = seen(Level::TRACE, || event(&report));
    let [(level, target, fields)] = &*events else { panic!("{events:?}") };
    assert_eq!((*level, target.as_str()), (Level::INFO, TARGET));
    let mut told = String::new();
    for (name, value) in fields {
        writeln!(told, "{name}={value}").unwrap();
    }
    let expected = "\
allocations_refused=0u
budget_drift=-5242880i
budget_pressure=high
budget_reserved=89128960u
budget_room=104857600u
concurrent=false
duration_us=17u
heap_growth=-3i
heap_live=83886080u
heap_peak=60817408u
heap_percent=50u
heap_unattributed=9u
invocations=1u
memory_size=134217728u
message=memory of an invocation
outcome=finished
recommended_mb=128u
request_id=r-1
reserved=orders 85.0 MiB
resources=resources 2 loaded
rss=1u
rss_highest=3u
rss_peak=2u
";
    assert_eq!(told, expected);
}

#[test]
fn what_is_not_known_has_no_field() {
    let _alone = alone();
    let mut report = report();
    (report.rss, report.peak_rss, report.highest_rss) = (None, None, ByteSize::ZERO);
    (report.gauges, report.accounts) = ([None; 3], [None; 3]);
    report.outcome = Outcome::Unfinished;
    let events = seen(Level::INFO, || event(&report));
    let names: Vec<_> = events[0].2.keys().copied().collect();
    let expected = [
        "allocations_refused",
        "concurrent",
        "duration_us",
        "heap_growth",
        "heap_live",
        "heap_peak",
        "heap_percent",
        "heap_unattributed",
        "invocations",
        "memory_size",
        "message",
        "outcome",
        "request_id",
    ];
    assert_eq!(names, expected);
    assert_eq!(events[0].2["outcome"], "unfinished");
}

#[test]
fn a_crossed_line_or_an_alert_is_a_warning() {
    let _alone = alone();
    let mut crossed = report();
    crossed.crossed = Some(90);
    crossed.gauges = [Some(("a\nb", ByteSize::mib(2))), None, Some(("c", ByteSize::kib(1)))];
    let events = seen(Level::WARN, || {
        event(&report());
        event(&crossed);
    });
    assert_eq!(events.len(), 1, "the other is not of this level");
    assert_eq!((events[0].0, events[0].2["alarm_threshold"].as_str()), (Level::WARN, "90u"));
    assert_eq!(events[0].2["gauges"], "a?b 2.0 MiB, c 1.0 KiB");

    let builder = Monitor::builder().memory_size(ByteSize::mib(128)).print_reports(false).on_report(event);
    let monitor = builder.build().unwrap();
    let refuse = || {
        heap::set_limit(ByteSize::mib(64)).unwrap();
        assert!(Vec::<u8>::new().try_reserve_exact(65 << 20).is_err());
        heap::set_limit(ByteSize::MAX).unwrap();
    };
    let events = seen(Level::TRACE, || {
        let invocation = monitor.start("r-1");
        refuse();
        drop(invocation);
        drop(monitor.start("r-2"));
    });
    let told: Vec<_> =
        events.iter().map(|(level, _, fields)| (*level, fields.get("alerts").map(String::as_str))).collect();
    assert_eq!(told, [(Level::WARN, Some("refused-allocations")), (Level::INFO, None)]);
}
