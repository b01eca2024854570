//! Worker: leaks until it is killed, or runs shapes without a leak. See `plimsoll_peers::leaks`.

use std::error::Error;

use plimsoll::TrackingAllocator;
use plimsoll_peers::leaks;
use serde_json::json;

#[global_allocator]
static GLOBAL: TrackingAllocator = TrackingAllocator::new();

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["leak", shape, bytes, in_flight, seed] => {
            leaks::leak(shape, bytes.parse()?, in_flight.parse()?, seed.parse()?)
        }
        ["much", bytes] => leaks::leak_much(bytes.parse()?),
        ["clean", shape, first, runs] => {
            let (first, runs): (u64, u64) = (first.parse()?, runs.parse()?);
            let (mut growing, mut rising) = (0, 0);
            for seed in first..first + runs {
                let called = leaks::clean(shape, seed)?;
                growing += u32::from(called.growing);
                rising += u32::from(called.rising);
            }
            println!("{}", json!({ "growing": growing, "rising": rising }));
            Ok(())
        }
        _ => Err("leak SHAPE BYTES IN_FLIGHT SEED, much BYTES, or clean SHAPE FIRST RUNS".into()),
    }
}
