//! The public API is what `public-api.txt` says, and every item of it has an example.
//!
//! `UPDATE_SNAPSHOTS=yes cargo test --manifest-path tests/api/Cargo.toml` writes the listing anew: read the difference,
//! and name it in the changelog. All features are on.
//!
//! The stable compiler is told that it may write JSON, so the format is that of one release and does not drift.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use public_api::PublicApi;
use serde_json::Value;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// What `rustdoc` says of the library with these arguments.
fn rustdoc(arguments: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    let output = Command::new(env!("CARGO"))
        .args(["rustdoc", "--quiet", "--lib", "--all-features", "--manifest-path"])
        .arg(library().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target())
        .args(["--", "-Z", "unstable-options", "--output-format", "json"])
        .args(arguments)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTDOCFLAGS", "--cap-lints=warn")
        .output()?;
    if !output.status.success() {
        return Err(format!("rustdoc: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// What can be named from outside.
fn listed() -> Result<PublicApi, Box<dyn std::error::Error>> {
    rustdoc(&[])?;
    let json = public_api::Builder::from_rustdoc_json(target().join("doc/plimsoll.json"));
    Ok(json.omit_blanket_impls(true).omit_auto_derived_impls(true).build()?)
}

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn target() -> PathBuf {
    library().join("target/api")
}

/// The marks of a type that tell a reader nothing. `Send` and `Sync` stay.
const NOISE: [&str; 5] =
    ["::Freeze for", "::Unpin for", "::UnsafeUnpin for", "UnwindSafe for", "::StructuralPartialEq for"];

#[test]
fn the_public_api_is_what_the_listing_says() -> Outcome {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("public-api.txt");
    let told = listed()?.to_string();
    let now: Vec<&str> = told.lines().filter(|line| !NOISE.iter().any(|noise| line.contains(noise))).collect();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some_and(|value| value == "yes") {
        return Ok(std::fs::write(file, now.join("\n") + "\n")?);
    }
    let listing = std::fs::read_to_string(file)?;
    let kept: Vec<&str> = listing.lines().collect();
    let gone = kept.iter().filter(|line| !now.contains(line)).map(|line| format!("- {line}"));
    let new = now.iter().filter(|line| !kept.contains(line)).map(|line| format!("+ {line}"));
    let differences: Vec<String> = gone.chain(new).collect();
    assert!(differences.is_empty(), "the public API is not what public-api.txt says:\n{}", differences.join("\n"));
    Ok(())
}

/// Rustdoc counts types, traits, functions and methods, and of those that have a documentation of their own.
#[test]
fn every_item_has_documentation_and_every_type_and_function_an_example() -> Outcome {
    let said = rustdoc(&["--show-coverage"])?;
    let files: serde_json::Map<String, Value> = serde_json::from_str(&said)?;
    let mut lacking = Vec::new();
    let mut counted = 0;
    for (file, counts) in &files {
        let count = |name| counts[name].as_u64().ok_or(format!("{file}: no {name}"));
        counted += count("total_examples")?;
        if count("with_docs")? < count("total")? || count("with_examples")? < count("total_examples")? {
            lacking.push(format!("{file}: {counts}"));
        }
    }
    assert!(counted > 100, "rustdoc counted {counted} items alone");
    assert!(lacking.is_empty(), "{}", lacking.join("\n"));
    Ok(())
}

/// Each function has an example of its own, or one elsewhere in the documentation calls it; each type and trait is named
/// in one.
#[test]
fn whatever_can_be_called_is_called_in_an_example() -> Outcome {
    let public: HashSet<String> = listed()?.items().map(|item| item.id().0.to_string()).collect();
    let json: Value = serde_json::from_str(&std::fs::read_to_string(target().join("doc/plimsoll.json"))?)?;
    let index = json["index"].as_object().ok_or("no index")?;
    let ours = |item: &&Value| item["crate_id"] == json["index"][json["root"].to_string()]["crate_id"];
    let items: Vec<&Value> = index.values().filter(ours).collect();
    let examples: String = items.iter().filter_map(|item| item["docs"].as_str()).map(code).collect();
    let words: HashSet<&str> = examples.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    // What an `impl` of a trait adds is described by the trait.
    let of_traits: HashSet<String> = items
        .iter()
        .filter_map(|item| item["inner"].get("impl"))
        .filter(|block| !block["trait"].is_null())
        .flat_map(|block| block["items"].as_array().into_iter().flatten().map(Value::to_string))
        .collect();
    let mut lacking = Vec::new();
    let mut counted = 0;
    for item in items {
        let (Some(name), Some(kind)) = (item["name"].as_str(), item["inner"].as_object().and_then(|o| o.keys().next()))
        else {
            continue;
        };
        let called = ["function", "struct", "enum", "trait", "union", "macro"].contains(&kind.as_str());
        if !called || !public.contains(&item["id"].to_string()) || of_traits.contains(&item["id"].to_string()) {
            continue;
        }
        counted += 1;
        let own = item["docs"].as_str().is_some_and(|docs| !code(docs).is_empty());
        if !own && !words.contains(name) {
            let span = &item["span"];
            lacking.push(format!("{}:{}: {name}", span["filename"].as_str().unwrap_or("?"), span["begin"][0]));
        }
    }
    lacking.sort();
    assert!(counted > 300, "{counted} items alone");
    assert!(lacking.is_empty(), "{} of {counted} without an example:\n{}", lacking.len(), lacking.join("\n"));
    Ok(())
}

/// What stands in the code blocks of a documentation.
fn code(docs: &str) -> String {
    docs.split("```").skip(1).step_by(2).collect()
}
