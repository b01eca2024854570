//! The part that a budget, its accounts and their reservations share, and the order of a decision that is not an easy one.
//!
//! 1. A request that is larger than what could ever be released for it is refused. No account loses anything for it.
//! 2. If the resident pages are in the way, the allocator releases its free pages.
//! 3. The reclaimers of other accounts run, in the order of their priority, until they release nothing more.
//! 4. The request is granted or refused. One that may wait has joined the queue before: see [`wait`](super::wait).
//!
//! While a request reclaims, its bytes are promised to it: see [`shared`](super::shared).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::board;
use crate::clock::{Stopwatch, micros};
use crate::heap;
use crate::os;
use crate::size::ByteSize;
use crate::sync::{Mutex, MutexGuard};

use super::BudgetExceeded;
use super::builder::LimitBreakdown;
use super::error::Refusal;
use super::pressure::{Pressure, Thresholds};
use super::reclaim::{self, ReclaimPriority, Reclaiming, Registry};
use super::shared::Shared;
use super::table::{Readings, Shortage, Table, Turn};

/// The resident pages are checked for requests of this part of the limit, and once for as many bytes of smaller ones. So the
/// smaller ones of one check can exceed the limit by this part of it.
const CHECKED_PART: u64 = 32;

/// The fewest bytes for which a trim runs. It takes about 100 us for each MiB that it releases.
const MIN_TRIM: u64 = 512 << 10;

/// After a trim, the pages that it left are tried again after this multiple of its duration: 1 % of the time at most.
const TRIM_PAUSE: u64 = 100;

/// The shortest pause after a trim, in milliseconds.
const MIN_TRIM_PAUSE_MS: u64 = 100;

/// The most rounds in which reclaimers are called. A round that releases nothing is the last.
const MAX_ROUNDS: u32 = 64;

/// A budget. Handles and reservations refer to it by a plain reference, so that a reservation costs no reference count. It
/// counts them under the lock that they take anyway; without any it waits in [`UNUSED`] for the next budget.
pub(super) struct Core {
    pub(super) shared: Shared,
    pub(super) reclaimers: Registry,
    settings: Mutex<Settings>,
    /// Heap that is not reserved reduces the capacity.
    counts_heap: AtomicBool,
    /// The resident pages beyond the live heap that the last trim left, or fewer since.
    unreleasable: AtomicU64,
    /// From this time on a trim may release those as well, because blocks that held them are freed. Milliseconds.
    next_trim_ms: AtomicU64,
}

#[derive(Clone, Copy)]
struct Settings {
    breakdown: LimitBreakdown,
    thresholds: Thresholds,
}

/// Budgets without users. There are as many as ever were in use at the same time, of 3.3 KiB each.
static UNUSED: Mutex<Vec<&'static Core>> = Mutex::new(Vec::new());

impl Core {
    /// Returns a budget with one user.
    pub(super) fn new(breakdown: LimitBreakdown, thresholds: Thresholds) -> &'static Self {
        let limit = breakdown.limit().as_u64();
        let is_found = breakdown.found().is_some();
        // A limit that the caller chose is no limit of the pages of the process.
        let check_from = if is_found { (limit / CHECKED_PART).max(1) } else { u64::MAX };
        if is_found && heap::is_installed() && heap::releases_pages() {
            os::fix_trim_threshold();
        }
        let (table, settings) = (Table::new(limit, check_from), Settings { breakdown, thresholds });
        let unused = UNUSED.lock().pop();
        let core = unused.unwrap_or_else(|| {
            Box::leak(Box::new(Self {
                shared: Shared::new(Table::new(0, u64::MAX)),
                reclaimers: Registry::default(),
                settings: Mutex::new(settings),
                counts_heap: AtomicBool::new(false),
                unreleasable: AtomicU64::new(0),
                next_trim_ms: AtomicU64::new(0),
            }))
        });
        *core.settings.lock() = settings;
        core.counts_heap.store(is_found, Relaxed);
        core.unreleasable.store(0, Relaxed);
        core.next_trim_ms.store(0, Relaxed);
        let _checked = core.shared.take_check_due();
        *core.shared.lock() = table;
        core
    }

    pub(super) fn add_user(&self) {
        self.shared.lock().users += 1;
    }

    pub(super) fn remove_user(&'static self) {
        let mut table = self.shared.lock();
        table.users -= 1;
        let is_unused = table.users == 0;
        drop(table);
        if is_unused {
            self.recycle();
        }
    }

    /// Lets the next budget have the table. Nothing refers to it any more, so no thread can use it since the last user was
    /// removed.
    #[cold]
    pub(super) fn recycle(&'static self) {
        let unused = std::mem::replace(&mut *self.shared.lock(), Table::new(0, u64::MAX));
        debug_assert_eq!(unused.reserved(), 0, "each reservation is a user");
        // The names go from the board.
        drop(unused);
        UNUSED.lock().push(self);
    }

    pub(super) fn breakdown(&self) -> LimitBreakdown {
        self.settings.lock().breakdown
    }

    pub(super) fn count_heap(&self) {
        self.counts_heap.store(true, Relaxed);
    }

    /// Returns the live heap by one load; at most 32 KiB for each thread too high.
    #[inline]
    pub(super) fn live_estimate(&self) -> u64 {
        if self.counts_heap.load(Relaxed) { heap::live_estimate() } else { 0 }
    }

    /// Reads all figures of this moment. The pages take a system call, some two microseconds.
    pub(super) fn readings(&self) -> Readings {
        Readings { resident: self.checks_pages().then(resident).flatten(), ..self.heap_readings() }
    }

    /// Reads the figures without the pages.
    pub(super) fn heap_readings(&self) -> Readings {
        let live = if self.counts_heap.load(Relaxed) { live() } else { 0 };
        Readings { live, resident: None, now_ms: os::coarse_monotonic_ms() }
    }

    /// Returns `true` if pages beyond the live heap are known to be in use, because the allocator releases free ones on
    /// request. Otherwise they may be free, and nothing is refused for them.
    fn checks_pages(&self) -> bool {
        self.breakdown().found().is_some() && heap::is_installed() && heap::releases_pages()
    }

    pub(super) fn pressure(&self) -> Pressure {
        let thresholds = self.settings.lock().thresholds;
        let mut table = self.shared.lock();
        let capacity = table.capacity(&self.heap_readings());
        thresholds.pressure(table.reserved(), capacity)
    }

    /// Returns the bytes that `account`, or any, can have without reclaiming.
    pub(super) fn available(&self, account: Option<usize>) -> u64 {
        self.shared.lock().available(account, &self.heap_readings(), self.nested_turn())
    }

    /// Decides on a request that the fast path did not grant.
    #[cold]
    pub(super) fn reserve_slow(&self, account: usize, size: u64) -> Result<(), BudgetExceeded> {
        if Reclaiming::is_on() {
            let mut table = self.shared.lock();
            let decided = table.decide(account, size, &self.readings(), self.nested_turn());
            return decided.map_err(|shortage| self.refusal(&mut table, account, size, shortage, true));
        }
        let mut table = self.shared.lock_between_passes();
        let shortage = match table.decide(account, size, &self.readings(), Turn::New) {
            Ok(()) => return Ok(()),
            Err(shortage) => shortage,
        };
        if table.is_reclaiming() || !self.is_feasible(&mut table, account, size, 0, shortage) {
            return Err(self.refusal(&mut table, account, size, shortage, false));
        }
        self.reclaim_for(table, account, size)
    }

    /// Reserves without reclaimers. The allocator may release free pages.
    pub(super) fn reserve_without_reclaimers(&self, account: usize, size: u64) -> Option<()> {
        let decide = || self.shared.lock().decide(account, size, &self.readings(), Turn::New);
        match decide() {
            Err(shortage) if shortage.bytes == 0 && self.trim() => decide().ok(),
            decided => decided.ok(),
        }
    }

    /// Returns the privileges of a request that is made within a reclaimer.
    fn nested_turn(&self) -> Turn {
        match Reclaiming::pass() {
            Some((core, number)) if core == std::ptr::from_ref(self).addr() => Turn::Nested(number),
            _ => Turn::New,
        }
    }

    /// Returns `true` if other accounts could release what is missing, and `own` bytes of the account itself.
    pub(super) fn is_feasible(
        &self,
        table: &mut Table,
        account: usize,
        size: u64,
        own: u64,
        shortage: Shortage,
    ) -> bool {
        let askable = self.reclaimers.askable(account);
        let releasable = table.releasable(askable);
        // Free pages that a trim releases count as well.
        let trimmable = if shortage.pages > 0 { self.trimmable() } else { 0 };
        let pages = shortage.pages.saturating_sub(trimmable);
        pages <= releasable && table.is_feasible(account, size, own, askable, &self.heap_readings())
    }

    /// Returns `true` if `size` bytes could be had after others and `own` bytes of the account are released.
    pub(super) fn could_reserve(&self, account: usize, size: u64, own: u64) -> bool {
        let askable = self.reclaimers.askable(account);
        self.shared.lock().is_feasible(account, size, own, askable, &self.heap_readings())
    }

    /// Reclaims memory for a request, and decides on it at the end. The bytes are promised to it until then.
    pub(super) fn reclaim_for(
        &self,
        mut table: MutexGuard<'_, Table>,
        account: usize,
        size: u64,
    ) -> Result<(), BudgetExceeded> {
        let pass = self.shared.begin_pass(&mut table, account, size);
        drop(table);
        let result = self.reclaim_in_pass(account, size, pass.number());
        drop(pass);
        if self.shared.lock().has_queue() {
            self.shared.serve(|| self.readings());
        }
        result
    }

    fn reclaim_in_pass(&self, account: usize, size: u64, pass: u64) -> Result<(), BudgetExceeded> {
        let turn = Turn::Reclaiming(pass);
        // Free pages cost no account anything.
        let decide = || {
            let decide = || self.shared.lock().decide(account, size, &self.readings(), turn);
            match decide() {
                Err(shortage) if shortage.pages > 0 && self.trim() => decide(),
                decided => decided,
            }
        };
        let refuse = |shortage| {
            let mut table = self.shared.lock();
            self.refusal(&mut table, account, size, shortage, false)
        };
        let Err(mut shortage) = decide() else { return Ok(()) };
        // The bytes of others may not be enough for the pages that a trim has left.
        if shortage.pages > self.shared.lock().releasable(self.reclaimers.askable(account)) {
            return Err(refuse(shortage));
        }
        if shortage.bytes > 0 {
            // The pages are checked when the bytes are there.
            let missing = || {
                let missing = self.shared.lock().missing(account, size, &self.heap_readings(), turn);
                Some(missing).filter(|bytes| *bytes > 0)
            };
            let _decided_below = self.run_reclaimers(Some(account), ReclaimPriority::HIGHEST, Some(pass), missing);
        }
        // Each round halves the pages that are missing, or what is released does not help: pieces of pages that stay.
        let mut most = u64::MAX;
        loop {
            let Err(now) = decide() else { return Ok(()) };
            shortage = now;
            let helps = shortage.pages <= most;
            if shortage.bytes > 0 || !helps || !self.release_bytes(Some(account), Some(pass), shortage.pages + MIN_TRIM)
            {
                return Err(refuse(shortage));
            }
            most = shortage.pages / 2;
        }
    }

    /// Calls reclaimers until they have released `bytes`. A trim releases the pages of these. Returns `false` if nothing was
    /// released.
    fn release_bytes(&self, asker: Option<usize>, pass: Option<u64>, bytes: u64) -> bool {
        let before = self.reserved();
        let missing = || Some(bytes.saturating_sub(before.saturating_sub(self.reserved()))).filter(|left| *left > 0);
        let _as_much_as_possible = self.run_reclaimers(asker, ReclaimPriority::HIGHEST, pass, missing);
        self.reserved() < before
    }

    pub(super) fn reserved(&self) -> u64 {
        self.shared.lock().reserved()
    }

    /// Calls reclaimers in the order of their priority until nothing is missing, and returns `true` if so. None above
    /// `up_to` is called; for `asker`, an account, only those that it may ask. A round that releases nothing at critical
    /// pressure is the last.
    pub(super) fn run_reclaimers(
        &self,
        asker: Option<usize>,
        up_to: ReclaimPriority,
        pass: Option<u64>,
        mut missing: impl FnMut() -> Option<u64>,
    ) -> bool {
        let pass = pass.map(|number| (std::ptr::from_ref(self).addr(), number));
        let Some(_mark) = Reclaiming::begin(pass) else { return missing().is_none() };
        let mut pressure = Pressure::High;
        for _round in 0..MAX_ROUNDS {
            let Some(at_start) = missing() else { return true };
            let (mut last, count) = (None, self.reclaimers.count());
            loop {
                let Some(want) = missing() else { return true };
                let next = self.reclaimers.after(last, count, asker);
                let Some((key, account, reclaimer)) = next.filter(|(key, ..)| key.priority() <= up_to) else { break };
                last = Some(key);
                // Its minimum share is promised to it.
                let usage = self.shared.lock().usage(account);
                let want = if usage.minimum > 0 { want.min(usage.releasable()) } else { want };
                if want > 0 {
                    reclaim::call(reclaimer, ByteSize::bytes(want), pressure);
                }
            }
            let is_stuck = missing().is_some_and(|left| left >= at_start);
            if pressure == Pressure::Critical && is_stuck {
                break;
            }
            pressure = Pressure::Critical;
        }
        missing().is_none()
    }

    /// Returns the pages that a trim could release: those beyond the live heap. What the last trim left counts again after a
    /// pause.
    fn trimmable(&self) -> u64 {
        let Some(resident) = resident() else { return 0 };
        let beyond = resident.saturating_sub(live());
        let left = self.unreleasable.fetch_min(beyond, Relaxed).min(beyond);
        let is_paused = os::coarse_monotonic_ms() < self.next_trim_ms.load(Relaxed);
        let releasable = if is_paused { beyond - left } else { beyond };
        if releasable < MIN_TRIM { 0 } else { releasable }
    }

    /// Has the allocator release its free pages, unless the last trim left nothing to release. Returns `true` if it ran.
    fn trim(&self) -> bool {
        if self.trimmable() == 0 {
            return false;
        }
        let trimming = Stopwatch::start();
        // A hook that reserves must not reclaim.
        let _mark = Reclaiming::begin(None);
        if os::trim().is_err() {
            return false;
        }
        self.unreleasable.store(resident().unwrap_or(0).saturating_sub(live()), Relaxed);
        let pause = (micros(trimming.elapsed()).saturating_mul(TRIM_PAUSE) / 1000).max(MIN_TRIM_PAUSE_MS);
        self.next_trim_ms.store(os::coarse_monotonic_ms().saturating_add(pause), Relaxed);
        true
    }

    /// Checks the pages, if requests that could not wait have been granted since the last check: free ones are released, and then
    /// the bytes beyond the limit are reclaimed. The caller must not hold a lock that a reclaimer wants.
    #[cold]
    pub(super) fn check_pages(&self) {
        if Reclaiming::is_on() || !self.shared.take_check_due() {
            return;
        }
        let beyond = || {
            let mut table = self.shared.lock();
            let beyond = table.pages_beyond_limit(0, &self.readings());
            if beyond == 0 {
                table.set_checked();
            }
            beyond
        };
        if beyond() == 0 || (self.trim() && beyond() == 0) {
            return;
        }
        if self.release_bytes(None, None, beyond()) {
            self.trim();
        }
        self.shared.lock().set_checked();
    }

    /// Reclaims what is reserved beyond the capacity, and returns `true` if nothing is left of it.
    pub(super) fn reclaim_overdraft(&self, asker: Option<usize>) -> bool {
        let overdraft = || {
            let mut table = self.shared.lock();
            let capacity = table.capacity(&self.heap_readings());
            Some(table.reserved().saturating_sub(capacity)).filter(|bytes| *bytes > 0)
        };
        if self.shared.is_check_due() {
            self.check_pages();
        }
        overdraft().is_none() || self.run_reclaimers(asker, ReclaimPriority::HIGHEST, None, overdraft)
    }

    /// Removes a request from the queue, and releases what it was granted.
    pub(super) fn leave_queue(&self, number: u64) {
        self.shared.dequeue(number, || self.readings());
    }

    /// Has the first of the queue reclaim again, because more can be had, and serves the queue.
    pub(super) fn recheck_queue(&self) {
        let is_awaited = self.shared.lock().recheck_queue();
        if is_awaited {
            self.serve();
        }
    }

    /// Serves the requests that wait, if there is more capacity for them.
    #[cold]
    pub(super) fn serve(&self) {
        if self.shared.lock().has_queue() {
            self.shared.serve(|| self.readings());
        }
    }

    pub(super) fn refusal(
        &self,
        table: &mut Table,
        account: usize,
        size: u64,
        shortage: Shortage,
        is_reentrant: bool,
    ) -> BudgetExceeded {
        let limit = self.breakdown().limit();
        let capacity = table.capacity(&self.heap_readings());
        let turn = if is_reentrant { self.nested_turn() } else { Turn::New };
        let available = table.available(Some(account), &self.heap_readings(), turn);
        let available = if shortage.pages > 0 { available.min(size.saturating_sub(shortage.pages)) } else { available };
        let reserved = table.usages().map(|usage| (usage.name, ByteSize::bytes(usage.reserved)));
        let largest = board::largest_of(reserved);
        Refusal {
            account: table.usage(account).name,
            requested: ByteSize::bytes(size),
            available: ByteSize::bytes(available),
            limit,
            unavailable: limit.saturating_sub(ByteSize::bytes(capacity)),
            pages: ByteSize::bytes(shortage.pages),
            largest,
            is_reentrant,
        }
        .into()
    }
}

/// Returns the exact live heap.
fn live() -> u64 {
    heap::stats().map_or(0, |stats| stats.live.as_u64())
}

/// Returns the resident pages that no file backs, which the kernel cannot drop.
fn resident() -> Option<u64> {
    os::rss().ok().map(|rss| rss.anonymous.as_u64())
}
