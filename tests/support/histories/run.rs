//! Performs a history and measures each moment of it.

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Barrier, Mutex, PoisonError};

use serde_json::Value;

use super::block::{Block, Group, Held, touch};
use super::judge::{Figures, Limits, Moment};
use super::plan::{History, Op, Step};
use super::readings::{Readings, untouched};
use super::{MIB, PERCENT, thresholds};

/// The alarm must have read the rss after a rise of the heap by 1 MiB and this: the counters of the threads.
const SLACK: usize = 256 << 10;

/// Measures small blocks each time this many bytes were allocated.
const OFTEN: usize = 256 << 10;

/// The main thread and those that take turns with it.
const THREADS: usize = 4;

/// A block of this size may be touched after another thread's request.
const LARGE: usize = 256 << 10;

/// Runs the history of `seed` and returns its figures.
///
/// A danger within `band` bytes of the threshold has no verdict.
pub fn run(seed: u64, band: usize) -> Value {
    let history = History::new(seed);
    let threshold = history.threshold(peak_without_thresholds(&history));
    let capacity = threshold * 100 / usize::from(PERCENT) + 1;
    let limits = Limits { threshold: capacity * usize::from(PERCENT) / 100, capacity, band };
    let world = perform(&history, Some(limits));
    world.figures.expect("thresholds were set").json(seed, history.kind)
}

/// Runs the history in a forked child and returns its highest danger.
fn peak_without_thresholds(history: &History) -> usize {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    // SAFETY: the process has one thread.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork failed");
    if child == 0 {
        let world = perform(history, None);
        writer.write_all(&world.highest.to_le_bytes()).unwrap();
        // SAFETY: ends this process.
        unsafe { libc::_exit(0) };
    }
    drop(writer);
    let mut peak = [0; size_of::<usize>()];
    reader.read_exact(&mut peak).expect("the run without thresholds ended well");
    // SAFETY: the child is ours.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    usize::from_le_bytes(peak)
}

/// Runs the steps, each on its thread and one after the other.
fn perform(history: &History, limits: Option<Limits>) -> World {
    let world = Mutex::new(World::new(history.slots, limits));
    let threads = history.steps.iter().map(|step| step.thread).max().unwrap_or(0);
    std::thread::scope(|scope| {
        let (done, steps_done) = channel();
        let start = |number| {
            let (sender, receiver) = channel();
            let (world, done) = (&world, done.clone());
            scope.spawn(move || turns(world, number + 1, &receiver, &done));
            sender
        };
        let crew: Vec<Sender<Op>> = (0..threads).map(start).collect();
        for &Step { thread, op } in &history.steps {
            match thread.checked_sub(1) {
                None => world.lock().unwrap_or_else(PoisonError::into_inner).step(0, op),
                Some(thread) => {
                    crew[thread].send(op).unwrap();
                    steps_done.recv().unwrap();
                }
            }
        }
    });
    world.into_inner().unwrap()
}

fn turns(world: &Mutex<World>, thread: usize, steps: &Receiver<Op>, done: &Sender<()>) {
    for op in steps {
        world.lock().unwrap().step(thread, op);
        done.send(()).unwrap();
    }
}

/// The memory of the history, and the measurements.
struct World {
    readings: Readings,
    limits: Option<Limits>,
    figures: Option<Figures>,
    held: Vec<Held>,
    is_set: bool,
    /// Bytes that the global allocator gave to the history.
    live: usize,
    /// The thread of the step, and the slot of each thread's last large block.
    thread: usize,
    last: [Option<usize>; THREADS],
    /// The lowest of them since the alarm must have read the rss last.
    low: usize,
    rss_before: usize,
    highest: usize,
}

/// The event before a moment.
enum Event {
    /// The global allocator has given `request` more bytes, or a block of this size.
    Allocated {
        request: usize,
        block: Option<(*mut u8, usize)>,
        inside: bool,
    },
    /// The pages of what was allocated before in this step are touched.
    Touched,
    /// The rss rose, and the global allocator was not called.
    Beside,
    Freed {
        bytes: usize,
    },
}

impl World {
    fn new(slots: usize, limits: Option<Limits>) -> Self {
        Self {
            readings: Readings::open(),
            limits,
            figures: limits.map(Figures::new),
            held: (0..slots).map(|_| Held::Nothing).collect(),
            is_set: false,
            live: 0,
            thread: 0,
            last: [None; THREADS],
            low: 0,
            rss_before: 0,
            highest: 0,
        }
    }

    /// Measures a moment.
    fn see(&mut self, event: &Event) {
        let rss = self.readings.rss();
        let mut moment = Moment { rss, rss_before: self.rss_before, ..Moment::default() };
        match *event {
            Event::Allocated { request, block, inside } => {
                moment.untouched = block.map_or(0, |(start, bytes)| untouched(start, bytes));
                (moment.request, moment.inside) = (Some(request), inside);
                moment.obliged = request >= MIB || self.live >= self.low + MIB + SLACK;
            }
            Event::Freed { bytes } => {
                moment.freed = bytes >= MIB;
                self.low = self.low.min(self.live);
            }
            Event::Beside => self.low = self.live,
            Event::Touched => (),
        }
        if !self.is_set {
            return;
        }
        if moment.obliged {
            self.low = self.live;
        }
        moment.pending = self.pending();
        moment.peak = self.readings.peak();
        moment.alarms = self.readings.new_alarms();
        self.highest = self.highest.max(moment.highest());
        if let Some(figures) = &mut self.figures {
            figures.see(&moment);
        }
    }

    /// Returns the untouched bytes of the last large blocks that are still held.
    fn pending(&self) -> usize {
        let held = self.last.iter().flatten().map(|&slot| &self.held[slot]);
        held.map(|held| if let Held::Block(block) = held { untouched(block.start, block.bytes) } else { 0 }).sum()
    }

    fn step(&mut self, thread: usize, op: Op) {
        self.thread = thread;
        self.readings.reset_peak();
        self.rss_before = self.readings.rss();
        match op {
            Op::Hold { slot, bytes, touch } => self.hold(slot, bytes, touch, false),
            Op::Zeroed { slot, bytes, touch } => self.hold(slot, bytes, touch, true),
            Op::Double { slot, bytes } => self.double(slot, bytes),
            Op::Resize { slot, bytes } => {
                if let Held::Block(block) = std::mem::replace(&mut self.held[slot], Held::Nothing) {
                    let block = self.resize(block, bytes);
                    self.keep(slot, block);
                }
            }
            Op::Touch { slot } => {
                if let Held::Block(block) = &self.held[slot] {
                    touch(block.start, 0, block.bytes);
                    self.see(&Event::Beside);
                }
            }
            Op::Free { slot } => {
                let bytes = std::mem::replace(&mut self.held[slot], Held::Nothing).free();
                self.freed(bytes);
            }
            Op::Small { slot, bytes, piece } => self.small(slot, bytes, piece),
            Op::Holes { slot, keep } => self.holes(slot, keep),
            Op::C { slot, bytes } => {
                // SAFETY: any size may be asked for.
                let start = unsafe { libc::malloc(bytes) }.cast::<u8>();
                assert!(!start.is_null(), "no memory");
                touch(start, 0, bytes);
                self.held[slot] = Held::C(start);
                self.see(&Event::Beside);
            }
            Op::Race { slot, threads, bytes, piece } => self.race(slot, threads, bytes, piece),
            Op::Trim => {
                #[cfg(target_env = "gnu")]
                // SAFETY: plain C.
                unsafe {
                    libc::malloc_trim(0)
                };
                self.see(&Event::Touched);
            }
            Op::Set => {
                if let Some(limits) = &self.limits {
                    thresholds::set(limits.capacity);
                }
                self.is_set = true;
                // Setting reads the rss, as an allocation of 1 MiB does.
                self.low = self.live.saturating_sub(MIB + SLACK);
                self.see(&Event::Allocated { request: 0, block: None, inside: false });
            }
        }
    }

    fn freed(&mut self, bytes: usize) {
        self.live -= bytes;
        self.see(&Event::Freed { bytes });
    }

    fn hold(&mut self, slot: usize, bytes: usize, percent: usize, zeroed: bool) {
        let block = Block::new(bytes, zeroed);
        self.live += bytes;
        self.see(&Event::Allocated { request: bytes, block: Some((block.start, bytes)), inside: zeroed });
        touch(block.start, 0, bytes / 100 * percent);
        self.see(&Event::Touched);
        self.keep(slot, block);
    }

    fn keep(&mut self, slot: usize, block: Block) {
        if block.bytes >= LARGE {
            self.last[self.thread] = Some(slot);
        }
        self.held[slot] = Held::Block(block);
    }

    fn resize(&mut self, mut block: Block, bytes: usize) -> Block {
        let before = block.bytes;
        block.resize(bytes);
        self.live += bytes - before;
        self.see(&Event::Allocated { request: bytes, block: Some((block.start, bytes)), inside: true });
        touch(block.start, before, bytes);
        self.see(&Event::Touched);
        block
    }

    fn double(&mut self, slot: usize, bytes: usize) {
        let mut size = bytes >> 10;
        let mut block = Block::new(size, false);
        self.live += size;
        touch(block.start, 0, size);
        while size < bytes {
            size = (2 * size).min(bytes);
            self.readings.reset_peak();
            self.rss_before = self.readings.rss();
            block = self.resize(block, size);
        }
        self.keep(slot, block);
    }

    fn small(&mut self, slot: usize, bytes: usize, piece: usize) {
        let mut group = Group::new(piece);
        let mut seen = 0;
        while group.bytes < bytes {
            group.add();
            self.live += piece;
            if group.bytes - seen >= OFTEN || group.bytes >= bytes {
                self.see(&Event::Allocated { request: piece, block: None, inside: false });
                seen = group.bytes;
            }
        }
        self.held[slot] = Held::Groups(vec![group]);
    }

    fn holes(&mut self, slot: usize, keep: usize) {
        if let Held::Groups(groups) = &mut self.held[slot] {
            let before: usize = groups.iter().map(|group| group.bytes).sum();
            let kept: Vec<Group> = groups.drain(..).map(|group| group.free_except(keep)).collect();
            let after: usize = kept.iter().map(|group| group.bytes).sum();
            *groups = kept;
            self.freed(before - after);
        }
    }

    /// The threads only allocate and touch, so the last rss is the highest.
    fn race(&mut self, slot: usize, threads: usize, bytes: usize, piece: usize) {
        let barrier = Barrier::new(threads);
        let fill = || {
            let mut group = Group::new(piece);
            barrier.wait();
            while group.bytes < bytes {
                group.add();
            }
            group
        };
        let groups: Vec<Group> = std::thread::scope(|scope| {
            let crew: Vec<_> = (0..threads).map(|_| scope.spawn(fill)).collect();
            crew.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        self.live += groups.iter().map(|group| group.bytes).sum::<usize>();
        self.held[slot] = Held::Groups(groups);
        self.see(&Event::Allocated { request: piece, block: None, inside: false });
    }
}
