//! A line of text on the stack, written with one system call: for where nothing may be allocated, and nothing torn.

use std::fmt::{self, Write};

/// A line of at most `LEN` bytes, its end among them; what does not fit is left out.
pub(crate) struct Line<const LEN: usize> {
    text: [u8; LEN],
    len: usize,
}

impl<const LEN: usize> Line<LEN> {
    pub(crate) const fn new() -> Self {
        Self { text: [0; LEN], len: 0 }
    }

    /// Adds what `arguments` print, and tells whether it was all that they print.
    pub(crate) fn put(&mut self, arguments: fmt::Arguments<'_>) -> bool {
        self.write_fmt(arguments).is_ok()
    }

    /// Adds so many of the bytes as there is room for, and tells whether that was all.
    pub(crate) fn put_bytes(&mut self, bytes: &[u8]) -> bool {
        // The last byte is kept for the line's end.
        let free = self.text.get_mut(self.len..LEN.saturating_sub(1)).unwrap_or_default();
        let taken = free.len().min(bytes.len());
        for (place, byte) in free.iter_mut().zip(bytes) {
            *place = *byte;
        }
        self.len += taken;
        taken == bytes.len()
    }

    /// Adds a field, or nothing if it does not fit whole. `end` bytes stay free for the text after the last field.
    ///
    /// Returns `true` if the field was added.
    pub(crate) fn put_whole(&mut self, end: usize, field: impl FnOnce(&mut Self)) -> bool {
        let before = self.len;
        field(self);
        // A field that was cut has filled the line.
        let fits = self.len + end < LEN;
        if !fits {
            self.len = before;
        }
        fits
    }

    /// Writes the line to standard error without waiting for its reader. Returns `true` if it was taken.
    pub(crate) fn write_stderr_nonblocking(mut self) -> bool {
        super::write_stderr_nonblocking(self.ended())
    }

    /// Writes the line to standard error, without a lock on Linux; what it does not take is lost.
    pub(crate) fn write_stderr(mut self) {
        super::write_stderr(self.ended());
    }

    /// Writes the line to standard output, past what std may have buffered for it.
    #[cfg(feature = "emf")]
    pub(crate) fn write_stdout(mut self) {
        super::host::write_stdout(self.ended());
    }

    fn ended(&mut self) -> &[u8] {
        if let Some(end) = self.text.get_mut(self.len) {
            *end = b'\n';
        }
        self.text.get(..=self.len).unwrap_or_default()
    }
}

impl<const LEN: usize> Write for Line<LEN> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.put_bytes(text.as_bytes()) { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_takes_what_fits_and_says_whether_that_was_all() {
        let mut line = Line::<8>::new();
        assert!(line.put(format_args!("{}", 123)));
        assert!(line.put(format_args!("4567")));
        assert!(line.put(format_args!("")));
        assert!(!line.put(format_args!("8")));
        assert_eq!(line.ended(), b"1234567\n");

        let mut cut = Line::<4>::new();
        assert!(!cut.put(format_args!("{}{}", "ab", "cde")));
        assert_eq!(cut.ended(), b"abc\n");
    }

    #[test]
    fn put_whole_field_that_does_not_fit_leaves_the_line() {
        let mut line = Line::<8>::new();
        assert!(line.put_whole(1, |line| _ = line.put(format_args!("12345"))));
        assert!(!line.put_whole(1, |line| _ = line.put(format_args!("67"))), "the end has no room");
        assert!(line.put_whole(1, |line| _ = line.put(format_args!("6"))));
        assert!(!line.put_whole(1, |line| _ = line.put(format_args!("a long field"))));
        assert_eq!(line.ended(), b"123456\n");
    }

    #[test]
    fn a_line_without_room_has_its_end_at_most() {
        let mut line = Line::<1>::new();
        assert!(!line.put_bytes(b"a"));
        assert_eq!(line.ended(), b"\n");
        let mut none = Line::<0>::new();
        assert!(!none.put_bytes(b"a"));
        assert_eq!(none.ended(), b"");
        none.write_stderr();
    }
}
