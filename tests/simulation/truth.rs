//! What loaders and values know of themselves: the truth that the crate is held against.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use plimsoll::{Clock, HeapSize};

use crate::support::Random;

/// Milliseconds.
pub const ORDERS_TTL: u64 = 60_000;
pub const SESSIONS_IDLE: u64 = 20_000;
pub const REFRESH: u64 = 45_000;
pub const BACKOFF_FIRST: u64 = 200;
pub const BACKOFF_MOST: u64 = 10_000;

/// Keys of each cache.
pub const KEYS: usize = 240;

/// How many milliseconds nobody loads after so many failures in a row.
pub fn backoff(attempts: u32) -> u64 {
    (BACKOFF_FIRST << (attempts - 1).min(20)).min(BACKOFF_MOST)
}

/// Counts of what happened: a simulation in which something never happens proves nothing of it.
macro_rules! seen {
    ($($name:ident),+ $(,)?) => {
        #[derive(Default)]
        pub struct Seen { $(pub $name: AtomicU64),+ }

        impl Seen {
            pub fn each(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(SeqCst))),+]
            }
        }
    };
}

seen! {
    invocations, unfinished, freezes, walls_set, restores, hits, misses, expired, evicted_for_size, evicted_for_others,
    inserts_refused, loads_failed, loads_refused, loader_panics, lazy_loads, lazy_failures, backed_off, stale_pins,
    over_budget, unloads, cancelled, pins_passed_on, records, oversize, streams_refused, streams_ended, deadlines,
    ballast_refused, booked, overdrawn, buffers_reclaimed, relieved, pressed,
}

/// Counts one more.
pub fn saw(counter: &AtomicU64) {
    counter.fetch_add(1, SeqCst);
}

pub struct Truth {
    pub clock: Clock,
    /// Whether one thread does all: then much more is known.
    pub alone: bool,
    /// What may have passed since a stamp was read: 0 but in a phase in which time moves while others work.
    pub slack: AtomicU64,
    /// The wall clock, in milliseconds since 1970.
    pub wall: AtomicU64,
    /// Where loaders ask how they will end.
    chance: Mutex<Random>,
    /// Loads fail nine times in ten while it lasts, else once in ten.
    pub outage: AtomicBool,
    pub seen: Seen,
    pub orders: Keys,
    pub sessions: Keys,
    pub model: Lazy,
    pub fonts: Lazy,
    /// Whether ballast rises, or is let go of.
    pub flood: AtomicBool,
    /// Whether all loads succeed, for once.
    pub sure: AtomicBool,
    /// Items that are alive.
    pub items: AtomicI64,
    versions: AtomicU64,
    /// Heap that nobody reserved.
    pub loose: AtomicU64,
    /// What is booked for ballast rather than reserved.
    pub booked: AtomicU64,
    pub ballast: AtomicU64,
    pub buffers: AtomicU64,
    pub streams: AtomicU64,
    /// Gets of the fonts that were begun and neither ended nor dropped.
    pub pending: AtomicU64,
}

impl Truth {
    pub fn new(clock: Clock, alone: bool, seed: u64) -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        Arc::new(Self {
            clock,
            alone,
            slack: zero(),
            wall: zero(),
            chance: Mutex::new(Random::new(seed ^ 0x0dd5)),
            outage: AtomicBool::new(false),
            seen: Seen::default(),
            orders: Keys::new(),
            sessions: Keys::new(),
            model: Lazy::new(),
            fonts: Lazy::new(),
            flood: AtomicBool::new(false),
            sure: AtomicBool::new(false),
            items: AtomicI64::new(0),
            versions: zero(),
            loose: zero(),
            booked: zero(),
            ballast: zero(),
            buffers: zero(),
            streams: zero(),
            pending: zero(),
        })
    }

    pub fn chance(&self, bound: usize) -> usize {
        self.chance.lock().unwrap().below(bound)
    }

    /// Whether the load that asks is to fail.
    pub fn fails(&self) -> bool {
        let bad = if self.outage.load(SeqCst) { 9 } else { 1 };
        !self.sure.load(SeqCst) && self.chance(10) < bad
    }

    /// Whether it is to panic.
    pub fn panics(&self) -> bool {
        !self.sure.load(SeqCst) && self.chance(20) == 0
    }

    /// Notes which version of a key was put in last, 0 if it is there no more.
    pub fn note_latest(&self, keys: &Keys, key: usize, version: u64) {
        if self.alone {
            keys.latest[key].store(version, SeqCst);
        }
    }

    pub fn slack(&self) -> u64 {
        self.slack.load(SeqCst)
    }
}

/// What a load failed with.
#[derive(Debug)]
pub struct Fault {
    pub generation: u64,
}

/// The truth about the keys of a cache.
pub struct Keys {
    loads_and_writes: Vec<Mutex<LoadsAndWrites>>,
    /// The version put in last; 0 where it was taken out or refused. Told only where one thread does all.
    pub latest: Vec<AtomicU64>,
    pub asked: AtomicU64,
    pub loads: AtomicU64,
    pub failures: AtomicU64,
}

impl Keys {
    fn new() -> Self {
        Self {
            loads_and_writes: (0..KEYS).map(|_| Mutex::default()).collect(),
            latest: (0..KEYS).map(|_| AtomicU64::new(0)).collect(),
            asked: AtomicU64::new(0),
            loads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// Returns the number of writes of the key that have ended.
    pub fn written(&self, key: usize) -> u64 {
        self.loads_and_writes[key].lock().unwrap().written
    }

    /// Begins a load of the key for a call before which `written` writes had ended. Another load may run only if a later
    /// write has cancelled it.
    pub fn load(&self, key: usize, written: u64) -> Loading<'_> {
        let mut state = self.loads_and_writes[key].lock().unwrap();
        let joinable = state.writing == 0 && state.running.contains(&state.written);
        assert!(!joinable, "two loads of key {key} at once");
        state.running.push(written);
        Loading { state: &self.loads_and_writes[key], written }
    }

    /// Writes the key: inserts or removes it.
    pub fn write<R>(&self, key: usize, write: impl FnOnce() -> R) -> R {
        self.writes(key..key + 1, write)
    }

    /// Writes every key.
    pub fn write_all<R>(&self, write: impl FnOnce() -> R) -> R {
        self.writes(0..KEYS, write)
    }

    fn writes<R>(&self, keys: std::ops::Range<usize>, write: impl FnOnce() -> R) -> R {
        for state in &self.loads_and_writes[keys.clone()] {
            state.lock().unwrap().writing += 1;
        }
        let done = write();
        for state in &self.loads_and_writes[keys] {
            let mut state = state.lock().unwrap();
            state.writing -= 1;
            state.written += 1;
        }
        done
    }
}

/// The loads that run and the writes of one key.
#[derive(Default)]
struct LoadsAndWrites {
    /// The number of writes that have begun and not ended.
    writing: u32,
    /// The number of writes that have ended.
    written: u64,
    /// For each load that runs, the number of writes that had ended before its call.
    running: Vec<u64>,
}

/// A load that runs until it is dropped.
pub struct Loading<'a> {
    state: &'a Mutex<LoadsAndWrites>,
    written: u64,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap();
        let at = state.running.iter().position(|written| *written == self.written);
        state.running.swap_remove(at.expect("each load is listed once"));
    }
}

/// What lies in a cache.
pub struct Item {
    pub key: usize,
    pub version: u64,
    /// When it was made, and how long it lives.
    made: u64,
    ttl: u64,
    /// What may have passed between its making and its insertion.
    slack: u64,
    /// When it was last asked for.
    asked: AtomicU64,
    bytes: Vec<u8>,
    truth: Arc<Truth>,
}

impl Item {
    pub fn new(truth: &Arc<Truth>, key: usize, len: usize, ttl: u64) -> Arc<Self> {
        truth.items.fetch_add(1, SeqCst);
        let version = truth.versions.fetch_add(1, SeqCst) + 1;
        let (now, slack) = (truth.clock.now(), truth.slack());
        let bytes = vec![version as u8; len];
        let (truth, asked) = (Arc::clone(truth), AtomicU64::new(now));
        Arc::new(Self { key, version, made: now, ttl, slack, asked, bytes, truth })
    }

    /// It was served to one who asked for `key` when it was `then`.
    pub fn served(&self, key: usize, then: u64, idle: u64) {
        let whole = self.key == key && self.bytes.iter().step_by(997).all(|byte| *byte == self.version as u8);
        assert!(whole, "key {key} was answered with what is not its own");
        let age = then.saturating_sub(self.made);
        assert!(age < self.ttl.saturating_add(self.slack), "key {key} is {age} ms old and lives for {}", self.ttl);
        self.check_idle(self.asked.fetch_max(self.truth.clock.now(), SeqCst), then, idle);
    }

    /// It was shown, which is no use of it.
    pub fn shown(&self, key: usize, then: u64, idle: u64) {
        assert_eq!(self.key, key);
        let age = then.saturating_sub(self.made);
        assert!(age < self.ttl.saturating_add(self.slack), "key {key} is {age} ms old and lives for {}", self.ttl);
        self.check_idle(self.asked.load(SeqCst), then, idle);
    }

    fn check_idle(&self, asked: u64, then: u64, idle: u64) {
        let (key, unused) = (self.key, then.saturating_sub(asked));
        let slack = self.slack + self.truth.slack();
        assert!(unused < idle.saturating_add(slack), "key {key} was not asked for in {unused} ms");
    }
}

impl HeapSize for Item {
    fn heap_size(&self) -> usize {
        self.bytes.heap_size()
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        self.truth.items.fetch_sub(1, SeqCst);
    }
}

/// The truth about a lazy resource.
pub struct Lazy {
    loading: AtomicBool,
    books: Mutex<Books>,
    pub loads: AtomicU64,
    /// What a generation takes beside its payload: learnt at the first load.
    pub block: AtomicU64,
}

/// Nothing in it grows, so that what a load retains is what it made.
pub struct Books {
    /// How many loads began.
    begun: u64,
    /// The number of failures in a row, the time of the last one, and the generation of the last error among them.
    pub failed: Option<(u32, u64, Option<u64>)>,
    /// `true` if the load that runs was unloaded: to drop it is no failure.
    pub unloaded: bool,
    pub alive: Vec<Living>,
}

/// A generation that has not been freed.
#[derive(Clone, Copy)]
pub struct Living {
    pub generation: u64,
    pub bytes: u64,
    pub pins: u32,
}

impl Lazy {
    fn new() -> Self {
        let books = Books { begun: 0, failed: None, unloaded: false, alive: Vec::with_capacity(1024) };
        Self {
            loading: AtomicBool::new(false),
            books: Mutex::new(books),
            loads: AtomicU64::new(0),
            block: AtomicU64::new(0),
        }
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// Begins a load: alone, and not before the back-off is over.
    pub fn begin(&self, now: u64) -> u64 {
        assert!(!self.loading.swap(true, SeqCst), "two loads at once");
        let mut books = self.books();
        books.unloaded = false;
        // Without an error, a caller without a value does not wait.
        if let Some((attempts, at, Some(_))) = books.failed {
            assert!(now - at >= backoff(attempts), "loaded {} ms after failure {attempts}", now - at);
        }
        books.begun += 1;
        books.begun
    }

    /// Ends a load that fails.
    pub fn fail(&self, truth: &Truth, generation: u64) -> Fault {
        let mut books = self.books();
        let before = books.failed.map_or(0, |(attempts, ..)| attempts);
        books.failed = Some((before + 1, truth.clock.now(), Some(generation)));
        drop(books);
        saw(&truth.seen.lazy_failures);
        self.loading.store(false, SeqCst);
        Fault { generation }
    }

    /// Ends a load that was dropped before its end. It counts as a failure unless it was unloaded. With several threads
    /// that is not known, so the failure is left out: the resource may wait longer before its next load.
    pub fn give_up(&self, truth: &Truth) {
        let mut books = self.books();
        if truth.alone && !books.unloaded {
            let (before, error) = books.failed.map_or((0, None), |(attempts, _, error)| (attempts, error));
            books.failed = Some((before + 1, truth.clock.now(), error));
        }
        drop(books);
        self.loading.store(false, SeqCst);
    }

    /// Records an unload before it is done.
    pub fn unload(&self) {
        self.books().unloaded = true;
    }

    /// How much of what is alive was booked, having been expected to take `expected` bytes.
    pub fn booked(&self, expected: u64) -> u64 {
        let block = self.block.load(SeqCst);
        self.books().alive.iter().map(|living| (living.bytes + block).saturating_sub(expected)).sum()
    }

    /// What is alive, and how many generations of it nobody pins.
    pub fn alive(&self) -> (u64, usize) {
        let (books, block) = (self.books(), self.block.load(SeqCst));
        let bytes = books.alive.iter().map(|living| living.bytes + block).sum();
        (bytes, books.alive.iter().filter(|living| living.pins == 0).count())
    }
}

impl Books {
    fn living(&mut self, generation: u64) -> &mut Living {
        let found = self.alive.iter_mut().find(|living| living.generation == generation);
        found.unwrap_or_else(|| panic!("generation {generation} failed or was freed, and is served"))
    }
}

/// What a lazy resource loads.
pub struct Model {
    pub generation: u64,
    pub made: u64,
    slack: u64,
    payload: Vec<u8>,
    /// Which of the two it is.
    of: fn(&Truth) -> &Lazy,
    truth: Arc<Truth>,
}

impl Model {
    /// Ends a load that succeeds.
    pub fn new(truth: &Arc<Truth>, of: fn(&Truth) -> &Lazy, generation: u64, made: u64, len: usize) -> Self {
        let mut payload = vec![0; len];
        *payload.last_mut().unwrap() = generation as u8;
        let (lazy, slack) = (of(truth), truth.slack());
        let mut books = lazy.books();
        books.failed = None;
        assert!(books.alive.len() < books.alive.capacity(), "too many generations are alive");
        books.alive.push(Living { generation, bytes: len as u64, pins: 0 });
        drop(books);
        saw(&lazy.loads);
        saw(&truth.seen.lazy_loads);
        lazy.loading.store(false, SeqCst);
        Self { generation, made, slack, payload, of, truth: Arc::clone(truth) }
    }

    /// It was served to one who asked at `then`.
    pub fn served(&self, then: u64, stale: bool) {
        let (age, now) = (then.saturating_sub(self.made), self.truth.clock.now());
        if stale {
            saw(&self.truth.seen.stale_pins);
            assert!(now - self.made + self.slack + self.truth.slack() >= REFRESH, "stale at an age of {age} ms");
        } else {
            assert!(age < REFRESH + self.slack, "fresh at an age of {age} ms");
        }
        self.check();
    }

    /// It is whole, and nobody freed it.
    pub fn check(&self) {
        assert_eq!(self.payload.last(), Some(&(self.generation as u8)), "a torn payload");
        let mut books = (self.of)(&self.truth).books();
        assert_eq!(books.living(self.generation).bytes, self.payload.len() as u64);
    }

    /// Notes one pin more, or one fewer.
    pub fn pin(&self, more: bool) {
        let mut books = (self.of)(&self.truth).books();
        let living = books.living(self.generation);
        living.pins = if more { living.pins + 1 } else { living.pins - 1 };
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let mut books = (self.of)(&self.truth).books();
        let at = books.alive.iter().position(|living| living.generation == self.generation);
        let living = books.alive.swap_remove(at.expect("freed twice"));
        assert_eq!(living.pins, 0, "freed under a pin");
    }
}

/// Where a failing test is: the seed and the step, for the hook that says so.
pub static WHERE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
