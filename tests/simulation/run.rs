//! Two hours of a function's life: by one thread, which repeats to the byte, or by several in lock-step.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier};

use plimsoll::heap;
use plimsoll::{ByteSize, os};

use crate::hands::{Gap, Hands};
use crate::support::{Random, live};
use crate::truth::{WHERE, saw};
use crate::worker::Worker;
use crate::world::World;

/// FNV-1a over words: enough to tell two runs apart.
struct Digest(u64);

impl Digest {
    fn add(&mut self, words: &[u64]) {
        for word in words {
            self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
    }
}

/// What a run ended with.
pub struct Ran {
    /// Of all events, where one thread did all.
    pub digest: u64,
    pub steps: u64,
    pub seen: Vec<(&'static str, u64)>,
}

/// What lies between two invocations, before anybody works.
fn pause(world: &World, hands: &mut Hands, random: &mut Random, step: u64) -> u64 {
    WHERE[1].store(step, SeqCst);
    let (truth, seen) = (&world.truth, &world.truth.seen);
    let (gap, now) = hands.turn(random);
    match gap {
        Gap::Passes => {}
        Gap::Frozen => saw(&seen.freezes),
        Gap::WallForward | Gap::WallBack => saw(&seen.walls_set),
        Gap::Restored => {
            // What a hook does before the snapshot is taken, an age ago by now.
            saw(&seen.restores);
            world.orders.evict_to(ByteSize::ZERO);
            world.sessions.evict_to(ByteSize::kib(100));
            world.model().unload();
            world.truth.fonts.unload();
            world.fonts().unload();
            assert_eq!((world.orders.len(), world.budget.account("orders").unwrap().reserved()), (0, ByteSize::ZERO));
        }
    }
    truth.wall.store(hands.wall(), SeqCst);
    // Bad times are shorter than good ones.
    for (bad, how_long) in [(&truth.outage, 8), (&truth.flood, 12)] {
        let is_bad = bad.load(SeqCst);
        if random.below(if is_bad { how_long } else { 2 * how_long }) == 0 {
            bad.store(!is_bad, SeqCst);
        }
    }
    now
}

/// Counts what the caches did, and takes the world down: tells what was seen, and holds the end against the beginning.
fn end(world: World) -> Vec<(&'static str, u64)> {
    let truth = Arc::clone(&world.truth);
    for stats in [world.orders.stats(), world.sessions.stats()] {
        truth.seen.hits.fetch_add(stats.hits, SeqCst);
        truth.seen.misses.fetch_add(stats.misses, SeqCst);
        truth.seen.expired.fetch_add(stats.expirations, SeqCst);
        truth.seen.evicted_for_size.fetch_add(stats.evictions_by_size, SeqCst);
        truth.seen.evicted_for_others.fetch_add(stats.evictions_by_pressure, SeqCst);
    }
    world.pins.lock().unwrap().clear();
    world.check();
    let invocations = truth.seen.invocations.load(SeqCst);
    assert_eq!(world.reports[0].load(SeqCst), invocations, "each report was shown");
    assert_eq!(world.reports[1].load(SeqCst), invocations * (invocations + 1) / 2, "1, 2, 3 .. each once");
    assert_eq!(world.monitor.snapshot().invocations, invocations);
    world.take_down();
    truth.seen.each()
}

/// One thread does all, and does it again the same way.
pub fn alone(seed: u64) -> Ran {
    let before = live();
    let ran = {
        let (mut hands, mut random) = (Hands::new(), Random::new(seed));
        let world = World::new(&hands.clock(), true, seed);
        let mut workers: Vec<Worker> = (0..4).map(|worker| Worker::new(seed * 8 + worker)).collect();
        let (mut digest, mut number) = (Digest(seed), 0);
        while !hands.is_over() {
            number += 1;
            let now = pause(&world, &mut hands, &mut random, number);
            let invocation = world.monitor.start(format!("{seed}-{number}").as_str());
            // Memory that is there without a reservation, as heap of the handler would be.
            let spike = world.spike.reserve(ByteSize::bytes(random.below(64 << 20) as u64));
            if world.budget.reserved() > world.budget.capacity().total {
                saw(&world.truth.seen.relieved);
                let relieved = world.budget.reclaim_overdraft();
                let empty = world.orders.is_empty() && world.sessions.is_empty();
                assert!(relieved || empty, "more is reserved than the capacity, and caches were not asked");
            }
            drop(spike);
            world.check();
            for _ in 0..8 + random.below(24) {
                let worker = random.below(4);
                digest.add(&workers[worker].work(&world));
            }
            for worker in &mut workers {
                worker.settle(&world);
            }
            if random.below(12) > 0 {
                let report = invocation.finish();
                world.check_report(&report, number);
                let grown = report.heap.unwrap().live.as_u64().cast_signed() - world.base;
                digest.add(&[
                    grown.cast_unsigned(),
                    report.heap.unwrap().live_before.as_u64() - world.base.cast_unsigned(),
                ]);
            } else {
                drop(invocation);
                saw(&world.truth.seen.invocations);
                saw(&world.truth.seen.unfinished);
            }
            world.check();
            let (orders, sessions) = (world.orders.stats(), world.sessions.stats());
            digest.add(&[now, world.budget.reserved().as_u64(), world.budget.capacity().total.as_u64()]);
            digest.add(&[orders.hits, orders.evictions_by_size, orders.expirations, orders.bytes.as_u64()]);
            digest.add(&[sessions.hits, sessions.evictions_by_pressure, sessions.expirations, sessions.bytes.as_u64()]);
        }
        for worker in &mut workers {
            worker.leave(&world);
        }
        drop(workers);
        Ran { digest: digest.0, steps: number, seen: end(world) }
    };
    let left = live() - before - i64::try_from(ran.seen.capacity() * size_of::<(&str, u64)>()).unwrap();
    assert_eq!(left, 0, "bytes of heap are left");
    ran
}

/// Several threads work between two turns of the clock, and in some phases while it is turned.
pub fn together(seed: u64) -> Ran {
    let before = live();
    let ran = {
        let threads = 4 + seed % 5;
        let (mut hands, mut random) = (Hands::new(), Random::new(seed ^ 0x7007));
        let world = World::new(&hands.clock(), false, seed);
        let (gate, over) = (Barrier::new(threads as usize + 1), AtomicBool::new(false));
        let steps = std::thread::scope(|scope| {
            let start = |worker| {
                let (world, gate, over) = (&world, &gate, &over);
                scope.spawn(move || life(world, seed * 8 + worker, gate, over))
            };
            let working: Vec<_> = (0..threads).map(start).collect();
            // All have come, and none works yet.
            gate.wait();
            let mut step = 0;
            while !hands.is_over() {
                step += 1;
                phase(&world, &mut hands, &mut random, &gate, step);
            }
            over.store(true, SeqCst);
            gate.wait();
            // One by one: the end of the scope alone does not wait for what a thread frees last.
            for thread in working {
                thread.join().unwrap();
            }
            step
        });
        Ran { digest: 0, steps, seen: end(world) }
    };
    let left = live() - before - i64::try_from(ran.seen.capacity() * size_of::<(&str, u64)>()).unwrap();
    assert_eq!(left, 0, "bytes of heap are left");
    ran
}

/// A turn of the clock, and what all do after it.
fn phase(world: &World, hands: &mut Hands, random: &mut Random, gate: &Barrier, step: u64) {
    pause(world, hands, random, step);
    let moves = if random.below(8) == 0 { 1 + random.below(6) as u64 } else { 0 };
    // From here on a stamp may be so much older than the moment it stands for.
    world.truth.slack.store(moves * Hands::NUDGE, SeqCst);
    gate.wait();
    for _ in 0..moves {
        hands.nudge(random);
        std::thread::yield_now();
    }
    gate.wait();
    world.truth.slack.store(0, SeqCst);
    if random.below(16) == 0 {
        drop(os::trim());
    }
    world.check();
}

/// What one of several threads does.
fn life(world: &World, seed: u64, gate: &Barrier, over: &AtomicBool) {
    let (mut worker, mut random) = (Worker::new(seed), Random::new(!seed));
    claim(world);
    gate.wait();
    loop {
        gate.wait();
        if over.load(SeqCst) {
            break;
        }
        let invocation = (random.below(3) > 0).then(|| world.monitor.start("4f1c"));
        for _ in 0..4 + random.below(16) {
            worker.work(world);
        }
        worker.settle(world);
        match invocation {
            Some(invocation) if random.below(12) > 0 => world.check_report(&invocation.finish(), 0),
            Some(invocation) => {
                drop(invocation);
                saw(&world.truth.seen.invocations);
                saw(&world.truth.seen.unfinished);
            }
            None => {}
        }
        gate.wait();
    }
    worker.leave(world);
}

/// Has this thread take what a thread keeps for pins, which is never given back but used again by others: all at a time
/// when nobody replaces a value, or one of them would find it taken.
fn claim(world: &World) {
    let _status = world.model().status();
    let _stats = heap::stats();
}

/// Sets up what is there once for a process: for as many threads at a time as there will ever be.
pub fn warm_up() {
    let gate = Barrier::new(9);
    let (lock, bell) = (parking_lot::Mutex::new(()), parking_lot::Condvar::new());
    let hands = Hands::new();
    let world = World::new(&hands.clock(), true, 0);
    std::thread::scope(|scope| {
        let sleep = || {
            claim(&world);
            // The table of those who wait for a lock grows with their number.
            bell.wait_for(&mut lock.lock(), std::time::Duration::from_millis(1));
            gate.wait();
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(sleep)).collect();
        sleep();
        for thread in threads {
            thread.join().unwrap();
        }
    });
    drop(end(world));
}

/// Says where it was, if it ends by a panic.
pub fn say_where() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let [seed, step] = [0, 1].map(|at| WHERE[at].load(SeqCst));
        println!("\nin step {step}; PLIMSOLL_SEED={seed} repeats it");
        say(info);
    }));
}
