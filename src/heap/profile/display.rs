//! Heap profiles as text: a table of the largest sites, and a line for one site.

use std::fmt;

use super::modules::Modules;
#[cfg(feature = "symbols")]
use super::symbols::Symbolizer;
use super::{HeapProfile, Site};
use crate::size::ByteSize;

/// The most sites in a table.
const MAX_ROWS: usize = 20;

/// The most characters of a function's name in a table. Names with generic arguments can have thousands.
const MAX_NAME: usize = 120;

/// Prints a table of the 20 largest sites: bytes, share of the live heap, blocks, and the function.
///
/// ```text
/// heap 96.8 MiB, sampled every 512.0 KiB, 2 sites
///        bytes  share     blocks  function
///     64.0 MiB 66.1 %       1024  app::orders::load (/build/app/src/orders.rs:51)
///      1.5 MiB  1.5 %          3  app+0x1a2b
/// ```
///
/// The function is the innermost one in the program's own code, or else the innermost one outside of the standard
/// library. Without the feature `symbols`, or without symbols in the program, it is the innermost address, and the
/// command that prints the stack of the largest site follows the table.
impl fmt::Display for HeapProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = &mut Names::new();
        let count = self.sites.len();
        write!(f, "heap {}, sampled every {}, {count} site{}", self.heap, self.interval, plural(count))?;
        if count > 0 {
            write!(f, "\n{:>12} {:>6} {:>10}  function", "bytes", "share", "blocks")?;
        }
        for site in self.sites.iter().take(MAX_ROWS) {
            let share = format!("{:.1} %", site.share * 100.0);
            write!(f, "\n{:>12} {share:>6} {:>10}  {}", site.bytes, site.blocks, names.of(site))?;
        }
        let rest = self.sites.get(MAX_ROWS..).unwrap_or_default();
        if !rest.is_empty() {
            let bytes = rest.iter().fold(ByteSize::ZERO, |sum, site| sum.saturating_add(site.bytes));
            write!(f, "\n{bytes:>12} in {} smaller site{}", rest.len(), plural(rest.len()))?;
        }
        if let Some(site) = self.sites.first().filter(|_| names.has_address) {
            let command = names.modules.resolve_command(site);
            if !command.is_empty() {
                write!(f, "\nthe stack of the largest site:\n{command}")?;
            }
        }
        Ok(())
    }
}

/// Prints one line: `64.0 MiB (66.1 %) in 1024 blocks: app::orders::load (/build/app/src/orders.rs:51)`.
///
/// The function is printed as in the table of [`HeapProfile`].
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.blocks == 1 { "" } else { "s" };
        let name = Names::new().of(self);
        write!(f, "{} ({:.1} %) in {} block{plural}: {name}", self.bytes, self.share * 100.0, self.blocks)
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// The names of sites.
struct Names {
    modules: Modules,
    #[cfg(feature = "symbols")]
    symbolizer: Symbolizer,
    /// `true` if an address was returned instead of a function.
    has_address: bool,
}

impl Names {
    fn new() -> Self {
        Self {
            modules: Modules::load(),
            #[cfg(feature = "symbols")]
            symbolizer: Symbolizer::new(),
            has_address: false,
        }
    }

    fn of(&mut self, site: &Site) -> String {
        #[cfg(feature = "symbols")]
        {
            if let Some(mut symbol) = self.symbolizer.function(site) {
                shorten(&mut symbol.function);
                return symbol.to_string();
            }
        }
        self.has_address = true;
        let innermost = site.addresses().next();
        innermost.map_or_else(|| "unknown".to_owned(), |address| self.modules.relative(address).to_string())
    }
}

/// Cuts a name to [`MAX_NAME`] characters.
#[cfg_attr(not(any(feature = "symbols", test)), expect(dead_code, reason = "addresses are short"))]
fn shorten(name: &mut String) {
    if let Some((end, _)) = name.char_indices().nth(MAX_NAME) {
        name.truncate(end);
        name.push_str("..");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_the_twenty_largest_sites() {
        let stacks: Vec<[usize; 1]> = (2..=23).map(|address| [address]).collect();
        let sites: Vec<(&[usize], u64, u64)> = stacks.iter().map(|stack| (&stack[..], 1 << 20, 2)).collect();
        let text = HeapProfile::for_test(&sites).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "heap 22.0 MiB, sampled every 512.0 KiB, 22 sites");
        assert_eq!(lines[1], "       bytes  share     blocks  function");
        assert_eq!(lines[2], "     1.0 MiB  4.5 %          2  0x1");
        assert_eq!(lines[21], "     1.0 MiB  4.5 %          2  0x14");
        assert_eq!(lines[22..], ["     2.0 MiB in 2 smaller sites"]);
    }

    #[test]
    fn display_of_an_empty_profile_is_one_line() {
        let text = HeapProfile::for_test(&[]).to_string();
        assert_eq!(text, "heap 0 B, sampled every 512.0 KiB, 0 sites");
    }

    #[test]
    fn display_of_a_site_is_one_line() {
        let profile = HeapProfile::for_test(&[(&[9], 2 << 20, 1)]);
        assert_eq!(profile.sites[0].to_string(), "2.0 MiB (100.0 %) in 1 block: 0x8");
    }

    #[test]
    fn shorten_cuts_long_names_between_characters() {
        let mut name = "é".repeat(121);
        shorten(&mut name);
        assert_eq!(name, "é".repeat(120) + "..");
        shorten(&mut name);
        assert_eq!(name.chars().count(), 122);
    }
}
