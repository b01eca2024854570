//! Code that uses a cache while an operation of the same cache runs: the `Drop` of an evicted value or of a key, a
//! reclaimer, another thread. Between two batches of an operation the lock is free.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[path = "support/caches.rs"]
mod caches;
#[path = "support/cases.rs"]
mod cases;
#[path = "support/remote.rs"]
mod remote;

use std::future::Future;
use std::hash::{Hash, Hasher};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, OnceLock, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use plimsoll::budget::{ReclaimPriority, ReclaimerHandle, reclaim_fn};
use plimsoll::cache::{CacheBuilder, Eviction, RejectReason};
use plimsoll::{ByteSize, Cache, ManualClock, MemoryBudget, Pressure, Reservation};

use caches::{evict_to, is_whole, remove_expired, set_max_entries};
use cases::cases;
use remote::Remote;

const BOTH: [Eviction; 2] = [Eviction::S3Fifo, Eviction::Lru];

const KEY: u64 = 1;

/// A test fails if its work has not ended after this time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `work` on a thread of its own and fails if it does not end.
fn within_patience<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, end) = mpsc::channel();
    let worker = thread::spawn(move || drop(done.send(work())));
    match end.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the work does not end"),
        Err(mpsc::RecvTimeoutError::Disconnected) => resume_unwind(worker.join().unwrap_err()),
    }
}

type Values = Cache<u64, Arc<Value>>;

/// A value with a weight. Its `Drop` calls a closure.
struct Value {
    id: u64,
    weight: usize,
    on_drop: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Drop for Value {
    fn drop(&mut self) {
        if let Some(call) = self.on_drop.get_mut().unwrap().take() {
            call();
        }
    }
}

fn value(id: u64, weight: usize) -> Arc<Value> {
    Arc::new(Value { id, weight, on_drop: Mutex::new(None) })
}

fn value_with_drop(id: u64, weight: usize, on_drop: impl FnOnce() + Send + 'static) -> Arc<Value> {
    Arc::new(Value { id, weight, on_drop: Mutex::new(Some(Box::new(on_drop))) })
}

fn weighed(max_bytes: ByteSize) -> CacheBuilder<u64, Arc<Value>> {
    Cache::builder("reentry").max_bytes_weighed(max_bytes, |_, value: &Arc<Value>| value.weight)
}

type Load = Pin<Box<dyn Future<Output = Option<u64>> + Send>>;

fn poll(load: &mut Load) -> Poll<Option<u64>> {
    load.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Starts an async load of [`KEY`] that runs until `remote` ends it with the id of its value.
fn start(cache: &Values, remote: &Remote) -> Load {
    let (cache, remote) = (cache.clone(), remote.clone());
    let mut load: Load = Box::pin(async move {
        let load = |_| async move { remote.load().await.map(|id| value(id.into(), 0)) };
        cache.try_get_or_load_async(&KEY, load).await.ok().map(|value| value.id)
    });
    assert!(poll(&mut load).is_pending());
    load
}

/// Another account, which has reserved 900 of the 1,000 KiB of a budget.
struct Neighbor {
    reserved: Arc<Mutex<Reservation>>,
    _reclaimer: ReclaimerHandle,
}

impl Neighbor {
    /// Reserves the bytes and sets a reclaimer that calls `release`.
    fn new(
        budget: &MemoryBudget,
        release: impl Fn(&mut Reservation, ByteSize) -> ByteSize + Send + Sync + 'static,
    ) -> Self {
        let account = budget.account("neighbor").unwrap();
        let reserved = Arc::new(Mutex::new(account.try_reserve(ByteSize::kib(900)).unwrap()));
        let held = Arc::clone(&reserved);
        let reclaimer = reclaim_fn(move |want: ByteSize, _: Pressure| {
            let _released = release(&mut held.lock().unwrap(), want);
        });
        let reclaimer = account.register_reclaimer(ReclaimPriority::BUFFER, reclaimer);
        Self { reserved, _reclaimer: reclaimer }
    }
}

fn release_nothing(_: &mut Reservation, _: ByteSize) -> ByteSize {
    ByteSize::ZERO
}

fn budget() -> MemoryBudget {
    MemoryBudget::new(ByteSize::kib(1_000))
}

#[test]
fn insert_that_needs_memory_of_another_account_is_granted() {
    for eviction in BOTH {
        for entries in [0, 1, 10] {
            within_patience(move || {
                let budget = budget();
                let neighbor = Neighbor::new(&budget, Reservation::shrink);
                let cache =
                    weighed(ByteSize::kib(1_000)).eviction(eviction).account(budget.account("reentry").unwrap());
                let cache = cache.build().unwrap();
                (0..entries).for_each(|key| cache.insert(key, value(key, 5_000)).unwrap());
                cache.insert(0, value(100, 300_000)).unwrap();
                assert_eq!(cache.get(&0).map(|value| value.id), Some(100), "{eviction:?}, {entries} entries");
                let size = neighbor.reserved.lock().unwrap().size();
                assert!(size < ByteSize::kib(900) && is_whole(&cache.stats()), "{size}, {:?}", cache.stats());
                assert_eq!(budget.account("reentry").unwrap().reserved(), cache.stats().bytes);
            });
        }
    }
}

#[test]
fn insert_that_another_account_refuses_is_rejected() {
    for eviction in BOTH {
        for entries in [0, 1, 10] {
            within_patience(move || {
                let budget = budget();
                let _neighbor = Neighbor::new(&budget, release_nothing);
                let cache =
                    weighed(ByteSize::kib(1_000)).eviction(eviction).account(budget.account("reentry").unwrap());
                let cache = cache.build().unwrap();
                (0..entries).for_each(|key| cache.insert(key, value(key, 5_000)).unwrap());
                let rejected = cache.insert(0, value(100, 300_000)).unwrap_err();
                assert!(matches!(rejected.reason(), RejectReason::Budget(_)), "{rejected}");
                assert!(cache.get(&0).is_none() && is_whole(&cache.stats()), "{:?}", cache.stats());
                assert_eq!(budget.account("reentry").unwrap().reserved(), cache.stats().bytes);
            });
        }
    }
}

/// Small inserts of one thread may take the bytes that the other thread evicts for its large value.
#[test]
fn large_and_small_inserts_on_two_threads_end() {
    within_patience(|| {
        let budget = budget();
        let cache: Cache<u64, Vec<u8>> = Cache::builder("reentry")
            .max_bytes(ByteSize::MAX)
            .account(budget.account("reentry").unwrap())
            .build()
            .unwrap();
        thread::scope(|scope| {
            for thread in 0..2 {
                let cache = &cache;
                scope.spawn(move || {
                    for _ in 0..cases(500) {
                        for key in 0..200 {
                            drop(cache.insert(1_000 * (thread + 1) + key, vec![0; 1_800]));
                        }
                        drop(cache.insert(thread, vec![0; 600_000]));
                    }
                });
            }
        });
        assert!(is_whole(&cache.stats()), "{:?}", cache.stats());
        assert_eq!(budget.reserved(), cache.stats().bytes);
    });
}

#[test]
fn drop_of_victim_that_inserts_large_value_ends() {
    for eviction in BOTH {
        within_patience(move || {
            let budget = budget();
            let cache =
                weighed(ByteSize::MAX).eviction(eviction).account(budget.account("reentry").unwrap()).build().unwrap();
            let other = cache.clone();
            let insert = move || drop(other.insert(50, value(50, 600_000)));
            cache.insert(10, value_with_drop(10, 40_000, insert)).unwrap();
            (11..30).for_each(|key| cache.insert(key, value(key, 40_000)).unwrap());
            let inserted = cache.insert(KEY, value(KEY, 600_000)).is_ok();
            assert_eq!(cache.contains_key(&KEY), inserted);
            assert!(is_whole(&cache.stats()), "{:?}", cache.stats());
            assert_eq!(budget.reserved(), cache.stats().bytes);
        });
    }
}

#[test]
fn drop_of_victim_that_sets_bound_ends() {
    for eviction in BOTH {
        within_patience(move || {
            let budget = budget();
            let _neighbor = Neighbor::new(&budget, release_nothing);
            let cache = weighed(ByteSize::kib(1_000)).eviction(eviction).account(budget.account("reentry").unwrap());
            let cache = cache.build().unwrap();
            for key in 0..3 {
                let other = cache.clone();
                let shrink = move || set_max_entries(&other, 1);
                cache.insert(key, value_with_drop(key, 1_000, shrink)).unwrap();
            }
            assert!(cache.insert(9, value(9, 300_000)).is_err());
            cache.clear();
            assert!(is_whole(&cache.stats()), "{:?}", cache.stats());
        });
    }
}

/// A cache of ten entries, and the weight of a value that fits without them and their tables. A value of this weight for
/// [`KEY`] removes the former value in a batch before the one that stores it. Then `on_drop` runs.
fn full(on_drop: impl FnOnce(&Values) + Send + 'static) -> (Values, usize) {
    let max = ByteSize::bytes(100_000);
    let sample = weighed(max).build().unwrap();
    sample.insert(KEY, value(KEY, 0)).unwrap();
    let weight = max.saturating_sub(sample.stats().bytes).as_u64();
    let cache = weighed(max).build().unwrap();
    let other = cache.clone();
    cache.insert(KEY, value_with_drop(KEY, 0, move || on_drop(&other))).unwrap();
    (2..=10).for_each(|key| cache.insert(key, value(key, 0)).unwrap());
    (cache, usize::try_from(weight).unwrap())
}

fn replace(cache: &Values, weight: usize) -> u64 {
    cache.try_get_or_load_if(&KEY, |value| value.id == KEY, |_| Ok::<_, ()>(value(200, weight))).unwrap().id
}

#[test]
fn load_that_starts_during_replacement_adds_no_second_entry() {
    let remote = Remote::default();
    let (send, started) = mpsc::channel();
    let load = remote.clone();
    let (cache, weight) = full(move |cache| {
        assert!(cache.get(&KEY).is_none());
        send.send(start(cache, &load)).unwrap();
    });
    assert_eq!(replace(&cache, weight), 200);
    remote.end(Ok(300));
    let mut second = started.try_recv().expect("the former value was dropped");
    assert_eq!(poll(&mut second), Poll::Ready(Some(300)));
    let mut ids = Vec::new();
    cache.for_each(|key, value| ids.extend((*key == KEY).then_some(value.id)));
    assert_eq!(ids, [300], "the load that was started later stays");
    assert_eq!(cache.remove(&KEY).map(|value| value.id), Some(300));
    assert!(cache.get(&KEY).is_none() && is_whole(&cache.stats()), "{:?}", cache.stats());
}

#[test]
fn write_during_replacement_cancels_it_and_counters_add_up() {
    let writes: [fn(&Values); 4] = [
        |cache| drop(cache.remove(&KEY)),
        |cache| cache.clear(),
        |cache| cache.retain(|_, _| true),
        |cache| cache.insert(KEY, value(300, 0)).unwrap(),
    ];
    for (at, write) in writes.into_iter().enumerate() {
        let (cache, weight) = full(write);
        assert_eq!(replace(&cache, weight), 200);
        let stored = cache.get(&KEY).map(|value| value.id);
        assert_eq!(stored, (at == 3).then_some(300), "write {at}");
        assert!(is_whole(&cache.stats()), "write {at}: {:?}", cache.stats());
    }
}

/// A replacement that needs several batches, next to loads of the same key with another error type.
#[test]
fn loads_of_two_classes_store_one_entry() {
    for _ in 0..cases(500) {
        let (cache, weight) = full(|_| ());
        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                replace(&cache, weight)
            });
            scope.spawn(|| {
                barrier.wait();
                let load = |_| {
                    thread::sleep(Duration::from_micros(20));
                    Ok::<_, u8>(value(300, 0))
                };
                (0..2_000).any(|_| cache.try_get_or_load(&KEY, load).unwrap().id != KEY)
            });
        });
        let mut entries = 0;
        cache.for_each(|key, _| entries += usize::from(*key == KEY));
        assert!(entries <= 1 && is_whole(&cache.stats()), "{entries} entries of one key, {:?}", cache.stats());
    }
}

/// A key that counts its comparisons. Its `Drop` reads a cache.
struct Key(Arc<Shared>);

#[derive(Default)]
struct Shared {
    compared: AtomicUsize,
    read_by_drop: OnceLock<Cache<Key, Arc<Value>>>,
}

impl Clone for Key {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        if let Some(cache) = self.0.read_by_drop.get() {
            let _entries = cache.len();
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(0);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.compared.fetch_add(1, SeqCst);
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Key {}

/// Runs two callers of one key on two threads: the second one waits for the load of the first one. Returns the ids of the
/// values they received.
fn load_on_two_threads(cache: &Cache<Key, Arc<Value>>, key: &Key) -> [thread::Result<u64>; 2] {
    let (start, started) = mpsc::channel();
    let (finish, finished) = mpsc::channel::<()>();
    let leader = {
        let (cache, key) = (cache.clone(), key.clone());
        thread::spawn(move || {
            let load = |_| {
                start.send(()).unwrap();
                finished.recv().unwrap();
                Ok::<_, ()>(value(1, 0))
            };
            cache.try_get_or_load(&key, load).unwrap().id
        })
    };
    started.recv().unwrap();
    let compared = key.0.compared.load(SeqCst);
    let follower = {
        let (cache, key) = (cache.clone(), key.clone());
        thread::spawn(move || cache.try_get_or_load(&key, |_| Ok::<_, ()>(value(2, 0))).unwrap().id)
    };
    // The follower compares its key with the one of the load, under the lock that the end of the load takes too.
    while key.0.compared.load(SeqCst) == compared {
        thread::yield_now();
    }
    finish.send(()).unwrap();
    [leader.join(), follower.join()]
}

#[test]
fn drop_of_victim_that_panics_fails_no_load() {
    within_patience(|| {
        let cache = Cache::builder("reentry").max_entries(1).build().unwrap();
        let [victim, key] = [(); 2].map(|()| Key(Arc::default()));
        cache.insert(victim, value_with_drop(0, 0, || panic!("this panic belongs to the test"))).unwrap();
        let [leader, follower] = load_on_two_threads(&cache, &key);
        // The panic hook has reported the panic. The load did not panic.
        assert_eq!((leader.ok(), follower.ok(), cache.len()), (Some(1), Some(1), 1));
        assert!(is_whole(&cache.stats()), "{:?}", cache.stats());
    });
}

#[test]
fn drop_of_key_that_reads_cache_while_caller_joins_ends() {
    within_patience(|| {
        let cache = Cache::builder("reentry").max_entries(10).build().unwrap();
        let key = Key(Arc::default());
        // The cache keeps itself alive by its key, until it is empty.
        key.0.read_by_drop.set(cache.clone()).ok().unwrap();
        let ids = load_on_two_threads(&cache, &key).map(Result::unwrap);
        assert_eq!((ids, cache.len()), ([1, 1], 1));
        cache.clear();
    });
}

#[test]
fn rejected_insert_cancels_load_that_starts_in_reclaimer() {
    let (budget, remote) = (budget(), Remote::default());
    let cache = weighed(ByteSize::kib(1_000)).account(budget.account("reentry").unwrap()).build().unwrap();
    let (send, started) = mpsc::channel();
    let (other, load) = (cache.clone(), remote.clone());
    let _neighbor = Neighbor::new(&budget, move |_, _| {
        send.send(start(&other, &load)).unwrap();
        ByteSize::ZERO
    });
    assert!(cache.insert(KEY, value(9, 300_000)).is_err());
    remote.end(Ok(300));
    let mut loads: Vec<_> = started.try_iter().collect();
    assert!(!loads.is_empty(), "the reclaimer was called");
    assert!(loads.iter_mut().all(|load| poll(load) == Poll::Ready(Some(300))));
    assert!(cache.get(&KEY).is_none(), "the load read a value that is older than the insert");
    assert_eq!(cache.stats().cancelled_loads, 1);
}

#[test]
fn load_of_value_that_fits_nowhere_keeps_earlier_load() {
    for eviction in BOTH {
        let remote = Remote::default();
        let cache = weighed(ByteSize::bytes(100_000)).eviction(eviction).build().unwrap();
        let mut first = start(&cache, &remote);
        let second = cache.try_get_or_load(&KEY, |_| Ok::<_, ()>(value(200, 1_000_000))).unwrap();
        assert_eq!((second.id, cache.len(), cache.stats().rejections), (200, 0, 1));
        remote.end(Ok(100));
        assert_eq!(poll(&mut first), Poll::Ready(Some(100)));
        assert_eq!(cache.get(&KEY).map(|value| value.id), Some(100), "{eviction:?}");
    }
}

/// A pass over expired entries starts and pauses while another one runs, and ends after it.
#[test]
fn two_passes_at_once_miss_no_expired_entry() {
    const FIRST_PASS: u64 = 1_000;
    const SECOND_PASS: u64 = 900;
    for eviction in BOTH {
        within_patience(move || {
            let manual = Arc::new(ManualClock::new());
            let cache = Cache::builder("reentry").max_entries(2_000).eviction(eviction).clock(manual.clock());
            let cache: Values = cache.build().unwrap();
            let (pause, paused) = mpsc::channel();
            let (resume, resumed) = mpsc::channel::<()>();
            let (send, second) = mpsc::channel();
            let (time, other) = (Arc::clone(&manual), cache.clone());
            let start_second = move || {
                time.advance(Duration::from_secs(2));
                send.send(thread::spawn(move || remove_expired(&other, usize::MAX))).unwrap();
                paused.recv().unwrap();
            };
            let pause_second = move || {
                pause.send(()).unwrap();
                resumed.recv().unwrap();
            };
            let mut first_value = Some(value_with_drop(FIRST_PASS, 0, start_second));
            let mut second_value = Some(value_with_drop(SECOND_PASS, 0, pause_second));
            for key in 0..1_024 {
                let (value, seconds) = match key {
                    FIRST_PASS => (first_value.take().unwrap(), 1),
                    SECOND_PASS => (second_value.take().unwrap(), 3),
                    0..500 => (value(key, 0), 50),
                    _ => (value(key, 0), 100),
                };
                cache.insert_with_ttl(key, value, Duration::from_secs(seconds)).unwrap();
            }
            manual.advance(Duration::from_secs(2));
            let first = remove_expired(&cache, usize::MAX);
            resume.send(()).unwrap();
            let second = second.try_recv().unwrap().join().unwrap();
            manual.advance(Duration::from_mins(1));
            let third = remove_expired(&cache, usize::MAX);
            assert_eq!((first, second, third, cache.len()), (1, 1, 500, 522), "{eviction:?}");
        });
    }
}

#[test]
fn evict_to_next_to_two_writers_ends() {
    for eviction in BOTH {
        within_patience(move || {
            let cache = Cache::builder("reentry").max_entries(20_000).eviction(eviction).build().unwrap();
            (0..20_000_u64).for_each(|key| cache.insert(key, key).unwrap());
            let is_done = AtomicBool::new(false);
            thread::scope(|scope| {
                for thread in 0..2 {
                    let (cache, is_done) = (&cache, &is_done);
                    scope.spawn(move || {
                        let mut key = 1 << (32 + thread);
                        while !is_done.load(SeqCst) {
                            cache.insert(key, key).unwrap();
                            key += 1;
                        }
                    });
                }
                evict_to(&cache, cache.stats().bytes.percent(50));
                is_done.store(true, SeqCst);
            });
            assert!(is_whole(&cache.stats()), "{:?}", cache.stats());
        });
    }
}

/// Creates a value. Its `Drop` inserts another one of its kind, until `is_done`.
fn recurring(cache: &Values, id: u64, is_done: &Arc<AtomicBool>) -> Arc<Value> {
    let (cache, is_done) = (cache.clone(), Arc::clone(is_done));
    value_with_drop(id, 0, move || {
        if !is_done.load(SeqCst) {
            cache.insert(id, recurring(&cache, id, &is_done)).unwrap();
        }
    })
}

/// The tables hold all bytes. They never become smaller, because their entries come in again.
#[test]
fn evict_to_of_values_that_are_inserted_again_ends() {
    const ENTRIES: u64 = 1_000;
    for eviction in BOTH {
        for percent in [50, 0] {
            within_patience(move || {
                let cache = Cache::builder("reentry").max_entries(20_000).eviction(eviction).build().unwrap();
                let is_done = Arc::new(AtomicBool::new(false));
                (0..ENTRIES).for_each(|key| cache.insert(key, recurring(&cache, key, &is_done)).unwrap());
                evict_to(&cache, cache.stats().bytes.percent(percent));
                let stats = cache.stats();
                assert!(stats.evictions_by_size <= 2 * ENTRIES && is_whole(&stats), "to {percent} %, {stats:?}");
                is_done.store(true, SeqCst);
                cache.clear();
            });
        }
    }
}

/// The bytes that a reclaim is to release are promised to its request. An insert of that moment gets none of them: it makes
/// room in its own cache, and ends. The reclaimer may wait for it, since each reclaimer of a cache waits for its lock.
#[test]
fn insert_ends_while_another_account_reclaims() {
    let budget = MemoryBudget::new(ByteSize::kib(100));
    let cache: Cache<u64, u64> = Cache::builder("small")
        .max_entries(1_000)
        .max_bytes_weighed(ByteSize::kib(50), |_, weight: &u64| usize::try_from(*weight).unwrap())
        .account(budget.account("small").unwrap())
        .build()
        .unwrap();
    (0..100).for_each(|key| cache.insert(key, 1).unwrap());
    let buffer = budget.account("buffer").unwrap();
    let held = Mutex::new(buffer.try_reserve(ByteSize::kib(60)).unwrap());
    let (inserts, ended) = (cache.clone(), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&ended);
    let _reclaimer = buffer.register_reclaimer(
        ReclaimPriority::BUFFER,
        reclaim_fn(move |want, _| {
            let (cache, (done, wait)) = (inserts.clone(), mpsc::channel());
            thread::spawn(move || {
                (100..110).for_each(|key| cache.insert(key, 20).unwrap());
                done.send(()).unwrap();
            });
            seen.store(wait.recv_timeout(PATIENCE).is_ok(), SeqCst);
            held.lock().unwrap().shrink(want);
        }),
    );
    let _all = budget.account("asker").unwrap().try_reserve(ByteSize::kib(60)).unwrap();
    assert!(ended.load(SeqCst), "the inserts did not end");
    assert!(cache.len() > 80, "{} entries are left", cache.len());
}
