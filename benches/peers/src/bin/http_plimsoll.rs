//! Worker: the same service under the layer, with default settings; with the argument `all` with metrics of each request
//! for a Prometheus exporter as well.

use std::error::Error;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use plimsoll::{ByteSize, Monitor, TrackingAllocator};
use plimsoll_peers::http::{router, serve};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn main() -> Result<(), Box<dyn Error>> {
    let mut builder = Monitor::builder().memory_size(ByteSize::mib(1024));
    if std::env::args().nth(1).as_deref() == Some("all") {
        let prometheus = PrometheusBuilder::new().install_recorder()?;
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                prometheus.run_upkeep();
            }
        });
        builder = builder.emit_metrics();
    }
    let monitor = builder.install()?;
    Ok(serve(router().layer(monitor.http()))?)
}
