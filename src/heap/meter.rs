//! What one task does to the heap: its polls on any thread, its wrapped threads, and the bytes that it receives.
//!
//! ```text
//!   net  =  allocated + received  -  freed - handed over          at least 0 when a segment begins
//!   peak =  highest net at any moment of a segment                a segment: a poll, a call, a drop
//! ```
//!
//! A segment is measured with the counters of its thread. The bytes of a frame that comes in count as received if the
//! segment did not allocate them, because it is the segment that frees them; those of a frame that goes out count as handed
//! over, because others free them.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::size::{ByteDelta, ByteSize};

use super::scope::Open;
use super::thread;

/// The sums of one task.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    allocated: AtomicU64,
    net: AtomicI64,
    peak: AtomicU64,
    /// A segment ran on a thread without a slot, so the sums miss it.
    is_incomplete: AtomicBool,
}

/// The sums of a [`Meter`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MeterReading {
    pub(crate) allocated: ByteSize,
    pub(crate) net: ByteDelta,
    pub(crate) peak: ByteSize,
}

/// A segment that runs on this thread.
struct Segment {
    meter: Arc<Meter>,
    /// `None` on a thread without a slot.
    open: Option<Open<'static>>,
}

thread_local! {
    /// The innermost segment of this thread.
    static CURRENT: Cell<Option<Segment>> = const { Cell::new(None) };
}

/// Ends the segment when it is dropped, also by a panic.
struct Running {
    outer: Option<Segment>,
    not_send: PhantomData<*const ()>,
}

impl Meter {
    /// Runs `work` as a segment. Segments nest: the bytes of an inner one count for both.
    pub(crate) fn run<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        let _running = Running::enter(self);
        work()
    }

    /// Returns the meter of the innermost segment of this thread.
    pub(crate) fn current() -> Option<Arc<Self>> {
        let segment = CURRENT.try_with(Cell::take).ok()??;
        let meter = Arc::clone(&segment.meter);
        set_current(Some(segment));
        Some(meter)
    }

    /// Returns the bytes held now.
    #[cfg(feature = "tower")]
    pub(crate) fn held(&self) -> ByteSize {
        ByteSize::bytes(at_least_zero(self.net.load(Relaxed)))
    }

    /// Returns the most that was held.
    pub(crate) fn peak(&self) -> ByteSize {
        ByteSize::bytes(self.peak.load(Relaxed))
    }

    /// Returns the sums; `None` if they miss a part.
    pub(crate) fn read(&self) -> Option<MeterReading> {
        (!self.is_incomplete.load(Relaxed)).then(|| MeterReading {
            allocated: ByteSize::bytes(self.allocated.load(Relaxed)),
            net: ByteDelta::bytes(self.net.load(Relaxed)),
            peak: ByteSize::bytes(self.peak.load(Relaxed)),
        })
    }

    /// Adds a segment, or a part of one.
    fn add(&self, allocated: ByteSize, retained: ByteDelta, peak: ByteSize) {
        self.allocated.fetch_add(allocated.as_u64(), Relaxed);
        let before = self.net.fetch_add(retained.as_i64(), Relaxed);
        let highest = before.saturating_add_unsigned(peak.as_u64());
        self.peak.fetch_max(at_least_zero(highest), Relaxed);
    }
}

/// Bytes that come from elsewhere or go there: in the frames of bodies.
#[cfg(feature = "http")]
impl Meter {
    /// Counts `bytes` that the running segment holds from now on and has not allocated. No effect outside of one.
    pub(crate) fn receive(&self, bytes: u64) {
        let Ok(Some(mut segment)) = CURRENT.try_with(Cell::take) else { return };
        if std::ptr::eq(&raw const *segment.meter, self) {
            if let Some(delta) = segment.open.as_mut().and_then(Open::restart) {
                self.add(delta.allocated, delta.retained, delta.peak);
            }
            let net = self.net.fetch_add(bytes.cast_signed(), Relaxed).saturating_add_unsigned(bytes);
            self.peak.fetch_max(at_least_zero(net), Relaxed);
        }
        set_current(Some(segment));
    }

    /// Returns the bytes that the running segment of this thread has allocated since it began or last received bytes.
    pub(crate) fn allocated_in_segment() -> u64 {
        let Ok(Some(segment)) = CURRENT.try_with(Cell::take) else { return 0 };
        let allocated = segment.open.as_ref().map_or(0, |open| open.delta().allocated.as_u64());
        set_current(Some(segment));
        allocated
    }

    /// Counts `bytes` that others hold and free from now on.
    pub(crate) fn hand_over(&self, bytes: u64) {
        self.net.fetch_sub(bytes.cast_signed(), Relaxed);
    }
}

impl Running {
    fn enter(meter: &Arc<Meter>) -> Self {
        let open = super::is_installed().then(thread::bound).flatten().map(Open::new);
        if open.is_none() {
            meter.is_incomplete.store(true, Relaxed);
        }
        // What the segments before have freed for others is no credit for this one.
        meter.net.fetch_max(0, Relaxed);
        let segment = Segment { meter: Arc::clone(meter), open };
        let outer = CURRENT.try_with(|current| current.replace(Some(segment))).unwrap_or_else(|_| {
            meter.is_incomplete.store(true, Relaxed);
            None
        });
        Self { outer, not_send: PhantomData }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Ok(Some(segment)) = CURRENT.try_with(Cell::take) else { return };
        if let Some(open) = &segment.open {
            let delta = open.delta();
            segment.meter.add(delta.allocated, delta.retained, delta.peak);
        }
        set_current(self.outer.take());
    }
}

fn set_current(segment: Option<Segment>) {
    // Fails at the end of the thread only, where no segment runs.
    let _ended = CURRENT.try_with(|current| current.set(segment));
}

fn at_least_zero(net: i64) -> u64 {
    net.max(0).cast_unsigned()
}
