//! Warnings about silent misuse: each is one line that names the mistake and the remedy, and none comes without cause.
#![cfg(unix)]
#![allow(unsafe_code, reason = "forked children")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests without libtest's attribute")]

mod support;

use plimsoll::monitor::{MonitorBuilder, ReportPolicy};
use plimsoll::{
    ByteSize, Cache, LambdaEnv, LazyResource, MemoryBudget, MemoryLimit, Monitor, TrackingAllocator, board,
};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

const CAN_FORK: bool = cfg!(not(miri));

support::tests! {
    second_installed_monitor_warns if CAN_FORK, else "needs fork",
    monitor_installed_after_another_is_gone_is_silent if CAN_FORK, else "needs fork",
    monitor_used_and_never_installed_warns_once if CAN_FORK, else "needs fork",
    monitor_never_installed_on_lambda_warns_at_once if CAN_FORK, else "needs fork",
    account_of_another_budget_warns if CAN_FORK, else "needs fork",
    cache_larger_than_its_budget_warns if CAN_FORK, else "needs fork",
    cache_with_a_bound_of_zero_warns if CAN_FORK, else "needs fork",
    name_beyond_the_board_warns_once if CAN_FORK, else "needs fork",
    memory_size_above_lambdas_range_warns_once if CAN_FORK, else "needs fork",
    max_concurrency_not_a_number_warns_once if CAN_FORK, else "needs fork",
}

fn builder() -> MonitorBuilder {
    Monitor::builder().memory_size(ByteSize::mib(1024))
}

fn invoke(monitor: &Monitor) {
    drop(monitor.start("r").finish().alerts());
}

/// The warnings that `work` writes in a child process; every other line is a report.
fn warnings(work: impl FnOnce()) -> Vec<String> {
    let ended = support::in_child(|| {
        for name in ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_LOG_FORMAT", "PLIMSOLL", "PLIMSOLL_REPORT"] {
            // SAFETY: the forked child has one thread.
            unsafe { std::env::remove_var(name) };
        }
        work();
    });
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines = ended.stderr.lines().filter(|line| !line.starts_with("plimsoll r "));
    let warning = |line: &str| line.strip_prefix("plimsoll warning: ").unwrap_or_else(|| panic!("{line}")).to_owned();
    lines.map(warning).collect()
}

#[track_caller]
fn assert_one(warnings: &[String], parts: &[&str]) {
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(parts.iter().all(|part| warnings[0].contains(part)), "{parts:?} in {warnings:?}");
}

fn second_installed_monitor_warns() {
    let warnings = warnings(|| {
        let first = builder().install().unwrap();
        first.install();
        first.clone().install();
        let _second = builder().install().unwrap();
    });
    assert_one(&warnings, &["a second monitor is installed", "install one monitor"]);
}

fn monitor_installed_after_another_is_gone_is_silent() {
    let warnings = warnings(|| {
        drop(builder().install().unwrap());
        drop(builder().install().unwrap());
    });
    assert_eq!(warnings, [""; 0]);
}

fn monitor_used_and_never_installed_warns_once() {
    let warnings = |used: bool, policy: ReportPolicy| {
        warnings(|| {
            let monitor = builder().report(policy).build().unwrap();
            let clone = monitor.clone();
            if used {
                invoke(&monitor);
                invoke(&clone);
            }
        })
    };
    assert_one(&warnings(true, ReportPolicy::Each), &["was not installed", "no alarm", "install()"]);
    assert_eq!(warnings(false, ReportPolicy::Each), [""; 0], "it was of no use yet");
    assert_eq!(warnings(true, ReportPolicy::Off), [""; 0], "a test that wants silence has it");
}

fn monitor_never_installed_on_lambda_warns_at_once() {
    let warnings = warnings(|| {
        // SAFETY: the forked child has one thread.
        unsafe { std::env::set_var("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128") };
        let monitor = Monitor::builder().report(ReportPolicy::Off).build().unwrap();
        invoke(&monitor);
        invoke(&monitor);
        // As in a function, nothing drops it.
        Box::leak(Box::new(monitor));
    });
    assert_one(&warnings, &["was not installed", "install()"]);
}

fn account_of_another_budget_warns() {
    static MODEL: LazyResource<u64, std::io::Error> = LazyResource::new("model", || Ok(7));
    static INDEX: LazyResource<u64, std::io::Error> = LazyResource::new("index", || Ok(7));
    let warnings = warnings(|| {
        let (own, other) = (MemoryBudget::new(ByteSize::mib(100)), MemoryBudget::new(ByteSize::mib(100)));
        let builder = builder().budget(&own).resource(&MODEL, other.account("models").unwrap());
        let _monitor = builder.resource(&INDEX, own.account("index").unwrap()).install().unwrap();
    });
    assert_one(&warnings, &["`model`", "`models`", "another budget", "same MemoryBudget"]);
}

fn cache_larger_than_its_budget_warns() {
    let built = |bytes: ByteSize| {
        warnings(|| {
            let budget = MemoryBudget::new(ByteSize::mib(20));
            let orders =
                Cache::<u64, u64>::builder("orders").max_bytes(bytes).account(budget.account("orders").unwrap());
            drop(orders.build().unwrap());
        })
    };
    assert_one(&built(ByteSize::mib(40)), &["cache `orders`", "40.0 MiB", "budget", "20.0 MiB"]);
    assert_eq!(built(ByteSize::mib(20)), [""; 0]);
    assert_eq!(built(ByteSize::MAX), [""; 0], "the budget alone bounds it");
}

fn cache_with_a_bound_of_zero_warns() {
    let none = warnings(|| drop(Cache::<u64, u64>::builder("orders").max_entries(0).build().unwrap()));
    assert_one(&none, &["cache `orders`", "stores nothing", "max_entries(0)"]);
    let none = warnings(|| {
        for name in ["orders", "prices", "users"] {
            drop(Cache::<u64, u64>::builder(name).max_bytes(ByteSize::ZERO).build().unwrap());
        }
    });
    assert_one(&none, &["cache `orders`", "stores nothing", "max_bytes(0)"]);
    let hostile = warnings(|| drop(Cache::<u64, u64>::builder("a\n{\"plimsoll\":1}").max_entries(0).build().unwrap()));
    assert_one(&hostile, &["cache `a?{?plimsoll?:1}` stores nothing"]);
}

/// The names `tenant 1`, `tenant 2` ..
fn tenants(count: usize) -> impl Iterator<Item = &'static str> {
    (1..=count).map(|number| &*format!("tenant {number}").leak())
}

fn name_beyond_the_board_warns_once() {
    let named = |count: usize| warnings(|| tenants(count).for_each(|name| _ = board::holder(name)));
    assert_eq!(named(board::SLOTS), [""; 0]);
    assert_one(&named(board::SLOTS + 9), &["`tenant 65`", "`other`", "not one for each tenant"]);
}

fn memory_size_above_lambdas_range_warns_once() {
    let warnings = warnings(|| {
        // SAFETY: the forked child has one thread.
        unsafe { std::env::set_var("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "20480") };
        assert_eq!(MemoryLimit::detect().unwrap().size(), ByteSize::gib(20));
        assert_eq!(LambdaEnv::from_env().unwrap().memory_size(), ByteSize::gib(20));
    });
    assert_one(&warnings, &["AWS_LAMBDA_FUNCTION_MEMORY_SIZE is 20480: expected 128 to 10240", "used as it is"]);
}

fn max_concurrency_not_a_number_warns_once() {
    let warnings = warnings(|| {
        // SAFETY: the forked child has one thread.
        unsafe { std::env::set_var("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512") };
        // SAFETY: as above.
        unsafe { std::env::set_var("AWS_LAMBDA_MAX_CONCURRENCY", "eight") };
        assert_eq!(MemoryLimit::detect().unwrap().size(), ByteSize::mib(512));
        assert_eq!(LambdaEnv::from_env().unwrap().max_concurrency().get(), 1);
    });
    assert_one(&warnings, &["AWS_LAMBDA_MAX_CONCURRENCY is \"eight\": expected digits alone, 1 to 1600", "1 request"]);
}
