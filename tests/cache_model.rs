//! Caches next to a model, under random operations and with both clocks set by hand: one suite for both policies.
//!
//! Async loads start, end and lose callers between the other operations. For `Lru` the model also knows the order of
//! eviction.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

#[path = "support/caches.rs"]
mod caches;
#[path = "support/cases.rs"]
mod cases;
#[path = "support/executor.rs"]
mod executor;

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use plimsoll::cache::{Cache, CacheStats, Change, Eviction, LoadError, RejectReason};
use plimsoll::{ByteSize, Clock, ManualClock, MemoryBudget};
use proptest::prelude::*;

use caches::{evict_to, is_load_error, remove_expired, set_max_entries};
use cases::proptest_cases;
use executor::Task;

const TTL: u64 = 1_000;
const TTI: u64 = 400;
const MAX_ENTRIES: usize = 12;

#[derive(Clone, Debug)]
enum Op {
    Get(u8),
    Contains(u8),
    Insert(u8, u16),
    InsertWithTtl(u8, u16, u64),
    Remove(u8),
    /// Keeps, replaces or removes the value, by its size.
    Compute(u8, u16),
    Load(u8, u16),
    /// An async call, which starts a load or waits for one.
    Call(u8, u16),
    /// Ends a load with a value, or with an error.
    EndLoad(usize, bool),
    /// Cancels a call.
    DropCall(usize),
    RemoveExpired(usize),
    EvictTo(u64),
    SetMaxEntries(usize),
    Retain(u8),
    Clear,
    Advance(u64),
    Freeze(u64),
    WallBack(u64),
    MonotonicBack(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let (key, size, time) = (0..24_u8, 0..300_u16, 0..700_u64);
    prop_oneof![
        8 => key.clone().prop_map(Op::Get),
        1 => key.clone().prop_map(Op::Contains),
        8 => (key.clone(), size.clone()).prop_map(|(key, size)| Op::Insert(key, size)),
        2 => (key.clone(), size.clone(), 10..900_u64).prop_map(|(key, size, ttl)| Op::InsertWithTtl(key, size, ttl)),
        2 => key.clone().prop_map(Op::Remove),
        3 => (key.clone(), size.clone()).prop_map(|(key, size)| Op::Compute(key, size)),
        3 => (key.clone(), size.clone()).prop_map(|(key, size)| Op::Load(key, size)),
        6 => (key, size).prop_map(|(key, size)| Op::Call(key, size)),
        4 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(at, works)| Op::EndLoad(at, works)),
        2 => any::<usize>().prop_map(Op::DropCall),
        1 => (0..30_usize).prop_map(Op::RemoveExpired),
        1 => (0..6_000_u64).prop_map(Op::EvictTo),
        1 => (0..=MAX_ENTRIES).prop_map(Op::SetMaxEntries),
        1 => (1..5_u8).prop_map(Op::Retain),
        1 => Just(Op::Clear),
        3 => time.clone().prop_map(Op::Advance),
        1 => time.clone().prop_map(Op::Freeze),
        1 => time.clone().prop_map(Op::WallBack),
        1 => time.prop_map(Op::MonotonicBack),
    ]
}

/// A value that is written once: no two have the same number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Written {
    key: u8,
    size: u16,
    number: u32,
}

impl Written {
    fn value(self) -> Vec<u8> {
        let mut value = self.number.to_le_bytes().to_vec();
        value.resize(4 + usize::from(self.size), self.key);
        value
    }
}

/// An entry of the model. The order of the list is the order of use.
#[derive(Clone, Debug)]
struct Kept {
    written: Written,
    /// In ticks of 10 ms since the start.
    expires: u64,
    touched: u64,
}

/// Values that were written and neither removed nor replaced. The cache may have evicted them.
struct Model {
    clock: Clock,
    start: u64,
    kept: Vec<Kept>,
    written: u32,
}

impl Model {
    fn ticks(&self, time: u64) -> u64 {
        (time - self.start) / 10
    }

    fn now(&self) -> u64 {
        self.ticks(self.clock.now())
    }

    fn write(&mut self, key: u8, size: u16) -> Written {
        self.written += 1;
        Written { key, size, number: self.written }
    }

    fn find(&self, key: u8) -> Option<usize> {
        self.kept.iter().position(|kept| kept.written.key == key)
    }

    /// Returns the value of `key` if it has not expired.
    fn live(&self, key: u8) -> Option<Written> {
        let now = self.now();
        let kept = &self.kept[self.find(key)?];
        (now < kept.expires && now - kept.touched < TTI / 10).then_some(kept.written)
    }

    /// Records a read of `key`.
    fn used(&mut self, key: u8) {
        let mut kept = self.kept.remove(self.find(key).unwrap());
        kept.touched = self.now();
        self.kept.push(kept);
    }

    /// Records a value that lives for `ttl` milliseconds after `from`.
    fn put(&mut self, written: Written, from: u64, ttl: u64) {
        self.forget(written.key);
        self.kept.push(Kept { written, expires: self.ticks(from + ttl), touched: self.now() });
    }

    fn forget(&mut self, key: u8) {
        self.kept.retain(|kept| kept.written.key != key);
    }
}

/// The loader of one call, in the hands of the test.
#[derive(Clone, Default)]
struct Loader(Arc<LoaderState>);

#[derive(Default)]
struct LoaderState {
    result: Mutex<Option<Result<Vec<u8>, &'static str>>>,
    waker: Mutex<Option<Waker>>,
    started: AtomicBool,
    dropped: AtomicBool,
}

impl Loader {
    fn load(&self) -> impl Future<Output = Result<Vec<u8>, &'static str>> + Send + use<> {
        struct Dropped(Loader);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.0.dropped.store(true, SeqCst);
            }
        }
        self.0.started.store(true, SeqCst);
        let guard = Dropped(self.clone());
        poll_fn(move |cx| {
            if let Some(result) = guard.0.0.result.lock().unwrap().take() {
                return Poll::Ready(result);
            }
            *guard.0.0.waker.lock().unwrap() = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    fn end(&self, result: Result<Vec<u8>, &'static str>) {
        *self.0.result.lock().unwrap() = Some(result);
        let waker = self.0.waker.lock().unwrap().take();
        waker.into_iter().for_each(Waker::wake);
    }

    fn has_started(&self) -> bool {
        self.0.started.load(SeqCst)
    }

    fn is_dropped(&self) -> bool {
        self.0.dropped.load(SeqCst)
    }
}

/// An async load that runs.
struct Load {
    loader: Loader,
    written: Written,
    /// The time of its start.
    from: u64,
    /// A write came: callers do not join the load any more, and it stores nothing.
    cancelled: bool,
    /// A load of the same key that started later has ended with a value.
    passed: bool,
}

/// An async call that waits for a load, by the number of its value.
struct Call {
    load: u32,
    task: Task<'static, Result<Vec<u8>, LoadError<&'static str>>>,
}

struct Pair {
    cache: Cache<u8, Vec<u8>>,
    model: Model,
    loads: Vec<Load>,
    calls: Vec<Call>,
    manual: ManualClock,
    budget: MemoryBudget,
    eviction: Eviction,
    admits_all: bool,
}

impl Pair {
    fn new(eviction: Eviction, shards: usize, max_bytes: u64) -> Self {
        let manual = ManualClock::new();
        let budget = MemoryBudget::new(ByteSize::mib(1));
        let cache = Cache::builder("model")
            .max_entries(MAX_ENTRIES)
            .max_bytes(ByteSize::bytes(max_bytes))
            .time_to_live(Duration::from_millis(TTL))
            .time_to_idle(Duration::from_millis(TTI))
            .eviction(eviction)
            .shards(shards)
            .account(budget.account("model").unwrap())
            .clock(manual.clock())
            .build()
            .unwrap();
        let model = Model { clock: manual.clock(), start: manual.clock().now(), kept: Vec::new(), written: 0 };
        let admits_all = max_bytes == u64::MAX;
        Self { cache, model, loads: Vec::new(), calls: Vec::new(), manual, budget, eviction, admits_all }
    }

    /// Checks that `found` was written last under `key` and has not expired.
    fn check_found(&mut self, key: u8, found: Option<&Vec<u8>>) {
        if let Some(found) = found {
            let written = self.model.live(key).expect("a value that has expired or was never written");
            assert_eq!(*found, written.value());
            self.model.used(key);
        }
    }

    fn step(&mut self, op: &Op) {
        let ms = Duration::from_millis;
        match *op {
            Op::Get(key) => {
                let found = self.cache.get(&key);
                self.check_found(key, found.as_ref());
                if found.is_none() {
                    self.model.forget(key);
                }
            }
            Op::Contains(key) => assert!(!self.cache.contains_key(&key) || self.model.live(key).is_some()),
            Op::Insert(key, size) => {
                let written = self.model.write(key, size);
                let inserted = self.cache.insert(key, written.value());
                self.inserted(written, TTL, inserted.is_ok());
            }
            Op::InsertWithTtl(key, size, ttl) => {
                let written = self.model.write(key, size);
                let inserted = self.cache.insert_with_ttl(key, written.value(), ms(ttl));
                self.inserted(written, ttl, inserted.is_ok());
            }
            Op::Remove(key) => {
                let removed = self.cache.remove(&key);
                self.check_found(key, removed.as_ref());
                self.model.forget(key);
                self.cancel(|load| load.written.key == key);
            }
            Op::Compute(key, size) => self.compute(key, size),
            Op::Load(key, size) => self.load(key, size),
            Op::Call(key, size) => self.call(key, size),
            Op::EndLoad(at, works) => self.end_load(at, works),
            Op::DropCall(at) => self.drop_call(at),
            Op::RemoveExpired(limit) => drop(remove_expired(&self.cache, limit)),
            Op::EvictTo(bytes) => {
                evict_to(&self.cache, ByteSize::bytes(bytes));
                assert!(self.cache.stats().bytes <= ByteSize::bytes(bytes));
            }
            Op::SetMaxEntries(max_entries) => {
                set_max_entries(&self.cache, max_entries);
                self.cancel(|_| max_entries == 0);
            }
            Op::Retain(modulus) => {
                self.cache.retain(|key, _| key % modulus == 0);
                self.model.kept.retain(|kept| kept.written.key % modulus == 0);
                self.cancel(|_| true);
            }
            Op::Clear => {
                self.cache.clear();
                self.model.kept.clear();
                self.cancel(|_| true);
            }
            Op::Advance(by) => self.manual.advance(ms(by)),
            Op::Freeze(by) => self.manual.freeze(ms(by)),
            Op::WallBack(by) => self.manual.set_wall_back(ms(by)),
            Op::MonotonicBack(by) => self.manual.set_monotonic_back(ms(by)),
        }
    }

    fn inserted(&mut self, written: Written, ttl: u64, taken: bool) {
        self.cancel(|load| load.written.key == written.key);
        if taken {
            self.model.put(written, self.model.clock.now(), ttl);
        } else {
            self.model.forget(written.key);
        }
    }

    fn cancel(&mut self, which: impl Fn(&Load) -> bool) {
        self.loads.iter_mut().for_each(|load| load.cancelled |= which(load));
    }

    fn compute(&mut self, key: u8, size: u16) {
        let written = self.model.write(key, size);
        let change = match size % 4 {
            0 => Change::Keep,
            1 => Change::Remove,
            _ => Change::Put(written.value()),
        };
        let mut seen = None;
        let computed = self.cache.compute(&key, |present| {
            seen = Some(present);
            change.clone()
        });
        let present = seen.expect("the change runs");
        self.check_found(key, present.as_ref());
        if present.is_none() {
            self.model.forget(key);
        }
        match change {
            Change::Keep => assert_eq!(computed.unwrap(), present),
            Change::Remove => {
                assert_eq!(computed.unwrap(), None);
                self.model.forget(key);
                self.cancel(|load| load.written.key == key);
            }
            Change::Put(value) => {
                assert!(computed.as_ref().ok().is_none_or(|computed| computed.as_ref() == Some(&value)));
                self.inserted(written, TTL, computed.is_ok());
            }
        }
    }

    /// A blocking load. Its error type is another one: it does not wait for the async loads.
    fn load(&mut self, key: u8, size: u16) {
        let mut ran = false;
        let written = self.model.write(key, size);
        let loaded = self.cache.try_get_or_load(&key, |_| {
            ran = true;
            if size.is_multiple_of(7) { Err(()) } else { Ok(written.value()) }
        });
        match loaded {
            Ok(found) if !ran => self.check_found(key, Some(&found)),
            Ok(found) => {
                assert_eq!(found, written.value());
                if self.cache.contains_key(&key) {
                    self.model.put(written, self.model.clock.now(), TTL);
                } else {
                    self.model.forget(key);
                }
                for load in self.loads.iter_mut().filter(|load| load.written.key == key) {
                    load.passed = true;
                }
            }
            Err(_) => self.model.forget(key),
        }
    }

    fn call(&mut self, key: u8, size: u16) {
        let is_live = self.cache.contains_key(&key);
        let joins = self.loads.iter().find(|load| load.written.key == key && !load.cancelled);
        let joins = joins.map(|load| load.written.number);
        let loader = Loader::default();
        let (cache, load) = (self.cache.clone(), loader.clone());
        let mut task = Task::new(async move { cache.try_get_or_load_async(&key, |_| load.load()).await });
        task.poll();
        if is_live {
            assert!(!loader.has_started());
            let found = task.output().expect("the value is there").unwrap();
            self.check_found(key, Some(&found));
            return;
        }
        assert!(task.is_pending(), "{:?}", task.output());
        self.model.forget(key);
        assert_eq!(loader.has_started(), joins.is_none(), "key {key}: a load that was not cancelled is shared");
        let load = joins.unwrap_or_else(|| {
            let written = self.model.write(key, size);
            let from = self.model.clock.now();
            self.loads.push(Load { loader, written, from, cancelled: false, passed: false });
            written.number
        });
        self.calls.push(Call { load, task });
    }

    /// Polls all calls that are woken, until none is.
    fn run(&mut self) {
        while self.calls.iter_mut().filter_map(|call| call.task.poll().then_some(())).count() > 0 {}
    }

    /// Returns the value of `key` in the cache.
    fn peek(&self, key: u8) -> Option<Vec<u8>> {
        let mut found = None;
        self.cache.for_each(|other, value| {
            if *other == key {
                found = Some(value.clone());
            }
        });
        found
    }

    fn end_load(&mut self, at: usize, works: bool) {
        if self.loads.is_empty() {
            return;
        }
        let Load { loader, written, from, cancelled, passed } = self.loads.remove(at % self.loads.len());
        let before = self.peek(written.key);
        loader.end(if works { Ok(written.value()) } else { Err("down") });
        self.run();
        assert!(loader.is_dropped());
        let mut callers = 0;
        for Call { load, task } in &mut self.calls {
            let output = task.output();
            assert_eq!(output.is_some(), *load == written.number, "{output:?}");
            if let Some(output) = output {
                callers += 1;
                let is_right =
                    if works { output.as_ref().ok() == Some(&written.value()) } else { is_load_error(&output) };
                assert!(is_right, "{output:?}");
            }
        }
        assert!(callers > 0);
        self.calls.retain(|call| call.load != written.number);
        let after = self.peek(written.key);
        if !works || cancelled || (passed && before.is_some()) {
            assert_eq!(after, before, "the load wrote, cancelled: {cancelled}, passed: {passed}");
        } else if after.is_some() {
            assert_eq!(after, Some(written.value()));
            self.model.put(written, from, TTL);
        } else {
            let expired = self.model.clock.now() - from >= TTL - 10;
            let admitted = self.admits_all && self.cache.stats().max_entries > Some(0);
            assert!(expired || passed || !admitted, "the value of a load that nothing cancelled is missing");
            self.model.forget(written.key);
        }
    }

    fn drop_call(&mut self, at: usize) {
        if self.calls.is_empty() {
            return;
        }
        let Call { load, .. } = self.calls.swap_remove(at % self.calls.len());
        let is_last = self.calls.iter().all(|call| call.load != load);
        let at = self.loads.iter().position(|other| other.written.number == load).unwrap();
        assert_eq!(self.loads[at].loader.is_dropped(), is_last, "a load lives as long as its callers");
        if is_last {
            self.loads.remove(at);
        }
        self.run();
    }

    /// Checks the properties that hold after each operation.
    fn check(&mut self) {
        let stats = self.cache.stats();
        assert!(stats.entries <= stats.max_entries.unwrap(), "{stats:?}");
        assert!(stats.max_bytes.is_none_or(|max_bytes| stats.bytes <= max_bytes), "{stats:?}");
        assert_eq!(
            self.budget.account("model").unwrap().reserved(),
            stats.bytes,
            "the account is charged for all bytes"
        );
        assert_eq!(stats.inserts, left(&stats) + stats.entries as u64, "{stats:?}");
        // For the exact order, the entries are the ones that were used last.
        let mut entries = Vec::new();
        self.cache.for_each(|key, value| entries.push((*key, value.clone())));
        for (key, value) in &entries {
            let written = self.model.live(*key).expect("an entry that has expired or was never written");
            assert_eq!(*value, written.value());
        }
        if self.eviction == Eviction::Lru {
            let keys = self.model.kept.iter().map(|kept| kept.written.key);
            let live: Vec<u8> = keys.filter(|&key| self.model.live(key).is_some()).collect();
            for key in &live[live.len() - entries.len()..] {
                let is_in = entries.iter().any(|(found, _)| found == key);
                assert!(is_in, "{key} was evicted before its turn: {live:?} {entries:?}");
            }
        }
    }
}

/// Returns the number of entries that left.
fn left(stats: &CacheStats) -> u64 {
    stats.removed + stats.cleared + stats.evictions_by_size + stats.expirations + stats.evictions_by_pressure
}

proptest! {
    #![proptest_config(ProptestConfig { cases: proptest_cases(400), ..ProptestConfig::default() })]

    #[test]
    fn cache_matches_model_and_keeps_its_bounds(
        ops in prop::collection::vec(op(), 1..250),
        lru in any::<bool>(),
        shards in prop_oneof![Just(1_usize), Just(2), Just(8)],
        max_bytes in prop_oneof![Just(1_500_u64), Just(4_000), Just(u64::MAX)],
    ) {
        let mut pair = Pair::new(if lru { Eviction::Lru } else { Eviction::S3Fifo }, shards, max_bytes);
        for op in ops {
            pair.step(&op);
            pair.check();
        }
        let Pair { cache, budget, loads, calls, .. } = pair;
        drop(calls);
        prop_assert!(loads.iter().all(|load| load.loader.is_dropped()));
        drop(cache);
        prop_assert_eq!(budget.reserved(), ByteSize::ZERO);
    }
}

#[test]
fn with_room_for_all_nothing_is_lost() {
    for eviction in [Eviction::S3Fifo, Eviction::Lru] {
        let cache = Cache::builder("roomy").max_entries(50_000).eviction(eviction).build().unwrap();
        let mut random = 1_u64;
        for turn in 0..200_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = random >> 49;
            if turn % 3 == 0 {
                cache.remove(&key);
            } else {
                cache.insert(key, key * 2).unwrap();
                assert_eq!(cache.get(&key), Some(key * 2));
            }
        }
        let mut seen = 0;
        cache.for_each(|key, value| {
            seen += 1;
            assert_eq!(*value, key * 2);
        });
        assert_eq!((seen, cache.stats().evictions_by_size), (cache.len(), 0));
        for key in 0..1 << 15 {
            assert_eq!(cache.contains_key(&key), cache.remove(&key).is_some());
        }
        assert_eq!(cache.stats().bytes, ByteSize::ZERO, "an empty cache holds no tables");
    }
}

#[test]
fn a_scan_passes_through_s3_fifo_and_leaves_what_is_used() {
    let cache = Cache::builder("scan").max_entries(100).build().unwrap();
    for turn in 0..3 {
        for key in 0..50_u32 {
            if turn == 0 {
                cache.insert(key, ()).unwrap();
            }
            assert!(cache.get(&key).is_some());
        }
    }
    for key in 1_000..2_000_u32 {
        cache.insert(key, ()).unwrap();
    }
    assert_eq!((0..50).filter(|key| cache.contains_key(key)).count(), 50);
}

#[test]
fn a_value_too_large_comes_back_and_costs_nobody_his_place() {
    let cache = Cache::builder("small").max_bytes(ByteSize::kib(4)).build().unwrap();
    cache.insert("kept", vec![0_u8; 100]).unwrap();
    let error = cache.insert("large", vec![7_u8; 5_000]).unwrap_err();
    assert!(matches!(error.reason(), RejectReason::TooLarge { size, .. } if size.as_u64() > 5_000), "{error}");
    assert_eq!(error.into_entry(), ("large", vec![7_u8; 5_000]));
    assert_eq!((cache.get("kept").map(|v| v.len()), cache.stats().evictions_by_size), (Some(100), 0));
    assert!(cache.insert("kept", vec![7_u8; 5_000]).is_err());
    assert_eq!(cache.get("kept"), None, "what was to be replaced is not served");
}
