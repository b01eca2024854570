//! What a monitor does with the resources it is told of.

use std::convert::Infallible;

use plimsoll::monitor::{BuildError, Monitor, ReportPolicy};
use plimsoll::{ByteSize, LazyResource, MemoryBudget, TrackingAllocator};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

type Bytes = LazyResource<Vec<u8>, Infallible>;

#[test]
fn resources_are_named_charged_unloaded_and_reported() {
    static MODEL: Bytes = LazyResource::new("model", || Ok(vec![1; 4 << 20]));
    static EARLY: Bytes = LazyResource::new("early", || Ok(vec![1; 1 << 20]));
    static FONTS: Bytes = LazyResource::new("pdf_fonts", || Ok(vec![1; 1 << 20]));
    static BROKEN: LazyResource<(), std::fmt::Error> = LazyResource::new("broken", || Err(std::fmt::Error));

    EARLY.prefetch().unwrap();
    let budget = MemoryBudget::new(ByteSize::mib(8));
    let account = |name| budget.account(name).unwrap();
    let builder = || Monitor::builder().memory_size(ByteSize::mib(128)).report(ReportPolicy::Off);
    let monitor = builder()
        .resource(&MODEL, account("model"))
        .resource(&EARLY, account("early"))
        .resource(&FONTS, account("fonts"))
        .resource(&BROKEN, account("broken"))
        .build()
        .unwrap();
    let early = account("early").reserved();
    assert!(early >= ByteSize::mib(1) && early < ByteSize::kib(1026), "what was loaded before is charged: {early}");

    let invocation = monitor.start("1");
    let pin = MODEL.get().unwrap();
    assert!(BROKEN.get().is_err() && EARLY.get().is_ok());
    drop(pin);
    let report = invocation.finish();
    let resources = report.resources;
    assert_eq!((resources.loaded, resources.unloaded, resources.failed), (2, 1, 1));
    assert!(
        report.to_string().contains(" | resources 2 loaded 1 unloaded 1 failed 1 never used: pdf_fonts"),
        "{report}"
    );
    let model = account("model").reserved();
    let cost = MODEL.status().cost.unwrap();
    assert_eq!(Some(model), cost.retained, "what the load kept is charged");
    assert!(model >= ByteSize::mib(4) && model < ByteSize::kib(4098), "{model}");
    assert!(cost.peak >= Some(ByteSize::mib(4)));

    let _other = account("other").try_reserve(ByteSize::mib(6)).unwrap();
    assert_eq!(account("model").reserved(), ByteSize::ZERO, "it gave way");
    let last = monitor.start("2").finish();
    assert_eq!(last.resources.never_used, 1);

    let picture = monitor.snapshot().to_string();
    let line =
        |name: &str| picture.lines().find(|line| line.contains(&format!("resource {name}:"))).unwrap().to_owned();
    assert!(line("model").contains("resource model: unloaded, 4.0 MiB loaded in "), "{picture}");
    assert!(line("model").contains(", idle for 1 invocations, declared at tests/monitor_resources.rs:"), "{picture}");
    assert!(line("pdf_fonts").contains("resource pdf_fonts: declared at tests/monitor_resources.rs:"), "{picture}");
    assert!(line("pdf_fonts").ends_with(", never used in 2 invocations"), "{picture}");
    assert!(line("broken").contains("resource broken: failed, 1 failed attempts"), "{picture}");

    let again = builder().resource(&MODEL, account("elsewhere")).build();
    assert!(matches!(again, Err(BuildError::Resource { name: "model", .. })));
}

#[test]
fn a_name_makes_no_line_of_its_own() {
    static FORGED: Bytes = LazyResource::new("never\nplimsoll forged", || Ok(Vec::new()));
    let budget = MemoryBudget::new(ByteSize::mib(8));
    let monitor = Monitor::builder().memory_size(ByteSize::mib(128)).report(ReportPolicy::Off);
    let monitor = monitor.resource(&FORGED, budget.account("forged").unwrap()).build().unwrap();
    let line = monitor.start("1").finish().to_string();
    assert!(line.contains(" never used: never") && !line.contains('\n'), "{line}");
}
