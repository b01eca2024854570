//! The command line.

use plimsoll::ByteSize;

pub(crate) const HELP: &str = "\
Runs a handler with a planted leak, and prints the verdict as it forms.

usage: leak_hunt [OPTION]..

  --leak SIZE        what every invocation leaks (default 200KiB; 0 for none)
  --noise SIZE       what waits for the next invocation, at most (default 100KiB)
  --invocations N    how many (default 400, at most 100000)
  --memory SIZE      the memory size of the function (default 128MiB)
  --seed N           of the noise (default 1)
  --svg FILE         write a chart of the heap over the invocations
  --help

Sizes read as 10KiB, 1.5MiB or 4096. It stops where Lambda would kill.
";

/// The most invocations: each is a point of the chart, which is the function's heap as well.
const MOST: usize = 100_000;

pub(crate) enum Parsed {
    Run(Arguments),
    Help,
}

#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) leak: ByteSize,
    pub(crate) noise: ByteSize,
    pub(crate) invocations: usize,
    pub(crate) memory: ByteSize,
    pub(crate) seed: u64,
    pub(crate) svg: Option<String>,
}

/// Reads the arguments; the error says what is wrong with them.
pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Parsed, String> {
    let mut parsed = Arguments {
        leak: ByteSize::kib(200),
        noise: ByteSize::kib(100),
        invocations: 400,
        memory: ByteSize::mib(128),
        seed: 1,
        svg: None,
    };
    let mut rest = arguments;
    while let Some(argument) = rest.next() {
        // `--name value` and `--name=value`.
        let (name, given) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (argument.as_str(), None),
        };
        let mut value = || given.clone().or_else(|| rest.next()).ok_or_else(|| format!("{name} asks for a value"));
        match name {
            "--help" | "-h" => return Ok(Parsed::Help),
            "--leak" => parsed.leak = size(&value()?)?,
            "--noise" => parsed.noise = size(&value()?)?,
            "--memory" => parsed.memory = size(&value()?)?,
            "--seed" => parsed.seed = value()?.parse().map_err(|_| format!("{name} asks for a number"))?,
            "--svg" => parsed.svg = Some(value()?),
            "--invocations" => {
                let count = value()?.parse().ok().filter(|count| (1..=MOST).contains(count));
                parsed.invocations = count.ok_or_else(|| format!("{name} asks for a number from 1 to {MOST}"))?;
            }
            option if option.starts_with("--") => return Err(format!("there is no option {option}")),
            other => return Err(format!("`{other}` is no option")),
        }
    }
    if parsed.leak.max(parsed.noise) > parsed.memory {
        return Err("one invocation cannot take more than --memory".to_owned());
    }
    Ok(Parsed::Run(parsed))
}

/// A size that a process can have: one invocation may not ask for more than the largest function.
fn size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|error| format!("{error}"))?;
    let most = ByteSize::gib(10);
    if size > most { Err(format!("`{text}` is more than the {most} of the largest function")) } else { Ok(size) }
}
