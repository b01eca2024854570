//! What accounts hold, as the board publishes it.

use plimsoll::{ByteSize, MemoryBudget, board};

const fn kib(n: u64) -> ByteSize {
    ByteSize::kib(n)
}

/// One test: the board is one for the process.
#[test]
fn accounts_publish_what_they_hold_and_nothing_once_they_are_gone() {
    let published = |name| board::holder(name).bytes();
    let (budget, another) = (MemoryBudget::new(kib(100)), MemoryBudget::new(kib(100)));
    let mut one = budget.account("cache").unwrap().try_reserve(kib(10)).unwrap();
    let two = another.account("cache").unwrap().try_reserve(kib(5)).unwrap();
    board::holder("cache").add(kib(1));
    assert_eq!(published("cache"), kib(16), "budgets and holders of one name add up");
    one.shrink(kib(4));
    one.grow(kib(1));
    assert!(one.try_grow_without_reclaim(kib(3)));
    assert_eq!(published("cache"), kib(16));
    assert_eq!(board::holders().collect::<Vec<_>>(), [("cache", kib(16))]);

    drop((budget, another, two));
    assert_eq!(published("cache"), kib(11), "a reservation alone is still published");
    drop(one);
    assert_eq!(published("cache"), kib(1), "the holder's own");
    board::holder("cache").sub(kib(1));

    // Budgets that come and go leave nothing, be it booked to the brim.
    for _ in 0..100 {
        let budget = MemoryBudget::new(kib(1));
        drop(budget.account("brim").unwrap().reserve(ByteSize::MAX));
        assert_eq!(published("brim"), ByteSize::ZERO);
    }
    let full = MemoryBudget::new(kib(1));
    let booked = full.account("brim").unwrap().reserve(ByteSize::MAX);
    assert_eq!(published("brim"), ByteSize::bytes(i64::MAX as u64));
    drop((full, booked));

    // The board had two names before, so two of the 64 accounts are shown as `other`.
    let budget = MemoryBudget::new(kib(1000));
    let open = |i: i32| budget.account(format!("account-{i}")).unwrap();
    let held: Vec<_> = (0..64).map(|i| open(i).try_reserve(kib(1)).unwrap()).collect();
    assert_eq!(published("account-61"), kib(1));
    assert_eq!(board::holders().last(), Some(("other", kib(2))));
    assert_eq!(board::holders().map(|(_, bytes)| bytes.as_u64()).sum::<u64>(), kib(64).as_u64());
    drop(held);
    assert!(board::holders().all(|(_, bytes)| bytes == ByteSize::ZERO));
}
