//! Histories that a budget has to survive in a memory cgroup, and after which it must refuse nothing at rest.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a worker stops at the first surprise")]

use std::hint::black_box;

use plimsoll::{Account, ByteSize, MemoryBudget};
use serde_json::json;

/// The names of the histories over `System`.
pub const HISTORIES: [&str; 5] = ["spike", "static", "midway", "capacity", "fragmented"];

/// The names of the histories over mimalloc: with its trim hook, and without one.
pub const OVER_MIMALLOC: [&str; 2] = ["mimalloc", "undeclared"];

/// Requests at rest after a history.
const AT_REST: u32 = 1000;

/// One history. The control allocates what the budget refuses as well.
struct History {
    budget: MemoryBudget,
    requests: Account,
    is_control: bool,
}

/// A request: its bytes, which are written to if it was granted or if this is the control.
type Request = (Option<Vec<u8>>, Option<plimsoll::Reservation>);

impl History {
    fn request(&self, size: ByteSize) -> Request {
        let reserved = self.requests.try_reserve(size).ok();
        let bytes = (reserved.is_some() || self.is_control).then(|| vec![1; size.as_usize()]);
        (black_box(bytes), reserved)
    }

    /// Returns how many of 1000 requests of 8 MiB are refused, one after the other.
    fn refused_at_rest(&self) -> u32 {
        (0..AT_REST).map(|_| u32::from(self.requests.try_reserve(ByteSize::mib(8)).is_err())).sum()
    }
}

/// Runs the history with the name of the first argument, and prints its figures.
///
/// `trim`: the trim hook of the allocator, which `mimalloc` sets.
pub fn worker(trim: Option<fn()>) {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let is_control = arguments.next().as_deref() == Some("control");
    let budget = if name == "spike" {
        MemoryBudget::builder().limit(ByteSize::mib(100)).count_heap().build()
    } else {
        MemoryBudget::from_env()
    };
    let budget = budget.unwrap();
    let history = History { requests: budget.account("requests").unwrap(), budget, is_control };
    let refused = match name.as_str() {
        "spike" => spike(&history),
        "static" => untouched_requests(&history),
        "midway" => midway(&history),
        "capacity" => capacity(&history),
        "fragmented" => fragmented(&history),
        "mimalloc" => {
            plimsoll::os::set_trim_hook(trim.unwrap());
            over_mimalloc(&history)
        }
        "undeclared" => undeclared(&history),
        other => panic!("no history {other}"),
    };
    println!("{}", json!({ "refused": refused }));
}

/// A request holds 110 of 100 MiB, unreserved, and ends.
fn spike(history: &History) -> u32 {
    let held = vec![1_u8; 110 << 20];
    let while_held = history.request(ByteSize::mib(8));
    assert!(while_held.1.is_none(), "110 of 100 MiB are live");
    drop((black_box(held), while_held));
    history.refused_at_rest()
}

/// A static table of 60 MiB; six admitted requests of 8 MiB that have not allocated yet; six more ask; all allocate.
fn untouched_requests(history: &History) -> u32 {
    let table = vec![1_u8; 60 << 20];
    let asked: Vec<_> = (0..12).map(|_| history.requests.try_reserve(ByteSize::mib(8)).ok()).collect();
    let allocate = |reserved: &Option<_>| (reserved.is_some() || history.is_control).then(|| vec![1_u8; 8 << 20]);
    let allocated: Vec<_> = asked.iter().map(allocate).collect();
    drop(black_box(allocated));
    drop(asked);
    let refused = history.refused_at_rest();
    drop(black_box(table));
    refused
}

/// An invocation that holds 60 MiB unreserved while it reserves 100 times 1 MiB, and fills them.
fn midway(history: &History) -> u32 {
    for _ in 0..3 {
        let unreserved = vec![1_u8; 60 << 20];
        let parts: Vec<_> = (0..100).map(|_| history.request(ByteSize::mib(1))).collect();
        drop(black_box((unreserved, parts)));
    }
    let next = history.request(ByteSize::mib(80));
    u32::from(next.1.is_none()) + history.refused_at_rest()
}

/// One `with_capacity(60 MiB)` that is never written to; then 40 MiB outside of the heap; then a cache that fills.
fn capacity(history: &History) -> u32 {
    drop(black_box(Vec::<u8>::with_capacity(60 << 20)));
    let outside = 40 << 20;
    // SAFETY: a new anonymous mapping, which is written to within its length and never unmapped.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let mapped = libc::mmap(std::ptr::null_mut(), outside, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(mapped, libc::MAP_FAILED);
        libc::memset(mapped, 1, outside);
    }
    let cache = history.budget.account("cache").unwrap();
    let mut entries = Vec::new();
    for _ in 0..(100 << 20) / (50 << 10) {
        let reserved = cache.try_reserve(ByteSize::kib(50)).ok();
        if reserved.is_some() || history.is_control {
            entries.push((vec![1_u8; 50 << 10], reserved));
        }
    }
    drop(black_box(entries));
    history.refused_at_rest()
}

/// Entries of 900 bytes between values of 48 that stay; every second entry goes; then a request of what is available.
fn fragmented(history: &History) -> u32 {
    let cache = history.budget.account("cache").unwrap();
    let mut entries = Vec::new();
    let mut stay = Vec::new();
    for _ in 0..60_000 {
        entries.push((vec![1_u8; 900], cache.try_reserve(ByteSize::bytes(1000)).unwrap()));
        stay.push(Box::new([1_u8; 48]));
    }
    let mut is_odd = false;
    entries.retain(|_| {
        is_odd = !is_odd;
        is_odd
    });
    for _ in 0..3 {
        let size = history.budget.available().saturating_sub(ByteSize::mib(4));
        drop(history.request(size));
    }
    // The values that stay hold nearly each page.
    drop(black_box((entries, stay)));
    let refused = u32::from(history.request(ByteSize::mib(80)).1.is_none());
    refused + history.refused_at_rest()
}

/// The same without a trim hook, and nothing is written to: an allocator that keeps pages refuses nothing for them.
fn undeclared(history: &History) -> u32 {
    if history.is_control {
        return over_mimalloc(history);
    }
    let ask = |round| {
        come_and_go(round);
        u32::from(history.requests.try_reserve(ByteSize::mib(80)).is_err())
    };
    let refused: u32 = (0..40).map(ask).sum();
    refused + history.refused_at_rest()
}

/// Small values come and go, and C code frees a little once.
fn come_and_go(round: u32) {
    drop(black_box((0..60_000).map(|_| vec![1_u8; 1000]).collect::<Vec<_>>()));
    if round != 3 {
        return;
    }
    // SAFETY: each block is written to within its size and freed once.
    unsafe {
        let blocks: Vec<_> = (0..400).map(|_| libc::malloc(1000)).collect();
        for block in blocks {
            libc::memset(block, 1, 1000);
            libc::free(block);
        }
    }
}

/// Small values come and go in mimalloc, C code frees a little once, and each time 80 MiB are asked for and filled.
fn over_mimalloc(history: &History) -> u32 {
    let kept = history.is_control.then(|| vec![1_u8; 60 << 20]);
    let mut refused = 0;
    for round in 0..40 {
        come_and_go(round);
        let request = history.request(ByteSize::mib(80));
        refused += u32::from(request.1.is_none());
        drop(request);
    }
    drop(black_box(kept));
    refused + history.refused_at_rest()
}
