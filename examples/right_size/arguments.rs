//! The command line.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use plimsoll::sizing::{Architecture, Strategy};

pub(crate) const HELP: &str = "\
Recommends the memory size of a Lambda function from the REPORT lines in its logs.

usage: right_size [OPTION].. [--] [FILE]..     without a FILE, or for -, reads standard input

  --json                       print JSON
  --svg FILE                   write a chart of duration and cost over the memory size
  --arch x86|arm               whose prices (default x86; us-east-1)
  --strategy STRATEGY          cost (default), speed, balanced, balanced:WEIGHT (0 speed .. 1 cost)
  --headroom LOW[-HIGH]        percent on top of the highest memory used (default 20-30)
  --invocations-per-month N    also tell what a month costs
  --free-tier                  take off the free tier of an account that has no other function
  --help

Text and JSON are read as CloudWatch, its exports, `aws logs tail` and the Telemetry API give them.
All of them must be logs of one function.
";

pub(crate) enum Parsed {
    Run(Arguments),
    Help,
}

#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) json: bool,
    pub(crate) svg: Option<PathBuf>,
    pub(crate) architecture: Architecture,
    pub(crate) strategy: Strategy,
    pub(crate) headroom: RangeInclusive<u32>,
    pub(crate) monthly: Option<u64>,
    pub(crate) free_tier: bool,
}

/// Reads the arguments; the error says what is wrong with them.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Parsed, String> {
    let mut parsed = Arguments {
        files: Vec::new(),
        json: false,
        svg: None,
        architecture: Architecture::X86,
        strategy: Strategy::Cost,
        headroom: 20..=30,
        monthly: None,
        free_tier: false,
    };
    let mut rest = arguments;
    while let Some(argument) = rest.next() {
        if !argument.as_encoded_bytes().starts_with(b"-") || argument == "-" {
            parsed.files.push(argument.into());
            continue;
        }
        // The name of a file may be any bytes, and an option is text.
        let option = argument.to_str().ok_or_else(|| format!("`{}` is no text", argument.display()))?;
        // `--name value` and `--name=value`.
        let (name, given) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        let mut path = || match given {
            Some(value) => Ok(OsString::from(value)),
            None => rest
                .next()
                .filter(|value| !value.as_encoded_bytes().starts_with(b"-"))
                .ok_or_else(|| format!("{name} asks for a value; one that begins with - is given as {name}=VALUE")),
        };
        let mut value =
            || path()?.into_string().map_err(|value| format!("`{}` is no text for {name}", value.display()));
        match name {
            "--json" | "--free-tier" | "--help" | "-h" | "--" if given.is_some() => {
                return Err(format!("{name} takes no value"));
            }
            "--help" | "-h" => return Ok(Parsed::Help),
            "--" => parsed.files.extend(rest.by_ref().map(PathBuf::from)),
            "--json" => parsed.json = true,
            "--free-tier" => parsed.free_tier = true,
            "--svg" => parsed.svg = Some(path()?.into()),
            "--arch" => parsed.architecture = architecture(&value()?)?,
            "--strategy" => parsed.strategy = value()?.parse().map_err(|error| format!("{error}"))?,
            "--headroom" => parsed.headroom = headroom(&value()?)?,
            "--invocations-per-month" => parsed.monthly = Some(count(&value()?)?),
            _ => return Err(format!("there is no option {name}")),
        }
    }
    if parsed.files.is_empty() {
        parsed.files.push("-".into());
    }
    Ok(Parsed::Run(parsed))
}

fn architecture(text: &str) -> Result<Architecture, String> {
    match text {
        "x86" | "x86_64" => Ok(Architecture::X86),
        "arm" | "arm64" => Ok(Architecture::Arm),
        _ => Err(format!("`{text}` is no architecture: x86 or arm")),
    }
}

fn headroom(text: &str) -> Result<RangeInclusive<u32>, String> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let percent = |text: &str| text.trim_end_matches('%').parse::<u32>().ok().filter(|percent| *percent <= 1_000);
    match (percent(low), percent(high)) {
        (Some(low), Some(high)) if low <= high => Ok(low..=high),
        _ => Err(format!("`{text}` is no headroom: percent from 0 to 1000, as in 25 or 20-30")),
    }
}

/// A number, in which `_` and `,` may group digits.
fn count(text: &str) -> Result<u64, String> {
    let digits: String = text.chars().filter(|c| !matches!(c, '_' | ',')).collect();
    digits.parse().map_err(|_| format!("`{text}` is no number of invocations"))
}
