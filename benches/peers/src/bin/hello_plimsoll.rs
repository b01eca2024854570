//! The smallest function with the allocator, the monitor and the report layer hooked in.

use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use plimsoll::{Monitor, ReportLayer, TrackingAllocator};
use serde_json::Value;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let monitor = Monitor::install_from_env();
    Runtime::new(service_fn(handler)).layer(ReportLayer::new(&monitor)).run().await
}

async fn handler(event: LambdaEvent<Value>) -> Result<Value, Error> {
    Ok(event.payload)
}
