//! Looking for expired entries, in passes of several batches.
//!
//! The store knows a tick before which no entry expires. A pass over all entries sets it to the lowest expiry of those that
//! stay. Entries that come in during the pass count too, and a pass that began later makes the result void.

use super::{NEVER, Store, Terms, number};

/// A look at entries, in batches between which others may change the store.
pub(in super::super) struct Pass {
    number: u64,
    /// The slot after the next one to look at.
    next: u32,
    /// The number of entries still to look at.
    pub(in super::super) left: usize,
    /// The lowest expiry of the entries that have not expired.
    first_expiry: u32,
    /// The pass looks at all entries.
    is_complete: bool,
}

impl<K, V> Store<K, V> {
    /// Records the expiry of a new entry.
    #[inline]
    pub(super) fn note_expiry(&mut self, terms: Terms) {
        let Terms { expires, idle_deadline, .. } = terms;
        let expires = if self.idle_deadlines.is_some() { expires.min(idle_deadline) } else { expires };
        self.first_expiry = self.first_expiry.min(expires);
        self.new_expiry = self.new_expiry.min(expires);
    }

    /// Returns `false` if no entry has expired.
    pub(in super::super) fn may_have_expired(&self, tick: u32) -> bool {
        self.first_expiry <= tick
    }

    /// Begins a look at up to `limit` entries: at all of them, or at those after the last look.
    pub(in super::super) fn begin_pass(&mut self, limit: usize) -> Pass {
        self.passes += 1;
        self.new_expiry = NEVER;
        let is_complete = limit >= self.slots.len();
        let next = if is_complete { number(self.slots.len()) } else { self.cursor };
        Pass { number: self.passes, next, left: limit.min(self.slots.len()), first_expiry: NEVER, is_complete }
    }

    /// Returns the next entry of a pass that has expired, after at most `visits` entries. `None` with `pass.left` above 0:
    /// the pass goes on.
    pub(in super::super) fn next_expired(&mut self, pass: &mut Pass, visits: &mut usize, tick: u32) -> Option<u32> {
        while pass.left > 0 && *visits > 0 {
            if self.slots.is_empty() {
                pass.left = 0;
                break;
            }
            if pass.next == 0 || pass.next as usize > self.slots.len() {
                pass.next = number(self.slots.len());
            }
            // Downward: the last entry, which moves to the slot of a removed one, has been checked.
            pass.next -= 1;
            pass.left -= 1;
            *visits -= 1;
            if !pass.is_complete {
                self.cursor = pass.next;
            }
            let expires = self.expiry_of(pass.next);
            if expires <= tick {
                return Some(pass.next);
            }
            pass.first_expiry = pass.first_expiry.min(expires);
        }
        if pass.left == 0 && pass.is_complete && pass.number == self.passes {
            self.first_expiry = pass.first_expiry.min(self.new_expiry);
        }
        None
    }
}
