//! Which slot the running thread books on, from its first allocation to its last.
//!
//! ```text
//!   UNBOUND ──first slow path──> a slot of the ledger ──thread-local destructors──> GONE
//!      └──all slots taken──> UNBOUND, booking on the line, and trying again each time
//! ```
//!
//! Both ends point at a sentinel slot, so the fast path does not tell them apart. After GONE the thread's other
//! destructors may still allocate and free; they book on the line.
//!
//! A thread that first allocates after its thread-local destructors, as a C thread may, binds a slot that it does not
//! release. The kernel proves the end of such a thread: when all slots are taken, those of ended threads are
//! released. The child of a fork has one thread, and releases the slots of all others.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use crate::os::{self, ThreadStamp};

use super::ledger::{Ledger, SLOTS};
#[cfg(feature = "profile")]
use super::profile;
use super::slot::Slot;
use super::{alarm, emergency_log, fresh};

/// The books of this process. One for all instances of the allocator, as thread-locals cannot be per instance.
pub(super) static LEDGER: Ledger<SLOTS> = Ledger::new();

static UNBOUND: Slot = Slot::sentinel();
static GONE: Slot = Slot::sentinel();

/// Gives the slot back when the thread's destructors run.
struct Exit;

impl Drop for Exit {
    fn drop(&mut self) {
        let slot = SLOT.replace(&GONE);
        if !ptr::eq(slot, &raw const UNBOUND) && !ptr::eq(slot, &raw const GONE) {
            release(slot);
        }
    }
}

/// The thread that has bound a slot. Written by that thread.
struct Owner {
    /// [`ThreadStamp::ids`]; 0 while the owner is not known, which is no proof of anything.
    ids: AtomicU64,
    seen_ms: AtomicU64,
}

/// In the order of the slots.
static OWNERS: [Owner; SLOTS] = [const { Owner { ids: AtomicU64::new(0), seen_ms: AtomicU64::new(0) } }; SLOTS];

/// Binds a free slot to the calling thread; `None` if all are taken by threads that may be running.
fn bind() -> Option<&'static Slot> {
    watch_forks();
    let slot = LEDGER.bind().or_else(|| {
        release_ended();
        LEDGER.bind()
    })?;
    stamp(slot);
    #[cfg(feature = "profile")]
    {
        slot.prepare();
        // Asked after the counter is prepared: the profile changes its own state before the counters.
        if profile::looks_at_frees() {
            slot.look_at_frees();
        }
    }
    Some(slot)
}

/// Records the calling thread as the owner of `slot`.
fn stamp(slot: &Slot) {
    if let Some(owner) = LEDGER.index(slot).and_then(|index| OWNERS.get(index)) {
        let ThreadStamp { ids, seen_ms } = ThreadStamp::current();
        owner.seen_ms.store(seen_ms, SeqCst);
        owner.ids.store(ids, SeqCst);
    }
}

/// Releases a slot. Its owner is forgotten first: the next one must not be judged by this one's end.
fn release(slot: &Slot) {
    if let Some(index) = LEDGER.index(slot)
        && let Some(owner) = OWNERS.get(index)
    {
        owner.ids.store(0, SeqCst);
        fresh::forget_thread(index);
    }
    LEDGER.release(slot);
}

/// Releases the slots of threads that have ended, if there are others than one. At most once in a second, as it asks
/// the kernel about each owner, which takes 2 ms for 128 of them.
#[cold]
pub(super) fn release_ended() {
    const INTERVAL_MS: u64 = 1000;
    static LAST_MS: AtomicU64 = AtomicU64::new(0);

    if LEDGER.threads_now() < 2 {
        return;
    }
    let (now, last) = (os::coarse_monotonic_ms(), LAST_MS.load(Relaxed));
    if now < last.saturating_add(INTERVAL_MS) || LAST_MS.compare_exchange(last, now, SeqCst, Relaxed).is_err() {
        return;
    }
    for (owner, slot) in OWNERS.iter().zip(LEDGER.slots()) {
        let ids = owner.ids.load(SeqCst);
        let has_ended = ThreadStamp { ids, seen_ms: owner.seen_ms.load(SeqCst) }.has_ended();
        // The thread that forgets the owner releases the slot.
        if has_ended && owner.ids.compare_exchange(ids, 0, SeqCst, Relaxed).is_ok() {
            LEDGER.release(slot);
        }
    }
}

/// Has the child of every later fork begin with a clean state.
fn watch_forks() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if !WATCHED.load(Relaxed) && !WATCHED.swap(true, SeqCst) {
        os::on_fork_child(begin_child);
    }
}

/// Runs in the child of a fork. Its other threads do not exist, and its requests and alarms are the parent's.
///
/// A slot that its owner was changing at the fork may put the total off by the request that was being made.
extern "C" fn begin_child() {
    let own = own();
    #[cfg(feature = "profile")]
    LEDGER.slots().iter().for_each(Slot::repair_after_fork);
    for (owner, slot) in OWNERS.iter().zip(LEDGER.slots()) {
        if own.is_some_and(|own| ptr::eq(own, slot)) {
            stamp(slot);
        } else if LEDGER.is_bound(slot) {
            owner.ids.store(0, SeqCst);
            LEDGER.release(slot);
        }
    }
    emergency_log::clear_after_fork();
    alarm::restart_after_fork();
    #[cfg(feature = "profile")]
    profile::restart_after_fork();
}

thread_local! {
    /// Constant and without `Drop`: an access is one load off the thread pointer, and allowed until the thread is gone.
    static SLOT: Cell<&'static Slot> = const { Cell::new(&UNBOUND) };

    /// Registered by the slow path that binds the slot, so that the fast path pays nothing for it. The standard
    /// library promises that `thread_local!` does not use the global allocator (since Rust 1.93).
    static EXIT: Exit = const { Exit };
}

/// The slot for the fast path: the thread's own, or a sentinel that refuses everything.
#[inline(always)]
#[expect(clippy::inline_always, reason = "two instructions of the fast path")]
pub(super) fn slot() -> &'static Slot {
    SLOT.get()
}

/// The thread's own slot if it has one. Binds none, so a reader takes no slot, and a signal handler no lock.
#[inline]
pub(super) fn own() -> Option<&'static Slot> {
    let slot = SLOT.get();
    let none = ptr::eq(slot, &raw const UNBOUND) || ptr::eq(slot, &raw const GONE);
    (!none).then_some(slot)
}

/// Returns the number of the thread's own slot among all, if it has one.
pub(super) fn number() -> Option<usize> {
    LEDGER.index(own()?)
}

/// The thread's own slot, bound now if need be; `None` when all are taken or the thread is past its destructors.
#[inline]
pub(super) fn bound() -> Option<&'static Slot> {
    own().or_else(bind_now)
}

#[cold]
fn bind_now() -> Option<&'static Slot> {
    if ptr::eq(SLOT.get(), &raw const GONE) {
        return None;
    }
    if EXIT.try_with(|_| ()).is_err() {
        SLOT.set(&GONE);
        return None;
    }
    // Registering the guard may itself have come through here, in an inner allocator that uses thread-locals.
    if ptr::eq(SLOT.get(), &raw const UNBOUND) {
        SLOT.set(bind()?);
    }
    Some(SLOT.get())
}
