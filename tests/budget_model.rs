//! The budget beside a twin so short that it cannot be wrong, under random operations; and under 16 threads at once.
#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use plimsoll::budget::{Reclaim, ReclaimPriority};
use plimsoll::{ByteSize, MemoryBudget, Pressure, Reservation};
use proptest::prelude::*;

const NAMES: [&str; 3] = ["model-a", "model-b", "model-c"];

const fn bytes(n: u64) -> ByteSize {
    ByteSize::bytes(n)
}

/// One operation; reservations are picked by index, modulo how many there are.
#[derive(Clone, Debug)]
enum Op {
    Reserve { account: usize, size: u64 },
    ReserveIfFree { account: usize, size: u64 },
    Book { account: usize, size: u64 },
    Grow { which: usize, size: u64 },
    GrowIfFree { which: usize, size: u64 },
    BookMore { which: usize, size: u64 },
    Resize { which: usize, size: u64 },
    Shrink { which: usize, size: u64 },
    Split { which: usize, size: u64 },
    Merge { which: usize, into: usize },
    Drop { which: usize },
}

/// Sizes around the room of 1000, and the largest there are.
fn size() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0_u64..400, 2 => 0_u64..1200, 1 => Just(u64::MAX), 1 => Just(i64::MAX as u64)]
}

fn op() -> impl Strategy<Value = Op> {
    let (account, which) = (0..NAMES.len(), 0_usize..8);
    prop_oneof![
        4 => (account.clone(), size()).prop_map(|(account, size)| Op::Reserve { account, size }),
        2 => (account.clone(), size()).prop_map(|(account, size)| Op::ReserveIfFree { account, size }),
        1 => (account, 0_u64..900).prop_map(|(account, size)| Op::Book { account, size }),
        2 => (which.clone(), size()).prop_map(|(which, size)| Op::Grow { which, size }),
        2 => (which.clone(), size()).prop_map(|(which, size)| Op::GrowIfFree { which, size }),
        1 => (which.clone(), 0_u64..900).prop_map(|(which, size)| Op::BookMore { which, size }),
        2 => (which.clone(), size()).prop_map(|(which, size)| Op::Resize { which, size }),
        2 => (which.clone(), size()).prop_map(|(which, size)| Op::Shrink { which, size }),
        2 => (which.clone(), size()).prop_map(|(which, size)| Op::Split { which, size }),
        2 => (which.clone(), which.clone()).prop_map(|(which, into)| Op::Merge { which, into }),
        3 => which.prop_map(|which| Op::Drop { which }),
    ]
}

/// The twin: reservations as numbers.
#[derive(Default)]
struct Twin {
    held: Vec<(usize, u64)>,
}

impl Twin {
    fn used(&self) -> u64 {
        self.held.iter().map(|(_, size)| size).sum()
    }

    fn fits(&self, size: u64) -> bool {
        size == 0 || u128::from(self.used()) + u128::from(size) <= 1000
    }
}

#[expect(clippy::too_many_lines, reason = "one arm for each operation")]
fn step(op: &Op, budget: &MemoryBudget, real: &mut Vec<Reservation>, twin: &mut Twin) {
    let pick = |which: usize| which.checked_rem(real.len());
    match *op {
        Op::Reserve { account, size } | Op::ReserveIfFree { account, size } | Op::Book { account, size } => {
            let handle = budget.account(NAMES[account]).unwrap();
            let fits = twin.fits(size) || matches!(op, Op::Book { .. });
            let got = match op {
                Op::Reserve { .. } => handle.try_reserve(bytes(size)).ok(),
                Op::Book { .. } => Some(handle.reserve(bytes(size))),
                _ => handle.try_reserve_without_reclaim(bytes(size)),
            };
            assert_eq!(got.is_some(), fits);
            if let Some(got) = got {
                real.push(got);
                twin.held.push((account, size));
            }
        }
        Op::Grow { which, size } | Op::GrowIfFree { which, size } | Op::BookMore { which, size } => {
            let Some(at) = pick(which) else { return };
            let fits = twin.fits(size) || matches!(op, Op::BookMore { .. });
            let grown = match op {
                Op::Grow { .. } => real[at].try_grow(bytes(size)).is_ok(),
                Op::BookMore { .. } => {
                    real[at].grow(bytes(size));
                    true
                }
                _ => real[at].try_grow_without_reclaim(bytes(size)),
            };
            assert_eq!(grown, fits);
            twin.held[at].1 += if fits { size } else { 0 };
        }
        Op::Resize { which, size } => {
            let Some(at) = pick(which) else { return };
            let held = twin.held[at].1;
            let fits = size <= held || twin.fits(size - held);
            assert_eq!(real[at].try_resize(bytes(size)).is_ok(), fits);
            twin.held[at].1 = if fits { size } else { held };
        }
        Op::Shrink { which, size } => {
            let Some(at) = pick(which) else { return };
            let given = size.min(twin.held[at].1);
            assert_eq!(real[at].shrink(bytes(size)), bytes(given));
            twin.held[at].1 -= given;
        }
        Op::Split { which, size } => {
            let Some(at) = pick(which) else { return };
            let split = real[at].split(bytes(size));
            assert_eq!(split.is_some(), size <= twin.held[at].1);
            if let Some(split) = split {
                real.push(split);
                twin.held[at].1 -= size;
                twin.held.push((twin.held[at].0, size));
            }
        }
        Op::Merge { which, into } => {
            let Some(from) = pick(which) else { return };
            let (taken, (account, size)) = (real.swap_remove(from), twin.held.swap_remove(from));
            let Some(into) = into.checked_rem(real.len()) else {
                real.push(taken);
                twin.held.push((account, size));
                return;
            };
            let back = real[into].merge(taken).err();
            assert_eq!(back.is_none(), account == twin.held[into].0);
            match back {
                None => twin.held[into].1 += size,
                Some(back) => {
                    real.push(back);
                    twin.held.push((account, size));
                }
            }
        }
        Op::Drop { which } => {
            let Some(at) = pick(which) else { return };
            drop(real.swap_remove(at));
            twin.held.swap_remove(at);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_budget_does_what_its_twin_does(ops in proptest::collection::vec(op(), 1..80)) {
        let budget = MemoryBudget::new(bytes(1000));
        let (mut real, mut twin) = (Vec::new(), Twin::default());
        for op in &ops {
            step(op, &budget, &mut real, &mut twin);
            prop_assert_eq!(budget.reserved(), bytes(twin.used()));
            prop_assert_eq!(budget.available(), bytes(1000_u64.saturating_sub(twin.used())));
            let sum = budget.accounts().iter().map(|account| account.reserved.as_u64()).sum::<u64>();
            prop_assert_eq!(sum, twin.used());
            for (account, name) in NAMES.iter().enumerate() {
                let held = twin.held.iter().filter(|(of, _)| *of == account).map(|(_, size)| size).sum();
                prop_assert_eq!(budget.account(*name).unwrap().reserved(), bytes(held));
            }
        }
        drop(real);
        prop_assert_eq!(budget.reserved(), ByteSize::ZERO);
    }
}

/// A cache in miniature: bytes under a lock, given back when the lock is free, with a reservation made on the way.
struct Cache {
    held: Mutex<Option<Reservation>>,
    budget: MemoryBudget,
}

/// Keeps the cache alive: it owns no handle.
struct Reclaimer(Arc<Cache>);

impl Reclaim for Reclaimer {
    fn reclaim(&self, want: ByteSize, pressure: Pressure) {
        let nested = self.0.budget.account("scratch").unwrap().try_reserve(bytes(64));
        let Ok(mut held) = self.0.held.try_lock() else { return };
        let Some(held) = held.as_mut() else { return };
        drop(nested);
        held.shrink(if pressure >= Pressure::Critical { want } else { bytes(want.as_u64() / 2) });
    }
}

/// Numbers below a bound, from a xorshift64 generator.
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut bits = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
    move |bound| {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        (bits >> 33) % bound
    }
}

/// Operations per thread and phase, and phases: ten million with optimisation.
const PER_PHASE: u64 = if cfg!(debug_assertions) { 4_000 } else { 62_500 };
const PHASES: u64 = 10;
const THREADS: u64 = 16;

#[test]
#[expect(clippy::too_many_lines, reason = "one arm for each operation")]
fn sixteen_threads_and_their_reclaimers_lose_no_byte() {
    let budget = MemoryBudget::new(bytes(1 << 20));
    let mut handles = Vec::new();
    let caches: Vec<Arc<Cache>> = ["cache-0", "cache-1", "cache-2", "cache-3"]
        .into_iter()
        .map(|name| {
            let account = budget.account(name).unwrap();
            let held = Mutex::new(account.try_reserve_without_reclaim(ByteSize::ZERO));
            let cache = Arc::new(Cache { held, budget: budget.clone() });
            handles.push(account.register_reclaimer(ReclaimPriority::CACHE, Reclaimer(Arc::clone(&cache))));
            cache
        })
        .collect();
    let names: Vec<&'static str> = (0..THREADS).map(|n| &*format!("thread-{n}").leak()).collect();
    let (gate, truths) = (Barrier::new(names.len()), Mutex::new(0_u64));
    let (granted, fault) = (Mutex::new([0_u64; 2]), Mutex::new(None));
    thread::scope(|scope| {
        for (seed, name) in (1..).zip(&names) {
            let (budget, caches, gate) = (&budget, &caches, &gate);
            let (truths, granted, fault) = (&truths, &granted, &fault);
            scope.spawn(move || {
                let account = budget.account(*name).unwrap();
                let mut next = random(seed);
                let mut held: Vec<Reservation> = Vec::new();
                let mut tries = [0_u64; 2];
                for _ in 0..PHASES {
                    for _ in 0..PER_PHASE {
                        let size = bytes(next(16 << 10));
                        match next(8) {
                            0..3 if held.len() < 16 => match account.try_reserve(size) {
                                Ok(reservation) => {
                                    tries[0] += 1;
                                    held.push(reservation);
                                }
                                Err(_) => tries[1] += 1,
                            },
                            3 => drop(held.last_mut().map(|last| last.try_grow(size))),
                            4 => drop(held.last_mut().map(|last| last.shrink(size))),
                            5 => {
                                // A cache takes what is free, under its lock.
                                let cache = &caches[usize::try_from(next(4)).unwrap()];
                                if let Ok(mut held) = cache.held.try_lock() {
                                    held.as_mut().map(|held| held.try_grow_without_reclaim(size));
                                }
                            }
                            _ => drop(held.pop()),
                        }
                    }
                    *truths.lock().unwrap() += held.iter().map(|held| held.size().as_u64()).sum::<u64>();
                    if gate.wait().is_leader() {
                        let size_of = |cache: &Arc<Cache>| {
                            cache.held.lock().unwrap().as_ref().map_or(0, |held| held.size().as_u64())
                        };
                        let truth =
                            std::mem::take(&mut *truths.lock().unwrap()) + caches.iter().map(size_of).sum::<u64>();
                        let holders: u64 = budget.accounts().iter().map(|account| account.reserved.as_u64()).sum();
                        // Told in the end: the others wait at the gate for a thread that panics.
                        if [holders, budget.reserved().as_u64()] != [truth; 2] || truth > 1 << 20 {
                            *fault.lock().unwrap() = Some((truth, holders, budget.reserved()));
                        }
                    }
                    gate.wait();
                }
                let mut granted = granted.lock().unwrap();
                granted[0] += tries[0];
                granted[1] += tries[1];
            });
        }
    });
    assert_eq!(fault.into_inner().unwrap(), None, "at a quiet point: held in truth, by the holders, and in all");
    let [granted, refused] = granted.into_inner().unwrap();
    assert!(granted > 100 && refused > 100, "{granted} granted, {refused} refused: nothing was contended");
    drop((handles, caches));
    assert_eq!(budget.reserved(), ByteSize::ZERO);
}
