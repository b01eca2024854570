//! The heap bytes that a value owns: the trait [`HeapSize`] and the macro [`impl_heap_size!`](crate::impl_heap_size).
//!
//! A bound on the number of entries does not bound the memory of a cache, and `size_of` misses nearly all of a `String`.
//! [`HeapSize`] follows ownership instead: it sums the capacities of a value and of all that it owns. It does not use
//! the allocator, so it works in any process.

use std::{
    borrow::Cow,
    cell::Cell,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque},
    ffi::{CStr, CString, OsStr, OsString},
    marker::PhantomData,
    mem::MaybeUninit,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use crate::size::{ByteDelta, ByteSize};

#[cfg(feature = "serde_json")]
mod json;
mod macros;

#[doc(hidden)]
pub use macros::fields;
#[doc(no_inline)]
pub use macros::impl_heap_size;

/// Returns the heap bytes that a value owns, beyond `size_of_val` of the value itself.
///
/// The number is the sum of the bytes that the value, and all that it owns, requested from the allocator: capacities, not
/// lengths. Sums saturate at `usize::MAX`. [`impl_heap_size!`](crate::impl_heap_size) implements the trait from the names
/// of the fields.
///
/// # Accuracy
///
/// | type | `heap_size()` against the truth |
/// |---|---|
/// | `String`, `OsString`, `PathBuf`, `CString`, `Vec`, `VecDeque`, `BinaryHeap`, `LinkedList`, `Box` | exact |
/// | [`Rc`], [`Arc`] | exact, with the two counters, and **charged in full at each holder** |
/// | [`HashMap`], [`HashSet`] | exact until the first removal; after removals **any part of the truth**, never more |
/// | [`BTreeMap`], [`BTreeSet`] | an estimate from the length: 0.75 to 2.2 times |
/// | [`bytes::Bytes`] | its length, **whatever the capacity of its buffer** |
/// | [`bytes::BytesMut`] | its capacity, exact until it is split or advanced |
/// | `serde_json::Value` (feature `serde_json`) | an estimate for objects: 0.91 to 1.14 times for parsed documents |
///
/// - **`HashMap` and `HashSet`**: std does not show the number of buckets. `capacity()`, which does instead, shrinks with
///   removals: a table of 1,024 buckets that was filled and emptied 30 times counts as 0 to 2 % of its bytes.
///   `shrink_to_fit()` makes the number exact again: call it after a burst, before the map goes into a cache. `clear()` of
///   an empty map does not.
/// - **`BTreeMap` and `BTreeSet`**: exact if filled in ascending or descending order. 1.1 to 1.4 times the truth if filled
///   at random, 1.6 to 2.2 times if collected from many items, and at least 0.75 times after any removals. Under a few
///   hundred entries, it may differ by a node or two.
/// - **`Bytes`**: its API does not show the capacity. A slice keeps its whole buffer alive. So does a whole `Bytes` from
///   `BytesMut::freeze()` or `Bytes::from(Vec)`, with the unused capacity: 500 bytes that were read into a buffer of 64
///   KiB count as 500. [`Bytes::copy_from_slice`](bytes::Bytes::copy_from_slice) makes a value that owns its length
///   alone. A static one counts as its length though it owns nothing. The header of a shared one (24 bytes) does not
///   count.
/// - **`BytesMut`**: `advance` and the `split` methods lower `capacity()`, while the buffer keeps its size.
/// - **`serde_json::Value`**: strings, arrays, and objects of up to 11 members are exact if they were parsed. Larger objects
///   are a [`BTreeMap`] by default, with its estimate. Of 5,112 JSON files of a developer's machine, 97 % were exact and
///   none was above 1.14 times. With the feature `preserve_order` of `serde_json` all were exact. With
///   `arbitrary_precision` a number counts as its length, and none was below 0.91 times.
///
/// If a cache must hold such values as they are, give it a weigher that knows their capacity:
/// [`max_bytes_weighed`](crate::cache::CacheBuilder::max_bytes_weighed).
///
/// # What is not counted
///
/// - What the allocator adds: rounding, headers, free pages.
/// - Memory reached through references, raw pointers and handles.
/// - The state of a map's hasher.
///
/// `RefCell`, `Mutex`, `OnceLock` and similar types have no implementation: their weight changes while a cache holds
/// them, and reading it may wait for a lock. Implement `HeapSize` for a wrapper type that knows its bound.
///
/// # Performance
///
/// A call allocates nothing. It takes constant time for a container of elements that own no heap
/// ([`owns_heap`](Self::owns_heap)), otherwise one call per element: a `Vec<u8>` of 1 GiB takes as long as an empty one.
///
/// # Examples
///
/// ```
/// use plimsoll::HeapSize;
///
/// struct Order {
///     id: u64,
///     customer: String,
///     lines: Vec<String>,
/// }
///
/// impl HeapSize for Order {
///     fn heap_size(&self) -> usize {
///         self.customer.heap_size().saturating_add(self.lines.heap_size()) // `id` owns no heap
///     }
/// }
///
/// let order = Order { id: 7, customer: String::with_capacity(100), lines: vec!["tea".into(), "rope".into()] };
/// assert_eq!(order.heap_size(), 100 + 2 * size_of::<String>() + 3 + 4);
/// # assert_eq!(order.id, 7);
/// ```
// The remedy is in the message: rustc drops the notes when it suggests to borrow.
#[diagnostic::on_unimplemented(
    message = "the heap size of `{Self}` is not known: implement `plimsoll::HeapSize` for a type of your own, as by \
               `plimsoll::impl_heap_size!`, and bound a cache of other types with \
               `max_bytes_weighed(bytes, |key, value| ..)`",
    label = "does not implement `HeapSize`"
)]
pub trait HeapSize {
    /// Returns the heap bytes that this value owns.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::HeapSize;
    ///
    /// assert_eq!(String::with_capacity(100).heap_size(), 100);
    /// assert_eq!(7_u64.heap_size(), 0);
    /// ```
    fn heap_size(&self) -> usize;

    /// Returns `true` if a value of this type can own heap.
    ///
    /// If it returns `false`, containers of this type do not call `heap_size` of their elements, which must then return
    /// zero for every value. The default is `true`, which is always correct.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::HeapSize;
    ///
    /// struct Point(f64, f64);
    ///
    /// impl HeapSize for Point {
    ///     fn heap_size(&self) -> usize {
    ///         0
    ///     }
    ///     fn owns_heap() -> bool {
    ///         false
    ///     }
    /// }
    /// assert_eq!(vec![Point(0.0, 1.0); 0].heap_size(), 0);
    /// assert!(<Vec<Point>>::owns_heap() && !<[Point; 4]>::owns_heap());
    /// # impl Clone for Point { fn clone(&self) -> Self { Self(self.0, self.1) } }
    /// ```
    #[must_use]
    fn owns_heap() -> bool
    where
        Self: Sized,
    {
        true
    }
}

/// Sums the heap that the elements own, without the block that holds them.
fn owned_by_all<'a, T: HeapSize + 'a>(items: impl IntoIterator<Item = &'a T>) -> usize {
    if T::owns_heap() { items.into_iter().fold(0, |sum, item| sum.saturating_add(item.heap_size())) } else { 0 }
}

/// Returns the bytes of a block of `capacity` elements of type `T`.
const fn block<T>(capacity: usize) -> usize {
    size_of::<T>().saturating_mul(capacity)
}

macro_rules! no_heap {
    ($($type:ty),+ $(,)?) => { $(
        impl HeapSize for $type {
            fn heap_size(&self) -> usize {
                0
            }
            fn owns_heap() -> bool {
                false
            }
        }
    )+ };
}

no_heap!((), bool, char, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64);
no_heap!(ByteSize, ByteDelta);

mod plain {
    use std::{
        any::TypeId,
        cmp, net, num, ops,
        sync::atomic,
        thread::ThreadId,
        time::{Duration, Instant, SystemTime},
    };

    use super::HeapSize;

    no_heap!(num::NonZeroU8, num::NonZeroU16, num::NonZeroU32, num::NonZeroU64, num::NonZeroU128, num::NonZeroUsize);
    no_heap!(num::NonZeroI8, num::NonZeroI16, num::NonZeroI32, num::NonZeroI64, num::NonZeroI128, num::NonZeroIsize);
    no_heap!(atomic::AtomicBool, atomic::AtomicU8, atomic::AtomicU16, atomic::AtomicU32, atomic::AtomicU64);
    no_heap!(atomic::AtomicI8, atomic::AtomicI16, atomic::AtomicI32, atomic::AtomicI64);
    no_heap!(atomic::AtomicUsize, atomic::AtomicIsize);
    no_heap!(Duration, Instant, SystemTime, ThreadId, TypeId, cmp::Ordering, ops::RangeFull);
    no_heap!(net::IpAddr, net::Ipv4Addr, net::Ipv6Addr, net::SocketAddr, net::SocketAddrV4, net::SocketAddrV6);
}

/// Implements the trait for a type by the parts it holds in place.
macro_rules! sum_of_parts {
    ($([$($bound:tt)*] $type:ty [$($part:ty),+] $self:ident => $($value:expr),+;)+) => { $(
        impl<$($bound)*> HeapSize for $type {
            fn heap_size(&$self) -> usize {
                0_usize $(.saturating_add($value))+
            }
            fn owns_heap() -> bool {
                false $(|| <$part>::owns_heap())+
            }
        }
    )+ };
}

sum_of_parts! {
    [T: HeapSize] Option<T> [T] self => self.as_ref().map_or(0, T::heap_size);
    [T: HeapSize, E: HeapSize] Result<T, E> [T, E] self => self.as_ref().map_or_else(E::heap_size, T::heap_size);
    [T: HeapSize, const N: usize] [T; N] [T] self => self.as_slice().heap_size();
    [T: HeapSize + Copy] Cell<T> [T] self => self.get().heap_size();
    [T: HeapSize] std::cmp::Reverse<T> [T] self => self.0.heap_size();
    [T: HeapSize] std::num::Wrapping<T> [T] self => self.0.heap_size();
    [T: HeapSize] std::num::Saturating<T> [T] self => self.0.heap_size();
    [T: HeapSize] std::ops::Range<T> [T] self => self.start.heap_size(), self.end.heap_size();
    [T: HeapSize] std::ops::RangeInclusive<T> [T] self => self.start().heap_size(), self.end().heap_size();
    [T: HeapSize] std::ops::RangeFrom<T> [T] self => self.start.heap_size();
    [T: HeapSize] std::ops::RangeTo<T> [T] self => self.end.heap_size();
}

macro_rules! tuples {
    ($($name:ident $at:tt),+) => {
        sum_of_parts! { [$($name: HeapSize),+] ($($name,)+) [$($name),+] self => $(self.$at.heap_size()),+; }
    };
}

tuples!(A 0);
tuples!(A 0, B 1);
tuples!(A 0, B 1, C 2);
tuples!(A 0, B 1, C 2, D 3);
tuples!(A 0, B 1, C 2, D 3, E 4);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);

impl<T: ?Sized> HeapSize for PhantomData<T> {
    fn heap_size(&self) -> usize {
        0
    }
    fn owns_heap() -> bool {
        false
    }
}

impl<T: ?Sized> HeapSize for &T {
    /// Returns zero: the owner of the borrowed value is charged.
    fn heap_size(&self) -> usize {
        0
    }
    fn owns_heap() -> bool {
        false
    }
}

impl<T: ?Sized> HeapSize for &mut T {
    /// Returns zero: the owner of the borrowed value is charged.
    fn heap_size(&self) -> usize {
        0
    }
    fn owns_heap() -> bool {
        false
    }
}

impl<T: HeapSize> HeapSize for [T] {
    fn heap_size(&self) -> usize {
        owned_by_all(self)
    }
}

/// Unsized texts, which are in the block of a `Box`, `Rc` or `Arc` that counts them.
macro_rules! borrowed_text {
    ($($type:ty),+) => { $(
        impl HeapSize for $type {
            fn heap_size(&self) -> usize {
                0
            }
        }
    )+ };
}

borrowed_text!(str, OsStr, CStr, Path);

macro_rules! owned_text {
    ($($type:ty: $self:ident => $bytes:expr;)+) => { $(
        impl HeapSize for $type {
            fn heap_size(&$self) -> usize {
                $bytes
            }
        }
    )+ };
}

owned_text! {
    String: self => self.capacity();
    OsString: self => self.capacity();
    PathBuf: self => self.capacity();
    CString: self => self.as_bytes_with_nul().len();
    bytes::Bytes: self => self.len();
    bytes::BytesMut: self => self.capacity();
}

impl<B: ToOwned<Owned: HeapSize> + ?Sized> HeapSize for Cow<'_, B> {
    fn heap_size(&self) -> usize {
        match self {
            Cow::Borrowed(_) => 0,
            Cow::Owned(owned) => owned.heap_size(),
        }
    }
    fn owns_heap() -> bool {
        B::Owned::owns_heap()
    }
}

impl<T: HeapSize + ?Sized> HeapSize for Box<T> {
    fn heap_size(&self) -> usize {
        size_of_val::<T>(self).saturating_add(T::heap_size(self))
    }
}

/// Returns the bytes of the block of an `Rc` or `Arc`: two counters, then the value, aligned for both.
fn counted_block<T: ?Sized>(value: &T) -> usize {
    let align = align_of_val(value).max(align_of::<usize>());
    let counters = block::<usize>(2).next_multiple_of(align);
    // A value in memory is below isize::MAX bytes, so neither step can overflow.
    counters.saturating_add(size_of_val(value)).next_multiple_of(align)
}

impl<T: HeapSize + ?Sized> HeapSize for Rc<T> {
    /// Returns the bytes of the shared block and of all that it owns, **at each holder**.
    fn heap_size(&self) -> usize {
        counted_block::<T>(self).saturating_add(T::heap_size(self))
    }
}

impl<T: HeapSize + ?Sized> HeapSize for Arc<T> {
    /// Returns the bytes of the shared block and of all that it owns, **at each holder**.
    fn heap_size(&self) -> usize {
        counted_block::<T>(self).saturating_add(T::heap_size(self))
    }
}

macro_rules! one_block {
    ($($type:ident: $($bound:ident)?;)+) => { $(
        impl<T: HeapSize $(+ $bound)?> HeapSize for $type<T> {
            fn heap_size(&self) -> usize {
                block::<T>(self.capacity()).saturating_add(owned_by_all(self))
            }
        }
    )+ };
}

one_block! {
    Vec:;
    VecDeque:;
    BinaryHeap: Ord;
}

impl<T: HeapSize> HeapSize for LinkedList<T> {
    fn heap_size(&self) -> usize {
        /// Has the fields of std's node, and so its size.
        type Node<T> = (*const (), *const (), T);

        block::<Node<T>>(self.len()).saturating_add(owned_by_all(self))
    }
}

impl<K: HeapSize, V: HeapSize, S> HeapSize for HashMap<K, V, S> {
    fn heap_size(&self) -> usize {
        let table = hash_table::<(K, V)>(self.capacity());
        table.saturating_add(owned_by_all(self.keys())).saturating_add(owned_by_all(self.values()))
    }
}

impl<T: HeapSize, S> HeapSize for HashSet<T, S> {
    fn heap_size(&self) -> usize {
        hash_table::<(T, ())>(self.capacity()).saturating_add(owned_by_all(self))
    }
}

/// Control bytes that hashbrown, which is std's table too, compares at a time. As many follow those of the last bucket.
pub(crate) const GROUP: usize = if cfg!(all(target_feature = "sse2", not(miri))) { 16 } else { size_of::<usize>() };

/// Returns the buckets of std's hash table with a capacity of `capacity` entries, at most 7/8 full.
fn buckets(capacity: usize) -> usize {
    match capacity {
        0 => 0,
        1..=3 => 4,
        4..=7 => 8,
        // A capacity is 7/8 of a power of two.
        8.. => (capacity.saturating_mul(8) / 7).checked_next_power_of_two().unwrap_or(usize::MAX),
    }
}

/// Returns the bytes of the block of std's hash table: the buckets, a control byte for each, and a group more.
fn hash_table<T>(capacity: usize) -> usize {
    let buckets = buckets(capacity);
    if buckets == 0 {
        return 0;
    }
    let align = align_of::<T>().max(GROUP);
    let entries = block::<T>(buckets).checked_next_multiple_of(align).unwrap_or(usize::MAX);
    entries.saturating_add(buckets).saturating_add(GROUP)
}

impl<K: HeapSize, V: HeapSize> HeapSize for BTreeMap<K, V> {
    fn heap_size(&self) -> usize {
        let nodes = b_tree::<K, V>(self.len());
        nodes.saturating_add(owned_by_all(self.keys())).saturating_add(owned_by_all(self.values()))
    }
}

impl<T: HeapSize> HeapSize for BTreeSet<T> {
    fn heap_size(&self) -> usize {
        b_tree::<T, ()>(self.len()).saturating_add(owned_by_all(self))
    }
}

/// Keys that a node of std's B-tree can hold.
const NODE_KEYS: usize = 11;

/// Returns the bytes of the nodes of std's B-tree of `len` entries that were inserted in ascending order.
///
/// Full nodes split 6 : 1 : 5, so that all but the last of a level keep 6 keys. Descending order mirrors this.
fn b_tree<K, V>(len: usize) -> usize {
    /// Has the fields of std's leaf, and so its size. An inner node adds an edge per key, and one.
    type Leaf<K, V> = (*const (), [MaybeUninit<K>; NODE_KEYS], [MaybeUninit<V>; NODE_KEYS], u16, u16);
    type Inner<K, V> = (Leaf<K, V>, [*const (); NODE_KEYS + 1]);

    if len == 0 {
        return 0;
    }
    let leaves = 1 + len.saturating_sub(NODE_KEYS).div_ceil(7);
    let (mut inner, mut level) = (0, leaves);
    while level > 1 {
        level = 1 + level.saturating_sub(NODE_KEYS + 1).div_ceil(7);
        inner += level;
    }
    block::<Leaf<K, V>>(leaves).saturating_add(block::<Inner<K, V>>(inner))
}
