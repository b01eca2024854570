//! Text that is on this machine anyway: this project's sources and those of cargo's registry.

use std::fs::DirEntry;
use std::path::{Path, PathBuf};

use plimsoll::ByteSize;

/// The most files, whatever their bytes.
const MAX_FILES: usize = 100_000;
/// What counts as a source.
const EXTENSIONS: [&str; 5] = ["rs", "md", "toml", "txt", "json"];

/// The files, in a fixed order.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) files: Vec<(PathBuf, u64)>,
    pub(crate) bytes: u64,
    /// One line on each folder that was looked through.
    pub(crate) folders: Vec<String>,
    most: ByteSize,
}

impl Sources {
    /// Looks for them, and takes files until they are `most` bytes together.
    pub(crate) fn find(most: ByteSize) -> Self {
        let mut found = Self { files: Vec::new(), bytes: 0, folders: Vec::new(), most };
        found.add("this project", Path::new(env!("CARGO_MANIFEST_DIR")));
        let cargo_home = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        if let Some(home) = cargo_home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))) {
            found.add("cargo registry", &home.join("registry").join("src"));
        }
        found
    }

    fn add(&mut self, name: &str, folder: &Path) {
        let (files, bytes) = (self.files.len(), self.bytes);
        let left_out = self.walk(folder);
        let (files, size) = (self.files.len() - files, ByteSize::bytes(self.bytes - bytes));
        let cap = if left_out > 0 { format!(", {left_out} files left out by the cap") } else { String::new() };
        self.folders.push(format!("{name}: {files} files, {size}{cap}"));
    }

    /// Takes the sources under `folder` as far as the cap allows, and returns how many it left out.
    ///
    /// It follows no links, so it ends. A folder that cannot be listed is passed over.
    fn walk(&mut self, folder: &Path) -> u64 {
        let mut left_out = 0;
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            let Ok(entries) = folder.read_dir() else { continue };
            let mut entries: Vec<_> = entries.flatten().collect();
            entries.sort_by_key(DirEntry::file_name);
            for entry in entries {
                let (path, name) = (entry.path(), entry.file_name());
                let Ok(metadata) = entry.metadata() else { continue };
                let skipped = name == "target" || name.to_string_lossy().starts_with('.');
                if metadata.is_dir() && !skipped {
                    open.push(path);
                } else if metadata.is_file() && is_source(&path) {
                    left_out += u64::from(!self.take(path, metadata.len()));
                }
            }
        }
        left_out
    }

    fn take(&mut self, path: PathBuf, size: u64) -> bool {
        let bytes = self.bytes.saturating_add(size);
        let fits = bytes <= self.most.as_u64() && self.files.len() < MAX_FILES;
        if fits {
            self.bytes = bytes;
            self.files.push((path, size));
        }
        fits
    }
}

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known))
}
