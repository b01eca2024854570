//! Worker: the same service under the layer; with `all` in its arguments with metrics of each request as well.

use std::error::Error;

use plimsoll::{ByteSize, Monitor, TrackingAllocator};
use plimsoll_peers::http::{router, serve};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn main() -> Result<(), Box<dyn Error>> {
    let monitor = Monitor::builder().memory_size(ByteSize::mib(1024)).install()?;
    Ok(serve(router().layer(monitor.http()))?)
}
