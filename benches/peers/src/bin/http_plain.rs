//! Worker: a light axum service on the system's allocator.

fn main() -> std::io::Result<()> {
    plimsoll_peers::http::serve(plimsoll_peers::http::router())
}
