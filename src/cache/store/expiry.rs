//! Looking for expired entries, in a pass that goes on from batch to batch.
//!
//! The store knows a tick before which no entry expires. When a pass has come to its end, this is the lowest expiry of the
//! entries that it has seen and of those that were inserted during the pass.

use super::{NEVER, Store, Terms, number};

/// A pass over all entries, from the last slot to the first.
#[derive(Default)]
pub(super) struct Pass {
    /// The slot after the next one to look at. 0: the pass has not begun, or has come to its end.
    next: u32,
    /// The lowest expiry of the entries that it has seen and left. `None`: it has not begun.
    first_expiry: Option<u32>,
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

    /// Returns the next entry of the pass that has expired, after at most `looks` entries. `None`: there was none among them,
    /// or the pass has come to its end.
    pub(in super::super) fn next_expired(&mut self, looks: &mut usize, tick: u32) -> Option<u32> {
        loop {
            if self.pass.next == 0
                && let Some(first_expiry) = self.pass.first_expiry.take()
            {
                self.first_expiry = first_expiry.min(self.new_expiry);
                return None;
            }
            if *looks == 0 || self.slots.is_empty() {
                return None;
            }
            if self.pass.first_expiry.is_none() {
                self.pass = Pass { next: number(self.slots.len()), first_expiry: Some(NEVER) };
                self.new_expiry = NEVER;
            }
            // Downward: the last entry, which moves to the slot of a removed one, has been seen.
            self.pass.next = self.pass.next.min(number(self.slots.len())) - 1;
            *looks -= 1;
            let expires = self.kept_until(self.pass.next);
            if expires <= tick {
                return Some(self.pass.next);
            }
            self.pass.first_expiry = self.pass.first_expiry.map(|first| first.min(expires));
        }
    }
}
