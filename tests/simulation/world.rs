//! A function with all parts of the crate, and what must hold of them whenever nobody works.

use std::hash::{BuildHasherDefault, DefaultHasher};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use plimsoll::budget::{BudgetExceeded, Reclaim, ReclaimPriority, ReclaimerHandle};
use plimsoll::cache::{CacheStats, Eviction};
use plimsoll::lazy::{BoxedLoad, ResourceState, ResourceStatus};
use plimsoll::monitor::{InvocationReport, Outcome};
use plimsoll::{
    Account, AsyncLazyResource, ByteSize, Cache, Clock, LazyResource, MemoryBudget, Monitor, Pinned, Pressure,
    Reservation,
};

use crate::support::{Block, live};
use crate::truth::{
    BACKOFF_FIRST, BACKOFF_MOST, Fault, Item, Keys, Lazy, Model, ORDERS_TTL, REFRESH, SESSIONS_IDLE, Truth, saw,
};

pub const LIMIT: ByteSize = ByteSize::mib(64);
/// The most that the orders may hold.
pub const ORDERS_MOST: ByteSize = ByteSize::mib(2);
/// What the model is expected to take. It takes half of that to one and a half times as much.
pub const EXPECTED: ByteSize = ByteSize::mib(5);

/// `DefaultHashBuilder` alike in each run: what is evicted depends on hashes, and a run must repeat.
type Hashes = BuildHasherDefault<DefaultHasher>;
pub type Orders = Cache<u32, Arc<Item>, Hashes>;
pub type Sessions = Cache<String, Arc<Item>, Hashes>;
pub type ModelResource = LazyResource<Model, Fault, Box<dyn Fn() -> Result<Model, Fault> + Send + Sync>>;
pub type FontsResource = AsyncLazyResource<Model, Fault, Box<dyn Fn() -> BoxedLoad<Model, Fault> + Send + Sync>>;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A value that lives as a static does, until this is dropped: a monitor watches nothing else.
pub struct Static<T: 'static>(NonNull<T>);

impl<T> Static<T> {
    fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(value))))
    }

    pub fn get(&self) -> &'static T {
        // SAFETY: it came from a box, and lives until `self` is dropped: after all whom it is lent to, see `World`.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Static<T> {
    fn drop(&mut self) {
        // SAFETY: it came from a box, and nobody borrows it any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

// SAFETY: no more than a reference to the value, and its owner.
unsafe impl<T: Send + Sync> Send for Static<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Static<T> {}

/// Memory that is reserved and there: the reservation goes after the block.
pub struct Backed {
    pub block: Block,
    pub reserved: Reservation,
}

/// A pin, noted in the books of what it pins.
pub struct Held(Pinned<Model>);

impl Held {
    pub fn new(pin: Pinned<Model>) -> Self {
        pin.pin(true);
        Self(pin)
    }

    pub fn check(&self) {
        self.0.check();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.pin(false);
    }
}

/// Spare buffers, given back when others need memory.
pub struct Buffers {
    pub spare: Mutex<Vec<Backed>>,
    truth: Arc<Truth>,
}

/// The function. The fields are dropped in their order: first what borrows the statics, these last.
pub struct World {
    pub monitor: Monitor,
    /// Pins that one worker leaves and another takes.
    pub pins: Mutex<Vec<Held>>,
    pub orders: Orders,
    pub sessions: Sessions,
    pub budget: MemoryBudget,
    pub lines: Account,
    pub ballast: Account,
    pub spike: Account,
    pub reclaimer: ReclaimerHandle,
    pub spare: Account,
    pub buffers: Arc<Buffers>,
    pub truth: Arc<Truth>,
    /// Reports that were shown, and the sum of their numbers.
    pub reports: Arc<[AtomicU64; 2]>,
    /// Live heap before all work, when everything here was made.
    pub base: i64,
    model: Static<ModelResource>,
    fonts: Static<FontsResource>,
}

impl World {
    pub fn new(clock: &Clock, alone: bool, seed: u64) -> Self {
        let truth = Truth::new(clock.clone(), alone, seed);
        let budget = MemoryBudget::builder().limit(LIMIT).build().unwrap();
        let orders = Self::orders(clock, &budget);
        let sessions: Sessions = Cache::builder("sessions")
            .max_entries(100)
            .max_bytes(ByteSize::kib(1500))
            .time_to_idle(ms(SESSIONS_IDLE))
            .eviction(Eviction::Lru)
            .reserve_per_load(ByteSize::kib(64))
            .account(budget.account("sessions").unwrap())
            .clock(clock.clone())
            .hash_builder(Hashes::default())
            .build()
            .unwrap();
        let model = Static::new(model(&truth).clock(clock.clone()));
        let fonts = Static::new(fonts(&truth).clock(clock.clone()));
        let reports: Arc<[AtomicU64; 2]> = Arc::default();
        let monitor = Monitor::builder()
            .memory_size(ByteSize::mib(128))
            .print_reports(false)
            .clock(clock.clone())
            .window(64)
            .resource(model.get(), budget.account("model").unwrap())
            .resource(fonts.get(), budget.account("fonts").unwrap())
            .at_end({
                let (orders, sessions) = (orders.clone(), sessions.clone());
                move || {
                    orders.remove_expired(200);
                    sessions.remove_expired(200);
                }
            })
            .on_report({
                let reports = Arc::clone(&reports);
                move |report| {
                    reports[0].fetch_add(1, SeqCst);
                    reports[1].fetch_add(report.invocations, SeqCst);
                }
            });
        // With a monitor the budget counts the heap, which is not the same in each run.
        let monitor = if alone { monitor } else { monitor.budget(&budget) }.build().unwrap();
        let buffers = Arc::new(Buffers { spare: Mutex::new(Vec::with_capacity(64)), truth: Arc::clone(&truth) });
        let spare = budget.account("spare").unwrap();
        let reclaimer = spare.register_reclaimer(ReclaimPriority::BUFFER, Reclaimer(Arc::clone(&buffers)));
        let (lines, ballast) = (budget.account("lines").unwrap(), budget.account("ballast").unwrap());
        let spike_account = budget.account("spike").unwrap();
        let (pins, base) = (Mutex::new(Vec::with_capacity(64)), 0);
        let mut world = Self {
            monitor,
            pins,
            orders,
            sessions,
            budget,
            lines,
            ballast,
            spike: spike_account,
            reclaimer,
            spare,
            buffers,
            truth,
            reports,
            base,
            model,
            fonts,
        };
        world.learn();
        world.base = live();
        world
    }

    fn orders(clock: &Clock, budget: &MemoryBudget) -> Orders {
        Cache::builder("orders")
            .shards(4)
            .max_bytes_weighed(ORDERS_MOST, weigh)
            .time_to_live(ms(ORDERS_TTL))
            .account(budget.account("orders").unwrap())
            .clock(clock.clone())
            .hash_builder(Hashes::default())
            .build()
            .unwrap()
    }

    /// Loads both resources once, to see what a generation takes beside its payload.
    fn learn(&self) {
        self.truth.sure.store(true, SeqCst);
        self.model().prefetch().map_err(drop).unwrap();
        let mut fonts = Box::pin(self.fonts().prefetch());
        let context = &mut Context::from_waker(std::task::Waker::noop());
        while fonts.as_mut().poll(context).is_pending() {}
        self.truth.sure.store(false, SeqCst);
        for (status, lazy) in [(self.model().status(), &self.truth.model), (self.fonts().status(), &self.truth.fonts)] {
            let payload = lazy.books().alive[0].bytes;
            let block = status.charged.as_u64() - payload;
            assert!(block < 512, "{block} bytes beside the payload");
            lazy.block.store(block, SeqCst);
        }
        assert_eq!((self.model().unload(), self.fonts().unload()), (Some(0), Some(0)));
    }

    pub fn model(&self) -> &'static ModelResource {
        self.model.get()
    }

    pub fn fonts(&self) -> &'static FontsResource {
        self.fonts.get()
    }

    /// What must hold at rest; `overhead` of what the budget was told is known only to one who told it.
    pub fn check(&self) {
        let (truth, budget) = (&*self.truth, &self.budget);
        let stats = [self.orders.stats(), self.sessions.stats()];
        check_cache(&stats[0], &truth.orders);
        check_cache(&stats[1], &truth.sessions);
        let now = truth.clock.now();
        self.orders.for_each(|key, item| item.shown(*key as usize, now, u64::MAX));
        self.sessions.for_each(|key, item| item.shown(key[1..].parse().unwrap(), now, SESSIONS_IDLE));
        let model = check_lazy(truth.alone, &truth.model, &self.model().status());
        let fonts = check_lazy(truth.alone, &truth.fonts, &self.fonts().status());
        self.pins.lock().unwrap().iter().for_each(Held::check);

        // What each account holds is what there is of it.
        let held =
            |name: &str| budget.accounts().iter().find(|account| account.name == name).unwrap().reserved.as_u64();
        let exact = [
            ("orders", stats[0].bytes.as_u64()),
            ("sessions", stats[1].bytes.as_u64()),
            ("model", model),
            ("fonts", fonts),
            ("ballast", truth.ballast.load(SeqCst)),
            ("spare", truth.buffers.load(SeqCst)),
        ];
        for (name, bytes) in exact {
            assert_eq!(held(name), bytes, "the account {name}");
        }
        assert!(held("lines") <= truth.streams.load(SeqCst), "streams beyond their formula");
        let (reserved, sum) =
            (budget.reserved(), budget.accounts().iter().map(|account| account.reserved.as_u64()).sum());
        assert_eq!(reserved.as_u64(), sum, "the accounts' sum");

        // Only what was booked rather than reserved may be beyond the limit: ballast that says so, what the model took
        // beyond what it was expected to, and the fonts, of which nothing was expected.
        let booked = truth.booked.load(SeqCst) + truth.model.booked(EXPECTED.as_u64()) + truth.fonts.booked(0);
        assert!(sum <= LIMIT.as_u64() + booked, "{reserved} reserved, of which {booked} bytes were booked");
        let room = budget.capacity().total.as_u64();
        assert!(room == LIMIT.as_u64() || !truth.alone, "no monitor has it count the heap");
        if truth.alone {
            assert_eq!(budget.available().as_u64(), room.saturating_sub(sum));
        }
        let pressure = if sum * 100 >= room * 95 {
            Pressure::Critical
        } else if sum * 100 >= room * 80 {
            Pressure::High
        } else {
            Pressure::Normal
        };
        assert_eq!(budget.pressure(), pressure);
        if pressure == Pressure::Critical {
            saw(&truth.seen.pressed);
        }
        if sum > room {
            saw(&truth.seen.overdrawn);
        }
        self.check_heap(sum);
    }

    /// The heap is what is reserved and what is loose, and little else.
    fn check_heap(&self, reserved: u64) {
        /// Of the streams' readers and this test itself.
        const SMALL: i64 = 96 << 10;
        let known = i64::try_from(reserved + self.truth.loose.load(SeqCst)).unwrap();
        let unknown = live() - self.base - known;
        // The table of the exact order is charged at the most that it may be: less of the heap is there.
        let least = -i64::try_from(self.sessions.len() * 128).unwrap() - SMALL;
        assert!((least..SMALL).contains(&unknown), "{unknown} bytes of heap are neither reserved nor loose");
    }

    /// A refusal to one who may ask whom `may` names is honest: it would not fit though all of them gave all.
    pub fn check_refusal(&self, refused: &BudgetExceeded, may: &[&str]) {
        if !self.truth.alone {
            return;
        }
        let lazy = |lazy: &Lazy, status: ResourceStatus| {
            let books = lazy.books();
            if books.alive.iter().all(|living| living.pins == 0) { status.charged.as_u64() } else { 0 }
        };
        let had = |name: &&str| match *name {
            "orders" => self.orders.stats().bytes.as_u64(),
            "sessions" => self.sessions.stats().bytes.as_u64(),
            "spare" => self.truth.buffers.load(SeqCst),
            "model" => lazy(&self.truth.model, self.model().status()),
            // Gets that are pending may have the value already.
            "fonts" if self.truth.pending.load(SeqCst) == 0 => lazy(&self.truth.fonts, self.fonts().status()),
            _ => 0,
        };
        let most = self.budget.capacity().total.as_u64() + may.iter().map(had).sum::<u64>();
        let needed = self.budget.reserved().as_u64() + refused.requested().as_u64();
        assert!(needed > most, "{refused}, and {} bytes more could be had than that", most - needed);
    }

    /// What holds of the report of one invocation, the `number`th of those that one who is alone has seen.
    pub fn check_report(&self, report: &InvocationReport, number: u64) {
        let seen = &self.truth.seen;
        saw(&seen.invocations);
        if report.outcome == Outcome::Unfinished {
            saw(&seen.unfinished);
        }
        let heap = report.heap.expect("the allocator is installed");
        let peak = heap.peak;
        assert!(peak.at_least <= peak.at_most && heap.live <= peak.at_most, "{report:?}");
        let grown = i128::from(heap.live.as_u64()) - i128::from(heap.live_before.as_u64());
        assert_eq!(i128::from(heap.growth.as_i64()), grown);
        assert!(report.rss.is_none_or(|rss| rss <= report.highest_rss), "{report:?}");
        assert_eq!(report.resources.loaded + report.resources.unloaded + report.resources.failed, 2);
        let Some(reserved) = report.reserved else {
            assert!(self.truth.alone && !report.concurrent && report.invocations == number, "{report:?}");
            assert!(peak.at_least == peak.at_most && heap.live_before <= peak.at_most, "{report:?}");
            assert_eq!(heap.live.as_u64(), u64::try_from(live()).unwrap(), "the heap at the end");
            assert_eq!((heap.unattributed, report.gauges[0]), (heap.live, None), "accounts alone have names here");
            return;
        };
        assert!(!self.truth.alone && reserved.capacity <= LIMIT, "{report:?}");
    }
}

impl World {
    /// Drops everything piece by piece, and the budget sees it go.
    pub fn take_down(self) {
        let World { monitor, pins, orders, sessions, budget, buffers, reclaimer, truth, model, fonts, .. } = self;
        let (lent, held) = (budget.clone(), |name| budget.account(name).unwrap().reserved());
        drop((monitor, pins, orders, sessions));
        assert_eq!((held("orders"), held("sessions")), (ByteSize::ZERO, ByteSize::ZERO));
        drop((model, fonts));
        assert_eq!((held("model"), held("fonts")), (ByteSize::ZERO, ByteSize::ZERO));
        buffers.spare.lock().unwrap().clear();
        drop((reclaimer, buffers));
        assert_eq!(lent.reserved(), ByteSize::ZERO);
        lent.accounts().iter().for_each(|account| assert_eq!(account.reserved, ByteSize::ZERO, "{}", account.name));
        assert_eq!(truth.items.load(SeqCst), 0, "items are left");
        assert!(truth.model.books().alive.is_empty() && truth.fonts.books().alive.is_empty());
    }
}

/// The reclaimer of the buffers.
struct Reclaimer(Arc<Buffers>);

impl Reclaim for Reclaimer {
    fn reclaim(&self, want: ByteSize, _pressure: Pressure) {
        let mut freed = ByteSize::ZERO;
        while freed < want {
            // One at a time, so that what is dropped is dropped without the lock.
            let Some(spare) = self.0.spare.try_lock().ok().and_then(|mut spare| spare.pop()) else { break };
            freed = freed.saturating_add(spare.reserved.size());
            self.0.truth.buffers.fetch_sub(spare.reserved.size().as_u64(), SeqCst);
            saw(&self.0.truth.seen.buffers_reclaimed);
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as the cache calls it")]
fn weigh(_key: &u32, item: &Arc<Item>) -> usize {
    plimsoll::HeapSize::heap_size(item)
}

fn model(truth: &Arc<Truth>) -> ModelResource {
    let truth = Arc::clone(truth);
    let load: Box<dyn Fn() -> _ + Send + Sync> = Box::new(move || {
        let made = truth.clock.now();
        let generation = truth.model.begin(made);
        if truth.panics() {
            truth.model.give_up(&truth);
            // Without a word, as the hook of these tests ends the process.
            resume_unwind(Box::new(()));
        }
        let len = EXPECTED.as_u64() as usize * (50 + truth.chance(100)) / 100;
        if truth.fails() {
            drop(vec![0_u8; len / 2]);
            return Err(truth.model.fail(&truth, generation));
        }
        Ok(Model::new(&truth, |truth| &truth.model, generation, made, len))
    });
    LazyResource::capturing("model", load)
        .expecting(EXPECTED)
        .refresh_after(ms(REFRESH))
        .retry_after(ms(BACKOFF_FIRST), ms(BACKOFF_MOST))
}

/// A load that takes some polls, and is given up if it is dropped before its end.
struct LoadFonts {
    truth: Arc<Truth>,
    /// The generation and when its load began, once that is so; `None` again when it ended.
    begun: Option<(u64, u64)>,
    polls: usize,
    scratch: Vec<u8>,
}

impl Future for LoadFonts {
    type Output = Result<Model, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let truth = Arc::clone(&self.truth);
        let (generation, made) = *self.begun.get_or_insert_with(|| {
            let now = truth.clock.now();
            (truth.fonts.begin(now), now)
        });
        if self.polls > 0 {
            self.polls -= 1;
            self.scratch.extend([0; 10_000]);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.begun = None;
        if truth.fails() {
            return Poll::Ready(Err(truth.fonts.fail(&truth, generation)));
        }
        let len = (1 + truth.chance(4 << 10)) << 10;
        Poll::Ready(Ok(Model::new(&truth, |truth| &truth.fonts, generation, made, len)))
    }
}

impl Drop for LoadFonts {
    fn drop(&mut self) {
        if self.begun.is_some() {
            self.truth.fonts.give_up(&self.truth);
        }
    }
}

fn fonts(truth: &Arc<Truth>) -> FontsResource {
    let truth = Arc::clone(truth);
    let load: Box<dyn Fn() -> BoxedLoad<Model, Fault> + Send + Sync> = Box::new(move || {
        let polls = if truth.sure.load(SeqCst) { 0 } else { truth.chance(4) };
        Box::pin(LoadFonts { truth: Arc::clone(&truth), begun: None, polls, scratch: Vec::new() })
    });
    AsyncLazyResource::capturing("fonts", load)
        .refresh_after(ms(REFRESH))
        .retry_after(ms(BACKOFF_FIRST), ms(BACKOFF_MOST))
        .idle_after(1)
}

fn check_cache(stats: &CacheStats, keys: &Keys) {
    assert!(stats.max_bytes.is_none_or(|most| stats.bytes <= most), "{stats:?}");
    assert!(stats.max_entries.is_none_or(|most| stats.entries <= most), "{stats:?}");
    let gone =
        stats.removed + stats.cleared + stats.evictions_by_size + stats.expirations + stats.evictions_by_pressure;
    assert_eq!(stats.inserts, gone + stats.entries as u64, "{stats:?}");
    assert_eq!(stats.hits + stats.misses, keys.asked.load(SeqCst), "{stats:?}");
    assert_eq!(stats.load_successes, keys.loads.load(SeqCst), "{stats:?}");
    assert_eq!(stats.load_failures, keys.failures.load(SeqCst), "{stats:?}");
    assert_eq!(stats.loading, ByteSize::ZERO, "{stats:?}");
}

/// Tells what the resource's account holds, if all is right.
fn check_lazy(alone: bool, lazy: &Lazy, status: &ResourceStatus) -> u64 {
    let (bytes, unpinned) = lazy.alive();
    let (books, block) = (lazy.books(), lazy.block.load(SeqCst));
    let loaded = matches!(status.state, ResourceState::Loaded | ResourceState::Stale);
    // What is there is what was loaded last; all others live by their pins alone.
    let last = books.alive.iter().max_by_key(|living| living.generation).filter(|_| loaded);
    assert_eq!(status.charged.as_u64(), last.map_or(0, |living| living.bytes + block), "{status:?}");
    assert_eq!(unpinned, usize::from(last.is_some_and(|living| living.pins == 0)), "kept by nobody: {status:?}");
    let pins: u32 = books.alive.iter().map(|living| living.pins).sum();
    assert_eq!(status.unloading_pins, (pins - last.map_or(0, |living| living.pins)) as usize, "{status:?}");
    // With several threads it is not known if a load began before or after an unload.
    let failed = books.failed.map_or(0, |(attempts, ..)| attempts);
    assert!(!alone || status.failed_attempts == failed, "{failed}: {status:?}");
    assert_eq!(status.loads, lazy.loads.load(SeqCst), "{status:?}");
    bytes
}
