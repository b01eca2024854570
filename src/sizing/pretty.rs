//! A JSON object that is printed over several lines, put together again.

/// The largest text that is kept, in bytes. A platform report has a few hundred.
const MAX: usize = 16 * 1024;

/// Collects the lines of one object.
///
/// It opens at a line that begins with `{`, alone or in front of a name, and does not close it; takes lines that are
/// indented or begin with a closing bracket; and is given up at the first other line: what was cut, or is prose, must
/// not swallow what is behind it.
#[derive(Debug, Default)]
pub(super) struct Pretty {
    text: Vec<u8>,
    /// The number of its first line.
    first: u64,
    /// How many of its lines told nothing by themselves.
    lines: u64,
    /// Brackets open. Not zero while it collects.
    depth: u32,
}

/// The text of an object, complete or not.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) first: u64,
    pub(super) lines: u64,
    pub(super) text: Vec<u8>,
}

impl Pretty {
    pub(super) const fn is_open(&self) -> bool {
        self.depth > 0
    }

    /// Begins to collect if the line opens an object and does not close it.
    pub(super) fn open(&mut self, number: u64, line: &[u8]) {
        let trimmed = line.trim_ascii();
        let Some(inner) = trimmed.strip_prefix(b"{") else { return };
        if !matches!(inner.trim_ascii_start(), [] | [b'"', ..]) || trimmed.ends_with(b"}") || trimmed.len() > MAX {
            return;
        }
        self.text.clear();
        (self.first, self.lines) = (number, 0);
        self.add_text(trimmed);
    }

    /// Adds the line; `false` if it does not belong to the object, or is too much.
    pub(super) fn add(&mut self, line: &[u8]) -> bool {
        let belongs = matches!(line.first(), Some(b' ' | b'\t' | b'}' | b']' | b'\r') | None);
        let trimmed = line.trim_ascii();
        if !belongs || self.text.len() + trimmed.len() >= MAX {
            return false;
        }
        self.add_text(trimmed);
        true
    }

    /// The line just added told something by itself.
    pub(super) const fn last_told(&mut self) {
        self.lines = self.lines.saturating_sub(1);
    }

    fn add_text(&mut self, line: &[u8]) {
        // No string of valid JSON reaches over a line end.
        let mut in_string = false;
        let mut bytes = line.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' if in_string => drop(bytes.next()),
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => self.depth += 1,
                b'}' | b']' if !in_string => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        self.lines += 1;
        self.text.extend_from_slice(line);
        self.text.push(b'\n');
    }

    /// The object, if it is complete.
    pub(super) fn take_closed(&mut self) -> Option<Collected> {
        if self.depth > 0 || self.text.is_empty() {
            return None;
        }
        Some(self.take())
    }

    /// What there is of an object that will not be completed.
    pub(super) fn give_up(&mut self) -> Option<Collected> {
        if self.depth == 0 {
            return None;
        }
        self.depth = 0;
        Some(self.take())
    }

    fn take(&mut self) -> Collected {
        Collected { first: self.first, lines: self.lines, text: std::mem::take(&mut self.text) }
    }
}
