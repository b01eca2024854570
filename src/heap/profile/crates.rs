//! The crates of functions, by their demangled names and source files, and whether the program's own code is in them.
//!
//! A name is in the legacy form or in the v0 form, without hashes:
//!
//! | name | crate |
//! |---|---|
//! | `app::main::{{closure}}`, `app::main::{closure#0}` | `app`: the first segment of a path |
//! | `<app::Foo as core::clone::Clone>::clone` | `app`: an `impl` is in the crate of its type or of its trait |
//! | `<alloc::vec::Vec<u64> as app::Weigh>::weigh` | `app`, for the same reason |
//! | `<F as core::future::Future>::poll` | `core`: `F` has no crate |
//! | `<alloc::vec::Vec<app::Foo>>::push` | `alloc`: arguments of a type do not count |
//! | `malloc` | none |
//! | `load`, `{closure#0}` | none: line tables without other debug information have no paths of functions |

/// Crates of the standard library, of symbolizing, and this one. Their functions allocate for their callers.
const STANDARD: [&str; 16] = [
    "__rustc",
    "addr2line",
    "alloc",
    "backtrace",
    "compiler_builtins",
    "core",
    "gimli",
    "hashbrown",
    "miniz_oxide",
    "object",
    "panic_unwind",
    "plimsoll",
    "proc_macro",
    "std",
    "std_detect",
    "test",
];

/// Crates that many programs depend on, in the order of the alphabet.
const WIDESPREAD: &str = "\
    actix_http actix_rt actix_server actix_web ahash anyhow arc_swap async_channel async_executor async_io \
    async_std async_trait aws_config aws_runtime aws_sdk_dynamodb aws_sdk_s3 aws_smithy_async aws_smithy_http \
    aws_smithy_json aws_smithy_runtime aws_smithy_runtime_api aws_smithy_types axum axum_core base64 bincode \
    blocking bytes chrono clap criterion crossbeam crossbeam_channel crossbeam_deque crossbeam_epoch \
    crossbeam_utils csv csv_core dashmap diesel either flate2 futures futures_channel futures_core \
    futures_executor futures_util h2 http http_body http_body_util httparse hyper hyper_util indexmap itertools \
    lambda_http lambda_runtime lambda_runtime_api_client log matchit memchr mio moka native_tls num_bigint \
    once_cell parking_lot pin_project_lite prost quick_xml rand rayon rayon_core redis regex regex_automata \
    regex_syntax reqwest ring rustls scoped_tls serde serde_core serde_json serde_urlencoded serde_yaml \
    sharded_slab simd_json slab smallvec sqlx sqlx_core tempfile thiserror time tokio tokio_rustls tokio_stream \
    tokio_util toml tonic tower tower_http tower_service tracing tracing_subscriber";

/// Parts of the paths of source files that are not the program's: of the toolchain, of registries, of vendored crates.
const FOREIGN_PATHS: [&str; 13] = [
    "/rustc/",
    "/rustlib/src/",
    "/rust/deps/",
    "/library/alloc/src/",
    "/library/core/src/",
    "/library/std/src/",
    "/registry/src/",
    "/git/checkouts/",
    "/vendor/",
    "/cargo-vendor-dir/",
    "-vendor-cargo-deps/",
    "/third_party/",
    "/external/",
];

/// The crates that are known to be the program's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OwnCrates {
    /// Those that the program named.
    pub(super) named: Vec<String>,
    /// Those found: the crate that started profiling, and the name of the executable.
    pub(super) found: Vec<String>,
}

/// A function of a stack, as far as ownership depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) function: &'a str,
    pub(super) file: Option<&'a str>,
}

impl OwnCrates {
    /// Returns the rule that finds the program's own functions in a stack: the first that applies to a frame of it.
    ///
    /// A closure of the program that the compiler inlined into a function of a dependency leaves its name in the
    /// arguments of that function: `tokio::runtime::task::raw::poll::<app::leak::{closure#0}, ..>`.
    pub(super) fn rule<'a>(&self, stack: &(impl Iterator<Item = Frame<'a>> + Clone)) -> Option<Rule> {
        const RULES: [Rule; 7] = [
            Rule::Named,
            Rule::ClosureOfNamed,
            Rule::SourceOrFound,
            Rule::ClosureOfFound,
            Rule::ArgumentOfNamed,
            Rule::ArgumentOfFound,
            Rule::Uncommon,
        ];
        RULES.into_iter().find(|&rule| stack.clone().any(|frame| self.is_own(frame, rule)))
    }

    /// Returns `true` if a frame is of the program's own code by `rule`.
    pub(super) fn is_own(&self, frame: Frame<'_>, rule: Rule) -> bool {
        let mut crates = crates_of(frame.function);
        match rule {
            Rule::Named if self.named.is_empty() => false,
            Rule::Named => match (frame.file, crates.next()) {
                (Some(file), None) => self.is_own_source(frame.function, file),
                (_, first) => first.into_iter().chain(crates).any(|name| contains(&self.named, name)),
            },
            Rule::ClosureOfNamed => self.named.iter().any(|name| has_closure_of(frame.function, name)),
            Rule::SourceOrFound => match frame.file {
                Some(file) => self.is_own_source(frame.function, file),
                None => crates.any(|name| contains(&self.found, name)),
            },
            Rule::ClosureOfFound => self.found.iter().any(|name| has_closure_of(frame.function, name)),
            Rule::ArgumentOfNamed => self.named.iter().any(|name| paths_into(frame.function, name).next().is_some()),
            Rule::ArgumentOfFound => self.found.iter().any(|name| paths_into(frame.function, name).next().is_some()),
            Rule::Uncommon => {
                frame.file.is_none() && uncommon(crates.chain(crates_of_closures(frame.function))).is_some()
            }
        }
    }

    /// Returns `true` if a function with the source file `file` is of the program.
    fn is_own_source(&self, function: &str, file: &str) -> bool {
        let is_another = |name: &str| is_standard(name) || (is_widespread(name) && !contains(&self.found, name));
        let mut crates = crates_of(function).peekable();
        if crates.peek().is_some() {
            return !is_foreign_path(file) && !crates.any(is_another);
        }
        // A function of C has no crate either. Its caller in Rust is the better answer.
        let is_foreign = is_foreign_path(file) || (is_of_this_crate(file) && !contains(&self.named, "plimsoll"));
        is_rust_file(file) && !is_foreign && !is_allocator_shim(function)
    }
}

/// The rules of ownership, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Functions of the crates that the program named. If there are such crates: functions without a path, with a
    /// source file of the program.
    Named,
    /// Functions with an inlined closure of those crates.
    ClosureOfNamed,
    /// Functions with a source file of the program. Without a source file: functions of the crates found.
    SourceOrFound,
    /// Functions with an inlined closure of the crates found.
    ClosureOfFound,
    /// Functions with any argument of the crates named.
    ArgumentOfNamed,
    /// Functions with any argument of the crates found.
    ArgumentOfFound,
    /// Functions without a source file, of crates that are neither standard nor widespread, or with an inlined closure
    /// of such a crate.
    Uncommon,
}

/// Returns the first crate of `crates` that is neither standard nor widespread.
pub(super) fn uncommon<'a>(mut crates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    crates.find(|name| !is_standard(name) && !is_widespread(name))
}

/// Returns `true` if a function is of a standard crate, or of none. Such a function allocates for many callers.
pub(super) fn is_of_standard_crate(function: &str) -> bool {
    crates_of(function).all(is_standard)
}

fn contains(crates: &[String], name: &str) -> bool {
    crates.iter().any(|own| own == name)
}

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name)
}

fn is_widespread(name: &str) -> bool {
    WIDESPREAD.split(' ').any(|widespread| widespread == name)
}

/// Returns `true` for the functions that the compiler generates at `#[global_allocator]`, with the file of that item.
fn is_allocator_shim(function: &str) -> bool {
    ["__rust_", "__rdl_", "__rg_"].iter().any(|prefix| function.starts_with(prefix))
}

fn is_rust_file(file: &str) -> bool {
    std::path::Path::new(file).extension().is_some_and(|extension| extension == "rs")
}

fn is_foreign_path(file: &str) -> bool {
    let file = file.replace('\\', "/");
    FOREIGN_PATHS.iter().any(|part| file.contains(part) || part.strip_prefix('/').is_some_and(|p| file.starts_with(p)))
}

/// Returns `true` if a source file is one of this crate. Its functions are known by their crate, but without a path
/// only by their files.
fn is_of_this_crate(file: &str) -> bool {
    let this = file!().replace('\\', "/");
    let root = this.strip_suffix("heap/profile/crates.rs").unwrap_or(&this);
    // The path is relative for a member of the workspace. As the root package, it must not match each `src` below it.
    let part = if root == "src/" { "src/heap/" } else { root };
    file.replace('\\', "/").contains(part)
}

/// Returns the crate that defines the function `name`, or the two of which one defines it: those of the type and of
/// the trait of an `impl`.
pub(super) fn crates_of(name: &str) -> impl Iterator<Item = &str> {
    // The legacy form of a name that begins with `<` has an underscore before it.
    let name = name.strip_prefix("_<").map_or(name, |_| &name[1..]);
    let (first, second) = match impl_of(name) {
        Some((of, Some(of_trait))) => (head(of), head(of_trait)),
        Some((of, None)) => (head(of), None),
        None => (head(name), None),
    };
    first.into_iter().chain(second)
}

/// Returns the type and the trait of `<Type as Trait>::function`, or the type of `<Type>::function`.
fn impl_of(name: &str) -> Option<(&str, Option<&str>)> {
    let inside = name.strip_prefix('<')?;
    let end = at_top_level(inside, ">")?;
    let inside = inside.get(..end)?;
    let parts = |at: usize, len: usize| Some((inside.get(..at)?, inside.get(at + len..)?));
    if let Some((of, of_trait)) = at_top_level(inside, " as ").and_then(|at| parts(at, 4)) {
        return Some((of, Some(of_trait)));
    }
    let of_trait = inside.strip_prefix("impl ").and_then(|rest| rest.split_once(" for "));
    Some(of_trait.map_or((inside, None), |(of_trait, of)| (of, Some(of_trait))))
}

/// Returns the index of `wanted` in `text` outside of brackets.
fn at_top_level(text: &str, wanted: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut previous = ' ';
    for (at, mark) in text.char_indices() {
        if depth == 0 && text.get(at..)?.starts_with(wanted) && !(mark == '>' && previous == '-') {
            return Some(at);
        }
        match mark {
            '<' | '(' | '[' => depth += 1,
            '>' if previous == '-' => {}
            '>' | ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        previous = mark;
    }
    None
}

/// Returns the first segment of a path or of the path in a type: `app` of `&mut [app::Foo]`.
fn head(mut text: &str) -> Option<&str> {
    const BEFORE: [&str; 10] = ["&", "*const ", "*mut ", "mut ", "dyn ", "impl ", "[", "(", "for<", "'"];
    loop {
        text = text.trim_start();
        let Some(before) = BEFORE.into_iter().find(|before| text.starts_with(before)) else { break };
        let rest = text.get(before.len()..)?;
        text = match before {
            "for<" => rest.split_once('>')?.1,
            // A lifetime.
            "'" => rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'),
            _ => rest,
        };
    }
    if text.starts_with('<') {
        let (of, of_trait) = impl_of(text)?;
        return head(of).or_else(|| head(of_trait?));
    }
    let end = text.find(|c: char| !is_word(c))?;
    let (name, rest) = text.split_at(end);
    // `app[1b2c3d]::main`, if a demangler prints the disambiguator.
    let rest = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(rest, |(_, rest)| rest);
    (!name.is_empty() && rest.starts_with("::")).then_some(name)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the paths into the crate `name` that a function name contains, each from its crate on.
fn paths_into<'a>(function: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let starts = |at: usize| !function.get(..at).is_some_and(|before| before.ends_with(|c| is_word(c) || c == ':'));
    let found = function.match_indices(name).filter(move |&(at, _)| starts(at));
    found
        .filter_map(|(at, _)| function.get(at..))
        .filter(|path| path.get(name.len()..).is_some_and(|rest| rest.starts_with("::")))
}

/// Returns `true` if a function name contains a closure of the crate `name`: `app::leak::{closure#0}`.
fn has_closure_of(function: &str, name: &str) -> bool {
    paths_into(function, name).any(|path| path.split(is_path_end).next().is_some_and(|path| path.contains("{closure")))
}

/// Returns the crates of the closures in a function name.
fn crates_of_closures(function: &str) -> impl Iterator<Item = &str> {
    function.split(is_path_end).filter(|path| path.contains("{closure")).filter_map(head)
}

fn is_path_end(c: char) -> bool {
    !(is_word(c) || matches!(c, ':' | '{' | '}' | '#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_crates(name: &str, expected: &[&str]) {
        assert_eq!(crates_of(name).collect::<Vec<_>>(), expected, "{name}");
    }

    fn own(named: &[&str], found: &[&str]) -> OwnCrates {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        OwnCrates { named: strings(named), found: strings(found) }
    }

    /// Returns the first own function of a stack.
    fn first_own<'a>(own: &OwnCrates, stack: &[(&'a str, Option<&'a str>)]) -> Option<&'a str> {
        let frames = stack.iter().map(|&(function, file)| Frame { function, file });
        let rule = own.rule(&frames)?;
        frames.into_iter().find(|&frame| own.is_own(frame, rule)).map(|frame| frame.function)
    }

    #[test]
    fn tables_are_sorted() {
        let widespread: Vec<&str> = WIDESPREAD.split(' ').collect();
        assert!(widespread.is_sorted());
        // The docs of `Site::own_function` have the number.
        assert_eq!(widespread.len(), 107);
        assert!(STANDARD.is_sorted());
    }

    #[test]
    fn crates_of_a_path_is_its_first_segment() {
        for name in [
            "app::main",
            "app::main::{{closure}}",
            "app::main::{closure#0}",
            "app::main::{{closure}}::{{closure}}",
            "app::inner::Bar<T>::many",
            "app::weigh::<impl core::fmt::Display for serde_json::value::Value>::fmt",
            "app::STATE::{{constant}}",
            "app[8d2f3a1bbf0c7e11]::main",
        ] {
            assert_crates(name, &["app"]);
        }
        for (name, expected) in [
            ("core::ops::function::FnOnce::call_once{{vtable.shim}}", "core"),
            ("core::ops::function::FnOnce::call_once::{shim:vtable#0}", "core"),
            ("core::ops::function::impls::<impl core::ops::function::FnOnce<A> for &F>::call_once", "core"),
            ("core::ptr::drop_in_place<app::Foo>", "core"),
            (
                "core::ptr::drop_in_place::<alloc::boxed::Box<dyn core::ops::function::Fn<(), Output = app::Foo>>>",
                "core",
            ),
            ("serde_json::de::from_slice::<app::X>", "serde_json"),
            ("serde_json::de::from_trait", "serde_json"),
            ("std::rt::lang_start::{{closure}}", "std"),
            ("std::rt::lang_start::<()>::{closure#0}", "std"),
            ("std::sys::backtrace::__rust_begin_short_backtrace::<fn(), ()>", "std"),
            ("rayon_core::join::join_context::{{closure}}", "rayon_core"),
            ("tokio::runtime::task::raw::poll::<app::leak::{closure#0}, alloc::sync::Arc<X>>", "tokio"),
            ("alloc::vec::Vec<T,A>::push", "alloc"),
            ("alloc::raw_vec::RawVecInner<A>::finish_grow", "alloc"),
            ("__rustc::__rust_alloc", "__rustc"),
        ] {
            assert_crates(name, &[expected]);
        }
    }

    #[test]
    fn crates_of_an_impl_are_of_the_type_and_the_trait() {
        for (name, expected) in [
            ("<app::Foo as core::clone::Clone>::clone", &["app", "core"][..]),
            ("_<app::Foo as core::clone::Clone>::clone", &["app", "core"]),
            ("<app::Foo>::new", &["app"]),
            ("<app::inner::Bar<u8>>::many", &["app"]),
            ("<&app::Foo as core::fmt::Debug>::fmt", &["app", "core"]),
            ("<&mut app::Foo as core::fmt::Debug>::fmt", &["app", "core"]),
            ("<&'a mut [app::Foo] as app::Sum>::sum", &["app", "app"]),
            ("<*const app::Foo as app::Sum>::sum", &["app", "app"]),
            ("<dyn app::Shape as core::fmt::Debug>::fmt", &["app", "core"]),
            ("<for<'a> fn(&'a app::Foo) -> u8 as app::Call>::call", &["app"]),
            ("<fn() -> app::Foo as core::ops::function::FnOnce<()>>::call_once", &["core"]),
            ("<(app::A, u8) as app::Sum>::sum", &["app", "app"]),
            ("<F as core::future::future::Future>::poll", &["core"]),
            ("<T as app::Grow>::grow", &["app"]),
            ("<&str as app::Grow>::grow", &["app"]),
            ("<alloc::vec::Vec<u64> as app::Weigh>::weigh", &["alloc", "app"]),
            (
                "<alloc::vec::Vec<app::Foo> as alloc::vec::spec_from_iter::SpecFromIter<T,I>>::from_iter",
                &["alloc", "alloc"],
            ),
            ("<alloc::vec::Vec<app::Foo>>::push", &["alloc"]),
            ("<alloc::raw_vec::RawVec<app::Foo>>::grow_one", &["alloc"]),
            (
                "<app::Foo as core::iter::traits::collect::FromIterator<u64>>::from_iter::<core::ops::range::Range<u64>>",
                &["app", "core"],
            ),
            (
                "<<app::Foo as serde_core::de::Deserialize>::deserialize::__Visitor as serde_core::de::Visitor>::visit_map::<X>",
                &["app", "serde_core"],
            ),
            (
                "<<alloc::vec::Vec<_> as serde_core::de::Deserialize>::deserialize::VecVisitor<app::Foo> as serde_core::de::Visitor>::visit_seq::<S>",
                &["alloc", "serde_core"],
            ),
            (
                "<app::main::{closure#1} as core::ops::function::FnOnce<()>>::call_once::{shim:vtable#0}",
                &["app", "core"],
            ),
            ("<core::pin::Pin<P> as core::future::future::Future>::poll", &["core", "core"]),
            ("<hashbrown::raw::RawTable<(alloc::string::String, app::Foo)>>::reserve_rehash::<X>", &["hashbrown"]),
            ("<impl core::fmt::Display for app::Foo>::fmt", &["app", "core"]),
        ] {
            assert_crates(name, expected);
        }
    }

    #[test]
    fn crates_of_names_without_a_path_are_none() {
        for name in [
            "",
            "main",
            "malloc",
            "_start",
            "__libc_start_main",
            "_ZN7rocksdb2DB3GetEv",
            "<",
            "<>",
            "::",
            "<<",
            "é",
            "<F>::f",
        ] {
            assert_crates(name, &[]);
        }
    }

    #[test]
    fn foreign_paths_are_recognized() {
        for path in [
            "/rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/alloc/src/vec/mod.rs",
            "/home/u/.rustup/toolchains/stable-x86_64-unknown-linux-gnu/lib/rustlib/src/rust/library/core/src/ptr/mod.rs",
            "/rust/deps/hashbrown-0.15.2/src/raw/mod.rs",
            "/home/u/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/tokio-1.48.0/src/lib.rs",
            "C:\\Users\\u\\.cargo\\registry\\src\\index.crates.io-1949cf8c6b5b557f\\tokio-1.48.0\\src\\lib.rs",
            "/home/u/.cargo/git/checkouts/some-1a2b/3c4d/src/lib.rs",
            "/build/app/vendor/bytes/src/lib.rs",
            "vendor/bytes/src/lib.rs",
        ] {
            assert!(is_foreign_path(path), "{path}");
        }
        for path in
            ["/build/app/src/main.rs", "src/main.rs", "/app/crates/registry/src2/lib.rs", "C:\\app\\src\\main.rs"]
        {
            assert!(!is_foreign_path(path), "{path}");
        }
    }

    const STD: &str = "/rustc/59807616e1fa/library/alloc/src/raw_vec/mod.rs";
    const TOKIO: &str = "/home/u/.cargo/registry/src/index.crates.io-1949/tokio-1.48.0/src/runtime/task/raw.rs";

    #[test]
    fn own_function_with_source_files_follows_the_path() {
        let stack = [
            ("alloc::raw_vec::RawVecInner<A>::finish_grow", Some(STD)),
            ("plimsoll::heap::profile::sample", Some("/build/plimsoll/src/heap/profile/mod.rs")),
            ("memcpy", Some("./string/memcpy.c")),
            ("serde_json::de::from_slice", Some("/build/vendor/serde_json/src/de.rs")),
            ("app_core::store", Some("/build/core/src/lib.rs")),
            ("app::main", Some("/build/app/src/main.rs")),
            ("tokio::runtime::task::raw::poll", Some(TOKIO)),
        ];
        assert_eq!(first_own(&own(&[], &[]), &stack), Some("app_core::store"));
        assert_eq!(first_own(&own(&[], &["app"]), &stack), Some("app_core::store"));
        assert_eq!(first_own(&own(&["app"], &[]), &stack), Some("app::main"));
        assert_eq!(first_own(&own(&["other"], &[]), &stack), Some("app_core::store"));
        assert_eq!(first_own(&own(&["plimsoll"], &[]), &stack), Some("plimsoll::heap::profile::sample"));
        assert_eq!(first_own(&own(&[], &["app"]), &stack[..2]), None);
    }

    #[test]
    fn own_function_in_line_tables_follows_the_path() {
        let stack = [
            ("sample", Some(file!())),
            ("__rust_alloc", Some("/build/app/src/main.rs")),
            ("with_capacity<u8>", Some(STD)),
            ("poll<T>", Some(TOKIO)),
            ("{closure#0}", Some("/build/app/src/main.rs")),
            ("app::main", None),
        ];
        for (named, found) in [(&[][..], &[][..]), (&["app"], &[]), (&[], &["app"])] {
            assert_eq!(first_own(&own(named, found), &stack), Some("{closure#0}"), "{named:?} {found:?}");
        }
    }

    #[test]
    fn own_function_without_source_files_follows_the_crates() {
        let stack = [
            ("alloc::raw_vec::RawVecInner<A>::finish_grow", Some(STD)),
            ("malloc", None),
            ("some_parser::read", None),
            ("app::load::{{closure}}", None),
            ("tokio::runtime::task::raw::poll", None),
        ];
        assert_eq!(first_own(&own(&[], &["bootstrap", "app"]), &stack), Some("app::load::{{closure}}"));
        assert_eq!(first_own(&own(&[], &["bootstrap"]), &stack), Some("some_parser::read"));
        assert_eq!(first_own(&own(&[], &[]), &stack[3..]), Some("app::load::{{closure}}"));
        assert_eq!(first_own(&own(&[], &["app"]), &stack[4..]), None);
    }

    #[test]
    fn own_function_of_an_inlined_closure_is_its_caller() {
        let raw_vec = ("<alloc::raw_vec::RawVec<app::Foo>>::grow_one", None);
        let parser = ("some_parser::read", None);
        let poll =
            ("<tokio::task::core::Core<tokio::BlockingTask<app::main::{closure#0}::{closure#0}>, S>>::poll", None);
        let thread = ("tokio::runtime::blocking::pool::Inner::run", None);
        let stack = [raw_vec, parser, poll, thread];
        assert_eq!(first_own(&own(&[], &["app"]), &stack), Some(poll.0));
        assert_eq!(first_own(&own(&["app"], &["main"]), &stack), Some(poll.0));
        assert_eq!(first_own(&own(&[], &["app"]), &[raw_vec, parser, thread]), Some(raw_vec.0));
        assert_eq!(first_own(&own(&[], &["ap"]), &[raw_vec, parser, thread]), Some(parser.0));
        assert_eq!(first_own(&own(&[], &["other"]), &[raw_vec, poll, thread]), Some(poll.0));
        assert!(!has_closure_of("tokio::poll::<other::app::main::{closure#0}>", "app"));
        assert!(!has_closure_of("tokio::poll::<app::Foo, other::main::{closure#0}>", "app"));
    }
}
