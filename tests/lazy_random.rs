//! Random operations: one thread compared with a short model, then eight threads at once.
#![allow(unsafe_code, reason = "blocks of known layout")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests without libtest's attribute")]

mod support;

use std::cell::Cell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use plimsoll::{LazyError, LazyResource, ManualClock, Pinned, TrackingAllocator};

use support::{Random, live};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

support::tests! {
    a_resource_does_what_its_twin_does,
    eight_threads_get_unload_refresh_fail_and_panic_and_nothing_is_lost,
    value_seen_before_an_unload_is_not_returned_after_it,
}

/// In milliseconds.
const TTL: u64 = 500;
const FIRST: u64 = 100;
const MOST: u64 = 400;

/// What a loader does next: yields, fails or panics.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Fine,
    Fails,
    Panics,
}

fn mood(random: &mut Random) -> Mood {
    match random.below(4) {
        0 => Mood::Fails,
        1 => Mood::Panics,
        _ => Mood::Fine,
    }
}

/// Panics without a word, as the hook of these tests ends the process.
fn panics() -> ! {
    std::panic::resume_unwind(Box::new(()))
}

/// The age from which a value is not shown, for seeds with an odd number.
const STALE_AT_MOST: u64 = 800;

/// The model: a value with its time, the failures in a row with theirs, and the number of loads.
#[derive(Default)]
struct Twin {
    value: Option<(u64, u64)>,
    /// Attempts, time, and whether one of them returned an error.
    failed: Option<(u32, u64, bool)>,
    loads: u64,
    is_bounded: bool,
}

/// What a `get` ends with: a value and whether it is stale, the failures in a row, or a panic.
#[derive(Debug, PartialEq)]
enum Got {
    Value(u64, bool),
    Failed(u32),
    Panicked,
}

impl Twin {
    fn get(&mut self, now: u64, mood: Mood) -> Got {
        let stale = match self.value {
            Some((value, at)) if now - at < TTL => return Got::Value(value, false),
            Some((_, at)) if self.is_bounded && now - at >= STALE_AT_MOST => None,
            Some((value, _)) => Some(Got::Value(value, true)),
            None => None,
        };
        if let Some((attempts, at, has_error)) = self.failed
            && now - at < (FIRST << (attempts - 1).min(10)).min(MOST)
            && (stale.is_some() || has_error)
        {
            return stale.unwrap_or(Got::Failed(attempts));
        }
        self.load(now, mood).unwrap_or_else(|failed| stale.unwrap_or(failed))
    }

    /// Loads; the error is the outcome for a caller without a stale value.
    fn load(&mut self, now: u64, mood: Mood) -> Result<Got, Got> {
        self.loads += 1;
        let (before, has_error) = self.failed.map_or((0, false), |(attempts, _, has_error)| (attempts, has_error));
        match mood {
            Mood::Panics => {
                self.failed = Some((before + 1, now, has_error));
                Ok(Got::Panicked)
            }
            Mood::Fails => {
                self.failed = Some((before + 1, now, true));
                Err(Got::Failed(before + 1))
            }
            Mood::Fine => {
                (self.value, self.failed) = (Some((self.loads, now)), None);
                Ok(Got::Value(self.loads, false))
            }
        }
    }
}

fn a_resource_does_what_its_twin_does() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (manual, loads, next) = (ManualClock::new(), Cell::new(0), Cell::new(Mood::Fine));
        let ms = Duration::from_millis;
        let resource = LazyResource::capturing("model", || {
            loads.set(loads.get() + 1);
            match next.get() {
                Mood::Fine => Ok(Box::new(loads.get())),
                Mood::Fails => Err(()),
                Mood::Panics => panics(),
            }
        })
        .clock(manual.clock())
        .refresh_after(ms(TTL))
        .stale_at_most(if seed % 2 == 0 { Duration::MAX } else { ms(STALE_AT_MOST) })
        .retry_after(ms(FIRST), ms(MOST));
        let (mut twin, mut now) = (Twin { is_bounded: seed % 2 == 1, ..Twin::default() }, 0);
        let mut pins: Vec<(u64, Pinned<Box<u64>>)> = Vec::new();
        for step in 0..300 {
            match random.below(8) {
                0 => {
                    let by = random.below(300) as u64;
                    manual.advance(ms(by));
                    now += by;
                }
                1 => {
                    let pinned = twin.value.take().map(|(value, _)| pins.iter().filter(|pin| pin.0 == value).count());
                    assert_eq!(resource.unload(), pinned, "seed {seed}, step {step}");
                }
                2 if !pins.is_empty() => drop(pins.swap_remove(random.below(pins.len()))),
                3 => {
                    next.set(mood(&mut random));
                    let expected = twin.load(now, next.get()).unwrap_or_else(|failed| failed);
                    let got = match catch_unwind(AssertUnwindSafe(|| resource.refresh())) {
                        Err(_) => Got::Panicked,
                        Ok(Err(LazyError::Failed(failure))) => Got::Failed(failure.attempts),
                        Ok(other) => {
                            other.unwrap();
                            Got::Value(loads.get(), false)
                        }
                    };
                    assert_eq!(got, expected, "seed {seed}, step {step}");
                }
                _ => {
                    next.set(mood(&mut random));
                    let expected = twin.get(now, next.get());
                    let got = match catch_unwind(AssertUnwindSafe(|| resource.get())) {
                        Err(_) => Got::Panicked,
                        Ok(Err(LazyError::Failed(failure))) => Got::Failed(failure.attempts),
                        Ok(Err(other)) => panic!("{other:?}"),
                        Ok(Ok(pin)) => {
                            let got = Got::Value(**pin, pin.is_stale());
                            if pins.len() < 20 {
                                pins.push((**pin, pin));
                            }
                            got
                        }
                    };
                    assert_eq!(got, expected, "seed {seed}, step {step}");
                }
            }
            assert!(pins.iter().all(|(value, pin)| ***pin == *value), "seed {seed}, step {step}");
            assert_eq!(loads.get(), twin.loads, "seed {seed}, step {step}");
            let failed = twin.failed.map_or(0, |(attempts, ..)| attempts);
            assert_eq!(resource.status().failed_attempts, failed, "seed {seed}, step {step}");
            let current = twin.value.map(|(value, _)| value);
            let unloading = pins.iter().filter(|pin| Some(pin.0) != current).count();
            assert_eq!(resource.status().unloading_pins, unloading, "seed {seed}, step {step}");
        }
    }
}

/// The values that are alive, by number: the truth that eight threads are held against.
static ALIVE: Mutex<Option<HashSet<u64>>> = Mutex::new(None);

struct Value {
    number: u64,
    text: Vec<u64>,
}

impl Value {
    fn new(number: u64) -> Self {
        assert!(ALIVE.lock().unwrap().get_or_insert_default().insert(number));
        Self { number, text: vec![number; 100] }
    }

    fn is_whole(&self) -> bool {
        self.text.iter().all(|n| *n == self.number) && ALIVE.lock().unwrap().as_ref().unwrap().contains(&self.number)
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        assert!(ALIVE.lock().unwrap().as_mut().unwrap().remove(&self.number), "{} is dropped twice", self.number);
    }
}

fn eight_threads_get_unload_refresh_fail_and_panic_and_nothing_is_lost() {
    let mut baseline = 0;
    // The first round sets up what each of nine threads at a time leaves behind once and for all: its slots for pins.
    for round in 0..4 {
        let seen = churn(round);
        assert_eq!(ALIVE.lock().unwrap().take().unwrap().len(), 0, "values are left");
        assert!(seen.iter().all(|seen| *seen > 0), "gets, failures, panics, unloads: {seen:?}");
        if round == 0 {
            baseline = live();
        }
        assert_eq!(live(), baseline, "round {round}");
    }
}

/// Tells how many gets, failures, panics and unloads there were.
fn churn(round: u64) -> [u64; 4] {
    let (manual, loads, busy) = (ManualClock::new(), AtomicU64::new(0), AtomicBool::new(false));
    let seen = [const { AtomicU64::new(0) }; 4];
    let ms = Duration::from_millis;
    let resource = LazyResource::capturing("shared", || {
        assert!(!busy.swap(true, SeqCst), "one load at a time");
        let load = loads.fetch_add(1, SeqCst);
        std::thread::yield_now();
        busy.store(false, SeqCst);
        match load % 5 {
            3 => Err(()),
            4 => panics(),
            _ => Ok(Value::new(load)),
        }
    })
    .clock(manual.clock())
    .refresh_after(ms(50))
    .retry_after(ms(10), ms(20));
    let other = LazyResource::new("other", || Ok::<_, ()>(0));
    // Held, here and in each thread, while the others come: so nine sets of slots for pins are there from the first round.
    let pin = other.get();
    let gate = Barrier::new(8);
    std::thread::scope(|scope| {
        let start = |thread| {
            let (resource, other, manual, seen, gate) = (&resource, &other, &manual, &seen, &gate);
            scope.spawn(move || {
                assert_eq!(resource.status().unloading_pins, 0);
                let pin = other.get();
                gate.wait();
                drop(pin);
                let mut random = Random::new(round * 8 + thread);
                let mut pins: Vec<Pinned<Value>> = Vec::new();
                for _ in 0..if cfg!(miri) { 50 } else { 5000 } {
                    match random.below(16) {
                        0 => manual.advance(ms(random.below(30) as u64)),
                        1 => {
                            let unloaded = resource.unload().is_some();
                            seen[3].fetch_add(u64::from(unloaded), SeqCst);
                        }
                        2 => drop(pins.pop()),
                        3 => pins.clear(),
                        4 => assert!(resource.status().loads <= 5000 * 8),
                        5 => drop(catch_unwind(AssertUnwindSafe(|| resource.refresh()))),
                        _ => match catch_unwind(AssertUnwindSafe(|| resource.get())) {
                            Ok(Ok(pin)) => {
                                seen[0].fetch_add(1, SeqCst);
                                assert!(pin.is_whole());
                                if pins.len() < 12 {
                                    pins.push(pin);
                                }
                            }
                            Ok(Err(_)) => {
                                seen[1].fetch_add(1, SeqCst);
                            }
                            Err(_) => {
                                seen[2].fetch_add(1, SeqCst);
                            }
                        },
                    }
                    assert!(pins.iter().all(|pin| pin.is_whole()));
                }
            })
        };
        // Joined one by one: the end of the scope alone does not wait for what a thread frees last.
        let threads: Vec<_> = (0..8).map(start).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
    drop(pin);
    assert_eq!(resource.status().unloading_pins, 0);
    seen.map(AtomicU64::into_inner)
}

fn value_seen_before_an_unload_is_not_returned_after_it() {
    let (loads, seen, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let resource = LazyResource::capturing("ids", || Ok::<_, ()>(loads.fetch_add(1, SeqCst) + 1));
    let get = || {
        let value = *resource.get().unwrap();
        seen.fetch_max(value, SeqCst);
        value
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    get();
                }
            });
        }
        // So that the others often find no value.
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                resource.unload();
                std::thread::yield_now();
            }
        });
        for _ in 0..if cfg!(miri) { 20 } else { 20_000 } {
            let before = seen.load(SeqCst);
            resource.unload();
            let after = get();
            assert!(after > before, "{after} was seen before the unload");
        }
        stop.store(true, SeqCst);
    });
}
