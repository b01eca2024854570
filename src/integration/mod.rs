//! The crate's parts hooked into what services are built on, each behind a feature of its name.
//!
//! * `http`: `Monitor::http`, one layer that reports the requests of any HTTP service, and admits them: axum,
//!   `lambda_http`, hyper. With the feature `axum` its reports name the matched route.
//! * `tower`: `ReportLayer` reports each request of any other tower service; `AdmissionLayer` admits only those
//!   with memory reserved.
//! * `metrics`: figures of requests and of the process for Prometheus, `MonitorBuilder::emit_metrics`.
//! * `tracing`: reports as events, `MonitorBuilder::emit_tracing`.
//! * `lambda`: the same layers on `lambda_runtime`, the final picture at its shutdown, `lambda::final_picture`, and a
//!   small snapshot for `SnapStart`, `lambda::snap_start`.
//!
//! Nothing else in the crate knows this module. It calls the [`monitor`](crate::monitor) at the start and the end of requests,
//! and reserves their memory from the [`budget`](crate::budget).

#[cfg(feature = "http")]
mod admission;
#[cfg(feature = "tower")]
mod admission_layer;
#[cfg(feature = "http")]
mod admitted;
#[cfg(feature = "http")]
mod body;
#[cfg(feature = "http")]
mod estimate;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http")]
mod http_future;
#[cfg(feature = "lambda")]
pub mod lambda;
#[cfg(feature = "http")]
mod learned;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "tower")]
mod overloaded;
#[cfg(feature = "tower")]
mod report;
#[cfg(feature = "tower")]
mod reported;
#[cfg(feature = "tracing")]
pub mod tracing;

/// The account of the requests that are admitted.
#[cfg(feature = "tower")]
const ACCOUNT: &str = "requests";

#[cfg(feature = "http")]
pub use admission::Admission;
#[cfg(feature = "tower")]
pub use admission_layer::{AdmissionError, AdmissionFuture, AdmissionLayer, AdmissionService, OverloadFuture};
#[cfg(feature = "http")]
pub use body::{RequestBody, ResponseBody};
#[cfg(feature = "http")]
pub use estimate::Estimate;
#[cfg(feature = "http")]
pub use http::{HeadsOnly, HttpLayer, HttpService, WithBodies};
#[cfg(feature = "http")]
pub use http_future::HttpResponseFuture;
#[cfg(feature = "tower")]
pub use overloaded::Overloaded;
#[cfg(feature = "tower")]
pub use report::{HasRequestId, ReportLayer, ReportService, ResponseFuture};
