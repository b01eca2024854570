//! The figures of each request, with a full report or without.

use std::time::Duration;

use super::report::Outcome;
use super::request_id::{Label, RequestId};
use super::request_scope::RequestHeap;

/// A request that has ended, for [`MonitorBuilder::on_request`](super::MonitorBuilder::on_request).
///
/// # Examples
///
/// ```no_run
/// use plimsoll::Monitor;
///
/// let monitor = Monitor::builder()
///     .on_request(|request| {
///         if let Some(own) = request.own.filter(|own| own.peak.as_u64() > 50 << 20) {
///             eprintln!("{} {} {own} in {:?}", request.id, request.label, request.duration);
///         }
///     })
///     .install()?;
/// # Ok::<(), plimsoll::monitor::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// The request id.
    pub id: RequestId,
    /// The label; empty if the request has none.
    pub label: Label,
    /// The kind of its end.
    pub outcome: Outcome,
    /// The heap of the request itself. `None` if nothing of it was measured, without the
    /// [tracking allocator](crate::TrackingAllocator), and if a part of it ran while 128 other threads allocated.
    pub own: Option<RequestHeap>,
    /// The time from start to end; of a refused request the time that it waited.
    pub duration: Duration,
    /// `true` if another request was in flight at some moment.
    pub concurrent: bool,
}
