//! The protocol of the alarm: which thresholds are crossed, and at which total of the heap the next check is due.
//!
//! Each thread checks for itself. A check reads the state, then the rss, and then moves the state:
//!
//! ```text
//!   load >= threshold          set the flag; the check that sets the topmost one owes an alarm
//!   load <  19/20 threshold    clear the flag
//!   between                    leave it
//! ```
//!
//! *Load* is the rss and the untouched pages of new blocks. No thread waits for another, and no thread checks for
//! another. A request that crosses a threshold while other threads check is judged by its own check, before its
//! caller gets the block.
//!
//! A check that would move a flag although another check has moved the state since has an old reading: it reads once
//! more, and then its figures hold. So an rss of before does not undo a newer one, and a check takes bounded time.
//!
//! The inner allocator may touch the pages of a request, and the kernel may kill there. Such a request is checked
//! before the call, and holds all flags until the call is over, because other threads read an older rss.
//!
//! The next check is due when the total of the heap has risen by 1 MiB since the last one, or since the lowest total
//! after it, or by less if a threshold is nearer. While a flag is set, a fall makes a check due too. A block of 1 MiB
//! is always checked: a check of another thread may have counted its bytes in the total before they were in the rss.
//!
//! Nothing here is unsafe, blocks, allocates or panics, and `tests/loom` runs this very file under loom.

use crate::sync::{AtomicU64, AtomicUsize, Ordering::SeqCst, array, constructor};

/// The most thresholds there can be.
pub(crate) const MAX_THRESHOLDS: usize = 4;

/// The rise of the total after which the rss is read again, in bytes.
pub(crate) const CHECK_DISTANCE: usize = 1 << 20;

/// The bits of the flags, one for each threshold.
const FLAGS: u64 = (1 << MAX_THRESHOLDS) - 1;

/// The unit in which the state counts up.
const COUNT: u64 = 1 << MAX_THRESHOLDS;

/// The state of the alarm of one process. All sizes are in bytes.
#[derive(Debug)]
pub(crate) struct AlarmState {
    /// Rising; the unused ones are `usize::MAX`.
    thresholds: [AtomicUsize; MAX_THRESHOLDS],
    /// The flags, and above them the count of changes.
    state: AtomicU64,
    /// 1 while an alarm is owed that was not written yet.
    owed: AtomicUsize,
    /// Requests that have crossed a threshold and are inside of the inner allocator.
    inside: AtomicUsize,
    /// The rise of the total after which the next check is due.
    distance: AtomicUsize,
    /// A total at or above this makes a check due.
    wake_above: AtomicUsize,
    /// The fall of the total after which a check is due while a flag is set.
    fall: AtomicUsize,
    /// A total below this makes a check due while a flag is set.
    wake_below: AtomicUsize,
}

/// A check that has begun: the state before the rss was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check {
    state: u64,
}

/// The figures of a check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// The total of the heap, the new block included.
    pub(crate) total: usize,
    /// The rss and the untouched pages of new blocks.
    pub(crate) load: usize,
}

impl AlarmState {
    constructor! {
        pub(crate) const fn new() -> Self {
            Self {
                thresholds: array![AtomicUsize::new(usize::MAX); MAX_THRESHOLDS],
                state: AtomicU64::new(0),
                owed: AtomicUsize::new(0),
                inside: AtomicUsize::new(0),
                distance: AtomicUsize::new(usize::MAX),
                wake_above: AtomicUsize::new(usize::MAX),
                fall: AtomicUsize::new(CHECK_DISTANCE),
                wake_below: AtomicUsize::new(0),
            }
        }
    }

    // --- When a check is due ---

    /// Returns `true` if a total that has risen to `total` for a block of `size` bytes makes a check due.
    pub(crate) fn is_due_after_rise(&self, total: usize, size: usize) -> bool {
        let wake_above = self.wake_above.load(SeqCst);
        total >= wake_above || size >= CHECK_DISTANCE && wake_above != usize::MAX
    }

    /// Returns `true` if thresholds are set, by one load.
    pub(crate) fn is_awake(&self) -> bool {
        self.wake_above.load(SeqCst) != usize::MAX
    }

    /// Returns `true` if a total that has fallen to `total` makes a check due. If not, the next rise counts from there.
    pub(crate) fn is_due_after_fall(&self, total: usize) -> bool {
        let is_due = total < self.wake_below.load(SeqCst) && self.state.load(SeqCst) & FLAGS != 0;
        if !is_due {
            self.lower_wake(total.saturating_add(self.distance.load(SeqCst)));
        }
        is_due
    }

    fn lower_wake(&self, total: usize) {
        if total < self.wake_above.load(SeqCst) {
            self.wake_above.fetch_min(total, SeqCst);
        }
    }

    // --- The check ---

    /// Begins a check. The rss must be read after this call.
    pub(crate) fn begin(&self) -> Check {
        Check { state: self.state.load(SeqCst) }
    }

    /// Returns `true` if the check comes to different results for loads of `low` and `high` bytes.
    pub(crate) fn depends_on(&self, check: Check, low: usize, high: usize) -> bool {
        self.flags_of(check, low) != self.flags_of(check, high)
    }

    /// Ends a check: moves the flags and sets when the next check is due. `total_now` reads the total of the heap.
    ///
    /// Returns `false` if the reading is older than the state. The caller then repeats the check, and passes `is_last`.
    pub(crate) fn finish(&self, check: Check, reading: Reading, is_last: bool, total_now: impl Fn() -> usize) -> bool {
        let Reading { total, load } = reading;
        let reached = self.reached(load);
        let flags = self.move_flags(check, reached, self.fallen(load), is_last);
        if flags.is_some_and(|before| reached & !before & self.topmost() != 0) {
            self.owed.store(1, SeqCst);
        }
        self.schedule(load, total, total_now);
        if is_last && self.state.load(SeqCst) & self.fallen(load) & FLAGS != 0 {
            // Other checks have kept a flag that has fallen: the next event is checked, whatever it is.
            self.wake_above.store(0, SeqCst);
        }
        flags.is_some()
    }

    /// Sets the flags of `reached` and clears those of `fallen`. Returns the flags before; `None` if the state is not
    /// the one that the check began with, and this is not the last try.
    ///
    /// The state counts up with every check that finds a threshold reached, so that a check that read less before is
    /// known.
    fn move_flags(&self, check: Check, reached: u64, fallen: u64, is_last: bool) -> Option<u64> {
        let moved = check.state & !fallen | reached;
        if moved == check.state {
            if reached == 0 {
                return Some(check.state);
            }
            let before = self.state.fetch_add(COUNT, SeqCst);
            if before & reached == reached {
                return Some(before);
            }
        } else if self.state.compare_exchange(check.state, moved.wrapping_add(COUNT), SeqCst, SeqCst).is_ok() {
            return Some(check.state);
        }
        is_last.then(|| {
            self.state.fetch_add(COUNT, SeqCst);
            self.state.fetch_or(reached, SeqCst)
        })
    }

    /// Sets when the next check is due.
    fn schedule(&self, load: usize, total: usize, total_now: impl Fn() -> usize) {
        let thresholds = || self.thresholds.iter().map(|threshold| threshold.load(SeqCst));
        let distances = thresholds().filter_map(|threshold| threshold.checked_sub(load));
        let rise = distances.filter(|&distance| distance > 0).fold(CHECK_DISTANCE, usize::min);
        // Less than half of the fall that clears a flag, so that the flag of a small memory size falls in time.
        let fall = thresholds().fold(CHECK_DISTANCE, |fall, threshold| fall.min(threshold / 40));
        self.distance.store(rise, SeqCst);
        self.fall.store(fall, SeqCst);
        self.wake_above.store(total.saturating_add(rise), SeqCst);
        self.wake_below.store(total.saturating_sub(fall), SeqCst);
        // Other threads may have moved the total since it was read, and the two marks before they were set.
        let now = total_now();
        self.lower_wake(now.saturating_add(self.distance.load(SeqCst)));
        self.wake_below.fetch_max(now.saturating_sub(self.fall.load(SeqCst)), SeqCst);
    }

    /// The flags of the thresholds at or below `load`.
    fn reached(&self, load: usize) -> u64 {
        self.flags_where(|threshold| load >= threshold)
    }

    /// The flags of the thresholds that `load` is a twentieth below, unless all are held.
    fn fallen(&self, load: usize) -> u64 {
        if self.inside.load(SeqCst) != 0 {
            return 0;
        }
        self.flags_where(|threshold| load < threshold - threshold / 20)
    }

    /// The flags that are set after a check that finds `load`, if nothing holds one.
    fn flags_of(&self, check: Check, load: usize) -> u64 {
        let stay = self.flags_where(|threshold| load >= threshold - threshold / 20);
        self.reached(load) | check.state & stay
    }

    fn flags_where(&self, is: impl Fn(usize) -> bool) -> u64 {
        let flags = self.thresholds.iter().enumerate();
        flags.fold(0, |flags, (index, threshold)| flags | u64::from(is(threshold.load(SeqCst))) << index)
    }

    /// The flag of the highest threshold.
    fn topmost(&self) -> u64 {
        let set = self.flags_where(|threshold| threshold != usize::MAX);
        set & !(set >> 1)
    }

    /// Returns the index of the highest threshold that is crossed.
    pub(crate) fn highest_crossed(&self) -> Option<usize> {
        let flags = self.state.load(SeqCst) & FLAGS;
        flags.checked_ilog2().map(|index| index as usize)
    }

    /// Returns the highest threshold, `usize::MAX` if there is none.
    pub(crate) fn highest_threshold(&self) -> usize {
        let thresholds = self.thresholds.iter().map(|threshold| threshold.load(SeqCst));
        thresholds.filter(|&threshold| threshold != usize::MAX).max().unwrap_or(usize::MAX)
    }

    // --- The alarm that is owed ---

    /// Returns `true` if an alarm is owed: the caller writes it, or calls [`owe`](Self::owe) if it cannot.
    pub(crate) fn take_owed(&self) -> bool {
        self.owed.load(SeqCst) != 0 && self.owed.swap(0, SeqCst) != 0
    }

    /// Leaves the alarm to the next check.
    pub(crate) fn owe(&self) {
        self.owed.store(1, SeqCst);
    }

    // --- Requests inside of the inner allocator ---

    /// Holds all flags until [`leave`](Self::leave): the inner allocator is about to touch pages.
    pub(crate) fn enter(&self) {
        self.inside.fetch_add(1, SeqCst);
    }

    /// Ends [`enter`](Self::enter). The caller checks next.
    pub(crate) fn leave(&self) {
        // A check that read the rss of before must not clear a flag now.
        self.state.fetch_add(COUNT, SeqCst);
        self.inside.fetch_sub(1, SeqCst);
    }

    // --- Steering ---

    /// Sets the thresholds, rising, and clears all flags. The caller checks next.
    pub(crate) fn set_thresholds(&self, thresholds: [usize; MAX_THRESHOLDS]) {
        self.wake_above.store(usize::MAX, SeqCst);
        for (place, threshold) in self.thresholds.iter().zip(thresholds) {
            place.store(threshold, SeqCst);
        }
        self.clear();
    }

    /// Returns `true` if thresholds are set.
    pub(crate) fn is_set(&self) -> bool {
        self.flags_where(|threshold| threshold != usize::MAX) != 0
    }

    /// Begins again in the child of a fork, in which no other thread is in a check: the child's first rise is checked.
    pub(crate) fn restart(&self) {
        self.inside.store(0, SeqCst);
        self.clear();
        if self.is_set() {
            self.wake_above.store(0, SeqCst);
        }
    }

    fn clear(&self) {
        // First the count, so that a check of before cannot set a flag after the second step.
        self.state.fetch_add(COUNT, SeqCst);
        self.state.fetch_and(!FLAGS, SeqCst);
        self.owed.store(0, SeqCst);
        self.wake_below.store(0, SeqCst);
    }
}
