//! Short texts out of a log line, kept without an allocation.

use std::fmt;

/// The longest text kept, in bytes.
const LEN: usize = 64;

/// A text of at most 64 bytes out of a log line: a request id, an error type. What is longer is cut.
///
/// It holds no white space and no control characters. 65 bytes, no allocation.
///
/// # Examples
///
/// ```
/// use plimsoll::sizing::ReportLine;
///
/// let line = b"REPORT RequestId: 4f1c\tDuration: 12.00 ms\tMemory Size: 128 MB\tMax Memory Used: 61 MB";
/// let id = ReportLine::parse(line).and_then(|report| report.request_id).ok_or("it has one")?;
/// assert_eq!(id.as_str(), "4f1c");
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShortText {
    bytes: [u8; LEN],
    len: u8,
}

impl ShortText {
    /// The beginning of `bytes`, up to 64 bytes, a control character or what is not UTF-8; `None` if that is nothing.
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..LEN).unwrap_or(bytes);
        // Told over all bytes at once: nearly every text is clean.
        let clean = if bytes.iter().fold(true, |clean, byte| clean & byte.is_ascii_graphic()) {
            bytes
        } else if bytes.is_ascii() {
            let end = bytes.iter().position(|byte| !byte.is_ascii_graphic());
            end.and_then(|end| bytes.get(..end)).unwrap_or(bytes)
        } else {
            let valid = bytes.utf8_chunks().next()?.valid();
            let end = valid.find(|c: char| c.is_control() || c.is_whitespace()).unwrap_or(valid.len());
            bytes.get(..end)?
        };
        let mut text = Self { bytes: [0; LEN], len: u8::try_from(clean.len()).ok().filter(|len| *len > 0)? };
        text.bytes.get_mut(..clean.len())?.copy_from_slice(clean);
        Some(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..usize::from(self.len)).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }
}

impl fmt::Display for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ShortText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}
