//! What a worker does with the lazy resources, and with the pins of what they load.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use plimsoll::lazy::ResourceState;
use plimsoll::{LazyError, Pinned};

use crate::truth::{Fault, Lazy, Model, backoff, saw};
use crate::worker::Worker;
use crate::world::{Held, World};

/// Whom the model may have asked. With the fonts nothing is reserved ahead, so they ask nobody.
const BY_MODEL: [&str; 4] = ["orders", "sessions", "spare", "fonts"];

impl Worker {
    pub fn get_model(&mut self, world: &World) -> u64 {
        let (truth, model) = (&world.truth, world.model());
        let then = truth.clock.now();
        let (before, loads) = (model.status(), truth.model.loads.load(SeqCst));
        let failed = truth.model.books().failed;
        let there = matches!(before.state, ResourceState::Loaded | ResourceState::Stale);
        let waits = failed.is_some_and(|(attempts, at, error)| {
            (there || error.is_some()) && then.saturating_sub(at) < backoff(attempts)
        });
        let got = catch_unwind(AssertUnwindSafe(|| model.get()));
        let loaded = truth.model.loads.load(SeqCst) > loads;
        if truth.alone {
            // What is there is served as it is while it is fresh, and while nobody may load.
            let fresh = before.state == ResourceState::Loaded;
            assert!(!loaded || !(fresh || waits), "loaded without need, or against the back-off");
            assert!(!waits || failed == truth.model.books().failed, "tried against the back-off");
        }
        match got {
            Err(_panic) => {
                assert!(!(truth.alone && (waits || before.state == ResourceState::Loaded)));
                saw(&truth.seen.loader_panics);
                7
            }
            Ok(Ok(pin)) => {
                let stale = pin.is_stale();
                pin.served(then, stale);
                let generation = pin.generation;
                if truth.alone {
                    let was = before.state == ResourceState::Stale;
                    assert_eq!(stale, was && !loaded, "{before:?}");
                    assert!(loaded || was || before.state == ResourceState::Loaded);
                }
                self.keep(world, pin);
                generation << 3 | u64::from(stale)
            }
            Ok(Err(error)) => {
                assert!(!truth.alone || !there, "an error in spite of {before:?}");
                if waits {
                    saw(&truth.seen.backed_off);
                }
                refused(world, &error, &truth.model, &BY_MODEL)
            }
        }
    }

    pub fn keep(&mut self, world: &World, pin: Pinned<Model>) {
        let held = Held::new(pin);
        match self.below(4) {
            0 if self.pins.len() < 10 => self.pins.push(held),
            1 => {
                let mut pins = world.pins.lock().unwrap();
                if pins.len() < 4 {
                    pins.push(held);
                }
            }
            _ => drop(held),
        }
    }

    pub fn begin_fonts(&mut self, world: &World) -> u64 {
        if self.gets.len() < 4 {
            saw(&world.truth.pending);
            self.gets.push((world.truth.clock.now(), Box::pin(world.fonts().get())));
        }
        self.gets.len() as u64
    }

    pub fn poll_fonts(&mut self, world: &World) -> u64 {
        if self.gets.is_empty() {
            return 0;
        }
        let at = self.below(self.gets.len());
        let (then, get) = &mut self.gets[at];
        let (then, polled) = (*then, get.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        let Poll::Ready(got) = polled else { return 1 };
        self.got_fonts(world, at, then, got)
    }

    pub fn got_fonts(
        &mut self,
        world: &World,
        at: usize,
        then: u64,
        got: Result<Pinned<Model>, LazyError<Fault>>,
    ) -> u64 {
        drop(self.gets.swap_remove(at));
        world.truth.pending.fetch_sub(1, SeqCst);
        match got {
            Ok(pin) => {
                pin.served(then, pin.is_stale());
                let event = pin.generation << 3 | u64::from(pin.is_stale());
                self.keep(world, pin);
                event
            }
            Err(error) => refused(world, &error, &world.truth.fonts, &[]),
        }
    }

    pub fn cancel_fonts(&mut self, world: &World) -> u64 {
        if let Some(get) = self.gets.pop() {
            drop(get);
            world.truth.pending.fetch_sub(1, SeqCst);
            saw(&world.truth.seen.cancelled);
        }
        self.gets.len() as u64
    }

    /// Before time goes on: what was begun is waited for, or cancelled.
    pub fn settle(&mut self, world: &World) {
        while let Some(at) = self.gets.len().checked_sub(1) {
            if self.below(6) == 0 {
                self.cancel_fonts(world);
                continue;
            }
            let (then, get) = &mut self.gets[at];
            let (then, got) = (*then, block_on(get));
            self.got_fonts(world, at, then, got);
        }
        // Pins are for one piece of work. Some keep theirs.
        if self.below(3) > 0 {
            self.pins.clear();
        }
        if self.below(8) == 0 {
            world.pins.lock().unwrap().clear();
        }
    }

    pub fn move_pins(&mut self, world: &World) -> u64 {
        match self.below(4) {
            0 => self.pins.clear(),
            1 => drop(world.pins.lock().unwrap().pop()),
            2 if self.pins.len() < 10 => {
                let passed_on = world.pins.lock().unwrap().pop();
                world.truth.seen.pins_passed_on.fetch_add(u64::from(passed_on.is_some()), SeqCst);
                self.pins.extend(passed_on);
            }
            _ => drop(self.pins.pop()),
        }
        self.pins.len() as u64
    }

    pub fn unload(&mut self, world: &World) -> u64 {
        let unloaded = if self.below(2) == 0 {
            world.model().unload()
        } else {
            world.truth.fonts.unload();
            world.fonts().unload()
        };
        world.truth.seen.unloads.fetch_add(u64::from(unloaded.is_some()), SeqCst);
        unloaded.map_or(0, |pins| pins as u64 + 1)
    }
}

/// An error of a lazy resource: which failure it tells of, and until when.
fn refused(world: &World, error: &LazyError<Fault>, lazy: &Lazy, may: &[&str]) -> u64 {
    match error {
        LazyError::Failed(failure) => {
            let error = failure.error.as_ref().unwrap().generation;
            let now = world.truth.clock.now();
            if world.truth.alone {
                let (attempts, at, generation) = lazy.books().failed.unwrap();
                assert_eq!((failure.attempts, Some(error)), (attempts, generation));
                let left = backoff(attempts).saturating_sub(now - at);
                assert_eq!((failure.age, failure.retry_in), (ms(now - at), ms(left)));
            }
            assert!(lazy.books().alive.iter().all(|living| living.generation != error));
            u64::from(failure.attempts) << 3 | 5
        }
        LazyError::OverBudget { source, .. } => {
            world.check_refusal(source, may);
            saw(&world.truth.seen.over_budget);
            6
        }
        other => panic!("{other:?}"),
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Polls until it is done, asleep in between: who is not woken sleeps for ever.
fn block_on<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> F::Output {
    struct Unpark(Thread, AtomicBool);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.1.store(true, SeqCst);
            self.0.unpark();
        }
    }
    let woken = Arc::new(Unpark(std::thread::current(), AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while !woken.1.swap(false, SeqCst) {
            std::thread::park();
        }
    }
}
