//! The bodies of a reported request and of its response, which count for the request.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::Overloaded;
use super::reported::Reported;
use crate::monitor::{Outcome, RequestScope};

pin_project! {
    /// The body of a reported request. What it hands in counts for the request from then on.
    ///
    /// A frame that is a part of a larger shared buffer counts with its own length.
    #[derive(Debug)]
    pub struct RequestBody<B> {
        #[pin]
        inner: B,
        scope: RequestScope,
    }
}

impl<B> RequestBody<B> {
    pub(super) const fn new(inner: B, scope: RequestScope) -> Self {
        Self { inner, scope }
    }

    /// Returns the body.
    pub fn into_inner(self) -> B {
        self.inner
    }
}

impl<B: Body> Body for RequestBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        this.scope.receive(|| this.inner.poll_frame(cx), data_len)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Bytes of the data that a poll has returned.
fn data_len<D: Buf, E>(polled: &Poll<Option<Result<Frame<D>, E>>>) -> u64 {
    match polled {
        Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, |data| data.remaining() as u64),
        _ => 0,
    }
}

pin_project! {
    /// The body of a reported response. The request ends with it, or when it is dropped before its end.
    ///
    /// A frame that it hands out does not count for the request any more.
    pub struct ResponseBody<B> {
        // `None` once it has ended.
        #[pin]
        inner: Option<B>,
        // `None` once the request has ended.
        reported: Option<Reported>,
        // It is to be polled to its end.
        has_body: bool,
    }

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(reported) = this.reported.take() {
                let mut inner = this.inner;
                reported.scope().in_scope(|| inner.set(None));
                reported.end(if *this.has_body { Outcome::Unfinished } else { Outcome::Finished });
            }
        }
    }
}

impl<B: Body> ResponseBody<B> {
    /// `is_head`: the server drops the body, because the request asked for the head only.
    pub(super) fn new(inner: B, reported: Option<Reported>, is_head: bool) -> Self {
        let has_body = !is_head && !inner.is_end_stream();
        Self { inner: Some(inner), reported, has_body }
    }
}

impl<B> ResponseBody<B> {
    /// A body without data, of a request that has ended.
    pub(super) const fn empty() -> Self {
        Self { inner: None, reported: None, has_body: false }
    }

    /// Drops the rest of the body and ends the request.
    fn end(self: Pin<&mut Self>, outcome: Outcome) {
        let mut this = self.project();
        match this.reported.take() {
            Some(reported) => {
                reported.scope().in_scope(|| this.inner.set(None));
                reported.end(outcome);
            }
            None => this.inner.set(None),
        }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = B::Data;
    type Error = Box<dyn Error + Send + Sync>;

    /// # Errors
    ///
    /// Those of the body, and [`Overloaded`] if the request holds more than its limit.
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let this = self.as_mut().project();
        let (Some(mut inner), Some(reported)) = (this.inner.as_pin_mut(), this.reported.as_ref()) else {
            return Poll::Ready(None);
        };
        let mut overloaded = reported.overloaded();
        if overloaded.is_none() {
            let polled = reported.scope().in_scope(|| inner.as_mut().poll_frame(cx));
            let (len, is_end) = (data_len(&polled), inner.is_end_stream());
            reported.scope().hand_over(len);
            reported.note_peak();
            match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    if is_end {
                        self.end(Outcome::Finished);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.end(Outcome::Unfinished);
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(None) => {
                    self.end(Outcome::Finished);
                    return Poll::Ready(None);
                }
                // It may wait for long, and hold the memory as long.
                Poll::Pending => overloaded = reported.overloaded(),
            }
        }
        match overloaded {
            Some(overloaded) => {
                self.end(Outcome::Overloaded);
                Poll::Ready(Some(Err(Overloaded::into(overloaded))))
            }
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), B::size_hint)
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("has_ended", &self.inner.is_none()).finish_non_exhaustive()
    }
}
