//! A light HTTP service, and a client that keeps it busy.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Requests in flight.
pub const CONNECTIONS: usize = 64;

/// Creates the service. An order is three microseconds of work and some thirty allocations.
pub fn router() -> Router {
    async fn order(Path(id): Path<u64>) -> String {
        let lines: Vec<String> = (0..24).map(|line| format!(r#"{{"article":{},"count":{line}}}"#, id + line)).collect();
        format!(r#"{{"id":{id},"lines":[{}]}}"#, lines.join(","))
    }
    Router::new().route("/orders/{id}", get(order))
}

/// Runs `app` on a free port until the process is killed. Prints the address to standard output.
///
/// # Errors
///
/// Those of the runtime and of the socket.
pub fn serve(app: Router) -> io::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        axum::serve(listener, app).await
    })
}

/// Returns the answers per second of the service at `address`, with all connections busy for `time`.
///
/// # Errors
///
/// Those of the sockets, and an answer that is not one.
pub fn answers_per_second(address: SocketAddr, time: Duration) -> io::Result<f64> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let started = Instant::now();
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..CONNECTIONS {
            clients.spawn(client(address, number, started + time));
        }
        let mut answers = 0;
        while let Some(client) = clients.join_next().await {
            answers += client??;
        }
        Ok(answers as f64 / started.elapsed().as_secs_f64())
    })
}

/// One connection; returns its number of answers.
async fn client(address: SocketAddr, number: usize, end: Instant) -> io::Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!("GET /orders/{} HTTP/1.1\r\nhost: localhost\r\n\r\n", 10_000 + number);
    let mut answer = vec![0; 4096];
    let mut answers = 0;
    while Instant::now() < end {
        stream.write_all(request.as_bytes()).await?;
        let mut len = 0;
        loop {
            let room = answer.get_mut(len..).ok_or(io::ErrorKind::InvalidData)?;
            len += match stream.read(room).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => read,
            };
            // The body ends with `]}`, which its head has not.
            if answer.get(..len).is_some_and(|answer| answer.ends_with(b"]}")) {
                break;
            }
        }
        if !answer.starts_with(b"HTTP/1.1 200") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        answers += 1;
    }
    Ok(answers)
}
