use axum::{Router, routing::get};
use plimsoll::{Monitor, TrackingAllocator};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let monitor = Monitor::install_from_env();
    let app = Router::new().route("/orders/{id}", get(async || "an order")).layer(monitor.http());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
