use lambda_http::{Error, Request, service_fn};
use plimsoll::{Monitor, TrackingAllocator};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

#[tokio::main]
async fn main() -> Result<(), Error> {
    let monitor = Monitor::install_from_env();
    lambda_http::run(monitor.http().heads_only().layer(service_fn(handler))).await
}

async fn handler(request: Request) -> Result<String, Error> {
    Ok(format!("{} bytes", request.body().len()))
}
