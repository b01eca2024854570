//! Decimal figures out of a log line, read exactly: milliseconds to the nanosecond, megabytes to the byte.

use std::time::Duration;

use crate::size::ByteSize;

/// Decimal places that are kept: nanoseconds of a millisecond.
const PLACES: usize = 6;
const SCALE: u64 = 1_000_000;

/// Digits before the point. With [`PLACES`] more they fit 64 bits.
const MAX_DIGITS: usize = 12;

/// The decimal number at the beginning of `text` in millionths, and the text behind it.
///
/// Further places are rounded, halves up. `None` if there is no digit on either side of a point, or too many of them.
pub(super) fn decimal(text: &[u8]) -> Option<(u64, &[u8])> {
    let (whole, rest) = digits(text);
    let mut value = number(whole.get(..MAX_DIGITS).unwrap_or(whole));
    if whole.is_empty() || whole.len() > MAX_DIGITS {
        return None;
    }
    value *= SCALE;
    let Some((b'.', rest)) = rest.split_first().map(|(first, rest)| (*first, rest)) else {
        return Some((value, rest));
    };
    let (places, rest) = digits(rest);
    let kept = places.get(..PLACES).unwrap_or(places);
    let missing = PLACES - kept.len();
    value += (0..missing).fold(number(kept), |kept, _| kept * 10);
    value += u64::from(places.get(PLACES).is_some_and(|next| *next >= b'5'));
    (!places.is_empty()).then_some((value, rest))
}

fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Ms,
    Mb,
}

impl Unit {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ms => "ms",
            Self::Mb => "MB",
        }
    }
}

/// Milliseconds given in millionths.
pub(super) const fn milliseconds(millionths: u64) -> Duration {
    Duration::from_nanos(millionths)
}

/// AWS's "MB", of 1,048,576 bytes each, given in millionths.
pub(super) const fn megabytes(millionths: u64) -> ByteSize {
    // No figure has more than 2^40 of them.
    let (whole, part) = (millionths / SCALE, millionths % SCALE);
    ByteSize::bytes((whole << 20) + (part << 20) / SCALE)
}

/// The milliseconds of a duration as a float, correctly rounded up to 104 days.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53 ns, and both sides of the division are then exact")]
pub(super) fn as_ms(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}
