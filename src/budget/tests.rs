//! The table next to a model that is too short to be wrong, the histories that a budget must survive, and the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::table::{QueuePlace, Readings, Served, Table, Turn};
use super::{BuildError, LimitBreakdown};
use crate::board;
use crate::env::{ENVIRONMENT_SHARE, EnvError, MemoryLimit};
use crate::size::ByteSize;

const MIB: u64 = 1 << 20;

/// A table of `limit` bytes with three accounts, without checks of the pages.
fn table(limit: u64) -> Table {
    with_pages(limit, u64::MAX)
}

fn with_pages(limit: u64, check_from: u64) -> Table {
    let mut table = Table::new(limit, check_from);
    for name in ["table-0", "table-1", "table-2"] {
        table.open(name, board::meter).unwrap();
    }
    table
}

const fn live(live: u64) -> Readings {
    Readings { live, resident: None, now_ms: 0 }
}

fn fits(table: &mut Table, account: usize, size: u64, live_now: u64) -> bool {
    table.decide(account, size, &live(live_now), Turn::New).is_ok()
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn a_request_that_held_more_than_the_limit_leaves_nothing_behind() {
    let mut table = table(100 * MIB);
    assert!(!fits(&mut table, 0, 8 * MIB, 110 * MIB), "110 of 100 MiB are live");
    assert!(fits(&mut table, 0, 8 * MIB, 64 << 10), "and are gone");
    assert!(fits(&mut table, 0, 91 * MIB, 64 << 10));
}

#[test]
fn reservations_that_are_not_allocated_yet_do_not_hide_unreserved_heap() {
    let mut table = table(110 * MIB);
    for _ in 0..6 {
        assert!(fits(&mut table, 0, 8 * MIB, 60 * MIB), "60 of a static table and 48");
    }
    for _ in 0..6 {
        assert!(!fits(&mut table, 0, 8 * MIB, 60 * MIB), "they would be 60 and 56");
    }
    // Half of them have allocated; then all.
    assert!(!fits(&mut table, 0, 8 * MIB, 84 * MIB));
    assert!(!fits(&mut table, 0, 8 * MIB, 108 * MIB));
    assert!(!table.release(0, 8 * MIB));
    assert!(fits(&mut table, 0, 8 * MIB, 100 * MIB));
}

#[test]
fn unreserved_heap_in_the_middle_of_an_invocation_is_that_and_no_more() {
    let mut table = table(231 * MIB);
    let mut heap = 100 * MIB;
    for _ in 0..100 {
        assert!(fits(&mut table, 0, MIB, heap));
        heap += MIB;
    }
    assert_eq!(table.capacity(&live(heap)), 131 * MIB);
    for _ in 0..100 {
        table.release(0, MIB);
    }
    assert!(fits(&mut table, 0, 180 * MIB, MIB), "nothing outlives the invocation");
}

#[test]
fn the_estimate_of_unreserved_heap_forgets_after_its_window() {
    let mut table = table(100);
    let at = |now_ms, live| Readings { live, resident: None, now_ms };
    assert_eq!(table.capacity(&at(10_000, 60)), 40);
    assert!(table.try_reserve(0, 40, 60));
    // The reserved bytes take the place of the others.
    assert_eq!(table.capacity(&at(14_000, 60)), 40);
    assert_eq!(table.capacity(&at(15_000, 60)), 40, "within the window");
    assert_eq!(table.capacity(&at(20_000, 60)), 80, "20 are live and not reserved");
    assert_eq!(table.capacity(&at(20_000, 0)), 100);
}

#[test]
fn heap_that_was_freed_is_not_counted_when_reserved_memory_takes_its_place() {
    let mut table = table(100);
    assert_eq!(table.capacity(&live(60)), 40);
    assert_eq!(table.capacity(&live(5)), 95);
    assert!(table.try_reserve(0, 80, 5));
    assert_eq!(table.capacity(&live(85)), 95, "80 of the 85 are reserved");
}

#[test]
fn a_minimum_share_is_kept_while_others_fill_the_rest() {
    let mut table = table(100);
    assert_eq!(table.set_minimum(0, 10), Ok(()));
    assert_eq!(table.set_minimum(1, 91), Err(90));
    assert!(!fits(&mut table, 1, 91, 0) && fits(&mut table, 1, 90, 0));
    assert!(!fits(&mut table, 2, 1, 0) && fits(&mut table, 0, 4, 0));
    assert!(!fits(&mut table, 2, 1, 0), "the rest of the share");
    assert!(fits(&mut table, 0, 6, 0) && !fits(&mut table, 0, 1, 0));
    table.release(0, 10);
    assert!(!fits(&mut table, 1, 1, 0));
    assert_eq!(table.set_minimum(0, 0), Ok(()));
    assert!(fits(&mut table, 1, 10, 0));
    assert!(table.is_impossible(1, 101) && !table.is_impossible(1, 100));
}

#[test]
fn what_is_released_is_promised_to_the_request_that_reclaims() {
    let mut table = table(100);
    table.set_minimum(2, 5).unwrap();
    assert!(fits(&mut table, 0, 95, 0));
    let pass = table.begin_pass(1, 30);
    table.release(0, 30);
    assert!(!fits(&mut table, 1, 1, 0), "all 30 are promised");
    assert!(fits(&mut table, 2, 5, 0), "a minimum share waits for nobody");
    assert!(table.decide(1, 30, &live(0), Turn::Reclaiming(pass)).is_ok());
    assert!(!table.is_reclaiming(), "the grant ends the promise");
    table.release(0, 10);
    assert!(fits(&mut table, 1, 10, 0));
    // The end of an earlier pass is not the end of a later one.
    let later = table.begin_pass(1, 1);
    table.end_pass(pass);
    assert!(table.is_reclaiming());
    table.end_pass(later);
    assert!(!table.is_reclaiming());
}

#[test]
fn feasible_is_what_others_can_release_above_their_minimum_shares() {
    let mut table = table(100);
    table.set_minimum(0, 50).unwrap();
    assert!(fits(&mut table, 0, 50, 0) && fits(&mut table, 1, 50, 0));
    let readings = live(0);
    assert!(!table.is_feasible(2, 10, 0, 0b001, &readings), "all that account 0 has is promised to it");
    assert!(table.is_feasible(2, 10, 0, 0b010, &readings));
    assert_eq!((table.releasable(0b001), table.releasable(0b011)), (0, 50));
    assert!(table.is_feasible(1, 50, 50, 0, &readings) && !table.is_feasible(1, 51, 50, 0, &readings));
}

#[test]
fn pages_decide_on_large_requests_and_once_for_many_small_ones() {
    let mut table = with_pages(100, 10);
    let pages = |resident, live| Readings { live, resident: Some(resident), now_ms: 0 };
    assert!(table.decide(0, 20, &pages(30, 0), Turn::New).is_ok());
    // 20 are reserved and not allocated.
    let shortage = table.decide(0, 60, &pages(30, 0), Turn::New).unwrap_err();
    assert_eq!((shortage.bytes, shortage.pages), (0, 10));
    assert!(table.decide(0, 60, &pages(40, 20), Turn::New).is_ok(), "they are allocated in kept pages");
    table.release(0, 80);
    for _ in 0..9 {
        assert!(table.try_reserve(0, 1, 0));
    }
    assert!(!table.try_reserve(0, 1, 0), "the tenth needs a look");
    assert_eq!(table.decide(0, 1, &pages(91, 9), Turn::New).map_err(|shortage| shortage.pages), Ok(()));
    assert!(table.try_reserve(0, 1, 10) && !table.is_check_due());
    assert!(table.try_reserve_unchecked(0, 20, 10) && table.is_check_due());
    assert_eq!(table.pages_beyond_limit(0, &pages(95, 11)), 15);
}

#[test]
fn the_queue_is_served_in_order_and_a_cancelled_grant_goes_on() {
    let mut table = table(100);
    assert!(fits(&mut table, 0, 100, 0));
    let woken = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&woken));
    let numbers = [40, 10, 50].map(|size| table.enqueue(1, size, waker.clone()));
    assert!(table.release(0, 20), "requests wait");
    assert!(matches!(table.serve(&live(0)), Some(Served::First(_))), "10 would fit, and are not the first");
    table.release(0, 30);
    assert!(matches!(table.serve(&live(0)), Some(Served::Granted(_))));
    assert!(matches!(table.serve(&live(0)), Some(Served::Granted(_))));
    assert!(matches!(table.serve(&live(0)), Some(Served::First(_))), "the third may reclaim");
    assert!(table.serve(&live(0)).is_none(), "and is woken for that once");
    assert_eq!(
        numbers.map(|number| table.look_up(number, &mut Some(waker.clone()))),
        [QueuePlace::Granted, QueuePlace::Granted, QueuePlace::MayReclaim]
    );
    let fourth = table.enqueue(2, 60, waker.clone());
    assert_eq!(table.look_up(fourth, &mut Some(waker.clone())), QueuePlace::Waits);
    assert!(table.dequeue(numbers[2]).goes_on, "the next one may go on");
    table.release(1, 50);
    assert!(matches!(table.serve(&live(0)), Some(Served::Granted(_))) || table.reserved() == 50);
    table.release(0, 50);
    if table.has_queue() {
        assert!(matches!(table.serve(&live(0)), Some(Served::Granted(_))));
    }
    // It is gone before it knows.
    assert!(!table.dequeue(fourth).goes_on);
    assert_eq!(table.reserved(), 0);
}

#[derive(Clone, Debug)]
enum Op {
    TryReserve { account: usize, size: u64, live: u64 },
    Reserve { account: usize, size: u64 },
    Release { which: usize },
    Minimum { account: usize, minimum: u64 },
    Enqueue { account: usize, size: u64 },
    Cancel { which: usize },
    Serve,
    Pass { size: u64 },
    EndPass,
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![8 => 0_u64..60, 1 => Just(u64::MAX), 1 => Just(i64::MAX as u64)];
    prop_oneof![
        6 => (0_usize..3, size.clone(), 0_u64..130).prop_map(|(account, size, live)| Op::TryReserve { account, size, live }),
        1 => (0_usize..3, 0_u64..60).prop_map(|(account, size)| Op::Reserve { account, size }),
        4 => (0_usize..8).prop_map(|which| Op::Release { which }),
        1 => (0_usize..3, 0_u64..80).prop_map(|(account, minimum)| Op::Minimum { account, minimum }),
        2 => (0_usize..3, 1_u64..60).prop_map(|(account, size)| Op::Enqueue { account, size }),
        2 => (0_usize..8).prop_map(|which| Op::Cancel { which }),
        2 => Just(Op::Serve),
        1 => (0_u64..60).prop_map(|size| Op::Pass { size }),
        1 => Just(Op::EndPass),
    ]
}

/// The model: reservations as numbers.
#[derive(Default)]
struct Model {
    reserved: Vec<(usize, u64)>,
    minimums: [u64; 3],
    pass: Option<(u64, u64)>,
    highest: u64,
}

impl Model {
    fn sum(&self) -> u64 {
        self.reserved.iter().map(|(_, size)| size).sum()
    }

    fn of(&self, account: usize) -> u64 {
        self.reserved.iter().filter(|(of, _)| *of == account).map(|(_, size)| size).sum()
    }

    fn fits(&mut self, account: usize, size: u64, live: u64) -> bool {
        self.highest = self.highest.min(live).max(live.saturating_sub(self.sum()));
        let unused = |of: usize| self.minimums[of].saturating_sub(self.of(of));
        let others: u64 = (0..3).filter(|of| *of != account).map(unused).sum();
        let promised = if size > unused(account) { self.pass.map_or(0, |(_, size)| size) } else { 0 };
        let capacity = 100_u64.saturating_sub(self.highest);
        u128::from(self.sum()) + u128::from(size) + u128::from(others) + u128::from(promised) <= u128::from(capacity)
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_table_does_what_its_model_does(ops in proptest::collection::vec(op(), 1..80)) {
        let (mut table, mut model) = (table(100), Model::default());
        let mut waiting: Vec<(u64, usize, u64)> = Vec::new();
        for op in ops {
            match op {
                Op::TryReserve { account, size, live } => {
                    let expected = model.fits(account, size, live);
                    let readings = Readings { live, resident: None, now_ms: 0 };
                    let is_granted =
                        table.try_reserve(account, size, live) || table.decide(account, size, &readings, Turn::New).is_ok();
                    prop_assert_eq!(is_granted, expected);
                    if expected {
                        model.reserved.push((account, size));
                    }
                }
                Op::Reserve { account, size } => {
                    prop_assert_eq!(table.reserve(account, size), size);
                    model.reserved.push((account, size));
                }
                Op::Release { which } => {
                    let Some(which) = which.checked_rem(model.reserved.len()) else { continue };
                    let (account, size) = model.reserved.swap_remove(which);
                    prop_assert_eq!(table.release(account, size), size > 0 && table.has_queue());
                }
                Op::Minimum { account, minimum } => {
                    let others: u64 = (0..3).filter(|of| *of != account).map(|of| model.minimums[of]).sum();
                    let is_set = table.set_minimum(account, minimum).is_ok();
                    prop_assert_eq!(is_set, others + minimum <= 100);
                    if is_set {
                        model.minimums[account] = minimum;
                    }
                }
                Op::Enqueue { account, size } => {
                    waiting.push((table.enqueue(account, size, Waker::noop().clone()), account, size));
                }
                Op::Cancel { which } => {
                    let Some(which) = which.checked_rem(waiting.len()) else { continue };
                    let (number, ..) = waiting.remove(which);
                    let is_granted = table.look_up(number, &mut None) == QueuePlace::Granted;
                    if is_granted {
                        // `look_up` has handed the bytes to the request, which releases them.
                        unreachable!("granted requests leave `waiting` at once");
                    }
                    table.dequeue(number);
                }
                Op::Serve => {
                    let first = waiting.first().copied();
                    let served = table.serve(&live(0));
                    let fits = model.pass.is_none() && first.is_some_and(|(_, account, size)| model.fits(account, size, 0));
                    prop_assert_eq!(matches!(served, Some(Served::Granted(_))), fits);
                    if let (true, Some((number, account, size))) = (fits, first) {
                        prop_assert_eq!(table.look_up(number, &mut None), QueuePlace::Granted);
                        waiting.remove(0);
                        model.reserved.push((account, size));
                    }
                }
                Op::Pass { size } => {
                    if model.pass.is_none() {
                        let own = model.minimums[0].saturating_sub(model.of(0));
                        model.pass = Some((table.begin_pass(0, size), size.saturating_sub(own)));
                    }
                }
                Op::EndPass => {
                    if let Some((number, _)) = model.pass.take() {
                        table.end_pass(number);
                    }
                }
            }
            prop_assert_eq!(table.reserved(), model.sum());
            prop_assert_eq!(table.usages().map(|usage| usage.reserved).sum::<u64>(), table.reserved());
            let unused: u64 = (0..3).map(|of| model.minimums[of].saturating_sub(model.of(of))).sum();
            prop_assert_eq!(table.unused_minimums(), unused);
            for account in 0..3 {
                // The live heap that leaves the estimate as it is.
                let readings = live(model.highest.saturating_add(model.sum()));
                let available = table.available(Some(account), &readings, Turn::New);
                let own = model.minimums[account].saturating_sub(model.of(account));
                // An account has its unused minimum share beyond that.
                prop_assert!(available <= own || table.missing(account, available, &readings, Turn::New) == 0);
                prop_assert!(table.missing(account, available.max(own) + 1, &readings, Turn::New) > 0);
            }
        }
    }
}

#[test]
fn a_limit_found_leaves_the_environment_its_share_and_a_margin() {
    let found = MemoryLimit::of_lambda(ByteSize::mib(128));
    let breakdown = LimitBreakdown::of(found, ENVIRONMENT_SHARE, found.size().percent(5));
    assert_eq!(
        breakdown.to_string(),
        "109.6 MiB: 128.0 MiB (lambda memory size) less 12.0 MiB for the environment and a margin of 6.4 MiB"
    );
    let nothing = LimitBreakdown::of(found, ByteSize::mib(100), ByteSize::mib(100));
    assert_eq!(nothing.limit(), ByteSize::ZERO);
}

#[test]
fn build_error_debug_prints_the_cause() {
    let error = BuildError::Environment { source: EnvError::NoLimitKnown };
    assert_eq!(
        format!("{error:?}"),
        "no memory size for the budget: name one with limit(): no memory limit is known: \
         AWS_LAMBDA_FUNCTION_MEMORY_SIZE is not set and no cgroup has a limit"
    );
}
