//! Addresses relative to the files that the process has loaded, and the commands that resolve them.

use std::fmt;

use super::Site;
use crate::os::{self, Module};

/// A call of an allocation site as an address in the file that it was loaded from.
///
/// The address is that of the caller's instruction in the numbering of the file, which `addr2line` takes. It is the same
/// in each process.
///
/// Prints as `app+0x1a2b`, or as `0x7f0000001a2b` if the address is in no loaded file.
///
/// # Examples
///
/// ```
/// use plimsoll::heap::profile::Site;
///
/// fn print_stack(site: &Site) {
///     for call in site.module_addresses() {
///         println!("{call}");
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModuleAddress {
    /// The path of the file. `None` if the address is in no file that was found: `offset` is absolute then.
    pub path: Option<String>,
    /// The address in the file.
    pub offset: usize,
}

impl fmt::Display for ModuleAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}+{:#x}", file_name(path), self.offset),
            None => write!(f, "{:#x}", self.offset),
        }
    }
}

impl Site {
    /// Returns the stack as addresses in the loaded files, innermost first.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::heap::profile::Site;
    ///
    /// fn innermost(site: &Site) -> Option<String> {
    ///     site.module_addresses().first().map(ToString::to_string)
    /// }
    /// ```
    pub fn module_addresses(&self) -> Vec<ModuleAddress> {
        Modules::load().stack(self)
    }

    /// Returns the command that prints the functions of the stack, innermost first:
    /// `addr2line -Cfipe /build/app 0x1a2b 0x2b3c`.
    ///
    /// `addr2line` is part of binutils. The file that it reads may be a copy on another machine, and may have the debug
    /// information that the deployed file lacks: it must come from the same build. A stack through several files has one
    /// line for each run of addresses in one file. Addresses that are in no loaded file are left out, which leaves an
    /// empty text on platforms other than Linux.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::heap::profile::HeapProfile;
    ///
    /// fn print_commands(profile: &HeapProfile) {
    ///     for site in profile.sites.iter().take(3) {
    ///         println!("{}: {}", site.bytes, site.resolve_command());
    ///     }
    /// }
    /// ```
    pub fn resolve_command(&self) -> String {
        Modules::load().resolve_command(self)
    }
}

/// The files that the process has loaded.
pub(super) struct Modules(Vec<Module>);

impl Modules {
    pub(super) fn load() -> Self {
        Self(os::modules())
    }

    #[cfg(any(feature = "pprof", test))]
    pub(super) fn all(&self) -> &[Module] {
        &self.0
    }

    /// Returns the file at the call before a return address, and its index.
    pub(super) fn find(&self, return_address: usize) -> Option<(usize, &Module)> {
        let call = call_before(return_address);
        self.0.iter().enumerate().find(|(_, module)| (module.start..module.end).contains(&call))
    }

    /// Returns the call before a return address as an address in its file.
    pub(super) fn relative(&self, return_address: usize) -> ModuleAddress {
        let call = call_before(return_address);
        match self.find(return_address) {
            Some((_, module)) => {
                ModuleAddress { path: Some(module.path.clone()), offset: call.wrapping_sub(module.bias) }
            }
            None => ModuleAddress { path: None, offset: call },
        }
    }

    fn stack(&self, site: &Site) -> Vec<ModuleAddress> {
        site.addresses().map(|address| self.relative(address)).collect()
    }

    pub(super) fn resolve_command(&self, site: &Site) -> String {
        let mut command = String::new();
        let mut last: Option<String> = None;
        for ModuleAddress { path, offset } in self.stack(site) {
            let Some(path) = path else { continue };
            if last.as_ref() != Some(&path) {
                let separator = if command.is_empty() { "" } else { "\n" };
                command.extend([separator, "addr2line -Cfipe ", &quoted(&path)]);
                last = Some(path);
            }
            command.extend([" ", &format!("{offset:#x}")]);
        }
        command
    }
}

/// Returns the address in the call instruction before a return address.
///
/// The return address itself may be in another line or even in another function.
pub(super) fn call_before(return_address: usize) -> usize {
    return_address.saturating_sub(1)
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns a path as one word of a shell.
fn quoted(path: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@%=:,".contains(c);
    if !path.is_empty() && path.chars().all(is_plain) {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', r"'\''"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::heap::profile::HeapProfile;

    fn module(path: &str, start: usize) -> Module {
        let (path, build_id) = (path.to_owned(), "c0ffee".to_owned());
        Module { path, bias: start - 0x1000, start, end: start + 0x1000, file_offset: 0x1000, build_id }
    }

    /// Returns two files of 4 KiB of code, at `0x10_1000` and at `0x20_1000`.
    pub(in crate::heap::profile) fn two_modules() -> Modules {
        Modules(vec![module("/build/app", 0x10_1000), module("/lib/lib c.so", 0x20_1000)])
    }

    /// Returns the executable of this process, from its memory map.
    #[cfg(all(target_os = "linux", feature = "symbols"))]
    pub(in crate::heap::profile) fn executable() -> Modules {
        let path = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
        let map = std::fs::read_to_string("/proc/self/maps").unwrap();
        let number = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let lines: Vec<&str> = map.lines().filter(|line| line.ends_with(&path)).collect();
        let bias = number(lines[0].split('-').next().unwrap());
        let code = lines.iter().find(|line| line.contains(" r-xp ")).unwrap();
        let (start, rest) = code.split_once('-').unwrap();
        let fields: Vec<&str> = rest.split(' ').collect();
        let (end, file_offset) = (number(fields[0]), number(fields[2]) as u64);
        Modules(vec![Module { path, bias, start: number(start), end, file_offset, build_id: String::new() }])
    }

    #[test]
    fn relative_address_is_that_of_the_call_in_the_file() {
        let modules = two_modules();
        assert_eq!(modules.relative(0x10_1234).to_string(), "app+0x1233");
        assert_eq!(modules.relative(0x20_1001).to_string(), "lib c.so+0x1000");
        // A call at the very end of a file returns to the address after it.
        assert_eq!(modules.relative(0x10_2000).to_string(), "app+0x1fff");
        assert_eq!(modules.relative(0x10_1000).to_string(), "0x100fff");
        assert_eq!(modules.relative(0).to_string(), "0x0");
    }

    #[test]
    fn resolve_command_has_a_line_for_each_run_of_a_file() {
        let stack = [0x10_1234, 0x10_1300, 0x3, 0x20_1001, 0x10_1401];
        let profile = HeapProfile::for_test(&[(&stack, 1, 1)]);
        assert_eq!(
            two_modules().resolve_command(&profile.sites[0]),
            "addr2line -Cfipe /build/app 0x1233 0x12ff\naddr2line -Cfipe '/lib/lib c.so' 0x1000\n\
             addr2line -Cfipe /build/app 0x1400"
        );
        assert_eq!(Modules(Vec::new()).resolve_command(&profile.sites[0]), "");
    }

    #[test]
    fn quoted_path_is_one_word_of_a_shell() {
        assert_eq!(quoted("/build/app-1.0"), "/build/app-1.0");
        assert_eq!(quoted("/build/my app"), "'/build/my app'");
        assert_eq!(quoted("a'b;$(c)"), r"'a'\''b;$(c)'");
        assert_eq!(quoted(""), "''");
    }

    #[cfg(all(target_os = "linux", feature = "symbols", not(miri)))]
    #[test]
    fn resolve_command_prints_the_functions_of_the_stack() {
        use crate::heap::profile::symbols::tests::stack_of_named_caller;

        let stack = stack_of_named_caller();
        let profile = HeapProfile::for_test(&[(&stack, 1, 1)]);
        let command = executable().resolve_command(&profile.sites[0]);
        let first = command.lines().next().unwrap();
        match std::process::Command::new("sh").args(["-c", first]).output() {
            Ok(output) if output.status.success() => {
                let printed = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(printed.contains("stack_of_named_caller"), "{command}\n{printed}");
            }
            // Without binutils there is nothing to compare with.
            other => assert!(!std::path::Path::new("/usr/bin/addr2line").exists(), "{command}: {other:?}"),
        }
    }
}
