//! Reading a size: a decimal number, an exponent, a unit, in integers throughout.

use std::str::FromStr;

use crate::error_chain::debug_as_chain;

use super::{ByteSize, GB, GIB, KB, KIB, MB, MIB, TB, TIB};

/// Tells why a text is not a [`ByteSize`].
///
/// The offending text is quoted in ASCII, escaped and cut to 40 characters, so that it is safe in a log line.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
///
/// let wrong = "128M".parse::<ByteSize>().unwrap_err();
/// println!("{wrong}");
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseByteSizeError {
    /// There is nothing but white space.
    #[error("an empty text is not a size in bytes")]
    Empty,
    /// The text is longer than any size needs to be.
    #[error("\"{text}\" is no size in bytes: more than {MAX_TEXT} characters or {MAX_DIGITS} digits")]
    #[non_exhaustive]
    TooLong {
        /// Its beginning.
        text: Box<str>,
    },
    /// The number is below zero.
    #[error("\"{text}\" is below 0 bytes")]
    #[non_exhaustive]
    Negative {
        /// The whole text.
        text: Box<str>,
    },
    /// The text does not begin with a decimal number such as `128`, `118.4` or `7.9E7`.
    #[error("\"{text}\" does not begin with a decimal number of bytes, as in \"118.4 MiB\"")]
    #[non_exhaustive]
    NotANumber {
        /// The whole text.
        text: Box<str>,
    },
    /// The unit may count in thousands or in 1,024s.
    #[error("the unit \"{unit}\" is ambiguous: write {decimal} (1000-based) or {binary} (1024-based)")]
    #[non_exhaustive]
    AmbiguousUnit {
        /// The unit as written.
        unit: Box<str>,
        /// The 1000-based unit it may mean.
        decimal: &'static str,
        /// The 1024-based unit it may mean.
        binary: &'static str,
    },
    /// What follows the number is no unit.
    #[error("\"{unit}\" is no unit of bytes: expected B, KB, KiB, MB, MiB, GB, GiB, TB or TiB")]
    #[non_exhaustive]
    UnknownUnit {
        /// What follows the number.
        unit: Box<str>,
    },
    /// The size is past [`ByteSize::MAX`].
    #[error("\"{text}\" is more than {} bytes", u64::MAX)]
    #[non_exhaustive]
    TooLarge {
        /// The whole text.
        text: Box<str>,
    },
}

debug_as_chain!(ParseByteSizeError);

/// The longest text read; the longest printed has 32 bytes.
const MAX_TEXT: usize = 48;

/// The digits a number may have. 10^26 x 1 TiB is just below 2^127, so number x unit is exact in 128 bits.
const MAX_DIGITS: usize = 26;

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    /// Reads a size, in integers throughout. What is read, and how it rounds, is said at [`ByteSize`].
    ///
    /// # Errors
    ///
    /// [`ParseByteSizeError`] for everything else, and for sizes past [`ByteSize::MAX`].
    fn from_str(text: &str) -> Result<Self, ParseByteSizeError> {
        use ParseByteSizeError::{Empty, NotANumber, TooLarge, TooLong};

        let text = text.trim_ascii();
        if text.is_empty() {
            return Err(Empty);
        }
        if text.len() > MAX_TEXT {
            return Err(TooLong { text: quotable(text) });
        }
        if text.starts_with('-') {
            return Err(ParseByteSizeError::Negative { text: quotable(text) });
        }

        let (whole, mut rest) = split_digits(text);
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            (fraction, rest) = split_digits(after);
            if fraction.is_empty() {
                return Err(NotANumber { text: quotable(text) });
            }
        }
        if whole.is_empty() || rest.starts_with(['.', '_', ',']) {
            return Err(NotANumber { text: quotable(text) });
        }
        let digits = whole.len() + fraction.len();
        if digits > MAX_DIGITS {
            return Err(TooLong { text: quotable(text) });
        }
        let (exponent, rest) = split_exponent(rest);
        let unit = unit(rest.trim_ascii_start())?;

        let number = whole.bytes().chain(fraction.bytes()).fold(0, |n, digit| n * 10 + u128::from(digit - b'0'));
        let places = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
        scaled(number * u128::from(unit), exponent.saturating_sub(places))
            .and_then(|bytes| u64::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| TooLarge { text: quotable(text) })
    }
}

/// Splits off the ASCII digits that `text` begins with.
fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// Splits off an exponent, zero where there is none; one past the range of `i32` saturates.
fn split_exponent(text: &str) -> (i32, &str) {
    let Some(after) = text.strip_prefix(['e', 'E']) else { return (0, text) };
    let (negative, after) = match after.strip_prefix('-') {
        Some(after) => (true, after),
        None => (false, after.strip_prefix('+').unwrap_or(after)),
    };
    let (digits, rest) = split_digits(after);
    if digits.is_empty() {
        return (0, text);
    }
    let size = digits.bytes().fold(0_i32, |n, digit| n.saturating_mul(10).saturating_add(i32::from(digit - b'0')));
    (if negative { -size } else { size }, rest)
}

/// The bytes in one `unit`.
fn unit(unit: &str) -> Result<u64, ParseByteSizeError> {
    const UNITS: [(&str, u64); 9] = [
        ("B", 1),
        ("KB", KB),
        ("KiB", KIB),
        ("MB", MB),
        ("MiB", MIB),
        ("GB", GB),
        ("GiB", GIB),
        ("TB", TB),
        ("TiB", TIB),
    ];
    const BARE: [(&str, &str, &str); 4] =
        [("K", "kB", "KiB"), ("M", "MB", "MiB"), ("G", "GB", "GiB"), ("T", "TB", "TiB")];

    if unit.is_empty() {
        return Ok(1);
    }
    if let Some((_, bytes)) = UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        return Ok(bytes);
    }
    if let Some((_, decimal, binary)) = BARE.into_iter().find(|(name, ..)| name.eq_ignore_ascii_case(unit)) {
        return Err(ParseByteSizeError::AmbiguousUnit { unit: quotable(unit), decimal, binary });
    }
    Err(ParseByteSizeError::UnknownUnit { unit: quotable(unit) })
}

/// `number` x 10^`exponent`, rounded half up to a whole; `None` where it does not fit. `number` is below 2^127.
fn scaled(number: u128, exponent: i32) -> Option<u128> {
    let power = 10_u128.checked_pow(exponent.unsigned_abs());
    match (number, power) {
        (0, _) => Some(0),
        (_, Some(power)) if exponent >= 0 => number.checked_mul(power),
        // Never overflows: the remainder is below the power of ten, and that is below 2^127.
        (_, Some(power)) => Some(number / power + u128::from(number % power >= power.div_ceil(2))),
        (_, None) if exponent >= 0 => None,
        // 10^39 is more than twice 2^127.
        (_, None) => Some(0),
    }
}

/// `text` in printable ASCII, escaped and cut to 40 characters: what comes from outside, safe to quote in a message.
pub(crate) fn quotable(text: &str) -> Box<str> {
    const MAX: usize = 40;
    const CUT: &str = "...";

    let mut quoted = String::with_capacity(MAX);
    for (at, char) in text.char_indices() {
        let is_last = at + char.len_utf8() == text.len();
        let room = MAX - quoted.len() - if is_last { 0 } else { CUT.len() };
        let escaped = char.escape_default();
        if escaped.len() > room {
            quoted.push_str(CUT);
            break;
        }
        quoted.extend(escaped);
    }
    quoted.into_boxed_str()
}
