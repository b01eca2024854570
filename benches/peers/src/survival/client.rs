//! The clients: 64 connections that each send the next request as soon as they have the response to the last one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections at the same time.
const CONNECTIONS: u64 = 64;

const MIB: usize = 1 << 20;

/// The time that a client waits after a refusal.
const PAUSE: Duration = Duration::from_millis(100);

/// Requests that kill the service without admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Bodies of 25 MiB.
    Uploads,
    /// 1 MiB of JSON, parsed to a `serde_json::Value`.
    Json,
    /// Responses of 20 MiB, of which a client reads 256 KiB every 100 ms.
    SlowReaders,
    /// Requests of 4 MiB, and one of a hundred with 40 MiB.
    Hogs,
    /// Streams of events, after work with 8 MiB each.
    Events,
    /// Smaller ones of all these, with a cache that fills what is left.
    Mix,
}

impl Load {
    /// All loads.
    pub const ALL: [Self; 6] = [Self::Uploads, Self::Json, Self::SlowReaders, Self::Hogs, Self::Events, Self::Mix];

    /// Returns the name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uploads => "uploads",
            Self::Json => "JSON",
            Self::SlowReaders => "slow readers",
            Self::Hogs => "1 % hogs",
            Self::Events => "event streams",
            Self::Mix => "mix with a cache",
        }
    }

    fn request(self, number: u64) -> Request {
        match self {
            Self::Uploads => Request::post("/upload", vec![b'x'; 25 * MIB], "application/octet-stream"),
            Self::Json => Request::post("/json", objects(MIB), "application/json"),
            Self::SlowReaders => Request { pace: Pace::Slow, ..Request::get("/page?mib=20") },
            Self::Hogs if number % 100 == 99 => Request { is_hog: true, ..Request::get("/work?mib=40") },
            Self::Hogs => Request::get("/work?mib=4"),
            Self::Events => Request { pace: Pace::Events, ..Request::get("/events") },
            Self::Mix => match number % 8 {
                0 => Request::post("/upload", vec![b'x'; 6 * MIB], "application/octet-stream"),
                1 => Request::post("/json", objects(256 << 10), "application/json"),
                2 => Request::get("/page?mib=4"),
                3 => Request::get("/work?mib=6"),
                _ => Request::get(&format!("/articles/{}", number * 7919 % 1000)),
            },
        }
    }
}

fn objects(len: usize) -> Vec<u8> {
    let mut text = String::from("[");
    while text.len() < len {
        text.push_str(r#"{"id":12345,"tags":[1,2,3],"n":"abc"},"#);
    }
    text.push_str("0]");
    text.into_bytes()
}

/// The pace at which a client reads a response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Fast,
    Slow,
    /// The first twenty events.
    Events,
}

struct Request {
    head: String,
    body: Arc<[u8]>,
    pace: Pace,
    is_hog: bool,
}

impl Request {
    fn get(path: &str) -> Self {
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        Self { head, body: Arc::default(), pace: Pace::Fast, is_hog: false }
    }

    fn post(path: &str, body: Vec<u8>, kind: &str) -> Self {
        let len = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {len}\r\n\r\n"
        );
        Self { head, body: body.into(), pace: Pace::Fast, is_hog: false }
    }

    /// Sends the request and reads the whole response, and returns the status.
    async fn send(&self, address: SocketAddr, end: Instant) -> io::Result<u16> {
        let (mut input, mut output) = TcpStream::connect(address).await?.into_split();
        let send = async {
            output.write_all(self.head.as_bytes()).await?;
            for part in self.body.chunks(64 << 10) {
                output.write_all(part).await?;
            }
            io::Result::Ok(output)
        };
        let receive = async {
            let mut head = Vec::new();
            let mut received = 0;
            let mut chunk = vec![0; 256 << 10];
            let mut events = 0;
            let is_cut = loop {
                let len = input.read(&mut chunk).await?;
                received += len;
                if head.len() < 1024 {
                    head.extend_from_slice(chunk.get(..len.min(1024)).unwrap_or_default());
                }
                let is_over = match self.pace {
                    Pace::Fast => false,
                    Pace::Slow => {
                        sleep(Duration::from_millis(100)).await;
                        Instant::now() > end
                    }
                    Pace::Events => {
                        events += 1;
                        events > 20 || Instant::now() > end
                    }
                };
                if len == 0 || is_over {
                    break len == 0 && missing(&head, received);
                }
            };
            if is_cut {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let status = head.get(9..12).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
            status.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        // A server that refuses a request does not read all of its body.
        let (sent, received) = tokio::join!(send, receive);
        drop(sent);
        received
    }
}

/// Returns `true` if a response ends before its announced length. Events have none.
fn missing(head: &[u8], received: usize) -> bool {
    let text = String::from_utf8_lossy(head);
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return true };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.and_then(|length| length.parse().ok()).is_some_and(|length: usize| received < head.len() + 4 + length)
}

/// The answers to a load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers {
    /// Responses with a status of 200.
    pub served: u64,
    /// Responses with another status.
    pub refused: u64,
    /// Connections that broke, as with a process that was killed.
    pub broken: u64,
    /// The part of `served` and `refused` that were requests with ten times the memory.
    pub hogs: (u64, u64),
    /// Seconds from the first request to the last response.
    pub seconds: f64,
}

impl Answers {
    /// Returns the percentage of refused requests, without those with ten times the memory.
    pub fn innocent_refused_pct(&self) -> f64 {
        let (served, refused) = (self.served - self.hogs.0, self.refused - self.hogs.1);
        100.0 * refused as f64 / (served + refused).max(1) as f64
    }

    fn add(&mut self, answer: &io::Result<u16>, is_hog: bool) {
        match answer {
            Ok(200) => {
                self.served += 1;
                self.hogs.0 += u64::from(is_hog);
            }
            Ok(_) => {
                self.refused += 1;
                self.hogs.1 += u64::from(is_hog);
            }
            Err(_) => self.broken += 1,
        }
    }
}

/// Runs a load against the service at `address` for `time`.
///
/// # Errors
///
/// Those of the runtime.
pub fn run(address: SocketAddr, load: Load, time: Duration) -> io::Result<Answers> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let started = Instant::now();
        let end = started + time;
        let number = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let number = Arc::clone(&number);
            clients.spawn(async move {
                let mut answers = Answers::default();
                while Instant::now() < end {
                    let request = load.request(number.fetch_add(1, Relaxed));
                    let limit = time + Duration::from_secs(5);
                    let answer = timeout(limit, request.send(address, end)).await;
                    let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                    answers.add(&answer, request.is_hog);
                    if !matches!(answer, Ok(200)) {
                        sleep(PAUSE).await;
                    }
                }
                answers
            });
        }
        let mut all = Answers::default();
        while let Some(answers) = clients.join_next().await {
            let Answers { served, refused, broken, hogs, .. } = answers.map_err(io::Error::other)?;
            all.served += served;
            all.refused += refused;
            all.broken += broken;
            all.hogs = (all.hogs.0 + hogs.0, all.hogs.1 + hogs.1);
        }
        all.seconds = started.elapsed().as_secs_f64();
        Ok(all)
    })
}

/// Sends `count` uploads of 1 MiB, one after the other.
///
/// # Errors
///
/// Those of the runtime.
pub fn at_rest(address: SocketAddr, count: u32) -> io::Result<Answers> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let request = Request::post("/upload", vec![b'x'; MIB], "application/octet-stream");
        let mut answers = Answers::default();
        let end = Instant::now() + Duration::from_secs(60);
        for _ in 0..count {
            answers.add(&request.send(address, end).await, false);
        }
        Ok(answers)
    })
}
