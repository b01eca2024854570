//! 128 threads that allocate at once, and the worst time of one allocation among them.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::hint::black_box;
use std::sync::Barrier;

use serde_json::{Value, json};

use crate::{Random, speed, thread_time};

const THREADS: usize = 128;
const PAIRS: u32 = 40_000;
const STEPS: usize = 20_000;
/// Allocations of each thread that are timed one by one.
const TIMED: usize = 2_000;

/// Measures pairs, a mix of sizes, and single allocations of a heap that grows.
pub(crate) fn measure(rounds: usize) -> Value {
    let quickest = |work: fn(&mut Random)| {
        let time = |_| at_once(|random| timed(|| work(random))).iter().sum::<u64>();
        (0..rounds).map(time).min().map_or(f64::NAN, |time| time as f64)
    };
    let pair64 = quickest(|_| speed::pairs(PAIRS)) / THREADS as f64 / f64::from(PAIRS);
    let mix = quickest(|random| mix(random, STEPS)) / THREADS as f64 / STEPS as f64;
    let mut single: Vec<u64> = at_once(growth).into_iter().flatten().collect();
    single.sort_unstable();
    let micros = |nanos: Option<&u64>| nanos.map(|&nanos| nanos as f64 / 1000.0);
    json!({
        "pair64.ns": pair64,
        "mix.ns": mix,
        "worst.us": micros(single.last()),
        "p999.us": micros(single.get(single.len() * 999 / 1000)),
    })
}

/// Runs `work` on all threads at once and returns its results.
fn at_once<T: Send>(work: impl Fn(&mut Random) -> T + Sync) -> Vec<T> {
    let gate = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        let start = |thread| {
            let (gate, work) = (&gate, &work);
            scope.spawn(move || {
                let mut random = Random::new(thread as u64);
                gate.wait();
                let result = work(&mut random);
                gate.wait();
                result
            })
        };
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

fn timed(work: impl FnOnce()) -> u64 {
    let before = thread_time();
    work();
    thread_time() - before
}

/// A block from the global allocator.
struct Block(*mut u8, Layout);

impl Block {
    fn new(size: usize) -> Self {
        let layout = Layout::from_size_align(size, 8).unwrap_or(Layout::new::<u64>());
        // SAFETY: the size is not zero.
        let block = black_box(unsafe { alloc(layout) });
        if block.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: the block has at least one byte.
        unsafe { block.write(1) }
        Self(block, layout)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the block was allocated with this layout.
        unsafe { dealloc(self.0, self.1) }
    }
}

/// Returns a size up to 64 KiB. Small sizes are the most frequent ones.
fn size(random: &mut Random) -> usize {
    let most = 16 << (random.bits() >> 32).trailing_ones().min(12);
    random.size(most)
}

/// Replaces blocks of a table of 64, `steps` times.
fn mix(random: &mut Random, steps: usize) {
    let mut blocks: [Option<Block>; 64] = [const { None }; 64];
    for _ in 0..steps {
        let place = (random.bits() >> 16) as usize % blocks.len();
        if let Some(place) = blocks.get_mut(place) {
            *place = None;
            *place = Some(Block::new(size(random)));
        }
    }
}

/// Allocates 2 MiB in blocks of about 1 KiB and returns the processor time of each allocation.
fn growth(random: &mut Random) -> Vec<u64> {
    let mut times = Vec::with_capacity(TIMED);
    let mut blocks = Vec::with_capacity(TIMED);
    for _ in 0..TIMED {
        let size = random.size(2048);
        let before = thread_time();
        let block = Block::new(size);
        times.push(thread_time() - before);
        blocks.push(block);
    }
    times
}
