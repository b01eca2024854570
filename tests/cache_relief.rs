//! Caches that release memory: they evict what the wanted bytes need, and the heap does not grow on the way.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::large_stack_arrays,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test: it allocates by hand, counts in signed bytes and stops at the first surprise"
)]

#[path = "support/caches.rs"]
mod caches;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use plimsoll::cache::{Cache, CacheBuilder, Eviction, RejectReason};
use plimsoll::{ByteSize, HeapSize, ManualClock, MemoryBudget, Reservation, TrackingAllocator, heap};

use caches::{evict_to, remove_expired, reserve_per_load, set_max_bytes, set_max_entries};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

support::tests! {
    reclaim_at_limit_of_heap_does_not_abort if cfg!(not(miri)), else "Miri has no fork",
    reclaim_does_not_grow_heap,
    evict_to_does_not_grow_heap,
    smaller_bounds_do_not_grow_heap,
    removal_of_expired_entries_does_not_grow_heap,
    retain_does_not_grow_heap,
    clear_does_not_grow_heap,
    insert_of_large_value_does_not_grow_heap,
    relief_returns_memory_to_heap,
    reclaim_of_one_kib_evicts_at_most_two_percent,
    reclaims_in_small_steps_evict_no_more_than_one,
    evict_to_ninety_percent_evicts_its_share,
    bound_one_kib_smaller_evicts_at_most_two_percent,
    bound_ten_percent_smaller_evicts_its_share,
    reservation_for_load_evicts_at_most_two_percent,
    relief_drops_values_in_batches_outside_the_lock,
    expired_entries_are_reclaimed_first,
    expired_entries_are_evicted_first,
    insert_that_budget_can_never_hold_evicts_nothing,
    evict_to_reports_freed_bytes_and_evicts_its_share,
    evict_to_removes_all_expired_entries_before_others,
    reclaim_of_most_bytes_keeps_its_share_of_entries,
    budgeted_load_of_16_bytes_evicts_at_most_one_percent,
    insert_of_one_kib_evicts_at_most_two_percent,
    relief_of_128_kib_inline_values_fits_in_stack_of_two_mib if cfg!(not(miri)), else "Miri has no fork",
    batch_with_two_panics_in_drop_panics_once if cfg!(not(miri)), else "Miri has no fork",
}

const BOTH: [Eviction; 2] = [Eviction::S3Fifo, Eviction::Lru];

/// The growth of the heap that relief may cause at any time.
const MAX_GROWTH: ByteSize = ByteSize::kib(16);

/// Values removed from a cache and not yet dropped.
const BATCH: usize = 64;

/// A minute, after which the entries of [`timed`] expire.
const TTL: Duration = Duration::from_mins(1);

/// Returns the highest growth of the heap during `work`. Relief runs on this thread, so the figure is exact.
fn growth(work: impl FnOnce()) -> ByteSize {
    heap::scope(work).1.unwrap().peak
}

/// Fills a cache of `u64` with `entries`.
fn numbers(
    entries: usize,
    configure: impl FnOnce(CacheBuilder<u64, u64>) -> CacheBuilder<u64, u64>,
) -> Cache<u64, u64> {
    let cache = configure(Cache::builder("numbers").max_entries(entries)).build().unwrap();
    for key in 0..entries as u64 {
        cache.insert(key, key).unwrap();
    }
    assert_eq!(cache.len(), entries);
    cache
}

/// Fills a cache of values of 64 bytes with entries until it evicts.
fn boxes(
    max_bytes: ByteSize,
    configure: impl FnOnce(CacheBuilder<u64, Box<[u8]>>) -> CacheBuilder<u64, Box<[u8]>>,
) -> Cache<u64, Box<[u8]>> {
    let cache = configure(Cache::builder("boxes").max_bytes(max_bytes)).build().unwrap();
    let mut key = 0;
    while cache.stats().evictions_by_size == 0 {
        cache.insert(key, vec![0; 64].into()).unwrap();
        key += 1;
    }
    cache
}

/// Asserts that `relief` does not grow the heap: for each policy, for values without and with heap of their own.
fn check_growth(
    relief: &str,
    numbers_relief: impl Fn(&Cache<u64, u64>),
    boxes_relief: impl Fn(&Cache<u64, Box<[u8]>>),
) {
    for eviction in BOTH {
        let cache = numbers(100_000, |builder| builder.eviction(eviction));
        let grown = growth(|| numbers_relief(&cache));
        assert!(grown <= MAX_GROWTH, "{relief} of numbers, {eviction:?}: the heap grew by {grown}");
        let cache = boxes(ByteSize::mib(8), |builder| builder.eviction(eviction));
        let grown = growth(|| boxes_relief(&cache));
        assert!(grown <= MAX_GROWTH, "{relief} of boxes, {eviction:?}: the heap grew by {grown}");
    }
}

/// The same relief for both kinds of values.
macro_rules! check_growth {
    ($name:literal, |$cache:ident| $relief:expr) => {
        check_growth($name, |$cache| $relief, |$cache| $relief)
    };
}

/// Reserves all available bytes of the budget and then `more`, which another account must release.
fn reserve_beyond(budget: &MemoryBudget, more: ByteSize) -> [Reservation; 2] {
    let neighbor = budget.account("neighbor").unwrap();
    [budget.available(), more].map(|size| neighbor.try_reserve(size).unwrap())
}

fn half(size: ByteSize) -> ByteSize {
    ByteSize::bytes(size.as_u64() / 2)
}

fn reclaim_at_limit_of_heap_does_not_abort() {
    for eviction in BOTH {
        let ended = support::in_child(|| {
            let budget = MemoryBudget::new(ByteSize::mib(64));
            let cache =
                numbers(300_000, |builder| builder.eviction(eviction).account(budget.account("numbers").unwrap()));
            let live = heap::stats().unwrap().live;
            heap::set_limit(live.saturating_add(ByteSize::kib(256))).unwrap();
            let reserved = reserve_beyond(&budget, ByteSize::mib(1));
            assert!(cache.len() < 300_000);
            drop(reserved);
        });
        assert_eq!((ended.code, ended.signal), (Some(0), None), "{eviction:?}: {}", ended.stderr);
    }
}

fn reclaim_does_not_grow_heap() {
    for eviction in BOTH {
        for more in [ByteSize::kib(1), ByteSize::mib(1), ByteSize::mib(3)] {
            let budget = MemoryBudget::new(ByteSize::mib(16));
            let configure = |builder: CacheBuilder<u64, u64>| {
                builder.eviction(eviction).account(budget.account("numbers").unwrap())
            };
            let cache = numbers(100_000, configure);
            let all = budget.account("neighbor").unwrap().try_reserve(budget.available()).unwrap();
            let grown = growth(|| drop(budget.account("neighbor").unwrap().try_reserve(more).unwrap()));
            assert!(grown <= MAX_GROWTH, "{more} of numbers, {eviction:?}: the heap grew by {grown}");
            drop((cache, all));

            let budget = MemoryBudget::new(ByteSize::mib(16));
            let cache =
                boxes(ByteSize::mib(8), |builder| builder.eviction(eviction).account(budget.account("boxes").unwrap()));
            let all = budget.account("neighbor").unwrap().try_reserve(budget.available()).unwrap();
            let grown = growth(|| drop(budget.account("neighbor").unwrap().try_reserve(more).unwrap()));
            assert!(grown <= MAX_GROWTH, "{more} of boxes, {eviction:?}: the heap grew by {grown}");
            drop((cache, all));
        }
    }
}

fn evict_to_does_not_grow_heap() {
    check_growth!("half", |cache| evict_to(cache, half(cache.stats().bytes)));
    check_growth!("a tenth", |cache| evict_to(cache, ByteSize::bytes(cache.stats().bytes.as_u64() / 10)));
    check_growth!("all", |cache| evict_to(cache, ByteSize::ZERO));
}

fn smaller_bounds_do_not_grow_heap() {
    check_growth!("half of the entries", |cache| set_max_entries(cache, cache.len() / 2));
    check_growth!("one entry", |cache| set_max_entries(cache, 1));
    check_growth!("half of the bytes", |cache| set_max_bytes(cache, half(cache.stats().bytes)));
    check_growth!("no bytes", |cache| set_max_bytes(cache, ByteSize::ZERO));
}

/// Creates a cache with an entry for each of `keys`; those for which `expires` holds expire after [`TTL`].
fn timed<V: HeapSize + Clone + Send + 'static>(
    manual: &ManualClock,
    keys: u64,
    expires: impl Fn(u64) -> bool,
    value: impl Fn() -> V,
    configure: impl FnOnce(CacheBuilder<u64, V>) -> CacheBuilder<u64, V>,
) -> Cache<u64, V> {
    let builder = Cache::builder("timed").max_bytes(ByteSize::mib(16)).clock(manual.clock());
    let cache = configure(builder).build().unwrap();
    for key in 0..keys {
        let ttl = if expires(key) { TTL } else { 1_000 * TTL };
        cache.insert_with_ttl(key, value(), ttl).unwrap();
    }
    assert_eq!(cache.len() as u64, keys);
    cache
}

fn removal_of_expired_entries_does_not_grow_heap() {
    for eviction in BOTH {
        for (share, expires) in
            [("all", (|_| true) as fn(u64) -> bool), ("half", |key| key % 2 == 0), ("9 of 10", |key| key % 10 > 0)]
        {
            let manual = ManualClock::new();
            let numbers = timed(&manual, 100_000, expires, || 0_u64, |builder| builder.eviction(eviction));
            let boxes = timed(&manual, 50_000, expires, || vec![0_u8; 64], |builder| builder.eviction(eviction));
            manual.advance(2 * TTL);
            let mut removed = 0;
            let grown = growth(|| removed = remove_expired(&numbers, usize::MAX));
            assert!(
                removed >= 50_000 && grown <= MAX_GROWTH,
                "{share} of numbers, {eviction:?}: the heap grew by {grown}"
            );
            let grown = growth(|| removed = remove_expired(&boxes, usize::MAX));
            assert!(
                removed >= 25_000 && grown <= MAX_GROWTH,
                "{share} of boxes, {eviction:?}: the heap grew by {grown}"
            );
        }
    }
}

fn retain_does_not_grow_heap() {
    check_growth!("half", |cache| cache.retain(|key, _| key % 2 == 0));
    check_growth!("a hundredth", |cache| cache.retain(|key, _| key % 100 == 0));
    check_growth!("none", |cache| cache.retain(|_, _| false));
}

fn clear_does_not_grow_heap() {
    check_growth!("all", |cache| cache.clear());
}

fn insert_of_large_value_does_not_grow_heap() {
    for eviction in BOTH {
        let cache = boxes(ByteSize::mib(8), |builder| builder.eviction(eviction));
        // Below the share of the small queue, so that both policies admit it.
        let large: Box<[u8]> = vec![0; 700 << 10].into();
        let before = cache.len();
        let mut inserted = false;
        let grown = growth(|| inserted = cache.insert(u64::MAX, large).is_ok());
        assert!(inserted && cache.len() < before - 4_000, "{eviction:?}: {} of {before} entries", cache.len());
        assert!(grown <= MAX_GROWTH, "{eviction:?}: the heap grew by {grown}");
    }
}

/// After relief the heap holds what the cache reports.
fn relief_returns_memory_to_heap() {
    for eviction in BOTH {
        for percent in [90, 50, 20, 5] {
            let before = support::live();
            let cache = numbers(100_000, |builder| builder.eviction(eviction));
            let target = cache.stats().bytes.percent(percent);
            evict_to(&cache, target);
            let (reported, held) = (cache.stats().bytes, (support::live() - before) as u64);
            assert!(reported <= target, "{percent} %, {eviction:?}: {reported} of {target}");
            let off = reported.as_u64().abs_diff(held);
            assert!(off <= held / 20 + 2_000, "{percent} %, {eviction:?}: reported {reported}, the heap holds {held}");
        }
    }
}

/// Returns the entries lost by `relief` in percent.
#[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 entries")]
fn lost_percent<K, V>(cache: &Cache<K, V>, relief: impl FnOnce()) -> f64 {
    let before = cache.len();
    relief();
    100.0 * (before as f64 - cache.len() as f64) / before as f64
}

fn reclaim_of_one_kib_evicts_at_most_two_percent() {
    for eviction in BOTH {
        let budget = MemoryBudget::new(ByteSize::mib(16));
        let cache = numbers(100_000, |builder| builder.eviction(eviction).account(budget.account("numbers").unwrap()));
        let before = cache.stats().bytes;
        let lost = lost_percent(&cache, || drop(reserve_beyond(&budget, ByteSize::kib(1))));
        // Spare tables may be enough.
        assert!(lost <= 2.0, "{eviction:?}: {lost:.2} % of the entries");
        assert!(cache.stats().bytes <= before.saturating_sub(ByteSize::kib(1)), "{eviction:?}: nothing was released");
    }
}

fn reclaims_in_small_steps_evict_no_more_than_one() {
    for eviction in BOTH {
        let budget = MemoryBudget::new(ByteSize::mib(16));
        let cache = numbers(100_000, |builder| builder.eviction(eviction).account(budget.account("numbers").unwrap()));
        let neighbor = budget.account("neighbor").unwrap();
        let mut reserved = vec![neighbor.try_reserve(budget.available()).unwrap()];
        let lost = lost_percent(&cache, || {
            reserved.extend((0..100).map(|_| neighbor.try_reserve(ByteSize::kib(1)).unwrap()));
        });
        // 100 KiB are 2.3 % of the bytes of a cache without spare tables.
        assert!(lost > 0.0 && lost <= 6.0, "{eviction:?}: {lost:.2} % of the entries");
    }
}

fn evict_to_ninety_percent_evicts_its_share() {
    for eviction in BOTH {
        let cache = numbers(100_000, |builder| builder.eviction(eviction));
        let target = cache.stats().bytes.percent(90);
        let lost = lost_percent(&cache, || evict_to(&cache, target));
        // The index cannot shrink: a tenth of all bytes is up to 16 % of the bytes that belong to entries.
        assert!(lost > 0.0 && lost <= 20.0, "{eviction:?}: {lost:.2} % of the entries");
        assert!(cache.stats().bytes <= target);
    }
}

fn bound_one_kib_smaller_evicts_at_most_two_percent() {
    for eviction in BOTH {
        let cache = Cache::builder("bound").max_bytes(ByteSize::mib(4)).eviction(eviction).build().unwrap();
        for key in 0..200_000_u64 {
            cache.insert(key, key).unwrap();
        }
        let target = cache.stats().bytes.saturating_sub(ByteSize::kib(1));
        let lost = lost_percent(&cache, || set_max_bytes(&cache, target));
        assert!(lost <= 2.0 && cache.stats().bytes <= target, "{eviction:?}: {lost:.2} % of the entries");
    }
}

fn bound_ten_percent_smaller_evicts_its_share() {
    for eviction in BOTH {
        let cache = boxes(ByteSize::mib(4), |builder| builder.eviction(eviction));
        let target = cache.stats().bytes.percent(90);
        let lost = lost_percent(&cache, || set_max_bytes(&cache, target));
        assert!(lost <= 13.0 && cache.stats().bytes <= target, "{eviction:?}: {lost:.2} % of the entries");
    }
}

fn reservation_for_load_evicts_at_most_two_percent() {
    for eviction in BOTH {
        let builder = Cache::builder("loads").max_bytes(ByteSize::mib(4)).eviction(eviction);
        let cache = reserve_per_load(builder, ByteSize::bytes(16)).build().unwrap();
        for key in 0..200_000_u64 {
            cache.insert(key, key).unwrap();
        }
        let bytes = cache.stats().bytes;
        set_max_bytes(&cache, bytes);
        let lost = lost_percent(&cache, || drop(cache.try_get_or_load(&u64::MAX, |_| Ok::<_, ()>(1))));
        assert!(lost <= 2.0, "{eviction:?}: {lost:.2} % of the entries");
        assert_eq!(cache.get(&u64::MAX), Some(1));
    }
}

type Counted = Cache<u64, Arc<Counting>>;

/// A value whose drop reads its cache: a drop under the lock would wait for itself.
struct Counting {
    cache: &'static OnceLock<Counted>,
    counts: &'static Counts,
}

struct Counts {
    inserted: AtomicUsize,
    dropped: AtomicUsize,
    most_waiting: AtomicUsize,
}

impl Drop for Counting {
    fn drop(&mut self) {
        let Counts { inserted, dropped, most_waiting } = self.counts;
        let removed = inserted.load(SeqCst) - self.cache.get().unwrap().len();
        most_waiting.fetch_max(removed - dropped.fetch_add(1, SeqCst), SeqCst);
    }
}

fn relief_drops_values_in_batches_outside_the_lock() {
    const ENTRIES: usize = 10_000;
    static CACHES: [OnceLock<Counted>; 2] = [const { OnceLock::new() }; 2];
    static COUNTS: [Counts; 2] = [const {
        Counts { inserted: AtomicUsize::new(0), dropped: AtomicUsize::new(0), most_waiting: AtomicUsize::new(0) }
    }; 2];
    for ((eviction, cache), counts) in BOTH.into_iter().zip(&CACHES).zip(&COUNTS) {
        let manual = ManualClock::new();
        let budget = MemoryBudget::new(ByteSize::mib(16));
        let weigh = |_: &u64, _: &Arc<Counting>| size_of::<Counting>() + 16;
        let built = Cache::builder("batches").max_bytes_weighed(ByteSize::mib(8), weigh).eviction(eviction);
        let filled = cache
            .get_or_init(|| built.account(budget.account("batches").unwrap()).clock(manual.clock()).build().unwrap());
        let mut neighbor = Vec::new();
        let check = |relief: &str, work: &mut dyn FnMut(&Counted)| {
            for key in 0..ENTRIES as u64 {
                if !filled.contains_key(&key) {
                    filled.insert_with_ttl(key, Arc::new(Counting { cache, counts }), TTL).unwrap();
                    counts.inserted.fetch_add(1, SeqCst);
                }
            }
            counts.most_waiting.store(0, SeqCst);
            let dropped = counts.dropped.load(SeqCst);
            work(filled);
            let most = counts.most_waiting.load(SeqCst);
            assert!(counts.dropped.load(SeqCst) > dropped + 10 * BATCH, "{relief}, {eviction:?}: few values dropped");
            assert!(most <= BATCH, "{relief}, {eviction:?}: {most} removed values waited for their drop");
        };
        check("evict to half", &mut |cache| evict_to(cache, half(cache.stats().bytes)));
        check("a bound in entries", &mut |cache| {
            set_max_entries(cache, ENTRIES / 2);
            set_max_entries(cache, usize::MAX);
        });
        check("a bound in bytes", &mut |cache| {
            set_max_bytes(cache, half(cache.stats().bytes));
            set_max_bytes(cache, ByteSize::mib(8));
        });
        check("retain", &mut |cache| cache.retain(|key, _| key % 2 == 0));
        check("expired entries", &mut |cache| {
            manual.advance(2 * TTL);
            remove_expired(cache, usize::MAX);
        });
        check("reclaim", &mut |cache| {
            neighbor.extend(reserve_beyond(&budget, half(cache.stats().bytes)));
            neighbor.clear();
        });
        filled.clear();
    }
}

/// Half of 40,000 values of 100 bytes have expired. They hold more than what is wanted.
fn check_expired_first(relief: &str, eviction: Eviction, release: impl FnOnce(&MemoryBudget, &Cache<u64, Vec<u8>>)) {
    const ENTRIES: u64 = 40_000;
    let (manual, budget) = (ManualClock::new(), MemoryBudget::new(ByteSize::mib(16)));
    let configure =
        |builder: CacheBuilder<u64, Vec<u8>>| builder.eviction(eviction).account(budget.account("timed").unwrap());
    let cache = timed(&manual, ENTRIES, |key| key < ENTRIES / 2, || vec![0; 100], configure);
    manual.advance(2 * TTL);
    release(&budget, &cache);
    let live = (ENTRIES / 2..ENTRIES).filter(|key| cache.contains_key(key)).count() as u64;
    let stats = cache.stats();
    assert_eq!(live, ENTRIES / 2, "{relief}, {eviction:?}: entries that had not expired are gone: {stats:?}");
    assert!(stats.expirations > 0, "{stats:?}");
}

fn expired_entries_are_reclaimed_first() {
    for eviction in BOTH {
        check_expired_first("reclaim", eviction, |budget, _| drop(reserve_beyond(budget, ByteSize::mib(2))));
    }
}

fn expired_entries_are_evicted_first() {
    for eviction in BOTH {
        let less = |cache: &Cache<u64, Vec<u8>>| cache.stats().bytes.percent(70);
        check_expired_first("evict to", eviction, |_, cache| evict_to(cache, less(cache)));
        check_expired_first("a bound in bytes", eviction, |_, cache| set_max_bytes(cache, less(cache)));
        check_expired_first("a bound in entries", eviction, |_, cache| set_max_entries(cache, 25_000));
    }
}

fn insert_that_budget_can_never_hold_evicts_nothing() {
    for eviction in BOTH {
        let budget = MemoryBudget::new(ByteSize::mib(64));
        let builder = Cache::builder("refused").max_bytes(ByteSize::mib(60)).eviction(eviction);
        let cache = builder.account(budget.account("refused").unwrap()).build().unwrap();
        let others = budget.account("others").unwrap().try_reserve(ByteSize::mib(40)).unwrap();
        for key in 0..20_u64 {
            cache.insert(key, vec![0_u8; 1 << 20]).unwrap();
        }
        let refused = cache.insert(99, vec![0; 30 << 20]).unwrap_err();
        assert!(matches!(refused.reason(), RejectReason::Budget(_)), "{refused}");
        assert_eq!((cache.len(), cache.stats().rejections), (20, 1), "{eviction:?}");
        drop(others);
    }
}

/// The tables of `Lru` are freed with the last entry, so it may have to evict all.
fn evict_to_reports_freed_bytes_and_evicts_its_share() {
    const ENTRIES: usize = 10_000;
    for eviction in BOTH {
        for percent in [90, 50, 30, 10, 0] {
            let cache = numbers(ENTRIES, |builder| builder.eviction(eviction));
            let before = cache.stats().bytes;
            let reported = cache.evict_to(before.percent(percent));
            let (after, entries) = (cache.stats().bytes, cache.len());
            assert_eq!(reported, before.saturating_sub(after), "to {percent} %, {eviction:?}");
            assert!(after <= before.percent(percent), "to {percent} %, {eviction:?}: {after} of {before}");
            let share = ENTRIES * percent as usize / 100;
            let is_share = eviction == Eviction::Lru || entries >= share / 2;
            assert!(is_share, "to {percent} %, {eviction:?}: {entries} of {ENTRIES} entries");
        }
    }
}

/// The tables cannot shrink enough for the entries that have not expired: a part of these goes, after all others.
fn evict_to_removes_all_expired_entries_before_others() {
    let manual = ManualClock::new();
    let cache = timed(&manual, 10_000, |key| key < 8_000, || 0_u64, |builder| builder);
    manual.advance(2 * TTL);
    cache.evict_to(cache.stats().bytes.percent(30));
    let stats = cache.stats();
    assert!(stats.expirations == 8_000 && stats.entries >= 1_500, "{stats:?}");
}

fn reclaim_of_most_bytes_keeps_its_share_of_entries() {
    for want in [300, 500, 600, 700, 800] {
        let budget = MemoryBudget::new(ByteSize::mib(1));
        let built =
            Cache::builder("numbers").max_entries(1_000_000).account(budget.account("numbers").unwrap()).build();
        let cache: Cache<u64, u64> = built.unwrap();
        (0..100_000).for_each(|key| cache.insert(key, key).unwrap());
        let left = ByteSize::mib(1).saturating_sub(ByteSize::kib(want)).as_u64();
        let (entries, bytes) = (cache.len() as u64, cache.stats().bytes.as_u64());
        let reserved = budget.account("neighbor").unwrap().try_reserve(ByteSize::kib(want)).unwrap();
        let kept = cache.len() as u64;
        assert!(kept >= entries * left / bytes / 2, "{want} KiB: {kept} of {entries} entries, {left} of {bytes} bytes");
        drop(reserved);
    }
}

/// Fills a budget of 1 MiB with a cache and a neighbor. Returns the entries lost by a load, in percent.
fn lost_by_budgeted_load<V: HeapSize + Clone + Send + 'static>(
    eviction: Eviction,
    keys: u64,
    value: impl Fn() -> V,
    loaded: V,
) -> f64 {
    let budget = MemoryBudget::new(ByteSize::mib(1));
    let builder = Cache::builder("loads").max_bytes(ByteSize::mib(1)).eviction(eviction);
    let cache =
        reserve_per_load(builder.account(budget.account("loads").unwrap()), ByteSize::bytes(16)).build().unwrap();
    (0..keys).for_each(|key| cache.insert(key, value()).unwrap());
    let neighbor = budget.account("neighbor").unwrap().try_reserve(budget.available()).unwrap();
    let lost = lost_percent(&cache, || assert!(cache.try_get_or_load(&u64::MAX, |_| Ok::<_, ()>(loaded)).is_ok()));
    drop(neighbor);
    lost
}

fn budgeted_load_of_16_bytes_evicts_at_most_one_percent() {
    for eviction in BOTH {
        let lost = lost_by_budgeted_load(eviction, 100_000, || 0_u64, 0);
        assert!(lost <= 1.0, "{eviction:?}: {lost:.2} % of the numbers");
        let lost = lost_by_budgeted_load(eviction, 150, || vec![0_u8; 5_000], Vec::new());
        assert!(lost <= 1.0, "{eviction:?}: {lost:.2} % of the large values");
    }
}

/// Of empty strings the tables hold all bytes.
fn insert_of_one_kib_evicts_at_most_two_percent() {
    for eviction in BOTH {
        let cache = Cache::builder("strings").max_bytes(ByteSize::mib(1)).eviction(eviction).build().unwrap();
        (0..100_000).for_each(|key| cache.insert(key, String::new()).unwrap());
        for key in 0..100 {
            let insert = || cache.insert(1_000_000 + key, "x".repeat(1_024)).unwrap();
            let lost = lost_percent(&cache, insert);
            assert!(lost <= 2.0, "{eviction:?}: {lost:.2} % of the entries, at insert {key}");
        }
    }
}

/// Threads have a stack of 2 MiB by default. A batch of 16 such values fills it.
fn relief_of_128_kib_inline_values_fits_in_stack_of_two_mib() {
    const STACK: usize = 2 << 20;
    const SIZE: usize = 128 << 10;
    for eviction in BOTH {
        let ended = support::in_child(|| {
            let use_cache = move || {
                let cache = Cache::builder("inline").max_entries(10).eviction(eviction).build().unwrap();
                (0..4_u64).for_each(|key| cache.insert(key, [1_u8; SIZE]).unwrap());
                assert!(cache.get(&1).is_some());
                evict_to(&cache, ByteSize::ZERO);
                assert!(cache.is_empty());
            };
            thread::Builder::new().stack_size(STACK).spawn(use_cache).unwrap().join().unwrap();
        });
        assert_eq!((ended.code, ended.signal), (Some(0), None), "{eviction:?}: {}", ended.stderr);
    }
}

/// A value that counts its drops and panics in them, without the panic hook.
struct Panicking(Arc<AtomicUsize>, bool);

impl Drop for Panicking {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
        if self.1 {
            resume_unwind(Box::new("this panic belongs to the test"));
        }
    }
}

fn batch_with_two_panics_in_drop_panics_once() {
    let reliefs: [fn(&Cache<u64, Panicking>); 3] =
        [|cache| cache.retain(|_, _| false), Cache::clear, |cache| evict_to(cache, ByteSize::ZERO)];
    for (at, relief) in reliefs.into_iter().enumerate() {
        let ended = support::in_child(|| {
            let cache = Cache::builder("panics").max_entries(10).build().unwrap();
            let drops = Arc::new(AtomicUsize::new(0));
            for key in 0..5 {
                cache.insert(key, Panicking(Arc::clone(&drops), key % 2 == 1)).unwrap();
            }
            assert!(catch_unwind(AssertUnwindSafe(|| relief(&cache))).is_err());
            assert_eq!((drops.load(SeqCst), cache.len()), (5, 0));
        });
        assert_eq!((ended.code, ended.signal), (Some(0), None), "relief {at}: {}", ended.stderr);
    }
}
