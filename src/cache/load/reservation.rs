//! The bytes that are reserved for a load while it runs.

use std::sync::{Arc, Weak};

use crate::budget::{BudgetExceeded, Reservation};
use crate::size::ByteSize;

use super::super::Inner;
use super::super::locked::State;
use super::super::stats::Cause;

/// Bytes of a running load: part of the cache's bound, and of its account. It does not keep the cache alive.
pub(super) struct LoadReservation<K, V, S> {
    inner: Weak<Inner<K, V, S>>,
    size: u64,
    pub(super) reserved: Option<Reservation>,
}

/// Why a load cannot start.
pub(super) enum NoRoom {
    Budget(BudgetExceeded),
    Bound { size: ByteSize, available: ByteSize },
}

impl<K, V, S> LoadReservation<K, V, S> {
    /// Reserves the bytes of one load, and evicts entries for it. `None` if the cache reserves nothing for loads.
    ///
    /// # Errors
    ///
    /// The bytes do not fit next to those of other loads, or the budget cannot grant them. Nothing was evicted for a load
    /// that could never start.
    pub(super) fn begin(inner: &Arc<Inner<K, V, S>>) -> Result<Option<Self>, NoRoom> {
        let Some(size) = inner.reserve_per_load else { return Ok(None) };
        let mut load = Self { inner: Weak::new(), size: size.as_u64(), reserved: None };
        let mut state = inner.state.lock();
        let available = ByteSize::bytes(state.unreserved_bytes());
        if size > available {
            return Err(NoRoom::Bound { size, available });
        }
        let account = state.account();
        // The error of the account has the reason.
        let is_feasible = state.could_hold(load.size);
        let mut is_within = true;
        if is_feasible {
            state.loading += load.size;
            load.inner = Arc::downgrade(inner);
            is_within = state.is_within_limits();
        }
        drop(state);
        if !is_within {
            inner.in_batches(State::enforce_limits);
        }
        let Some(account) = account else { return Ok(Some(load)) };
        load.reserved = account.reserve_if_free(size);
        // Other threads may take what was evicted. Then other accounts are asked.
        for _ in 0..3 {
            if load.reserved.is_some() || !is_feasible {
                break;
            }
            let missing = size.saturating_sub(account.budget().available());
            inner.evict_bytes(missing.as_u64(), Cause::Pressure);
            load.reserved = account.reserve_if_free(size);
        }
        if load.reserved.is_none() {
            load.reserved = Some(account.try_reserve(size).map_err(NoRoom::Budget)?);
        }
        Ok(Some(load))
    }
}

impl<K, V, S> Drop for LoadReservation<K, V, S> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.state.lock().loading -= self.size;
        }
    }
}
