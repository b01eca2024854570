//! The setting of the profile as text: the value of `PLIMSOLL_PROFILE`.

use std::fmt;
use std::str::FromStr;

use crate::error_chain::debug_as_chain;
use crate::size::ByteSize;

use super::{DEFAULT_INTERVAL, MAX_INTERVAL, MIN_INTERVAL};

/// The setting of the profile, in the syntax of `PLIMSOLL_PROFILE`: `on`, `off`, or the sampling interval, such as
/// `64KiB` or `65536`.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, heap::profile::ProfileSetting};
///
/// assert_eq!("on".parse(), Ok(ProfileSetting::On { interval: ByteSize::kib(512) }));
/// assert_eq!("64KiB".parse(), Ok(ProfileSetting::On { interval: ByteSize::kib(64) }));
/// assert_eq!("off".parse(), Ok(ProfileSetting::Off));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProfileSetting {
    /// No profile.
    #[default]
    Off,
    /// A profile.
    On {
        /// The sampling interval.
        interval: ByteSize,
    },
}

impl ProfileSetting {
    /// A profile with the [default interval](DEFAULT_INTERVAL).
    pub const ON: Self = Self::On { interval: DEFAULT_INTERVAL };
}

impl fmt::Display for ProfileSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On { interval } => write!(f, "{}", interval.as_u64()),
        }
    }
}

/// Error returned for a text that is no [`ProfileSetting`].
///
/// # Examples
///
/// ```
/// use plimsoll::heap::profile::ProfileSetting;
///
/// let error = "often".parse::<ProfileSetting>().unwrap_err();
/// assert_eq!(error.to_string(), r#"heap profile "often", expected on, off or an interval of 64.0 KiB to 1.0 GiB"#);
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("heap profile {:?}, expected on, off or an interval of {MIN_INTERVAL} to {MAX_INTERVAL}", shortened(.text))]
#[non_exhaustive]
pub struct ParseProfileSettingError {
    /// The text.
    pub text: String,
}

debug_as_chain!(ParseProfileSettingError);

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

impl FromStr for ProfileSetting {
    type Err = ParseProfileSettingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let word = text.trim();
        if word.eq_ignore_ascii_case("on") {
            return Ok(Self::ON);
        }
        if word.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        let interval = word.parse().ok().filter(|interval| (MIN_INTERVAL..=MAX_INTERVAL).contains(interval));
        interval.map(|interval| Self::On { interval }).ok_or_else(|| ParseProfileSettingError { text: text.to_owned() })
    }
}
