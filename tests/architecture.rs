//! The shape of the crate, kept by a test: who may import whom, where `unsafe` may stand, how long a file may grow.
//!
//! Each rule has a source that it must reject, so that a rule which has gone blind is noticed.
#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use std::{fs, iter, path::Path};

/// The layers, from below. A module imports from lower layers and from itself.
const LAYERS: [&[&str]; 6] = [
    BASE,
    &["heap"],
    &["budget", "singleflight"],
    &["cache", "stream", "lazy"],
    &["monitor", "sizing"],
    &["integration", "guide"],
];

/// The lowest layer, whose modules may import those before them.
const BASE: &[&str] = &["error_chain", "sync", "unwind", "size", "os", "log", "clock", "weigh", "env", "board"];

/// Where unsafe code may stand: folders, by the slash at their end, and files.
const UNSAFE: [&str; 4] = ["heap/", "os/", "os.rs", "stream/simd.rs"];

/// Crates that are nobody's business but ours.
const PRIVATE: [&str; 5] = ["lru", "parking_lot", "once_cell", "hashbrown", "arc_swap"];

const MAX_LINES: usize = 600;

/// Whether a module may import another: `None` if there is no such module.
fn may_import(from: &str, to: &str) -> Option<bool> {
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let place = |module: &str| BASE.iter().position(|base| *base == module);
    let (above, below) = (layer(from)?, layer(to)?);
    Some(from == to || below < above || (above == 0 && below == 0 && place(to) < place(from)))
}

/// The source with comments and the insides of literals blanked, lines kept.
fn code(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut code = String::new();
    let mut i = 0;
    while i < chars.len() {
        let raw = raw_string(&chars, i).filter(|_| i == 0 || !is_word(at(i - 1)));
        let end = match (at(i), at(i + 1)) {
            ('/', '/') => (i..chars.len()).find(|&j| at(j) == '\n').unwrap_or(chars.len()),
            ('/', '*') => block_comment(&chars, i),
            ('"', _) => quoted(&chars, i, '"'),
            _ if raw.is_some() => raw.unwrap_or(i),
            // A lifetime has no quote after its first character.
            ('\'', '\\') => quoted(&chars, i, '\''),
            ('\'', _) if at(i + 2) == '\'' => i + 3,
            (c, _) => {
                code.push(c);
                i += 1;
                continue;
            }
        };
        code.extend(chars[i..end.min(chars.len())].iter().map(|&c| if c == '\n' { c } else { ' ' }));
        i = end;
    }
    code
}

/// Behind the quote that closes the literal at `start`.
fn quoted(chars: &[char], start: usize, quote: char) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// Behind the raw string at `start`, if there is one: `r"`, `br#"`, `cr##"` ..
fn raw_string(chars: &[char], start: usize) -> Option<usize> {
    let r = start + usize::from(matches!(chars[start], 'b' | 'c'));
    let hashes = chars.get(r + 1..)?.iter().take_while(|c| **c == '#').count();
    if chars.get(r) != Some(&'r') || chars.get(r + 1 + hashes) != Some(&'"') {
        return None;
    }
    let close: Vec<char> = iter::once('"').chain(iter::repeat_n('#', hashes)).collect();
    let body = r + 2 + hashes;
    (body..chars.len()).find(|&i| chars[i..].starts_with(&close)).map(|i| i + close.len())
}

/// Behind the comment at `start`. They nest.
fn block_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i < chars.len() {
        match chars[i..] {
            ['/', '*', ..] => (depth, i) = (depth + 1, i + 2),
            ['*', '/', ..] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

/// Words, `::`, and single marks.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = match first {
            ':' if rest.starts_with("::") => 2,
            c if c.is_alphanumeric() || c == '_' => {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            }
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(len);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

/// The names at the root of the crate that the code of a file reaches by `crate`, `$crate`, `super` and `self`.
///
/// `depth` is how many modules deep the file is: 1 for `src/size.rs`.
fn imports<'a>(tokens: &[&'a str], depth: usize) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut braces: Vec<bool> = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        match tokens[i] {
            "{" => braces.push(i >= 2 && tokens[i - 2] == "mod"),
            "}" => drop(braces.pop()),
            "crate" | "super" | "self" if tokens.get(i + 1) == Some(&"::") => {
                let inside = depth + braces.iter().filter(|is_mod| **is_mod).count();
                i = path(tokens, i, inside, &mut found);
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// Follows a path, or a group of them, from the module `depth` deep; returns where it ends.
fn path<'a>(tokens: &[&'a str], mut i: usize, mut depth: usize, found: &mut Vec<&'a str>) -> usize {
    loop {
        match tokens.get(i).copied() {
            Some("$") => {
                i += 1;
                continue;
            }
            Some("crate") => depth = 0,
            Some("super") => depth = depth.saturating_sub(1),
            Some("self") => {}
            Some("{") => {
                i += 1;
                while i < tokens.len() && tokens[i] != "}" {
                    i = path(tokens, i, depth, found);
                    // What follows the first name does not matter, but its braces do.
                    let mut open = 0;
                    while i < tokens.len() && (open > 0 || !matches!(tokens[i], "," | "}")) {
                        open += i32::from(tokens[i] == "{") - i32::from(tokens[i] == "}");
                        i += 1;
                    }
                    i += usize::from(tokens.get(i) == Some(&","));
                }
                return i + 1;
            }
            Some(name) => {
                if depth == 0 {
                    found.push(name);
                }
                return i + 1;
            }
            None => return i,
        }
        if tokens.get(i + 1) != Some(&"::") {
            return i + 1;
        }
        i += 2;
    }
}

/// The tokens of each public item that others see: a signature, a field, a re-export, an enum in full.
fn public_items<'a>(tokens: &'a [&'a str]) -> Vec<&'a [&'a str]> {
    let starts = (0..tokens.len()).filter(|&i| tokens[i] == "pub" && tokens.get(i + 1) != Some(&"("));
    starts.map(|start| &tokens[start..public_end(tokens, start)]).collect()
}

fn public_end(tokens: &[&str], start: usize) -> usize {
    let kind = tokens.get(start + 1).copied().unwrap_or_default();
    let mut nesting = 0;
    for i in start + 1..tokens.len() {
        match tokens[i] {
            ";" => return i,
            "{" if !matches!(kind, "use" | "enum") => return i,
            "=" if nesting == 0 && matches!(kind, "const" | "static") => return i,
            "(" if nesting == 0 && kind == "struct" => return i,
            "," if nesting == 0 && !matches!(kind, "fn" | "struct" | "enum" | "trait" | "type") => return i,
            "(" | "[" | "<" | "{" => nesting += 1,
            ">" if matches!(tokens[i - 1], "-" | "=") => {}
            ")" | "]" | ">" | "}" => nesting -= 1,
            _ => {}
        }
        if nesting < 0 || (nesting == 0 && kind == "enum" && tokens[i] == "}") {
            return i;
        }
    }
    tokens.len()
}

/// Returns the names of the types that derive `Debug` and implement `Error`, by a derive or by hand.
fn errors_with_derived_debug<'a>(tokens: &[&'a str]) -> Vec<&'a str> {
    let by_hand: Vec<&str> = (2..tokens.len())
        .filter(|&i| tokens[i - 2] == "Error" && tokens[i - 1] == "for")
        .filter_map(|i| path_end(tokens, i))
        .collect();
    let mut found = Vec::new();
    let mut derives: Vec<&str> = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        match tokens[i] {
            // An attribute: `#[derive(..)]`, or `#[cfg_attr(.., derive(..))]`.
            "#" if tokens.get(i + 1) == Some(&"[") => {
                let end = group_end(tokens, i + 1);
                for start in (i..end).filter(|&at| tokens[at] == "derive") {
                    // The last name of each path: `Error` of `thiserror::Error`.
                    let inside = start + 1..group_end(tokens, start + 1).min(end);
                    derives.extend(
                        inside.filter(|&at| matches!(tokens.get(at + 1), Some(&("," | ")")))).map(|at| tokens[at]),
                    );
                }
                i = end;
                continue;
            }
            "struct" | "enum" | "union" if !derives.is_empty() => {
                let name = tokens.get(i + 1).copied().unwrap_or_default();
                let is_error = derives.contains(&"Error") || by_hand.contains(&name);
                if is_error && derives.contains(&"Debug") {
                    found.push(name);
                }
                derives.clear();
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// Returns the last name of the path at `start`: `LoadFailure` of `super::LoadFailure<E>`.
fn path_end<'a>(tokens: &[&'a str], start: usize) -> Option<&'a str> {
    let mut i = start;
    while matches!(tokens.get(i + 1), Some(&"::")) {
        i += 2;
    }
    tokens.get(i).copied()
}

/// Returns the index after the bracket that closes the one at `start`.
fn group_end(tokens: &[&str], start: usize) -> usize {
    let mut nesting = 0;
    for (i, token) in tokens.iter().enumerate().skip(start) {
        nesting += i32::from(matches!(*token, "(" | "[" | "{")) - i32::from(matches!(*token, ")" | "]" | "}"));
        if nesting == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

/// What is wrong with the file at `path`, which is below `src`.
fn faults(path: &str, source: &str) -> Vec<String> {
    let code = code(source);
    let tokens = tokens(&code);
    let mut faults = Vec::new();

    let lines = source.lines().count();
    if lines > MAX_LINES {
        faults.push(format!("{lines} lines, at most {MAX_LINES}"));
    }
    if !UNSAFE.iter().any(|home| path == *home || (home.ends_with('/') && path.starts_with(home))) {
        let lifts = |i: usize| tokens[i] == "unsafe_code" && !matches!(tokens[i.saturating_sub(2)], "deny" | "forbid");
        if (0..tokens.len()).any(|i| tokens[i] == "unsafe" || lifts(i)) {
            faults.push("unsafe code outside of its homes".to_owned());
        }
    }
    for item in public_items(&tokens) {
        for name in
            item.windows(2).filter(|pair| pair[1] == "::").map(|pair| pair[0]).filter(|name| PRIVATE.contains(name))
        {
            faults.push(format!("`{name}` in a public item"));
        }
    }
    for name in errors_with_derived_debug(&tokens) {
        faults.push(format!("the error `{name}` derives `Debug`: use `debug_as_chain!`"));
    }

    if path == "lib.rs" {
        if tokens.contains(&"fn") {
            faults.push("logic in lib.rs".to_owned());
        }
        return faults;
    }
    let module = path.split('/').next().unwrap_or(path).trim_end_matches(".rs");
    if may_import(module, module).is_none() {
        faults.push(format!("the module `{module}` has no layer"));
        return faults;
    }
    let depth = path.split('/').count() - usize::from(path.ends_with("/mod.rs"));
    for name in imports(&tokens, depth) {
        match may_import(module, name) {
            Some(true) => {}
            Some(false) => faults.push(format!("`{module}` imports `{name}`, which is not below it")),
            None => faults.push(format!("`{module}` imports `{name}` from the root: name its module")),
        }
    }
    faults
}

#[track_caller]
fn rejects(path: &str, source: &str, why: &str) {
    let faults = faults(path, source);
    assert!(faults.len() == 1 && faults[0].contains(why), "{path}: {source}\n{faults:?}");
}

#[track_caller]
fn accepts(path: &str, source: &str) {
    assert_eq!(faults(path, source), Vec::<String>::new(), "{path}: {source}");
}

#[test]
fn the_crate_keeps_its_rules() {
    fn walk(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    assert!(files.len() >= 6, "only {} files found", files.len());

    let mut all = Vec::new();
    let mut imported = 0;
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        let path = file.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
        imported += imports(&tokens(&code(&source)), path.split('/').count()).len();
        all.extend(faults(&path, &source).into_iter().map(|fault| format!("src/{path}: {fault}")));
    }
    assert!(imported >= 3, "only {imported} imports found");
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn imports_go_downward() {
    accepts("cache/store.rs", "use crate::{heap::Ledger, budget, size::{self, ByteSize}};");
    accepts("monitor/mod.rs", "use crate::{cache::Cache, stream::LineReader, os}; fn f() { crate::env::x() }");
    accepts("sizing/mod.rs", "use crate::stream::LineReader;");
    accepts("integration/tower.rs", "pub use crate::monitor::Monitor;");
    rejects("size.rs", "use crate::heap::Ledger;", "imports `heap`");
    rejects("heap/mod.rs", "fn f() { let x = crate::monitor::now(); }", "imports `monitor`");
    rejects("cache/mod.rs", "#[cfg(test)] mod tests { use crate::integration::tower; }", "imports `integration`");
}

#[test]
fn siblings_do_not_import_each_other() {
    accepts("cache/mod.rs", "use crate::cache::store::Store;");
    rejects("cache/mod.rs", "use crate::{size::ByteSize, lazy};", "imports `lazy`");
    rejects("heap/mod.rs", "use crate::budget::Account;", "imports `budget`");
    rejects("sizing/mod.rs", "use crate::monitor::Monitor;", "imports `monitor`");
}

#[test]
fn the_lowest_layer_has_an_order() {
    accepts("env/mod.rs", "use crate::{size::ByteSize, os::statm, clock};");
    accepts("board.rs", "use crate::{sync::AtomicU64, env::LambdaEnv};");
    rejects("size.rs", "use crate::env::LambdaEnv;", "imports `env`");
    rejects("os/mod.rs", "use crate::clock;", "imports `clock`");
}

#[test]
fn every_spelling_of_an_import_is_seen() {
    for source in [
        "use crate :: heap;",
        "use crate::{self, heap};",
        "use crate::{size::{ByteSize, ByteDelta}, sync::{A, B::{C}}, heap::{D}};",
        "pub(crate) use crate::{size::ByteSize as Size, heap as h};",
        "use super::heap;",
        "use super::{super::nothing, heap::X};",
        "use self::super::heap::X;",
        "mod inner { use super::super::heap; }",
        "mod inner { mod most { fn f() { super::super::super::heap::f(); } } }",
        "mod inner { fn f() {} } use super::heap;",
        "macro_rules! m { () => { $crate::heap::f() } }",
        "fn f(x: &'static crate::heap::X) {}",
        "fn f() -> char { 'x' } fn g() -> char { '\\'' } fn h() { crate::heap::f(b'\"') }",
        "const A: &str = r#\"no \" end\"#; const B: u8 = crate::heap::B;",
    ] {
        let faults = faults("size.rs", source);
        assert!(faults.iter().any(|fault| fault.contains("imports `heap`")), "{source}\n{faults:?}");
    }
    rejects("heap/ledger.rs", "use super::super::budget;", "imports `budget`");
    rejects("heap/ledger.rs", "use super::{super::{size, budget}};", "imports `budget`");
    rejects("cache/a/b.rs", "use super::super::super::lazy;", "imports `lazy`");
}

#[test]
fn the_root_is_imported_by_module_not_by_re_export_or_star() {
    rejects("heap/mod.rs", "use crate::ByteSize;", "imports `ByteSize` from the root");
    rejects("heap/mod.rs", "use crate::*;", "imports `*` from the root");
    rejects("heap/mod.rs", "use super::*;", "imports `*` from the root");
    accepts("heap/mod.rs", "mod tests { use super::*; }");
    accepts("heap/tests.rs", "use super::*;");
}

#[test]
fn comments_and_literals_import_nothing() {
    for source in [
        "// use crate::heap;",
        "/// [`crate::heap`] and 'it",
        "/* crate::heap /* unsafe */ crate::heap */",
        "const A: &str = \"crate::heap \\\" unsafe\";",
        "const A: &str = r#\"crate::heap \" unsafe\"#; const B: &[u8] = br\"unsafe\";",
        "fn f<'a>(x: &'a str) -> char { '\"' } // \" unsafe",
        "pub(crate) fn f() {} pub(in crate::size) fn g() {}",
        "mod own { use super::ByteSize; } use self::own::Own;",
    ] {
        accepts("size.rs", source);
    }
}

#[test]
fn unsafe_stays_in_its_homes() {
    for home in ["heap/mod.rs", "heap/ledger.rs", "os.rs", "os/linux.rs", "stream/simd.rs"] {
        accepts(home, "#![expect(unsafe_code, reason = \"a system call\")]\nfn f() { unsafe { g() } }");
    }
    for other in ["size.rs", "stream/mod.rs", "stream/simd2.rs", "heapless.rs", "cache/os.rs", "lib.rs"] {
        let faults = faults(other, "const F: u8 = unsafe { 1 };");
        assert!(faults.iter().any(|fault| fault.contains("unsafe code")), "{other} {faults:?}");
    }
    rejects("size.rs", "#![expect(unsafe_code, reason = \"why not\")]", "unsafe code");
    rejects("size.rs", "#[allow(unsafe_code)] mod x {}", "unsafe code");
    accepts("size.rs", "#![deny(unsafe_code)] // no unsafe here\nconst UNSAFE: &str = \"unsafe\";");
}

#[test]
fn files_stay_short() {
    accepts("size.rs", &"\n".repeat(600));
    rejects("size.rs", &"\n".repeat(601), "601 lines");
}

#[test]
fn a_new_module_needs_a_layer() {
    rejects("extras.rs", "", "`extras` has no layer");
    rejects("util/mod.rs", "", "`util` has no layer");
    rejects("heap/mod.rs", "use crate::extras::x;", "imports `extras` from the root");
}

#[test]
fn lib_rs_holds_no_logic() {
    accepts("lib.rs", "//! fn\nmod size; pub mod heap; pub use size::{ByteDelta, ByteSize};");
    rejects("lib.rs", "mod size; fn helper() {}", "logic");
}

#[test]
fn private_crates_stay_out_of_the_public_api() {
    for source in [
        "pub use hashbrown::HashMap;",
        "pub use { std::fmt, lru::LruCache };",
        "pub fn f() -> once_cell::sync::OnceCell<u8> { todo() }",
        "pub fn f(\n    a: Vec<(u8, u8)>,\n    b: parking_lot::Mutex<u8>,\n) {}",
        "impl X { pub const fn f<T>(self) where lru::LruCache<u8, T>: Sized {} }",
        "pub struct S { a: u8, pub b: Vec<Option<arc_swap::ArcSwap<u8>>> }",
        "pub struct S(pub lru::LruCache<u8, u8>);",
        "pub enum E { A, B(lru::LruCache<u8, u8>) }",
        "pub type T = hashbrown::HashTable<u8>;",
        "pub static S: parking_lot::Mutex<u8> = X;",
    ] {
        rejects("cache/mod.rs", source, "in a public item");
    }
    for source in [
        "use lru::LruCache; pub(crate) fn f(x: hashbrown::HashTable<u8>) {}",
        "pub struct S { pub a: u8, b: lru::LruCache<u8, u8> }",
        "pub struct S(lru::LruCache<u8, u8>);",
        "pub static S: Lock = Lock(parking_lot::Mutex::new(0));",
        "pub fn f() -> u8 { lru::LruCache::new() }",
        "pub enum E { A } fn f(x: lru::LruCache<u8, u8>) {}",
    ] {
        accepts("cache/mod.rs", source);
    }
}

#[test]
fn error_type_with_derived_debug_is_rejected() {
    for source in [
        "#[derive(Debug, thiserror::Error)] pub enum E { #[error(\"a\")] A }",
        "#[derive(Clone, thiserror::Error, PartialEq, Debug,)] #[error(\"a\")] #[non_exhaustive] pub(super) struct E;",
        "use thiserror::Error; #[derive(Debug, Error)] pub struct E(u8);",
        "#[derive(std::fmt::Debug)] #[derive(thiserror::Error)] pub struct E(u8);",
        "#[derive(thiserror::Error)] #[error(\"a\")] #[derive(Debug)] pub struct E(u8);",
        "#[cfg_attr(test, derive(Debug))] #[derive(thiserror::Error)] pub struct E(u8);",
        "#[derive(Debug)] pub struct E<T>(T); impl<T: Error> std::error::Error for E<T> {}",
        "impl Error for self::E {} #[derive(Debug)] enum E {}",
        "mod inner { fn f() { #[derive(Debug, thiserror::Error)] enum E {} } }",
    ] {
        rejects("cache/error.rs", source, "the error `E` derives `Debug`");
    }
    rejects("monitor/emf.rs", "#[derive(Debug, thiserror::Error)] pub enum E {}", "the error `E`");
    for source in [
        "#[derive(Clone, thiserror::Error)] #[error(\"a\")] pub struct E; debug_as_chain!(E);",
        "#[derive(Debug)] pub struct Report; #[derive(thiserror::Error)] pub enum E { A(Report) }",
        "#[derive(thiserror::Error)] pub enum E {} #[derive(Debug)] pub struct Report { error: E }",
        "#[derive(Debug)] pub struct Report; pub struct E(Report); impl Error for E {}",
        "// #[derive(Debug, thiserror::Error)]\nconst A: &str = \"#[derive(Debug, thiserror::Error)] enum E {}\";",
    ] {
        accepts("cache/error.rs", source);
    }
}
