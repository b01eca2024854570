//! Functions that are called at the end of an invocation, and the settings for it.

use crate::unwind::contained;

use super::MonitorBuilder;
use super::report::InvocationReport;
use super::request::Request;

pub(super) type Hook = Box<dyn Fn() + Send + Sync>;
type Observer = Box<dyn Fn(&InvocationReport) + Send + Sync>;
type RequestObserver = Box<dyn Fn(&Request) + Send + Sync>;

/// The observers of a monitor.
#[derive(Default)]
pub(super) struct Observers {
    /// Called with the reports that are due by the policy.
    pub(super) due: Vec<Observer>,
    /// Called with all reports.
    pub(super) all: Vec<Observer>,
    /// Called with all requests.
    pub(super) requests: Vec<RequestObserver>,
}

impl Observers {
    pub(super) fn show(&self, request: &Request) {
        for observer in &self.requests {
            contained(|| observer(request));
        }
    }
}

impl MonitorBuilder {
    /// Adds a hook for the end of an invocation, before its report, for example to free expired entries.
    ///
    /// Hooks run at the end of an invocation with a report that leaves none in flight; if there is always one in flight,
    /// once a second, in 1 % of the time. They run in the order in which they were added, on the thread that ends the
    /// invocation; another may start at the same time. On Lambda that is after the response was sent, within the billed time. A
    /// panic in one is caught where panics unwind; the others run. See
    /// [`Monitor::run_maintenance`](super::Monitor::run_maintenance).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::{Cache, Monitor};
    /// let orders: Cache<String, u64> = Cache::builder("orders").max_entries(1_000).build()?;
    /// let swept = orders.clone();
    /// let monitor = Monitor::builder().at_end(move || _ = swept.remove_expired(1_000)).install()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn at_end(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.hooks.push(Box::new(hook));
        self
    }

    /// Adds an observer of the reports that the [policy](Self::report) selects, for example to send figures elsewhere.
    ///
    /// Called on the thread that ends the invocation, before the line is printed. A panic in it is caught where panics
    /// unwind. One that ends an invocation of this monitor itself is called for that one too.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::Monitor;
    /// let monitor = Monitor::builder()
    ///     .on_report(|report| println!("{:?} {:?}", report.duration, report.rss))
    ///     .print_reports(false)
    ///     .install()?;
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub fn on_report(mut self, observer: impl Fn(&InvocationReport) + Send + Sync + 'static) -> Self {
        self.observers.due.push(Box::new(observer));
        self
    }

    /// Adds an observer of every request, with a full report or without, and of those that a layer did not admit.
    ///
    /// Called on the thread that ends the request, with the figures that are measured for each one. It should take less
    /// than a microsecond. A panic in it is caught where panics unwind.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::Monitor;
    /// let monitor = Monitor::builder()
    ///     .on_request(|request| if request.duration.as_secs() > 1 { println!("{} {:?}", request.id, request.own) })
    ///     .install()?;
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub fn on_request(mut self, observer: impl Fn(&Request) + Send + Sync + 'static) -> Self {
        self.observers.requests.push(Box::new(observer));
        self
    }

    /// Adds an observer of all reports, whatever the policy.
    #[cfg(any(feature = "emf", feature = "metrics"))]
    pub(crate) fn on_each_report(mut self, observer: impl Fn(&InvocationReport) + Send + Sync + 'static) -> Self {
        self.observers.all.push(Box::new(observer));
        self
    }

    /// Sets whether the reports that the [policy](Self::report) selects are printed to standard error. Default: `true`.
    ///
    /// With `false` they go to the [observers](Self::on_report) alone. Warnings and the alarm are still written.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::Monitor;
    /// let monitor = Monitor::builder().print_reports(false).on_report(|report| println!("{report}")).install()?;
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub const fn print_reports(mut self, prints: bool) -> Self {
        self.prints = prints;
        self
    }

    /// Sets the share of one processor's time that full reports of the layers may take, in percent. Default: 1, and 100 on
    /// AWS Lambda.
    ///
    /// A full report takes 20 microseconds and more: it asks the kernel for the rss. A layer measures what each request
    /// does to the heap and adds it to the sums of its [label](super::Monitor::labels). As long as full reports take less than the
    /// share, a request gets one as well; the others are only counted. So a service with some hundred requests in a second
    /// reports each of them. 0: none gets a full report, and with it no line, no alert and no leak verdict. 100 and more: each
    /// does. What [`Monitor::start`](super::Monitor::start) begins is always reported.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use plimsoll::Monitor;
    /// let monitor = Monitor::builder().report_share(5).install()?;
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub const fn report_share(mut self, percent: u8) -> Self {
        self.report_share = Some(percent);
        self
    }
}
