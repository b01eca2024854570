//! `Debug` of the crate's error types: the message and its causes in one line.
//!
//! `fn main() -> Result<(), E>` and `unwrap()` print `Debug`. The derived text names a variant; this one names the
//! problem and its causes, in the form of `anyhow`'s `{:#}`:
//!
//! ```text
//! cannot read /proc/self/cgroup for the memory limit: Permission denied (os error 13)
//! ```

use std::error::Error;
use std::fmt;

/// The most causes that are printed. A longer chain, perhaps one without an end, ends with `...`.
const MAX_CAUSES: usize = 16;

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

/// Writes the message of `error` and of each of its causes, separated by `: `. Allocates nothing.
pub(crate) fn fmt_chain(error: &dyn Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{error}")?;
    let mut next = error.source();
    for _ in 0..MAX_CAUSES {
        let Some(cause) = next else { return Ok(()) };
        write!(f, ": {cause}")?;
        next = cause.source();
    }
    if next.is_some() { f.write_str(": ...") } else { Ok(()) }
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

    /// Returns the `Debug` text of a chain of `texts`.
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
    fn debug_with_a_long_chain_stops_at_the_bound() {
        let texts: Vec<String> = (0..=17).map(|number| format!("cause {number}")).collect();
        assert_eq!(printed(&texts[..17]), texts[..17].join(": "));
        assert_eq!(printed(&texts), format!("{}: ...", texts[..17].join(": ")));
    }
}
