//! Worker: the own peak of each request next to 63 others, against the growth of the process peak with that request alone.
//!
//! Server and clients are in one process. A client reads and writes in fixed memory, so that all growth is the server's.
//! Alone, both run on one thread, because the peak of a lone thread is exact.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::routing::{get, post};
use futures::StreamExt;
use plimsoll::monitor::{Monitor, Request, RequestScope};
use plimsoll::{ByteSize, TrackingAllocator, heap};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

/// Requests in flight.
const CONNECTIONS: usize = 64;

/// A difference that is no error, in bytes: the heads of requests, and the buffers of connections.
const SLACK: u64 = 32 << 10;

/// Bytes of a large body.
const LARGE: usize = 20 << 20;

/// A request: path, and bytes of its body.
type Kind = (&'static str, usize);

/// This kind is called without a connection, with frames of exactly their bytes. The buffers of hyper are larger than the
/// frames that it cuts of them, which no layer can see; so an upload by a connection is measured by itself.
const INSIDE: &str = "/collect?inside";
const UPLOAD: &str = "/collect";

/// The kinds of requests. One of a hundred has a large body.
const KINDS: [Kind; 9] = [
    ("/small/1", 0),
    ("/small/300", 0),
    ("/pauses/40", 0),
    ("/pauses/900", 0),
    ("/thread/2000", 0),
    (UPLOAD, LARGE),
    (INSIDE, LARGE),
    ("/whole", 0),
    ("/streamed", 0),
];

/// Of 100 requests, how many are of each kind.
const OF_100: [usize; KINDS.len()] = [30, 25, 20, 12, 9, 1, 1, 1, 1];

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

fn kib(count: usize) -> Vec<u8> {
    std::hint::black_box(vec![1; count << 10])
}

fn router() -> Router {
    Router::new()
        .route("/small/{kib}", get(async |Path(size): Path<usize>| kib(size).len().to_string()))
        .route(
            "/pauses/{kib}",
            get(async |Path(size): Path<usize>| {
                let mut held = Vec::new();
                for _ in 0..6 {
                    held.push(kib(size / 4));
                    tokio::task::yield_now().await;
                    if held.len() == 4 {
                        held.clear();
                    }
                }
                held.len().to_string()
            }),
        )
        .route(
            "/thread/{kib}",
            get(async |Path(size): Path<usize>| {
                let scope = RequestScope::current();
                let work = move || scope.in_scope(|| kib(size).len());
                tokio::task::spawn_blocking(work).await.unwrap_or_default().to_string()
            }),
        )
        .route("/collect", post(async |body: Bytes| body.len().to_string()))
        .route("/whole", get(async || kib(LARGE >> 10)))
        .route(
            "/streamed",
            get(async || {
                let chunks = futures::stream::iter(0..LARGE >> 13);
                Body::from_stream(chunks.map(|_| Ok::<_, Infallible>(Bytes::from(kib(8)))))
            }),
        )
        .layer(axum::extract::DefaultBodyLimit::max(2 * LARGE))
}

/// Sends one request and reads its answer to the end; returns the bytes of its body.
async fn ask(stream: &mut TcpStream, (path, body): Kind, id: &str, buffer: &mut [u8]) -> io::Result<()> {
    let method = if body > 0 { "POST" } else { "GET" };
    for part in [method, " ", path, " HTTP/1.1\r\nhost: localhost\r\nx-request-id: ", id] {
        stream.write_all(part.as_bytes()).await?;
    }
    // Both lengths are known to the parts.
    stream.write_all(if body > 0 { b"\r\ncontent-length: 20971520\r\n\r\n" } else { b"\r\n\r\n" }).await?;
    for chunk in std::iter::repeat_n(&ZEROS[..], body / ZEROS.len()) {
        stream.write_all(chunk).await?;
        // A network does not deliver faster than the server reads.
        tokio::task::yield_now().await;
    }
    read_answer(stream, buffer).await
}

/// Sends one request by the connection, or without one.
async fn send(app: &Router, stream: &mut TcpStream, kind: Kind, id: &str, buffer: &mut [u8]) -> io::Result<()> {
    if kind.0 != INSIDE {
        return ask(stream, kind, id, buffer).await;
    }
    let frames = futures::stream::iter(0..LARGE >> 16).map(|_| Ok::<_, Infallible>(Bytes::from(kib(64))));
    let request = axum::http::Request::post(kind.0).header("x-request-id", id);
    let request = request.body(Body::from_stream(frames)).map_err(io::Error::other)?;
    let Ok(response) = app.clone().oneshot(request).await;
    if response.status() != 200 {
        return Err(io::Error::other("not answered with 200"));
    }
    let mut body = response.into_body().into_data_stream();
    while let Some(frame) = body.next().await {
        drop(frame.map_err(io::Error::other)?);
    }
    Ok(())
}

/// Reads an answer with a length, or in chunks that end with an empty one.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    let (mut filled, head) = (0, b"\r\n\r\n");
    let head_len = loop {
        let read = stream.read(buffer.get_mut(filled..).unwrap_or_default()).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        let found = buffer.get(..filled).unwrap_or_default().windows(4).position(|window| window == head);
        if let Some(at) = found {
            break at + 4;
        }
    };
    let text = std::str::from_utf8(buffer.get(..head_len).unwrap_or_default()).map_err(io::Error::other)?;
    if !text.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other("not answered with 200"));
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let mut tail = [0; 5];
    let mut note = |bytes: &[u8]| {
        for byte in bytes.iter().skip(bytes.len().saturating_sub(5)) {
            tail.rotate_left(1);
            tail[4] = *byte;
        }
        &tail == b"0\r\n\r\n"
    };
    let mut body = filled - head_len;
    let mut is_last_chunk = note(buffer.get(head_len..filled).unwrap_or_default());
    while length.map_or(!is_last_chunk, |length| body < length) {
        let read = stream.read(buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        body += read;
        is_last_chunk = note(buffer.get(..read).unwrap_or_default());
    }
    Ok(())
}

/// Own peaks by id.
type Peaks = Arc<Mutex<HashMap<String, u64>>>;

async fn serve(app: Router) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

/// The id of a request, and the growth of the process peak by it, at least and at most.
type Growth = (String, [u64; 2]);

/// The growth of the process peak by each kind alone, at least and at most: the medians of five.
fn alone() -> Result<Vec<[u64; 2]>, Box<dyn Error>> {
    let peaks: Arc<Mutex<Vec<Growth>>> = Arc::default();
    let noted = Arc::clone(&peaks);
    let monitor = Monitor::builder().memory_size(ByteSize::mib(4096)).print_reports(false).report_share(100);
    let monitor = monitor.on_report(move |report| {
        let Some(heap) = report.heap else { return };
        let growth = |peak: ByteSize| peak.saturating_sub(heap.live_before).as_u64();
        if let Ok(mut peaks) = noted.lock() {
            peaks.push((report.id.to_string(), [growth(heap.peak.at_least), growth(heap.peak.at_most)]));
        }
    });
    let monitor = monitor.build()?;
    // A thread that waits for more work would make the peak of the process a range.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().thread_keep_alive(Duration::ZERO).build()?;
    runtime.block_on(async {
        let app = router().layer(monitor.http());
        let address = serve(app.clone()).await?;
        let mut buffer = vec![0; 1 << 16];
        let mut stream = TcpStream::connect(address).await?;
        for id in ["warm", "0", "1", "2", "3", "4"] {
            for kind in KINDS {
                send(&app, &mut stream, kind, id, &mut buffer).await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok::<_, io::Error>(())
    })?;
    let peaks = peaks.lock().map_err(|_| "poisoned")?;
    let of_kind = |kind: usize| {
        let growths = || peaks.iter().skip(kind).step_by(KINDS.len()).filter(|(id, _)| id != "warm");
        let median = |bound: fn(&[u64; 2]) -> u64| {
            plimsoll_peers::median(growths().map(|(_, growth)| bound(growth) as f64)) as u64
        };
        [median(|[at_least, _]| *at_least), median(|[_, at_most]| *at_most)]
    };
    Ok((0..KINDS.len()).map(of_kind).collect())
}

/// The own peaks of each kind next to others, and the highest growth of the process peak.
type Crowd = (Vec<Vec<u64>>, u64);

/// Sends requests by all connections at once.
fn crowd(requests: usize) -> Result<Crowd, Box<dyn Error>> {
    let before = heap::stats()?.live;
    let peaks = Peaks::default();
    let noted = Arc::clone(&peaks);
    let highest = Arc::new(AtomicU64::new(0));
    let process = Arc::clone(&highest);
    let monitor = Monitor::builder().memory_size(ByteSize::mib(4096)).print_reports(false).on_report(move |report| {
        let peak = report.heap.map_or(0, |heap| heap.peak.at_most.as_u64());
        process.fetch_max(peak, Relaxed);
    });
    let monitor = monitor.on_request(move |request: &Request| {
        if let (Ok(mut peaks), Some(own)) = (noted.lock(), request.own) {
            peaks.insert(request.id.to_string(), own.peak.as_u64());
        }
    });
    let monitor = monitor.build()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    let order: Vec<usize> =
        OF_100.iter().enumerate().flat_map(|(kind, count)| std::iter::repeat_n(kind, *count)).collect();
    runtime.block_on(async {
        let app = router().layer(monitor.http());
        let address = serve(app.clone()).await?;
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CONNECTIONS {
            let (app, order) = (app.clone(), order.clone());
            clients.spawn(async move {
                let mut stream = TcpStream::connect(address).await?;
                let mut buffer = vec![0; 1 << 16];
                for number in (client..requests).step_by(CONNECTIONS) {
                    // A step that shares no factor with 100, so that clients differ.
                    let kind = order.get(number * 37 % order.len()).copied().unwrap_or(0);
                    let Some(request) = KINDS.get(kind) else { continue };
                    send(&app, &mut stream, *request, &format!("{kind}-{number}"), &mut buffer).await?;
                }
                Ok::<_, io::Error>(())
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    let mut of_kind = vec![Vec::new(); KINDS.len()];
    for (id, peak) in peaks.lock().map_err(|_| "poisoned")?.iter() {
        let kind: usize = id.split('-').next().unwrap_or_default().parse()?;
        of_kind.get_mut(kind).ok_or("an unknown kind")?.push(*peak);
    }
    Ok((of_kind, highest.load(Relaxed).saturating_sub(before.as_u64())))
}

fn main() -> Result<(), Box<dyn Error>> {
    let requests: usize = std::env::args().nth(1).ok_or("how many requests?")?.parse()?;
    let (alone, (crowd, process)) = (alone()?, crowd(requests)?);
    // A report had the peak of the process for the smallest request.
    let smallest = alone.first().map_or(1, |[_, at_most]| *at_most);
    let process_error = 100.0 * process.saturating_sub(smallest) as f64 / smallest as f64;
    let (mut worst, mut upload, mut measured, mut kinds) = (0.0_f64, 0.0, 0, Vec::new());
    for ((kind, alone), own) in KINDS.iter().zip(&alone).zip(&crowd) {
        let error = |own: &u64| {
            let [at_least, at_most] = *alone;
            let apart = own.abs_diff(*own.clamp(&at_least, &at_most));
            if apart <= SLACK { 0.0 } else { 100.0 * apart as f64 / at_most as f64 }
        };
        let of_kind = own.iter().map(error).fold(0.0, f64::max);
        if kind.0 == UPLOAD {
            upload = of_kind;
        } else {
            worst = worst.max(of_kind);
        }
        measured += own.len();
        let (min, max) = (own.iter().min(), own.iter().max());
        kinds.push(json!({ "kind": kind.0, "alone": alone, "own_min": min, "own_max": max, "error_pct": of_kind }));
    }
    println!(
        "{}",
        json!({ "error_pct": worst, "upload_error_pct": upload, "process_error_pct": process_error, "requests": measured, "kinds": kinds })
    );
    Ok(())
}
