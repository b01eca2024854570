//! What a piece of work allocates: exact sums of the thread that runs it, followed across polls for a future.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::pin;
use std::task::Poll;

use crate::size::{ByteDelta, ByteSize};

use super::slot::Slot;
use super::thread::{self, LEDGER};

/// What one scope did to the heap, in bytes asked of the allocator.
///
/// Prints as `allocated 4.2 MiB, freed 4.1 MiB, retained +96.0 KiB, peak 1.5 MiB`.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, TrackingAllocator, heap};
///
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
///
/// fn main() {
///     let (_kept, delta) = heap::scope(|| vec![0_u8; 4096]);
///     let delta = delta.expect("the allocator is installed");
///     assert_eq!((delta.allocated, delta.freed), (ByteSize::kib(4), ByteSize::ZERO));
///     assert_eq!(delta.to_string(), "allocated 4.0 KiB, freed 0 B, retained +4.0 KiB, peak 4.0 KiB");
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeapDelta {
    /// Bytes the scope allocated, whether or not it freed them again. A `realloc` counts its growth.
    pub allocated: ByteSize,
    /// Bytes the scope freed, its own or others'. A `realloc` counts what it gave up.
    pub freed: ByteSize,
    /// `allocated - freed`: what the scope left behind, or below zero what it cleared away.
    pub retained: ByteDelta,
    /// The most the scope held at any moment, above what was held when it began.
    pub peak: ByteSize,
}

impl HeapDelta {
    /// This delta followed by `next`.
    pub(crate) fn then(self, next: Self) -> Self {
        let retained = self.retained.as_i64();
        let peak_of_next = retained.saturating_add_unsigned(next.peak.as_u64());
        Self {
            allocated: self.allocated.saturating_add(next.allocated),
            freed: self.freed.saturating_add(next.freed),
            retained: ByteDelta::bytes(retained.saturating_add(next.retained.as_i64())),
            peak: self.peak.max(ByteSize::bytes(u64::try_from(peak_of_next).unwrap_or(0))),
        }
    }
}

impl fmt::Display for HeapDelta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allocated, freed, retained, peak } = self;
        write!(f, "allocated {allocated}, freed {freed}, retained {retained}, peak {peak}")
    }
}

/// Runs `work` and tells what it allocated and freed on this thread, exactly.
///
/// `None` beside the result means there is nothing to tell: the [`TrackingAllocator`](super::TrackingAllocator) is not
/// installed, 128 other threads that allocate are alive and this one found no slot, or the thread is already running its
/// thread-local destructors. Scopes nest. Where `work` panics the panic goes on and the outer scope stays right.
///
/// *Not* counted: what `work` has other threads allocate; for futures that move between threads see [`scope_async`]. A
/// small request that the inner allocator fails stays in the peak, though in no sum.
///
/// # Cost
///
/// Some ten loads and stores; no allocation.
///
/// # Examples
///
/// ```
/// use plimsoll::{TrackingAllocator, heap};
///
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
///
/// fn main() {
///     let (kept, delta) = heap::scope(|| {
///         let scratch = vec![0u8; 5000];
///         vec![scratch.len() as u8; 1000]
///     });
///     let delta = delta.expect("the allocator is installed above");
///     assert_eq!(delta.allocated.as_u64(), 6000);
///     assert_eq!(delta.retained.as_i64(), 1000);
///     assert_eq!(delta.peak.as_u64(), 6000);
///     drop(kept);
/// }
/// ```
pub fn scope<T>(work: impl FnOnce() -> T) -> (T, Option<HeapDelta>) {
    let scope = slot().map(Open::new);
    let result = work();
    (result, scope.map(|scope| scope.delta()))
}

/// The slot of this thread, bound now if need be; `None` without the allocator, too.
#[inline]
pub(super) fn slot() -> Option<&'static Slot> {
    // Only a thread of a program with the allocator has one already.
    thread::own().or_else(|| super::is_installed().then(thread::bound).flatten())
}

/// Runs the future and tells what all its polls together allocated and freed, following the task across threads.
///
/// The peak is that of the task: what its earlier polls retained counts in. `None` when any poll could not be told, for
/// the reasons given at [`scope`]. *Not* counted: tasks and threads that the future spawns, and blocks freed on its
/// behalf elsewhere.
///
/// # Cost
///
/// That of [`scope`] for each poll; no allocation.
///
/// # Examples
///
/// ```
/// # use plimsoll::{TrackingAllocator, heap};
/// # #[global_allocator]
/// # static GLOBAL: TrackingAllocator = TrackingAllocator::new();
/// # fn main() {
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (text, delta) = heap::scope_async(async {
///     let text = String::from("kept over the await");
///     std::future::ready(()).await;
///     text
/// })
/// .await;
/// assert_eq!(delta.map(|d| d.retained.as_i64()), Some(text.capacity() as i64));
/// # })
/// # }
/// ```
pub async fn scope_async<F: Future>(future: F) -> (F::Output, Option<HeapDelta>) {
    let mut future = pin!(Some(future));
    let mut total = Some(HeapDelta::default());
    std::future::poll_fn(move |context| {
        let (polled, delta) = scope(|| {
            let polled = future.as_mut().as_pin_mut().map_or(Poll::Pending, |future| future.poll(context));
            if polled.is_ready() {
                // What the future itself still holds is freed within the scope.
                future.set(None);
            }
            polled
        });
        total = total.zip(delta).map(|(total, delta)| total.then(delta));
        polled.map(|output| (output, total))
    })
    .await
}

/// Runs `work` and panics if at any moment it held more than `limit` above where it began, on this thread. For tests.
///
/// ```should_panic
/// # use plimsoll::{ByteSize, TrackingAllocator, heap};
/// # #[global_allocator]
/// # static GLOBAL: TrackingAllocator = TrackingAllocator::new();
/// # fn main() {
/// heap::assert_peak(ByteSize::kib(64), || std::fs::read("/proc/self/exe"));
/// # }
/// ```
///
/// # Panics
///
/// When the peak is over `limit`, and when it cannot be told ([`scope`] says when). What other threads do for `work` is
/// not seen.
#[track_caller]
pub fn assert_peak<T>(limit: ByteSize, work: impl FnOnce() -> T) -> T {
    let caller = Location::caller();
    let (result, delta) = scope(work);
    match delta {
        Some(delta) => assert!(delta.peak <= limit, "{caller}: heap peak over {limit}: {delta}"),
        None => no_books(caller),
    }
    result
}

#[expect(clippy::panic, reason = "an assertion for tests that cannot measure must fail")]
fn no_books(caller: &Location<'_>) -> ! {
    panic!("{caller}: heap peak unknown: {}, or this thread has no slot", super::NotInstalled)
}

thread_local! {
    /// The number of open scopes of this thread.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// An open scope on one slot. Dropped in a panic, it leaves the outer scope as if this one had not measured.
pub(super) struct Open<'a> {
    slot: &'a Slot,
    net: isize,
    allocated: u64,
    /// The highest `net` the outer scope had seen.
    outer_top: isize,
    /// The number of open scopes of the thread, this one included.
    depth: u32,
}

impl<'a> Open<'a> {
    #[inline]
    pub(super) fn new(slot: &'a Slot) -> Self {
        LEDGER.close(slot);
        let depth = DEPTH.get() + 1;
        DEPTH.set(depth);
        let open = Self { slot, net: slot.net(), allocated: slot.allocated(), outer_top: slot.top(), depth };
        slot.set_top(open.net);
        open
    }

    /// Returns what was measured so far and begins again; `None`, without effect, if another scope is open within.
    #[cfg(feature = "http")]
    pub(super) fn restart(&mut self) -> Option<HeapDelta> {
        if DEPTH.get() != self.depth {
            return None;
        }
        LEDGER.close(self.slot);
        let delta = self.delta();
        self.outer_top = self.outer_top.max(self.slot.top());
        (self.net, self.allocated) = (self.slot.net(), self.slot.allocated());
        self.slot.set_top(self.net);
        Some(delta)
    }

    #[inline]
    pub(super) fn delta(&self) -> HeapDelta {
        let allocated = self.slot.allocated().wrapping_sub(self.allocated);
        let retained = self.slot.net().wrapping_sub(self.net) as i64;
        let peak = self.slot.top().wrapping_sub(self.net);
        HeapDelta {
            allocated: ByteSize::bytes(allocated),
            freed: ByteSize::bytes(allocated.wrapping_sub(retained.cast_unsigned())),
            retained: ByteDelta::bytes(retained),
            peak: ByteSize::bytes(peak.max(0).cast_unsigned() as u64),
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        DEPTH.set(self.depth - 1);
        self.slot.set_top(self.outer_top.max(self.slot.top()));
    }
}
