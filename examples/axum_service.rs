//! An axum service with its memory reported. The three lines marked `plimsoll` are all that it takes.
//!
//! ```text
//! cargo run --release --features axum,serde --example axum_service -- 8080
//! curl -d 'the text to count' http://127.0.0.1:8080/words
//! curl http://127.0.0.1:8080/memory
//! curl http://127.0.0.1:8080/holders
//! ```
//!
//! Each request prints a line. `PLIMSOLL_REPORT=on-change` or `PLIMSOLL_REPORT=every:1000` in the environment suits a
//! service with many requests.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use plimsoll::{Monitor, TrackingAllocator};
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

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).map_or(Ok(8080), |port| port.parse())?;
    let monitor = Monitor::install_from_env(); // plimsoll
    let (picture, holders) = (monitor.clone(), monitor.clone());
    let service = Router::new()
        .route("/words", post(words))
        .route("/notes/{name}", get(read_note).put(write_note))
        .route("/memory", get(async move || picture.snapshot().to_string()))
        .route("/holders", get(async move || Json(holders.holders())))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(monitor.http()) // plimsoll
        .with_state(Notes::default());
    axum::serve(TcpListener::bind(("127.0.0.1", port)).await?, service).await?;
    Ok(())
}
