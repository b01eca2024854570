//! The books of the heap: one global line, and per thread a slot of credit already booked on it.
//!
//! ```text
//!   line  =  true live bytes  +  unused credit of all slots      at every instant
//!            what users hold     each in [0, FULL]
//! ```
//!
//! A thread that allocates spends credit, one that frees earns it, and neither touches shared memory until its credit
//! would leave that range. Only then does the line move, and only then are limit and peak looked at. Two things follow.
//! The line is never below what lives: a limit tested on the line is never passed, and a peak read off the line never
//! under-reports. And `line - credits` is exact whenever nobody moves.
//!
//! The exact peak of a lone thread comes from its *low mark*: between two moves of the line, the most that lived is
//! `line - low`. Several threads have no common instant to point at; their peak is a bracket, `threads x FULL` wide.
//! Which of the two holds is a question of the *epoch*, from one reset to the next:
//!
//! ```text
//!   epoch <  crowded    some other thread was bound or booked in this epoch: bracket
//!   epoch >= crowded    one slot is bound, and no other was: `lone` and its low mark are exact
//!
//!   crowded rises   when a second slot is bound; before and after a thread without a slot moves the line; when the peak
//!                   is reset beside other bound slots, ahead of the new epoch; when a low mark is known to be wrong
//! ```
//!
//! Shared words are `SeqCst`, because a reset of the peak argues with a moving line as in Dekker's algorithm: each side
//! writes its own word, then reads the other's. They are touched once in some hundred allocations.
//!
//! Nothing here is unsafe, blocks, allocates, formats or panics, and `tests/loom` runs this very file under loom.

use crate::sync::{AtomicU64, AtomicUsize, Ordering::SeqCst, array, constructor};

use super::peak::{Era, Peak};
use super::slot::{FULL, STEP, Slot};

/// Slots of one process. Threads beyond them book every operation on the line.
pub(crate) const SLOTS: usize = 128;

/// The peak since the last reset as far as it is known, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bracket {
    pub(crate) at_least: usize,
    pub(crate) at_most: usize,
}

/// How high the line stood after a booking, and in which era of the peak.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rise {
    era: Era,
    pub(crate) height: usize,
}

/// The limit does not leave room for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverLimit;

/// The books of one process with `N` slots, at most 128. All zeros at first, so that it takes no space in the binary.
#[derive(Debug)]
pub(crate) struct Ledger<const N: usize> {
    /// Live bytes plus unused credit. Never moved past the limit.
    line: AtomicUsize,
    /// The highest `line` since the last reset.
    peak: Peak,
    /// The highest exact size the lone thread saw since the last reset; means nothing in a crowded epoch.
    lone: AtomicUsize,
    /// How many times the peak was reset.
    epoch: AtomicU64,
    /// In epochs below this one, more than one thread has booked.
    crowded: AtomicU64,
    /// The most slots bound at one time since the last reset.
    threads: AtomicUsize,
    /// Slots from this one on have never been bound.
    unused_from: AtomicUsize,
    /// The limit's complement, so that zero means none.
    limit: AtomicUsize,
    /// Bytes allocated by threads without a slot.
    allocated: AtomicU64,
    /// Which slots are bound, one bit each.
    bound: [AtomicU64; 2],
    slots: [Slot; N],
}

impl<const N: usize> Ledger<N> {
    constructor! {
        pub(crate) const fn new() -> Self {
            Self {
                line: AtomicUsize::new(0),
                peak: Peak::new(),
                lone: AtomicUsize::new(0),
                epoch: AtomicU64::new(0),
                crowded: AtomicU64::new(0),
                threads: AtomicUsize::new(0),
                unused_from: AtomicUsize::new(0),
                limit: AtomicUsize::new(0),
                allocated: AtomicU64::new(0),
                bound: array![AtomicU64::new(0); 2],
                slots: array![Slot::new(); N],
            }
        }
    }

    // --- Binding: who owns which slot ---

    /// Binds a free slot to the calling thread, or `None` when all are taken.
    pub(crate) fn bind(&self) -> Option<&Slot> {
        for (base, (word, slots)) in self.bound.iter().zip(self.slots.chunks(64)).enumerate() {
            // Another thread may take what was seen free; it is then no longer seen free.
            while let Some((index, slot)) = first_free(word.load(SeqCst), slots) {
                if word.fetch_or(1 << index, SeqCst) & (1 << index) == 0 {
                    let now = self.threads_now();
                    self.threads.fetch_max(now, SeqCst);
                    self.unused_from.fetch_max(base * 64 + index + 1, SeqCst);
                    if now > 1 {
                        self.crowd();
                    }
                    return Some(slot);
                }
            }
        }
        None
    }

    /// Takes back the slot of a thread that ends: its credit leaves the line.
    pub(crate) fn release(&self, slot: &Slot) {
        self.close(slot);
        let credit = slot.credit().cast_unsigned();
        slot.clear();
        self.line.fetch_sub(credit, SeqCst);
        if let Some(index) = self.index(slot)
            && let Some(word) = self.bound.get(index / 64)
        {
            word.fetch_and(!(1 << (index % 64)), SeqCst);
        }
    }

    /// Returns all slots, bound or not.
    pub(crate) const fn slots(&self) -> &[Slot; N] {
        &self.slots
    }

    /// Returns the place of `slot` among all.
    pub(crate) fn index(&self, slot: &Slot) -> Option<usize> {
        let distance = std::ptr::from_ref(slot).addr().checked_sub(self.slots.as_ptr().addr())?;
        Some(distance / size_of::<Slot>()).filter(|&index| index < N)
    }

    /// Returns `true` if `slot` is bound to a thread.
    pub(crate) fn is_bound(&self, slot: &Slot) -> bool {
        let bit = self.index(slot).and_then(|index| Some(self.bound.get(index / 64)?.load(SeqCst) >> (index % 64)));
        bit.is_some_and(|bit| bit & 1 != 0)
    }

    /// Returns how many slots are bound.
    pub(crate) fn threads_now(&self) -> usize {
        self.bound.iter().map(|word| word.load(SeqCst).count_ones() as usize).sum()
    }

    /// Notes that in this epoch no single thread can know the exact peak.
    pub(crate) fn crowd(&self) {
        let until = self.epoch.load(SeqCst) + 1;
        if self.crowded.load(SeqCst) < until {
            self.crowded.fetch_max(until, SeqCst);
        }
    }

    /// Whether one slot is bound and nobody else has booked in this epoch. What was read of the line *before* asking
    /// was then moved by that slot's owner alone: another is bound before it moves the line, and until it is back.
    fn alone(&self) -> bool {
        self.threads_now() == 1 && self.epoch.load(SeqCst) >= self.crowded.load(SeqCst)
    }

    // --- Booking: the slow path ---

    /// Books `n` bytes and a refill of credit on the line, up to `limit`; without room for the refill the exact need,
    /// without room for that nothing. The caller then asks for the memory and calls either [`settle`](Self::settle) with
    /// the rise returned, or [`cancel`](Self::cancel).
    pub(crate) fn book(&self, slot: Option<&Slot>, n: usize, limit: usize) -> Result<Rise, OverLimit> {
        let era = self.peak.era();
        let (credit, refill) = if let Some(slot) = slot {
            self.close(slot);
            (slot.credit().cast_unsigned(), STEP)
        } else {
            self.crowd();
            (0, 0)
        };
        let need = n.saturating_sub(credit);
        let spare = credit.saturating_sub(n);
        let mut line = self.line.load(SeqCst);
        // Checked before the move, never add and then undo: a huge refused request must not fail other threads.
        let fits = |line: usize, more: usize| line.checked_add(more).filter(|&height| height <= limit);
        let (height, moved) = loop {
            let refilled = need.checked_add(refill).and_then(|more| Some((fits(line, more)?, more)));
            let (height, moved) = refilled.or_else(|| Some((fits(line, need)?, need))).ok_or(OverLimit)?;
            match self.line.compare_exchange_weak(line, height, SeqCst, SeqCst) {
                Ok(_) => break (height, moved),
                Err(now) => line = now,
            }
        };
        if let Some(slot) = slot {
            slot.rebase((spare + (moved - need)).cast_signed(), moved.cast_signed());
            slot.count(n.cast_signed());
        } else {
            self.allocated.fetch_add(n as u64, SeqCst);
            self.crowd();
        }
        Ok(Rise { era, height })
    }

    /// Lets the peak know how high the line stood: after the memory came, so that a failure leaves no mark, and
    /// before anybody holds it.
    pub(crate) fn settle(&self, rise: Rise) {
        self.peak.tell(rise.era, rise.height, || self.line.load(SeqCst));
    }

    /// Takes a booking back whose memory never came: all of it, as a refill that stayed would be a height of the line
    /// that the peak was not told.
    pub(crate) fn cancel(&self, slot: Option<&Slot>, n: usize) {
        let Some(slot) = slot else {
            self.allocated.fetch_sub(n as u64, SeqCst);
            self.line.fetch_sub(n, SeqCst);
            return;
        };
        let back = slot.credit().cast_unsigned() + n;
        slot.rebase(0, back.cast_signed().wrapping_neg());
        slot.count(n.cast_signed().wrapping_neg());
        self.line.fetch_sub(back, SeqCst);
    }

    /// Books `n` freed bytes: credit beyond one step goes back to the line. Tells how high the line is then.
    pub(crate) fn unbook(&self, slot: Option<&Slot>, n: usize) -> usize {
        let Some(slot) = slot else {
            self.crowd();
            let line = self.line.fetch_sub(n, SeqCst);
            self.crowd();
            return line.saturating_sub(n);
        };
        self.close(slot);
        let credit = slot.credit().cast_unsigned() + n;
        let back = credit.saturating_sub(STEP);
        slot.rebase((credit - back).cast_signed(), back.cast_signed().wrapping_neg());
        self.line.fetch_sub(back, SeqCst).saturating_sub(back)
    }

    /// Ends the slot's interval: its top is kept for scopes and, where the thread is alone, for the exact peak.
    pub(crate) fn close(&self, slot: &Slot) {
        let top = self.lone_top(slot);
        if top > self.lone.load(SeqCst) && self.alone() {
            self.lone.fetch_max(top, SeqCst);
        }
        slot.close();
    }

    /// The most that lived in the interval still open on the only slot.
    fn lone_top(&self, slot: &Slot) -> usize {
        self.line.load(SeqCst).saturating_sub(slot.low().cast_unsigned())
    }

    // --- Steering ---

    /// Sets the limit of the line. Credit already handed out may still be spent: at most `FULL` a thread.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(!limit, SeqCst);
    }

    /// The limit, `usize::MAX` for none.
    pub(crate) fn limit(&self) -> usize {
        !self.limit.load(SeqCst)
    }

    /// Lets the peak begin anew from what is live.
    pub(crate) fn reset_peak(&self, slot: Option<&Slot>) {
        if slot.is_none() || self.threads_now() > 1 {
            // Ahead of the new epoch, so that nobody takes it for a lone thread's.
            self.crowded.fetch_max(self.epoch.load(SeqCst) + 2, SeqCst);
        }
        self.epoch.fetch_add(1, SeqCst);
        // Asked after the epoch began: who is not bound now will mark it crowded before moving the line.
        let only = slot.filter(|_| self.threads_now() == 1);
        let live = only.map_or(0, |slot| {
            slot.close();
            self.line.load(SeqCst).saturating_sub(slot.credit().cast_unsigned())
        });
        self.lone.store(live, SeqCst);
        // Once more after the store: who bound a slot in between has told the old maximum.
        self.threads.store(self.threads_now(), SeqCst);
        self.threads.fetch_max(self.threads_now(), SeqCst);
        self.peak.reset(|| self.line.load(SeqCst));
        if only.is_none() {
            self.crowd();
        }
    }

    // --- Reading ---

    /// How high the line stands: live bytes and unused credit.
    pub(crate) fn line(&self) -> usize {
        self.line.load(SeqCst)
    }

    /// Live bytes: exact when nobody allocates or frees meanwhile, else off by at most `FULL` for each who does.
    pub(crate) fn live(&self) -> usize {
        let line = self.line.load(SeqCst);
        self.owned().fold(line, |live, slot| live.saturating_sub(slot.credit().cast_unsigned()))
    }

    /// Bytes allocated since the process began. Never falls, but by what is taken back.
    pub(crate) fn allocated(&self) -> u64 {
        let used = self.slots.iter().take(self.unused_from.load(SeqCst));
        used.fold(self.allocated.load(SeqCst), |sum, slot| sum.wrapping_add(slot.allocated()))
    }

    /// The peak since the last reset, as the owner of `slot` can know it: exact where it has been the only thread.
    pub(crate) fn peak(&self, slot: Option<&Slot>) -> Bracket {
        let exact = slot.map(|slot| self.lone.load(SeqCst).max(self.lone_top(slot)));
        if let Some(exact) = exact
            && self.alone()
        {
            return Bracket { at_least: exact, at_most: exact };
        }
        let at_most = self.peak.height().max(self.line.load(SeqCst));
        let unknown = self.threads.load(SeqCst) * FULL.cast_unsigned();
        Bracket { at_least: at_most.saturating_sub(unknown), at_most }
    }

    /// The slots that are bound right now, in order.
    fn owned(&self) -> impl Iterator<Item = &Slot> {
        self.bound.iter().zip(self.slots.chunks(64)).flat_map(|(word, slots)| {
            let mut bits = word.load(SeqCst);
            std::iter::from_fn(move || {
                let index = bits.trailing_zeros() as usize;
                bits &= bits.wrapping_sub(1);
                slots.get(index)
            })
        })
    }
}

/// The lowest slot that is not bound, with its index.
fn first_free(bound: u64, slots: &[Slot]) -> Option<(usize, &Slot)> {
    let index = bound.trailing_ones() as usize;
    Some((index, slots.get(index)?))
}
