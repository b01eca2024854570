//! When a report line is printed.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// The environment variable that overrides the policy a program was built with.
///
/// # Examples
///
/// ```
/// use plimsoll::monitor::{POLICY_VARIABLE, ReportPolicy};
///
/// let policy = std::env::var(POLICY_VARIABLE).map_or(Ok(ReportPolicy::Each), |text| text.parse())?;
/// # let _ = policy;
/// # Ok::<(), plimsoll::monitor::ParsePolicyError>(())
/// ```
pub const POLICY_VARIABLE: &str = "PLIMSOLL";

/// Which invocations print their report line, finished or not. An alert is printed whatever the policy, but `Off`.
///
/// Reads as `each`, `every(100)`, `on_change` or `off`, in the variable `PLIMSOLL` as elsewhere.
///
/// ```
/// use plimsoll::monitor::ReportPolicy;
///
/// assert_eq!("each".parse(), Ok(ReportPolicy::Each));
/// assert!("every(0)".parse::<ReportPolicy>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReportPolicy {
    /// Every invocation.
    #[default]
    Each,
    /// The first of every so many.
    Every(NonZeroU32),
    /// Those whose load line, fitting memory size, verdict or peak (by a tenth of the capacity) differs from the line
    /// printed last.
    OnChange,
    /// None. The alarm and the last words are no reports; they are written all the same.
    Off,
}

/// A policy that does not read as `each`, `every(n)`, `on_change` or `off`.
///
/// # Examples
///
/// ```
/// use plimsoll::monitor::{ParsePolicyError, ReportPolicy};
///
/// let wrong: Result<ReportPolicy, ParsePolicyError> = "sometimes".parse();
/// assert_eq!(
///     wrong.unwrap_err().to_string(),
///     "report policy \"sometimes\" is not each, every(n) with n of 1 or more, on_change or off"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("report policy {text:?} is not each, every(n) with n of 1 or more, on_change or off")]
#[non_exhaustive]
pub struct ParsePolicyError {
    /// What was given, cleaned and cut to 40 characters.
    pub text: Box<str>,
}

/// Prints what [`FromStr`] reads.
impl fmt::Display for ReportPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Each => f.pad("each"),
            Self::Every(invocations) => write!(f, "every({invocations})"),
            Self::OnChange => f.pad("on_change"),
            Self::Off => f.pad("off"),
        }
    }
}

impl FromStr for ReportPolicy {
    type Err = ParsePolicyError;

    fn from_str(text: &str) -> Result<Self, ParsePolicyError> {
        let every = |text: &str| {
            let number = text.strip_prefix("every(")?.strip_suffix(')')?;
            // A sign would parse.
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            number.parse().ok().filter(|_| digits).map(Self::Every)
        };
        match text.trim() {
            "each" => Ok(Self::Each),
            "on_change" => Ok(Self::OnChange),
            "off" => Ok(Self::Off),
            other => every(other).ok_or_else(|| ParsePolicyError { text: crate::size::quotable(text) }),
        }
    }
}
