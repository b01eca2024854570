//! Request ids as reports may show them: short, and free of anything that could forge a log line.

use std::fmt;

/// The longest id that is kept, in bytes.
const LEN: usize = crate::heap::CONTEXT_LEN;

/// A request's id, cleaned: the first 64 bytes of it that are letters, digits, `.`, `_`, `:` or `-`. Prints `-` if none.
///
/// 65 bytes, no allocation.
///
/// # Examples
///
/// ```
/// use plimsoll::monitor::RequestId;
///
/// let id = RequestId::new("4f1c9a\nREPORT forged");
/// assert_eq!(id.as_str(), "4f1c9aREPORTforged");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    text: [u8; LEN],
    len: u8,
}

impl RequestId {
    /// Keeps of the text what a report may show.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::monitor::RequestId;
    /// assert_eq!(RequestId::new("\n").to_string(), "-");
    /// ```
    pub fn new(text: &str) -> Self {
        let mut id = Self { text: [0; LEN], len: 0 };
        let clean = text.bytes().filter(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(byte));
        for (place, byte) in id.text.iter_mut().zip(clean) {
            *place = byte;
            id.len += 1;
        }
        id
    }

    /// The cleaned text; empty if nothing of it was left.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::monitor::RequestId;
    /// assert_eq!(RequestId::from("4f1c").as_str(), "4f1c");
    /// ```
    pub fn as_str(&self) -> &str {
        self.text.get(..usize::from(self.len)).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }
}

impl From<&str> for RequestId {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if self.len == 0 { "-" } else { self.as_str() })
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}
