//! One thread's credit: bytes already booked on the line, spent and earned without touching shared memory.
//!
//! Every field is written by the owner alone, so plain loads and stores serve; readers elsewhere may see them late.
//! The owner calls `take` and `give` for every allocation of the program: they are the fast path.

#[cfg(feature = "profile")]
use crate::sync::Ordering::SeqCst;
use crate::sync::{AtomicIsize, Ordering::Relaxed, constructor};

use super::gross::Gross;
#[cfg(feature = "profile")]
use super::profile::{Hits, Interval, ThreadSampling};

/// Bytes a refill books beyond the need at hand. A slot holds at most twice as much.
pub(crate) const STEP: usize = 16 * 1024;

/// The most credit a slot may hold.
pub(crate) const FULL: isize = 2 * STEP.cast_signed();

/// One thread's credit, two cache lines from the next, because adjacent lines are fetched in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Slot {
    /// Bytes booked on the line and not handed out; in `[0, FULL]`. In a sentinel `isize::MAX`, never changed.
    credit: AtomicIsize,
    /// The lowest `credit` since the interval began, which is when the line last moved from here. In a sentinel
    /// `isize::MAX`.
    low: AtomicIsize,
    /// Bytes handed out by this and earlier owners. What was freed follows from this and `net`.
    allocated: Gross,
    /// Net bytes this owner has moved onto the line.
    booked: AtomicIsize,
    /// The highest `net` of the intervals closed since the innermost open scope began.
    top: AtomicIsize,
    /// The most credit with which a free takes the fast path: `FULL`, and 0 while each free must look for a sample.
    #[cfg(feature = "profile")]
    give_limit: AtomicIsize,
    /// The absolute position of the thread's next sampling point, and the sampling interval it was chosen with.
    #[cfg(feature = "profile")]
    sampling: ThreadSampling,
}

impl Slot {
    constructor! {
        /// A slot without credit: its first operation takes the slow path.
        pub(crate) const fn new() -> Self {
            Self::with_credit(0)
        }
    }

    constructor! {
        /// The slot of threads that have none: refuses every `take` and `give`, and is never changed.
        ///
        /// `credit - n < low` holds for every legal size above zero, and `low > FULL` then refuses it, so the fast
        /// path needs no test of its own for a thread without a slot.
        pub(crate) const fn sentinel() -> Self {
            Self::with_credit(isize::MAX)
        }
    }

    constructor! {
        const fn with_credit(credit: isize) -> Self {
            Self {
                credit: AtomicIsize::new(credit),
                low: AtomicIsize::new(credit),
                allocated: Gross::new(),
                booked: AtomicIsize::new(0),
                top: AtomicIsize::new(0),
                #[cfg(feature = "profile")]
                give_limit: AtomicIsize::new(0),
                #[cfg(feature = "profile")]
                sampling: ThreadSampling::new(),
            }
        }
    }

    /// Spends `n` bytes of credit. On `false` nothing has changed but the low mark, and the slow path must decide.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the fast path of every allocation: a call would cost more than it")]
    pub(crate) fn take(&self, n: usize) -> bool {
        self.spend_credit(n, |allocated| allocated.try_add(n))
    }

    /// As [`take`](Self::take), for the slow path: whether a sample is due does not matter.
    pub(crate) fn take_slowly(&self, n: usize) -> bool {
        self.spend_credit(n, |allocated| {
            allocated.add(n.cast_signed());
            true
        })
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the fast path of every allocation: a call would cost more than it")]
    fn spend_credit(&self, n: usize, count: impl Fn(&Gross) -> bool) -> bool {
        let credit = self.credit.load(Relaxed).wrapping_sub_unsigned(n);
        let low = self.low.load(Relaxed);
        // One compare is three tests: a new low mark, no credit left, no slot at all.
        if credit < low {
            std::hint::cold_path();
            if credit < 0 || low > FULL {
                return false;
            }
            self.low.store(credit, Relaxed);
        }
        // If a sample is due, the slow path spends the same bytes, so the low mark is right in any case.
        if !count(&self.allocated) {
            std::hint::cold_path();
            return false;
        }
        self.credit.store(credit, Relaxed);
        true
    }

    /// Earns `n` bytes of credit. On `false` nothing has changed, and the slow path must decide.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the fast path of every allocation: a call would cost more than it")]
    pub(crate) fn give(&self, n: usize) -> bool {
        self.earn_credit(n, || {
            #[cfg(feature = "profile")]
            return self.give_limit.load(Relaxed);
            #[cfg(not(feature = "profile"))]
            return FULL;
        })
    }

    /// As [`give`](Self::give), after a sample of the block was looked for.
    #[inline]
    pub(crate) fn give_slowly(&self, n: usize) -> bool {
        self.earn_credit(n, || FULL)
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the fast path of every free: a call would cost more than it")]
    fn earn_credit(&self, n: usize, limit: impl Fn() -> isize) -> bool {
        let credit = self.credit.load(Relaxed).wrapping_add_unsigned(n);
        // As unsigned, so that one compare also refuses a sum that wrapped below zero.
        if credit.cast_unsigned() > limit().cast_unsigned() {
            return false;
        }
        self.credit.store(credit, Relaxed);
        true
    }

    /// Takes back a `take` whose memory never came. The low mark cannot be taken back: it errs upward, by `n`.
    pub(crate) fn untake(&self, n: usize) {
        self.credit.store(self.credit().wrapping_add_unsigned(n), Relaxed);
        self.allocated.add(n.cast_signed().wrapping_neg());
    }

    /// Unused credit in bytes.
    pub(crate) fn credit(&self) -> isize {
        self.credit.load(Relaxed)
    }

    /// The lowest credit of the open interval, in bytes.
    pub(crate) fn low(&self) -> isize {
        self.low.load(Relaxed)
    }

    /// Bytes handed to this and earlier owners.
    pub(crate) fn allocated(&self) -> u64 {
        self.allocated.allocated()
    }

    /// This owner's allocations less its frees, in bytes: negative where it frees what others allocated.
    pub(crate) fn net(&self) -> isize {
        self.booked.load(Relaxed).wrapping_sub(self.credit())
    }

    /// The highest `net` since the innermost open scope began.
    pub(crate) fn top(&self) -> isize {
        self.top.load(Relaxed).max(self.booked.load(Relaxed).wrapping_sub(self.low()))
    }

    /// Forgets or restores the highest `net`: scopes nest by saving the outer one's.
    pub(crate) fn set_top(&self, top: isize) {
        self.top.store(top, Relaxed);
    }

    /// Ends the interval: its highest `net` goes into `top`, and the next one begins at the present credit.
    pub(crate) fn close(&self) {
        self.top.store(self.top(), Relaxed);
        self.low.store(self.credit(), Relaxed);
    }

    /// Follows the line, which this owner moved by `moved` and which left it `credit`. The interval must be closed.
    pub(crate) fn rebase(&self, credit: isize, moved: isize) {
        self.booked.store(self.booked.load(Relaxed).wrapping_add(moved), Relaxed);
        self.credit.store(credit, Relaxed);
        self.low.store(credit, Relaxed);
    }

    /// Counts bytes that the slow path handed out (or, negative, took back).
    pub(crate) fn count(&self, n: isize) {
        self.allocated.add(n);
    }

    /// Empties the slot for its next owner, but for the sum of what was allocated: that must not fall.
    pub(crate) fn clear(&self) {
        for field in [&self.credit, &self.low, &self.booked, &self.top] {
            field.store(0, Relaxed);
        }
    }
}

/// The calls of the profile of allocation sites.
#[cfg(feature = "profile")]
impl Slot {
    /// Prepares the counter for its owner. If it has taken samples for an earlier owner, it goes on with its countdown,
    /// because a thread may end before it comes to its first sampling point.
    pub(crate) fn prepare(&self) {
        self.give_limit.store(FULL, SeqCst);
    }

    /// Repairs the counter in the child of a fork.
    pub(crate) fn repair_after_fork(&self) {
        self.allocated.repair_after_fork();
    }

    /// Has each free from now on look for a sample of its block. Any thread may call it.
    pub(crate) fn look_at_frees(&self) {
        self.give_limit.store(0, SeqCst);
    }

    /// Returns `true` if each free looks for a sample of its block.
    #[inline]
    pub(crate) fn looks_at_frees(&self) -> bool {
        self.give_limit.load(Relaxed) == 0
    }

    /// Moves the thread on by a block of `size` bytes, and returns the sampling points in it.
    pub(crate) fn pass(&self, size: usize, interval: Interval, seed: u64) -> Hits {
        let countdown = self.sampling.has_begun().then(|| self.allocated.countdown());
        let (hits, countdown) = self.sampling.pass(countdown, size as u64, interval, seed);
        self.allocated.set_countdown(countdown);
        hits
    }
}
