//! What `lambda_runtime` needs of its own.

use std::future::{Ready, ready};
use std::sync::Arc;

use lambda_runtime::{BoxFuture, Diagnostic, Error, LambdaInvocation, SnapStartResource};

use super::{AdmissionError, HasRequestId, Overloaded};
use crate::budget::ReclaimPriority;
use crate::monitor::Monitor;

impl HasRequestId for LambdaInvocation {
    fn request_id(&self) -> &str {
        &self.context.request_id
    }
}

/// A function error of the type `Overloaded`, so that alarms and retries can select it.
impl From<Overloaded> for Diagnostic {
    fn from(overloaded: Overloaded) -> Self {
        Self { error_type: "Overloaded".to_owned(), error_message: overloaded.to_string() }
    }
}

/// The handler's own errors stay as they are.
impl<E: Into<Diagnostic>> From<AdmissionError<E>> for Diagnostic {
    fn from(error: AdmissionError<E>) -> Self {
        match error {
            AdmissionError::Overloaded(overloaded) => overloaded.into(),
            AdmissionError::Service(error) => error.into(),
        }
    }
}

/// Prints the [`Snapshot`](crate::monitor::Snapshot) when the environment is shut down: a hook for `lambda_runtime`.
///
/// Lambda lets a function know of its end only where an extension is registered, and then for half a second. That is
/// what `spawn_graceful_shutdown_handler` sees to (feature `graceful-shutdown` of `lambda_runtime`):
///
/// ```no_run
/// # async fn handler(_: lambda_runtime::LambdaEvent<String>) -> Result<(), lambda_runtime::Error> { Ok(()) }
/// # async fn serve() -> Result<(), lambda_runtime::Error> {
/// use lambda_runtime::{Runtime, service_fn, spawn_graceful_shutdown_handler};
/// use plimsoll::{Monitor, ReportLayer, integration::lambda};
///
/// let monitor = Monitor::install_from_env();
/// spawn_graceful_shutdown_handler(lambda::final_picture(&monitor)).await;
/// Runtime::new(service_fn(handler)).layer(ReportLayer::new(&monitor)).run().await
/// # }
/// ```
///
/// The picture is a dozen lines in one write to standard error; it takes some microseconds and some small allocations.
pub fn final_picture(monitor: &Monitor) -> impl FnOnce() -> Ready<()> + Send + 'static {
    let monitor = monitor.clone();
    move || {
        monitor.snapshot().print();
        ready(())
    }
}

/// Makes the process small before `SnapStart` takes its snapshot, and sets clocks and peaks right after each restore.
///
/// A snapshot is restored as often as environments are needed, hours later and on other hosts: what it holds is loaded
/// each time, and is as old as the snapshot. So [`Monitor::before_snapshot`] has those of the monitor's budget and
/// resources ranked up to `up_to` give back what they hold, and pages be given back; [`Monitor::after_restore`] has what
/// expired in between be seen as expired. With [`ReclaimPriority::CACHE`] the resources that were prefetched stay, to be there from
/// the first request on; with [`ReclaimPriority::RESOURCE`] they go too.
///
/// Register it first: so it runs last before the snapshot, when others have freed what they free, and first after it.
/// Where the function is not started from a snapshot nothing happens. It makes no error, as one would end the function.
///
/// ```no_run
/// # async fn handler(_: lambda_runtime::LambdaEvent<String>) -> Result<(), lambda_runtime::Error> { Ok(()) }
/// # async fn serve() -> Result<(), lambda_runtime::Error> {
/// use lambda_runtime::{Runtime, service_fn};
/// use plimsoll::{Monitor, ReportLayer, budget::ReclaimPriority, integration::lambda};
///
/// let monitor = Monitor::install_from_env();
/// Runtime::new(service_fn(handler))
///     .register_snapstart_resource(lambda::snap_start(&monitor, ReclaimPriority::CACHE))
///     .layer(ReportLayer::new(&monitor))
///     .run()
///     .await
/// # }
/// ```
pub fn snap_start(monitor: &Monitor, up_to: ReclaimPriority) -> Arc<dyn SnapStartResource> {
    Arc::new(SnapStart { monitor: monitor.clone(), up_to })
}

struct SnapStart {
    monitor: Monitor,
    up_to: ReclaimPriority,
}

impl SnapStartResource for SnapStart {
    fn before_snapshot(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            self.monitor.before_snapshot(self.up_to);
            Ok(())
        })
    }

    fn after_restore(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            self.monitor.after_restore();
            Ok(())
        })
    }
}
