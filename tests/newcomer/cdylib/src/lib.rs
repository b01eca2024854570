use std::hint::black_box;
use std::sync::LazyLock;

use plimsoll::{Monitor, TrackingAllocator};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

static MONITOR: LazyLock<Monitor> = LazyLock::new(Monitor::install_from_env);

/// Runs one invocation that allocates `bytes`, and returns its peak of the heap; 0 if the heap is not tracked.
#[unsafe(no_mangle)]
pub extern "C" fn handle_order(bytes: usize) -> u64 {
    let invocation = MONITOR.start("order-1");
    drop(black_box(vec![1_u8; bytes]));
    invocation.finish().heap.map_or(0, |heap| heap.peak.at_most.as_u64())
}
