//! Bodies as they come: of a server that hyper runs, and in the shapes that object stores hand them out in.

#![cfg(feature = "tokio")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use futures_core::Stream;
use http_body_util::BodyDataStream;
use plimsoll::ByteSize;
use plimsoll::stream::{LineReader, StreamError};
use tokio::runtime::Runtime;

/// Its lines, and what they end with.
type Read = (Vec<String>, Result<(), StreamError>);

async fn read<S, E>(body: S) -> Read
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut lines = LineReader::builder(ByteSize::bytes(20)).build_stream(body).unwrap();
    let mut all = Vec::new();
    loop {
        match lines.next_record().await {
            Ok(Some(line)) => all.push(String::from_utf8_lossy(&line).into_owned()),
            Ok(None) => return (all, Ok(())),
            Err(error) => return (all, Err(error)),
        }
    }
}

/// A server that reads the lines of whatever is posted to it.
fn server() -> (Runtime, SocketAddr, Receiver<Read>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (sender, receiver) = channel();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    // Hyper's `Incoming`, as axum hands it on. A handler ends with its connection, so another task reads.
    let handler = async |State(sender): State<Sender<Read>>, body: Body| {
        let reading = async move { sender.send(read(BodyDataStream::new(body)).await).unwrap() };
        tokio::spawn(reading).await.unwrap();
    };
    let router = Router::new().route("/", post(handler)).with_state(sender);
    runtime.spawn(async { axum::serve(listener, router).await });
    (runtime, address, receiver)
}

fn send(address: SocketAddr, head: &str, pieces: &[&str]) -> TcpStream {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_nodelay(true).unwrap();
    write!(connection, "POST / HTTP/1.1\r\nhost: here\r\n{head}\r\n\r\n").unwrap();
    for piece in pieces {
        connection.write_all(piece.as_bytes()).unwrap();
    }
    connection
}

#[test]
fn lines_of_a_request_go_over_its_chunks() {
    let (_runtime, address, received) = server();
    let chunks = ["6\r\none\ntw\r\n", "1\r\no\r\n", "8\r\n\nthree\nf\r\n", "3\r\nour\r\n", "0\r\n\r\n"];
    let _connection = send(address, "transfer-encoding: chunked", &chunks);
    let (lines, ended) = received.recv().unwrap();
    assert_eq!(lines, ["one", "two", "three", "four"]);
    ended.unwrap();
}

#[test]
fn a_request_that_breaks_off_is_not_taken_for_whole() {
    for (head, body) in
        [("content-length: 100", "one\n{\"amount\": 12"), ("transfer-encoding: chunked", "9\r\none\n{\"am")]
    {
        let (_runtime, address, received) = server();
        let connection = send(address, head, &[body]);
        connection.shutdown(Shutdown::Both).unwrap();
        let (lines, ended) = received.recv().unwrap();
        assert_eq!(lines, ["one"]);
        let error = ended.unwrap_err();
        assert!(matches!(error, StreamError::Read { number: 2, .. }), "{error}");
    }
}

fn items(pieces: [&'static str; 3]) -> impl Stream<Item = io::Result<Bytes>> + Send {
    futures_util::stream::iter(pieces.map(|piece| Ok(Bytes::from(piece))))
}

#[test]
fn a_boxed_stream_is_read_as_it_is() {
    // What `GetResult::into_stream` of `object_store` gives.
    let body: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>> = Box::pin(items(["one\nt", "w", "o"]));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (lines, ended) = runtime.block_on(read(body));
    assert_eq!(lines, ["one", "two"]);
    ended.unwrap();
}

#[test]
fn what_can_be_polled_but_is_no_stream_is_adapted_as_documented() {
    /// The shape of the AWS SDK's `ByteStream`: the method is its own, and no trait's.
    struct ByteStream(Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>);
    impl ByteStream {
        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
            self.0.as_mut().poll_next(context)
        }
    }
    let mut body = ByteStream(Box::pin(items(["on", "e\ntw", "o\n"])));
    let body = futures_util::stream::poll_fn(move |cx| Pin::new(&mut body).poll_next(cx));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (lines, ended) = runtime.block_on(read(body));
    assert_eq!(lines, ["one", "two"]);
    ended.unwrap();
}
