//! What a worker does with the caches.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use plimsoll::ByteSize;
use plimsoll::cache::{LoadError, RejectReason};

use std::sync::atomic::Ordering::SeqCst;

use crate::truth::{Fault, Item, KEYS, Keys, ORDERS_TTL, SESSIONS_IDLE, saw};
use crate::worker::Worker;
use crate::world::{ORDERS_MOST, World};

/// Whom each cache may have asked: none above its rank.
const BY_ORDERS: [&str; 2] = ["sessions", "spare"];
const BY_SESSIONS: [&str; 2] = ["orders", "spare"];

impl Worker {
    /// Keys near 0 are asked for more often.
    pub fn key(&mut self) -> usize {
        self.below(KEYS).min(self.below(KEYS)).min(self.below(KEYS))
    }

    pub fn get_order(&mut self, world: &World) -> u64 {
        let (key, then) = (self.key(), world.truth.clock.now());
        saw(&world.truth.orders.asked);
        let item = world.orders.get(&(key as u32));
        found(world, &world.truth.orders, item.as_deref(), key, then, u64::MAX)
    }

    pub fn load_order(&mut self, world: &World) -> u64 {
        let (key, then, len) = (self.key(), world.truth.clock.now(), self.order_len());
        let (nested, panics) = (self.below(8) == 0, self.below(50) == 0);
        let keys = &world.truth.orders;
        saw(&keys.asked);
        let (mut ran, written) = (false, keys.written(key));
        let load = |_: &u32| {
            ran = true;
            let loading = keys.load(key, written);
            std::thread::yield_now();
            if nested {
                drop(world.model().get());
            }
            if panics {
                drop(loading);
                saw(&world.truth.seen.loader_panics);
                resume_unwind(Box::new(()));
            }
            load_item(world, keys, key, len, ORDERS_TTL)
        };
        let Ok(loaded) = catch_unwind(AssertUnwindSafe(|| world.orders.try_get_or_load(&(key as u32), load))) else {
            return 7;
        };
        if ran && loaded.is_ok() {
            // Whether it was taken is not told here: what is there now was put in last.
            let there = world.orders.contains_key(&(key as u32));
            note(world, keys, key, loaded.as_ref().ok().filter(|_| there));
        }
        loaded_by(world, loaded, key, then, u64::MAX)
    }

    pub fn order_len(&mut self) -> usize {
        if self.below(400) == 0 { 3 << 20 } else { self.rough(17) }
    }

    pub fn insert_order(&mut self, world: &World) -> u64 {
        let (key, len) = (self.key(), self.order_len());
        let ttl = if self.below(3) == 0 { 10 + self.below(100_000) as u64 } else { ORDERS_TTL };
        let item = Item::new(&world.truth, key, len, ttl);
        let version = item.version;
        let default_ttl = ttl == ORDERS_TTL && self.below(2) == 0;
        let inserted = world.truth.orders.write(key, || {
            if default_ttl {
                world.orders.insert(key as u32, item)
            } else {
                world.orders.insert_with_ttl(key as u32, item, Duration::from_millis(ttl))
            }
        });
        let came = match &inserted {
            Ok(()) => version << 3,
            Err(error) => {
                saw(&world.truth.seen.inserts_refused);
                match error.reason() {
                    RejectReason::TooLarge { .. } => assert!(len as u64 > ORDERS_MOST.as_u64()),
                    RejectReason::Budget(refused) => world.check_refusal(refused, &BY_ORDERS),
                    other => panic!("{other:?}"),
                }
                3
            }
        };
        world.truth.note_latest(&world.truth.orders, key, if inserted.is_ok() { version } else { 0 });
        came
    }

    pub fn remove_order(&mut self, world: &World) -> u64 {
        let (key, then) = (self.key(), world.truth.clock.now());
        let item = world.truth.orders.write(key, || world.orders.remove(&(key as u32)));
        let came = match item {
            Some(item) => {
                item.served(key, then, u64::MAX);
                item.version << 3
            }
            None => 0,
        };
        world.truth.note_latest(&world.truth.orders, key, 0);
        came
    }

    pub fn load_session(&mut self, world: &World) -> u64 {
        let (key, then, len) = (self.key(), world.truth.clock.now(), 1 + self.below(40_000));
        let (name, keys) = (name(key), &world.truth.sessions);
        saw(&keys.asked);
        let (mut ran, written) = (false, keys.written(key));
        let loaded = world.sessions.try_get_or_load(name.as_str(), |_| {
            ran = true;
            let _loading = keys.load(key, written);
            std::thread::yield_now();
            load_item(world, keys, key, len, u64::MAX)
        });
        if ran && loaded.is_ok() {
            let there = world.sessions.contains_key(name.as_str());
            note(world, keys, key, loaded.as_ref().ok().filter(|_| there));
        }
        loaded_by(world, loaded, key, then, SESSIONS_IDLE)
    }

    pub fn get_session(&mut self, world: &World) -> u64 {
        let (key, then) = (self.key(), world.truth.clock.now());
        saw(&world.truth.sessions.asked);
        let item = world.sessions.get(name(key).as_str());
        found(world, &world.truth.sessions, item.as_deref(), key, then, SESSIONS_IDLE)
    }

    pub fn insert_session(&mut self, world: &World) -> u64 {
        let (key, len) = (self.key(), 1 + self.below(40_000));
        let item = Item::new(&world.truth, key, len, u64::MAX);
        let version = item.version;
        let inserted = world.truth.sessions.write(key, || world.sessions.insert(name(key), item));
        if let Err(error) = &inserted {
            saw(&world.truth.seen.inserts_refused);
            let RejectReason::Budget(refused) = error.reason() else { panic!("{error}") };
            world.check_refusal(refused, &BY_SESSIONS);
        }
        world.truth.note_latest(&world.truth.sessions, key, if inserted.is_ok() { version } else { 0 });
        if inserted.is_ok() { version << 3 } else { 3 }
    }

    /// What an operator or an invocation's end may do.
    pub fn tidy(&mut self, world: &World) -> u64 {
        match self.below(4) {
            0 => world.orders.remove_expired(100) as u64,
            1 => world.sessions.remove_expired(100) as u64,
            2 => world.orders.evict_to(ByteSize::kib(500)).as_u64(),
            _ => {
                let modulus = 2 + self.below(6);
                let keep = |key: &String, _: &_| key[1..].parse::<usize>().unwrap() % modulus != 0;
                world.truth.sessions.write_all(|| world.sessions.retain(keep));
                if world.truth.alone {
                    let latest = world.truth.sessions.latest.iter().step_by(modulus);
                    latest.for_each(|version| version.store(0, SeqCst));
                }
                modulus as u64
            }
        }
    }
}

/// As sessions are called.
fn name(key: usize) -> String {
    format!("s{key}")
}

/// What a get answered.
fn found(world: &World, keys: &Keys, item: Option<&Item>, key: usize, then: u64, idle: u64) -> u64 {
    let Some(item) = item else { return 0 };
    item.served(key, then, idle);
    if world.truth.alone {
        assert_eq!(item.version, keys.latest[key].load(SeqCst), "key {key} was answered with an earlier value");
    }
    item.version << 3
}

/// Notes what a load put in.
fn note(world: &World, keys: &Keys, key: usize, item: Option<&Arc<Item>>) {
    world.truth.note_latest(keys, key, item.map_or(0, |item| item.version));
}

fn load_item(world: &World, keys: &Keys, key: usize, len: usize, ttl: u64) -> Result<Arc<Item>, Fault> {
    if world.truth.fails() {
        saw(&keys.failures);
        return Err(Fault { generation: key as u64 });
    }
    saw(&keys.loads);
    Ok(Item::new(&world.truth, key, len, ttl))
}

/// What a load answered, to one who asked at `then`.
fn loaded_by(world: &World, loaded: Result<Arc<Item>, LoadError<Fault>>, key: usize, then: u64, idle: u64) -> u64 {
    match loaded {
        Ok(item) => {
            item.served(key, then, idle);
            item.version << 3
        }
        Err(LoadError::Load(fault)) => {
            assert_eq!(fault.generation, key as u64, "another key's error");
            saw(&world.truth.seen.loads_failed);
            1
        }
        Err(LoadError::BudgetExceeded(refused)) => {
            assert!(idle < u64::MAX, "of orders nothing is expected");
            world.check_refusal(&refused, &BY_SESSIONS);
            saw(&world.truth.seen.loads_refused);
            2
        }
        Err(other) => panic!("{other:?}"),
    }
}
