use plimsoll_peers::stream::{*, input::*};
fn main() {
    let folder = std::path::Path::new("/work/wt-stream/target/stream-inputs");
    let rounds: usize = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(7);
    for kind in [Kind::Ndjson, Kind::Short] {
        let path = file(folder, kind, 256 << 20).unwrap();
        let bytes = path.metadata().unwrap().len();
        let r = if std::env::args().nth(2).is_some() { &lines::READERS[..6] } else { &lines::READERS[..] };
        let rates = rates(r, &*path, bytes, rounds).unwrap();
        for (n, r) in &rates { println!("{} {:<30} {:.2} GB/s  {:.1}% of floor", kind.name(), n, r, 100.0*r/rates[0].1); }
    }
}
