//! Whom the buffers of a stream are charged to, and what each of them has reserved.

use std::collections::TryReserveError;

use crate::budget::{Account, BudgetExceeded, Pressure, Reservation};
use crate::size::ByteSize;

/// An account, or nobody. A clone is the same account.
#[derive(Clone, Debug, Default)]
pub(super) struct Charge(Option<Account>);

/// Why a buffer cannot have `wanted` bytes more.
#[derive(Debug)]
pub(super) enum NoRoom {
    Memory { wanted: ByteSize, source: TryReserveError },
    Budget { source: BudgetExceeded },
}

impl Charge {
    pub(super) fn to(account: Account) -> Self {
        Self(Some(account))
    }

    /// Reserves for a buffer that is about to be made.
    pub(super) fn hold(&self, size: ByteSize) -> Result<Held, NoRoom> {
        let reserved = self.0.as_ref().map(|account| account.try_reserve(size)).transpose();
        Ok(Held(reserved.map_err(|source| NoRoom::Budget { source })?))
    }
}

/// What is reserved for one buffer, given back with it.
#[derive(Debug, Default)]
pub(super) struct Held(Option<Reservation>);

impl Held {
    pub(super) fn charge(&self) -> Charge {
        Charge(self.0.as_ref().map(Reservation::account))
    }

    pub(super) fn try_grow(&mut self, more: usize) -> Result<(), NoRoom> {
        let Some(reserved) = &mut self.0 else { return Ok(()) };
        reserved.try_grow(ByteSize::bytes(more as u64)).map_err(|source| NoRoom::Budget { source })
    }

    pub(super) fn shrink(&mut self, less: usize) {
        if let Some(reserved) = &mut self.0 {
            reserved.shrink(ByteSize::bytes(less as u64));
        }
    }

    /// How full the budget is; calm where nobody is charged.
    pub(super) fn pressure(&self) -> Pressure {
        self.0.as_ref().map_or(Pressure::Normal, Reservation::pressure)
    }

    /// Reserves so much more if nobody has to give anything back for it, and the budget stays calm.
    pub(super) fn grows_calmly(&mut self, more: usize) -> bool {
        let size = ByteSize::bytes(more as u64);
        let grown = self.0.as_mut().is_some_and(|reserved| reserved.try_grow_without_reclaim(size));
        if grown && self.pressure() > Pressure::Normal {
            self.shrink(more);
            return false;
        }
        grown
    }
}
