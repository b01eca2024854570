//! The part of the work that belongs to one request, on whatever thread it runs.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::heap::{Meter, MeterReading, Metered};
use crate::size::{ByteDelta, ByteSize};

/// The heap of one request, next to all others that were in flight.
///
/// Counted are the segments of the request: with a layer the call of the service, each poll of its future, the drop of
/// that future, and the frames of both bodies; and what runs in a [`RequestScope`]. *Not* counted is what other tasks and
/// threads do for it outside of one, such as a task that it spawns.
///
/// Prints as `allocated 4.2 MiB net +96.0 KiB peak 1.5 MiB`.
///
/// # Examples
///
/// ```
/// use plimsoll::{ByteSize, Monitor, TrackingAllocator, monitor::ReportPolicy};
///
/// #[global_allocator]
/// static GLOBAL: TrackingAllocator = TrackingAllocator::new();
///
/// fn main() -> Result<(), plimsoll::monitor::BuildError> {
///     let monitor = Monitor::builder().report(ReportPolicy::Off).build()?;
///     let invocation = monitor.start("4f1c9a");
///     let kept = invocation.scope().in_scope(|| {
///         let _scratch = vec![0_u8; 3000];
///         vec![0_u8; 1000]
///     });
///     let own = invocation.finish().own.expect("the allocator is installed");
///     assert_eq!((own.allocated.as_u64(), own.net.as_i64(), own.peak.as_u64()), (4000, 1000, 4000));
///     # drop(kept);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestHeap {
    /// Bytes that the request has allocated, whether or not it freed them again: exact. A `realloc` counts its growth.
    pub allocated: ByteSize,
    /// Bytes that the request has allocated or received in frames of its body, less those that it has freed or handed out
    /// in frames of its response: what it left behind.
    ///
    /// Below zero if it freed more than that. Most requests do: the head of the request is a block of the server's, which
    /// is allocated before the request begins and freed in it (8 KiB in hyper). So compare the labels with each other: the
    /// one that keeps memory is above the others.
    pub net: ByteDelta,
    /// The highest `net` at any moment. Between segments it is at least zero, so that what the request freed for others
    /// does not hide what it allocates later.
    ///
    /// If two threads work for the request at the same time, the moments of their peaks are not known, and this is between
    /// the larger one and the sum.
    pub peak: ByteSize,
}

impl From<MeterReading> for RequestHeap {
    fn from(reading: MeterReading) -> Self {
        let MeterReading { allocated, net, peak } = reading;
        Self { allocated, net, peak }
    }
}

impl fmt::Display for RequestHeap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allocated, net, peak } = self;
        write!(f, "allocated {allocated} net {net} peak {peak}")
    }
}

/// Work that counts for the request that is being polled: for tasks and threads that the request starts.
///
/// A layer counts what the future of a request allocates. A task that this spawns is polled elsewhere, and is counted only
/// in a scope:
///
/// ```
/// use plimsoll::monitor::RequestScope;
///
/// async fn thumbnail(image: Vec<u8>) -> Option<Vec<u8>> {
///     let scope = RequestScope::current();
///     let resized = tokio::task::spawn_blocking(move || scope.in_scope(|| image[..100].to_vec())).await.ok()?;
///     let scope = RequestScope::current();
///     tokio::spawn(scope.instrument(async move { resized })).await.ok()
/// }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # assert_eq!(thumbnail(vec![0; 1000]).await.map(|image| image.len()), Some(100));
/// # });
/// ```
///
/// Outside of a request a scope counts nothing and costs nothing.
///
/// # Performance
///
/// Some fifty loads and stores for each segment, and no allocation.
#[derive(Clone, Default)]
pub struct RequestScope(Option<Arc<dyn Metered>>);

impl RequestScope {
    pub(crate) const fn new(metered: Arc<dyn Metered>) -> Self {
        Self(Some(metered))
    }

    /// Returns the scope of the request that runs on this thread; one that counts nothing if none does.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::monitor::RequestScope;
    ///
    /// assert_eq!(RequestScope::current().in_scope(|| 7), 7); // as well outside of a request
    /// ```
    pub fn current() -> Self {
        Self(Meter::current())
    }

    /// Calls `work` and counts it for the request.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// let invocation = monitor.start("4f1c9a");
    /// let rows = invocation.scope().in_scope(|| vec![0_u64; 1000]);
    /// println!("{rows:?}: {:?}", invocation.finish().own);
    /// ```
    pub fn in_scope<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(metered) => Meter::run(metered, work),
            None => work(),
        }
    }

    /// Wraps a future: its polls and its drop count for the request.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::monitor::{InScope, RequestScope};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let work: InScope<_> = RequestScope::current().instrument(async { 7 });
    /// assert_eq!(work.await, 7);
    /// # });
    /// ```
    pub fn instrument<F: Future>(self, future: F) -> InScope<F> {
        InScope { future: Some(future), scope: self }
    }

    /// Returns the request's figures without the segment that runs; `None` outside of a request, without the
    /// [tracking allocator](crate::TrackingAllocator), and if a part of the work ran while 128 other threads allocated.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// let invocation = monitor.start("4f1c9a");
    /// assert!(invocation.scope().read().is_some());
    /// ```
    pub fn read(&self) -> Option<RequestHeap> {
        self.0.as_ref()?.meter().read().map(RequestHeap::from)
    }

    /// Polls a body of which the frames come in, and counts the bytes of a frame that was allocated elsewhere as received.
    /// `len` returns the bytes of what the poll has returned.
    #[cfg(feature = "http")]
    pub(crate) fn receive<T>(&self, poll: impl FnOnce() -> T, len: impl FnOnce(&T) -> u64) -> T {
        let Some(metered) = &self.0 else { return poll() };
        let before = Meter::allocated_in_segment();
        let polled = poll();
        let len = len(&polled);
        if len > 0 {
            let allocated = Meter::allocated_in_segment().saturating_sub(before);
            metered.meter().receive(len.saturating_sub(allocated));
        }
        polled
    }
}

impl fmt::Debug for RequestScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestScope").field(&self.read()).finish()
    }
}

pin_project! {
    /// A future that counts for a request: see [`RequestScope::instrument`].
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::monitor::{InScope, RequestScope};
    ///
    /// let _never_polled: InScope<_> = RequestScope::current().instrument(std::future::pending::<()>());
    /// ```
    #[must_use = "a future does nothing unless it is polled"]
    pub struct InScope<F: Future> {
        // `None` once it has ended.
        #[pin]
        future: Option<F>,
        scope: RequestScope,
    }

    impl<F: Future> PinnedDrop for InScope<F> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let mut future = this.future;
            if future.is_some() {
                this.scope.in_scope(|| future.set(None));
            }
        }
    }
}

impl<F: Future> InScope<F> {
    /// Returns the scope.
    ///
    /// # Examples
    ///
    /// ```
    /// use plimsoll::monitor::RequestScope;
    ///
    /// let work = RequestScope::current().instrument(async { 7 });
    /// assert_eq!(work.scope().read(), None);
    /// ```
    pub const fn scope(&self) -> &RequestScope {
        &self.scope
    }
}

impl<F: Future> Future for InScope<F> {
    type Output = F::Output;

    /// # Panics
    ///
    /// Panics if it is polled after its end.
    #[expect(clippy::expect_used, reason = "a poll after the end is a fault of the caller, as for an async block")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut future = this.future;
        this.scope.in_scope(|| {
            let running = future.as_mut().as_pin_mut().expect("`InScope` was polled after its end");
            let polled = running.poll(cx);
            if polled.is_ready() {
                // The memory of the future itself is freed within the scope.
                future.set(None);
            }
            polled
        })
    }
}

impl<F: Future> fmt::Debug for InScope<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InScope").field("scope", &self.scope).finish_non_exhaustive()
    }
}
