//! Tracking allocators: what they cost and how true their figures are.

mod accuracy;
mod block;
mod books;
mod crew;
mod pattern;
mod peers;
pub(crate) mod speed;
mod timing;

use std::process::ExitCode;

pub use books::{Books, Bracket};
pub use peers::Tally;

/// What a worker program answers to; every mode but `pairs` prints one line of JSON.
const USAGE: &str = "usage: <worker> speed <chunks> | pairs <count> | accuracy";

/// The whole of a worker program: does what its command line asks with the global allocator it was built with.
///
/// `books` are the figures that allocator keeps, or `None` if it keeps none.
pub fn worker(books: Option<&dyn Books>) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match (arguments.as_slice(), books) {
        (["speed", chunks], _) if let Ok(chunks) = chunks.parse() => println!("{}", speed::measure(chunks)),
        (["pairs", count], _) if let Ok(count) = count.parse() => speed::pair64(count),
        (["accuracy"], Some(books)) => println!("{}", accuracy::measure(books)),
        (["accuracy"], None) => println!("{{}}"),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
