//! Area `newcomer`: what a crate pays that takes the library without features: crates to build, and the seconds.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use plimsoll_peers::median;

use crate::Options;
use crate::row::{Card, Goal, Row};

/// Hooked in, and nothing more.
const MAIN: &str = "\
#[global_allocator]
static GLOBAL: plimsoll::TrackingAllocator = plimsoll::TrackingAllocator::new();

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(\"{}\", plimsoll::heap::stats()?.live);
    Ok(())
}
";

/// Measures all of it. The sources are fetched before the clock starts; the median of three builds from nothing counts.
pub(crate) fn measure(options: Options) -> Result<Card, Box<dyn Error>> {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let newcomer = library.join("target/newcomer");
    fs::create_dir_all(newcomer.join("src"))?;
    let path = toml_string(library.to_str().ok_or("the library's folder has no name in UTF-8")?);
    let manifest = format!(
        "[package]\nname = \"newcomer\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\nplimsoll = {{ path = \
         {path} }}\n\n[workspace]\n"
    );
    fs::write(newcomer.join("Cargo.toml"), manifest)?;
    fs::write(newcomer.join("src/main.rs"), MAIN)?;
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
        command.current_dir(&newcomer).args(arguments).env("CARGO_TARGET_DIR", newcomer.join("target"));
        command.stderr(Stdio::piped());
        let output = command.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("cargo {arguments:?}: {}\n{said}", output.status).into());
        }
        Ok::<_, Box<dyn Error>>(String::from_utf8(output.stdout)?)
    };

    let tree = cargo(&["tree", "-e", "normal,no-proc-macro", "--prefix", "none", "--no-dedupe"])?;
    let mut crates: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    crates.sort_unstable();
    crates.dedup();
    crates.retain(|name| *name != "newcomer");

    let mut seconds = Vec::new();
    for _ in 0..if options.quick { 1 } else { 3 } {
        cargo(&["clean"])?;
        let start = Instant::now();
        cargo(&["build"])?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    cargo(&["clean"])?;

    let row = |metric, unit, ours, goal| Row { metric, unit, ours, goal: Goal::AtMost(goal), best_peer: None };
    let rows = vec![
        row("newcomer.default.crates", "crates", crates.len() as f64, 15.0),
        row("newcomer.default.build_s", "s", median(seconds), 20.0),
    ];
    Ok(Card { rows, notes: vec![format!("the crates: {}", crates.join(", "))], ..Card::default() })
}

fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
