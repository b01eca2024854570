//! Heap profiles as folded stacks, the input of flame graph programs.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};

use super::modules::Modules;
#[cfg(feature = "symbols")]
use super::symbols::{CloseFiles, resolve};
use super::{HeapProfile, Site};

impl HeapProfile {
    /// Writes a line for each site: the functions of its stack, outermost first, and its bytes.
    ///
    /// ```text
    /// app::main;app::orders::load;alloc::vec::Vec<T,A>::push 67108864
    /// ```
    ///
    /// This is the format of `flamegraph.pl`, `inferno-flamegraph` and speedscope. A `;` in a name becomes `:`, and a
    /// control character becomes a space. Without the feature `symbols`, and for an address without a symbol, the name
    /// is the address in the loaded file: `app+0x1a2b`.
    ///
    /// # Errors
    ///
    /// The error of `out`.
    ///
    /// # Performance
    ///
    /// In memory until the end: the names of each distinct address, about 0.1 KB each and 0.5 KB with debug information.
    /// There are at most 12,288 addresses. With the feature `symbols`, the files of the program are read as by
    /// `Site::symbols`, once for the whole profile.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    /// use std::io;
    /// use plimsoll::heap::profile::HeapProfile;
    ///
    /// fn save(profile: &HeapProfile) -> io::Result<()> {
    ///     profile.write_folded(File::create("heap.folded")?)
    /// }
    /// ```
    pub fn write_folded(&self, out: impl Write) -> io::Result<()> {
        self.fold(&mut Frames::new(), out)
    }

    fn fold(&self, frames: &mut Frames, out: impl Write) -> io::Result<()> {
        let mut out = BufWriter::new(out);
        let mut line = String::new();
        for site in self.sites.iter().filter(|site| site.bytes.as_u64() > 0) {
            line.clear();
            frames.write_stack(site, &mut line);
            writeln!(out, "{line} {}", site.bytes.as_u64())?;
        }
        out.flush()
    }
}

/// The names of addresses.
struct Frames {
    modules: Modules,
    /// The functions at each address, the one that was inlined into the others last.
    names: HashMap<usize, String>,
    #[cfg(feature = "symbols")]
    _files: CloseFiles,
}

impl Frames {
    fn new() -> Self {
        Self {
            modules: Modules::load(),
            names: HashMap::new(),
            #[cfg(feature = "symbols")]
            _files: CloseFiles,
        }
    }

    /// Appends the names of a stack, outermost first.
    fn write_stack(&mut self, site: &Site, line: &mut String) {
        let addresses: Vec<usize> = site.addresses().collect();
        for &address in addresses.iter().rev() {
            let names = self.names.entry(address).or_insert_with(|| names_at(address, &self.modules));
            if !line.is_empty() {
                line.push(';');
            }
            line.push_str(names);
        }
    }
}

/// Returns the functions at an address, the one that was inlined into the others last.
fn names_at(address: usize, modules: &Modules) -> String {
    let mut names = String::new();
    #[cfg(feature = "symbols")]
    for symbol in resolve(address).iter().rev() {
        write_name(&symbol.function, &mut names);
    }
    if names.is_empty() {
        write_name(&modules.relative(address).to_string(), &mut names);
    }
    names
}

/// Appends a name, separated from the one before it.
fn write_name(name: &str, line: &mut String) {
    if !line.is_empty() {
        line.push(';');
    }
    line.extend(name.chars().map(|c| match c {
        ';' => ':',
        c if c.is_control() => ' ',
        c => c,
    }));
}

#[cfg(test)]
mod tests {
    use super::super::modules::tests::two_modules;
    use super::*;

    fn folded(stacks: &[(&[usize], u64, u64)]) -> String {
        let mut frames = Frames::new();
        frames.modules = two_modules();
        let mut out = Vec::new();
        HeapProfile::for_test(stacks).fold(&mut frames, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn write_folded_prints_stacks_outermost_first() {
        let text = folded(&[(&[0x10_1234, 0x20_1001, 0x10_1101], 300, 3), (&[0x10_1235], 20, 1), (&[0x9], 0, 0)]);
        assert_eq!(text, "app+0x1100;lib c.so+0x1000;app+0x1233 300\napp+0x1234 20\n");
        assert_eq!(folded(&[]), "");
    }

    #[test]
    fn write_name_replaces_separators() {
        let mut line = String::new();
        write_name("app::f<[u8; 8]>", &mut line);
        write_name("a\nb\rc", &mut line);
        assert_eq!(line, "app::f<[u8: 8]>;a b c");
    }

    #[cfg(all(feature = "symbols", not(miri)))]
    #[test]
    fn write_folded_with_symbols_prints_functions() {
        use super::super::symbols::tests::stack_of_named_caller;

        let stack = stack_of_named_caller();
        let text = folded(&[(&stack, 4096, 1)]);
        let innermost = text.trim_end().rsplit(';').next().unwrap();
        assert!(innermost.contains("stack_of_named_caller"), "{text}");
        assert!(innermost.ends_with(" 4096"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn write_folded_to_a_full_disk_returns_the_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = HeapProfile::for_test(&[(&[7], 1, 1)]).write_folded(Full).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
