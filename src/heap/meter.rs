//! The heap of one task: of its polls on any thread, of wrapped work on other threads, and the bytes that it receives.
//!
//! ```text
//!   net  =  allocated + received  -  freed - handed over          at least 0 when the only segment begins
//!   peak =  highest net at any moment of a segment                a segment: a poll, a call, a drop
//! ```
//!
//! A segment is measured with the counters of its thread. The bytes of a frame that comes in count as received if the
//! segment did not allocate them, because it is the segment that frees them; those of a frame that goes out count as handed
//! over, because others free them.

use std::cell::Cell;
use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::size::{ByteDelta, ByteSize};

use super::scope::{self, HeapDelta, Open};

/// The sums of one task.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    allocated: AtomicU64,
    net: AtomicI64,
    peak: AtomicU64,
    /// `own` is measured.
    #[cfg(feature = "http")]
    has_own: bool,
    /// As `net`, without memory that is counted elsewhere: see [`Segment::elsewhere`].
    #[cfg(feature = "http")]
    own: AtomicI64,
    /// The highest `own` at any moment, or up to the bytes above it that a segment reserved.
    #[cfg(feature = "http")]
    own_peak: AtomicU64,
    /// Segments that run now, on all threads.
    running: AtomicU32,
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

/// A type with a meter. So one allocation has the meter and all other data of a request.
pub(crate) trait Metered: fmt::Debug + Send + Sync {
    fn meter(&self) -> &Meter;
}

impl Metered for Meter {
    fn meter(&self) -> &Meter {
        self
    }
}

/// A shared owner of a meter.
pub(crate) trait MeterOwner {
    fn meter(&self) -> &Meter;

    fn share(&self) -> Arc<dyn Metered>;
}

impl<M: Metered + 'static> MeterOwner for Arc<M> {
    fn meter(&self) -> &Meter {
        (**self).meter()
    }

    fn share(&self) -> Arc<dyn Metered> {
        Self::clone(self)
    }
}

impl MeterOwner for Arc<dyn Metered> {
    fn meter(&self) -> &Meter {
        (**self).meter()
    }

    fn share(&self) -> Self {
        Self::clone(self)
    }
}

/// A segment that runs on this thread. It does not move while it runs.
struct Segment<'a> {
    owner: &'a dyn MeterOwner,
    meter: &'a Meter,
    /// `None` on a thread without a slot.
    open: Cell<Option<Open<'static>>>,
    /// Bytes of the segment that are counted elsewhere: those reserved under accounts of a budget less those released, and
    /// those that reclaimers left (below zero: freed).
    #[cfg(feature = "http")]
    elsewhere: Cell<i64>,
    outer: *const Segment<'static>,
}

thread_local! {
    /// The innermost segment of this thread; null if there is none.
    static CURRENT: Cell<*const Segment<'static>> = const { Cell::new(ptr::null()) };
}

impl<'a> Segment<'a> {
    #[inline]
    fn new(owner: &'a dyn MeterOwner, meter: &'a Meter) -> Self {
        let open = scope::slot().map(Open::new);
        if open.is_none() {
            meter.is_incomplete.store(true, Relaxed);
        }
        // Memory that earlier segments have freed for others is no credit for this one. But as long as another one runs, it
        // can be memory of that, which it counts at its end.
        if meter.running.fetch_add(1, Relaxed) == 0 && meter.net.load(Relaxed) < 0 {
            meter.net.fetch_max(0, Relaxed);
        }
        #[cfg(feature = "http")]
        if meter.has_own && meter.running.load(Relaxed) == 1 && meter.own.load(Relaxed) < 0 {
            meter.own.fetch_max(0, Relaxed);
        }
        Self {
            owner,
            meter,
            open: Cell::new(open),
            #[cfg(feature = "http")]
            elsewhere: Cell::new(0),
            outer: CURRENT.get(),
        }
    }
}

impl Drop for Segment<'_> {
    fn drop(&mut self) {
        CURRENT.set(self.outer);
        if let Some(delta) = self.open.get_mut().as_ref().map(Open::delta) {
            self.add(&delta);
        }
        self.meter.running.fetch_sub(1, Relaxed);
    }
}

/// Calls `look` with the innermost segment of this thread that is `wanted`, unless there is none.
fn with_segment<T>(wanted: impl Fn(&Segment<'_>) -> bool, look: impl FnOnce(&Segment<'_>) -> T) -> Option<T> {
    let mut next = CURRENT.get();
    loop {
        // SAFETY: `Meter::run` sets the pointer to a segment on its stack, and the segment takes it back when it is
        // dropped: before `run` returns or unwinds. So the segments from `CURRENT` on through `outer` are all alive, and no
        // other thread has access to them.
        #[expect(unsafe_code, reason = "a borrow from a caller further up the stack")]
        let segment = unsafe { next.as_ref() }?;
        if wanted(segment) {
            return Some(look(segment));
        }
        next = segment.outer;
    }
}

impl Segment<'_> {
    /// Adds a part that has ended to the sums of the meter.
    fn add(&self, part: &HeapDelta) {
        self.meter.add(part);
        #[cfg(feature = "http")]
        if self.meter.has_own {
            self.meter.add_own(part, self.elsewhere.take());
        }
    }

    /// Ends a part of the segment and begins the next, unless a scope is open within.
    #[cfg(feature = "http")]
    fn restart(&self) {
        let mut open = self.open.take();
        if let Some(part) = open.as_mut().and_then(Open::restart) {
            self.add(&part);
        }
        self.open.set(open);
    }
}

/// Calls `look` with all segments of this thread.
#[cfg(feature = "http")]
fn for_each_segment(look: impl Fn(&Segment<'_>)) {
    let visit = |segment: &Segment<'_>| {
        look(segment);
        false
    };
    let _none = with_segment(visit, |_| ());
}

/// Counts `bytes` that were reserved under an account of a budget, or released if below zero, for the tasks that run on
/// this thread: that memory is counted there.
#[cfg(feature = "http")]
#[inline]
pub(crate) fn note_reserved(bytes: i64) {
    if !CURRENT.get().is_null() {
        note_in_segments(bytes);
    }
}

#[cfg(feature = "http")]
#[inline(never)]
fn note_in_segments(bytes: i64) {
    for_each_segment(|segment| {
        if segment.meter.has_own {
            // The peak before it has nothing to do with these bytes.
            segment.restart();
            segment.elsewhere.set(segment.elsewhere.get().saturating_add(bytes));
        }
    });
}

/// No layer asks for it.
#[cfg(not(feature = "http"))]
#[inline]
pub(crate) const fn note_reserved(_: i64) {}

/// Runs `work` for no task: what it allocates, frees and reserves is not the own memory of those that run on this thread.
#[cfg(feature = "http")]
pub(crate) fn outside_of_tasks<T>(work: impl FnOnce() -> T) -> T {
    struct Back {
        segments: *const Segment<'static>,
        open: Option<Open<'static>>,
    }

    impl Drop for Back {
        fn drop(&mut self) {
            CURRENT.set(self.segments);
            if let Some(open) = self.open.take() {
                let left = open.delta().retained.as_i64();
                drop(open);
                for_each_segment(|Segment { elsewhere, .. }| elsewhere.set(elsewhere.get().saturating_add(left)));
            }
        }
    }

    let segments = CURRENT.get();
    if segments.is_null() {
        return work();
    }
    let _back = Back { segments, open: scope::slot().map(Open::new) };
    CURRENT.set(ptr::null());
    work()
}

impl Meter {
    /// A meter that measures as well what is not counted elsewhere.
    #[cfg(feature = "http")]
    pub(crate) fn with_own() -> Self {
        Self { has_own: true, ..Self::default() }
    }

    /// Runs `work` as a segment of the owner's meter. Segments of different meters nest, and the bytes of an inner one count
    /// for both. Within a segment of the same meter `work` is a part of that.
    pub(crate) fn run<T>(owner: &impl MeterOwner, work: impl FnOnce() -> T) -> T {
        let meter = owner.meter();
        if meter.with_own_segment(|_| ()).is_some() {
            return work();
        }
        let segment = Segment::new(owner, meter);
        CURRENT.set((&raw const segment).cast());
        work()
    }

    /// Returns the owner of the innermost segment of this thread.
    pub(crate) fn current() -> Option<Arc<dyn Metered>> {
        with_segment(|_| true, |segment| segment.owner.share())
    }

    /// Returns the bytes held now.
    #[cfg(feature = "http")]
    pub(crate) fn held(&self) -> ByteSize {
        ByteSize::bytes(at_least_zero(self.net.load(Relaxed)))
    }

    /// Returns the bytes held now that are not counted elsewhere.
    #[cfg(feature = "http")]
    pub(crate) fn own(&self) -> ByteSize {
        ByteSize::bytes(at_least_zero(self.own.load(Relaxed)))
    }

    /// Returns the bytes held now that are not counted elsewhere, with the segment that runs on this thread.
    #[cfg(feature = "http")]
    pub(crate) fn own_now(&self) -> ByteSize {
        let running = self.with_own_segment(|segment| {
            let open = segment.open.take();
            let retained = open.as_ref().map_or(0, |open| open.delta().retained.as_i64());
            segment.open.set(open);
            retained.saturating_sub(segment.elsewhere.get())
        });
        ByteSize::bytes(at_least_zero(self.own.load(Relaxed).saturating_add(running.unwrap_or(0))))
    }

    /// Returns the most that was held and not counted elsewhere; `None` if a part was not measured.
    #[cfg(feature = "http")]
    pub(crate) fn own_peak(&self) -> Option<ByteSize> {
        (!self.is_incomplete.load(Relaxed)).then(|| ByteSize::bytes(self.own_peak.load(Relaxed)))
    }

    /// Returns the most that was held.
    #[cfg(feature = "tower")]
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

    /// Calls `look` with the segment of this meter that runs on this thread.
    #[inline]
    fn with_own_segment<T>(&self, look: impl FnOnce(&Segment<'_>) -> T) -> Option<T> {
        with_segment(|segment| ptr::eq(segment.meter, self), look)
    }

    /// Adds a segment, or a part of one.
    fn add(&self, delta: &HeapDelta) {
        let HeapDelta { allocated, retained, peak, .. } = *delta;
        if allocated > ByteSize::ZERO {
            self.allocated.fetch_add(allocated.as_u64(), Relaxed);
        }
        let retained = retained.as_i64();
        let before = if retained == 0 { self.net.load(Relaxed) } else { self.net.fetch_add(retained, Relaxed) };
        self.raise_peak(before.saturating_add_unsigned(peak.as_u64()));
    }

    /// Adds a part to the sum of what is not counted elsewhere.
    #[cfg(feature = "http")]
    fn add_own(&self, part: &HeapDelta, elsewhere: i64) {
        let HeapDelta { retained, peak, .. } = *part;
        let left = retained.as_i64().saturating_sub(elsewhere);
        let before = if left == 0 { self.own.load(Relaxed) } else { self.own.fetch_add(left, Relaxed) };
        // At the peak the reserved bytes may have been allocated; those that reclaimers freed were not.
        let peak = before.saturating_add_unsigned(peak.as_u64()).saturating_sub(elsewhere.max(0));
        if at_least_zero(peak) > self.own_peak.load(Relaxed) {
            self.own_peak.fetch_max(at_least_zero(peak), Relaxed);
        }
    }

    fn raise_peak(&self, net: i64) {
        let net = at_least_zero(net);
        if net > self.peak.load(Relaxed) {
            self.peak.fetch_max(net, Relaxed);
        }
    }
}

/// Bytes that come from elsewhere or go there: in the frames of bodies.
#[cfg(feature = "http")]
impl Meter {
    /// Counts `bytes` that the segment of this meter holds from now on and has not allocated. No effect outside of one.
    pub(crate) fn receive(&self, bytes: u64) {
        // No effect on frames that another task reads: that task frees them.
        let _is_counted = self.with_own_segment(|segment| {
            segment.restart();
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.raise_peak(self.net.fetch_add(bytes, Relaxed).saturating_add(bytes));
            if self.has_own {
                let own = self.own.fetch_add(bytes, Relaxed).saturating_add(bytes);
                self.own_peak.fetch_max(at_least_zero(own), Relaxed);
            }
        });
    }

    /// Returns the bytes that the running segment of this thread has allocated since it began or last received bytes.
    pub(crate) fn allocated_in_segment() -> u64 {
        let read = |segment: &Segment<'_>| {
            let open = segment.open.take();
            let allocated = open.as_ref().map_or(0, |open| open.delta().allocated.as_u64());
            segment.open.set(open);
            allocated
        };
        with_segment(|_| true, read).unwrap_or(0)
    }

    /// Counts `bytes` that others hold and free from now on.
    pub(crate) fn hand_over(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.net.fetch_sub(bytes, Relaxed);
        if self.has_own {
            self.own.fetch_sub(bytes, Relaxed);
        }
    }
}

fn at_least_zero(net: i64) -> u64 {
    net.max(0).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;

    fn metered() -> Arc<dyn Metered> {
        Arc::new(Meter::default())
    }

    /// Returns `true` if the innermost segment of this thread is one of `owner`.
    fn is_current(owner: &Arc<dyn Metered>) -> bool {
        Meter::current().is_some_and(|current| ptr::eq(current.meter(), owner.meter()))
    }

    #[test]
    fn segments_nest_and_unwind() {
        let (one, other) = (metered(), metered());
        Meter::run(&one, || {
            assert!(is_current(&one));
            Meter::run(&other, || {
                assert!(is_current(&other));
                Meter::run(&one, || assert!(is_current(&other), "it runs already"));
                #[cfg(feature = "http")]
                one.meter().receive(100);
            });
            assert!(is_current(&one));
            let unwinding = AssertUnwindSafe(|| Meter::run(&other, || Meter::run(&metered(), || panic!("as asked"))));
            assert!(catch_unwind(unwinding).is_err());
            assert!(is_current(&one));
            let elsewhere = Meter::current();
            let on_another_thread = move || {
                assert!(Meter::current().is_none());
                elsewhere.is_some_and(|owner| Meter::run(&owner, || is_current(&owner)))
            };
            assert!(thread::spawn(on_another_thread).join().is_ok_and(|is_current| is_current));
        });
        assert!(Meter::current().is_none());
        assert_eq!(one.meter().running.load(Relaxed), 0);
    }
}
