//! Budgets: what a reservation costs, beside what one would make by hand, and whether many threads lose a byte.

use std::hint::black_box;
use std::sync::Arc;

use parking_lot::Mutex;
use plimsoll::{Account, ByteSize, MemoryBudget, Reservation};
use tokio::sync::Semaphore;

use crate::Random;
use crate::heap::speed::{Work, alone, together};

/// Bytes of one reservation.
const SIZE: u32 = 4096;

/// Reserves and drops: nanoseconds per pair on one thread and on two, each of which has an account of its own.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// A lone thread.
    pub alone: f64,
    /// Two threads at once.
    pub together: f64,
}

/// Measures this crate's budget.
pub fn plimsoll(chunks: u32) -> Times {
    let budget = MemoryBudget::new(ByteSize::gib(1));
    let work = |thread| Reserve(budget.account(if thread == 0 { "one" } else { "two" }));
    Times { alone: alone(chunks, work(0)), together: together(chunks, work) }
}

/// Measures a table of what each of two holds, under a lock, with a guard that gives back. It knows its holders.
pub fn table(chunks: u32) -> Times {
    let table = Arc::new(Mutex::new([0_u64; 2]));
    let work = |thread| Table(Arc::clone(&table), thread);
    Times { alone: alone(chunks, work(0)), together: together(chunks, work) }
}

/// Measures a semaphore with a permit for each byte. It does not know its holders.
pub fn semaphore(chunks: u32) -> Times {
    let semaphore = Arc::new(Semaphore::new(1 << 30));
    let work = |_| Permits(Arc::clone(&semaphore));
    Times { alone: alone(chunks, work(0)), together: together(chunks, work) }
}

struct Reserve(Account);

impl Work for Reserve {
    const OPERATIONS: u32 = 10_000;

    fn chunk(&mut self) {
        for _ in 0..Self::OPERATIONS {
            drop(black_box(self.0.try_reserve(black_box(ByteSize::bytes(SIZE.into())))));
        }
    }
}

struct Table(Arc<Mutex<[u64; 2]>>, u64);

/// Bytes entered in a table.
struct Entered<'a>(&'a Table, u64);

impl Table {
    fn entry<'a>(&self, table: &'a mut [u64; 2]) -> &'a mut u64 {
        let [one, two] = table;
        if self.1 == 0 { one } else { two }
    }

    fn enter(&self, bytes: u64) -> Option<Entered<'_>> {
        let mut table = self.0.lock();
        if table.iter().sum::<u64>() + bytes > 1 << 30 {
            return None;
        }
        *self.entry(&mut table) += bytes;
        Some(Entered(self, bytes))
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *self.0.entry(&mut self.0.0.lock()) -= self.1;
    }
}

impl Work for Table {
    const OPERATIONS: u32 = 10_000;

    fn chunk(&mut self) {
        for _ in 0..Self::OPERATIONS {
            drop(black_box(self.enter(black_box(SIZE.into()))));
        }
    }
}

struct Permits(Arc<Semaphore>);

impl Work for Permits {
    const OPERATIONS: u32 = 10_000;

    fn chunk(&mut self) {
        for _ in 0..Self::OPERATIONS {
            drop(black_box(Arc::clone(&self.0).try_acquire_many_owned(black_box(SIZE))));
        }
    }
}

/// Bytes by which the sum of the holders, or of all that is reserved, is off after `operations` on each of 16 threads.
pub fn lost_bytes(operations: u32) -> u64 {
    let budget = MemoryBudget::new(ByteSize::mib(1));
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
    let held: Vec<Reservation> = std::thread::scope(|scope| {
        let start = |(seed, name)| {
            let account = budget.account(name);
            scope.spawn(move || churn(&account, seed, operations))
        };
        let threads: Vec<_> = (0..).zip(names).map(start).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
    });
    let truth: u64 = held.iter().map(|held| held.size().as_u64()).sum();
    let holders: u64 = budget.holders().map(|holding| holding.held.as_u64()).sum();
    let off = truth.abs_diff(holders) + truth.abs_diff(budget.reserved().as_u64());
    drop(held);
    off + budget.reserved().as_u64()
}

/// Reserves, grows, shrinks and drops at random; returns what it holds in the end.
fn churn(account: &Account, seed: u64, operations: u32) -> Vec<Reservation> {
    let mut random = Random::new(seed);
    let mut held: Vec<Reservation> = Vec::new();
    for _ in 0..operations {
        let size = ByteSize::bytes(random.size(16 << 10) as u64);
        match random.bits() >> 61 {
            0..3 if held.len() < 16 => held.extend(account.try_reserve(size)),
            3 => drop(held.last_mut().map(|last| last.try_grow(size))),
            4 => drop(held.last_mut().map(|last| last.shrink(size))),
            _ => drop(held.pop()),
        }
    }
    held
}
