use std::hint::black_box;

use plimsoll::{ByteSize, Monitor, TrackingAllocator, heap};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn main() -> Result<(), heap::NotInstalled> {
    let monitor = Monitor::install_from_env();
    heap::set_limit(ByteSize::mib(8))?;
    monitor.start("order-1").finish();
    let invocation = monitor.start("order-2");
    drop(black_box(vec![1_u8; 16 << 20]));
    invocation.finish();
    Ok(())
}
