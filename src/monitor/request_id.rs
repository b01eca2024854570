//! Request ids and labels as reports may show them: short, and free of anything that could forge a log line.

use std::fmt;
use std::hash::{Hash, Hasher};

/// The longest id or label, in bytes.
const LEN: usize = crate::heap::MAX_TEXT;

/// At most 64 bytes of printable ASCII, stored in place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct ShortText {
    text: [u8; LEN],
    len: u8,
}

impl ShortText {
    const EMPTY: Self = Self { text: [0; LEN], len: 0 };

    /// Keeps the first 64 bytes of `text`, if all of these are `clean`; a clean byte is ASCII.
    fn of_clean(text: &str, clean: impl Fn(u8) -> bool) -> Option<Self> {
        let bytes = text.as_bytes();
        let bytes = bytes.get(..LEN).unwrap_or(bytes);
        if !bytes.iter().all(|byte| clean(*byte)) {
            return None;
        }
        let mut short = Self::EMPTY;
        short.text.get_mut(..bytes.len())?.copy_from_slice(bytes);
        short.len = u8::try_from(bytes.len()).ok()?;
        Some(short)
    }

    /// Keeps the first 64 of `bytes`, which must be ASCII.
    fn of(bytes: impl Iterator<Item = u8>) -> Self {
        let mut short = Self::EMPTY;
        for (place, byte) in short.text.iter_mut().zip(bytes) {
            debug_assert!(byte.is_ascii_graphic());
            *place = byte;
            short.len += 1;
        }
        short
    }

    fn as_bytes(&self) -> &[u8] {
        self.text.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn as_str(&self) -> &str {
        let text = self.text.get(..usize::from(self.len)).and_then(|text| std::str::from_utf8(text).ok());
        debug_assert!(text.is_some(), "only ASCII is kept");
        text.unwrap_or_default()
    }
}

/// Equal texts have equal bytes, because the rest is zero.
impl Hash for ShortText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.as_bytes());
    }
}

/// The id of a request: the first 64 bytes of a text that are letters, digits or one of `. _ : - /`. Prints `-` if empty.
///
/// Other characters are left out, so that an id from outside cannot forge a log line. Takes 65 bytes and allocates
/// nothing.
///
/// # Examples
///
/// ```
/// use plimsoll::monitor::RequestId;
///
/// let id = RequestId::new("orders/4f1c9a\nREPORT forged");
/// assert_eq!(id.as_str(), "orders/4f1c9aREPORTforged");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(ShortText);

impl RequestId {
    /// Creates an id from the characters of `text` that a report may show.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::monitor::RequestId;
    /// assert_eq!(RequestId::new("\n").to_string(), "-");
    /// ```
    pub fn new(text: &str) -> Self {
        let is_clean = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-/".contains(&byte);
        let text = ShortText::of_clean(text, is_clean)
            .unwrap_or_else(|| ShortText::of(text.bytes().filter(|byte| is_clean(*byte))));
        Self(text)
    }

    /// Returns the text; empty if no character was kept.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::monitor::RequestId;
    /// assert_eq!(RequestId::from("4f1c").as_str(), "4f1c");
    /// ```
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// The kind of work that an invocation does, such as the route of an HTTP request. Prints its text.
///
/// Reports show it next to the request id. A label should have few values: `/orders/{id}` rather than `/orders/4711`.
/// Holds the first 64 bytes of a text. Spaces, control characters, quotes, backslashes and all that is not ASCII become
/// `_`, one for each byte. Takes 65 bytes and allocates nothing.
///
/// # Examples
///
/// ```
/// use plimsoll::monitor::Label;
///
/// assert_eq!(Label::new("GET:/orders/{id}").as_str(), "GET:/orders/{id}");
/// assert_eq!(Label::new("nightly \"import\"").as_str(), "nightly__import_");
/// assert_eq!(Label::default(), Label::new(""));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Label(ShortText);

impl Label {
    /// Creates a label from `text`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::monitor::Label;
    /// assert_eq!(Label::new("/orders").to_string(), "/orders");
    /// ```
    pub fn new(text: &str) -> Self {
        let is_clean = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        let text = ShortText::of_clean(text, is_clean)
            .unwrap_or_else(|| ShortText::of(text.bytes().map(|byte| if is_clean(byte) { byte } else { b'_' })));
        Self(text)
    }

    /// Returns the text.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::monitor::Label;
    /// assert_eq!(Label::from("/orders").as_str(), "/orders");
    /// ```
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Returns `true` if the label has no text. Reports then leave it out.
    pub const fn is_empty(&self) -> bool {
        self.0.len == 0
    }
}

/// The empty label.
impl Default for Label {
    fn default() -> Self {
        Self(ShortText::EMPTY)
    }
}

impl RequestId {
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Label {
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Conversions from the usual text types, and `Debug`.
macro_rules! from_text {
    ($($name:ident),+) => {$(
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::new(&text)
            }
        }

        impl From<&String> for $name {
            fn from(text: &String) -> Self {
                Self::new(text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )+};
}

from_text!(RequestId, Label);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if self.0.len == 0 { "-" } else { self.as_str() })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_any_text_becomes_printable_ascii_without_quotes() {
        for (text, label) in [
            ("/orders/{id}", "/orders/{id}"),
            ("a b\t\n\"c\\", "a_b___c_"),
            ("é", "__"),
            ("", ""),
            (&"x".repeat(100), &"x".repeat(64)),
        ] {
            assert_eq!(Label::new(text).as_str(), label, "{text:?}");
        }
    }
}
