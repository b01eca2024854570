//! The report as a line of CloudWatch's [embedded metric format], from which CloudWatch makes metrics by itself.
//!
//! [embedded metric format]: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::env::{EnvError, LambdaEnv, MemoryLimit};
use crate::error_chain::debug_as_chain;
use crate::log::{Escaped, MAX_RECORD};
use crate::os;
use crate::size::quotable;

use super::json::{Members, Metric, metrics};
use super::request::Request;
use super::{InvocationReport, MonitorBuilder};

/// The most values of a metric in a line: CloudWatch's own bound.
const MAX_VALUES: usize = 100;

/// The shortest time between two lines of a service that works on several requests, in milliseconds.
const PAUSE_MS: u64 = 100;

/// The longest namespace (CloudWatch's own bound) and function name (Lambda's is 140), in bytes.
const LONGEST_NAME: usize = 255;

/// Writes reports to standard output as CloudWatch's embedded metric format, one line and one system call each.
///
/// On Lambda that is all it takes for metrics, and for alarms on them: no call to CloudWatch, no agent, no waiting.
///
/// On Lambda each request is a line unless another is in flight. In a service with many requests there are at most ten lines in a
/// second, and further ones for alerts and refused allocations. A line then has `request_peak` as an array: the own peaks of
/// the requests since the line before, or 100 of them, chosen at random. Requests since the last line are in no line if the process
/// ends.
///
/// The alarm before a kill has the metrics `alarms`, `rss` and `heap`, because an invocation that is killed writes no report.
///
/// | metric | unit | of the invocation |
/// |---|---|---|
/// | `memory_utilization` | Percent | `used_memory_max` of the memory size |
/// | `used_memory_max` | Megabytes | peak rss and the environment's share, rounded up |
/// | `heap_utilization` | Percent | peak heap of what the memory size leaves the process; can exceed 100 |
/// | `heap_peak`, `heap_live` | Bytes | peak heap, and live heap at its end |
/// | `allocations_refused` | Count | allocations refused since the report before |
/// | `alerts` | Count | [alerts](super::Alert) that it is the first to show; their names are in `alert_names` |
/// | `budget_utilization` | Percent | what is reserved of what may be, at most 100; with a [budget](MonitorBuilder::budget) that has room |
/// | `leak_per_invocation` | Bytes | what each leaves behind, by the [verdict](super::LeakVerdict); 0 while it does not grow |
/// | `requests` | Count | requests since the line before, this one included |
/// | `request_peak` | Bytes | the own peak of each: see [`RequestHeap`](super::RequestHeap) |
/// | `resources_failed` | Count | watched resources whose load failed; with [resources](MonitorBuilder::resource) |
///
/// The first two are named as Lambda Insights names them, as are the properties `total_memory`, `request_id`, `duration`
/// and `cold_start`. They come from within: Insights counts the whole environment, while this knows the process, and
/// adds 12 MiB or what was [set](MonitorBuilder::environment_share) for the rest. Where the rss is not known both are left
/// out.
///
/// Every value of a dimension makes each metric once more, and each is billed. So there is one dimension, `FunctionName`;
/// whatever else a report tells is a property, to be found with Logs Insights. A line is 1 to 1.5 KB of log.
///
/// # Examples
///
/// ```no_run
/// # #[global_allocator] static GLOBAL: plimsoll::TrackingAllocator = plimsoll::TrackingAllocator::new();
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use plimsoll::{Monitor, monitor::Emf};
///
/// let monitor = Monitor::builder().emf(Emf::from_env()?.namespace("orders")?).install()?;
/// # Ok(())
/// # }
/// ```
///
/// # Cost
///
/// Some microseconds and 4 KiB of stack for a line, and no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emf {
    // All three are printable ASCII of at most `LONGEST_NAME` bytes.
    namespace: Box<str>,
    function_name: Box<str>,
    function_version: Option<Box<str>>,
}

/// Names that CloudWatch would not take; it would drop every line without a word.
///
/// # Examples
///
/// ```
/// use plimsoll::monitor::{Emf, EmfError};
///
/// let wrong = Emf::new("orders").and_then(|emf| emf.namespace("AWS/Lambda"));
/// assert!(matches!(wrong, Err(EmfError::Name { .. })));
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum EmfError {
    /// The environment does not read as a Lambda function's.
    #[error("no function to name in the metrics: name one with Emf::new()")]
    #[non_exhaustive]
    Environment {
        /// What it says.
        source: EnvError,
    },
    /// The environment does not tell the function's name.
    #[error("no function to name in the metrics: AWS_LAMBDA_FUNCTION_NAME is not set")]
    #[non_exhaustive]
    Unnamed,
    /// A name is not one for CloudWatch.
    #[error("the {what} {name:?} {why}")]
    #[non_exhaustive]
    Name {
        /// What it names.
        what: &'static str,
        /// The name, cleaned and cut to 40 characters.
        name: Box<str>,
        /// What is wrong with it.
        why: &'static str,
    },
}

debug_as_chain!(EmfError);

impl Emf {
    /// The namespace where none is named.
    pub const NAMESPACE: &'static str = "plimsoll";

    /// Takes the function's name and version from Lambda's environment.
    ///
    /// # Errors
    ///
    /// [`EmfError`] where it does not tell, or tells what CloudWatch would not take.
    pub fn from_env() -> Result<Self, EmfError> {
        let env = LambdaEnv::from_env().map_err(|source| EmfError::Environment { source })?;
        let version = env.function_version().map(|version| named("function version", version)).transpose()?;
        let emf = Self::new(env.function_name().ok_or(EmfError::Unnamed)?)?;
        Ok(Self { function_version: version, ..emf })
    }

    /// Names the function, or whatever else the metrics are of, such as a service: the value of the one dimension.
    ///
    /// # Errors
    ///
    /// [`EmfError::Name`] unless it is of 1 to 255 printable ASCII characters, spaces not alone.
    pub fn new(function_name: &str) -> Result<Self, EmfError> {
        let function_name = named("function name", function_name)?;
        Ok(Self { namespace: Self::NAMESPACE.into(), function_name, function_version: None })
    }

    /// Sets the namespace of the metrics. Default: [`NAMESPACE`](Self::NAMESPACE).
    ///
    /// # Errors
    ///
    /// [`EmfError::Name`] unless it is of 1 to 255 printable ASCII characters and begins neither with a colon nor with
    /// `AWS/`.
    pub fn namespace(self, namespace: &str) -> Result<Self, EmfError> {
        let checked = named("namespace", namespace)?;
        if checked.starts_with(':') || checked.starts_with("AWS/") {
            return Err(EmfError::name("namespace", namespace, "begins with a colon or with AWS/, which is Amazon's"));
        }
        Ok(Self { namespace: checked, ..self })
    }

    /// Writes the report's line to standard output with one system call.
    pub fn write(&self, report: &InvocationReport) {
        self.line_of(report).write();
    }

    /// Gives the line, without a line's end: for who sends it elsewhere, to the CloudWatch agent for one.
    ///
    /// Its time is that of this call.
    pub fn line<'a>(&'a self, report: &'a InvocationReport) -> impl fmt::Display + 'a {
        self.line_of(report)
    }

    /// The line of one request.
    fn line_of<'a>(&'a self, report: &'a InvocationReport) -> Line<'a> {
        let mut requests = Requests::default();
        requests.count(report.own.map(|own| own.peak.as_u64()));
        Line { emf: self, report, requests, at: os::coarse_wall_ms() }
    }

    /// Returns the members that make metrics of an alarm: what comes before and after the time in milliseconds.
    fn alarm_metrics(&self) -> [Box<str>; 2] {
        let Self { namespace, function_name, .. } = self;
        let before = r#","alarms":1,"_aws":{"Timestamp":"#;
        let after = format!(
            r#","CloudWatchMetrics":[{{"Namespace":"{}","Dimensions":[["FunctionName"]],"Metrics":[{}]}}]}},"FunctionName":"{}""#,
            Escaped(namespace),
            r#"{"Name":"alarms","Unit":"Count"},{"Name":"rss","Unit":"Bytes"},{"Name":"heap","Unit":"Bytes"}"#,
            Escaped(function_name)
        );
        [before.into(), after.into()]
    }
}

/// The requests since the last line.
#[derive(Clone, Copy, Debug)]
struct Requests {
    count: u64,
    /// Requests of which the peak is known; a line that is too long has fewer.
    measured: u64,
    /// Their peaks, or of more than that a random choice.
    peaks: [u64; MAX_VALUES],
    random: u64,
}

impl Default for Requests {
    fn default() -> Self {
        Self { count: 0, measured: 0, peaks: [0; MAX_VALUES], random: 0x9E37_79B9_7F4A_7C15 }
    }
}

impl Requests {
    fn count(&mut self, peak: Option<u64>) {
        self.count += 1;
        let Some(peak) = peak else { return };
        let number = self.measured;
        self.measured += 1;
        // Reservoir sampling: each has the same chance to be among them.
        let place = if number < MAX_VALUES as u64 { number } else { self.next_random() % self.measured };
        if let Some(value) = usize::try_from(place).ok().and_then(|place| self.peaks.get_mut(place)) {
            *value = peak;
        }
    }

    /// Xorshift.
    const fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn values(&self) -> &[u64] {
        let len = usize::try_from(self.measured).unwrap_or(usize::MAX).min(MAX_VALUES);
        self.peaks.get(..len).unwrap_or_default()
    }
}

/// Counts requests, and writes a line for them with a report.
struct Writer {
    emf: Emf,
    on_lambda: bool,
    state: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    requests: Requests,
    /// Milliseconds of the coarse monotonic clock.
    last_ms: Option<u64>,
}

impl Writer {
    fn count(&self, request: &Request) {
        self.state.lock().requests.count(request.own.map(|own| own.peak.as_u64()));
    }

    fn report(&self, report: &InvocationReport) {
        let now = os::coarse_monotonic_ms();
        let is_single = self.on_lambda && !report.concurrent;
        let is_urgent = report.refused > 0 || report.alerts().next().is_some();
        let mut state = self.state.lock();
        let has_paused = state.last_ms.is_none_or(|last| now.saturating_sub(last) >= PAUSE_MS);
        if !is_single && !is_urgent && !has_paused {
            return;
        }
        state.last_ms = Some(now);
        let random = state.requests.random;
        let requests = std::mem::replace(&mut state.requests, Requests { random, ..Requests::default() });
        drop(state);
        Line { emf: &self.emf, report, requests, at: os::coarse_wall_ms() }.write();
    }
}

impl MonitorBuilder {
    /// Writes reports as metrics for CloudWatch, whatever the policy prints: see [`Emf`].
    pub fn emf(mut self, emf: Emf) -> Self {
        self.alarm_metrics = Some(emf.alarm_metrics());
        let state = Mutex::default();
        let writer = Arc::new(Writer { emf, on_lambda: MemoryLimit::is_on_lambda(), state });
        let counter = Arc::clone(&writer);
        self.on_request(move |request| counter.count(request)).on_each_report(move |report| writer.report(report))
    }
}

#[cfg(test)]
impl Emf {
    /// Creates metrics with all members.
    pub(super) fn for_test() -> Self {
        Self { namespace: "plimsoll".into(), function_name: "orders".into(), function_version: Some("7".into()) }
    }
}

impl EmfError {
    fn name(what: &'static str, name: &str, why: &'static str) -> Self {
        Self::Name { what, name: quotable(name), why }
    }
}

/// The name, if it is one for CloudWatch.
fn named(what: &'static str, name: &str) -> Result<Box<str>, EmfError> {
    let why = if name.trim_ascii().is_empty() {
        "is empty"
    } else if name.len() > LONGEST_NAME {
        "is longer than 255 bytes"
    } else if !name.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        "has characters that are not printable ASCII"
    } else {
        return Ok(name.into());
    };
    Err(EmfError::name(what, name, why))
}

/// One report's line.
struct Line<'a> {
    emf: &'a Emf,
    report: &'a InvocationReport,
    requests: Requests,
    /// Milliseconds since 1970.
    at: u64,
}

impl Line<'_> {
    /// Writes the line to standard output with one system call, in one piece.
    fn write(&mut self) {
        loop {
            let mut line = os::Line::<MAX_RECORD>::new();
            // Half a line would only be noise in the log.
            if line.put(format_args!("{self}")) {
                return line.write_stdout();
            }
            // Names are bounded and all else are numbers, so a line without values fits.
            if self.requests.measured == 0 {
                return;
            }
            self.requests.measured = self.requests.measured.min(MAX_VALUES as u64) / 2;
        }
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Emf { namespace, function_name, function_version } = self.emf;
        write!(f, r#"{{"_aws":{{"Timestamp":{},"CloudWatchMetrics":[{{"#, self.at)?;
        write!(f, r#""Namespace":"{}","Dimensions":[["FunctionName"]],"Metrics":["#, Escaped(namespace))?;
        for (index, Metric { name, unit, .. }) in metrics(self.report).enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, r#"{comma}{{"Name":"{name}","Unit":"{unit}"}}"#)?;
        }
        f.write_str(r#",{"Name":"requests","Unit":"Count"}"#)?;
        let peaks = self.requests.values();
        if !peaks.is_empty() {
            f.write_str(r#",{"Name":"request_peak","Unit":"Bytes"}"#)?;
        }
        write!(f, r#"]}}]}},"v":1,"FunctionName":"{}""#, Escaped(function_name))?;
        if let Some(version) = function_version {
            write!(f, r#","function_version":"{}""#, Escaped(version))?;
        }
        write!(f, r#","requests":{}"#, self.requests.count)?;
        match peaks {
            [] => (),
            [peak] => write!(f, r#","request_peak":{peak}"#)?,
            // `Debug` puts a blank after each comma, which JSON allows.
            peaks => write!(f, r#","request_peak":{peaks:?}"#)?,
        }
        write!(f, "{}}}", Members(self.report))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::heap::AlarmThresholds;
    use crate::monitor::{LeakVerdict, Remedy, Trimmed};
    use crate::size::ByteSize;

    #[test]
    fn a_verdict_is_told_with_its_figures_and_a_leak_is_a_metric_once_it_is_known() {
        let mut report = InvocationReport::for_test(Some(AlarmThresholds::new(ByteSize::mib(128))));
        let emf = Emf::new("orders").unwrap();
        let size = ByteSize::kib(3);
        let growing = LeakVerdict::Growing { per_invocation: size, invocations_left: Some(840) };
        let retaining = LeakVerdict::Retaining { beyond_heap: size, remedy: Remedy::ArenaMax };
        for (verdict, told, metric) in [
            (LeakVerdict::Unknown, r#","verdict":"unknown","#, None),
            (LeakVerdict::Rising { per_invocation: size, invocations_left: None }, r#","verdict":"rising","#, None),
            (LeakVerdict::Steady, r#","verdict":"steady","#, Some(0)),
            (growing, r#","verdict":"growing","invocations_left":840,"#, Some(3072)),
            (retaining, r#","verdict":"retaining","retained":3072,"remedy":"MALLOC_ARENA_MAX","#, Some(0)),
        ] {
            report.verdict = verdict;
            let line = emf.line(&report).to_string();
            assert!(line.contains(told), "{line}");
            let value = line.split_once(r#""leak_per_invocation":"#).map(|(_, rest)| rest.split(',').next().unwrap());
            assert_eq!(value, metric.map(|metric: u64| metric.to_string()).as_deref(), "{line}");
            assert_eq!(line.contains(r#"{"Name":"leak_per_invocation","Unit":"Bytes"}"#), metric.is_some(), "{line}");
        }
        report.trimmed = Some(Trimmed::new(size, Duration::from_micros(7)));
        assert!(emf.line(&report).to_string().contains(r#","trimmed":3072,"trimmed_us":7,"#));
    }
}
