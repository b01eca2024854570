//! `Debug` of the crate's error types: the message and its causes in one line.
//!
//! `fn main() -> Result<(), E>` and `unwrap()` print `Debug`. The derived text names the variant of an error. The line of
//! this module names the problem and its causes:
//!
//! ```text
//! cannot read /proc/self/cgroup for the memory limit: Permission denied (os error 13)
//! ```
//!
//! Formatting allocates nothing, because the heap may be full when an error is printed.

use std::error::Error;
use std::fmt::{self, Display, Write};

/// Causes printed at most. A chain that is longer, or that has no end, is cut and ends with `...`.
const MAX_CAUSES: usize = 16;

/// Bytes compared at a time.
const WINDOW: usize = 128;

/// Implements `Debug` for error types by [`fmt_chain`].
///
/// A type with a type parameter cannot use it: `E: Error` would be required, which excludes `String` and
/// `Box<dyn Error>`.
macro_rules! debug_as_chain {
    ($($error:ty),+ $(,)?) => {
        $(
            /// Prints the message and its causes in one line.
            impl ::std::fmt::Debug for $error {
                fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                    $crate::error_chain::fmt_chain(self, f)
                }
            }
        )+
    };
}

pub(crate) use debug_as_chain;

/// Writes the message of `error` and of each of its causes, separated by `: `.
///
/// A cause is left out if the text before it ends with it, as in `cannot start: no memory` with the cause `no memory`.
pub(crate) fn fmt_chain(error: &dyn Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{error}")?;
    let mut last = error;
    let mut cause = error.source();
    for _ in 0..MAX_CAUSES {
        let Some(error) = cause else { return Ok(()) };
        if !is_repeated(last, error) {
            write!(f, ": {error}")?;
            last = error;
        }
        cause = error.source();
    }
    if cause.is_some() { f.write_str(": ...") } else { Ok(()) }
}

/// Returns `true` if `cause` is empty, is the same text as `printed`, or follows the last `: ` of `printed`.
fn is_repeated(printed: &dyn Error, cause: &dyn Error) -> bool {
    let (printed_len, cause_len) = (text_len(&printed), text_len(&cause));
    cause_len == 0
        || (printed_len == cause_len && ends_with(&printed, &cause))
        || ends_with(&printed, &format_args!(": {cause}"))
}

// Two `Display` texts are compared without a buffer for either of them: one window of `WINDOW` bytes of each is formatted
// into an array, then the next one. `whole` of 300 bytes and `end` of 200 are compared by bytes 100..228 with 0..128, then
// 228..300 with 128..200. Messages of up to 128 bytes need one window.
fn ends_with(whole: &dyn Display, end: &dyn Display) -> bool {
    let len = text_len(end);
    let Some(start) = text_len(whole).checked_sub(len) else { return false };
    (0..len).step_by(WINDOW).all(|at| window(whole, start + at) == window(end, at))
}

/// Returns the number of bytes of the text.
fn text_len(text: &dyn Display) -> usize {
    let mut reader = WindowReader::new(usize::MAX);
    // A text ends at the place at which its formatting fails.
    let _ = write!(reader, "{text}");
    reader.position
}

/// Returns the bytes of the text from `start`, followed by zeros after its end.
fn window(text: &dyn Display, start: usize) -> [u8; WINDOW] {
    let mut reader = WindowReader::new(start);
    let _ = write!(reader, "{text}");
    reader.bytes
}

/// Counts the bytes written to it and keeps those from `start`.
struct WindowReader {
    start: usize,
    position: usize,
    bytes: [u8; WINDOW],
}

impl WindowReader {
    const fn new(start: usize) -> Self {
        Self { start, position: 0, bytes: [0; WINDOW] }
    }
}

impl Write for WindowReader {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let kept = self.position.checked_sub(self.start).and_then(|at| self.bytes.get_mut(at));
            if let Some(kept) = kept {
                *kept = byte;
            }
            self.position += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fmt;

    /// An error of a given text and cause.
    struct Link(String, Option<Box<Link>>);

    impl fmt::Display for Link {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    impl Error for Link {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    debug_as_chain!(Link);

    /// Returns the `Debug` text of the chain of `texts`.
    fn printed<S: AsRef<str>>(texts: &[S]) -> String {
        let chain = texts.iter().rev().fold(None, |cause, text| Some(Box::new(Link(text.as_ref().to_owned(), cause))));
        chain.map(|error| format!("{error:?}")).unwrap_or_default()
    }

    #[test]
    fn debug_with_causes_prints_one_line() {
        assert_eq!(printed(&["no report"]), "no report");
        assert_eq!(printed(&["no report", "cannot read a", "denied"]), "no report: cannot read a: denied");
    }

    #[test]
    fn debug_with_a_repeated_cause_prints_it_once() {
        assert_eq!(printed(&["denied", "denied"]), "denied");
        assert_eq!(printed(&["no report: denied", "denied"]), "no report: denied");
        assert_eq!(printed(&["no report: a: b", "a: b", "b", "c"]), "no report: a: b: c");
        assert_eq!(printed(&["no report", ""]), "no report");
    }

    #[test]
    fn debug_with_a_similar_cause_prints_both() {
        assert_eq!(printed(&["no record 11", "1"]), "no record 11: 1");
        assert_eq!(printed(&["denied", "it is denied"]), "denied: it is denied");
        assert_eq!(printed(&["denied: no report", "denied"]), "denied: no report: denied");
    }

    #[test]
    fn debug_with_long_texts_compares_all_bytes() {
        for len in [1, 127, 128, 129, 256, 300] {
            let cause = "é".repeat(len);
            let message = format!("no report: {cause}");
            assert_eq!(printed(&[&message, &cause]), message);
            let other = format!("a{cause}");
            assert_eq!(printed(&[&message, &other]), format!("{message}: {other}"));
            for at in [0, len / 2, len - 1] {
                let other: String = (0..len).map(|i| if i == at { 'è' } else { 'é' }).collect();
                assert_eq!(printed(&[&message, &other]), format!("{message}: {other}"));
            }
        }
    }

    #[test]
    fn debug_with_a_long_chain_stops_at_the_bound() {
        let texts: Vec<String> = (0..=17).map(|number| format!("cause {number}")).collect();
        assert_eq!(printed(&texts[..17]), texts[..17].join(": "));
        assert_eq!(printed(&texts), format!("{}: ...", texts[..17].join(": ")));
    }

    #[test]
    fn debug_with_an_endless_chain_ends() {
        struct Endless;

        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("again")
            }
        }

        impl Error for Endless {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(self)
            }
        }

        debug_as_chain!(Endless);
        assert_eq!(format!("{Endless:?}"), "again: ...");
    }
}
