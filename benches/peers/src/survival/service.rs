//! The service: uploads, JSON, large pages, events, work with scratch memory, and articles out of a cache.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt;
use plimsoll::{Admission, ByteSize, Cache, MemoryBudget, Monitor, os};
use tower::limit::GlobalConcurrencyLimitLayer;

const MIB: usize = 1 << 20;

/// Runs the service of the arguments: `admission`, `patient` for an admission that waits as long as the clients do, `none`, or
/// the number of requests that may run at the same time; and `one` for one arena of glibc's allocator.
///
/// # Errors
///
/// Those of the environment and of the sockets.
pub fn serve(trim: Option<fn()>) -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let protection = arguments.next().unwrap_or_default();
    if arguments.next().as_deref() == Some("one") {
        os::limit_arenas(1);
    }
    if let Some(trim) = trim {
        os::set_trim_hook(trim);
    }
    let budget = MemoryBudget::from_env()?;
    let monitor = Monitor::builder().budget(&budget).trim(true).install()?;
    let layer = monitor.http();
    let app = match protection.as_str() {
        "admission" | "patient" => {
            let wait = Duration::from_secs(if protection == "patient" { 20 } else { 2 });
            let admission = Admission::new(&budget)?.wait_up_to(wait);
            app(&budget)?.layer(layer.admit(admission))
        }
        "none" => app(&budget)?.layer(layer),
        fixed => app(&budget)?.layer(GlobalConcurrencyLimitLayer::new(fixed.parse()?)).layer(layer),
    };
    let state = monitor.clone();
    let app = app.route("/state", get(async move || state.snapshot().to_string()));
    Ok(crate::http::serve(app.layer(DefaultBodyLimit::max(64 * MIB)))?)
}

fn app(budget: &MemoryBudget) -> Result<Router, Box<dyn Error>> {
    let articles: Cache<u64, Arc<[u8]>> =
        Cache::builder("articles").max_bytes(ByteSize::mib(64)).account(budget.account("articles")?).build()?;
    let article = async move |Path(number): Path<u64>| {
        let loaded = articles.get_or_load_async(&number, |_| async {
            work().await;
            Arc::<[u8]>::from(vec![1; 256 << 10])
        });
        Bytes::from_owner(loaded.await)
    };
    Ok(Router::new()
        .route("/upload", post(upload))
        .route("/json", post(json))
        .route("/page", get(page))
        .route("/events", get(events))
        .route("/work", get(scratch))
        .route("/articles/{number}", get(article)))
}

/// The part of a request that takes time and no memory.
async fn work() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

async fn upload(body: Bytes) -> String {
    let sum: u64 = body.iter().step_by(4096).map(|byte| u64::from(*byte)).sum();
    work().await;
    format!("{} {sum}", body.len())
}

async fn json(Json(value): Json<serde_json::Value>) -> String {
    work().await;
    value.as_array().map_or(0, Vec::len).to_string()
}

/// A page in one piece; its size in MiB.
async fn page(Query(size): Query<Size>) -> Body {
    Body::from(vec![b'x'; size.mib * MIB])
}

#[derive(serde::Deserialize)]
struct Size {
    mib: usize,
}

/// A stream of events, after work with 8 MiB.
async fn events() -> Body {
    fill(8).await;
    let tick = async |number: u64| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Some((Ok::<_, Infallible>(format!("data: {number}\n\n")), number + 1))
    };
    Body::from_stream(futures::stream::unfold(0, tick).map(|event| event.map(Bytes::from)))
}

/// Work with scratch memory, allocated 1 MiB at a time; its size in MiB.
async fn scratch(Query(size): Query<Size>) -> String {
    fill(size.mib).await.to_string()
}

async fn fill(mib: usize) -> usize {
    let mut scratch = Vec::new();
    for _ in 0..mib {
        scratch.push(std::hint::black_box(vec![1_u8; MIB]));
        tokio::task::yield_now().await;
    }
    work().await;
    scratch.len()
}
