//! Which invocations print a report line, and the environment variable that selects it.

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use crate::error_chain::debug_as_chain;
use crate::size::quotable;

/// The environment variable that overrides the report policy of the program.
///
/// # Examples
///
/// ```
/// use plimsoll::monitor::{REPORT_VARIABLE, ReportPolicy};
///
/// let policy = std::env::var(REPORT_VARIABLE).map_or(Ok(ReportPolicy::Each), |text| text.parse())?;
/// # let _ = policy;
/// # Ok::<(), plimsoll::monitor::ParsePolicyError>(())
/// ```
pub const REPORT_VARIABLE: &str = "PLIMSOLL_REPORT";

/// The variable of the release candidates, which is read for one release more, in its old syntax too.
const OLD_VARIABLE: &str = "PLIMSOLL";

/// Which invocations print their report line. Finished and unfinished invocations count alike.
///
/// An [alert](super::Alert) prints a line under every policy but `Off`. The text form is `each`, `every:100`,
/// `on-change` or `off`, also in the variable `PLIMSOLL_REPORT`.
///
/// ```
/// use plimsoll::monitor::ReportPolicy;
///
/// assert_eq!("each".parse(), Ok(ReportPolicy::Each));
/// assert_eq!("every:100".parse::<ReportPolicy>()?.to_string(), "every:100");
/// assert!("every:0".parse::<ReportPolicy>().is_err());
/// # Ok::<(), plimsoll::monitor::ParsePolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReportPolicy {
    /// Every invocation.
    #[default]
    Each,
    /// The first invocation of every `n`.
    Every(NonZeroU32),
    /// An invocation with a crossed threshold, recommended memory size, leak verdict or peak (by a tenth of the capacity)
    /// that differs from the line printed last.
    OnChange,
    /// None. Warnings, the alarm and the abort report are not reports; they are still written.
    Off,
}

/// An error returned when text is not a [`ReportPolicy`].
///
/// # Examples
///
/// ```
/// use plimsoll::monitor::{ParsePolicyError, ReportPolicy};
///
/// let wrong: Result<ReportPolicy, ParsePolicyError> = "sometimes".parse();
/// assert_eq!(
///     wrong.unwrap_err().to_string(),
///     "invalid report policy \"sometimes\": expected each, every:N with N of 1 or more, on-change or off"
/// );
/// ```
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid report policy \"{text}\": expected each, every:N with N of 1 or more, on-change or off")]
#[non_exhaustive]
pub struct ParsePolicyError {
    /// The text, escaped and cut to 40 characters.
    pub text: Box<str>,
}

debug_as_chain!(ParsePolicyError);

/// Prints the text form that [`FromStr`] reads.
impl fmt::Display for ReportPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Each => f.pad("each"),
            Self::Every(invocations) => write!(f, "every:{invocations}"),
            Self::OnChange => f.pad("on-change"),
            Self::Off => f.pad("off"),
        }
    }
}

impl FromStr for ReportPolicy {
    type Err = ParsePolicyError;

    /// Parses the text form. Upper and lower case are equal, and blanks around the text do not matter.
    fn from_str(text: &str) -> Result<Self, ParsePolicyError> {
        let lower = text.trim().to_ascii_lowercase();
        match lower.as_str() {
            "each" => Some(Self::Each),
            "on-change" => Some(Self::OnChange),
            "off" => Some(Self::Off),
            other => other.strip_prefix("every:").and_then(every),
        }
        .ok_or_else(|| ParsePolicyError { text: quotable(text) })
    }
}

/// Parses the number of `every:N`.
fn every(number: &str) -> Option<ReportPolicy> {
    // `parse` takes a sign, which is no part of the form.
    let is_digits = number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| is_digits).map(ReportPolicy::Every)
}

/// Reads the policy from the environment through `lookup`; adds a warning to `warnings` for a value it cannot use.
pub(super) fn from_env(lookup: impl Fn(&str) -> Option<OsString>, warnings: &mut Vec<String>) -> Option<ReportPolicy> {
    let parsed = |name: &str, value: &str, warnings: &mut Vec<String>| match value.parse() {
        Ok(policy) => Some(policy),
        Err(error) => {
            warnings.push(format!("{name} is ignored: {error}"));
            None
        }
    };
    if let Some(value) = lookup(REPORT_VARIABLE) {
        return parsed(REPORT_VARIABLE, &value.to_string_lossy(), warnings);
    }
    let value = lookup(OLD_VARIABLE)?;
    // The candidates wrote `every(100)` and `on_change`.
    let value = value.to_string_lossy().replace("every(", "every:").replace(')', "").replace("on_change", "on-change");
    let policy = parsed(OLD_VARIABLE, &value, warnings)?;
    warnings.push(format!("the variable {OLD_VARIABLE} is deprecated: set {REPORT_VARIABLE}={policy}"));
    Some(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Option<ReportPolicy>, Vec<String>) {
        let mut warnings = Vec::new();
        let lookup =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        (from_env(lookup, &mut warnings), warnings)
    }

    fn every(n: u32) -> Option<ReportPolicy> {
        NonZeroU32::new(n).map(ReportPolicy::Every)
    }

    #[test]
    fn from_env_valid_value_is_used_without_warning() {
        for (value, policy) in
            [("each", Some(ReportPolicy::Each)), (" Every:3 ", every(3)), ("OFF", Some(ReportPolicy::Off))]
        {
            assert_eq!(read(&[(REPORT_VARIABLE, value), (OLD_VARIABLE, "each")]), (policy, vec![]));
        }
        assert_eq!(read(&[]), (None, vec![]));
    }

    #[test]
    fn from_env_invalid_value_is_one_warning_and_no_policy() {
        for value in ["", "foo", "every:0", "every:+3", "every:", "every:99999999999", "loud\n{\"forged\":1}"] {
            let (policy, warnings) = read(&[(REPORT_VARIABLE, value), (OLD_VARIABLE, "off")]);
            assert_eq!((policy, warnings.len()), (None, 1), "{warnings:?}");
            assert!(warnings[0].starts_with("PLIMSOLL_REPORT is ignored: invalid report policy"), "{warnings:?}");
            assert!(!warnings[0].contains('\n'), "{warnings:?}");
        }
    }

    #[test]
    fn from_env_old_variable_is_read_with_a_warning() {
        for (value, policy) in
            [("each", "each"), ("every(100)", "every:100"), ("on_change", "on-change"), ("off", "off")]
        {
            let (read, warnings) = read(&[(OLD_VARIABLE, value)]);
            assert_eq!(read.map(|policy| policy.to_string()).as_deref(), Some(policy));
            assert_eq!(warnings, [format!("the variable PLIMSOLL is deprecated: set PLIMSOLL_REPORT={policy}")]);
        }
        assert_eq!(read(&[(OLD_VARIABLE, "")]).1.len(), 1);
    }
}
