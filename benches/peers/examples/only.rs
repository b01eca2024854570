use plimsoll_peers::stream::{*, input::*};
fn main() {
    let folder = std::path::Path::new("/work/wt-stream/target/stream-inputs");
    let kind = if std::env::args().nth(1).as_deref() == Some("short") { Kind::Short } else { Kind::Ndjson };
    let path = file(folder, kind, 256 << 20).unwrap();
    for _ in 0..10 { (lines::READERS[1].read)(&path).unwrap(); }
}
