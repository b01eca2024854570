//! Worker: the same service under the layer, with default settings; with the argument `all` with metrics of each request
//! for a Prometheus exporter as well, and with admission.

use std::error::Error;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use plimsoll::{Admission, ByteSize, MemoryBudget, Monitor, TrackingAllocator};
use plimsoll_peers::http::{router, serve};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn main() -> Result<(), Box<dyn Error>> {
    let builder = Monitor::builder().memory_size(ByteSize::mib(1024));
    if std::env::args().nth(1).as_deref() == Some("all") {
        let prometheus = PrometheusBuilder::new().install_recorder()?;
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                prometheus.run_upkeep();
            }
        });
        let budget = MemoryBudget::builder().limit(ByteSize::mib(1024)).count_heap().build()?;
        let monitor = builder.emit_metrics().budget(&budget).install()?;
        let admission = Admission::new(&budget)?.wait_up_to(Duration::from_secs(2));
        return Ok(serve(router().layer(monitor.http().admit(admission)))?);
    }
    let monitor = builder.install()?;
    Ok(serve(router().layer(monitor.http()))?)
}
