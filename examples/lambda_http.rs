//! A Lambda function behind API Gateway, a load balancer or a function URL, with its memory reported: three lines.
//!
//! ```text
//! cargo lambda watch --example lambda_http --features http,lambda
//! curl http://localhost:9000/lambda-url/lambda_http/words -d 'the text to count'
//! ```

use lambda_http::{Body, Error, Request, service_fn};
use plimsoll::{Monitor, TrackingAllocator};

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new(); // plimsoll

/// Returns the number of words in the body.
async fn words(request: Request) -> Result<String, Error> {
    let text = match request.body() {
        Body::Text(text) => text.as_str(),
        Body::Binary(bytes) => std::str::from_utf8(bytes)?,
        _ => "",
    };
    Ok(format!("{} words\n", text.split_whitespace().count()))
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let monitor = Monitor::install_from_env(); // plimsoll
    lambda_http::run(monitor.http().heads_only().layer(service_fn(words))).await // plimsoll
}
