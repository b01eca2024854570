//! Byte counts that know their unit: a size, a signed difference of sizes, and the text of both.
//!
//! Memory limits fail by unit: AWS writes "MB" and means 1,048,576 bytes, a log query answers `7.9E7`, a person types
//! `128M`. All arithmetic here is in integers, checked or saturating by name, and text goes both ways without floats.

mod parse;

use std::fmt::{self, Write};

pub use parse::ParseByteSizeError;
pub(crate) use parse::quotable;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const KB: u64 = 1_000;
const MB: u64 = 1_000_000;
const GB: u64 = 1_000_000_000;
const TB: u64 = 1_000_000_000_000;

/// A number of bytes, from 0 to `u64::MAX`.
///
/// The unit is always said: [`ByteSize::mib`] counts in 1,048,576 bytes, [`ByteSize::mb`] in 1,000,000. **The "MB" in
/// which AWS Lambda gives a function's memory size is a MiB**: 128 "MB" are `ByteSize::mib(128)`.
///
/// There is no `+` and no `-`: a sum that wraps is a limit that does not hold, so each operation says in its name
/// what it does at the end of the range. All are `const`, take constant time and allocate nothing.
///
/// # Text
///
/// `Display` prints the largest 1024-based unit that leaves a whole part, rounded half up to one decimal place or to
/// the precision given, of which at most 18 places count; bytes have none. Width, fill and alignment are honoured,
/// and the default alignment is to the right, as for numbers. It allocates nothing.
///
/// `FromStr` reads that text back to within its rounding, and besides it any decimal number with an optional exponent
/// and one of the units `B KB KiB MB MiB GB GiB TB TiB`, in any case; without a unit, bytes. `128 MB` are 128,000,000
/// bytes and `128 MiB` 134,217,728. Fractions of a byte round to the nearest, halves up. Bits are not known: `Mb` is
/// read as `MB`.
///
/// # Examples
///
/// ```
/// use plimsoll::ByteSize;
///
/// let limit = ByteSize::mib(128);
/// assert_eq!(limit.to_string(), "128.0 MiB");
/// assert_eq!(format!("{:.0}", limit.percent(90)), "115 MiB");
///
/// assert_eq!("118.4 MiB".parse::<ByteSize>()?, ByteSize::bytes(124_151_398));
/// assert_eq!("7.9E7".parse::<ByteSize>()?, ByteSize::mb(79)); // as CloudWatch Logs Insights prints bytes
/// assert!("128M".parse::<ByteSize>().is_err()); // MB or MiB? They differ by 5 %.
/// # Ok::<(), plimsoll::ParseByteSizeError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

impl ByteSize {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// The largest size there is, `u64::MAX` bytes; as a limit, none.
    pub const MAX: Self = Self(u64::MAX);

    /// A size of `n` bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::bytes(4096), ByteSize::kib(4));
    /// ```
    #[must_use]
    pub const fn bytes(n: u64) -> Self {
        Self(n)
    }

    /// A size of `n` x 1,024 bytes; [`ByteSize::MAX`] where that does not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::kib(64).as_u64(), 65_536);
    /// ```
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n.saturating_mul(KIB))
    }

    /// A size of `n` x 1,048,576 bytes, the unit of Lambda's memory size; [`ByteSize::MAX`] where that does not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::mib(128).as_u64(), 134_217_728);
    /// ```
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n.saturating_mul(MIB))
    }

    /// A size of `n` x 1,073,741,824 bytes; [`ByteSize::MAX`] where that does not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::gib(10), ByteSize::mib(10_240)); // the largest function
    /// ```
    #[must_use]
    pub const fn gib(n: u64) -> Self {
        Self(n.saturating_mul(GIB))
    }

    /// A size of `n` x 1,000 bytes; [`ByteSize::MAX`] where that does not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::kb(64).as_u64(), 64_000);
    /// ```
    #[must_use]
    pub const fn kb(n: u64) -> Self {
        Self(n.saturating_mul(KB))
    }

    /// A size of `n` x 1,000,000 bytes; [`ByteSize::MAX`] where that does not fit. Not Lambda's "MB": see
    /// [`ByteSize::mib`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::mb(128).to_string(), "122.1 MiB");
    /// ```
    #[must_use]
    pub const fn mb(n: u64) -> Self {
        Self(n.saturating_mul(MB))
    }

    /// A size of `n` x 1,000,000,000 bytes; [`ByteSize::MAX`] where that does not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::gb(1).as_u64(), 1_000_000_000);
    /// ```
    #[must_use]
    pub const fn gb(n: u64) -> Self {
        Self(n.saturating_mul(GB))
    }

    /// Tells the size in bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::kib(2).as_u64(), 2048);
    /// ```
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Tells the size in bytes, or `usize::MAX` where 32 bits do not hold it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// let buffer: Vec<u8> = Vec::with_capacity(ByteSize::kib(64).as_usize());
    /// assert!(buffer.capacity() >= 65_536);
    /// ```
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "tested one line above")]
    pub const fn as_usize(self) -> usize {
        if self.0 > usize::MAX as u64 { usize::MAX } else { self.0 as usize }
    }

    /// Tells the size in MiB, for metrics and charts. Exact up to 8 PiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert!((ByteSize::kib(1536).as_mib_f64() - 1.5).abs() < 1e-9);
    /// ```
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53 bytes, and above it nobody counts them")]
    pub const fn as_mib_f64(self) -> f64 {
        self.0 as f64 / MIB as f64
    }

    /// The sum, or `None` where it does not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::mib(1).checked_add(ByteSize::mib(2)), Some(ByteSize::mib(3)));
    /// assert_eq!(ByteSize::MAX.checked_add(ByteSize::bytes(1)), None);
    /// ```
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or `None` where `other` is larger.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::mib(3).checked_sub(ByteSize::mib(2)), Some(ByteSize::mib(1)));
    /// assert_eq!(ByteSize::ZERO.checked_sub(ByteSize::bytes(1)), None);
    /// ```
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// The size `factor` times, or `None` where that does not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::kib(64).checked_mul(8), Some(ByteSize::kib(512)));
    /// assert_eq!(ByteSize::MAX.checked_mul(2), None);
    /// ```
    #[must_use]
    pub const fn checked_mul(self, factor: u64) -> Option<Self> {
        match self.0.checked_mul(factor) {
            Some(product) => Some(Self(product)),
            None => None,
        }
    }

    /// The sum, or [`ByteSize::MAX`] where it does not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::MAX.saturating_add(ByteSize::bytes(1)), ByteSize::MAX);
    /// ```
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or [`ByteSize::ZERO`] where `other` is larger.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// let (limit, live) = (ByteSize::mib(100), ByteSize::mib(130));
    /// assert_eq!(limit.saturating_sub(live), ByteSize::ZERO);
    /// ```
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The size `factor` times, or [`ByteSize::MAX`] where that does not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::kib(64).saturating_mul(u64::MAX), ByteSize::MAX);
    /// ```
    #[must_use]
    pub const fn saturating_mul(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// The share of `percent` hundredths, rounded down; [`ByteSize::MAX`] where that does not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteSize;
    /// assert_eq!(ByteSize::bytes(1_000).percent(97), ByteSize::bytes(970));
    /// assert_eq!(ByteSize::MAX.percent(50), ByteSize::bytes(u64::MAX / 2));
    /// ```
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "tested one line above")]
    pub const fn percent(self, percent: u32) -> Self {
        let share = self.0 as u128 * percent as u128 / 100;
        if share > u64::MAX as u128 { Self::MAX } else { Self(share as u64) }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::new();
        text.size(self.0, f.precision())?;
        f.pad_integral(true, "", text.as_str())
    }
}

impl fmt::Debug for ByteSize {
    /// Prints the exact count, and from 1 KiB on the readable one beside it: `ByteSize(2048 B, 2.0 KiB)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ..KIB => write!(f, "ByteSize({} B)", self.0),
            KIB.. => write!(f, "ByteSize({} B, {self})", self.0),
        }
    }
}

/// A signed number of bytes: by how much a size grew (`+`) or shrank (`-`).
///
/// `Display` is that of [`ByteSize`] with the sign always shown, zero as `+0 B`.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteDelta, ByteSize};
///
/// let kept = ByteDelta::between(ByteSize::kib(512), ByteSize::mib(2));
/// assert_eq!(kept.to_string(), "+1.5 MiB");
/// assert_eq!(ByteDelta::bytes(-1024).to_string(), "-1.0 KiB");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteDelta(i64);

impl ByteDelta {
    /// A difference of `n` bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::ByteDelta;
    /// assert_eq!(ByteDelta::bytes(0).to_string(), "+0 B");
    /// ```
    #[must_use]
    pub const fn bytes(n: i64) -> Self {
        Self(n)
    }

    /// What leads from `before` to `after`, clamped to the range of `i64`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteDelta, ByteSize};
    /// let (before, after) = (ByteSize::mib(3), ByteSize::mib(1));
    /// assert_eq!(ByteDelta::between(before, after), ByteDelta::bytes(-2_097_152));
    /// ```
    #[must_use]
    pub const fn between(before: ByteSize, after: ByteSize) -> Self {
        if after.0 >= before.0 {
            let grown = after.0 - before.0;
            Self(if grown > i64::MAX as u64 { i64::MAX } else { grown.cast_signed() })
        } else {
            let shrunk = before.0 - after.0;
            Self(if shrunk > i64::MAX as u64 { i64::MIN } else { -shrunk.cast_signed() })
        }
    }

    /// Tells the difference in bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteDelta, ByteSize};
    /// assert!(ByteDelta::between(ByteSize::kib(4), ByteSize::kib(1)).as_i64() < 0);
    /// ```
    #[must_use]
    pub const fn as_i64(self) -> i64 {
        self.0
    }

    /// Tells the size of the difference, without its sign.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteDelta, ByteSize};
    /// assert_eq!(ByteDelta::bytes(-1024).magnitude(), ByteSize::kib(1));
    /// ```
    #[must_use]
    pub const fn magnitude(self) -> ByteSize {
        ByteSize(self.0.unsigned_abs())
    }
}

impl fmt::Display for ByteDelta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::new();
        // The formatter adds the sign of what is negative, and with `{:+}` that of the rest.
        if self.0 >= 0 && !f.sign_plus() {
            text.write_char('+')?;
        }
        text.size(self.0.unsigned_abs(), f.precision())?;
        f.pad_integral(self.0 >= 0, "", text.as_str())
    }
}

impl fmt::Debug for ByteDelta {
    /// Prints the exact count, and from 1 KiB on the readable one beside it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.unsigned_abs() {
            ..KIB => write!(f, "ByteDelta({:+} B)", self.0),
            KIB.. => write!(f, "ByteDelta({:+} B, {self})", self.0),
        }
    }
}

/// Decimal places that `Display` prints at most: with more, the scaled count would not fit 128 bits.
const MAX_PLACES: usize = 18;

/// A text on the stack, so that a size prints where nothing may be allocated. The longest has 32 bytes.
struct Text {
    bytes: [u8; 40],
    len: usize,
}

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; 40], len: 0 }
    }

    fn as_str(&self) -> &str {
        self.bytes.get(..self.len).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }

    /// Appends `bytes` in the smallest unit of which there are fewer than 1,024 after rounding, so that 1023.96 KiB
    /// becomes 1.0 MiB.
    fn size(&mut self, bytes: u64, places: Option<usize>) -> fmt::Result {
        if bytes < KIB {
            return write!(self, "{bytes} B");
        }
        let places = places.unwrap_or(1).min(MAX_PLACES);
        let scale = (0..places).fold(1_u128, |scale, _| scale * 10);
        let rounded = |unit: u64| (u128::from(bytes) * scale + u128::from(unit / 2)) / u128::from(unit);
        let (scaled, name) = [(KIB, "KiB"), (MIB, "MiB"), (GIB, "GiB")]
            .into_iter()
            .map(|(unit, name)| (rounded(unit), name))
            .find(|(scaled, _)| *scaled < 1024 * scale)
            .unwrap_or_else(|| (rounded(TIB), "TiB"));
        let (whole, rest) = (scaled / scale, scaled % scale);
        match places {
            0 => write!(self, "{whole} {name}"),
            _ => write!(self, "{whole}.{rest:0places$} {name}"),
        }
    }
}

impl Write for Text {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let end = self.len + more.len();
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(more.as_bytes());
        self.len = end;
        Ok(())
    }
}
