//! Caches beside a twin so short that it cannot be wrong, under random operations and with both clocks turned by hand:
//! one suite for both policies. For `Lru` the twin also knows who goes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

#[path = "support/cases.rs"]
mod cases;

use std::time::Duration;

use plimsoll::cache::{Cache, CacheStats, Eviction, Refusal};
use plimsoll::{ByteSize, Clock, ManualClock, MemoryBudget};
use proptest::prelude::*;

use cases::proptest_cases;

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
    Load(u8, u16),
    Sweep(usize),
    ShrinkTo(u64),
    Resize(usize),
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
        3 => (key, size).prop_map(|(key, size)| Op::Load(key, size)),
        1 => (0..30_usize).prop_map(Op::Sweep),
        1 => (0..6_000_u64).prop_map(Op::ShrinkTo),
        1 => (1..=MAX_ENTRIES).prop_map(Op::Resize),
        1 => (1..5_u8).prop_map(Op::Retain),
        1 => Just(Op::Clear),
        3 => time.clone().prop_map(Op::Advance),
        1 => time.clone().prop_map(Op::Freeze),
        1 => time.clone().prop_map(Op::WallBack),
        1 => time.prop_map(Op::MonotonicBack),
    ]
}

/// An entry as the twin keeps it; the order of the list is that of use.
#[derive(Clone, Debug)]
struct Kept {
    key: u8,
    size: u16,
    /// In ticks of 10 ms since the start.
    expires: u64,
    touched: u64,
}

/// What was put in and neither removed nor overwritten, whether or not the cache still has it.
struct Twin {
    clock: Clock,
    start: u64,
    kept: Vec<Kept>,
}

impl Twin {
    fn ticks(&self, after: u64) -> u64 {
        (self.clock.now() + after - self.start) / 10
    }

    fn find(&self, key: u8) -> Option<usize> {
        self.kept.iter().position(|kept| kept.key == key)
    }

    /// The entry, if it has not expired.
    fn live(&self, key: u8) -> Option<usize> {
        let now = self.ticks(0);
        self.find(key).filter(|&at| now < self.kept[at].expires && now - self.kept[at].touched < TTI / 10)
    }

    /// It was asked for, and was there.
    fn used(&mut self, key: u8) {
        let mut kept = self.kept.remove(self.find(key).unwrap());
        kept.touched = self.ticks(0);
        self.kept.push(kept);
    }

    fn put(&mut self, key: u8, size: u16, ttl: u64) {
        self.forget(key);
        let kept = Kept { key, size, expires: self.ticks(ttl), touched: self.ticks(0) };
        self.kept.push(kept);
    }

    fn forget(&mut self, key: u8) {
        self.kept.retain(|kept| kept.key != key);
    }
}

struct Both {
    cache: Cache<u8, Vec<u8>>,
    twin: Twin,
    manual: ManualClock,
    budget: MemoryBudget,
    eviction: Eviction,
}

fn value(key: u8, size: u16) -> Vec<u8> {
    vec![key; size.into()]
}

impl Both {
    fn new(eviction: Eviction, max_bytes: u64) -> Self {
        let manual = ManualClock::new();
        let budget = MemoryBudget::new(ByteSize::mib(1));
        let cache = Cache::builder("model")
            .max_entries(MAX_ENTRIES)
            .max_bytes(ByteSize::bytes(max_bytes))
            .time_to_live(Duration::from_millis(TTL))
            .time_to_idle(Duration::from_millis(TTI))
            .eviction(eviction)
            .account(budget.account("model"))
            .clock(manual.clock())
            .build()
            .unwrap();
        let twin = Twin { clock: manual.clock(), start: manual.clock().now(), kept: Vec::new() };
        Self { cache, twin, manual, budget, eviction }
    }

    /// What the cache answers must be what was put in, and not be expired.
    fn check_found(&mut self, key: u8, found: Option<&Vec<u8>>) {
        if let Some(found) = found {
            let at = self.twin.live(key).expect("it has expired, or was never there");
            assert_eq!(*found, value(key, self.twin.kept[at].size));
            self.twin.used(key);
        }
    }

    fn step(&mut self, op: &Op) {
        let ms = Duration::from_millis;
        match *op {
            Op::Get(key) => {
                let found = self.cache.get(&key);
                self.check_found(key, found.as_ref());
                if found.is_none() {
                    self.twin.forget(key);
                }
            }
            Op::Contains(key) => assert!(!self.cache.contains(&key) || self.twin.live(key).is_some()),
            Op::Insert(key, size) => {
                let inserted = self.cache.insert(key, value(key, size));
                self.inserted(key, size, TTL, inserted.is_ok());
            }
            Op::InsertWithTtl(key, size, ttl) => {
                let inserted = self.cache.insert_with_ttl(key, value(key, size), ms(ttl));
                self.inserted(key, size, ttl, inserted.is_ok());
            }
            Op::Remove(key) => {
                let removed = self.cache.remove(&key);
                self.check_found(key, removed.as_ref());
                self.twin.forget(key);
            }
            Op::Load(key, size) => {
                let mut ran = false;
                let loaded = self.cache.try_get_or_load(&key, || {
                    ran = true;
                    if size % 7 == 0 { Err("no") } else { Ok(value(key, size)) }
                });
                match loaded {
                    Ok(found) if !ran => self.check_found(key, Some(&found)),
                    Ok(found) => {
                        assert_eq!(found, value(key, size));
                        let is_in = self.cache.contains(&key);
                        self.inserted(key, size, TTL, is_in);
                    }
                    Err(_) => self.twin.forget(key),
                }
            }
            Op::Sweep(most) => drop(self.cache.sweep(most)),
            Op::ShrinkTo(most) => {
                self.cache.shrink_to(ByteSize::bytes(most));
                assert!(self.cache.stats().bytes <= ByteSize::bytes(most));
            }
            Op::Resize(most) => self.cache.resize(Some(most), None),
            Op::Retain(modulus) => {
                self.cache.retain(|key, _| key % modulus == 0);
                self.twin.kept.retain(|kept| kept.key % modulus == 0);
            }
            Op::Clear => {
                self.cache.clear();
                self.twin.kept.clear();
            }
            Op::Advance(by) => self.manual.advance(ms(by)),
            Op::Freeze(by) => self.manual.freeze(ms(by)),
            Op::WallBack(by) => self.manual.set_wall_back(ms(by)),
            Op::MonotonicBack(by) => self.manual.set_monotonic_back(ms(by)),
        }
    }

    fn inserted(&mut self, key: u8, size: u16, ttl: u64, taken: bool) {
        if taken {
            self.twin.put(key, size, ttl);
        } else {
            self.twin.forget(key);
        }
    }

    /// What must hold after each operation.
    fn check(&mut self) {
        let stats = self.cache.stats();
        assert!(stats.entries <= stats.max_entries.unwrap(), "{stats:?}");
        assert!(stats.max_bytes.is_none_or(|most| stats.bytes <= most), "{stats:?}");
        assert_eq!(self.budget.account("model").held(), stats.bytes, "the account is charged what is held");
        assert_eq!(came(&stats), went(&stats) + stats.entries as u64, "{stats:?}");
        // What is there was put in. For the exact order, what is there are the last ones used.
        let mut there = Vec::new();
        self.cache.for_each(|key, value| there.push((*key, value.len())));
        for &(key, size) in &there {
            let at = self.twin.live(key).expect("it has expired, or was never there");
            assert_eq!(usize::from(self.twin.kept[at].size), size);
        }
        if self.eviction == Eviction::Lru {
            let live: Vec<u8> =
                self.twin.kept.iter().map(|kept| kept.key).filter(|&key| self.twin.live(key).is_some()).collect();
            for key in &live[live.len() - there.len()..] {
                assert!(there.iter().any(|(found, _)| found == key), "{key} went before its turn: {live:?} {there:?}");
            }
        }
    }
}

fn came(stats: &CacheStats) -> u64 {
    stats.inserts
}

fn went(stats: &CacheStats) -> u64 {
    stats.removed + stats.cleared + stats.evicted_size + stats.evicted_expired + stats.evicted_pressure
}

proptest! {
    #![proptest_config(ProptestConfig { cases: proptest_cases(400), ..ProptestConfig::default() })]

    #[test]
    fn a_cache_answers_what_was_put_in_and_keeps_its_bounds(
        ops in prop::collection::vec(op(), 1..250),
        lru in any::<bool>(),
        max_bytes in prop_oneof![Just(1_500_u64), Just(4_000), Just(u64::MAX)],
    ) {
        let mut both = Both::new(if lru { Eviction::Lru } else { Eviction::S3Fifo }, max_bytes);
        for op in ops {
            both.step(&op);
            both.check();
        }
        let Both { cache, budget, .. } = both;
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
        assert_eq!((seen, cache.stats().evicted_size), (cache.len(), 0));
        for key in 0..1 << 15 {
            assert_eq!(cache.contains(&key), cache.remove(&key).is_some());
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
    assert_eq!((0..50).filter(|key| cache.contains(key)).count(), 50);
}

#[test]
fn a_value_too_large_comes_back_and_costs_nobody_his_place() {
    let cache = Cache::builder("small").max_bytes(ByteSize::kib(4)).build().unwrap();
    cache.insert("kept", vec![0_u8; 100]).unwrap();
    let error = cache.insert("large", vec![7_u8; 5_000]).unwrap_err();
    assert!(matches!(error.refusal(), Refusal::TooLarge { size, .. } if size.as_u64() > 5_000), "{error}");
    assert_eq!(error.into_entry(), ("large", vec![7_u8; 5_000]));
    assert_eq!((cache.get("kept").map(|v| v.len()), cache.stats().evicted_size), (Some(100), 0));
    assert!(cache.insert("kept", vec![7_u8; 5_000]).is_err());
    assert_eq!(cache.get("kept"), None, "what was to be replaced is not served");
}
