//! Values loaded late: what it costs to read one, of this crate and of its peers.

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::{Arc, LazyLock, OnceLock};

use arc_swap::ArcSwapOption;
use parking_lot::RwLock;
use plimsoll::LazyResource;

use crate::heap::speed::{Work, alone, together};

static RESOURCE: LazyResource<u64, Infallible> = LazyResource::new("number", || Ok(7));
static LAZY_LOCK: LazyLock<u64> = LazyLock::new(|| black_box(7));
static ONCE_LOCK: OnceLock<u64> = OnceLock::new();
static ONCE_CELL: once_cell::sync::OnceCell<u64> = once_cell::sync::OnceCell::new();
static TOKIO: tokio::sync::OnceCell<u64> = tokio::sync::OnceCell::const_new();
static ASYNC: async_once_cell::OnceCell<u64> = async_once_cell::OnceCell::new();
static ARC_SWAP: ArcSwapOption<u64> = ArcSwapOption::const_empty();
static RW_LOCK: RwLock<Option<Arc<u64>>> = RwLock::new(None);

/// Nanoseconds per read, on one thread and on two.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// A lone thread.
    pub alone: f64,
    /// Two threads at once.
    pub together: f64,
}

/// One way to read a value that was loaded late.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its name in the table.
    pub name: &'static str,
    /// Whether the value can be unloaded while others read it.
    pub unloads: bool,
    /// Times so many chunks of it.
    pub measure: fn(u32) -> Times,
}

/// A held pin of this crate, a `LazyLock`, then what is asked anew for each read, this crate's first.
pub const KINDS: [Kind; 9] = [
    Kind { name: "plimsoll, pinned", unloads: true, measure: pinned },
    Kind { name: "LazyLock", unloads: false, measure: |chunks| times(chunks, || **black_box(&LAZY_LOCK)) },
    Kind {
        name: "plimsoll, get",
        unloads: true,
        measure: |chunks| {
            times(chunks, || match black_box(&RESOURCE).get() {
                Ok(number) => *number,
                Err(_) => 0,
            })
        },
    },
    Kind {
        name: "OnceLock",
        unloads: false,
        measure: |chunks| times(chunks, || *black_box(&ONCE_LOCK).get_or_init(|| 7)),
    },
    Kind {
        name: "once_cell",
        unloads: false,
        measure: |chunks| {
            times(chunks, || {
                black_box(&ONCE_CELL).get_or_try_init(|| Ok::<_, Infallible>(7)).map_or(0, |number| *number)
            })
        },
    },
    Kind { name: "tokio OnceCell", unloads: false, measure: tokio_once_cell },
    Kind { name: "async-once-cell", unloads: false, measure: async_once_cell },
    Kind { name: "arc-swap", unloads: true, measure: arc_swap },
    Kind { name: "RwLock<Option<Arc>>", unloads: true, measure: rw_lock },
];

/// Reads by a closure.
struct Reads<R>(R);

impl<R: FnMut() -> u64> Work for Reads<R> {
    const OPERATIONS: u32 = 10_000;

    fn chunk(&mut self) {
        // Eight in a row: the loop itself costs as much as the cheapest of them, and more or less by where it lies.
        for _ in 0..Self::OPERATIONS / 8 {
            let read = &mut self.0;
            let eight: [u64; 8] = [read(), read(), read(), read(), read(), read(), read(), read()];
            black_box(eight.iter().sum::<u64>());
        }
    }
}

fn times<R: FnMut() -> u64 + Copy + Sync>(chunks: u32, read: R) -> Times {
    Times { alone: alone(chunks, Reads(read)), together: together(chunks, |_| Reads(read)) }
}

/// How many times as long a read of a held pin takes as one of a [`LazyLock`]: each one's quickest chunk, of chunks that
/// take turns, since the machine's speed changes from one moment to the next.
pub fn pinned_over_lazy_lock(chunks: u32) -> f64 {
    let Ok(pin) = RESOURCE.get() else { return f64::NAN };
    let (mut pinned, mut lazy_lock) = (Reads(|| **black_box(&pin)), Reads(|| **black_box(&LAZY_LOCK)));
    let turn = |_| [alone(1, &mut pinned), alone(1, &mut lazy_lock)];
    let quickest = |best: [f64; 2], turn: [f64; 2]| [best[0].min(turn[0]), best[1].min(turn[1])];
    let [pinned, lazy_lock] = (0..chunks).map(turn).fold([f64::INFINITY; 2], quickest);
    pinned / lazy_lock
}

/// Returns the time of a [`LazyResource::get`] over that of an [`ArcSwapOption::load`], on one thread: the quickest chunk
/// of each, of chunks that take turns.
pub fn get_over_arc_swap(chunks: u32) -> f64 {
    ARC_SWAP.store(Some(Arc::new(7)));
    let mut get = Reads(|| match black_box(&RESOURCE).get() {
        Ok(number) => *number,
        Err(_) => 0,
    });
    let mut load = Reads(|| black_box(&ARC_SWAP).load().as_deref().map_or(0, |number| *number));
    let turn = |_| [alone(1, &mut get), alone(1, &mut load)];
    let quickest = |best: [f64; 2], turn: [f64; 2]| [best[0].min(turn[0]), best[1].min(turn[1])];
    let [get, load] = (0..chunks).map(turn).fold([f64::INFINITY; 2], quickest);
    get / load
}

/// Work that goes on after its chunk.
impl<W: Work> Work for &mut W {
    const OPERATIONS: u32 = W::OPERATIONS;

    fn chunk(&mut self) {
        W::chunk(self);
    }
}

fn pinned(chunks: u32) -> Times {
    match RESOURCE.get() {
        Ok(pin) => times(chunks, || **black_box(&pin)),
        Err(_) => Times { alone: f64::NAN, together: f64::NAN },
    }
}

fn tokio_once_cell(chunks: u32) -> Times {
    let _set_before = TOKIO.set(7);
    times(chunks, || black_box(&TOKIO).get().map_or(0, |number| *number))
}

fn async_once_cell(chunks: u32) -> Times {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};
    times(chunks, || {
        let get = std::pin::pin!(black_box(&ASYNC).get_or_init(std::future::ready(7)));
        match get.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(number) => *number,
            Poll::Pending => 0,
        }
    })
}

fn arc_swap(chunks: u32) -> Times {
    ARC_SWAP.store(Some(Arc::new(7)));
    times(chunks, || black_box(&ARC_SWAP).load().as_deref().map_or(0, |number| *number))
}

fn rw_lock(chunks: u32) -> Times {
    *RW_LOCK.write() = Some(Arc::new(7));
    times(chunks, || {
        let number = black_box(&RW_LOCK).read().clone();
        number.map_or(0, |number| *number)
    })
}
