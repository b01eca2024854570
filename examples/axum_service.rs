//! An axum service as there are many, with its memory reported: the lines marked `plimsoll` are the whole hook-in.
//!
//! ```text
//! cargo run --release --features tower --example axum_service -- 8080
//! curl -d 'the text to count' http://127.0.0.1:8080/words
//! curl http://127.0.0.1:8080/memory
//! ```
//!
//! The report's policy is for a service with many requests at once: a line when something changes. `PLIMSOLL=each` or
//! `PLIMSOLL='every(1000)'` in the environment says otherwise.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use plimsoll::monitor::{MonitorError, ReportPolicy, RequestId};
use plimsoll::{ByteSize, Monitor, ReportLayer, TrackingAllocator};
use tokio::net::TcpListener;
use tokio::sync::RwLock;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new(); // plimsoll

/// Notes by name; at most [`MAX_NOTES`] of at most [`MAX_BODY`] bytes: some 70 MB.
type Notes = Arc<RwLock<HashMap<String, String>>>;

const MAX_NOTES: usize = 1000;
const MAX_BODY: usize = 64 * 1024;
const MAX_NAME: usize = 256;

/// How often each word occurs.
async fn words(text: String) -> Json<HashMap<String, u32>> {
    let mut counts = HashMap::new();
    for word in text.split_whitespace() {
        *counts.entry(word.to_lowercase()).or_insert(0) += 1;
    }
    Json(counts)
}

async fn read_note(State(notes): State<Notes>, Path(name): Path<String>) -> Result<String, StatusCode> {
    notes.read().await.get(&name).cloned().ok_or(StatusCode::NOT_FOUND)
}

async fn write_note(State(notes): State<Notes>, Path(name): Path<String>, text: String) -> StatusCode {
    if name.len() > MAX_NAME {
        return StatusCode::URI_TOO_LONG;
    }
    let mut notes = notes.write().await;
    if notes.len() >= MAX_NOTES && !notes.contains_key(&name) {
        return StatusCode::INSUFFICIENT_STORAGE;
    }
    notes.insert(name, text);
    StatusCode::NO_CONTENT
}

/// A monitor for the container's limit, or for 512 MiB where there is none.
fn monitor() -> Result<Monitor, MonitorError> {
    let build = |builder: plimsoll::monitor::MonitorBuilder| builder.report(ReportPolicy::OnChange).build();
    let monitor = match build(Monitor::builder()) {
        Err(MonitorError::MemorySize { .. }) => {
            build(Monitor::builder().memory_size(ByteSize::mib(512)).environment_share(ByteSize::ZERO))?
        }
        other => other?,
    };
    monitor.install()?;
    Ok(monitor)
}

fn request_id(request: &Request) -> RequestId {
    let id = request.headers().get("x-request-id").and_then(|value| value.to_str().ok());
    RequestId::new(id.unwrap_or_else(|| request.uri().path()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).map_or(Ok(8080), |port| port.parse())?;
    let monitor = monitor()?; // plimsoll
    let picture = monitor.clone();
    let service = Router::new()
        .route("/words", post(words))
        .route("/notes/{name}", get(read_note).put(write_note))
        .route("/memory", get(async move || picture.snapshot().to_string()))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(ReportLayer::with_id(&monitor, request_id)) // plimsoll
        .with_state(Notes::default());
    axum::serve(TcpListener::bind(("127.0.0.1", port)).await?, service).await?;
    Ok(())
}
