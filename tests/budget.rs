//! The budget as a ledger: reservations grow, shrink, split and merge, every limit holds, and the refusal says who.

use std::sync::Arc;
use std::thread;

use plimsoll::budget::{ACCOUNTS, BudgetError};
use plimsoll::{Account, ByteSize, EnvError, MemoryBudget, Pressure, Reservation};

const fn kib(n: u64) -> ByteSize {
    ByteSize::kib(n)
}

fn sum_of_holders(budget: &MemoryBudget) -> u64 {
    budget.holders().map(|holding| holding.held.as_u64()).sum()
}

#[test]
fn a_reservation_grows_shrinks_splits_merges_and_goes() {
    let budget = MemoryBudget::new(kib(100));
    let account = budget.account("account");
    let mut one = account.try_reserve(kib(10)).unwrap();
    one.try_grow(kib(20)).unwrap();
    assert_eq!(one.shrink(kib(5)), kib(5));
    assert_eq!((one.size(), account.held(), account.peak()), (kib(25), kib(25), kib(30)));
    one.try_resize(kib(12)).unwrap();
    one.try_resize(kib(40)).unwrap();

    let two = one.split(kib(15)).unwrap();
    assert_eq!((one.size(), two.size(), budget.reserved()), (kib(25), kib(15), kib(40)));
    assert!(one.split(kib(26)).is_none());
    one.merge(two).unwrap();
    assert_eq!((one.size(), budget.reserved()), (kib(40), kib(40)));

    assert_eq!(one.shrink(ByteSize::MAX), kib(40), "there is no more to give back");
    assert!(one.grow_if_free(kib(100)));
    assert!(!one.grow_if_free(ByteSize::bytes(1)));
    assert!(one.try_grow(ByteSize::bytes(1)).is_err());
    assert_eq!(one.size(), kib(100), "what could not grow stays");
    assert!(one.try_resize(ByteSize::MAX).is_err());
    assert_eq!(one.account().name(), "account");
    drop(one);
    assert_eq!((account.held(), account.peak(), budget.reserved()), (kib(0), kib(100), kib(0)));
}

#[test]
fn reservations_of_different_accounts_or_budgets_do_not_merge() {
    let (budget, another) = (MemoryBudget::new(kib(100)), MemoryBudget::new(kib(100)));
    let mut one = budget.account("one").try_reserve(kib(1)).unwrap();
    for strange in [budget.account("two").try_reserve(kib(2)), another.account("one").try_reserve(kib(2))] {
        let back = one.merge(strange.unwrap()).unwrap_err();
        assert_eq!((one.size(), back.size()), (kib(1), kib(2)), "it comes back whole");
    }
    assert_eq!((budget.reserved(), another.reserved()), (kib(1), kib(0)));
}

#[test]
fn zero_bytes_are_always_granted_and_hold_nothing() {
    let budget = MemoryBudget::new(ByteSize::ZERO);
    let account = budget.account("account");
    let mut nothing = account.try_reserve(ByteSize::ZERO).unwrap();
    assert!(nothing.grow_if_free(ByteSize::ZERO));
    nothing.try_grow(ByteSize::ZERO).unwrap();
    assert_eq!(nothing.split(ByteSize::ZERO).unwrap().size(), ByteSize::ZERO);
    assert_eq!(nothing.shrink(ByteSize::ZERO), ByteSize::ZERO);
    assert!(account.try_reserve(ByteSize::bytes(1)).is_err(), "a limit of zero grants nothing else");
    assert_eq!(budget.pressure(), Pressure::Critical, "a room of nothing is full");
    assert!(budget.relieve(), "and not overdrawn");
}

#[test]
fn requests_that_overflow_are_refused_and_change_nothing() {
    let budget = MemoryBudget::new(ByteSize::MAX);
    let account = budget.account("account");
    let mut one = account.try_reserve(kib(1)).unwrap();
    for huge in [ByteSize::MAX, ByteSize::bytes(usize::MAX as u64), ByteSize::bytes(i64::MAX as u64)] {
        assert!(account.try_reserve(huge).is_err(), "{huge}");
        assert!(one.try_grow(huge).is_err(), "{huge}");
        assert!(account.reserve_if_free(huge).is_none(), "{huge}");
    }
    assert_eq!((budget.reserved(), account.peak()), (kib(1), kib(1)));

    let most = ByteSize::bytes(i64::MAX as u64).saturating_sub(kib(1));
    let rest = account.try_reserve(most).unwrap();
    assert!(account.try_reserve(ByteSize::bytes(1)).is_err(), "the sum stays within an i64");
    drop(rest);
    let booked = account.book(ByteSize::MAX);
    assert_eq!(booked.size(), most, "what is booked is what is given back");
    assert_eq!(account.book(kib(1)).size(), ByteSize::ZERO);
    drop((one, booked));
    assert_eq!(budget.reserved(), ByteSize::ZERO);
}

#[test]
fn releasing_after_the_budget_is_gone_is_no_special_case() {
    let budget = MemoryBudget::new(kib(100));
    let account = budget.account("survivor");
    let mut held = account.try_reserve(kib(60)).unwrap();
    drop(budget);
    assert!(account.try_reserve(kib(50)).is_err(), "the account still knows its limit");
    drop(account);
    held.try_grow(kib(40)).unwrap();
    let account = held.account().clone();
    assert_eq!(account.budget().reserved(), kib(100), "and the way back to the budget");
    drop(held);
    assert_eq!((account.held(), account.budget().reserved()), (ByteSize::ZERO, ByteSize::ZERO));
}

#[test]
fn a_hundred_accounts_share_the_name_other_from_the_65th_on() {
    let budget = MemoryBudget::new(kib(1000));
    let names: Vec<&'static str> = (0..100).map(|i| &*format!("account-{i}").leak()).collect();
    let held: Vec<Reservation> = names.iter().map(|name| budget.account(name).try_reserve(kib(1)).unwrap()).collect();
    let holders: Vec<_> = budget.holders().map(|holding| (holding.name, holding.held)).collect();
    assert_eq!(holders.len(), ACCOUNTS + 1);
    assert_eq!(holders.first(), Some(&("account-0", kib(1))));
    assert_eq!(holders.last(), Some(&("other", kib(36))));
    assert_eq!(budget.account("account-63").held(), kib(1));
    assert_eq!((budget.account("account-64").name(), budget.account("account-64").held()), ("other", kib(36)));
    assert_eq!(budget.account("other").held(), kib(36), "asked for by name, it is the same one");
    assert_eq!(sum_of_holders(&budget), budget.reserved().as_u64());
    let refused = budget.account("account-99").try_reserve(kib(1000)).unwrap_err();
    assert_eq!((refused.requester(), refused.holders().next()), ("other", Some(("other", kib(36)))));
    drop(held);
    assert_eq!(sum_of_holders(&budget), 0);
}

#[test]
fn a_refusal_says_in_one_line_who_asked_and_who_holds_what() {
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let held: Vec<_> = [("small", 1), ("sessions", 40), ("model", 30), ("orders", 9), ("tiny", 2)]
        .map(|(name, mib)| budget.account(name).try_reserve(ByteSize::mib(mib)).unwrap())
        .into();
    let refused = budget.account("orders").try_reserve(ByteSize::mib(20)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "orders asked for 20.0 MiB, 18.0 MiB are free of a 100.0 MiB budget: \
         held by sessions 40.0 MiB, model 30.0 MiB, orders 9.0 MiB"
    );
    assert_eq!((refused.requester(), refused.requested()), ("orders", ByteSize::mib(20)));
    assert_eq!((refused.available(), refused.limit()), (ByteSize::mib(18), ByteSize::mib(100)));
    assert_eq!((refused.withheld(), refused.is_reentrant()), (ByteSize::ZERO, false));
    assert_eq!(refused.holders().last(), Some(("orders", ByteSize::mib(9))));

    budget.rebaseline(ByteSize::mib(82 + 10));
    let refused = budget.account("orders").try_reserve(ByteSize::mib(20)).unwrap_err();
    assert!(refused.to_string().ends_with("orders 9.0 MiB; 10.0 MiB are in use outside of it"), "{refused}");
    drop(held);
    let refused = budget.account("orders").try_reserve(ByteSize::mib(91)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "orders asked for 91.0 MiB, 90.0 MiB are free of a 100.0 MiB budget: 10.0 MiB are in use outside of it"
    );
}

#[test]
fn pressure_rises_at_its_thresholds_and_they_can_be_set() {
    use Pressure::{Calm, Critical, High};
    let account = |budget: &MemoryBudget| budget.account("account");
    let at = |budget: &MemoryBudget, percent: u64| {
        let _held = account(budget).try_reserve(ByteSize::bytes(percent)).unwrap();
        budget.pressure()
    };
    let budget = MemoryBudget::new(ByteSize::bytes(100));
    let levels = [0, 79, 80, 94, 95, 100].map(|percent| at(&budget, percent));
    assert_eq!(levels, [Calm, Calm, High, High, Critical, Critical]);
    assert!(Calm < High && High < Critical);
    assert_eq!([Calm, High, Critical].map(|level| level.to_string()), ["calm", "high", "critical"]);

    let budget = MemoryBudget::builder().limit(ByteSize::bytes(100)).pressure_at(1, 50).build().unwrap();
    assert_eq!([0, 1, 49, 50].map(|percent| at(&budget, percent)), [Calm, High, High, Critical]);
    for (high, critical) in [(0, 50), (50, 50), (60, 50), (50, 101)] {
        let refused = MemoryBudget::builder().limit(kib(1)).pressure_at(high, critical).build().unwrap_err();
        let text = refused.to_string();
        assert!(text.contains(&format!("high at {high} % and critical at {critical} %")), "{text}");
    }
}

#[test]
fn the_environment_says_what_the_limit_is_made_of_or_why_there_is_none() {
    // What this machine says is not known here: what holds in any case is that nothing is taken in silence.
    match MemoryBudget::from_env() {
        Ok(budget) => {
            let basis = budget.basis();
            let found = basis.found().expect("no limit was given");
            let kept = basis.environment_share().saturating_add(basis.margin());
            assert_eq!(basis.limit(), found.size().saturating_sub(kept));
            assert!(basis.to_string().contains(&found.to_string()), "{basis}");
        }
        Err(BudgetError::Environment { source, .. }) => assert!(matches!(source, EnvError::NoLimitKnown), "{source}"),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn handles_go_to_any_thread() {
    fn goes<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
    goes::<MemoryBudget>();
    goes::<Account>();
    let budget = MemoryBudget::new(kib(100));
    let held = budget.account("account").try_reserve(kib(10)).unwrap();
    thread::spawn(move || drop(held)).join().unwrap();
    assert_eq!(budget.reserved(), ByteSize::ZERO);
    assert_eq!(
        format!("{:?}", budget.account("account")),
        "Account { name: \"account\", held: ByteSize(0 B), peak: ByteSize(10240 B, 10.0 KiB), .. }"
    );
    drop(Arc::new(budget));
}
