//! The rules of the budget: who is asked to give memory back, in which order, by whom, and what is refused at once.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use plimsoll::budget::{Reclaim, ReclaimPriority, ReclaimerHandle, reclaim_fn};
use plimsoll::{Account, ByteSize, MemoryBudget, Pressure, Reservation};

const fn kib(n: u64) -> ByteSize {
    ByteSize::kib(n)
}

/// What reclaimers were asked, in order: who, for how much, how urgently.
type Log = Arc<Mutex<Vec<(&'static str, ByteSize, Pressure)>>>;

/// A holder that gives back what it is asked for, but only under this pressure.
struct Giver {
    name: &'static str,
    gives_at: Pressure,
    held: Mutex<Reservation>,
    log: Log,
    registered: OnceLock<ReclaimerHandle>,
}

/// Asks a giver as long as it lives.
struct Asks(Weak<Giver>);

impl Giver {
    /// Holds `size` of a new account and registers itself.
    fn new(budget: &MemoryBudget, name: &'static str, rank: ReclaimPriority, size: ByteSize, log: &Log) -> Arc<Self> {
        Self::that_gives_at(Pressure::High, budget, name, rank, size, log)
    }

    fn that_gives_at(
        gives_at: Pressure,
        budget: &MemoryBudget,
        name: &'static str,
        rank: ReclaimPriority,
        size: ByteSize,
        log: &Log,
    ) -> Arc<Self> {
        let account = budget.account(name).unwrap();
        let held = Mutex::new(account.try_reserve(size).unwrap());
        let giver = Arc::new(Self { name, gives_at, held, log: Arc::clone(log), registered: OnceLock::new() });
        giver.registered.get_or_init(|| account.register_reclaimer(rank, Asks(Arc::downgrade(&giver))));
        giver
    }

    fn reserved(&self) -> ByteSize {
        self.held.lock().unwrap().size()
    }
}

impl Reclaim for Asks {
    fn reclaim(&self, want: ByteSize, pressure: Pressure) {
        let Some(giver) = self.0.upgrade() else { return };
        giver.log.lock().unwrap().push((giver.name, want, pressure));
        let Ok(mut held) = giver.held.try_lock() else { return };
        if pressure >= giver.gives_at {
            held.shrink(want);
        }
    }
}

/// Registers a closure.
fn reclaimer<T, F>(account: &Account, rank: ReclaimPriority, reclaim: F) -> ReclaimerHandle
where
    F: Fn(ByteSize, Pressure) -> T + Send + Sync + 'static,
{
    account.register_reclaimer(rank, reclaim_fn(move |want, pressure| drop(reclaim(want, pressure))))
}

fn asked(log: &Log) -> Vec<(&'static str, ByteSize, Pressure)> {
    std::mem::take(&mut log.lock().unwrap())
}

#[test]
fn reclaimers_are_asked_in_the_order_of_rank_each_for_what_is_still_missing() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let model = Giver::new(&budget, "model", ReclaimPriority::RESOURCE, kib(40), &log);
    let second = Giver::new(&budget, "second", ReclaimPriority::CACHE, kib(20), &log);
    let first = Giver::new(&budget, "first", ReclaimPriority::BUFFER, kib(10), &log);
    let third = Giver::new(&budget, "third", ReclaimPriority::CACHE, kib(20), &log);

    let got = budget.account("asker").unwrap().try_reserve(kib(45)).unwrap();
    assert_eq!(got.size(), kib(45));
    let high = Pressure::High;
    // 10 KiB are free of 100.
    assert_eq!(asked(&log), [("first", kib(35), high), ("second", kib(25), high), ("third", kib(5), high)]);
    assert_eq!(
        [first.reserved(), second.reserved(), third.reserved(), model.reserved()],
        [kib(0), kib(0), kib(15), kib(40)]
    );
    assert_eq!(budget.reserved(), kib(100));
}

#[test]
fn what_is_free_costs_nobody_anything() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", ReclaimPriority::CACHE, kib(60), &log);
    let asker = budget.account("asker").unwrap();
    let _forty = asker.try_reserve(kib(40)).unwrap();
    assert_eq!(budget.pressure(), Pressure::Critical);
    assert!(budget.reclaim_overdraft(), "full is not overdrawn");
    assert!(asker.try_reserve_without_reclaim(kib(1)).is_none());
    assert_eq!((asked(&log), cache.reserved()), (vec![], kib(60)));
}

#[test]
fn who_gives_nothing_at_high_pressure_is_asked_again_at_critical() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let dear = Giver::that_gives_at(Pressure::Critical, &budget, "dear", ReclaimPriority::CACHE, kib(50), &log);
    let cheap = Giver::new(&budget, "cheap", ReclaimPriority::CACHE, kib(20), &log);
    let _got = budget.account("asker").unwrap().try_reserve(kib(60)).unwrap();
    let (high, critical) = (Pressure::High, Pressure::Critical);
    assert_eq!(asked(&log), [("dear", kib(30), high), ("cheap", kib(30), high), ("dear", kib(10), critical)]);
    assert_eq!((dear.reserved(), cheap.reserved()), (kib(40), kib(0)));
}

#[test]
fn the_account_that_asks_is_not_asked() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", ReclaimPriority::CACHE, kib(60), &log);
    let other = Giver::new(&budget, "other cache", ReclaimPriority::CACHE, kib(40), &log);
    budget.account("cache").unwrap().try_reserve(kib(50)).unwrap_err();
    assert_eq!(asked(&log), [], "all that the other one holds would not be enough");
    let _got = budget.account("cache").unwrap().try_reserve(kib(30)).unwrap();
    assert_eq!(asked(&log), [("other cache", kib(30), Pressure::High)]);
    assert_eq!((cache.reserved(), other.reserved()), (kib(60), kib(10)));
}

#[test]
fn nobody_is_asked_whose_rank_is_above_that_of_the_one_who_asks() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", ReclaimPriority::CACHE, kib(40), &log);
    let model = Giver::new(&budget, "model", ReclaimPriority::RESOURCE, kib(60), &log);
    assert!(budget.account("cache").unwrap().try_reserve(kib(10)).is_err(), "a cache does not unload a model");
    assert_eq!(asked(&log), []);
    let _more = budget.account("model").unwrap().try_reserve(kib(10)).unwrap();
    assert_eq!(asked(&log), [("cache", kib(10), Pressure::High)], "a model shrinks a cache");
    let _buffer = budget.account("buffer").unwrap().try_reserve(kib(80)).unwrap();
    assert_eq!((cache.reserved(), model.reserved()), (kib(0), kib(10)), "who can give nothing back may ask all");
}

#[test]
fn a_request_that_must_fail_costs_no_cache() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", ReclaimPriority::CACHE, kib(30), &log);
    let _pinned = budget.account("pinned").unwrap().try_reserve(kib(60)).unwrap();
    let asker = budget.account("asker").unwrap();
    for size in [kib(41), kib(101), ByteSize::bytes(usize::MAX as u64), ByteSize::MAX] {
        let refused = asker.try_reserve(size).unwrap_err();
        assert_eq!((refused.requested(), refused.available()), (size, kib(10)));
    }
    assert_eq!((asked(&log), cache.reserved()), (vec![], kib(30)));
    let _all = asker.try_reserve(kib(40)).unwrap();
    assert_eq!(cache.reserved(), kib(0));
}

#[test]
fn a_reservation_inside_a_reclaimer_is_granted_if_free_and_else_refused_at_once() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let spare = Giver::new(&budget, "spare", ReclaimPriority::RESOURCE, kib(50), &log);
    let held = Mutex::new(budget.account("cache").unwrap().try_reserve(kib(40)).unwrap());
    let inner = budget.account("inner").unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let _cache = reclaimer(&budget.account("cache").unwrap(), ReclaimPriority::CACHE, {
        let seen = Arc::clone(&seen);
        move |want, _| {
            let free = inner.try_reserve(kib(5)).map(|reservation| reservation.size());
            let nested = inner.try_reserve(kib(20)).map(|reservation| reservation.size());
            seen.lock().unwrap().push((free, nested));
            held.lock().unwrap().shrink(want)
        }
    });
    let _got = budget.account("asker").unwrap().try_reserve(kib(30)).unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let [(free, nested)] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(*free, Ok(kib(5)));
    let nested = nested.as_ref().unwrap_err();
    assert!(nested.is_reentrant());
    let text = nested.to_string();
    assert!(text.starts_with("inner asked for 20.0 KiB within a reclaimer, 10.0 KiB are available"), "{text}");
    assert_eq!((asked(&log), spare.reserved()), (vec![], kib(50)), "nobody was asked by the one who was asked");

    // And the thread may ask again afterwards.
    let _more = budget.account("asker").unwrap().try_reserve(kib(30)).unwrap();
    assert_eq!(spare.reserved(), kib(40), "the cache gave its last 20, the model 10: {budget:?}");
}

#[test]
fn a_reclaimer_that_frees_nothing_is_passed_over() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let idle = budget.account("idle").unwrap();
    let _held = idle.try_reserve(kib(40)).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let _idle = reclaimer(&idle, ReclaimPriority::BUFFER, {
        let calls = Arc::clone(&calls);
        move |_, _| {
            calls.fetch_add(1, SeqCst);
            ByteSize::MAX // What it says is not relied upon.
        }
    });
    let cache = Giver::new(&budget, "cache", ReclaimPriority::CACHE, kib(40), &log);
    let _got = budget.account("asker").unwrap().try_reserve(kib(50)).unwrap();
    assert_eq!((calls.load(SeqCst), cache.reserved()), (1, kib(10)));
    assert!(budget.account("asker").unwrap().try_reserve(kib(20)).is_err());
    assert_eq!(calls.load(SeqCst), 3, "once a round, and no more");
}

#[test]
fn a_reclaimer_that_panics_counts_as_one_that_freed_nothing() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let broken = budget.account("broken").unwrap();
    let _held = broken.try_reserve(kib(40)).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let _broken = reclaimer(&broken, ReclaimPriority::BUFFER, {
        let calls = Arc::clone(&calls);
        move |_, _| {
            calls.fetch_add(1, SeqCst);
            panic!("a broken reclaimer (this panic belongs to the test)")
        }
    });
    let cache = Giver::new(&budget, "cache", ReclaimPriority::CACHE, kib(40), &log);
    let asker = budget.account("asker").unwrap();
    let _got = asker.try_reserve(kib(30)).unwrap();
    assert_eq!((calls.load(SeqCst), cache.reserved()), (1, kib(30)));
    // The thread is not taken to be inside a reclaimer for ever, and the broken one is asked again.
    let _more = asker.try_reserve(kib(10)).unwrap();
    assert_eq!((calls.load(SeqCst), cache.reserved()), (2, kib(20)));
    assert!(!asker.try_reserve(kib(70)).unwrap_err().is_reentrant());
}

#[test]
fn a_reclaimer_that_is_busy_makes_nobody_wait() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let busy = Giver::new(&budget, "busy", ReclaimPriority::BUFFER, kib(50), &log);
    let cache = Giver::new(&budget, "cache", ReclaimPriority::CACHE, kib(50), &log);
    let lock = busy.held.lock().unwrap();
    let _got = budget.account("asker").unwrap().try_reserve(kib(20)).unwrap();
    drop(lock);
    assert_eq!((busy.reserved(), cache.reserved()), (kib(50), kib(30)));
}

#[test]
fn a_reclaimer_whose_owner_is_gone_is_asked_no_more() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", ReclaimPriority::CACHE, kib(60), &log);
    drop(cache);
    assert_eq!(budget.reserved(), ByteSize::ZERO);
    let _pinned = budget.account("cache").unwrap().try_reserve(kib(60)).unwrap();
    assert!(budget.account("asker").unwrap().try_reserve(kib(50)).is_err());
    assert_eq!(asked(&log), []);
}

#[test]
fn an_account_can_have_several_reclaimers() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let first = Giver::new(&budget, "cache", ReclaimPriority::CACHE, kib(40), &log);
    let second = Giver::new(&budget, "cache", ReclaimPriority::CACHE, kib(40), &log);
    let _got = budget.account("asker").unwrap().try_reserve(kib(70)).unwrap();
    assert_eq!((first.reserved(), second.reserved()), (kib(0), kib(30)));
}

#[test]
fn a_reclaimer_may_drop_the_cache_it_belongs_to() {
    let budget = MemoryBudget::new(kib(100));
    let account = budget.account("cache").unwrap();
    let held = Mutex::new(Some(account.try_reserve(kib(90)).unwrap()));
    let own: Arc<Mutex<Option<ReclaimerHandle>>> = Arc::default();
    let last = Arc::clone(&own);
    let cache = reclaim_fn(move |_: ByteSize, _: Pressure| {
        let _released = {
            drop(last.lock().unwrap().take());
            held.lock().unwrap().take().map_or(ByteSize::ZERO, |held| held.size())
        };
    });
    *own.lock().unwrap() = Some(account.register_reclaimer(ReclaimPriority::CACHE, cache));
    let got = budget.account("asker").unwrap().try_reserve(kib(100)).unwrap();
    assert_eq!((got.size(), account.reserved()), (kib(100), ByteSize::ZERO));
}

#[test]
fn what_is_booked_may_overdraw_and_relieving_asks_the_others() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", ReclaimPriority::CACHE, kib(60), &log);
    let model = budget.account("model").unwrap();
    let mut loaded = model.reserve(kib(70));
    assert_eq!((loaded.size(), budget.reserved(), budget.available()), (kib(70), kib(130), kib(0)));
    assert_eq!(budget.pressure(), Pressure::Critical);
    assert!(budget.account("asker").unwrap().try_reserve_without_reclaim(ByteSize::bytes(1)).is_none());
    assert_eq!(asked(&log), [], "booking asks nobody");

    assert!(model.reclaim_overdraft());
    assert_eq!(asked(&log), [("cache", kib(30), Pressure::High)]);
    assert_eq!((cache.reserved(), budget.reserved()), (kib(30), kib(100)));

    loaded.grow(kib(40));
    assert!(!model.reclaim_overdraft(), "all that the cache has is not enough");
    assert_eq!((cache.reserved(), budget.reserved()), (kib(0), kib(110)));
    assert_eq!(budget.account("asker").unwrap().try_reserve(ByteSize::ZERO).unwrap().size(), ByteSize::ZERO);
    loaded.shrink(kib(40));
    assert!(budget.reclaim_overdraft());
}

#[test]
fn as_much_as_is_wanted_is_taken_back_from_those_ranked_low_enough_whatever_is_free() {
    let (budget, log) = (MemoryBudget::new(kib(1000)), Log::default());
    let cache = Giver::new(&budget, "cache", ReclaimPriority::CACHE, kib(20), &log);
    let last = Giver::that_gives_at(Pressure::Critical, &budget, "last", ReclaimPriority::CACHE, kib(30), &log);
    let model = Giver::new(&budget, "model", ReclaimPriority::RESOURCE, kib(40), &log);
    assert_eq!(budget.reclaim(ReclaimPriority::CACHE, kib(0)), kib(0));
    assert_eq!(asked(&log), []);
    let (high, critical) = (Pressure::High, Pressure::Critical);
    assert_eq!(budget.reclaim(ReclaimPriority::CACHE, kib(25)), kib(25));
    assert_eq!(
        asked(&log),
        [("cache", kib(25), high), ("last", kib(5), high), ("cache", kib(5), critical), ("last", kib(5), critical)]
    );
    assert_eq!([cache.reserved(), last.reserved(), model.reserved()], [kib(0), kib(25), kib(40)]);
    assert_eq!(budget.reclaim(ReclaimPriority::new(149), ByteSize::MAX), kib(25), "all of theirs");
    assert_eq!(budget.reclaim(ReclaimPriority::RESOURCE, ByteSize::MAX), kib(40));
    assert_eq!(budget.reclaim(ReclaimPriority::RESOURCE, ByteSize::MAX), kib(0));
    assert_eq!(budget.reserved(), kib(0));
}

#[test]
fn inside_a_reclaimer_nothing_is_taken_back_from_anybody() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", ReclaimPriority::CACHE, kib(60), &log);
    let inner = budget.clone();
    let asks = reclaimer(&budget.account("asks").unwrap(), ReclaimPriority::BUFFER, move |_, _| {
        inner.reclaim(ReclaimPriority::RESOURCE, kib(1))
    });
    drop(budget.account("asker").unwrap().try_reserve(kib(50)).unwrap());
    assert_eq!(asked(&log), [("cache", kib(10), Pressure::High)]);
    assert_eq!(cache.reserved(), kib(50));
    drop(asks);
}

#[test]
fn who_asks_an_overdrawn_budget_has_others_asked_for_the_overdraft_as_well() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let giver = Giver::new(&budget, "giver", ReclaimPriority::CACHE, kib(60), &log);
    let _loaded = budget.account("model").unwrap().reserve(kib(60));
    let granted = budget.account("buffer").unwrap().try_reserve(kib(10));
    assert_eq!(asked(&log), [("giver", kib(30), Pressure::High)]);
    assert_eq!((granted.unwrap().size(), giver.reserved(), budget.reserved()), (kib(10), kib(30), kib(100)));
}

#[test]
fn a_reclaimer_that_registers_another_is_called_once_a_round() {
    let budget = MemoryBudget::new(ByteSize::kib(100));
    let cache = budget.account("cache").unwrap();
    let _held = cache.try_reserve(ByteSize::kib(80)).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let (counted, account) = (Arc::clone(&asked), cache.clone());
    let others = Arc::new(Mutex::new(Vec::new()));
    let registered = Arc::clone(&others);
    let _reclaimer = reclaimer(&cache, ReclaimPriority::CACHE, move |_, _| {
        counted.fetch_add(1, SeqCst);
        let idle = reclaim_fn(|_, _| ());
        registered.lock().unwrap().push(account.register_reclaimer(ReclaimPriority::RESOURCE, idle));
    });
    assert!(budget.account("buffer").unwrap().try_reserve(ByteSize::kib(50)).is_err());
    assert_eq!(asked.load(SeqCst), 2, "in each of the two rounds");
    others.lock().unwrap().clear();
}

#[test]
fn what_is_not_askable_alone_decides_whether_anybody_is_asked() {
    let budget = MemoryBudget::new(ByteSize::MAX);
    let cache = budget.account("cache").unwrap();
    let held = Arc::new(Mutex::new(cache.try_reserve(ByteSize::kib(8)).unwrap()));
    let asked = Arc::new(AtomicUsize::new(0));
    let (counted, giving) = (Arc::clone(&asked), Arc::clone(&held));
    let reclaimer = reclaim_fn(move |want: ByteSize, _| {
        let _released = {
            counted.fetch_add(1, SeqCst);
            giving.lock().unwrap().shrink(want)
        };
    });
    let _registered = cache.register_reclaimer(ReclaimPriority::CACHE, reclaimer);
    assert!(budget.account("x").unwrap().try_reserve(ByteSize::MAX).is_err());
    assert_eq!(asked.load(SeqCst), 0, "more than can ever be: nobody loses anything for it");
}

#[test]
fn the_priority_of_a_reclaimer_that_is_unregistered_binds_nobody() {
    let budget = MemoryBudget::new(ByteSize::kib(100));
    let (cache, model) = (budget.account("cache").unwrap(), budget.account("model").unwrap());
    let held = Arc::new(Mutex::new(model.try_reserve(ByteSize::kib(80)).unwrap()));
    let giving = Arc::clone(&held);
    let _unload = reclaimer(&model, ReclaimPriority::RESOURCE, move |want, _| giving.lock().unwrap().shrink(want));
    let evict = reclaimer(&cache, ReclaimPriority::CACHE, |_, _| ());
    assert!(cache.try_reserve(ByteSize::kib(50)).is_err(), "a cache unloads no model");
    drop(evict);
    assert!(cache.try_reserve(ByteSize::kib(50)).is_ok());
}
