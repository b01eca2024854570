//! The bytes that are reserved for a load while it runs.

use std::sync::{Arc, Weak};
use std::thread;

use crate::budget::{BudgetExceeded, Reservation};
use crate::size::ByteSize;

use super::super::bound::Claim;
use super::super::inner::Inner;
use super::super::stats::Cause;

/// Bytes of a running load: part of the cache's bound, and of its account. It does not keep the cache alive.
pub(super) struct LoadReservation<K, V, S> {
    inner: Weak<Inner<K, V, S>>,
    size: u64,
    reserved: Option<Reservation>,
}

/// Why a load cannot start.
pub(super) enum NoRoom {
    Budget(BudgetExceeded),
    Bound { size: ByteSize, available: ByteSize },
}

/// The number of times that a load evicts for its bytes, while other threads claim what it has evicted.
const MAX_CONTENDED: usize = 64;

impl<K, V, S> LoadReservation<K, V, S> {
    /// Reserves the bytes of one load, and evicts entries for it. `None` if the cache reserves nothing for loads.
    ///
    /// # Errors
    ///
    /// The bytes do not fit next to those of other loads, or the budget cannot grant them. Nothing was evicted for a load
    /// that could never start.
    pub(super) fn begin(inner: &Arc<Inner<K, V, S>>) -> Result<Option<Self>, NoRoom> {
        let Some(size) = inner.reserve_per_load else { return Ok(None) };
        let bound = &inner.bound;
        let mut load = Self { inner: Weak::new(), size: size.as_u64(), reserved: None };
        let Some(account) = inner.account() else {
            load.claim(inner)?;
            return Ok(Some(load));
        };
        let own = ByteSize::bytes(bound.stored_bytes());
        // The error of the account has the reason.
        let is_feasible = account.could_reserve(size, own);
        if is_feasible {
            load.claim(inner)?;
        }
        load.reserved = account.try_reserve_without_reclaim(size);
        // Other threads may take what was evicted. Then other accounts are asked.
        for _ in 0..3 {
            if load.reserved.is_some() || !is_feasible {
                break;
            }
            let missing = size.saturating_sub(account.available());
            inner.evict_bytes(missing.as_u64(), Cause::Pressure);
            load.reserved = account.try_reserve_without_reclaim(size);
        }
        if load.reserved.is_none() {
            load.reserved = Some(account.try_reserve(size).map_err(NoRoom::Budget)?);
        }
        Ok(Some(load))
    }

    /// Claims the bytes of the cache's bound.
    fn claim(&mut self, inner: &Arc<Inner<K, V, S>>) -> Result<(), NoRoom> {
        let bound = &inner.bound;
        let size = self.size;
        if size > bound.unreserved_bytes() && inner.refresh_after.is_some() {
            // The reservations of detached refreshes end with their entries.
            inner.remove_expired(usize::MAX, u64::MAX);
        }
        for _ in 0..MAX_CONTENDED {
            if size > bound.unreserved_bytes() {
                break;
            }
            let mut claim = Claim::new(bound);
            claim.add(bound.claim_free_bytes(size - claim.bytes()));
            inner.evict_to_claim(&mut claim, size);
            if claim.bytes() == size {
                claim.into_load();
                self.inner = Arc::downgrade(inner);
                return Ok(());
            }
            // Without its claim, one of two loads that wait for each other's can start.
            drop(claim);
            thread::yield_now();
        }
        let available = ByteSize::bytes(bound.unreserved_bytes());
        Err(NoRoom::Bound { size: ByteSize::bytes(size), available })
    }

    /// Passes on the reservation and the claim, for the loaded value.
    pub(super) fn into_parts(mut self) -> (Option<Reservation>, u64) {
        let reserved = self.reserved.take();
        let Some(inner) = std::mem::take(&mut self.inner).upgrade() else { return (reserved, 0) };
        inner.bound.load_to_claim(self.size);
        (reserved, self.size)
    }
}

impl<K, V, S> Drop for LoadReservation<K, V, S> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.bound.release_load(self.size);
        }
    }
}
