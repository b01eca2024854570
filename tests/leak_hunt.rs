//! Runs the example `leak_hunt` as users do: as a process of its own.
#![allow(clippy::unwrap_used, reason = "clippy knows `#[test]` functions as tests, but not their helpers")]

#[path = "support/child.rs"]
mod child;

use std::fs;
use std::path::Path;
use std::process::Output;

fn example(arguments: &[&str]) -> Output {
    child::command(&child::example("leak_hunt")).args(arguments).env_remove("PLIMSOLL_REPORT").output().unwrap()
}

/// The lines about invocations: the number, and the verdict.
fn hunt(arguments: &[&str]) -> Vec<(usize, String)> {
    let output = example(arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let (number, said) = line.trim_start().split_once(' ').unwrap();
        (number.parse().unwrap(), said.trim_start().to_owned())
    };
    text.lines().filter(|line| !line.starts_with("addr2line ")).map(line).collect()
}

fn seen(lines: &[(usize, String)]) -> Option<usize> {
    lines.iter().find(|(_, said)| said.starts_with("growing ")).map(|(number, _)| *number)
}

#[test]
fn the_planted_leak_is_seen_and_the_warming_cache_is_none() {
    let lines = hunt(&[]);
    assert!(lines.first().unwrap().1.starts_with("unknown"), "{lines:#?}");
    // 70 % of the capacity are 81 MiB.
    assert!(seen(&lines).is_some_and(|seen| (370..400).contains(&seen)), "{lines:#?}");
    let rising = lines.iter().find(|(_, said)| said.starts_with("rising ")).unwrap();
    assert!(rising.0 < 60, "{lines:#?}");
    let (last, said) = lines.last().unwrap();
    assert!(*last == 400 && pace(said, "growing ").is_some_and(|kib| (190.0..210.0).contains(&kib)), "{lines:#?}");

    let lines = hunt(&["--leak", "0", "--invocations=1000"]);
    assert!(seen(&lines).is_none() && lines.last().unwrap().1.starts_with("steady"), "{lines:#?}");

    // In a smaller function a slow leak is seen in time, too.
    let lines = hunt(&["--leak=20KiB", "--noise=100KiB", "--seed", "7", "--memory=64MiB", "--invocations=10000"]);
    let (killed, said) = lines.last().unwrap();
    assert!(said.contains("would have killed") && seen(&lines).is_some_and(|seen| seen + 200 < *killed), "{lines:#?}");
}

/// The KiB per invocation of a line.
fn pace(said: &str, verdict: &str) -> Option<f64> {
    said.strip_prefix(verdict)?.split_once(" KiB")?.0.parse().ok()
}

#[cfg(feature = "profile")]
#[test]
fn planted_leak_has_its_site_and_the_cache_has_none() {
    let lines = hunt(&[]);
    let growing: Vec<_> = lines.iter().filter(|(_, said)| said.starts_with("growing ")).collect();
    assert!(growing.len() >= 2, "when it is seen, and the last one: {lines:#?}");
    for (number, said) in &growing {
        let (verdict, sites) = said.split_once(" left: ").expect(said);
        assert!(pace(verdict, "growing ").is_some_and(|kib| (190.0..210.0).contains(&kib)), "{said}");
        let first = sites.split(", ").next().unwrap();
        if cfg!(feature = "symbols") {
            assert!(first.contains("remember_session"), "{said}");
        } else {
            assert!(first.starts_with("0x"), "{said}");
        }
        // The growth since a baseline of at least 64 invocations before, in MiB.
        let grown = first.rsplit_once('+').unwrap().1.split_once(' ').unwrap();
        let mib: f64 = grown.0.parse().unwrap();
        let most = f64::from(u32::try_from(*number).unwrap()) * 0.2;
        assert!(grown.1.starts_with("MiB") && (64.0 * 0.195..=most).contains(&mib), "{said}");
    }
}

#[cfg(all(feature = "profile", not(feature = "symbols")))]
#[test]
fn planted_leak_without_symbols_has_the_command() {
    let text = String::from_utf8(example(&[]).stdout).unwrap();
    let command = text.lines().last().unwrap();
    assert!(command.starts_with("addr2line -Cfip -e ") && command.contains("leak_hunt"), "{command}");
    assert!(command.split(" 0x").count() > 3, "{command}");
}

#[test]
fn a_fast_leak_is_seen_before_lambda_would_kill() {
    let lines = hunt(&["--leak", "1MiB"]);
    let (killed, said) = lines.last().unwrap();
    assert!(said.contains("would have killed"), "{lines:#?}");
    assert!(seen(&lines).unwrap() + 20 <= *killed, "{lines:#?}");
}

#[test]
fn the_chart_has_the_load_line_and_where_the_leak_was_seen() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (leak, title) in [("200KiB", "seen after 3"), ("0", "steady after 400 invocations")] {
        let path = folder.join(format!("leak_hunt-{}-{leak}.svg", std::process::id()));
        hunt(&["--leak", leak, "--svg", path.to_str().unwrap()]);
        let svg = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("load line 116.0 MiB") && svg.contains(title), "{title}");
    }
}

#[test]
fn what_is_wrong_is_said_and_the_exit_code_tells() {
    for (arguments, code, why) in [
        (&["--leak"][..], 2, "--leak asks for a value"),
        (&["--leak", "much"], 2, "much"),
        (&["--leak", "11GiB"], 2, "more than the 10.0 GiB"),
        (&["--invocations", "0"], 2, "from 1 to 100000"),
        (&["--seed", "-1"], 2, "--seed asks for a number"),
        (&["--colour"], 2, "there is no option --colour"),
        (&["file"], 2, "`file` is no option"),
        (&["--invocations=2", "--svg", "no such folder/x.svg"], 1, "no such folder/x.svg: "),
    ] {
        let output = example(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.starts_with("leak_hunt: ") && said.contains(why), "{said}");
    }
    let help = example(&["--help"]);
    assert!(help.status.success() && String::from_utf8(help.stdout).unwrap().contains("usage: leak_hunt"));
}
