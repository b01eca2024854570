//! One cell of the survival matrix: a service in a memory cgroup of its own, a load, and a rest.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::cage::Cage;
use super::client::{Answers, Load, at_rest, run};

/// The limit of the memory cgroup.
const LIMIT_MIB: u64 = 128;

/// Uploads after the rest.
pub const AT_REST: u32 = 200;

/// The global allocator of a service.
#[derive(Debug)]
pub struct Allocator {
    /// The name in tables.
    pub name: &'static str,
    program: PathBuf,
    arenas: &'static str,
}

impl Allocator {
    /// Returns all allocators, from the programs that are linked with them.
    pub fn all(system: PathBuf, mimalloc: PathBuf, jemalloc: PathBuf) -> [Self; 4] {
        let allocator = |name, program, arenas| Self { name, program, arenas };
        [
            allocator("glibc", system.clone(), ""),
            allocator("glibc, one arena", system, "one"),
            allocator("mimalloc", mimalloc, ""),
            allocator("jemalloc", jemalloc, ""),
        ]
    }
}

/// A service in a cgroup of its own.
struct Service {
    cage: Cage,
    process: Child,
    address: SocketAddr,
}

impl Service {
    fn start(allocator: &Allocator, protection: &str) -> Result<Self, Box<dyn Error>> {
        let cage = Cage::new(LIMIT_MIB)?;
        let mut command = cage.command(&allocator.program);
        let mut process =
            command.args([protection, allocator.arenas]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.trim().parse().map_err(|_| format!("{} does not start", allocator.program.display()))?;
        Ok(Self { cage, process, address })
    }

    /// Ends the service. Returns `true` if the kernel has ended it before.
    fn end(mut self) -> Result<bool, Box<dyn Error>> {
        if let Some(status) = self.process.try_wait()? {
            let is_killed = status.signal() == Some(9) && self.cage.oom_kills() > 0;
            return if is_killed { Ok(true) } else { Err(format!("a service has ended: {status}").into()) };
        }
        self.process.kill()?;
        self.process.wait()?;
        Ok(false)
    }
}

/// The figures of one cell.
#[derive(Debug)]
pub struct Cell {
    /// The kernel killed the service for its memory.
    pub is_killed: bool,
    /// The answers to the load.
    pub answers: Answers,
    /// Uploads of 1 MiB that were not served after a second of rest, of [`AT_REST`].
    pub refused_at_rest: u64,
}

/// Runs a load against a service with this [protection](super::serve).
///
/// # Errors
///
/// Those of the cgroup, of the process and of the sockets.
pub fn cell(allocator: &Allocator, load: Load, protection: &str, time: Duration) -> Result<Cell, Box<dyn Error>> {
    let service = Service::start(allocator, protection)?;
    let answers = run(service.address, load, time)?;
    std::thread::sleep(Duration::from_secs(1));
    let rest = at_rest(service.address, AT_REST)?;
    Ok(Cell { is_killed: service.end()?, answers, refused_at_rest: rest.refused + rest.broken })
}
