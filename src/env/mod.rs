//! What the function's environment says: its memory size, its name, how it was started.
//!
//! Everything is read through a lookup, so that tests never touch the process's own environment, and everything wrong
//! is an error with the variable's name in it. A limit that falls back in silence is a limit that does not hold.

mod cgroup;
mod cgroup_anonymous;
mod cgroup_memory;

use std::{env, ffi::OsString, fmt, io, num::NonZeroU32, path::Path};

use std::sync::atomic::AtomicBool;

use crate::error_chain::debug_as_chain;
use crate::log::warn_once;
use crate::size::{ByteSize, quotable};

pub(crate) use cgroup_anonymous::cgroup_anonymous;
pub use cgroup_memory::CgroupMemory;

const MEMORY_SIZE: &str = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE";
const FUNCTION_NAME: &str = "AWS_LAMBDA_FUNCTION_NAME";
const FUNCTION_VERSION: &str = "AWS_LAMBDA_FUNCTION_VERSION";
const INITIALIZATION_TYPE: &str = "AWS_LAMBDA_INITIALIZATION_TYPE";
const MAX_CONCURRENCY: &str = "AWS_LAMBDA_MAX_CONCURRENCY";

/// What Lambda's own processes take of the memory size, about: Lambda's figure lies some 10 MB above the function's.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, env::ENVIRONMENT_SHARE};
///
/// let left = ByteSize::mib(128).saturating_sub(ENVIRONMENT_SHARE);
/// assert_eq!(left, ByteSize::mib(116)); // what a function of 128 MB has for itself
/// ```
pub const ENVIRONMENT_SHARE: ByteSize = ByteSize::mib(12);

/// The most requests one execution environment of Lambda Managed Instances may be given at a time.
const MOST_CONCURRENT: u32 = 1_600;

/// The largest memory size of a function, in MB, and the largest on Lambda Managed Instances.
const LARGEST_SIZE: u32 = 10_240;
const LARGEST_MANAGED_SIZE: u32 = 32_768;

/// Tells what an AWS Lambda function's environment variables say about it.
///
/// | variable | read as | when missing |
/// |---|---|---|
/// | `AWS_LAMBDA_FUNCTION_MEMORY_SIZE` | 128 to 10,240 MB (Managed Instances: 32,768), MB meaning MiB | an error |
/// | `AWS_LAMBDA_FUNCTION_NAME`, `_VERSION` | text | `None` |
/// | `AWS_LAMBDA_INITIALIZATION_TYPE` | [`InitializationType`] | on demand |
/// | `AWS_LAMBDA_MAX_CONCURRENCY` | 1 to 1,600 requests | 1 |
///
/// A memory size or a text that is empty or not Unicode is an error, and so is a memory size that is not made of digits
/// alone or is below 128 MB. There are two exceptions, each with one line of warning on standard error. A memory size above
/// the range is used as it is, since AWS may raise the largest size. An `AWS_LAMBDA_MAX_CONCURRENCY` that is not a number of
/// the range counts as 1. Nothing here panics.
///
/// The limits are those of the
/// [Lambda developer guide](https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html). Local emulators
/// set the variables too: `cargo lambda` always says 4,096 MB.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, LambdaEnv};
///
/// let env = LambdaEnv::from_lookup(|name| match name {
///     "AWS_LAMBDA_FUNCTION_MEMORY_SIZE" => Some("128".into()),
///     "AWS_LAMBDA_FUNCTION_NAME" => Some("orders".into()),
///     _ => None,
/// })?;
/// assert_eq!(env.memory_size(), ByteSize::mib(128));
/// assert_eq!(env.function_name(), Some("orders"));
/// assert_eq!(env.max_concurrency().get(), 1);
/// # Ok::<(), plimsoll::EnvError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LambdaEnv {
    memory_size: ByteSize,
    function_name: Option<Box<str>>,
    function_version: Option<Box<str>>,
    initialization_type: InitializationType,
    max_concurrency: NonZeroU32,
}

impl LambdaEnv {
    /// Reads the environment of this process. A few small allocations, for the texts.
    ///
    /// # Errors
    ///
    /// [`EnvError`], which names the variable. Off Lambda that is [`EnvError::Missing`]; see [`MemoryLimit::detect`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let env = plimsoll::LambdaEnv::from_env()?;
    /// println!("{} MiB", env.memory_size().as_mib_f64());
    /// # Ok::<(), plimsoll::EnvError>(())
    /// ```
    pub fn from_env() -> Result<Self, EnvError> {
        Self::from_lookup(|name| env::var_os(name))
    }

    /// Reads an environment through `lookup`, which gets a variable's name and returns its value if it is set.
    ///
    /// # Errors
    ///
    /// [`EnvError`], which names the variable.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::LambdaEnv;
    ///
    /// let wrong = LambdaEnv::from_lookup(|name| (name == "AWS_LAMBDA_FUNCTION_MEMORY_SIZE").then(|| "12 8".into()));
    /// assert_eq!(
    ///     wrong.unwrap_err().to_string(),
    ///     "AWS_LAMBDA_FUNCTION_MEMORY_SIZE is \"12 8\": expected digits alone, 128 to 10240 MB of 1,048,576 bytes"
    /// );
    /// ```
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, EnvError> {
        let initialization_type = InitializationType::read(&lookup)?;
        let max_concurrency = max_concurrency(&lookup);
        Ok(Self {
            memory_size: memory_size(&lookup, initialization_type, max_concurrency)?,
            function_name: text(&lookup, FUNCTION_NAME)?,
            function_version: text(&lookup, FUNCTION_VERSION)?,
            initialization_type,
            max_concurrency,
        })
    }

    /// Tells the memory size the function is configured with, past which its environment is killed.
    ///
    /// It covers the whole execution environment: extensions and Lambda's own share too.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, LambdaEnv};
    /// # let of = |name: &str| (name == "AWS_LAMBDA_FUNCTION_MEMORY_SIZE").then(|| "512".into());
    /// let env = LambdaEnv::from_lookup(of)?; // AWS_LAMBDA_FUNCTION_MEMORY_SIZE=512
    /// assert_eq!(env.memory_size(), ByteSize::mib(512));
    /// # Ok::<(), plimsoll::EnvError>(())
    /// ```
    pub fn memory_size(&self) -> ByteSize {
        self.memory_size
    }

    /// Tells the function's name.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{ByteSize, LambdaEnv};
    /// # let of = |name: &str| (name == "AWS_LAMBDA_FUNCTION_MEMORY_SIZE").then(|| "512".into());
    /// let env = LambdaEnv::from_lookup(of)?; // without AWS_LAMBDA_FUNCTION_NAME
    /// assert_eq!(env.function_name().unwrap_or("local"), "local");
    /// # Ok::<(), plimsoll::EnvError>(())
    /// ```
    pub fn function_name(&self) -> Option<&str> {
        self.function_name.as_deref()
    }

    /// Tells the function's version: `$LATEST` or a number.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::LambdaEnv;
    /// # let of = |name: &str| match name {
    /// #     "AWS_LAMBDA_FUNCTION_MEMORY_SIZE" => Some("512".into()),
    /// #     "AWS_LAMBDA_FUNCTION_VERSION" => Some("7".into()),
    /// #     _ => None,
    /// # };
    /// let env = LambdaEnv::from_lookup(of)?; // AWS_LAMBDA_FUNCTION_VERSION=7
    /// assert_eq!(env.function_version(), Some("7"));
    /// # Ok::<(), plimsoll::EnvError>(())
    /// ```
    pub fn function_version(&self) -> Option<&str> {
        self.function_version.as_deref()
    }

    /// Tells how this execution environment was started.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::{InitializationType, LambdaEnv};
    /// # let of = |name: &str| match name {
    /// #     "AWS_LAMBDA_FUNCTION_MEMORY_SIZE" => Some("512".into()),
    /// #     "AWS_LAMBDA_INITIALIZATION_TYPE" => Some("snap-start".into()),
    /// #     _ => None,
    /// # };
    /// let env = LambdaEnv::from_lookup(of)?; // AWS_LAMBDA_INITIALIZATION_TYPE=snap-start
    /// assert_eq!(env.initialization_type(), InitializationType::SnapStart);
    /// # Ok::<(), plimsoll::EnvError>(())
    /// ```
    pub fn initialization_type(&self) -> InitializationType {
        self.initialization_type
    }

    /// Tells how many requests may be in flight in this execution environment at a time.
    ///
    /// # Examples
    ///
    /// ```
    /// # use plimsoll::LambdaEnv;
    /// # let of = |name: &str| match name {
    /// #     "AWS_LAMBDA_FUNCTION_MEMORY_SIZE" => Some("4096".into()),
    /// #     "AWS_LAMBDA_MAX_CONCURRENCY" => Some("16".into()),
    /// #     _ => None,
    /// # };
    /// let env = LambdaEnv::from_lookup(of)?; // AWS_LAMBDA_MAX_CONCURRENCY=16, on Managed Instances
    /// assert_eq!(env.max_concurrency().get(), 16);
    /// # Ok::<(), plimsoll::EnvError>(())
    /// ```
    pub fn max_concurrency(&self) -> NonZeroU32 {
        self.max_concurrency
    }
}

/// Tells how an execution environment was started.
///
/// # Examples
///
/// ```
/// use plimsoll::{InitializationType, LambdaEnv};
///
/// fn may_prefetch(env: &LambdaEnv) -> bool {
///     env.initialization_type() != InitializationType::OnDemand // nobody waits for this start
/// }
/// # let of = |name: &str| (name == "AWS_LAMBDA_FUNCTION_MEMORY_SIZE").then(|| "512".into());
/// # assert!(!may_prefetch(&LambdaEnv::from_lookup(of)?));
/// # Ok::<(), plimsoll::EnvError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum InitializationType {
    /// For a request that found no environment; also where nothing is said.
    #[default]
    OnDemand,
    /// Ahead of requests.
    ProvisionedConcurrency,
    /// From a snapshot, taken perhaps long ago.
    SnapStart,
    /// On Lambda Managed Instances, with several requests at a time.
    ManagedInstances,
    /// In a way that this release does not know.
    Other,
}

impl InitializationType {
    fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, EnvError> {
        Ok(match text(lookup, INITIALIZATION_TYPE)?.as_deref() {
            None | Some("on-demand") => Self::OnDemand,
            Some("provisioned-concurrency") => Self::ProvisionedConcurrency,
            Some("snap-start") => Self::SnapStart,
            Some("lambda-managed-instances") => Self::ManagedInstances,
            Some(_) => Self::Other,
        })
    }
}

/// Reads how many requests may be in flight. A value that is not understood does not take the function down: it is 1.
fn max_concurrency(lookup: impl Fn(&str) -> Option<OsString>) -> NonZeroU32 {
    static WARNED: AtomicBool = AtomicBool::new(false);
    let range = Range { name: MAX_CONCURRENCY, min: 1, max: MOST_CONCURRENT, unit: "requests" };
    let read = text(lookup, MAX_CONCURRENCY).and_then(|value| value.map_or(Ok(1), |value| range.read(&value)));
    match read {
        Ok(requests) => NonZeroU32::new(requests).unwrap_or(NonZeroU32::MIN),
        Err(error) => {
            warn_once(&WARNED, format_args!("{error}; 1 request at a time is assumed"));
            NonZeroU32::MIN
        }
    }
}

fn memory_size(
    lookup: impl Fn(&str) -> Option<OsString>,
    initialization_type: InitializationType,
    max_concurrency: NonZeroU32,
) -> Result<ByteSize, EnvError> {
    static WARNED: AtomicBool = AtomicBool::new(false);
    let managed = initialization_type == InitializationType::ManagedInstances || max_concurrency > NonZeroU32::MIN;
    let max = if managed { LARGEST_MANAGED_SIZE } else { LARGEST_SIZE };
    let range = Range { name: MEMORY_SIZE, min: 128, max, unit: "MB of 1,048,576 bytes" };
    let value = text(lookup, MEMORY_SIZE)?.ok_or(EnvError::Missing { name: MEMORY_SIZE })?;
    let error = match range.read(&value) {
        Ok(mib) => return Ok(ByteSize::mib(mib.into())),
        Err(error) => error,
    };
    match value.parse::<u32>() {
        Ok(mib) if mib > max && matches!(error, EnvError::OutOfRange { .. }) => {
            warn_once(&WARNED, format_args!("{error}; it is used as it is"));
            Ok(ByteSize::mib(mib.into()))
        }
        _ => Err(error),
    }
}

/// A variable's value, if it is set.
fn text(lookup: impl Fn(&str) -> Option<OsString>, name: &'static str) -> Result<Option<Box<str>>, EnvError> {
    let Some(value) = lookup(name) else { return Ok(None) };
    match value.into_string() {
        Ok(value) if value.is_empty() => Err(EnvError::Empty { name }),
        Ok(value) => Ok(Some(value.into())),
        Err(value) => Err(EnvError::NotUnicode { name, value: quotable(&value.to_string_lossy()) }),
    }
}

/// What a number may be.
struct Range {
    name: &'static str,
    min: u32,
    max: u32,
    unit: &'static str,
}

impl Range {
    fn read(&self, value: &str) -> Result<u32, EnvError> {
        let &Self { name, min, max, unit } = self;
        if !value.bytes().all(|b| b.is_ascii_digit()) {
            return Err(EnvError::NotANumber { name, value: quotable(value), min, max, unit });
        }
        match value.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            // Digits alone fail to parse only where there are too many.
            _ => Err(EnvError::OutOfRange { name, value: quotable(value), min, max, unit }),
        }
    }
}

/// Tells why the environment does not say what it should.
///
/// Values are quoted in ASCII, escaped and cut to 40 characters, so that a message is safe in a log line.
///
/// # Examples
///
/// ```
/// use plimsoll::{EnvError, LambdaEnv};
///
/// let off_lambda = LambdaEnv::from_lookup(|_| None);
/// assert!(matches!(off_lambda, Err(EnvError::Missing { name: "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", .. })));
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum EnvError {
    /// A variable that Lambda always sets is not set: this is no Lambda function.
    #[error("{name} is not set: not on AWS Lambda?")]
    #[non_exhaustive]
    Missing {
        /// The variable.
        name: &'static str,
    },
    /// A variable is set to nothing.
    #[error("{name} is set but empty")]
    #[non_exhaustive]
    Empty {
        /// The variable.
        name: &'static str,
    },
    /// A variable holds bytes that are no Unicode text.
    #[error("{name} is \"{value}\", which is not unicode")]
    #[non_exhaustive]
    NotUnicode {
        /// The variable.
        name: &'static str,
        /// Its value, with U+FFFD where it is no text.
        value: Box<str>,
    },
    /// A variable holds something other than digits.
    #[error("{name} is \"{value}\": expected digits alone, {min} to {max} {unit}")]
    #[non_exhaustive]
    NotANumber {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: Box<str>,
        /// The least it may be.
        min: u32,
        /// The most it may be.
        max: u32,
        /// What it counts.
        unit: &'static str,
    },
    /// A variable holds a number that AWS Lambda would not set.
    #[error("{name} is {value}: expected {min} to {max} {unit}")]
    #[non_exhaustive]
    OutOfRange {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: Box<str>,
        /// The least it may be.
        min: u32,
        /// The most it may be.
        max: u32,
        /// What it counts.
        unit: &'static str,
    },
    /// A file of the cgroup tree, or of `/proc`, is there and cannot be read.
    #[error("cannot read {path} for the memory limit")]
    #[non_exhaustive]
    Unreadable {
        /// The file.
        path: Box<str>,
        /// What the system said.
        source: io::Error,
    },
    /// A cgroup's limit is neither a number of bytes nor `max`.
    #[error("{path} is \"{value}\": expected a number of bytes or \"max\"")]
    #[non_exhaustive]
    NotALimit {
        /// The file.
        path: Box<str>,
        /// What it says.
        value: Box<str>,
    },
    /// A counter of a cgroup is not a number.
    #[error("{path} has \"{value}\": expected a number")]
    #[non_exhaustive]
    NotACount {
        /// The file.
        path: Box<str>,
        /// The text in place of the number.
        value: Box<str>,
    },
    /// Neither AWS Lambda nor a cgroup bounds the memory of this process, as far as can be seen.
    #[error("no memory limit is known: {MEMORY_SIZE} is not set and no cgroup has a limit")]
    NoLimitKnown,
}

debug_as_chain!(EnvError);

/// The memory limit of this process, and who set it.
///
/// # Examples
///
/// ```no_run
/// use plimsoll::{ByteSize, EnvError, MemoryLimit};
///
/// let size = match MemoryLimit::detect() {
///     Ok(limit) => limit.size(),
///     Err(EnvError::NoLimitKnown) => ByteSize::gib(1), // a laptop
///     Err(other) => return Err(other),
/// };
/// # Ok::<(), EnvError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MemoryLimit {
    size: ByteSize,
    source: LimitSource,
}

impl MemoryLimit {
    /// Finds the limit: the Lambda function's memory size, else the smallest of the process's cgroup and those above
    /// it, version 2 before version 1. In version 1 the kernel also names the smallest limit of those above that a
    /// container does not see (`hierarchical_memory_limit`).
    ///
    /// If `AWS_LAMBDA_FUNCTION_MEMORY_SIZE` is set, it decides, and a bad value is an error. A value above Lambda's largest
    /// memory size is used as it is, with one line of warning. Cgroups are those in
    /// `/proc/self/cgroup`, found through `/proc/self/mountinfo`; what a container does not see is not counted. A limit
    /// of 2^60 bytes and more is none. Not counted: `memory.high`, swap, `ulimit`, and the memory of the machine.
    ///
    /// Reads two files of `/proc` and one per level of the tree, some 100 us: call it once.
    ///
    /// # Errors
    ///
    /// [`EnvError::NoLimitKnown`] where nothing bounds the process, and always on systems other than Linux. Any other
    /// [`EnvError`] where something does and cannot be understood.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let limit = plimsoll::MemoryLimit::detect()?;
    /// println!("{limit}"); // 128.0 MiB (lambda memory size)
    /// # Ok::<(), plimsoll::EnvError>(())
    /// ```
    pub fn detect() -> Result<Self, EnvError> {
        Self::detect_in(Path::new("/"), |name| env::var_os(name))
    }

    fn detect_in(root: &Path, lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, EnvError> {
        if lookup(MEMORY_SIZE).is_none() {
            return cgroup::limit(root)?.map(|(size, source)| Self { size, source }).ok_or(EnvError::NoLimitKnown);
        }
        // Both matter for the highest size that is believed only, so a bad one is no reason to know no limit.
        let initialization_type = InitializationType::read(&lookup).unwrap_or_default();
        let max_concurrency = max_concurrency(&lookup);
        let size = memory_size(&lookup, initialization_type, max_concurrency)?;
        Ok(Self { size, source: LimitSource::Lambda })
    }

    /// Finds the limit of the cgroup, whatever the variables of Lambda are.
    ///
    /// # Errors
    ///
    /// As for [`detect`](Self::detect).
    pub(crate) fn of_cgroup() -> Result<Self, EnvError> {
        cgroup::limit(Path::new("/"))?.map(|(size, source)| Self { size, source }).ok_or(EnvError::NoLimitKnown)
    }

    /// Returns `true` if this process is a Lambda function, by the variable that decides about its limit.
    pub(crate) fn is_on_lambda() -> bool {
        env::var_os(MEMORY_SIZE).is_some()
    }

    /// The limit of a Lambda function of that memory size.
    #[cfg(test)]
    pub(crate) const fn of_lambda(size: ByteSize) -> Self {
        Self { size, source: LimitSource::Lambda }
    }

    /// Tells the size past which the process is killed.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// let limit = plimsoll::MemoryLimit::detect()?;
    /// plimsoll::heap::set_limit(limit.size().percent(85))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub const fn size(&self) -> ByteSize {
        self.size
    }

    /// Tells who set the limit.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use plimsoll::{LimitSource, MemoryLimit};
    ///
    /// let on_lambda = MemoryLimit::detect()?.source() == LimitSource::Lambda;
    /// # let _ = on_lambda;
    /// # Ok::<(), plimsoll::EnvError>(())
    /// ```
    pub fn source(&self) -> LimitSource {
        self.source
    }

    /// What Lambda's own processes take of it: a cgroup's limit is the process's alone.
    pub(crate) fn environment_share(&self) -> ByteSize {
        if self.source == LimitSource::Lambda { ENVIRONMENT_SHARE } else { ByteSize::ZERO }
    }
}

impl fmt::Display for MemoryLimit {
    /// Prints as in `128.0 MiB (lambda memory size)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.size, self.source)
    }
}

/// Tells who set a memory limit.
///
/// # Examples
///
/// ```
/// assert_eq!(plimsoll::LimitSource::CgroupV2.to_string(), "cgroup v2");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum LimitSource {
    /// AWS Lambda: the function's memory size.
    Lambda,
    /// A cgroup of version 2: the smallest `memory.max`.
    CgroupV2,
    /// A cgroup of version 1: the smallest `memory.limit_in_bytes`.
    CgroupV1,
}

impl fmt::Display for LimitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lambda => "lambda memory size",
            Self::CgroupV2 => "cgroup v2",
            Self::CgroupV1 => "cgroup v1",
        })
    }
}

#[cfg(test)]
mod cgroup_tests;
#[cfg(test)]
mod tests;
