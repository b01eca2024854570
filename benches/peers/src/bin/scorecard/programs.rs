//! The worker programs: building and asking them.

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Builds the binaries `names` of this package in `profile` and returns where each one lies.
///
/// `cargo run` builds the scorecard alone, so it asks cargo for the others itself.
pub(crate) fn build(profile: &str, names: &[&str]) -> Result<HashMap<String, PathBuf>, Box<dyn Error>> {
    build_with(&["--profile", profile], &[], names)
}

/// Builds the binaries for musl, statically linked.
///
/// If no compiler for musl is installed, the system's one compiles the C code of the other binaries. It is not linked
/// into these.
pub(crate) fn build_for_musl(names: &[&str]) -> Result<HashMap<String, PathBuf>, Box<dyn Error>> {
    let compiler = [("CC_x86_64_unknown_linux_musl", "cc")];
    let found = Command::new("musl-gcc").arg("--version").output().is_ok_and(|output| output.status.success());
    let compiler: &[(&str, &str)] = if found { &[] } else { &compiler };
    build_with(&["--release", "--target", "x86_64-unknown-linux-musl"], compiler, names)
}

/// Builds the binaries `names` with these arguments of cargo and environment variables.
pub(crate) fn build_with(
    options: &[&str],
    variables: &[(&str, &str)],
    names: &[&str],
) -> Result<HashMap<String, PathBuf>, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.arg("build").args(options).envs(variables.iter().copied());
    command.args(["--message-format", "json-render-diagnostics", "--manifest-path"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    for name in names {
        command.args(["--bin", name]);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("the workers do not build ({})", output.status).into());
    }
    let messages = String::from_utf8(output.stdout)?;
    let program = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let path = message.get("executable")?.as_str()?;
        let name = message.get("target")?.get("name")?.as_str()?;
        Some((name.to_owned(), PathBuf::from(path)))
    };
    Ok(messages.lines().filter_map(program).collect())
}

/// Runs a worker and returns the JSON it prints.
pub(crate) fn ask(program: &Path, arguments: &[&str]) -> Result<Value, Box<dyn Error>> {
    ask_with(program, arguments, &[])
}

/// Runs a worker with these environment variables and returns the JSON it prints.
pub(crate) fn ask_with(
    program: &Path,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Result<Value, Box<dyn Error>> {
    let mut command = Command::new(program);
    let output = command.args(arguments).envs(variables.iter().copied()).stderr(Stdio::inherit()).output()?;
    let output = successful(program, output)?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Why instructions were not counted, if it is not an error.
pub(crate) const NO_VALGRIND: &str = "not measured: valgrind not found";

/// Instructions that a worker executes with these arguments, or `None` without valgrind.
pub(crate) fn instructions(program: &Path, arguments: &[&str]) -> Result<Option<u64>, Box<dyn Error>> {
    let valgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(arguments)
        .output();
    let output = match valgrind {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        output => successful(program, output?)?,
    };
    let report = String::from_utf8_lossy(&output.stderr);
    let collected = report.lines().find_map(|line| line.split_once("Collected :"));
    let Some((_, count)) = collected else { return Err("callgrind printed no count".into()) };
    Ok(Some(count.trim().parse()?))
}

fn successful(program: &Path, output: Output) -> Result<Output, Box<dyn Error>> {
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{} failed ({})", program.display(), output.status).into())
}
