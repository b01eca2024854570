//! What `lambda_runtime` needs of its own.

use std::future::{Ready, ready};

use lambda_runtime::{Diagnostic, LambdaInvocation};

use super::{AdmissionError, HasRequestId, OverMemory};
use crate::monitor::Monitor;

impl HasRequestId for LambdaInvocation {
    fn request_id(&self) -> &str {
        &self.context.request_id
    }
}

/// A function error of the type `OverMemory`, for alarms and retries to know it by.
impl From<OverMemory> for Diagnostic {
    fn from(over: OverMemory) -> Self {
        Self { error_type: "OverMemory".to_owned(), error_message: over.to_string() }
    }
}

/// The handler's own errors stay as they are.
impl<E: Into<Diagnostic>> From<AdmissionError<E>> for Diagnostic {
    fn from(error: AdmissionError<E>) -> Self {
        match error {
            AdmissionError::OverMemory(over) => over.into(),
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
/// let monitor = Monitor::from_env()?;
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
