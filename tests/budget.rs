//! The budget as a ledger: reservations grow, shrink, split and merge, every limit holds, and the refusal says who.

use std::sync::Arc;
use std::thread;

use plimsoll::budget::{AccountError, BuildError, MAX_ACCOUNTS, ReclaimPriority, reclaim_fn};
use plimsoll::{Account, ByteSize, EnvError, MemoryBudget, Pressure, Reservation};

const fn kib(n: u64) -> ByteSize {
    ByteSize::kib(n)
}

fn sum_of_accounts(budget: &MemoryBudget) -> u64 {
    budget.accounts().iter().map(|account| account.reserved.as_u64()).sum()
}

#[test]
fn a_reservation_grows_shrinks_splits_merges_and_goes() {
    let budget = MemoryBudget::new(kib(100));
    let account = budget.account("account").unwrap();
    let mut one = account.try_reserve(kib(10)).unwrap();
    one.try_grow(kib(20)).unwrap();
    assert_eq!(one.shrink(kib(5)), kib(5));
    assert_eq!((one.size(), account.reserved(), account.peak()), (kib(25), kib(25), kib(30)));
    one.try_resize(kib(12)).unwrap();
    one.try_resize(kib(40)).unwrap();

    let two = one.split(kib(15)).unwrap();
    assert_eq!((one.size(), two.size(), budget.reserved()), (kib(25), kib(15), kib(40)));
    assert!(one.split(kib(26)).is_none());
    one.merge(two).unwrap();
    assert_eq!((one.size(), budget.reserved()), (kib(40), kib(40)));

    assert_eq!(one.shrink(ByteSize::MAX), kib(40), "there is no more to give back");
    assert!(one.try_grow_without_reclaim(kib(100)));
    assert!(!one.try_grow_without_reclaim(ByteSize::bytes(1)));
    assert!(one.try_grow(ByteSize::bytes(1)).is_err());
    assert_eq!(one.size(), kib(100), "what could not grow stays");
    assert!(one.try_resize(ByteSize::MAX).is_err());
    assert_eq!(one.account().name(), "account");
    drop(one);
    assert_eq!((account.reserved(), account.peak(), budget.reserved()), (kib(0), kib(100), kib(0)));
}

#[test]
fn reservations_of_different_accounts_or_budgets_do_not_merge() {
    let (budget, another) = (MemoryBudget::new(kib(100)), MemoryBudget::new(kib(100)));
    let mut one = budget.account("one").unwrap().try_reserve(kib(1)).unwrap();
    for strange in
        [budget.account("two").unwrap().try_reserve(kib(2)), another.account("one").unwrap().try_reserve(kib(2))]
    {
        let back = one.merge(strange.unwrap()).unwrap_err();
        assert_eq!((one.size(), back.size()), (kib(1), kib(2)), "it comes back whole");
    }
    assert_eq!((budget.reserved(), another.reserved()), (kib(1), kib(0)));
}

#[test]
fn zero_bytes_are_always_granted_and_hold_nothing() {
    let budget = MemoryBudget::new(ByteSize::ZERO);
    let account = budget.account("account").unwrap();
    let mut nothing = account.try_reserve(ByteSize::ZERO).unwrap();
    assert!(nothing.try_grow_without_reclaim(ByteSize::ZERO));
    nothing.try_grow(ByteSize::ZERO).unwrap();
    assert_eq!(nothing.split(ByteSize::ZERO).unwrap().size(), ByteSize::ZERO);
    assert_eq!(nothing.shrink(ByteSize::ZERO), ByteSize::ZERO);
    assert!(account.try_reserve(ByteSize::bytes(1)).is_err(), "a limit of zero grants nothing else");
    assert_eq!(budget.pressure(), Pressure::Critical, "a capacity of nothing is full");
    assert!(budget.reclaim_overdraft(), "and not overdrawn");
}

#[test]
fn requests_that_overflow_are_refused_and_change_nothing() {
    let budget = MemoryBudget::new(ByteSize::MAX);
    let account = budget.account("account").unwrap();
    let mut one = account.try_reserve(kib(1)).unwrap();
    for huge in [ByteSize::MAX, ByteSize::bytes(usize::MAX as u64), ByteSize::bytes(i64::MAX as u64)] {
        assert!(account.try_reserve(huge).is_err(), "{huge}");
        assert!(one.try_grow(huge).is_err(), "{huge}");
        assert!(account.try_reserve_without_reclaim(huge).is_none(), "{huge}");
    }
    assert_eq!((budget.reserved(), account.peak()), (kib(1), kib(1)));

    let most = ByteSize::bytes(i64::MAX as u64).saturating_sub(kib(1));
    let rest = account.try_reserve(most).unwrap();
    assert!(account.try_reserve(ByteSize::bytes(1)).is_err(), "the sum stays within an i64");
    drop(rest);
    let booked = account.reserve(ByteSize::MAX);
    assert_eq!(booked.size(), most, "what is booked is what is given back");
    assert_eq!(account.reserve(kib(1)).size(), ByteSize::ZERO);
    drop((one, booked));
    assert_eq!(budget.reserved(), ByteSize::ZERO);
}

#[test]
fn releasing_after_the_budget_is_gone_is_no_special_case() {
    let budget = MemoryBudget::new(kib(100));
    let account = budget.account("survivor").unwrap();
    let mut held = account.try_reserve(kib(60)).unwrap();
    drop(budget);
    assert!(account.try_reserve(kib(50)).is_err(), "the account still knows its limit");
    drop(account);
    held.try_grow(kib(40)).unwrap();
    let account = held.account();
    assert_eq!(account.budget().reserved(), kib(100), "and the way back to the budget");
    drop(held);
    assert_eq!((account.reserved(), account.budget().reserved()), (ByteSize::ZERO, ByteSize::ZERO));
}

#[test]
fn account_65_is_an_error_and_others_go_on() {
    let budget = MemoryBudget::new(kib(1000));
    let accounts: Vec<Account> = (0..MAX_ACCOUNTS).map(|i| budget.account(format!("account-{i}")).unwrap()).collect();
    let refused = budget.account("account-64").unwrap_err();
    assert!(matches!(refused, AccountError::TooManyAccounts { max: MAX_ACCOUNTS, .. }), "{refused}");
    assert!(refused.to_string().starts_with("no account `account-64`: the budget has 64 accounts"), "{refused}");
    let reserved: Vec<Reservation> = accounts.iter().map(|account| account.try_reserve(kib(1)).unwrap()).collect();
    assert_eq!(budget.account(String::from("account-63")).unwrap().reserved(), kib(1), "those that are open stay so");
    assert_eq!(budget.accounts().len(), MAX_ACCOUNTS);
    assert_eq!(sum_of_accounts(&budget), budget.reserved().as_u64());
    drop(reserved);
    assert_eq!(sum_of_accounts(&budget), 0);
}

#[test]
fn tables_are_used_again_and_remember_nothing() {
    for round in 0..1000 {
        let budget = MemoryBudget::new(kib(100));
        let account = budget.account("again").unwrap();
        assert_eq!((account.peak(), account.reserved()), (ByteSize::ZERO, ByteSize::ZERO), "round {round}");
        account.set_minimum(kib(50)).unwrap();
        let reserved = account.try_reserve(kib(60)).unwrap();
        let _registered = account.register_reclaimer(ReclaimPriority::CACHE, reclaim_fn(|_, _| ()));
        drop((budget, account));
        drop(reserved);
        let budget = MemoryBudget::new(kib(100));
        assert!(budget.accounts().is_empty() && budget.available() == kib(100), "round {round}");
    }
}

#[test]
fn a_refusal_says_in_one_line_who_asked_and_who_holds_what() {
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let held: Vec<_> = [("small", 1), ("sessions", 40), ("model", 30), ("orders", 9), ("tiny", 2)]
        .map(|(name, mib)| budget.account(name).unwrap().try_reserve(ByteSize::mib(mib)).unwrap())
        .into();
    let refused = budget.account("orders").unwrap().try_reserve(ByteSize::mib(20)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "orders asked for 20.0 MiB, 18.0 MiB are available of a 100.0 MiB budget: \
         reserved by sessions 40.0 MiB, model 30.0 MiB, orders 9.0 MiB"
    );
    assert_eq!((refused.account(), refused.requested()), ("orders", ByteSize::mib(20)));
    assert_eq!((refused.available(), refused.limit()), (ByteSize::mib(18), ByteSize::mib(100)));
    assert_eq!((refused.unavailable(), refused.is_reentrant()), (ByteSize::ZERO, false));
    assert_eq!(refused.largest_accounts().last(), Some(("orders", ByteSize::mib(9))));

    drop(held);
}

#[test]
fn pressure_rises_at_its_thresholds_and_they_can_be_set() {
    use Pressure::{Critical, High, Normal};
    let account = |budget: &MemoryBudget| budget.account("account").unwrap();
    let at = |budget: &MemoryBudget, percent: u64| {
        let _held = account(budget).try_reserve(ByteSize::bytes(percent)).unwrap();
        budget.pressure()
    };
    let budget = MemoryBudget::new(ByteSize::bytes(100));
    let levels = [0, 79, 80, 94, 95, 100].map(|percent| at(&budget, percent));
    assert_eq!(levels, [Normal, Normal, High, High, Critical, Critical]);
    assert!(Normal < High && High < Critical);
    assert_eq!([Normal, High, Critical].map(|level| level.to_string()), ["normal", "high", "critical"]);

    let budget = MemoryBudget::builder().limit(ByteSize::bytes(100)).pressure_thresholds(1, 50).build().unwrap();
    assert_eq!([0, 1, 49, 50].map(|percent| at(&budget, percent)), [Normal, High, High, Critical]);
    for (high, critical) in [(0, 50), (50, 50), (60, 50), (50, 101)] {
        let refused = MemoryBudget::builder().limit(kib(1)).pressure_thresholds(high, critical).build().unwrap_err();
        let text = refused.to_string();
        assert!(text.contains(&format!("high at {high} % and critical at {critical} %")), "{text}");
    }
}

#[test]
fn the_environment_says_what_the_limit_is_made_of_or_why_there_is_none() {
    // What this machine says is not known here: what holds in any case is that nothing is taken in silence.
    match MemoryBudget::from_env() {
        Ok(budget) => {
            let basis = budget.limit_breakdown();
            let found = basis.found().expect("no limit was given");
            let kept = basis.environment_share().saturating_add(basis.margin());
            assert_eq!(basis.limit(), found.size().saturating_sub(kept));
            assert!(basis.to_string().contains(&found.to_string()), "{basis}");
        }
        Err(BuildError::Environment { source, .. }) => assert!(matches!(source, EnvError::NoLimitKnown), "{source}"),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn handles_go_to_any_thread() {
    fn goes<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
    goes::<MemoryBudget>();
    goes::<Account>();
    let budget = MemoryBudget::new(kib(100));
    let held = budget.account("account").unwrap().try_reserve(kib(10)).unwrap();
    thread::spawn(move || drop(held)).join().unwrap();
    assert_eq!(budget.reserved(), ByteSize::ZERO);
    assert_eq!(
        format!("{:?}", budget.account("account").unwrap()),
        "Account { name: \"account\", reserved: ByteSize(0 B), peak: ByteSize(10240 B, 10.0 KiB), .. }"
    );
    drop(Arc::new(budget));
}
