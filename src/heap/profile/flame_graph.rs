//! Heap profiles as flame graphs.

use std::io::{self, Write};

use inferno::flamegraph::{self, Options};

use super::HeapProfile;

impl HeapProfile {
    /// Writes a flame graph as SVG: the width of a function is the bytes that it and its callees allocated.
    ///
    /// A browser shows it and zooms into it. A profile without sites becomes an SVG with the text `no sampled block is
    /// live`.
    ///
    /// The feature `flamegraph` adds the crate `inferno` under the licence CDDL-1.0.
    ///
    /// # Errors
    ///
    /// The error of `out`.
    ///
    /// # Performance
    ///
    /// All folded stacks are in memory until the end, and the memory of [`write_folded`](Self::write_folded) comes on
    /// top. A stack has about 0.6 KB, and 4 KB with debug information.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    /// use std::io;
    /// use plimsoll::heap::profile::HeapProfile;
    ///
    /// fn save(profile: &HeapProfile) -> io::Result<()> {
    ///     profile.write_flame_graph(File::create("heap.svg")?)
    /// }
    /// ```
    pub fn write_flame_graph(&self, mut out: impl Write) -> io::Result<()> {
        let mut folded = Vec::new();
        self.write_folded(&mut folded)?;
        if folded.is_empty() {
            return out.write_all(EMPTY.as_bytes());
        }
        let text = String::from_utf8_lossy(&folded);
        let mut options = Options::default();
        options.title = format!("heap {}, sampled every {}", self.heap, self.interval);
        "bytes".clone_into(&mut options.count_name);
        flamegraph::from_lines(&mut options, text.lines(), out)
    }
}

/// The graph of a profile without sites. inferno would return an error.
const EMPTY: &str = r#"<?xml version="1.0" standalone="no"?>
<svg version="1.1" width="1200" height="60" viewBox="0 0 1200 60" xmlns="http://www.w3.org/2000/svg">
<text x="600" y="36" font-family="monospace" font-size="17" text-anchor="middle">no sampled block is live</text>
</svg>
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(stacks: &[(&[usize], u64, u64)]) -> String {
        let mut out = Vec::new();
        HeapProfile::for_test(stacks).write_flame_graph(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn write_flame_graph_shows_functions_and_bytes() {
        let svg = graph(&[(&[0x31, 0x21, 0x11], 3 << 20, 1), (&[0x41, 0x11], 1 << 20, 1)]);
        assert!(svg.contains("heap 4.0 MiB, sampled every 512.0 KiB"), "{svg}");
        assert!(svg.contains("<title>0x30 (3,145,728 bytes, 75.00%)</title>"), "{svg}");
        assert!(svg.contains("<title>0x10 (4,194,304 bytes, 100.00%)</title>"), "{svg}");
    }

    #[test]
    fn write_flame_graph_without_sites_shows_a_sentence() {
        for stacks in [&[][..], &[(&[0x11][..], 0, 0)]] {
            assert!(graph(stacks).contains(">no sampled block is live<"));
        }
    }
}
