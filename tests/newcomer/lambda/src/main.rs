use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use plimsoll::{Monitor, ReportLayer, TrackingAllocator};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

#[tokio::main]
async fn main() -> Result<(), Error> {
    let monitor = Monitor::install_from_env();
    Runtime::new(service_fn(handler)).layer(ReportLayer::new(&monitor)).run().await
}

async fn handler(event: LambdaEvent<String>) -> Result<usize, Error> {
    Ok(event.payload.len())
}
