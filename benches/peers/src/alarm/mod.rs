//! The alarm: histories of memory, kills by the kernel, one thread's worst allocation, and forked children.

mod forks;
mod grow;
#[path = "../../../../tests/support/histories/mod.rs"]
pub mod histories;
mod latency;

use std::process::ExitCode;

pub use grow::WAYS;

const USAGE: &str = "usage: <worker> --history <seed> <band, MiB> | --grow <way> <memory size, MiB> <on|off> | \
                     --latency <seconds> <on|off> | --forks <count> <on|off>";

/// Runs a worker program. Each mode prints one object of JSON, except `--grow`, which the kernel kills.
///
/// `off` leaves the thresholds unset.
pub fn worker() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if !perform(&arguments) {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}

/// Returns `false` if the arguments have no meaning.
fn perform(arguments: &[&str]) -> bool {
    let number = |text: &str| text.parse::<usize>().ok();
    let switch = |text: &str| ["off", "on"].iter().position(|word| *word == text).map(|index| index == 1);
    match *arguments {
        ["--history", seed, band] => {
            let (Some(seed), Some(band)) = (number(seed), number(band)) else { return false };
            println!("{}", histories::run(seed as u64, band * histories::MIB));
        }
        ["--grow", way, memory, on] => {
            let (Some(memory), Some(on)) = (number(memory), switch(on)) else { return false };
            return grow::until_killed(way, memory * histories::MIB, on);
        }
        ["--latency", seconds, on] => {
            let (Some(seconds), Some(on)) = (number(seconds), switch(on)) else { return false };
            println!("{}", latency::measure(seconds, on));
        }
        ["--forks", count, on] => {
            let (Some(count), Some(on)) = (number(count), switch(on)) else { return false };
            println!("{}", forks::unnoticed(count, on));
        }
        _ => return false,
    }
    true
}
