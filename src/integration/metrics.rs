//! Figures for the facade [`metrics`](https://docs.rs/metrics): for Prometheus and for every other exporter of it.

use std::collections::HashMap;
use std::sync::OnceLock;

use ::metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use parking_lot::RwLock;

use crate::monitor::{InvocationReport, Label, LeakVerdict, MonitorBuilder, Outcome, Request};
use crate::size::ByteSize;

/// The most labels with series of their own. The requests with further ones are in the series `(other)`.
const MAX_LABELS: usize = 64;

impl MonitorBuilder {
    /// Sends figures to the recorder of the facade [`metrics`](https://docs.rs/metrics). Install the recorder before the
    /// first request.
    ///
    /// | name | kind | labels | value |
    /// |---|---|---|---|
    /// | `plimsoll_requests_total` | counter | `label`, `outcome` | requests that have ended |
    /// | `plimsoll_request_heap_peak_bytes` | histogram | `label` | [own peak](crate::monitor::RequestHeap::peak) of each request |
    /// | `plimsoll_request_allocated_bytes_total` | counter | `label` | [allocated](crate::monitor::RequestHeap::allocated), in sum |
    /// | `plimsoll_request_net_bytes` | gauge | `label` | [left behind](crate::monitor::RequestHeap::net), in sum |
    /// | `plimsoll_request_duration_seconds` | histogram | `label` | from start to end |
    /// | `plimsoll_heap_live_bytes`, `plimsoll_heap_peak_bytes` | gauge | | heap of the process |
    /// | `plimsoll_heap_unattributed_bytes` | gauge | | heap without a gauge and without a site |
    /// | `plimsoll_rss_bytes`, `plimsoll_rss_highest_bytes` | gauge | | resident set size |
    /// | `plimsoll_memory_size_bytes`, `plimsoll_capacity_bytes` | gauge | | the limit, and the part of it for this process |
    /// | `plimsoll_held_bytes` | gauge | `name` | the three largest gauges of the [`board`](crate::board) |
    /// | `plimsoll_reserved_bytes` | gauge | `account` | the three largest accounts |
    /// | `plimsoll_budget_utilization_percent` | gauge | | 0 to 100, with a budget that has room |
    /// | `plimsoll_leak_bytes_per_invocation` | gauge | | by the leak verdict |
    /// | `plimsoll_allocations_refused_total` | counter | | allocations that were refused |
    /// | `plimsoll_alerts_total` | counter | `alert` | alerts |
    ///
    /// The figures of requests are of each one; those of the process are of each full report. There are series for up to
    /// 64 labels; further ones are in the series `(other)`.
    ///
    /// # Prometheus
    ///
    /// With `metrics-exporter-prometheus`. A histogram is a summary with quantiles unless the exporter is given buckets. Each
    /// value is kept until a scrape or until `run_upkeep`, so call that every few seconds.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use axum::{Router, routing::get};
    /// use metrics_exporter_prometheus::PrometheusBuilder;
    /// use plimsoll::{Monitor, TrackingAllocator};
    ///
    /// #[global_allocator]
    /// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
    ///
    /// # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    /// let prometheus = PrometheusBuilder::new().install_recorder()?;
    /// let monitor = Monitor::builder().emit_metrics().install()?;
    /// let upkeep = prometheus.clone();
    /// tokio::spawn(async move {
    ///     loop {
    ///         tokio::time::sleep(Duration::from_secs(5)).await;
    ///         upkeep.run_upkeep();
    ///     }
    /// });
    /// let app = Router::new()
    ///     .route("/orders/{id}", get(async || "an order"))
    ///     .layer(monitor.http())
    ///     .route("/metrics", get(async move || prometheus.render())); // after the layer: not reported
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    /// axum::serve(listener, app).await?;
    /// # Ok(())
    /// # }
    /// # fn main() {}
    /// ```
    ///
    /// # Performance
    ///
    /// One lock that requests share, up to four series for each request, and a dozen for each full report. No series is looked up
    /// twice for a label.
    pub fn emit_metrics(self) -> Self {
        let requests = Requests::default();
        let process = OnceLock::new();
        self.on_request(move |request| requests.record(request))
            .on_each_report(move |report| process.get_or_init(Process::new).record(report))
    }
}

/// The series of requests. Each is looked up once: a look in a recorder allocates.
#[derive(Default)]
struct Requests {
    by_label: RwLock<HashMap<Label, OfLabel, foldhash::fast::RandomState>>,
}

struct OfLabel {
    finished: Counter,
    unfinished: Counter,
    overloaded: Counter,
    refused: Counter,
    peak: Histogram,
    allocated: Counter,
    net: Gauge,
    duration: Histogram,
}

impl Requests {
    fn record(&self, request: &Request) {
        let by_label = self.by_label.read();
        let is_full = by_label.len() >= MAX_LABELS;
        let label =
            if is_full && !by_label.contains_key(&request.label) { Label::new("(other)") } else { request.label };
        if let Some(series) = by_label.get(&label) {
            return series.record(request);
        }
        drop(by_label);
        let mut by_label = self.by_label.write();
        let label = if by_label.len() < MAX_LABELS { label } else { Label::new("(other)") };
        by_label.entry(label).or_insert_with(|| OfLabel::new(&label)).record(request);
    }
}

impl OfLabel {
    fn new(label: &Label) -> Self {
        ::metrics::describe_counter!("plimsoll_requests_total", "Requests that have ended.");
        ::metrics::describe_histogram!("plimsoll_request_heap_peak_bytes", Unit::Bytes, "Own heap peak of a request.");
        ::metrics::describe_counter!(
            "plimsoll_request_allocated_bytes_total",
            Unit::Bytes,
            "Bytes that requests allocated."
        );
        ::metrics::describe_gauge!(
            "plimsoll_request_net_bytes",
            Unit::Bytes,
            "Bytes that requests left behind, in sum."
        );
        ::metrics::describe_histogram!("plimsoll_request_duration_seconds", Unit::Seconds, "Duration of a request.");
        let label = label.as_str().to_owned();
        let ended =
            |outcome: &'static str| counter!("plimsoll_requests_total", "label" => label.clone(), "outcome" => outcome);
        Self {
            finished: ended("finished"),
            unfinished: ended("unfinished"),
            overloaded: ended("overloaded"),
            refused: ended("refused"),
            peak: histogram!("plimsoll_request_heap_peak_bytes", "label" => label.clone()),
            allocated: counter!("plimsoll_request_allocated_bytes_total", "label" => label.clone()),
            net: gauge!("plimsoll_request_net_bytes", "label" => label.clone()),
            duration: histogram!("plimsoll_request_duration_seconds", "label" => label),
        }
    }

    fn record(&self, request: &Request) {
        match request.outcome {
            Outcome::Finished => self.finished.increment(1),
            Outcome::Unfinished => self.unfinished.increment(1),
            Outcome::Overloaded => self.overloaded.increment(1),
            Outcome::Refused => return self.refused.increment(1),
        }
        self.duration.record(request.duration);
        if let Some(own) = request.own {
            self.peak.record(float(own.peak.as_u64()));
            self.allocated.increment(own.allocated.as_u64());
            #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 bytes")]
            self.net.increment(own.net.as_i64() as f64);
        }
    }
}

/// The series of the process.
struct Process {
    heap_live: Gauge,
    heap_peak: Gauge,
    heap_unattributed: Gauge,
    rss: Gauge,
    rss_highest: Gauge,
    memory_size: Gauge,
    capacity: Gauge,
    budget_utilization: Gauge,
    leak: Gauge,
    refused: Counter,
}

impl Process {
    fn new() -> Self {
        let bytes = |name: &'static str, text: &'static str| {
            ::metrics::describe_gauge!(name, Unit::Bytes, text);
            gauge!(name)
        };
        ::metrics::describe_gauge!("plimsoll_held_bytes", Unit::Bytes, "Bytes of the largest named gauges.");
        ::metrics::describe_gauge!("plimsoll_reserved_bytes", Unit::Bytes, "Reserved bytes of the largest accounts.");
        ::metrics::describe_gauge!(
            "plimsoll_budget_utilization_percent",
            Unit::Percent,
            "Reserved part of the budget."
        );
        ::metrics::describe_counter!("plimsoll_allocations_refused_total", "Allocations that were refused.");
        ::metrics::describe_counter!("plimsoll_alerts_total", "Alerts of the monitor.");
        Self {
            heap_live: bytes("plimsoll_heap_live_bytes", "Live heap."),
            heap_peak: bytes("plimsoll_heap_peak_bytes", "Peak heap of the last report."),
            heap_unattributed: bytes("plimsoll_heap_unattributed_bytes", "Heap without a gauge and without a site."),
            rss: bytes("plimsoll_rss_bytes", "Resident set size."),
            rss_highest: bytes("plimsoll_rss_highest_bytes", "Highest resident set size."),
            memory_size: bytes("plimsoll_memory_size_bytes", "Memory limit."),
            capacity: bytes("plimsoll_capacity_bytes", "The part of the limit for this process."),
            budget_utilization: gauge!("plimsoll_budget_utilization_percent"),
            leak: bytes("plimsoll_leak_bytes_per_invocation", "What each invocation leaves behind."),
            refused: counter!("plimsoll_allocations_refused_total"),
        }
    }

    fn record(&self, report: &InvocationReport) {
        if let Some(heap) = report.heap {
            self.heap_live.set(size(heap.live));
            self.heap_peak.set(size(heap.peak.at_most));
            self.heap_unattributed.set(size(heap.unattributed));
        }
        if let Some(rss) = report.rss {
            self.rss.set(size(rss));
            self.rss_highest.set(size(report.highest_rss));
        }
        if let Some(thresholds) = report.thresholds {
            self.memory_size.set(size(thresholds.memory_size()));
            self.capacity.set(size(thresholds.capacity()));
        }
        for (name, bytes) in report.gauges.iter().flatten() {
            gauge!("plimsoll_held_bytes", "name" => *name).set(size(*bytes));
        }
        for (account, bytes) in report.accounts.iter().flatten() {
            gauge!("plimsoll_reserved_bytes", "account" => *account).set(size(*bytes));
        }
        if let Some(percent) = report.budget_percent() {
            self.budget_utilization.set(percent);
        }
        match report.verdict {
            LeakVerdict::Growing { per_invocation, .. } => self.leak.set(size(per_invocation)),
            _ => self.leak.set(0.0),
        }
        self.refused.increment(report.refused);
        for alert in report.alerts() {
            counter!("plimsoll_alerts_total", "alert" => alert.to_string()).increment(1);
        }
    }
}

fn size(bytes: ByteSize) -> f64 {
    float(bytes.as_u64())
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 bytes")]
const fn float(bytes: u64) -> f64 {
    bytes as f64
}
