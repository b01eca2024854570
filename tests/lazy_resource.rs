//! What a lazy resource does, one rule at a time; time is turned by hand.
#![expect(clippy::panic, reason = "a test may panic")]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Weak};
use std::time::Duration;

use plimsoll::budget::{Reclaim, ReclaimPriority, reclaim_fn};
use plimsoll::lazy::{FailureCause, Resource, ResourceState};
use plimsoll::{ByteSize, LazyError, LazyResource, ManualClock, MemoryBudget, Pressure};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("no luck")]
struct NoLuck;

/// What the loader does next.
#[derive(Clone, Copy, Default)]
enum Mood {
    #[default]
    Fine,
    Fails,
    Panics,
}

/// A loader that counts: the n-th load yields n.
#[derive(Default)]
struct Loader {
    loads: Cell<u32>,
    mood: Cell<Mood>,
}

impl Loader {
    fn load(&self) -> Result<u32, NoLuck> {
        self.loads.set(self.loads.get() + 1);
        match self.mood.get() {
            Mood::Fine => Ok(self.loads.get()),
            Mood::Fails => Err(NoLuck),
            Mood::Panics => panic!("the loader panics (this panic belongs to the test)"),
        }
    }
}

#[test]
fn a_static_is_loaded_at_the_first_use_and_once() {
    static LOADS: AtomicUsize = AtomicUsize::new(0);
    static WORDS: LazyResource<Vec<u32>, NoLuck> = LazyResource::new("words", || {
        LOADS.fetch_add(1, SeqCst);
        Ok(vec![1, 2, 3])
    });
    assert_eq!(WORDS.status().state, ResourceState::Unloaded);
    assert_eq!(LOADS.load(SeqCst), 0);
    let gate = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                gate.wait();
                assert_eq!(*WORDS.get().unwrap(), [1, 2, 3]);
            });
        }
    });
    assert_eq!(LOADS.load(SeqCst), 1);
    let status = WORDS.status();
    assert_eq!((status.state, status.loads, status.unloading_pins), (ResourceState::Loaded, 1, 0));
    assert_eq!(status.declared.file(), "tests/lazy_resource.rs");
    assert_eq!(status.first_used.unwrap().file(), "tests/lazy_resource.rs");
    assert!(status.declared.line() < status.first_used.unwrap().line());
}

#[test]
fn failures_are_stored_for_a_time_that_doubles_and_tell_their_age() {
    let (manual, loader) = (ManualClock::new(), Loader::default());
    loader.mood.set(Mood::Fails);
    let resource =
        LazyResource::capturing("dead", || loader.load()).clock(manual.clock()).retry_after(ms(100), ms(300));
    let check = |attempts, age, retry_in| match resource.get().unwrap_err() {
        LazyError::Failed(failure) => {
            let told = (failure.attempts, failure.age, failure.retry_in);
            assert_eq!(told, (attempts, ms(age), ms(retry_in)));
        }
        other => panic!("{other:?}"),
    };
    check(1, 0, 100);
    manual.advance(ms(60));
    check(1, 60, 40);
    assert_eq!(loader.loads.get(), 1, "nobody tries within the wait");
    manual.advance(ms(40));
    check(2, 0, 200);
    manual.advance(ms(200));
    check(3, 0, 300);
    assert_eq!(resource.status().state, ResourceState::Failed);
    let text = resource.get().unwrap_err().to_string();
    assert!(
        text.starts_with("dead could not be loaded: attempt 3 failed 0 ms ago, the next is due in 300 ms"),
        "{text}"
    );
    assert!(text.contains("declared at tests/lazy_resource.rs:"), "{text}");
    let source = std::error::Error::source(&resource.get().unwrap_err()).map(ToString::to_string);
    assert_eq!(source.as_deref(), Some("no luck"));

    loader.mood.set(Mood::Fine);
    manual.advance(ms(300));
    assert_eq!(*resource.get().unwrap(), 4);
    assert!(resource.failure().is_none(), "a value forgets what was before it");
    resource.unload();
    loader.mood.set(Mood::Fails);
    check(1, 0, 100);
}

#[test]
fn a_panic_passes_through_and_the_next_caller_tries_at_once() {
    let loader = Loader::default();
    let resource = LazyResource::capturing("panics", || loader.load());
    loader.mood.set(Mood::Panics);
    for _ in 0..3 {
        assert!(catch_unwind(AssertUnwindSafe(|| drop(resource.get()))).is_err());
    }
    assert_eq!((resource.status().state, resource.status().failed_attempts), (ResourceState::Failed, 3));
    let failure = resource.failure().unwrap();
    assert_eq!((failure.cause, failure.error.is_none()), (FailureCause::Panicked, true));
    assert!(failure.to_string().starts_with("panics could not be loaded: attempt 3 panicked "), "{failure}");
    loader.mood.set(Mood::Fine);
    assert_eq!(*resource.get().unwrap(), 4);
    assert_eq!(resource.status().failed_attempts, 0);
}

#[test]
fn panic_after_errors_continues_the_back_off() {
    let (manual, loader) = (ManualClock::new(), Loader::default());
    let resource =
        LazyResource::capturing("panics", || loader.load()).clock(manual.clock()).retry_after(ms(100), ms(1000));
    loader.mood.set(Mood::Fails);
    assert!(resource.get().is_err());
    manual.advance(ms(100));
    loader.mood.set(Mood::Panics);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(resource.get()))).is_err());
    let Err(LazyError::Failed(failure)) = resource.get() else { panic!("within the back-off") };
    assert_eq!((failure.attempts, failure.cause, failure.retry_in), (2, FailureCause::Panicked, ms(200)));
    assert_eq!(failure.error.as_deref(), Some(&NoLuck), "the last one that it returned");
    assert_eq!(loader.loads.get(), 2);
}

#[test]
fn refresh_that_panics_counts_and_backs_off() {
    let (manual, loader) = (ManualClock::new(), Loader::default());
    let resource = LazyResource::capturing("rates", || loader.load())
        .clock(manual.clock())
        .refresh_after(ms(1000))
        .retry_after(ms(100), ms(1000));
    resource.prefetch().unwrap();
    manual.advance(ms(1000));
    loader.mood.set(Mood::Panics);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(resource.get()))).is_err());
    assert_eq!((resource.status().state, resource.status().failed_attempts), (ResourceState::Stale, 1));
    assert_eq!(resource.get().map(|pin| (*pin, pin.is_stale())).unwrap(), (1, true));
    assert_eq!(loader.loads.get(), 2, "the back-off holds");
}

#[test]
fn load_slower_than_the_refresh_interval_pauses() {
    let (manual, loads) = (ManualClock::new(), Cell::new(0));
    let resource = LazyResource::capturing("slow", || {
        manual.advance(ms(2000));
        loads.set(loads.get() + 1);
        Ok::<_, NoLuck>(loads.get())
    })
    .clock(manual.clock())
    .refresh_after(ms(1000));
    for _ in 0..20 {
        assert_eq!(*resource.get().unwrap(), 1);
    }
    assert!(resource.get().unwrap().is_stale(), "its age counts from the start of its load");
    manual.advance(ms(1999));
    assert_eq!((*resource.get().unwrap(), loads.get()), (1, 1));
    manual.advance(ms(1));
    let pin = resource.get().unwrap();
    assert_eq!((*pin, pin.is_stale(), loads.get()), (2, false, 2));
}

#[test]
fn load_across_a_freeze_pauses_for_thirty_seconds_at_most() {
    let (manual, loads) = (ManualClock::new(), Cell::new(0));
    let resource = LazyResource::capturing("frozen", || {
        if loads.replace(loads.get() + 1) == 0 {
            manual.advance(ms(3_600_000));
        }
        Ok::<_, NoLuck>(loads.get())
    })
    .clock(manual.clock())
    .refresh_after(ms(1000));
    assert_eq!(*resource.get().unwrap(), 1);
    manual.advance(ms(29_999));
    assert_eq!(*resource.get().unwrap(), 1);
    manual.advance(ms(1));
    assert_eq!(*resource.get().unwrap(), 2);
}

#[test]
fn refresh_after_zero_loads_at_each_call() {
    let (manual, loader) = (ManualClock::new(), Loader::default());
    let resource = LazyResource::capturing("zero", || loader.load()).clock(manual.clock()).refresh_after(ms(0));
    assert_eq!([1, 2, 3].map(|_| *resource.get().unwrap()), [1, 2, 3]);
}

#[test]
fn value_beyond_stale_at_most_is_not_returned() {
    let (manual, loader) = (ManualClock::new(), Loader::default());
    let resource = LazyResource::capturing("token", || loader.load())
        .clock(manual.clock())
        .refresh_after(ms(1000))
        .stale_at_most(ms(5000))
        .retry_after(ms(100), ms(100));
    assert_eq!(*resource.get().unwrap(), 1);
    loader.mood.set(Mood::Fails);
    manual.advance(ms(4999));
    assert!(resource.get().unwrap().is_stale());
    manual.advance(ms(1));
    assert!(matches!(resource.get(), Err(LazyError::Failed(failure)) if failure.attempts == 1), "within the back-off");
    assert_eq!((loader.loads.get(), resource.status().state), (2, ResourceState::Failed));
    manual.advance(ms(100));
    assert!(resource.get().is_err());
    loader.mood.set(Mood::Fine);
    manual.advance(ms(100));
    let pin = resource.get().unwrap();
    assert_eq!((*pin, pin.is_stale()), (4, false));
}

#[test]
fn stale_at_most_alone_loads_at_its_age() {
    let (manual, loader) = (ManualClock::new(), Loader::default());
    let resource = LazyResource::capturing("token", || loader.load()).clock(manual.clock()).stale_at_most(ms(1000));
    assert_eq!(*resource.get().unwrap(), 1);
    manual.advance(ms(999));
    assert_eq!(*resource.get().unwrap(), 1);
    manual.advance(ms(1));
    assert_eq!(*resource.get().unwrap(), 2);
    let each_time = LazyResource::capturing("zero", || loader.load()).clock(manual.clock()).stale_at_most(ms(0));
    assert_eq!([3, 4].map(|_| *each_time.get().unwrap()), [3, 4]);
}

#[test]
fn value_too_old_after_a_failed_refresh_is_not_returned() {
    let (manual, loads) = (ManualClock::new(), Cell::new(0));
    let resource = LazyResource::capturing("token", || {
        if loads.replace(loads.get() + 1) > 0 {
            manual.advance(ms(3000));
            return Err(NoLuck);
        }
        Ok(1)
    })
    .clock(manual.clock())
    .refresh_after(ms(1000))
    .stale_at_most(ms(3000));
    resource.prefetch().unwrap();
    manual.advance(ms(1000));
    assert!(resource.get().is_err(), "it grew too old during the refresh");
}

#[test]
fn refresh_loads_again_and_ignores_the_back_off() {
    let (manual, loader) = (ManualClock::new(), Loader::default());
    let resource = LazyResource::capturing("rates", || loader.load()).clock(manual.clock());
    resource.refresh().unwrap();
    assert!(resource.status().is_never_used());
    assert_eq!(*resource.get().unwrap(), 1);
    loader.mood.set(Mood::Fails);
    for attempts in 1..4 {
        assert!(matches!(resource.refresh(), Err(LazyError::Failed(failure)) if failure.attempts == attempts));
    }
    assert_eq!(*resource.get().unwrap(), 1, "the old value stays");
    loader.mood.set(Mood::Fine);
    resource.refresh().unwrap();
    assert_eq!((*resource.get().unwrap(), resource.status().failed_attempts), (5, 0));
}

#[test]
fn refused_refresh_asks_the_budget_again_after_a_wait() {
    let (manual, loader) = (ManualClock::new(), Loader::default());
    let budget = MemoryBudget::new(ByteSize::mib(10));
    let resource = LazyResource::capturing("large", || loader.load())
        .clock(manual.clock())
        .expecting(ByteSize::mib(4))
        .refresh_after(ms(1000))
        .retry_after(ms(100), ms(1000));
    resource.charge_to(budget.account("large").unwrap()).unwrap();
    resource.prefetch().unwrap();
    manual.advance(ms(1000));
    let other = budget.account("rest").unwrap().try_reserve(ByteSize::mib(5)).unwrap();
    assert!(resource.get().unwrap().is_stale());
    drop(other);
    assert_eq!((*resource.get().unwrap(), resource.status().failed_attempts), (1, 0));
    manual.advance(ms(100));
    assert_eq!(*resource.get().unwrap(), 2);
}

#[test]
fn unload_during_a_load_discards_its_value() {
    let (manual, loads) = (ManualClock::new(), AtomicUsize::new(0));
    let (begun, go) = (Barrier::new(2), Barrier::new(2));
    let resource = LazyResource::capturing("read before", || {
        let load = loads.fetch_add(1, SeqCst);
        if load < 2 {
            begun.wait();
            go.wait();
        }
        Ok::<_, NoLuck>(load)
    })
    .clock(manual.clock());
    // At first there is no value, and then the value is unloaded next to a refresh.
    for load in 0..2 {
        std::thread::scope(|scope| {
            let loading = scope.spawn(|| resource.refresh().map(|()| resource.status().loads));
            begun.wait();
            assert_eq!(resource.unload(), (load > 0).then_some(0));
            let later = scope.spawn(|| *resource.get().unwrap());
            while !matches!(resource.status().state, ResourceState::Loading { waiting: 1, .. }) {
                std::thread::yield_now();
            }
            go.wait();
            assert!(loading.join().unwrap().is_ok());
            if load == 0 {
                // The one that came after `unload` loads again.
                begun.wait();
                go.wait();
            }
            let later = later.join().unwrap();
            assert!(later > load, "{later} was read before the unload");
        });
        if load == 0 {
            assert_eq!((loads.load(SeqCst), resource.status().loads), (2, 2));
            loads.store(1, SeqCst);
        }
    }
    assert_eq!((*resource.get().unwrap(), resource.status().unloading_pins), (2, 0));
}

#[test]
fn blocking_loads_in_a_ring_fail_one_of_them() {
    static GATE: Barrier = Barrier::new(2);
    fn value_after(other: &LazyResource<u32, NoLuck>) -> u32 {
        GATE.wait();
        match other.get() {
            Ok(value) => *value + 1,
            Err(LazyError::Reentrant { .. }) => 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    static ONE: LazyResource<u32, NoLuck> = LazyResource::new("one", || Ok(value_after(&TWO)));
    static TWO: LazyResource<u32, NoLuck> = LazyResource::new("two", || Ok(value_after(&ONE)));
    let threads = [std::thread::spawn(|| *ONE.get().unwrap()), std::thread::spawn(|| *TWO.get().unwrap())];
    let mut values = threads.map(|thread| thread.join().unwrap());
    values.sort_unstable();
    assert_eq!(values, [1, 2]);
}

#[test]
fn a_load_that_asks_for_itself_gets_an_error() {
    static LOOP: LazyResource<u32, LazyError<NoLuck>> = LazyResource::new("loop", || {
        assert!(matches!(INNER.get(), Err(LazyError::Reentrant { name: "inner", .. })), "asks further down");
        Ok(1)
    });
    static INNER: LazyResource<u32, NoLuck> = LazyResource::new("inner", || {
        assert_eq!(LOOP.get().map(|pin| *pin).unwrap(), 1);
        Ok(2)
    });
    assert_eq!(*INNER.get().unwrap(), 2);
}

#[test]
fn memory_returns_with_the_last_pin() {
    let resource = LazyResource::new("shared", || Ok::<_, NoLuck>(Arc::new(7)));
    let pins = [resource.get().unwrap(), resource.get().unwrap()];
    let alive: Weak<i32> = Arc::downgrade(&pins[0]);
    assert_eq!(resource.unload(), Some(2));
    assert_eq!(resource.unload(), None);
    let status = resource.status();
    assert_eq!((status.state, status.unloading_pins), (ResourceState::Unloaded, 2));
    assert!(status.to_string().contains("unloading, 2 pins"), "{status}");

    let next = resource.get().unwrap();
    assert!(!Arc::ptr_eq(&next, &pins[0]), "a new one beside the old");
    let [first, second] = pins;
    drop(first);
    assert_eq!((resource.status().unloading_pins, alive.strong_count()), (1, 1));
    drop(second);
    assert_eq!((resource.status().unloading_pins, alive.strong_count()), (0, 0));
}

#[test]
fn an_error_can_be_kept_and_told_again_whatever_its_source_can() {
    let failing = LazyResource::capturing("rates", || Err::<u32, _>(NoLuck));
    let error = failing.get().unwrap_err();
    let LazyError::Failed(kept) = error.clone() else { panic!("{error}") };
    let LazyError::Failed(failure) = error else { panic!("{error}") };
    assert_eq!(kept.to_string(), failure.to_string());
    let (Some(one), Some(other)) = (&kept.error, &failure.error) else { panic!("both have it") };
    assert!(Arc::ptr_eq(one, other), "one error, which is not copied");
    assert_eq!((kept.name, kept.attempts, kept.retry_in), ("rates", 1, failure.retry_in));
}

#[test]
fn a_refresh_that_fails_keeps_the_stale_value_and_says_so() {
    let (manual, loader) = (ManualClock::new(), Loader::default());
    let resource = LazyResource::capturing("rates", || loader.load())
        .clock(manual.clock())
        .refresh_after(ms(1000))
        .retry_after(ms(100), ms(100));
    let got = || resource.get().map(|pin| (*pin, pin.is_stale())).unwrap();
    assert_eq!(got(), (1, false));
    manual.advance(ms(999));
    assert_eq!(got(), (1, false));
    loader.mood.set(Mood::Fails);
    manual.advance(ms(1));
    assert_eq!(got(), (1, true));
    assert_eq!(loader.loads.get(), 2);
    assert_eq!((resource.failure().unwrap().attempts, resource.status().state), (1, ResourceState::Stale));
    assert_eq!(got(), (1, true));
    assert_eq!(loader.loads.get(), 2, "the back-off holds for a refresh");
    loader.mood.set(Mood::Fine);
    manual.advance(ms(100));
    assert_eq!(got(), (3, false));
    assert!(resource.failure().is_none());
}

#[test]
fn others_go_on_with_the_stale_value_while_one_refreshes() {
    let manual = ManualClock::new();
    let (begun, go) = (Barrier::new(2), Barrier::new(2));
    let loads = AtomicUsize::new(0);
    let resource = LazyResource::capturing("slow", || {
        let load = loads.fetch_add(1, SeqCst);
        if load > 0 {
            begun.wait();
            go.wait();
        }
        Ok::<_, NoLuck>(load)
    })
    .clock(manual.clock())
    .refresh_after(ms(1000));
    resource.prefetch().unwrap();
    manual.advance(ms(1000));
    std::thread::scope(|scope| {
        let refreshing = scope.spawn(|| *resource.get().unwrap());
        begun.wait();
        let pin = resource.get().unwrap();
        assert_eq!((*pin, pin.is_stale()), (0, true));
        go.wait();
        assert_eq!(refreshing.join().unwrap(), 1);
    });
    assert_eq!(*resource.get().unwrap(), 1);
}

#[test]
fn a_prefetch_is_no_use() {
    let resource = LazyResource::new("fonts", || Ok::<_, NoLuck>(1));
    resource.prefetch().unwrap();
    resource.invocation_ended();
    resource.invocation_ended();
    let status = resource.status();
    assert!(status.is_never_used() && status.state == ResourceState::Loaded);
    assert!(status.to_string().ends_with("never used in 2 invocations"), "{status}");
    let _pin = resource.get().unwrap();
    assert!(!resource.status().is_never_used());
}

#[test]
fn what_is_expected_is_reserved_before_the_load_and_a_refusal_allocates_nothing() {
    let budget = MemoryBudget::new(ByteSize::mib(10));
    let loader = Loader::default();
    let resource = LazyResource::capturing("large", || loader.load()).expecting(ByteSize::mib(6));
    resource.charge_to(budget.account("large").unwrap()).unwrap();
    assert!(resource.charge_to(budget.account("other one").unwrap()).is_err());
    let other = budget.account("rest").unwrap().try_reserve(ByteSize::mib(5)).unwrap();
    let error = resource.get().unwrap_err();
    assert!(matches!(error.clone(), LazyError::OverBudget { name: "large", .. }), "{error}");
    assert_eq!(loader.loads.get(), 0);
    drop(other);
    let pin = resource.get().unwrap();
    assert_eq!(budget.reserved(), ByteSize::mib(6));
    assert_eq!(resource.unload(), Some(1));
    assert_eq!(budget.reserved(), ByteSize::mib(6), "the pin holds the memory, so it holds the charge");
    drop(pin);
    assert_eq!(budget.reserved(), ByteSize::ZERO);
}

#[test]
fn under_pressure_the_idle_go_and_the_pinned_stay() {
    let budget = MemoryBudget::new(ByteSize::mib(10));
    let resource =
        Arc::new(LazyResource::new("model", || Ok::<_, NoLuck>(1)).expecting(ByteSize::mib(8)).idle_after(2));
    let account = budget.account("model").unwrap();
    resource.charge_to(account.clone()).unwrap();
    let asked = Arc::clone(&resource);
    let unload = reclaim_fn(move |want, pressure| asked.reclaim(want, pressure));
    let _registered = account.register_reclaimer(ReclaimPriority::RESOURCE, unload);
    let pin = resource.get().unwrap();
    assert!(budget.account("asker").unwrap().try_reserve(ByteSize::mib(5)).is_err(), "it is pinned");
    drop(pin);
    resource.reclaim(ByteSize::mib(1), Pressure::High);
    assert_eq!(account.reserved(), ByteSize::mib(8), "it is in use");
    resource.invocation_ended();
    resource.invocation_ended();
    resource.reclaim(ByteSize::mib(1), Pressure::High);
    assert_eq!(account.reserved(), ByteSize::mib(8), "idle for one");
    resource.invocation_ended();
    resource.reclaim(ByteSize::mib(1), Pressure::High);
    assert_eq!(account.reserved(), ByteSize::ZERO);
    resource.prefetch().unwrap();
    assert!(resource.get().is_ok());
    let granted = budget.account("asker").unwrap().try_reserve(ByteSize::mib(5)).unwrap();
    assert_eq!(resource.status().state, ResourceState::Unloaded, "in the critical round");
    assert!(resource.get().is_err(), "there is no room for it now");
    drop(granted);
    assert!(resource.get().is_ok());
}

#[test]
fn a_thousand_pins_of_one_thread_are_all_valid_and_the_last_one_frees() {
    let resource = LazyResource::new("shared", || Ok::<_, NoLuck>(Arc::new(7)));
    let pins: Vec<_> = (0..1000).map(|_| resource.get().unwrap()).collect();
    let alive: Weak<i32> = Arc::downgrade(&pins[0]);
    assert_eq!((resource.unload(), resource.status().unloading_pins), (Some(1000), 1000));
    let others = std::thread::spawn(move || {
        assert!(pins.iter().all(|pin| ***pin == 7));
        let mut pins = pins;
        pins.truncate(1);
        pins
    });
    let last = others.join().unwrap();
    assert_eq!((resource.status().unloading_pins, alive.strong_count()), (1, 1));
    drop(last);
    assert_eq!((resource.status().unloading_pins, alive.strong_count()), (0, 0));
}

#[test]
fn value_may_unload_and_load_as_it_is_dropped() {
    struct Unloads(&'static LazyResource<Unloads, NoLuck>);
    impl Drop for Unloads {
        fn drop(&mut self) {
            let _pins = self.0.unload();
            let _ = self.0.status();
            assert!(self.0.prefetch().is_ok());
        }
    }
    static LOADS: AtomicUsize = AtomicUsize::new(0);
    static SELF: LazyResource<Unloads, NoLuck> = LazyResource::new("self", || {
        assert!(matches!(SELF.prefetch(), Err(LazyError::Reentrant { .. })));
        LOADS.fetch_add(1, SeqCst);
        Ok(Unloads(&SELF))
    });
    SELF.prefetch().unwrap();
    assert_eq!(SELF.unload(), Some(0));
    assert_eq!((LOADS.load(SeqCst), SELF.status().state), (2, ResourceState::Loaded));
}

#[test]
fn load_that_unloads_itself_returns_its_value_and_stores_none() {
    static SELF: LazyResource<u32, NoLuck> = LazyResource::new("self", || {
        assert_eq!(SELF.unload(), None);
        assert!(matches!(SELF.get(), Err(LazyError::Reentrant { .. })), "the load is still in flight");
        Ok(1)
    });
    let pin = SELF.get().unwrap();
    let status = SELF.status();
    assert_eq!((*pin, status.state, status.loads), (1, ResourceState::Unloaded, 1));
    assert_eq!(status.unloading_pins, 1);
}

#[test]
fn a_drop_that_panics_leaves_the_resource_as_good_as_before() {
    struct Panics(bool);
    impl Drop for Panics {
        fn drop(&mut self) {
            assert!(!self.0, "a drop panics (this panic belongs to the test)");
        }
    }
    let (manual, loads) = (ManualClock::new(), Cell::new(0));
    let resource = LazyResource::capturing("drops", || {
        loads.set(loads.get() + 1);
        Ok::<_, NoLuck>(Panics(loads.get() < 3))
    })
    .clock(manual.clock())
    .refresh_after(ms(1000));
    drop(resource.get().unwrap());
    manual.advance(ms(1000));
    assert!(catch_unwind(AssertUnwindSafe(|| drop(resource.get()))).is_err(), "the old value goes");
    assert!(catch_unwind(AssertUnwindSafe(|| resource.unload())).is_err());
    assert_eq!((resource.status().state, resource.status().loads), (ResourceState::Unloaded, 2));
    assert!(!resource.get().unwrap().0);
}

#[test]
fn a_pin_is_two_words_so_that_it_is_returned_in_registers() {
    assert_eq!(size_of::<plimsoll::Pinned<[u64; 9]>>(), 2 * size_of::<usize>());
}

#[test]
fn a_value_once_shown_stale_is_so_for_all_who_hold_it_and_a_new_one_is_not() {
    let (manual, loader) = (ManualClock::new(), Loader::default());
    let resource = LazyResource::capturing("rates", || loader.load()).clock(manual.clock()).refresh_after(ms(1000));
    let early = resource.get().unwrap();
    manual.advance(ms(1000));
    assert!(!early.is_stale(), "nobody has looked");
    loader.mood.set(Mood::Fails);
    assert!(resource.get().unwrap().is_stale() && early.is_stale());
    loader.mood.set(Mood::Fine);
    manual.advance(ms(1000));
    assert!(!resource.get().unwrap().is_stale() && early.is_stale());
}

#[test]
fn a_resource_that_is_set_to_refresh_when_it_was_used_already_does() {
    let (manual, loader) = (ManualClock::new(), Loader::default());
    let resource = LazyResource::capturing("rates", || loader.load()).clock(manual.clock());
    assert_eq!(*resource.get().unwrap(), 1);
    manual.advance(ms(1000));
    assert_eq!(*resource.get().unwrap(), 1);
    let resource = resource.refresh_after(ms(1000));
    assert_eq!(*resource.get().unwrap(), 2);
}

#[test]
fn resources_and_pins_go_to_any_thread() {
    fn check<T: Send + Sync>() {}
    check::<LazyResource<u32, NoLuck>>();
    check::<plimsoll::AsyncLazyResource<u32, NoLuck>>();
    check::<plimsoll::Pinned<u32>>();
    check::<LazyError<NoLuck>>();
}
