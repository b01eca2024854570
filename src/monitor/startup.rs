//! Warnings that a start writes about the settings of the program and the environment.

use std::path::Path;

use crate::board::Clean;
use crate::budget::Account;
use crate::lazy::Resource;

/// Returns the warning for a resource with an account of another budget than the monitor's.
pub(super) fn foreign_account(resource: &dyn Resource, account: &Account) -> String {
    format!(
        "resource `{}` is charged to account `{}` of another budget than the monitor's: give both the same MemoryBudget",
        Clean(resource.name()),
        Clean(account.name()),
    )
}

/// Returns `true` for a file that can be executed; Lambda starts no other.
fn is_program(entry: &std::fs::DirEntry) -> bool {
    let metadata = std::fs::metadata(entry.path());
    #[cfg(unix)]
    let is_executable = |metadata: &std::fs::Metadata| {
        use std::os::unix::fs::PermissionsExt;
        metadata.permissions().mode() & 0o111 != 0
    };
    #[cfg(not(unix))]
    let is_executable = |_: &std::fs::Metadata| true;
    metadata.is_ok_and(|metadata| metadata.is_file() && is_executable(&metadata))
}

/// Returns the warning for extensions installed in `folder`: their memory is part of the memory size.
pub(super) fn extensions(folder: &Path) -> Option<String> {
    let count = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).filter(is_program).count();
    (count > 0).then(|| {
        format!(
            "{count} extension(s) in {} share the memory size: set Monitor::builder().environment_share() to 12 MiB plus \
             their memory",
            folder.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::extensions;

    #[test]
    fn extensions_in_a_folder_are_a_warning_with_the_setting() {
        let folder = std::env::temp_dir().join(format!("plimsoll-extensions-{}", std::process::id()));
        assert_eq!(extensions(&folder), None, "no such folder");
        fs::create_dir_all(&folder).unwrap();
        assert_eq!(extensions(&folder), None, "an empty folder");
        fs::create_dir_all(folder.join("lib")).unwrap();
        fs::write(folder.join("collector"), "").unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(extensions(&folder), None, "neither a folder nor a file that cannot be executed");
            fs::set_permissions(folder.join("collector"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let warning = extensions(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(warning.starts_with("1 extension(s) in ") && warning.contains("environment_share()"), "{warning}");
    }
}
