//! What the tracking allocator costs, beside the system's allocator alone.
//!
//! Both are called as a `GlobalAlloc`, so both are inlined into the loop. `benches/peers` measures the rest: through
//! `std::alloc`, one process for each allocator, beside the peers.

#![expect(unsafe_code, reason = "an allocator is called through an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System, handle_alloc_error};
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Duration;

use criterion::measurement::{Measurement, WallTime};
use criterion::{BenchmarkGroup, Criterion, Throughput};
use plimsoll::{TrackingAllocator, heap, os};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn main() {
    let settings = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1200));
    let mut criterion = settings.configure_from_args();
    work(&mut criterion);
    readings(&mut criterion);
    criterion.final_summary();
}

/// Allocating and freeing.
fn work(criterion: &mut Criterion) {
    let mut group = started(criterion, "heap/pair64/1t");
    group.bench_function("system", |b| b.iter(|| pair64(&System)));
    group.bench_function("plimsoll", |b| b.iter(|| pair64(&GLOBAL)));
    group.finish();

    let mut group = started(criterion, "heap/churn/1t");
    group.bench_function("system", |b| {
        let mut churn = Churn::new(&System);
        b.iter(|| churn.step());
    });
    group.bench_function("plimsoll", |b| {
        let mut churn = Churn::new(&GLOBAL);
        b.iter(|| churn.step());
    });
    group.finish();

    let mut group = started(criterion, "heap/pair64/2t");
    group.bench_function("system", |b| b.iter_custom(|times| together(times, || || pair64(&System))));
    group.bench_function("plimsoll", |b| b.iter_custom(|times| together(times, || || pair64(&GLOBAL))));
    group.finish();

    let mut group = started(criterion, "heap/churn/2t");
    group.bench_function("system", |b| b.iter_custom(|times| together(times, || churner(&System))));
    group.bench_function("plimsoll", |b| b.iter_custom(|times| together(times, || churner(&GLOBAL))));
    group.finish();
}

/// Reading and steering.
fn readings(criterion: &mut Criterion) {
    let mut group = started(criterion, "heap/stats");
    group.bench_function("plimsoll", |b| b.iter(heap::stats));
    group.finish();

    let mut group = started(criterion, "heap/reset_peak");
    group.bench_function("plimsoll", |b| b.iter(heap::reset_peak));
    group.finish();

    let mut group = started(criterion, "heap/scope");
    group.bench_function("plimsoll", |b| b.iter(|| heap::scope(|| black_box(0))));
    group.finish();

    let mut group = started(criterion, "os/rss");
    group.bench_function("plimsoll", |b| b.iter(os::rss));
    group.finish();
}

fn started<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    group
}

/// The time in which two threads do `times` steps each, at once.
fn together<Step: FnMut()>(times: u64, make: impl Fn() -> Step + Sync) -> Duration {
    let gate = Barrier::new(2);
    let run = || {
        let mut step = make();
        gate.wait();
        let start = WallTime.start();
        (0..times).for_each(|_| step());
        WallTime.end(start)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(run);
        run().max(other.join().unwrap_or(Duration::MAX))
    })
}

/// Allocates and frees 64 bytes.
fn pair64(allocator: &impl GlobalAlloc) {
    const LAYOUT: Layout = Layout::new::<[u64; 8]>();
    // SAFETY: the layout's size is not zero. The black box keeps the pair from being compiled away.
    let block = black_box(unsafe { allocator.alloc(LAYOUT) });
    if block.is_null() {
        handle_alloc_error(LAYOUT);
    }
    // SAFETY: the block was allocated above with this layout.
    unsafe { allocator.dealloc(block, LAYOUT) }
}

fn churner(allocator: &'static (impl GlobalAlloc + Sync)) -> impl FnMut() {
    let mut churn = Churn::new(allocator);
    move || churn.step()
}

/// A table of live blocks of 16 to 2048 bytes; each step replaces a random one, or grows it by half up to 4096.
struct Churn<'a, A: GlobalAlloc> {
    allocator: &'a A,
    blocks: Vec<(*mut u8, Layout)>,
    random: u64,
}

impl<'a, A: GlobalAlloc> Churn<'a, A> {
    const BLOCKS: usize = 1024;

    fn new(allocator: &'a A) -> Self {
        let mut churn = Self { allocator, blocks: Vec::new(), random: 0x9e37_79b9_7f4a_7c15 };
        for _ in 0..Self::BLOCKS {
            let fresh = churn.fresh();
            churn.blocks.push(fresh);
        }
        churn
    }

    /// A number below `bound`, from a xorshift64 generator.
    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 32).unwrap_or(0) % bound
    }

    fn fresh(&mut self) -> (*mut u8, Layout) {
        let layout = layout(16 + self.below(2033));
        // SAFETY: the layout's size is not zero.
        (touched(unsafe { self.allocator.alloc(layout) }, layout), layout)
    }

    fn step(&mut self) {
        let slot = self.below(Self::BLOCKS);
        let Some(&(block, old)) = self.blocks.get(slot) else { return };
        let new = if self.below(8) == 0 {
            let wider = layout((old.size() + old.size() / 2).min(4096));
            // SAFETY: the block is live with the layout `old`; the new size is neither zero nor too large.
            (touched(unsafe { self.allocator.realloc(block, old, wider.size()) }, wider), wider)
        } else {
            // SAFETY: the block is live with the layout `old`, and its place is filled anew below.
            unsafe { self.allocator.dealloc(block, old) }
            self.fresh()
        };
        if let Some(place) = self.blocks.get_mut(slot) {
            *place = new;
        }
    }
}

impl<A: GlobalAlloc> Drop for Churn<'_, A> {
    fn drop(&mut self) {
        for &(block, layout) in &self.blocks {
            // SAFETY: the table holds live blocks, each with its layout.
            unsafe { self.allocator.dealloc(block, layout) }
        }
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap_or(Layout::new::<u64>())
}

/// Writes to the block, as every real user does.
fn touched(block: *mut u8, layout: Layout) -> *mut u8 {
    if block.is_null() {
        handle_alloc_error(layout);
    }
    // SAFETY: the block is valid for writes of its layout's size, which is not zero.
    unsafe { block.write(1) }
    black_box(block)
}
