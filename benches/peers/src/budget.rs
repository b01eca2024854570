//! Budgets: what a reservation costs, beside what one would make by hand, and whether many threads lose a byte.
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll::{Account, ByteSize, Cache, MemoryBudget, Reservation};
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
    let budget = MemoryBudget::builder().limit(ByteSize::gib(1)).count_heap().build().unwrap();
    let work = |thread| Reserve(budget.account(if thread == 0 { "one" } else { "two" }).unwrap());
    Times { alone: alone(chunks, work(0)), together: together(chunks, work) }
}

/// Measures a table of what each account has, under std's mutex, with the same checks.
pub fn table(chunks: u32) -> Times {
    let table = Arc::new(Mutex::new(Accounts { used: 0, capacity: 1 << 30, held: [0; 65], peak: [0; 65] }));
    let work = |thread| Table(Arc::clone(&table), thread as usize);
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

/// The sums of all accounts, and of each.
struct Accounts {
    used: u64,
    capacity: u64,
    held: [u64; 65],
    peak: [u64; 65],
}

struct Table(Arc<Mutex<Accounts>>, usize);

/// Bytes entered in a table.
struct Entered<'a>(&'a Table, u64);

impl Table {
    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, bytes: u64) -> Option<Entered<'_>> {
        let accounts = &mut *self.accounts();
        let sum = accounts.used.checked_add(bytes).filter(|sum| *sum <= accounts.capacity)?;
        let (held, peak) = (accounts.held.get_mut(self.1)?, accounts.peak.get_mut(self.1)?);
        accounts.used = sum;
        *held += bytes;
        *peak = (*peak).max(*held);
        Some(Entered(self, bytes))
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let accounts = &mut *self.0.accounts();
        accounts.used -= self.1;
        if let Some(held) = accounts.held.get_mut(self.0.1) {
            *held -= self.1;
        }
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
            let account = budget.account(name).unwrap();
            scope.spawn(move || churn(&account, seed, operations))
        };
        let threads: Vec<_> = (0..).zip(names).map(start).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
    });
    let truth: u64 = held.iter().map(|held| held.size().as_u64()).sum();
    let holders: u64 = budget.accounts().iter().map(|account| account.reserved.as_u64()).sum();
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

/// Runs a large request of 30 MiB, `rounds` times, against two threads that grow and drop small ones, and a cache that fills the rest. Returns the refusals of the large request and of the small ones.
pub fn lost_race(rounds: u32) -> (u32, u32) {
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let account = |name: &'static str| budget.account(name).unwrap();
    let cache: Cache<u64, Vec<u8>> =
        Cache::builder("cache").max_bytes(ByteSize::mib(95)).account(account("cache")).build().unwrap();
    let mut key = 0;
    race(
        rounds,
        || {
            while budget.available() > ByteSize::mib(5) {
                key += 1;
                if cache.insert(key, vec![1; 1000]).is_err() {
                    break;
                }
            }
        },
        || account("large").try_reserve(ByteSize::mib(30)).is_ok(),
        |stop, refused| {
            let small = account("small");
            while !stop.load(Relaxed) {
                let Ok(mut reserved) = small.try_reserve(ByteSize::kib(64)) else {
                    refused.fetch_add(1, Relaxed);
                    continue;
                };
                for _ in 0..32 {
                    refused.fetch_add(u32::from(reserved.try_grow(ByteSize::kib(64)).is_err()), Relaxed);
                }
            }
        },
    )
}

/// Runs the control: bytes that are released for the large request can be taken by all, and it asks twice.
pub fn lost_race_control(rounds: u32) -> (u32, u32) {
    const LIMIT: u64 = 100 << 20;
    let (used, cached) = (AtomicU64::new(0), AtomicU64::new(0));
    let take =
        |bytes: u64| used.fetch_update(Relaxed, Relaxed, |used| Some(used + bytes).filter(|sum| *sum <= LIMIT)).is_ok();
    race(
        rounds,
        || {
            while take(1 << 20) {
                cached.fetch_add(1 << 20, Relaxed);
            }
        },
        || {
            for _ in 0..2 {
                if take(30 << 20) {
                    used.fetch_sub(30 << 20, Relaxed);
                    return true;
                }
                let missing = (used.load(Relaxed) + (30 << 20)).saturating_sub(LIMIT).min(cached.load(Relaxed));
                cached.fetch_sub(missing, Relaxed);
                used.fetch_sub(missing, Relaxed);
                std::thread::yield_now();
            }
            false
        },
        |stop, refused| {
            while !stop.load(Relaxed) {
                let parts = (0..32).filter(|_| take(64 << 10)).count();
                refused.fetch_add(32 - parts as u32, Relaxed);
                used.fetch_sub((parts as u64) << 16, Relaxed);
            }
        },
    )
}

/// Counts the refusals of a large request, before each of which the cache is filled, and of two threads of small ones.
fn race(
    rounds: u32,
    mut fill: impl FnMut(),
    large: impl Fn() -> bool,
    small: impl Fn(&AtomicBool, &AtomicU32) + Sync,
) -> (u32, u32) {
    let (stop, refused) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut lost = 0;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| small(&stop, &refused));
        }
        for _ in 0..rounds {
            fill();
            lost += u32::from(!large());
        }
        stop.store(true, Relaxed);
    });
    (lost, refused.into_inner())
}

/// Runs the control: a budget that takes the highest live heap for the live heap, and reads it again only when it grants.
/// Returns the number of requests of 8 MiB, of 1000, that it refuses after 110 of 100 MiB were live.
pub fn sticky_control() -> u32 {
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let account = budget.account("requests").unwrap();
    let _highest = budget.account("live").unwrap().reserve(ByteSize::mib(110));
    (0..1000).map(|_| u32::from(account.try_reserve(ByteSize::mib(8)).is_err())).sum()
}
