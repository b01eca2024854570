//! The functions of an allocation site, and the first of them that is in the program's own code.
//!
//! Names come from the symbol table of the loaded file, and files, lines and inlined functions from its debug
//! information, both read by the crate `backtrace`. It runs only when a caller asks for symbols, never in the
//! allocator.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Site;
use super::crates::{Frame, OwnCrates, crates_of, is_of_standard_crate, uncommon};

/// A function on the stack of an allocation site.
///
/// Prints as `app::orders::load (/build/app/src/orders.rs:51)`.
///
/// # Examples
///
/// ```
/// use plimsoll::heap::profile::Site;
///
/// fn print_stack(site: &Site) {
///     for symbol in site.symbols() {
///         println!("{}{symbol}", if symbol.is_own { "-> " } else { "   " });
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Symbol {
    /// The name of the function with its path, without the hash of the compiler.
    pub function: String,
    /// The source file, if the program has debug information.
    pub file: Option<String>,
    /// The line in that file.
    pub line: Option<u32>,
    /// The return address, which is the same for a function and the functions inlined into it.
    pub address: usize,
    /// `true` if the function is in the program's own code, by the rules of [`Site::own_function`].
    pub is_own: bool,
}

impl Symbol {
    fn frame(&self) -> Frame<'_> {
        // Code without a line has the file of the code before it, which may be of another crate.
        Frame { function: &self.function, file: self.file.as_deref().filter(|_| self.line.is_some()) }
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.function)?;
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, " ({file}:{line})"),
            (Some(file), None) => write!(f, " ({file})"),
            (None, _) => Ok(()),
        }
    }
}

impl Site {
    /// Returns the functions of the stack, innermost first, with those that the compiler inlined.
    ///
    /// Inlined functions, files and lines need debug information: `debug = "limited"` in the profile of `Cargo.toml`.
    /// With `"line-tables-only"`, functions are without their paths: `load` for `app::orders::load`. A binary without a
    /// symbol table (`strip = true`) has no names. An address without a name is left out. [`Site::resolve_command`] names the functions on another machine that has the debug information.
    ///
    /// A library that was loaded by `dlopen` after the first call has no names.
    ///
    /// # Performance
    ///
    /// Each call reads the symbol table and the debug information of the loaded files that the stack is in. Their memory
    /// is freed at its end. Do not call it for each request. Measured on a service with tokio, rayon and `serde_json`:
    ///
    /// | binary | time | memory at its peak |
    /// |---|---|---|
    /// | 2 MB, symbol table only | 1 ms | 0.25 MB |
    /// | 14 MB, `debug = "line-tables-only"` | 50 ms | 11 MB |
    /// | 15 MB, `debug = "limited"` | 50 ms | 12 MB |
    ///
    /// The debug information of the C library, if it is installed in `/usr/lib/debug`, adds 100 ms and 33 MB. The first
    /// call in a process also resolves the stack that started profiling. To resolve all sites of a profile, print it or
    /// write it: that reads the files once.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::heap::profile::HeapProfile;
    ///
    /// fn print_largest(profile: &HeapProfile) {
    ///     let Some(site) = profile.sites.first() else { return };
    ///     println!("{} in {} blocks", site.bytes, site.blocks);
    ///     for symbol in site.symbols() {
    ///         println!("  {symbol}");
    ///     }
    /// }
    /// ```
    pub fn symbols(&self) -> Vec<Symbol> {
        Symbolizer::new().stack(self)
    }

    /// Returns the innermost function of the stack that is in the program's own code. `None` if there is none.
    ///
    /// The first of these rules that applies to a function of the stack decides:
    ///
    /// 1. The function is in a crate that the program named by [`set_own_crates`].
    /// 2. The compiler inlined a closure or an `async` block of such a crate into the function.
    /// 3. The function has a source file outside of the toolchain, cargo's registry and git checkouts, and vendored
    ///    crates. If it has no source file, it is in the crate that started profiling, or in a crate with the name of
    ///    the executable file.
    /// 4. The compiler inlined a closure or an `async` block of a crate of rule 3 into the function.
    /// 5. The generic arguments of the function name a type of a crate of rule 1 or 3.
    /// 6. The function has no source file, and its crate, or that of a closure inlined into it, is neither part of the
    ///    standard library nor in a list of 107 widespread crates, such as tokio, serde and hyper.
    ///
    /// Functions of this crate and of the standard library are own only by rule 1. Rules 2, 4 and 5 need the generic
    /// arguments in the names: `-C symbol-mangling-version=v0`.
    ///
    /// Without debug information, a function that the compiler inlined is not on the stack. The result is a caller of
    /// it then, or `None` if it is a task that was inlined into its runtime. `debug = "limited"` avoids both.
    ///
    /// # Performance
    ///
    /// As [`Site::symbols`].
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::heap::profile::HeapProfile;
    ///
    /// fn print_functions(profile: &HeapProfile) {
    ///     for site in profile.sites.iter().take(3) {
    ///         match site.own_function() {
    ///             Some(symbol) => println!("{} {symbol}", site.bytes),
    ///             None => println!("{} {}", site.bytes, site.resolve_command()),
    ///         }
    ///     }
    /// }
    /// ```
    pub fn own_function(&self) -> Option<Symbol> {
        Symbolizer::new().own_function(self)
    }
}

/// Sets the names of the program's own crates for [`Site::own_function`], replacing earlier ones.
///
/// This is needed only if that function chooses the wrong crate: in a workspace without debug information, for example.
/// A dash in a name counts as an underscore.
///
/// # Examples
///
/// ```
/// use plimsoll::heap::profile;
///
/// profile::set_own_crates(["app", "app-core"]);
/// ```
pub fn set_own_crates<N: Into<String>>(names: impl IntoIterator<Item = N>) {
    let crates = names.into_iter().map(|name| name.into().replace('-', "_")).collect();
    lock().named = crates;
}

/// Records the stack of the function that starts profiling, innermost first. Its crate counts as the program's own.
///
/// The addresses are resolved when symbols are needed for the first time after this call.
pub(crate) fn learn_own_crate(addresses: &[usize]) {
    let mut known = lock();
    known.start = addresses.to_vec();
    known.found = None;
}

static KNOWN: Mutex<Known> = Mutex::new(Known { named: Vec::new(), start: Vec::new(), found: None });

/// The program's own crates, as far as they are known.
struct Known {
    named: Vec<String>,
    /// The stack of the function that started profiling.
    start: Vec<usize>,
    /// The crates found from `start` and from the executable file. `None` if not determined yet.
    found: Option<Vec<String>>,
}

fn lock() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resolves stacks and finds own functions. It keeps the symbols of each address.
pub(crate) struct Symbolizer {
    own: OwnCrates,
    symbols: HashMap<usize, Vec<Symbol>>,
    _files: CloseFiles,
}

impl Symbolizer {
    pub(crate) fn new() -> Self {
        let mut symbolizer = Self { own: OwnCrates::default(), symbols: HashMap::new(), _files: CloseFiles };
        let (named, start, found) = {
            let known = lock();
            (known.named.clone(), known.start.clone(), known.found.clone())
        };
        let found = found.unwrap_or_else(|| {
            // The lock is not held: reading the debug information takes long.
            let found: Vec<String> = symbolizer.crate_of(&start).into_iter().chain(executable()).collect();
            let mut known = lock();
            if known.start == start {
                known.found = Some(found.clone());
            }
            found
        });
        symbolizer.own = OwnCrates { named, found };
        symbolizer
    }

    fn at(&mut self, address: usize) -> &[Symbol] {
        self.symbols.entry(address).or_insert_with(|| resolve(address))
    }

    /// Returns the functions of the stack of a site, innermost first.
    pub(crate) fn stack(&mut self, site: &Site) -> Vec<Symbol> {
        let mut stack = Vec::new();
        for address in site.addresses() {
            stack.extend_from_slice(self.at(address));
        }
        if let Some(rule) = self.own.rule(&stack.iter().map(Symbol::frame)) {
            for symbol in &mut stack {
                symbol.is_own = self.own.is_own(symbol.frame(), rule);
            }
        }
        stack
    }

    /// Returns the innermost own function of a site.
    pub(crate) fn own_function(&mut self, site: &Site) -> Option<Symbol> {
        self.stack(site).into_iter().find(|symbol| symbol.is_own)
    }

    /// Returns the own function of a site, or else the innermost one that is not of the standard library.
    pub(crate) fn function(&mut self, site: &Site) -> Option<Symbol> {
        let stack = self.stack(site);
        let position = |accept: &dyn Fn(&Symbol) -> bool| stack.iter().position(accept);
        let other = || position(&|symbol| !is_of_standard_crate(&symbol.function));
        let index = position(&|symbol| symbol.is_own).or_else(other).unwrap_or(0);
        stack.into_iter().nth(index)
    }

    /// Returns the crate of the innermost function that is neither of a standard crate nor of a widespread one.
    fn crate_of(&mut self, addresses: &[usize]) -> Option<String> {
        addresses.iter().find_map(|&address| {
            self.at(address).iter().find_map(|symbol| uncommon(crates_of(&symbol.function)).map(str::to_owned))
        })
    }
}

/// Closes the files that [`resolve`] has read, at the end of its scope.
pub(super) struct CloseFiles;

impl Drop for CloseFiles {
    fn drop(&mut self) {
        backtrace::clear_symbol_cache();
    }
}

/// Returns the functions at a return address, the innermost of the inlined ones first. None of them is marked as own.
pub(super) fn resolve(address: usize) -> Vec<Symbol> {
    let mut found = Vec::new();
    // `backtrace` itself subtracts 1, so that it looks up the call and not the instruction after it.
    backtrace::resolve(std::ptr::without_provenance_mut(address), |symbol| {
        let Some(name) = symbol.name() else { return };
        let file = symbol.filename().map(|file| file.to_string_lossy().into_owned());
        let line = symbol.lineno().filter(|&line| line > 0);
        found.push(Symbol { function: format!("{name:#}"), file, line, address, is_own: false });
    });
    found
}

/// Returns the name of the executable file as that of a crate: `app_server` of `/build/target/release/app-server`.
fn executable() -> Option<String> {
    let path = std::env::current_exe().ok()?;
    Some(crate_of_executable(path.file_stem()?.to_str()?))
}

fn crate_of_executable(name: &str) -> String {
    // Cargo adds a hash to the names of tests: `orders-0123456789abcdef`.
    let is_hash = |hash: &str| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = name.rsplit_once('-').filter(|(_, hash)| is_hash(hash)).map_or(name, |(name, _)| name);
    name.replace('-', "_")
}

#[cfg(test)]
pub(super) mod tests {
    use std::hint::black_box;

    use super::*;
    use crate::heap::profile::HeapProfile;

    /// Returns the return addresses of the caller's stack, innermost first.
    #[inline(never)]
    fn stack_here() -> Vec<usize> {
        let mut addresses = Vec::new();
        backtrace::trace(|frame| {
            addresses.push(frame.ip().addr());
            addresses.len() < 32
        });
        // The first frames are those of `trace` and of this function.
        let is_here = |symbol: &Symbol| symbol.function.ends_with("stack_here");
        let here = addresses.iter().rposition(|&address| resolve(address).iter().any(is_here));
        addresses.split_off(here.map_or(0, |here| here + 1))
    }

    /// Returns the stack from this function on, which is never inlined, as a test function can be.
    #[inline(never)]
    pub(in crate::heap::profile) fn stack_of_named_caller() -> Vec<usize> {
        black_box(stack_here())
    }

    #[inline(never)]
    fn planted() -> Vec<usize> {
        black_box(stack_here())
    }

    fn symbolizer(named: &str) -> Symbolizer {
        Symbolizer {
            own: OwnCrates { named: vec![named.to_owned()], found: Vec::new() },
            symbols: HashMap::new(),
            _files: CloseFiles,
        }
    }

    #[track_caller]
    fn assert_own_function(stack: &[usize], suffix: &str) {
        let profile = HeapProfile::for_test(&[(stack, 1, 1)]);
        // The tests are in the crate `plimsoll`, which is own only by name.
        let own = symbolizer("plimsoll").own_function(&profile.sites[0]).expect("an own function");
        assert!(own.function.contains(suffix), "{own}, expected {suffix}");
    }

    #[test]
    fn own_function_of_a_planted_stack_is_the_planted_one() {
        assert_own_function(&planted(), "planted");
        assert_own_function(&std::thread::spawn(planted).join().unwrap(), "planted");
        let closure: Box<dyn Fn() -> Vec<usize>> = Box::new(|| black_box(stack_here()));
        assert_own_function(&black_box(closure)(), "{closure");
    }

    #[test]
    fn own_function_in_tasks_is_the_planted_one() {
        async fn planted_task() -> Vec<usize> {
            tokio::task::yield_now().await;
            planted()
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (spawned, blocking) = runtime.block_on(async {
            let spawned = tokio::spawn(planted_task()).await.unwrap();
            let blocking = tokio::task::spawn_blocking(planted).await.unwrap();
            (spawned, blocking)
        });
        assert_own_function(&spawned, "planted");
        assert_own_function(&blocking, "planted");
    }

    #[test]
    fn own_function_below_a_deserializer_is_the_planted_one() {
        struct Planted(Vec<usize>);
        impl<'de> serde::Deserialize<'de> for Planted {
            fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                Ok(Self(planted()))
            }
        }
        let values: Vec<Planted> = serde_json::from_str("[").unwrap_or_default();
        assert!(values.is_empty());
        let value: Planted = serde_json::from_str("").unwrap();
        assert_own_function(&value.0, "planted");
    }

    #[test]
    fn symbols_are_innermost_first_without_hashes() {
        /// The body of a test may be inlined into its caller.
        #[inline(never)]
        fn caller_of_it() -> Vec<usize> {
            black_box(planted())
        }
        let stack = caller_of_it();
        let profile = HeapProfile::for_test(&[(&stack, 1, 1)]);
        let symbols = profile.sites[0].symbols();
        let position = |part: &str| symbols.iter().position(|symbol| symbol.function.contains(part)).expect(part);
        assert!(position("planted") < position("caller_of_it"));
        assert_eq!(symbols[0].address, stack[0]);
        let has_hash = |name: &str| name.rsplit_once("::h").is_some_and(|(_, hash)| hash.len() == 16);
        assert!(symbols.iter().all(|symbol| !has_hash(&symbol.function)), "{symbols:?}");
    }

    #[test]
    fn symbols_of_unknown_addresses_are_left_out() {
        let profile = HeapProfile::for_test(&[(&[1, 2, 0xffff_ffff_ffff], 1, 1)]);
        assert_eq!(profile.sites[0].symbols(), []);
        assert_eq!(profile.sites[0].own_function(), None);
    }

    #[test]
    fn crate_of_executable_has_no_dash_and_no_hash() {
        assert_eq!(crate_of_executable("app-server"), "app_server");
        assert_eq!(crate_of_executable("orders-0123456789abcdef"), "orders");
        assert_eq!(crate_of_executable("app-deadbeef"), "app_deadbeef");
    }

    // One test for both: the crates are known to the whole process.
    #[test]
    fn own_crates_named_and_learnt_reach_the_symbolizer() {
        learn_own_crate(&planted());
        set_own_crates(["app", "app-core"]);
        let own = Symbolizer::new().own.clone();
        assert_eq!(own.named, ["app", "app_core"]);
        // The stack has only functions of this crate, of `test` and of `std`.
        assert_eq!(own.found, [executable().unwrap()]);
        set_own_crates::<String>([]);
        assert_eq!(Symbolizer::new().own.named, [""; 0]);
    }

    #[test]
    fn symbol_prints_function_file_and_line() {
        let mut symbol = Symbol { function: "app::load".to_owned(), file: None, line: None, address: 1, is_own: true };
        assert_eq!(symbol.to_string(), "app::load");
        symbol.file = Some("src/main.rs".to_owned());
        assert_eq!(symbol.to_string(), "app::load (src/main.rs)");
        assert_eq!(symbol.frame().file, None);
        symbol.line = Some(51);
        assert_eq!(symbol.frame().file, Some("src/main.rs"));
        assert_eq!(symbol.to_string(), "app::load (src/main.rs:51)");
    }
}
