//! Around a snapshot of the process: what is given back before it is taken, and what a restore leaves right.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "clippy knows `#[test]` functions as tests, but not their helpers"
)]

use std::convert::Infallible;
use std::time::Duration;

use plimsoll::budget::ReclaimPriority;
use plimsoll::heap;
use plimsoll::monitor::{Alert, MonitorBuilder, ReportPolicy};
use plimsoll::{ByteSize, Cache, LazyResource, ManualClock, MemoryBudget, Monitor, TrackingAllocator};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// The peak and the limit are the process's: one test at a time.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

const HOUR: Duration = Duration::from_hours(1);

type Bytes = LazyResource<Vec<u8>, Infallible>;

fn builder() -> MonitorBuilder {
    Monitor::builder().memory_size(ByteSize::mib(128)).report(ReportPolicy::Off)
}

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What the threads of waiting tests may allocate meanwhile, for each MiB that is looked for.
const SPARE: usize = 32 << 10;

/// A cache of the budget with 4 MiB in it, and a little.
fn cache(budget: &MemoryBudget) -> Cache<u32, Vec<u8>> {
    let builder = Cache::builder("orders").max_entries(100).max_bytes(ByteSize::mib(8));
    let cache = builder.account(budget.account("orders").unwrap()).build().expect("constant bounds");
    for key in 0..4 {
        cache.insert(key, vec![1; (1 << 20) + SPARE]).expect("it fits");
    }
    cache
}

#[test]
fn caches_shrink_and_resources_unload_as_far_as_their_rank_allows_and_nobody_uses_them() {
    static MODEL: Bytes = LazyResource::new("model", || Ok(vec![1; 4 << 20]));
    static FONTS: Bytes = LazyResource::new("fonts", || Ok(vec![1; 1 << 20]));
    static ELSEWHERE: Bytes = LazyResource::new("elsewhere", || Ok(vec![1; 1 << 20]));
    let _alone = alone();
    let (budget, other) = (MemoryBudget::new(ByteSize::mib(100)), MemoryBudget::new(ByteSize::mib(100)));
    let monitor = builder()
        .budget(&budget)
        .resource(&MODEL, budget.account("model").unwrap())
        .resource(&FONTS, budget.account("fonts").unwrap())
        .resource(&ELSEWHERE, other.account("elsewhere").unwrap())
        .build()
        .unwrap();
    let cache = cache(&budget);
    for resource in [&MODEL, &FONTS, &ELSEWHERE] {
        resource.prefetch().unwrap();
    }
    let fonts = FONTS.get().unwrap();
    let heap_before = heap::stats().unwrap().live;

    let freed = monitor.before_snapshot(ReclaimPriority::CACHE);
    assert!((ByteSize::mib(4)..ByteSize::mib(5)).contains(&freed), "{freed}");
    assert_eq!((cache.len(), MODEL.status().loads), (0, 1));
    assert!(MODEL.status().charged >= ByteSize::mib(4), "what was prefetched stays");

    let freed = monitor.before_snapshot(ReclaimPriority::RESOURCE);
    assert!((ByteSize::mib(5)..ByteSize::mib(6)).contains(&freed), "the model and what has another budget: {freed}");
    assert_eq!((MODEL.status().charged, ELSEWHERE.status().charged), (ByteSize::ZERO, ByteSize::ZERO));
    assert!(fonts.iter().all(|byte| *byte == 1) && FONTS.status().charged >= ByteSize::mib(1), "it is in use");
    assert!(heap::stats().unwrap().live <= heap_before.saturating_sub(ByteSize::mib(9)));

    assert_eq!(monitor.before_snapshot(ReclaimPriority::RESOURCE), ByteSize::ZERO);
    drop(fonts);
    assert!(monitor.before_snapshot(ReclaimPriority::RESOURCE) >= ByteSize::mib(1));
    assert!(budget.reserved() < ByteSize::mib(1), "{}", budget.reserved());
    assert_eq!(MODEL.get().unwrap().len(), 4 << 20, "and it is loaded again when it is wanted");
    monitor.before_snapshot(ReclaimPriority::RESOURCE);
}

#[test]
fn what_expired_while_the_snapshot_lay_is_not_served_whatever_became_of_the_monotonic_clock() {
    let _alone = alone();
    for monotonic_loses in [Duration::ZERO, HOUR * 10] {
        let manual = ManualClock::new();
        let monitor = builder().clock(manual.clock()).build().unwrap();
        let cache: Cache<u32, &str> = Cache::builder("sessions")
            .max_entries(10)
            .time_to_live(Duration::from_mins(5))
            .clock(manual.clock())
            .build()
            .unwrap();
        cache.insert(1, "of before").unwrap();
        monitor.before_snapshot(ReclaimPriority::RESOURCE);
        assert_eq!(cache.get(&1), Some("of before"), "it has no account: nobody could ask for it");

        // Another host: its wall clock is right, its monotonic one counts from its own start.
        manual.set_monotonic_back(monotonic_loses);
        manual.freeze(HOUR);
        monitor.after_restore();
        assert_eq!(cache.get(&1), None);
        cache.insert(1, "of after").unwrap();
        manual.advance(Duration::from_secs(299));
        assert_eq!(cache.get(&1), Some("of after"));
        manual.advance(Duration::from_secs(2));
        assert_eq!(cache.get(&1), None);
    }
}

#[test]
fn peaks_begin_anew_after_the_restore_and_an_alert_is_said_again() {
    let _alone = alone();
    let monitor = builder().build().unwrap();
    let near_limit = || {
        let invocation = monitor.start("r");
        drop(std::hint::black_box(vec![1_u8; 110 << 20]));
        invocation.finish()
    };
    let report = near_limit();
    assert_eq!(report.alerts().collect::<Vec<_>>(), [Alert::NearLimit]);
    assert_eq!(near_limit().alerts().count(), 0, "it was said");
    let highest = report.highest_rss;

    monitor.before_snapshot(ReclaimPriority::RESOURCE);
    monitor.after_restore();
    let live = heap::stats().unwrap().live;
    assert!(heap::stats().unwrap().peak.at_most < live.saturating_add(ByteSize::mib(10)));
    let report = monitor.start("r").finish();
    #[cfg(target_os = "linux")]
    assert!(report.highest_rss < highest.saturating_sub(ByteSize::mib(50)), "{} of {highest}", report.highest_rss);
    #[cfg(not(target_os = "linux"))]
    let _ = (report, highest);

    assert_eq!(near_limit().alerts().collect::<Vec<_>>(), [Alert::NearLimit]);
    monitor.after_restore();
    assert_eq!(near_limit().alerts().collect::<Vec<_>>(), [Alert::NearLimit], "in this environment's log for once");
}

#[test]
fn a_trim_hook_that_panics_does_not_end_the_function() {
    let _alone = alone();
    // Not `panic!`: what std then keeps of the binary's symbols would be in the figures of other tests.
    plimsoll::os::set_trim_hook(|| std::panic::resume_unwind(Box::new("the hook")));
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let cache = cache(&budget);
    let monitor = builder().budget(&budget).build().unwrap();
    assert!(monitor.before_snapshot(ReclaimPriority::CACHE) >= ByteSize::mib(4));
    plimsoll::os::set_trim_hook(|| {});
    drop(cache);
}

#[cfg(feature = "lambda")]
#[path = "support/runtime_api.rs"]
mod runtime_api;

#[cfg(feature = "lambda")]
mod on_lambda {
    use std::sync::{Arc, Mutex};

    use lambda_runtime::{BoxFuture, Error, LambdaEvent, Runtime, SnapStartResource, service_fn};
    use plimsoll::integration::lambda;

    use super::runtime_api::{Call, RuntimeApi};
    use super::{ByteSize, Bytes, Cache, Duration, HOUR, LazyResource, ManualClock, MemoryBudget, ReclaimPriority};
    use super::{alone, builder, cache};

    /// Who looked, how many orders he found, and which session.
    type Seen = Arc<Mutex<Vec<(&'static str, usize, Option<&'static str>)>>>;

    /// A resource of the user's, which notes what it finds, and turns time while the snapshot lies.
    struct Probe {
        orders: Cache<u32, Vec<u8>>,
        sessions: Cache<u32, &'static str>,
        clock: ManualClock,
        seen: Seen,
        name: &'static str,
    }

    impl Probe {
        fn note(&self) {
            let seen = (self.name, self.orders.len(), self.sessions.get(&1));
            self.seen.lock().expect("no panic here").push(seen);
        }
    }

    impl SnapStartResource for Probe {
        fn before_snapshot(&self) -> BoxFuture<'_, Result<(), Error>> {
            self.note();
            Box::pin(async { Ok(()) })
        }

        fn after_restore(&self) -> BoxFuture<'_, Result<(), Error>> {
            if self.name == "first" {
                self.clock.freeze(HOUR);
            }
            self.note();
            Box::pin(async { Ok(()) })
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[expect(clippy::await_holding_lock, reason = "the lock keeps other tests out, which wait on threads of their own")]
    async fn lambda_s_runtime_does_both_around_its_snapshot() {
        static MODEL: Bytes = LazyResource::new("model", || Ok(vec![1; 4 << 20]));
        let _alone = alone();
        let api = RuntimeApi::serve(["\"event\"".to_owned()]);
        for (name, value) in [
            ("AWS_LAMBDA_FUNCTION_NAME", "f"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start"),
            ("AWS_LAMBDA_RUNTIME_API", &api.address),
        ] {
            #[expect(unsafe_code, reason = "the runtime reads its address from nowhere else")]
            // SAFETY: what other tests do with the environment goes through std, which holds its lock.
            unsafe {
                std::env::set_var(name, value);
            }
        }
        let (budget, clock) = (MemoryBudget::new(ByteSize::mib(100)), ManualClock::new());
        let monitor = builder()
            .budget(&budget)
            .clock(clock.clock())
            .resource(&MODEL, budget.account("model").unwrap())
            .build()
            .unwrap();
        MODEL.prefetch().unwrap();
        let sessions = Cache::builder("sessions").max_entries(10).time_to_live(Duration::from_mins(5));
        let sessions = sessions.clock(clock.clock()).build().unwrap();
        sessions.insert(1, "of before").unwrap();
        let (orders, seen) = (cache(&budget), Seen::default());
        let probe = |name| {
            let (orders, sessions) = (orders.clone(), sessions.clone());
            Arc::new(Probe { orders, sessions, clock: clock.clone(), seen: Arc::clone(&seen), name })
        };
        let sessions = sessions.clone();
        let runtime = Runtime::new(service_fn(async |_: LambdaEvent<String>| Ok::<_, Error>(sessions.get(&1))))
            .register_snapstart_resource(probe("first"))
            .register_snapstart_resource(lambda::snap_start(&monitor, ReclaimPriority::RESOURCE))
            .register_snapstart_resource(probe("last"));
        let calls = tokio::task::spawn_blocking(move || {
            let posted = || loop {
                match api.calls.recv_timeout(Duration::from_secs(30)) {
                    Ok(Call::Posted { path, body }) => break (path, body),
                    Ok(Call::Started(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            };
            [posted(), posted()]
        });
        let [restore, answer] = tokio::select! {
            ended = runtime.run() => panic!("the function has ended: {ended:?}"),
            calls = calls => calls.unwrap(),
        };
        assert_eq!(restore.0, "/2018-06-01/runtime/restore/next");
        assert_eq!(answer, ("/2018-06-01/runtime/invocation/request-0/response".to_owned(), "null".to_owned()));
        let expected = [
            ("last", 4, Some("of before")),
            ("first", 0, Some("of before")),
            // Before the clock was compared, and after.
            ("first", 0, Some("of before")),
            ("last", 0, None),
        ];
        assert_eq!(*seen.lock().unwrap(), expected);
        assert_eq!(MODEL.status().charged, ByteSize::ZERO);
    }
}
