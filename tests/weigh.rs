//! What a value says it owns, against what the allocator saw it take.
#![expect(unsafe_code, clippy::expect_used, reason = "the witness is an allocator, and a test may panic")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    borrow::Cow,
    cell::Cell,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque},
    ffi::{CString, OsString},
    num::NonZeroU32,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use plimsoll::{ByteSize, Cache, HeapSize};
use proptest::prelude::*;

#[path = "weigh/by_macro.rs"]
mod by_macro;
#[cfg(feature = "serde_json")]
#[path = "weigh/json.rs"]
mod json;

thread_local! {
    /// Bytes that this thread asked for less those it gave back. Of its own thread, so that libtest's do not show.
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

struct Witness;

fn book(bytes: usize, sign: isize) {
    LIVE.with(|live| live.set(live.get() + sign * isize::try_from(bytes).unwrap_or(0)));
}

// SAFETY: every call is handed on to `System` unchanged.
unsafe impl GlobalAlloc for Witness {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        book(layout.size(), 1);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        book(layout.size(), -1);
        // SAFETY: `at` came from `System` with this layout, as the caller promises of this allocator.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static WITNESS: Witness = Witness;

/// Makes a value and tells what it holds: as seen by the allocator, and as told by itself.
fn held<T: HeapSize>(make: impl FnOnce() -> T) -> (usize, usize) {
    let before = LIVE.get();
    let value = make();
    let seen = LIVE.get().wrapping_sub(before).cast_unsigned();
    (seen, value.heap_size())
}

#[track_caller]
fn exact<T: HeapSize>(make: impl FnOnce() -> T) {
    let (seen, told) = held(make);
    assert_eq!(told, seen, "{}", std::any::type_name::<T>());
}

/// From 1 B to 1 MiB.
const SIZES: [usize; 12] = [0, 1, 2, 7, 8, 31, 100, 1_000, 4_096, 65_535, 100_000, 1 << 20];

#[test]
fn the_witness_sees_every_byte() {
    let (seen, told) = held(|| vec![0_u8; 1_000]);
    assert_eq!((seen, told), (1_000, 1_000));
    let (seen, told) = held(|| Vec::<u8>::with_capacity(5));
    assert_eq!((seen, told), (5, 5), "capacity counts, not length");
}

#[test]
fn texts_are_exact() {
    for n in SIZES {
        exact(|| "x".repeat(n));
        exact(|| {
            let mut grown = String::new();
            (0..n).for_each(|_| grown.push('x'));
            grown
        });
        exact(|| "x".repeat(n).into_boxed_str());
        exact(|| Rc::<str>::from("x".repeat(n)));
        exact(|| Arc::<str>::from("x".repeat(n)));
        exact(|| Arc::new("x".repeat(n)));
        exact(|| OsString::from("x".repeat(n)));
        exact(|| PathBuf::from("x".repeat(n)));
        exact(|| Path::new(&"x".repeat(n)).to_path_buf().into_boxed_path());
        exact(|| CString::new("x".repeat(n)).expect("no zero inside"));
        exact(|| CString::new("x".repeat(n)).expect("no zero inside").into_boxed_c_str());
        exact(|| Cow::<str>::Owned("x".repeat(n)));
    }
    exact(|| Cow::Borrowed("not owned"));
    exact(|| "not owned");
}

#[test]
fn sequences_are_exact_in_constant_time_or_by_element() {
    for n in SIZES {
        exact(|| vec![0_u8; n]);
        exact(|| vec![0_u64; n / 8]);
        exact(|| vec![(); n]);
        exact(|| vec![(0_u8, 0_u32, NonZeroU32::MIN); n / 8].into_boxed_slice());
        exact(|| Arc::<[u16]>::from(vec![0; n / 2]));
        exact(|| Rc::<[u16]>::from(vec![0; n / 2]));
        exact(|| (0..n / 4).collect::<VecDeque<_>>());
        exact(|| (0..n / 4).collect::<BinaryHeap<_>>());
        exact(|| (0..n / 100).collect::<LinkedList<_>>());
        exact(|| (0..n / 100).map(|i| i.to_string()).collect::<Vec<_>>());
        exact(|| (0..n / 100).map(|i| Some(vec![i; i % 5])).collect::<VecDeque<_>>());
        exact(|| (0..n / 100).map(|i| i.to_string()).collect::<BinaryHeap<_>>());
        exact(|| (0..n / 100).map(|i| i.to_string()).collect::<LinkedList<_>>());
        exact(|| (0..n / 100).map(|i| Arc::<str>::from(i.to_string())).collect::<Box<[_]>>());
        exact(|| Bytes::from(vec![0_u8; n]));
        exact(|| Bytes::copy_from_slice(&vec![0_u8; n]));
        exact(|| BytesMut::with_capacity(n));
    }
}

#[test]
fn a_deep_value_is_the_sum_of_its_parts() {
    exact(|| Some(Box::new((String::from("a"), [vec![1_u8], vec![2; 9]], Ok::<_, String>(Box::new(3_u64))))));
    exact(|| Err::<u8, _>(Box::<str>::from("why")));
    exact(|| vec![vec![vec![String::from("deep"); 3]; 4]; 5]);
    exact(|| (1, 2.0, 'c', String::from("d"), (), true, [0; 9], vec![1], 9_i128, Duration::ZERO, "k", Box::new(12)));
    exact(|| Box::new(Box::new(Box::new(()))));
    exact(|| Rc::new(Box::new(Cell::new(7))));
    exact(|| String::from("from")..String::from("to"));
    exact(|| std::cmp::Reverse(String::from("x")));
}

#[test]
fn counted_blocks_are_exact_for_every_alignment() {
    #[repr(align(64))]
    struct Wide;
    impl HeapSize for Wide {
        fn heap_size(&self) -> usize {
            0
        }
    }
    exact(|| Arc::new(1_u8));
    exact(|| Rc::new(1_u128));
    exact(|| Arc::new(Wide));
    exact(|| Arc::<[Wide]>::from(vec![Wide, Wide]));
    exact(|| Rc::new(()));
}

#[test]
fn an_arc_is_charged_in_full_at_each_holder() {
    let shared: Arc<str> = Arc::from("twelve bytes");
    let holders = vec![Arc::clone(&shared), Arc::clone(&shared)];
    assert_eq!(shared.heap_size(), 16 + 12 + 4);
    assert_eq!(holders.heap_size(), 2 * 16 + 2 * shared.heap_size());
}

#[test]
fn trait_objects_tell_what_they_own() {
    exact(|| -> Box<dyn HeapSize> { Box::new(String::from("behind a vtable")) });
    exact(|| -> Vec<Arc<dyn HeapSize>> { vec![Arc::new(vec![1_u16, 2]), Arc::new(0_u128)] });
}

#[test]
fn elements_without_heap_are_not_visited() {
    #[derive(Clone)]
    struct Untouchable;
    impl HeapSize for Untouchable {
        fn heap_size(&self) -> usize {
            panic!("visited")
        }
        fn owns_heap() -> bool {
            false
        }
    }
    let elements = vec![[(Untouchable, Some(1_u8)), (Untouchable, None)]; 1_000];
    assert_eq!(elements.heap_size(), size_of_val(elements.as_slice()));
    assert!(!<Result<[u8; 3], (u8, &String)>>::owns_heap() && <Result<[u8; 3], (u8, String)>>::owns_heap());
}

/// An entry wider than a group of control bytes.
#[derive(PartialEq, Eq, Hash)]
#[repr(align(32))]
struct Aligned(u32);

impl HeapSize for Aligned {
    fn heap_size(&self) -> usize {
        0
    }
    fn owns_heap() -> bool {
        false
    }
}

#[test]
fn fresh_hash_tables_are_exact() {
    for n in (0..300_usize).chain([448, 449, 1_000, 3_584, 3_585, 10_000, 65_536]) {
        exact(|| (0..n).collect::<HashSet<_>>());
        exact(|| HashMap::<u64, [u8; 24]>::with_capacity(n));
        exact(|| HashSet::<u8>::with_capacity(n));
        exact(|| HashMap::<u8, u16>::with_capacity(n));
        exact(|| HashSet::<u16>::with_capacity(n));
        exact(|| HashSet::<()>::with_capacity(n));
        exact(|| HashSet::<Aligned>::with_capacity(n));
        exact(|| {
            let mut grown = HashMap::new();
            (0..n).for_each(|i| drop(grown.insert(i.to_string(), vec![0_u8; i % 7])));
            grown
        });
    }
}

/// `told / seen` of trees of many sizes: the lowest and the highest.
fn ratios<T: HeapSize>(make: impl Fn(u32) -> T) -> (f64, f64) {
    let ratio = |n| {
        let (seen, told) = held(|| make(n));
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let ratio = told as f64 / seen as f64;
        ratio
    };
    // Small trees are lumpy: one node more or less is a third of them.
    (3..20).map(|i| ratio(i * 97)).fold((f64::MAX, 0.0), |(low, high), r| (low.min(r), high.max(r)))
}

/// Distinct numbers in no order.
fn shuffled(n: u32) -> impl Iterator<Item = u32> {
    (0..n).map(|i| i.wrapping_mul(2_654_435_761))
}

#[test]
fn trees_filled_in_order_or_against_it_are_exact() {
    for n in (0..400).chain([1_000, 5_000, 20_000]) {
        exact(|| {
            let mut tree = BTreeMap::new();
            (0..n).for_each(|i| drop(tree.insert(i, i.to_string())));
            tree
        });
        exact(|| {
            let mut tree = BTreeSet::new();
            (0..n).rev().for_each(|i| assert!(tree.insert((i, 0_u8))));
            tree
        });
    }
}

#[test]
fn other_trees_are_within_the_documented_figures() {
    fn check<V: HeapSize + Copy>(value: V) {
        let filled = |n| {
            let mut tree = BTreeMap::new();
            shuffled(n).for_each(|i| assert!(tree.insert(i, value).is_none()));
            tree
        };
        let (low, high) = ratios(filled);
        assert!(low >= 1.1 && high <= 1.4, "at random: {low} {high}");

        let (low, high) = ratios(|n| (0..n).map(|i| (i, value)).collect::<BTreeMap<_, _>>());
        assert!(low >= 1.6 && high <= 2.2, "collected: {low} {high}");

        let (low, high) = ratios(|n| {
            let (mut tree, gone) = (filled(8 * n), shuffled(8 * n).skip(n as usize).collect::<HashSet<_>>());
            tree.retain(|i, _| !gone.contains(i));
            tree
        });
        assert!(low >= 0.75 && high <= 1.4, "after removals: {low} {high}");
    }
    check(());
    check(0_u64);
    check([0_u64; 32]);
}

#[test]
fn hash_map_after_random_removals_is_never_above_truth() {
    for seed in 0..200_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let (seen, told) = held(|| {
            let mut map = HashMap::new();
            let keys = 1 + random() % 2_000;
            for _ in 0..4_000 {
                match random() % 3 {
                    0 => drop(map.remove(&(random() % keys))),
                    _ => drop(map.insert(random() % keys, 0_u32)),
                }
            }
            map
        });
        assert!(told <= seen, "{told} of {seen}, seed {seed}");
    }
}

/// Fills the table to its capacity and removes every entry, `bursts` times.
fn drained(capacity: usize, bursts: u32) -> HashMap<u64, u64> {
    let mut map = HashMap::with_capacity(capacity);
    let mut key = 0_u64;
    for _ in 0..bursts {
        while map.len() < map.capacity() {
            key += 1;
            map.insert(key.wrapping_mul(0x9e37_79b9_7f4a_7c15), key);
        }
        for key in map.keys().copied().collect::<Vec<_>>() {
            map.remove(&key);
        }
    }
    map
}

#[test]
fn hash_map_after_bursts_counts_as_a_small_part() {
    // The hasher is random, and so is the number of buckets that removals leave unusable.
    let (seen, told) = held(|| drained(896, 30));
    assert!(told * 20 <= seen, "{told} of {seen}");
}

#[test]
fn hash_map_after_shrink_to_fit_is_exact() {
    for bursts in [1, 10] {
        for kept in [0, 1, 2, 3, 5, 8, 14, 15, 100, 448, 449, 600, 896] {
            exact(|| {
                let mut map = drained(896, bursts);
                map.extend((0..kept).map(|i| (i, i)));
                map.shrink_to_fit();
                map
            });
        }
    }
}

#[test]
fn hash_set_of_small_entries_after_shrink_to_fit_is_exact() {
    fn check<T: HeapSize + Eq + std::hash::Hash>(entry: impl Fn(u8) -> T) {
        for (filled, kept) in (1..=28).flat_map(|filled| (0..=filled).map(move |kept| (filled, kept))) {
            exact(|| {
                let mut set: HashSet<_> = (0..filled).map(&entry).collect();
                (kept..filled).for_each(|i| assert!(set.remove(&entry(i))));
                set.shrink_to_fit();
                set
            });
        }
    }
    check(|i| i);
    check(u16::from);
    check(|i| [i; 3]);
    check(u32::from);
}

proptest! {
    #[test]
    fn any_nest_of_collections_is_exact(
        nest in prop::collection::vec(
            prop::option::of(prop::collection::vec(("\\PC{0,20}", any::<[u16; 3]>(), any::<bool>()), 0..20)),
            0..20,
        ),
    ) {
        let (seen, told) = held(|| nest.clone());
        prop_assert_eq!(told, seen);
        let (seen, told) = held(|| nest.iter().flatten().map(|row| Rc::new(row.clone())).collect::<VecDeque<_>>());
        prop_assert_eq!(told, seen);
        let (seen, told) = held(|| nest.iter().flatten().flatten().cloned().collect::<HashSet<_>>());
        prop_assert_eq!(told, seen);
    }
}

#[test]
fn a_slice_of_bytes_shows_its_own_length_alone() {
    let whole = Bytes::from(vec![0_u8; 10_000]);
    assert_eq!(whole.slice(..10).heap_size(), 10);
    assert_eq!(Bytes::from_static(b"static").heap_size(), 6);
}

/// Reads 500 bytes into a buffer of 64 KiB.
fn read_body() -> BytesMut {
    let mut buffer = BytesMut::with_capacity(64 << 10);
    buffer.extend_from_slice(&[1; 500]);
    buffer
}

/// Inserts `bodies` into a cache of at most 1 MiB. Returns the bytes that the allocator then holds beyond the empty cache.
fn cached(bodies: u32, body: impl Fn() -> Bytes) -> usize {
    let cache = Cache::builder("bodies").max_bytes(ByteSize::mib(1)).build().expect("a bound is set");
    let before = LIVE.get();
    for key in 0..bodies {
        cache.insert(key, body()).expect("a body is below the bound");
    }
    LIVE.get().wrapping_sub(before).cast_unsigned()
}

#[test]
fn cache_of_copied_bytes_holds_at_most_its_bound() {
    for bodies in [1_000, 5_000] {
        let seen = cached(bodies, || Bytes::copy_from_slice(&read_body()));
        assert!((500_000..=1 << 20).contains(&seen), "{seen}");
    }
}

#[test]
fn cache_of_frozen_bytes_exceeds_its_bound_as_documented() {
    let seen = cached(1_000, || read_body().freeze());
    assert!(seen > 62 << 20, "{seen}");
}

#[test]
fn bytes_of_a_larger_buffer_count_as_their_length() {
    let (seen, told) = held(|| read_body().freeze());
    assert!(told == 500 && seen >= 64 << 10, "{told} of {seen}");
    let (seen, told) = held(|| {
        let mut buffer = Vec::with_capacity(1 << 20);
        buffer.push(1);
        Bytes::from(buffer)
    });
    assert!(told == 1 && seen >= 1 << 20, "{told} of {seen}");
}

#[test]
fn bytes_mut_after_advance_counts_the_rest_of_its_capacity() {
    let (seen, told) = held(|| {
        let mut buffer = BytesMut::zeroed(4_096);
        buffer.advance(3_990);
        buffer
    });
    assert!(told == 106 && seen >= 4_096, "{told} of {seen}");
}

struct Endless;

impl HeapSize for Endless {
    fn heap_size(&self) -> usize {
        usize::MAX
    }
}

#[test]
fn sums_saturate() {
    assert_eq!(vec![Endless, Endless].heap_size(), usize::MAX);
    assert_eq!((Endless, String::from("more")).heap_size(), usize::MAX);
    assert_eq!(Arc::new([Endless, Endless]).heap_size(), usize::MAX);
    assert_eq!(HashMap::from([(1, (0, Endless)), (2, (0, Endless))]).heap_size(), usize::MAX);
}
