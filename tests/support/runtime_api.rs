//! As much of Lambda's Runtime API and Extensions API as a function asks for.

#![allow(dead_code, unreachable_pub, reason = "each test binary includes this file and uses its own part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, mpsc};

/// What the function did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// It asked for an event and was given the one with this request id.
    Started(String),
    /// It posted to `path`: an answer, an error.
    Posted { path: String, body: String },
}

/// Serves events one by one; with none left it waits, as Lambda does, until the function is gone.
pub struct RuntimeApi {
    pub address: String,
    pub calls: mpsc::Receiver<Call>,
}

type Events = Mutex<Box<dyn Iterator<Item = (usize, String)> + Send>>;

impl RuntimeApi {
    /// Hands `events` out with the request ids `request-0`, `request-1` ..
    pub fn serve<I>(events: I) -> Self
    where
        I: IntoIterator<Item = String>,
        I::IntoIter: Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let events: Arc<Events> = Arc::new(Mutex::new(Box::new(events.into_iter().enumerate())));
        let (sender, calls) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (events, sender) = (Arc::clone(&events), sender.clone());
                std::thread::spawn(move || drop(converse(&stream, &events, &sender)));
            }
        });
        Self { address, calls }
    }

    /// Gives `command` the environment that Lambda would.
    pub fn environment<'a>(&self, command: &'a mut Command, memory_mb: u32) -> &'a mut Command {
        command
            .env("AWS_LAMBDA_RUNTIME_API", &self.address)
            .env("AWS_LAMBDA_FUNCTION_NAME", "function")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory_mb.to_string())
    }
}

/// Answers the requests of one connection until the function closes it.
fn converse(stream: &TcpStream, events: &Events, calls: &mpsc::Sender<Call>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut request, mut length, mut in_chunks) = (String::new(), 0, false);
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            match header.trim().to_ascii_lowercase().split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().unwrap(),
                Some(("transfer-encoding", value)) => in_chunks = value.trim() == "chunked",
                Some(_) => (),
                None => break,
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        if in_chunks {
            body = chunks(&mut reader)?;
        }
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        if path == "/2018-06-01/runtime/invocation/next" {
            let next = events.lock().unwrap().next();
            let Some((number, event)) = next else { return wait(&mut reader) };
            drop(calls.send(Call::Started(format!("request-{number}"))));
            let headers = format!(
                "Content-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: request-{number}\r\n\
                 Lambda-Runtime-Deadline-Ms: 4102444800000\r\n\
                 Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:eu-west-1:0:function:function\r\n"
            );
            answer(stream, "200 OK", &headers, &event)?;
        } else if path.ends_with("/extension/register") {
            let body = r#"{"functionName":"function","functionVersion":"1","handler":"bootstrap"}"#;
            answer(stream, "200 OK", "Lambda-Extension-Identifier: 1\r\n", body)?;
        } else if path.ends_with("/extension/event/next") {
            return wait(&mut reader);
        } else {
            drop(calls.send(Call::Posted { path, body: String::from_utf8(body).unwrap() }));
            answer(stream, "202 Accepted", "", "")?;
        }
    }
}

/// Reads a body in chunks, as of a streamed response, and the trailers after it.
fn chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let size = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        reader.by_ref().take(size).read_to_end(&mut body)?;
        // An empty line ends a chunk, and the trailers after the last one.
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        if size == 0 {
            return Ok(body);
        }
    }
}

/// In one write: a second one would wait for the acknowledgement of the first.
fn answer(mut stream: &TcpStream, status: &str, headers: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    stream.write_all(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}").as_bytes())
}

fn wait(reader: &mut impl Read) -> io::Result<()> {
    io::copy(reader, &mut io::sink()).map(drop)
}

/// A function that would serve for ever, ended with the test.
pub struct Function(pub Child);

impl Drop for Function {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
