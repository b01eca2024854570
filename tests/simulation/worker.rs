//! One who uses the function's parts at random, and holds each answer against what is known.

use std::pin::Pin;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, SystemTime};

use plimsoll::{ByteSize, LazyError, Pinned};

use crate::feed::{self, Came, Stream};
use crate::support::{Block, Random};
use crate::truth::{Fault, Model, saw};
use crate::world::{Backed, Held, World};

/// Whom an account may have asked that has no reclaimer, and so no rank, of its own.
const ALL: [&str; 5] = ["orders", "sessions", "spare", "model", "fonts"];

pub type Get = Pin<Box<dyn Future<Output = Result<Pinned<Model>, LazyError<Fault>>> + Send>>;

/// What an answer is made of, for the digest.
type Event = [u64; 2];

pub struct Worker {
    pub random: Random,
    pub pins: Vec<Held>,
    /// Gets of the fonts, with the moment each was begun.
    pub gets: Vec<(u64, Get)>,
    streams: Vec<Stream>,
    ballast: Vec<(Backed, u64)>,
    loose: Option<Block>,
}

impl Worker {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            pins: Vec::with_capacity(16),
            gets: Vec::with_capacity(8),
            streams: Vec::with_capacity(4),
            ballast: Vec::with_capacity(16),
            loose: None,
        }
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    /// Does one thing, and tells what came of it.
    pub fn work(&mut self, world: &World) -> Event {
        let what = self.below(100);
        let came = match what {
            0..12 => self.get_order(world),
            12..24 => self.load_order(world),
            24..30 => self.insert_order(world),
            30 => self.remove_order(world),
            31..41 => self.load_session(world),
            41..47 => self.get_session(world),
            47..51 => self.insert_session(world),
            51 => self.tidy(world),
            52..62 => self.get_model(world),
            62..66 => self.begin_fonts(world),
            66..74 => self.poll_fonts(world),
            74 => self.cancel_fonts(world),
            75..78 => self.move_pins(world),
            78 => self.unload(world),
            79..88 => self.read_stream(world),
            88..96 => self.change_ballast(world),
            96 | 97 => self.change_loose(world),
            _ => self.spare_buffer(world),
        };
        self.pins.iter().for_each(Held::check);
        [what as u64, came]
    }

    /// A size up to so many bits, small ones as often as large.
    pub fn rough(&mut self, bits: usize) -> usize {
        1 + (self.below(1 << bits) >> self.below(8))
    }

    pub fn read_stream(&mut self, world: &World) -> u64 {
        let truth = &world.truth;
        if self.streams.len() < 2 && self.below(3) == 0 {
            truth.streams.fetch_add(feed::MOST, SeqCst);
            let still = truth.slack() == 0;
            let deadline = Some(1 + self.below(20_000) as u64).filter(|_| still && self.below(2) == 0);
            let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(truth.wall.load(SeqCst));
            let deadline = deadline.map(|ms| (truth.clock.now() + ms, wall + Duration::from_millis(ms)));
            match Stream::begin(&world.lines, truth.clock.clone(), deadline, &mut self.random) {
                Ok(stream) => self.streams.push(stream),
                Err(refusal) => {
                    world.check_refusal(&refusal, &ALL);
                    saw(&truth.seen.streams_refused);
                    truth.streams.fetch_sub(feed::MOST, SeqCst);
                }
            }
        }
        if self.streams.is_empty() {
            return 0;
        }
        let at = self.below(self.streams.len());
        for read in 0..60 {
            match self.streams[at].next(&world.lines) {
                Ok(Came::Record) => saw(&truth.seen.records),
                Ok(Came::Oversize) => saw(&truth.seen.oversize),
                Ok(Came::Disturbed) => {}
                Ok(Came::Deadline) => saw(&truth.seen.deadlines),
                // To be asked again some other time.
                Ok(Came::Refused(refusal)) => {
                    world.check_refusal(&refusal, &ALL);
                    saw(&truth.seen.streams_refused);
                    return 1;
                }
                Ok(Came::End) => {
                    drop(self.streams.swap_remove(at));
                    saw(&truth.seen.streams_ended);
                    truth.streams.fetch_sub(feed::MOST, SeqCst);
                    return 2 + read;
                }
                // No room for a reader that goes on.
                Err(refusal) => {
                    world.check_refusal(&refusal, &ALL);
                    drop(self.streams.swap_remove(at));
                    truth.streams.fetch_sub(feed::MOST, SeqCst);
                    return 3;
                }
            }
        }
        4
    }

    pub fn change_ballast(&mut self, world: &World) -> u64 {
        let (truth, size) = (&world.truth, self.rough(24));
        let bytes = ByteSize::bytes(size as u64);
        let (room, flood) = (self.ballast.len() < 12, truth.flood.load(SeqCst));
        let what = if flood || self.below(4) == 0 { self.below(10) } else { 9 };
        match (what, self.ballast.last_mut()) {
            (0..4, _) if room => match world.ballast.try_reserve(bytes) {
                Ok(reserved) => {
                    truth.ballast.fetch_add(size as u64, SeqCst);
                    self.ballast.push((Backed { block: Block::new(size), reserved }, 0));
                }
                Err(refused) => {
                    world.check_refusal(&refused, &ALL);
                    saw(&truth.seen.ballast_refused);
                    return 1;
                }
            },
            (4, Some((backed, _))) => match backed.reserved.try_grow(bytes) {
                Ok(()) => {
                    truth.ballast.fetch_add(size as u64, SeqCst);
                    assert!(backed.block.resize(backed.block.size() + size));
                }
                Err(refused) => {
                    world.check_refusal(&refused, &ALL);
                    saw(&truth.seen.ballast_refused);
                    return 2;
                }
            },
            (5, Some((backed, booked))) if *booked == 0 && backed.block.size() > size => {
                assert!(backed.block.resize(backed.block.size() - size));
                assert_eq!(backed.reserved.shrink(bytes), bytes);
                truth.ballast.fetch_sub(size as u64, SeqCst);
            }
            (6, _) if room && size < 6 << 20 => {
                let block = Block::new(size);
                let reserved = world.ballast.reserve(bytes);
                truth.ballast.fetch_add(size as u64, SeqCst);
                truth.booked.fetch_add(size as u64, SeqCst);
                saw(&truth.seen.booked);
                self.ballast.push((Backed { block, reserved }, size as u64));
            }
            _ => {
                // In good times much of it at once.
                let kept = if flood { self.ballast.len().saturating_sub(1) } else { self.ballast.len() / 3 };
                while self.ballast.len() > kept {
                    let at = self.below(self.ballast.len());
                    self.drop_ballast(world, at);
                }
            }
        }
        size as u64
    }

    pub fn drop_ballast(&mut self, world: &World, at: usize) {
        let (backed, booked) = self.ballast.swap_remove(at);
        let size = backed.reserved.size().as_u64();
        drop(backed);
        world.truth.ballast.fetch_sub(size, SeqCst);
        world.truth.booked.fetch_sub(booked, SeqCst);
    }

    /// Heap that comes and goes beside all accounts.
    pub fn change_loose(&mut self, world: &World) -> u64 {
        let size = 1 + self.below(12 << 20);
        if let Some(block) = self.loose.take() {
            world.truth.loose.fetch_sub(block.size() as u64, SeqCst);
            return 0;
        }
        world.truth.loose.fetch_add(size as u64, SeqCst);
        self.loose = Some(Block::new(size));
        size as u64
    }

    pub fn spare_buffer(&mut self, world: &World) -> u64 {
        let (size, buffers) = (1 + self.below(300_000), &world.buffers);
        if self.below(4) == 0 {
            let spare = buffers.spare.lock().unwrap().pop();
            let freed = spare.as_ref().map_or(0, |spare| spare.reserved.size().as_u64());
            drop(spare);
            world.truth.buffers.fetch_sub(freed, SeqCst);
            return freed;
        }
        // Nobody is asked for what is only spare, and nothing is reserved under the lock.
        let Some(reserved) = world.spare.try_reserve_without_reclaim(ByteSize::bytes(size as u64)) else { return 1 };
        let backed = Backed { block: Block::new(size), reserved };
        world.truth.buffers.fetch_add(size as u64, SeqCst);
        let mut spare = buffers.spare.lock().unwrap();
        if spare.len() < 64 {
            spare.push(backed);
        } else {
            world.truth.buffers.fetch_sub(size as u64, SeqCst);
        }
        size as u64
    }

    /// Lets go of all it has.
    pub fn leave(&mut self, world: &World) {
        while !self.gets.is_empty() {
            self.cancel_fonts(world);
        }
        self.pins.clear();
        while !self.ballast.is_empty() {
            self.drop_ballast(world, 0);
        }
        world.truth.streams.fetch_sub(feed::MOST * self.streams.len() as u64, SeqCst);
        self.streams.clear();
        if self.loose.is_some() {
            self.change_loose(world);
        }
    }
}
