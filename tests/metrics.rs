//! Figures for the facade `metrics`: a real scrape of the exporter for Prometheus.
#![cfg(all(feature = "metrics", feature = "axum"))]
#![expect(clippy::expect_used, reason = "clippy knows `#[test]` functions as tests, but not their helpers")]

use std::collections::HashMap;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusBuilder;
use plimsoll::{ByteSize, MemoryBudget, Monitor, TrackingAllocator, board};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// The body of the response to a GET.
async fn fetch(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("it answers");
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    response.split_once("\r\n\r\n").expect("a head and a body").1.to_owned()
}

/// The samples of a scrape: series and value.
fn samples(text: &str) -> HashMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').expect("a series and a value"))
        .map(|(series, value)| (series, value.parse().expect("a number")))
        .collect()
}

#[tokio::test]
async fn scrape_has_the_figures_of_requests_and_of_the_process() {
    let prometheus = PrometheusBuilder::new().install_recorder().expect("the only recorder");
    let budget = MemoryBudget::new(ByteSize::mib(100));
    let builder = Monitor::builder().memory_size(ByteSize::mib(512)).print_reports(false).budget(&budget);
    let monitor = builder.report_share(100).emit_metrics().build().expect("constant settings");
    let gauge = board::holder("sessions");
    gauge.set(ByteSize::kib(3));
    let _held = budget.account("orders").unwrap().try_reserve(ByteSize::mib(25)).expect("there is room");

    let rendered = prometheus.clone();
    let app = Router::new()
        .route("/blob/{size}", get(async |Path(size): Path<usize>| vec![b'a'; size]))
        .route("/hello", get(async || "hello"))
        .layer(monitor.http())
        .route("/metrics", get(async move || rendered.render()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move { axum::serve(listener, app).await });

    for size in [1_000_000, 2_000_000, 3_000_000] {
        assert_eq!(fetch(address, &format!("/blob/{size}")).await.len(), size);
    }
    assert_eq!(fetch(address, "/hello").await, "hello");
    let text = fetch(address, "/metrics").await;
    let samples = samples(&text);
    let value = |series: &str| *samples.get(series).unwrap_or_else(|| panic!("no {series} in {text}"));
    assert!((value(r#"plimsoll_requests_total{label="/blob/{size}",outcome="finished"}"#) - 3.0).abs() < 0.1);
    assert!((value(r#"plimsoll_requests_total{label="/hello",outcome="finished"}"#) - 1.0).abs() < 0.1);
    let highest = value(r#"plimsoll_request_heap_peak_bytes{label="/blob/{size}",quantile="1"}"#);
    assert!((3_000_000.0..3_050_000.0).contains(&highest), "{highest}");
    let hello = value(r#"plimsoll_request_heap_peak_bytes{label="/hello",quantile="1"}"#);
    assert!(hello < 50_000.0, "{hello}");
    let allocated = value(r#"plimsoll_request_allocated_bytes_total{label="/blob/{size}"}"#);
    assert!((6_000_000.0..6_100_000.0).contains(&allocated), "{allocated}");
    assert!(value(r#"plimsoll_request_net_bytes{label="/blob/{size}"}"#).abs() < 100_000.0);
    assert!(value(r#"plimsoll_request_duration_seconds_count{label="/hello"}"#) > 0.0);
    assert!((value(r#"plimsoll_held_bytes{name="sessions"}"#) - 3072.0).abs() < 0.1);
    assert!((value(r#"plimsoll_reserved_bytes{account="orders"}"#) - f64::from(25 << 20)).abs() < 0.1);
    assert!((value("plimsoll_memory_size_bytes") - f64::from(512 << 20)).abs() < 0.1);
    for series in ["plimsoll_heap_live_bytes", "plimsoll_heap_peak_bytes", "plimsoll_capacity_bytes"] {
        assert!(value(series) > 0.0, "{series}");
    }
    let utilization = value("plimsoll_budget_utilization_percent");
    assert!((20.0..=100.0).contains(&utilization), "{utilization}");
    // Each series has a text and a kind, so that a dashboard can show them.
    for line in ["# TYPE plimsoll_request_heap_peak_bytes summary", "# HELP plimsoll_heap_live_bytes Live heap."] {
        assert!(text.contains(line), "{line}: {text}");
    }
}
