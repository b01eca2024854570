//! Which slot the running thread books on, from its first allocation to its last.
//!
//! ```text
//!   UNBOUND ──first slow path──> a slot of the ledger ──thread-local destructors──> GONE
//!      └──all slots taken──> UNBOUND, booking on the line, and trying again each time
//! ```
//!
//! Both ends point at a sentinel slot, so the fast path does not tell them apart. After GONE the thread's other
//! destructors may still allocate and free; they book on the line.

use std::cell::Cell;
use std::ptr;

use super::ledger::{Ledger, SLOTS};
use super::slot::Slot;

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
            LEDGER.release(slot);
        }
    }
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
pub(super) fn own() -> Option<&'static Slot> {
    let slot = SLOT.get();
    let none = ptr::eq(slot, &raw const UNBOUND) || ptr::eq(slot, &raw const GONE);
    (!none).then_some(slot)
}

/// The thread's own slot, bound now if need be; `None` when all are taken or the thread is past its destructors.
pub(super) fn bound() -> Option<&'static Slot> {
    let slot = SLOT.get();
    if ptr::eq(slot, &raw const GONE) {
        return None;
    }
    if !ptr::eq(slot, &raw const UNBOUND) {
        return Some(slot);
    }
    if EXIT.try_with(|_| ()).is_err() {
        SLOT.set(&GONE);
        return None;
    }
    // Registering the guard may itself have come through here, in an inner allocator that uses thread-locals.
    if ptr::eq(SLOT.get(), &raw const UNBOUND) {
        SLOT.set(LEDGER.bind()?);
    }
    Some(SLOT.get())
}
