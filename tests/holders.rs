//! Memory attribution in the records of a process: allocation sites in the alarm, the abort report, the leak verdict and
//! the snapshot, and the equations of `Holders`.
#![cfg(unix)]
#![allow(unsafe_code, reason = "forked children, and blocks of known layout")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests without libtest's attribute"
)]

mod support;

use std::hint::black_box;

use plimsoll::heap::profile::{self, ProfileSetting};
use plimsoll::heap::{AlarmThresholds, set_alarm_thresholds};
use plimsoll::monitor::{HeapSite, Holders, InvocationReport, LeakVerdict, LogFormat, MonitorBuilder, ReportPolicy};
use plimsoll::{ByteSize, MemoryBudget, Monitor, TrackingAllocator, board, heap, os};
use serde_json::Value;

use support::{Ended, in_child, lean};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

const CAN_FORK: bool = cfg!(not(miri));
const MIB: usize = 1 << 20;
const INTERVAL: ByteSize = ByteSize::kib(64);

support::tests! {
    alarm_has_the_largest_sites if lean(), else "needs fork and an rss of this program alone",
    alarm_with_the_longest_members_is_whole if lean(), else "needs fork and an rss of this program alone",
    alarm_names_functions_that_a_report_resolved if lean() && cfg!(feature = "symbols"), else "needs fork and symbols",
    names_are_not_resolved_without_memory_for_it if lean() && cfg!(feature = "symbols"), else "needs fork and symbols",
    abort_report_has_the_largest_sites if CAN_FORK, else "needs fork",
    growing_verdict_names_the_site_that_grew if lean(), else "needs fork and an rss of this program alone",
    snapshot_has_a_table_of_sites if CAN_FORK, else "needs fork",
    equations_hold_with_gauges_and_sites if CAN_FORK, else "needs fork",
    kept_of_another_allocator_is_not_known if CAN_FORK, else "needs fork",
    variable_switches_the_profile_on if CAN_FORK, else "needs fork",
    variable_with_a_wrong_value_is_one_warning if CAN_FORK, else "needs fork",
}

/// The site of most bytes.
#[inline(never)]
fn remember_much(mib: usize) -> Vec<Vec<u8>> {
    black_box((0..mib * 16).map(|_| vec![1; MIB / 16]).collect())
}

/// Another site.
#[inline(never)]
fn remember_little(mib: usize) -> Vec<Vec<u8>> {
    black_box((0..mib * 16).map(|_| vec![1; MIB / 16]).collect())
}

fn thresholds() -> AlarmThresholds {
    AlarmThresholds::new(ByteSize::mib(100)).environment_share(ByteSize::ZERO).with_percents(&[97]).unwrap()
}

/// Crosses the threshold of 97 MiB by a block that is not touched.
fn cross() {
    drop(black_box(Vec::<u8>::with_capacity(40 * MIB)));
}

fn records(ended: &Ended) -> Vec<Value> {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn bytes(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no size"))
}

/// Asserts that the sums of a record add up to its heap.
#[track_caller]
fn assert_adds_up(record: &Value) {
    let sums = &record["sums"];
    let sum = bytes(&sums["gauges"]) + bytes(&sums["sites"]) + bytes(&record["unattributed"]);
    assert_eq!(bytes(&record["heap"]), sum, "{record}");
}

/// The stack of a site as a record has it.
fn stack(site: &HeapSite) -> Vec<Value> {
    site.addresses().take(8).map(|address| format!("{address:#x}").into()).collect()
}

fn alarm_has_the_largest_sites() {
    let ended = in_child(|| {
        profile::start(INTERVAL).unwrap();
        let early = remember_little(10);
        let much = remember_much(55);
        board::holder("half of it").set(ByteSize::mib(28));
        set_alarm_thresholds(&thresholds()).unwrap();
        cross();
        // The stacks for the parent, as a record of their own.
        let sites: Vec<_> = Holders::read().largest_sites().map(stack).collect();
        let mut line = serde_json::to_string(&sites).unwrap();
        line.push('\n');
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
        drop((early, much));
    });
    let records = records(&ended);
    let [alarm, stacks] = &*records else { panic!("{}", ended.stderr) };
    assert_adds_up(alarm);
    let sites = alarm["sites"].as_array().unwrap();
    assert!((2..=3).contains(&sites.len()), "the block that crosses may be a site already: {alarm}");
    let much = sites.iter().find(|site| bytes(&site["bytes"]) >> 20 == 55).unwrap_or_else(|| panic!("{alarm}"));
    assert_eq!((&much["blocks"], much["address"].is_string()), (&(55 * 16).into(), true), "{alarm}");
    // 55 of 105 MiB: the block that crosses is part of the heap.
    assert!((much["share"].as_f64().unwrap() - 52.4).abs() < 1.0, "{alarm}");
    assert!(much.get("function").is_none(), "nothing was resolved: {alarm}");
    let stack = much["stack"].as_array().unwrap();
    assert!((1..=8).contains(&stack.len()) && stack[0] == much["address"], "{alarm}");
    assert!(stacks.as_array().unwrap().iter().any(|other| other == &much["stack"]), "{much} in {stacks}");
    let unattributed = bytes(&alarm["unattributed"]);
    assert!(unattributed < bytes(&alarm["requested"]) + (1 << 20), "all but the block that crosses: {alarm}");
    assert!(alarm["build_id"].as_str().is_none_or(|id| id.len() >= 8), "{alarm}");
}

fn alarm_with_the_longest_members_is_whole() {
    let ended = in_child(|| {
        profile::start(INTERVAL).unwrap();
        let long = |number: usize| &*format!("{number}{}", "\u{e4}\"".repeat(100)).leak();
        let budget = MemoryBudget::new(ByteSize::MAX);
        (0..10).for_each(|number| board::holder(long(number)).set(ByteSize::mib(1)));
        let account = |number| budget.account(long(number)).unwrap().try_reserve(ByteSize::mib(1)).unwrap();
        let reservations: Vec<_> = (0..10).map(account).collect();
        let monitor = Monitor::builder().memory_size(ByteSize::mib(100)).environment_share(ByteSize::ZERO);
        let monitor = monitor.report(ReportPolicy::Off).install().unwrap();
        let id = "i".repeat(64);
        let requests: Vec<_> = (0..4).map(|_| monitor.start(&id).with_label("l".repeat(64))).collect();
        let much = [remember_much(40), remember_little(30)];
        cross();
        drop((requests, reservations, much));
    });
    let records = records(&ended);
    assert!(ended.stderr.len() <= 4096, "{}", ended.stderr.len());
    assert!(records[0]["sites"].as_array().unwrap().len() >= 2, "{}", ended.stderr);
    assert_adds_up(&records[0]);
}

fn alarm_names_functions_that_a_report_resolved() {
    let ended = in_child(|| {
        profile::start(INTERVAL).unwrap();
        let much = remember_much(60);
        let functions: Vec<_> = Holders::read().largest_sites().filter_map(|site| site.function).collect();
        assert!(functions[0].contains("remember_much"), "{functions:?}");
        set_alarm_thresholds(&thresholds()).unwrap();
        cross();
        drop(much);
    });
    let records = records(&ended);
    let function = records[0]["sites"][0]["function"].as_str();
    assert!(function.is_some_and(|function| function.contains("remember_much")), "{}", ended.stderr);
}

fn names_are_not_resolved_without_memory_for_it() {
    let ended = in_child(|| {
        profile::start(INTERVAL).unwrap();
        let much = remember_much(70);
        let names = || Holders::read().largest_sites().filter_map(|site| site.function).count();
        set_alarm_thresholds(&thresholds()).unwrap();
        heap::reset_peak();
        assert_eq!(names(), 0, "27 MiB are left up to the alarm");
        set_alarm_thresholds(&AlarmThresholds::new(ByteSize::gib(4))).unwrap();
        heap::set_limit(ByteSize::mib(100)).unwrap();
        assert_eq!(names(), 0, "30 MiB are left up to the limit of the heap");
        assert!(heap::stats().unwrap().peak.at_most < ByteSize::mib(72), "nothing was read");
        heap::clear_limit();
        let before = os::rss().unwrap().total;
        assert_eq!(names(), 1);
        let kept = os::rss().unwrap().total.saturating_sub(before);
        assert!(kept < ByteSize::mib(8) || cfg!(not(target_env = "gnu")), "{kept} are kept after it");
        drop(much);
    });
    assert_eq!(records(&ended).len(), 0, "no alarm: {}", ended.stderr);
}

fn abort_report_has_the_largest_sites() {
    for format in [LogFormat::Text, LogFormat::Json] {
        let ended = in_child(|| {
            profile::start(INTERVAL).unwrap();
            let monitor = Monitor::builder().memory_size(ByteSize::gib(1)).log_format(format).install().unwrap();
            let id = "i".repeat(64);
            let _requests: Vec<_> = (0..4).map(|_| monitor.start(&id).with_label("l".repeat(64))).collect();
            let much = [remember_much(6), remember_little(2)];
            heap::set_limit(ByteSize::mib(9)).unwrap();
            let refused = vec![0_u8; black_box(16 * MIB)];
            drop((much, refused));
        });
        assert_eq!(ended.signal, Some(libc::SIGABRT), "{}", ended.stderr);
        if format == LogFormat::Text {
            let line = ended.stderr.lines().find(|line| line.starts_with("plimsoll abort report:")).unwrap();
            let (_, sites) = line.split_once(" | sites ").expect(line);
            assert!(sites.starts_with("0x") && sites.contains(" 6.0 MiB") && sites.contains(" 2.0 MiB"), "{line}");
            assert!(line.contains(" | unattributed "), "{line}");
        } else {
            let line = ended.stderr.lines().find(|line| line.starts_with('{')).unwrap();
            let record: Value = serde_json::from_str(line).expect(line);
            assert_adds_up(&record);
            assert_eq!(record["sites"][0]["bytes"], 6 << 20, "{line}");
            assert!(line.len() <= 1280, "{}", line.len());
        }
    }
}

fn builder() -> MonitorBuilder {
    Monitor::builder().memory_size(ByteSize::mib(160))
}

/// Requests until the verdict is growing, each of which leaks 64 KiB.
fn leak_until_growing(monitor: &Monitor, leaked: &mut Vec<Vec<Vec<u8>>>) -> InvocationReport {
    for _ in 0..2000 {
        let invocation = monitor.start("r");
        // A sixteenth of a MiB would be one block; the vector around it is a block too.
        leaked.push(leak());
        let report = invocation.finish();
        if matches!(report.verdict, LeakVerdict::Growing { .. }) {
            return report;
        }
    }
    panic!("no verdict")
}

#[inline(never)]
fn leak() -> Vec<Vec<u8>> {
    black_box(vec![vec![1; 64 << 10]])
}

fn growing_verdict_names_the_site_that_grew() {
    for format in [LogFormat::Text, LogFormat::Json] {
        let ended = in_child(|| {
            let profile = ProfileSetting::On { interval: INTERVAL };
            let builder = builder().profile(profile).log_format(format);
            let monitor = builder.report(ReportPolicy::Off).install().unwrap();
            assert!(profile::is_started());
            // More bytes than the leak ever has, from before.
            let cache = remember_much(80);
            (0..130).for_each(|_| drop(monitor.start("r").finish().alerts()));
            let mut leaked = Vec::with_capacity(1000);
            let report = leak_until_growing(&monitor, &mut leaked);
            let site = report.growing_sites[0].unwrap();
            let most = (leaked.len() * 64) << 10;
            assert!(site.bytes.as_usize() <= most && site.bytes.as_usize() >= most / 2, "{site:?} of {most}");
            assert!(site.addresses().count() > 0 || cfg!(not(target_arch = "x86_64")), "{site:?}");
            if cfg!(feature = "symbols") {
                assert!(site.function.is_some_and(|function| function.contains("leak")), "{site:?}");
            }
            // An alert is printed under every policy but `Off`, so print it here.
            let line = report.to_string();
            assert!(line.contains(&format!(" left: {site} +")), "{line}");
            // The leak ends, and so do the sites.
            drop(leaked);
            (0..300).for_each(|_| drop(monitor.start("r").finish().alerts()));
            let end = monitor.start("r").finish();
            assert!(matches!(end.verdict, LeakVerdict::Steady) && end.growing_sites[0].is_none(), "{end}");
            drop(cache);
        });
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    let ended = in_child(|| {
        let builder = builder().profile(ProfileSetting::ON).log_format(LogFormat::Json);
        let monitor = builder.report(ReportPolicy::OnChange).install().unwrap();
        let mut leaked = Vec::with_capacity(1000);
        leak_until_growing(&monitor, &mut leaked);
    });
    let records = records(&ended);
    let growing = records.iter().find(|record| record["verdict"] == "growing").unwrap();
    let sites = growing["growing_sites"].as_array().unwrap();
    assert!((1..=3).contains(&sites.len()) && bytes(&sites[0]["bytes"]) > 1 << 20, "{growing}");
    assert!(records.iter().all(|record| record["verdict"] == "growing"
        || record["verdict"] == "rising"
        || record.get("growing_sites").is_none()));
}

fn snapshot_has_a_table_of_sites() {
    let ended = in_child(|| {
        profile::start(INTERVAL).unwrap();
        let monitor = builder().build().unwrap();
        let much = [remember_much(20), remember_little(5)];
        board::holder("atlas").set(ByteSize::mib(7));
        let snapshot = monitor.snapshot();
        let picture = snapshot.to_string();
        let at = |part: &str| picture.find(part).unwrap_or_else(|| panic!("{part} in\n{picture}"));
        assert!(at("  heap 2") < at(" = gauges 7.0 MiB + sites ") && at("atlas: 7.0 MiB") < at("allocation site"));
        assert!(at("    20.0 MiB  7") < at("     5.0 MiB  "), "{picture}");
        assert!(at(" %      320  ") < at(" %       80  "), "{picture}");
        heap_and_holders_agree(&snapshot.holders);
        drop(monitor);
        builder().log_format(LogFormat::Json).build().unwrap().snapshot().print();
        drop(much);
    });
    let records = records(&ended);
    assert_eq!((records.len(), &records[0]["plimsoll"]), (1, &"snapshot".into()));
    assert_eq!(records[0]["sites"][0]["bytes"], 20 << 20, "{}", records[0]);
    assert_eq!(records[0]["gauges"]["atlas"], 7 << 20);
}

/// Asserts both equations.
#[track_caller]
fn heap_and_holders_agree(holders: &Holders) {
    let heap = holders.heap.unwrap();
    let parts = holders.gauges.saturating_add(holders.sites).saturating_add(holders.unattributed.unwrap());
    assert_eq!(heap, parts, "{holders:?}");
    if let (Some(rss), Some(kept), Some(rest)) = (holders.rss, holders.kept, holders.rest) {
        let parts = i128::from(heap.as_u64()) + i128::from(kept.as_u64()) + i128::from(rest.as_i64());
        assert_eq!(i128::from(rss.as_u64()), parts, "{holders:?}");
    }
}

fn equations_hold_with_gauges_and_sites() {
    let ended = in_child(|| {
        let before = Holders::read();
        assert!(!before.is_profiled && before.sites == ByteSize::ZERO && before.largest_sites().count() == 0);
        heap_and_holders_agree(&before);
        profile::start(INTERVAL).unwrap();
        let much = remember_much(20);
        let attributed = Holders::read();
        heap_and_holders_agree(&attributed);
        assert!(attributed.sites >= ByteSize::mib(20) && attributed.unattributed.unwrap() < ByteSize::mib(1));
        // The same memory by a gauge: it counts once, and the site keeps its estimate.
        board::holder("much").set(ByteSize::mib(15));
        let _reservation =
            MemoryBudget::new(ByteSize::gib(1)).account("later").unwrap().try_reserve(ByteSize::mib(300)).unwrap();
        let holders = Holders::read();
        heap_and_holders_agree(&holders);
        assert_eq!(holders.gauges, ByteSize::mib(15));
        assert_eq!(holders.largest_sites().next().unwrap().bytes, ByteSize::mib(20));
        assert!((5..7).contains(&(holders.sites.as_u64() >> 20)), "{holders:?}");
        assert_eq!(holders.largest_accounts().next(), Some(("later", ByteSize::mib(300))));
        board::holder("mapped").set(ByteSize::gib(1));
        let holders = Holders::read();
        heap_and_holders_agree(&holders);
        assert_eq!((Some(holders.gauges), holders.sites), (holders.heap, ByteSize::ZERO), "{holders:?}");
        assert_eq!(holders.largest_gauges().next(), Some(("mapped", ByteSize::gib(1))));
        if cfg!(all(target_os = "linux", target_env = "gnu")) {
            assert!(holders.kept.is_some() && holders.rest.is_some(), "{holders:?}");
        }
        drop(much);
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

fn kept_of_another_allocator_is_not_known() {
    let ended = in_child(|| {
        os::set_trim_hook(|| ());
        let holders = Holders::read();
        assert_eq!((holders.kept, holders.rest), (None, None));
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

/// Returns `true` if the profile runs after a start with this value of the variable, and the warnings.
fn installed_with(value: &str, setting: ProfileSetting) -> (bool, Vec<String>) {
    let ended = in_child(|| {
        // SAFETY: the forked child has one thread.
        unsafe { std::env::set_var("PLIMSOLL_PROFILE", value) };
        let monitor = builder().report(ReportPolicy::Off).profile(setting).install().unwrap();
        monitor.install();
        // SAFETY: ends the child. The exit code is the result.
        unsafe { libc::_exit(i32::from(profile::is_started())) };
    });
    (ended.code == Some(1), ended.stderr.lines().map(str::to_owned).collect())
}

fn variable_switches_the_profile_on() {
    for (value, setting, is_on) in [
        ("on", ProfileSetting::Off, true),
        (" 64KiB ", ProfileSetting::Off, true),
        ("65536", ProfileSetting::Off, true),
        ("off", ProfileSetting::ON, false),
    ] {
        let (started, warnings) = installed_with(value, setting);
        // If stacks cannot be walked, there is a warning.
        let warnings: Vec<_> = warnings.iter().filter(|line| !line.contains("force-frame-pointers")).collect();
        assert_eq!((started, warnings.len()), (is_on, 0), "{value}: {warnings:?}");
    }
}

fn variable_with_a_wrong_value_is_one_warning() {
    for value in ["", "perhaps", "1KiB", "-1", "on\n{\"forged\":1}"] {
        let (started, warnings) = installed_with(value, ProfileSetting::Off);
        assert_eq!((started, warnings.len()), (false, 1), "{value}: {warnings:?}");
        assert!(warnings.iter().all(|line| line.contains("PLIMSOLL_PROFILE is ignored: ")), "{warnings:?}");
    }
}
