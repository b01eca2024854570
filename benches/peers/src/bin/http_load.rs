//! Worker: loads services in turns, of which it gets the programs as arguments. Prints answers per second, and ratios.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use plimsoll_peers::{http::answers_per_second, median};
use serde_json::json;

/// A service, killed when it is dropped.
struct Service {
    process: Child,
    address: SocketAddr,
}

impl Service {
    /// `program` is a path, followed by arguments after blanks.
    fn start(program: &str) -> Result<Self, Box<dyn Error>> {
        let mut words = program.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        let mut process = command.args(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        Ok(Self { process, address: line.trim().parse()? })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ended = self.process.kill().and_then(|()| self.process.wait());
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().ok_or("how many rounds?")?.parse()?;
    let services = arguments.map(|program| Service::start(&program)).collect::<Result<Vec<_>, _>>()?;
    let time = Duration::from_millis(400);
    for service in &services {
        answers_per_second(service.address, time)?;
    }
    let mut rates = vec![Vec::new(); services.len()];
    for round in 0..rounds {
        // Forwards and backwards, so that a drift of the machine meets all.
        let order: Vec<usize> =
            if round % 2 == 0 { (0..services.len()).collect() } else { (0..services.len()).rev().collect() };
        for index in order {
            let (Some(service), Some(rates)) = (services.get(index), rates.get_mut(index)) else { continue };
            rates.push(answers_per_second(service.address, time)?);
        }
    }
    let plain = rates.first().cloned().unwrap_or_default();
    let of_plain: Vec<f64> =
        rates.iter().map(|rates| median(rates.iter().zip(&plain).map(|(ours, plain)| 100.0 * ours / plain))).collect();
    let rates: Vec<f64> = rates.into_iter().map(median).collect();
    println!("{}", json!({ "per_second": rates, "of_plain_pct": of_plain }));
    Ok(())
}
