//! One loaded value, from its load to its last pin.

use std::fmt;
use std::mem::size_of;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::Guard;
use once_cell::sync::OnceCell;

use crate::budget::{Account, Reservation};
use crate::heap::HeapDelta;
use crate::size::ByteSize;

/// What a load cost.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use plimsoll::{ByteSize, LazyResource, TrackingAllocator};
///
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
/// static MODEL: LazyResource<Vec<u8>, Infallible> = LazyResource::new("model", || Ok(vec![0; 1_000_000]));
///
/// fn main() -> Result<(), plimsoll::LazyError<Infallible>> {
///     MODEL.prefetch()?;
///     let cost = MODEL.status().cost.expect("it is loaded");
///     assert!(cost.retained >= Some(ByteSize::mb(1)));
///     println!("{cost}"); // 976.7 KiB loaded in 0 ms at a peak of 976.6 KiB
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadCost {
    /// How long it took; an async one with all its waiting.
    pub duration: Duration,
    /// Heap that the value keeps: what the load left behind on its thread, and the value itself. `None` where the
    /// [`TrackingAllocator`](crate::heap::TrackingAllocator) is not installed.
    pub retained: Option<ByteSize>,
    /// The most heap that the load held at any moment.
    pub peak: Option<ByteSize>,
}

impl LoadCost {
    pub(super) fn new<T>(duration: Duration, delta: Option<HeapDelta>) -> Self {
        // The block in which the value and its counts lie is allocated after the load.
        let block = ByteSize::bytes((size_of::<Generation<T>>() + 2 * size_of::<usize>()) as u64);
        let left = |delta: HeapDelta| ByteSize::bytes(u64::try_from(delta.retained.as_i64()).unwrap_or(0));
        Self {
            duration,
            retained: delta.map(|delta| left(delta).saturating_add(block)),
            peak: delta.map(|delta| delta.peak),
        }
    }
}

impl fmt::Display for LoadCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(retained) = self.retained {
            write!(f, "{retained} ")?;
        }
        write!(f, "loaded in {} ms", self.duration.as_millis())?;
        self.peak.map_or(Ok(()), |peak| write!(f, " at a peak of {peak}"))
    }
}

/// A value and what is kept with it. The charge goes after the value: released after freeing.
pub(super) struct Generation<T> {
    value: T,
    /// The time at which its load started: no part of it is older.
    pub(super) loaded_at: u64,
    /// The time at which its load ended.
    pub(super) ended_at: u64,
    pub(super) cost: LoadCost,
    /// Whether it was shown though it was too old, as it is from then on.
    stale: AtomicBool,
    charge: OnceCell<Reservation>,
}

impl<T> Generation<T> {
    pub(super) fn new(value: T, loaded_at: u64, ended_at: u64, cost: LoadCost, charge: Option<Reservation>) -> Self {
        let charge = charge.map_or_else(OnceCell::new, OnceCell::with_value);
        Self { value, loaded_at, ended_at, cost, stale: AtomicBool::new(false), charge }
    }

    /// Returns the duration of its load by the clock of the resource, in milliseconds.
    pub(super) const fn load_millis(&self) -> u64 {
        self.ended_at.saturating_sub(self.loaded_at)
    }

    /// Enters under the account what the value keeps, unless that was done before it was loaded.
    pub(super) fn charge_to(&self, account: &Account, expected: ByteSize) {
        self.charge.get_or_init(|| account.reserve(self.cost.retained.unwrap_or(expected)));
    }

    /// What is charged for it.
    pub(super) fn charged(&self) -> ByteSize {
        self.charge.get().map_or(ByteSize::ZERO, Reservation::size)
    }
}

/// A loaded value that cannot go while this is held: [`LazyResource::get`](super::LazyResource::get) returns it.
///
/// Dereferencing costs a test and no more. Unloading and refreshing pass it by: it goes on showing the value that it
/// was made for, and the last pin of an unloaded value frees it. Keep pins for one piece of work, not for ever.
///
/// A thread holds eight pins, of all resources, at the full speed; each beyond them costs an atomic count when it is made
/// and dropped. A pin is two words, and may go to another thread.
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use plimsoll::{LazyResource, Pinned};
///
/// static WORDS: LazyResource<Vec<&str>, Infallible> = LazyResource::new("words", || Ok(vec!["lamp", "desk"]));
///
/// let words: Pinned<Vec<&str>> = WORDS.get()?;
/// assert_eq!((words.len(), words.is_stale()), (2, false));
/// # Ok::<(), plimsoll::LazyError<Infallible>>(())
/// ```
#[must_use = "a pin does nothing but keep the value from being freed"]
pub struct Pinned<T> {
    /// Never empty. Nothing is beside it: so a pin is returned in registers.
    guard: Guard<Option<Arc<Generation<T>>>>,
}

impl<T> Pinned<T> {
    /// Makes a pin of what was found in the slot; `None` if that is nothing.
    #[inline]
    pub(super) fn of_slot(guard: Guard<Option<Arc<Generation<T>>>>) -> Option<Self> {
        if guard.is_some() { Some(Self { guard }) } else { None }
    }

    pub(super) fn of(generation: Arc<Generation<T>>) -> Self {
        Self { guard: Guard::from_inner(Some(generation)) }
    }

    pub(super) fn into_stale(self) -> Self {
        self.generation().stale.store(true, Relaxed);
        self
    }

    /// Returns `true` if the value was returned, by this pin or another, after the age of
    /// [`refresh_after`](super::LazyResource::refresh_after).
    ///
    /// A refresh had failed, was in flight or was not due yet. [`failure`](super::LazyResource::failure) returns the reason
    /// of a failed one.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{cell::Cell, time::Duration};
    /// use plimsoll::{LazyResource, ManualClock};
    ///
    /// let (manual, up) = (ManualClock::new(), Cell::new(true));
    /// let prices = LazyResource::capturing("prices", || if up.get() { Ok(10) } else { Err("down") })
    ///     .refresh_after(Duration::from_secs(60))
    ///     .clock(manual.clock());
    /// assert_eq!(*prices.get()?, 10);
    /// up.set(false);
    /// manual.advance(Duration::from_secs(61));
    /// let price = prices.get()?; // the refresh fails, the old value is better than none
    /// assert!(price.is_stale());
    /// # Ok::<(), plimsoll::LazyError<&str>>(())
    /// ```
    pub fn is_stale(&self) -> bool {
        self.generation().stale.load(Relaxed)
    }

    #[inline]
    pub(super) fn generation(&self) -> &Arc<Generation<T>> {
        match &*self.guard {
            Some(generation) => generation,
            None => unreachable!("both constructors put one in"),
        }
    }
}

impl<T> Deref for Pinned<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.generation().value
    }
}

impl<T: fmt::Debug> fmt::Debug for Pinned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("value", &**self).field("stale", &self.is_stale()).finish_non_exhaustive()
    }
}
