//! What a reservation costs: alone, beside another thread on the same and on another account, and when it is refused.
#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use criterion::measurement::{Measurement, WallTime};
use criterion::{BenchmarkGroup, Criterion, Throughput};
use plimsoll::budget::{ReclaimPriority, reclaim_fn};
use plimsoll::{Account, ByteSize, MemoryBudget};

fn main() {
    let settings = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1200));
    let mut criterion = settings.configure_from_args();
    reservations(&mut criterion);
    refusals(&mut criterion);
    readings(&mut criterion);
    criterion.final_summary();
}

/// Reserving what is free, and giving it back.
fn reservations(criterion: &mut Criterion) {
    let budget = MemoryBudget::new(ByteSize::gib(1));
    let (one, two) = (budget.account("one").unwrap(), budget.account("two").unwrap());

    let mut group = started(criterion, "budget/reserve_drop");
    group.bench_function("1t", |b| b.iter(|| reserve_and_drop(&one)));
    group.bench_function("2t-one-account", |b| b.iter_custom(|times| together(times, [&one, &one])));
    group.bench_function("2t-two-accounts", |b| b.iter_custom(|times| together(times, [&one, &two])));
    group.finish();

    let mut group = started(criterion, "budget/grow_shrink");
    let Ok(mut held) = one.try_reserve(ByteSize::mib(1)) else { return };
    group.bench_function("1t", |b| {
        b.iter(|| {
            let grown = held.try_grow_without_reclaim(black_box(ByteSize::kib(4)));
            held.shrink(ByteSize::kib(4));
            grown
        });
    });
    group.finish();
}

/// Reserving what is not free: refused with and without a report, and granted by a reclaimer.
fn refusals(criterion: &mut Criterion) {
    let budget = MemoryBudget::new(ByteSize::mib(64));
    let accounts: Vec<Account> =
        ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| budget.account(name).unwrap()).into();
    let full: Vec<_> =
        accounts.iter().filter_map(|account| account.try_reserve_without_reclaim(ByteSize::mib(8))).collect();
    let Some(account) = accounts.first() else { return };

    let mut group = started(criterion, "budget/refused");
    group.bench_function("without-report", |b| {
        b.iter(|| account.try_reserve_without_reclaim(black_box(ByteSize::kib(4))).is_some());
    });
    group.bench_function("with-report", |b| b.iter(|| account.try_reserve(black_box(ByteSize::kib(4)))));
    group.finish();
    drop(full);

    let budget = MemoryBudget::new(ByteSize::mib(64));
    let (cache, buffers) = (budget.account("cache").unwrap(), budget.account("buffers").unwrap());
    let Some(entries) = cache.try_reserve_without_reclaim(ByteSize::mib(64)) else { return };
    let entries = Arc::new(std::sync::Mutex::new(entries));
    let shared = Arc::clone(&entries);
    let reclaimer = reclaim_fn(move |want: ByteSize, _| {
        let _released = shared.try_lock().map_or(ByteSize::ZERO, |mut held| held.shrink(want));
    });
    let _registered = cache.register_reclaimer(ReclaimPriority::CACHE, reclaimer);
    let mut group = started(criterion, "budget/reclaimed");
    group.bench_function("one-reclaimer", |b| {
        b.iter(|| {
            let granted = buffers.try_reserve(black_box(ByteSize::kib(4)));
            drop(granted);
            entries.lock().is_ok_and(|mut held| held.try_grow_without_reclaim(ByteSize::kib(4)))
        });
    });
    group.finish();
}

fn readings(criterion: &mut Criterion) {
    let budget = MemoryBudget::new(ByteSize::mib(64));
    let _accounts: Vec<Account> =
        ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| budget.account(name).unwrap()).into();
    let mut group = started(criterion, "budget/read");
    group.bench_function("pressure", |b| b.iter(|| budget.pressure()));
    group.bench_function("accounts-of-8", |b| {
        b.iter(|| budget.accounts().iter().map(|account| account.reserved.as_u64()).sum::<u64>());
    });
    group.finish();
}

fn reserve_and_drop(account: &Account) {
    drop(black_box(account.try_reserve(black_box(ByteSize::kib(4)))));
}

fn started<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    group
}

/// The time in which two threads reserve and drop `times` times each, at once.
fn together(times: u64, accounts: [&Account; 2]) -> Duration {
    let gate = Barrier::new(2);
    let run = |account: &Account| {
        gate.wait();
        let start = WallTime.start();
        (0..times).for_each(|_| reserve_and_drop(account));
        WallTime.end(start)
    };
    std::thread::scope(|scope| {
        let [mine, others] = accounts;
        let other = scope.spawn(|| run(others));
        run(mine).max(other.join().unwrap_or(Duration::MAX))
    })
}
