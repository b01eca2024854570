use plimsoll::{Monitor, TrackingAllocator};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn main() {
    let monitor = Monitor::install_from_env();
    monitor.start("order-1").finish();
}
