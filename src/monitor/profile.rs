//! The setting of the profile of allocation sites, and the environment variable that overrides it.

use std::ffi::OsString;

#[cfg(feature = "profile")]
use crate::heap::profile::{self, ProfileSetting, StackSource, StartError};

#[cfg(feature = "profile")]
use super::MonitorBuilder;

/// The variable that overrides the setting of the program.
const VARIABLE: &str = "PLIMSOLL_PROFILE";

/// The setting of a monitor. Without the feature it is always off.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Profile {
    #[cfg(feature = "profile")]
    setting: ProfileSetting,
}

impl Profile {
    /// Returns the setting of the environment, read through `lookup`, or this one if there is none. Adds a warning to
    /// `warnings` for a value that it cannot use.
    pub(super) fn or_env(self, lookup: impl Fn(&str) -> Option<OsString>, warnings: &mut Vec<String>) -> Self {
        let Some(value) = lookup(VARIABLE) else { return self };
        self.or_value(&value.to_string_lossy(), warnings)
    }
}

#[cfg(feature = "profile")]
impl Profile {
    fn or_value(self, value: &str, warnings: &mut Vec<String>) -> Self {
        match value.parse() {
            Ok(setting) => Self { setting },
            Err(error) => {
                warnings.push(format!("{VARIABLE} is ignored: {error}"));
                self
            }
        }
    }

    /// Starts the profile of the process, if it is on and not started yet. Returns a warning if it is of no use.
    pub(super) fn start(self) -> Option<String> {
        let ProfileSetting::On { interval, .. } = self.setting else { return None };
        match profile::start(interval) {
            Ok(()) => {}
            Err(StartError::AlreadyStarted) => return None,
            Err(error) => return Some(format!("no profile of allocation sites: {error}")),
        }
        let has_stacks = profile::live().is_ok_and(|profile| profile.stacks != StackSource::Unavailable);
        (!has_stacks).then(|| {
            "the profile cannot tell allocation sites apart, because this program has no frame pointers: build it with \
             RUSTFLAGS=\"-C force-frame-pointers=yes\""
                .to_owned()
        })
    }
}

#[cfg(not(feature = "profile"))]
impl Profile {
    fn or_value(self, value: &str, warnings: &mut Vec<String>) -> Self {
        let value = value.trim();
        if value.is_empty() {
            warnings.push(format!("{VARIABLE} is ignored: it is set but empty"));
        } else if !value.eq_ignore_ascii_case("off") {
            warnings.push(format!(
                "{VARIABLE} is ignored: this program has no profiler; build it with the feature `profile` of plimsoll"
            ));
        }
        self
    }

    #[expect(clippy::unused_self, reason = "the feature `profile` uses it")]
    pub(super) const fn start(self) -> Option<String> {
        None
    }
}

#[cfg(feature = "profile")]
impl MonitorBuilder {
    /// Sets whether [`install`](Self::install) starts the profile of allocation sites, and at which interval (feature
    /// `profile`). Default: off. The variable `PLIMSOLL_PROFILE` overrides it.
    ///
    /// The profile belongs to the process and cannot be stopped. See the
    /// [guide of memory attribution](crate::guide::attribution).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use plimsoll::Monitor;
    ///
    /// let monitor = Monitor::builder().profile("64KiB".parse()?).install()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn profile(mut self, setting: ProfileSetting) -> Self {
        self.profile = Profile { setting };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(value: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        let _profile = Profile::default().or_env(|name| (name == VARIABLE).then(|| value.into()), &mut warnings);
        warnings
    }

    #[test]
    fn or_env_without_a_variable_or_with_off_is_silent() {
        let mut none = Vec::new();
        assert!(Profile::default().or_env(|_| None, &mut none).start().is_none());
        assert_eq!((none.len(), warnings("off")), (0, vec![]));
    }

    #[test]
    fn or_env_empty_or_invalid_value_is_one_warning() {
        for value in ["", "  ", "perhaps", "-1", "on\n{\"forged\":1}"] {
            let warnings = warnings(value);
            assert_eq!(warnings.len(), 1, "{value:?}: {warnings:?}");
            assert!(warnings[0].starts_with("PLIMSOLL_PROFILE is ignored: "), "{warnings:?}");
            assert!(!warnings[0].contains('\n'), "{warnings:?}");
        }
    }

    #[test]
    fn or_env_on_needs_the_feature() {
        let warnings = [warnings("on"), warnings("64KiB")].concat();
        if cfg!(feature = "profile") {
            assert_eq!(warnings, [""; 0]);
        } else {
            assert!(warnings.len() == 2 && warnings.iter().all(|warning| warning.contains("feature `profile`")));
        }
    }
}
