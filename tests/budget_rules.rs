//! The rules of the budget: who is asked to give memory back, in which order, by whom, and what is refused at once.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use plimsoll::budget::{Rank, Reclaim};
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
}

impl Giver {
    /// Holds `size` of a new account and registers itself.
    fn new(budget: &MemoryBudget, name: &'static str, rank: Rank, size: ByteSize, log: &Log) -> Arc<Self> {
        Self::that_gives_at(Pressure::High, budget, name, rank, size, log)
    }

    fn that_gives_at(
        gives_at: Pressure,
        budget: &MemoryBudget,
        name: &'static str,
        rank: Rank,
        size: ByteSize,
        log: &Log,
    ) -> Arc<Self> {
        let account = budget.account(name);
        let held = Mutex::new(account.try_reserve(size).unwrap());
        let giver = Arc::new(Self { name, gives_at, held, log: Arc::clone(log) });
        account.set_reclaimer(rank, Arc::downgrade(&giver));
        giver
    }

    fn held(&self) -> ByteSize {
        self.held.lock().unwrap().size()
    }
}

impl Reclaim for Giver {
    fn reclaim(&self, want: ByteSize, pressure: Pressure) -> ByteSize {
        self.log.lock().unwrap().push((self.name, want, pressure));
        let Ok(mut held) = self.held.try_lock() else { return ByteSize::ZERO };
        if pressure >= self.gives_at { held.shrink(want) } else { ByteSize::ZERO }
    }
}

/// A reclaimer made of a closure, which lives as long as what is returned.
fn reclaimer<F>(account: &Account, rank: Rank, reclaim: F) -> Arc<F>
where
    F: Fn(ByteSize, Pressure) -> ByteSize + Send + Sync + 'static,
{
    let reclaimer = Arc::new(reclaim);
    account.set_reclaimer(rank, Arc::downgrade(&reclaimer));
    reclaimer
}

fn asked(log: &Log) -> Vec<(&'static str, ByteSize, Pressure)> {
    std::mem::take(&mut log.lock().unwrap())
}

#[test]
fn reclaimers_are_asked_in_the_order_of_rank_each_for_what_is_still_missing() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let model = Giver::new(&budget, "model", Rank::RESOURCE, kib(40), &log);
    let second = Giver::new(&budget, "second", Rank::CACHE, kib(20), &log);
    let first = Giver::new(&budget, "first", Rank::BUFFER, kib(10), &log);
    let third = Giver::new(&budget, "third", Rank::CACHE, kib(20), &log);

    let got = budget.account("asker").try_reserve(kib(45)).unwrap();
    assert_eq!(got.size(), kib(45));
    let high = Pressure::High;
    // 10 KiB are free of 100.
    assert_eq!(asked(&log), [("first", kib(35), high), ("second", kib(25), high), ("third", kib(5), high)]);
    assert_eq!([first.held(), second.held(), third.held(), model.held()], [kib(0), kib(0), kib(15), kib(40)]);
    assert_eq!(budget.reserved(), kib(100));
}

#[test]
fn what_is_free_costs_nobody_anything() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", Rank::CACHE, kib(60), &log);
    let asker = budget.account("asker");
    let _forty = asker.try_reserve(kib(40)).unwrap();
    assert_eq!(budget.pressure(), Pressure::Critical);
    assert!(budget.relieve(), "full is not overdrawn");
    assert!(asker.reserve_if_free(kib(1)).is_none());
    assert_eq!((asked(&log), cache.held()), (vec![], kib(60)));
}

#[test]
fn who_gives_nothing_at_high_pressure_is_asked_again_at_critical() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let dear = Giver::that_gives_at(Pressure::Critical, &budget, "dear", Rank::CACHE, kib(50), &log);
    let cheap = Giver::new(&budget, "cheap", Rank::CACHE, kib(20), &log);
    let _got = budget.account("asker").try_reserve(kib(60)).unwrap();
    let (high, critical) = (Pressure::High, Pressure::Critical);
    assert_eq!(asked(&log), [("dear", kib(30), high), ("cheap", kib(30), high), ("dear", kib(10), critical)]);
    assert_eq!((dear.held(), cheap.held()), (kib(40), kib(0)));
}

#[test]
fn the_account_that_asks_is_not_asked() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", Rank::CACHE, kib(60), &log);
    let other = Giver::new(&budget, "other cache", Rank::CACHE, kib(40), &log);
    budget.account("cache").try_reserve(kib(50)).unwrap_err();
    assert_eq!(asked(&log), [], "all that the other one holds would not be enough");
    let _got = budget.account("cache").try_reserve(kib(30)).unwrap();
    assert_eq!(asked(&log), [("other cache", kib(30), Pressure::High)]);
    assert_eq!((cache.held(), other.held()), (kib(60), kib(10)));
}

#[test]
fn nobody_is_asked_whose_rank_is_above_that_of_the_one_who_asks() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", Rank::CACHE, kib(40), &log);
    let model = Giver::new(&budget, "model", Rank::RESOURCE, kib(60), &log);
    assert!(budget.account("cache").try_reserve(kib(10)).is_err(), "a cache does not unload a model");
    assert_eq!(asked(&log), []);
    let _more = budget.account("model").try_reserve(kib(10)).unwrap();
    assert_eq!(asked(&log), [("cache", kib(10), Pressure::High)], "a model shrinks a cache");
    let _buffer = budget.account("buffer").try_reserve(kib(80)).unwrap();
    assert_eq!((cache.held(), model.held()), (kib(0), kib(10)), "who can give nothing back may ask all");
}

#[test]
fn a_request_that_must_fail_costs_no_cache() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", Rank::CACHE, kib(30), &log);
    let _pinned = budget.account("pinned").try_reserve(kib(60)).unwrap();
    let asker = budget.account("asker");
    for size in [kib(41), kib(101), ByteSize::bytes(usize::MAX as u64), ByteSize::MAX] {
        let refused = asker.try_reserve(size).unwrap_err();
        assert_eq!((refused.requested(), refused.available()), (size, kib(10)));
    }
    assert_eq!((asked(&log), cache.held()), (vec![], kib(30)));
    let _all = asker.try_reserve(kib(40)).unwrap();
    assert_eq!(cache.held(), kib(0));
}

#[test]
fn a_reservation_inside_a_reclaimer_is_granted_if_free_and_else_refused_at_once() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let spare = Giver::new(&budget, "spare", Rank::RESOURCE, kib(50), &log);
    let held = Mutex::new(budget.account("cache").try_reserve(kib(40)).unwrap());
    let inner = budget.account("inner");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let _cache = reclaimer(&budget.account("cache"), Rank::CACHE, {
        let seen = Arc::clone(&seen);
        move |want, _| {
            let free = inner.try_reserve(kib(5)).map(|reservation| reservation.size());
            let nested = inner.try_reserve(kib(20)).map(|reservation| reservation.size());
            seen.lock().unwrap().push((free, nested));
            held.lock().unwrap().shrink(want)
        }
    });
    let _got = budget.account("asker").try_reserve(kib(30)).unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let [(free, nested)] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(*free, Ok(kib(5)));
    let nested = nested.as_ref().unwrap_err();
    assert!(nested.is_reentrant());
    let text = nested.to_string();
    assert!(text.starts_with("inner asked for 20.0 KiB inside a reclaimer, 10.0 KiB are free"), "{text}");
    assert_eq!((asked(&log), spare.held()), (vec![], kib(50)), "nobody was asked by the one who was asked");

    // And the thread may ask again afterwards.
    let _more = budget.account("asker").try_reserve(kib(30)).unwrap();
    assert_eq!(spare.held(), kib(40), "the cache gave its last 20, the model 10: {budget:?}");
}

#[test]
fn a_reclaimer_that_frees_nothing_is_passed_over() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let idle = budget.account("idle");
    let _held = idle.try_reserve(kib(40)).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let _idle = reclaimer(&idle, Rank::BUFFER, {
        let calls = Arc::clone(&calls);
        move |_, _| {
            calls.fetch_add(1, SeqCst);
            ByteSize::MAX // What it says is not relied upon.
        }
    });
    let cache = Giver::new(&budget, "cache", Rank::CACHE, kib(40), &log);
    let _got = budget.account("asker").try_reserve(kib(50)).unwrap();
    assert_eq!((calls.load(SeqCst), cache.held()), (1, kib(10)));
    assert!(budget.account("asker").try_reserve(kib(20)).is_err());
    assert_eq!(calls.load(SeqCst), 3, "once a round, and no more");
}

#[test]
fn a_reclaimer_that_panics_counts_as_one_that_freed_nothing() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let broken = budget.account("broken");
    let _held = broken.try_reserve(kib(40)).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let _broken = reclaimer(&broken, Rank::BUFFER, {
        let calls = Arc::clone(&calls);
        move |_, _| {
            calls.fetch_add(1, SeqCst);
            panic!("a broken reclaimer (this panic belongs to the test)")
        }
    });
    let cache = Giver::new(&budget, "cache", Rank::CACHE, kib(40), &log);
    let asker = budget.account("asker");
    let _got = asker.try_reserve(kib(30)).unwrap();
    assert_eq!((calls.load(SeqCst), cache.held()), (1, kib(30)));
    // The thread is not taken to be inside a reclaimer for ever, and the broken one is asked again.
    let _more = asker.try_reserve(kib(10)).unwrap();
    assert_eq!((calls.load(SeqCst), cache.held()), (2, kib(20)));
    assert!(!asker.try_reserve(kib(70)).unwrap_err().is_reentrant());
}

#[test]
fn a_reclaimer_that_is_busy_makes_nobody_wait() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let busy = Giver::new(&budget, "busy", Rank::BUFFER, kib(50), &log);
    let cache = Giver::new(&budget, "cache", Rank::CACHE, kib(50), &log);
    let lock = busy.held.lock().unwrap();
    let _got = budget.account("asker").try_reserve(kib(20)).unwrap();
    drop(lock);
    assert_eq!((busy.held(), cache.held()), (kib(50), kib(30)));
}

#[test]
fn a_reclaimer_whose_owner_is_gone_is_asked_no_more() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", Rank::CACHE, kib(60), &log);
    drop(cache);
    assert_eq!(budget.reserved(), ByteSize::ZERO);
    let _pinned = budget.account("cache").try_reserve(kib(60)).unwrap();
    assert!(budget.account("asker").try_reserve(kib(50)).is_err());
    assert_eq!(asked(&log), []);
    budget.account("cache").set_reclaimer(Rank::CACHE, Weak::<Giver>::new());
}

#[test]
fn a_later_reclaimer_of_an_account_takes_the_place_of_the_earlier_one() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let first = Giver::new(&budget, "cache", Rank::CACHE, kib(40), &log);
    let second = Giver::new(&budget, "cache", Rank::CACHE, kib(40), &log);
    let _got = budget.account("asker").try_reserve(kib(40)).unwrap();
    assert_eq!((first.held(), second.held()), (kib(40), kib(20)));
}

#[test]
fn a_reclaimer_may_drop_the_cache_it_belongs_to() {
    let budget = MemoryBudget::new(kib(100));
    let account = budget.account("cache");
    let held = Mutex::new(Some(account.try_reserve(kib(90)).unwrap()));
    let own: Arc<Mutex<Option<Arc<dyn Reclaim>>>> = Arc::default();
    let last = Arc::clone(&own);
    let cache = Arc::new(move |_: ByteSize, _: Pressure| {
        drop(last.lock().unwrap().take());
        held.lock().unwrap().take().map_or(ByteSize::ZERO, |held| held.size())
    });
    account.set_reclaimer(Rank::CACHE, Arc::downgrade(&cache));
    *own.lock().unwrap() = Some(cache);
    let got = budget.account("asker").try_reserve(kib(100)).unwrap();
    assert_eq!((got.size(), account.held()), (kib(100), ByteSize::ZERO));
}

#[test]
fn what_is_booked_may_overdraw_and_relieving_asks_the_others() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", Rank::CACHE, kib(60), &log);
    let model = budget.account("model");
    let mut loaded = model.book(kib(70));
    assert_eq!((loaded.size(), budget.reserved(), budget.available()), (kib(70), kib(130), kib(0)));
    assert_eq!(budget.pressure(), Pressure::Critical);
    assert!(budget.account("asker").reserve_if_free(ByteSize::bytes(1)).is_none());
    assert_eq!(asked(&log), [], "booking asks nobody");

    assert!(model.relieve());
    assert_eq!(asked(&log), [("cache", kib(30), Pressure::High)]);
    assert_eq!((cache.held(), budget.reserved()), (kib(30), kib(100)));

    loaded.book(kib(40));
    assert!(!model.relieve(), "all that the cache has is not enough");
    assert_eq!((cache.held(), budget.reserved()), (kib(0), kib(110)));
    assert_eq!(budget.account("asker").try_reserve(ByteSize::ZERO).unwrap().size(), ByteSize::ZERO);
    loaded.shrink(kib(40));
    assert!(budget.relieve());
}

#[test]
fn as_much_as_is_wanted_is_taken_back_from_those_ranked_low_enough_whatever_is_free() {
    let (budget, log) = (MemoryBudget::new(kib(1000)), Log::default());
    let cache = Giver::new(&budget, "cache", Rank::CACHE, kib(20), &log);
    let last = Giver::that_gives_at(Pressure::Critical, &budget, "last", Rank::CACHE, kib(30), &log);
    let model = Giver::new(&budget, "model", Rank::RESOURCE, kib(40), &log);
    assert_eq!(budget.reclaim(Rank::CACHE, kib(0)), kib(0));
    assert_eq!(asked(&log), []);
    let (high, critical) = (Pressure::High, Pressure::Critical);
    assert_eq!(budget.reclaim(Rank::CACHE, kib(25)), kib(25));
    assert_eq!(
        asked(&log),
        [("cache", kib(25), high), ("last", kib(5), high), ("cache", kib(5), critical), ("last", kib(5), critical)]
    );
    assert_eq!([cache.held(), last.held(), model.held()], [kib(0), kib(25), kib(40)]);
    assert_eq!(budget.reclaim(Rank::new(149), ByteSize::MAX), kib(25), "all of theirs");
    assert_eq!(budget.reclaim(Rank::RESOURCE, ByteSize::MAX), kib(40));
    assert_eq!(budget.reclaim(Rank::RESOURCE, ByteSize::MAX), kib(0));
    assert_eq!(budget.reserved(), kib(0));
}

#[test]
fn inside_a_reclaimer_nothing_is_taken_back_from_anybody() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", Rank::CACHE, kib(60), &log);
    let inner = budget.clone();
    let asks = reclaimer(&budget.account("asks"), Rank::BUFFER, move |_, _| inner.reclaim(Rank::RESOURCE, kib(1)));
    drop(budget.account("asker").try_reserve(kib(50)).unwrap());
    assert_eq!(asked(&log), [("cache", kib(10), Pressure::High)]);
    assert_eq!(cache.held(), kib(50));
    drop(asks);
}

#[test]
fn who_asks_an_overdrawn_budget_has_others_asked_for_the_overdraft_as_well() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let giver = Giver::new(&budget, "giver", Rank::CACHE, kib(60), &log);
    let _loaded = budget.account("model").book(kib(60));
    let granted = budget.account("buffer").try_reserve(kib(10));
    assert_eq!(asked(&log), [("giver", kib(30), Pressure::High)]);
    assert_eq!((granted.unwrap().size(), giver.held(), budget.reserved()), (kib(10), kib(30), kib(100)));
}

#[test]
fn a_room_that_shrinks_takes_nothing_until_it_is_asked_to() {
    let (budget, log) = (MemoryBudget::new(kib(100)), Log::default());
    let cache = Giver::new(&budget, "cache", Rank::CACHE, kib(80), &log);
    budget.rebaseline(kib(80 + 45));
    assert_eq!((budget.baseline().room, budget.reserved()), (kib(55), kib(80)));
    assert_eq!((budget.pressure(), asked(&log)), (Pressure::Critical, vec![]));
    assert!(budget.relieve());
    assert_eq!((asked(&log), cache.held()), (vec![("cache", kib(25), Pressure::High)], kib(55)));
    budget.rebaseline(kib(55));
    assert_eq!(budget.available(), kib(45), "drift heals both ways");
}

type Answer = dyn Fn(ByteSize, Pressure) -> ByteSize + Send + Sync;

/// A closure with a name, so that it can hold on to itself.
struct Closure(Box<Answer>);

impl Reclaim for Closure {
    fn reclaim(&self, want: ByteSize, pressure: Pressure) -> ByteSize {
        (self.0)(want, pressure)
    }
}

#[test]
fn a_reclaimer_that_sets_itself_anew_is_asked_once_a_round() {
    let budget = MemoryBudget::new(ByteSize::kib(100));
    let cache = budget.account("cache");
    let _held = cache.try_reserve(ByteSize::kib(80)).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let (counted, account) = (Arc::clone(&asked), cache.clone());
    let own = Arc::new(OnceLock::new());
    let itself: Arc<OnceLock<Weak<Closure>>> = Arc::clone(&own);
    let reclaimer: Arc<Closure> = Arc::new(Closure(Box::new(move |_, _| {
        counted.fetch_add(1, SeqCst);
        account.set_reclaimer(Rank::CACHE, Weak::clone(itself.get().unwrap()));
        ByteSize::ZERO
    })));
    own.set(Arc::downgrade(&reclaimer)).unwrap();
    cache.set_reclaimer(Rank::CACHE, Arc::downgrade(&reclaimer));
    assert!(budget.account("buffer").try_reserve(ByteSize::kib(50)).is_err());
    assert_eq!(asked.load(SeqCst), 2, "in each of the two rounds");
}

#[test]
fn what_is_not_askable_alone_decides_whether_anybody_is_asked() {
    let budget = MemoryBudget::new(ByteSize::MAX);
    let cache = budget.account("cache");
    let held = Arc::new(Mutex::new(cache.try_reserve(ByteSize::kib(8)).unwrap()));
    let asked = Arc::new(AtomicUsize::new(0));
    let (counted, giving) = (Arc::clone(&asked), Arc::clone(&held));
    let reclaimer = Arc::new(move |want: ByteSize, _| {
        counted.fetch_add(1, SeqCst);
        giving.lock().unwrap().shrink(want)
    });
    cache.set_reclaimer(Rank::CACHE, Arc::downgrade(&reclaimer));
    assert!(budget.account("x").try_reserve(ByteSize::MAX).is_err());
    assert_eq!(asked.load(SeqCst), 0, "more than can ever be: nobody loses anything for it");
}

#[test]
fn the_rank_of_a_reclaimer_that_is_gone_binds_nobody() {
    let budget = MemoryBudget::new(ByteSize::kib(100));
    let (cache, model) = (budget.account("cache"), budget.account("model"));
    let held = Arc::new(Mutex::new(model.try_reserve(ByteSize::kib(80)).unwrap()));
    let giving = Arc::clone(&held);
    let unload = Arc::new(move |want: ByteSize, _| giving.lock().unwrap().shrink(want));
    model.set_reclaimer(Rank::RESOURCE, Arc::downgrade(&unload));
    let evict = Arc::new(|_: ByteSize, _| ByteSize::ZERO);
    cache.set_reclaimer(Rank::CACHE, Arc::downgrade(&evict));
    assert!(cache.try_reserve(ByteSize::kib(50)).is_err(), "a cache unloads no model");
    drop(evict);
    assert!(cache.try_reserve(ByteSize::kib(50)).is_ok());
}

#[test]
fn the_overhead_neither_vanishes_nor_climbs_where_pages_come_and_go() {
    let overhead = |observed: &mut dyn FnMut(&MemoryBudget)| {
        let budget = MemoryBudget::new(ByteSize::mib(100));
        observed(&budget);
        budget.baseline().overhead.as_u64() >> 20
    };
    let mib = ByteSize::mib;
    // A buffer of 5 MiB is alive at every second reading; 10 MiB are no heap.
    let swinging = overhead(&mut |budget| {
        budget.observe_rss(mib(70), mib(60));
        for _ in 0..100 {
            budget.observe_rss(mib(75), mib(25));
            budget.observe_rss(mib(70), mib(25));
        }
    });
    assert!((9..=15).contains(&swinging), "{swinging}");
    // Pages given back for good are found to be so.
    let trimmed = overhead(&mut |budget| {
        budget.observe_rss(mib(70), mib(60));
        for _ in 0..100 {
            budget.observe_rss(mib(30), mib(20));
        }
    });
    assert!((9..=10).contains(&trimmed), "{trimmed}");
}
