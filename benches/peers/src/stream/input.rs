//! The inputs, generated: the same bytes on every machine.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::Random;

/// A kind of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JSON, 834 bytes a line in the mean and some of 60 KB.
    Ndjson,
    /// 27 bytes a line in the mean.
    Short,
}

impl Kind {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Short => "short",
        }
    }

    /// A length of a line, without its end.
    fn line(self, random: &mut Random) -> usize {
        match self {
            Self::Short => 8 + random.size(35),
            // Most are short and a few are long, as with logs.
            Self::Ndjson if random.bits().is_multiple_of(512) => 20_000 + random.size(40_000),
            Self::Ndjson => 100 + random.size(1_300),
        }
    }
}

/// A file in which whole lines make up about `bytes`, in `folder` for the next time.
pub fn file(folder: &Path, kind: Kind, bytes: u64) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("{}-{bytes}", kind.name()));
    if !path.exists() {
        let fresh = path.with_extension("part");
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&fresh)?);
        write(kind, bytes, &mut out)?;
        out.into_inner()?.sync_all()?;
        fs::rename(&fresh, &path)?;
    }
    // Into the page cache.
    let mut chunk = vec![0; 1 << 20];
    let mut input = File::open(&path)?;
    while input.read(&mut chunk)? > 0 {}
    Ok(path)
}

/// Whole lines of about `bytes` in all.
pub fn write(kind: Kind, bytes: u64, out: &mut impl Write) -> io::Result<()> {
    const TEXT: &[u8] = br#"{"level":"info","request":"4f1c9a7e-2b","path":"/orders/1187","ms":12.5,"user":null},"#;
    let long: Vec<u8> = TEXT.iter().copied().cycle().take(70_000).collect();
    let mut random = Random::new(7);
    let mut written = 0;
    while written < bytes {
        let start = random.size(TEXT.len()) - 1;
        let line = long.get(start..start + kind.line(&mut random)).unwrap_or(&long);
        out.write_all(line)?;
        out.write_all(b"\n")?;
        written += line.len() as u64 + 1;
    }
    Ok(())
}
