//! Does not compile: the layer for requests that carry their id, on a service of HTTP requests.

use axum::{Router, routing::get};
use plimsoll::{Monitor, ReportLayer};

fn main() {
    let monitor = Monitor::install_from_env();
    let _app: Router = Router::new().route("/", get(async || "an order")).layer(ReportLayer::new(&monitor));
}
