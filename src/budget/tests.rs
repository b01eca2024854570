//! What only the inside can show: how the room is reckoned, and what a limit found in the environment becomes.

use super::{Basis, BudgetError, Reckoning};
use crate::env::{ENVIRONMENT_SHARE, EnvError, MemoryLimit};
use crate::size::ByteSize;

fn reckoning() -> Reckoning {
    Reckoning { limit: 100, floor: 50, step: 5, unreserved: 0, overhead: 0, low: u64::MAX, carried: 0, height: 0 }
}

#[test]
fn heap_that_nobody_reserved_leaves_the_room_and_comes_back() {
    let mut reckoning = reckoning();
    for (live, reserved, room) in [(0, 0, 100), (30, 10, 80), (10, 30, 100), (90, 0, 10), (200, 0, 0), (10, 10, 100)] {
        reckoning.rebaseline(live, reserved);
        assert_eq!(reckoning.room(), room, "{live} live, {reserved} reserved");
    }
}

#[test]
fn overhead_rises_by_a_step_at_most_and_falls_by_a_quarter() {
    let mut reckoning = reckoning();
    reckoning.observe_rss(10, 10);
    let seen = |reckoning: &mut Reckoning, measured: u64| {
        (0..7)
            .map(|_| {
                reckoning.observe_rss(10 + measured, 10);
                reckoning.overhead
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(seen(&mut reckoning, 28), [5, 10, 15, 19, 22, 24, 25]);
    assert_eq!(seen(&mut reckoning, 28), [26, 27, 28, 28, 28, 28, 28], "and it arrives");
    assert_eq!(seen(&mut reckoning, 0), [21, 15, 11, 8, 6, 4, 3]);
    assert_eq!(seen(&mut reckoning, 0), [2, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn the_first_measurement_is_taken_as_it_is() {
    let mut reckoning = reckoning();
    reckoning.observe_rss(30, 10);
    assert_eq!(reckoning.overhead, 20);
    reckoning.observe_rss(60, 10);
    assert_eq!(reckoning.overhead, 25, "and no other");
}

#[test]
fn pages_that_carried_heap_are_no_overhead_until_they_are_given_back() {
    let mut reckoning = Reckoning { step: u64::MAX, ..reckoning() };
    let settled = |reckoning: &mut Reckoning, rss, peak_heap| {
        (0..50).for_each(|_| reckoning.observe_rss(rss, peak_heap));
        reckoning.overhead
    };
    assert_eq!(settled(&mut reckoning, 48, 40), 8);
    assert_eq!(settled(&mut reckoning, 98, 90), 8, "a spike");
    assert_eq!(settled(&mut reckoning, 98, 40), 8, "whose pages stay");
    assert_eq!(settled(&mut reckoning, 58, 40), 8, "and are given back");
    assert_eq!(settled(&mut reckoning, 70, 40), 20, "after which more is more");
}

#[test]
fn overhead_never_eats_the_floor_but_heap_does() {
    let mut reckoning = Reckoning { step: u64::MAX, ..reckoning() };
    for _ in 0..100 {
        reckoning.observe_rss(u64::MAX, 0);
    }
    assert_eq!(reckoning.room(), 50);
    reckoning.rebaseline(30, 0);
    assert_eq!(reckoning.room(), 50);
    reckoning.rebaseline(70, 0);
    assert_eq!(reckoning.room(), 30, "the floor is no promise of what the heap has taken");
    reckoning.rebaseline(u64::MAX, 0);
    assert_eq!(reckoning.room(), 0);
    reckoning.rebaseline(0, 0);
    (0..200).for_each(|_| reckoning.observe_rss(0, 0));
    assert_eq!(reckoning.room(), 100);
}

#[test]
fn a_floor_above_the_limit_shuts_the_overhead_out() {
    let mut reckoning = Reckoning { floor: u64::MAX, step: 100, ..reckoning() };
    reckoning.observe_rss(100, 0);
    assert_eq!(reckoning.room(), 100);
}

#[test]
fn a_limit_found_leaves_the_environment_its_share_and_a_margin() {
    let found = MemoryLimit::of_lambda(ByteSize::mib(128));
    let basis = Basis::of(found, ENVIRONMENT_SHARE, found.size().percent(5));
    assert_eq!(
        basis.to_string(),
        "109.6 MiB: 128.0 MiB (lambda memory size) less 12.0 MiB for the environment and a margin of 6.4 MiB"
    );
    let nothing = Basis::of(found, ByteSize::mib(100), ByteSize::mib(100));
    assert_eq!(nothing.limit(), ByteSize::ZERO);
}

#[test]
fn budget_error_debug_prints_the_cause() {
    let error = BudgetError::Environment { source: EnvError::NoLimitKnown };
    assert_eq!(
        format!("{error:?}"),
        "no memory size for the budget: name one with limit(): no memory limit is known: \
         AWS_LAMBDA_FUNCTION_MEMORY_SIZE is not set and no cgroup has a limit"
    );
}
